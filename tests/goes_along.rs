//! What goes along with a file into a folder or a container, beside its bytes. Needs Azurite, which
//! scripts/test installs.
#![allow(missing_docs)]

mod azurite;
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use azurite::{ALL, Container};
use longshore::blob_store::container::ContainerBlobStore;
use longshore::blob_store::folder::FolderBlobStore;
use longshore::blob_store::{BlobName, BlobStore, Commit};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::producer::EntityProducer;
use longshore::secret::Secret;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::goes_along::{AccessTier, FileTime, GoesAlong, MetadataOf};
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::task::{DownloadTask, UploadTask};
use longshore::transfer::upload::UploadWorker;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, EventHandler, OutgoingEvent};
use serde_json::json;
use support::{drained, until, within};

/// One of them comes in one request, the other in blocks.
const LENGTHS: [usize; 2] = [1_000, 400_000];

fn limits() -> DownloadLimits {
    let mut limits = DownloadLimits::default();
    limits.block_bytes = 64 << 10;
    limits.connections = 4;
    limits
}

fn store(container: &Container) -> Arc<ContainerBlobStore> {
    let url = Secret::new(container.url(ALL));
    Arc::new(ContainerBlobStore::with_signature(&url).expect("valid").with_budget(1 << 20, 8))
}

fn folder(path: &Path) -> Arc<FolderBlobStore> {
    Arc::new(FolderBlobStore::open(path).expect("a folder"))
}

fn name(text: &str) -> BlobName {
    BlobName::parse(text).expect("a name")
}

fn producer() -> Arc<EntityProducer> {
    Arc::new(EntityProducer::new(Arc::new(MemoryHub::new("done", 1).publisher())))
}

/// Handles these tasks; why those became dead letters that did.
async fn handled(tasks: Vec<Vec<u8>>, worker: impl EventHandler) -> Vec<String> {
    let hub = MemoryHub::new("tasks", 1);
    let last = tasks.len() as i64 - 1;
    for task in tasks {
        hub.publish(0, OutgoingEvent::new(task));
    }
    let letters = Arc::new(MemoryDeadLetterSink::new());
    let checkpoints = Arc::new(MemoryCheckpointStore::new());
    let consumer = BatchConsumer::builder(Arc::new(hub.transport("$Default")), checkpoints)
        .dead_letters(letters.clone())
        .event_handler(worker)
        .expect("valid")
        .start();
    let settled = || consumer.snapshot().partitions.first()?.settled_to;
    until("all are settled", || settled().is_some_and(|at| at.0 == last)).await;
    within("the drain", drained(consumer)).await;
    letters.letters().iter().map(|letter| letter.failure.message.clone()).collect()
}

/// The metadata of a blob that is no note of ours.
async fn metadata(container: &Container, path: &str, name: &str) -> Option<String> {
    container.header(path, &format!("x-ms-meta-{name}")).await
}

/// A time that no clock of now shows.
fn past() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(784_111_777, 0)
}

const PAST: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

