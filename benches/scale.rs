//! Whether an event costs the same with one partition and with 1,024, and after ten million.
//!
//! Handlers do nothing, 10,000 at once, over the in-memory hub; of partitions, the first
//! tenth of the events is left out, for it pays for taking the partitions over. A bare loop of
//! spawn and semaphore runs beside each number of partitions: what more live tasks cost it is
//! not ours. Figures go to `target/bench/scale.json`, which `scripts/bench-check` reads.

use std::collections::BTreeMap;
use std::fs;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::event::PartitionId;
use longshore::transport::memory::MemoryHub;
use longshore::transport::{LinkStart, OpenLink, Transport};
use longshore::{
    BatchConsumer, ConsumerHandle, ConsumerOptions, Event, EventContext, OutgoingEvent,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

mod measure;

use measure::{cpu_now, is_trial, live_bytes, peak_bytes, restart_peak};

/// Numbers of partitions, and how often each is run: what disturbs a run only adds to its
/// cost, so the least counts.
const COUNTS: [usize; 5] = [1, 4, 32, 256, 1_024];
const RUNS: usize = 5;
const SLOTS: usize = 10_000;

fn publish(hub: &MemoryHub, partitions: usize, events: usize) {
    for number in 0..events {
        hub.publish(number % partitions, OutgoingEvent::new(&b"0123456789abcdef"[..]));
    }
}

fn start(hub: &MemoryHub) -> (ConsumerHandle, Arc<AtomicU64>) {
    let handled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&handled);
    let mut options = ConsumerOptions::default();
    options.max_events_in_flight = SLOTS;
    let store = Arc::new(MemoryCheckpointStore::new());
    let handle = BatchConsumer::builder(Arc::new(hub.transport("$Default")), store)
        .options(options)
        .event_handler(move |_: Event, _: EventContext| {
            count.fetch_add(1, Ordering::Relaxed);
            async {}
        })
        .expect("valid")
        .start();
    (handle, handled)
}

