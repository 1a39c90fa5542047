//! What one seed stands for: a hub, the options of its workers, what is published when, and which
//! faults come when. Mostly small ("swarm testing"): each seed has only some of the families.

use std::time::Duration;

use longshore::config::{
    LeaseOptions, LostPartition, OwnerLevel, PositionLost, UncheckpointedEvents,
};
use longshore::state::backoff::Backoff;
use longshore::{ConsumerOptions, ErrorClass};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::families::{add_later_families, faults, quicken};
use super::lanes::{LaneId, LanePlan, add_lanes};
use super::operator::add_replays;
use super::outage::Outage;
use super::parking::add_parking;
use super::results::ResultPlan;

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub partitions: usize,
    /// Workers that run from the beginning.
    pub workers: usize,
    /// How they share the partitions. `None`: one worker at a time takes them all.
    pub leases: Option<LeaseOptions>,
    /// Whether the handler gets batches.
    pub batches: bool,
    pub options: ConsumerOptions,
    pub publishes: Vec<(Duration, Publish)>,
    pub faults: Vec<(Duration, Fault)>,
    /// When the faults have stopped.
    pub calm_at: Duration,
    pub rates: Rates,
    pub handler: HandlerRates,
    /// Most the clocks of workers are wrong, either way.
    pub max_skew: Duration,
    /// The event that ends every process of ours that handles it.
    pub deadly: Option<usize>,
    /// Whether an owner before all of these had a clock that was years ahead. Then each epoch is
    /// the one before plus one, and two claims over the same checkpoint have the same.
    pub epochs_ahead: bool,
    /// What the consumers' rule of lanes is; `None`: they have no lanes.
    pub lanes: Option<LanePlan>,
    /// What the hub of the results is like; `None`: handlers have no results.
    pub results: Option<ResultPlan>,
    /// When every call fails.
    pub outage: Option<Outage>,
    /// Whether there is a failure store, where events are parked.
    pub parks: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Publish {
    pub partition: usize,
    pub events: usize,
    /// Numbers that are skipped before them.
    pub gap: i64,
    /// Whether nobody can decode them.
    pub unreadable: bool,
}

/// What a worker is cut off from. From both: it is paused, as a machine that sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutFrom {
    Store,
    Broker,
    Both,
}

/// Where a worker falls asleep while it claims a partition whose lease it has just taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimStep {
    CheckpointRead,
    HubRead,
    LogRead,
    LeaseRead,
    CheckpointWrite,
}

impl ClaimStep {
    /// The two between which another owner's claim may come, twice.
    pub const ALL: [Self; 7] = [
        Self::CheckpointRead,
        Self::CheckpointRead,
        Self::HubRead,
        Self::LogRead,
        Self::LeaseRead,
        Self::CheckpointWrite,
        Self::CheckpointWrite,
    ];
}

