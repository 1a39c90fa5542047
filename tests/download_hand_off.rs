//! A partition that is handed off in the midst of a large file, over the real SDK: it does not wait for
//! the file, and its next owner goes on where the file was left.
//!
//! `LONGSHORE_HAND_OFF_SECONDS=600` makes it a file of so many seconds, at 1 MB/s; eight at 20 MB/s unless
//! said.
#![allow(missing_docs)]

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use longshore::blob_store::folder::{FolderBlobStore, SyncFiles};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::LeaseOptions;
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::producer::EntityProducer;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::memory::MemoryHub;
use longshore::transport::{Publisher, SendTarget};
use longshore::{
    BatchConsumer, ConsumerHandle, Event, EventContext, EventHandler, Outcome, OutgoingEvent,
};
use serde_json::json;

use support::{LIMIT, drained, until, within};

const CONNECTIONS: usize = 4;
const BLOCK: u64 = 8 * 1024 * 1024;

/// The file that is moved.
#[derive(Clone, Copy)]
struct Large {
    bytes: u64,
    /// Of a connection, in bytes a second.
    pace: u32,
}

impl Large {
    fn asked_for() -> Self {
        let seconds = std::env::var("LONGSHORE_HAND_OFF_SECONDS").ok();
        match seconds.and_then(|seconds| seconds.parse::<u64>().ok()) {
            Some(seconds) => {
                Self { bytes: seconds * 1_000_000, pace: 1_000_000 / CONNECTIONS as u32 }
            }
            // Eight seconds over all connections.
            None => Self { bytes: 20 * BLOCK - 4_321, pace: 5_000_000 },
        }
    }

    /// Waits until the condition holds: as long as all of the file takes, and what else takes its time.
    async fn until(self, what: &str, mut holds: impl FnMut() -> bool) {
        let seconds = self.bytes / (u64::from(self.pace) * CONNECTIONS as u64);
        let limit = LIMIT + Duration::from_secs(seconds);
        let waited = tokio::time::timeout(limit, async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "never came: {what}");
    }
}

/// Serves one large file, each request at its pace, and knows what it sent.
struct Server {
    address: SocketAddr,
    large: Large,
    /// Bytes of bodies.
    sent: AtomicU64,
}

fn byte(at: u64) -> u8 {
    (at * 31 / 7) as u8 ^ (at >> 9) as u8 ^ (at >> 21) as u8
}

impl Server {
    fn start(large: Large) -> Arc<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Arc::new(Self { address, large, sent: AtomicU64::new(0) });
        let serving = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = serving.clone();
                // A client that has what it wanted goes away.
                thread::spawn(move || drop(server.serve(&stream)));
            }
        });
        server
    }

    fn bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        let length = self.large.bytes;
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        loop {
            let mut range = None;
            loop {
                let Some(line) = lines.next().transpose()? else { return Ok(()) };
                if line.is_empty() {
                    break;
                }
                let lower = line.to_ascii_lowercase();
                if let Some(asked) = lower.strip_prefix("range: bytes=") {
                    let (from, to) = asked.split_once('-').expect("a range");
                    let to = to.parse::<u64>().map_or(length, |last| last + 1);
                    range = Some(from.parse().expect("a number")..to.min(length));
                }
            }
            let status = if range.is_some() { "206 Part" } else { "200 All" };
            let given = range.clone().unwrap_or(0..length);
            let bytes = given.end - given.start;
            write!(
                stream,
                "HTTP/1.1 {status}\r\nETag: \"v1\"\r\nAccept-Ranges: bytes\r\nContent-Length: {bytes}\r\n"
            )?;
            if range.is_some() {
                write!(
                    stream,
                    "Content-Range: bytes {}-{}/{length}\r\n",
                    given.start,
                    given.end - 1
                )?;
            }
            write!(stream, "\r\n")?;
            self.give(stream, given)?;
        }
    }

    fn give(&self, mut stream: &TcpStream, given: Range<u64>) -> io::Result<()> {
        const PART: u64 = 64 * 1024;
        let (begun, first) = (Instant::now(), given.start);
        let mut at = first;
        while at < given.end {
            let due = Duration::from_secs_f64((at - first) as f64 / f64::from(self.large.pace));
            thread::sleep(due.saturating_sub(begun.elapsed()));
            let part: Vec<u8> = (at..given.end.min(at + PART)).map(byte).collect();
            at += part.len() as u64;
            self.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
            stream.write_all(&part)?;
        }
        Ok(())
    }
}

/// When what happened to the only task.
#[derive(Clone, Default)]
struct Times(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    begun: Vec<Instant>,
    /// When a handler was told to stop.
    told: Option<Instant>,
    /// When one ended.
    ended: Vec<Instant>,
}

