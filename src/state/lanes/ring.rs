//! Whose turn is next, among the queues of a partition that are ready.
//!
//! Queues of limited lanes take turns: one event each, around and around, so that a lane with many
//! events does not keep the slots from one with few. Of ordered lanes the one whose next event is the
//! oldest comes first. No lane can keep more than one slot of them, and none starves, for sooner or
//! later its event is the oldest; and the lanes with the most events, on which everything waits in the
//! end, are not held up by the many that have one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::state::lanes::QueueId;
use crate::state::watermark::Ticket;

/// Queues in the order of their turns, each at most once.
#[derive(Debug)]
pub enum Ring {
    /// They take turns.
    Turns(VecDeque<QueueId>),
    /// The one with the oldest event comes first.
    Oldest(BinaryHeap<Reverse<(Ticket, QueueId)>>),
}

impl Ring {
    /// A ring without queues.
    pub fn new(is_ordered: bool) -> Self {
        if is_ordered { Self::Oldest(BinaryHeap::new()) } else { Self::Turns(VecDeque::new()) }
    }

    /// A queue with this event as its next one is ready.
    pub fn push(&mut self, next: Ticket, id: QueueId) {
        match self {
            Self::Turns(turns) => turns.push_back(id),
            Self::Oldest(oldest) => oldest.push(Reverse((next, id))),
        }
    }

    /// A queue whose turn it was could not be served.
    pub fn push_first(&mut self, next: Ticket, id: QueueId) {
        match self {
            Self::Turns(turns) => turns.push_front(id),
            Self::Oldest(oldest) => oldest.push(Reverse((next, id))),
        }
    }

    /// Takes the queue whose turn it is.
    pub fn pop(&mut self) -> Option<QueueId> {
        match self {
            Self::Turns(turns) => turns.pop_front(),
            Self::Oldest(oldest) => oldest.pop().map(|Reverse((_, id))| id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ring: &mut Ring) -> Vec<QueueId> {
        std::iter::from_fn(|| ring.pop()).collect()
    }

    #[test]
    fn ordered_lanes_come_by_their_oldest_event_and_others_take_turns() {
        let ids = [7, 3, 5].map(QueueId::new);
        let tickets = [2, 0, 1].map(|after| Ticket::FIRST.after(after));
        let (mut ordered, mut limited) = (Ring::new(true), Ring::new(false));
        for (ticket, id) in tickets.into_iter().zip(ids) {
            ordered.push(ticket, id);
            limited.push(ticket, id);
        }
        assert_eq!(all(&mut ordered), [ids[1], ids[2], ids[0]]);
        assert_eq!(all(&mut limited), ids);
        limited.push(tickets[0], ids[0]);
        limited.push_first(tickets[1], ids[1]);
        assert_eq!(all(&mut limited), [ids[1], ids[0]]);
    }
}
