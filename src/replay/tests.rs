//! Jobs over a store in memory, beside an owner that hands out what is parked.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::letters::replaying;
use super::{Counts, Edited, End, Ended, Fate, Job, Limits, Plan, Wait, Way, release, run};
use crate::clock::SystemClock;
use crate::dead_letter::DeadLetter;
use crate::dead_letter::record::DeadLetterRecord;
use crate::error::{Error, ErrorClass};
use crate::event::{EntityName, EventParts, Incarnation, OutgoingEvent, Partition, SequenceNumber};
use crate::failure_store::memory::MemoryFailureStore;
use crate::failure_store::{
    EventIdentity, Expected, FailureEntry, FailureKey, FailureKind, FailurePage, FailurePrefix,
    FailureStore, LogIdentity, PageToken, StoreError, StoredFailure, VersionToken,
};
use crate::outcome::Failure;
use crate::producer::EntityProducer;
use crate::timestamp::from_rfc3339;
use crate::transport::{Publisher, SendReceipt, SendTarget};

fn record(number: i64) -> DeadLetterRecord {
    let partition = Arc::new(Partition::new("orders", (number % 3).to_string()));
    let parts = EventParts::new(partition, number, format!("body {number}"));
    let failure = Failure::permanent("404");
    let letter =
        DeadLetter::new(parts.into(), "$Default".into(), "w", failure, SystemTime::UNIX_EPOCH)
            .with_origin("ns.example", Incarnation(7));
    DeadLetterRecord::new(&letter)
}

fn identity(number: i64) -> EventIdentity {
    record(number).identity()
}

async fn write(store: &dyn FailureStore, record: &DeadLetterRecord) {
    let key = record.identity().key(FailureKind::Dead);
    store.put(&key, &FailureEntry::of(record).unwrap(), &Expected::Anything).await.unwrap();
}

async fn letter(store: &dyn FailureStore, number: i64) -> Option<DeadLetterRecord> {
    let stored = store.read(&identity(number).key(FailureKind::Dead)).await.unwrap();
    stored.map(|stored| stored.record().unwrap())
}

/// All of a kind.
async fn listed(store: &dyn FailureStore, kind: FailureKind) -> Vec<i64> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(&FailurePrefix::all(kind), after.as_ref(), 5_000).await.unwrap();
        all.extend(page.entries.into_iter().map(|it| it.unwrap().key.event.sequence_number.0));
        after = page.next;
        if after.is_none() {
            all.sort_unstable();
            return all;
        }
    }
}

/// What the owner of the partitions does with what is parked.
#[derive(Default)]
struct Owner {
    /// How often each event was handed out, and with which body.
    handed: Mutex<BTreeMap<i64, Vec<String>>>,
    failing: BTreeSet<i64>,
}

impl Owner {
    fn failing(numbers: impl IntoIterator<Item = i64>) -> Arc<Self> {
        Arc::new(Self { failing: numbers.into_iter().collect(), ..Self::default() })
    }

    /// Lists every thirty seconds, and every second while there is something new.
    fn start(self: &Arc<Self>, store: Arc<dyn FailureStore>) -> JoinHandle<()> {
        let owner = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let found = owner.turn(&*store).await;
                sleep(Duration::from_secs(if found { 1 } else { 30 })).await;
            }
        })
    }

    async fn turn(&self, store: &dyn FailureStore) -> bool {
        let parked = FailurePrefix::all(FailureKind::Parked);
        let page = store.list(&parked, None, 5_000).await.unwrap();
        let mut found = false;
        for entry in page.entries {
            let key = entry.unwrap().key;
            let Some(stored) = store.read(&key).await.unwrap() else { continue };
            let record = stored.record().unwrap();
            assert!(from_rfc3339(record.due.as_ref().unwrap()).unwrap() <= SystemTime::now());
            assert!(record.job.is_some() && record.generation > 0);
            found = true;
            self.handle(store, record).await;
            store.delete(&key, &stored.version).await.unwrap();
        }
        found
    }

    async fn handle(&self, store: &dyn FailureStore, mut record: DeadLetterRecord) {
        let number = record.sequence_number.0;
        let body = String::from_utf8(record.body().unwrap().to_vec()).unwrap();
        self.handed.lock().unwrap().entry(number).or_default().push(body);
        let dead = record.identity().key(FailureKind::Dead);
        if self.failing.contains(&number) {
            record.due = None;
            "again".clone_into(&mut record.error.message);
            write(store, &record).await;
        } else if let Some(stored) = store.read(&dead).await.unwrap() {
            store.delete(&dead, &stored.version).await.unwrap();
        }
    }

    fn times(&self) -> Vec<usize> {
        self.handed.lock().unwrap().values().map(Vec::len).collect()
    }
}

