//! Links, connections and the broker itself are lost under a running consumer, over the Azure SDK
//! and the embedded broker: each event is handled once all the same. And what the bare SDK does,
//! which is why the transport and exact resume exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azure_messaging_eventhubs::models::ReceivedEventData;
use azure_messaging_eventhubs::{
    ConsumerClient, EventHubsError, EventReceiver, OpenReceiverOptions, StartLocation,
    StartPosition as SdkStartPosition,
};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use longshore::checkpoint_store::file::FileCheckpointStore;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, LeaseEpoch, Listed,
    StoreError, VersionToken,
};
use longshore::consumer::{ExitReason, StopReason};
use longshore::event::{PartitionId, SequenceNumber};
use longshore::state::backoff::Backoff;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};
use longshore::transport::{Publisher, SendTarget, Transport};
use longshore::{
    BatchConsumer, ConsumerHandle, ConsumerOptions, Event, EventContext, OutgoingEvent,
};
use longshore_emulator::{Emulator, EmulatorBuilder};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use support::forward::{Over, OverCheckpoints};
use support::{drained, until, within};
use tokio::time::{Instant, sleep};

const HUB: &str = "files";
const GROUP: &str = "$Default";
fn patient(partitions: usize) -> EmulatorBuilder {
    broker::patient().hub(HUB, u32::try_from(partitions).unwrap())
}

fn transport(emulator: &Emulator) -> Arc<EventHubsTransport> {
    Arc::new(EventHubsTransport::new(broker::namespace(emulator), HUB, GROUP))
}

/// Publishes this many events of 100 bytes to each partition, and no more where a send has to be
/// made again because its answer was lost.
async fn publish(emulator: &Emulator, partitions: usize, events_each: usize) {
    let transport = transport(emulator);
    for partition in 0..partitions {
        let id = PartitionId::from(partition.to_string());
        let length =
            async || within("the log's end", broker::log_end(&*transport, id.as_str())).await;
        let end = length().await + events_each;
        let mut missing = events_each;
        while missing > 0 {
            let publisher = EventHubsPublisher::new(broker::namespace(emulator), HUB);
            let events = (0..missing).map(|_| OutgoingEvent::new(vec![b'x'; 100])).collect();
            let target = SendTarget::Partition(id.clone());
            let sent = within("publishing", publisher.send_batch(target, events)).await;
            publisher.close().await;
            missing = match sent {
                Ok(()) => 0,
                Err(error) if error.class().is_retryable() => end - length().await,
                Err(error) => panic!("{error:?}"),
            };
        }
    }
    transport.close().await;
}

/// How often handlers got each event, by (partition, sequence number).
struct Seen {
    times: Vec<Vec<AtomicU8>>,
    handled: AtomicUsize,
}

impl Seen {
    fn new(partitions: usize, events_each: usize) -> Arc<Self> {
        let partition = || (0..events_each).map(|_| AtomicU8::new(0)).collect();
        Arc::new(Self {
            times: (0..partitions).map(|_| partition()).collect(),
            handled: AtomicUsize::new(0),
        })
    }

    /// What a handler does: some work, longer for some events than for others, so that they end
    /// in another order than they began.
    async fn handle(self: Arc<Self>, event: Event) {
        let millis = event.sequence_number().0.unsigned_abs() * 7_919 % 200;
        sleep(Duration::from_millis(millis)).await;
        self.record(&event);
    }

    fn record(&self, event: &Event) {
        let partition: usize = event.partition().id.as_str().parse().unwrap();
        let number = usize::try_from(event.sequence_number().0).unwrap();
        self.times[partition][number].fetch_add(1, Ordering::SeqCst);
        self.handled.fetch_add(1, Ordering::SeqCst);
    }

    fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }

    fn assert_each_once(&self) {
        for (partition, times) in self.times.iter().enumerate() {
            let other: Vec<_> = times
                .iter()
                .map(|times| times.load(Ordering::SeqCst))
                .enumerate()
                .filter(|(_, times)| *times != 1)
                .take(10)
                .collect();
            assert!(other.is_empty(), "of partition {partition}, (number, times): {other:?}");
        }
    }
}

