//! Events that a link brings and nobody can read: how many there are in a row, which numbers they
//! have, and how much of the link's credit they use up.
//!
//! What cannot be decoded has no sequence number either. It stands after the last event that was
//! read, and before the next one or the end of the log. Where that gap is as large as the number of
//! failures, each has its number; else each is known to be somewhere in the gap.
//!
//! The numbers that events of such a range go by are not their own, and may be those of others of it.
//! A position between two of them says nothing of either: whoever settles one settles all of them, and
//! whoever finds one settled looks whether all of the range is.
//!
//! Where a link falls silent behind a run, the run may end with the log, or the link stalls. Two links
//! that say the same may both have stalled; so the last event of the log is looked at as well. What is
//! not noticed: two stalls behind the same event, with events behind it that can be read, in a log
//! whose last event cannot.
//!
//! The client renews the credit of a link when it accepts events, and it accepts none that it cannot
//! decode. A link that lost half of its credit so may fall silent with events waiting, so it is opened
//! again before, behind the last event read and with more credit: what was counted is counted again.

use crate::event::SequenceNumber;

/// Most credit that a link gets for the sake of a run, in events.
pub const MAX_RUN_CREDIT: u32 = 1_024;

/// Least credit that a link gets which is opened again within a run, in events.
const MIN_RUN_CREDIT: u32 = 16;

/// Where an event that cannot be read is in its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The number it goes by: its own where the place is exact, else one of the range that no other
    /// event of the run goes by.
    pub number: SequenceNumber,
    /// Its number is not below this one,
    pub first: SequenceNumber,
    /// and not above this one.
    pub last: SequenceNumber,
}

/// What to do about a run that goes on to the end of the log, as far as one can see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AtEnd {
    /// These are their places.
    Places(Vec<Place>),
    /// There may be more to come: look again.
    Wait,
    /// Open the link again: it may be the link that is at fault.
    OpenAgain,
    /// Two links say the same. Both may have stalled, so look at the last event of the log: where it
    /// cannot be read either, it is the last of the run, else the run does not end with the log.
    LookAtLast,
}

/// Deliveries in a row that could not be read, on one link.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnreadableRun {
    failures: u64,
    /// What the last look at the log saw with these failures: its end.
    seen: Option<(u64, SequenceNumber)>,
    /// The same, of an earlier link.
    seen_before: Option<(u64, SequenceNumber)>,
}

impl UnreadableRun {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.failures == 0
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.failures
    }

    /// Takes one in.
    pub fn on_unreadable(&mut self) {
        self.failures += 1;
    }

    /// The link is opened again behind the last event read: all of the run comes again.
    pub fn on_link_opened(&mut self) {
        self.failures = 0;
        self.seen_before = self.seen.take();
    }

    /// The run ends at this event. `after`: no event of it is at this number or below.
    pub fn end_before(&mut self, next: SequenceNumber, after: SequenceNumber) -> Vec<Place> {
        let run = std::mem::take(self);
        places(run.failures, after, SequenceNumber(next.0.saturating_sub(1)))
    }

    /// The link was silent for a while, and this is the end of the log. `after`: no event of the
    /// run is at this number or below.
    pub fn on_silence(&mut self, end: SequenceNumber, after: SequenceNumber) -> AtEnd {
        let gap = u64::try_from(end.0.saturating_sub(after.0)).unwrap_or(0);
        let now = Some((self.failures, end));
        if self.failures >= gap {
            return AtEnd::Places(self.end_at(end, after));
        }
        if self.seen_before == now {
            return AtEnd::LookAtLast;
        }
        if self.seen == now {
            return AtEnd::OpenAgain;
        }
        self.seen = now;
        AtEnd::Wait
    }

    /// The last event of the log is the last of the run.
    pub fn end_at(&mut self, end: SequenceNumber, after: SequenceNumber) -> Vec<Place> {
        places(std::mem::take(self).failures, after, end)
    }

    /// The run is longer than a link can be made for. Its first events are after `after`, and none
    /// is beyond `end`, the end of the log; what comes next is after the last of these numbers,
    /// for each event's own is at least as high.
    pub fn cut(&mut self, end: SequenceNumber, after: SequenceNumber) -> Vec<Place> {
        let failures = i64::try_from(std::mem::take(self).failures).unwrap_or(i64::MAX);
        let (first, last) = (SequenceNumber(after.0 + 1), end);
        let place = |number| Place { number: SequenceNumber(number), first, last };
        (first.0..=after.0.saturating_add(failures).min(end.0)).map(place).collect()
    }
}

