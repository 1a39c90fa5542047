//! Seeds with lanes: whose lane an event has, what its rule is, and what is closed, opened and capped
//! meanwhile.
//!
//! Keys are skewed: of few keys one has most of the events. Some events have no key, some an empty one,
//! and for some the lane function always panics.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use longshore::config::Ordering;
use longshore::event::Partition;
use longshore::{Event, Lane, LaneRule};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::plan::{Fault, MAX_WORKERS, Plan, at};
use super::worker::{Worker, identity};
use super::world::{HUB, index};

/// Which rule the workers of a run have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    PerKey,
    PerPartition,
    /// Ordered, by a function.
    Ordered,
    /// At most so many at once, by a function.
    Limited(usize),
}

#[derive(Clone, Copy, Debug)]
pub struct LanePlan {
    pub rule: Rule,
    /// Whether the ordering is a setting, and no rule is given.
    by_setting: bool,
    keys: u32,
    /// Whether a key is in several partitions.
    crosses: bool,
    /// Of the events: how many have no lane.
    without: f64,
    /// Of the events: for how many the lane function panics, each time.
    puzzling: f64,
}

/// The lane of an event, as the simulator knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LaneId {
    /// `None`: it crosses partitions.
    partition: Option<usize>,
    /// `None`: it is the whole partition.
    key: Option<u32>,
}

impl LaneId {
    /// What events of it are published with.
    fn key(self) -> String {
        let key = self.key.unwrap_or_default();
        match self.partition {
            Some(partition) => format!("{partition}-{key}"),
            None => key.to_string(),
        }
    }

    pub fn lane(self) -> Lane {
        match (self.partition, self.key) {
            (Some(partition), None) => {
                Lane::of_partition(&Partition::new(HUB, partition.to_string()))
            }
            _ => Lane::new(self.key()),
        }
    }
}

/// What is to become of an event, by the plan alone.
enum Answer {
    Lane(LaneId),
    Without,
    Panic,
}

impl LanePlan {
    pub fn is_ordered(&self) -> bool {
        !matches!(self.rule, Rule::Limited(_))
    }

    /// Whether each partition is one lane.
    pub fn is_per_partition(&self) -> bool {
        matches!(self.rule, Rule::PerPartition)
    }

    /// The cap that workers begin with.
    pub fn cap(&self) -> usize {
        if let Rule::Limited(cap) = self.rule { cap } else { 1 }
    }

    /// Whether nothing but lanes holds an event up.
    pub fn can_be_timed(&self) -> bool {
        self.puzzling == 0.0
    }

    fn answer(&self, seed: u64, partition: usize, id: usize) -> Answer {
        let place = (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = SmallRng::seed_from_u64(seed.rotate_left(23) ^ place);
        let (dice, rank): (f64, f64) = (random.random(), random.random());
        match self.rule {
            Rule::PerPartition => Answer::Lane(LaneId { partition: Some(partition), key: None }),
            _ if dice < self.without => Answer::Without,
            Rule::Ordered | Rule::Limited(_) if dice < self.without + self.puzzling => {
                Answer::Panic
            }
            _ => {
                let key = (f64::from(self.keys) * rank.powi(3)) as u32;
                let partition = (!self.crosses).then_some(partition);
                Answer::Lane(LaneId { partition, key: Some(key) })
            }
        }
    }

    /// The lane of an event; `None`: it has none, or its function panics.
    pub fn lane(&self, seed: u64, partition: usize, id: usize) -> Option<LaneId> {
        match self.answer(seed, partition, id) {
            Answer::Lane(lane) => Some(lane),
            Answer::Without | Answer::Panic => None,
        }
    }

    /// The key that it is published with: none and an empty one are both no lane.
    pub fn key(&self, seed: u64, partition: usize, id: usize) -> Option<String> {
        match self.answer(seed, partition, id) {
            Answer::Lane(lane) => Some(lane.key()),
            Answer::Without if id.is_multiple_of(2) => Some(String::new()),
            Answer::Without | Answer::Panic => None,
        }
    }

    /// A lane that there may be, for faults.
    fn some_lane(&self, partition: usize, dice: f64) -> LaneId {
        let key = (f64::from(self.keys) * dice.powi(3)) as u32;
        match self.rule {
            Rule::PerPartition => LaneId { partition: Some(partition), key: None },
            _ => LaneId { partition: (!self.crosses).then_some(partition), key: Some(key) },
        }
    }

    /// What the consumers are built with.
    pub fn choice(&self, worker: &Arc<Worker>) -> Choice {
        let asked = Arc::clone(worker);
        match (self.rule, self.by_setting) {
            (Rule::PerKey, true) => Choice::Setting(Ordering::PerKey),
            (Rule::PerPartition, true) => Choice::Setting(Ordering::PerPartition),
            (Rule::PerKey, false) => Choice::Rule(LaneRule::per_key()),
            (Rule::PerPartition, false) => Choice::Rule(LaneRule::per_partition()),
            (Rule::Ordered, _) => Choice::Rule(LaneRule::ordered(move |event| ask(&asked, event))),
            (Rule::Limited(cap), _) => {
                Choice::Rule(LaneRule::limited(cap, move |event| ask(&asked, event)))
            }
        }
    }
}

pub enum Choice {
    Setting(Ordering),
    Rule(LaneRule),
}

/// The lane function of a worker.
fn ask(worker: &Worker, event: &Event) -> Option<Lane> {
    let partition = index(&event.partition().id);
    if event.unreadable().is_some() {
        worker.world.violation(format!("{} asks for the lane of what nobody reads", worker.name));
        return None;
    }
    let (plan, id) = (&worker.world.plan, identity(event));
    match plan.lanes.as_ref()?.answer(plan.seed, partition, id) {
        Answer::Lane(lane) => {
            worker.world.oracle(|oracle| oracle.on_lane_asked(&worker.name, id));
            Some(lane.lane())
        }
        Answer::Without => None,
        Answer::Panic => {
            worker.world.oracle(|oracle| oracle.count("lane function panicked"));
            // Without the hook that prints it.
            resume_unwind(Box::new("simulated"))
        }
    }
}

/// What handlers do while it is looked at whether lanes rest for no reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// The first call of each event closes its lane for a while.
    Closing,
    /// Each call takes its time.
    Working,
    /// Calls end at once.
    Idle,
}

