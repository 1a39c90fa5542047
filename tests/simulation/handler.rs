//! The handler of every worker: ends each call as the plan's rates say, by event and call.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use futures::future::pending;
use longshore::consumer::{HandlerError, Settler};
use longshore::{
    Batch, BatchContext, BatchHandler, Event, EventContext, EventHandler, Failure, Outcome,
    Outcomes,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::deferral::{Deferral, Ownership, Taken};
use super::worker::Worker;

pub struct SimHandler(pub Arc<Worker>);

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
}

struct Call {
    id: usize,
    ending: Ending,
    takes: Duration,
    heeds_cancel: bool,
    deferral: Option<Deferral>,
    running: Running,
}

/// An event is being handled; ends with the call, also where that is dropped.
pub struct Running(Arc<Worker>, Event);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.on_call_ended(&self.1);
    }
}

impl SimHandler {
    fn begin(&self, event: &Event, epoch: u64) -> Call {
        let worker = &self.0;
        if event.unreadable().is_some() {
            let at = format!("{}/{}", event.partition().id, event.sequence_number());
            worker.world.violation(format!("{} handles {at}, which cannot be read", worker.name));
            resume_unwind(Box::new("simulated"));
        }
        let (id, call) = worker.on_call(event, epoch);
        let running = Running(Arc::clone(worker), event.clone());
        let plan = &worker.world.plan;
        if plan.deadly == Some(id) {
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
        ] {
            dice -= rate;
            if dice < 0.0 && !worker.world.is_calm() {
                ending = other;
                break;
            }
        }
        if ending != Ending::Done {
            worker.world.trace(|| format!("{} will end event {id} with {ending:?}", worker.name));
        }
        let is_slow = !worker.world.is_calm() && random.random_bool(rates.slow);
        let longest_ms = if is_slow { 60_000 } else { rates.longest_ms };
        let takes = Duration::from_millis(random.random_range(0..=longest_ms));
        let heeds_cancel = random.random_bool(rates.heeds_cancel);
        let deferral = Deferral::random(&mut random, &rates).filter(|_| !worker.world.is_calm());
        Call { id, ending, takes, heeds_cancel, deferral, running }
    }

    /// Works; `false`: it was asked to give up, and does.
    async fn work(
        &self,
        takes: Duration,
        hangs: bool,
        cancelled: Option<&CancellationToken>,
    ) -> bool {
        let worker = &self.0;
        worker.step();
        let work = async {
            sleep(takes).await;
            if hangs || worker.is_dead() {
                pending::<()>().await;
            }
        };
        let finished = match cancelled {
            Some(cancelled) => tokio::select! {
                biased;
                () = cancelled.cancelled() => false,
                () = work => true,
            },
            None => {
                work.await;
                true
            }
        };
        worker.step();
        if worker.is_dead() {
            pending::<()>().await;
        }
        finished
    }

    /// How the event of a call ends.
    fn outcome(&self, ending: Ending) -> Outcome {
        match ending {
            Ending::Done => Outcome::Done,
            Ending::Skip => Outcome::skip("simulated"),
            Ending::DeadLetter => Outcome::dead_letter(Failure::permanent("simulated")),
            Ending::Retry | Ending::Panic | Ending::Hang | Ending::TooFew => {
                Outcome::retry(Failure::transient("simulated"))
            }
            Ending::Abort => Outcome::abort(Failure::permanent("simulated")),
        }
    }

    /// The handler returns for an event.
    fn end(&self, call: Call, ownership: &Ownership, taken: Option<Taken>) -> Outcome {
        let (worker, outcome) = (&self.0, self.outcome(call.ending));
        if call.ending == Ending::Abort {
            // The consumer drains by itself.
            worker.world.oracle(|oracle| oracle.on_leaving(&worker.name));
        }
        if let Some(taken) = taken {
            return taken.end(worker, call.id, ownership, outcome, call.running);
        }
        if matches!(outcome, Outcome::Done | Outcome::Skip(_)) {
            worker.on_settled(call.id, ownership.epoch);
        }
        outcome
    }

    /// Takes a settler where the call has one.
    fn take(&self, call: &Call, defer: impl Fn() -> Option<(Settler, Outcome)>) -> Option<Taken> {
        let how = call.deferral?;
        // Where the call does not return, nothing counts of what its settler says.
        let says = match call.ending {
            Ending::Panic | Ending::Hang => Outcome::Done,
            ending => self.outcome(ending),
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
            epoch: context.lease_epoch().0,
            cancelled: context.cancelled().clone(),
            lost: context.partition_lost().clone(),
        };
        let call = self.begin(&event, ownership.epoch);
        let cancelled = call.heeds_cancel.then_some(&ownership.cancelled);
        let taken = self.take(&call, || Some(context.clone().defer()));
        if !self.work(call.takes, call.ending == Ending::Hang, cancelled).await {
            return Outcome::retry(Failure::transient("gave up"));
        }
        if call.ending == Ending::Panic {
            // Without the hook that prints it.
            resume_unwind(Box::new("simulated"));
        }
        self.end(call, &ownership, taken)
    }
}

impl BatchHandler for SimHandler {
    async fn handle(&self, batch: Batch, context: BatchContext) -> Result<Outcomes, HandlerError> {
        if self.0.is_dead() {
            return pending().await;
        }
        let ownership = Ownership {
            epoch: context.lease_epoch().0,
            cancelled: context.cancelled().clone(),
            lost: context.partition_lost().clone(),
        };
        let calls: Vec<Call> =
            batch.iter().map(|event| self.begin(event, ownership.epoch)).collect();
        let Some(first) = calls.first() else { return Ok(Outcomes::all_done()) };
        let (takes, ending) = (first.takes, first.ending);
        let cancelled = first.heeds_cancel.then_some(&ownership.cancelled);
        let taken =
            calls.iter().enumerate().map(|(at, call)| self.take(call, || context.defer(at)));
        let taken: Vec<_> = taken.collect();
        if !self.work(takes, ending == Ending::Hang, cancelled).await {
            return Err(Failure::transient("gave up").into());
        }
        match ending {
            Ending::Panic => resume_unwind(Box::new("simulated")),
            Ending::Retry => Err(Failure::transient("simulated").into()),
            Ending::TooFew => {
                self.0.world.oracle(|oracle| oracle.count("too few outcomes"));
                Ok(Outcomes::each(calls.iter().skip(1).map(|_| Outcome::Done)))
            }
            _ => {
                let ends = calls.into_iter().zip(taken);
                Ok(Outcomes::each(ends.map(|(call, taken)| self.end(call, &ownership, taken))))
            }
        }
    }
}
