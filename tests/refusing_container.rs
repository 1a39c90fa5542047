//! A worker whose container is not there or refuses it waits, says why, and can be stopped. Needs
//! Azurite, which scripts/test installs.

#![allow(clippy::panic, missing_docs)]

mod azurite;
#[path = "support/log.rs"]
mod log;
mod support;

use std::sync::Arc;
use std::time::Duration;

use azurite::{ALL, Container};
use log::Log;
use longshore::checkpoint_store::blob::BlobCheckpointStore;
use longshore::config::LeaseOptions;
use longshore::consumer::{ConsumerExit, ExitReason, Unreached};
use longshore::lease_store::blob::BlobLeaseStore;
use longshore::secret::Secret;
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, ConsumerHandle, Event, EventContext, OutgoingEvent};
use support::waiting::found;
use support::{LIMIT, Seen, drained};
use tokio::time::{Instant, timeout};
use tracing::subscriber::DefaultGuard;

const PARTITIONS: usize = 2;
const EVENTS: usize = 10;
/// The promise is that a drain ends within it; here it takes a moment, on a busy machine seconds.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

const HEARTBEAT_FAILED: &str = "the heartbeat cannot be written";
const CLAIM_FAILED: &str = "the partition could not be claimed";
const NOT_THERE: &str = "does not exist; create it";
const REFUSED: &str = "refused (403";

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
        let logging = log.of_this_thread();
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
            // What is waited for comes when the test lets it.
            .connect_timeout(None)
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
        let again = || match self.times_said(what, why) {
            3.. => Ok(()),
            _ => Err(self.log.text()),
        };
        found("tried again", Duration::from_millis(5), LIMIT, again).await;
        assert!(timeout(Duration::from_millis(300), self.handle.ended()).await.is_err(), "it runs");
        assert_eq!(self.seen.len(), 0);
        assert!(!self.handle.is_ready());
    }

    /// How many lines of the log say both.
    fn times_said(&self, what: &str, why: &str) -> usize {
        let text = self.log.text();
        text.lines().filter(|line| line.contains(what) && line.contains(why)).count()
    }

    async fn drains(self) {
        let exit = self.ends().await;
        assert!(exit.is_clean(), "{exit:?}");
    }

    /// Drains one that never saw the leases, which is not clean.
    async fn drains_unseen(self) {
        let exit = self.ends().await;
        let ExitReason::NeverConnected(never) = &exit.reason else { panic!("{exit:?}") };
        assert!(never.was_told_to_stop() && never.unreached() == Unreached::Leases, "{never}");
    }

    async fn ends(self) -> ConsumerExit {
        let begun = Instant::now();
        let exit = drained(self.handle).await;
        assert!(begun.elapsed() <= DRAIN_TIMEOUT, "{:?}\n{}", begun.elapsed(), self.log.text());
        assert!(!self.log.text().contains("sig="), "{}", self.log.text());
        exit
    }
}

#[tokio::test]
async fn a_worker_begins_to_work_when_its_container_is_created() {
    let container = Container::absent();
    let url = container.url(ALL);
    let worker = Worker::start(&url, &url);
    worker.waits(HEARTBEAT_FAILED, NOT_THERE).await;
    container.make().await;
    let works = || match worker.seen.len() >= EVENTS && worker.handle.is_ready() {
        true => Ok(()),
        false => Err(worker.log.text()),
    };
    found("handled", Duration::from_millis(5), LIMIT, works).await;
    worker.drains().await;
}

#[tokio::test]
async fn a_worker_without_its_container_drains_in_time() {
    let url = Container::absent().url(ALL);
    let worker = Worker::start(&url, &url);
    worker.waits(HEARTBEAT_FAILED, NOT_THERE).await;
    worker.drains_unseen().await;
}

#[tokio::test]
async fn a_worker_that_may_not_enter_its_container_waits_and_drains_in_time() {
    let container = Container::create().await;
    // Not what was signed.
    let url = container.url("rl").replace("sp=rl", "sp=rwl");
    let worker = Worker::start(&url, &url);
    worker.waits(HEARTBEAT_FAILED, REFUSED).await;
    worker.drains_unseen().await;
}

#[tokio::test]
async fn a_worker_that_may_only_read_its_container_waits_and_drains_in_time() {
    let url = Container::create().await.url("rl");
    let worker = Worker::start(&url, &url);
    worker.waits(HEARTBEAT_FAILED, REFUSED).await;
    worker.drains_unseen().await;
}

#[tokio::test]
async fn a_worker_that_may_only_read_its_checkpoints_waits_and_drains_in_time() {
    let container = Container::create().await;
    let worker = Worker::start(&container.url(ALL), &container.url("rl"));
    worker.waits(CLAIM_FAILED, REFUSED).await;
    worker.drains().await;
}
