//! Events that failed wait in the failure store, hold nothing up, and come back. In paused time.

#[path = "support/log.rs"]
mod log;
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::clock::Clock;
use longshore::consumer::BatchConsumerBuilder;
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::failure_store::{
    Expected, FailureEntry, FailureKind, FailurePrefix, FailureStore, ListedFailure,
};
use longshore::lanes::{Lane, LaneRule};
use longshore::state::backoff::Backoff;
use longshore::{
    Batch, BatchConsumer, BatchContext, ConsumerHandle, ErrorClass, Event, EventContext, Failure,
    Outcome, Outcomes, OutgoingEvent,
};
use tokio::time::{Instant, sleep};

use log::Log;
use support::waiting::found;
use support::{Harness, drained, settled};

/// Follows the clock of the runtime, which is paused.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.0.elapsed()
    }
}

/// Waits for up to two days, by that clock.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let look = || if condition() { Ok(()) } else { Err(()) };
    found(what, Duration::from_millis(200), 48 * 60 * MINUTE, look).await;
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What a store has of a kind.
async fn listed(store: &MemoryFailureStore, kind: FailureKind) -> Vec<ListedFailure> {
    let page = store.list(&FailurePrefix::all(kind), None, usize::MAX).await.expect("lists");
    page.entries.into_iter().map(|entry| entry.expect("readable")).collect()
}

async fn numbers(store: &MemoryFailureStore, kind: FailureKind) -> Vec<i64> {
    let listed = listed(store, kind).await;
    listed.into_iter().map(|entry| entry.key.event.sequence_number.0).collect()
}

/// Two attempts in place, a second apart.
fn options() -> longshore::ConsumerOptions {
    let mut options = longshore::ConsumerOptions::default();
    options.max_attempts = 2;
    options.retry_backoff = Backoff::doubling(SECOND, SECOND);
    options
}

/// A consumer that parks after two attempts.
fn builder(harness: &Harness, store: &Arc<MemoryFailureStore>) -> BatchConsumerBuilder {
    let clock = Arc::new(Virtual(Instant::now()));
    harness.without_letters().options(options()).failure_store(store.clone()).clock(clock)
}

/// When each event was handled, counted from a time.
#[derive(Clone)]
struct Calls(Arc<Mutex<BTreeMap<i64, Vec<Duration>>>>, Instant);

impl Calls {
    fn new() -> Self {
        Self(Arc::default(), Instant::now())
    }

    /// Returns which call of the event it is, from 1.
    fn record(&self, event: &Event) -> usize {
        let mut calls = self.0.lock().expect("lock");
        let calls = calls.entry(event.sequence_number().0).or_default();
        calls.push(self.1.elapsed());
        calls.len()
    }

    fn of(&self, number: i64) -> Vec<Duration> {
        self.0.lock().expect("lock").get(&number).cloned().unwrap_or_default()
    }
}

fn transient() -> Outcome {
    Outcome::retry(Failure::transient("503"))
}

#[tokio::test(start_paused = true)]
async fn an_event_that_fails_is_parked_for_longer_each_time_and_then_given_up() {
    let (harness, store, calls) =
        (Harness::new(1), Arc::<MemoryFailureStore>::default(), Calls::new());
    harness.publish(0, 20);
    let at = calls.clone();
    let handle = builder(&harness, &store)
        .event_handler(move |event: Event, _: EventContext| {
            at.record(&event);
            async move { if event.sequence_number().0 == 7 { transient() } else { Outcome::Done } }
        })
        .expect("valid")
        .start();
    settled(&handle, 19).await;
    assert!(calls.1.elapsed() < 3 * SECOND, "{:?}", calls.1.elapsed());
    let parked = listed(&store, FailureKind::Parked).await;
    assert_eq!(parked.len(), 1);
    assert_eq!((parked[0].meta.attempts, parked[0].meta.parkings), (2, 1));
    until("given up", || handle.snapshot().counts.dead_letters == 1).await;
    let waits: Vec<u64> =
        calls.of(7).windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    let expected = [0, 5 * 60, 30 * 60, 2 * 3_600, 8 * 3_600];
    assert_eq!(waits.len(), expected.len());
    for (waited, expected) in waits.iter().zip(expected) {
        assert!((expected..=expected + 3).contains(waited), "{waits:?}");
    }
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.counts.done, snapshot.counts.parked), (19, 1));
    assert!(drained(handle).await.is_clean());
    assert!(listed(&store, FailureKind::Parked).await.is_empty());
    let dead = listed(&store, FailureKind::Dead).await;
    assert_eq!((dead[0].key.event.sequence_number.0, dead[0].meta.attempts), (7, 6));
    assert_eq!(dead[0].meta.parkings, 4);
}

