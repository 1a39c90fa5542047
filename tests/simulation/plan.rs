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
}

#[derive(Clone, Copy, Debug)]
pub struct Publish {
    pub partition: usize,
    pub events: usize,
    /// Numbers that are skipped before them.
    pub gap: i64,
}

/// What a worker is cut off from. From both: it is paused, as a machine that sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutFrom {
    Store,
    Broker,
    Both,
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
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::Crash { .. } => "crash",
            Fault::Join => "worker added",
            Fault::Leave { .. } => "worker leaves",
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
    pub hang: f64,
    /// Takes up to a minute, and then ends well: often after its time is up.
    pub slow: f64,
    /// Of the calls: how many give up when they are asked to.
    pub heeds_cancel: f64,
}

const LOSSES: [ErrorClass; 8] = [
    ErrorClass::Transient,
    ErrorClass::Transient,
    ErrorClass::Throttling,
    ErrorClass::Auth,
    ErrorClass::Unknown,
    ErrorClass::Permanent,
    ErrorClass::PartitionLost,
    ErrorClass::BadPosition,
];

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
            publishes.push((at(random, calm_at), Publish { partition, events, gap }));
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
        };
        this.deadly = random.random_bool(0.1).then(|| random.random_range(0..events));
        this.options.max_takeovers = Some(*[6, 7, 9].choose(random).unwrap_or(&7));
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
                    | Fault::Cut { .. }
                    | Fault::Zombie { .. }
                    | Fault::StoreDown { .. }
                    | Fault::Foreign { .. }
            )
        };
        !self.rates.may_cost_leases() && self.faults.iter().all(|(_, fault)| is_mild(fault))
    }
}

fn at(random: &mut SmallRng, before: Duration) -> Duration {
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
    }
}

fn lease_options(random: &mut SmallRng) -> LeaseOptions {
    let mut options = LeaseOptions::default();
    // The defaults, or everything in a sixth of the time.
    if random.random_bool(0.5) {
        options.heartbeat_interval = Duration::from_secs(1);
        options.lease_expiry = Duration::from_secs(6);
        options.foreign_lease_expiry = Duration::from_secs(20);
        options.look_interval = Duration::from_secs(2);
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

/// What may happen in a run, by families of which each run has only some.
#[derive(Clone, Copy, Debug)]
enum Family {
    Crash,
    Fleet,
    Cut,
    StoreDown,
    EndLinks,
    HangLinks,
    FailOpens,
    FailReads,
    Trim,
    SinkDown,
    Tampering,
}

const FAMILIES: [Family; 11] = [
    Family::Crash,
    Family::Fleet,
    Family::Cut,
    Family::StoreDown,
    Family::EndLinks,
    Family::HangLinks,
    Family::FailOpens,
    Family::FailReads,
    Family::Trim,
    Family::SinkDown,
    Family::Tampering,
];

fn faults(
    random: &mut SmallRng,
    partitions: usize,
    calm_at: Duration,
    leases: bool,
) -> Vec<(Duration, Fault)> {
    let count = random.random_range(0..=24);
    // Some families only, so that each also meets its faults alone.
    let families: Vec<Family> = FAMILIES.into_iter().filter(|_| random.random_bool(0.5)).collect();
    // A writer without fences says neither which creation of the hub its number is of, nor which
    // reset it knows of: so a run has it, or what it would undo.
    let tampering = random.random_range(0..3);
    let mut faults = Vec::new();
    for _ in 0..count {
        let Some(family) = families.choose(random) else { break };
        let partition = random.random_range(0..partitions);
        let worker = random.random_range(0..MAX_WORKERS);
        let class = *LOSSES.choose(random).unwrap_or(&ErrorClass::Transient);
        let retryable = *LOSSES[..5].choose(random).unwrap_or(&ErrorClass::Transient);
        let times = random.random_range(1..6);
        let from = [CutFrom::Store, CutFrom::Broker, CutFrom::Both];
        let from = *from.choose(random).unwrap_or(&CutFrom::Both);
        let fault = match family {
            Family::Crash => Fault::Crash { worker, steps: random.random_range(1..200) },
            Family::Fleet if !leases => Fault::Restart { worker },
            Family::Fleet => match random.random_range(0..3) {
                0 => Fault::Join,
                1 => Fault::Leave { worker },
                _ => Fault::Restart { worker },
            },
            Family::Cut if !leases => Fault::Zombie { from },
            Family::Cut => {
                let (begins, lasts) = (at(random, calm_at), random.random_range(1..120));
                if random.random_bool(0.5) {
                    // Its link is lost as well: whoever opens the next one may be replaced by then.
                    let after =
                        Duration::from_secs_f64(random.random_range(0.0..1.2) * lasts as f64);
                    let lost = if random.random_bool(0.5) {
                        Fault::HangLinks { partition }
                    } else {
                        Fault::EndLinks { partition, class: ErrorClass::Transient }
                    };
                    faults.push(((begins + after).min(calm_at), lost));
                }
                faults
                    .push((begins, Fault::Cut { worker, from, lasts: Duration::from_secs(lasts) }));
                continue;
            }
            Family::StoreDown => {
                // About as long as a lease lasts, or for ten minutes.
                let lasts = match random.random_range(0..4) {
                    0 => 600.0,
                    1 => random.random_range(1.0..10.0),
                    _ => random.random_range(5.0..50.0),
                };
                let lasts = Duration::from_secs_f64(lasts);
                Fault::StoreDown { lasts, hangs: random.random_bool(0.5) }
            }
            Family::EndLinks => Fault::EndLinks { partition, class },
            Family::HangLinks => Fault::HangLinks { partition },
            Family::FailOpens => Fault::FailOpens { times, class: retryable },
            Family::FailReads => Fault::FailReads { times, class: retryable },
            Family::Trim => Fault::Trim { partition, events: random.random_range(1..20) },
            Family::SinkDown => {
                Fault::SinkDown { lasts: Duration::from_secs(random.random_range(1..60)) }
            }
            Family::Tampering => match tampering {
                0 if leases && random.random_bool(0.5) => {
                    let lasts = Duration::from_secs(random.random_range(5..90));
                    Fault::Foreign { partition, lasts, dies: random.random_bool(0.5) }
                }
                0 => Fault::Overwrite { partition, back: random.random_range(1..40) },
                1 => Fault::Recreate,
                _ => Fault::Reset { partition, place: random.random_range(0.0..1.0) },
            },
        };
        faults.push((at(random, calm_at), fault));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}
