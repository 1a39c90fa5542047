//! What moving files costs, beside the loops that people write by hand.
//!
//! - **Discarded**: files from a server on loopback, ten at once, to a store that throws them away, beside
//!   bare reqwest in `buffer_unordered` that computes the same sums: rate, CPU time, most memory.
//! - **To a container**: the same files in blocks to a service that takes everything, beside a loop by
//!   hand that stages blocks of the same length with their CRC-64.
//! - **Paced**: one large file from a server that gives each connection 5 MB/s from its first byte.
//!
//! `cargo bench … --bench transfer -- 64` runs what has `64` in its name.
//!
//! Both sides run in turns, in one process; the server is another. Medians of all pairs count. Results go
//! to `target/bench/transfer.json`.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest as Crc, crc64_nvme};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use longshore::blob_store::container::ContainerBlobStore;
use longshore::blob_store::{
    BlobError, BlobName, BlobStore, BlobWriter, BlockWriter, Commit, FoundBlob, MadeOf, OpenBlocks,
    Sums,
};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::producer::EntityProducer;
use longshore::secret::Secret;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::task::DownloadTask;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, OutgoingEvent};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

mod measure;
mod web;

use measure::{cpu_now, is_trial, live_bytes, peak_bytes, restart_peak};
use web::Web;

/// Files that are moved at once, and connections.
const AT_ONCE: usize = 10;
const MIB: u64 = 1 << 20;
/// What each connection of a paced server gives.
const PACE: u64 = 5_000_000;

/// Throws files away, sums and all.
#[derive(Debug)]
struct Nowhere;

impl BlobStore for Nowhere {
    fn open<'a>(
        &'a self,
        _: &'a BlobName,
        _: Option<u64>,
    ) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        async { Ok(Box::new(Discarding) as _) }.boxed()
    }

    fn open_blocks<'a>(
        &'a self,
        _: &'a BlobName,
        _: &'a MadeOf<'a>,
    ) -> BoxFuture<'a, Result<Option<OpenBlocks>, BlobError>> {
        async { Ok(Some(OpenBlocks { writer: Box::new(Discarding), there: Vec::new() })) }.boxed()
    }

    fn find<'a>(&'a self, _: &'a BlobName) -> BoxFuture<'a, Result<Option<FoundBlob>, BlobError>> {
        async { Ok(None) }.boxed()
    }
}

struct Discarding;

