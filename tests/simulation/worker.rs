//! What one worker of a run is, as the world sees it: a process that takes steps, may die at any of
//! them, and may be cut off.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::dead_letter::DeadLetter;
use longshore::event::Unreadable;
use longshore::state::unreadable::Place;
use longshore::{ErrorClass, Event};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::outage;
use super::plan::{ClaimStep, CutFrom};
use super::world::{SkewedClock, World, index};

/// One process.
pub struct Worker {
    pub world: Arc<World>,
    pub name: String,
    pub seed: u64,
    steps: AtomicU64,
    calls_in_outage: AtomicU64,
    /// By event, when it was handled here first.
    first_calls: Mutex<BTreeMap<usize, Duration>>,
    dies_at: AtomicU64,
    dead: AtomicBool,
    cuts: Mutex<Cuts>,
    doze: Mutex<Doze>,
    random: Mutex<SmallRng>,
    /// By event, the ownership that had it last.
    epochs: Mutex<BTreeMap<usize, u64>>,
}

/// Until when it is cut off.
#[derive(Default)]
struct Cuts {
    store: Option<Instant>,
    broker: Option<Instant>,
}

/// Whether it falls asleep while it claims.
#[derive(Clone, Copy, Default)]
enum Doze {
    #[default]
    Never,
    /// At the first claim that follows.
    Planned(ClaimStep, Duration),
    /// A lease was just taken.
    Near(ClaimStep, Duration),
}