struct Stage {
    store: Arc<dyn FailureStore>,
    jobs: tempfile::TempDir,
}

impl Stage {
    async fn with(letters: i64) -> Self {
        Self::over(Arc::new(MemoryFailureStore::new()), letters).await
    }

    async fn over(store: Arc<dyn FailureStore>, letters: i64) -> Self {
        for number in 0..letters {
            write(&*store, &record(number)).await;
        }
        Self { store, jobs: tempfile::tempdir().unwrap() }
    }

    fn plan(&self, letters: i64, limits: Limits) -> Plan {
        let mut plan = Plan::new(SystemTime::now(), self.store.place(), limits);
        for number in 0..letters {
            plan.add(&identity(number), 0);
        }
        plan
    }

    fn job(&self, letters: i64, limits: Limits) -> Job {
        Job::create(self.jobs.path(), self.plan(letters, limits)).unwrap()
    }

    fn again(&self, job: &str) -> Job {
        Job::open(self.jobs.path(), job).unwrap()
    }

    async fn run(&self, job: &mut Job, way: &Way) -> (Result<Ended, Error>, Counts) {
        self.run_and(job, way, Wait::ForResults).await
    }

    async fn run_and(
        &self,
        job: &mut Job,
        way: &Way,
        wait: Wait,
    ) -> (Result<Ended, Error>, Counts) {
        let (progress, counts) = watch::channel(Counts::default());
        let stop = std::future::pending();
        let ended = run(job, &*self.store, way, wait, &SystemClock, &progress, stop).await;
        let counts = *counts.borrow();
        (ended, counts)
    }
}

