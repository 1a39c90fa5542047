//! A destination that is down for a while: every call ends with a failure that may pass.
//!
//! A worker may find that out with so many calls, and no more.

use std::time::Duration;

use longshore::state::breaker::{PROBE_DELAYS, REMEMBERED_ATTEMPTS};
use rand::Rng;
use rand::rngs::SmallRng;

use super::plan::Plan;
use super::worker::Worker;

/// When it is down.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outage {
    begins: Duration,
    lasts: Duration,
}

impl Outage {
    /// In a quarter of the seeds, at some time before the faults stop.
    pub fn random(random: &mut SmallRng, calm_at: Duration) -> Option<Self> {
        let begins = calm_at.mul_f64(random.random_range(0.0..0.8));
        let lasts = (calm_at - begins).mul_f64(random.random_range(0.1..1.0));
        random.random_bool(0.25).then_some(Self { begins, lasts })
    }

    fn is_at(self, time: Duration) -> bool {
        (self.begins..self.begins + self.lasts).contains(&time)
    }

    /// Most calls of one worker that begin meanwhile.
    fn most_calls(self, plan: &Plan) -> u64 {
        let slots = match plan.batches {
            true => plan.options.max_batches_in_flight,
            false => plan.options.max_events_in_flight,
        };
        let longest = PROBE_DELAYS[PROBE_DELAYS.len() - 1].as_secs();
        let probes = PROBE_DELAYS.len() as u64 + self.lasts.as_secs() / longest;
        // A partition that leaves hands out what is in its buffer.
        let flushed = 2 * plan.partitions;
        (REMEMBERED_ATTEMPTS + slots + flushed) as u64 + probes
    }

    /// Whether failures of calls are told when they end, and to one breaker.
    fn is_counted(plan: &Plan) -> bool {
        plan.lanes.is_none()
            && plan.results.is_none()
            && plan.handler.defer == 0.0
            && plan.leases.is_none()
            && plan.deadly.is_none()
    }
}

/// A call begins. Returns whether it must fail.
pub fn on_call(worker: &Worker) -> bool {
    let world = &worker.world;
    let Some(outage) = world.plan.outage.filter(|_| !world.is_calm()) else { return false };
    if !outage.is_at(world.begun().elapsed()) {
        return false;
    }
    let calls = worker.on_call_in_outage();
    let most = outage.most_calls(&world.plan);
    if Outage::is_counted(&world.plan) && calls == most + 1 {
        world.violation(format!("{} calls more than {most} times in {outage:?}", worker.name));
    }
    true
}

/// A dead letter is written of an event that failed in a way that may pass, for the last of several
/// times. Where its destination was down all the time, nobody knows whether the event is at fault.
pub fn on_letter(worker: &Worker, id: usize) {
    let world = &worker.world;
    // What is done later may have begun long before.
    let is_done_at_once = world.plan.results.is_none() && world.plan.handler.defer == 0.0;
    let Some(outage) = world.plan.outage.filter(|_| is_done_at_once) else { return };
    // Of one that is replayed, the attempts before are counted as well.
    let was_replayed = world.oracle(|oracle| oracle.was_replayed(id));
    let Some(first) = worker.first_call(id).filter(|_| !was_replayed) else { return };
    let longest_call = world.plan.options.handler_timeout.unwrap_or_default();
    // By then everything that began before has ended, and may have succeeded.
    let is_within = first >= outage.begins + longest_call && outage.is_at(world.begun().elapsed());
    if is_within && !world.is_calm() && world.plan.lanes.is_none() {
        world.violation(format!("{} gives up event {id} in {outage:?}", worker.name));
    }
}
