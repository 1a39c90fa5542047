//! What the workers of one run share: hub, store, oracle, clock and trace; and what one worker is.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, StoreError, VersionToken,
};
use longshore::clock::Clock;
use longshore::event::{PartitionId, Position};
use longshore::transport::Link;
use longshore::transport::memory::MemoryHub;
use longshore::{Event, OutgoingEvent};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::oracle::Oracle;
use super::plan::{Plan, Publish, Rates};

/// Lines of the trace that are kept for a failure.
pub const KEPT_LINES: usize = 80;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

pub struct World {
    pub plan: Plan,
    pub hub: MemoryHub,
    pub store: MemoryCheckpointStore,
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    oracle: Oracle,
    calm: bool,
    sink_up_at: Instant,
    hash: u64,
    lines: VecDeque<String>,
    kept_lines: usize,
    graveyard: Vec<Box<dyn Link>>,
    /// Of links that are cut off.
    wakers: Vec<Waker>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// A wall clock that follows tokio's, wrong by a constant.
#[derive(Debug)]
pub struct SkewedClock {
    begun: Instant,
    skew: Duration,
}

impl Clock for SkewedClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            + Duration::from_secs(1_700_000_000)
            + self.begun.elapsed()
            + self.skew
    }
}

impl World {
    pub fn new(plan: Plan, kept_lines: usize) -> Arc<Self> {
        let begun = Instant::now();
        let clock = SkewedClock { begun, skew: Duration::ZERO };
        Arc::new(Self {
            hub: MemoryHub::with_clock("files", plan.partitions, Arc::new(clock)),
            store: MemoryCheckpointStore::new(),
            begun,
            state: Mutex::new(State {
                oracle: Oracle::new(plan.partitions, plan.options.position_lost),
                calm: false,
                sink_up_at: begun,
                hash: 0xcbf2_9ce4_8422_2325,
                lines: VecDeque::new(),
                kept_lines,
                graveyard: Vec::new(),
                wakers: Vec::new(),
            }),
            plan,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under the lock")
    }

    pub fn oracle<T>(&self, ask: impl FnOnce(&mut Oracle) -> T) -> T {
        ask(&mut self.state().oracle)
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub fn trace(&self, line: impl FnOnce() -> String) {
        let line = format!("{:>9} {}", self.elapsed().as_millis(), line());
        let mut state = self.state();
        for byte in line.bytes() {
            state.hash = (state.hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        if state.lines.len() >= state.kept_lines {
            state.lines.pop_front();
        }
        state.lines.push_back(line);
    }

    pub fn hash(&self) -> u64 {
        self.state().hash
    }

    pub fn lines(&self) -> Vec<String> {
        self.state().lines.iter().cloned().collect()
    }

    pub fn rates(&self) -> Rates {
        if self.state().calm {
            Rates { latency_ms: 1, ..Rates::default() }
        } else {
            self.plan.rates
        }
    }

    pub fn is_calm(&self) -> bool {
        self.state().calm
    }

    pub fn calm_down(&self) {
        let mut state = self.state();
        state.calm = true;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.iter().for_each(Waker::wake_by_ref);
        self.trace(|| "calm".to_owned());
    }

    pub fn close_sink(&self, lasts: Duration) {
        self.state().sink_up_at = Instant::now() + lasts;
    }

    pub fn sink_is_down(&self) -> bool {
        let state = self.state();
        !state.calm && Instant::now() < state.sink_up_at
    }

    pub fn wake_when_calm(&self, waker: &Waker) {
        self.state().wakers.push(waker.clone());
    }

    /// Keeps a link open whose worker is dead.
    pub fn bury(&self, link: Box<dyn Link>) {
        self.state().graveyard.push(link);
    }

    pub fn key(&self, partition: usize) -> CheckpointKey {
        CheckpointKey {
            scope: CheckpointScope {
                namespace: "memory".to_owned(),
                entity: "files".into(),
                consumer_group: "$Default".into(),
            },
            partition: PartitionId::from(partition.to_string()),
        }
    }

    pub fn publish(&self, publish: Publish) {
        if publish.gap > 0 {
            self.hub.skip_numbers(publish.partition, publish.gap);
        }
        for _ in 0..publish.events {
            let id = self.oracle(|oracle| oracle.next_id());
            let event = OutgoingEvent::new(id.to_string());
            let number = self.hub.publish(publish.partition, event).expect("a partition of it");
            self.oracle(|oracle| oracle.on_published(publish.partition, number.0));
        }
        self.trace(|| format!("{publish:?}"));
    }

    /// Applies a write of a worker, and has it judged.
    pub fn write(
        &self,
        by: &str,
        key: &CheckpointKey,
        checkpoint: &Checkpoint,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let answer = self.store.store(key, checkpoint, expected).now_or_never().expect("at once");
        self.trace(|| {
            let mark = checkpoint.watermark.as_ref().map(|position| position.sequence_number.0);
            let (epoch, ok) = (checkpoint.lease_epoch.0, answer.is_ok());
            format!("{by} writes {} to {mark:?}, epoch {epoch}: {ok}", key.partition)
        });
        let partition: usize = key.partition.as_str().parse().expect("a number");
        self.oracle(|oracle| match &answer {
            Ok(_) => oracle.on_stored(by, partition, checkpoint),
            Err(_) => oracle.count("conflict"),
        });
        answer
    }

    /// A writer without fences puts the checkpoint back.
    pub fn overwrite(&self, partition: usize, back: i64) {
        let key = self.key(partition);
        let stored = self.store.load(&key).now_or_never().expect("at once").expect("loads");
        let Some(stored) = stored else { return };
        let Some(position) = stored.checkpoint.watermark else { return };
        let foreign = Checkpoint {
            watermark: Some(Position::at((position.sequence_number.0 - back).max(0))),
            ..Checkpoint::default()
        };
        let expected = Expected::Version(stored.version);
        let written = self.store.store(&key, &foreign, &expected).now_or_never().expect("at once");
        assert!(written.is_ok(), "nobody came between");
        self.oracle(|oracle| oracle.on_overwritten(partition, &foreign));
    }
}

/// One process.
pub struct Worker {
    pub world: Arc<World>,
    pub name: String,
    pub seed: u64,
    steps: AtomicU64,
    dies_at: AtomicU64,
    dead: AtomicBool,
    cut_from_store: AtomicBool,
    cut_from_broker: AtomicBool,
    random: Mutex<SmallRng>,
    /// By event, the ownership that had it last.
    epochs: Mutex<BTreeMap<usize, u64>>,
    pub died: Notify,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Worker {
    pub fn new(world: &Arc<World>, index: u64) -> Arc<Self> {
        let seed = world.plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index);
        Arc::new(Self {
            world: Arc::clone(world),
            name: format!("worker-{index}"),
            seed,
            steps: AtomicU64::new(0),
            dies_at: AtomicU64::new(u64::MAX),
            dead: AtomicBool::new(false),
            cut_from_store: AtomicBool::new(false),
            cut_from_broker: AtomicBool::new(false),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            epochs: Mutex::new(BTreeMap::new()),
            died: Notify::new(),
        })
    }

    pub fn clock(&self) -> SkewedClock {
        let most = u64::try_from(self.world.plan.max_skew.as_millis()).unwrap_or(0);
        SkewedClock {
            begun: self.world.begun,
            skew: Duration::from_millis(self.random(0..=2 * most)),
        }
    }

    /// One more await was reached; it may be the last.
    pub fn step(&self) {
        let steps = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        if steps >= self.dies_at.load(Ordering::Relaxed) && !self.dead.swap(true, Ordering::Relaxed)
        {
            self.world.trace(|| format!("{} dies at step {steps}", self.name));
            self.died.notify_one();
        }
    }

    pub fn die_in(&self, steps: u64) {
        let at = self.steps.load(Ordering::Relaxed) + steps;
        self.dies_at.fetch_min(at, Ordering::Relaxed);
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub fn cut(&self, store: bool) {
        if store { &self.cut_from_store } else { &self.cut_from_broker }
            .store(true, Ordering::Relaxed);
    }

    pub fn is_cut(&self, store: bool) -> bool {
        let cut = if store { &self.cut_from_store } else { &self.cut_from_broker };
        !self.world.is_calm() && cut.load(Ordering::Relaxed)
    }

    pub fn random(&self, range: RangeInclusive<u64>) -> u64 {
        self.random.lock().expect("no panic under the lock").random_range(range)
    }

    /// Uniform in `0.0..1.0`.
    pub fn dice(&self) -> f64 {
        self.random.lock().expect("no panic under the lock").random()
    }

    /// Returns the event's identity and which call it is.
    pub fn on_call(&self, event: &Event, epoch: u64) -> (usize, u32) {
        let id = identity(event);
        self.epochs.lock().expect("no panic under the lock").insert(id, epoch);
        let call = self.world.oracle(|oracle| oracle.on_call(id, epoch));
        self.world.trace(|| {
            let at = format!("{}/{}", event.partition().id, event.sequence_number());
            format!("{} handles {at} (event {id}), call {call}", self.name)
        });
        (id, call)
    }

    pub fn on_settled(&self, id: usize, epoch: u64) {
        self.world.oracle(|oracle| oracle.on_settled(id, epoch));
        self.world.trace(|| format!("{} settles event {id}", self.name));
    }

    pub fn on_dead_letter(&self, event: &Event) {
        let id = identity(event);
        let epoch = self.epochs.lock().expect("no panic under the lock").get(&id).copied();
        self.world.oracle(|oracle| oracle.count("dead letter"));
        self.on_settled(id, epoch.unwrap_or_default());
    }
}

fn identity(event: &Event) -> usize {
    std::str::from_utf8(event.body()).ok().and_then(|id| id.parse().ok()).expect("an identity")
}
