//! The limits of the download worker over real connections: what reaches the sink each second.
//!
//! The measurements take a minute and want a machine that is not busy:
//! `cargo test --release --features transfer --test download_rates -- --ignored --nocapture`.
#![allow(missing_docs)]

mod support;
#[path = "web/mod.rs"]
#[allow(dead_code)]
mod web;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::blob_store::{BlobError, BlobName, BlobStore, BlobWriter, Commit, FoundBlob};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::{ConsumerOptions, Rate, RateLimits};
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::producer::EntityProducer;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::rates::Rates;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, ConsumerHandle, OutgoingEvent};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

use support::{drained, until, within};
use web::{Answer, WebServer};

/// Counts what arrives, for each file.
#[derive(Debug, Default)]
struct Sink {
    files: Mutex<Vec<(String, Arc<AtomicU64>)>>,
    committed: Arc<AtomicU64>,
}

struct Counted {
    bytes: Arc<AtomicU64>,
    committed: Arc<AtomicU64>,
}

impl Sink {
    /// The bytes of each file so far.
    fn bytes(&self) -> Vec<f64> {
        let files = self.files.lock().expect("lock");
        files.iter().map(|(_, bytes)| bytes.load(Ordering::Relaxed) as f64).collect()
    }
}

impl BlobStore for Sink {
    fn open<'a>(
        &'a self,
        name: &'a BlobName,
        _size_hint_bytes: Option<u64>,
    ) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        async move {
            let bytes = Arc::default();
            let file = (name.as_str().to_owned(), Arc::clone(&bytes));
            self.files.lock().expect("lock").push(file);
            Ok(Box::new(Counted { bytes, committed: Arc::clone(&self.committed) }) as _)
        }
        .boxed()
    }

    fn find<'a>(
        &'a self,
        _name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<FoundBlob>, BlobError>> {
        async { Ok(None) }.boxed()
    }
}

impl BlobWriter for Counted {
    fn write(&mut self, part: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        self.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
        async { Ok(()) }.boxed()
    }

    fn commit(self: Box<Self>, _commit: Commit) -> BoxFuture<'static, Result<(), BlobError>> {
        self.committed.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }.boxed()
    }

    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

struct Run {
    sink: Arc<Sink>,
    rates: Arc<Rates>,
    letters: Arc<MemoryDeadLetterSink>,
    handle: ConsumerHandle,
}

impl Run {
    /// Starts a worker over tasks for these URLs.
    fn start(
        urls: impl IntoIterator<Item = String>,
        slots: usize,
        limits: RateLimits,
        download: DownloadLimits,
    ) -> Self {
        Self::with_connections(None, urls, slots, limits, download)
    }

    fn with_connections(
        per_host: Option<usize>,
        urls: impl IntoIterator<Item = String>,
        slots: usize,
        limits: RateLimits,
        download: DownloadLimits,
    ) -> Self {
        let tasks = MemoryHub::new("tasks", 1);
        for (number, url) in urls.into_iter().enumerate() {
            let task = json!({ "id": number.to_string(), "url": url, "path": number.to_string() });
            tasks.publish(0, OutgoingEvent::new(task.to_string()));
        }
        let sink = Arc::new(Sink::default());
        let rates = Arc::new(Rates::new(limits).expect("usable"));
        let results = MemoryHub::new("results", 1);
        let worker = DownloadWorker::new(
            Arc::clone(&sink) as _,
            Arc::new(EntityProducer::new(Arc::new(results.publisher()))),
            UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow),
            download,
        );
        let letters = Arc::new(MemoryDeadLetterSink::new());
        let mut options = ConsumerOptions::default();
        options.max_events_in_flight = slots;
        // What uses one up is a dead letter.
        options.max_attempts = 1;
        let transport = Arc::new(tasks.transport("$Default"));
        let handle = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
            .dead_letters(letters.clone())
            .options(options)
            .lanes(DownloadWorker::lane_rule(per_host))
            .event_handler(worker.expect("a worker").with_rates(Arc::clone(&rates)))
            .expect("valid")
            .start();
        Self { sink, rates, letters, handle }
    }

    fn committed(&self) -> u64 {
        self.sink.committed.load(Ordering::Relaxed)
    }
}

fn limits(set: impl FnOnce(&mut RateLimits)) -> RateLimits {
    let mut limits = RateLimits::default();
    set(&mut limits);
    limits
}