/// A download worker that is watched.
struct Watched(DownloadWorker, Times);

impl EventHandler for Watched {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        let seen = || self.1.0.lock().expect("lock");
        seen().begun.push(Instant::now());
        let (times, stop) = (self.1.clone(), context.handing_off().clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            times.0.lock().expect("lock").told.get_or_insert_with(Instant::now);
        });
        let outcome = self.0.handle(event, context).await;
        seen().ended.push(Instant::now());
        outcome
    }
}

struct Stores {
    checkpoints: Arc<MemoryCheckpointStore>,
    leases: Arc<MemoryLeaseStore>,
    results: MemoryHub,
}

fn start(
    name: &str,
    hub: &Namespace,
    stores: &Stores,
    folder: &Path,
    times: &Times,
) -> ConsumerHandle {
    let mut limits = DownloadLimits::default();
    (limits.block_bytes, limits.connections) = (BLOCK, CONNECTIONS);
    let store = FolderBlobStore::open(folder).expect("a store").with_sync(SyncFiles::Never);
    let worker = DownloadWorker::new(
        Arc::new(store),
        Arc::new(EntityProducer::new(Arc::new(stores.results.publisher()))),
        UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow),
        limits,
    );
    let mut leases = LeaseOptions::default();
    leases.heartbeat_interval = Duration::from_millis(500);
    leases.look_interval = Duration::from_secs(1);
    let transport = Arc::new(EventHubsTransport::new(hub.clone(), "tasks", "$Default"));
    BatchConsumer::builder(transport, stores.checkpoints.clone())
        .worker(name)
        .leases_with(stores.leases.clone(), leases)
        .drain_timeout(Duration::from_secs(60))
        .event_handler(Watched(worker.expect("a worker"), times.clone()))
        .expect("valid")
        .start()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_leaves_in_the_midst_of_a_file_and_its_next_owner_goes_on() {
    let emulator = broker::patient().hub("tasks", 1).start().await.expect("started");
    let hub = broker::namespace(&emulator);
    let large = Large::asked_for();
    let server = Server::start(large);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let stores = Stores {
        checkpoints: Arc::new(MemoryCheckpointStore::new()),
        leases: Arc::new(MemoryLeaseStore::new()),
        results: MemoryHub::new("results", 1),
    };
    let task = json!({ "id": "a", "url": format!("http://{}/a", server.address), "path": "a" });
    let publisher = EventHubsPublisher::new(hub.clone(), "tasks");
    let event = OutgoingEvent::new(task.to_string());
    publisher.send(SendTarget::Any, event).await.expect("published");

    let times = Times::default();
    let first = start("first", &hub, &stores, folder.path(), &times);
    large.until("a part of the file is here", || server.bytes() > large.bytes / 3).await;
    let second = start("second", &hub, &stores, folder.path(), &times);
    // It is there, and has nothing yet.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let exit = within("the first one leaves", drained(first)).await;
    assert!(exit.is_clean(), "{exit}");
    assert_eq!((exit.counts.put_back, exit.counts.retried, exit.counts.done), (1, 0, 0));
    let came = server.bytes();
    assert!(
        came < large.bytes * 9 / 10,
        "the file was there before it could be left: {came} bytes"
    );

    until("its next owner has the task", || times.0.lock().expect("lock").begun.len() == 2).await;
    let (stopped, moved) = {
        let seen = times.0.lock().expect("lock");
        let told = seen.told.expect("told");
        (seen.ended[0] - told, seen.begun[1] - told)
    };
    assert!(stopped < Duration::from_secs(1), "it stopped after {stopped:?}");
    assert!(moved < Duration::from_secs(2), "its next owner began after {moved:?}");

    large
        .until("the file is there", || {
            let partitions = second.snapshot().partitions;
            partitions.first().is_some_and(|one| one.settled_to.is_some_and(|to| to.0 == 0))
        })
        .await;
    let exit = within("the drain", drained(second)).await;
    assert!(exit.is_clean() && exit.counts.done == 1, "{exit}");
    let file = fs::read(folder.path().join("a")).expect("the file");
    assert!(file.len() as u64 == large.bytes && (0..).zip(&file).all(|(at, is)| byte(at) == *is));
    let again = server.bytes().saturating_sub(large.bytes);
    println!("stopped in {stopped:?}, moved in {moved:?}; {came} bytes came before, {again} twice");
    assert!(again < CONNECTIONS as u64 * BLOCK, "{again} bytes were asked for again");
    let results = stores.results.transport("$Default");
    assert_eq!(broker::log_end(&results, "0").await, 1);
}
