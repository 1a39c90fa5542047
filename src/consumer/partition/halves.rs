//! Batches that failed whole, cut in halves until the event at fault is alone.
//!
//! No attempt counts until then: the others of the batch are not at fault. An event that was alone when
//! it failed stays alone, so that its next attempts fail nobody else's; but one that has a lane goes back
//! there.

use std::collections::{HashSet, VecDeque};

use crate::consumer::handling::unit::Tracked;
use crate::state::batch_buffer::{FlushReason, Taken};
use crate::state::watermark::Ticket;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Halves {
    /// They wait for a slot.
    waiting: VecDeque<Taken<Tracked>>,
    /// Events that failed alone.
    alone: HashSet<Ticket>,
}

impl Halves {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the first event of all.
    pub(super) fn take_first(&mut self) -> Option<Tracked> {
        let half = self.waiting.front_mut()?;
        let tracked = half.items.remove(0);
        half.bytes = half.bytes.saturating_sub(tracked.event.budget_bytes());
        if half.items.is_empty() {
            self.waiting.pop_front();
        }
        Some(tracked)
    }

    /// The partition ends: what waits is delivered to its next owner.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// An event is due to be tried again. Returned where it may be with others.
    pub(super) fn on_retry(&mut self, tracked: Tracked) -> Option<Tracked> {
        if !self.alone.contains(&tracked.ticket) {
            return Some(tracked);
        }
        self.add(vec![tracked]);
        None
    }

    pub(super) fn on_settled(&mut self, ticket: Ticket) {
        if !self.alone.is_empty() {
            self.alone.remove(&ticket);
        }
    }

    /// Events that are to be tried together, and with no others.
    pub(super) fn add(&mut self, items: Vec<Tracked>) {
        if !items.is_empty() {
            let bytes = items.iter().map(|tracked| tracked.event.budget_bytes()).sum();
            self.waiting.push_back(Taken { items, bytes, reason: FlushReason::Bisection });
        }
    }

    /// An event failed that was alone.
    pub(super) fn on_failed_alone(&mut self, ticket: Ticket) {
        self.alone.insert(ticket);
    }

    /// Takes the first half that waits.
    pub(super) fn take(&mut self) -> Option<Taken<Tracked>> {
        self.waiting.pop_front()
    }

    /// Takes the last half that waits.
    pub(super) fn take_last(&mut self) -> Option<Taken<Tracked>> {
        self.waiting.pop_back()
    }
}
