//! What the breakers learn of attempts, and the probes that begin while one is open.
//!
//! A probe is one event, the oldest that is not tried yet: what failed waits, so that one event that
//! always fails does not keep its destination closed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::PartitionWorker;
use super::lanes::Begins;
use super::waiting::Waiting;
use crate::consumer::breakers::{Failed, LaneOf};
use crate::consumer::handling::slots::Slot;
use crate::consumer::handling::unit::{Attempt, Tracked, TrackedBatch, Unit};
use crate::consumer::shared::Shared;
use crate::lanes::Lane;
use crate::outcome::{Blame, Failure, RetryDelay, RetryRequest};
use crate::state::batch_buffer::{FlushReason, Taken};
use crate::state::watermark::Ticket;

fn at(shared: &Shared, lane: Option<Lane>) -> Option<LaneOf<'_>> {
    Some(LaneOf { lanes: shared.lanes.as_deref()?, lane: lane? })
}

impl PartitionWorker {
    /// An event was handled.
    pub(super) fn on_event_succeeded(&mut self, ticket: Ticket, now: Instant) {
        let breakers = &self.shared.breakers;
        if !breakers.is_watching() {
            return;
        }
        let is_probe = self.probes.take(ticket);
        let time = self.shared.clock.now();
        let lane = at(&self.shared, self.waiting.limited_lane(ticket));
        if lane.is_none() || is_probe {
            breakers.on_success(is_probe, time, now);
        }
        if let Some(at) = lane {
            breakers.on_lane_success(at, time, now);
        }
    }

    /// A batch was handled, and all of it is done: that counts once for each destination.
    pub(super) fn on_batch_succeeded(&mut self, first: Ticket, count: usize, now: Instant) {
        if !self.shared.breakers.is_watching() {
            return;
        }
        let mut lanes = HashSet::new();
        for index in 0..count {
            if lanes.insert(self.waiting.limited_lane(first.after(index))) {
                self.on_event_succeeded(first.after(index), now);
            }
        }
    }

    /// An attempt of an event failed. Returns whether it is not counted, since its destination is left
    /// alone.
    pub(super) fn on_event_failed(
        &mut self,
        tracked: &Tracked,
        request: &RetryRequest,
        now: Instant,
    ) -> bool {
        let is_probe = self.probes.take(tracked.ticket);
        // Of an event whose lane nobody knows no handler heard.
        if !self.is_counted(&request.failure) || self.waiting.is_unplaced(tracked.ticket) {
            self.end_probe_of_no_use(is_probe, now);
            return false;
        }
        let lane = self.waiting.limited_lane(tracked.ticket);
        if lane.is_some() {
            self.end_probe_of_no_use(is_probe, now);
        }
        let rest = match request.delay {
            RetryDelay::After(rest) => Some(rest),
            _ => None,
        };
        self.on_failed(lane, &request.failure, rest, is_probe, now)
    }

    /// A batch failed whole: that counts once.
    pub(super) fn on_batch_attempt_failed(
        &mut self,
        events: &[Tracked],
        failure: &Failure,
        now: Instant,
    ) {
        if !self.is_counted(failure) {
            return;
        }
        let mut lanes = events.iter().map(|tracked| self.waiting.limited_lane(tracked.ticket));
        let first = lanes.next().flatten();
        let lane = first.filter(|first| lanes.all(|lane| lane.as_ref() == Some(first)));
        self.on_failed(lane, failure, None, false, now);
    }

    /// Whether a failure says something of its destination.
    fn is_counted(&self, failure: &Failure) -> bool {
        failure.class.is_retryable()
            && failure.blames != Blame::Event
            && !self.shared.options.max_age.is_zero()
    }

    fn on_failed(
        &self,
        lane: Option<Lane>,
        failure: &Failure,
        rest: Option<Duration>,
        is_probe: bool,
        now: Instant,
    ) -> bool {
        let failed = Failed { lane: at(&self.shared, lane), failure, rest };
        self.shared.breakers.on_failure(failed, is_probe, now)
    }

    /// An event ended, and nothing is known of its destination by that.
    pub(super) fn on_nothing_learned(&mut self, ticket: Ticket, now: Instant) {
        let is_probe = self.probes.take(ticket);
        self.end_probe_of_no_use(is_probe, now);
    }

    fn end_probe_of_no_use(&self, is_probe: bool, now: Instant) {
        if is_probe {
            self.shared.breakers.on_probes_of_no_use(1, now);
        }
    }

    /// Whether an event fails for so long that it is given up in any case.
    pub(super) fn is_too_old(&self, attempt: Attempt) -> bool {
        let max_age = self.shared.options.max_age;
        let age = attempt.first_failure.map(|first| self.shared.clock.now().duration_since(first));
        !max_age.is_zero() && age.is_some_and(|age| age.unwrap_or_default() >= max_age)
    }

