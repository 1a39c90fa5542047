//! Moving files from a server that gives each connection 5 MB/s: one at a time, in barrier
//! batches as the Python workers did, and through `BatchConsumer`.
//!
//! The server is in this process, on loopback, and gives the rate from the first byte on; the
//! sink counts and throws away. Each way is timed whole, from the first request to the last
//! byte, and compared with an ideal schedule of the same files: nominal service times (bytes
//! over rate), given to slots as they become free. Results go to `target/bench/throughput.json`.
//!
//! `LONGSHORE_BENCH_EVENTS_IN_FLIGHT` and `LONGSHORE_BENCH_BATCH_SIZE` choose how many files are moved at once and
//! how many a barrier batch has, see docs/benches.md.
//!
//! Every pass takes seconds by design, so each runs once; `scripts/bench-check` reads them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use futures::StreamExt;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, ConsumerOptions, Event, EventContext, Failure, OutgoingEvent};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

mod own;

const RATE: f64 = 5_000_000.0;
const CHUNK: usize = 16 * 1024;
const PARTITIONS: usize = 4;

async fn serve() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("port");
    let address = listener.local_addr().expect("address");
    let listener = listener.tap_io(|stream| {
        let _set = stream.set_nodelay(true);
    });
    let router = Router::new().route("/{bytes}", get(body));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn body(Path(bytes): Path<usize>) -> Response {
    static ZEROS: [u8; CHUNK] = [0; CHUNK];
    let stream = async_stream::stream! {
        let started = Instant::now();
        let mut sent = 0;
        while sent < bytes {
            let next = CHUNK.min(bytes - sent);
            sent += next;
            sleep_until(started + Duration::from_secs_f64(sent as f64 / RATE)).await;
            yield Ok::<_, Infallible>(Bytes::from_static(&ZEROS[..next]));
        }
    };
    ([(header::CONTENT_LENGTH, bytes)], Body::from_stream(stream)).into_response()
}

async fn fetch(client: &reqwest::Client, base: &str, bytes: usize) {
    let response = client.get(format!("{base}/{bytes}")).send().await.expect("response");
    let mut chunks = response.bytes_stream();
    let mut received = 0;
    while let Some(chunk) = chunks.next().await {
        received += chunk.expect("chunk").len();
    }
    assert_eq!(received, bytes);
}

async fn one_at_a_time(client: &reqwest::Client, base: &str, files: &[usize]) -> Duration {
    let started = Instant::now();
    for bytes in files {
        fetch(client, base, *bytes).await;
    }
    started.elapsed()
}

/// Fetch 20, move 10 at once, wait for all of them, begin again.
async fn barrier_batches(
    client: &reqwest::Client,
    base: &str,
    files: &[usize],
    slots: usize,
    batch_size: usize,
) -> Duration {
    let started = Instant::now();
    for batch in files.chunks(batch_size) {
        futures::stream::iter(batch)
            .for_each_concurrent(slots, |bytes| fetch(client, base, *bytes))
            .await;
    }
    started.elapsed()
}

async fn batch_consumer(
    client: &reqwest::Client,
    base: &str,
    files: &[usize],
    slots: usize,
) -> Duration {
    let hub = MemoryHub::new("files", PARTITIONS);
    for (index, bytes) in files.iter().enumerate() {
        hub.publish(index % PARTITIONS, OutgoingEvent::new(bytes.to_string()));
    }
    let mut options = ConsumerOptions::default();
    options.max_events_in_flight = slots;
    let (left, last) = (Arc::new(AtomicUsize::new(files.len())), Arc::new(Notify::new()));
    let (client, base, done, wake) = (client.clone(), base.to_owned(), left, Arc::clone(&last));
    let store = Arc::new(MemoryCheckpointStore::new());
    let started = Instant::now();
    let mut consumer = BatchConsumer::builder(Arc::new(hub.transport("$Default")), store)
        .options(options)
        .event_handler(move |event: Event, _: EventContext| {
            let (client, base) = (client.clone(), base.clone());
            let (done, wake) = (Arc::clone(&done), Arc::clone(&wake));
            async move {
                let bytes =
                    std::str::from_utf8(event.body()).ok().and_then(|text| text.parse().ok());
                fetch(&client, &base, bytes.expect("a number")).await;
                if done.fetch_sub(1, Ordering::AcqRel) == 1 {
                    wake.notify_one();
                }
                Ok::<(), Failure>(())
            }
        })
        .expect("valid")
        .start();
    last.notified().await;
    let elapsed = started.elapsed();
    consumer.drain();
    consumer.join().await;
    elapsed
}