/// Comes back at once, so that the broker is what the consumer waits for.
fn options() -> ConsumerOptions {
    let mut options = ConsumerOptions::default();
    options.reopen_backoff =
        Backoff::doubling(Duration::from_millis(50), Duration::from_millis(100));
    options
}

fn scope(transport: &EventHubsTransport) -> CheckpointScope {
    CheckpointScope {
        namespace: transport.namespace().to_owned(),
        entity: transport.entity().clone(),
        consumer_group: transport.consumer_group().clone(),
    }
}

/// The watermark and the owner of each partition's checkpoint.
async fn checkpoints(
    store: &dyn CheckpointStore,
    scope: &CheckpointScope,
) -> Vec<(i64, LeaseEpoch)> {
    let listed = store.list(scope).await.unwrap();
    let of = |(_, stored): Listed| {
        let checkpoint = stored.unwrap().checkpoint;
        (checkpoint.watermark.unwrap().sequence_number.0, checkpoint.lease_epoch)
    };
    listed.into_iter().map(of).collect()
}

async fn watermarks(store: &dyn CheckpointStore, scope: &CheckpointScope) -> Vec<i64> {
    checkpoints(store, scope).await.into_iter().map(|(watermark, _)| watermark).collect()
}

// Faults under a running consumer.

fn links_opened(handle: &ConsumerHandle) -> usize {
    usize::try_from(handle.snapshot().counts.links_opened).unwrap()
}

/// The partitions whose last event was not received yet.
fn still_receiving(handle: &ConsumerHandle, events_each: usize) -> Vec<u32> {
    let last = events_each as i64 - 1;
    let snapshot = handle.snapshot();
    let receiving = snapshot
        .partitions
        .iter()
        .filter(|partition| partition.last_received.is_none_or(|received| received.0 < last));
    receiving.map(|partition| partition.partition.as_str().parse().unwrap()).collect()
}

fn received_all(handle: &ConsumerHandle, events_each: usize) -> usize {
    handle.snapshot().partitions.len() - still_receiving(handle, events_each).len()
}

