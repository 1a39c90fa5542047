//! How many events a link may bring ahead of its consumer: as many as its share of the memory budget
//! holds, by the size of what it brought.
//!
//! Credit is given in events, and is fixed when a link is opened. How large events are is known when
//! they are here. So a link begins with little credit, and is opened once more with what fits; where
//! events grow later, it is opened again with less.

use std::time::{Duration, Instant};

/// Least credit of a link, in events: one on its way while another is taken.
pub const MIN_CREDIT: u32 = 2;

/// Most credit of a link that has brought nothing yet.
pub const MAX_FIRST_CREDIT: u32 = 8;

/// The largest event of Event Hubs, in bytes, but for dedicated clusters: what the first credit is
/// reckoned with.
pub const LARGEST_EVENT_BYTES: usize = 1024 * 1024;

/// What a link brings more of before its credit grows once more. Sizes that change for a while are
/// not worth a link each time.
pub const GROW_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// How long a link is left as it is after one with other credit could not be opened.
pub const REST_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// How much of the past the mean size remembers, in events.
const REMEMBERED_EVENTS: u64 = 64;

/// The credit of the links of one partition.
#[derive(Clone, Debug)]
pub struct Prefetch {
    most: u32,
    /// Bytes that the link may hold ahead.
    share: usize,
    /// Of the link that is open, or was last.
    credit: Option<u32>,
    /// Events that this link brought, up to its credit.
    brought: u32,
    events: u64,
    bytes: u64,
    grown_at: Option<Instant>,
    /// No other link is wanted before this.
    rests_until: Option<Instant>,
}

impl Prefetch {
    /// Never more than `most` events ahead, and in all no more than `share` bytes.
    pub fn new(most: u32, share: usize) -> Self {
        Self {
            most,
            share,
            credit: None,
            brought: 0,
            events: 0,
            bytes: 0,
            grown_at: None,
            rests_until: None,
        }
    }

    /// The share of the budget is another one.
    pub fn set_share(&mut self, share: usize) {
        self.share = share;
    }

    /// The credit for a link that is opened now.
    pub fn next_credit(&self) -> u32 {
        match self.mean_bytes() {
            Some(bytes) => self.fitting(bytes),
            None => {
                let largest = u32::try_from(self.share / LARGEST_EVENT_BYTES).unwrap_or(u32::MAX);
                // Where all that it may bring fits, however large, there is nothing to find out.
                if largest >= self.most {
                    return self.most;
                }
                largest.clamp(MIN_CREDIT, MAX_FIRST_CREDIT).min(self.most)
            }
        }
    }

    /// A link was opened with this credit.
    pub fn on_link_opened(&mut self, credit: u32) {
        self.credit = Some(credit);
        self.brought = 0;
    }

    /// The link that was wanted could not be opened: none is wanted for [`REST_AFTER_FAILURE`].
    pub fn on_failed(&mut self, now: Instant) {
        self.rests_until = Some(now + REST_AFTER_FAILURE);
    }

    /// Events came, of so many bytes together. Returns the credit to open the link with once more,
    /// where that is worth a link.
    pub fn on_received(&mut self, events: usize, bytes: usize, now: Instant) -> Option<u32> {
        let credit = self.credit?;
        self.events += events as u64;
        self.bytes += bytes as u64;
        if self.events > REMEMBERED_EVENTS {
            self.bytes = self.bytes * REMEMBERED_EVENTS / self.events;
            self.events = REMEMBERED_EVENTS;
        }
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.brought = self.brought.saturating_add(events).min(credit);
        let fitting = self.fitting(self.mean_bytes()?);
        if self.rests_until.is_some_and(|until| now < until) {
            return None;
        }
        let shrinks = fitting <= credit / 2;
        // A link that has not brought what it may has credit enough.
        let grows = fitting / 2 >= credit
            && self.brought == credit
            && self.grown_at.is_none_or(|at| now.duration_since(at) >= GROW_AGAIN_AFTER);
        if grows {
            self.grown_at = Some(now);
        }
        (shrinks || grows).then_some(fitting)
    }

