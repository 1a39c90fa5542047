//! A partition's place in the line for slots.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::PollSemaphore;

use crate::consumer::handling::slots::{Slot, Slots};

/// A place in line, where it is taken, and the slot that was got there.
pub(super) struct Line {
    slots: Arc<Slots>,
    permits: PollSemaphore,
    /// Whether our place in the line is taken.
    is_taken: bool,
    slot: Option<Slot>,
}

impl Line {
    pub(super) fn new(slots: &Arc<Slots>) -> Self {
        let permits = PollSemaphore::new(Arc::clone(slots.semaphore()));
        Self { slots: Arc::clone(slots), permits, is_taken: false, slot: None }
    }

    /// Ready when it is our turn, with our waker.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Option<OwnedSemaphorePermit>> {
        self.permits.poll_acquire(cx)
    }

    /// Our turn came.
    pub(super) fn on_turn(&mut self, permit: Option<OwnedSemaphorePermit>) {
        self.is_taken = false;
        self.slot = permit.map(|permit| Slot::of(permit, &self.slots));
    }

    /// Takes a slot that is ours, or free. Where there is none, our place in line is taken.
    #[inline]
    pub(super) fn take_slot(&mut self) -> Option<Slot> {
        if let Some(slot) = self.slot.take() {
            return Some(slot);
        }
        // Past our own place in line there is nothing to be had.
        let free = if self.is_taken {
            // Only a look: the loop polls it again with its own waker.
            match self.permits.poll_acquire(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(permit) => permit.map(|permit| Slot::of(permit, &self.slots)),
                Poll::Pending => None,
            }
        } else {
            self.slots.try_take()
        };
        self.is_taken = free.is_none();
        free
    }

    /// No slot is wanted.
    pub(super) fn leave(&mut self) {
        self.slot = None;
        if self.is_taken {
            // A place in line that nobody needs would be given a slot that nobody uses.
            self.permits = PollSemaphore::new(Arc::clone(self.slots.semaphore()));
            self.is_taken = false;
        }
    }
}
