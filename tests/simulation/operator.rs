//! An operator who has the dead letters replayed, by the command's own job: killed and gone on with, over a
//! store that fails now and then.

use std::fmt;
use std::future::pending;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::Error;
use longshore::clock::Clock;
use longshore::failure_store::{
    Expected, FailureEntry, FailureKey, FailureKind, FailurePage, FailurePrefix, FailureStore,
    PageToken, StoreError, StoredFailure, VersionToken,
};
use longshore::replay::{Ended, Fate, Job, Limits, Plan as ReplayPlan, Wait, Way, run};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::oracle::Told;
use super::parking::PAGE;
use super::plan::{Fault, Plan};
use super::ports::failed;
use super::worker::identity;
use super::world::{SkewedClock, World, index};

/// Longer than any run.
const FOR_GOOD: Duration = Duration::from_secs(365 * 86_400);

/// Has some seeds replay their letters.
pub fn add_replays(random: &mut SmallRng, plan: &mut Plan) {
    // Where a partition is one lane its owner takes nothing from the store.
    let is_served = plan.lanes.is_none_or(|lanes| !lanes.is_per_partition());
    if !plan.parks || !is_served || !random.random_bool(0.5) {
        return;
    }
    for _ in 0..random.random_range(1..=3) {
        let at = plan.calm_at.mul_f64(random.random_range(0.2..1.0));
        let canary = [0, 0, 1, 5][random.random_range(0..4)];
        let is_killed = random.random_bool(0.5);
        plan.faults.push((at, Fault::Replay { canary, is_killed }));
    }
}

/// The store as an operator's command reaches it.
struct OperatorStore {
    world: Arc<World>,
    job: String,
    random: Mutex<SmallRng>,
}

impl fmt::Debug for OperatorStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorStore").field("job", &self.job).finish_non_exhaustive()
    }
}

impl OperatorStore {
    fn random<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.random.lock().expect("no panic under the lock"))
    }

    fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.random(|random| random.random_range(range)))
    }

    /// Carries a call out, or does not, or loses its answer.
    async fn call<T, E: From<Error>>(
        &self,
        operation: &'static str,
        apply: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        sleep(self.millis(1..200)).await;
        let is_up = self.world.is_calm() || self.world.stores_down().is_none();
        let dice: f64 = self.random(|random| random.random());
        let is_fair = self.world.is_calm();
        if !is_up || dice < 0.03 && !is_fair {
            return Err(failed(operation).into());
        }
        let answer = apply();
        sleep(self.millis(0..50)).await;
        if dice < 0.06 && !is_fair { Err(failed(operation).into()) } else { answer }
    }
}

impl FailureStore for OperatorStore {
    fn place(&self) -> String {
        "the simulated failure store".to_owned()
    }

    fn put<'a>(
        &'a self,
        key: &'a FailureKey,
        entry: &'a FailureEntry,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let apply = || {
            let put = self.world.failures.put(key, entry, expected);
            let put = put.now_or_never().expect("at once");
            if put.is_ok() && key.kind == FailureKind::Parked {
                self.world.on_handed_out(&self.job, key, entry);
            }
            put
        };
        self.call("put the failure", apply).boxed()
    }

    fn read<'a>(
        &'a self,
        key: &'a FailureKey,
    ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>> {
        let apply = || self.world.failures.read(key).now_or_never().expect("at once");
        self.call("read the failure", apply).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a FailurePrefix,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<FailurePage, Error>> {
        let list = move || self.world.failures.list(prefix, after, limit.min(PAGE));
        self.call("list the failures", move || list().now_or_never().expect("at once")).boxed()
    }

    fn delete<'a>(
        &'a self,
        key: &'a FailureKey,
        version: &'a VersionToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let apply = || self.world.failures.delete(key, version).now_or_never().expect("at once");
        self.call("delete the failure", apply).boxed()
    }
}

