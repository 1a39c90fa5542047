//! Events that belong together: handled in order, or so many at once. In paused time.

#[path = "support/log.rs"]
mod log;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use longshore::clock::Clock;
use longshore::config::Ordering as Order;
use longshore::consumer::{BatchConsumerBuilder, PartitionSnapshot};
use longshore::lanes::{HoldingLane, Lane, LaneHold, LaneRule, MAX_LANE_CLOSING};
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::state::backoff::Backoff;
use longshore::transport::memory::MemoryHub;
use longshore::{
    Batch, BatchConsumer, BatchContext, ConsumerHandle, ConsumerOptions, ConsumerSet, Event,
    EventConsumer, EventContext, Failure, Outcome, Outcomes, OutgoingEvent,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use log::Log;
use support::{Harness, drained, unsettled, until};

const MS: Duration = Duration::from_millis(1);

fn keyed(harness: &Harness, partition: usize, key: &str) {
    harness.hub.publish(partition, OutgoingEvent::new("body").with_key(key));
}

/// The lane is the first word of the body; `none` has none.
fn first_word(event: &Event) -> Option<Lane> {
    let text = std::str::from_utf8(event.body()).ok()?;
    text.split(' ').next().filter(|word| *word != "none").map(Lane::new)
}

fn worded(harness: &Harness, partition: usize, body: &str) {
    harness.hub.publish(partition, OutgoingEvent::new(body.to_owned()));
}

fn key(event: &Event) -> String {
    event.key().unwrap_or_default().to_owned()
}

fn word(event: &Event) -> String {
    first_word(event).map_or_else(|| "none".to_owned(), |lane| lane.to_string())
}

/// What ran at once, and in which order it began.
#[derive(Clone, Default)]
struct Track(Arc<Mutex<Tracked>>);

#[derive(Default)]
struct Tracked {
    begun: Vec<(String, i64)>,
    running: BTreeMap<String, usize>,
    most: BTreeMap<String, usize>,
}

impl Track {
    fn begin(&self, lane: &str, event: &Event) {
        let mut tracked = self.0.lock().expect("lock");
        tracked.begun.push((lane.to_owned(), event.sequence_number().0));
        let running = tracked.running.entry(lane.to_owned()).or_default();
        *running += 1;
        let running = *running;
        let most = tracked.most.entry(lane.to_owned()).or_default();
        *most = running.max(*most);
    }

    fn end(&self, lane: &str) {
        *self.0.lock().expect("lock").running.get_mut(lane).expect("begun") -= 1;
    }

    fn most(&self, lane: &str) -> usize {
        self.0.lock().expect("lock").most.get(lane).copied().unwrap_or(0)
    }

    fn begun(&self) -> usize {
        self.0.lock().expect("lock").begun.len()
    }

    fn of(&self, lane: &str) -> Vec<i64> {
        let tracked = self.0.lock().expect("lock");
        tracked.begun.iter().filter(|(of, _)| of == lane).map(|(_, number)| *number).collect()
    }
}

fn quick_retries() -> ConsumerOptions {
    let mut options = ConsumerOptions::default();
    options.retry_backoff = Backoff::doubling(100 * MS, Duration::from_secs(1));
    options
}

fn done(handle: &ConsumerHandle) -> u64 {
    handle.snapshot().counts.done
}

fn first_partition(handle: &ConsumerHandle) -> PartitionSnapshot {
    handle.snapshot().partitions.remove(0)
}

fn holds(handle: &ConsumerHandle) -> bool {
    handle.snapshot().partitions.iter().any(|partition| partition.holding_lane.is_some())
}

#[tokio::test(start_paused = true)]
async fn events_of_a_key_are_handled_in_order_through_failures_and_others_pass_them() {
    let harness = Harness::new(2);
    for number in 0..40 {
        keyed(&harness, number % 2, ["a", "b", "c", "d", "e"][number % 5]);
    }
    let track = Track::default();
    let seen = track.clone();
    let mut options = quick_retries();
    options.ordering = Order::PerKey;
    options.max_attempts = 20;
    let handle = harness
        .builder()
        .options(options)
        .max_events_in_flight(50)
        .event_handler(move |event: Event, _: EventContext| {
            let track = seen.clone();
            async move {
                let of_partition = format!("{} of {}", key(&event), event.partition().id);
                track.begin(&key(&event), &event);
                track.begin(&of_partition, &event);
                sleep(MS).await;
                track.end(&key(&event));
                let number = event.sequence_number().0;
                let calls = track.of(&of_partition).iter().filter(|one| **one == number).count();
                let fails = number % 3 == 0 && calls < 3;
                if fails { Err(Failure::transient("not yet")) } else { Ok(()) }
            }
        })
        .expect("valid")
        .start();
    until("all", || done(&handle) == 40).await;
    for lane in ["a", "b", "c", "d", "e"] {
        assert_eq!(track.most(lane), 1, "{lane} is in both partitions, and one lane");
        for partition in 0..2 {
            let mut order = track.of(&format!("{lane} of {partition}"));
            order.dedup();
            assert_eq!(order.len(), 4, "each attempt comes before what comes after it");
            assert!(order.is_sorted());
        }
    }
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(exit.counts.retried, 2 * 14);
}

/// Order of first handling: no event of a key begins before all before it are settled.
#[tokio::test(start_paused = true)]
async fn a_failed_event_holds_its_key_and_nobody_else() {
    let harness = Harness::new(1);
    ["a", "a", "b", "a", "b"].into_iter().for_each(|key| keyed(&harness, 0, key));
    let track = Track::default();
    let seen = track.clone();
    let handle = harness
        .builder()
        .options(quick_retries())
        .ordering(Order::PerKey)
        .event_handler(move |event: Event, context: EventContext| {
            seen.begin(&key(&event), &event);
            seen.end(&key(&event));
            let fails = event.sequence_number().0 == 0 && context.attempt() == 1;
            async move { if fails { Err(Failure::transient("not yet")) } else { Ok(()) } }
        })
        .expect("valid")
        .start();
    until("the others", || done(&handle) == 2).await;
    assert_eq!((track.of("a"), track.of("b")), (vec![0], vec![2, 4]));
    assert_eq!(first_partition(&handle).lane_waiting_events, 3);
    let lanes = handle.snapshot().lanes.expect("lanes");
    assert_eq!((lanes.closed, lanes.waiting_events), (1, 3), "for the back-off");
    until("all", || done(&handle) == 5).await;
    assert_eq!(track.of("a"), [0, 0, 1, 3]);
    let lanes = handle.snapshot().lanes.expect("lanes");
    assert_eq!((lanes.known, lanes.closed, lanes.in_flight), (0, 0, 0), "forgotten when empty");
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_at_the_head_of_a_key_lets_the_next_one_go_when_it_is_acknowledged() {
    let harness = Harness::new(1);
    ["a", "a", "b"].into_iter().for_each(|key| keyed(&harness, 0, key));
    harness.letters.fail_next(3);
    let track = Track::default();
    let seen = track.clone();
    let handle = harness
        .builder()
        .options(quick_retries())
        .ordering(Order::PerKey)
        .event_handler(move |event: Event, _: EventContext| {
            seen.begin(&key(&event), &event);
            let fails = event.sequence_number().0 == 0;
            async move { if fails { Err(Failure::permanent("bad")) } else { Ok(()) } }
        })
        .expect("valid")
        .start();
    until("the other key", || done(&handle) == 1).await;
    assert_eq!(track.of("a"), [0], "its letter is not acknowledged");
    until("all", || done(&handle) == 2).await;
    assert_eq!(track.of("a"), [0, 1]);
    assert_eq!(handle.snapshot().counts.dead_letters, 1);
    assert!(drained(handle).await.is_clean());
    assert_eq!(harness.checkpointed_to("0").await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_lane_function_that_panics_costs_attempts_and_the_event_is_asked_again() {
    let harness = Harness::new(1);
    ["a 0", "boom 1", "twice 2", "a 3"].into_iter().for_each(|body| worded(&harness, 0, body));
    let asked = Arc::new(Mutex::new(BTreeMap::<i64, usize>::new()));
    let counts = asked.clone();
    let rule = LaneRule::ordered(move |event| {
        let mut asked = counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let times = asked.entry(event.sequence_number().0).or_default();
        *times += 1;
        let times = *times;
        drop(asked);
        let lane = word(event);
        assert!(lane != "boom", "no lane for it");
        assert!(lane != "twice" || times > 2, "not yet");
        first_word(event)
    });
    let seen = harness.seen.clone();
    let handle = harness
        .builder()
        .options(quick_retries())
        .max_attempts(4)
        .lanes(rule)
        .event_handler(move |event: Event, _: EventContext| {
            seen.record(&event);
            async {}
        })
        .expect("valid")
        .start();
    until("all", || unsettled(&handle) == 0 && done(&handle) == 3).await;
    let letters = harness.letters.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].failure.message, "the lane function panicked: no lane for it");
    assert_eq!((letters[0].attempts, letters[0].event.sequence_number().0), (4, 1));
    assert_eq!(harness.seen.numbers(), [0, 3, 2]);
    let asked: Vec<(i64, usize)> =
        asked.lock().expect("lock").iter().map(|(number, times)| (*number, *times)).collect();
    assert_eq!(asked, [(0, 1), (1, 4), (2, 3), (3, 1)], "once, but for those that panicked");
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(harness.checkpointed_to("0").await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_function_that_answers_differently_is_asked_once() {
    let harness = Harness::new(1);
    (0..20).for_each(|number| worded(&harness, 0, &format!("x {number}")));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let rule = LaneRule::ordered(move |_| {
        let times = count.fetch_add(1, Ordering::SeqCst);
        Some(Lane::new([u8::try_from(times % 250).unwrap_or_default()]))
    });
    let handle = harness
        .builder()
        .options(quick_retries())
        .lanes(rule)
        .event_handler(async |event: Event, context: EventContext| {
            let fails = event.sequence_number().0 % 2 == 0 && context.attempt() == 1;
            if fails { Err(Failure::transient("again")) } else { Ok(()) }
        })
        .expect("valid")
        .start();
    until("all", || done(&handle) == 20).await;
    assert_eq!(asked.load(Ordering::SeqCst), 20);
    assert_eq!(handle.snapshot().lanes.expect("lanes").known, 0);
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn events_without_a_key_or_with_an_empty_one_are_not_held_up() {
    let harness = Harness::new(1);
    harness.publish(0, 5);
    (0..5).for_each(|_| keyed(&harness, 0, ""));
    keyed(&harness, 0, "k");
    let running = Arc::new(AtomicUsize::new(0));
    let count = running.clone();
    let handle = harness
        .builder()
        .ordering(Order::PerKey)
        .max_events_in_flight(20)
        .event_handler(move |_: Event, _: EventContext| {
            count.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_secs(1))
        })
        .expect("valid")
        .start();
    until("all at once", || running.load(Ordering::SeqCst) == 11).await;
    assert_eq!(done(&handle), 0);
    assert_eq!(handle.snapshot().lanes.expect("lanes").known, 1);
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn one_key_in_a_hundred_that_hangs_holds_up_nobody_until_the_window_is_full() {
    let log = Log::default();
    let _guard = log.of_this_thread();
    let harness = Harness::new(1);
    for number in 0..2_000 {
        keyed(&harness, 0, &format!("key {}\u{1b}[1m", number % 100));
    }
    let release = Arc::new(Semaphore::new(0));
    let gate = release.clone();
    let mut options = ConsumerOptions::default();
    options.window_events = 600;
    options.ordering = Order::PerKey;
    let handle = harness
        .builder()
        .options(options)
        .event_handler(move |event: Event, _: EventContext| {
            let gate = gate.clone();
            let hangs = key(&event).starts_with("key 7\u{1b}");
            async move {
                if hangs {
                    drop(gate.acquire().await);
                }
            }
        })
        .expect("valid")
        .start();
    until("the window is full", || holds(&handle)).await;
    // 600 events from the first that hangs on: all are done but those of its key.
    let stands = first_partition(&handle);
    assert_eq!((done(&handle), stands.unsettled_events), (7 + 600 - 6, 6));
    let lane = Lane::new("key 7\u{1b}[1m");
    assert_eq!(
        stands.holding_lane,
        Some(held(&stands, lane, 5, LaneHold::Full)),
        "five wait behind the one that hangs"
    );
    assert_eq!(stands.lane_waiting_events, 5);
    let told = |what: &str| log.text().matches(what).count();
    assert_eq!(told("a lane holds the partition up: nothing more comes in"), 1, "{}", log.text());
    assert!(log.text().contains(r"lane=key 7\u{1b}[1m"), "{}", log.text());
    sleep(Duration::from_secs(5)).await;
    release.add_permits(1_000);
    until("all", || done(&handle) == 2_000).await;
    assert_eq!(first_partition(&handle).holding_lane, None);
    assert_eq!(told("a lane holds the partition up: nothing more comes in"), 1, "one episode");
    assert_eq!(told("a lane holds the partition up no more"), 1);
    assert!(drained(handle).await.is_clean());
}

/// What is expected, in the type that only the library makes.
fn held(stands: &PartitionSnapshot, lane: Lane, waiting: usize, hold: LaneHold) -> HoldingLane {
    let mut held = stands.holding_lane.clone().expect("one holds");
    (held.lane, held.waiting_events, held.hold) = (lane, waiting, hold);
    held
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_full_of_events_of_a_closed_lane_names_it() {
    let log = Log::default();
    let _guard = log.of_this_thread();
    let harness = Harness::new(1);
    for number in 0..40 {
        let body = format!("closed {number} {}", "x".repeat(10_000));
        worded(&harness, 0, &body);
    }
    let mut options = ConsumerOptions::default();
    options.memory_budget_bytes = 64 * 1_024;
    let handle = harness
        .builder()
        .options(options)
        .lanes(LaneRule::limited(4, first_word))
        .event_handler(async |_: Event, _: EventContext| {})
        .expect("valid");
    let handle = handle.start();
    let lane = Lane::new("closed");
    handle.close_lane(&lane, Duration::from_secs(60)).expect("lanes");
    until("it holds", || holds(&handle)).await;
    let stands = first_partition(&handle);
    let holding = stands.holding_lane.clone().expect("one holds");
    assert_eq!(holding.lane, lane);
    assert!(matches!(holding.hold, LaneHold::ClosedFor(left) if left > Duration::from_secs(50)));
    assert_eq!(holding.waiting_events, stands.unsettled_events);
    assert!(stands.unsettled_events < 20, "the budget is full: {stands:?}");
    assert_eq!(done(&handle), 0);
    handle.open_lane(&lane);
    until("all", || done(&handle) == 40).await;
    assert!(log.text().contains("lane=closed"));
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_cap_holds_across_partitions_and_other_lanes_pass() {
    let harness = Harness::new(4);
    for number in 0..200 {
        worded(&harness, number % 4, &format!("slow {number}"));
        worded(&harness, number % 4, &format!("fast {number}"));
    }
    let track = Track::default();
    let seen = track.clone();
    let handle = harness
        .builder()
        .max_events_in_flight(50)
        .lanes(LaneRule::limited(3, first_word))
        .event_handler(move |event: Event, _: EventContext| {
            let track = seen.clone();
            async move {
                let lane = word(&event);
                track.begin(&lane, &event);
                sleep(if lane == "slow" { Duration::from_secs(10) } else { 10 * MS }).await;
                track.end(&lane);
            }
        })
        .expect("valid")
        .start();
    let begun = Instant::now();
    until("the fast ones", || done(&handle) >= 200).await;
    // 200 events of 10 ms, three at once.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((track.most("slow"), track.most("fast")), (3, 3));
    handle.set_lane_cap(20).expect("limited");
    until("more at once", || track.most("slow") == 20).await;
    assert_eq!(handle.snapshot().lanes.expect("lanes").cap, 20);
    handle.set_lane_cap(1).expect("limited");
    until("all", || done(&handle) == 400).await;
    assert_eq!(track.most("slow"), 20);
    assert_eq!(handle.snapshot().lanes.expect("lanes").known, 0);
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_cap_that_is_lowered_lets_what_runs_end() {
    let harness = Harness::new(2);
    (0..60).for_each(|number| worded(&harness, number % 2, "host"));
    let track = Track::default();
    let seen = track.clone();
    let handle = harness
        .builder()
        .max_events_in_flight(50)
        .lanes(LaneRule::limited(10, first_word))
        .event_handler(move |event: Event, _: EventContext| {
            let track = seen.clone();
            async move {
                track.begin("host", &event);
                sleep(100 * MS).await;
                track.end("host");
            }
        })
        .expect("valid")
        .start();
    until("ten at once", || track.most("host") == 10).await;
    handle.set_lane_cap(2).expect("limited");
    until("those ended", || done(&handle) >= 10).await;
    let running = || track.0.lock().expect("lock").running["host"];
    until("the new cap", || running() == 2).await;
    for _ in 0..50 {
        sleep(11 * MS).await;
        assert!(running() <= 2, "{} run", running());
    }
    until("all", || done(&handle) == 60).await;
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn halves_of_a_batch_keep_to_a_cap_that_was_lowered_while_it_ran() {
    let harness = Harness::new(1);
    (0..8).for_each(|_| worded(&harness, 0, "host"));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let running = Arc::new(AtomicUsize::new(0));
    let (seen, now) = (calls.clone(), running.clone());
    let handle = harness
        .builder()
        .options(quick_retries())
        .max_batch_size(8)
        .max_batches_in_flight(20)
        .lanes(LaneRule::limited(8, first_word))
        .batch_handler(move |batch: Batch, _: BatchContext| {
            let at_once = now.fetch_add(batch.len(), Ordering::SeqCst) + batch.len();
            let call = {
                let mut calls = seen.lock().expect("lock");
                calls.push(at_once);
                calls.len()
            };
            let running = now.clone();
            async move {
                sleep(100 * MS).await;
                running.fetch_sub(batch.len(), Ordering::SeqCst);
                match call {
                    1 => Err(Failure::transient("the first fails whole")),
                    _ => Ok(()),
                }
            }
        })
        .expect("valid")
        .start();
    until("the first", || calls.lock().expect("lock").len() == 1).await;
    handle.set_lane_cap(2).expect("limited");
    until("all", || done(&handle) == 8).await;
    let calls = calls.lock().expect("lock").clone();
    assert_eq!(calls[0], 8);
    assert!(calls[1..].iter().all(|at_once| *at_once <= 2), "{calls:?}");
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_closing_uses_up_no_attempt_and_holds_its_lane_alone() {
    let harness = Harness::new(2);
    for number in 0..6 {
        worded(&harness, number % 2, &format!("busy {number}"));
        worded(&harness, number % 2, &format!("free {number}"));
    }
    let track = Track::default();
    let seen = track.clone();
    let begun = Instant::now();
    let handle = harness
        .builder()
        .max_attempts(1)
        .lanes(LaneRule::limited(1, first_word))
        .event_handler(move |event: Event, context: EventContext| {
            let track = seen.clone();
            async move {
                let lane = word(&event);
                assert_eq!(context.attempt(), 1, "none is used up");
                assert_eq!(context.first_failure(), None);
                track.begin(&lane, &event);
                track.end(&lane);
                if lane == "busy" && begun.elapsed() < Duration::from_secs(100) {
                    let failure = Failure::transient("come back later");
                    return Outcome::close_lane(Duration::from_secs(30), failure);
                }
                Outcome::Done
            }
        })
        .expect("valid")
        .start();
    until("the others", || done(&handle) == 6).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(track.of("busy").len(), 1, "one request, and then none for half a minute");
    until("all", || done(&handle) == 12).await;
    assert_eq!(track.of("busy").len(), 4 + 6, "at 0, 30, 60 and 90 s, and then all");
    assert!(begun.elapsed() < Duration::from_secs(121), "{:?}", begun.elapsed());
    let counts = handle.snapshot().counts;
    assert_eq!((counts.retried, counts.dead_letters), (4, 0));
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn without_a_lane_a_closing_is_a_wait_of_its_event_that_uses_no_attempt() {
    for rule in [None, Some(LaneRule::per_key())] {
        let harness = Harness::new(1);
        harness.publish(0, 2);
        let builder = match rule {
            Some(rule) => harness.builder().lanes(rule),
            None => harness.builder(),
        };
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        let handle = builder
            .max_attempts(1)
            .event_handler(move |_: Event, _: EventContext| {
                let times = count.fetch_add(1, Ordering::SeqCst);
                async move {
                    match times {
                        0..6 => Outcome::close_lane(10 * MS, Failure::transient("later")),
                        _ => Outcome::Done,
                    }
                }
            })
            .expect("valid")
            .start();
        until("both", || done(&handle) == 2).await;
        assert_eq!(calls.load(Ordering::SeqCst), 8);
        assert!(drained(handle).await.is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn a_settler_of_a_call_that_was_not_counted_speaks_for_no_later_one() {
    let harness = Harness::new(1);
    worded(&harness, 0, "host");
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let handle = harness
        .builder()
        .lanes(LaneRule::limited(1, first_word))
        .event_handler(move |_: Event, context: EventContext| {
            let mut kept = keep.lock().expect("lock");
            let is_first = kept.is_empty();
            let (settler, deferred) = context.defer();
            kept.push(settler);
            let failure = Failure::transient("later");
            let outcome = if is_first { Outcome::close_lane(MS, failure) } else { deferred };
            async move { outcome }
        })
        .expect("valid")
        .start();
    until("the second call", || kept.lock().expect("lock").len() == 2).await;
    let stale = kept.lock().expect("lock").remove(0);
    stale.settle(Outcome::dead_letter(Failure::permanent("stale")));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(unsettled(&handle), 1, "the one of the second call is waited for");
    kept.lock().expect("lock").remove(0).settle(Outcome::Done);
    until("done", || done(&handle) == 1).await;
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_closing_of_a_year_is_shortened_to_a_day_and_said() {
    let log = Log::default();
    let _guard = log.of_this_thread();
    let harness = Harness::new(1);
    worded(&harness, 0, "host");
    let begun = Instant::now();
    let handle = harness
        .builder()
        .lanes(LaneRule::limited(1, first_word))
        .event_handler(move |_: Event, _: EventContext| async move {
            if begun.elapsed() < Duration::from_secs(1) {
                let year = Duration::from_secs(365 * 24 * 3_600);
                return Outcome::close_lane(year, Failure::transient("next year"));
            }
            Outcome::Done
        })
        .expect("valid")
        .start();
    until("closed", || handle.snapshot().lanes.expect("lanes").closed == 1).await;
    assert!(log.text().contains("closed for too long"), "{}", log.text());
    sleep(MAX_LANE_CLOSING - Duration::from_secs(10)).await;
    assert_eq!(done(&handle), 0);
    sleep(Duration::from_secs(20)).await;
    until("done", || done(&handle) == 1).await;
    let too_long = MAX_LANE_CLOSING + MS;
    let refused = handle.close_lane(&Lane::new("host"), too_long).expect_err("too long");
    assert_eq!(refused.field, "lane_closing");
    handle.close_lane(&Lane::new("host"), Duration::ZERO).expect("a time that has passed");
    assert_eq!(handle.snapshot().lanes.expect("lanes").closed, 0);
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_is_refused_by_name() {
    let harness = Harness::new(1);
    let ok = async |_: Event, _: EventContext| {};
    let refused = harness.builder().lanes(LaneRule::limited(0, |_| None)).event_handler(ok);
    assert_eq!(refused.expect_err("no cap").field, "lane_cap");
    let both = harness.builder().lanes(LaneRule::per_key()).ordering(Order::PerPartition);
    let refused = both.event_handler(ok).expect_err("two rules").to_string();
    assert!(refused.contains("ordering = per-partition") && refused.contains("lanes"), "{refused}");

    let member = || harness.builder();
    let set = ConsumerSet::builder().lanes(LaneRule::limited(0, |_| None)).consumer(member());
    assert_eq!(set.event_handler(ok).expect_err("no cap").field, "lane_cap");
    for member in [member().lanes(LaneRule::per_key()), member().ordering(Order::PerKey)] {
        let set = ConsumerSet::builder().lanes(LaneRule::per_partition()).consumer(member);
        let refused = set.event_handler(ok).expect_err("two rules").to_string();
        assert!(refused.contains("lanes") && refused.contains("files"), "{refused}");
    }

    let plain = harness.builder().event_handler(ok).expect("valid").start();
    let lane = Lane::new("x");
    assert_eq!(plain.close_lane(&lane, MS).expect_err("no lanes").field, "lanes");
    assert_eq!(plain.set_lane_cap(3).expect_err("no lanes").field, "lanes");
    plain.open_lane(&lane);
    assert_eq!(plain.snapshot().lanes, None);

    let ordered = harness.builder().ordering(Order::PerKey).event_handler(ok).expect("valid");
    let ordered = ordered.start();
    assert_eq!(ordered.set_lane_cap(3).expect_err("ordered").field, "lane_cap");
    let limited = harness.builder().lanes(LaneRule::limited(1, |_| None));
    let limited = limited.event_handler(ok).expect("valid").start();
    assert_eq!(limited.set_lane_cap(0).expect_err("none").field, "lane_cap");
}

#[tokio::test(start_paused = true)]
async fn events_of_a_partition_are_handled_one_after_the_other_and_checkpoints_are_few() {
    let harness = Harness::new(3);
    (0..3).for_each(|partition| harness.publish(partition, 50));
    let track = Track::default();
    let seen = track.clone();
    let handle = harness
        .builder()
        .options(quick_retries())
        .ordering(Order::PerPartition)
        .max_events_in_flight(50)
        .event_handler(move |event: Event, context: EventContext| {
            let track = seen.clone();
            async move {
                let lane = event.partition().id.to_string();
                track.begin(&lane, &event);
                sleep(MS).await;
                track.end(&lane);
                let fails = event.sequence_number().0 % 10 == 0 && context.attempt() == 1;
                if fails { Err(Failure::transient("again")) } else { Ok(()) }
            }
        })
        .expect("valid")
        .start();
    until("all", || done(&handle) == 150).await;
    for lane in ["0", "1", "2"] {
        let mut order = track.of(lane);
        assert_eq!(track.most(lane), 1);
        order.dedup();
        assert_eq!(order, (0..50).collect::<Vec<i64>>());
    }
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn the_strict_consumer_needs_no_order_and_takes_none() {
    let harness = Harness::new(1);
    (0..3).for_each(|_| keyed(&harness, 0, "k"));
    let mut options = ConsumerOptions::default();
    options.ordering = Order::PerKey;
    let transport = Arc::new(harness.hub.transport("$Default"));
    let handle = EventConsumer::builder(transport, harness.checkpoints.clone())
        .options(options)
        .handler(async |_: Event, _: EventContext| {})
        .expect("valid")
        .start();
    until("all", || done(&handle) == 3).await;
    assert_eq!(handle.snapshot().lanes, None);
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn batches_hold_the_keys_of_their_events_and_keep_their_order() {
    let harness = Harness::new(2);
    for number in 0..120 {
        keyed(&harness, number % 2, ["a", "b", "c", "d", "e", "f"][number % 6]);
    }
    let running = Arc::new(Mutex::new(BTreeSet::new()));
    let order = Arc::new(Mutex::new(BTreeMap::<(String, String), Vec<i64>>::new()));
    let (now, seen) = (running.clone(), order.clone());
    let mut options = quick_retries();
    options.ordering = Order::PerKey;
    options.batch_timeout = 20 * MS;
    options.max_attempts = 30;
    let handle = harness
        .builder()
        .options(options)
        .max_batch_size(10)
        .max_batches_in_flight(20)
        .batch_handler(move |batch: Batch, context: BatchContext| {
            let (running, order) = (now.clone(), seen.clone());
            async move {
                let keys: BTreeSet<String> = batch.iter().map(key).collect();
                let numbers: Vec<i64> =
                    batch.iter().map(|event| event.sequence_number().0).collect();
                assert!(numbers.is_sorted(), "{numbers:?}");
                for key in &keys {
                    assert!(running.lock().expect("lock").insert(key.clone()), "{key} runs twice");
                }
                sleep(5 * MS).await;
                for key in &keys {
                    running.lock().expect("lock").remove(key);
                }
                let outcomes = batch.iter().enumerate().map(|(index, event)| {
                    let fails = event.sequence_number().0 % 7 == 0;
                    if fails && context.attempt(index) == Some(1) {
                        return Outcome::retry(Failure::transient("again"));
                    }
                    let lane = (event.partition().id.to_string(), key(event));
                    let mut order = order.lock().expect("lock");
                    order.entry(lane).or_default().push(event.sequence_number().0);
                    Outcome::Done
                });
                Ok::<_, Failure>(Outcomes::each(outcomes.collect::<Vec<_>>()))
            }
        })
        .expect("valid")
        .start();
    until("all", || done(&handle) == 120).await;
    let order = order.lock().expect("lock").clone();
    assert_eq!(order.values().map(Vec::len).sum::<usize>(), 120);
    assert_eq!(handle.snapshot().lanes.expect("lanes").known, 0);
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_of_a_limited_lane_what_its_cap_leaves() {
    let harness = Harness::new(2);
    for number in 0..60 {
        worded(&harness, number % 2, if number % 3 == 0 { "other" } else { "host" });
    }
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let running = Arc::new(AtomicUsize::new(0));
    let (seen, now) = (sizes.clone(), running.clone());
    let handle = harness
        .builder()
        .max_batch_size(10)
        .max_batches_in_flight(20)
        .lanes(LaneRule::limited(4, first_word))
        .batch_handler(move |batch: Batch, _: BatchContext| {
            let (sizes, running) = (seen.clone(), now.clone());
            async move {
                let hosts = batch.iter().filter(|event| word(event) == "host").count();
                let others = batch.len() - hosts;
                assert!(others <= 4);
                let now = running.fetch_add(hosts, Ordering::SeqCst) + hosts;
                assert!(now <= 4, "{now} at once");
                sizes.lock().expect("lock").push(batch.len());
                sleep(10 * MS).await;
                running.fetch_sub(hosts, Ordering::SeqCst);
                Ok::<_, Failure>(())
            }
        })
        .expect("valid")
        .start();
    until("all", || done(&handle) == 60).await;
    assert!(sizes.lock().expect("lock").iter().all(|size| *size <= 8));
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_drain_with_events_that_wait_for_lanes_ends_what_runs_and_repeats_the_rest() {
    let harness = Harness::new(1);
    (0..10).for_each(|number| keyed(&harness, 0, ["a", "b"][number % 2]));
    let options = || {
        let mut options = quick_retries();
        options.ordering = Order::PerKey;
        options
    };
    let seen = harness.seen.clone();
    let handle = harness
        .builder()
        .options(options())
        .event_handler(move |event: Event, _: EventContext| {
            seen.record(&event);
            async move {
                sleep(Duration::from_secs(1)).await;
                if event.sequence_number().0 == 0 { Err(Failure::transient("no")) } else { Ok(()) }
            }
        })
        .expect("valid")
        .start();
    until("two run", || harness.seen.len() == 2).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(harness.seen.numbers(), [0, 1], "nothing new began");
    let handle = harness.start_recording(options());
    until("all", || unsettled(&handle) == 0 && done(&handle) == 9).await;
    let mut rest = harness.seen.numbers().split_off(2);
    rest.sort_unstable();
    assert_eq!(rest, [0, 2, 3, 4, 5, 6, 7, 8, 9], "1 was settled above the watermark");
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_batches_hands_out_one_more_and_ends() {
    let harness = Harness::new(1);
    (0..10).for_each(|number| keyed(&harness, 0, ["a", "b", "c", "d"][number % 4]));
    let seen = harness.seen.clone();
    let mut options = ConsumerOptions::default();
    options.ordering = Order::PerKey;
    options.batch_timeout = Duration::from_secs(60);
    let handle = harness
        .builder()
        .options(options)
        .max_batch_size(50)
        .batch_handler(move |batch: Batch, _: BatchContext| {
            batch.iter().for_each(|event| seen.record(event));
            async { Ok::<_, Failure>(()) }
        })
        .expect("valid")
        .start();
    until("all are here", || unsettled(&handle) == 10).await;
    assert_eq!(harness.seen.len(), 0);
    assert!(drained(handle).await.is_clean());
    assert_eq!(harness.seen.numbers(), (0..10).collect::<Vec<i64>>());
    assert_eq!(harness.checkpointed_to("0").await, Some(9));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_misses_its_deadline_gives_its_lane_back() {
    let harness = Harness::new(1);
    (0..3).for_each(|number| worded(&harness, 0, &format!("host {number}")));
    for rule in [LaneRule::ordered(first_word), LaneRule::limited(1, first_word)] {
        let harness = Harness::new(1);
        (0..3).for_each(|number| worded(&harness, 0, &format!("host {number}")));
        let handle = harness
            .builder()
            .options(quick_retries())
            .lanes(rule)
            .handler_timeout(Some(Duration::from_secs(1)))
            .event_handler(async |_: Event, context: EventContext| {
                if context.attempt() == 1 {
                    std::future::pending::<()>().await;
                }
            })
            .expect("valid")
            .start();
        until("all", || done(&handle) == 3).await;
        let lanes = handle.snapshot().lanes.expect("lanes");
        assert_eq!((lanes.known, lanes.in_flight), (0, 0));
        assert!(drained(handle).await.is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn a_deferred_event_holds_an_ordered_lane_and_not_a_limited_one() {
    for (rule, begun) in [(LaneRule::per_key(), 1), (LaneRule::limited(1, keyed_lane), 3)] {
        let harness = Harness::new(1);
        (0..3).for_each(|_| keyed(&harness, 0, "k"));
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (keep, seen) = (kept.clone(), harness.seen.clone());
        let handle = harness
            .builder()
            .lanes(rule)
            .event_handler(move |event: Event, context: EventContext| {
                seen.record(&event);
                let (settler, outcome) = context.defer();
                keep.lock().expect("lock").push(settler);
                async move { outcome }
            })
            .expect("valid")
            .start();
        until("it began", || harness.seen.len() == begun).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(harness.seen.len(), begun);
        for _ in 0..3 {
            until("a settler", || !kept.lock().expect("lock").is_empty()).await;
            kept.lock().expect("lock").remove(0).settle(Outcome::Done);
        }
        until("all", || done(&handle) == 3).await;
        assert_eq!(harness.seen.numbers(), [0, 1, 2]);
        assert!(drained(handle).await.is_clean());
    }
}

fn keyed_lane(event: &Event) -> Option<Lane> {
    event.key().map(Lane::new)
}

#[tokio::test(start_paused = true)]
async fn lanes_of_a_set_are_one_for_all_its_entities() {
    let hubs = [MemoryHub::new("one", 1), MemoryHub::new("two", 1)];
    let harness = Harness::new(1);
    for hub in &hubs {
        (0..10).for_each(|_| assert!(hub.publish(0, OutgoingEvent::new("host")).is_some()));
    }
    let track = Track::default();
    let seen = track.clone();
    let member = |hub: &MemoryHub| {
        let transport = Arc::new(hub.transport("$Default"));
        BatchConsumer::builder(transport, harness.checkpoints.clone())
    };
    let set = ConsumerSet::builder()
        .consumer(member(&hubs[0]))
        .consumer(member(&hubs[1]))
        .lanes(LaneRule::limited(2, first_word))
        .event_handler(move |event: Event, _: EventContext| {
            let track = seen.clone();
            async move {
                track.begin("host", &event);
                sleep(10 * MS).await;
                track.end("host");
            }
        })
        .expect("valid");
    let mut handle = set.start();
    until("all", || handle.snapshot().counts.done == 20).await;
    assert_eq!(track.most("host"), 2);
    (0..4).for_each(|_| assert!(hubs[1].publish(0, OutgoingEvent::new("host")).is_some()));
    handle.close_lane(&Lane::new("host"), Duration::from_secs(60)).expect("lanes");
    sleep(Duration::from_secs(30)).await;
    let before = handle.snapshot().counts.done;
    assert!(before < 24, "it is closed");
    handle.set_lane_cap(4).expect("limited");
    handle.open_lane(&Lane::new("host"));
    until("all", || handle.snapshot().counts.done == 24).await;
    assert_eq!(handle.snapshot().entities[0].consumer.lanes.expect("lanes").cap, 4);
    handle.drain();
    assert!(handle.join().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_freed_wakes_the_partition_whose_turn_it_is() {
    let harness = Harness::new(8);
    (0..8).for_each(|partition| worded(&harness, partition, "host"));
    let track = Track::default();
    let seen = track.clone();
    let begun = Instant::now();
    let handle = harness
        .builder()
        .max_events_in_flight(50)
        .lanes(LaneRule::ordered(first_word))
        .event_handler(move |event: Event, _: EventContext| {
            seen.begin("host", &event);
            sleep(100 * MS)
        })
        .expect("valid")
        .start();
    until("all", || done(&handle) == 8).await;
    // One after the other, each as soon as the one before ended: partitions have nothing else to do.
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(850), "{took:?}");
    assert_eq!(track.begun(), 8);
    assert!(drained(handle).await.is_clean());
}

#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn a_crash_repeats_a_key_from_its_first_unsettled_event_on() {
    let harness = Harness::new(1);
    (0..40).for_each(|number| keyed(&harness, 0, ["a", "b", "c", "d"][number % 4]));
    let first = Arc::new(Mutex::new(BTreeMap::<String, Vec<i64>>::new()));
    let start = |limit: i64| {
        let first = first.clone();
        let mut options = quick_retries();
        options.ordering = Order::PerKey;
        options.checkpoint_min_interval = Duration::ZERO;
        harness
            .builder()
            .options(options)
            .event_handler(move |event: Event, _: EventContext| {
                let number = event.sequence_number().0;
                let mut first = first.lock().expect("lock");
                let of_key = first.entry(key(&event)).or_default();
                if !of_key.contains(&number) {
                    of_key.push(number);
                }
                async move {
                    if number >= limit {
                        std::future::pending::<()>().await;
                    }
                    sleep(Duration::from_millis(u64::try_from(number % 7).unwrap_or(0))).await;
                }
            })
            .expect("valid")
            .start()
    };
    for limit in [9, 22, 33] {
        let mut handle = start(limit);
        until("as far as it gets", || done(&handle) >= 1 && unsettled(&handle) > 0).await;
        sleep(Duration::from_secs(2)).await;
        handle.abort();
        handle.join().await;
    }
    let handle = start(1_000);
    until("all", || unsettled(&handle) == 0 && done(&handle) > 0).await;
    for (key, numbers) in first.lock().expect("lock").iter() {
        assert!(numbers.is_sorted() && numbers.len() == 10, "{key}: {numbers:?}");
    }
    assert!(drained(handle).await.is_clean());
}

/// The wall clock of a paused runtime.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + self.0.elapsed()
    }
}

/// Workers that share a hub of two partitions by leases.
struct Pair {
    harness: Harness,
    clock: Arc<Virtual>,
    leases: Arc<MemoryLeaseStore>,
}

impl Pair {
    fn new() -> Self {
        let clock = Arc::new(Virtual(Instant::now()));
        let leases = Arc::new(MemoryLeaseStore::with_clock(clock.clone()));
        Self { harness: Harness::new(2), clock, leases }
    }

    fn builder(&self, number: u64) -> BatchConsumerBuilder {
        self.harness
            .builder()
            .worker(format!("worker-{number}"))
            .seed(number)
            .clock(self.clock.clone())
            .leases(self.leases.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_handed_off_while_its_lanes_wait_and_closings_stay_behind() {
    let pair = Pair::new();
    (0..20).for_each(|number| worded(&pair.harness, number % 2, &format!("host {number}")));
    let start = |number: u64| {
        let seen = pair.harness.seen.clone();
        pair.builder(number)
            .lanes(LaneRule::ordered(first_word))
            .event_handler(move |event: Event, _: EventContext| {
                seen.record(&event);
                async {}
            })
            .expect("valid")
    };
    let first = start(1).start();
    first.close_lane(&Lane::new("host"), Duration::from_secs(3_600)).expect("lanes");
    until("all wait", || unsettled(&first) == 20).await;
    assert_eq!(pair.harness.seen.len(), 0);
    let begun = Instant::now();
    let second = start(2).start();
    until("the other one has its share", || done(&second) == 10).await;
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let numbers = pair.harness.seen.numbers();
    assert!(numbers.is_sorted() && numbers.len() == 10, "{numbers:?}");
    assert_eq!(done(&first), 0, "there the lane is closed");
    assert_eq!(first.snapshot().lanes.expect("lanes").closed, 1);
    first.open_lane(&Lane::new("host"));
    until("all", || done(&first) == 10).await;
    assert!(drained(first).await.is_clean());
    assert!(drained(second).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_hand_off_that_is_called_back_goes_on_with_what_waited() {
    let pair = Pair::new();
    for partition in 0..2 {
        keyed(&pair.harness, partition, "hangs");
        (0..30).for_each(|_| keyed(&pair.harness, partition, "slow"));
        keyed(&pair.harness, partition, "hangs");
    }
    let release = Arc::new(Semaphore::new(0));
    let start = |number: u64| {
        let (seen, gate) = (pair.harness.seen.clone(), release.clone());
        let mut options = ConsumerOptions::default();
        options.ordering = Order::PerKey;
        pair.builder(number)
            .options(options)
            .event_handler(move |event: Event, _: EventContext| {
                seen.record(&event);
                let gate = gate.clone();
                async move {
                    if key(&event) == "hangs" {
                        drop(gate.acquire().await);
                    }
                    sleep(Duration::from_secs(4)).await;
                }
            })
            .expect("valid")
    };
    let first = start(1).start();
    until("it runs", || done(&first) >= 1).await;
    let second = start(2).start();
    // One of the two is asked for, rests while it is drained, and goes on when that took too long.
    until("all but what hangs", || done(&first) == 60).await;
    assert_eq!(done(&second), 0);
    assert_eq!(pair.harness.seen.len(), 61, "the key that hangs is one lane in both partitions");
    release.add_permits(100);
    until("all", || done(&first) + done(&second) == 64).await;
    assert!(pair.harness.seen.counts().values().all(|count| *count == 1), "nothing is repeated");
    assert!(drained(first).await.is_clean());
    assert!(drained(second).await.is_clean());
}

/// Real threads: partitions step at the same time, and share every lane.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lanes_hold_where_partitions_step_at_once() {
    for (cap, rule) in [(1, LaneRule::per_key()), (3, LaneRule::limited(3, keyed_lane))] {
        let harness = Harness::new(4);
        // Few events have a rare key, and many a frequent one.
        for number in 0..12_000_usize {
            let key = (number * number) % (1 + number % 61);
            keyed(&harness, number % 4, &format!("key {key}"));
        }
        let track = Track::default();
        let seen = track.clone();
        let mut options = ConsumerOptions::default();
        options.retry_backoff = Backoff::doubling(MS, 2 * MS);
        options.max_attempts = 50;
        let handle = harness
            .builder()
            .options(options)
            .max_events_in_flight(40)
            .lanes(rule)
            .event_handler(move |event: Event, context: EventContext| {
                let track = seen.clone();
                async move {
                    let number = event.sequence_number().0;
                    track.begin(&key(&event), &event);
                    for _ in 0..number % 4 {
                        tokio::task::yield_now().await;
                    }
                    track.end(&key(&event));
                    if context.attempt() == 1 {
                        let of_partition = format!("{} of {}", key(&event), event.partition().id);
                        track.begin(&of_partition, &event);
                    }
                    let fails = number % 23 == 0 && context.attempt() < 3;
                    if fails { Err(Failure::transient("not yet")) } else { Ok(()) }
                }
            })
            .expect("valid")
            .start();
        until("all", || done(&handle) == 12_000).await;
        for lane in 0..61 {
            let lane = format!("key {lane}");
            assert!(track.most(&lane) <= cap, "{} of {lane} at once", track.most(&lane));
            for partition in 0..4 {
                let order = track.of(&format!("{lane} of {partition}"));
                assert!(cap > 1 || order.is_sorted(), "{lane} of {partition}: {order:?}");
            }
        }
        let lanes = handle.snapshot().lanes.expect("lanes");
        assert_eq!((lanes.known, lanes.in_flight, lanes.waiting_events), (0, 0, 0));
        assert!(drained(handle).await.is_clean());
    }
}
