//! Gives slots to what is ready, and begins its calls.

use tokio::time::Instant;

use super::PartitionWorker;
use super::lanes::Begins;
use super::waiting::Waiting;
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
        let wants_slot = if self.is_probed() {
            self.hand_out_probes(now)
        } else {
            self.hand_out_halves(now) || self.hand_out_waiting(now, pressed)
        };
        if !wants_slot {
            self.line.leave();
        }
        wants_slot
    }

    fn hand_out_waiting(&mut self, now: Instant, pressed: bool) -> bool {
        match &self.waiting {
            Waiting::Laned { .. } => self.hand_out_by_lane(now, pressed),
            Waiting::Events { .. } | Waiting::Batches { .. } => self.hand_out_ready(now, pressed),
        }
    }

    fn hand_out_ready(&mut self, now: Instant, pressed: bool) -> bool {
        let now_std = now.into_std();
        while self.may_begin(now_std, pressed) {
            let Some(slot) = self.take_slot() else {
                return true;
            };
            match self.waiting.take(now_std, pressed, &self.failures) {
                Some(unit) => self.begin(unit, slot, now),
                None => drop(slot),
            }
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

    /// Whether what begins is tried alone, and needs no slot of its own.
    fn is_slot_lent(&self) -> bool {
        self.trial.tried().is_some_and(|tried| !tried.is_over)
    }

    pub(super) fn take_slot(&mut self) -> Option<Slot> {
        if self.is_slot_lent() { Some(Slot::lent()) } else { self.line.take_slot() }
    }

    fn hand_out_by_lane(&mut self, now: Instant, pressed: bool) -> bool {
        let is_lent = self.is_slot_lent();
        let begins = if self.awaits_trial() {
            Begins::Nothing
        } else if !self.tenure.is_running() {
            Begins::Flushed
        } else if self.trial.tried().is_none() {
            Begins::Ready { pressed }
        } else if is_lent {
            Begins::Oldest
        } else {
            Begins::Nothing
        };
        let mut begun = std::mem::take(&mut self.begun);
        let Self { waiting, line, failures, .. } = self;
        let wants_slot = waiting.lanes().is_some_and(|lanes| {
            let slot = || if is_lent { Some(Slot::lent()) } else { line.take_slot() };
            lanes.step(
                begins,
                failures,
                slot,
                |unit, slot| begun.push((unit, slot)),
                now.into_std(),
            )
        });
        // Handlers begin where no lock is held.
        for (unit, slot) in begun.drain(..) {
            self.begin(unit, slot, now);
        }
        self.begun = begun;
        wants_slot
    }

    pub(super) fn begin(&mut self, mut unit: Unit, slot: Slot, now: Instant) {
        if let Unit::Batch(batch, reason) = &mut unit {
            self.shared.counters.on_batch(*reason);
            if self.waiting.is_ordered() {
                let lanes = batch.lanes(|ticket| self.waiting.ordered_lane(ticket));
                batch.events = batch.events.clone().in_lanes(lanes);
            }
        }
        let Self { running, handler, scope, shared, .. } = self;
        running.begin(unit, now, |unit, id, deadline| {
            handler.start(NewCall { id, unit, scope, slot, deadline }, &shared.tasks)
        });
    }
}
