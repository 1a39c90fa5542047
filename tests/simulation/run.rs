//! One run: the plan is carried out by the clock; then the faults stop, and everything must come to
//! its end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::FutureExt;
use longshore::ErrorClass;
use longshore::config::UncheckpointedEvents;
use longshore::lease_store::{Holder, LeaseStore};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use super::fleet::{Fleet, PATIENCE};
use super::lanes::Probe;
use super::plan::{Fault, Plan, Publish};
use super::variable;
use super::world::{World, index};

/// How long the placement of partitions must stay as it is, to count as settled.
const STEADY: Duration = Duration::from_secs(120);

/// What an event may take on its way to its handler.
const PROBE_SLACK: Duration = Duration::from_millis(50);

pub struct Report {
    pub plan: Plan,
    pub violations: Vec<String>,
    pub lines: Vec<String>,
    pub hash: u64,
    pub events: usize,
    pub calls: u64,
    pub seen: BTreeMap<&'static str, u64>,
}

/// What happens at a time.
enum Step {
    Publish(Publish),
    Fault(Fault),
}

/// A runtime of its own, in virtual time.
pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
}

/// Virtual time goes on, as long as it does.
async fn beat(pulse: Arc<AtomicU64>) {
    loop {
        sleep(Duration::from_secs(10)).await;
        pulse.fetch_add(1, Relaxed);
    }
}

/// `pulse` grows while virtual time goes on: where tasks wake each other for ever, it does not.
pub fn run(plan: Plan, kept_lines: usize, pulse: &Arc<AtomicU64>) -> Report {
    let runtime = runtime();
    let world = runtime.block_on(async {
        tokio::spawn(beat(Arc::clone(pulse)));
        let world = World::new(plan, kept_lines);
        let begun = Instant::now();
        let mut steps: Vec<(Duration, Step)> = Vec::new();
        steps.extend(world.plan.publishes.iter().map(|(at, one)| (*at, Step::Publish(*one))));
        steps.extend(world.plan.faults.iter().map(|(at, one)| (*at, Step::Fault(*one))));
        steps.sort_by_key(|(at, _)| *at);
        let mut steps = VecDeque::from(steps);
        let mut fleet = Fleet::new(&world);
        while let Some((at, step)) = steps.pop_front() {
            fleet.tend(begun + at).await;
            if world.has_failed() {
                return world;
            }
            match step {
                Step::Publish(publish) => world.publish(publish),
                Step::Fault(fault) => fleet.suffer(fault),
            }
        }
        fleet.tend(begun + world.plan.calm_at).await;
        finish(&world, &mut fleet).await;
        sleep(Duration::ZERO).await;
        world
    });
    runtime.shutdown_background();
    let (violations, calls, seen, events) = world.oracle(|oracle| {
        (oracle.violations.clone(), oracle.calls(), oracle.seen.clone(), oracle.events())
    });
    Report {
        plan: world.plan.clone(),
        violations,
        lines: world.lines(),
        hash: world.hash(),
        events,
        calls,
        seen,
    }
}

