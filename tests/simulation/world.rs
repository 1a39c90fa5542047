//! What the workers of one run share: hub, stores, oracle, clock, weather and trace.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use longshore::OutgoingEvent;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, LeaseEpoch, StoreError,
    StoredCheckpoint, VersionToken, WriteId,
};
use longshore::clock::Clock;
use longshore::event::{Incarnation, PartitionId, Position};
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::lease_store::{LeaseStore, Ownership};
use longshore::transport::Link;
use longshore::transport::memory::MemoryHub;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::lanes::{LaneId, Probe};
use super::oracle::Oracle;
use super::plan::{Plan, Publish, Rates};

/// The name of the hub.
pub const HUB: &str = "files";
/// Lines of the trace that are kept for a failure.
pub const KEPT_LINES: usize = 80;
/// The epoch of an owner before all others, whose clock was years ahead.
const LONG_AGO_AHEAD: LeaseEpoch = LeaseEpoch(4_000_000_000_000);
const FNV_PRIME: u64 = 0x0100_0000_01b3;

pub struct World {
    pub plan: Plan,
    pub hub: MemoryHub,
    pub checkpoints: MemoryCheckpointStore,
    pub leases: MemoryLeaseStore,
    pub failures: MemoryFailureStore,
    /// Some worker died.
    pub death: Notify,
    calmed: Notify,
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    oracle: Oracle,
    calm: bool,
    probe: Option<Probe>,
    sink_up_at: Instant,
    stores_up_at: Instant,
    stores_hang: bool,
    hash: u64,
    lines: VecDeque<String>,
    kept_lines: usize,
    graveyard: Vec<Box<dyn Link>>,
    /// Of links that are cut off.
    wakers: Vec<Waker>,
    /// Requests to the stores, by kind.
    requests: BTreeMap<&'static str, u64>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// A wall clock that follows tokio's, wrong by a constant.
#[derive(Debug)]
pub struct SkewedClock {
    pub begun: Instant,
    pub skew: Duration,
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
        // Clocks of workers are ahead by up to twice the skew: this one is in the middle.
        let clock = || Arc::new(SkewedClock { begun, skew: plan.max_skew });
        let this = Arc::new(Self {
            hub: MemoryHub::with_clock(HUB, plan.partitions, clock()),
            checkpoints: MemoryCheckpointStore::new(),
            leases: MemoryLeaseStore::with_clock(clock()),
            failures: MemoryFailureStore::new(),
            death: Notify::new(),
            calmed: Notify::new(),
            begun,
            state: Mutex::new(State {
                oracle: Oracle::new(&plan),
                calm: false,
                probe: None,
                sink_up_at: begun,
                stores_up_at: begun,
                stores_hang: false,
                hash: 0xcbf2_9ce4_8422_2325,
                lines: VecDeque::new(),
                kept_lines,
                graveyard: Vec::new(),
                wakers: Vec::new(),
                requests: BTreeMap::new(),
            }),
            plan,
        });
        if this.plan.epochs_ahead {
            let claimed = Checkpoint { lease_epoch: LONG_AGO_AHEAD, ..Checkpoint::default() };
            for partition in 0..this.plan.partitions {
                let key = this.key(partition);
                let stored = this.checkpoints.store(&key, &claimed, &Expected::Absent);
                assert!(stored.now_or_never().expect("at once").is_ok(), "it was empty");
            }
        }
        this
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under the lock")
    }

    pub fn oracle<T>(&self, ask: impl FnOnce(&mut Oracle) -> T) -> T {
        ask(&mut self.state().oracle)
    }

    pub fn violation(&self, what: String) {
        self.oracle(|oracle| oracle.violations.push(what));
    }

    /// Whether it is known already that the run has failed.
    pub fn has_failed(&self) -> bool {
        self.oracle(|oracle| !oracle.violations.is_empty())
    }

    pub fn begun(&self) -> Instant {
        self.begun
    }

    // The trace.

    pub fn trace(&self, line: impl FnOnce() -> String) {
        let line = format!("{:>9} {}", self.begun.elapsed().as_millis(), line());
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

    pub fn count_request(&self, kind: &'static str) {
        *self.state().requests.entry(kind).or_default() += 1;
    }

    /// Requests to the stores since the last call, by kind.
    pub fn take_requests(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.state().requests)
    }

    // Weather.

    pub fn rates(&self) -> Rates {
        if self.is_calm() { Rates { latency_ms: 1, ..Rates::default() } } else { self.plan.rates }
    }

