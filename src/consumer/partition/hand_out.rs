//! Gives slots to what is ready, and begins its calls.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;
use tokio_util::sync::PollSemaphore;

use super::PartitionWorker;
use crate::consumer::handling::call::NewCall;
use crate::consumer::handling::slots::Slot;
use crate::consumer::handling::unit::Unit;

impl PartitionWorker {
    /// Gives slots to what is ready. Returns whether a slot is wanted that is not free.
    pub(super) fn hand_out(&mut self, now: Instant, pressed: bool) -> bool {
        let now_std = now.into_std();
        while let Some(reason) = self.waiting.take_ledger(now_std) {
            self.shared.counters.on_batch(reason);
        }
        while self.may_begin(now_std, pressed) {
            let Some(slot) = self.take_slot() else {
                return true;
            };
            match self.waiting.take(now_std, pressed, &self.failures) {
                Some(unit) => self.begin(unit, slot, now),
                None => drop(slot),
            }
        }
        self.slot = None;
        if self.in_line {
            // A place in line that nobody needs would be given a slot that nobody uses.
            self.permits = PollSemaphore::new(Arc::clone(self.shared.slots.semaphore()));
            self.in_line = false;
        }
        false
    }

    /// Whether something is ready for a handler.
    fn may_begin(&self, now: std::time::Instant, pressed: bool) -> bool {
        if self.awaits_trial() {
            return false;
        }
        if self.tenure.is_handing_off() {
            return self.waiting.is_flushed();
        }
        self.waiting.is_ready(now, pressed)
    }

    fn take_slot(&mut self) -> Option<Slot> {
        if let Some(slot) = self.slot.take() {
            return Some(slot);
        }
        if self.trial.tried().is_some_and(|tried| !tried.is_over) {
            return Some(Slot::lent());
        }
        // Past our own place in line there is nothing to be had.
        let free = if self.in_line {
            // Only a look: the loop polls it again with its own waker.
            match self.permits.poll_acquire(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(permit) => permit.map(|permit| Slot::of(permit, &self.shared.slots)),
                Poll::Pending => None,
            }
        } else {
            self.shared.slots.try_take()
        };
        self.in_line = free.is_none();
        free
    }

    fn begin(&mut self, unit: Unit, slot: Slot, now: Instant) {
        if let Unit::Batch(_, reason) = &unit {
            self.shared.counters.on_batch(*reason);
        }
        let Self { running, handler, scope, shared, .. } = self;
        running.begin(unit, now, |unit, id, deadline| {
            handler.start(NewCall { id, unit, scope, slot, deadline }, &shared.tasks)
        });
    }
}
