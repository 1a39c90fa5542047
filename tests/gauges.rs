//! What gauges and snapshots say of a partition: nothing that is not known, what waits while it is
//! ours, and nothing when it is not.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::clock::Clock;
use longshore::config::{LeaseOptions, LostPartition};
use longshore::consumer::{BatchConsumerBuilder, PartitionPhase, PartitionSnapshot};
use longshore::event::{SequenceNumber, StartPosition};
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::transport::memory::MemoryHub;
use longshore::{
    BatchConsumer, ConsumerHandle, ConsumerOptions, ErrorClass, Event, EventConsumer, EventContext,
    Failure, Outcome, OutgoingEvent,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::MetricKindMask;
use support::{drained, unsettled, until};
use tokio::sync::Semaphore;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// The gauges of a partition, all but the one that says whose it is.
const OF_A_PARTITION: [&str; 5] = [
    "longshore_watermark",
    "longshore_unsettled_events",
    "longshore_settled_above_watermark_events",
    "longshore_lag_seconds",
    "longshore_lag_events",
];
const OWNED: &str = "longshore_partition_owned";
const IN_FLIGHT: &str = "longshore_handlers_in_flight";

/// What an exporter shows.
#[derive(Clone)]
struct Shown(PrometheusHandle);

impl Shown {
    /// The lines of a metric: labels and value.
    fn lines(&self, metric: &str) -> Vec<(String, f64)> {
        let text = self.0.render();
        let of_it = text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{'));
        of_it
            .map(|line| {
                let (labels, value) = line.rsplit_once("} ").unwrap();
                (labels.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    fn of(&self, metric: &str, partition: &str) -> Option<f64> {
        let label = format!("partition=\"{partition}\"");
        let found = self.lines(metric).into_iter().find(|(labels, _)| labels.contains(&label));
        found.map(|(_, value)| value)
    }

    fn sum(&self, metric: &str) -> f64 {
        self.lines(metric).iter().map(|(_, value)| value).sum()
    }

    /// Whether the partition is another's, or nobody's, and nothing is said of it.
    #[track_caller]
    fn is_silent_about(&self, partition: &str) {
        assert_eq!(self.of(OWNED, partition), Some(0.0));
        for metric in OF_A_PARTITION {
            assert_eq!(self.of(metric, partition), Some(0.0), "{metric}");
        }
    }

    /// Whether the gauges say what the snapshot says.
    #[track_caller]
    fn agrees_with(&self, snapshot: &PartitionSnapshot) {
        let value = |metric| self.of(metric, snapshot.partition.as_str()).unwrap();
        let same = |metric, expected: Option<f64>| {
            let (shown, expected) = (value(metric), expected.unwrap_or(f64::NAN));
            let both_unknown = shown.is_nan() && expected.is_nan();
            assert!(
                both_unknown || (shown - expected).abs() < 1e-6,
                "{metric} {shown} {snapshot:?}"
            );
        };
        same(OWNED, Some(1.0));
        same("longshore_watermark", snapshot.settled_to.map(|number| number.0 as f64));
        same("longshore_unsettled_events", Some(snapshot.unsettled_events as f64));
        let above = snapshot.settled_above_events as f64;
        same("longshore_settled_above_watermark_events", Some(above));
        same("longshore_lag_events", snapshot.lag_events.map(|events| events as f64));
        // Told each two seconds.
        match (value("longshore_lag_seconds"), snapshot.lag_time) {
            (shown, None) => assert!(shown.is_nan(), "{shown} {snapshot:?}"),
            (shown, Some(time)) => {
                let behind = time.as_secs_f64() - shown;
                assert!((0.0..=2.1).contains(&behind), "{shown} {snapshot:?}");
            }
        }
    }
}

/// An exporter of the tests of one thread.
fn exporter() -> (Shown, PrometheusRecorder) {
    let recorder = PrometheusBuilder::new().build_recorder();
    (Shown(recorder.handle()), recorder)
}

// A fleet: each worker with a thread and an exporter of its own, as processes have them.

struct Worker {
    handle: ConsumerHandle,
    shown: Shown,
    _stop: oneshot::Sender<()>,
}

impl Worker {
    fn start(begin: impl FnOnce() -> ConsumerHandle + Send + 'static) -> Self {
        let (shown, recorder) = exporter();
        let (sender, started) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let _guard = metrics::set_default_local_recorder(&recorder);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                sender.send(begin()).unwrap();
                let _stopped = stopped.await;
            });
        });
        Self { handle: started.recv().unwrap(), shown, _stop: stop }
    }

    fn partitions(&self) -> Vec<PartitionSnapshot> {
        self.handle.snapshot().partitions
    }

    fn running(&self) -> Vec<String> {
        let running = |one: &PartitionSnapshot| one.phase == PartitionPhase::Running;
        let partitions = self.partitions().into_iter().filter(running);
        partitions.map(|one| one.partition.to_string()).collect()
    }
}

/// What workers share.
#[derive(Clone)]
struct Place {
    hub: MemoryHub,
    checkpoints: Arc<MemoryCheckpointStore>,
    leases: Arc<MemoryLeaseStore>,
}

impl Place {
    fn new(partitions: usize, events: usize) -> Self {
        let hub = MemoryHub::new("files", partitions);
        for partition in 0..partitions {
            for _ in 0..events {
                hub.publish(partition, OutgoingEvent::new("x"));
            }
        }
        Self {
            hub,
            checkpoints: Arc::new(MemoryCheckpointStore::new()),
            leases: Arc::new(MemoryLeaseStore::new()),
        }
    }

    fn builder(&self, worker: &str) -> BatchConsumerBuilder {
        BatchConsumer::builder(Arc::new(self.hub.transport("$Default")), self.checkpoints.clone())
            .worker(worker)
            .max_events_in_flight(64)
    }

    /// Handlers of this worker wait for permits of their partitions.
    fn start(
        &self,
        builder: impl FnOnce(BatchConsumerBuilder) -> BatchConsumerBuilder + Send + 'static,
        worker: &'static str,
        permits: usize,
    ) -> (Worker, Gates) {
        let gates: Gates = Arc::new([Semaphore::new(permits), Semaphore::new(permits)]);
        let (place, wait) = (self.clone(), gates.clone());
        let worker = Worker::start(move || {
            let handler = move |event: Event, _: EventContext| {
                let gates = wait.clone();
                async move {
                    gate(&gates, event.partition().id.as_str()).acquire().await.unwrap().forget()
                }
            };
            builder(place.builder(worker)).event_handler(handler).unwrap().start()
        });
        (worker, gates)
    }
}

type Gates = Arc<[Semaphore; 2]>;

fn gate<'a>(gates: &'a Gates, partition: &str) -> &'a Semaphore {
    &gates[partition.parse::<usize>().unwrap()]
}

