//! Which events that come in became dead letters under an owner before.
//!
//! A letter is written first and the checkpoint later, so an owner that ends in between leaves both: the
//! letter, and an event that is received again. Letters are listed by blocks of numbers, each a little
//! before its events come in.
//!
//! Invariants: one block is listed at a time; what is behind the next number is forgotten.

use std::collections::BTreeSet;

use crate::event::SequenceNumber;

/// Which letters must be known.
#[derive(Debug)]
pub struct EarlierLetters {
    /// Numbers of a block; blocks begin at its multiples.
    block: i64,
    /// The number of the next event, or one below it.
    next: i64,
    /// The letters of all numbers below are known.
    known_to: i64,
    /// Those that are known, from `next` on.
    letters: BTreeSet<i64>,
    /// The first number of the block that is being listed.
    listing: Option<i64>,
}

impl EarlierLetters {
    /// Nothing is known yet. `first` is the number of the first event, or one below it; `block` is how many
    /// numbers are listed at once, at least 1.
    pub fn new(first: SequenceNumber, block: i64) -> Self {
        let next = first.0.max(0);
        Self { block: block.max(1), next, known_to: next, letters: BTreeSet::new(), listing: None }
    }

    /// Begins to list a block where one is needed. Returns its first number.
    pub fn begin_block(&mut self) -> Option<SequenceNumber> {
        let first = self.known_to.max(self.next);
        let is_near = first - self.next <= self.block / 2;
        if self.listing.is_some() || !is_near {
            return None;
        }
        let block = first - first.rem_euclid(self.block);
        self.listing = Some(block);
        Some(SequenceNumber(block))
    }

    /// The listing has the letter of this event.
    pub fn on_letter(&mut self, SequenceNumber(number): SequenceNumber) {
        if number >= self.next {
            self.letters.insert(number);
        }
    }

    /// The block is listed to its end.
    pub fn end_block(&mut self) {
        if let Some(block) = self.listing.take() {
            self.known_to = self.known_to.max(block.saturating_add(self.block));
        }
    }

    /// The block could not be listed.
    pub fn abort_block(&mut self) {
        self.listing = None;
    }

    /// Whether the letters of so many events are known that come next.
    pub fn are_known(&self, events: usize) -> bool {
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        self.next.saturating_add(events) <= self.known_to
    }

    /// An event comes in. Returns whether it is a dead letter, as far as is known.
    pub fn on_received(&mut self, SequenceNumber(number): SequenceNumber) -> bool {
        self.next = self.next.max(number.saturating_add(1));
        let mut is_letter = false;
        while let Some(first) = self.letters.first().copied()
            && first < self.next
        {
            self.letters.pop_first();
            is_letter |= first == number;
        }
        is_letter
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lists a block of what there is.
    fn list(state: &mut EarlierLetters, there: &BTreeSet<i64>) -> bool {
        let Some(SequenceNumber(first)) = state.begin_block() else { return false };
        for number in there.range(first..first + state.block) {
            state.on_letter(SequenceNumber(*number));
        }
        state.end_block();
        true
    }

    #[test]
    fn blocks_are_listed_half_a_block_before_they_are_needed() {
        let mut state = EarlierLetters::new(SequenceNumber(103), 10);
        assert!(!state.are_known(1));
        assert_eq!(state.begin_block(), Some(SequenceNumber(100)));
        assert_eq!(state.begin_block(), None, "one at a time");
        state.end_block();
        assert!(state.are_known(7) && !state.are_known(8));
        assert_eq!(state.begin_block(), None, "the next one is far");
        assert!(!state.on_received(SequenceNumber(104)));
        assert_eq!(state.begin_block(), Some(SequenceNumber(110)));
        state.abort_block();
        // A gap of the log.
        state.on_received(SequenceNumber(345));
        assert_eq!(state.begin_block(), Some(SequenceNumber(340)));
        state.end_block();
        assert!(state.are_known(4) && !state.are_known(5));
    }

    #[test]
    fn the_ends_of_the_numbers_are_survived() {
        let mut state = EarlierLetters::new(SequenceNumber(i64::MIN), 10);
        assert_eq!(state.begin_block(), Some(SequenceNumber(0)));
        let mut state = EarlierLetters::new(SequenceNumber(i64::MAX), 10);
        assert!(state.begin_block().is_some());
        state.end_block();
        assert!(!state.on_received(SequenceNumber(i64::MAX)));
        assert_eq!(state.begin_block().map(|first| first.0 % 10), Some(0));
    }

    proptest! {
        #[test]
        fn every_letter_is_told_and_no_other(
            there in proptest::collection::btree_set(0..400_i64, 0..80),
            gaps in proptest::collection::vec(prop_oneof![9 => Just(1_i64), 1 => 1..60_i64], 1..200),
            first in 0..50_i64,
            block in 1..40_i64,
        ) {
            let mut state = EarlierLetters::new(SequenceNumber(first), block);
            let mut number = first;
            for gap in gaps {
                list(&mut state, &there);
                while !state.are_known(1) {
                    prop_assert!(list(&mut state, &there), "it waits for ever at {}", number);
                }
                // What comes behind a gap may come before its block is listed.
                let is_known = number < state.known_to;
                prop_assert!(is_known || number > state.next);
                let is_letter = state.on_received(SequenceNumber(number));
                prop_assert_eq!(is_letter, is_known && there.contains(&number));
                prop_assert!(state.letters.len() <= usize::try_from(2 * block).unwrap_or(0));
                number += gap;
            }
        }
    }
}