#[tokio::test]
async fn a_body_that_we_read_slowly_is_not_taken_for_a_silent_server() {
    let web = WebServer::start();
    web.serve("a.bin", vec![7; 400_000]);
    let mut download = DownloadLimits::default();
    // Shorter than a chunk takes at the rate.
    download.read_timeout = Duration::from_millis(100);
    let limits = limits(|limits| limits.bytes_per_second = Some(Rate::new(200e3)));
    let begun = Instant::now();
    let run = Run::start([web.url("a.bin")], 1, limits, download);
    until("the file", || run.committed() == 1).await;
    assert!(begun.elapsed() > Duration::from_millis(1_700), "{:?}", begun.elapsed());
    assert_eq!(web.requests("a.bin"), 1);
    let exit = within("the drain", drained(run.handle)).await;
    assert_eq!((exit.counts.retried, exit.counts.done), (0, 1));
}

#[tokio::test]
async fn a_host_that_names_a_time_is_left_alone_and_no_attempt_is_used_up() {
    let web = WebServer::start();
    web.answer("busy.bin", [Answer::Busy(0), Answer::File(b"now".to_vec())]);
    let other = WebServer::start();
    other.serve("a.bin", b"a".to_vec());
    let urls = [web.url("busy.bin"), other.url("a.bin")];
    let run = Run::start(urls, 1, RateLimits::default(), DownloadLimits::default());
    until("the file of the other host, past the one slot", || run.committed() == 1).await;
    assert_eq!(web.requests("busy.bin"), 1);
    until("the second answer, though there is one attempt", || run.committed() == 2).await;
    assert_eq!(web.requests("busy.bin"), 2);
    assert!(run.letters.letters().is_empty());
    assert!(within("the drain", drained(run.handle)).await.is_clean());
}

#[tokio::test]
async fn a_host_has_no_more_connections_than_it_may_and_the_number_can_be_changed() {
    let (now, most, gate) = (AtomicU64::new(0), AtomicU64::new(0), Semaphore::new(0));
    let host = Arc::new((now, most, gate));
    let serving = Arc::clone(&host);
    let router = axum::Router::new().fallback(async move || {
        let (now, most, gate) = &*serving;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        gate.acquire().await.expect("open").forget();
        now.fetch_sub(1, Ordering::SeqCst);
        "a"
    });
    let url = serve(router).await;
    let urls = (0..60).map(|_| url.clone());
    let (rates, download) = (RateLimits::default(), DownloadLimits::default());
    let run = Run::with_connections(Some(2), urls, 10, rates, download);
    let (now, most, gate) = &*host;
    gate.add_permits(30);
    until("half of them", || run.committed() == 30).await;
    until("the next", || now.load(Ordering::SeqCst) == 2).await;
    assert_eq!(most.load(Ordering::SeqCst), 2);
    run.handle.set_lane_cap(5).expect("limited lanes");
    until("more at once", || now.load(Ordering::SeqCst) == 5).await;
    gate.add_permits(30);
    until("all", || run.committed() == 60).await;
    assert_eq!(most.load(Ordering::SeqCst), 5);
    assert!(within("the drain", drained(run.handle)).await.is_clean());
}

#[tokio::test]
#[ignore = "a measurement: it takes 20 s, and wants a machine that is not busy"]
async fn ten_streams_get_twenty_megabytes_a_second_and_then_forty() {
    let web = WebServer::start();
    let urls = (0..10).map(|number| web.url(&format!("zeros?{number}")));
    for number in 0..10 {
        web.answer(&format!("zeros?{number}"), [Answer::Zeros(1 << 32)]);
    }
    let bytes = |rate| limits(|limits| limits.bytes_per_second = Some(Rate::new(rate)));
    let run = Run::start(urls, 10, bytes(20e6), DownloadLimits::default());
    until("ten streams", || run.sink.bytes().len() == 10).await;
    let begun = Instant::now();
    let at = async |seconds| {
        sleep_until(begun + Duration::from_secs(seconds)).await;
        (Instant::now(), run.sink.bytes())
    };
    let since = |(from, before): &(Instant, Vec<f64>), (to, after): &(Instant, Vec<f64>)| {
        let seconds = (*to - *from).as_secs_f64();
        let each = after.iter().zip(before).map(|(after, before)| (after - before) / seconds);
        each.collect::<Vec<f64>>()
    };
    let (two, twelve) = (at(2).await, at(12).await);
    let each = since(&two, &twelve);
    let sum: f64 = each.iter().sum();
    let (least, most) = each
        .iter()
        .fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(*rate), most.max(*rate)));
    println!("20 MB/s: {:.3} MB/s in seconds 2 to 12", sum / 1e6);
    println!("streams: from {:.3} to {:.3} MB/s", least / 1e6, most / 1e6);
    run.rates.set(bytes(40e6)).expect("usable");
    let fourteen = at(14).await;
    let changed: f64 = since(&fourteen, &at(16).await).iter().sum();
    println!("40 MB/s: {:.3} MB/s in seconds 2 to 4 after the change", changed / 1e6);
    run.handle.stop();
    assert!((sum / 20e6 - 1.0).abs() <= 0.02, "{sum}");
    assert!(most / least - 1.0 <= 0.1, "{each:?}");
    assert!((changed / 40e6 - 1.0).abs() <= 0.02, "{changed}");
}

