//! The handler of every worker: ends each call as the plan's rates say, by event and call.

use std::panic::resume_unwind;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use futures::future::pending;
use longshore::consumer::Settler;
use longshore::{
    Batch, BatchContext, BatchHandler, Event, EventContext, EventHandler, Failure, Outcome,
    Outcomes,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use super::deferral::{Deferral, Ownership, Taken};
use super::lanes::InLane;
use super::outage;
use super::results::Results;
use super::worker::Worker;
use super::world::index;

/// A number of `0.0..1.0` that is a call's own.
fn share_of(place: u64) -> f64 {
    let mixed = (place ^ place >> 31).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed >> 32) as f64 / u64::MAX as f64
}

/// After so many calls an event that would be parked is parked, or never will be.
const CALLS_TO_PARK: u32 = 12;

pub struct SimHandler(pub Arc<Worker>, pub Option<Results>);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Ending {
    Done,
    Retry,
    DeadLetter,
    Skip,
    Panic,
    Hang,
    Abort,
    TooFew,
    CloseLane,
}

struct Call {
    id: usize,
    ending: Ending,
    takes: Duration,
    closes_for: Duration,
    heeds_cancel: bool,
    /// Whether it stops when its partition is about to leave.
    heeds_hand_off: bool,
    begun: Duration,
    deferral: Option<Deferral>,
    running: Running,
}

/// How the work of a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Worked {
    Finished,
    /// It was asked to give up.
    GaveUp,
    /// Its partition is about to leave.
    Stopped,
}

/// An event is being handled; ends with the call, also where that is dropped.
pub struct Running(Arc<Worker>, Event, Option<InLane>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.on_call_ended(&self.1);
    }
}

impl SimHandler {
    fn begin(&self, event: &Event, epoch: u64, lane: Option<InLane>, fails: bool) -> Call {
        let worker = &self.0;
        if event.unreadable().is_some() {
            let at = format!("{}/{}", event.partition().id, event.sequence_number());
            worker.world.violation(format!("{} handles {at}, which cannot be read", worker.name));
            resume_unwind(Box::new("simulated"));
        }
        let (id, call) = worker.on_call(event, epoch);
        let running = Running(Arc::clone(worker), event.clone(), lane);
        let plan = &worker.world.plan;
        // Where it is parked first, it is not the watermark that tells of it. It may find no room there.
        let is_parked = || worker.world.oracle(|oracle| oracle.is_parked(id));
        let is_parked_first = plan.parks && call < CALLS_TO_PARK && !is_parked();
        if plan.deadly == Some(id) && !is_parked_first {
            let is_alone = plan.leases.is_none();
            worker.world.oracle(|oracle| oracle.on_died_of_an_event(is_alone));
            worker.die();
        }
        let rates = plan.handler;
        let place = (id as u64).wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(call));
        let mut random = SmallRng::seed_from_u64(plan.seed ^ place.rotate_left(17));
        let mut dice: f64 = random.random();
        let mut ending = Ending::Done;
        for (rate, other) in [
            (rates.retry, Ending::Retry),
            (rates.dead_letter, Ending::DeadLetter),
            (rates.skip, Ending::Skip),
            (rates.panic, Ending::Panic),
            (rates.hang, Ending::Hang),
            (rates.abort, Ending::Abort),
            (rates.too_few, Ending::TooFew),
            (rates.close, Ending::CloseLane),
        ] {
            dice -= rate;
            if dice < 0.0 && !worker.world.is_calm() {
                ending = other;
                break;
            }
        }
        let is_slow = !worker.world.is_calm() && random.random_bool(rates.slow);
        let longest_ms = match &plan.lanes {
            _ if is_slow => 60_000,
            // What is left in order is handled one by one; that is hours of heartbeats.
            Some(_) if worker.world.is_calm() => rates.longest_ms / 20,
            _ => rates.longest_ms,
        };
        let mut takes = Duration::from_millis(random.random_range(0..=longest_ms));
        let heeds_cancel = random.random_bool(rates.heeds_cancel);
        let heeds_hand_off = share_of(place) < rates.heeds_hand_off;
        let begun = worker.world.begun().elapsed();
        // By the event alone, so that what it draws is no other call's.
        let closes_for = place % (rates.longest_closing_ms + 1);
        let mut closes_for = Duration::from_millis(closes_for);
        if let Some(probe) = worker.world.probe() {
            (takes, closes_for) = (probe.takes(), probe.closes_for());
            if probe.closes(call) {
                ending = Ending::CloseLane;
            }
        }
        if fails || plan.deadly == Some(id) {
            ending = Ending::Retry;
        }
        if ending != Ending::Done {
            worker.world.trace(|| format!("{} will end event {id} with {ending:?}", worker.name));
        }
        let deferral = Deferral::random(&mut random, &rates).filter(|_| !worker.world.is_calm());
        Call {
            id,
            ending,
            takes,
            closes_for,
            heeds_cancel,
            heeds_hand_off,
            begun,
            deferral,
            running,
        }
    }

    /// Works, as long as nothing tells it to stop.
    async fn work(&self, call: &Call, ownership: &Ownership) -> Worked {
        let (worker, takes) = (&self.0, call.takes);
        let hangs = call.ending == Ending::Hang;
        worker.step();
        let work = async {
            sleep(takes).await;
            if hangs || worker.is_dead() {
                pending::<()>().await;
            }
        };
        let worked = tokio::select! {
            biased;
            () = ownership.cancelled.cancelled(), if call.heeds_cancel => Worked::GaveUp,
            () = ownership.handing_off.cancelled(), if call.heeds_hand_off => Worked::Stopped,
            () = work => Worked::Finished,
        };
        worker.step();
        if call.heeds_hand_off && worked == Worked::Finished {
            worker.on_not_told_to_stop(call.id, call.begun);
        }
        if worker.is_dead() {
            pending::<()>().await;
        }
        worked
    }

    /// A call stopped because its partition is about to leave.
    fn put_back(&self, call: &Call, ownership: &Ownership) -> Outcome {
        self.0.on_put_back(call.id, ownership.epoch);
        Outcome::put_back("simulated")
    }

    /// How the event of a call ends.
    fn outcome(&self, call: &Call) -> Outcome {
        match call.ending {
            Ending::Done => Outcome::Done,
            Ending::Skip => Outcome::skip("simulated"),
            Ending::DeadLetter => Outcome::dead_letter(Failure::permanent("simulated")),
            Ending::Retry | Ending::Panic | Ending::Hang | Ending::TooFew => {
                Outcome::retry(Failure::transient("simulated"))
            }
            Ending::Abort => Outcome::abort(Failure::permanent("simulated")),
            Ending::CloseLane => {
                Outcome::close_lane(call.closes_for, Failure::transient("simulated"))
            }
        }
    }

    /// The handler returns for an event.
    fn end(&self, mut call: Call, ownership: &Ownership, taken: Option<Taken>) -> Outcome {
        let (worker, outcome) = (&self.0, self.outcome(&call));
        if worker.world.plan.lanes.is_some_and(|lanes| !lanes.is_ordered()) {
            // What is left to a settler is in no limited lane any more.
            drop(call.running.2.take());
        }
        if call.ending == Ending::Abort {
            // The consumer drains by itself.
            worker.world.oracle(|oracle| oracle.on_leaving(&worker.name));
        }
        if let Some(taken) = taken {
            return taken.end(worker, call.id, ownership, outcome, call.running);
        }
        ownership.on_said(worker, call.id, &outcome);
        outcome
    }

    /// Takes a settler where the call has one.
    fn take(&self, call: &Call, defer: impl Fn() -> Option<(Settler, Outcome)>) -> Option<Taken> {
        let how = call.deferral?;
        // Where the call does not return, nothing counts of what its settler says.
        let says = match call.ending {
            Ending::Panic | Ending::Hang => Outcome::Done,
            _ => self.outcome(call),
        };
        Taken::new(&self.0, how, defer, says)
    }
}