impl Doze {
    /// Takes itself where it is near, and this is the step.
    fn take_if_at(&mut self, now: ClaimStep) -> Self {
        match *self {
            Doze::Near(step, _) if step == now => std::mem::take(self),
            _ => Doze::Never,
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Worker {
    pub fn new(world: &Arc<World>, number: u64) -> Arc<Self> {
        let seed = world.plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number);
        Arc::new(Self {
            world: Arc::clone(world),
            name: format!("worker-{number}"),
            seed,
            steps: AtomicU64::new(0),
            calls_in_outage: AtomicU64::new(0),
            first_calls: Mutex::default(),
            dies_at: AtomicU64::new(u64::MAX),
            dead: AtomicBool::new(false),
            cuts: Mutex::default(),
            doze: Mutex::default(),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            epochs: Mutex::new(BTreeMap::new()),
        })
    }

    pub fn clock(&self) -> SkewedClock {
        let most = u64::try_from(self.world.plan.max_skew.as_millis()).unwrap_or(0);
        SkewedClock {
            begun: self.world.begun(),
            skew: Duration::from_millis(self.random(0..=2 * most)),
        }
    }

    pub fn random(&self, range: RangeInclusive<u64>) -> u64 {
        self.random.lock().expect("no panic under the lock").random_range(range)
    }

    /// Uniform in `0.0..1.0`.
    pub fn dice(&self) -> f64 {
        self.random.lock().expect("no panic under the lock").random()
    }

    // Life and death.

    /// One more await was reached; it may be the last.
    pub fn step(&self) {
        let steps = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        if steps >= self.dies_at.load(Ordering::Relaxed) && !self.world.is_calm() {
            self.die();
        }
    }

    pub fn die(&self) {
        if !self.dead.swap(true, Ordering::Relaxed) {
            let steps = self.steps.load(Ordering::Relaxed);
            self.world.trace(|| format!("{} dies at step {steps}", self.name));
            self.world.oracle(|oracle| oracle.on_died(&self.name));
            self.world.death.notify_one();
        }
    }

    pub fn die_in(&self, steps: u64) {
        let at = self.steps.load(Ordering::Relaxed) + steps;
        self.dies_at.fetch_min(at, Ordering::Relaxed);
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Cuts it off until then, or until the faults have stopped.
    pub fn cut(&self, from: CutFrom, until: Instant) {
        let mut cuts = self.cuts.lock().expect("no panic under the lock");
        if from != CutFrom::Broker {
            cuts.store = cuts.store.max(Some(until));
        }
        if from != CutFrom::Store {
            cuts.broker = cuts.broker.max(Some(until));
        }
        drop(cuts);
        self.world.oracle(|oracle| oracle.on_excused(&self.name));
        let world = Arc::clone(&self.world);
        tokio::spawn(async move {
            world.wait_out(until).await;
            world.wake_links();
        });
    }

    /// Until when it is cut off from its stores, or else from the broker.
    pub fn cut_until(&self, store: bool) -> Option<Instant> {
        if self.world.is_calm() {
            return None;
        }
        let cuts = self.cuts.lock().expect("no panic under the lock");
        if store { cuts.store } else { cuts.broker }.filter(|until| *until > Instant::now())
    }

    /// It will sleep in its first claim.
    pub fn doze_in_claim(&self, step: ClaimStep, lasts: Duration) {
        *self.doze.lock().expect("no panic under the lock") = Doze::Planned(step, lasts);
    }

    /// The store has it as the holder of a lease: a claim follows.
    pub fn on_lease_taken(&self) {
        let mut doze = self.doze.lock().expect("no panic under the lock");
        if let Doze::Planned(step, lasts) = *doze {
            *doze = Doze::Near(step, lasts);
        }
    }

    /// A claim comes to this step; it may fall asleep there.
    pub fn on_claim_step(&self, now: ClaimStep) {
        let mut doze = self.doze.lock().expect("no panic under the lock");
        let Doze::Near(_, lasts) = doze.take_if_at(now) else { return };
        drop(doze);
        if !self.world.is_calm() {
            self.world.trace(|| format!("{} falls asleep at {now:?}", self.name));
            self.world.oracle(|oracle| oracle.count("fell asleep in a claim"));
            self.cut(CutFrom::Both, Instant::now() + lasts);
        }
    }

    // What happens to events.

    /// Returns the event's identity and which call it is.
    pub fn on_call(&self, event: &Event, epoch: u64) -> (usize, u32) {
        let id = identity(event);
        self.epochs.lock().expect("no panic under the lock").insert(id, epoch);
        let mut first_calls = self.first_calls.lock().expect("no panic under the lock");
        first_calls.entry(id).or_insert_with(|| self.world.begun().elapsed());
        drop(first_calls);
        let now = self.world.begun().elapsed();
        let call = self.world.oracle(|oracle| oracle.on_call(&self.name, id, epoch, now));
        self.world.trace(|| {
            let at = format!("{}/{}", event.partition().id, event.sequence_number());
            format!("{} handles {at} (event {id}), call {call}", self.name)
        });
        (id, call)
    }

    /// When an event was handled here first.
    pub fn first_call(&self, id: usize) -> Option<Duration> {
        self.first_calls.lock().expect("no panic under the lock").get(&id).copied()
    }

    /// One more call begins while its destination is down. Returns how many did.
    pub fn on_call_in_outage(&self) -> u64 {
        self.calls_in_outage.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A call has ended, however.
    pub fn on_call_ended(&self, event: &Event) {
        let partition = index(&event.partition().id);
        self.world.oracle(|oracle| oracle.on_call_ended(&self.name, partition));
    }

    /// A handler, or a settler, is through with an event.
    pub fn on_done(&self, id: usize, epoch: u64) {
        self.world.oracle(|oracle| oracle.on_done(id));
        self.on_settled(id, epoch);
    }

    pub fn on_settled(&self, id: usize, epoch: u64) {
        self.world.oracle(|oracle| oracle.on_settled(id, epoch));
        self.world.trace(|| format!("{} settles event {id}", self.name));
    }

    /// A handler, or a settler, closes the lane of an event: from now on.
    pub fn on_closing(&self, id: usize, partition: usize, epoch: u64, lasts: Duration) {
        let (plan, now) = (&self.world.plan, self.world.begun().elapsed());
        let lane = plan.lanes.as_ref().and_then(|lanes| lanes.lane(plan.seed, partition, id));
        self.world.trace(|| format!("{} closes the lane of event {id} for {lasts:?}", self.name));
        self.world.oracle(|oracle| {
            oracle.on_closing(id, epoch);
            if let Some(lane) = lane {
                oracle.on_lane_closed(&self.name, lane, now, lasts);
            }
        });
    }

    /// A handler stopped, and leaves the event to whoever has its partition next.
    pub fn on_put_back(&self, id: usize, epoch: u64) {
        self.world.oracle(|oracle| oracle.on_put_back(id, epoch));
        self.world.trace(|| format!("{} puts event {id} back", self.name));
    }

    /// A handler that stops when it is told to was not told.
    pub fn on_not_told_to_stop(&self, id: usize, begun: Duration) {
        let now = self.world.begun().elapsed();
        self.world.oracle(|oracle| oracle.on_not_told_to_stop(&self.name, id, begun, now));
    }

    /// A settler said so when its ownership had ended, or was about to.
    pub fn on_settled_late(&self, id: usize, epoch: u64) {
        self.world.oracle(|oracle| {
            oracle.on_done(id);
            oracle.on_settled_late(id, epoch);
        });
        self.world.trace(|| format!("{} settles event {id}, late", self.name));
    }

    pub fn on_dead_letter(&self, letter: &DeadLetter) {
        let (event, class) = (&letter.event, letter.failure.class);
        let at = || format!("{}/{}", event.partition().id, event.sequence_number());
        if (class == ErrorClass::Unreadable) != event.unreadable().is_some() {
            self.world.violation(format!("the dead letter of {} is of class {class}", at()));
        }
        if let Some(Unreadable { first, last, .. }) = event.unreadable() {
            self.world.trace(|| format!("{} writes {} off: {first} to {last}", self.name, at()));
            let place = Place { number: event.sequence_number(), first: *first, last: *last };
            let partition = index(&event.partition().id);
            self.world.oracle(|oracle| oracle.on_unreadable_letter(&self.name, partition, place));
            return;
        }
        let id = identity(event);
        if letter.failure.message.contains("ends the process") {
            let is_deadly = self.world.plan.deadly == Some(id);
            let what = if is_deadly { "deadly event accused" } else { "innocent event accused" };
            self.world.oracle(|oracle| oracle.count(what));
            if !is_deadly && self.world.plan.only_an_event_kills() {
                self.world.violation(format!("event {id} is accused and did nothing"));
            }
        }
        if class.is_retryable() && letter.attempts > 1 {
            outage::on_letter(self, id);
        }
        let epoch = self.epochs.lock().expect("no panic under the lock").get(&id).copied();
        if let Some(epoch) = epoch {
            self.world.oracle(|oracle| oracle.judge_attempts(id, epoch, letter.attempts));
        }
        // An event that is accused has no call.
        let partition = index(&letter.event.partition().id);
        let last = self.world.oracle(|oracle| oracle.last_epoch(&self.name, partition));
        self.world.oracle(|oracle| oracle.count("dead letter"));
        self.on_settled(id, epoch.unwrap_or(last));
    }
}

/// What an event of the simulator is, whatever its position.
pub fn identity(event: &Event) -> usize {
    std::str::from_utf8(event.body()).ok().and_then(|id| id.parse().ok()).expect("an identity")
}
