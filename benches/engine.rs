//! What the engine costs, beside the loop a user would write by hand over the same source.
//!
//! Every scenario runs both ways, interleaved, over the in-memory hub with four partitions:
//! `engine` is a `BatchConsumer` with checkpoints, `bare` is a task per partition that polls
//! its link, takes a permit of one shared semaphore, and spawns the handler.
//!
//! Metrics are on: a Prometheus recorder is installed, and scraped every second.
//!
//! With variables such as `LONGSHORE_BENCH_EVENTS_IN_FLIGHT` it runs a scenario of your own instead, see
//! docs/benches.md.
//!
//! Criterion times a pass over all events. Beside it, CPU time is taken around each pass and
//! written to `target/bench/engine.json`, which `scripts/bench-check` reads.

use std::fs;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::event::PartitionId;
use longshore::transport::memory::MemoryHub;
use longshore::transport::{LinkStart, OpenLink, Transport};
use longshore::{
    Batch, BatchConsumer, BatchContext, ConsumerOptions, Event, EventContext, Failure,
    OutgoingEvent,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::sync::{Notify, Semaphore};

mod measure;
mod own;

use measure::{allocations, cpu_now};
use own::{Own, own};

const PARTITIONS: usize = 4;
const BATCH: usize = 256;

/// What a handler does.
#[derive(Clone, Copy)]
enum Work {
    Nothing,
    Sleep(Duration),
    Burn(Duration),
}

impl Work {
    async fn run(self) {
        match self {
            Work::Nothing => {}
            Work::Sleep(time) => tokio::time::sleep(time).await,
            Work::Burn(time) => {
                let start = Instant::now();
                while start.elapsed() < time {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

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

fn filled(events: usize) -> MemoryHub {
    let hub = MemoryHub::new("bench", PARTITIONS);
    for number in 0..events {
        hub.publish(number % PARTITIONS, OutgoingEvent::new(&b"0123456789abcdef"[..]));
    }
    hub
}

fn options(in_flight: usize) -> ConsumerOptions {
    let mut options = ConsumerOptions::default();
    options.max_events_in_flight = in_flight;
    options.window_events = 32_768;
    options
}

async fn engine_events(hub: MemoryHub, events: usize, in_flight: usize, work: Work) {
    let done = Done::new(events);
    let count = Arc::clone(&done);
    let store = Arc::new(MemoryCheckpointStore::new());
    let mut consumer = BatchConsumer::builder(Arc::new(hub.transport("$Default")), store)
        .options(options(in_flight))
        .event_handler(move |_: Event, _: EventContext| {
            let count = Arc::clone(&count);
            async move {
                work.run().await;
                count.count(1);
            }
        })
        .expect("valid")
        .start();
    done.last.notified().await;
    consumer.drain();
    consumer.join().await;
}

async fn bare_events(hub: MemoryHub, events: usize, in_flight: usize, work: Work) {
    let done = Done::new(events);
    let slots = Arc::new(Semaphore::new(in_flight));
    let mut readers = Vec::new();
    for partition in 0..PARTITIONS {
        let (slots, done) = (Arc::clone(&slots), Arc::clone(&done));
        let transport = hub.transport("$Default");
        readers.push(tokio::spawn(async move {
            let id = PartitionId::from(partition.to_string());
            let mut link =
                transport.open(OpenLink::new(id, LinkStart::FirstEvent, 300)).await.expect("open");
            let mut received = Vec::new();
            loop {
                poll_fn(|cx| link.poll_receive(cx, 256, &mut received)).await.expect("receive");
                for event in received.drain(..) {
                    let permit = Arc::clone(&slots).acquire_owned().await.expect("open");
                    let done = Arc::clone(&done);
                    tokio::spawn(async move {
                        work.run().await;
                        drop(event);
                        drop(permit);
                        done.count(1);
                    });
                }
            }
        }));
    }
    done.last.notified().await;
    readers.iter().for_each(|reader| reader.abort());
}

/// What a handler of batches does: it looks at every body, and no more.
fn read(batch: &[Event]) {
    let bytes: usize = batch.iter().map(|event| event.body().len()).sum();
    std::hint::black_box(bytes);
}

/// Batches of one scenario.
#[derive(Clone, Copy)]
struct Batches {
    size: usize,
    in_flight: usize,
    work: Work,
}

async fn engine_batches(hub: MemoryHub, events: usize, batches: Batches) {
    let done = Done::new(events);
    let count = Arc::clone(&done);
    let store = Arc::new(MemoryCheckpointStore::new());
    let mut options = options(1);
    options.max_batch_size = batches.size;
    options.max_batches_in_flight = batches.in_flight;
    options.batch_timeout = Duration::from_millis(5);
    let mut consumer = BatchConsumer::builder(Arc::new(hub.transport("$Default")), store)
        .options(options)
        .batch_handler(move |batch: Batch, _: BatchContext| {
            let count = Arc::clone(&count);
            async move {
                batches.work.run().await;
                read(&batch);
                count.count(batch.len());
                Ok::<(), Failure>(())
            }
        })
        .expect("valid")
        .start();
    done.last.notified().await;
    consumer.drain();
    consumer.join().await;
}

async fn bare_batches(hub: MemoryHub, events: usize, batches: Batches) {
    let done = Done::new(events);
    let slots = Arc::new(Semaphore::new(batches.in_flight));
    let mut readers = Vec::new();
    for partition in 0..PARTITIONS {
        let (slots, done) = (Arc::clone(&slots), Arc::clone(&done));
        let transport = hub.transport("$Default");
        readers.push(tokio::spawn(async move {
            let id = PartitionId::from(partition.to_string());
            let mut link =
                transport.open(OpenLink::new(id, LinkStart::FirstEvent, 300)).await.expect("open");
            loop {
                let mut batch = Vec::with_capacity(batches.size);
                poll_fn(|cx| link.poll_receive(cx, batches.size, &mut batch))
                    .await
                    .expect("receive");
                let permit = Arc::clone(&slots).acquire_owned().await.expect("open");
                let done = Arc::clone(&done);
                tokio::spawn(async move {
                    batches.work.run().await;
                    read(&batch);
                    done.count(batch.len());
                    drop(batch);
                    drop(permit);
                });
            }
        }));
    }
    done.last.notified().await;
    readers.iter().for_each(|reader| reader.abort());
}

/// One side of one scenario, over all its passes.
#[derive(Default)]
struct Figures {
    passes: u32,
    wall: Vec<f64>,
    cpu: Vec<f64>,
    allocations: u64,
}

impl Figures {
    fn json(&self, name: &str, events: usize) -> String {
        let median = |values: &[f64]| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted.get(sorted.len() / 2).copied().unwrap_or_default()
        };
        format!(
            r#"{{"name":"{name}","events":{events},"passes":{},"wall_seconds":{:.6},"cpu_seconds":{:.6},"allocations_per_event":{:.2}}}"#,
            self.passes,
            median(&self.wall),
            median(&self.cpu),
            self.allocations as f64 / f64::from(self.passes.max(1)) / events as f64
        )
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
}

fn pass<F: Future<Output = ()>>(
    figures: &mut Figures,
    events: usize,
    run: impl FnOnce(MemoryHub) -> F,
) -> Duration {
    let runtime = runtime();
    let hub = filled(events);
    let (cpu, allocated, wall) = (cpu_now(), allocations(), Instant::now());
    // The hub outlives the pass, so that freeing its events is no part of it.
    runtime.block_on(run(hub.clone()));
    let elapsed = wall.elapsed();
    figures.passes += 1;
    figures.wall.push(elapsed.as_secs_f64());
    figures.cpu.push((cpu_now() - cpu).as_secs_f64());
    figures.allocations += allocations() - allocated;
    elapsed
}

/// Runs both sides of a scenario and adds their figures.
fn compare<F, G>(
    criterion: &mut Criterion,
    lines: &mut Vec<String>,
    scenario: &str,
    events: usize,
    engine: impl Fn(MemoryHub) -> F,
    bare: impl Fn(MemoryHub) -> G,
) where
    F: Future<Output = ()>,
    G: Future<Output = ()>,
{
    let mut group = criterion.benchmark_group(scenario);
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(4));
    group.throughput(Throughput::Elements(events as u64));
    // Interleaved: each sample of the engine is followed by one of the bare loop, so that the
    // machine's moods hit both alike; the second benchmark reports what the first measured.
    let (mut engine_figures, mut bare_figures) = (Figures::default(), Figures::default());
    let mut bare_times = Vec::new();
    group.bench_function("engine", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                total += pass(&mut engine_figures, events, &engine);
                bare_times.push(pass(&mut bare_figures, events, &bare));
            }
            total
        });
    });
    let mut replay = bare_times.iter().copied().cycle();
    group.bench_function("bare", |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations).map(|_| replay.next().unwrap_or(Duration::from_nanos(1))).sum()
        });
    });
    group.finish();
    if engine_figures.passes > 0 {
        lines.push(engine_figures.json(&format!("{scenario}/engine"), events));
        lines.push(bare_figures.json(&format!("{scenario}/bare"), events));
    }
}