/// A server with connections that stay; when each request came.
async fn asked() -> (String, Arc<Mutex<Vec<Instant>>>) {
    let times = Arc::new(Mutex::new(Vec::new()));
    let came = Arc::clone(&times);
    let router = axum::Router::new().fallback(async move || {
        came.lock().expect("lock").push(Instant::now());
        "a"
    });
    (serve(router).await, times)
}

/// Where it is served.
async fn serve(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}/a", listener.local_addr().expect("an address"));
    tokio::spawn(async { axum::serve(listener, router).await });
    url
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: it takes 30 s, and wants a machine that is not busy"]
async fn fifty_requests_a_second_are_never_more_than_fifty_one() {
    let mut measured = Vec::new();
    for (of, limits) in [
        ("in total", limits(|limits| limits.requests_per_second = Some(Rate::new(50.0)))),
        ("per host", limits(|limits| limits.requests_per_second_per_host = Some(Rate::new(50.0)))),
    ] {
        let (url, times) = asked().await;
        let urls = (0..2_000).map(|_| url.clone());
        let run = Run::start(urls, 20, limits, DownloadLimits::default());
        until("the first", || !times.lock().expect("lock").is_empty()).await;
        sleep(Duration::from_secs(12)).await;
        run.handle.stop();
        let asked_at = times.lock().expect("lock").clone();
        let second = Duration::from_secs(1);
        let after = asked_at.partition_point(|at| *at < asked_at[0] + second);
        let asked_at = &asked_at[after..];
        let in_a_second = asked_at
            .iter()
            .enumerate()
            .map(|(index, from)| asked_at.partition_point(|at| *at < *from + second) - index);
        let most = in_a_second.max().expect("seconds");
        let (first, last) = (asked_at[0], asked_at[asked_at.len() - 1]);
        let mean = (asked_at.len() - 1) as f64 / (last - first).as_secs_f64();
        println!("50 requests a second {of}: {mean:.2} on average, {most} at most in any second");
        measured.push((most, mean));
    }
    // Timers that are later than the burst cost some of the average.
    assert!(measured.iter().all(|(most, mean)| *most <= 51 && *mean >= 47.0), "{measured:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: it takes 10 s, and wants a machine that is not busy"]
async fn hosts_at_their_limit_hold_no_slots() {
    // Ten hosts at twenty a second, of which each takes 40 ms: eight of ten slots have work.
    let hosts: Vec<_> = (0..10).map(|_| WebServer::start()).collect();
    for host in &hosts {
        host.answer("a.bin", [Answer::Paced(vec![7; 12_288], 204_800)]);
    }
    let urls = (0..350).flat_map(|_| hosts.iter().map(|host| host.url("a.bin")));
    let limits = limits(|limits| limits.requests_per_second_per_host = Some(Rate::new(20.0)));
    let run = Run::start(urls, 10, limits, DownloadLimits::default());
    sleep(Duration::from_secs(1)).await;
    let asked = || hosts.iter().map(|host| host.all_requests() as f64).collect::<Vec<_>>();
    let before = asked();
    sleep(Duration::from_secs(8)).await;
    let each: Vec<_> =
        asked().iter().zip(before).map(|(after, before)| (after - before) / 8.0).collect();
    run.handle.stop();
    let sum: f64 = each.iter().sum();
    println!("10 hosts at 20 requests a second: {sum:.1} in total, {each:.1?}");
    assert!(sum >= 190.0, "{sum}");
}