    /// Whether an event that failed as often as it may is given up: not as long as its destination has
    /// done nothing since.
    pub(super) fn may_give_up(
        &self,
        tracked: &Tracked,
        attempt: Attempt,
        failure: &Failure,
    ) -> bool {
        let Some(first_failure) = attempt.first_failure else { return true };
        let lane = at(&self.shared, self.waiting.limited_lane(tracked.ticket));
        let failed = Failed { lane, failure, rest: None };
        !failure.class.is_retryable()
            || failure.blames != Blame::Destination
            || self.shared.options.max_age.is_zero()
            || self.shared.breakers.succeeded_since(&failed, first_failure)
    }

    /// Whether nothing begins here but probes.
    pub(super) fn is_probed(&self) -> bool {
        self.shared.breakers.is_open()
            && self.tenure.is_running()
            && !self.awaits_trial()
            && self.trial.tried().is_none()
    }

    /// Whether what failed waits until nothing else is left to be a probe. Where there are lanes, it goes
    /// back there when it is due.
    pub(super) fn retries_rest(&self) -> bool {
        self.is_probed() && !matches!(self.waiting, Waiting::Laned { .. })
    }

    /// Begins the probes that are due. Returns whether a slot is wanted that is not free.
    pub(super) fn hand_out_probes(&mut self, now: Instant) -> bool {
        if let Waiting::Laned { .. } = self.waiting {
            self.put_halves_back(now);
            return self.hand_out_probes_by_lane(now);
        }
        let breakers = Arc::clone(&self.shared.breakers);
        while self.has_for_probe() && breakers.is_probe_due(now) {
            let Some(slot) = self.take_slot() else { return true };
            if !breakers.take_probe(now) {
                break;
            }
            match self.take_oldest() {
                Some(tracked) => self.begin_probe(self.unit(tracked), slot, now),
                None => breakers.on_probes_not_begun(1, now),
            }
        }
        false
    }

    fn hand_out_probes_by_lane(&mut self, now: Instant) -> bool {
        let breakers = Arc::clone(&self.shared.breakers);
        let (mut taken, mut begun, mut lacks_slot) = (0, Vec::new(), false);
        let Self { waiting, line, failures, .. } = self;
        let slot = || {
            if !breakers.is_probe_due(now) {
                return None;
            }
            let slot = line.take_slot();
            lacks_slot = slot.is_none();
            let slot = slot.filter(|_| breakers.take_probe(now));
            taken += usize::from(slot.is_some());
            slot
        };
        if let Some(lanes) = waiting.lanes() {
            let begin = |unit, slot| begun.push((unit, slot));
            lanes.step(Begins::One, failures, slot, begin, now.into_std());
        }
        let not_begun = taken - begun.len();
        for (unit, slot) in begun {
            self.begin_probe(unit, slot, now);
        }
        if not_begun > 0 {
            breakers.on_probes_not_begun(not_begun, now);
        }
        lacks_slot
    }

    fn begin_probe(&mut self, unit: Unit, slot: Slot, now: Instant) {
        let ticket = match &unit {
            Unit::Event(tracked, _) => Some(tracked.ticket),
            Unit::Batch(batch, _) => batch.get(0).map(|tracked| tracked.ticket),
        };
        ticket.into_iter().for_each(|ticket| self.probes.on_begun(ticket));
        self.begin(unit, slot, now);
    }

    /// When the next probe may begin here.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        let waits = self.is_probed() && self.has_for_probe();
        waits.then(|| self.shared.breakers.next_probe()).flatten()
    }

    fn has_for_probe(&self) -> bool {
        match &self.waiting {
            Waiting::Laned { lanes, .. } => lanes.has_ready(),
            waiting => !self.halves.is_empty() || !waiting.is_empty() || !self.retries.is_empty(),
        }
    }

    fn take_oldest(&mut self) -> Option<Tracked> {
        let tracked = self.halves.take_first();
        let tracked = tracked.or_else(|| self.waiting.take_first());
        tracked.or_else(|| self.retries.take_first())
    }

    fn unit(&self, tracked: Tracked) -> Unit {
        if !self.handler.takes_batches() {
            let attempt = self.failures.attempt(tracked.ticket);
            return Unit::Event(tracked, attempt);
        }
        let bytes = tracked.event.budget_bytes();
        let taken = Taken { items: vec![tracked], bytes, reason: FlushReason::Probe };
        let batch = TrackedBatch::new(taken.items, taken.bytes, &self.failures);
        Unit::Batch(batch, taken.reason)
    }
}
