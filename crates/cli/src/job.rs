//! Files through a consumer: what `demo` and `transfer` have in common, and the broker of `demo`.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::progress::Standing;
use super::report::Report;
use super::{CommandError, PaceArgs};
use longshore::checkpoint_store::CheckpointStore;
use longshore::config::ConsumerOptions;
use longshore::consumer::{
    BatchConsumer, CANCEL_GRACE, ConsumerCounts, ConsumerExit, ConsumerHandle, EventHandler,
    ExitReason, PartitionPhase, StopReason,
};
use longshore::dead_letter::DeadLetterSink;
use longshore::error::Error;
use longshore::event::{OutgoingEvent, PartitionId, SequenceNumber};
use longshore::lanes::LaneRule;
use longshore::producer::EntityProducer;
use longshore::state::backoff::Backoff;
use longshore::transfer::progress::Progress;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{Publisher, SendTarget, Transport};
use longshore_emulator::{Durability, Emulator};

/// The hub of the tasks, and its partitions.
pub(super) const TASKS: &str = "tasks";
pub(super) const PARTITIONS: u32 = 4;

/// The hub of the results.
pub(super) const RESULTS: &str = "results";

const CONSUMER_GROUP: &str = "$Default";

/// Tasks published in one go.
const PUBLISH_EVENTS: usize = 500;

/// The broker of this process.
pub(super) struct Broker {
    emulator: Emulator,
    namespace: Namespace,
}

impl Broker {
    /// Starts a broker with a hub for tasks and one for results; its log is in `data`, or in
    /// memory.
    pub(super) async fn start(data: Option<&Path>) -> Result<Self, CommandError> {
        let mut builder = Emulator::builder().hub(TASKS, PARTITIONS).hub(RESULTS, 1);
        if let Some(data) = data {
            builder = builder.data_dir(data).durability(Durability::Disk);
        }
        let emulator = builder.start().await?;
        let namespace = Namespace::from_connection_string(&emulator.connection_string(None))?
            .with_custom_endpoint(emulator.endpoint())?
            .with_call_timeout(CALL_TIMEOUT);
        Ok(Self { emulator, namespace })
    }

    pub(super) fn transport(&self, hub: &str) -> Arc<dyn Transport> {
        Arc::new(EventHubsTransport::new(self.namespace.clone(), hub, CONSUMER_GROUP))
    }

    pub(super) fn publisher(&self, hub: &str) -> EventHubsPublisher {
        EventHubsPublisher::new(self.namespace.clone(), hub)
    }

    /// Publishes tasks, spread over the partitions.
    pub(super) async fn publish(&self, tasks: Vec<OutgoingEvent>) -> Result<(), Error> {
        let producer = producer(self.publisher(TASKS));
        let mut partitions = (0..PARTITIONS).cycle();
        let share = tasks.len().div_ceil(PARTITIONS as usize).clamp(1, PUBLISH_EVENTS);
        for chunk in tasks.chunks(share) {
            let partition = partitions.next().unwrap_or_default().to_string();
            let target = SendTarget::Partition(PartitionId::from(partition));
            producer.send_batch(target, chunk.to_vec()).await?;
        }
        producer.close().await;
        Ok(())
    }

    pub(super) async fn shutdown(self) -> Result<(), CommandError> {
        Ok(self.emulator.shutdown().await?)
    }
}

/// How often a send is tried. The broker is in this process: what does not work soon does not
/// work at all.
pub(super) const SEND_ATTEMPTS: u32 = 4;

/// A producer with the patience for a broker in this process.
pub(super) fn producer(publisher: impl Publisher) -> EntityProducer {
    EntityProducer::new(Arc::new(publisher))
        .with_attempts(SEND_ATTEMPTS)
        .with_backoff(Backoff::doubling(Duration::from_millis(100), Duration::from_secs(2)))
}

/// How long one call may take. On a busy machine the AMQP library can miss an answer that comes
/// faster than it notes its own question, and then waits for ever; asked again, it does not.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the properties of the hubs are asked for.
const READ_ATTEMPTS: u32 = 10;

/// The partitions of a hub, each with its newest event.
///
/// # Errors
/// The last, where asking again is useless or did not help.
pub(super) async fn ends(
    transport: &dyn Transport,
) -> Result<Vec<(PartitionId, Option<SequenceNumber>)>, Error> {
    let mut ends = Vec::new();
    for partition in patiently(|| transport.hub_properties()).await?.partitions {
        let end = patiently(|| transport.log_properties(&partition)).await?.last_enqueued;
        ends.push((partition, end));
    }
    Ok(ends)
}

/// Reads something of the broker that may fail for now.
pub(super) async fn patiently<'a, T>(
    read: impl Fn() -> BoxFuture<'a, Result<T, Error>>,
) -> Result<T, Error> {
    let mut failures = 0;
    loop {
        match read().await {
            Err(error) if error.class().is_retryable() && failures + 1 < READ_ATTEMPTS => {
                failures += 1;
            }
            read => return read,
        }
    }
}

/// How long a run that gives up waits for stores that may still work.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// Runs the consumer over the tasks.
pub(super) struct Job {
    handle: ConsumerHandle,
    transport: Arc<dyn Transport>,
    progress: Arc<Progress>,
    started: Instant,
    /// When the first event was seen to be here.
    moving: OnceLock<Instant>,
}