/// Waits until everything is settled, checkpointed and placed; then ends all, and looks whether
/// anything was left to do.
async fn finish(world: &Arc<World>, fleet: &mut Fleet) {
    world.calm_down();
    world.hub.fail_opens(0, ErrorClass::Transient);
    world.hub.fail_reads(0, ErrorClass::Transient);
    fleet.tend(Instant::now() + Duration::from_secs(60)).await;
    if world.oracle(|oracle| oracle.replays > 0) {
        // A letter's event that was trimmed away, and that a reset brought back, waits for the next one.
        for partition in 0..world.plan.partitions {
            world.publish(Publish { partition, events: 1, gap: 0, unreadable: false });
        }
    }
    // Whoever hears nothing of its partition's loss is harmless, and ends when it is told to.
    fleet.end_zombies();
    // Owners that get a little further each time before an event ends them do so for hours.
    let patient = world.plan.deadly.is_some() && variable("LONGSHORE_IMPATIENT").is_none();
    let patience = if patient { 6 * PATIENCE } else { PATIENCE };
    let give_up = Instant::now() + patience;
    while !is_done(world, fleet) {
        if world.has_failed() {
            return;
        }
        if Instant::now() > give_up {
            let (unsettled, behind) = world.oracle(|oracle| (oracle.unsettled(), oracle.behind()));
            let few: Vec<_> = unsettled.iter().take(5).collect();
            let (parked, replays) = (world.parked(), world.oracle(|oracle| oracle.replays));
            return world.violation(format!(
                "not done in {patience:?}: {} unsettled, first {few:?}; {parked} parked; {replays} replays; checkpoints behind \
                 {behind:?}; {}",
                unsettled.len(),
                fleet.describe(),
            ));
        }
        fleet.tend(Instant::now() + Duration::from_secs(1)).await;
    }
    if world.plan.leases.is_some() {
        // What was asked for before may still be answered; then nothing moves any more.
        for attempt in 1.. {
            let moves = world.oracle(|oracle| oracle.moves());
            fleet.tend(Instant::now() + STEADY).await;
            let more = world.oracle(|oracle| oracle.moves()) - moves;
            if more == 0 && is_placed(world, fleet) {
                break;
            }
            if attempt == 2 {
                let shares = fleet.shares();
                world.violation(format!("placement does not stay: {more} moves, then {shares:?}"));
                break;
            }
        }
    }
    change_in_calm(world, fleet).await;
    probe_lanes(world, fleet).await;
    let before = world.oracle(|oracle| oracle.calls());
    fleet.drain().await;
    check_released(world);
    fleet.start();
    fleet.tend(Instant::now() + Duration::from_secs(10)).await;
    let (after, overwritten) = world.oracle(|oracle| (oracle.calls(), oracle.was_overwritten()));
    // A worker that starts again may find what a writer without fences left.
    if after != before && !overwritten {
        world.violation(format!("{} calls after a clean end", after - before));
    }
}

/// A worker comes and one goes while events flow, with no excuse for anybody: nothing may be
/// repeated, stolen, or left.
async fn change_in_calm(world: &Arc<World>, fleet: &mut Fleet) {
    world.oracle(|oracle| oracle.on_all_well());
    for fault in [Fault::Join, Fault::Leave { worker: 0 }] {
        if world.plan.leases.is_some() {
            fleet.suffer(fault);
        } else if matches!(fault, Fault::Leave { .. }) {
            fleet.suffer(Fault::Restart { worker: 0 });
        }
        for _ in 0..10 {
            for partition in 0..world.plan.partitions {
                world.publish(Publish { partition, events: 1, gap: 0, unreadable: false });
            }
            fleet.tend(Instant::now() + Duration::from_secs(3)).await;
        }
    }
    let give_up = Instant::now() + PATIENCE;
    while !is_done(world, fleet) {
        if world.has_failed() {
            return;
        }
        if Instant::now() > give_up {
            return world.violation(format!("a change in calm does not end: {}", fleet.describe()));
        }
        fleet.tend(Instant::now() + Duration::from_secs(1)).await;
    }
}

