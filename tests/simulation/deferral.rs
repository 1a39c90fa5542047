//! Handlers that leave the end of an event to a settler: what it says, and when.
//!
//! The oracle counts its word where the handler had returned the outcome that came with it, and the
//! ownership was not about to end. A word that comes at its end may be in a checkpoint or not. A
//! word for an event that the handler ended otherwise counts for nothing.

use std::sync::Arc;
use std::time::Duration;

use longshore::Outcome;
use longshore::consumer::Settler;
use longshore::outcome::{RetryDelay, RetryRequest};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::handler::Running;
use super::plan::HandlerRates;
use super::worker::Worker;

/// How a call leaves the end of its event to a settler.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Deferral {
    /// It speaks before the handler returns.
    Early,
    /// It speaks this long after the handler returned.
    Late(Duration),
    /// It is dropped without a word before the handler returns.
    Dropped,
    /// The same, this long after.
    DroppedLate(Duration),
    /// Two are taken; one speaks before the handler returns, the other is dropped this long after the
    /// handler began.
    Twice(Duration),
    /// It speaks this long after the handler began, which ends the event itself.
    Stale(Duration),
}

impl Deferral {
    pub fn random(random: &mut SmallRng, rates: &HandlerRates) -> Option<Self> {
        if !random.random_bool(rates.defer) {
            return None;
        }
        let after = Duration::from_millis(random.random_range(0..=rates.settler_ms));
        Some(match random.random_range(0..7) {
            0 => Self::Early,
            1 => Self::Dropped,
            2 => Self::DroppedLate(after),
            3 => Self::Stale(after),
            4 => Self::Twice(after),
            _ => Self::Late(after),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Early => "settler that speaks early",
            Self::Late(_) => "settler that speaks late",
            Self::Twice(_) => "two settlers of an event",
            Self::Dropped | Self::DroppedLate(_) => "settler dropped",
            Self::Stale(_) => "settler of an event that its handler ends",
        }
    }
}

/// What the handler call knows of its ownership.
#[derive(Clone, Debug)]
pub struct Ownership {
    pub partition: usize,
    pub epoch: u64,
    pub handing_off: CancellationToken,
    pub cancelled: CancellationToken,
    pub lost: CancellationToken,
}

impl Ownership {
    pub fn is_ending(&self) -> bool {
        self.cancelled.is_cancelled() || self.lost.is_cancelled()
    }

    /// What a handler, or a settler, says of an event, and what counts.
    pub fn on_said(&self, worker: &Worker, id: usize, outcome: &Outcome) {
        match outcome {
            Outcome::Done | Outcome::Skip(_) => worker.on_done(id, self.epoch),
            Outcome::Retry(RetryRequest { delay: RetryDelay::LaneCloses(lasts), .. })
                if !self.is_ending() =>
            {
                worker.on_closing(id, self.partition, self.epoch, *lasts);
            }
            _ => {}
        }
    }
}

/// A settler that a call took.
pub struct Taken {
    how: Deferral,
    settler: Option<Settler>,
    says: Outcome,
    deferred: Outcome,
}

impl Taken {
    /// `says` is how the event is to end. `None`: there is no such event.
    pub fn new(
        worker: &Arc<Worker>,
        how: Deferral,
        defer: impl Fn() -> Option<(Settler, Outcome)>,
        says: Outcome,
    ) -> Option<Self> {
        let (settler, deferred) = defer()?;
        worker.world.oracle(|oracle| oracle.count(how.name()));
        let mut this = Self { how, settler: Some(settler), says, deferred };
        let speak = |this: &mut Self| {
            let says = this.says.clone();
            this.settler.take().into_iter().for_each(|settler| settler.settle(says.clone()));
        };
        match how {
            Deferral::Early => speak(&mut this),
            Deferral::Twice(after) => {
                let second = defer();
                speak(&mut this);
                tokio::spawn(async move {
                    sleep_until(Instant::now() + after).await;
                    drop(second);
                });
            }
            Deferral::Dropped => drop(this.settler.take()),
            Deferral::Stale(after) => {
                let (worker, settler) = (Arc::clone(worker), this.settler.take());
                tokio::spawn(async move {
                    sleep_until(Instant::now() + after).await;
                    worker.step();
                    if let Some(settler) = settler.filter(|_| !worker.is_dead()) {
                        settler.settle(Outcome::Done);
                    }
                });
            }
            Deferral::Late(_) | Deferral::DroppedLate(_) => {}
        }
        Some(this)
    }

    /// The handler returns, with this outcome where it ends the event itself.
    pub fn end(
        self,
        worker: &Arc<Worker>,
        id: usize,
        ownership: &Ownership,
        outcome: Outcome,
        running: Running,
    ) -> Outcome {
        match self.how {
            Deferral::Stale(_) => {
                ownership.on_said(worker, id, &outcome);
                return outcome;
            }
            Deferral::Early | Deferral::Twice(_) => ownership.on_said(worker, id, &self.says),
            Deferral::Dropped => {}
            Deferral::Late(after) | Deferral::DroppedLate(after) => {
                let says = matches!(self.how, Deferral::Late(_)).then_some(self.says);
                let (worker, ownership) = (Arc::clone(worker), ownership.clone());
                let settler = self.settler;
                tokio::spawn(async move {
                    let at = Instant::now() + after;
                    tokio::select! {
                        biased;
                        () = ownership.cancelled.cancelled() => {}
                        () = ownership.lost.cancelled() => {}
                        () = sleep_until(at) => {}
                    }
                    // From now on nobody waits for it.
                    drop(running);
                    sleep_until(at).await;
                    worker.step();
                    // Where it says nothing it is dropped here.
                    let Some(says) = says.filter(|_| !worker.is_dead()) else { return };
                    if ownership.is_ending() && settles(&says) {
                        worker.on_settled_late(id, ownership.epoch);
                    } else {
                        ownership.on_said(&worker, id, &says);
                    }
                    settler.into_iter().for_each(|settler| settler.settle(says.clone()));
                });
            }
        }
        self.deferred
    }
}

fn settles(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done | Outcome::Skip(_))
}
