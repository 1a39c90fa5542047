//! What becomes of events when their handlers return: settled, retried, dead-lettered.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::next_step::{NextStep, Standing, next_step};
use super::parking::ParkingOrder;
use super::{PartitionWorker, letters};
use crate::config::MAX_DURATION;
use crate::consumer::exit::StopReason;
use crate::consumer::handling::batch::{Ended, Outcomes};
use crate::consumer::handling::scope::Completion;
use crate::consumer::handling::unit::{Attempt, Tracked, TrackedBatch, Unit};
use crate::consumer::lock::lock;
use crate::event::Event;
use crate::lanes::MAX_LANE_CLOSING;
use crate::outcome::{Deferred, Failure, Outcome, RetryDelay, RetryRequest};
use crate::state::backoff::Backoff;
use crate::state::verdicts::{Alarm, REMEMBERED_EVENTS};
use crate::state::watermark::Settled;

/// What a call that failed counts for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Counts {
    /// An attempt.
    Attempt,
    /// The event failed, and no attempt of it is used up.
    Failure,
    /// Nothing: it says nothing of the event.
    Nothing,
}

/// How an event is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// It was handled, or skipped, or its record is in the store.
    Handled,
    /// Its dead letter is written.
    GivenUp,
}

impl PartitionWorker {
    pub(super) fn on_completion(&mut self, completion: Completion, now: Instant) {
        match completion {
            Completion::Call(id, outcomes) => {
                let Some((unit, begun)) = self.running.on_reported(id) else {
                    return;
                };
                let took = now.saturating_duration_since(begun);
                self.shared.timings.handler_seconds.record(took.as_secs_f64());
                self.on_ended(unit, outcomes, now);
            }
            Completion::Deferred { tracked, attempt, outcome } => {
                // That of an earlier attempt, or of an event that its handler ended itself.
                let ticket = tracked.ticket;
                let is_over = match ticket.is_returned() {
                    true => !self.is_back(ticket),
                    false => self.watermark.is_settled(ticket),
                };
                let is_stale = is_over || attempt != self.failures.attempt(ticket).call;
                if !is_stale && let Some(outcome) = self.deferrals.on_said(ticket, outcome) {
                    self.on_outcome(tracked, outcome, now);
                }
            }
        }
    }

    /// A handler's call ended, and this is what it says of one event.
    pub(super) fn on_returned(&mut self, tracked: Tracked, outcome: Outcome, now: Instant) {
        self.waiting.on_returned(tracked.ticket);
        let said = self.deferrals.take_early(tracked.ticket);
        let Outcome::Deferred(deferred) = outcome else {
            return self.on_outcome(tracked, outcome, now);
        };
        let attempt = self.failures.attempt(tracked.ticket).call;
        if deferred != Deferred::new(tracked.event.sequence_number(), attempt) {
            // Nobody would end this one.
            let failure = Failure::transient("the handler returned what defers another event");
            self.on_outcome(tracked, Outcome::retry(failure), now);
        } else if let Some(said) = said {
            self.on_outcome(tracked, said, now);
        } else {
            self.end_trial(now);
            self.deferrals.on_deferred(tracked.ticket);
        }
    }

    fn on_ended(&mut self, unit: Unit, outcomes: Outcomes, now: Instant) {
        match (unit, outcomes.0) {
            (Unit::Event(tracked, _), Ended::AllDone) => {
                self.on_returned(tracked, Outcome::Done, now)
            }
            (Unit::Event(tracked, _), Ended::One(outcome)) => {
                self.on_returned(tracked, outcome, now)
            }
            (Unit::Event(tracked, _), Ended::Each(each)) => {
                self.on_returned(tracked, wrong_number(each.len(), 1), now);
            }
            (Unit::Batch(batch, _), outcomes) => {
                match fitted(outcomes, batch.events.len()) {
                    Ended::AllDone => self.on_batch_done(&batch, now),
                    Ended::One(outcome) => self.on_batch_failed(batch, outcome, now),
                    Ended::Each(each) => {
                        for (tracked, outcome) in batch.into_events().zip(each) {
                            self.on_returned(tracked, outcome, now);
                        }
                    }
                }
                self.checkpointer.on_batch_finished(now);
            }
        }
    }