/// The places of events which are the last before the end of a gap, or somewhere within it.
fn places(failures: u64, after: SequenceNumber, last: SequenceNumber) -> Vec<Place> {
    let gap = last.0.saturating_sub(after.0).max(0);
    // A link that brought some of them twice has counted too many.
    let failures = i64::try_from(failures).unwrap_or(i64::MAX).min(gap);
    let exact = failures == gap;
    let place = |number| {
        let number = SequenceNumber(number);
        match exact {
            true => Place { number, first: number, last: number },
            false => Place { number, first: SequenceNumber(after.0 + 1), last },
        }
    };
    (last.0 - failures + 1..=last.0).map(place).collect()
}

/// The credit of one link, as far as events that cannot be read use it up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkCredit {
    credit: u32,
    lost: u32,
    /// Events read since the last one that was lost.
    read: u32,
}

impl LinkCredit {
    /// A link that was opened with this credit.
    pub fn new(credit: u32) -> Self {
        Self { credit, lost: 0, read: 0 }
    }

    /// Events were read. When they are half of the credit, the client has renewed it.
    pub fn on_read(&mut self, events: usize) {
        if self.lost > 0 {
            self.read = self.read.saturating_add(u32::try_from(events).unwrap_or(u32::MAX));
            if self.read >= self.renewed_after() {
                (self.lost, self.read) = (0, 0);
            }
        }
    }

    /// An event could not be read.
    pub fn on_unreadable(&mut self) {
        self.lost = self.lost.saturating_add(1);
        self.read = 0;
    }

    /// Whether the link may fall silent before its credit is renewed.
    pub fn is_used_up(&self) -> bool {
        self.lost.saturating_add(self.renewed_after()) > self.credit
    }

    fn renewed_after(&self) -> u32 {
        (self.credit / 2).max(1)
    }
}