const MANY: usize = 1_000;

#[tokio::test]
async fn a_partition_that_was_handed_off_leaves_no_ghost() {
    let place = Place::new(2, 20);
    let leased = |leases: &Arc<MemoryLeaseStore>| {
        let mut options = LeaseOptions::default();
        options.heartbeat_interval = Duration::from_millis(100);
        options.lease_expiry = Duration::from_secs(10);
        options.look_interval = Duration::from_millis(100);
        let leases = leases.clone();
        move |builder: BatchConsumerBuilder| builder.leases_with(leases, options)
    };
    let (first, gates) = place.start(leased(&place.leases), "first", 0);
    until("all is received", || first.shown.sum("longshore_unsettled_events") == 40.0).await;
    assert_eq!(first.shown.sum(OWNED), 2.0);
    assert_eq!(first.shown.sum("longshore_lag_events"), 40.0);

    let (second, _) = place.start(leased(&place.leases), "second", MANY);
    let draining =
        || first.partitions().into_iter().find(|one| one.phase == PartitionPhase::Draining);
    until("a hand-off", || draining().is_some()).await;
    let given = draining().unwrap().partition.to_string();
    gate(&gates, &given).add_permits(MANY);
    until("it is the other's", || second.running() == [given.clone()]).await;
    until("it is caught up", || second.shown.of("longshore_lag_events", &given) == Some(0.0)).await;
    first.shown.is_silent_about(&given);
    assert!(first.partitions().iter().all(|one| one.partition.as_str() != given));
    let kept = first.running();
    assert_eq!((kept.len(), first.shown.of(OWNED, &kept[0])), (1, Some(1.0)));
    let there = first.partitions();
    assert_eq!((there[0].unsettled_events, there[0].lag_events), (20, Some(20)));
    for metric in ["longshore_unsettled_events", "longshore_lag_events"] {
        let fleet = first.shown.sum(metric) + second.shown.sum(metric);
        assert_eq!(fleet, 20.0, "{metric} of the fleet is what there is");
    }

    gate(&gates, &kept[0]).add_permits(MANY);
    until("all is done", || first.shown.sum("longshore_lag_events") == 0.0).await;
    for worker in [first, second] {
        let shown = worker.shown.clone();
        assert!(drained(worker.handle).await.is_clean());
        for partition in ["0", "1"] {
            if shown.of(OWNED, partition).is_some() {
                shown.is_silent_about(partition);
            }
        }
        assert_eq!(shown.sum(IN_FLIGHT), 0.0);
    }
}