    /// The common case, in few steps: a batch of which everything is done.
    fn on_batch_done(&mut self, batch: &TrackedBatch, now: Instant) {
        let Some(first) = batch.in_a_row() else {
            for tracked in batch.clone().into_events() {
                self.on_returned(tracked, Outcome::Done, now);
            }
            return;
        };
        self.on_batch_succeeded(first, batch.events.len(), now);
        self.deferrals.forget_early(first, batch.events.len());
        self.waiting.on_settled(first, batch.events.len());
        let events = &batch.events;
        let (Some(oldest), Some(newest)) = (events.first(), events.last()) else {
            return;
        };
        // Whatever was settled before gave its bytes back then.
        let (mut settled, mut bytes) = (events.len(), batch.budget_bytes);
        self.watermark.on_settled_in_a_row(first, events.len(), newest.into(), |index| {
            settled -= 1;
            bytes -= events.get(index).map_or(0, Event::budget_bytes);
        });
        self.returned_bytes += bytes;
        self.tally.done += events.len() as u64;
        let alarm = self.verdicts.on_done(events.len());
        self.say_alarm(alarm, None);
        self.tally.settled.push(oldest.enqueued_time());
        self.checkpointer.on_settled(settled, now);
    }

    /// Gives up on handler calls that are overdue; their events are tried again.
    pub(super) fn end_overdue_calls(&mut self, now: Instant) {
        while let Some(unit) = self.running.take_overdue(now) {
            let failure = Failure::transient("the handler did not end by its deadline");
            let outcome = Outcome::retry(failure);
            match unit {
                Unit::Event(tracked, _) => self.on_returned(tracked, outcome, now),
                Unit::Batch(batch, _) => self.on_batch_failed(batch, outcome, now),
            }
        }
    }

    pub(super) fn on_outcome(&mut self, tracked: Tracked, outcome: Outcome, now: Instant) {
        match self.shared.classified(outcome) {
            Outcome::Done => {
                self.log_done_at_last(&tracked);
                self.on_event_succeeded(tracked.ticket, now);
                self.tally.done += 1;
                let alarm = self.verdicts.on_done(1);
                self.say_alarm(alarm, None);
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
                self.on_event_succeeded(tracked.ticket, now);
                self.settle(&tracked, now);
            }
            Outcome::Retry(request) => self.retry(tracked, request, now),
            Outcome::DeadLetter(failure) => {
                self.end_trial(now);
                self.on_nothing_learned(tracked.ticket, now);
                self.dead_letter(tracked, failure, now);
            }
            Outcome::Abort(failure) => {
                error!(
                    message_topic = %self.partition.entity,
                    message_partition = %self.partition.id,
                    message_offset = %tracked.event.sequence_number(),
                    message_consumer_group = %self.key.scope.consumer_group,
                    failure = %failure,
                    "a handler stopped the consumer"
                );
                self.on_nothing_learned(tracked.ticket, now);
                let deadline = now + self.shared.options.drain_timeout;
                self.stop(StopReason::Aborted(failure), deadline, now);
                self.shared.drain();
            }
            Outcome::Deferred(_) => {
                let failure = Failure::transient("a settler was given what defers its event");
                self.on_outcome(tracked, Outcome::retry(failure), now);
            }
        }
    }