/// The time `slots` need for these files in this order, each file at its nominal time.
fn ideal(files: &[usize], slots: usize) -> f64 {
    let mut free: BinaryHeap<Reverse<u64>> = (0..slots).map(|_| Reverse(0)).collect();
    let mut end = 0;
    for bytes in files {
        let Reverse(from) = free.pop().unwrap_or(Reverse(0));
        let until = from + (*bytes as f64 / RATE * 1e9) as u64;
        end = end.max(until);
        free.push(Reverse(until));
    }
    end as f64 / 1e9
}

/// Log-normal sizes, sigma 1, by Box and Muller; seeded.
fn log_normal(count: usize, median_bytes: f64, random: &mut SmallRng) -> Vec<usize> {
    (0..count)
        .map(|_| {
            let (u, v): (f64, f64) = (random.random_range(1e-12..1.0), random.random());
            let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
            (median_bytes * normal.exp()) as usize
        })
        .collect()
}

fn main() {
    // Only on demand: `cargo test --benches` builds and starts every bench.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let own = own::own();
    let in_flight = own.and_then(|own| own.events_in_flight);
    let all_slots = in_flight.map_or(vec![10, 50, 100], |slots| vec![slots]);
    let batch_size = |slots| own.and_then(|own| own.batch_size).unwrap_or(2 * slots);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let lines = runtime.block_on(async {
        let base = serve().await;
        let client = reqwest::Client::builder().no_proxy().build().expect("client");
        let mut lines = Vec::new();
        let mut report = |name: &str, slots: usize, files: &[usize], elapsed: Duration| {
            let bytes: usize = files.iter().sum();
            let seconds = elapsed.as_secs_f64();
            let ideal = ideal(files, slots);
            println!(
                "{name:<28} {slots:>4} slots {seconds:>8.2} s {:>8.1} MB/s, {:.3} of the ideal",
                bytes as f64 / seconds / 1e6,
                ideal / seconds
            );
            lines.push(format!(
                r#"{{"name":"{name}","slots":{slots},"files":{},"bytes":{bytes},"seconds":{seconds:.4},"ideal_seconds":{ideal:.4}}}"#,
                files.len()
            ));
        };
        let equal = |count: usize| vec![1_000_000; count];
        let files = equal(20);
        let elapsed = one_at_a_time(&client, &base, &files).await;
        report("equal/one-at-a-time", 1, &files, elapsed);
        for &slots in &all_slots {
            let files = equal(slots * 12);
            let elapsed =
                barrier_batches(&client, &base, &files, slots, batch_size(slots)).await;
            report("equal/barrier", slots, &files, elapsed);
            let elapsed = batch_consumer(&client, &base, &files, slots).await;
            report("equal/batch-consumer", slots, &files, elapsed);
        }
        let mut random = SmallRng::seed_from_u64(1);
        // Fewer files for fewer slots of your own, so that they take as long as 4,000 over ten.
        let count = in_flight.map_or(4_000, |slots| (400 * slots).min(4_000));
        let files = log_normal(count, 150_000.0, &mut random);
        for &slots in &all_slots {
            let elapsed =
                barrier_batches(&client, &base, &files, slots, batch_size(slots)).await;
            report("log-normal/barrier", slots, &files, elapsed);
            let elapsed = batch_consumer(&client, &base, &files, slots).await;
            report("log-normal/batch-consumer", slots, &files, elapsed);
        }
        lines
    });
    fs::create_dir_all("target/bench").expect("writable");
    let file = match own {
        Some(_) => "target/bench/throughput-own.json",
        None => "target/bench/throughput.json",
    };
    fs::write(file, format!("[{}]\n", lines.join(",\n"))).expect("writable");
}
