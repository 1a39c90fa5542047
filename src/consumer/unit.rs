//! What a handler is called with at once: an event or a batch, and where each event stands.

use std::time::SystemTime;

use super::handler::Batch;
use crate::event::Event;
use crate::state::batch_buffer::FlushReason;
use crate::state::watermark::Ticket;

/// An event on its way through a handler.
#[derive(Clone, Debug)]
pub(crate) struct Tracked {
    pub(crate) event: Event,
    pub(crate) ticket: Ticket,
    /// `None`: it never failed. Boxed, because few events do.
    failed: Option<Box<Failed>>,
}

/// The attempts of an event that failed.
#[derive(Clone, Debug)]
struct Failed {
    attempts: u32,
    first: SystemTime,
}

impl Tracked {
    pub(crate) fn new(event: Event, ticket: Ticket) -> Self {
        Self { event, ticket, failed: None }
    }

    /// Which attempt this is, from 1: the one that runs, or that comes next.
    pub(crate) fn attempt(&self) -> u32 {
        self.failed.as_ref().map_or(1, |failed| failed.attempts.saturating_add(1))
    }

    /// When an attempt failed first.
    pub(crate) fn first_failure(&self) -> Option<SystemTime> {
        self.failed.as_ref().map(|failed| failed.first)
    }

    /// The attempt failed, and another one follows.
    pub(crate) fn on_failed(&mut self, now: SystemTime) {
        let failed =
            self.failed.get_or_insert_with(|| Box::new(Failed { attempts: 0, first: now }));
        failed.attempts = failed.attempts.saturating_add(1);
    }
}

/// What a handler is called with at once. Clones share the events.
#[derive(Clone, Debug)]
pub(crate) enum Unit {
    Event(Tracked),
    Batch(TrackedBatch, FlushReason),
}

/// A batch on its way through a handler. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct TrackedBatch {
    pub(crate) events: Batch,
    standing: Standing,
}

/// How the events of a batch stand.
#[derive(Clone, Debug)]
enum Standing {
    /// None failed before, and they were received in a row: the first one's ticket says all.
    InARow(Ticket),
    Each(Vec<(Ticket, Option<Box<Failed>>)>),
}

impl TrackedBatch {
    pub(crate) fn new(batch: Vec<Tracked>) -> Self {
        let first = batch.first().map_or(Ticket::FIRST, |tracked| tracked.ticket);
        let in_a_row = batch
            .iter()
            .enumerate()
            .all(|(index, one)| one.failed.is_none() && one.ticket == first.after(index));
        if in_a_row {
            let events = Batch::new(batch.into_iter().map(|tracked| tracked.event));
            return Self { events, standing: Standing::InARow(first) };
        }
        let standing = batch.iter().map(|one| (one.ticket, one.failed.clone())).collect();
        let events = Batch::new(batch.into_iter().map(|tracked| tracked.event));
        Self { events, standing: Standing::Each(standing) }
    }

    /// The first one's ticket, where the events were received in a row.
    pub(crate) fn in_a_row(&self) -> Option<Ticket> {
        match &self.standing {
            Standing::InARow(first) => Some(*first),
            Standing::Each(_) => None,
        }
    }

    /// The event at `index` by itself.
    pub(crate) fn get(&self, index: usize) -> Option<Tracked> {
        let event = self.events.get(index)?.clone();
        match &self.standing {
            Standing::InARow(first) => Some(Tracked::new(event, first.after(index))),
            Standing::Each(each) => {
                let (ticket, failed) = each.get(index)?.clone();
                Some(Tracked { event, ticket, failed })
            }
        }
    }

    pub(crate) fn into_events(self) -> impl Iterator<Item = Tracked> {
        (0..self.events.len()).filter_map(move |index| self.get(index))
    }
}

impl Unit {
    pub(crate) fn into_events(self) -> impl Iterator<Item = Tracked> {
        let (one, many) = match self {
            Unit::Event(tracked) => (Some(tracked), None),
            Unit::Batch(batch, _) => (None, Some(batch)),
        };
        one.into_iter().chain(many.into_iter().flat_map(TrackedBatch::into_events))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::event::{EventParts, Partition};

    fn tracked(number: i64, ticket: usize) -> Tracked {
        let partition = Arc::new(Partition::new("orders", "0"));
        Tracked::new(EventParts::new(partition, number, "").into(), Ticket::FIRST.after(ticket))
    }

    #[test]
    fn a_batch_of_new_events_is_known_by_its_first_ticket() {
        let batch = TrackedBatch::new(vec![tracked(10, 3), tracked(12, 4)]);
        assert_eq!(batch.in_a_row(), Some(Ticket::FIRST.after(3)));
        let events: Vec<Tracked> = batch.into_events().collect();
        assert_eq!(events[1].event.sequence_number().0, 12);
        assert_eq!(events[1].ticket, Ticket::FIRST.after(4));
    }

    #[test]
    fn a_batch_with_a_gap_or_a_failure_remembers_each() {
        let gap = TrackedBatch::new(vec![tracked(10, 3), tracked(12, 5)]);
        assert_eq!(gap.in_a_row(), None);
        assert_eq!(gap.get(1).map(|one| one.ticket), Some(Ticket::FIRST.after(5)));

        let first = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let mut failed = tracked(10, 3);
        failed.on_failed(first);
        failed.on_failed(first + Duration::from_secs(1));
        let retried = TrackedBatch::new(vec![failed, tracked(11, 4)]);
        assert_eq!(retried.in_a_row(), None);
        let one = retried.get(0).expect("there");
        assert_eq!((one.attempt(), one.first_failure()), (3, Some(first)));
        assert_eq!(retried.get(1).map(|one| one.attempt()), Some(1));
        assert!(retried.get(2).is_none());
    }
}
