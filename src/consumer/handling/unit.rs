//! What a handler is called with at once: an event or a batch, and which attempt it is for each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::batch::{Batch, InLane};
use crate::event::Event;
use crate::state::batch_buffer::FlushReason;
use crate::state::lanes::QueueId;
use crate::state::watermark::Ticket;

/// An event on its way through a handler: two words, as it is moved often.
#[derive(Clone, Debug)]
pub(crate) struct Tracked {
    pub(crate) event: Event,
    pub(crate) ticket: Ticket,
}

/// An attempt to handle an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Attempt {
    /// From 1.
    pub(crate) number: u32,
    /// Which call it is, from 1: a call that is not counted as an attempt has another one, and no
    /// settler speaks for two.
    pub(crate) call: u32,
    /// When an attempt before failed first.
    pub(crate) first_failure: Option<SystemTime>,
}

impl Attempt {
    const FIRST: Self = Self { number: 1, call: 1, first_failure: None };
}

/// The next attempts of the events that failed; of all others it is the first.
#[derive(Debug, Default)]
pub(crate) struct Failures(HashMap<Ticket, Attempt>);

impl Failures {
    /// The attempt that runs or comes next.
    pub(crate) fn attempt(&self, ticket: Ticket) -> Attempt {
        // Nearly always nothing failed, and nothing need be looked up.
        if self.0.is_empty() {
            return Attempt::FIRST;
        }
        self.0.get(&ticket).copied().unwrap_or(Attempt::FIRST)
    }

    /// The attempt failed, and another one follows.
    pub(crate) fn on_failed(&mut self, ticket: Ticket, now: SystemTime) {
        let attempt = self.0.entry(ticket).or_insert(Attempt::FIRST);
        attempt.number = attempt.number.saturating_add(1);
        attempt.call = attempt.call.saturating_add(1);
        attempt.first_failure.get_or_insert(now);
    }

    /// The attempt failed and is not counted; another one follows.
    pub(crate) fn on_spared(&mut self, ticket: Ticket, now: SystemTime) {
        self.on_postponed(ticket);
        if let Some(attempt) = self.0.get_mut(&ticket) {
            attempt.first_failure.get_or_insert(now);
        }
    }

    /// Another call follows, and this one is not counted.
    pub(crate) fn on_postponed(&mut self, ticket: Ticket) {
        let attempt = self.0.entry(ticket).or_insert(Attempt::FIRST);
        attempt.call = attempt.call.saturating_add(1);
    }

    /// An event comes back that was tried so often before. No settler of an earlier time speaks for it.
    pub(crate) fn on_returned(
        &mut self,
        ticket: Ticket,
        attempts: u32,
        first_failure: Option<SystemTime>,
    ) {
        let number = attempts.saturating_add(1);
        self.0.insert(ticket, Attempt { number, call: Attempt::FIRST.call + 1, first_failure });
    }

    /// No attempt follows.
    pub(crate) fn on_settled(&mut self, ticket: Ticket) {
        if !self.0.is_empty() {
            self.0.remove(&ticket);
        }
    }
}

/// What a handler is called with at once. Clones share the events.
#[derive(Clone, Debug)]
pub(crate) enum Unit {
    Event(Tracked, Attempt),
    Batch(TrackedBatch, FlushReason),
}

/// A batch on its way through a handler. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct TrackedBatch {
    pub(crate) events: Batch,
    /// What its events count for in the byte budget.
    pub(crate) budget_bytes: usize,
    standing: Standing,
}

/// How the events of a batch stand.
#[derive(Clone, Debug)]
enum Standing {
    /// None failed before, and they were received in a row: the first one's ticket says all.
    InARow(Ticket),
    Each(Arc<[(Ticket, Attempt)]>),
}

impl TrackedBatch {
    /// Puts events together that count for `budget_bytes`.
    pub(crate) fn new(batch: Vec<Tracked>, budget_bytes: usize, failures: &Failures) -> Self {
        let first = batch.first().map_or(Ticket::FIRST, |tracked| tracked.ticket);
        let in_a_row = batch.iter().enumerate().all(|(index, one)| {
            one.ticket == first.after(index) && failures.attempt(one.ticket) == Attempt::FIRST
        });
        let standing = if in_a_row {
            Standing::InARow(first)
        } else {
            let standing = |one: &Tracked| (one.ticket, failures.attempt(one.ticket));
            Standing::Each(batch.iter().map(standing).collect())
        };
        let events = Batch::new(batch.into_iter().map(|tracked| tracked.event));
        Self { events, budget_bytes, standing }
    }

