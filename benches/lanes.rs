//! What lanes cost, and what order per key leaves of an ideal schedule.
//!
//! - **Cost**: the engine with a lane for each of 1,000 keys beside the engine without lanes, over
//!   the same events, interleaved. CPU time is taken around each pass; the median of all pairs counts.
//! - **Schedule**: events of Zipf keys that must stay in order, whose handlers sleep. Each handler says
//!   how long it took; the ideal schedule of those times (`tests/support/schedule.rs`), with the same
//!   slots and the same window, is what the engine is compared with.
//!
//! Results go to `target/bench/lanes.json`, which `scripts/bench-check` reads.

use std::fs;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::transport::memory::MemoryHub;
use longshore::{
    Batch, BatchConsumer, BatchContext, ConsumerOptions, Event, EventContext, Failure, LaneRule,
    OutgoingEvent,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::sleep;

mod measure;
#[path = "../tests/support/schedule.rs"]
mod schedule;

use measure::{allocations, cpu_now, is_trial};
use schedule::{Job, Zipf, ideal};

const PARTITIONS: usize = 4;
const KEYS: usize = 1_000;

/// Counts handled events and wakes who waits for the last one.
struct Done {
    left: AtomicUsize,
    last: Notify,
}

impl Done {
    fn new(events: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(events), last: Notify::new() })
    }

    fn count(&self, events: usize) {
        if self.left.fetch_sub(events, Ordering::AcqRel) == events {
            self.last.notify_one();
        }
    }
}

/// How the cost of lanes is looked at.
#[derive(Clone, Copy)]
enum Handlers {
    /// Of events, which sleep for so long.
    Events(Duration),
    /// Of batches, which look at nothing.
    Batches,
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("runtime")
}

/// All keys have the same number of events, mixed in the log, and each is in one partition.
fn keyed(events: usize) -> MemoryHub {
    let hub = MemoryHub::new("bench", PARTITIONS);
    let mut random = SmallRng::seed_from_u64(3);
    for _ in 0..events {
        let key = random.random_range(0..KEYS);
        let event =
            OutgoingEvent::new(&b"0123456789abcdef"[..]).with_key(format!("customer-{key}"));
        hub.publish(key % PARTITIONS, event);
    }
    hub
}

async fn handle_all(hub: MemoryHub, events: usize, handlers: Handlers, lanes: bool) {
    let done = Done::new(events);
    let count = Arc::clone(&done);
    let store = Arc::new(MemoryCheckpointStore::new());
    let mut options = ConsumerOptions::default();
    options.max_events_in_flight = 1_000;
    options.window_events = 32_768;
    options.max_batch_size = 256;
    options.max_batches_in_flight = 8;
    options.batch_timeout = Duration::from_millis(5);
    let mut builder =
        BatchConsumer::builder(Arc::new(hub.transport("$Default")), store).options(options);
    if lanes {
        builder = builder.lanes(LaneRule::per_key());
    }
    let consumer = match handlers {
        Handlers::Events(time) => builder.event_handler(move |_: Event, _: EventContext| {
            let count = Arc::clone(&count);
            async move {
                if !time.is_zero() {
                    sleep(time).await;
                }
                count.count(1);
            }
        }),
        Handlers::Batches => builder.batch_handler(move |batch: Batch, _: BatchContext| {
            let count = Arc::clone(&count);
            async move {
                count.count(batch.len());
                Ok::<(), Failure>(())
            }
        }),
    };
    let mut consumer = consumer.expect("valid").start();
    done.last.notified().await;
    consumer.drain();
    consumer.join().await;
}

/// CPU seconds, wall seconds and allocations of one pass.
fn pass(events: usize, handlers: Handlers, lanes: bool) -> [f64; 3] {
    let runtime = runtime();
    let hub = keyed(events);
    let (cpu, allocated, wall) = (cpu_now(), allocations(), Instant::now());
    // The hub outlives the pass, so that freeing its events is no part of it.
    runtime.block_on(handle_all(hub.clone(), events, handlers, lanes));
    let wall = wall.elapsed().as_secs_f64();
    [(cpu_now() - cpu).as_secs_f64(), wall, (allocations() - allocated) as f64]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn cost(name: &str, events: usize, handlers: Handlers) -> String {
    let (pairs, events) = if is_trial() { (1, 2_000) } else { (9, events) };
    let _warm = pass(events / 10, handlers, true);
    let both: Vec<[[f64; 3]; 2]> =
        (0..pairs).map(|_| [pass(events, handlers, false), pass(events, handlers, true)]).collect();
    let each = |side: usize, what: usize| {
        median(both.iter().map(|pair| pair[side][what]).collect()) / events as f64
    };
    let more = both.iter().map(|[without, with]| (with[0] - without[0]) / events as f64 * 1e6);
    let more = median(more.collect());
    let line = format!(
        r#"{{"kind":"cost","name":"{name}","events":{events},"cpu_us_more":{more:.3},"cpu_us":{:.3},"cpu_us_without":{:.3},"rate":{:.0},"rate_without":{:.0},"allocations":{:.2},"allocations_without":{:.2}}}"#,
        each(1, 0) * 1e6,
        each(0, 0) * 1e6,
        1.0 / each(1, 1),
        1.0 / each(0, 1),
        each(1, 2),
        each(0, 2),
    );
    println!("{line}");
    line
}

/// Events of keys whose order is kept, and what they are handled with.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    exponent: f64,
    slots: usize,
    window: usize,
    events: usize,
}