/// The credit for a link that is to bring a run of this many again, and more; `None` where no link
/// can be made for it.
pub fn credit_for_run(failures: u64, prefetch: u32) -> Option<u32> {
    let most = MAX_RUN_CREDIT.max(prefetch);
    let failures = u32::try_from(failures).unwrap_or(u32::MAX);
    if failures >= most / 2 {
        return None;
    }
    Some(failures.saturating_mul(4).max(MIN_RUN_CREDIT).max(prefetch).min(most))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(number: i64) -> SequenceNumber {
        SequenceNumber(number)
    }

    fn run(failures: u64) -> UnreadableRun {
        let mut run = UnreadableRun::default();
        (0..failures).for_each(|_| run.on_unreadable());
        run
    }

    fn exact(of: i64) -> Place {
        Place { number: number(of), first: number(of), last: number(of) }
    }

    #[test]
    fn a_gap_that_is_full_of_failures_names_each_and_a_wider_one_names_the_range() {
        assert_eq!(run(2).end_before(number(10), number(7)), [exact(8), exact(9)]);
        let within = |of| Place { number: number(of), first: number(8), last: number(11) };
        assert_eq!(run(2).end_before(number(12), number(7)), [within(10), within(11)]);
        // Counted twice, after a link that was lost and opened before them.
        assert_eq!(run(5).end_before(number(10), number(7)), [exact(8), exact(9)]);
    }

    #[test]
    fn the_end_of_the_log_is_believed_when_the_count_fits_or_the_last_event_is_of_the_run() {
        let mut fits = run(2);
        assert_eq!(fits.on_silence(number(9), number(7)), AtEnd::Places(vec![exact(8), exact(9)]));
        assert!(fits.is_empty());

        let mut wide = run(2);
        assert_eq!(wide.on_silence(number(11), number(7)), AtEnd::Wait);
        wide.on_unreadable();
        assert_eq!(wide.on_silence(number(11), number(7)), AtEnd::Wait, "one more came");
        assert_eq!(wide.on_silence(number(11), number(7)), AtEnd::OpenAgain);
        wide.on_link_opened();
        (0..3).for_each(|_| wide.on_unreadable());
        let within = |of| Place { number: number(of), first: number(8), last: number(11) };
        assert_eq!(wide.on_silence(number(11), number(7)), AtEnd::LookAtLast);
        assert_eq!(wide.len(), 3, "what two links counted stands while the last one is looked at");
        let places = wide.end_at(number(11), number(7));
        assert_eq!(places, [within(9), within(10), within(11)]);
    }

    #[test]
    fn a_run_without_an_end_is_cut_where_nothing_unseen_is_passed() {
        let within = |of| Place { number: number(of), first: number(8), last: number(99) };
        assert_eq!(run(3).cut(number(99), number(7)), [within(8), within(9), within(10)]);
    }

    #[test]
    fn a_link_is_used_up_when_half_of_its_credit_is_lost() {
        for (credit, bears) in [(1, 0), (2, 1), (3, 2), (8, 4), (300, 150)] {
            let mut link = LinkCredit::new(credit);
            for _ in 0..bears {
                link.on_unreadable();
                assert!(!link.is_used_up(), "{credit}");
            }
            link.on_unreadable();
            assert!(link.is_used_up(), "{credit}");
        }
        let mut renewed = LinkCredit::new(8);
        for _ in 0..100 {
            (0..4).for_each(|_| renewed.on_unreadable());
            renewed.on_read(4);
            assert!(!renewed.is_used_up());
        }
    }

    #[test]
    fn runs_get_links_that_bring_them_again_and_more_up_to_a_limit() {
        let mut failures = 1;
        let mut opened = 0;
        while let Some(credit) = credit_for_run(failures, 1) {
            let mut link = LinkCredit::new(credit);
            let mut brought = 0;
            while !link.is_used_up() {
                link.on_unreadable();
                brought += 1;
            }
            assert!(brought > failures, "a link of {credit} brings {brought}");
            failures = brought;
            opened += 1;
        }
        assert!(failures >= 512 && opened < 12, "{failures} on {opened} links");
        assert_eq!(credit_for_run(3, 300), Some(300));
    }

    proptest! {
        /// A log with gaps; a client that loses credit; links that stall; links opened again as the
        /// state says. Every event that can be read comes once, every other one has a place that
        /// holds its number. Stalls are for logs whose last event can be read: see the file's head.
        #[test]
        fn nothing_is_lost_or_passed(
            log in proptest::collection::vec((1_i64..4, any::<bool>()), 0..200),
            prefetch in 1_u32..12,
            stalls in proptest::collection::vec(0_usize..8, 0..12),
        ) {
            let mut stalls = stalls.into_iter();
            let mut next = 0;
            let log: Vec<(i64, bool)> = log.into_iter().map(|(step, readable)| {
                next += step;
                (next, readable)
            }).collect();
            let end = number(log.last().map_or(0, |(number, _)| *number));
            let last_is_readable = log.last().is_some_and(|(_, readable)| *readable);
            let mut stall = move || stalls.next().filter(|_| last_is_readable).unwrap_or(usize::MAX);
            // What the link brings before it stalls.
            let mut brings = stall();
            let (mut after, mut run) = (number(0), UnreadableRun::default());
            let mut credit = LinkCredit::new(prefetch);
            let mut received: Vec<Place> = Vec::new();
            let mut at = 0;
            let mut turns = 0;
            while after < end {
                turns += 1;
                prop_assert!(turns < 100_000, "it goes on for ever");
                let comes = log.get(at).filter(|_| brings > 0);
                brings = brings.saturating_sub(usize::from(brings < usize::MAX));
                match comes {
                    Some((of, true)) => {
                        received.extend(run.end_before(number(*of), after));
                        received.push(exact(*of));
                        after = number(*of);
                        credit.on_read(1);
                        at += 1;
                    }
                    Some((_, false)) => {
                        run.on_unreadable();
                        credit.on_unreadable();
                        at += 1;
                        if credit.is_used_up() {
                            let again = credit_for_run(run.len(), prefetch);
                            prop_assert!(again.is_some());
                            credit = LinkCredit::new(again.unwrap_or(1));
                            run.on_link_opened();
                            at = log.partition_point(|(of, _)| *of <= after.0);
                            brings = stall();
                        }
                    }
                    // The watch over silent links.
                    None if run.is_empty() => {
                        at = log.partition_point(|(of, _)| *of <= after.0);
                        credit = LinkCredit::new(prefetch);
                        run.on_link_opened();
                        brings = stall();
                    }
                    None => match run.on_silence(end, after) {
                        AtEnd::Places(places) => {
                            received.extend(places);
                            after = end;
                        }
                        AtEnd::Wait => {}
                        AtEnd::LookAtLast if !last_is_readable => {
                            received.extend(run.end_at(end, after));
                            after = end;
                        }
                        AtEnd::OpenAgain | AtEnd::LookAtLast => {
                            credit = LinkCredit::new(
                                credit_for_run(run.len(), prefetch).unwrap_or(MAX_RUN_CREDIT),
                            );
                            run.on_link_opened();
                            at = log.partition_point(|(of, _)| *of <= after.0);
                            brings = stall();
                        }
                    },
                }
            }
            prop_assert_eq!(received.len(), log.len());
            for (place, (of, readable)) in received.iter().zip(&log) {
                prop_assert!(place.first.0 <= *of && *of <= place.last.0);
                prop_assert!(!readable || place.number.0 == *of);
            }
            prop_assert!(received.windows(2).all(|pair| pair[0].number < pair[1].number));
        }
    }
}
