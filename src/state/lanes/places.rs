//! Which lane each event of a partition's window is of, by ticket: asked once, and kept. Events that come
//! back from the failure store are few, and in no window.

use std::collections::{BTreeMap, VecDeque};

use crate::state::lanes::QueueId;
use crate::state::watermark::Ticket;

/// Where an event belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The queue of its lane.
    pub queue: QueueId,
    /// Whether it counts as under way in its lane.
    pub is_held: bool,
}

/// The places of the events in a window, a word each.
#[derive(Debug)]
pub struct Places {
    first: Ticket,
    words: VecDeque<u32>,
    returned: BTreeMap<Ticket, u32>,
}

const NOWHERE: u32 = u32::MAX;
const HELD: u32 = 1 << 31;

impl Default for Places {
    fn default() -> Self {
        Self { first: Ticket::FIRST, words: VecDeque::new(), returned: BTreeMap::new() }
    }
}

impl Places {
    /// Everything before this ticket is settled and asked for no more.
    pub fn forget_before(&mut self, oldest: Ticket) {
        let passed = oldest.since(self.first).unwrap_or(0).min(self.words.len());
        self.words.drain(..passed);
        self.first = self.first.after(passed);
        if self.words.is_empty() {
            self.first = self.first.max(oldest);
        }
    }

    /// An event belongs to this queue, and is not under way.
    pub fn set(&mut self, ticket: Ticket, queue: QueueId) {
        if ticket.is_returned() {
            self.returned.insert(ticket, queue.0);
            return;
        }
        let Some(index) = ticket.since(self.first) else { return };
        if index == self.words.len() {
            return self.words.push_back(queue.0);
        }
        if index > self.words.len() {
            self.words.resize(index + 1, NOWHERE);
        }
        if let Some(word) = self.words.get_mut(index) {
            *word = queue.0;
        }
    }

    /// Whether an event is under way changes.
    pub fn set_held(&mut self, ticket: Ticket, is_held: bool) {
        if let Some(word) = self.word_mut(ticket)
            && *word != NOWHERE
        {
            *word = if is_held { *word | HELD } else { *word & !HELD };
        }
    }

    /// The place of an event that has one.
    pub fn get(&self, ticket: Ticket) -> Option<Place> {
        let word = match ticket.is_returned() {
            true => *self.returned.get(&ticket)?,
            false => *self.words.get(ticket.since(self.first)?)?,
        };
        let place = Place { queue: QueueId(word & !HELD), is_held: word & HELD != 0 };
        (word != NOWHERE).then_some(place)
    }

    /// An event is settled: takes its place away.
    pub fn take(&mut self, ticket: Ticket) -> Option<Place> {
        let place = self.get(ticket)?;
        if ticket.is_returned() {
            self.returned.remove(&ticket);
        } else if let Some(word) = self.word_mut(ticket) {
            *word = NOWHERE;
        }
        Some(place)
    }

    fn word_mut(&mut self, ticket: Ticket) -> Option<&mut u32> {
        if ticket.is_returned() {
            return self.returned.get_mut(&ticket);
        }
        self.words.get_mut(ticket.since(self.first)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_until_it_is_taken_or_passed() {
        let ticket = |index| Ticket::FIRST.after(index);
        let mut places = Places::default();
        places.set(ticket(0), QueueId(5));
        places.set(ticket(3), QueueId(0));
        assert_eq!(places.get(ticket(1)), None, "never asked");
        places.set_held(ticket(0), true);
        places.set_held(ticket(1), true);
        assert_eq!(places.get(ticket(1)), None);
        assert_eq!(places.get(ticket(0)), Some(Place { queue: QueueId(5), is_held: true }));
        places.forget_before(ticket(1));
        assert_eq!(places.get(ticket(0)), None);
        assert_eq!(places.take(ticket(3)), Some(Place { queue: QueueId(0), is_held: false }));
        assert_eq!(places.take(ticket(3)), None);
        places.forget_before(ticket(40));
        places.set(ticket(39), QueueId(1));
        assert_eq!(places.get(ticket(39)), None, "it is settled");
        places.set(ticket(41), QueueId(1));
        places.set_held(ticket(41), true);
        places.set_held(ticket(41), false);
        assert_eq!(places.get(ticket(41)), Some(Place { queue: QueueId(1), is_held: false }));
    }

    #[test]
    fn an_event_that_comes_back_has_a_place_outside_the_window() {
        let mut places = Places::default();
        places.forget_before(Ticket::FIRST.after(7));
        for count in [3, 1] {
            let ticket = Ticket::returned(count);
            places.set(ticket, QueueId(2));
            places.set_held(ticket, true);
            assert_eq!(places.get(ticket), Some(Place { queue: QueueId(2), is_held: true }));
        }
        places.forget_before(Ticket::FIRST.after(9));
        assert!(places.take(Ticket::returned(3)).is_some_and(|place| place.is_held));
        assert_eq!(places.take(Ticket::returned(3)), None);
        assert!(places.get(Ticket::returned(1)).is_some());
    }
}
