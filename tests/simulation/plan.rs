//! What one seed stands for: a hub, the options of its workers, what is published when, and which
//! faults come when. Mostly small ("swarm testing"): each seed has only some of the families.

use std::time::Duration;

use longshore::config::{OwnerLevel, PositionLost, UncheckpointedEvents};
use longshore::state::backoff::Backoff;
use longshore::{ConsumerOptions, ErrorClass};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub partitions: usize,
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
}

#[derive(Clone, Copy, Debug)]
pub struct Publish {
    pub partition: usize,
    pub events: usize,
    /// Numbers that are skipped before them.
    pub gap: i64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// The worker dies at this many steps from now: calls of its ports and of its handlers.
    Crash {
        steps: u64,
    },
    /// The worker is drained, and another one started.
    Restart,
    /// The worker is cut from its store, or else from the broker, and another one started.
    Zombie {
        cut_store: bool,
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
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::Crash { .. } => "crash",
            Fault::Restart => "restart",
            Fault::Zombie { cut_store: true } => "cut from the store",
            Fault::Zombie { cut_store: false } => "cut from the broker",
            Fault::EndLinks { .. } => "links ended",
            Fault::HangLinks { .. } => "links hung",
            Fault::FailOpens { .. } => "opens fail",
            Fault::FailReads { .. } => "reads fail",
            Fault::Recreate => "hub recreated",
            Fault::Trim { .. } => "log trimmed",
            Fault::SinkDown { .. } => "sink down",
            Fault::Overwrite { .. } => "checkpoint overwritten",
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

/// How often a handler call ends otherwise than well.
#[derive(Clone, Copy, Default, Debug)]
pub struct HandlerRates {
    pub longest_ms: u64,
    pub retry: f64,
    pub dead_letter: f64,
    pub skip: f64,
    pub panic: f64,
    pub hang: f64,
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

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let random = &mut random;
        let (partitions, events) = match random.random_range(0..100) {
            0..70 => (random.random_range(1..=2), random.random_range(5..120)),
            70..95 => (random.random_range(1..=8), random.random_range(100..2_200)),
            _ => (random.random_range(8..=32), random.random_range(1_000..6_000)),
        };
        let calm_at = Duration::from_millis(random.random_range(2_000..240_000));
        let options = options(random);
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
        let faults = faults(random, partitions, calm_at);
        let often = [0.0, 0.0, 0.02, 0.1];
        let mut rate = || *often.choose(random).unwrap_or(&0.0);
        let (refused, hang, lost_answer) = (rate(), rate() / 2.0, rate());
        let (late, repeated) = (rate(), rate());
        let (retry, dead_letter, skip) = (rate(), rate(), rate());
        let (panic, hangs) = (rate(), rate() / 2.0);
        Self {
            seed,
            partitions,
            batches: random.random_bool(0.5),
            options,
            publishes,
            faults,
            calm_at,
            rates: Rates {
                latency_ms: *[1, 10, 300].choose(random).unwrap_or(&1),
                refused,
                hang,
                lost_answer,
                late,
                repeated,
            },
            handler: HandlerRates {
                longest_ms: *[1, 20, 900].choose(random).unwrap_or(&1),
                retry,
                dead_letter,
                skip,
                panic,
                hang: hangs,
                heeds_cancel: 0.5,
            },
            max_skew: Duration::from_secs(*[0, 1, 60].choose(random).unwrap_or(&0)),
        }
    }
}

fn at(random: &mut SmallRng, before: Duration) -> Duration {
    before.mul_f64(random.random_range(0.0..0.95))
}

fn options(random: &mut SmallRng) -> ConsumerOptions {
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
    if random.random_bool(0.1) {
        options.owner_level = OwnerLevel::Fixed(1);
    }
    options
}

fn faults(random: &mut SmallRng, partitions: usize, calm_at: Duration) -> Vec<(Duration, Fault)> {
    let count = random.random_range(0..=24);
    // Some families only, so that each also meets its faults alone.
    let families: Vec<u32> = (0..11).filter(|_| random.random_bool(0.5)).collect();
    // A writer without fences does not say which creation of the hub its number is of.
    let recreates = random.random_bool(0.5);
    let mut faults = Vec::new();
    for _ in 0..count {
        let Some(family) = families.choose(random) else { break };
        let partition = random.random_range(0..partitions);
        let class = *LOSSES.choose(random).unwrap_or(&ErrorClass::Transient);
        let retryable = *LOSSES[..5].choose(random).unwrap_or(&ErrorClass::Transient);
        let times = random.random_range(1..6);
        let fault = match family {
            0 => Fault::Crash { steps: random.random_range(1..200) },
            1 => Fault::Restart,
            2 => Fault::Zombie { cut_store: random.random_bool(0.5) },
            3 | 4 => Fault::EndLinks { partition, class },
            5 => Fault::HangLinks { partition },
            6 => Fault::FailOpens { times, class: retryable },
            7 => Fault::FailReads { times, class: retryable },
            8 => Fault::Trim { partition, events: random.random_range(1..20) },
            9 => Fault::SinkDown { lasts: Duration::from_secs(random.random_range(1..60)) },
            _ if recreates => Fault::Recreate,
            _ => Fault::Overwrite { partition, back: random.random_range(1..40) },
        };
        faults.push((at(random, calm_at), fault));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}