#[tokio::test(start_paused = true)]
async fn a_parked_event_comes_back_byte_for_byte_to_the_next_owner() {
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    let mut sent = OutgoingEvent::new(vec![0xff, 0, 7]).with_key("k");
    sent.properties.insert("tries".to_owned(), 3_i64.into());
    harness.hub.publish(0, sent);
    let handle = builder(&harness, &store)
        .event_handler(|_: Event, _: EventContext| async { transient() })
        .expect("valid")
        .start();
    until("parked", || handle.snapshot().counts.parked == 1).await;
    settled(&handle, 0).await;
    assert_eq!(handle.snapshot().partitions[0].parked_events, 1);
    assert!(drained(handle).await.is_clean());

    let got: Arc<Mutex<Vec<(Event, u32)>>> = Arc::default();
    let into = got.clone();
    let handle = builder(&harness, &store)
        .event_handler(move |event: Event, context: EventContext| {
            into.lock().expect("lock").push((event, context.attempt()));
            async {}
        })
        .expect("valid")
        .start();
    until("back", || handle.snapshot().counts.done == 1).await;
    assert!(drained(handle).await.is_clean());
    assert!(listed(&store, FailureKind::Parked).await.is_empty());
    let got = got.lock().expect("lock");
    let (event, attempt) = &got[0];
    assert_eq!((event.body().as_ref(), event.key(), *attempt), (&[0xff, 0, 7][..], Some("k"), 3));
    assert_eq!(event.properties().get("tries"), Some(&3_i64.into()));
    assert_eq!(event.sequence_number().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_a_long_time_is_parked_and_a_short_one_waits_in_place() {
    let (harness, store, calls) =
        (Harness::new(1), Arc::<MemoryFailureStore>::default(), Calls::new());
    harness.publish(0, 2);
    let at = calls.clone();
    let handle = builder(&harness, &store)
        .event_handler(move |event: Event, _: EventContext| {
            let (call, number) = (at.record(&event), event.sequence_number().0);
            let wait = [59, 600][usize::try_from(number).expect("small")];
            async move {
                match call {
                    1 => Outcome::retry_after(wait * SECOND, Failure::transient("later")),
                    _ => Outcome::Done,
                }
            }
        })
        .expect("valid")
        .start();
    until("one is parked", || handle.snapshot().counts.parked == 1).await;
    assert_eq!(numbers(&store, FailureKind::Parked).await, [1]);
    until("both", || handle.snapshot().counts.done == 2).await;
    assert_eq!(calls.of(0)[1].as_secs(), 59);
    assert!((600..605).contains(&calls.of(1)[1].as_secs()), "{:?}", calls.of(1));
    drained(handle).await;
}

#[tokio::test(start_paused = true)]
async fn the_store_that_is_down_for_a_minute_loses_nothing() {
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    let handle = builder(&harness, &store)
        .event_handler(|event: Event, context: EventContext| async move {
            let fails = event.sequence_number().0 == 100 && context.attempt() < 4;
            if fails { transient() } else { Outcome::Done }
        })
        .expect("valid")
        .start();
    harness.publish(0, 100);
    settled(&handle, 99).await;
    store.fail_next(u32::MAX);
    harness.publish(0, 1_000);
    let begun = Instant::now();
    until("the others", || handle.snapshot().counts.done == 1_099).await;
    assert!(begun.elapsed() < 10 * SECOND);
    sleep(MINUTE).await;
    assert_eq!(harness.checkpointed_to("0").await, Some(99), "the first failure holds it");
    store.fail_next(0);
    settled(&handle, 1_099).await;
    until("it comes back", || handle.snapshot().counts.done == 1_100).await;
    assert!(drained(handle).await.is_clean());
    assert!(listed(&store, FailureKind::Parked).await.is_empty());
    assert!(listed(&store, FailureKind::Dead).await.is_empty());
}

/// Of a store that is full, read-only or deleted, and of one that may not be used.
const REFUSALS: [ErrorClass; 2] = [ErrorClass::Permanent, ErrorClass::Auth];

/// Whether a line of the log says this, and names the store.
fn is_said(log: &Log, what: &str) -> bool {
    let says = |line: &str| line.contains(what) && line.contains("the failure store in memory");
    log.text().lines().any(says)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_nothing_holds_the_watermark_stops_nobody_and_is_named() {
    for class in REFUSALS {
        for is_parked in [true, false] {
            let log = Log::default();
            let _here = log.of_this_thread();
            let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
            harness.publish(0, 10);
            let handle = builder(&harness, &store)
                .event_handler(move |event: Event, context: EventContext| async move {
                    match event.sequence_number().0 {
                        50 if is_parked && context.attempt() < 4 => transient(),
                        50 if !is_parked => Outcome::dead_letter(Failure::permanent("404")),
                        _ => Outcome::Done,
                    }
                })
                .expect("valid")
                .start();
            settled(&handle, 9).await;
            store.fail_next_with(u32::MAX, class);
            harness.publish(0, 100);
            until("the others", || handle.snapshot().counts.done == 109).await;
            sleep(MINUTE).await;
            assert_eq!(harness.checkpointed_to("0").await, Some(49), "{class}: it holds it");
            let what = match is_parked {
                true => "could not park the event",
                false => "could not write the dead letter",
            };
            assert!(is_said(&log, what), "{what}, {class}:\n{}", log.text());
            store.fail_next(0);
            settled(&handle, 109).await;
            let in_the_end = if is_parked { 110 } else { 109 };
            until("it comes back", || handle.snapshot().counts.done == in_the_end).await;
            assert!(drained(handle).await.is_clean());
            assert!(listed(&store, FailureKind::Parked).await.is_empty());
            let letters = if is_parked { vec![] } else { vec![50] };
            assert_eq!(numbers(&store, FailureKind::Dead).await, letters);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_listed_keeps_what_is_parked_stops_nobody_and_is_named() {
    for class in REFUSALS {
        let log = Log::default();
        let _here = log.of_this_thread();
        let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
        harness.publish(0, 20);
        let start = || {
            builder(&harness, &store)
                .event_handler(|event: Event, context: EventContext| async move {
                    let fails = event.sequence_number().0 == 7 && context.attempt() < 3;
                    if fails { transient() } else { Outcome::Done }
                })
                .expect("valid")
                .start()
        };
        let handle = start();
        settled(&handle, 19).await;
        assert!(drained(handle).await.is_clean());
        assert_eq!(numbers(&store, FailureKind::Parked).await, [7]);

        store.fail_next_with(u32::MAX, class);
        harness.publish(0, 20);
        let handle = start();
        settled(&handle, 39).await;
        sleep(10 * MINUTE).await;
        assert_eq!(handle.snapshot().counts.done, 20, "{class}: number 7 is due, and not known");
        let what = "the parked events cannot be listed";
        assert!(is_said(&log, what), "{class}:\n{}", log.text());
        store.fail_next(0);
        until("it comes back", || handle.snapshot().counts.done == 21).await;
        assert!(drained(handle).await.is_clean());
        assert!(listed(&store, FailureKind::Parked).await.is_empty());
        assert!(listed(&store, FailureKind::Dead).await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn beside_an_outage_of_the_store_the_others_are_done_up_to_the_window() {
    const WINDOW: usize = 100;
    let (harness, store, calls) =
        (Harness::new(1), Arc::<MemoryFailureStore>::default(), Calls::new());
    let mut options = options();
    options.window_events = WINDOW;
    let seen = calls.clone();
    let handle = builder(&harness, &store)
        .options(options)
        .event_handler(move |event: Event, context: EventContext| {
            seen.record(&event);
            async move {
                sleep(Duration::from_millis(20)).await;
                let fails = event.sequence_number().0 % 1_000 == 150 && context.attempt() < 4;
                if fails { transient() } else { Outcome::Done }
            }
        })
        .expect("valid")
        .start();
    harness.publish(0, 100);
    settled(&handle, 99).await;
    store.fail_next(u32::MAX);
    for _ in 0..60 {
        harness.publish(0, 40);
        sleep(SECOND).await;
    }
    // Number 150 is not settled; behind it there is room for the rest of the window.
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.counts.done, 150 + WINDOW as u64 - 1);
    assert_eq!(snapshot.partitions[0].settled_to.map(|number| number.0), Some(149));
    assert_eq!(harness.checkpointed_to("0").await, Some(149));
    store.fail_next(0);
    settled(&handle, 2_499).await;
    until("all", || handle.snapshot().counts.done == 2_500).await;
    assert!(drained(handle).await.is_clean());
    assert!((0..2_500).all(|number| !calls.of(number).is_empty()));
    assert!(listed(&store, FailureKind::Parked).await.is_empty());
    assert!(listed(&store, FailureKind::Dead).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_behind_a_parked_event_of_its_key_parks_behind_it() {
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    let order: Arc<Mutex<BTreeMap<String, Vec<i64>>>> = Arc::default();
    for number in 0..300 {
        let key = format!("key {}", number % 3);
        harness.hub.publish(0, OutgoingEvent::new("").with_key(key));
    }
    let into = order.clone();
    let handle = builder(&harness, &store)
        .lanes(LaneRule::per_key())
        .event_handler(move |event: Event, context: EventContext| {
            let into = into.clone();
            async move {
                sleep(Duration::from_millis(10)).await;
                let number = event.sequence_number().0;
                if number % 30 == 7 && context.attempt() < 4 {
                    return transient();
                }
                let key = event.key().unwrap_or_default().to_owned();
                into.lock().expect("lock").entry(key).or_default().push(number);
                Outcome::Done
            }
        })
        .expect("valid")
        .start();
    settled(&handle, 299).await;
    let parked = handle.snapshot().counts.parked;
    assert!(parked > 90, "{parked} are parked: one key has a hundred");
    harness.hub.publish(0, OutgoingEvent::new("").with_key("key 1"));
    until("all", || handle.snapshot().counts.done == 301).await;
    assert!(drained(handle).await.is_clean());
    assert!(listed(&store, FailureKind::Parked).await.is_empty());
    let order = order.lock().expect("lock");
    assert_eq!(order.len(), 3);
    assert!(order.values().all(|numbers| numbers.is_sorted()), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn batches_take_what_comes_back_and_a_permanent_failure_is_a_letter() {
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    harness.publish(0, 20);
    let is_down = Arc::new(AtomicBool::new(true));
    let down = is_down.clone();
    let handle = builder(&harness, &store)
        .batch_handler(move |batch: Batch, _: BatchContext| {
            let is_down = down.load(Ordering::SeqCst);
            async move {
                let outcome = |event: &Event| match event.sequence_number().0 {
                    3 if is_down => transient(),
                    5 => Outcome::dead_letter(Failure::permanent("404")),
                    _ => Outcome::Done,
                };
                Ok::<_, Failure>(Outcomes::each(batch.iter().map(outcome)))
            }
        })
        .expect("valid")
        .start();
    settled(&handle, 19).await;
    assert_eq!(numbers(&store, FailureKind::Parked).await, [3]);
    is_down.store(false, Ordering::SeqCst);
    until("it comes back", || handle.snapshot().counts.done == 19).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(numbers(&store, FailureKind::Dead).await, [5]);
    assert!(numbers(&store, FailureKind::Parked).await.is_empty());
}

/// A consumer of a hundred hosts. Its slots can do fifty events a second.
struct Hosts {
    harness: Harness,
    store: Arc<MemoryFailureStore>,
    handle: ConsumerHandle,
    is_down: Arc<AtomicBool>,
    calls_of_dead: Arc<AtomicUsize>,
    published: u64,
}

/// What a consumer came to in an hour.
#[derive(Debug)]
struct Hour {
    done: u64,
    /// The most that the watermark was behind in any second.
    oldest: Duration,
}

impl Hosts {
    const SLOTS: usize = 20;
    const TAKES: Duration = Duration::from_millis(400);

    /// With number 3 down or not.
    fn start(is_down: bool) -> Self {
        let clock = Arc::new(Virtual(Instant::now()));
        let (harness, store) =
            (Harness::with_clock(1, clock), Arc::<MemoryFailureStore>::default());
        let is_down = Arc::new(AtomicBool::new(is_down));
        let calls_of_dead = Arc::new(AtomicUsize::new(0));
        let (down, count) = (is_down.clone(), calls_of_dead.clone());
        let handle = builder(&harness, &store)
            .max_events_in_flight(Self::SLOTS)
            .lanes(LaneRule::limited(4, |event: &Event| Some(Lane::new(event.body()))))
            .event_handler(move |event: Event, _: EventContext| {
                let is_dead = event.body() == "host-3" && down.load(Ordering::SeqCst);
                count.fetch_add(usize::from(is_dead), Ordering::SeqCst);
                async move {
                    sleep(Self::TAKES).await;
                    if is_dead { transient() } else { Outcome::Done }
                }
            })
            .expect("valid")
            .start();
        Self { harness, store, handle, is_down, calls_of_dead, published: 0 }
    }

    /// An hour in which each of these hosts gets an event every two seconds, one after the other.
    async fn an_hour(&mut self, hosts: &[u64]) -> Hour {
        let mut oldest = Duration::ZERO;
        let mut hosts_in_turn = hosts.iter().cycle();
        for second in 0..3_600 {
            // Half of them; the one more of an odd number in every second second.
            for _ in 0..hosts.len().midpoint(second % 2) {
                let host = hosts_in_turn.next().expect("without end");
                self.harness.hub.publish(0, OutgoingEvent::new(format!("host-{host}")));
                self.published += 1;
            }
            sleep(SECOND).await;
            let lag = self.handle.snapshot().partitions[0].lag_time;
            oldest = oldest.max(lag.expect("its times are known from the first second on"));
        }
        Hour { done: self.handle.snapshot().counts.done, oldest }
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_dead_for_an_hour_holds_no_watermark_and_leaves_the_others_their_rate() {
    let others: Vec<u64> = (0..100).filter(|host| *host != 3).collect();
    let mut alone = Hosts::start(false);
    let hour_alone = alone.an_hour(&others).await;
    assert!(drained(alone.handle).await.is_clean());
    let slots_can = 3_600.0 * Hosts::SLOTS as f64 / Hosts::TAKES.as_secs_f64();
    assert!(hour_alone.done as f64 > 0.98 * slots_can, "{hour_alone:?} of {slots_can}");

    let mut hosts = Hosts::start(true);
    let hour = hosts.an_hour(&(0..100).collect::<Vec<_>>()).await;
    let calls = hosts.calls_of_dead.load(Ordering::SeqCst);
    println!("alone: {hour_alone:?}; beside a dead host: {hour:?}, {calls} calls of it");
    assert!(hour.done as f64 >= 0.95 * hour_alone.done as f64, "{hour:?}, alone {hour_alone:?}");
    assert!(hour.oldest <= 2 * MINUTE, "the watermark was {:?} old", hour.oldest);
    assert!(hour.oldest > 10 * SECOND, "an open lane waits first: {:?}", hour.oldest);
    assert!(calls < 3_600, "{calls} calls of a dead host in an hour");

    hosts.is_down.store(false, Ordering::SeqCst);
    let back = Instant::now();
    until("all", || hosts.handle.snapshot().counts.done == hosts.published).await;
    assert!(back.elapsed() < 10 * MINUTE, "{:?}", back.elapsed());
    assert!(drained(hosts.handle).await.is_clean());
    assert!(numbers(&hosts.store, FailureKind::Parked).await.is_empty());
    assert!(numbers(&hosts.store, FailureKind::Dead).await.is_empty());
}

/// Makes a parked record of a letter, as a replay does.
async fn replay(store: &MemoryFailureStore, letter: &ListedFailure, due: &str) {
    let stored = store.read(&letter.key).await.expect("reads").expect("is there");
    let mut record: DeadLetterRecord = stored.record().expect("a record");
    record.job = Some("job-1".to_owned());
    record.generation += 1;
    record.due = Some(due.to_owned());
    let key = letter.key.event.clone().key(FailureKind::Parked);
    let entry = FailureEntry::of(&record).expect("an entry");
    store.put(&key, &entry, &Expected::Absent).await.expect("put");
}

#[tokio::test(start_paused = true)]
async fn what_is_replayed_is_handled_anew_and_its_letter_stays_until_it_is_done() {
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    harness.publish(0, 2);
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = is_mended.clone();
    let handle = builder(&harness, &store)
        .event_handler(move |event: Event, _: EventContext| {
            let is_mended = mended.load(Ordering::SeqCst) && event.sequence_number().0 == 0;
            async move {
                if is_mended {
                    Outcome::Done
                } else {
                    Outcome::dead_letter(Failure::permanent("404"))
                }
            }
        })
        .expect("valid")
        .start();
    settled(&handle, 1).await;
    let dead = listed(&store, FailureKind::Dead).await;
    assert_eq!(dead.len(), 2);
    is_mended.store(true, Ordering::SeqCst);
    for letter in &dead {
        replay(&store, letter, "2000-01-01T00:00:00.000Z").await;
    }
    until("one is done", || handle.snapshot().counts.done == 1).await;
    until("one failed again", || handle.snapshot().counts.dead_letters == 3).await;
    assert!(drained(handle).await.is_clean());
    assert!(numbers(&store, FailureKind::Parked).await.is_empty());
    let dead = listed(&store, FailureKind::Dead).await;
    assert_eq!(dead.len(), 1, "the letter of the one that is done is gone");
    assert_eq!((dead[0].key.event.sequence_number.0, dead[0].meta.generation), (1, 1));
    assert_eq!(dead[0].meta.job.as_deref(), Some("job-1"));
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_an_event_parks_with_it_where_one_of_their_key_is_replayed() {
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    for _ in 0..3 {
        harness.hub.publish(0, OutgoingEvent::new("").with_key("k"));
    }
    let is_mended = Arc::new(AtomicBool::new(false));
    let order: Arc<Mutex<Vec<i64>>> = Arc::default();
    let (mended, into) = (is_mended.clone(), order.clone());
    let mut options = longshore::ConsumerOptions::default();
    options.retry_backoff = Backoff::doubling(40 * SECOND, 40 * SECOND);
    let handle = builder(&harness, &store)
        .options(options)
        .lanes(LaneRule::per_key())
        .event_handler(move |event: Event, _: EventContext| {
            let number = event.sequence_number().0;
            let outcome = match (number, mended.load(Ordering::SeqCst)) {
                (0, false) => Outcome::dead_letter(Failure::permanent("404")),
                (1, false) => transient(),
                _ => Outcome::Done,
            };
            if outcome == Outcome::Done {
                into.lock().expect("lock").push(number);
            }
            async { outcome }
        })
        .expect("valid")
        .start();
    until("a letter", || handle.snapshot().counts.dead_letters == 1).await;
    let letter = &listed(&store, FailureKind::Dead).await[0];
    replay(&store, letter, "2023-11-14T23:00:00.000Z").await;
    until("both are parked", || handle.snapshot().counts.parked == 2).await;
    assert!(order.lock().expect("lock").is_empty(), "number 2 waits for number 1");
    is_mended.store(true, Ordering::SeqCst);
    until("all", || handle.snapshot().counts.done == 3).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(*order.lock().expect("lock"), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_used_stay_and_stop_nobody() {
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    harness.publish(0, 4);
    let is_down = Arc::new(AtomicBool::new(true));
    let down = is_down.clone();
    let handle = builder(&harness, &store)
        .event_handler(move |_: Event, _: EventContext| {
            let is_down = down.load(Ordering::SeqCst);
            async move { if is_down { transient() } else { Outcome::Done } }
        })
        .expect("valid")
        .start();
    until("all are parked", || handle.snapshot().counts.parked == 4).await;
    is_down.store(false, Ordering::SeqCst);
    let parked = listed(&store, FailureKind::Parked).await;
    let stored = store.read(&parked[0].key).await.expect("reads").expect("is there");
    // Cut in half; of a later release; due in a hundred years.
    let half = stored.content.slice(..stored.content.len() / 2);
    let later =
        String::from_utf8_lossy(&stored.content).replace("\"version\": 3", "\"version\": 9");
    let mut far =
        store.read(&parked[2].key).await.expect("reads").expect("there").record().expect("record");
    far.due = Some("2126-01-01T00:00:00.000Z".to_owned());
    let entry = |index: usize, content: bytes::Bytes| FailureEntry {
        meta: parked[index].meta.clone(),
        content,
    };
    for (index, entry) in [
        (0, entry(0, half)),
        (1, entry(1, later.into_bytes().into())),
        (2, FailureEntry::of(&far).expect("an entry")),
    ] {
        store.put(&parked[index].key, &entry, &Expected::Anything).await.expect("put");
    }
    until("the fourth", || handle.snapshot().counts.done == 1).await;
    sleep(20 * MINUTE).await;
    assert_eq!(handle.snapshot().counts.done, 1);
    assert_eq!(numbers(&store, FailureKind::Parked).await, [0, 1, 2]);
    harness.publish(0, 10);
    settled(&handle, 13).await;
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_of_a_hub_that_is_created_anew_stays_and_is_not_taken_for_its_events() {
    let log = Log::default();
    let _here = log.of_this_thread();
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    let bodies: Arc<Mutex<Vec<String>>> = Arc::default();
    let is_down = Arc::new(AtomicBool::new(true));
    let (down, into) = (is_down.clone(), bodies.clone());
    let handle = builder(&harness, &store)
        .event_handler(move |event: Event, _: EventContext| {
            let is_down = down.load(Ordering::SeqCst);
            if !is_down {
                let body = String::from_utf8_lossy(event.body()).into_owned();
                into.lock().expect("lock").push(body);
            }
            async move { if is_down { transient() } else { Outcome::Done } }
        })
        .expect("valid")
        .start();
    harness.publish(0, 4);
    until("all are parked", || handle.snapshot().counts.parked == 4).await;
    let old = listed(&store, FailureKind::Parked).await;
    is_down.store(false, Ordering::SeqCst);
    harness.hub.recreate();
    for number in 0..6 {
        harness.hub.publish(0, OutgoingEvent::new(format!("new {number}")));
    }
    until("the new events", || handle.snapshot().counts.done == 6).await;
    // All of the old ones would be due.
    sleep(20 * MINUTE).await;
    assert_eq!(handle.snapshot().counts.done, 6);
    assert!(drained(handle).await.is_clean());
    let mut bodies = bodies.lock().expect("lock").clone();
    bodies.sort();
    let expected: Vec<_> = (0..6).map(|number| format!("new {number}")).collect();
    assert_eq!(bodies, expected);
    assert_eq!(listed(&store, FailureKind::Parked).await, old);
    let said = log.text();
    assert!(said.contains("Recreated"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_parked_record_that_was_copied_to_another_number_is_named_and_stops_nobody() {
    let log = Log::default();
    let _here = log.of_this_thread();
    let (harness, store, calls) =
        (Harness::new(1), Arc::<MemoryFailureStore>::default(), Calls::new());
    harness.publish(0, 20);
    let is_down = Arc::new(AtomicBool::new(true));
    let (down, seen) = (is_down.clone(), calls.clone());
    let handle = builder(&harness, &store)
        .event_handler(move |event: Event, _: EventContext| {
            seen.record(&event);
            let fails = event.sequence_number().0 == 7 && down.load(Ordering::SeqCst);
            async move { if fails { transient() } else { Outcome::Done } }
        })
        .expect("valid")
        .start();
    settled(&handle, 19).await;
    let parked = listed(&store, FailureKind::Parked).await;
    let stored = store.read(&parked[0].key).await.expect("reads").expect("is there");
    let mut elsewhere = parked[0].key.clone();
    elsewhere.event.sequence_number.0 = 9;
    let copy = FailureEntry { meta: parked[0].meta.clone(), content: stored.content };
    store.put(&elsewhere, &copy, &Expected::Absent).await.expect("put");
    is_down.store(false, Ordering::SeqCst);
    until("the one it is a copy of", || handle.snapshot().counts.done == 20).await;
    sleep(20 * MINUTE).await;
    harness.publish(0, 10);
    settled(&handle, 29).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!((calls.of(9).len(), calls.of(7).len()), (1, 3));
    assert_eq!(numbers(&store, FailureKind::Parked).await, [9]);
    let said = log.text();
    let named = format!("the record {elsewhere} is a copy of {}", parked[0].key);
    assert!(said.contains(&named), "{named} is not in\n{said}");
}

#[tokio::test(start_paused = true)]
async fn no_more_is_parked_than_may_be_and_the_rest_is_as_without_a_store() {
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    harness.publish(0, 30);
    let is_down = Arc::new(AtomicBool::new(true));
    let down = is_down.clone();
    let mut options = longshore::ConsumerOptions::default();
    (options.max_attempts, options.max_parked_events) = (2, 10);
    let handle = builder(&harness, &store)
        .options(options)
        .event_handler(move |event: Event, _: EventContext| {
            // One success tells that the destination works: the others are at fault.
            let fails = down.load(Ordering::SeqCst) && event.sequence_number().0 != 0;
            async move {
                if fails {
                    Outcome::retry(Failure::transient("x").of_event())
                } else {
                    Outcome::Done
                }
            }
        })
        .expect("valid")
        .start();
    until("what may be is parked, and the rest given up", || {
        let counts = handle.snapshot().counts;
        counts.parked == 10 && counts.dead_letters == 19
    })
    .await;
    assert_eq!(numbers(&store, FailureKind::Parked).await.len(), 10);
    drained(handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_received_again_is_settled_and_not_handled() {
    for is_told in [true, false] {
        let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
        harness.publish(0, 20);
        let start = |calls: &Calls, is_mended: bool| {
            let calls = calls.clone();
            // As after an owner that ended before its first checkpoint.
            let checkpoints = Arc::new(MemoryCheckpointStore::new());
            BatchConsumer::builder(Arc::new(harness.hub.transport("$Default")), checkpoints)
                .failure_store(store.clone())
                .event_handler(move |event: Event, _: EventContext| {
                    calls.record(&event);
                    let fails = event.sequence_number().0 == 7 && !is_mended;
                    async move {
                        match fails {
                            true => Outcome::dead_letter(Failure::permanent("410")),
                            false => Outcome::Done,
                        }
                    }
                })
                .expect("valid")
                .start()
        };
        let (first, second) = (Calls::new(), Calls::new());
        let handle = start(&first, false);
        settled(&handle, 19).await;
        assert!(drained(handle).await.is_clean());
        assert_eq!((first.of(7).len(), numbers(&store, FailureKind::Dead).await), (1, vec![7]));
        // Both listings: of the parked events, and of the letters.
        store.fail_next(if is_told { 0 } else { 2 });
        let handle = start(&second, true);
        settled(&handle, 19).await;
        let counts = handle.snapshot().counts;
        assert!(drained(handle).await.is_clean());
        let others = (0..20).filter(|number| *number != 7);
        assert!(others.into_iter().all(|number| second.of(number).len() == 1));
        // A store that cannot be asked holds nothing up.
        let expected = if is_told { (0, 1) } else { (1, 0) };
        assert_eq!((second.of(7).len() as u64, counts.settled_before), expected);
        assert_eq!(numbers(&store, FailureKind::Dead).await, [7]);
    }
}