async fn put(store: &ContainerBlobStore, path: &str, bytes: usize, commit: Commit) {
    let mut writer = store.open(&name(path), None).await.expect("opened");
    writer.write(vec![7; bytes].into()).await.expect("written");
    writer.commit(commit).await.expect("committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_time_and_tier_go_along_from_one_container_to_another() {
    let (from, to) = (Container::create().await, Container::create().await);
    for bytes in LENGTHS {
        let metadata = [("owner", "b"), ("kept", "1")];
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let commit = Commit::default()
            .with_metadata(metadata.into())
            .with_content_type(Some("image/jpeg".to_owned()))
            .with_modified(Some(past() + Duration::from_nanos(1)));
        put(&store(&from), &format!("f{bytes}"), bytes, commit).await;
    }
    let along = GoesAlong::new()
        .with_metadata(MetadataOf::Both)
        .with_time(FileTime::Source)
        .with_tier(Some(AccessTier::Cool));
    let tasks = LENGTHS.map(|bytes| {
        let mut task = UploadTask::new("t", name(&format!("f{bytes}")));
        task.metadata.insert("Owner".to_owned(), "a".into());
        task.metadata.insert("page".to_owned(), 7.into());
        task.to_json()
    });
    let worker = UploadWorker::new(store(&from), store(&to), producer(), limits());
    let letters = handled(tasks.to_vec(), worker.with_along(along)).await;
    assert_eq!(letters, Vec::<String>::new());
    for bytes in LENGTHS {
        let path = format!("f{bytes}");
        assert_eq!(to.content(&path).await.map(|it| it.len()), Some(bytes));
        for (name, value) in [
            ("owner", "a"),
            ("page", "7"),
            ("kept", "1"),
            ("mtime", "1994-11-06T08:49:37.000000001Z"),
        ] {
            assert_eq!(metadata(&to, &path, name).await.as_deref(), Some(value), "{path} {name}");
        }
        assert!(metadata(&to, &path, "longshore").await.expect("a note").starts_with("v1 "));
        assert_eq!(to.header(&path, "x-ms-access-tier").await.as_deref(), Some("Cool"));
        assert_eq!(to.header(&path, "content-type").await.as_deref(), Some("image/jpeg"));
    }

    // And back, to files that have that time; nothing goes along that nobody asked for.
    let dir = tempfile::tempdir().expect("a folder");
    let tasks = LENGTHS.map(|bytes| UploadTask::new("t", name(&format!("f{bytes}"))).to_json());
    let worker = UploadWorker::new(store(&to), folder(dir.path()), producer(), limits());
    let along = GoesAlong::new().with_time(FileTime::Source);
    assert_eq!(handled(tasks.to_vec(), worker.with_along(along)).await, Vec::<String>::new());
    let worker = UploadWorker::new(store(&to), store(&from), producer(), limits());
    assert_eq!(handled(tasks.to_vec(), worker).await, Vec::<String>::new());
    for bytes in LENGTHS {
        let path = format!("f{bytes}");
        let file = std::fs::metadata(dir.path().join(&path)).expect("a file");
        assert_eq!(file.modified().expect("a time"), past() + Duration::from_nanos(1));
        assert_eq!(metadata(&from, &path, "owner").await, None);
        assert_eq!(metadata(&from, &path, "mtime").await, None);
    }
}

/// Serves every path as this many bytes that were changed long ago, with ranges.
async fn serve(bytes: usize, asked: Arc<AtomicUsize>) -> String {
    let file = move |headers: HeaderMap| {
        asked.fetch_add(1, Ordering::Relaxed);
        async move { answer(bytes, &headers) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = Router::new().fallback(file);
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn answer(bytes: usize, headers: &HeaderMap) -> Response {
    let said = [("last-modified", PAST), ("etag", "\"v1\""), ("accept-ranges", "bytes")];
    let range = headers.get("range").and_then(|range| range.to_str().ok());
    let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        return (said, vec![7; bytes]).into_response();
    };
    let from: usize = range.0.parse().expect("a number");
    let to = range.1.parse::<usize>().map_or(bytes, |last| last + 1);
    let range = format!("bytes {from}-{}/{bytes}", to - 1);
    (axum::http::StatusCode::PARTIAL_CONTENT, said, [("content-range", range)], vec![7; to - from])
        .into_response()
}

fn download(store: Arc<dyn BlobStore>, along: GoesAlong) -> DownloadWorker {
    let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
    let worker = DownloadWorker::new(store, producer(), policy, limits()).expect("a worker");
    worker.with_along(along)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_web_server_keep_their_time() {
    let along = GoesAlong::new().with_time(FileTime::Source);
    for bytes in LENGTHS {
        let url = serve(bytes, Arc::default()).await;
        let (dir, container) = (tempfile::tempdir().expect("a folder"), Container::create().await);
        let task = DownloadTask::new("t", format!("{url}/f").parse().expect("a URL"), name("f"));
        let tasks = vec![task.to_json()];
        let letters = handled(tasks.clone(), download(folder(dir.path()), along)).await;
        assert_eq!(letters, Vec::<String>::new());
        let file = std::fs::metadata(dir.path().join("f")).expect("a file");
        assert_eq!((file.len(), file.modified().expect("a time")), (bytes as u64, past()));
        let letters = handled(tasks, download(store(&container), along)).await;
        assert_eq!(letters, Vec::<String>::new());
        let time = metadata(&container, "f", "mtime").await;
        assert_eq!(time.as_deref(), Some("1994-11-06T08:49:37.000000000Z"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_a_blob_cannot_have_is_a_letter_before_anything_is_asked_for() {
    let container = Container::create().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let url = serve(LENGTHS[0], Arc::clone(&asked)).await;
    let task = |id: &str, metadata: serde_json::Value| {
        let mut task = DownloadTask::new(id, format!("{url}/f").parse().expect("a URL"), name(id));
        task.metadata = metadata.as_object().expect("an object").clone();
        task.to_json()
    };
    let tasks = vec![
        task("name", json!({"a-b": "x"})),
        task("value", json!({"a": "ü"})),
        task("list", json!({"a": [1]})),
        task("long", json!({"a": "x".repeat(9_000)})),
        task("header", json!({"a": "x\r\nx-ms-meta-b: y"})),
    ];
    let along = GoesAlong::new().with_metadata(MetadataOf::Task);
    let mut letters = handled(tasks.clone(), download(store(&container), along)).await;
    letters.sort();
    assert_eq!(letters.len(), tasks.len(), "{letters:?}");
    for (letter, id) in letters.iter().zip(["header", "list", "long", "name", "value"]) {
        let begin = format!("task {id}: its metadata cannot go along: ");
        assert!(letter.starts_with(&begin), "{letter}");
        assert_eq!(container.content(id).await, None);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    // Where it does not go along, it is only passed through.
    let letters = handled(tasks, download(store(&container), GoesAlong::new())).await;
    assert_eq!(letters, Vec::<String>::new());
}