impl BlobWriter for Discarding {
    fn write(&mut self, _: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn commit(self: Box<Self>, _: Commit) -> BoxFuture<'static, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

impl BlockWriter for Discarding {
    fn write_at(&self, _: u64, _: Vec<Bytes>) -> BoxFuture<'_, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn on_written_to(&self, _: u64) -> BoxFuture<'_, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn sums(&self) -> Sums {
        Sums::default()
    }

    fn commit(self: Box<Self>, _: Commit) -> BoxFuture<'static, Result<(), BlobError>> {
        async { Ok(()) }.boxed()
    }

    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

/// What one side of a pair took.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
    peak_mib: f64,
}

/// Runs one side.
async fn measured(work: impl Future<Output = ()>) -> Took {
    restart_peak();
    let (begun, cpu, live) = (Instant::now(), cpu_now(), live_bytes());
    work.await;
    Took {
        wall: begun.elapsed().as_secs_f64(),
        cpu: (cpu_now() - cpu).as_secs_f64(),
        peak_mib: (peak_bytes() - live) as f64 / MIB as f64,
    }
}

/// Moves files by a worker into a store.
async fn by_worker(urls: &[String], store: Arc<dyn BlobStore>, limits: DownloadLimits) {
    let (tasks, results) = (MemoryHub::new("tasks", 4), MemoryHub::new("results", 1));
    for (number, url) in urls.iter().enumerate() {
        let path = BlobName::parse(&format!("{number}")).expect("a name");
        let task = DownloadTask::new(path.as_str(), url.parse().expect("a URL"), path.clone());
        tasks.publish(number % 4, OutgoingEvent::new(task.to_json()));
    }
    let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
    let producer = EntityProducer::new(Arc::new(results.publisher()));
    let worker = DownloadWorker::new(store, Arc::new(producer), policy, limits).expect("a worker");
    let progress = worker.progress();
    let checkpoints = Arc::new(MemoryCheckpointStore::new());
    let mut handle = BatchConsumer::builder(Arc::new(tasks.transport("$Default")), checkpoints)
        .dead_letters(Arc::new(MemoryDeadLetterSink::new()))
        .max_events_in_flight(AT_ONCE)
        .event_handler(worker)
        .expect("valid")
        .start();
    while progress.files() < urls.len() as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    handle.drain();
    let exit = handle.join().await;
    assert_eq!(exit.counts.done, urls.len() as u64, "every file has its result");
}

/// Moves files by hand, and throws them away.
async fn by_hand(urls: &[String]) {
    let client = reqwest::Client::new();
    stream::iter(urls)
        .map(|url| {
            let (client, url) = (client.clone(), url.clone());
            async move {
                let mut response = client.get(url).send().await.expect("an answer");
                let (mut crc, mut sha) = (Crc::new(CrcAlgorithm::Crc64Nvme), Sha256::new());
                while let Some(chunk) = response.chunk().await.expect("a body") {
                    crc.update(&chunk);
                    sha.update(&chunk);
                }
                std::hint::black_box((crc.finalize(), sha.finalize()));
            }
        })
        .map(tokio::spawn)
        .buffer_unordered(AT_ONCE)
        .for_each(|done| async { done.expect("no panic") })
        .await;
}

/// Moves files by hand into a container, in blocks of this length.
async fn by_hand_to_container(urls: &[String], container: &str, block_bytes: usize) {
    let client = reqwest::Client::new();
    stream::iter(urls.iter().enumerate())
        .map(|(number, url)| {
            let (client, url) = (client.clone(), url.clone());
            let blob = container.replace("?", &format!("/{number}?"));
            async move {
                let mut response = client.get(url).send().await.expect("an answer");
                let (mut block, mut ids) = (BytesMut::with_capacity(block_bytes), Vec::new());
                loop {
                    let chunk = response.chunk().await.expect("a body");
                    let is_last = chunk.is_none();
                    let mut chunk = chunk.unwrap_or_default();
                    while !chunk.is_empty() || is_last && !block.is_empty() {
                        let part = chunk.split_to(chunk.len().min(block_bytes - block.len()));
                        block.extend_from_slice(&part);
                        if block.len() == block_bytes || is_last {
                            let whole = block.split().freeze();
                            let id = STANDARD.encode(format!("{:064}", ids.len()));
                            let crc = STANDARD.encode(crc64_nvme(&whole).to_le_bytes());
                            let staged = client
                                .put(format!("{blob}&comp=block&blockid={id}"))
                                .header("x-ms-content-crc64", crc)
                                .body(whole)
                                .send();
                            assert_eq!(staged.await.expect("an answer").status(), 201);
                            ids.push(id);
                            block.reserve(block_bytes);
                        }
                    }
                    if is_last {
                        break;
                    }
                }
                let committed =
                    client.put(format!("{blob}&comp=blocklist")).body(ids.join("\n")).send();
                assert_eq!(committed.await.expect("an answer").status(), 201);
            }
        })
        .map(tokio::spawn)
        .buffer_unordered(AT_ONCE)
        .for_each(|done| async { done.expect("no panic") })
        .await;
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A line of the table, and of the file.
fn told(name: &str, bytes: u64, pairs: &[(Took, Took)]) -> String {
    let of = |value: &dyn Fn(&(Took, Took)) -> f64| median(pairs.iter().map(value).collect());
    let gib = bytes as f64 / (1 << 30) as f64;
    let rate = of(&|(ours, theirs)| theirs.wall / ours.wall);
    let cpu = of(&|(ours, theirs)| ours.cpu / theirs.cpu);
    let mib_a_second = of(&|(ours, _)| bytes as f64 / MIB as f64 / ours.wall);
    let cpu_per_gib = of(&|(ours, _)| ours.cpu / gib);
    let (peak, their_peak) = (of(&|(ours, _)| ours.peak_mib), of(&|(_, it)| it.peak_mib));
    println!(
        "{name}: {mib_a_second:.0} MiB/s, {rate:.3} of the rate by hand; {cpu_per_gib:.2} s of CPU a \
         GiB, {cpu:.3} of that by hand; most memory {peak:.1} MiB, by hand {their_peak:.1}"
    );
    format!(
        r#"{{"name":"{name}","bytes":{bytes},"pairs":{},"mib_a_second":{mib_a_second:.1},"rate_ratio":{rate:.4},"cpu_per_gib":{cpu_per_gib:.3},"cpu_ratio":{cpu:.4},"peak_mib":{peak:.1},"peak_mib_by_hand":{their_peak:.1}}}"#,
        pairs.len()
    )
}

/// Whether this is one of what was asked for on the command line, if anything was.
fn is_chosen(name: &str) -> bool {
    let mut asked = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    asked.peek().is_none() || asked.any(|word| name.contains(&word))
}

/// Log-normal lengths around this median, the same in each run.
fn log_normal(files: usize, median: f64) -> Vec<u64> {
    let mut rng = SmallRng::seed_from_u64(7);
    let normal = |rng: &mut SmallRng| {
        let (a, b) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    };
    (0..files).map(|_| (median * normal(&mut rng).exp()) as u64 + 1).collect()
}

async fn run(web: &Web) -> Vec<String> {
    let turns = if is_trial() { 1 } else { 11 };
    let fewer = if is_trial() { 20 } else { 1 };
    let urls = |lengths: &[u64], pace| -> Vec<String> {
        lengths.iter().enumerate().map(|(at, bytes)| web.file(*bytes, pace, at)).collect()
    };
    let mut limits = DownloadLimits::default();
    limits.connections = AT_ONCE;
    let mut lines = Vec::new();
    for (name, lengths) in [
        ("discarded, files of 4 MiB", vec![4 * MIB; 200 / fewer]),
        ("discarded, files of 64 KiB", vec![64 << 10; 8_000 / fewer]),
        ("discarded, log-normal around 1 MiB", log_normal(400 / fewer, MIB as f64)),
    ] {
        if !is_chosen(name) {
            continue;
        }
        let (urls, mut pairs) = (urls(&lengths, 0), Vec::new());
        for _ in 0..turns {
            let ours = measured(by_worker(&urls, Arc::new(Nowhere), limits)).await;
            pairs.push((ours, measured(by_hand(&urls)).await));
        }
        lines.push(told(name, lengths.iter().sum(), &pairs));
    }
    let (name, lengths) = ("to a container, files of 128 MiB", vec![128 * MIB; 20 / fewer]);
    if is_chosen(name) {
        let (urls, mut pairs) = (urls(&lengths, 0), Vec::new());
        for _ in 0..turns {
            let store = ContainerBlobStore::with_signature(&Secret::new(web.container()));
            let store = Arc::new(store.expect("valid").with_budget(64 * MIB, AT_ONCE));
            let block_bytes = store.block_bytes(lengths[0], limits.block_bytes) as usize;
            let ours = measured(by_worker(&urls, store, limits)).await;
            let container = web.container();
            let by_hand = by_hand_to_container(&urls, &container, block_bytes);
            pairs.push((ours, measured(by_hand).await));
        }
        lines.push(told(name, lengths.iter().sum(), &pairs));
    }
    let (name, lengths) = ("one file, paced", [500_000_000 / fewer as u64]);
    if is_chosen(name) {
        let ours = measured(by_worker(&urls(&lengths, PACE), Arc::new(Nowhere), limits)).await;
        let rate = lengths[0] as f64 / ours.wall / 1e6;
        println!("one file at 5 MB/s a connection, ten connections: {rate:.1} MB/s");
        lines.push(format!(r#"{{"name":"{name}","mb_a_second":{rate:.2}}}"#));
    }
    lines
}

fn main() {
    if web::served() {
        return;
    }
    let web = Web::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let lines = runtime.block_on(run(&web));
    fs::create_dir_all("target/bench").expect("writable");
    fs::write("target/bench/transfer.json", format!("[{}]\n", lines.join(",\n")))
        .expect("writable");
}
