//! Files from a web server into a folder, and from there into a container: the results of a download
//! worker are the tasks of an upload worker. Needs Azurite, which scripts/test installs.
#![allow(missing_docs)]

mod azurite;
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::response::{IntoResponse, Response};
use azurite::{ALL, Container};
use bytes::Bytes;
use longshore::blob_store::BlobName;
use longshore::blob_store::container::ContainerBlobStore;
use longshore::blob_store::folder::FolderBlobStore;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::producer::EntityProducer;
use longshore::secret::Secret;
use longshore::transfer::download::{DownloadWorker, ExistingFiles};
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::task::{DownloadTask, TransferResult, UploadTask, hex};
use longshore::transfer::upload::UploadWorker;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, ConsumerHandle, Event, EventContext, EventHandler, OutgoingEvent};
use sha2::{Digest, Sha256};
use support::{drained, until, within};

type Files = Arc<BTreeMap<String, Bytes>>;

/// Most are short; some are uploaded in blocks.
fn files() -> Files {
    let content = |seed: usize, bytes: usize| {
        (0..bytes)
            .map(|at| (at * 31 / 7 + seed) as u8 ^ (at >> 9) as u8)
            .collect::<Vec<u8>>()
            .into()
    };
    let lengths = [0, 1, 17, 4_096, 70_000, 262_144, 300_001, 900_000];
    let file = |(seed, bytes): (usize, usize)| (format!("f{seed}"), content(seed, bytes));
    Arc::new(lengths.into_iter().cycle().take(24).enumerate().map(file).collect())
}

