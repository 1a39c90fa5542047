//! Events that may end the process: when one is on trial, and when it is no longer.

use tokio::time::Instant;

use super::PartitionWorker;
use crate::checkpoint_store::Trial;
use crate::consumer::dispatch::Mode;
use crate::consumer::trial::Tried;
use crate::outcome::Failure;

impl<M: Mode> PartitionWorker<M> {
    /// Whether what is ready waits for its trial, or for the store to know of it.
    pub(super) fn awaits_trial(&self) -> bool {
        self.trial.is_waiting() || self.checkpointer.awaits_trial()
    }

    /// Lets the others go on where the store knows that the trial is over, or takes too long to.
    pub(super) fn step_trial(&mut self, now: Instant) {
        let Some(Tried { event, until, is_over }) = self.trial.tried() else { return };
        let is_late = until <= now;
        let is_known = self.checkpointer.has_written(event)
            || is_over && !self.checkpointer.is_known_on_trial(event);
        if is_known || is_over && is_late {
            self.trial.release();
        } else if is_late {
            self.end_trial(now);
        }
    }

    /// The event on trial goes on as any other, if it goes on; one that waits is not tried.
    pub(super) fn end_trial(&mut self, now: Instant) {
        if let Some(event) = self.trial.end(now + self.shared.options.store_timeout) {
            self.checkpointer.on_trial_over(event, now);
        }
    }
}

/// Why an event is a dead letter that no handler gets any more.
pub(super) fn accusation(trial: Trial) -> Failure {
    Failure::permanent(format!(
        "its handler ends the process: {} owners of its partition ended while nothing else was \
         handled",
        trial.deaths
    ))
}
