//! Files of odd servers, of odd lengths and in odd company into a container: each blob is right, or absent with
//! a dead letter that names the task and says why, and no other task is lost. Needs Azurite, which scripts/test
//! installs.
#![allow(missing_docs)]

mod azurite;
#[path = "download_blocks/server.rs"]
mod server;
mod support;

use std::sync::Arc;
use std::time::Duration;

use azurite::{ALL, Container};
use longshore::blob_store::BlobName;
use longshore::blob_store::container::ContainerBlobStore;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::ConsumerOptions;
use longshore::consumer::ConsumerExit;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::producer::EntityProducer;
use longshore::secret::Secret;
use longshore::state::backoff::Backoff;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::task::{DownloadTask, hex};
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, OutgoingEvent};
use serde_json::{Value, json};
use server::{BLOCK, Kind, Server, bytes_of, content};
use sha2::{Digest, Sha256};
use support::{drained, until, within};

/// Ten streams have two blocks each.
const BUDGET: u64 = 20 * BLOCK;
const STREAMS: usize = 10;

/// A hub of tasks, and what became of them.
struct Work {
    container: Container,
    limits: DownloadLimits,
    tasks: Vec<Value>,
}

/// What became of all tasks.
struct Came {
    letters: Vec<String>,
    results: i64,
    exit: ConsumerExit,
}

impl Work {
    async fn new() -> Self {
        let mut limits = DownloadLimits::default();
        (limits.block_bytes, limits.connections) = (BLOCK, 4);
        limits.read_timeout = Duration::from_secs(1);
        Self { container: Container::create().await, limits, tasks: Vec::new() }
    }

    /// A task for the file of a server, under this path.
    fn task(&mut self, server: &Server, path: &str) -> &mut Value {
        let (url, path) = (server.url().parse().expect("a URL"), BlobName::parse(path));
        let task =
            DownloadTask::new(format!("of {}", self.tasks.len()), url, path.expect("a name"));
        self.tasks.push(serde_json::from_slice(&task.to_json()).expect("JSON"));
        self.tasks.last_mut().expect("the task")
    }