impl Probe {
    pub fn takes(self) -> Duration {
        if self == Self::Working { Duration::from_millis(700) } else { Duration::ZERO }
    }

    pub fn closes_for(self) -> Duration {
        Duration::from_millis(1_370)
    }

    pub fn closes(self, call: u32) -> bool {
        self == Self::Closing && call == 0
    }
}

/// A lane that a call is in, until the lane is to be free of it.
pub struct InLane {
    worker: Arc<Worker>,
    lane: LaneId,
    call: u64,
}

impl InLane {
    /// For each event of a call, the lane that it is in. Judges whether it may begin.
    pub fn of_call(worker: &Arc<Worker>, events: &[Event], epoch: u64) -> Vec<Option<Self>> {
        let unreadable = events.iter().any(|event| event.unreadable().is_some());
        if worker.world.plan.lanes.is_none() || unreadable {
            return events.iter().map(|_| None).collect();
        }
        let ids: Vec<usize> = events.iter().map(identity).collect();
        let now = worker.world.begun().elapsed();
        let (lanes, call) =
            worker.world.oracle(|oracle| oracle.on_lanes_begin(&worker.name, &ids, epoch, now));
        let guard = |lane| Self { worker: Arc::clone(worker), lane, call };
        lanes.into_iter().map(|lane| lane.map(guard)).collect()
    }
}

impl Drop for InLane {
    fn drop(&mut self) {
        let Self { worker, lane, call } = self;
        worker.world.oracle(|oracle| oracle.on_lane_left(&worker.name, *lane, *call));
    }
}

/// A third of the seeds has lanes. It has a generator of its own, so that the rest of each plan stays
/// what it was.
pub fn add_lanes(random: &mut SmallRng, plan: &mut Plan) {
    // What handlers ask for without lanes is a wait that uses up no attempt.
    if random.random_bool(0.2) {
        plan.handler.close = *[0.02, 0.1].choose(random).unwrap_or(&0.1);
        plan.handler.longest_closing_ms = *[0, 500, 20_000].choose(random).unwrap_or(&500);
    }
    if !random.random_bool(1.0 / 3.0) {
        return;
    }
    let rule = match random.random_range(0..8) {
        0..3 => Rule::PerKey,
        3 => Rule::PerPartition,
        4..6 => Rule::Ordered,
        _ => Rule::Limited(random.random_range(1..=3)),
    };
    let lanes = LanePlan {
        rule,
        by_setting: random.random_bool(0.5),
        keys: *[1, 2, 5, 40].choose(random).unwrap_or(&5),
        crosses: random.random_bool(0.5),
        without: *[0.0, 0.1, 0.5].choose(random).unwrap_or(&0.1),
        puzzling: *[0.0, 0.0, 0.02].choose(random).unwrap_or(&0.0),
    };
    plan.lanes = Some(lanes);
    // Order matters where events fail.
    if random.random_bool(0.5) {
        plan.handler.retry = plan.handler.retry.max(0.05);
    }
    if random.random_bool(0.5) {
        for _ in 0..random.random_range(1..=6) {
            let worker = random.random_range(0..MAX_WORKERS);
            let lane = lanes.some_lane(random.random_range(0..plan.partitions), random.random());
            let fault = match random.random_range(0..5) {
                0 if !lanes.is_ordered() => {
                    Fault::CapLanes { worker, cap: random.random_range(1..=4) }
                }
                0..3 => {
                    let lasts = Duration::from_millis(random.random_range(0..60_000));
                    Fault::CloseLane { worker, lane, lasts }
                }
                _ => Fault::OpenLane { worker, lane },
            };
            plan.faults.push((at(random, plan.calm_at), fault));
        }
        plan.faults.sort_by_key(|(at, _)| *at);
    }
}
