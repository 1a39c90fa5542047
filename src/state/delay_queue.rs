//! Things that become due at a time: what waits for its retry.
//!
//! Invariants: nothing comes out before it is due; what is due at the same time comes out in
//! the order it went in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// A queue ordered by due time.
#[derive(Debug)]
pub struct DelayQueue<T> {
    heap: BinaryHeap<Reverse<Delayed<T>>>,
    next_order: u64,
}

#[derive(Debug)]
struct Delayed<T> {
    due: Instant,
    order: u64,
    item: T,
}

impl<T> Delayed<T> {
    fn rank(&self) -> (Instant, u64) {
        (self.due, self.order)
    }
}

impl<T> PartialEq for Delayed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl<T> Eq for Delayed<T> {}

impl<T> PartialOrd for Delayed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Delayed<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl<T> Default for DelayQueue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), next_order: 0 }
    }
}

impl<T> DelayQueue<T> {
    /// Adds something that is due at `due`.
    pub fn on_delayed(&mut self, item: T, due: Instant) {
        let order = self.next_order;
        self.next_order += 1;
        self.heap.push(Reverse(Delayed { due, order, item }));
    }

    /// When the next thing is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(delayed)| delayed.due)
    }

    /// Takes the next thing that is due at `now`.
    pub fn take_due(&mut self, now: Instant) -> Option<T> {
        if self.next_deadline()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(delayed)| delayed.item)
    }

    /// Takes the next thing, whether it is due or not.
    pub fn take_first(&mut self) -> Option<T> {
        self.heap.pop().map(|Reverse(delayed)| delayed.item)
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Empties the queue, in no particular order.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.heap.drain().map(|Reverse(delayed)| delayed.item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_due_comes_out_in_order_and_nothing_early() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut queue = DelayQueue::default();
        queue.on_delayed("late", at(20));
        queue.on_delayed("first", at(10));
        queue.on_delayed("second", at(10));
        assert_eq!(queue.next_deadline(), Some(at(10)));
        assert_eq!(queue.take_due(at(9)), None);
        assert_eq!(queue.take_due(at(10)), Some("first"));
        assert_eq!(queue.take_due(at(10)), Some("second"));
        assert_eq!(queue.take_due(at(10)), None);
        assert_eq!(queue.take_due(at(25)), Some("late"));
    }
}
