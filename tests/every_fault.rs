//! Everything a network and a service do to a client, at random, under a running consumer: each
//! event reaches the handler once, and those of a partition in their order.
//!
//! `LONGSHORE_EVENTS`, `LONGSHORE_FAULTS` and `LONGSHORE_SEED` choose a longer run, as
//! `scripts/soak` does. What takes events away by its nature (a hub that is deleted, a log that
//! is trimmed) is in `tests/delivery.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::event::PartitionId;
use longshore::state::backoff::Backoff;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{Publisher, SendTarget, Transport};
use longshore::{
    Batch, BatchConsumer, BatchContext, ConsumerOptions, Event, Failure, OutgoingEvent,
};
use longshore_emulator::{Emulator, FaultPoint, Faults};
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use support::{until, within};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const HUB: &str = "files";
const PARTITIONS: usize = 4;
const BODY_BYTES: usize = 1_024;
const BATCH: usize = 100;
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fault {
    DetachOne,
    DetachAll,
    Cut,
    Away,
    Stall,
    Delay,
    ServerBusy(FaultPoint),
    Error(FaultPoint),
    Unauthorized,
    HalfOpen,
    HalfOpenNext,
}

/// How often each fault is drawn, of so many: those that take half a minute by design (a silence
/// is believed after 25 s, credentials are tried again after 30 s) are rarer.
const MIX: [(Fault, usize); 15] = [
    (Fault::DetachOne, 34),
    (Fault::DetachAll, 24),
    (Fault::Cut, 28),
    (Fault::Away, 16),
    (Fault::Stall, 16),
    (Fault::Delay, 16),
    (Fault::ServerBusy(FaultPoint::Attach), 4),
    (Fault::ServerBusy(FaultPoint::Receive), 4),
    (Fault::ServerBusy(FaultPoint::Management), 4),
    (Fault::Error(FaultPoint::Attach), 16),
    (Fault::Error(FaultPoint::Receive), 16),
    (Fault::Error(FaultPoint::Management), 12),
    (Fault::Unauthorized, 2),
    (Fault::HalfOpen, 5),
    (Fault::HalfOpenNext, 3),
];

/// Errors that pass, and one that nobody has heard of.
const PASSING: [&str; 7] = [
    "amqp:internal-error",
    "amqp:connection:forced",
    "amqp:link:detach-forced",
    "com.microsoft:timeout",
    "com.microsoft:operation-cancelled",
    "com.microsoft:entity-updated",
    "com.example:never-heard-of",
];

/// So many faults in the proportions of [`MIX`], one of each at least, in random order.
fn faults(count: usize, random: &mut SmallRng) -> Vec<Fault> {
    let total: usize = MIX.iter().map(|(_, weight)| weight).sum();
    let mut faults: Vec<Fault> = MIX
        .iter()
        .flat_map(|(fault, weight)| vec![*fault; (weight * count / total).max(1)])
        .collect();
    while faults.len() < count {
        faults.push(MIX.choose_weighted(random, |(_, weight)| *weight).unwrap().0);
    }
    faults.shuffle(random);
    faults
}

/// Makes a fault happen; those that pass by themselves have passed when this returns.
async fn strike(fault: Fault, faults: &Faults, random: &mut SmallRng) {
    let millis = |range: std::ops::Range<u64>, random: &mut SmallRng| {
        Duration::from_millis(random.random_range(range))
    };
    match fault {
        Fault::DetachOne => {
            let partition = random.random_range(0..PARTITIONS as u32);
            faults.detach_receivers(HUB, Some(partition));
        }
        Fault::DetachAll => {
            faults.detach_receivers(HUB, None);
        }
        Fault::Cut => {
            faults.cut_connections();
        }
        Fault::Away => faults.away(millis(100..3_000, random)).await.unwrap(),
        Fault::Stall => faults.stall(millis(100..2_000, random)),
        Fault::Delay => {
            faults.delay(millis(5..60, random));
            sleep(millis(100..1_000, random)).await;
            faults.delay(Duration::ZERO);
        }
        Fault::ServerBusy(at) => {
            faults.server_busy(at, random.random_range(1..3));
            meet(at, faults);
        }
        Fault::Error(at) => {
            let condition = *PASSING.choose(random).unwrap();
            faults.fail(at, condition, "a fault on demand", random.random_range(1..4));
            meet(at, faults);
        }
        Fault::Unauthorized => {
            faults.fail(FaultPoint::Attach, "amqp:unauthorized-access", "a fault on demand", 1);
            meet(FaultPoint::Attach, faults);
        }
        Fault::HalfOpen => {
            faults.half_open();
        }
        Fault::HalfOpenNext => {
            faults.half_open_next(1);
            faults.cut_connections();
        }
    }
}

/// Errors of links and of questions before them are met where links are opened.
fn meet(at: FaultPoint, faults: &Faults) {
    if at != FaultPoint::Receive {
        faults.detach_receivers(HUB, None);
    }
}

/// What the handler saw.
#[derive(Default)]
struct Seen {
    handled: AtomicUsize,
    next: [AtomicUsize; PARTITIONS],
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn record(&self, event: &Event) {
        let partition: usize = event.partition().id.as_str().parse().unwrap();
        let number = usize::try_from(event.sequence_number().0).unwrap();
        let expected = self.next[partition].swap(number + 1, Ordering::SeqCst);
        if expected != number {
            let wrong = format!("partition {partition}: {number} instead of {expected}");
            self.wrong.lock().unwrap().push(wrong);
        }
        self.handled.fetch_add(1, Ordering::SeqCst);
    }
}