    pub fn is_calm(&self) -> bool {
        self.state().calm
    }

    pub fn calm_down(&self) {
        self.state().calm = true;
        self.calmed.notify_waiters();
        self.wake_links();
        self.trace(|| "calm".to_owned());
    }

    /// What handlers do with events while lanes are looked at, in calm.
    pub fn probe(&self) -> Option<Probe> {
        self.state().probe
    }

    pub fn set_probe(&self, probe: Option<Probe>) {
        self.state().probe = probe;
    }

    /// Waits until this time, or until the faults have stopped.
    pub async fn wait_out(&self, until: Instant) {
        let calmed = self.calmed.notified();
        tokio::pin!(calmed);
        calmed.as_mut().enable();
        if !self.is_calm() {
            tokio::select! {
                biased;
                () = calmed => {}
                () = sleep_until(until) => {}
            }
        }
    }

    pub fn close_sink(&self, lasts: Duration) {
        self.state().sink_up_at = Instant::now() + lasts;
    }

    pub fn sink_is_down(&self) -> bool {
        let state = self.state();
        !state.calm && Instant::now() < state.sink_up_at
    }

    pub fn close_stores(&self, lasts: Duration, hangs: bool) {
        let mut state = self.state();
        state.stores_up_at = state.stores_up_at.max(Instant::now() + lasts);
        state.stores_hang = hangs;
    }

    /// While the stores are away: until when, and whether they hang.
    pub fn stores_down(&self) -> Option<(Instant, bool)> {
        let state = self.state();
        let down = !state.calm && Instant::now() < state.stores_up_at;
        down.then_some((state.stores_up_at, state.stores_hang))
    }

    pub fn wake_when_mended(&self, waker: &Waker) {
        self.state().wakers.push(waker.clone());
    }