#[tokio::test(start_paused = true)]
async fn letters_are_done_or_fail_again_and_each_is_handed_out_once() {
    let stage = Stage::with(300).await;
    let owner = Owner::failing([7, 250]);
    let _owner = owner.start(stage.store.clone());
    let mut job = stage.job(300, Limits::default());
    let (ended, counts) = stage.run(&mut job, &Way::Group).await;
    assert_eq!(ended.unwrap(), Ended::Over(End::Finished));
    assert_eq!((counts.done, counts.failed_again, counts.out), (298, 2, 0));
    assert_eq!(owner.times(), vec![1; 300]);
    assert_eq!(listed(&*stage.store, FailureKind::Dead).await, [7, 250]);
    let failed = letter(&*stage.store, 7).await.unwrap();
    assert_eq!((failed.generation, replaying(&failed)), (1, None));
    let told: Vec<_> = job
        .letters_of(Fate::FailedAgain)
        .map(|(event, note)| (event.sequence_number.0, note.unwrap().why.clone()))
        .collect();
    assert_eq!(told, [(7, "again".to_owned()), (250, "again".to_owned())]);
    // It is over for good.
    let name = job.to_string();
    drop(job);
    let (ended, _) = stage.run(&mut stage.again(&name), &Way::Group).await;
    assert_eq!(ended.unwrap(), Ended::Over(End::Finished));
    assert_eq!(owner.times(), vec![1; 300]);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_letters_at_five_hundred_a_second_take_twenty_seconds() {
    let stage = Stage::with(10_000).await;
    let limits = Limits { per_second: Some(500.0), ..Limits::default() };
    let begin = Instant::now();
    let mut job = stage.job(10_000, limits);
    let (ended, _) = stage.run_and(&mut job, &Way::Group, Wait::No).await;
    assert_eq!(ended.unwrap(), Ended::HandedOut);
    let took = begin.elapsed().as_secs_f64();
    assert!((19.8..20.2).contains(&took), "{took}");
    assert_eq!(listed(&*stage.store, FailureKind::Parked).await.len(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_killed_again_and_again_hands_out_each_letter_once() {
    for seed in 0..20 {
        let mut random = SmallRng::seed_from_u64(seed);
        let store = Arc::new(Slow {
            inner: MemoryFailureStore::new(),
            loses: false,
            calls: Mutex::default(),
        });
        let stage = Stage::over(store, 60).await;
        let owner = Owner::failing([3, 30]);
        let _owner = owner.start(stage.store.clone());
        let limits = Limits { per_second: Some(40.0), ..Limits::default() };
        let job = stage.job(60, limits);
        let name = job.to_string();
        drop(job);
        let mut ended = None;
        for _ in 0..200 {
            let mut job = stage.again(&name);
            let until = Duration::from_millis(random.random_range(1..1_500));
            // What is under way is cut off, as it is by a kill.
            if let Ok((done, counts)) = timeout(until, stage.run(&mut job, &Way::Group)).await {
                ended = Some((done.unwrap(), counts));
                break;
            }
        }
        let (ended, counts) = match ended {
            Some(ended) => ended,
            None => {
                let (ended, counts) = stage.run(&mut stage.again(&name), &Way::Group).await;
                (ended.unwrap(), counts)
            }
        };
        assert_eq!(ended, Ended::Over(End::Finished), "{seed}");
        assert_eq!((counts.done, counts.failed_again), (58, 2), "{seed}: {counts:?}");
        assert_eq!(owner.times(), vec![1; 60], "{seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_jobs_over_the_same_letters_hand_out_each_once() {
    let stage = Stage::with(200).await;
    let owner = Owner::failing([]);
    let _owner = owner.start(stage.store.clone());
    let limits = Limits { per_second: Some(100.0), ..Limits::default() };
    let (mut one, mut two) = (stage.job(200, limits), stage.job(200, limits));
    let ((one, first), (two, second)) =
        tokio::join!(stage.run(&mut one, &Way::Group), stage.run(&mut two, &Way::Group));
    assert_eq!(
        (one.unwrap(), two.unwrap()),
        (Ended::Over(End::Finished), Ended::Over(End::Finished))
    );
    assert_eq!(first.done + second.done, 200, "{first:?} {second:?}");
    assert_eq!(first.skipped + second.skipped, 200);
    assert_eq!(owner.times(), vec![1; 200]);
}

#[tokio::test(start_paused = true)]
async fn a_canary_of_ten_that_fails_again_stops_after_ten() {
    let stage = Stage::with(500).await;
    let owner = Owner::failing([4]);
    let _owner = owner.start(stage.store.clone());
    let mut job = stage.job(500, Limits { canary: 10, ..Limits::default() });
    let (ended, counts) = stage.run(&mut job, &Way::Group).await;
    assert_eq!(ended.unwrap(), Ended::Over(End::Canary));
    assert_eq!((counts.done, counts.failed_again, counts.waiting), (9, 1, 490));
    assert_eq!(owner.times(), vec![1; 10]);
    let untouched = letter(&*stage.store, 400).await.unwrap();
    assert_eq!((untouched.job, untouched.due), (None, None));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_replayed_is_skipped_with_a_reason_and_stops_no_other() {
    let stage = Stage::with(9).await;
    let put = |number: i64, content: Vec<u8>| {
        let store = Arc::clone(&stage.store);
        async move {
            let mut entry = FailureEntry::of(&record(number)).unwrap();
            entry.content = content.into();
            let key = identity(number).key(FailureKind::Dead);
            store.put(&key, &entry, &Expected::Anything).await.unwrap();
        }
    };
    let json = record(0).to_json().unwrap();
    put(0, json[..json.len() / 2].to_vec()).await;
    put(1, b"{\"version\": 99}".to_vec()).await;
    put(2, record(5).to_json().unwrap()).await;
    write(&*stage.store, &record(3).without_body()).await;
    let key = identity(4).key(FailureKind::Dead);
    let stored = stage.store.read(&key).await.unwrap().unwrap();
    stage.store.delete(&key, &stored.version).await.unwrap();
    let mut newer = record(5);
    newer.generation = 3;
    write(&*stage.store, &newer).await;
    let mut other = record(6);
    (other.job, other.due) = (Some("another".to_owned()), Some("2026-01-31T12:00:00Z".to_owned()));
    write(&*stage.store, &other).await;
    let parked = FailureEntry::of(&record(7)).unwrap();
    let key = identity(7).key(FailureKind::Parked);
    stage.store.put(&key, &parked, &Expected::Absent).await.unwrap();

    let mut job = stage.job(9, Limits::default());
    let (ended, counts) = stage.run_and(&mut job, &Way::Group, Wait::No).await;
    assert_eq!((ended.unwrap(), counts.skipped, counts.out), (Ended::HandedOut, 8, 1));
    let mut told: Vec<_> = job
        .letters_of(Fate::Skipped)
        .map(|(event, note)| (event.sequence_number.0, note.unwrap().why.clone()))
        .collect();
    told.sort();
    for ((number, why), (of, expected)) in told.into_iter().zip([
        (0, "cannot be read; repair it"),
        (1, "use a later release"),
        (2, "is a copy of"),
        (3, "its body was left out"),
        (4, "the letter is gone"),
        (5, "it was replayed since the job was made"),
        (6, "the job another replays it"),
        (7, "its event is parked"),
    ]) {
        assert!(number == of && why.contains(expected), "{number}: {why}");
    }
    let released = letter(&*stage.store, 7).await.unwrap();
    assert_eq!(replaying(&released), None);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_taken_away_while_it_is_out_is_dropped_and_free_again() {
    let stage = Stage::with(2).await;
    let mut job = stage.job(2, Limits::default());
    let name = job.to_string();
    let (ended, _) = stage.run_and(&mut job, &Way::Group, Wait::No).await;
    assert_eq!(ended.unwrap(), Ended::HandedOut);
    drop(job);
    assert_eq!(replaying(&letter(&*stage.store, 1).await.unwrap()), Some(name.as_str()));
    let key = identity(1).key(FailureKind::Parked);
    let stored = stage.store.read(&key).await.unwrap().unwrap();
    stage.store.delete(&key, &stored.version).await.unwrap();
    let _owner = Owner::failing([]).start(stage.store.clone());
    let (ended, counts) = stage.run(&mut stage.again(&name), &Way::Group).await;
    assert_eq!(ended.unwrap(), Ended::Over(End::Finished));
    assert_eq!((counts.done, counts.dropped), (1, 1));
    let free = letter(&*stage.store, 1).await.unwrap();
    assert_eq!((replaying(&free), free.generation), (None, 0));
    assert!(!release(&*stage.store, &identity(1), &name).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_edited_letter_is_handed_out_and_the_original_is_kept() {
    let stage = Stage::with(2).await;
    let plan = stage.plan(2, Limits::default());
    let mut edited = Edited::begin(stage.jobs.path(), &plan).unwrap();
    for number in 0..2 {
        let mut record = record(number);
        record.body_text = Some(format!("mended {number}"));
        record.attempts = 99;
        edited.add(&record).unwrap();
    }
    let mut job = Job::create_edited(edited, plan).unwrap();
    let owner = Owner::failing([1]);
    let _owner = owner.start(stage.store.clone());
    let (ended, counts) = stage.run(&mut job, &Way::Group).await;
    assert_eq!(ended.unwrap(), Ended::Over(End::Finished));
    assert_eq!((counts.done, counts.failed_again), (1, 1));
    let bodies: Vec<_> = owner.handed.lock().unwrap().values().flatten().cloned().collect();
    assert_eq!(bodies, ["mended 0", "mended 1"]);
    // Where and how often it failed is not the editor's to say.
    assert_eq!(letter(&*stage.store, 1).await.unwrap().attempts, 1);
    let originals = std::fs::read_to_string(job.folder().join("originals.jsonl")).unwrap();
    let originals: Vec<_> = originals
        .lines()
        .map(|line| DeadLetterRecord::from_json(line.as_bytes()).unwrap().body_text.unwrap())
        .collect();
    assert_eq!(originals, ["body 0", "body 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_moment_is_waited_for_and_one_that_stays_down_ends_the_run() {
    let store = Arc::new(MemoryFailureStore::new());
    let stage = Stage::over(store.clone(), 3).await;
    let mut job = stage.job(3, Limits::default());
    store.fail_next(5);
    let (ended, counts) = stage.run_and(&mut job, &Way::Group, Wait::No).await;
    assert_eq!((ended.unwrap(), counts.out), (Ended::HandedOut, 3));
    let mut job = stage.job(3, Limits::default());
    store.fail_next(1_000);
    let (ended, _) = stage.run(&mut job, &Way::Group).await;
    assert_eq!(ended.unwrap_err().class(), ErrorClass::Transient);
    assert_eq!(job.end(), None);
}

/// A store whose calls take a moment. Where it `loses`, every fifth put is applied and answered with a failure.
#[derive(Debug)]
struct Slow {
    inner: MemoryFailureStore,
    loses: bool,
    calls: Mutex<u32>,
}

impl FailureStore for Slow {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn put<'a>(
        &'a self,
        key: &'a FailureKey,
        entry: &'a FailureEntry,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move {
            sleep(Duration::from_millis(3)).await;
            let put = self.inner.put(key, entry, expected).await;
            let call = {
                let mut calls = self.calls.lock().unwrap();
                *calls += 1;
                *calls
            };
            sleep(Duration::from_millis(3)).await;
            if self.loses && call % 5 == 0 && key.event.sequence_number < SequenceNumber(1_000) {
                // Long enough for the owner.
                sleep(Duration::from_secs(40)).await;
                let lost = Error::new(ErrorClass::Transient, "put", "the answer was lost");
                return Err(StoreError::Failed(lost));
            }
            put
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        key: &'a FailureKey,
    ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>> {
        async move {
            sleep(Duration::from_millis(3)).await;
            self.inner.read(key).await
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a FailurePrefix,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<FailurePage, Error>> {
        self.inner.list(prefix, after, limit)
    }

    fn delete<'a>(
        &'a self,
        key: &'a FailureKey,
        version: &'a VersionToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.delete(key, version)
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_answer_was_lost_hands_out_no_letter_twice() {
    let inner = MemoryFailureStore::new();
    for number in 0..40 {
        write(&inner, &record(number)).await;
    }
    let store: Arc<dyn FailureStore> =
        Arc::new(Slow { inner, loses: true, calls: Mutex::default() });
    let stage = Stage { store, jobs: tempfile::tempdir().unwrap() };
    let owner = Arc::new(Owner::default());
    // The owner's own puts are none, for it fails nothing.
    let _owner = owner.start(stage.store.clone());
    let mut job = stage.job(40, Limits::default());
    let (ended, counts) = stage.run(&mut job, &Way::Group).await;
    assert_eq!(ended.unwrap(), Ended::Over(End::Finished));
    assert_eq!((counts.done, counts.skipped), (40, 0), "{counts:?}");
    assert_eq!(owner.times(), vec![1; 40]);
}

/// A hub that answers after a moment, and has every event half of it before.
#[derive(Clone, Debug)]
struct Hub {
    entity: EntityName,
    bodies: Arc<Mutex<Vec<String>>>,
    refuses: Option<ErrorClass>,
}

impl Hub {
    fn new(refuses: Option<ErrorClass>) -> Self {
        Self { entity: "mended".into(), bodies: Arc::default(), refuses }
    }

    fn way(&self) -> Way {
        Way::Entity(Arc::new(EntityProducer::new(Arc::new(self.clone()))))
    }

    fn published(&self) -> Vec<String> {
        self.bodies.lock().unwrap().clone()
    }

    async fn take(&self, events: Vec<OutgoingEvent>) -> Result<(), Error> {
        sleep(Duration::from_millis(5)).await;
        for event in events {
            let body = String::from_utf8(event.body.to_vec()).unwrap();
            if let Some(class) = self.refuses.filter(|_| body == "body 1") {
                return Err(Error::new(class, "send", "refused"));
            }
            self.bodies.lock().unwrap().push(body);
        }
        sleep(Duration::from_millis(5)).await;
        Ok(())
    }
}

impl Publisher for Hub {
    fn entity(&self) -> &EntityName {
        &self.entity
    }

    fn send(
        &self,
        _: SendTarget,
        event: OutgoingEvent,
    ) -> BoxFuture<'_, Result<SendReceipt, Error>> {
        async move { self.take(vec![event]).await.map(|()| SendReceipt::default()) }.boxed()
    }

    fn send_batch(
        &self,
        _: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        self.take(events).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_for_the_hub_failed_again_and_a_hub_that_refuses_ends_the_run() {
    for (class, expected) in [(ErrorClass::TooLarge, (2, 1)), (ErrorClass::Auth, (0, 0))] {
        let stage = Stage::with(3).await;
        let mut plan = stage.plan(3, Limits { at_once: 1, ..Limits::default() });
        plan.to = Some("mended".into());
        let mut job = Job::create(stage.jobs.path(), plan).unwrap();
        let hub = Hub::new(Some(class));
        let (ended, counts) = stage.run(&mut job, &hub.way()).await;
        if class == ErrorClass::TooLarge {
            assert_eq!(ended.unwrap(), Ended::Over(End::Finished));
            assert_eq!((counts.done, counts.failed_again), expected);
        } else {
            assert_eq!(ended.unwrap_err().class(), class);
            assert_eq!(job.end(), None);
        }
        assert_eq!(replaying(&letter(&*stage.store, 1).await.unwrap()), None);
    }
}

#[tokio::test(start_paused = true)]
async fn letters_are_published_and_deleted_and_none_is_published_twice() {
    for seed in 0..20 {
        let mut random = SmallRng::seed_from_u64(seed);
        let store = Arc::new(Slow {
            inner: MemoryFailureStore::new(),
            loses: false,
            calls: Mutex::default(),
        });
        let stage = Stage::over(store, 80).await;
        let hub = Hub::new(None);
        let mut plan = stage.plan(80, Limits { per_second: Some(300.0), ..Limits::default() });
        plan.to = Some("mended".into());
        let name = plan.job.clone();
        drop(Job::create(stage.jobs.path(), plan).unwrap());
        let mut ended = None;
        while ended.is_none() {
            let mut job = stage.again(&name);
            let until = Duration::from_millis(random.random_range(1..200));
            ended = timeout(until, stage.run(&mut job, &hub.way())).await.ok();
        }
        let (ended, counts) = ended.unwrap();
        assert_eq!(ended.unwrap(), Ended::Over(End::Finished), "{seed}");
        assert_eq!(counts.done + counts.in_doubt, 80, "{seed}: {counts:?}");
        // What a run that was cut off had given to its producer.
        sleep(Duration::from_secs(60)).await;
        let bodies = hub.published();
        let once: BTreeSet<_> = bodies.iter().collect();
        assert_eq!(once.len(), bodies.len(), "{seed}");
        assert!((counts.done..=80).contains(&bodies.len()), "{seed}: {counts:?}");
        let left = listed(&*stage.store, FailureKind::Dead).await;
        assert_eq!(left.len(), counts.in_doubt, "{seed}");
        for number in left {
            assert_eq!(replaying(&letter(&*stage.store, number).await.unwrap()), None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_for_a_hub_is_not_gone_on_with_for_the_group() {
    let stage = Stage::with(1).await;
    let mut plan = stage.plan(1, Limits::default());
    plan.to = Some("mended".into());
    let mut job = Job::create(stage.jobs.path(), plan).unwrap();
    let (ended, _) = stage.run(&mut job, &Way::Group).await;
    assert!(ended.unwrap_err().to_string().contains("to another place"));
    assert!(Path::new(job.folder()).join("job.json").is_file());
    let log: LogIdentity = identity(0).log;
    assert_eq!(job.plan().logs(), [log]);
}
