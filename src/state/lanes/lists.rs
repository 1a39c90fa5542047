//! Lists of events that share one place in memory: a list costs nothing but its ends.

use std::time::Instant;

use slab::Slab;

use crate::state::watermark::Ticket;

/// An event of a list.
#[derive(Debug)]
pub struct Node<T> {
    /// Its ticket.
    pub ticket: Ticket,
    /// The event.
    pub item: T,
    /// Its size.
    pub bytes: usize,
    /// When it came.
    pub came: Instant,
    next: Option<usize>,
}

impl<T> Node<T> {
    /// An event that came just now.
    pub fn new(ticket: Ticket, item: T, bytes: usize, came: Instant) -> Self {
        Self { ticket, item, bytes, came, next: None }
    }
}

/// A list: its ends and its sums.
#[derive(Clone, Copy, Debug, Default)]
pub struct List {
    head: Option<usize>,
    tail: Option<usize>,
    /// Its events.
    pub len: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// The events of all lists.
#[derive(Debug)]
pub struct Lists<T>(Slab<Node<T>>);

/// Where an event is in its list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    /// Its ticket.
    pub ticket: Ticket,
    before: Option<usize>,
    at: usize,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self(Slab::new())
    }
}

impl<T> Lists<T> {
    /// Adds an event at the end.
    pub fn push_back(&mut self, list: &mut List, node: Node<T>) {
        let before = list.tail;
        self.insert(list, before, node);
    }

    /// Adds an event at the front; `in_order`: behind those with earlier tickets that are there.
    pub fn push_front(&mut self, list: &mut List, node: Node<T>, in_order: bool) {
        let mut before = None;
        let mut next = list.head.filter(|_| in_order);
        while let Some(other) = next.and_then(|at| self.0.get(at))
            && other.ticket < node.ticket
        {
            before = next;
            next = other.next;
        }
        self.insert(list, before, node);
    }

    /// Adds an event behind another one, or at the front.
    fn insert(&mut self, list: &mut List, before: Option<usize>, mut node: Node<T>) {
        list.len += 1;
        list.bytes += node.bytes;
        node.next = match before {
            Some(before) => self.0.get(before).and_then(|before| before.next),
            None => list.head,
        };
        let next = node.next;
        let at = self.0.insert(node);
        match before.and_then(|before| self.0.get_mut(before)) {
            Some(before) => before.next = Some(at),
            None => list.head = Some(at),
        }
        if next.is_none() {
            list.tail = Some(at);
        }
    }

    /// The first event of a list.
    pub fn first(&self, list: &List) -> Option<&Node<T>> {
        self.0.get(list.head?)
    }

    /// Takes the first event of a list.
    pub fn pop(&mut self, list: &mut List) -> Option<Node<T>> {
        let at = list.head?;
        let ticket = self.0.get(at)?.ticket;
        self.remove(list, Spot { ticket, before: None, at })
    }

    /// Where the event with the earliest ticket is. Looks at all of the list.
    pub fn earliest(&self, list: &List) -> Option<Spot> {
        let mut earliest: Option<Spot> = None;
        let (mut before, mut next) = (None, list.head);
        while let Some(at) = next
            && let Some(node) = self.0.get(at)
        {
            if earliest.is_none_or(|spot| node.ticket < spot.ticket) {
                earliest = Some(Spot { ticket: node.ticket, before, at });
            }
            (before, next) = (next, node.next);
        }
        earliest
    }

    /// Takes the event at a spot, which was found just now.
    pub fn remove(&mut self, list: &mut List, spot: Spot) -> Option<Node<T>> {
        let node = self.0.try_remove(spot.at)?;
        match spot.before.and_then(|before| self.0.get_mut(before)) {
            Some(before) => before.next = node.next,
            None => list.head = node.next,
        }
        if node.next.is_none() {
            list.tail = spot.before;
        }
        list.len -= 1;
        list.bytes -= node.bytes;
        Some(node)
    }

    /// Events of all lists.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all lists are empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(index: usize) -> Ticket {
        Ticket::FIRST.after(index)
    }

    fn items(lists: &mut Lists<usize>, list: &mut List) -> Vec<usize> {
        std::iter::from_fn(|| lists.pop(list).map(|node| node.item)).collect()
    }

    #[test]
    fn what_comes_again_is_before_what_came_after_it() {
        let (mut lists, now) = (Lists::default(), Instant::now());
        let (mut list, mut other) = (List::default(), List::default());
        for index in 3..6 {
            lists.push_back(&mut list, Node::new(ticket(index), index, 10, now));
            lists.push_back(&mut other, Node::new(ticket(index), 100 + index, 1, now));
        }
        for index in [1, 0, 2] {
            lists.push_front(&mut list, Node::new(ticket(index), index, 10, now), true);
        }
        lists.push_front(&mut other, Node::new(ticket(9), 109, 1, now), false);
        assert_eq!((list.len, list.bytes, lists.len()), (6, 60, 10));
        assert_eq!(lists.earliest(&other).map(|spot| spot.ticket), Some(ticket(3)));
        assert_eq!(items(&mut lists, &mut list), [0, 1, 2, 3, 4, 5]);
        assert_eq!(items(&mut lists, &mut other), [109, 103, 104, 105]);
        assert!(lists.is_empty());
        lists.push_back(&mut list, Node::new(ticket(7), 7, 1, now));
        lists.push_front(&mut list, Node::new(ticket(8), 8, 1, now), true);
        assert_eq!(items(&mut lists, &mut list), [7, 8], "it may be the last one");
    }

    #[test]
    fn an_event_is_taken_out_of_the_middle_and_the_end() {
        let (mut lists, mut list, now) = (Lists::default(), List::default(), Instant::now());
        for index in [5, 1, 7, 0] {
            lists.push_back(&mut list, Node::new(ticket(index), index, 1, now));
        }
        for expected in [0, 1] {
            let spot = lists.earliest(&list).expect("some");
            assert_eq!(lists.remove(&mut list, spot).map(|node| node.item), Some(expected));
        }
        lists.push_back(&mut list, Node::new(ticket(9), 9, 1, now));
        assert_eq!(items(&mut lists, &mut list), [5, 7, 9]);
    }
}