impl Job {
    pub(super) fn start(
        transport: Arc<dyn Transport>,
        handler: impl EventHandler,
        progress: Arc<Progress>,
        checkpoints: Arc<dyn CheckpointStore>,
        dead_letters: Arc<dyn DeadLetterSink>,
        pace: &PaceArgs,
        lanes: Option<LaneRule>,
    ) -> Result<Self, CommandError> {
        let mut options = ConsumerOptions::default();
        // The list has an end: who runs it wants to know what failed, and runs it again.
        options.max_age = Duration::ZERO;
        options.max_events_in_flight = pace.concurrency;
        options.max_batch_size = pace.batch_size;
        options.batch_timeout = pace.batch_timeout.0;
        // The log is in this process, which may be slow, and is not away.
        options.connect_timeout = None;
        // A large file takes as long as it takes; a stalled one is noticed by its rate.
        options.handler_timeout = None;
        options.checkpoint_min_interval = Duration::from_millis(200);
        let mut builder = BatchConsumer::builder(Arc::clone(&transport), checkpoints)
            .dead_letters(dead_letters)
            .worker("longshore transfer")
            .options(options);
        if let Some(lanes) = lanes {
            builder = builder.lanes(lanes);
        }
        let consumer = builder.event_handler(handler)?;
        Ok(Self {
            handle: consumer.start(),
            transport,
            progress,
            started: Instant::now(),
            moving: OnceLock::new(),
        })
    }

    pub(super) fn handle(&self) -> &ConsumerHandle {
        &self.handle
    }

    /// Handler calls that run.
    pub(super) fn in_flight(&self) -> usize {
        self.handle.snapshot().partitions.iter().map(|partition| partition.in_flight).sum()
    }

    /// Where the job stands, of the totals of `begin`.
    pub(super) fn standing(&self, begin: Standing) -> Standing {
        Standing {
            files: self.progress.files(),
            failed: self.handle.snapshot().counts.dead_letters,
            bytes: self.progress.bytes_received() + self.progress.bytes_copied(),
            running: self.in_flight(),
            ..begin
        }
    }

    /// Waits until every task published so far is settled, or a partition has stopped.
    pub(super) async fn until_settled(&self) -> Result<(), Error> {
        let ends = ends(&*self.transport).await?;
        self.until_settled_to(&ends).await;
        Ok(())
    }

    /// The same for these partitions, up to these events.
    pub(super) async fn until_settled_to(&self, ends: &[(PartitionId, Option<SequenceNumber>)]) {
        loop {
            let snapshot = self.handle.snapshot();
            if snapshot.counts.received > 0 {
                self.moving.get_or_init(Instant::now);
            }
            let settled = |partition: &PartitionId| -> Option<SequenceNumber> {
                let known = snapshot.partitions.iter().find(|known| known.partition == *partition);
                known.and_then(|known| known.settled_to)
            };
            // One that stopped will not settle the rest; its exit says why.
            let stopped =
                snapshot.partitions.iter().any(|known| known.phase == PartitionPhase::Stopped);
            // Before it has connected it would not be told to stop in good order.
            let connected = !snapshot.partitions.is_empty();
            let all = ends.iter().all(|(partition, end)| settled(partition) >= *end);
            if stopped || connected && all {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the consumer has ended by itself.
    pub(super) async fn ended(&self) {
        self.handle.ended().await;
    }

    /// Waits for the consumer's end.
    pub(super) async fn join(&mut self) -> ConsumerExit {
        self.handle.join().await
    }

    /// Drains and reports.
    pub(super) async fn finish(mut self, elapsed: Duration) -> (Report, ConsumerExit) {
        self.handle.drain();
        let exit = self.handle.join().await;
        let report = self.report(&exit.counts, elapsed);
        (report, exit)
    }

    /// Stops what cannot be saved any more, and reports. A store that does not work is not
    /// waited for.
    pub(super) async fn give_up(mut self, elapsed: Duration) -> Report {
        self.handle.stop();
        let counts = tokio::select! {
            exit = self.handle.join() => exit.counts,
            () = sleep(CANCEL_GRACE + LAST_WRITES) => self.handle.snapshot().counts,
        };
        self.report(&counts, elapsed)
    }

    /// What was done so far.
    pub(super) fn report_now(&self, elapsed: Duration) -> Report {
        self.report(&self.handle.snapshot().counts, elapsed)
    }

    /// What was done, by counts that are known.
    fn report(&self, counts: &ConsumerCounts, elapsed: Duration) -> Report {
        Report {
            files: self.progress.files(),
            bytes: self.progress.bytes(),
            failed: counts.dead_letters,
            skipped: self.progress.skipped(),
            dead_letters: counts.dead_letters,
            checkpoints: counts.checkpoints,
            ..Report::default()
        }
        .timed(elapsed)
    }

    /// Since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Since the first event came: without the time that connections and claims took.
    pub(super) fn moving(&self) -> Duration {
        self.moving.get().unwrap_or(&self.started).elapsed()
    }
}

/// Why a consumer that should have drained did not end well, as one line.
pub(super) fn fault(exit: &ConsumerExit) -> Option<String> {
    match &exit.reason {
        ExitReason::Aborted(failure) => {
            let causes = failure.causes.iter().map(|cause| format!(": {cause}"));
            return Some(format!("{failure}{}", causes.collect::<String>()));
        }
        ExitReason::NeverConnected(never) => return Some(never.to_string()),
        ExitReason::Failed(error) => {
            return Some(longshore::error::error_chain(error).join(": "));
        }
        _ => {}
    }
    exit.partitions.iter().find_map(|partition| match &partition.reason {
        StopReason::Drained | StopReason::HandedOff | StopReason::Aborted(_) => None,
        StopReason::Failed(error) | StopReason::Lost(error) => {
            Some(longshore::error::error_chain(error).join(": "))
        }
        other => Some(format!("partition {} stopped: {other:?}", partition.partition)),
    })
}