#[tokio::test]
async fn of_a_partition_that_was_lost_nothing_is_said_while_its_handlers_finish() {
    let place = Place::new(1, 20);
    let finishing = |builder: BatchConsumerBuilder| {
        let mut options = ConsumerOptions::default();
        options.max_events_in_flight = 64;
        options.lost_partition = LostPartition::Finish;
        builder.options(options)
    };
    let (mut first, gates) = place.start(finishing, "first", 0);
    until("all is received", || first.shown.sum("longshore_unsettled_events") == 20.0).await;
    let (second, _) = place.start(|builder| builder, "second", MANY);
    until("the other has it", || second.shown.sum("longshore_lag_events") == 0.0).await;
    until("it is noticed", || first.shown.of(OWNED, "0") == Some(0.0)).await;
    first.shown.is_silent_about("0");
    let snapshot = &first.partitions()[0];
    assert_eq!((snapshot.lag_events, snapshot.lag_time), (None, None), "it is another's");
    assert_eq!((snapshot.in_flight, first.shown.sum(IN_FLIGHT)), (20, 20.0), "they finish");
    gate(&gates, "0").add_permits(MANY);
    assert!(!first.handle.join().await.is_clean());
    first.shown.is_silent_about("0");
    assert_eq!(first.shown.sum(IN_FLIGHT), 0.0);
    assert_eq!(second.shown.of(OWNED, "0"), Some(1.0));
    assert!(drained(second.handle).await.is_clean());
}

/// In real time, for an exporter has a clock of its own.
#[tokio::test]
async fn an_exporter_that_forgets_what_is_not_told_keeps_what_is_ours_and_forgets_what_is_not() {
    const IDLE: Duration = Duration::from_secs(6);
    let recorder =
        PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(IDLE)).build_recorder();
    let shown = Shown(recorder.handle());
    let _guard = metrics::set_default_local_recorder(&recorder);
    let place = Place::new(1, 1);
    let handler = |_: Event, _: EventContext| async {};
    let handle = place.builder("worker").event_handler(handler).unwrap().start();
    until("it is ours", || shown.of(OWNED, "0") == Some(1.0)).await;
    let begun = Instant::now();
    while begun.elapsed() < IDLE + Duration::from_secs(1) {
        sleep(Duration::from_millis(200)).await;
        assert_eq!(shown.of(OWNED, "0"), Some(1.0));
        assert_eq!(shown.lines(IN_FLIGHT).len(), 1, "nothing runs, and that is told");
    }
    assert!(drained(handle).await.is_clean());
    shown.is_silent_about("0");
    until("it is forgotten", || shown.of(OWNED, "0").is_none()).await;
    assert!(OF_A_PARTITION.iter().all(|metric| shown.of(metric, "0").is_none()));
}

// One worker, in paused time, with clocks that follow it.

#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.0.elapsed()
    }
}

/// A hub and a worker whose handlers wait for their event's turn: `held` are held up.
struct Timed {
    hub: MemoryHub,
    clock: Arc<Virtual>,
    shown: Shown,
    _recorder: metrics::LocalRecorderGuard<'static>,
}

impl Timed {
    fn new(partitions: usize) -> Self {
        let (shown, recorder) = exporter();
        let clock = Arc::new(Virtual(Instant::now()));
        let recorder: &'static PrometheusRecorder = Box::leak(Box::new(recorder));
        Self {
            hub: MemoryHub::with_clock("files", partitions, clock.clone()),
            clock,
            shown,
            _recorder: metrics::set_default_local_recorder(recorder),
        }
    }

    fn publish(&self, events: usize) {
        for _ in 0..events {
            self.hub.publish(0, OutgoingEvent::new("x"));
        }
    }

    fn builder(&self) -> BatchConsumerBuilder {
        let checkpoints = Arc::new(MemoryCheckpointStore::new());
        BatchConsumer::builder(Arc::new(self.hub.transport("$Default")), checkpoints)
            .clock(self.clock.clone())
            .seed(7)
    }

    /// Starts a worker whose handlers of these events wait for a permit.
    fn start(&self, options: ConsumerOptions, held: &[i64]) -> (ConsumerHandle, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        let (held, wait) = (held.to_vec(), gate.clone());
        let handler = move |event: Event, _: EventContext| {
            let gate = held.contains(&event.sequence_number().0).then(|| wait.clone());
            async move {
                if let Some(gate) = gate {
                    gate.acquire().await.unwrap().forget();
                }
            }
        };
        let consumer = self.builder().options(options).event_handler(handler).unwrap();
        (consumer.start(), gate)
    }

