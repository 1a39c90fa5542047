//! Which faults a run has, by families.

use std::time::Duration;

use longshore::ErrorClass;
use longshore::config::LeaseOptions;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::plan::{ClaimStep, CutFrom, Fault, MAX_WORKERS, Plan, Publish, at};

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

pub fn faults(
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

/// The families that came later. They have a generator of their own, so that the rest of each plan
/// stays what it was.
pub fn add_later_families(random: &mut SmallRng, plan: &mut Plan, events: usize) {
    if random.random_bool(0.35) {
        plan.handler.defer = *[0.02, 0.1, 0.5].choose(random).unwrap_or(&0.1);
        plan.handler.settler_ms = *[100, 5_000, 60_000].choose(random).unwrap_or(&100);
    }
    if random.random_bool(0.06) {
        plan.handler.abort = 0.003;
    }
    if random.random_bool(0.1) {
        plan.handler.too_few = 0.05;
    }
    plan.epochs_ahead = random.random_bool(0.2);
    if plan.leases.is_some() && events < 120 && random.random_bool(0.15) {
        linger(random, plan);
    }
    if plan.leases.is_some() && random.random_bool(0.12) {
        doze(random, plan);
    }
    // Who wipes an epoch makes the next one begin at the clock again, and the broker keeps what is
    // below the level of a link that was opened before.
    let wipes = |fault: &Fault| matches!(fault, Fault::Overwrite { .. } | Fault::Foreign { .. });
    plan.epochs_ahead &= !plan.faults.iter().any(|(_, fault)| wipes(fault));
    plan.faults.sort_by_key(|(at, _)| *at);
    if random.random_bool(0.25) {
        garble(random, plan);
    }
}

/// Some of what is published cannot be decoded: single events and rows, with numbers that are
/// skipped before, within and after them, also at the log's end for a while.
fn garble(random: &mut SmallRng, plan: &mut Plan) {
    let prefetch = *[1, 2, 3, 8, 30, plan.options.prefetch_events].choose(random).unwrap_or(&1);
    plan.options.prefetch_events = prefetch;
    let rows = *[0.1, 0.4, 0.9].choose(random).unwrap_or(&0.1);
    let gaps = *[0.0, 0.3, 0.8].choose(random).unwrap_or(&0.0);
    let pauses = *[0.0, 0.1, 0.5].choose(random).unwrap_or(&0.0);
    let whole = std::mem::take(&mut plan.publishes);
    for (mut at, Publish { partition, events, mut gap, .. }) in whole {
        let mut left = events;
        while left > 0 {
            let unreadable = random.random_bool(rows);
            let longest = match random.random_range(0..10) {
                0..5 if unreadable => 1,
                5..8 if unreadable => 6,
                _ => usize::try_from(prefetch).unwrap_or(left).max(3),
            };
            let events = random.random_range(1..=longest.min(left));
            plan.publishes.push((at, Publish { partition, events, gap, unreadable }));
            left -= events;
            gap = if random.random_bool(gaps) { random.random_range(1..8) } else { 0 };
            if random.random_bool(pauses) {
                at += Duration::from_millis(random.random_range(1..3_000));
            }
        }
    }
    plan.publishes.sort_by_key(|(at, _)| *at);
}

/// Handlers outlast hand-offs while events wait, and whoever asked for the partition is gone by then.
/// Nothing else moves it: what a call-back forgets, the next owner would be given.
fn linger(random: &mut SmallRng, plan: &mut Plan) {
    plan.options.max_events_in_flight = random.random_range(1..=2);
    plan.options.max_batches_in_flight = 1;
    plan.options.handler_timeout = Some(Duration::from_secs(30));
    plan.handler.longest_ms = 6_000;
    (plan.partitions, plan.workers) = (plan.partitions.max(2), 1);
    if let Some(leases) = &mut plan.leases {
        quicken(leases);
        leases.hand_off_timeout = Duration::from_secs(2);
    }
    let moves = |fault: &Fault| {
        matches!(
            fault,
            Fault::Crash { .. }
                | Fault::Join
                | Fault::Leave { .. }
                | Fault::Restart { .. }
                | Fault::Cut { .. }
                | Fault::StoreDown { .. }
        )
    };
    plan.faults.retain(|(_, fault)| !moves(fault));
    for _ in 0..random.random_range(1..=4) {
        let lasts = Duration::from_secs(random.random_range(6..20));
        plan.faults.push((at(random, plan.calm_at), Fault::Visit { lasts }));
    }
}

/// All times of leases, in a sixth of the default.
pub fn quicken(leases: &mut LeaseOptions) {
    leases.heartbeat_interval = Duration::from_secs(1);
    leases.lease_expiry = Duration::from_secs(6);
    leases.foreign_lease_expiry = Duration::from_secs(20);
    leases.look_interval = Duration::from_secs(2);
}

/// Processes that sleep while they claim, for about as long as their lease lasts.
fn doze(random: &mut SmallRng, plan: &mut Plan) {
    let Some(leases) = &mut plan.leases else { return };
    if random.random_bool(0.7) {
        quicken(leases);
    }
    if random.random_bool(0.7) {
        // What is under way when the process falls asleep goes on when it wakes.
        plan.options.store_timeout = Duration::from_secs(120);
    }
    plan.epochs_ahead = random.random_bool(0.5);
    for _ in 0..random.random_range(1..=4) {
        let step = *ClaimStep::ALL.choose(random).unwrap_or(&ClaimStep::CheckpointRead);
        let lasts = leases.lease_expiry.mul_f64(random.random_range(1.0..4.0));
        plan.faults.push((at(random, plan.calm_at), Fault::Doze { step, lasts }));
    }
}