    /// Says that an event is done of which the log says that it failed.
    fn log_done_at_last(&self, tracked: &Tracked) {
        let attempt = self.failures.attempt(tracked.ticket);
        if attempt.number == 1 && attempt.first_failure.is_none() {
            return;
        }
        debug!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_offset = %tracked.event.sequence_number(),
            message_consumer_group = %self.key.scope.consumer_group,
            attempts = attempt.number,
            "the event is done"
        );
    }

    fn retry(&mut self, tracked: Tracked, request: RetryRequest, now: Instant) {
        // It was handled, and the process is there.
        self.end_trial(now);
        match request.delay {
            RetryDelay::PutBack => self.shared.counters.put_back.add(1),
            RetryDelay::Postponed(_) => {}
            _ => self.shared.counters.retried.add(1),
        }
        let attempt = self.failures.attempt(tracked.ticket);
        let closes_lane = matches!(request.delay, RetryDelay::LaneCloses(_));
        let is_attempt = !matches!(
            request.delay,
            RetryDelay::LaneCloses(_) | RetryDelay::Postponed(_) | RetryDelay::PutBack
        );
        let policy = self.shared.options.retry_policy(request.failure.class);
        let is_spared = if is_attempt {
            self.on_event_failed(&tracked, &request, now)
        } else {
            self.on_nothing_learned(tracked.ticket, now);
            false
        };
        let delay = self.delay(&tracked, request.delay, policy.backoff, attempt.number);
        if self.tenure.may_checkpoint() && self.is_behind_parked(&tracked) {
            let lane = self.waiting.lane(tracked.ticket).cloned();
            self.park_behind(tracked);
            return self.park_waiting_behind(lane, now);
        }
        let standing = Standing {
            policy,
            delay: if closes_lane { Duration::ZERO } else { delay },
            is_attempt,
            is_spared,
            ..self.standing(&tracked, attempt, &request.failure)
        };
        let options = &self.shared.options;
        match next_step(standing, options.park_after, &options.park_delays) {
            NextStep::GiveUp => return self.dead_letter(tracked, request.failure, now),
            NextStep::Park { delay, is_step } => {
                let due = self.shared.clock.now() + delay;
                let is_attempt = is_attempt && !is_spared;
                let order = ParkingOrder { failure: request.failure, due, is_attempt, is_step };
                return self.park(tracked, order, now);
            }
            NextStep::Again => {}
        }
        let counts = match (is_attempt, is_spared || standing.tried >= policy.max_attempts) {
            (true, false) => Counts::Attempt,
            (true, true) => Counts::Failure,
            (false, _) => Counts::Nothing,
        };
        self.try_again(tracked, &request, delay, counts, now);
    }

    /// Has an event wait here for its next attempt.
    fn try_again(
        &mut self,
        tracked: Tracked,
        request: &RetryRequest,
        delay: Duration,
        counts: Counts,
        now: Instant,
    ) {
        let attempt = self.failures.attempt(tracked.ticket);
        let closes_lane = matches!(request.delay, RetryDelay::LaneCloses(_));
        let is_failure = counts != Counts::Nothing;
        debug!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_offset = %tracked.event.sequence_number(),
            message_consumer_group = %self.key.scope.consumer_group,
            attempts = attempt.number,
            retry_in_ms = delay.as_millis(),
            failure = %request.failure,
            "the event is tried again"
        );
        let told = lock(&self.shared.retries_told).on_one(now.into_std());
        if let Some(attempts) = told.filter(|_| is_failure) {
            warn!(
                message_topic = %self.partition.entity,
                message_partition = %self.partition.id,
                message_offset = %tracked.event.sequence_number(),
                message_consumer_group = %self.key.scope.consumer_group,
                failed_attempts = attempts,
                retry_in_ms = delay.as_millis(),
                failure = %request.failure,
                "attempts fail and are made again: this is the newest of those since the last such line"
            );
        }
        match counts {
            Counts::Attempt => self.failures.on_failed(tracked.ticket, self.shared.clock.now()),
            Counts::Failure => self.failures.on_spared(tracked.ticket, self.shared.clock.now()),
            Counts::Nothing => self.failures.on_postponed(tracked.ticket),
        }
        let due = (now + delay).into_std();
        let tracked = if self.tenure.is_ending() {
            Some(tracked)
        } else {
            self.waiting.on_failed(tracked, due, closes_lane, now.into_std())
        };
        if let Some(tracked) = tracked {
            self.retries.on_delayed(tracked, due);
        }
    }

    /// How an event stands of which an attempt failed, as far as its policy does not say.
    fn standing(&self, tracked: &Tracked, attempt: Attempt, failure: &Failure) -> Standing {
        let returned = self.parking.as_ref().and_then(|parking| parking.returned(tracked.ticket));
        let is_dead = |lane| self.dead_lanes.contains(lane);
        Standing {
            policy: self.shared.options.retry_policy(failure.class),
            tried: attempt.number - returned.map_or(0, |returned| returned.attempts_before),
            parkings: returned.map_or(0, |returned| returned.parkings),
            is_attempt: true,
            is_spared: false,
            is_too_old: self.is_too_old(attempt),
            may_give_up: self.may_give_up(tracked, attempt, failure),
            may_park: self.may_park(tracked),
            is_replayed: returned.is_some_and(|returned| returned.job.is_some()),
            is_at_dead_lane: self.waiting.lane(tracked.ticket).is_some_and(is_dead),
            delay: Duration::ZERO,
        }
    }

    /// How long an event waits for its next attempt.
    fn delay(
        &self,
        tracked: &Tracked,
        delay: RetryDelay,
        backoff: Backoff,
        attempt: u32,
    ) -> Duration {
        match delay {
            RetryDelay::Now => Duration::ZERO,
            RetryDelay::After(delay) | RetryDelay::Postponed(delay) => delay.min(MAX_DURATION),
            RetryDelay::Backoff | RetryDelay::PutBack => {
                backoff.delay(attempt, self.shared.random())
            }
            RetryDelay::LaneCloses(delay) if delay > MAX_LANE_CLOSING => {
                warn!(
                    message_topic = %self.partition.entity,
                    message_partition = %self.partition.id,
                    message_offset = %tracked.event.sequence_number(),
                    message_consumer_group = %self.key.scope.consumer_group,
                    asked_s = delay.as_secs(),
                    closed_for_s = MAX_LANE_CLOSING.as_secs(),
                    "a lane is to be closed for too long: it is closed for less"
                );
                MAX_LANE_CLOSING
            }
            RetryDelay::LaneCloses(delay) => delay,
        }
    }

    /// Tries events again whose lane nobody knows, since the function that says it panicked.
    pub(super) fn retry_unplaced(&mut self, now: Instant) {
        while let Some((tracked, failure)) = self.waiting.take_unplaced() {
            self.on_outcome(tracked, Outcome::retry(failure), now);
        }
    }

    pub(super) fn dead_letter(&mut self, tracked: Tracked, failure: Failure, now: Instant) {
        let attempt = self.failures.attempt(tracked.ticket);
        warn!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_offset = %tracked.event.sequence_number(),
            message_consumer_group = %self.key.scope.consumer_group,
            class = %failure.class,
            attempts = attempt.number,
            failure = %failure,
            causes = ?failure.causes,
            "the event failed for good"
        );
        if !failure.class.is_retryable() {
            let alarm = self.verdicts.on_failed_for_good();
            self.say_alarm(alarm, Some(&failure));
        }
        if self.shared.dead_letters.is_some() {
            let letter = self.letter(&tracked, failure, attempt);
            let shared = Arc::clone(&self.shared);
            self.letters.push(letters::write(shared, tracked, letter).boxed());
        } else {
            let why = StopReason::NoDeadLetterSink {
                sequence_number: tracked.event.sequence_number(),
                failure,
            };
            self.stop(why, now + self.shared.options.drain_timeout, now);
        }
    }

    /// Says that events fail for good one after the other, and when that is over.
    fn say_alarm(&self, alarm: Option<Alarm>, failure: Option<&Failure>) {
        let (topic, partition) = (&self.partition.entity, &self.partition.id);
        let group = &self.key.scope.consumer_group;
        match alarm {
            None => {}
            Some(Alarm::Begins) => error!(
                message_topic = %topic,
                message_partition = %partition,
                message_consumer_group = %group,
                failure = failure.map(tracing::field::display),
                "half of the last {REMEMBERED_EVENTS} events failed for good: look whether the handler \
                 is wrong, or who publishes; the worker goes on"
            ),
            Some(Alarm::Ends) => info!(
                message_topic = %topic,
                message_partition = %partition,
                message_consumer_group = %group,
                "most events do not fail for good any more"
            ),
        }
    }

    pub(super) fn settle(&mut self, tracked: &Tracked, now: Instant) {
        self.settle_as(tracked, Over::Handled, now);
    }

    pub(super) fn settle_as(&mut self, tracked: &Tracked, over: Over, now: Instant) {
        let event = &tracked.event;
        self.leave(tracked);
        if tracked.ticket.is_returned() {
            self.remove_returned(tracked, over == Over::Handled);
        } else if self.watermark.on_settled(tracked.ticket, event.into()) != Settled::Before {
            self.returned_bytes += event.budget_bytes();
            self.tally.settled.push(event.enqueued_time());
            self.checkpointer.on_settled(1, now);
        }
    }

    /// Forgets what was noted of an event that is not here any more.
    pub(super) fn leave(&mut self, tracked: &Tracked) {
        self.failures.on_settled(tracked.ticket);
        self.halves.on_settled(tracked.ticket);
        self.deferrals.forget_early(tracked.ticket, 1);
        self.waiting.on_settled(tracked.ticket, 1);
    }
}

/// What ended a batch of so many events. Outcomes that are not one for each say nothing of any.
fn fitted(ended: Ended, events: usize) -> Ended {
    match ended {
        Ended::Each(each) if each.len() != events => Ended::One(wrong_number(each.len(), events)),
        ended => ended,
    }
}

fn wrong_number(returned: usize, events: usize) -> Outcome {
    Outcome::retry(Failure::transient(format!(
        "the handler returned {returned} outcomes for {events} events"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_that_are_not_one_for_each_event_retry_all() {
        for returned in [0, 1, 3] {
            let each = Ended::Each(vec![Outcome::Done; returned]);
            let Ended::One(Outcome::Retry(request)) = fitted(each, 2) else {
                panic!("{returned} outcomes for two events were taken");
            };
            let said = format!("the handler returned {returned} outcomes for 2 events");
            assert_eq!(request.failure.message, said);
        }
        let each = Ended::Each(vec![Outcome::Done; 2]);
        assert_eq!(fitted(each.clone(), 2), each);
        assert_eq!(fitted(Ended::AllDone, 2), Ended::AllDone);
    }
}