impl World {
    fn on_handed_out(&self, job: &str, key: &FailureKey, entry: &FailureEntry) {
        let stored = StoredFailure {
            key: key.clone(),
            content: entry.content.clone(),
            version: VersionToken(String::new()),
            is_damaged: false,
        };
        let event = stored.record().and_then(|record| record.to_event()).expect("a record");
        let id = identity(&event);
        self.trace(|| format!("an operator hands event {id} out again"));
        self.oracle(|oracle| oracle.on_handed_out(job, id));
    }

    async fn until_recreated(&self, incarnation: i64) {
        while self.oracle(|oracle| oracle.incarnation) == incarnation {
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Dead letters of the log as it is now, and how often each was replayed.
    fn plan_of_all(&self, clock: &dyn Clock, limits: Limits) -> ReplayPlan {
        let mut plan = ReplayPlan::new(clock.now(), "the simulated failure store", limits);
        let incarnation = self.oracle(|oracle| oracle.incarnation);
        for entry in self.listed(FailureKind::Dead) {
            if entry.key.event.log.incarnation.0 == incarnation {
                plan.add(&entry.key.event, entry.meta.generation);
            }
        }
        plan
    }
}

/// Replays all letters that there are. Ends when the job does, or when its hub is gone.
pub fn replay(world: &Arc<World>, number: u64, canary: usize, is_killed: bool) {
    let world = Arc::clone(world);
    world.oracle(|oracle| oracle.replays += 1);
    tokio::spawn(async move {
        let seed = world.plan.seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(number);
        let clock = SkewedClock { begun: world.begun(), skew: world.plan.max_skew };
        let limits = Limits { canary, ..Limits::default() };
        let plan = world.plan_of_all(&clock, limits);
        if !plan.is_empty() {
            let jobs = tempfile::tempdir().expect("a folder");
            let store = OperatorStore {
                world: Arc::clone(&world),
                job: plan.job.clone(),
                random: Mutex::new(SmallRng::seed_from_u64(seed)),
            };
            drop(Job::create(jobs.path(), plan).expect("a job"));
            carry_out(&store, jobs.path(), &clock, is_killed).await;
        }
        world.oracle(|oracle| oracle.replays -= 1);
    });
}

async fn carry_out(store: &OperatorStore, jobs: &Path, clock: &SkewedClock, is_killed: bool) {
    let world = &store.world;
    let incarnation = world.oracle(|oracle| oracle.incarnation);
    let (progress, _) = watch::channel(longshore::replay::Counts::default());
    loop {
        let mut job = Job::open(jobs, &store.job).expect("a job");
        let lasts = match is_killed && !world.is_calm() {
            true => store.millis(100..20_000),
            false => FOR_GOOD,
        };
        let way = Way::Group;
        let ran = run(&mut job, store, &way, Wait::ForResults, clock, &progress, pending());
        // The hub may be created anew meanwhile: then nobody ends the job.
        let ran = async {
            tokio::select! {
                biased;
                ran = timeout(lasts, ran) => Some(ran),
                () = world.until_recreated(incarnation) => None,
            }
        };
        match ran.await {
            None => return,
            Some(Ok(Ok(Ended::Over(end)))) => {
                world.trace(|| format!("a replay is over: {end:?}"));
                return judge(world, &job);
            }
            Some(Ok(Ok(ended))) => return world.violation(format!("a replay ends: {ended:?}")),
            Some(Ok(Err(error))) => world.trace(|| format!("a replay fails: {error}")),
            Some(Err(_killed)) => world.oracle(|oracle| oracle.count("replay killed")),
        }
        drop(job);
        sleep(store.millis(100..5_000)).await;
    }
}

/// What the job says of each letter is what became of it.
fn judge(world: &World, job: &Job) {
    for (fate, told) in [
        (Fate::Done, Told::Done),
        (Fate::FailedAgain, Told::FailedAgain),
        (Fate::Dropped, Told::Dropped),
    ] {
        for (event, _note) in job.letters_of(fate) {
            let (partition, number) = (index(&event.log.partition), event.sequence_number.0);
            world.oracle(|oracle| oracle.on_fate(&job.plan().job, partition, number, told));
        }
    }
}