fn chosen(name: &str, otherwise: usize) -> usize {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Publishes so many events to each partition while sends fail as well; what a failed send left
/// out is found at the end of the log and sent again.
async fn publish(emulator: &Emulator, namespace: &Namespace, events_each: usize) {
    let transport = EventHubsTransport::new(namespace.clone(), HUB, "$Default");
    let body = vec![b'x'; BODY_BYTES];
    for partition in 0..PARTITIONS {
        let id = PartitionId::from(partition.to_string());
        for condition in ["com.microsoft:server-busy", "amqp:internal-error"] {
            emulator.faults().fail(FaultPoint::Send, condition, "a fault on demand", 1);
        }
        loop {
            let log_end = broker::log_end(&transport, id.as_str());
            let sent = within("the log's end", log_end).await;
            if sent >= events_each {
                assert_eq!(sent, events_each);
                break;
            }
            let publisher = EventHubsPublisher::new(namespace.clone(), HUB);
            let count = (events_each - sent).min(20_000);
            let events = (0..count).map(|_| OutgoingEvent::new(body.clone())).collect();
            let target = SendTarget::Partition(id.clone());
            let result = within("publishing", publisher.send_batch(target, events)).await;
            publisher.close().await;
            assert!(
                result.as_ref().err().is_none_or(|error| error.class().is_retryable()),
                "{result:?}"
            );
        }
    }
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_once_and_in_order_through_every_fault() {
    let events_each = chosen("LONGSHORE_EVENTS", 100_000) / PARTITIONS;
    let events = events_each * PARTITIONS;
    let seed = chosen("LONGSHORE_SEED", 7);
    let mut random = SmallRng::seed_from_u64(seed as u64);
    let faults = faults(chosen("LONGSHORE_FAULTS", 24), &mut random);

    let started = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let builder = broker::patient().hub(HUB, PARTITIONS as u32).data_dir(dir.path());
    let emulator = builder.start().await.unwrap();
    let namespace = broker::namespace(&emulator);
    publish(&emulator, &namespace, events_each).await;
    let published = started.elapsed();

    let seen = Arc::new(Seen::default());
    // The handler gets through a stretch of the log for each fault, and then waits for the next.
    let allowed = Arc::new(Semaphore::new(0));
    let mut options = ConsumerOptions::default();
    options.max_batch_size = BATCH;
    options.max_batches_in_flight = 1;
    options.batch_timeout = Duration::from_millis(100);
    // What is received ahead must not be the whole stretch.
    options.window_events = 4 * BATCH;
    options.prefetch_events = BATCH as u32;
    options.reopen_backoff =
        Backoff::doubling(Duration::from_millis(50), Duration::from_millis(500));
    let (record, permits) = (Arc::clone(&seen), Arc::clone(&allowed));
    let transport = Arc::new(EventHubsTransport::new(namespace, HUB, "$Default"));
    let handle = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
        .options(options)
        .batch_handler(move |batch: Batch, _: BatchContext| {
            let (record, permits) = (Arc::clone(&record), Arc::clone(&permits));
            async move {
                permits.acquire_many(batch.len() as u32).await.unwrap().forget();
                batch.iter().for_each(|event| record.record(event));
                Ok::<(), Failure>(())
            }
        })
        .unwrap()
        .start();
    let handled = || seen.handled.load(Ordering::SeqCst);
    let stretch = events / faults.len();
    let mut granted = 0;
    for (index, fault) in faults.iter().enumerate() {
        let strikes_at = granted + random.random_range(0..stretch.saturating_sub(BATCH).max(1));
        allowed.add_permits(stretch);
        granted += stretch;
        let what = format!("seed {seed}, fault {index}, {fault:?}");
        until(&what, || handled() >= strikes_at).await;
        strike(*fault, &emulator.faults(), &mut random).await;
        until(&what, || handled() + BATCH > granted).await;
        let wrong = seen.wrong.lock().unwrap().clone();
        assert!(wrong.is_empty(), "{what}: {wrong:?}");
    }
    allowed.add_permits(events - granted);
    until("the last event", || handled() == events).await;
    let mut handle = handle;
    handle.drain();
    let exit = within("the drain", handle.join()).await;
    let mut kinds = faults.clone();
    kinds.sort();
    let kinds: Vec<String> = kinds
        .chunk_by(|one, other| one == other)
        .map(|same| format!("{} {:?}", same.len(), same[0]))
        .collect();
    println!(
        "seed {seed}: {events} events published in {published:?}, handled in {:?} through {} \
         faults ({}); {} links opened",
        started.elapsed() - published,
        faults.len(),
        kinds.join(", "),
        exit.counts.links_opened
    );
    assert!(exit.is_clean(), "{exit:?}");
    assert!(seen.wrong.lock().unwrap().is_empty());
    assert_eq!(exit.counts.received, events as u64, "a link resumed behind what was received");
    assert_eq!(handled(), events);
    emulator.shutdown().await.unwrap();
}
