//! A letter that is replayed arrives at its handler as the event was, to the last bit: every type of AMQP, in
//! properties, annotations, message properties and the three kinds of body, through every store of failures. The store
//! in a container needs Azurite, which scripts/test installs.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod azurite;
#[path = "support/every_type.rs"]
mod every_type;
mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use azurite::{ALL, Container};
use every_type::{events, failure, seen, unwritable};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::clock::SystemClock;
use longshore::event::Body;
use longshore::failure_store::container::ContainerFailureStore;
use longshore::failure_store::folder::FolderFailureStore;
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore, MAX_PAGE_ENTRIES};
use longshore::replay::{Counts, Ended, Job, Limits, Plan, Wait, Way, run};
use longshore::secret::Secret;
use longshore::testing::event_from_record;
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, ConsumerHandle, Event, EventContext, Outcome, OutgoingEvent};
use serde_json::Value as Json;
use support::{drained, until};
use tokio::sync::watch;

/// What handlers saw of each event.
type Seen = Arc<Mutex<BTreeMap<i64, Json>>>;

struct Stage {
    hub: MemoryHub,
    checkpoints: Arc<MemoryCheckpointStore>,
    store: Arc<dyn FailureStore>,
}

impl Stage {
    fn start(
        &self,
        outcome: impl Fn() -> Outcome + Send + Sync + 'static,
    ) -> (ConsumerHandle, Seen) {
        let seen_here = Seen::default();
        let into = Arc::clone(&seen_here);
        let transport = self.hub.transport("$Default");
        let handle = BatchConsumer::builder(transport, Arc::clone(&self.checkpoints))
            .failure_store(Arc::clone(&self.store))
            .event_handler(move |event: Event, _: EventContext| {
                let before = into.lock().unwrap().insert(event.sequence_number().0, seen(&event));
                assert_eq!(before, None, "handed out once");
                std::future::ready(outcome())
            })
            .unwrap()
            .start();
        (handle, seen_here)
    }

    async fn count(&self, kind: FailureKind) -> usize {
        let all = FailurePrefix::all(kind);
        self.store.list(&all, None, MAX_PAGE_ENTRIES).await.unwrap().entries.len()
    }

    /// Hands all letters out; returns what the events of their records look like.
    async fn replay(&self) -> BTreeMap<i64, Json> {
        let jobs = tempfile::tempdir().unwrap();
        let mut plan =
            Plan::new(std::time::SystemTime::now(), self.store.place(), Limits::default());
        let mut of_records = BTreeMap::new();
        let all = FailurePrefix::all(FailureKind::Dead);
        for letter in self.store.list(&all, None, MAX_PAGE_ENTRIES).await.unwrap().entries {
            let letter = letter.unwrap();
            plan.add(&letter.key.event, letter.meta.generation);
            let stored = self.store.read(&letter.key).await.unwrap().unwrap();
            let event = event_from_record(&stored.content).unwrap();
            of_records.insert(event.sequence_number().0, seen(&event));
        }
        let mut job = Job::create(jobs.path(), plan).unwrap();
        let (progress, counts) = watch::channel(Counts::default());
        let never = std::future::pending();
        let ended =
            run(&mut job, &*self.store, &Way::Group, Wait::No, &SystemClock, &progress, never);
        let ended = ended.await.unwrap();
        assert!(!matches!(ended, Ended::Interrupted), "{ended:?}");
        assert_eq!(counts.borrow().skipped, 0, "{:?}", *counts.borrow());
        of_records
    }
}

/// Compared one by one: the whole would be too long to read.
#[track_caller]
fn assert_same(what: &str, found: &BTreeMap<i64, Json>, originals: &BTreeMap<i64, Json>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), originals.keys().collect::<Vec<_>>(), "{what}");
    for (number, original) in originals {
        assert_eq!(&found[number], original, "{what} {number}");
    }
}

async fn letters_come_back_as_they_were(store: Arc<dyn FailureStore>) {
    let hub = MemoryHub::new("orders", 1);
    let stage = Stage { hub, checkpoints: Arc::new(MemoryCheckpointStore::new()), store };
    let mut published = events();
    // What Event Hubs brings to nobody: in memory it is kept like anything else.
    published.extend(unwritable());
    published.push(OutgoingEvent::default().with_structured_body(Body::Data(Vec::new())));
    let count = published.len();
    for event in published {
        stage.hub.publish(0, event).unwrap();
    }
    let (handle, originals) = stage.start(|| Outcome::dead_letter(failure()));
    until("given up", || handle.snapshot().counts.dead_letters == count as u64).await;
    assert!(drained(handle).await.is_clean());
    let originals = originals.lock().unwrap().clone();
    assert_eq!((originals.len(), stage.count(FailureKind::Dead).await), (count, count));

    let of_records = stage.replay().await;
    assert_same("the record of", &of_records, &originals);
    assert_eq!(stage.count(FailureKind::Parked).await, count);

    let (handle, replayed) = stage.start(|| Outcome::Done);
    until("replayed", || handle.snapshot().counts.done == count as u64).await;
    assert!(drained(handle).await.is_clean());
    assert_same("the replay of", &replayed.lock().unwrap(), &originals);
    assert_eq!(
        (stage.count(FailureKind::Dead).await, stage.count(FailureKind::Parked).await),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_in_memory_come_back_as_they_were() {
    letters_come_back_as_they_were(Arc::new(MemoryFailureStore::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_in_a_folder_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderFailureStore::open(folder.path().join("failures")).unwrap();
    letters_come_back_as_they_were(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_in_a_container_come_back_as_they_were() {
    let container = Container::create().await;
    let url = Secret::new(container.url(ALL));
    letters_come_back_as_they_were(Arc::new(ContainerFailureStore::with_signature(&url).unwrap()))
        .await;
}