/// What a handler took, by the event's number.
type Took = Arc<Mutex<Vec<Duration>>>;

async fn in_order(load: Load, keys: &[usize], took: &Took) -> Duration {
    let mut random = SmallRng::seed_from_u64(5);
    let hub = MemoryHub::new("bench", PARTITIONS);
    for (number, key) in keys.iter().enumerate() {
        let takes_ms = random.random_range(5..=15);
        let event = OutgoingEvent::new(format!("{number} {takes_ms}")).with_key(key.to_string());
        hub.publish(key % PARTITIONS, event);
    }
    let mut options = ConsumerOptions::default();
    options.max_events_in_flight = load.slots;
    options.window_events = load.window;
    let done = Done::new(keys.len());
    let (count, said) = (Arc::clone(&done), Arc::clone(took));
    let store = Arc::new(MemoryCheckpointStore::new());
    let begun = Instant::now();
    let mut consumer = BatchConsumer::builder(Arc::new(hub.transport("$Default")), store)
        .options(options)
        .lanes(LaneRule::per_key())
        .event_handler(move |event: Event, _: EventContext| {
            let (count, said) = (Arc::clone(&count), Arc::clone(&said));
            async move {
                let begun = Instant::now();
                let body = String::from_utf8_lossy(event.body()).into_owned();
                let (number, takes_ms) = body.split_once(' ').expect("two numbers");
                sleep(Duration::from_millis(takes_ms.parse().expect("a number"))).await;
                let number: usize = number.parse().expect("a number");
                said.lock().expect("lock")[number] = begun.elapsed();
                count.count(1);
            }
        })
        .expect("valid")
        .start();
    done.last.notified().await;
    let wall = begun.elapsed();
    consumer.drain();
    consumer.join().await;
    wall
}

fn schedule(load: Load) -> String {
    let passes = if is_trial() { 1 } else { 3 };
    let events = if is_trial() { 200 } else { load.events };
    let zipf = Zipf::new(KEYS, load.exponent);
    let mut ratios = Vec::new();
    let (mut walls, mut ideals) = (Vec::new(), Vec::new());
    for number in 0..passes {
        let mut random = SmallRng::seed_from_u64(number);
        let keys: Vec<usize> = (0..events).map(|_| zipf.draw(&mut random)).collect();
        let took: Took = Arc::new(Mutex::new(vec![Duration::ZERO; events]));
        let wall = runtime().block_on(in_order(load, &keys, &took)).as_secs_f64();
        let took = took.lock().expect("lock");
        let jobs: Vec<Job> = keys
            .iter()
            .zip(&*took)
            .map(|(key, takes)| Job { partition: key % PARTITIONS, key: Some(*key), takes: *takes })
            .collect();
        let ideal = ideal(&jobs, load.slots, load.window).as_secs_f64();
        ratios.push(ideal / wall);
        walls.push(wall);
        ideals.push(ideal);
    }
    let line = format!(
        r#"{{"kind":"schedule","name":"{}","events":{events},"exponent":{},"slots":{},"window":{},"wall_seconds":{:.3},"ideal_seconds":{:.3},"ratio":{:.4}}}"#,
        load.name,
        load.exponent,
        load.slots,
        load.window,
        median(walls),
        median(ideals),
        median(ratios),
    );
    println!("{line}");
    line
}

fn main() {
    let millis = Duration::from_millis;
    let mut lines = vec![
        cost("events, handlers that do nothing", 400_000, Handlers::Events(Duration::ZERO)),
        cost("events, handlers of 1 ms", 200_000, Handlers::Events(millis(1))),
        cost("batches of 256", 400_000, Handlers::Batches),
    ];
    let loads = [
        Load { name: "slots are scarce", exponent: 0.8, slots: 10, window: 4_096, events: 5_000 },
        Load { name: "the first key is", exponent: 1.0, slots: 50, window: 4_096, events: 4_000 },
        Load { name: "the window is", exponent: 0.8, slots: 50, window: 64, events: 8_000 },
    ];
    lines.extend(loads.map(schedule));
    fs::create_dir_all("target/bench").expect("writable");
    fs::write("target/bench/lanes.json", format!("[{}]\n", lines.join(",\n"))).expect("writable");
}