async fn serve(files: Files) -> String {
    async fn file(State(files): State<Files>, UrlPath(name): UrlPath<String>) -> Response {
        files[&name].clone().into_response()
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = Router::new().route("/{name}", axum::routing::get(file)).with_state(files);
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn limits() -> DownloadLimits {
    let mut limits = DownloadLimits::default();
    limits.block_bytes = 64 << 10;
    limits.connections = 4;
    limits
}

/// Handles the events of a hub until the test drains it.
fn run(
    hub: &MemoryHub,
    letters: &Arc<MemoryDeadLetterSink>,
    handler: impl EventHandler,
) -> ConsumerHandle {
    let checkpoints = Arc::new(MemoryCheckpointStore::new());
    BatchConsumer::builder(Arc::new(hub.transport("$Default")), checkpoints)
        .dead_letters(letters.clone())
        .max_events_in_flight(8)
        .event_handler(handler)
        .expect("valid")
        .start()
}

fn producer(hub: &MemoryHub) -> Arc<EntityProducer> {
    Arc::new(EntityProducer::new(Arc::new(hub.publisher())))
}

fn download(folder: &Path, results: &MemoryHub) -> DownloadWorker {
    let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
    let store = Arc::new(FolderBlobStore::open(folder).expect("a folder"));
    DownloadWorker::new(store, producer(results), policy, limits()).expect("a worker")
}

fn upload(folder: &Path, container: &Container, results: &MemoryHub) -> UploadWorker {
    let url = Secret::new(container.url(ALL));
    let store = ContainerBlobStore::with_signature(&url).expect("valid").with_budget(1 << 20, 8);
    let files = Arc::new(FolderBlobStore::open(folder).expect("a folder"));
    UploadWorker::new(files, Arc::new(store), producer(results), limits())
}

/// The results of a hub, as they come.
fn results(hub: &MemoryHub) -> (Arc<Mutex<BTreeMap<String, TransferResult>>>, ConsumerHandle) {
    let came = Arc::new(Mutex::new(BTreeMap::new()));
    let letters = Arc::new(MemoryDeadLetterSink::new());
    let record = came.clone();
    let reader = run(hub, &letters, move |event: Event, _: EventContext| {
        let result: TransferResult = serde_json::from_slice(event.body()).expect("a result");
        record.lock().expect("lock").insert(result.id.clone(), result);
        async {}
    });
    (came, reader)
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_downloads_are_tasks_of_uploads_and_every_file_arrives() {
    let (files, container) = (files(), Container::create().await);
    let folder = tempfile::tempdir().expect("a folder");
    let url = serve(Arc::clone(&files)).await;
    let [pending, cached, uploaded] =
        ["pending", "cached", "uploaded"].map(|name| MemoryHub::new(name, 2));
    for (number, (name, content)) in files.iter().enumerate() {
        let url = format!("{url}/{name}").parse().expect("a URL");
        let path = BlobName::parse(&format!("d/{name}")).expect("a name");
        let mut task = DownloadTask::new(name, url, path);
        // The hash travels with some of them.
        task.sha256 = (number % 2 == 0).then(|| Sha256::digest(content).into());
        pending.publish(number % 2, OutgoingEvent::new(task.to_json()));
    }
    let letters = Arc::new(MemoryDeadLetterSink::new());
    let downloads = run(&pending, &letters, download(folder.path(), &cached));
    let uploads = run(&cached, &letters, upload(folder.path(), &container, &uploaded));
    let (came, reader) = results(&uploaded);
    until("all results", || came.lock().expect("lock").len() == files.len()).await;
    for handle in [downloads, uploads, reader] {
        within("the drain", drained(handle)).await;
    }
    assert!(letters.letters().is_empty(), "{:?}", letters.letters());
    for (name, content) in &*files {
        let path = format!("d/{name}");
        assert!(container.content(&path).await.as_deref() == Some(&content[..]), "{path}");
        let came = came.lock().expect("lock");
        let result = &came[name];
        assert_eq!((result.path.as_str(), result.bytes), (path.as_str(), content.len() as u64));
        // A result of the first stage always has the hash, which the second one checked.
        assert_eq!(result.sha256.as_deref(), Some(hex(&Sha256::digest(content)).as_str()));
        assert!(result.crc64.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_comes_again_moves_nothing_and_a_wrong_file_is_a_letter() {
    let container = Container::create().await;
    let folder = tempfile::tempdir().expect("a folder");
    let content = vec![7; 200_000];
    for name in ["a", "b", "c"] {
        std::fs::write(folder.path().join(name), &content).expect("written");
    }
    let (tasks, done) = (MemoryHub::new("tasks", 1), MemoryHub::new("done", 1));
    let name = |name| BlobName::parse(name).expect("a name");
    let right = UploadTask::new("right", name("a"));
    let mut wrong = UploadTask::new("wrong sum", name("b"));
    wrong.crc64 = Some(1);
    let mut long = UploadTask::new("wrong length", name("c"));
    long.size = Some(3);
    let absent = UploadTask::new("absent", name("none"));
    for task in [&right, &wrong, &long, &absent] {
        tasks.publish(0, OutgoingEvent::new(task.to_json()));
    }
    let letters = Arc::new(MemoryDeadLetterSink::new());
    let worker = upload(folder.path(), &container, &done);
    let uploads = run(&tasks, &letters, worker.with_existing(ExistingFiles::Verify));
    let (came, reader) = results(&done);
    until("the letters", || letters.letters().len() == 3).await;
    until("the result", || came.lock().expect("lock").len() == 1).await;
    let version = container.header("a", "etag").await;
    // Another delivery of the same task.
    tasks.publish(0, OutgoingEvent::new(right.to_json()));
    until("the second", || uploads.snapshot().partitions[0].settled_to.is_some_and(|at| at.0 == 4))
        .await;
    for handle in [uploads, reader] {
        within("the drain", drained(handle)).await;
    }
    assert_eq!(container.header("a", "etag").await, version);
    let mut why: Vec<_> = letters.letters().iter().map(|it| it.failure.message.clone()).collect();
    why.sort();
    let root = folder.path().canonicalize().expect("a folder");
    for (why, (task, what)) in why.iter().zip([
        ("absent", "there is no such file"),
        ("wrong length", "200000 bytes where the task said 3"),
        ("wrong sum", "not 0000000000000001"),
    ]) {
        assert!(why.starts_with(&format!("task {task}: {}", root.display())), "{why}");
        assert!(why.contains(what), "{why}");
    }
    for name in ["b", "c", "none"] {
        assert_eq!(container.content(name).await, None);
    }
}
