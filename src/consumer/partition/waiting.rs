//! Events of a partition that wait for a slot, as the handler wants them: one by one at once,
//! or in batches when a batch is ready; or by lane.

use std::collections::VecDeque;
use std::time::Instant;

use super::lanes::PartitionLanes;
use crate::consumer::handling::unit::{Failures, Tracked, TrackedBatch, Unit};
use crate::event::Event;
use crate::lanes::Lane;
use crate::outcome::Failure;
use crate::state::batch_buffer::{BatchBuffer, BatchLimits, FlushReason, Taken};
use crate::state::lanes::QueueId;
use crate::state::watermark::{Ticket, Watermark};

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
    /// By lane, for a handler of either; the ledger is for one of events.
    Laned { lanes: Box<PartitionLanes>, ledger: Option<BatchBuffer<()>> },
}

impl Waiting {
    pub(super) fn new(batches: bool, limits: BatchLimits) -> Self {
        if batches {
            Waiting::Batches { buffer: BatchBuffer::new(limits), last: None }
        } else {
            Waiting::Events { queue: VecDeque::new(), ledger: BatchBuffer::new(limits) }
        }
    }

    pub(super) fn by_lane(lanes: PartitionLanes, batches: bool, limits: BatchLimits) -> Self {
        let ledger = (!batches).then(|| BatchBuffer::new(limits));
        Waiting::Laned { lanes: Box::new(lanes), ledger }
    }

    /// What waits by lane, where there are lanes.
    #[inline]
    pub(super) fn lanes(&mut self) -> Option<&mut PartitionLanes> {
        match self {
            Waiting::Laned { lanes, .. } => Some(lanes),
            Waiting::Events { .. } | Waiting::Batches { .. } => None,
        }
    }

    /// Events are about to come in.
    pub(super) fn on_intake(&mut self, watermark: &Watermark) {
        if let Some(lanes) = self.lanes() {
            let oldest = watermark.oldest_unsettled();
            lanes.forget_before(oldest.unwrap_or_else(|| watermark.next_ticket()));
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
            Waiting::Laned { lanes, ledger } => {
                lanes.on_event(tracked, bytes);
                if let Some(ledger) = ledger {
                    ledger.on_event((), bytes, now);
                }
            }
        }
    }

    pub(super) fn on_retry(&mut self, tracked: Tracked, bytes: usize, now: Instant) {
        match self {
            Waiting::Events { queue, .. } => queue.push_front(tracked),
            Waiting::Batches { buffer, .. } => buffer.on_retry(tracked, bytes, now),
            Waiting::Laned { lanes, .. } => lanes.on_retry(tracked, bytes),
        }
    }

    /// An event is to be tried again at `due`. Returned where it waits for that elsewhere.
    pub(super) fn on_failed(
        &mut self,
        tracked: Tracked,
        due: Instant,
        closes_lane: bool,
        now: Instant,
    ) -> Option<Tracked> {
        match self.lanes() {
            Some(lanes) => lanes.on_failed(tracked, due, closes_lane, now),
            None => Some(tracked),
        }
    }

    /// An event whose lane nobody knows, and why.
    pub(super) fn take_unplaced(&mut self) -> Option<(Tracked, Failure)> {
        self.lanes().and_then(PartitionLanes::take_unplaced)
    }

    /// Whether events of a lane are handled in order.
    pub(super) fn is_ordered(&self) -> bool {
        match self {
            Waiting::Laned { lanes, .. } => lanes.is_ordered(),
            Waiting::Events { .. } | Waiting::Batches { .. } => false,
        }
    }

    /// The lane of an event, where events of a lane are handled in order.
    pub(super) fn ordered_lane(&self, ticket: Ticket) -> Option<QueueId> {
        match self {
            Waiting::Laned { lanes, .. } => lanes.ordered_lane(ticket),
            Waiting::Events { .. } | Waiting::Batches { .. } => None,
        }
    }

    /// The lane of an event, whatever that means for it.
    pub(super) fn lane(&self, ticket: Ticket) -> Option<&Lane> {
        match self {
            Waiting::Laned { lanes, .. } => lanes.lane(ticket),
            Waiting::Events { .. } | Waiting::Batches { .. } => None,
        }
    }

    /// Whether there are lanes, and that of the event is not known.
    pub(super) fn is_unplaced(&self, ticket: Ticket) -> bool {
        match self {
            Waiting::Laned { lanes, .. } => lanes.is_unplaced(ticket),
            Waiting::Events { .. } | Waiting::Batches { .. } => false,
        }
    }

    /// The lane of an event, where so many events of a lane are handled at once.
    pub(super) fn limited_lane(&self, ticket: Ticket) -> Option<Lane> {
        match self {
            Waiting::Laned { lanes, .. } => lanes.limited_lane(ticket),
            Waiting::Events { .. } | Waiting::Batches { .. } => None,
        }
    }

    /// The call of an event ended.
    #[inline]
    pub(super) fn on_returned(&mut self, ticket: Ticket) {
        if let Some(lanes) = self.lanes() {
            lanes.on_returned(ticket);
        }
    }

