//! The handler of every worker: ends each call as the plan's rates say, by event and call.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use futures::future::pending;
use longshore::consumer::HandlerError;
use longshore::{
    Batch, BatchContext, BatchHandler, Event, EventContext, EventHandler, Failure, Outcome,
    Outcomes,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

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
}

struct Call {
    id: usize,
    ending: Ending,
    takes: Duration,
    heeds_cancel: bool,
    _running: Running,
}

/// An event is being handled; ends with the call, also where that is dropped.
struct Running(Arc<Worker>, Event);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.on_call_ended(&self.1);
    }
}

impl SimHandler {
    fn begin(&self, event: &Event, epoch: u64) -> Call {
        let worker = &self.0;
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
        Call { id, ending, takes, heeds_cancel, _running: running }
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

    fn end(&self, call: &Call, epoch: u64) -> Outcome {
        match call.ending {
            Ending::Done => {
                self.0.on_settled(call.id, epoch);
                Outcome::Done
            }
            Ending::Skip => {
                self.0.on_settled(call.id, epoch);
                Outcome::skip("simulated")
            }
            Ending::DeadLetter => Outcome::dead_letter(Failure::permanent("simulated")),
            Ending::Retry | Ending::Panic | Ending::Hang => {
                Outcome::retry(Failure::transient("simulated"))
            }
        }
    }
}

impl EventHandler for SimHandler {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        if self.0.is_dead() {
            return pending().await;
        }
        let epoch = context.lease_epoch().0;
        let call = self.begin(&event, epoch);
        let cancelled = call.heeds_cancel.then(|| context.cancelled());
        if !self.work(call.takes, call.ending == Ending::Hang, cancelled).await {
            return Outcome::retry(Failure::transient("gave up"));
        }
        if call.ending == Ending::Panic {
            // Without the hook that prints it.
            resume_unwind(Box::new("simulated"));
        }
        self.end(&call, epoch)
    }
}

impl BatchHandler for SimHandler {
    async fn handle(&self, batch: Batch, context: BatchContext) -> Result<Outcomes, HandlerError> {
        if self.0.is_dead() {
            return pending().await;
        }
        let epoch = context.lease_epoch().0;
        let calls: Vec<Call> = batch.iter().map(|event| self.begin(event, epoch)).collect();
        let Some(first) = calls.first() else { return Ok(Outcomes::all_done()) };
        let cancelled = first.heeds_cancel.then(|| context.cancelled());
        if !self.work(first.takes, first.ending == Ending::Hang, cancelled).await {
            return Err(Failure::transient("gave up").into());
        }
        match first.ending {
            Ending::Panic => resume_unwind(Box::new("simulated")),
            Ending::Retry => Err(Failure::transient("simulated").into()),
            _ => Ok(Outcomes::each(calls.iter().map(|call| self.end(call, epoch)))),
        }
    }
}
