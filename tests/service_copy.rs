//! Large files that the storage service copies itself: their bytes never pass the worker. Needs Azurite,
//! which scripts/test installs; it copies no blocks, so the double before it does.
#![allow(missing_docs)]

mod azurite;
#[path = "support/storage_double/mod.rs"]
mod storage_double;
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use azurite::{ALL, Container};
use longshore::blob_store::container::ContainerBlobStore;
use longshore::blob_store::{BlobName, BlobStore as _, Commit};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::{ConsumerOptions, LeaseOptions};
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::producer::EntityProducer;
use longshore::secret::Secret;
use longshore::state::backoff::Backoff;
use longshore::transfer::download::{CopyBy, DownloadWorker};
use longshore::transfer::goes_along::{FileTime, GoesAlong};
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::task::{DownloadTask, TransferResult, UploadTask};
use longshore::transfer::upload::UploadWorker;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::{
    BatchConsumer, ConsumerHandle, Event, EventContext, EventHandler, Outcome, OutgoingEvent,
};
use sha2::{Digest as _, Sha256};
use storage_double::copies::USER_AGENT;
use storage_double::refusal::{INTERNAL_ERROR, SERVER_BUSY};
use storage_double::{Operation, Play, Script, StorageDouble};
use support::{drained, until, within};
use tokio::sync::Notify;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

const BLOCK: usize = 64 << 10;
const BLOCKS: usize = 16;
/// The last block is shorter.
const BYTES: usize = BLOCKS * BLOCK - 5;

fn content(seed: u8) -> Bytes {
    (0..BYTES).map(|at| (at * 31 / 7) as u8 ^ (at >> 9) as u8 ^ seed).collect::<Vec<u8>>().into()
}

fn crc64(content: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, content)
}

/// A web server whose file may change, and who reads what of it.
#[derive(Default)]
struct Web {
    /// The seed of its content, and its ETag.
    version: AtomicUsize,
    /// After so many reads of the service there is another version.
    changes_after: AtomicUsize,
    refuses_the_service: bool,
    ignores_conditions: bool,
    by_service: AtomicUsize,
    by_others: AtomicUsize,
}

impl Web {
    async fn start(self) -> (Arc<Self>, String) {
        let web = Arc::new(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app =
            Router::new().route("/{name}", axum::routing::get(file)).with_state(Arc::clone(&web));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (web, format!("http://{address}"))
    }
}

async fn file(State(web): State<Arc<Web>>, Path(name): Path<String>, asked: HeaderMap) -> Response {
    let header = |name: &str| asked.get(name).and_then(|value| value.to_str().ok());
    if name == "moved" {
        return (StatusCode::FOUND, [("location", "/f?sig=canary")]).into_response();
    }
    let is_service = header("user-agent") == Some(USER_AGENT);
    if is_service && web.refuses_the_service {
        return StatusCode::FORBIDDEN.into_response();
    }
    let counter = if is_service { &web.by_service } else { &web.by_others };
    let before = counter.fetch_add(1, Ordering::Relaxed);
    let changes_after = web.changes_after.load(Ordering::Relaxed);
    if is_service && changes_after > 0 && before == changes_after {
        web.version.fetch_add(1, Ordering::Relaxed);
    }
    let version = web.version.load(Ordering::Relaxed);
    let etag = format!("\"v{version}\"");
    let body = content(version as u8);
    let said = [
        ("etag", etag.clone()),
        ("accept-ranges", "bytes".to_owned()),
        ("content-type", "image/jpeg".to_owned()),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
    ];
    let matches = |name| header(name).is_none_or(|asked| asked == etag);
    if !matches("if-match") && !web.ignores_conditions {
        return StatusCode::PRECONDITION_FAILED.into_response();
    }
    let range = header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, last)) = range.filter(|_| matches("if-range")) else {
        return (said, body).into_response();
    };
    let from: usize = from.parse().expect("a number");
    let to = last.parse::<usize>().map_or(BYTES, |last| last + 1);
    let range = [("content-range", format!("bytes {from}-{}/{BYTES}", to - 1))];
    (StatusCode::PARTIAL_CONTENT, said, range, body.slice(from..to)).into_response()
}