async fn until(handled: &AtomicU64, events: u64) {
    while handled.load(Ordering::Relaxed) < events {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn stop(mut handle: ConsumerHandle) {
    handle.drain();
    handle.join().await;
}

/// What a run with so many partitions cost.
struct Run {
    /// Microseconds of CPU an event.
    cpu: f64,
    /// The most memory the consumer had at once, in bytes.
    peak_bytes: i64,
    /// The most events that were received and not settled, of looks every 20 ms.
    in_flight: usize,
}

async fn partitions(partitions: usize, events: usize) -> Run {
    let hub = MemoryHub::new("scale", partitions);
    publish(&hub, partitions, events);
    restart_peak();
    let before = live_bytes();
    let (handle, handled) = start(&hub);
    let mut in_flight = 0;
    let looking = async {
        loop {
            let snapshot = handle.snapshot();
            in_flight =
                in_flight.max(snapshot.partitions.iter().map(|one| one.unsettled_events).sum());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let cpu = tokio::select! {
        cpu = measured(&handled, events) => cpu,
        () = looking => 0.0,
    };
    let peak_bytes = peak_bytes() - before;
    stop(handle).await;
    Run { cpu, peak_bytes, in_flight }
}

/// The same by hand: a loop per partition that spawns a task for each event under a semaphore.
/// Microseconds of CPU an event.
async fn bare(partitions: usize, events: usize) -> f64 {
    let hub = MemoryHub::new("scale", partitions);
    publish(&hub, partitions, events);
    let handled = Arc::new(AtomicU64::new(0));
    let slots = Arc::new(Semaphore::new(SLOTS));
    let mut readers = JoinSet::new();
    for partition in 0..partitions {
        let (handled, slots) = (Arc::clone(&handled), Arc::clone(&slots));
        let transport = hub.transport("$Default");
        readers.spawn(async move {
            let id = PartitionId::from(partition.to_string());
            let mut link =
                transport.open(OpenLink::new(id, LinkStart::FirstEvent, 300)).await.expect("open");
            let mut received = Vec::new();
            loop {
                poll_fn(|cx| link.poll_receive(cx, 256, &mut received)).await.expect("receive");
                for event in received.drain(..) {
                    let permit = Arc::clone(&slots).acquire_owned().await.expect("open");
                    let handled = Arc::clone(&handled);
                    tokio::spawn(async move {
                        drop(event);
                        drop(permit);
                        handled.fetch_add(1, Ordering::Relaxed);
                    });
                }
            }
        });
    }
    let cpu = measured(&handled, events).await;
    readers.shutdown().await;
    cpu
}

/// Waits for the events; microseconds of CPU an event, the first tenth left out.
async fn measured(handled: &AtomicU64, events: usize) -> f64 {
    until(handled, events as u64 / 10).await;
    let (cpu, from) = (cpu_now(), handled.load(Ordering::Relaxed));
    until(handled, events as u64).await;
    (cpu_now() - cpu).as_secs_f64() * 1e6 / (events as u64 - from) as f64
}

/// Of each of `rounds` rounds: microseconds of CPU an event (publishing left out), and the
/// bytes live after it.
async fn long_run(rounds: usize, round_events: usize) -> Vec<(f64, i64)> {
    const PARTITIONS: usize = 4;
    let hub = MemoryHub::new("scale", PARTITIONS);
    let (handle, handled) = start(&hub);
    let mut figures = Vec::new();
    let mut published = 0;
    for _ in 0..rounds {
        handle.pause();
        publish(&hub, PARTITIONS, round_events);
        published += round_events as u64;
        let cpu = cpu_now();
        handle.resume();
        until(&handled, published).await;
        let cpu = (cpu_now() - cpu).as_secs_f64() * 1e6 / round_events as f64;
        for partition in 0..PARTITIONS {
            hub.trim(partition, round_events / PARTITIONS);
        }
        // What settled last is checkpointed, and let go of, within a batch's timeout.
        tokio::time::sleep(Duration::from_secs(2)).await;
        figures.push((cpu, live_bytes()));
    }
    stop(handle).await;
    figures
}

fn least(values: impl Iterator<Item = f64>) -> f64 {
    values.min_by(f64::total_cmp).unwrap_or_default()
}

fn main() {
    let (events, rounds, round_events) =
        if is_trial() { (20_000, 2, 20_000) } else { (4_000_000, 20, 500_000) };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let mut lines = Vec::new();
    // First, in a heap that nobody has torn holes into yet.
    let figures = runtime.block_on(long_run(rounds, round_events));
    for (round, (cpu, live)) in figures.iter().enumerate() {
        let round = round + 1;
        println!("round {round:>2}: {cpu:.2} us of CPU an event, {} KiB live", live / 1024);
        lines.push(format!(
            r#"{{"name":"long-run","round":{round},"events":{round_events},"cpu_us":{cpu:.3},"live_bytes":{live}}}"#
        ));
    }
    // Interleaved, so that the machine's moods hit all counts alike.
    let mut runs: BTreeMap<usize, Vec<(f64, Run)>> = BTreeMap::new();
    for _ in 0..RUNS {
        for count in COUNTS {
            let bare_cpu = runtime.block_on(bare(count, events));
            let run = runtime.block_on(partitions(count, events));
            runs.entry(count).or_default().push((bare_cpu, run));
        }
    }
    for (count, runs) in runs {
        let cpu = least(runs.iter().map(|(_, run)| run.cpu));
        let bare_cpu = least(runs.iter().map(|(bare_cpu, _)| *bare_cpu));
        let memory = runs.iter().map(|(_, run)| run.peak_bytes).max().unwrap_or_default();
        let in_flight = runs.iter().map(|(_, run)| run.in_flight).max().unwrap_or_default();
        println!(
            "{count:>5} partitions: {cpu:.2} us of CPU an event, by hand {bare_cpu:.2}; {} KiB at most, \
             {in_flight} events received and not settled",
            memory / 1024
        );
        lines.push(format!(
            r#"{{"name":"partitions","partitions":{count},"events":{events},"cpu_us":{cpu:.3},"bare_cpu_us":{bare_cpu:.3},"peak_bytes":{memory},"in_flight":{in_flight}}}"#
        ));
    }
    fs::create_dir_all("target/bench").expect("writable");
    fs::write("target/bench/scale.json", format!("[{}]\n", lines.join(",\n"))).expect("writable");
}
