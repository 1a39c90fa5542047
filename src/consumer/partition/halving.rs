//! What becomes of a batch that failed whole.

use tokio::time::Instant;
use tracing::debug;

use super::PartitionWorker;
use crate::consumer::handling::unit::{Tracked, TrackedBatch, Unit};
use crate::event::Event;
use crate::outcome::{Failure, Outcome};
use crate::state::batch_buffer::Taken;
use crate::state::bisection::{Cut, cut};

impl PartitionWorker {
    /// A batch failed whole, for this reason.
    pub(super) fn on_batch_failed(&mut self, batch: TrackedBatch, outcome: Outcome, now: Instant) {
        let outcome = self.shared.classified(outcome);
        let failure = match outcome {
            Outcome::Retry(ref request) => &request.failure,
            Outcome::DeadLetter(ref failure) => failure,
            // A handler of batches says nothing else of a whole one.
            _ => return self.on_each_returned(batch, &outcome, now),
        };
        if batch.events.len() == 1 {
            if self.waiting.lanes().is_none() {
                batch.get(0).into_iter().for_each(|one| self.halves.on_failed_alone(one.ticket));
            }
            return self.on_each_returned(batch, &outcome, now);
        }
        self.log_halved(&batch, failure);
        // They were handled, and the process is there.
        self.end_trial(now);
        let events: Vec<Tracked> = batch.into_events().collect();
        self.on_batch_attempt_failed(&events, failure, now);
        for tracked in &events {
            self.deferrals.take_early(tracked.ticket);
            self.failures.on_postponed(tracked.ticket);
        }
        if self.tenure.is_ending() {
            return;
        }
        let waiting = &self.waiting;
        let Cut { first, second, back } =
            cut(events, |tracked| waiting.ordered_lane(tracked.ticket));
        self.halves.add(first);
        self.halves.add(second);
        self.put_back_in_lanes(back, now);
    }

    /// Puts events into their lanes again, as if they had not begun.
    fn put_back_in_lanes(&mut self, events: Vec<Tracked>, now: Instant) {
        let now = now.into_std();
        // The front of a lane is where the last one put there is.
        for tracked in events.into_iter().rev() {
            self.waiting.on_returned(tracked.ticket);
            if let Some(tracked) = self.waiting.on_failed(tracked, now, false, now) {
                self.retries.on_delayed(tracked, now);
            }
        }
    }

    /// Halves of what has lanes go back there while single events are tried: of a half in an ordered
    /// lane, what is behind an event that fails must not pass it.
    pub(super) fn put_halves_back(&mut self, now: Instant) {
        while let Some(half) = self.halves.take_last() {
            self.put_back_in_lanes(half.items, now);
        }
    }

    fn on_each_returned(&mut self, batch: TrackedBatch, outcome: &Outcome, now: Instant) {
        for tracked in batch.into_events() {
            self.on_returned(tracked, outcome.clone(), now);
        }
    }

    fn log_halved(&self, batch: &TrackedBatch, failure: &Failure) {
        let number = |event: Option<&Event>| event.map(|event| event.sequence_number().0);
        debug!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_offset = number(batch.events.first()),
            last_message_offset = number(batch.events.last()),
            message_consumer_group = %self.key.scope.consumer_group,
            events = batch.events.len(),
            %failure,
            "a batch failed whole: it is tried again in halves"
        );
    }

    /// Gives slots to halves. Returns whether one wants a slot that is not free.
    pub(super) fn hand_out_halves(&mut self, now: Instant) -> bool {
        while !self.halves.is_empty() && self.tenure.is_running() && !self.awaits_trial() {
            let Some(slot) = self.take_slot() else { return true };
            let Some(Taken { items, bytes, reason }) = self.halves.take() else {
                break;
            };
            // Whoever closed one of its lanes meanwhile wants nothing of it to begin, and whoever lowered its cap
            // less of it.
            let tickets = items.iter().map(|tracked| tracked.ticket);
            if self
                .waiting
                .lanes()
                .is_some_and(|lanes| lanes.holds_back_any(tickets, now.into_std()))
            {
                drop(slot);
                self.put_back_in_lanes(items, now);
                continue;
            }
            let batch = TrackedBatch::new(items, bytes, &self.failures);
            self.begin(Unit::Batch(batch, reason), slot, now);
        }
        false
    }
}