/// A container behind the double, and the hub of tasks of one worker.
struct Stage {
    container: Container,
    double: StorageDouble,
    tasks: MemoryHub,
    done: MemoryHub,
    letters: Arc<MemoryDeadLetterSink>,
    checkpoints: Arc<MemoryCheckpointStore>,
}

fn limits() -> DownloadLimits {
    let mut limits = DownloadLimits::default();
    limits.block_bytes = BLOCK as u64;
    limits.connections = 4;
    limits
}

fn name(text: &str) -> BlobName {
    BlobName::parse(text).expect("a name")
}

impl Stage {
    async fn set() -> Self {
        let container = Container::create().await;
        let double = StorageDouble::before(&container.url(ALL));
        Self {
            container,
            double,
            tasks: MemoryHub::new("tasks", 1),
            done: MemoryHub::new("done", 1),
            letters: Arc::default(),
            checkpoints: Arc::new(MemoryCheckpointStore::new()),
        }
    }

    fn store(&self, permissions: &str) -> Arc<ContainerBlobStore> {
        let url = Secret::new(self.double.url(&self.container.url(permissions)));
        Arc::new(ContainerBlobStore::with_signature(&url).expect("valid").with_budget(1 << 20, 8))
    }

    fn producer(&self) -> Arc<EntityProducer> {
        Arc::new(EntityProducer::new(Arc::new(self.done.publisher())))
    }

    fn download(&self, permissions: &str) -> DownloadWorker {
        self.download_within(permissions, &limits())
    }

    fn download_within(&self, permissions: &str, limits: &DownloadLimits) -> DownloadWorker {
        let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
        let store = self.store(permissions);
        let worker = DownloadWorker::new(store, self.producer(), policy, *limits);
        worker.expect("valid").with_copy(CopyBy::Service)
    }

    /// Blocks of `f` that only note something.
    fn notes(&self) -> usize {
        self.double.of(Operation::PutBlock, "f").iter().filter(|seen| seen.bytes == 1).count()
    }

    fn publish(&self, task: &DownloadTask) {
        self.tasks.publish(0, OutgoingEvent::new(task.to_json()));
    }

    fn run(&self, worker: impl EventHandler) -> ConsumerHandle {
        let mut options = ConsumerOptions::default();
        options.max_events_in_flight = 1;
        options.retry_backoff = Backoff::doubling(PAUSE, PAUSE);
        let transport = Arc::new(self.tasks.transport("$Default"));
        BatchConsumer::builder(transport, self.checkpoints.clone())
            .options(options)
            .dead_letters(self.letters.clone())
            .event_handler(worker)
            .expect("valid")
            .start()
    }

    /// Handles the tasks to the last one; the results, by their tasks.
    async fn work(&self, worker: impl EventHandler, last: i64) -> BTreeMap<String, TransferResult> {
        let consumer = self.run(worker);
        let settled = || consumer.snapshot().partitions.first()?.settled_to;
        until("all are settled", || settled().is_some_and(|at| at.0 == last)).await;
        within("the drain", drained(consumer)).await;
        let expected = usize::try_from(last + 1).expect("a count") - self.letters.letters().len();
        self.results(expected).await
    }

    async fn results(&self, expected: usize) -> BTreeMap<String, TransferResult> {
        let came: Arc<Mutex<BTreeMap<String, TransferResult>>> = Arc::default();
        let record = Arc::clone(&came);
        let results = Arc::new(self.done.transport("$Default"));
        let reader = BatchConsumer::builder(results, Arc::new(MemoryCheckpointStore::new()))
            .event_handler(move |event: Event, _: EventContext| {
                let result: TransferResult =
                    serde_json::from_slice(event.body()).expect("a result");
                record.lock().expect("lock").insert(result.id.clone(), result);
                async {}
            })
            .expect("valid")
            .start();
        until("all results", || came.lock().expect("lock").len() >= expected).await;
        within("the drain", drained(reader)).await;
        let came = came.lock().expect("lock");
        came.clone()
    }

    fn asked(&self, operation: Operation, blob: &str) -> usize {
        self.double.requests(operation, blob)
    }

    async fn expect(&self, blob: &str, content: &[u8]) {
        assert!(self.container.content(blob).await.as_deref() == Some(content), "{blob}");
    }

    fn why(&self) -> Vec<String> {
        self.letters.letters().iter().map(|letter| letter.failure.message.clone()).collect()
    }
}