    /// The lag by the snapshot, which the gauges agree with.
    #[track_caller]
    fn lag(&self, handle: &ConsumerHandle) -> (Option<u64>, Option<f64>) {
        let snapshot = &handle.snapshot().partitions[0];
        self.shown.agrees_with(snapshot);
        (snapshot.lag_events, snapshot.lag_time.map(|time| time.as_secs_f64()))
    }
}

fn done(handle: &ConsumerHandle) -> u64 {
    handle.snapshot().counts.done
}

#[tokio::test(start_paused = true)]
async fn there_is_no_gauge_before_the_first_look() {
    let timed = Timed::new(1);
    timed.publish(3);
    timed.hub.fail_reads(5, ErrorClass::Transient);
    let (handle, _) = timed.start(ConsumerOptions::default(), &[]);
    until("the claim", || {
        let is_ready = handle.is_ready();
        if !is_ready {
            assert_eq!(timed.shown.of(OWNED, "0"), None);
            assert!(OF_A_PARTITION.iter().all(|metric| timed.shown.of(metric, "0").is_none()));
        }
        is_ready
    })
    .await;
    assert_eq!(timed.shown.of(OWNED, "0"), Some(1.0));
    until("all", || done(&handle) == 3).await;
    assert!(drained(handle).await.is_clean());
    timed.shown.is_silent_about("0");
}

