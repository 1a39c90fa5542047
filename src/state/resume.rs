//! Exactly where to open the next link of a partition, and what to drop from it.
//!
//! A lost link resumes right after the last event *received*, never at the place the first one
//! was opened with. Before it is opened again the hub is compared with our position: the same
//! creation of the hub, and a log that still reaches from our position to its end. Dropping
//! what was already received is right only within one incarnation.

use crate::event::{Incarnation, SequenceNumber, StartPosition};
use crate::hub::{HubProperties, LinkStart, LogProperties};

/// How a partition's log compares with the position we want to go on from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Continuity {
    /// The next event is there, or will be.
    Unbroken,
    /// Retention removed events that were never received: at most this many numbers are gone.
    Trimmed {
        /// Sequence numbers between our position and the log's beginning.
        lost_at_most: u64,
    },
    /// The hub was deleted and created again.
    Recreated {
        /// The incarnation we were reading.
        was: Incarnation,
        /// The one that is there now.
        is: Incarnation,
    },
    /// Our position is beyond the end of the log.
    AheadOfLog {
        /// Our position.
        position: SequenceNumber,
        /// The end of the log; `None` where it is empty.
        end: Option<SequenceNumber>,
    },
    /// The log seems to hold our position, and the service refused it twice in a row.
    Refused {
        /// Where a link was to begin.
        start: LinkStart,
    },
}

/// The reading position of one partition across links.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResumePosition {
    incarnation: Incarnation,
    start: LinkStart,
}

impl ResumePosition {
    /// Begins at `start` in this incarnation of the hub.
    pub fn new(incarnation: Incarnation, start: LinkStart) -> Self {
        Self { incarnation, start }
    }

    /// Takes a received event in. `false`: it is a repeat, drop it.
    pub fn on_received(&mut self, number: SequenceNumber) -> bool {
        match self.start {
            LinkStart::After(last) if number <= last => false,
            _ => {
                self.start = LinkStart::After(number);
                true
            }
        }
    }

    /// Where to open the next link.
    pub fn next_start(&self) -> LinkStart {
        self.start
    }

    /// The number of the next event of this log, or one below it.
    pub fn first_number(&self, log: &LogProperties) -> SequenceNumber {
        match self.start {
            LinkStart::After(last) => SequenceNumber(last.0.saturating_add(1)).max(log.begin),
            _ => log.begin,
        }
    }

    /// Another place in the same incarnation.
    pub fn at(&self, start: LinkStart) -> Self {
        Self { incarnation: self.incarnation, start }
    }

    /// Whether the hub is the one that was read so far.
    ///
    /// # Errors
    /// It is not.
    pub fn is_of(&self, hub: &HubProperties) -> Result<(), Continuity> {
        if hub.incarnation == self.incarnation {
            return Ok(());
        }
        Err(Continuity::Recreated { was: self.incarnation, is: hub.incarnation })
    }

    /// Compares the position with what the hub says before a link is opened again.
    pub fn continuity(&self, hub: &HubProperties, log: &LogProperties) -> Continuity {
        if let Err(recreated) = self.is_of(hub) {
            return recreated;
        }
        let LinkStart::After(position) = self.start else {
            return Continuity::Unbroken;
        };
        // "After -1" is the beginning of an empty log, not a position beyond its end.
        if position.0 >= 0 && Some(position) > log.last_enqueued {
            return Continuity::AheadOfLog { position, end: log.last_enqueued };
        }
        match u64::try_from(log.begin.0.saturating_sub(position.0.saturating_add(1))) {
            Ok(lost_at_most) if lost_at_most > 0 => Continuity::Trimmed { lost_at_most },
            _ => Continuity::Unbroken,
        }
    }

    /// Moves on to the log's beginning, after a trimmed log was reported.
    pub fn on_trimmed(&mut self, log: &LogProperties) {
        self.start = LinkStart::After(SequenceNumber(log.begin.0 - 1));
    }
}

/// Turns the start of a partition without a checkpoint into a place a link can be opened at
/// again and again: "latest" becomes the number of the newest event. A place behind the log's end,
/// which is no place yet, is its end: what comes next is handled, and nothing that is there.
pub fn first_start(start: StartPosition, log: &LogProperties) -> LinkStart {
    let end = log.last_enqueued.map_or(LinkStart::FirstEvent, LinkStart::After);
    if start_is_beyond(start, log) {
        return end;
    }
    match start {
        StartPosition::Earliest => LinkStart::FirstEvent,
        StartPosition::Latest => end,
        StartPosition::EnqueuedAt(time) => LinkStart::EnqueuedAt(time),
        StartPosition::SequenceNumber(number) if number.0 <= 0 => LinkStart::FirstEvent,
        StartPosition::SequenceNumber(number) => LinkStart::After(SequenceNumber(number.0 - 1)),
    }
}

