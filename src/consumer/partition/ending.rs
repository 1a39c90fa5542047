//! How an ownership ends.
//!
//! A numbered, bounded procedure:
//!
//! 1. take no new events, and drop what was never begun (it is delivered to the next owner);
//! 2. hand out the partial batch;
//! 3. wait for handlers, settlers and dead letters, until the deadline;
//! 4. ask handlers to give up, and drop them [`CANCEL_GRACE`] later;
//! 5. write the last checkpoint;
//! 6. close the link, and wait until what was given up on is really dropped: a task that was
//!    aborted runs on until it yields.
//!
//! A partition that was lost skips 2 and 5: what we would write belongs to another owner. By
//! default its handlers are asked to give up at once.
//!
//! A hand-off comes before that, and cuts nothing: intake rests, the partial batch is handed out,
//! and what runs is waited for; when all of that is settled or put back, *and checkpointed*, the
//! procedure begins with nothing left to wait for. Until then it can be called back.
//!
//! Handlers are told when either begins ([`EventContext::handing_off`]), so that one that can stop and
//! be gone on with is not waited for.
//!
//! [`EventContext::handing_off`]: crate::consumer::EventContext::handing_off

use std::sync::Arc;

use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::PartitionWorker;
use super::parking::Parking;
use crate::config::{LostPartition, MAX_DURATION};
use crate::consumer::exit::{PartitionExit, StopReason};
use crate::consumer::status::PartitionPhase;
use crate::state::batch_buffer::FlushReason;
use crate::state::fence::Superseded;
use crate::state::tenure::{CANCEL_GRACE, Loss, Step, Work};

impl PartitionWorker {
    /// Steps 1 and 2: ends the ownership in good order.
    pub(super) fn stop(&mut self, why: StopReason, deadline: Instant, now: Instant) {
        if self.tenure.is_ending() {
            return;
        }
        let (dropped, partial_batch) = self.waiting.begin_drain(now.into_std());
        drop(dropped);
        if partial_batch {
            self.shared.counters.on_batch(FlushReason::Drain);
        }
        if self.awaits_trial() {
            // It would be waited for, and is not begun.
            self.waiting.clear(now.into_std());
        }
        // Others have as little time.
        self.end_trial(now);
        self.checkpointer.on_end(now);
        self.begin_end(why, deadline.max(now));
    }

    /// Prepares to give the partition to another worker.
    pub(super) fn begin_hand_off(&mut self, now: Instant) {
        if self.tenure.on_hand_off() {
            self.scope.handing_off.cancel();
            self.waiting.flush(now.into_std());
            self.status.set_phase(PartitionPhase::Draining);
        }
    }

    /// A hand-off, if there is one, is called back.
    pub(super) fn call_back(&mut self) {
        if self.tenure.on_called_back() {
            self.scope = Arc::new(self.scope.after_call_back());
            self.status.set_phase(PartitionPhase::Running);
        }
    }

    /// Whether all that was handed to handlers is settled, and no more is to be handed out.
    pub(super) fn is_handed_out(&self) -> bool {
        self.running.is_empty()
            && self.is_written_down()
            && self.deferrals.is_empty()
            && !self.waiting.is_flushed()
    }

    /// Ends an ownership that another owner has already ended.
    pub(super) fn lose(&mut self, why: StopReason, now: Instant) {
        if self.scope.lost.is_cancelled() {
            return;
        }
        let options = &self.shared.options;
        let is_anothers = matches!(
            why,
            StopReason::Lost(_)
                | StopReason::LeaseLost
                | StopReason::Superseded(Superseded::Epoch(_))
        );
        let until = match options.lost_partition {
            LostPartition::Finish if is_anothers => {
                now + options.handler_timeout.unwrap_or(MAX_DURATION)
            }
            // After a reset, or in a hub created anew, it goes on here, and at once.
            LostPartition::Finish | LostPartition::Cancel => now,
        };
        let text = format!("{why:?}");
        // Why the whole consumer stops is the more important news.
        let outranks = |before: &StopReason| matches!(before, StopReason::Aborted(_));
        match self.tenure.on_lost(why, until.into_std(), outranks) {
            Loss::Known => return,
            Loss::Joins => {}
            Loss::Begins => self.on_end_begun(&text),
        }
        if is_anothers {
            self.status.on_lost();
        }
        self.waiting.clear(now.into_std());
        self.trial.release();
        self.scope.lost.cancel();
    }

    fn begin_end(&mut self, why: StopReason, deadline: Instant) {
        let text = format!("{why:?}");
        if self.tenure.on_end(why, deadline.into_std()) {
            self.on_end_begun(&text);
        }
    }

    fn on_end_begun(&mut self, why: &str) {
        info!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_consumer_group = %self.key.scope.consumer_group,
            reason = why,
            in_flight = self.running.len(),
            "the partition ends here"
        );
        self.scope.handing_off.cancel();
        self.status.set_phase(PartitionPhase::Draining);
        self.retries.drain().for_each(drop);
        self.halves.clear();
        self.parking.iter_mut().for_each(Parking::on_end);
        self.letters_before = None;
        self.closing = self.stream.take();
        self.checkpointer.on_last();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
            && self.is_written_down()
            && self.deferrals.is_empty()
            && self.waiting.is_empty()
            && self.halves.is_empty()
    }

    /// Whether nothing that failed is on its way to a store.
    fn is_written_down(&self) -> bool {
        self.letters.is_empty() && self.parking.as_ref().is_none_or(Parking::is_idle)
    }

    /// Steps 3 to 5. Returns whether the end is reached.
    pub(super) fn step_end(&mut self, now: Instant) -> bool {
        while !self.tenure.is_running() {
            let work = Work {
                is_idle: self.is_idle(),
                is_handed_out: self.is_handed_out(),
                is_stored: self.checkpointer.is_clean(),
            };
            match self.tenure.take_step(work, now.into_std()) {
                None => return false,
                Some(Step::Over) => return true,
                Some(Step::AskToGiveUp) => self.scope.cancelled.cancel(),
                Some(Step::Cut) => {
                    self.cut_handlers += self.running.cut() + self.deferrals.cut();
                    self.letters = FuturesUnordered::new();
                    self.parking.iter_mut().for_each(Parking::cut);
                    self.waiting.clear(now.into_std());
                }
                Some(Step::HandOver) => {
                    self.waiting.clear(now.into_std());
                    self.end_trial(now);
                    self.checkpointer.on_end(now);
                    self.begin_end(StopReason::HandedOff, now);
                }
            }
            // What the step settled, or gave up on, is written down.
            self.start_write(now);
        }
        false
    }

    /// Step 6.
    pub(super) async fn finish(mut self) -> PartitionExit {
        self.return_bytes();
        self.publish_progress();
        self.shared.budget.close(self.account);
        self.line.leave();
        self.trial.release();
        if let Some(stream) = self.closing.take() {
            stream.close().await;
        }
        if timeout(CANCEL_GRACE, self.running.until_dropped()).await.is_err() {
            warn!(
                message_topic = %self.partition.entity,
                message_partition = %self.partition.id,
                message_consumer_group = %self.key.scope.consumer_group,
                calls = self.running.aborted(),
                "handler calls were given up on and still run: they do not yield; the partition \
                 goes to its next owner all the same"
            );
        }
        self.status.on_gone(PartitionPhase::Stopped);
        let reason = self.tenure.into_reason().unwrap_or(StopReason::Drained);
        PartitionExit {
            partition: self.partition.id,
            reason,
            cut_handlers: self.cut_handlers,
            checkpoint_behind: self.checkpointer.is_behind(&self.watermark),
        }
    }
}