/// `worker` counts those that are there when it happens.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// The worker dies at this many steps from now: calls of its ports and of its handlers.
    Crash {
        worker: usize,
        steps: u64,
    },
    /// One more worker.
    Join,
    /// A worker is drained.
    Leave {
        worker: usize,
    },
    /// One more worker, which dies so much later.
    Visit {
        lasts: Duration,
    },
    /// One more worker, which sleeps while it makes its first claim.
    Doze {
        step: ClaimStep,
        lasts: Duration,
    },
    /// A worker is drained, and another one started.
    Restart {
        worker: usize,
    },
    Cut {
        worker: usize,
        from: CutFrom,
        lasts: Duration,
    },
    /// Without leases: the worker is cut off for good, and another one started.
    Zombie {
        from: CutFrom,
    },
    /// Both stores are away for everybody.
    StoreDown {
        lasts: Duration,
        hangs: bool,
    },
    EndLinks {
        partition: usize,
        class: ErrorClass,
    },
    HangLinks {
        partition: usize,
    },
    FailOpens {
        times: usize,
        class: ErrorClass,
    },
    FailReads {
        times: usize,
        class: ErrorClass,
    },
    Recreate,
    Trim {
        partition: usize,
        events: usize,
    },
    SinkDown {
        lasts: Duration,
    },
    /// A writer without fences puts the checkpoint back by this many numbers.
    Overwrite {
        partition: usize,
        back: i64,
    },
    /// A processor of another SDK takes the partition, works on it, and releases it, or dies.
    Foreign {
        partition: usize,
        lasts: Duration,
        dies: bool,
    },
    /// An operator resets the checkpoint to a place in the log: a share of its length.
    Reset {
        partition: usize,
        place: f64,
    },
    /// An operator replays all dead letters.
    Replay {
        canary: usize,
        /// Its process is killed now and then.
        is_killed: bool,
    },
    /// Somebody closes a lane of a worker.
    CloseLane {
        worker: usize,
        lane: LaneId,
        lasts: Duration,
    },
    /// Somebody opens a lane of a worker, closed or not.
    OpenLane {
        worker: usize,
        lane: LaneId,
    },
    /// Somebody gives the limited lanes of a worker another cap.
    CapLanes {
        worker: usize,
        cap: usize,
    },
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::Crash { .. } => "crash",
            Fault::Join => "worker added",
            Fault::Leave { .. } => "worker leaves",
            Fault::Visit { .. } => "worker comes and dies",
            Fault::Doze { .. } => "worker added, to fall asleep",
            Fault::Restart { .. } => "restart",
            Fault::Cut { from: CutFrom::Store, .. } => "cut from the store",
            Fault::Cut { from: CutFrom::Broker, .. } => "cut from the broker",
            Fault::Cut { from: CutFrom::Both, .. } => "paused",
            Fault::Zombie { .. } => "cut off for good",
            Fault::StoreDown { hangs: true, .. } => "stores hang",
            Fault::StoreDown { hangs: false, .. } => "stores fail",
            Fault::EndLinks { .. } => "links ended",
            Fault::HangLinks { .. } => "links hung",
            Fault::FailOpens { .. } => "opens fail",
            Fault::FailReads { .. } => "reads fail",
            Fault::Recreate => "hub recreated",
            Fault::Trim { .. } => "log trimmed",
            Fault::SinkDown { .. } => "sink down",
            Fault::Overwrite { .. } => "checkpoint overwritten",
            Fault::Foreign { .. } => "foreign owner",
            Fault::Reset { .. } => "checkpoint reset",
            Fault::Replay { .. } => "replay",
            Fault::CloseLane { .. } => "lane closed",
            Fault::OpenLane { .. } => "lane opened",
            Fault::CapLanes { .. } => "lanes capped anew",
        }
    }
}

/// How often one call of a port goes wrong, and how.
#[derive(Clone, Copy, Default, Debug)]
pub struct Rates {
    pub latency_ms: u64,
    pub refused: f64,
    pub hang: f64,
    /// Applied, and answered with an error.
    pub lost_answer: f64,
    /// Applied long after the caller gave up.
    pub late: f64,
    /// Sent twice: the answer is that of the second.
    pub repeated: f64,
}

impl Rates {
    /// Whether a heartbeat may fail to arrive, or a checkpoint: a live worker may lose its lease.
    pub fn may_cost_leases(&self) -> bool {
        self.refused + self.hang + self.lost_answer + self.late > 0.0
    }
}

/// How often a handler call ends otherwise than well.
#[derive(Clone, Copy, Default, Debug)]
pub struct HandlerRates {
    pub longest_ms: u64,
    pub retry: f64,
    pub dead_letter: f64,
    pub skip: f64,
    pub panic: f64,
    pub abort: f64,
    /// Returns one outcome less than the batch has events.
    pub too_few: f64,
    pub hang: f64,
    /// Takes up to a minute, and then ends well: often after its time is up.
    pub slow: f64,
    /// Of the calls: how many give up when they are asked to.
    pub heeds_cancel: f64,
    /// Of the events: how many have handlers that stop when their partition is about to leave.
    pub heeds_hand_off: f64,
    /// Of the events: how many have a settler.
    pub defer: f64,
    /// The longest that a settler takes.
    pub settler_ms: u64,
    /// Closes the lane of the event, which is no attempt.
    pub close: f64,
    /// The longest that it is to be closed.
    pub longest_closing_ms: u64,
}

