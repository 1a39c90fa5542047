//! A worker whose container is not there or refuses it waits, says why, and can be stopped. Needs
//! Azurite, which scripts/test installs.

mod azurite;
mod support;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azurite::{ALL, Container};
use longshore::checkpoint_store::blob::BlobCheckpointStore;
use longshore::config::LeaseOptions;
use longshore::lease_store::blob::BlobLeaseStore;
use longshore::secret::Secret;
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, ConsumerHandle, Event, EventContext, OutgoingEvent};
use support::{Seen, drained, until};
use tokio::time::{Instant, timeout};
use tracing::Level;
use tracing::subscriber::DefaultGuard;

const PARTITIONS: usize = 2;
const EVENTS: usize = 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// What must come has come by then.
const PATIENCE: Duration = Duration::from_secs(30);

const HEARTBEAT_FAILED: &str = "the heartbeat cannot be written";
const CLAIM_FAILED: &str = "the partition could not be claimed";
const NOT_THERE: &str = "does not exist; create it";
const REFUSED: &str = "refused (403";

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen(&self) -> DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::INFO)
            .with_writer(move || log.clone())
            .with_ansi(false);
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("lock").clone()).expect("text")
    }

    /// How many lines say both.
    fn count(&self, what: &str, why: &str) -> usize {
        let text = self.text();
        text.lines().filter(|line| line.contains(what) && line.contains(why)).count()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A worker over these addresses of containers, and what its handler saw. Everything runs on the
/// thread of the test, whose log it is.
struct Worker {
    handle: ConsumerHandle,
    seen: Seen,
    log: Log,
    _logging: DefaultGuard,
}

impl Worker {
    fn start(leases: &str, checkpoints: &str) -> Self {
        let log = Log::default();
        let logging = log.listen();
        let hub = MemoryHub::new("orders", PARTITIONS);
        for number in 0..EVENTS {
            hub.publish(number % PARTITIONS, OutgoingEvent::new(format!("{number}")));
        }
        let checkpoints = BlobCheckpointStore::with_signature(&Secret::new(checkpoints));
        let leases = BlobLeaseStore::with_signature(&Secret::new(leases)).expect("valid");
        let mut options = LeaseOptions::default();
        options.heartbeat_interval = Duration::from_millis(200);
        options.look_interval = Duration::from_millis(200);
        options.lease_expiry = Duration::from_secs(6);
        let seen = Seen::default();
        let record = seen.clone();
        let transport = Arc::new(hub.transport("$Default"));
        let handle = BatchConsumer::builder(transport, Arc::new(checkpoints.expect("valid")))
            .leases_with(Arc::new(leases), options)
            .drain_timeout(DRAIN_TIMEOUT)
            .event_handler(move |event: Event, _: EventContext| {
                record.record(&event);
                async {}
            })
            .expect("valid")
            .start();
        Self { handle, seen, log, _logging: logging }
    }

    /// Tries again and again, and says so.
    async fn waits(&self, what: &str, why: &str) {
        let again = until("tried again", || self.log.count(what, why) >= 3);
        let tried = timeout(PATIENCE, again).await;
        assert!(tried.is_ok(), "{}", self.log.text());
        assert!(timeout(Duration::from_millis(300), self.handle.ended()).await.is_err(), "it runs");
        assert_eq!(self.seen.len(), 0);
        assert!(!self.handle.is_ready());
    }

    async fn drains(self) {
        let begun = Instant::now();
        let exit = drained(self.handle).await;
        assert!(begun.elapsed() <= DRAIN_TIMEOUT, "{:?}\n{}", begun.elapsed(), self.log.text());
        assert!(exit.is_clean(), "{exit:?}");
        assert!(!self.log.text().contains("sig="), "{}", self.log.text());
    }
}

#[tokio::test]
async fn a_worker_begins_to_work_when_its_container_is_created() {
    let container = Container::absent();
    let url = container.url(ALL);
    let worker = Worker::start(&url, &url);
    worker.waits(HEARTBEAT_FAILED, NOT_THERE).await;
    container.make().await;
    let works = until("handled", || worker.seen.len() >= EVENTS && worker.handle.is_ready());
    assert!(timeout(PATIENCE, works).await.is_ok(), "{}", worker.log.text());
    worker.drains().await;
}

#[tokio::test]
async fn a_worker_without_its_container_drains_in_time() {
    let url = Container::absent().url(ALL);
    let worker = Worker::start(&url, &url);
    worker.waits(HEARTBEAT_FAILED, NOT_THERE).await;
    worker.drains().await;
}

#[tokio::test]
async fn a_worker_that_may_not_enter_its_container_waits_and_drains_in_time() {
    let container = Container::create().await;
    // Not what was signed.
    let url = container.url("rl").replace("sp=rl", "sp=rwl");
    let worker = Worker::start(&url, &url);
    worker.waits(HEARTBEAT_FAILED, REFUSED).await;
    worker.drains().await;
}

#[tokio::test]
async fn a_worker_that_may_only_read_its_container_waits_and_drains_in_time() {
    let url = Container::create().await.url("rl");
    let worker = Worker::start(&url, &url);
    worker.waits(HEARTBEAT_FAILED, REFUSED).await;
    worker.drains().await;
}

#[tokio::test]
async fn a_worker_that_may_only_read_its_checkpoints_waits_and_drains_in_time() {
    let container = Container::create().await;
    let worker = Worker::start(&container.url(ALL), &container.url("rl"));
    worker.waits(CLAIM_FAILED, REFUSED).await;
    worker.drains().await;
}
