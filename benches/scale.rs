//! Whether an event costs the same with one partition and with 1,024, and after ten million.
//!
//! Handlers do nothing, 10,000 at once, over the in-memory hub; of partitions, the first
//! tenth of the events is left out, for it pays for taking the partitions over. Figures go
//! to `target/bench/scale.json`, which `scripts/bench-check` reads.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::transport::memory::MemoryHub;
use longshore::{
    BatchConsumer, ConsumerHandle, ConsumerOptions, Event, EventContext, OutgoingEvent,
};

mod measure;

use measure::{cpu_now, is_trial, live_bytes, peak_bytes, restart_peak};

fn publish(hub: &MemoryHub, partitions: usize, events: usize) {
    for number in 0..events {
        hub.publish(number % partitions, OutgoingEvent::new(&b"0123456789abcdef"[..]));
    }
}

fn start(hub: &MemoryHub) -> (ConsumerHandle, Arc<AtomicU64>) {
    let handled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&handled);
    let mut options = ConsumerOptions::default();
    options.max_events_in_flight = 10_000;
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

/// Microseconds of CPU an event, and the most memory the consumer had at once, in bytes.
async fn partitions(partitions: usize, events: usize) -> (f64, i64) {
    let hub = MemoryHub::new("scale", partitions);
    publish(&hub, partitions, events);
    restart_peak();
    let before = live_bytes();
    let (handle, handled) = start(&hub);
    until(&handled, events as u64 / 10).await;
    let (cpu, from) = (cpu_now(), handled.load(Ordering::Relaxed));
    until(&handled, events as u64).await;
    let (cpu, events) = (cpu_now() - cpu, events as u64 - from);
    let memory = peak_bytes() - before;
    stop(handle).await;
    (cpu.as_secs_f64() * 1e6 / events as f64, memory)
}

/// Of each of `rounds` rounds: microseconds of CPU an event (publishing included), and the
/// bytes live after it.
async fn long_run(rounds: usize, round_events: usize) -> Vec<(f64, i64)> {
    const PARTITIONS: usize = 4;
    const PIECES: usize = 10;
    let hub = MemoryHub::new("scale", PARTITIONS);
    let (handle, handled) = start(&hub);
    let mut figures = Vec::new();
    let mut published = 0;
    for _ in 0..rounds {
        let cpu = cpu_now();
        for _ in 0..PIECES {
            let events = round_events / PIECES;
            publish(&hub, PARTITIONS, events);
            published += events as u64;
            until(&handled, published).await;
            for partition in 0..PARTITIONS {
                hub.trim(partition, events / PARTITIONS);
            }
        }
        let cpu = (cpu_now() - cpu).as_secs_f64() * 1e6 / round_events as f64;
        // What settled last is checkpointed, and let go of, within a batch's timeout.
        tokio::time::sleep(Duration::from_secs(2)).await;
        figures.push((cpu, live_bytes()));
    }
    stop(handle).await;
    figures
}

fn main() {
    let (events, rounds, round_events) =
        if is_trial() { (20_000, 2, 20_000) } else { (1_000_000, 10, 1_000_000) };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let mut lines = Vec::new();
    for count in [1, 4, 32, 256, 1_024] {
        let mut runs: Vec<(f64, i64)> =
            (0..5).map(|_| runtime.block_on(partitions(count, events))).collect();
        runs.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (cpu, memory) = runs[runs.len() / 2];
        println!(
            "{count:>5} partitions: {cpu:.2} us of CPU an event, {} KiB at most",
            memory / 1024
        );
        lines.push(format!(
            r#"{{"name":"partitions","partitions":{count},"events":{events},"cpu_us":{cpu:.3},"peak_bytes":{memory}}}"#
        ));
    }
    let figures = runtime.block_on(long_run(rounds, round_events));
    for (round, (cpu, live)) in figures.iter().enumerate() {
        let million = round + 1;
        println!("round {million:>2}: {cpu:.2} us of CPU an event, {} KiB live", live / 1024);
        lines.push(format!(
            r#"{{"name":"long-run","round":{million},"events":{round_events},"cpu_us":{cpu:.3},"live_bytes":{live}}}"#
        ));
    }
    fs::create_dir_all("target/bench").expect("writable");
    fs::write("target/bench/scale.json", format!("[{}]\n", lines.join(",\n"))).expect("writable");
}
