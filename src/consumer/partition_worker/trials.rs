//! Events that may end the process: when one is on trial, and when it is no longer.

use tokio::time::Instant;

use super::PartitionWorker;
use crate::consumer::dispatch::Mode;

impl<M: Mode> PartitionWorker<M> {
    /// Whether what is ready waits for its trial, or for the store to know of it.
    pub(super) fn awaits_trial(&self) -> bool {
        self.trial.is_waiting() || self.checkpointer.awaits_trial()
    }

    /// Lets the others go on where the store knows that the trial is over, or takes too long to.
    pub(super) fn step_trial(&mut self, now: Instant) {
        let Some((event, is_over)) = self.trial.event() else { return };
        let is_late = self.trial.until().is_some_and(|until| until <= now);
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