    pub fn wake_links(&self) {
        let wakers = std::mem::take(&mut self.state().wakers);
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Keeps the link of a process that died open, until the broker ends it.
    pub fn bury(&self, link: Box<dyn Link>) {
        let is_open = |link: &mut Box<dyn Link>| {
            let mut nobody = Context::from_waker(Waker::noop());
            !matches!(link.poll_receive(&mut nobody, 1, &mut Vec::new()), Poll::Ready(Err(_)))
        };
        let graveyard = &mut self.state().graveyard;
        graveyard.retain_mut(is_open);
        graveyard.push(link);
    }

    // The hub and the stores.

    pub fn scope(&self) -> CheckpointScope {
        CheckpointScope {
            namespace: "memory".to_owned(),
            entity: HUB.into(),
            consumer_group: "$Default".into(),
        }
    }

    pub fn key(&self, partition: usize) -> CheckpointKey {
        let partition = PartitionId::from(partition.to_string());
        CheckpointKey { scope: self.scope(), partition }
    }

    pub fn publish(&self, publish: Publish) {
        if publish.gap > 0 {
            self.hub.skip_numbers(publish.partition, publish.gap);
        }
        for _ in 0..publish.events {
            let id = self.oracle(|oracle| oracle.next_id());
            let number = match publish.unreadable {
                true => self.hub.publish_unreadable(publish.partition),
                false => self.hub.publish(publish.partition, self.outgoing(publish.partition, id)),
            };
            let number = number.expect("a partition of it").0;
            self.oracle(|oracle| match publish.unreadable {
                true => oracle.on_published_unreadable(publish.partition, number),
                false => oracle.on_published(publish.partition, number),
            });
        }
        if publish.unreadable
            && publish.events as u64 > u64::from(self.plan.options.prefetch_events) / 2
        {
            self.oracle(|oracle| oracle.count("row of more than half of the prefetch"));
        }
        self.trace(|| format!("{publish:?}"));
    }

    /// The lanes of the next events, so many for each partition, and how many each gets.
    pub fn lanes_of_next(&self, each: usize) -> BTreeMap<LaneId, usize> {
        let mut counts = BTreeMap::new();
        let Some(lanes) = &self.plan.lanes else { return counts };
        let next = self.oracle(|oracle| oracle.next_id());
        for partition in 0..self.plan.partitions {
            let first = next + partition * each;
            let lanes = (first..first + each).map(|id| lanes.lane(self.plan.seed, partition, id));
            lanes.flatten().for_each(|lane| *counts.entry(lane).or_default() += 1);
        }
        counts
    }

    fn outgoing(&self, partition: usize, id: usize) -> OutgoingEvent {
        let event = OutgoingEvent::new(id.to_string());
        let lanes = self.plan.lanes.as_ref();
        match lanes.and_then(|lanes| lanes.key(self.plan.seed, partition, id)) {
            Some(key) => event.with_key(key),
            None => event,
        }
    }

    /// Applies a checkpoint write of a worker, and has it judged.
    pub fn write_checkpoint(
        &self,
        by: &str,
        key: &CheckpointKey,
        checkpoint: &Checkpoint,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let answer =
            self.checkpoints.store(key, checkpoint, expected).now_or_never().expect("at once");
        self.trace(|| {
            let mark = checkpoint.watermark.as_ref().map(|position| position.sequence_number.0);
            let (epoch, ok) = (checkpoint.lease_epoch.0, answer.is_ok());
            let runs = checkpoint.settled_above.iter().map(|run| (run.first.0, run.last.0));
            let runs: Vec<_> = runs.collect();
            format!("{by} writes {} to {mark:?} and {runs:?}, epoch {epoch}: {ok}", key.partition)
        });
        let partition = index(&key.partition);
        self.oracle(|oracle| match &answer {
            Ok(_) => oracle.on_stored(by, partition, checkpoint),
            Err(_) => oracle.on_not_stored(by, partition, checkpoint),
        });
        answer
    }

    /// Applies a write of an ownership record, and has it judged.
    pub fn write_ownership(
        &self,
        by: &str,
        key: &CheckpointKey,
        ownership: &Ownership,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let before = self.leases.load(key).now_or_never().expect("at once").expect("loads");
        let answer = self.leases.store(key, ownership, expected).now_or_never().expect("at once");
        self.trace(|| {
            let ok = answer.is_ok();
            format!("{by} writes the lease of {} as {ownership:?}: {ok}", key.partition)
        });
        let (partition, now) = (index(&key.partition), self.begun().elapsed());
        let before = before.map(|stored| stored.ownership).unwrap_or_default();
        self.oracle(|oracle| match &answer {
            Ok(_) => oracle.on_ownership(by, partition, &before, ownership, now),
            Err(_) => oracle.count("lease conflict"),
        });
        answer
    }

    /// What is stored, whatever the weather.
    pub fn stored(&self, partition: usize) -> Option<StoredCheckpoint> {
        let key = self.key(partition);
        self.checkpoints.load(&key).now_or_never().expect("at once").expect("loads")
    }

    fn replace(&self, partition: usize, stored: StoredCheckpoint, by: &Checkpoint) {
        let expected = Expected::Version(stored.version);
        let written = self.checkpoints.store(&self.key(partition), by, &expected).now_or_never();
        assert!(written.expect("at once").is_ok(), "nobody came between");
    }

    /// A writer without fences writes its position over what is there.
    pub fn overwrite(&self, partition: usize, number: impl FnOnce(i64) -> i64) {
        let Some(stored) = self.stored(partition) else { return };
        let Some(position) = &stored.checkpoint.watermark else { return };
        let foreign = Checkpoint {
            watermark: Some(Position::at(number(position.sequence_number.0))),
            ..Checkpoint::default()
        };
        self.trace(|| format!("{partition} is overwritten by {foreign:?}"));
        self.replace(partition, stored, &foreign);
        self.oracle(|oracle| oracle.on_overwritten(partition, &foreign));
    }

    /// An operator resets the checkpoint.
    pub fn reset(&self, partition: usize, place: f64) {
        let Some(stored) = self.stored(partition) else { return };
        let (incarnation, numbers) =
            self.oracle(|oracle| (oracle.incarnation, oracle.numbers(partition)));
        let place = (numbers.len() as f64 * place) as usize;
        let number = numbers.get(place).map_or(-1, |number| number - 1);
        let reset = Checkpoint {
            watermark: Some(Position::at(number)),
            settled_above: Vec::new(),
            incarnation: Some(Incarnation(incarnation)),
            reset_generation: stored.checkpoint.reset_generation + 1,
            write_id: WriteId(u64::MAX),
            takeovers_without_progress: 0,
            suspects_to: None,
            trial: None,
            ..stored.checkpoint.clone()
        };
        self.trace(|| format!("{partition} is reset to {number}"));
        self.replace(partition, stored, &reset);
        self.oracle(|oracle| oracle.on_reset(partition, &reset));
    }
}

/// Partitions are named by their index.
pub fn index(partition: &PartitionId) -> usize {
    partition.as_str().parse().expect("a number")
}