    /// Moves all of them.
    async fn run(&self) -> Came {
        let (tasks, results) = (MemoryHub::new("tasks", 1), MemoryHub::new("results", 1));
        for task in &self.tasks {
            tasks.publish(0, OutgoingEvent::new(task.to_string()));
        }
        let store = ContainerBlobStore::with_signature(&Secret::new(self.container.url(ALL)));
        let worker = DownloadWorker::new(
            Arc::new(store.expect("valid").with_budget(BUDGET, STREAMS)),
            Arc::new(EntityProducer::new(Arc::new(results.publisher()))),
            UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow),
            self.limits,
        );
        let letters = Arc::new(MemoryDeadLetterSink::default());
        let mut options = ConsumerOptions::default();
        let first = Duration::from_millis(10);
        options.retry_backoff = Backoff::doubling(first, 2 * first);
        // Of some hosts there is one file, which fails.
        options.max_age = Duration::ZERO;
        let checkpoints = Arc::new(MemoryCheckpointStore::new());
        let handle = BatchConsumer::builder(Arc::new(tasks.transport("$Default")), checkpoints)
            .dead_letters(letters.clone())
            .options(options)
            .event_handler(worker.expect("a worker"))
            .expect("valid")
            .start();
        let last = self.tasks.len() as i64 - 1;
        until("all files or their letters", || {
            let partitions = handle.snapshot().partitions;
            partitions.first().is_some_and(|one| one.settled_to.is_some_and(|to| to.0 == last))
        })
        .await;
        let exit = within("the drain", drained(handle)).await;
        let letters = letters.letters();
        let told = letters.iter().map(|letter| {
            let failure = &letter.failure;
            format!("{}: {}", failure.message, failure.causes.join(": "))
        });
        let results = exit.counts.done as i64;
        Came { letters: told.collect(), results, exit }
    }

    async fn has(&self, path: &str, content: &[u8]) {
        assert!(self.container.content(path).await.as_deref() == Some(content), "{path}");
        assert_eq!(self.container.staged(path).await, 0, "{path}: nothing is left over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_does_with_parts_the_blob_is_right() {
    let right = content(0);
    let hash = hex(&Sha256::digest(&right));
    for kind in [
        Kind::Right(4_000_000),
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
        let (server, mut work) = (Server::start(kind), Work::new().await);
        work.task(&server, "a")["sha256"] = hash.as_str().into();
        let came = work.run().await;
        assert!(came.letters.is_empty(), "{kind:?}: {:?}", came.letters);
        work.has("a", &right).await;
        let seen = server.seen.lock().expect("lock");
        if matches!(kind, Kind::NoAcceptRanges | Kind::WeakETag) {
            assert_eq!((seen.requests, seen.parts), (1, 0), "{kind:?}");
        }
        assert!(seen.requests <= 60, "{kind:?}: {} requests", seen.requests);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_are_never_joined_in_a_blob() {
    let (server, mut work) = (Server::start(Kind::Changes), Work::new().await);
    work.task(&server, "a");
    let came = work.run().await;
    assert!(came.letters.is_empty(), "{:?}", came.letters);
    work.has("a", &content(1)).await;

    // Blocks of the first version are staged, and the second one is not what was asked for.
    let (server, mut work) = (Server::start(Kind::Changes), Work::new().await);
    work.task(&server, "a")["sha256"] = hex(&Sha256::digest(content(0))).into();
    let came = work.run().await;
    let [letter] = &came.letters[..] else { unreachable!("{:?}", came.letters) };
    assert!(letter.contains("task of 0: ") && letter.contains("the SHA-256 is"), "{letter}");
    assert_eq!(work.container.content("a").await, None);
    // What is left of it is of no use to the next task.
    server.becomes(Kind::Right(20_000_000));
    work.tasks.clear();
    work.task(&server, "a");
    let came = work.run().await;
    assert!(came.letters.is_empty(), "{:?}", came.letters);
    work.has("a", &content(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_length_around_a_block_are_blobs() {
    let mut work = Work::new().await;
    let lengths = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1];
    let mut servers = Vec::new();
    for length in lengths {
        for kind in [Kind::Right(20_000_000), Kind::NoAcceptRanges] {
            let server = Server::of(kind, length);
            let path = format!("{length}/{kind:?}");
            work.task(&server, &path)["size"] = length.into();
            servers.push((server, path, length));
        }
    }
    let came = work.run().await;
    assert!(came.letters.is_empty(), "{:?}", came.letters);
    for (_, path, length) in &servers {
        work.has(path, &bytes_of(0, *length)).await;
    }
    assert_eq!(came.results, servers.len() as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tasks_for_one_blob_at_once_each_stores_it_whole() {
    let (one, two) = (11 * BLOCK + 4_321, 3 * BLOCK + 1);
    let servers = [Server::of(Kind::Right(1_000_000), one), Server::of(Kind::Right(200_000), two)];
    let mut work = Work::new().await;
    for path in ["a", "b", "c"] {
        for server in &servers {
            work.task(server, path);
        }
    }
    let came = work.run().await;
    assert!(came.letters.is_empty(), "{:?}", came.letters);
    // Whoever was later replaced what it saw, and looked again where that had changed meanwhile.
    assert_eq!(came.results, 6);
    for path in ["a", "b", "c"] {
        let there = work.container.content(path).await.expect("a blob");
        assert!([one, two].iter().any(|length| there == bytes_of(0, *length)), "{path}");
        assert_eq!(work.container.staged(path).await, 0, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_no_blob_is_a_letter_that_names_its_task_and_nothing_else_is_lost() {
    let mut work = Work::new().await;
    let fine = Server::start(Kind::Right(20_000_000));
    work.container.append_blob("appended").await;
    work.container.put("leased", &[]).await;
    work.container.lease("leased").await;
    // 4.7 TiB, and what no service holds.
    let (large, endless) = (Server::of(Kind::Announces(5_167_704_000_000), 1), 1 << 60);
    let endless = Server::of(Kind::Announces(endless), 1);
    work.limits.max_bytes = u64::MAX;
    work.task(&fine, "first");
    for (server, path) in [
        (&fine, "appended"),
        (&fine, "leased"),
        (&large, "large"),
        (&endless, "endless"),
        (&fine, "in/the/midst"),
    ] {
        work.task(server, path);
    }
    let short = Server::of(Kind::Right(20_000_000), 10);
    // A folder could not have both.
    for (server, path) in [(&fine, "both"), (&short, "both/below"), (&short, "appended")] {
        work.task(server, path);
    }
    let came = work.run().await;
    for (task, why) in [
        (1, "a page blob or an append blob has its name; delete that"),
        (2, "remove the lease"),
        (3, "more than the transfer budget of 1310720; raise it"),
        (4, "more than the transfer budget of 1310720; raise it"),
        (8, "a page blob or an append blob has its name; delete that"),
    ] {
        let named = format!("task of {task}: ");
        let letter = came.letters.iter().find(|letter| letter.starts_with(&named));
        let letter = letter.unwrap_or_else(|| unreachable!("{task}: {:?}", came.letters));
        assert!(letter.contains(why), "{letter}");
    }
    assert_eq!((came.letters.len(), came.results), (5, 4), "{:?}", came.letters);
    for path in ["first", "in/the/midst", "both"] {
        work.has(path, &content(0)).await;
    }
    work.has("both/below", &bytes_of(0, 10)).await;
    assert_eq!(work.container.content("leased").await, Some(Vec::new()), "as it was");
    assert!(came.exit.is_clean(), "{}", came.exit);

    // Without a word about the budget where nobody wants so large a file.
    work.tasks = Vec::new();
    work.limits.max_bytes = DownloadLimits::default().max_bytes;
    work.task(&large, "large");
    let came = work.run().await;
    let limit = work.limits.max_bytes.to_string();
    assert!(came.letters.len() == 1 && came.letters[0].contains(&limit), "{:?}", came.letters);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_none_names_what_is_wrong_and_the_next_one_is_done() {
    let (fine, mut work) = (Server::start(Kind::Right(20_000_000)), Work::new().await);
    for path in ["", "/a", "a//b", "../a", "a/./b", "a\\b", "a\n"] {
        work.tasks.push(json!({ "id": "odd", "url": fine.url(), "path": path }));
    }
    work.task(&fine, "a");
    let came = work.run().await;
    assert_eq!((came.letters.len(), came.results), (7, 1), "{:?}", came.letters);
    assert!(came.letters.iter().all(|letter| letter.contains("path")), "{:?}", came.letters);
    work.has("a", &content(0)).await;
    assert_eq!(work.container.names().await, ["a"]);
}
