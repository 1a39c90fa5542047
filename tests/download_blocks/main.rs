//! A large file over several connections at once, from servers that allow it, and from servers that
//! say so and do something else.
#![allow(missing_docs)]

mod server;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longshore::blob_store::folder::FolderBlobStore;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::ConsumerOptions;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::producer::EntityProducer;
use longshore::state::backoff::Backoff;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::task::hex;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, ConsumerHandle, OutgoingEvent};
use serde_json::json;
use sha2::{Digest, Sha256};

use server::{BLOCK, Kind, LENGTH, Server, content};
use support::{drained, until, within};

/// What became of a file.
struct Came {
    file: Option<Vec<u8>>,
    letters: Vec<String>,
    requests: usize,
    parts: usize,
    most_at_once: usize,
    attempts: usize,
}

/// A worker that has one task.
fn start(
    url: &str,
    folder: &Path,
    (connections, per_host): (usize, Option<usize>),
    sha256: Option<&[u8]>,
) -> (ConsumerHandle, Arc<MemoryDeadLetterSink>) {
    let (tasks, results) = (MemoryHub::new("tasks", 1), MemoryHub::new("results", 1));
    let mut limits = DownloadLimits::default();
    limits.block_bytes = BLOCK;
    limits.connections = connections;
    limits.read_timeout = Duration::from_secs(1);
    let worker = DownloadWorker::new(
        Arc::new(FolderBlobStore::open(folder).expect("a store")),
        Arc::new(EntityProducer::new(Arc::new(results.publisher()))),
        UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow),
        limits,
    );
    let worker = worker.expect("a worker").with_connections_per_host(per_host);
    let mut task = json!({ "id": "a", "url": url, "path": "a" });
    if let Some(sha256) = sha256 {
        task["sha256"] = hex(sha256).into();
    }
    tasks.publish(0, OutgoingEvent::new(task.to_string()));
    let letters = Arc::new(MemoryDeadLetterSink::default());
    let mut options = ConsumerOptions::default();
    options.retry_backoff = Backoff::doubling(Duration::from_millis(10), Duration::from_millis(20));
    let transport = Arc::new(tasks.transport("$Default"));
    let handle = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
        .dead_letters(letters.clone())
        .options(options)
        .event_handler(worker)
        .expect("valid")
        .start();
    (handle, letters)
}

async fn settled(handle: &ConsumerHandle) {
    until("the file or its letter", || {
        handle
            .snapshot()
            .partitions
            .first()
            .is_some_and(|partition| partition.settled_to.is_some_and(|number| number.0 == 0))
    })
    .await;
}

async fn fetched(
    kind: Kind,
    connections: usize,
    per_host: Option<usize>,
    sha256: Option<&[u8]>,
) -> Came {
    let server = Server::start(kind);
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("http://{}/a", server.address);
    let (handle, letters) = start(&url, folder.path(), (connections, per_host), sha256);
    settled(&handle).await;
    let exit = within("the drain", drained(handle)).await;
    let left: HashSet<_> = fs::read_dir(folder.path())
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name != "a")
        .collect();
    assert!(left.is_empty(), "{kind:?} left {left:?}");
    let seen = server.seen.lock().expect("lock");
    Came {
        file: fs::read(folder.path().join("a")).ok(),
        letters: letters.letters().iter().map(|letter| letter.failure.message.clone()).collect(),
        requests: seen.requests,
        parts: seen.parts,
        most_at_once: seen.most_at_once,
        attempts: 1 + exit.counts.retried as usize,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_comes_over_as_many_connections_as_there_are() {
    let right = content(0);
    // Slow enough for all connections to be under way at once.
    let came = fetched(Kind::Right(400_000), 6, None, None).await;
    assert!(came.file == Some(right.clone()), "{:?}", came.letters);
    // The server may hear late that the first body is read no further.
    assert!((6..=7).contains(&came.most_at_once), "{}", came.most_at_once);
    assert_eq!(came.attempts, 1);
    // The first body brings what nobody else has; each other block is asked for once.
    assert!(came.parts <= 11, "{} parts", came.parts);
    assert_eq!(came.requests, came.parts + 1);

    let came = fetched(Kind::Right(2_000_000), 6, Some(2), None).await;
    assert!(came.file == Some(right.clone()));
    assert!((2..=3).contains(&came.most_at_once), "{}", came.most_at_once);
    for (connections, per_host) in [(1, None), (6, Some(1))] {
        let came = fetched(Kind::Right(20_000_000), connections, per_host, None).await;
        assert!(came.file == Some(right.clone()));
        assert_eq!((came.requests, came.parts), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_does_with_parts_the_file_is_right() {
    let right = content(0);
    let hash = Sha256::digest(&right);
    for kind in [
        Kind::NoAcceptRanges,
        Kind::WeakETag,
        Kind::Breaks(20_000),
        Kind::IgnoresRange,
        Kind::OneAtATime,
        Kind::OnceOnly,
        Kind::OtherTotal,
        Kind::FallsSilent,
        Kind::ShortParts,
        Kind::WrongBytes,
    ] {
        let came = fetched(kind, 4, None, Some(&hash)).await;
        assert!(came.file == Some(right.clone()), "{kind:?}: {:?}", came.letters);
        if matches!(kind, Kind::NoAcceptRanges | Kind::WeakETag) {
            assert_eq!((came.requests, came.parts), (1, 0), "{kind:?}");
        }
        assert!(came.requests <= 60, "{kind:?}: {} requests", came.requests);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_are_never_joined() {
    let came = fetched(Kind::Changes, 4, None, None).await;
    assert!(came.file == Some(content(1)), "{:?}", came.letters);
    // What was there of the other version was of no use.
    assert!(came.requests >= 5);
    let hash = Sha256::digest(content(0));
    let came = fetched(Kind::Changes, 4, None, Some(&hash)).await;
    assert!(came.file.is_none());
    assert!(
        came.letters.iter().any(|letter| letter.contains("the SHA-256 is")),
        "{:?}",
        came.letters
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_left_of_a_file_is_not_fetched_again() {
    const CAME: u64 = 7 * BLOCK;
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(Kind::StopsAfter(CAME));
    let url = format!("http://{}/a", server.address);
    let (mut handle, _) = start(&url, folder.path(), (3, None), None);
    until("most of it", || server.seen.lock().expect("lock").sent >= CAME).await;
    let kept = folder.path().join(".longshore/unfinished");
    until("it is written", || {
        let journal = fs::read_dir(&kept).into_iter().flatten().flatten();
        let journal = journal.map(|entry| entry.path()).find(|path| path.extension().is_some());
        let text = journal.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        text.lines().count() >= 5
    })
    .await;
    // The call of the handler is dropped.
    handle.stop();
    within("the stop", handle.join()).await;

    server.becomes(Kind::Right(50_000_000));
    let (handle, letters) = start(&url, folder.path(), (3, None), None);
    settled(&handle).await;
    let file = fs::read(folder.path().join("a")).ok();
    assert!(file == Some(content(0)), "{:?}", letters.letters());
    let (sent, requests) = {
        let seen = server.seen.lock().expect("lock");
        (seen.sent, seen.requests)
    };
    // What was under way, and not written, comes again: a block a stream at most.
    assert!(sent <= LENGTH - CAME + 5 * BLOCK, "{sent} bytes in {requests} requests");
    assert_eq!(fs::read_dir(&kept).map_or(0, Iterator::count), 0);
    assert!(within("the drain", drained(handle)).await.is_clean());
}