#[tokio::test(start_paused = true)]
async fn an_idle_hub_has_no_lag_however_long_it_is_idle() {
    let timed = Timed::new(1);
    timed.publish(5);
    let (handle, _) = timed.start(ConsumerOptions::default(), &[]);
    until("all", || done(&handle) == 5).await;
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(timed.lag(&handle), (Some(0), Some(0.0)));
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn after_a_publish_on_an_idle_hub_the_lag_is_the_age_of_that_event() {
    let timed = Timed::new(1);
    timed.publish(1);
    let (handle, gate) = timed.start(ConsumerOptions::default(), &[1]);
    until("the first", || done(&handle) == 1).await;
    sleep(Duration::from_secs(346)).await;
    timed.publish(1);
    sleep(Duration::from_secs(3)).await;
    let (events, seconds) = timed.lag(&handle);
    assert_eq!(events, Some(1));
    assert!((2.9..3.2).contains(&seconds.unwrap()), "{seconds:?}");
    sleep(Duration::from_secs(60)).await;
    let (_, seconds) = timed.lag(&handle);
    assert!((62.9..63.2).contains(&seconds.unwrap()), "it grows: {seconds:?}");
    gate.add_permits(1);
    until("the second", || done(&handle) == 2).await;
    sleep(Duration::from_millis(10)).await;
    assert_eq!(timed.lag(&handle), (Some(0), Some(0.0)), "at once");
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn on_a_busy_hub_only_what_is_not_settled_waits_and_the_oldest_of_it_is_the_lag() {
    let timed = Timed::new(1);
    let (handle, gate) = timed.start(ConsumerOptions::default(), &[100, 130]);
    for _ in 0..400 {
        timed.publish(1);
        sleep(Duration::from_millis(100)).await;
    }
    let snapshot = &handle.snapshot().partitions[0];
    assert_eq!(snapshot.settled_to, Some(SequenceNumber(99)));
    assert_eq!(snapshot.settled_above_events, 298, "what is settled above does not wait");
    let (events, seconds) = timed.lag(&handle);
    assert_eq!(events, Some(2));
    assert!((29.9..30.2).contains(&seconds.unwrap()), "{seconds:?}");
    gate.add_permits(1);
    until("the older one", || done(&handle) == 399).await;
    sleep(Duration::from_secs(2)).await;
    let (events, seconds) = timed.lag(&handle);
    assert_eq!(events, Some(1));
    assert!((28.9..29.3).contains(&seconds.unwrap()), "{seconds:?}");
    gate.add_permits(1);
    until("the other", || done(&handle) == 400).await;
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn gaps_and_what_retention_removed_do_not_wait() {
    let timed = Timed::new(1);
    timed.publish(1);
    timed.hub.skip_numbers(0, 1_000);
    timed.publish(1);
    let (handle, gate) = timed.start(ConsumerOptions::default(), &[0, 1_001]);
    until("both are here", || unsettled(&handle) == 2).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(timed.lag(&handle).0, Some(2), "numbers that nobody has do not wait");
    gate.add_permits(2);
    until("both", || done(&handle) == 2).await;

    handle.pause();
    timed.publish(100);
    timed.hub.trim(0, 62);
    sleep(Duration::from_secs(40)).await;
    assert_eq!(timed.lag(&handle).0, Some(40));
    handle.resume();
    until("the rest", || done(&handle) == 42).await;
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn the_lag_of_what_is_not_received_is_known_to_the_interval_of_the_looks() {
    let timed = Timed::new(1);
    timed.publish(1);
    let (handle, _) = timed.start(ConsumerOptions::default(), &[]);
    until("the first", || done(&handle) == 1).await;
    handle.pause();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(timed.lag(&handle), (Some(0), Some(0.0)));
    let published = Instant::now();
    timed.publish(1);
    sleep(Duration::from_secs(1)).await;
    timed.publish(2);
    sleep(Duration::from_secs(120)).await;
    let (events, seconds) = timed.lag(&handle);
    assert_eq!(events, Some(3));
    let (age, seconds) = (published.elapsed().as_secs_f64(), seconds.unwrap());
    assert!(seconds >= age - 0.1 && seconds < age + 40.0, "{seconds}, and it is {age}");
    handle.resume();
    until("all", || done(&handle) == 4).await;
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_not_said() {
    let timed = Timed::new(1);
    timed.publish(10);
    let mut options = ConsumerOptions::default();
    options.start_position = StartPosition::EnqueuedAt(timed.clock.now());
    sleep(Duration::from_secs(1)).await;
    timed.publish(1);
    // Where the time begins could not be looked up.
    timed.hub.fail_opens(1, ErrorClass::Permanent);
    let (handle, gate) = timed.start(options, &[0, 11]);
    handle.pause();
    until("the claim", || handle.is_ready()).await;
    assert_eq!(timed.lag(&handle), (None, None), "only a link tells where it begins");
    handle.resume();
    until("the first", || unsettled(&handle) > 0).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(timed.lag(&handle).0, Some(1));
    gate.add_permits(1);
    until("all", || done(&handle) == 11).await;

    // A log that cannot be read for long is not known any more; one failure changes nothing.
    timed.publish(1);
    until("one more", || unsettled(&handle) == 1).await;
    timed.hub.fail_reads(1_000, ErrorClass::Transient);
    sleep(Duration::from_secs(39)).await;
    assert_eq!(timed.lag(&handle).0, Some(1));
    sleep(Duration::from_secs(120)).await;
    let (events, seconds) = timed.lag(&handle);
    assert_eq!(events, None, "who knows what was published meanwhile");
    assert!((159.0..160.0).contains(&seconds.unwrap()), "the oldest is here: {seconds:?}");
    timed.hub.fail_reads(0, ErrorClass::Transient);
    sleep(Duration::from_secs(40)).await;
    assert_eq!(timed.lag(&handle).0, Some(1));
    gate.add_permits(1);
    until("the last", || done(&handle) == 12).await;
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_stopped_and_a_consumer_that_was_dropped_leave_nothing() {
    let timed = Timed::new(1);
    timed.publish(10);
    let mut stopped = timed
        .builder()
        .event_handler(|event: Event, _: EventContext| async move {
            match event.sequence_number().0 {
                3 => Outcome::dead_letter(Failure::permanent("there is no sink")),
                _ => Outcome::Done,
            }
        })
        .unwrap()
        .start();
    assert!(!stopped.join().await.is_clean());
    timed.shown.is_silent_about("0");
    let snapshot = &stopped.snapshot().partitions[0];
    assert_eq!((snapshot.phase, snapshot.lag_events), (PartitionPhase::Stopped, None));
    assert_eq!(snapshot.unsettled_events, 0, "they are not here any more");

    let transport = Arc::new(timed.hub.transport("other"));
    let consumer = EventConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
        .clock(timed.clock.clone())
        .handler(|_: Event, _: EventContext| std::future::pending::<()>())
        .unwrap();
    let running = tokio::spawn(consumer.run_until(std::future::pending::<()>()));
    until("it runs", || timed.shown.sum(IN_FLIGHT) == 1.0).await;
    running.abort();
    let _aborted = running.await;
    assert_eq!((timed.shown.sum(IN_FLIGHT), timed.shown.sum(OWNED)), (0.0, 0.0));
    assert_eq!(timed.shown.sum("longshore_lag_events"), 0.0);
    sleep(Duration::from_secs(120)).await;
    assert_eq!(timed.shown.sum("longshore_lag_events"), 0.0, "nobody goes on telling");
}
