//! A link begins anew with other credit, by the size of what it brought: the shell around
//! [`crate::state::prefetch`].
//!
//! It stays on its connection, so that takes as little as can be: a detach and an attach. What lay in
//! the client comes again, at most the old credit, and nothing was given out of it.
//!
//! The hub is not asked, for the log itself tells whether it is the same: the link begins one event
//! earlier, and has to bring the last one that was given out. Where it brings anything else, the hub is
//! another, retention has passed the position, or the event is behind one that cannot be read; then
//! another link is opened, which compares everything.

use futures::FutureExt;
use tokio::time::Instant;
use tracing::debug;

use super::{PartitionStream, State};
use crate::error::{Error, ErrorClass};
use crate::event::Event;

impl PartitionStream {
    /// Takes in the size of the events that came. Returns the credit that the link should have instead.
    pub(super) fn fitting_credit(&mut self, events: &[Event]) -> Option<u32> {
        let bytes = events.iter().map(Event::budget_bytes).sum();
        self.prefetch.on_received(events.len(), bytes, Instant::now().into_std())
    }

    /// Begins the open link anew with this credit; `last` is the last event that it brought.
    pub(super) fn refit(&mut self, credit: u32, last: Event) {
        let State::Open(watched) = std::mem::replace(&mut self.state, State::Ended) else { return };
        debug!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            prefetch_events = credit,
            "the link begins anew with other credit, by the size of its events"
        );
        let opening = self.link_of(credit);
        self.state = State::Opening(opening.restart(watched.link, last).boxed());
    }

    /// Whether what the link said can be taken: unless it has just begun anew, and first said something
    /// else than the last event before that.
    pub(super) fn is_expected(&mut self, came: &[Event], error: Option<&Error>) -> bool {
        let is_something = match error {
            None => !came.is_empty(),
            Some(error) => !came.is_empty() || error.class() == ErrorClass::Unreadable,
        };
        match self.expected.take_if(|_| is_something) {
            Some(expected) => came.first().is_some_and(|event| is_the_same(event, &expected)),
            None => true,
        }
    }
}

/// Whether two events are one, of one creation of the hub. One that is created anew has the numbers
/// and offsets again, but not the times.
fn is_the_same(event: &Event, other: &Event) -> bool {
    event.sequence_number() == other.sequence_number()
        && event.enqueued_time() == other.enqueued_time()
        && event.body() == other.body()
}
