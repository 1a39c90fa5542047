//! Events of a key stay in order, through attempts in place, parking and a change of owner. In paused
//! time.
//!
//! `LONGSHORE_EVENTS` and `LONGSHORE_SEED` choose another run.

#[path = "support/schedule.rs"]
mod schedule;
mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use longshore::clock::Clock;
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore as _};
use longshore::lanes::LaneRule;
use longshore::state::backoff::Backoff;
use longshore::{
    Batch, BatchContext, ConsumerHandle, Event, EventContext, Failure, Outcome, OutgoingEvent,
};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use schedule::Zipf;
use support::{Harness, drained};

const PARTITIONS: usize = 4;
/// Of each partition.
const KEYS: usize = 2_000;
/// How many events come in a round.
const ROUND_EVENTS: usize = 200;
const ROUND: Duration = Duration::from_millis(100);
/// Attempts in place; an event fails at most one more than that and the parkings.
const MAX_ATTEMPTS: u32 = 2;
const PARK_DELAYS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];
/// Where the last ones are parked behind each other, it takes a while until all came back.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Follows the clock of the runtime, which is paused.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.0.elapsed()
    }
}

/// What a seed says of an event.
fn chance(seed: u64, partition: usize, number: i64) -> u64 {
    // Not the seed itself: those of small numbers would only change places.
    let seed = SmallRng::seed_from_u64(seed).random::<u64>();
    SmallRng::seed_from_u64(seed ^ ((partition as u64) << 48) ^ number.unsigned_abs()).random()
}

/// How often an event fails: one in a hundred does, once to three times. The first failure is followed by
/// another attempt in place, the others by parking.
fn failures(chance: u64) -> u32 {
    if chance.is_multiple_of(100) { 1 + ((chance >> 32) % 3) as u32 } else { 0 }
}

/// How a key stands.
#[derive(Default)]
struct Key {
    /// The last event of it that is done.
    done: Option<i64>,
    /// The one that is at its turn: it has begun, and is not done.
    open: Option<i64>,
    is_running: bool,
}

/// What handlers did.
#[derive(Default)]
struct Seen {
    keys: HashMap<String, Key>,
    done: usize,
    failed: usize,
    /// Attempts at events that were parked.
    returned: usize,
    fault: Option<String>,
}

impl Seen {
    fn on_begun(&mut self, key: &str, number: i64, attempt: u32) {
        let state = self.keys.entry(key.to_owned()).or_default();
        self.returned += usize::from(attempt > MAX_ATTEMPTS);
        let is_fault = state.is_running
            || state.done.is_some_and(|done| done >= number)
            || state.open.is_some_and(|open| open != number);
        if is_fault {
            let Key { done, open, is_running } = state;
            let fault = format!(
                "{key}: {number} begins (attempt {attempt}) behind {done:?}, within {open:?}, \
                 which runs: {is_running}"
            );
            self.fault.get_or_insert(fault);
        }
        (state.open, state.is_running) = (Some(number), true);
    }

    fn on_ended(&mut self, key: &str, number: i64, is_done: bool) {
        let state = self.keys.entry(key.to_owned()).or_default();
        state.is_running = false;
        if is_done {
            (state.done, state.open) = (Some(number), None);
            self.done += 1;
        } else {
            self.failed += 1;
        }
    }
}

/// What owners of the hub share, one after the other.
struct Stage {
    harness: Harness,
    store: Arc<MemoryFailureStore>,
    clock: Arc<Virtual>,
    seen: Arc<Mutex<Seen>>,
    seed: u64,
    handler: Handler,
}

/// What events are handled by: one by one, or many of a batch at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Handler {
    OfEvents,
    OfBatches,
}