/// In calm, with every partition at its place, a lane rests for no longer than it is closed or full: one
/// that opens by time, by hand, or because a call ends, has its next event begun.
async fn probe_lanes(world: &Arc<World>, fleet: &mut Fleet) {
    let options = &world.plan.options;
    let waits_for_checkpoints = options.uncheckpointed_events != UncheckpointedEvents::Unlimited;
    // Where results have little room, events wait for that with their slots held.
    let has_room =
        world.plan.results.is_none_or(|results| results.room > options.max_events_in_flight);
    let is_timed = has_room && world.plan.lanes.is_some_and(|lanes| lanes.can_be_timed());
    if !is_timed || waits_for_checkpoints || world.has_failed() {
        return;
    }
    for probe in [Probe::Closing, Probe::Working, Probe::Idle] {
        world.set_probe(Some(probe));
        let each = if probe == Probe::Working { 3 } else { 1 };
        let first = world.oracle(|oracle| oracle.next_id());
        let lanes = world.lanes_of_next(each);
        if probe == Probe::Idle {
            lanes.keys().for_each(|lane| fleet.close_lane(*lane, Duration::from_secs(60)));
        }
        for partition in 0..world.plan.partitions {
            world.publish(Publish { partition, events: each, gap: 0, unreadable: false });
        }
        let mut begun = Instant::now();
        if probe == Probe::Idle {
            fleet.tend(begun + Duration::from_millis(1_370)).await;
            lanes.keys().for_each(|lane| fleet.open_lane(*lane));
            begun = Instant::now();
        }
        // As for any schedule that leaves no slot idle while something could begin: all the work by
        // one slot after the other, and the longest row.
        let (events, slots, wait) = if world.plan.batches {
            (each * world.plan.partitions, options.max_batches_in_flight, options.batch_timeout)
        } else {
            (each * world.plan.partitions, options.max_events_in_flight, Duration::ZERO)
        };
        let row = lanes.values().copied().max().unwrap_or(0).max(each);
        let one = wait + PROBE_SLACK + probe.takes();
        let closed = if probe == Probe::Closing { probe.closes_for() } else { Duration::ZERO };
        let rows = u32::try_from(events.div_ceil(slots) + row).unwrap_or(u32::MAX);
        let most = one * 2 * rows + closed * u32::try_from(row).unwrap_or(u32::MAX);
        while !world.oracle(|oracle| oracle.unsettled().is_empty()) {
            if world.has_failed() {
                return;
            }
            if begun.elapsed() > most {
                let unsettled = world.oracle(|oracle| oracle.unsettled());
                return world.violation(format!(
                    "lanes rest: {probe:?} from event {first} on is not over after {most:?}: \
                     {unsettled:?}, {}",
                    fleet.describe()
                ));
            }
            // Nobody looks at the workers meanwhile, for who looks opens what is due.
            sleep(Duration::from_millis(20)).await;
        }
        world.oracle(|oracle| oracle.count("lanes timed"));
    }
    world.set_probe(None);
}

fn is_done(world: &World, fleet: &Fleet) -> bool {
    let is_settled =
        world.oracle(|oracle| oracle.unsettled().is_empty() && oracle.behind().is_empty());
    let is_over = world.parked() == 0 && world.oracle(|oracle| oracle.replays == 0);
    is_settled && is_over && !fleet.is_busy() && is_placed(world, fleet)
}

/// Whether every partition runs on one worker, and every worker has its share.
pub fn is_placed(world: &World, fleet: &Fleet) -> bool {
    let Some(shares) = fleet.shares() else { return false };
    let partitions = world.plan.partitions;
    let (floor, ceiling) =
        (partitions / shares.len().max(1), partitions.div_ceil(shares.len().max(1)));
    shares.iter().sum::<usize>() == partitions
        && shares.iter().all(|share| (floor..=ceiling).contains(share))
}

/// Nobody has a lease after all workers were drained.
fn check_released(world: &World) {
    let scope = world.scope();
    let listing = world.leases.list(&scope).now_or_never().expect("at once").expect("lists");
    for (partition, stored) in listing.ownerships {
        let in_vain = world.oracle(|oracle| oracle.was_given_in_vain(index(&partition)));
        // Whoever starts next takes what one has that left no member record.
        if stored.ownership.holder != Holder::Nobody && !in_vain {
            world.violation(format!("{partition} is not released: {:?}", stored.ownership));
        }
    }
    for member in listing.members {
        // The record of one that died in the storm stays.
        let age = listing.now.duration_since(member.modified).unwrap_or_default();
        if age < STEADY / 2 {
            world.violation(format!("{} left its member record", member.member.owner));
        }
    }
}
