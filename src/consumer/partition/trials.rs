//! Events that may end the process: when one is on trial, and when it is no longer.

use tokio::time::Instant;

use super::PartitionWorker;
use crate::state::tenure::{Known, TrialStep};

impl PartitionWorker {
    /// Whether what is ready waits for its trial, or for the store to know of it.
    pub(super) fn awaits_trial(&self) -> bool {
        self.trial.is_waiting() || self.checkpointer.awaits_trial()
    }

    /// Lets the others go on where the store knows that the trial is over, or takes too long to.
    pub(super) fn step_trial(&mut self, now: Instant) {
        let Some(tried) = self.trial.tried() else { return };
        let known = Known {
            is_settled: self.checkpointer.has_written(tried.event),
            is_on_trial: self.checkpointer.is_known_on_trial(tried.event),
        };
        match self.trial.next_step(known, now) {
            Some(TrialStep::Release) => self.trial.release(),
            Some(TrialStep::End) => self.end_trial(now),
            None => {}
        }
    }

    /// The event on trial goes on as any other, if it goes on; one that waits is not tried.
    pub(super) fn end_trial(&mut self, now: Instant) {
        if let Some(event) = self.trial.end(now + self.shared.options.store_timeout) {
            self.checkpointer.on_trial_over(event, now);
        }
    }
}