    /// How each event stands in its lane.
    pub(crate) fn lanes(&self, lane: impl Fn(Ticket) -> Option<QueueId>) -> Arc<[InLane]> {
        let mut places = vec![InLane::ALONE; self.events.len()];
        let mut last = HashMap::new();
        for index in 0..places.len() {
            let lane = self.get(index).and_then(|tracked| lane(tracked.ticket));
            let Some(before) = lane.and_then(|lane| last.insert(lane, index)) else { continue };
            if let Some(before) = places.get_mut(before) {
                before.next = Some(index);
            }
            if let Some(place) = places.get_mut(index) {
                place.is_first = false;
            }
        }
        places.into()
    }

    /// The first one's ticket, if the events were received in a row.
    pub(crate) fn in_a_row(&self) -> Option<Ticket> {
        match &self.standing {
            Standing::InARow(first) => Some(*first),
            Standing::Each(_) => None,
        }
    }

    /// The event at `index` by itself.
    pub(crate) fn get(&self, index: usize) -> Option<Tracked> {
        let event = self.events.get(index)?.clone();
        let ticket = match &self.standing {
            Standing::InARow(first) => first.after(index),
            Standing::Each(each) => each.get(index)?.0,
        };
        Some(Tracked { event, ticket })
    }

    /// Which attempt this is for the event at `index`.
    pub(crate) fn attempt(&self, index: usize) -> Option<Attempt> {
        match &self.standing {
            Standing::InARow(_) => (index < self.events.len()).then_some(Attempt::FIRST),
            Standing::Each(each) => each.get(index).map(|(_, attempt)| *attempt),
        }
    }

    pub(crate) fn into_events(self) -> impl Iterator<Item = Tracked> {
        (0..self.events.len()).filter_map(move |index| self.get(index))
    }
}

impl Unit {
    pub(crate) fn first_event(&self) -> Option<&Event> {
        match self {
            Unit::Event(tracked, _) => Some(&tracked.event),
            Unit::Batch(batch, _) => batch.events.first(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{EventParts, Partition};

    fn tracked(number: i64, ticket: usize) -> Tracked {
        let partition = Arc::new(Partition::new("orders", "0"));
        let event = EventParts::new(partition, number, "").into();
        Tracked { event, ticket: Ticket::FIRST.after(ticket) }
    }

    #[test]
    fn a_batch_of_new_events_is_known_by_its_first_ticket() {
        let mut failures = Failures::default();
        failures.on_failed(Ticket::FIRST, SystemTime::UNIX_EPOCH);
        let batch = TrackedBatch::new(vec![tracked(10, 3), tracked(12, 4)], 0, &failures);
        assert_eq!(batch.in_a_row(), Some(Ticket::FIRST.after(3)));
        assert_eq!(batch.attempt(1), Some(Attempt::FIRST));
        assert_eq!(batch.attempt(2), None);
        let events: Vec<Tracked> = batch.into_events().collect();
        assert_eq!(events[1].event.sequence_number().0, 12);
        assert_eq!(events[1].ticket, Ticket::FIRST.after(4));
    }

    #[test]
    fn a_batch_with_a_gap_or_a_failure_remembers_each() {
        let mut failures = Failures::default();
        let gap = TrackedBatch::new(vec![tracked(10, 3), tracked(12, 5)], 0, &failures);
        assert_eq!(gap.in_a_row(), None);
        assert_eq!(gap.get(1).map(|one| one.ticket), Some(Ticket::FIRST.after(5)));

        let first = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let failed = tracked(10, 3);
        failures.on_failed(failed.ticket, first);
        failures.on_failed(failed.ticket, first + Duration::from_secs(1));
        let retried = TrackedBatch::new(vec![failed, tracked(11, 4)], 0, &failures);
        assert_eq!(retried.in_a_row(), None);
        let third = Attempt { number: 3, call: 3, first_failure: Some(first) };
        assert_eq!(retried.attempt(0), Some(third));
        assert_eq!(retried.attempt(1), Some(Attempt::FIRST));
        assert!(retried.get(2).is_none());
        failures.on_settled(Ticket::FIRST.after(3));
        assert_eq!(failures.attempt(Ticket::FIRST.after(3)), Attempt::FIRST);
    }
}