    /// Bytes that the link may hold ahead, by the size of what it brought.
    pub fn held_bytes(&self) -> usize {
        let events = u64::from(self.credit.unwrap_or(0));
        let bytes = self.mean_bytes().unwrap_or(0).saturating_mul(events);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// How many events of the size of what it brought are so many bytes; at least one.
    pub fn events_of(&self, bytes: usize) -> usize {
        let events = self.mean_bytes().map_or(usize::MAX, |mean| {
            usize::try_from(bytes as u64 / mean.max(1)).unwrap_or(usize::MAX)
        });
        events.max(1)
    }

    fn mean_bytes(&self) -> Option<u64> {
        self.bytes.checked_div(self.events)
    }

    fn fitting(&self, bytes: u64) -> u32 {
        let fitting = self.share as u64 / bytes.max(1);
        u32::try_from(fitting).unwrap_or(u32::MAX).max(MIN_CREDIT).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn an_intake_is_as_many_events_as_fit_by_their_size_and_at_least_one() {
        let mut prefetch = Prefetch::new(300, 8 * MIB);
        assert_eq!(prefetch.events_of(MIB), usize::MAX, "nothing is known of their size");
        prefetch.on_link_opened(8);
        prefetch.on_received(4, 4 * MIB, Instant::now());
        assert_eq!(prefetch.events_of(3 * MIB + 1), 3);
        assert_eq!(prefetch.events_of(0), 1);
    }

    #[test]
    fn small_events_get_all_of_the_credit_at_the_second_link() {
        let now = Instant::now();
        let mut prefetch = Prefetch::new(300, 8 * MIB);
        assert_eq!(prefetch.next_credit(), 8);
        prefetch.on_link_opened(8);
        assert_eq!(prefetch.on_received(4, 4 * 1_500, now), None, "half of its credit is there");
        assert_eq!(prefetch.on_received(4, 4 * 1_500, now), Some(300));
        prefetch.on_link_opened(300);
        for _ in 0..1_000 {
            assert_eq!(prefetch.on_received(256, 256 * 1_500, now), None);
        }
        assert_eq!(prefetch.next_credit(), 300, "a link that is lost is opened as it was");
    }

    #[test]
    fn large_events_get_what_their_share_holds() {
        let now = Instant::now();
        for (share, credit, first) in [(8 * MIB, 7, 8), (MIB, 2, 2), (16 * MIB, 15, 8)] {
            let mut prefetch = Prefetch::new(300, share);
            assert_eq!(prefetch.next_credit(), first);
            prefetch.on_link_opened(first);
            assert_eq!(prefetch.on_received(8, 8 * (MIB + 512), now), None, "nearly as much");
            assert_eq!(prefetch.next_credit(), credit);
            assert!(prefetch.held_bytes() <= share.max(2 * (MIB + 512)) + MIB);
        }
    }

    #[test]
    fn events_that_grow_shrink_the_credit_and_it_grows_back_later() {
        let now = Instant::now();
        let mut prefetch = Prefetch::new(300, 8 * MIB);
        prefetch.on_link_opened(8);
        assert_eq!(prefetch.on_received(8, 8 * 1_000, now), Some(300));
        prefetch.on_link_opened(300);
        let mut opened = Vec::new();
        for _ in 0..100 {
            if let Some(credit) = prefetch.on_received(1, MIB, now) {
                prefetch.on_link_opened(credit);
                opened.push(credit);
            }
        }
        let last = opened.last().copied().unwrap_or_default();
        assert!(last <= 16 && opened.len() <= 6, "{opened:?}");
        let later = now + GROW_AGAIN_AFTER;
        let mut grown = None;
        for _ in 0..100 {
            assert_eq!(prefetch.on_received(8, 8 * 1_000, now), None, "too soon");
        }
        for _ in 0..100 {
            grown = grown.or_else(|| prefetch.on_received(8, 8 * 1_000, later));
        }
        assert_eq!(grown, Some(300));
    }

    #[test]
    fn a_service_that_opens_no_other_link_is_not_asked_at_every_event() {
        let now = Instant::now();
        let mut prefetch = Prefetch::new(300, 8 * MIB);
        prefetch.on_link_opened(300);
        assert_eq!(prefetch.on_received(8, 8 * MIB, now), Some(8));
        prefetch.on_failed(now);
        assert_eq!(prefetch.on_received(8, 8 * MIB, now), None);
        let later = now + REST_AFTER_FAILURE;
        assert_eq!(prefetch.on_received(8, 8 * MIB, later), Some(8));
    }

    #[test]
    fn a_setting_below_the_first_credit_stands() {
        assert_eq!(Prefetch::new(1, 8 * MIB).next_credit(), 1);
        assert_eq!(Prefetch::new(5, 8 * MIB).next_credit(), 5);
        assert_eq!(Prefetch::new(300, 300 * MIB).next_credit(), 300, "it fits in any case");
        let mut one = Prefetch::new(1, 8 * MIB);
        one.on_link_opened(1);
        assert_eq!(one.on_received(1, MIB, Instant::now()), None);
    }

    proptest! {
        #[test]
        fn what_is_held_is_within_the_share_or_the_least_credit(
            share in 0_usize..64 * MIB,
            most in 1_u32..2_000,
            sizes in proptest::collection::vec(1_usize..2 * MIB, 1..300),
        ) {
            let now = Instant::now();
            let mut prefetch = Prefetch::new(most, share);
            prefetch.on_link_opened(prefetch.next_credit());
            let mut links = 1;
            for size in &sizes {
                if let Some(credit) = prefetch.on_received(1, *size, now) {
                    prop_assert!((MIN_CREDIT.min(most)..=most).contains(&credit));
                    prefetch.on_link_opened(credit);
                    links += 1;
                }
            }
            let mean = prefetch.mean_bytes().unwrap_or(1) as usize;
            let least = mean * MIN_CREDIT.min(most) as usize;
            // Twice: a link is not opened again for less than half.
            prop_assert!(prefetch.held_bytes() <= (2 * share + 2 * mean).max(least).max(8 * mean));
            prop_assert!(links <= 40, "{} links for {} events", links, sizes.len());
        }
    }
}