/// Installs a recorder and scrapes it every second, as a server would.
fn record_metrics() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).expect("the first recorder");
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            std::hint::black_box(handle.render());
        }
    });
}

/// The scenarios of README.md and docs/proof.md.
fn compare_all(criterion: &mut Criterion, lines: &mut Vec<String>) {
    let millis = Duration::from_millis;
    let scenarios = [
        ("events-0ms-1000", 400_000, 1_000, Work::Nothing),
        ("events-0ms-10000", 400_000, 10_000, Work::Nothing),
        ("events-1ms-1000", 200_000, 1_000, Work::Sleep(millis(1))),
        ("events-1ms-10000", 400_000, 10_000, Work::Sleep(millis(1))),
        ("events-10ms-1000", 50_000, 1_000, Work::Sleep(millis(10))),
        ("events-10ms-10000", 400_000, 10_000, Work::Sleep(millis(10))),
        ("events-100ms-1000", 5_000, 1_000, Work::Sleep(millis(100))),
        ("events-100ms-10000", 50_000, 10_000, Work::Sleep(millis(100))),
        ("events-200us-of-cpu", 5_000, 100, Work::Burn(Duration::from_micros(200))),
    ];
    for (name, events, in_flight, work) in scenarios {
        compare_events(criterion, lines, name, events, in_flight, work);
    }
    // Whole batches in each partition: the last one need not wait for its timeout.
    let events = PARTITIONS * BATCH * 1_000;
    let batches = Batches { size: BATCH, in_flight: 8, work: Work::Nothing };
    compare_batches(criterion, lines, "batches-of-256", events, batches);
}

