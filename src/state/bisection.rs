//! Where a batch that failed whole is cut, so that the event at fault is alone in the end.
//!
//! Without an order it is cut in the middle. In ordered lanes the two halves share no lane, for they
//! run side by side; where all events are of one lane, only the first half of them is tried, and the
//! others go back to their lane. Either way a half is smaller than what was cut.

use std::collections::BTreeMap;

/// A batch that was cut. Everything is in the order in which it was before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut<T> {
    /// Tried next, by itself.
    pub first: Vec<T>,
    /// Tried by itself, beside it or after it.
    pub second: Vec<T>,
    /// Waits in its lane until the first half is settled.
    pub back: Vec<T>,
}

/// Cuts a batch of two events or more. `lane` says which lane an event is of, where lanes are ordered.
pub fn cut<T, L: Ord>(events: Vec<T>, lane: impl Fn(&T) -> Option<L>) -> Cut<T> {
    let half = events.len().div_ceil(2);
    let mut events_of: BTreeMap<L, usize> = BTreeMap::new();
    for lane in events.iter().filter_map(&lane) {
        *events_of.entry(lane).or_default() += 1;
    }
    let is_one_lane = events_of.values().any(|count| *count == events.len());
    let (mut first, mut second, mut back) = (Vec::with_capacity(half), Vec::new(), Vec::new());
    let mut is_in_first: BTreeMap<L, bool> = BTreeMap::new();
    // Events that the first half has, or gets when the rest of a lane comes by.
    let mut taken = 0;
    for event in events {
        if is_one_lane {
            if first.len() < half {
                first.push(event)
            } else {
                back.push(event)
            }
            continue;
        }
        let in_first = match lane(&event) {
            None => {
                let fits = taken < half;
                taken += usize::from(fits);
                fits
            }
            Some(lane) => {
                let count = events_of.get(&lane).copied().unwrap_or(1);
                *is_in_first.entry(lane).or_insert_with(|| {
                    let fits = taken == 0 || taken + count <= half;
                    taken += if fits { count } else { 0 };
                    fits
                })
            }
        };
        if in_first { first.push(event) } else { second.push(event) }
    }
    Cut { first, second, back }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_lanes_it_is_cut_in_the_middle() {
        let cut = cut(vec![1, 2, 3, 4, 5], |_| None::<u8>);
        assert_eq!(cut, Cut { first: vec![1, 2, 3], second: vec![4, 5], back: vec![] });
    }

    #[test]
    fn halves_share_no_ordered_lane() {
        let cut = cut(vec!["a1", "b1", "a2", "c1"], |event| event.chars().next());
        assert_eq!(cut.first, ["a1", "a2"]);
        assert_eq!(cut.second, ["b1", "c1"]);
        assert!(cut.back.is_empty());
    }

    #[test]
    fn of_one_lane_the_later_half_goes_back() {
        let cut = cut(vec![1, 2, 3], |_| Some('a'));
        assert_eq!(cut, Cut { first: vec![1, 2], second: vec![], back: vec![3] });
    }

    proptest! {
        #[test]
        fn halves_are_smaller_in_order_and_all_there(
            lanes in proptest::collection::vec(proptest::option::of(0u8..6), 2..40),
        ) {
            let events: Vec<usize> = (0..lanes.len()).collect();
            let lane = |event: &usize| lanes[*event];
            let Cut { first, second, back } = cut(events.clone(), lane);
            for part in [&first, &second, &back] {
                prop_assert!(part.len() < events.len());
                prop_assert!(part.is_sorted());
            }
            prop_assert!(!first.is_empty());
            let lanes_of = |part: &[usize]| part.iter().filter_map(lane).collect::<HashSet<u8>>();
            prop_assert!(lanes_of(&first).is_disjoint(&lanes_of(&second)));
            // What goes back is behind all of its lane that is tried.
            prop_assert!(back.is_empty() || second.is_empty());
            prop_assert!(back.iter().all(|event| first.last() < Some(event)));
            let mut all = [first, second, back].concat();
            all.sort_unstable();
            prop_assert_eq!(all, events);
        }
    }
}
