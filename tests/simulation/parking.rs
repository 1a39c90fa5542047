//! The failure store of one worker, with weather, and what the oracle hears of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::Error;
use longshore::dead_letter::DeadLetter;
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::failure_store::{
    Expected, FailureEntry, FailureKey, FailureKind, FailurePage, FailurePrefix, FailureStore,
    ListedFailure, PageToken, StoreError, StoredFailure, VersionToken,
};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::plan::Plan;
use super::worker::{Worker, identity};
use super::world::{World, index};

/// Entries of a page: few, so that listings have several.
pub const PAGE: usize = 7;

/// Has some seeds park what fails.
pub fn add_parking(random: &mut SmallRng, plan: &mut Plan) {
    let delays: &[&[u64]] = &[&[5_000], &[300, 20_000], &[60_000], &[1_000, 5_000, 40_000]];
    let delays = delays.choose(random).copied().unwrap_or_default();
    let after = random.random_range(500..20_000);
    let most = *[2, 20, 100_000].choose(random).unwrap_or(&20);
    let is_chosen = random.random_bool(0.35);
    if is_chosen && plan.results.is_none() {
        plan.parks = true;
        plan.options.park_delays = delays.iter().copied().map(Duration::from_millis).collect();
        plan.options.park_after = Duration::from_millis(after);
        plan.options.max_parked_events = most;
    }
}

#[derive(Debug)]
pub struct SimFailures(pub Arc<Worker>);

/// A worker asks which events are dead letters, and may never be told.
struct Blind<'a> {
    worker: &'a Worker,
    is_told: bool,
}

impl Drop for Blind<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.worker.world.oracle(|oracle| oracle.on_letters_untold(&self.worker.name));
        }
    }
}

impl FailureStore for SimFailures {
    fn place(&self) -> String {
        "the simulated failure store".to_owned()
    }

    fn put<'a>(
        &'a self,
        key: &'a FailureKey,
        entry: &'a FailureEntry,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let (key, entry, expected) = (key.clone(), entry.clone(), expected.clone());
        let apply =
            move |worker: &Worker| worker.world.put_failure(&worker.name, &key, &entry, &expected);
        self.0.write("failure put", "put the failure", apply).boxed()
    }

    fn read<'a>(
        &'a self,
        key: &'a FailureKey,
    ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>> {
        let answer = self.0.world.failures.read(key);
        self.0.read("failure read", "read the failure", answer).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a FailurePrefix,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<FailurePage, Error>> {
        let answer = self.0.world.failures.list(prefix, after, limit.min(PAGE));
        let list = self.0.read("failure list", "list the failures", answer);
        let is_of_letters = prefix.path().starts_with(FailureKind::Dead.as_str());
        let mut blind = is_of_letters.then(|| Blind { worker: &self.0, is_told: false });
        async move {
            let listed = list.await;
            blind.iter_mut().for_each(|blind| blind.is_told = listed.is_ok());
            listed
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        key: &'a FailureKey,
        version: &'a VersionToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (key, version) = (key.clone(), version.clone());
        let apply =
            move |worker: &Worker| worker.world.delete_failure(&worker.name, &key, &version);
        self.0.write("failure delete", "delete the failure", apply).boxed()
    }
}

impl World {
    /// The store has a dead letter, as the sink over it writes them.
    pub fn keep_letter(&self, by: &str, letter: &DeadLetter) {
        let record = DeadLetterRecord::new(letter);
        let key = record.identity().key(FailureKind::Dead);
        let entry = FailureEntry::of(&record).expect("an entry");
        let put = self.failures.put(&key, &entry, &Expected::Anything).now_or_never();
        put.expect("at once").expect("anything may be written over");
        if letter.event.unreadable().is_none() {
            let (partition, id) = (index(&key.event.log.partition), identity(&letter.event));
            let is_of_replay = letter.job.is_some();
            self.oracle(|oracle| oracle.on_letter_kept(by, partition, id, is_of_replay));
        }
    }

    fn put_failure(
        &self,
        by: &str,
        key: &FailureKey,
        entry: &FailureEntry,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let answer = self.failures.put(key, entry, expected).now_or_never().expect("at once");
        let record = DeadLetterRecord::from_json(&entry.content).expect("a record");
        let event = record.to_event().expect("an event");
        let (id, due) = (identity(&event), entry.meta.due.expect("it is parked"));
        let due = due.duration_since(self.start_of_time()).unwrap_or_default();
        self.trace(|| format!("{by} parks event {id} until {due:?}: {}", answer.is_ok()));
        if answer.is_ok() {
            let partition = index(&key.event.log.partition);
            self.oracle(|oracle| oracle.on_parked(by, partition, id, due));
        }
        answer
    }

    fn delete_failure(
        &self,
        by: &str,
        key: &FailureKey,
        version: &VersionToken,
    ) -> Result<(), StoreError> {
        let found = self.failures.read(key).now_or_never().expect("at once").expect("reads");
        let answer = self.failures.delete(key, version).now_or_never().expect("at once");
        let Some(found) = found else { return answer };
        let event = found.record().and_then(|record| record.to_event()).expect("a record");
        let id = identity(&event);
        let kind = key.kind;
        self.trace(|| format!("{by} removes the {kind:?} event {id}: {}", answer.is_ok()));
        if answer.is_ok() {
            self.oracle(|oracle| match kind {
                FailureKind::Parked => oracle.on_unparked(by, id),
                FailureKind::Dead => oracle.on_letter_gone(by, id),
            });
        }
        answer
    }

    /// When the clock in the middle said that the run began.
    fn start_of_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.plan.max_skew
    }

    /// All that the store has of a kind.
    pub fn listed(&self, kind: FailureKind) -> Vec<ListedFailure> {
        let (prefix, mut after, mut listed) = (FailurePrefix::all(kind), None, Vec::new());
        loop {
            let page = self.failures.list(&prefix, after.as_ref(), usize::MAX);
            let page = page.now_or_never().expect("at once").expect("lists");
            listed.extend(page.entries.into_iter().flatten());
            after = page.next;
            if after.is_none() {
                return listed;
            }
        }
    }

    /// How many events of the log as it is now are parked.
    pub fn parked(&self) -> usize {
        let incarnation = self.oracle(|oracle| oracle.incarnation);
        let listed = self.listed(FailureKind::Parked).into_iter();
        listed.filter(|entry| entry.key.event.log.incarnation.0 == incarnation).count()
    }
}