/// Most workers at a time.
pub const MAX_WORKERS: usize = 8;

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let random = &mut random;
        let (partitions, events, workers) = match random.random_range(0..100) {
            0..70 => (random.random_range(1..=2), random.random_range(5..120), 1..=2),
            70..95 => (random.random_range(1..=8), random.random_range(100..2_200), 1..=4),
            _ => (random.random_range(8..=32), random.random_range(1_000..6_000), 2..=MAX_WORKERS),
        };
        let leases = random.random_bool(0.75).then(|| lease_options(random));
        let workers = if leases.is_some() { random.random_range(workers) } else { 1 };
        let calm_at = Duration::from_millis(random.random_range(2_000..240_000));
        let options = options(random, leases.is_some());
        let mut publishes = Vec::new();
        let mut left: usize = events;
        while left > 0 {
            let events = random.random_range(1..=left.min(60));
            left -= events;
            let gap = if random.random_bool(0.05) { random.random_range(1..50) } else { 0 };
            let partition = random.random_range(0..partitions);
            let publish = Publish { partition, events, gap, unreadable: false };
            publishes.push((at(random, calm_at), publish));
        }
        publishes.sort_by_key(|(at, _)| *at);
        let faults = faults(random, partitions, calm_at, leases.is_some());
        let mut this = Self {
            seed,
            partitions,
            workers,
            leases,
            batches: random.random_bool(0.5),
            options,
            publishes,
            faults,
            calm_at,
            rates: rates(random),
            handler: handler_rates(random),
            max_skew: Duration::from_secs(*[0, 1, 60].choose(random).unwrap_or(&0)),
            deadly: None,
            epochs_ahead: false,
            lanes: None,
            results: None,
            outage: None,
            parks: false,
        };
        this.deadly = random.random_bool(0.1).then(|| random.random_range(0..events));
        this.options.max_takeovers = Some(*[6, 7, 9].choose(random).unwrap_or(&7));
        let mut later = SmallRng::seed_from_u64(seed.wrapping_add(0x5eed).rotate_left(32));
        add_later_families(&mut later, &mut this, events);
        let mut last = SmallRng::seed_from_u64(seed.wrapping_add(0x1a4e).rotate_left(16));
        add_lanes(&mut last, &mut this);
        let mut newest = SmallRng::seed_from_u64(seed.wrapping_add(0x7e50).rotate_left(48));
        this.results = ResultPlan::random(&mut newest);
        this.handler.heeds_hand_off = *[0.0, 0.0, 0.5, 1.0].choose(&mut newest).unwrap_or(&0.0);
        let mut outage = SmallRng::seed_from_u64(seed.wrapping_add(0x0a7e).rotate_left(8));
        this.outage = Outage::random(&mut outage, calm_at);
        let mut parking = SmallRng::seed_from_u64(seed.wrapping_add(0x9a4c).rotate_left(24));
        add_parking(&mut parking, &mut this);
        add_replays(&mut parking, &mut this);
        this
    }
}

impl Plan {
    /// Good weather, nothing published, everything as it is by default.
    pub fn quiet(partitions: usize, workers: usize) -> Self {
        Self {
            seed: 1,
            partitions,
            workers,
            leases: Some(LeaseOptions::default()),
            batches: false,
            options: ConsumerOptions::default(),
            publishes: Vec::new(),
            faults: Vec::new(),
            calm_at: Duration::ZERO,
            rates: Rates { latency_ms: 10, ..Rates::default() },
            handler: HandlerRates::default(),
            max_skew: Duration::ZERO,
            deadly: None,
            epochs_ahead: false,
            lanes: None,
            results: None,
            outage: None,
            parks: false,
        }
    }
}

