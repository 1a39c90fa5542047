//! Events whose end is left to a settler, and what settlers said.
//!
//! ```text
//!            the handler returns "deferred"               settler
//!  running ───────────────────────────────> awaited ───────────────> ended
//!     │ settler                                                        ^
//!     └──────────> said early ── the handler returns "deferred" ───────┘
//!                      └──────── it ends in any other way: forgotten
//! ```
//!
//! What a handler returns is what counts, and a settler only where the handler leaves the end to
//! it. So a handler that takes a settler and then returns another outcome, panics, or misses its
//! deadline has one outcome and not two, whichever comes first.
//!
//! Whoever asks has seen that the settler is one of the attempt that runs or ran last. Nothing here
//! is touched for an event that nobody defers, and both sets are bounded by the window W.

use std::collections::{HashMap, HashSet};

use crate::outcome::Outcome;
use crate::state::watermark::Ticket;

#[derive(Debug, Default)]
pub(super) struct Deferrals {
    /// Their handlers returned, and their settlers said nothing yet.
    awaited: HashSet<Ticket>,
    /// What settlers said before the handlers returned.
    early: HashMap<Ticket, Outcome>,
}

impl Deferrals {
    /// Whether no event waits for its settler. One whose handler runs is not waited for here.
    pub(super) fn is_empty(&self) -> bool {
        self.awaited.is_empty()
    }

    /// The handler left the event to its settler, which said nothing yet.
    pub(super) fn on_deferred(&mut self, ticket: Ticket) {
        self.awaited.insert(ticket);
    }

    /// A settler says how the event ends. Returns the outcome where it was waited for.
    pub(super) fn on_said(&mut self, ticket: Ticket, outcome: Outcome) -> Option<Outcome> {
        if self.awaited.remove(&ticket) {
            return Some(outcome);
        }
        self.early.entry(ticket).or_insert(outcome);
        None
    }

    /// The handler ended: what a settler said before that.
    #[inline]
    pub(super) fn take_early(&mut self, ticket: Ticket) -> Option<Outcome> {
        if self.early.is_empty() { None } else { self.early.remove(&ticket) }
    }

    /// Events received in a row ended without their settlers.
    #[inline]
    pub(super) fn forget_early(&mut self, first: Ticket, count: usize) {
        if !self.early.is_empty() {
            (0..count).for_each(|index| drop(self.early.remove(&first.after(index))));
        }
    }

    /// Gives up on all that is waited for; returns how many.
    pub(super) fn cut(&mut self) -> usize {
        std::mem::take(&mut self.awaited).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Failure;

    const EVENT: Ticket = Ticket::FIRST;

    #[test]
    fn a_settler_that_is_waited_for_ends_its_event_and_one_that_is_early_waits() {
        let mut deferrals = Deferrals::default();
        assert_eq!(deferrals.take_early(EVENT), None);
        deferrals.on_deferred(EVENT);
        assert!(!deferrals.is_empty());
        assert_eq!(deferrals.on_said(EVENT, Outcome::Done), Some(Outcome::Done));
        assert!(deferrals.is_empty());

        let other = EVENT.after(1);
        assert_eq!(deferrals.on_said(other, Outcome::Done), None);
        assert!(deferrals.is_empty(), "its handler is what is waited for");
        let second = Outcome::dead_letter(Failure::permanent("a second settler"));
        assert_eq!(deferrals.on_said(other, second), None);
        assert_eq!(deferrals.take_early(other), Some(Outcome::Done), "the first one counts");
        assert_eq!(deferrals.take_early(other), None);
    }

    #[test]
    fn what_was_said_early_is_forgotten_where_the_handler_ended_the_event() {
        let mut deferrals = Deferrals::default();
        for index in 0..3 {
            assert_eq!(deferrals.on_said(EVENT.after(index), Outcome::Done), None);
        }
        deferrals.forget_early(EVENT, 2);
        assert_eq!(deferrals.early.len(), 1);
        assert_eq!(deferrals.take_early(EVENT.after(2)), Some(Outcome::Done));
    }

    #[test]
    fn a_cut_counts_what_was_waited_for() {
        let mut deferrals = Deferrals::default();
        (0..2).for_each(|index| deferrals.on_deferred(EVENT.after(index)));
        assert_eq!((deferrals.cut(), deferrals.is_empty()), (2, true));
    }
}
