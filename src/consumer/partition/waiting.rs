//! Events of a partition that wait for a slot, as the handler wants them: one by one at once,
//! or in batches when a batch is ready.

use std::collections::VecDeque;
use std::time::Instant;

use crate::consumer::handling::unit::{Failures, Tracked, TrackedBatch, Unit};
use crate::state::batch_buffer::{BatchBuffer, BatchLimits, FlushReason, Taken};

/// What waits for a slot.
pub(super) enum Waiting {
    /// For a handler of events: ready as soon as they are here. The ledger counts which of
    /// them a batch would have held together.
    Events { queue: VecDeque<Tracked>, ledger: BatchBuffer<()> },
    /// For a handler of batches.
    Batches {
        buffer: BatchBuffer<Tracked>,
        /// What a drain hands out last.
        last: Option<Taken<Tracked>>,
    },
}

impl Waiting {
    pub(super) fn new(batches: bool, limits: BatchLimits) -> Self {
        if batches {
            Waiting::Batches { buffer: BatchBuffer::new(limits), last: None }
        } else {
            Waiting::Events { queue: VecDeque::new(), ledger: BatchBuffer::new(limits) }
        }
    }

    #[inline]
    pub(super) fn on_event(&mut self, tracked: Tracked, bytes: usize, now: Instant) {
        match self {
            Waiting::Events { queue, ledger } => {
                queue.push_back(tracked);
                ledger.on_event((), bytes, now);
            }
            Waiting::Batches { buffer, .. } => buffer.on_event(tracked, bytes, now),
        }
    }

    pub(super) fn on_retry(&mut self, tracked: Tracked, bytes: usize, now: Instant) {
        match self {
            Waiting::Events { queue, .. } => queue.push_front(tracked),
            Waiting::Batches { buffer, .. } => buffer.on_retry(tracked, bytes, now),
        }
    }

    /// Whether a slot is wanted. `pressed`: the byte budget is short, so a batch need not fill.
    pub(super) fn is_ready(&self, now: Instant, pressed: bool) -> bool {
        match self {
            Waiting::Events { queue, .. } => !queue.is_empty(),
            Waiting::Batches { buffer, last } => {
                last.is_some() || buffer.ready(now).is_some() || (pressed && !buffer.is_empty())
            }
        }
    }

    /// Takes what the next slot works on.
    pub(super) fn take(
        &mut self,
        now: Instant,
        pressed: bool,
        failures: &Failures,
    ) -> Option<Unit> {
        match self {
            Waiting::Events { queue, .. } => {
                let tracked = queue.pop_front()?;
                let attempt = failures.attempt(tracked.ticket);
                Some(Unit::Event(tracked, attempt))
            }
            Waiting::Batches { buffer, last } => {
                let taken = last.take().or_else(|| buffer.take_ready(now)).or_else(|| {
                    pressed.then(|| buffer.take_any(FlushReason::Pressure)).flatten()
                })?;
                let batch = TrackedBatch::new(taken.items, taken.bytes, failures);
                Some(Unit::Batch(batch, taken.reason))
            }
        }
    }

    /// Takes the reason of a batch that a handler of events would have been given by now.
    pub(super) fn take_ledger(&mut self, now: Instant) -> Option<FlushReason> {
        match self {
            Waiting::Events { ledger, .. } => ledger.take_ready(now).map(|taken| taken.reason),
            Waiting::Batches { .. } => None,
        }
    }

    /// When a batch becomes ready by its age.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self {
            Waiting::Events { ledger, .. } => ledger.next_deadline(),
            Waiting::Batches { buffer, .. } => buffer.next_deadline(),
        }
    }

    /// Keeps one partial batch to be handed out last and returns everything else, which was
    /// never begun. Events are begun one by one, so of them nothing is kept.
    pub(super) fn begin_drain(&mut self) -> (Vec<Tracked>, bool) {
        match self {
            Waiting::Events { queue, ledger } => {
                let open = !ledger.is_empty();
                ledger.drain().for_each(drop);
                (queue.drain(..).collect(), open)
            }
            Waiting::Batches { buffer, last } => {
                *last = buffer.take_any(FlushReason::Drain);
                (buffer.drain().collect(), false)
            }
        }
    }

    /// Makes the partial batch ready, and keeps everything else: a drain that may be called back.
    pub(super) fn flush(&mut self) {
        if let Waiting::Batches { buffer, last } = self
            && last.is_none()
        {
            *last = buffer.take_any(FlushReason::Drain);
        }
    }

    /// Whether the flushed batch is still here.
    pub(super) fn is_flushed(&self) -> bool {
        matches!(self, Waiting::Batches { last: Some(_), .. })
    }

    /// Returns everything, which was never begun.
    pub(super) fn clear(&mut self) -> Vec<Tracked> {
        let (mut dropped, _) = self.begin_drain();
        if let Waiting::Batches { last, .. } = self {
            dropped.extend(last.take().into_iter().flat_map(|taken| taken.items));
        }
        dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Waiting::Events { queue, .. } => queue.is_empty(),
            Waiting::Batches { buffer, last } => buffer.is_empty() && last.is_none(),
        }
    }
}
