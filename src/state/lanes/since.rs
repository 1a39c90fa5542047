//! Since when things wait that all may wait for the same time: only the first of them is ever asked for.

use std::collections::VecDeque;
use std::time::Instant;

/// Fewer notes than this are never tidied up.
const FEW: usize = 64;

/// How many wait since when.
#[derive(Debug, Default)]
pub struct Since {
    /// In the order of time; what waits no more leaves a note of none, and the first is never one.
    notes: VecDeque<(Instant, usize)>,
    waiting: usize,
}

impl Since {
    /// One more waits since then: nearly always since later than all others.
    pub fn add(&mut self, since: Instant) {
        self.waiting += 1;
        if self.notes.back().is_none_or(|(last, _)| *last < since) {
            return self.notes.push_back((since, 1));
        }
        let at = self.notes.partition_point(|(noted, _)| *noted < since);
        match self.notes.get_mut(at).filter(|(noted, _)| *noted == since) {
            Some((_, count)) => *count += 1,
            None => self.notes.insert(at, (since, 1)),
        }
    }

    /// One that was added waits no more.
    pub fn remove(&mut self, since: Instant) {
        let at = self.notes.partition_point(|(noted, _)| *noted < since);
        let note = self.notes.get_mut(at).filter(|(noted, count)| *noted == since && *count > 0);
        let Some((_, count)) = note else { return };
        *count -= 1;
        self.waiting -= 1;
        while self.notes.front().is_some_and(|(_, count)| *count == 0) {
            self.notes.pop_front();
        }
        if self.notes.len() > FEW && self.notes.len() > 2 * self.waiting {
            self.notes.retain(|(_, count)| *count > 0);
        }
    }

    /// Since when the first one waits.
    pub fn first(&self) -> Option<Instant> {
        self.notes.front().map(|(since, _)| *since)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_is_the_least_of_those_that_wait(
            steps in prop::collection::vec((any::<bool>(), 0u64..400, any::<usize>()), 0..600),
        ) {
            let begin = Instant::now();
            let (mut since, mut naive) = (Since::default(), Vec::<Instant>::new());
            for (adds, millis, pick) in steps {
                if adds || naive.is_empty() {
                    let at = begin + Duration::from_millis(millis);
                    since.add(at);
                    naive.push(at);
                } else {
                    since.remove(naive.swap_remove(pick % naive.len()));
                }
                prop_assert_eq!(since.first(), naive.iter().min().copied());
                prop_assert!(since.notes.len() <= FEW + 2 * naive.len());
            }
        }
    }

    #[test]
    fn one_that_waits_for_ever_keeps_no_more_than_it_must() {
        let begin = Instant::now();
        let mut since = Since::default();
        since.add(begin);
        for millis in 1..10_000 {
            let at = begin + Duration::from_millis(millis);
            since.add(at);
            since.remove(at);
        }
        assert_eq!(since.first(), Some(begin));
        assert!(since.notes.len() <= FEW + 1, "{}", since.notes.len());
        since.remove(begin);
        since.remove(begin);
        assert_eq!(since.first(), None);
    }
}