/// Waits until this many links were opened, and gave events; a partition that is at its end needs none. One
/// gets there early where the answer to another's request is lost and waited for in vain.
async fn new_links(handle: &ConsumerHandle, links: usize, events_each: usize) {
    until("new links", || links_opened(handle) + received_all(handle, events_each) >= links).await;
    let received = || -> BTreeMap<PartitionId, Option<SequenceNumber>> {
        let partitions = handle.snapshot().partitions;
        partitions.into_iter().map(|one| (one.partition, one.last_received)).collect()
    };
    let last = Some(SequenceNumber(events_each as i64 - 1));
    let before = received();
    until("events of each", || {
        received().iter().all(|(partition, now)| *now == last || *now > before[partition])
    })
    .await;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    DetachAll,
    DetachOne,
    Cut,
    Away,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_once_through_detach_cut_and_absence() {
    const PARTITIONS: usize = 4;
    const EVENTS_EACH: usize = 25_000;
    const EVENTS: usize = PARTITIONS * EVENTS_EACH;
    const BETWEEN_FAULTS: usize = 3_500;
    const AWAY: Duration = Duration::from_secs(3);

    let started = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let emulator = patient(PARTITIONS).data_dir(dir.path()).start().await.unwrap();
    publish(&emulator, PARTITIONS, EVENTS_EACH).await;
    let published = started.elapsed();

    let seen = Seen::new(PARTITIONS, EVENTS_EACH);
    let store = Arc::new(MemoryCheckpointStore::new());
    let transport = transport(&emulator);
    let scope = scope(&transport);
    let record = Arc::clone(&seen);
    let mut options = options();
    // What is received ahead is handled while links are away; it must not be the whole log.
    options.window_events = 1_024;
    let handle = BatchConsumer::builder(transport, store.clone())
        .options(options)
        .max_events_in_flight(1_000)
        .event_handler(move |event: Event, _: EventContext| Arc::clone(&record).handle(event))
        .unwrap()
        .start();

    let given = std::env::var("LONGSHORE_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut random = SmallRng::seed_from_u64(given.unwrap_or(7));
    let mut faults = [[Fault::DetachAll; 5], [Fault::DetachOne; 5], [Fault::Cut; 5]].concat();
    faults.extend([Fault::Away; 3]);
    faults.shuffle(&mut random);
    until("the first links", || links_opened(&handle) == PARTITIONS).await;
    for (index, fault) in faults.iter().enumerate() {
        let due = (index + 1) * BETWEEN_FAULTS;
        until("progress", || seen.handled() >= due).await;
        let (before, at_the_end) = (links_opened(&handle), received_all(&handle, EVENTS_EACH));
        let lost = match fault {
            Fault::DetachAll => emulator.faults().detach_receivers(HUB, None),
            Fault::DetachOne => {
                let partition = *still_receiving(&handle, EVENTS_EACH).choose(&mut random).unwrap();
                emulator.faults().detach_receivers(HUB, Some(partition))
            }
            Fault::Cut => {
                emulator.faults().cut_connections();
                PARTITIONS
            }
            Fault::Away => {
                within("the absence", emulator.faults().away(AWAY)).await.unwrap();
                PARTITIONS
            }
        };
        let expected = if *fault == Fault::DetachOne { 1 } else { PARTITIONS };
        assert!((expected - at_the_end..=expected).contains(&lost), "fault {index}, {fault:?}");
        new_links(&handle, before + lost, EVENTS_EACH).await;
        assert!(seen.handled() < EVENTS, "fault {index}, {fault:?}, came too late");
    }
    until("all events", || seen.handled() >= EVENTS).await;
    let exit = within("the drain", drained(handle)).await;
    println!(
        "published in {published:?}, handled in {:?}, {} links opened",
        started.elapsed() - published,
        exit.counts.links_opened
    );
    seen.assert_each_once();
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(exit.counts.done, EVENTS as u64);
    assert_eq!(exit.counts.received, EVENTS as u64, "links resumed behind what was received");
    assert_eq!(watermarks(&*store, &scope).await, [EVENTS_EACH as i64 - 1; PARTITIONS]);
    emulator.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_once_through_restarts_and_cut_connections() {
    const PARTITIONS: usize = 2;
    const EVENTS_EACH: usize = 5_000;
    const EVENTS: usize = PARTITIONS * EVENTS_EACH;
    const RUNS: usize = 4;

    let emulator = patient(PARTITIONS).start().await.unwrap();
    publish(&emulator, PARTITIONS, EVENTS_EACH).await;
    let seen = Seen::new(PARTITIONS, EVENTS_EACH);
    let dir = tempfile::tempdir().unwrap();
    // Each run opens its own: a store lets nobody else into its folder.
    let open_store = || Arc::new(FileCheckpointStore::open(dir.path()).unwrap());
    let scope = scope(&transport(&emulator));
    let mut epochs = [LeaseEpoch(0); PARTITIONS];
    let mut received = 0;
    for run in 1..=RUNS {
        let (transport, store) = (transport(&emulator), open_store());
        let record = Arc::clone(&seen);
        let mut options = options();
        // Not all that is left of a partition is received before the last fault.
        options.window_events = 256;
        let handle = BatchConsumer::builder(transport, store.clone())
            .options(options)
            .max_events_in_flight(100)
            .event_handler(move |event: Event, _: EventContext| Arc::clone(&record).handle(event))
            .unwrap()
            .start();
        let done_by = |tenths: usize| EVENTS * tenths / (10 * RUNS);
        until("a tenth of the run", || seen.handled() >= done_by(10 * run - 9)).await;
        until("both links", || links_opened(&handle) >= PARTITIONS).await;
        assert!(emulator.faults().cut_connections() >= 1);
        new_links(&handle, 2 * PARTITIONS, EVENTS_EACH).await;
        until("the end of the run", || seen.handled() >= done_by(10 * run)).await;
        let exit = within("the drain", drained(handle)).await;
        assert!(exit.is_clean(), "run {run}: {exit:?}");
        for (epoch, (_, of_this_run)) in epochs.iter_mut().zip(checkpoints(&*store, &scope).await) {
            assert!(std::mem::replace(epoch, of_this_run) < of_this_run, "run {run}");
        }
        received += exit.counts.received;
    }
    seen.assert_each_once();
    assert!(received > EVENTS as u64, "no drain met events that were not begun");
    assert_eq!(watermarks(&*open_store(), &scope).await, [EVENTS_EACH as i64 - 1; PARTITIONS]);
    emulator.shutdown().await.unwrap();
}

// Another owner.

/// What happened, in order: in the store, to assignments, and in handlers.
#[derive(Debug)]
enum Entry {
    Written { partition: String, checkpoint: Checkpoint },
    Assigned { worker: &'static str, partition: String },
    Handled { worker: &'static str, partition: String, number: i64, epoch: LeaseEpoch },
}

#[derive(Debug, Clone, Default)]
struct Journal(Arc<Mutex<Vec<Entry>>>);

impl Journal {
    fn push(&self, entry: Entry) {
        self.0.lock().unwrap().push(entry);
    }

    /// The numbers of a partition that a worker handled, in order of their ends.
    fn handled(&self, by: &str, of: &str) -> Vec<i64> {
        let entries = self.0.lock().unwrap();
        let number = |entry: &Entry| match entry {
            Entry::Handled { worker, partition, number, .. }
                if *worker == by && partition == of =>
            {
                Some(*number)
            }
            _ => None,
        };
        entries.iter().filter_map(number).collect()
    }
}

/// A store that writes down what it accepted, in order.
#[derive(Debug, Default)]
struct JournalledStore {
    inner: MemoryCheckpointStore,
    journal: Journal,
    order: tokio::sync::Mutex<()>,
}

impl OverCheckpoints for JournalledStore {
    fn below(&self) -> &dyn CheckpointStore {
        &self.inner
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move {
            let _one_at_a_time = self.order.lock().await;
            let version = self.inner.store(key, checkpoint, expected).await?;
            let partition = key.partition.as_str().to_owned();
            self.journal.push(Entry::Written { partition, checkpoint: checkpoint.clone() });
            Ok(version)
        }
        .boxed()
    }
}

fn start(
    worker: &'static str,
    slots: usize,
    emulator: &Emulator,
    store: &Arc<Over<JournalledStore>>,
) -> ConsumerHandle {
    let (assigned, handled) = (store.0.journal.clone(), store.0.journal.clone());
    BatchConsumer::builder(transport(emulator), store.clone())
        .options(options())
        .worker(worker)
        .max_events_in_flight(slots)
        .on_partition_assigned(move |partition| {
            assigned.push(Entry::Assigned { worker, partition: partition.id.as_str().to_owned() });
            async {}
        })
        .event_handler(move |event: Event, context: EventContext| {
            let journal = handled.clone();
            async move {
                sleep(Duration::from_millis(10)).await;
                journal.push(Entry::Handled {
                    worker,
                    partition: event.partition().id.as_str().to_owned(),
                    number: event.sequence_number().0,
                    epoch: context.lease_epoch(),
                });
            }
        })
        .unwrap()
        .start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_consumer_takes_the_partitions_and_only_it_writes_from_then_on() {
    const PARTITIONS: [&str; 2] = ["0", "1"];
    const EVENTS_EACH: i64 = 2_000;

    let emulator = patient(2).start().await.unwrap();
    publish(&emulator, 2, 1_000).await;
    let store = Arc::new(Over(JournalledStore::default()));
    let journal = store.0.journal.clone();
    let mut first = start("first", 10, &emulator, &store);
    until("the first is at work", || {
        PARTITIONS.iter().all(|partition| journal.handled("first", partition).len() >= 100)
    })
    .await;
    let second = start("second", 500, &emulator, &store);
    let exit = within("the end of the first", first.join()).await;
    publish(&emulator, 2, 1_000).await;
    until("the second has come to the end", || {
        let snapshot = second.snapshot();
        let at_the_end = |number: Option<i64>| number == Some(EVENTS_EACH - 1);
        snapshot.partitions.len() == 2
            && snapshot.partitions.iter().all(|one| at_the_end(one.settled_to.map(|n| n.0)))
    })
    .await;
    let clean = within("the drain", drained(second)).await;

    assert!(matches!(exit.reason, ExitReason::PartitionsStopped), "{exit:?}");
    for partition in &exit.partitions {
        let lost = matches!(partition.reason, StopReason::Lost(_) | StopReason::Superseded(_));
        assert!(lost, "{partition:?}");
    }
    assert!(clean.is_clean(), "{clean:?}");
    assert_eq!(clean.counts.links_opened, 2, "the first took nothing back");

    for partition in PARTITIONS {
        assert_taken_over(&journal, partition, EVENTS_EACH);
    }
    let stored = checkpoints(&store.0.inner, &scope(&transport(&emulator))).await;
    assert_eq!(stored.iter().map(|(watermark, _)| *watermark).collect::<Vec<_>>(), [1_999; 2]);
    emulator.shutdown().await.unwrap();
}

/// Checks the journal of one partition: claims before events, no write of the first after the
/// claim of the second, which handles what was not settled in it, once.
fn assert_taken_over(journal: &Journal, partition: &str, events: i64) {
    let mut epochs = BTreeMap::new();
    let mut claims: Vec<Checkpoint> = Vec::new();
    for entry in journal.0.lock().unwrap().iter() {
        match entry {
            Entry::Written { partition: of, checkpoint } if of == partition => {
                let owner = claims.last().map(|claim| claim.lease_epoch);
                assert!(owner <= Some(checkpoint.lease_epoch), "an old owner wrote");
                if owner < Some(checkpoint.lease_epoch) {
                    claims.push(checkpoint.clone());
                }
            }
            Entry::Assigned { worker, partition: of } if of == partition => {
                epochs.insert(*worker, claims.last().unwrap().lease_epoch);
            }
            Entry::Handled { worker, partition: of, epoch, .. } if of == partition => {
                assert_eq!(epochs.get(worker), Some(epoch), "{worker} before its claim");
            }
            _ => {}
        }
    }
    let [_, claim] = claims.as_slice() else {
        panic!("not two claims: {claims:?}");
    };
    let watermark = claim.watermark.as_ref().map_or(-1, |position| position.sequence_number.0);
    let settled = |number: i64| {
        number <= watermark
            || claim.settled_above.iter().any(|run| (run.first.0..=run.last.0).contains(&number))
    };
    let mut by_second = journal.handled("second", partition);
    by_second.sort_unstable();
    let unsettled: Vec<_> = (0..events).filter(|number| !settled(*number)).collect();
    assert_eq!(by_second, unsettled, "what the claim held as unsettled, each once");
    let by_first = journal.handled("first", partition);
    assert!((0..events).filter(|number| settled(*number)).all(|number| by_first.contains(&number)));
}

// The bare SDK.

/// A client of the SDK with its default retries.
async fn sdk_client(emulator: &Emulator) -> ConsumerClient {
    let connection_string = emulator.connection_string(None);
    let opening = ConsumerClient::builder()
        .with_custom_endpoint(emulator.endpoint())
        .open_with_connection_string(&connection_string, Some(HUB));
    within("opening a client", opening).await.unwrap()
}

async fn sdk_receiver(client: &ConsumerClient, location: StartLocation) -> EventReceiver {
    let options = OpenReceiverOptions {
        start_position: Some(SdkStartPosition { location, inclusive: false }),
        ..OpenReceiverOptions::default()
    };
    client.open_receiver_on_partition("0".into(), Some(options)).await.unwrap()
}

type SdkResult = Result<ReceivedEventData, EventHubsError>;

async fn next_number(events: &mut (impl Stream<Item = SdkResult> + Unpin)) -> i64 {
    let event = within("an event", events.next()).await.unwrap().unwrap();
    event.sequence_number().unwrap()
}

async fn next_numbers(
    events: &mut (impl Stream<Item = SdkResult> + Unpin),
    count: usize,
) -> Vec<i64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        numbers.push(next_number(events).await);
    }
    numbers
}

async fn last_enqueued(emulator: &Emulator) -> i64 {
    broker::log_end(&*transport(emulator), "0").await as i64 - 1
}

/// Why the transport switches the SDK's retries off and opens each link itself.
///
/// The SDK recovers a lost link without telling its caller, which is what one wants, but attaches
/// the new link where the receiver was first opened, not after the last event it gave:
///
/// - opened at the first event, or at any event, it gives everything since then once more;
/// - opened at the end ("latest"), it begins at what is the end by then, and what was enqueued
///   while the link was away is never given.
///
/// The caller sees neither an error nor a gap, only sequence numbers. If this test fails after an
/// upgrade of the SDK, its recovery has changed: look again at `transport::event_hubs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_bare_sdk_does_when_its_link_is_lost() {
    for fault in [Fault::DetachAll, Fault::Cut] {
        replays_from_where_it_was_opened(fault).await;
        skips_what_came_while_it_was_away(fault).await;
    }
}

fn lose_the_link(emulator: &Emulator, fault: Fault) {
    match fault {
        Fault::Cut => assert!(emulator.faults().cut_connections() >= 1),
        _ => assert_eq!(emulator.faults().detach_receivers(HUB, None), 1),
    }
}

/// `0 1 2 3 4`, the link is lost, `5 6 7` (they had been sent ahead), `0 1 2 3 4 5 6 7`.
async fn replays_from_where_it_was_opened(fault: Fault) {
    let emulator = patient(1).start().await.unwrap();
    publish(&emulator, 1, 8).await;
    let client = sdk_client(&emulator).await;
    let receiver = sdk_receiver(&client, StartLocation::Earliest).await;
    let mut events = receiver.stream_events();
    assert_eq!(next_numbers(&mut events, 5).await, [0, 1, 2, 3, 4]);
    lose_the_link(&emulator, fault);
    let mut number = next_number(&mut events).await;
    while number > 4 {
        number = next_number(&mut events).await;
    }
    let again = next_numbers(&mut events, 7).await;
    assert_eq!((number, again), (0, vec![1, 2, 3, 4, 5, 6, 7]), "{fault:?}");
}

/// `… 4`, the link is lost, 5, 6 and 7 are enqueued, `8 …`.
async fn skips_what_came_while_it_was_away(fault: Fault) {
    let emulator = patient(1).start().await.unwrap();
    let client = sdk_client(&emulator).await;
    let receiver = sdk_receiver(&client, StartLocation::Latest).await;
    let mut events = receiver.stream_events();
    let mut last = next_while_publishing(&mut events, &emulator).await;
    publish(&emulator, 1, 4).await;
    while last < last_enqueued(&emulator).await {
        last = next_number(&mut events).await;
    }
    lose_the_link(&emulator, fault);
    publish(&emulator, 1, 3).await;
    let enqueued = last_enqueued(&emulator).await;
    assert!(enqueued >= last + 3);
    let next = next_while_publishing(&mut events, &emulator).await;
    assert!(next > enqueued, "{fault:?}: after {last} came {next}, not {}", last + 1);
}

/// The next event of a stream that attaches at the end of the log: nobody is told when that has
/// happened, so events are published until one comes.
async fn next_while_publishing(
    events: &mut (impl Stream<Item = SdkResult> + Unpin),
    emulator: &Emulator,
) -> i64 {
    let mut next = Box::pin(next_number(events));
    loop {
        tokio::select! {
            biased;
            number = &mut next => return number,
            () = publish(emulator, 1, 1) => {}
        }
    }
}