/// Whether the log does not reach to a start: a number that is more than one above the newest
/// event's, a time that is later.
pub fn start_is_beyond(start: StartPosition, log: &LogProperties) -> bool {
    match start {
        StartPosition::Earliest | StartPosition::Latest => false,
        StartPosition::SequenceNumber(number) => {
            number.0 > 0 && number.0.saturating_sub(1) > log.end().0
        }
        StartPosition::EnqueuedAt(time) => {
            log.is_empty() || log.last_enqueued_time.is_none_or(|last| last < time)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const HUB: Incarnation = Incarnation(7);

    fn hub(incarnation: i64) -> HubProperties {
        HubProperties::new(Incarnation(incarnation), Vec::new())
    }

    fn log(begin: i64, end: Option<i64>) -> LogProperties {
        LogProperties::new(SequenceNumber(begin), end.map(SequenceNumber), None)
    }

    #[test]
    fn the_next_link_opens_after_the_last_received_and_repeats_are_dropped() {
        let mut position = ResumePosition::new(HUB, LinkStart::FirstEvent);
        for number in [1, 2, 5] {
            assert!(position.on_received(SequenceNumber(number)));
        }
        assert_eq!(position.next_start(), LinkStart::After(SequenceNumber(5)));
        assert!(!position.on_received(SequenceNumber(2)));
        assert!(position.on_received(SequenceNumber(6)));
    }

    #[test]
    fn latest_becomes_a_number_that_a_second_link_can_use() {
        assert_eq!(
            first_start(StartPosition::Latest, &log(0, Some(9))),
            LinkStart::After(SequenceNumber(9))
        );
        assert_eq!(first_start(StartPosition::Latest, &log(0, None)), LinkStart::FirstEvent);
    }

    #[test]
    fn no_start_replays_what_its_words_leave_out() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let number = |number| StartPosition::SequenceNumber(SequenceNumber(number));
        let time = |seconds| StartPosition::EnqueuedAt(at(seconds));
        let after = |number| LinkStart::After(SequenceNumber(number));
        let timed = |begin, end: Option<i64>| {
            let time = end.map(|_| at(1_000));
            LogProperties::new(SequenceNumber(begin), end.map(SequenceNumber), time)
        };
        let (full, trimmed) = (timed(0, Some(9)), timed(5, Some(9)));
        let (never, emptied) = (timed(0, None), timed(10, Some(9)));
        use LinkStart::FirstEvent;
        for (start, log, begins) in [
            (StartPosition::Earliest, &trimmed, FirstEvent),
            (StartPosition::Earliest, &emptied, FirstEvent),
            (StartPosition::Latest, &emptied, after(9)),
            (number(0), &full, FirstEvent),
            (number(4), &full, after(3)),
            (number(3), &trimmed, after(2)),
            (number(10), &full, after(9)),
            // Not there yet: a link there is refused, and the policy of lost positions would
            // begin with the oldest event.
            (number(11), &full, after(9)),
            (number(100), &emptied, after(9)),
            (number(100), &never, FirstEvent),
            (time(1_000), &full, LinkStart::EnqueuedAt(at(1_000))),
            (time(0), &trimmed, LinkStart::EnqueuedAt(at(0))),
            (time(1_001), &full, after(9)),
            (time(0), &emptied, after(9)),
            (time(0), &never, FirstEvent),
        ] {
            assert_eq!(first_start(start, log), begins, "{start:?} {log:?}");
        }
        for (start, beyond) in
            [(number(10), false), (number(11), true), (time(1_000), false), (time(1_001), true)]
        {
            assert_eq!(start_is_beyond(start, &full), beyond, "{start:?}");
        }
    }

    #[test]
    fn a_hub_that_changed_under_us_is_noticed() {
        let position = ResumePosition::new(HUB, LinkStart::After(SequenceNumber(10)));
        assert_eq!(position.continuity(&hub(7), &log(0, Some(10))), Continuity::Unbroken);
        assert_eq!(position.continuity(&hub(7), &log(11, Some(30))), Continuity::Unbroken);
        assert_eq!(
            position.continuity(&hub(7), &log(15, Some(30))),
            Continuity::Trimmed { lost_at_most: 4 }
        );
        assert_eq!(
            position.continuity(&hub(7), &log(0, Some(3))),
            Continuity::AheadOfLog { position: SequenceNumber(10), end: Some(SequenceNumber(3)) }
        );
        assert_eq!(
            position.continuity(&hub(8), &log(0, Some(30))),
            Continuity::Recreated { was: HUB, is: Incarnation(8) }
        );
    }
}
