//! The trial of an event that may end its process: alone of its partition, and one at a time.
//!
//! The events of all partitions of a process that dies are suspects alike. Only one of them at a
//! time is tried, so that an end of the process speaks against that one.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use crate::event::SequenceNumber;

/// The trials of one partition.
pub(super) struct Trial {
    turns: PollSemaphore,
    event: Option<SequenceNumber>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Trial {
    pub(super) fn new(turns: &Arc<Semaphore>) -> Self {
        Self { turns: PollSemaphore::new(Arc::clone(turns)), event: None, turn: None }
    }

    /// An event is to be tried.
    pub(super) fn on_event(&mut self, number: SequenceNumber) {
        self.event = Some(number);
    }

    /// Whether an event waits for its turn.
    pub(super) fn is_waiting(&self) -> bool {
        self.event.is_some() && self.turn.is_none()
    }

    /// Names the event whose turn has come.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<SequenceNumber> {
        let Some(event) = self.event.filter(|_| self.turn.is_none()) else {
            return Poll::Pending;
        };
        self.turn = ready!(self.turns.poll_acquire(cx));
        Poll::Ready(event)
    }

    /// The event is settled: the next partition has its turn.
    pub(super) fn on_settled(&mut self) {
        self.event = None;
        self.turn = None;
    }
}
