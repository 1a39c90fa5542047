//! What becomes of events when their handlers return: settled, retried, dead-lettered.

use std::iter::repeat;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::PartitionWorker;
use crate::consumer::dispatch::{Completion, Mode, Tracked, Unit};
use crate::consumer::exit::StopReason;
use crate::consumer::handler::Ended;
use crate::consumer::letters;
use crate::outcome::{Failure, Outcome, RetryDelay};
use crate::state::watermark::Settled;

impl<M: Mode> PartitionWorker<M> {
    pub(super) fn on_completion(&mut self, completion: Completion, now: Instant) {
        match completion {
            Completion::Call(id, outcomes) => {
                let Some((unit, begun)) = self.running.on_reported(id) else {
                    return;
                };
                let took = now.saturating_duration_since(begun);
                self.shared.timings.handler_seconds.record(took.as_secs_f64());
                let batch = matches!(unit, Unit::Batch(..));
                let (each, one) = match outcomes.0 {
                    Ended::AllDone => (Vec::new(), Outcome::Done),
                    Ended::One(outcome) => (Vec::new(), outcome),
                    Ended::Each(each) => (each, Outcome::Done),
                };
                // As many as events where there is one for each, and otherwise one for all.
                for (tracked, outcome) in
                    unit.into_events().zip(each.into_iter().chain(repeat(one)))
                {
                    self.on_outcome(tracked, outcome, now);
                }
                if batch {
                    self.checkpointer.on_batch_finished(now);
                }
            }
            Completion::Deferred(tracked, outcome) => {
                self.deferred = self.deferred.saturating_sub(1);
                self.on_outcome(tracked, outcome, now);
            }
        }
    }

    /// Gives up on handler calls that are overdue; their events are tried again.
    pub(super) fn end_overdue_calls(&mut self, now: Instant) {
        while let Some(unit) = self.running.take_overdue(now) {
            for tracked in unit.into_events() {
                let failure = Failure::transient("the handler did not end by its deadline");
                self.on_outcome(tracked, Outcome::retry(failure), now);
            }
        }
    }

    pub(super) fn on_outcome(&mut self, mut tracked: Tracked, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Done => {
                self.tally.done += 1;
                self.settle(&tracked, now);
            }
            Outcome::Skip(reason) => {
                debug!(
                    message_topic = %self.partition.entity,
                    message_partition = %self.partition.id,
                    message_offset = %tracked.event.sequence_number(),
                    message_consumer_group = %self.key.scope.consumer_group,
                    reason,
                    "the event was skipped"
                );
                self.shared.counters.skipped.add(1);
                self.settle(&tracked, now);
            }
            Outcome::Retry(request) => {
                self.shared.counters.retried.add(1);
                tracked.first_failure.get_or_insert_with(|| self.shared.clock.now());
                if tracked.attempts >= self.shared.options.max_attempts {
                    self.dead_letter(tracked, request.failure, now);
                } else {
                    let delay = match request.delay {
                        RetryDelay::Now => Duration::ZERO,
                        RetryDelay::After(delay) => delay.min(crate::config::MAX_DURATION),
                        RetryDelay::Backoff => {
                            let random = self.shared.random();
                            self.shared.options.retry_backoff.delay(tracked.attempts, random)
                        }
                    };
                    debug!(
                        message_topic = %self.partition.entity,
                        message_partition = %self.partition.id,
                        message_offset = %tracked.event.sequence_number(),
                        message_consumer_group = %self.key.scope.consumer_group,
                        attempts = tracked.attempts,
                        retry_in_ms = delay.as_millis(),
                        failure = %request.failure,
                        "the event is tried again"
                    );
                    self.retries.on_delayed(tracked, (now + delay).into_std());
                }
            }
            Outcome::DeadLetter(failure) => self.dead_letter(tracked, failure, now),
            Outcome::Abort(failure) => {
                error!(
                    message_topic = %self.partition.entity,
                    message_partition = %self.partition.id,
                    message_offset = %tracked.event.sequence_number(),
                    message_consumer_group = %self.key.scope.consumer_group,
                    failure = %failure,
                    "a handler stopped the consumer"
                );
                let deadline = now + self.shared.options.drain_timeout;
                self.stop(StopReason::Aborted(failure), deadline, now);
                self.shared.drain();
            }
            Outcome::Deferred(_) => self.deferred += 1,
        }
    }

    pub(super) fn dead_letter(&mut self, mut tracked: Tracked, failure: Failure, now: Instant) {
        let first_failure = *tracked.first_failure.get_or_insert_with(|| self.shared.clock.now());
        warn!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_offset = %tracked.event.sequence_number(),
            message_consumer_group = %self.key.scope.consumer_group,
            class = %failure.class,
            attempts = tracked.attempts,
            failure = %failure,
            causes = ?failure.causes,
            "the event failed for good"
        );
        if self.shared.dead_letters.is_some() {
            self.letters.push(
                letters::write(Arc::clone(&self.shared), tracked, failure, first_failure).boxed(),
            );
        } else {
            let why = StopReason::NoDeadLetterSink {
                sequence_number: tracked.event.sequence_number(),
                failure,
            };
            self.stop(why, now + self.shared.options.drain_timeout, now);
        }
    }

    pub(super) fn settle(&mut self, tracked: &Tracked, now: Instant) {
        if self.watermark.on_settled(tracked.ticket) != Settled::Before {
            self.returned_bytes += tracked.event.budget_bytes();
            self.tally.settled.push(tracked.event.enqueued_time());
            self.checkpointer.on_settled(1, now);
        }
    }
}
