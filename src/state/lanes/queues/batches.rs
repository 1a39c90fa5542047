//! Batches of what may begin: when one is ready, and what it has.

use std::time::Instant;

use super::{Given, LaneQueues, Share, State};
use crate::state::batch_buffer::{FlushReason, Taken};
use crate::state::lanes::QueueId;
use crate::state::lanes::table::{Entry, LaneTable};
use crate::state::watermark::Ticket;

impl<T> LaneQueues<T> {
    /// Counts what a batch would find in a queue, and since when.
    pub(super) fn measure(&mut self, id: QueueId, table: &LaneTable) {
        if self.limits.is_none() {
            return;
        }
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        let is_ready = queue.state == State::Ready;
        let room = match queue.id() {
            Some(lane) if !self.is_ordered => table.room(lane),
            _ => usize::MAX,
        };
        let events = if is_ready { queue.list.len.min(room) } else { 0 };
        let bytes = match queue.list.len {
            0 => 0,
            len if events == len => queue.list.bytes,
            len => queue.list.bytes / len * events,
        };
        let share = Share { events, bytes };
        let before = std::mem::replace(&mut queue.share, share);
        self.batch.events = self.batch.events - before.events + share.events;
        self.batch.bytes = self.batch.bytes - before.bytes + share.bytes;
        let came = self.events.first(&queue.list).map(|first| first.came);
        let since = came.filter(|_| is_ready).max(queue.ready_since.filter(|_| is_ready));
        if queue.since != since {
            if let Some(before) = std::mem::replace(&mut queue.since, since) {
                self.since.remove(before);
            }
            if let Some(since) = since {
                self.since.add(since);
            }
        }
    }

    /// Why a batch is ready, if one is; `pressed`: it need not fill.
    pub fn ready_batch(&self, pressed: bool, now: Instant) -> Option<FlushReason> {
        let limits = self.limits.filter(|_| self.ready > 0)?;
        let oldest = self.since.first();
        if self.batch.events >= limits.max_events {
            Some(FlushReason::Size)
        } else if self.batch.bytes >= limits.max_bytes {
            Some(FlushReason::Bytes)
        } else if oldest.is_some_and(|oldest| oldest + limits.timeout <= now) {
            Some(FlushReason::Timeout)
        } else {
            pressed.then_some(FlushReason::Pressure)
        }
    }

    /// Takes the events that may begin together, for a slot that is there; `None` where none may.
    /// `on_given` is told the queue of each.
    pub fn take_batch(
        &mut self,
        reason: FlushReason,
        mut on_given: impl FnMut(QueueId, Ticket),
        table: &mut LaneTable,
        now: Instant,
    ) -> Option<Taken<T>> {
        let limits = self.limits?;
        let mut given: Vec<Given<T>> = Vec::new();
        let mut taken_bytes = 0;
        let mut in_batch = Vec::new();
        while given.len() < limits.max_events
            && let Some(id) = self.next_ready()
        {
            let Some(bytes) = self.next_bytes(id) else { continue };
            if !given.is_empty() && taken_bytes + bytes > limits.max_bytes {
                // Its turn is the first one of the next batch.
                self.put_first(id);
                break;
            }
            if self.acquire(id, table, now).is_none() {
                continue;
            }
            let Some((one, bytes)) = self.pop(id) else { continue };
            on_given(id, one.ticket);
            taken_bytes += bytes;
            given.push(one);
            if self.is_ordered && id != QueueId::NO_LANE {
                self.stay_in_batch(id, &mut in_batch, table, now);
            } else {
                self.go_on(id, table, now);
            }
        }
        for id in in_batch {
            if let Some(queue) = self.queues.get_mut(id.key()) {
                queue.is_in_batch = false;
            }
            self.go_on(id, table, now);
        }
        if given.is_empty() {
            return None;
        }
        given.sort_by_key(|one| one.ticket);
        let items = given.into_iter().map(|one| one.item).collect();
        Some(Taken { items, bytes: taken_bytes, reason })
    }

    /// A queue of an ordered lane of which the batch has an event: the next ones may join it.
    fn stay_in_batch(
        &mut self,
        id: QueueId,
        in_batch: &mut Vec<QueueId>,
        table: &LaneTable,
        now: Instant,
    ) {
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        if !std::mem::replace(&mut queue.is_in_batch, true) {
            in_batch.push(id);
        }
        self.set(id, Entry::Open(1), table, now);
    }

    fn next_bytes(&self, id: QueueId) -> Option<usize> {
        let queue = self.queues.get(id.key())?;
        self.events.first(&queue.list).map(|first| first.bytes)
    }

    fn put_first(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(id.key())
            && !std::mem::replace(&mut queue.is_in_ring, true)
        {
            let next = self.events.first(&queue.list).map(|first| first.ticket);
            self.ring.push_first(next.unwrap_or(Ticket::FIRST), id);
        }
    }
}