    /// Events received in a row are settled.
    #[inline]
    pub(super) fn on_settled(&mut self, first: Ticket, count: usize) {
        if let Some(lanes) = self.lanes() {
            lanes.on_settled(first, count);
        }
    }

    /// Whether a slot is wanted. `pressed`: the byte budget is short, so a batch need not fill.
    pub(super) fn is_ready(&self, now: Instant, pressed: bool) -> bool {
        match self {
            Waiting::Events { queue, .. } => !queue.is_empty(),
            Waiting::Batches { buffer, last } => {
                last.is_some() || buffer.ready(now).is_some() || (pressed && !buffer.is_empty())
            }
            // They are handed out in steps of their own.
            Waiting::Laned { .. } => false,
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
            Waiting::Laned { .. } => None,
        }
    }

    /// The lane of an event that did not come in yet.
    pub(super) fn lane_of(&self, event: &Event) -> Option<Lane> {
        match self {
            Waiting::Laned { lanes, .. } => lanes.lane_of(event),
            Waiting::Events { .. } | Waiting::Batches { .. } => None,
        }
    }

    /// Takes what waits of a lane, behind the first `kept` events.
    pub(super) fn take_behind(&mut self, lane: &Lane, kept: usize, now: Instant) -> Vec<Tracked> {
        self.lanes().map_or_else(Vec::new, |lanes| lanes.take_behind(lane, kept, now))
    }

    /// Takes the oldest event by itself, where there are no lanes.
    pub(super) fn take_first(&mut self) -> Option<Tracked> {
        match self {
            Waiting::Events { queue, .. } => queue.pop_front(),
            Waiting::Batches { buffer, .. } => {
                let taken = buffer.take_first(FlushReason::Probe)?;
                taken.items.into_iter().next()
            }
            Waiting::Laned { .. } => None,
        }
    }

    /// Takes the reason of a batch that a handler of events would have been given by now.
    pub(super) fn take_ledger(&mut self, now: Instant) -> Option<FlushReason> {
        match self {
            Waiting::Events { ledger, .. } | Waiting::Laned { ledger: Some(ledger), .. } => {
                ledger.take_ready(now).map(|taken| taken.reason)
            }
            Waiting::Batches { .. } | Waiting::Laned { ledger: None, .. } => None,
        }
    }

    /// When something becomes ready by its age, or because its lane opens.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self {
            Waiting::Events { ledger, .. } => ledger.next_deadline(),
            Waiting::Batches { buffer, .. } => buffer.next_deadline(),
            Waiting::Laned { lanes, ledger } => {
                let ledger = ledger.as_ref().and_then(BatchBuffer::next_deadline);
                ledger.into_iter().chain(lanes.next_deadline()).min()
            }
        }
    }

    /// When a lane opens that has events here.
    pub(super) fn next_opening(&self) -> Option<Instant> {
        match self {
            Waiting::Laned { lanes, .. } => lanes.next_opening(),
            Waiting::Events { .. } | Waiting::Batches { .. } => None,
        }
    }

    /// Keeps one partial batch to be handed out last and returns everything else, which was
    /// never begun. Events are begun one by one, so of them nothing is kept.
    pub(super) fn begin_drain(&mut self, now: Instant) -> (Vec<Tracked>, bool) {
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
            Waiting::Laned { lanes, ledger } => {
                lanes.flush(now);
                let open = ledger.as_mut().is_some_and(|ledger| {
                    let open = !ledger.is_empty();
                    ledger.drain().for_each(drop);
                    open
                });
                (lanes.clear(now), open)
            }
        }
    }

    /// Makes the partial batch ready, and keeps everything else: a drain that may be called back.
    pub(super) fn flush(&mut self, now: Instant) {
        match self {
            Waiting::Batches { buffer, last } if last.is_none() => {
                *last = buffer.take_any(FlushReason::Drain);
            }
            Waiting::Laned { lanes, .. } => lanes.flush(now),
            Waiting::Events { .. } | Waiting::Batches { .. } => {}
        }
    }

    /// Whether the flushed batch is still here.
    pub(super) fn is_flushed(&self) -> bool {
        match self {
            Waiting::Events { .. } => false,
            Waiting::Batches { last, .. } => last.is_some(),
            Waiting::Laned { lanes, .. } => lanes.is_flushed(),
        }
    }

    /// Returns everything, which was never begun.
    pub(super) fn clear(&mut self, now: Instant) -> Vec<Tracked> {
        let (mut dropped, _) = self.begin_drain(now);
        match self {
            Waiting::Events { .. } => {}
            Waiting::Batches { last, .. } => {
                dropped.extend(last.take().into_iter().flat_map(|taken| taken.items));
            }
            Waiting::Laned { lanes, .. } => dropped.extend(lanes.take_flushed()),
        }
        dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Waiting::Events { queue, .. } => queue.is_empty(),
            Waiting::Batches { buffer, last } => buffer.is_empty() && last.is_none(),
            Waiting::Laned { lanes, .. } => lanes.is_empty(),
        }
    }
}