impl EventHandler for SimHandler {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        if self.0.is_dead() {
            return pending().await;
        }
        let ownership = Ownership {
            partition: index(&context.partition().id),
            epoch: context.lease_epoch().0,
            handing_off: context.handing_off().clone(),
            cancelled: context.cancelled().clone(),
            lost: context.partition_lost().clone(),
        };
        let lane = InLane::of_call(&self.0, slice::from_ref(&event), ownership.epoch).pop();
        let fails = outage::on_call(&self.0);
        let mut call = self.begin(&event, ownership.epoch, lane.flatten(), fails);
        if ownership.handing_off.is_cancelled() {
            // Of batches one is flushed while its partition is about to leave.
            self.0.world.oracle(|oracle| oracle.on_told_before_it_began(&self.0.name, call.id));
        }
        let result = match &self.1 {
            Some(results) => results.begin(&event, &ownership).await,
            None => None,
        };
        if result.is_some() {
            call.deferral = None;
        }
        let taken = self.take(&call, || Some(context.clone().defer()));
        match self.work(&call, &ownership).await {
            Worked::Finished => {}
            Worked::GaveUp => return Outcome::retry(Failure::transient("gave up")),
            Worked::Stopped => return self.put_back(&call, &ownership),
        }
        if call.ending == Ending::Panic {
            // Without the hook that prints it.
            resume_unwind(Box::new("simulated"));
        }
        match result {
            Some(result) if call.ending == Ending::Done => {
                drop(call.running);
                result.publish(context, ownership.epoch)
            }
            _ => self.end(call, &ownership, taken),
        }
    }
}

impl BatchHandler for SimHandler {
    async fn handle(&self, batch: Batch, context: BatchContext) -> Outcomes {
        if self.0.is_dead() {
            return pending().await;
        }
        let ownership = Ownership {
            partition: index(&context.partition().id),
            epoch: context.lease_epoch().0,
            handing_off: context.handing_off().clone(),
            cancelled: context.cancelled().clone(),
            lost: context.partition_lost().clone(),
        };
        let lanes = InLane::of_call(&self.0, &batch, ownership.epoch);
        let calls = batch.iter().zip(lanes);
        let fails = outage::on_call(&self.0);
        let begin = |(event, lane)| self.begin(event, ownership.epoch, lane, fails);
        let calls: Vec<Call> = calls.map(begin).collect();
        let Some(first) = calls.first() else { return Outcomes::all_done() };
        let taken =
            calls.iter().enumerate().map(|(at, call)| self.take(call, || context.defer(at)));
        let taken: Vec<_> = taken.collect();
        match self.work(first, &ownership).await {
            Worked::Finished => {}
            Worked::GaveUp => return Outcomes::failed(Failure::transient("gave up")),
            Worked::Stopped => {
                let stopped = calls.iter().map(|call| self.put_back(call, &ownership));
                return Outcomes::each(stopped);
            }
        }
        match first.ending {
            Ending::Panic => resume_unwind(Box::new("simulated")),
            Ending::Retry => Outcomes::failed(Failure::transient("simulated")),
            Ending::TooFew => {
                self.0.world.oracle(|oracle| oracle.count("too few outcomes"));
                Outcomes::each(calls.iter().skip(1).map(|_| Outcome::Done))
            }
            _ => {
                let ends = calls.into_iter().zip(taken);
                Outcomes::each(ends.map(|(call, taken)| self.end(call, &ownership, taken)))
            }
        }
    }
}