fn task(url: &str, id: &str) -> DownloadTask {
    DownloadTask::new(id, url.parse().expect("a URL"), name(id))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_copies_and_the_worker_sees_no_byte_of_it() {
    let stage = Stage::set().await;
    let (web, url) = Web::default().start().await;
    let sum = crc64(&content(0));
    stage.publish(&task(&format!("{url}/f"), "f"));
    stage.publish(&task(&format!("{url}/moved#here"), "moved"));
    let along = GoesAlong::new().with_time(FileTime::Source);
    let worker = stage.download(ALL).with_along(along);
    let progress = worker.progress();
    let results = stage.work(worker, 1).await;
    assert_eq!(stage.why(), Vec::<String>::new());
    for path in ["f", "moved"] {
        stage.expect(path, &content(0)).await;
        let result = &results[path];
        assert_eq!(
            (result.bytes, result.crc64.clone()),
            (BYTES as u64, Some(format!("{sum:016x}")))
        );
        assert_eq!(stage.asked(Operation::PutBlockFromUrl, path), BLOCKS);
        assert_eq!(stage.asked(Operation::PutBlock, path), 0);
        let header = |name| stage.container.header(path, name);
        assert_eq!(header("content-type").await.as_deref(), Some("image/jpeg"));
        let time = header("x-ms-meta-mtime").await;
        assert_eq!(time.as_deref(), Some("1994-11-06T08:49:37.000000000Z"));
    }
    assert_eq!((progress.files(), progress.bytes_received()), (2, 0));
    assert_eq!(progress.bytes_copied(), 2 * BYTES as u64);
    assert_eq!(web.by_service.load(Ordering::Relaxed), 2 * BLOCKS);
    // What it is, and whether it still is that.
    assert_eq!(web.by_others.load(Ordering::Relaxed), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_copied_to_another_one() {
    let (stage, from) = (Stage::set().await, Container::create().await);
    let url = Secret::new(from.url(ALL));
    let source = Arc::new(ContainerBlobStore::with_signature(&url).expect("valid"));
    for path in ["a b/ü", "wrong"] {
        let mut writer = source.open(&name(path), None).await.expect("opened");
        writer.write(content(0)).await.expect("written");
        writer.commit(Commit::default()).await.expect("committed");
    }
    let mut right = UploadTask::new("right", name("a b/ü"));
    right.crc64 = Some(crc64(&content(0)));
    let mut wrong = UploadTask::new("wrong", name("wrong"));
    wrong.crc64 = Some(1);
    for task in [right, wrong] {
        stage.tasks.publish(0, OutgoingEvent::new(task.to_json()));
    }
    let worker = UploadWorker::new(source, stage.store(ALL), stage.producer(), limits());
    let results = stage.work(worker.with_copy(CopyBy::Service), 1).await;
    stage.expect("a b/ü", &content(0)).await;
    assert_eq!(results["right"].bytes, BYTES as u64);
    assert_eq!(stage.asked(Operation::PutBlock, "a b/ü"), 0);
    let [why] = &stage.why()[..] else { unreachable!("{:?}", stage.why()) };
    assert!(why.starts_with("task wrong: ") && why.contains("not 0000000000000001"), "{why}");
    assert!(!why.contains("sig="), "{why}");
    assert_eq!(stage.container.content("wrong").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_between_two_blocks_is_copied_anew() {
    for ignores_conditions in [false, true] {
        let stage = Stage::set().await;
        let changes_after = AtomicUsize::new(BLOCKS / 2);
        let web = Web { changes_after, ignores_conditions, ..Web::default() };
        let (_web, url) = web.start().await;
        stage.publish(&task(&format!("{url}/f"), "f"));
        let results = stage.work(stage.download(ALL), 0).await;
        stage.expect("f", &content(1)).await;
        assert_eq!(results["f"].attempts, 2);
        assert_eq!(results["f"].crc64, Some(format!("{:016x}", crc64(&content(1)))));
        assert_eq!(stage.asked(Operation::PutBlockList, "f"), 1);
        assert_eq!(stage.asked(Operation::PutBlock, "f"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_does_not_read_is_fetched() {
    let stage = Stage::set().await;
    let (web, url) = Web { refuses_the_service: true, ..Web::default() }.start().await;
    let worker = stage.download(ALL);
    for id in ["a", "b", "c"] {
        stage.publish(&task(&format!("{url}/f"), id));
    }
    let results = stage.work(worker, 2).await;
    assert_eq!(stage.why(), Vec::<String>::new());
    for id in ["a", "b", "c"] {
        stage.expect(id, &content(0)).await;
        assert_eq!((results[id].attempts, results[id].bytes), (1, BYTES as u64));
    }
    assert_eq!(web.by_service.load(Ordering::Relaxed), 0);
    // From a host that was refused, nothing more is tried for a while.
    let asked = ["a", "b", "c"].map(|id| stage.asked(Operation::PutBlockFromUrl, id));
    assert_eq!(asked, [1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_hash_is_to_be_compared_is_fetched_and_so_is_a_short_one() {
    let stage = Stage::set().await;
    let (_web, url) = Web::default().start().await;
    let mut hashed = task(&format!("{url}/f"), "sha256");
    hashed.sha256 = Some(Sha256::digest(content(0)).into());
    stage.publish(&hashed);
    let mut hashed = task(&format!("{url}/f"), "md5");
    hashed.md5 = Some([1; 16]);
    stage.publish(&hashed);
    stage.work(stage.download(ALL), 1).await;
    stage.expect("sha256", &content(0)).await;
    assert_eq!(stage.container.content("md5").await, None);
    let [why] = &stage.why()[..] else { unreachable!("{:?}", stage.why()) };
    assert!(why.starts_with("task md5: ") && why.contains("the MD5 is "), "{why}");
    // Who may not look at blocks could not check them.
    stage.publish(&task(&format!("{url}/f"), "blind"));
    stage.work(stage.download("cw"), 2).await;
    stage.expect("blind", &content(0)).await;
    for id in ["sha256", "md5", "blind"] {
        assert_eq!(stage.asked(Operation::PutBlockFromUrl, id), 0, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_killed_at_a_block_goes_on_there() {
    let stage = Stage::set().await;
    let (_web, url) = Web::default().start().await;
    stage.publish(&task(&format!("{url}/f"), "f"));
    let (half, streams) = (BLOCKS / 2, limits().connections);
    let never = Duration::from_secs(3_600);
    let script = Script::on(Operation::PutBlockFromUrl).of("f").after(half);
    stage.double.play(script, Play::AnswerLate(never));
    let killed = stage.run(stage.download(ALL));
    let there = half + streams;
    until("all streams hang", || stage.double.done(Operation::PutBlockFromUrl, "f") == there).await;
    killed.abort();
    stage.double.be_kind();
    let before = stage.asked(Operation::PutBlockFromUrl, "f");
    let results = stage.work(stage.download(ALL), 0).await;
    stage.expect("f", &content(0)).await;
    assert_eq!(stage.asked(Operation::PutBlockFromUrl, "f") - before, BLOCKS - there);
    // Nobody knows the sums of what was copied for somebody else.
    assert_eq!((results["f"].bytes, results["f"].crc64.clone()), (BYTES as u64, None));
}

/// A worker, and what is notified when it is told to stop.
struct Watched(DownloadWorker, Arc<Notify>);

impl EventHandler for Watched {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        let (told, stop) = (Arc::clone(&self.1), context.handing_off().clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            told.notify_one();
        });
        self.0.handle(event, context).await
    }
}

/// A partition of two workers with leases: the first one has it, and leaves while the service copies.
async fn handed_off(
    stage: &Stage,
    limits: &DownloadLimits,
    under_way: usize,
    told: &Arc<Notify>,
) -> TransferResult {
    let leases = Arc::new(MemoryLeaseStore::new());
    let run = |name: &str| {
        let worker = Watched(stage.download_within(ALL, limits), Arc::clone(told));
        let transport = Arc::new(stage.tasks.transport("$Default"));
        let mut options = LeaseOptions::default();
        options.heartbeat_interval = Duration::from_millis(500);
        options.look_interval = Duration::from_secs(1);
        BatchConsumer::builder(transport, stage.checkpoints.clone())
            .worker(name)
            .leases_with(leases.clone(), options)
            .drain_timeout(Duration::from_secs(3_600))
            .dead_letters(stage.letters.clone())
            .event_handler(worker)
            .expect("valid")
            .start()
    };
    let first = run("first");
    let done = || stage.double.done(Operation::PutBlockFromUrl, "f");
    until("blocks are under way", || done() == under_way).await;
    let second = run("second");
    let exit = within("the first one leaves", drained(first)).await;
    assert!(exit.is_clean(), "{exit}");
    assert_eq!((exit.counts.put_back, exit.counts.retried, exit.counts.done), (1, 0, 0));
    let settled = || second.snapshot().partitions.first()?.settled_to;
    until("its next owner is done", || settled().is_some_and(|at| at.0 == 0)).await;
    let exit = within("the drain", drained(second)).await;
    assert!(exit.is_clean() && exit.counts.done == 1, "{exit}");
    stage.expect("f", &content(0)).await;
    assert_eq!(stage.container.staged("f").await, 0, "the commit ends what was noted");
    assert_eq!(stage.asked(Operation::PutBlock, "f") - stage.notes(), 0, "no byte of it was sent");
    stage.results(1).await.remove("f").expect("its result")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_leaves_in_the_midst_of_a_copy_and_its_next_owner_goes_on_with_the_sums() {
    let stage = Stage::set().await;
    let (web, url) = Web::default().start().await;
    stage.publish(&task(&format!("{url}/f"), "f"));
    let half = BLOCKS / 2;
    let script = Script::on(Operation::PutBlockFromUrl).of("f").after(half).times(1);
    let told = Arc::new(Notify::new());
    stage.double.play(script, Play::Hold(Arc::clone(&told)));
    let mut limits = limits();
    limits.connections = 1;
    let result = handed_off(&stage, &limits, half + 1, &told).await;
    // The block that was under way is waited for, and its sum is noted with the others.
    assert_eq!(web.by_service.load(Ordering::Relaxed), BLOCKS, "each block was read once");
    assert_eq!(stage.notes(), half / 4 + 1);
    assert_eq!(result.crc64, Some(format!("{:016x}", crc64(&content(0)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_does_not_end_holds_no_partition_up() {
    let stage = Stage::set().await;
    let (web, url) = Web::default().start().await;
    stage.publish(&task(&format!("{url}/f"), "f"));
    let (half, streams) = (BLOCKS / 2, limits().connections);
    let never = Play::AnswerLate(Duration::from_secs(3_600));
    let script = Script::on(Operation::PutBlockFromUrl).of("f").after(half).times(streams);
    stage.double.play(script, never);
    let result = handed_off(&stage, &limits(), half + streams, &Arc::default()).await;
    // What took effect though nobody was told is there, and its sum is not.
    assert_eq!(web.by_service.load(Ordering::Relaxed), BLOCKS);
    assert_eq!((result.bytes, result.crc64), (BYTES as u64, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_now_is_asked_for_again() {
    let stage = Stage::set().await;
    let (_web, url) = Web::default().start().await;
    let plays = [
        Play::LoseAnswer,
        Play::LoseRequest,
        Play::Refuse(INTERNAL_ERROR),
        Play::Refuse(SERVER_BUSY.retry_after_ms(10)),
        Play::ExpireBlocks,
    ];
    for (number, play) in plays.iter().enumerate() {
        let id = number.to_string();
        let script = Script::on(Operation::PutBlockFromUrl).of(&id).after(3).times(2);
        stage.double.play(script, play.clone());
        stage.publish(&task(&format!("{url}/f"), &id));
    }
    stage.work(stage.download(ALL), plays.len() as i64 - 1).await;
    assert_eq!(stage.why(), Vec::<String>::new());
    for number in 0..plays.len() {
        stage.expect(&number.to_string(), &content(0)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_copies_no_blocks_is_a_store_like_any_other() {
    let stage = Stage::set().await;
    let (_web, url) = Web::default().start().await;
    stage.publish(&task(&format!("{url}/f"), "f"));
    // Azurite itself.
    let address = Secret::new(stage.container.url(ALL));
    let store = ContainerBlobStore::with_signature(&address).expect("valid");
    let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
    let worker = DownloadWorker::new(Arc::new(store), stage.producer(), policy, limits());
    let worker = worker.expect("valid").with_copy(CopyBy::Service);
    let results = stage.work(worker, 0).await;
    stage.expect("f", &content(0)).await;
    assert_eq!(results["f"].attempts, 1);
}
