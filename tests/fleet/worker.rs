//! A worker process: the consumer over the Azure SDK, with leases and checkpoints in a container.

use std::io::BufRead as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longshore::checkpoint_store::blob::BlobCheckpointStore;
use longshore::config::LeaseOptions;
use longshore::consumer::ExitReason;
use longshore::event::PartitionId;
use longshore::failure_store::container::ContainerFailureStore;
use longshore::lease_store::blob::BlobLeaseStore;
use longshore::secret::Secret;
use longshore::transport::event_hubs::{EventHubsTransport, Namespace};
use longshore::{BatchConsumer, Event, EventContext, Failure, LaneRule, Outcome};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::failing::{self, Fate, Tried};
use super::journal::{Begun, Handled, Journal, now};
use super::links::TracedTransport;
use super::ports::{Calls, TracedCheckpoints, TracedLeases};

/// The variable that holds a worker's [`Orders`].
pub const ORDERS: &str = "LONGSHORE_TEST_WORKER";

/// The line on its standard input that tells a worker to drain.
pub const DRAIN: &str = "drain";

/// No event becomes a dead letter.
const MAX_ATTEMPTS: u32 = 5;

/// What a worker is told at its start.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct Orders {
    pub name: String,
    pub folder: PathBuf,
    pub connection_string: String,
    pub endpoint: String,
    pub hub: String,
    pub container_url: String,
    /// Without one the leases have their defaults.
    pub pace: Option<Pace>,
    pub work: Work,
}

/// How fast leases go.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
pub struct Pace {
    pub heartbeat: Duration,
    pub expiry: Duration,
    pub look: Duration,
}

/// What a handler does with an event.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Work {
    /// Nothing, and all options are the defaults.
    None,
    /// Milliseconds, and for some events a third of a second, so that events finish out of order.
    Uneven,
    /// The same, for events of keys that stay in order, and of every twenty calls one fails.
    Keyed,
    /// The same, without keys, and what becomes of each is said by its [`Fate`].
    Failing,
}

impl Work {
    fn time(self, number: i64) -> Duration {
        match self {
            Work::None => Duration::ZERO,
            _ if number % 97 == 0 => Duration::from_millis(300),
            _ => Duration::from_millis(number.unsigned_abs() % 7),
        }
    }

    pub fn fate(self, partition: &PartitionId, number: i64) -> Fate {
        match self {
            Work::Failing => Fate::of(partition, number),
            _ => Fate::Done(1),
        }
    }

    /// How many events are published to a partition in a round: a failure takes a few requests.
    pub fn round_events(self) -> usize {
        match self {
            Work::Failing => 5,
            _ => 64,
        }
    }

    /// Whether this attempt at an event is to fail; the last one never does.
    fn fails(self, attempt: u32) -> bool {
        self == Work::Keyed && attempt < MAX_ATTEMPTS && rand::random_bool(0.05)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a worker process: the other tests of this crate start it"]
async fn worker_process() {
    if let Ok(orders) = std::env::var(ORDERS) {
        run(serde_json::from_str(&orders).unwrap()).await;
    }
}

async fn run(orders: Orders) {
    let journal =
        |kind: &str| Journal::open(&orders.folder.join(format!("{}.{kind}", orders.name)));
    let namespace = Namespace::from_connection_string(&orders.connection_string)
        .unwrap()
        .with_custom_endpoint(&orders.endpoint)
        .unwrap();
    let transport = EventHubsTransport::new(namespace, orders.hub.as_str(), "$Default");
    let transport = TracedTransport::new(transport, journal("links"));
    let container = Secret::new(orders.container_url.clone());
    let calls = Calls::new(journal("calls"));
    let checkpoints = TracedCheckpoints {
        inner: BlobCheckpointStore::with_signature(&container).unwrap(),
        calls: Arc::clone(&calls),
    };
    let leases = TracedLeases { inner: BlobLeaseStore::with_signature(&container).unwrap(), calls };
    let mut lease_options = LeaseOptions::default();
    if let Some(pace) = orders.pace {
        lease_options.heartbeat_interval = pace.heartbeat;
        lease_options.lease_expiry = pace.expiry;
        lease_options.look_interval = pace.look;
    }
    let (handled, work) = (Arc::new(journal("handled")), orders.work);
    let mut builder = BatchConsumer::builder(Arc::new(transport), Arc::new(checkpoints))
        .worker(orders.name.clone())
        .leases_with(Arc::new(leases), lease_options);
    if work == Work::Failing {
        let failures = ContainerFailureStore::with_signature(&container).unwrap();
        builder = builder.options(failing::options()).failure_store(failures);
    }
    if work != Work::None {
        builder = builder.max_events_in_flight(64);
    }
    if work == Work::Keyed {
        builder = builder.lanes(LaneRule::per_key()).max_attempts(MAX_ATTEMPTS);
    }
    let tried = (work == Work::Failing).then(|| Arc::new(journal("tried")));
    let begun = (work == Work::Keyed).then(|| Arc::new(journal("begun")));
    let mut consumer = builder
        .event_handler(move |event: Event, context: EventContext| {
            let (handled, begun, tried) = (Arc::clone(&handled), begun.clone(), tried.clone());
            async move {
                let number = event.sequence_number().0;
                if let Some(begun) = begun {
                    begun.append(&Begun {
                        partition: event.partition().id.clone(),
                        number,
                        key: event.key().unwrap().to_owned(),
                        epoch: context.lease_epoch().0,
                        at: now(),
                    });
                }
                let attempt = context.attempt();
                let fate = work.fate(&event.partition().id, number);
                if let Some(tried) = tried
                    && fate != Fate::Done(1)
                {
                    tried.append(&Tried {
                        partition: event.partition().id.clone(),
                        number,
                        attempt,
                        epoch: context.lease_epoch().0,
                        at: now(),
                    });
                }
                let time = work.time(number);
                if !time.is_zero() {
                    sleep(time).await;
                }
                if let Some(failed) = fate.failure(attempt) {
                    return failed;
                }
                if work.fails(attempt) {
                    let again = Duration::from_millis(rand::random_range(0..20));
                    return Outcome::retry_after(again, Failure::transient("by chance"));
                }
                handled.append(&Handled {
                    partition: event.partition().id.clone(),
                    number,
                    epoch: context.lease_epoch().0,
                    at: now(),
                });
                Outcome::Done
            }
        })
        .unwrap()
        .start();
    told_to_drain().await;
    consumer.drain();
    let exit = consumer.join().await;
    // On a busy machine the word may come before the leases were listed once: then nothing was owned.
    let never_began =
        matches!(&exit.reason, ExitReason::NeverConnected(never) if never.was_told_to_stop());
    assert!(exit.is_clean() || never_began, "{exit:?}");
}

/// Waits for the word. Without its parent, a worker ends at once.
async fn told_to_drain() {
    let (told, mut word) = mpsc::channel(1);
    std::thread::spawn(move || {
        let first = std::io::stdin().lock().lines().next();
        if first.and_then(Result::ok).as_deref() != Some(DRAIN) {
            std::process::exit(2);
        }
        told.blocking_send(()).unwrap();
    });
    word.recv().await.unwrap();
}