impl Stage {
    fn start(&self) -> ConsumerHandle {
        let mut options = longshore::ConsumerOptions::default();
        options.max_attempts = MAX_ATTEMPTS;
        options.park_delays = PARK_DELAYS.to_vec();
        options.retry_backoff =
            Backoff::doubling(Duration::from_millis(50), Duration::from_millis(50));
        let (seen, seed) = (self.seen.clone(), self.seed);
        let builder = self
            .harness
            .without_letters()
            .options(options)
            .max_events_in_flight(64)
            .failure_store(self.store.clone())
            .clock(self.clock.clone())
            .lanes(LaneRule::per_key());
        let handle = move |event: Event, attempt: u32| {
            let seen = seen.clone();
            async move {
                let (key, number) = (event.key().expect("a key"), event.sequence_number().0);
                let partition = event.partition().id.as_str().parse().expect("a number");
                let chance = chance(seed, partition, number);
                seen.lock().expect("lock").on_begun(key, number, attempt);
                sleep(Duration::from_millis(chance >> 8 & 7)).await;
                let is_done = attempt > failures(chance);
                seen.lock().expect("lock").on_ended(key, number, is_done);
                // What one event fails of says nothing of its destination.
                match is_done {
                    true => Outcome::Done,
                    false => Outcome::retry(Failure::transient("503").of_event()),
                }
            }
        };
        let consumer = match self.handler {
            Handler::OfEvents => builder.event_handler(move |event, context: EventContext| {
                handle(event, context.attempt())
            }),
            Handler::OfBatches => {
                builder.batch_handler(move |batch: Batch, context: BatchContext| {
                    let number = |event: &Event| event.sequence_number().0;
                    let attempt = |index| context.attempt(index).expect("of the batch");
                    let attempts =
                        batch.iter().enumerate().map(|(index, it)| (number(it), attempt(index)));
                    let attempts: HashMap<i64, u32> = attempts.collect();
                    let handle = handle.clone();
                    batch.for_each_concurrent(16, move |event| {
                        let attempt = attempts[&number(&event)];
                        handle(event, attempt)
                    })
                })
            }
        };
        consumer.expect("valid").start()
    }

    /// Panics at the first event that is out of order.
    fn done(&self) -> usize {
        let seen = self.seen.lock().expect("lock");
        assert_eq!(seen.fault, None, "seed {}", self.seed);
        seen.done
    }

    async fn left(&self, kind: FailureKind) -> usize {
        let page = self.store.list(&FailurePrefix::all(kind), None, 1).await.expect("lists");
        page.entries.len()
    }
}

#[tokio::test(start_paused = true)]
async fn no_key_is_ever_out_of_order_whatever_fails_is_parked_and_changes_hands() {
    through_failures(Handler::OfEvents).await;
}

#[tokio::test(start_paused = true)]
async fn no_key_is_out_of_order_where_many_events_of_a_batch_are_handled_at_once() {
    through_failures(Handler::OfBatches).await;
}

async fn through_failures(handler: Handler) {
    let total = chosen("LONGSHORE_EVENTS", 30_000);
    let seed = chosen("LONGSHORE_SEED", 7) as u64;
    let here = std::time::Instant::now();
    let stage = Stage {
        harness: Harness::new(PARTITIONS),
        store: Arc::default(),
        clock: Arc::new(Virtual(Instant::now())),
        seen: Arc::default(),
        seed,
        handler,
    };
    let (zipf, mut random) = (Zipf::new(KEYS, 0.8), SmallRng::seed_from_u64(seed));
    let mut handle = stage.start();
    let (mut parked, mut owners) = (0, 1);
    for published in 0..total {
        let partition = published % PARTITIONS;
        let key = format!("{partition}-{}", zipf.draw(&mut random));
        stage.harness.hub.publish(partition, OutgoingEvent::new("").with_key(key));
        if published % ROUND_EVENTS == 0 {
            sleep(ROUND).await;
            stage.done();
        }
        // The next owner finds what is parked, and what is not settled.
        if published == total / 3 * owners {
            let exit = drained(handle).await;
            assert!(exit.is_clean(), "{exit:?}");
            (parked, owners) = (parked + exit.counts.parked, owners + 1);
            handle = stage.start();
        }
    }
    let begun = Instant::now();
    while stage.done() < total {
        assert!(begun.elapsed() < PATIENCE, "{} of {total} are done", stage.done());
        sleep(Duration::from_secs(1)).await;
    }
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    parked += exit.counts.parked;
    assert_eq!(stage.done(), total);
    assert_eq!(stage.left(FailureKind::Parked).await, 0);
    assert_eq!(stage.left(FailureKind::Dead).await, 0);
    let seen = stage.seen.lock().expect("lock");
    println!(
        "seed {seed}, {handler:?}: {total} events of {} keys, {owners} owners one after the other, {} attempts failed, \
         {parked} events were parked or parked behind, {} attempts after parking; every key in order; \
         {:.0?} for {:.0?} of virtual time",
        seen.keys.len(),
        seen.failed,
        seen.returned,
        here.elapsed(),
        stage.clock.0.elapsed()
    );
    assert!(seen.failed > total / 200 && parked > total as u64 / 200 && seen.returned > 0);
}

/// A number from the environment.
fn chosen(name: &str, otherwise: usize) -> usize {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}