impl Plan {
    /// Whether nothing ends a process, or its ownerships, but the deadly event.
    pub fn only_an_event_kills(&self) -> bool {
        let is_mild = |fault: &Fault| {
            !matches!(
                fault,
                Fault::Crash { .. }
                    | Fault::Visit { .. }
                    | Fault::Doze { .. }
                    | Fault::Cut { .. }
                    | Fault::Zombie { .. }
                    | Fault::StoreDown { .. }
                    | Fault::Foreign { .. }
            )
        };
        !self.rates.may_cost_leases() && self.faults.iter().all(|(_, fault)| is_mild(fault))
    }
}

pub fn at(random: &mut SmallRng, before: Duration) -> Duration {
    before.mul_f64(random.random_range(0.0..0.95))
}

fn often(random: &mut SmallRng) -> f64 {
    *[0.0, 0.0, 0.02, 0.1].choose(random).unwrap_or(&0.0)
}

fn rates(random: &mut SmallRng) -> Rates {
    let latency_ms = *[1, 10, 300].choose(random).unwrap_or(&1);
    // In good weather a worker that is alive keeps its leases, whatever else happens.
    let (refused, hang, lost_answer, late) = if random.random_bool(0.5) {
        (often(random), often(random) / 2.0, often(random), often(random))
    } else {
        (0.0, 0.0, 0.0, 0.0)
    };
    Rates { latency_ms, refused, hang, lost_answer, late, repeated: often(random) }
}

fn handler_rates(random: &mut SmallRng) -> HandlerRates {
    HandlerRates {
        longest_ms: *[1, 20, 900].choose(random).unwrap_or(&1),
        retry: often(random),
        dead_letter: often(random),
        skip: often(random),
        panic: often(random),
        hang: often(random) / 2.0,
        slow: often(random) / 2.0,
        heeds_cancel: 0.5,
        ..HandlerRates::default()
    }
}

fn lease_options(random: &mut SmallRng) -> LeaseOptions {
    let mut options = LeaseOptions::default();
    // The defaults, or everything in a sixth of the time.
    if random.random_bool(0.5) {
        quicken(&mut options);
    }
    // The longest that their pairs allow.
    if random.random_bool(0.2) {
        options.heartbeat_interval = options.lease_expiry / 3;
        options.look_interval = options.lease_expiry / 2;
    }
    options.hand_off_timeout = Duration::from_secs(*[2, 10, 60].choose(random).unwrap_or(&60));
    options
}

fn options(random: &mut SmallRng, leases: bool) -> ConsumerOptions {
    let mut options = ConsumerOptions::default();
    options.max_batch_size = *[1, 3, 20].choose(random).unwrap_or(&1);
    options.batch_timeout = Duration::from_millis(*[10, 200, 1_000].choose(random).unwrap_or(&10));
    options.max_batches_in_flight = random.random_range(1..=4);
    options.max_events_in_flight = random.random_range(1..=12);
    let least = options.max_batch_size * options.max_batches_in_flight;
    options.window_events = least.max(*[1, 16, 4_096].choose(random).unwrap_or(&16));
    options.handler_timeout = Some(Duration::from_secs(random.random_range(2..=30)));
    options.max_attempts = random.random_range(1..=5);
    options.retry_backoff = Backoff::doubling(
        Duration::from_millis(50),
        Duration::from_secs(random.random_range(1..=20)),
    );
    options.checkpoint_min_interval =
        Duration::from_millis(*[0, 100, 1_000].choose(random).unwrap_or(&0));
    options.drain_timeout = Duration::from_secs(*[0, 1, 30].choose(random).unwrap_or(&1));
    options.store_timeout = Duration::from_secs(random.random_range(1..=10));
    // A worker that is cut off when it starts stays, for the faults stop.
    options.connect_timeout = None;
    options.position_lost =
        if random.random_bool(0.8) { PositionLost::Earliest } else { PositionLost::Latest };
    if random.random_bool(0.2) {
        options.uncheckpointed_events = UncheckpointedEvents::PauseAt(random.random_range(1..100));
    }
    if random.random_bool(0.3) {
        options.lost_partition = LostPartition::Finish;
    }
    // With a fixed level a worker that is cut off from the store goes on beside its successor.
    if !leases && random.random_bool(0.1) {
        options.owner_level = OwnerLevel::Fixed(1);
    }
    options
}