/// The scenario of the variables.
fn compare_own(criterion: &mut Criterion, lines: &mut Vec<String>, own: Own) {
    let work = match own.handler.is_zero() {
        true => Work::Nothing,
        false => Work::Sleep(own.handler),
    };
    if let Some(in_flight) = own.events_in_flight {
        let events = own.events(in_flight, 1);
        let name = format!("own-events-{in_flight}");
        compare_events(criterion, lines, &name, events, in_flight, work);
    }
    if let Some(size) = own.batch_size {
        let events = own.events(size * own.batches_in_flight, size);
        let name = format!("own-batches-of-{size}");
        let batches = Batches { size, in_flight: own.batches_in_flight, work };
        compare_batches(criterion, lines, &name, events, batches);
    }
}

fn compare_events(
    criterion: &mut Criterion,
    lines: &mut Vec<String>,
    name: &str,
    events: usize,
    in_flight: usize,
    work: Work,
) {
    compare(
        criterion,
        lines,
        name,
        events,
        |hub| engine_events(hub, events, in_flight, work),
        |hub| bare_events(hub, events, in_flight, work),
    );
}

fn compare_batches(
    criterion: &mut Criterion,
    lines: &mut Vec<String>,
    name: &str,
    events: usize,
    batches: Batches,
) {
    compare(
        criterion,
        lines,
        name,
        events,
        |hub| engine_batches(hub, events, batches),
        |hub| bare_batches(hub, events, batches),
    );
}

fn main() {
    record_metrics();
    let mut criterion = Criterion::default().configure_from_args();
    let mut lines = Vec::new();
    // The figures of the documentation are of the scenarios that everybody has.
    let file = match own() {
        Some(own) => {
            compare_own(&mut criterion, &mut lines, own);
            "target/bench/engine-own.json"
        }
        None => {
            compare_all(&mut criterion, &mut lines);
            "target/bench/engine.json"
        }
    };
    if !lines.is_empty() {
        fs::create_dir_all("target/bench").expect("writable");
        fs::write(file, format!("[{}]\n", lines.join(",\n"))).expect("writable");
    }
    criterion.final_summary();
}
