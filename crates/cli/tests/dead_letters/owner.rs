//! What the owner of a partition does with what is parked, over the store alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use longshore::dead_letter::record::DeadLetterRecord;
use longshore::failure_store::{Expected, FailureEntry, FailureKind, FailurePrefix, FailureStore};
use longshore::timestamp::from_rfc3339;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// It looks often, so that tests need not wait.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(crate) struct Owner {
    /// The bodies with which each event was handed out.
    pub(crate) handed: Mutex<BTreeMap<i64, Vec<String>>>,
    failing: BTreeSet<i64>,
}

impl Owner {
    pub(crate) fn failing(numbers: impl IntoIterator<Item = i64>) -> Arc<Self> {
        Arc::new(Self { failing: numbers.into_iter().collect(), ..Self::default() })
    }

    pub(crate) fn start(self: &Arc<Self>, store: Arc<dyn FailureStore>) -> JoinHandle<()> {
        let owner = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                owner.turn(&*store).await;
                sleep(LOOK_INTERVAL).await;
            }
        })
    }

    async fn turn(&self, store: &dyn FailureStore) {
        let parked = FailurePrefix::all(FailureKind::Parked);
        let page = store.list(&parked, None, 5_000).await.unwrap();
        for entry in page.entries.into_iter().flatten() {
            let Some(stored) = store.read(&entry.key).await.unwrap() else { continue };
            let Ok(record) = stored.record() else { continue };
            let due = record.due.as_deref().and_then(from_rfc3339).unwrap();
            if due <= SystemTime::now() {
                self.handle(store, record).await;
                store.delete(&entry.key, &stored.version).await.unwrap();
            }
        }
    }

    async fn handle(&self, store: &dyn FailureStore, mut record: DeadLetterRecord) {
        let number = record.sequence_number.0;
        let body = String::from_utf8(record.body().unwrap().to_vec()).unwrap();
        self.handed.lock().unwrap().entry(number).or_default().push(body);
        let dead = record.identity().key(FailureKind::Dead);
        if self.failing.contains(&number) {
            record.due = None;
            "it failed again".clone_into(&mut record.error.message);
            let entry = FailureEntry::of(&record).unwrap();
            store.put(&dead, &entry, &Expected::Anything).await.unwrap();
        } else if let Some(stored) = store.read(&dead).await.unwrap() {
            store.delete(&dead, &stored.version).await.unwrap();
        }
    }

    /// Each event that was handed out, with how often.
    pub(crate) fn times(&self) -> Vec<(i64, usize)> {
        let handed = self.handed.lock().unwrap();
        handed.iter().map(|(number, bodies)| (*number, bodies.len())).collect()
    }
}
