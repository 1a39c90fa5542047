//! Which offset leads to the event behind a sequence number.
//!
//! Processors of other SDKs begin behind the *offset* of a checkpoint, and an offset is an opaque
//! text that only its event, or the log about its last one, can tell. So where a checkpoint is put
//! behind a number, the offset is that of the last event at or below it: behind that event comes
//! the first one above the number, gap or none.
//!
//! - At or beyond the log's end it is the offset of the last event enqueued, which the log tells
//!   even when retention has removed that event.
//! - Where the log holds nothing at or below the number it is [`BEFORE_ALL`], the service's own name
//!   for the place before the oldest event.
//! - Else it is asked for, by links that begin at a number. Nearly always there is an event of the
//!   very number, and one question does. A log cannot be read backwards: in a gap the questions
//!   begin earlier and earlier, in strides that double, until an event is found, and then halve
//!   what is left.

use crate::event::{Offset, Position, SequenceNumber};
use crate::hub::{LinkStart, LogProperties};

/// The offset of the place before the oldest event.
pub const BEFORE_ALL: &str = "-1";

/// What a search comes to next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask for the first event from here on. The log has one.
    Ask(LinkStart),
    /// It is found.
    Found(Position),
}

/// The search for the offset of one position. See the [module](self).
#[derive(Clone, Debug)]
pub struct OffsetSearch {
    /// The position that is wanted.
    wanted: SequenceNumber,
    /// What to look at or below: `wanted`, or the last event of the log.
    target: i64,
    begin: i64,
    /// The highest event known at or below the target.
    found: Option<Position>,
    /// No event is in this number or above it, up to the target.
    bare_from: i64,
    stride: i64,
}

impl OffsetSearch {
    /// Begins the search for the position of which everything up to `wanted` is settled. `Err` is
    /// the position, where the log says it by itself.
    pub fn begin(wanted: SequenceNumber, log: &LogProperties) -> Result<Self, Position> {
        let end = log.end();
        let told = log.last_enqueued_offset.as_ref().filter(|offset| !offset.as_str().is_empty());
        if wanted >= end
            && log.last_enqueued.is_some()
            && let Some(offset) = told
        {
            let enqueued_time = log.last_enqueued_time.filter(|_| wanted == end);
            return Err(Position { offset: Some(offset.clone()), enqueued_time, ..at(wanted) });
        }
        if wanted < log.begin || log.is_empty() {
            return Err(Position { offset: Some(Offset::new(BEFORE_ALL)), ..at(wanted) });
        }
        let target = wanted.min(end).0;
        let bare_from = target.saturating_add(1);
        Ok(Self { wanted, target, begin: log.begin.0, found: None, bare_from, stride: 1 })
    }

    /// What comes next.
    pub fn next_step(&self) -> Step {
        match self.next_question() {
            Some(first) if first <= self.begin => Step::Ask(LinkStart::FirstEvent),
            Some(first) => Step::Ask(LinkStart::After(SequenceNumber(first - 1))),
            None => Step::Found(self.position()),
        }
    }

    /// The answer to the last question: the first event from there on, or `None` where it cannot be
    /// read. Then an earlier one's offset does: who begins behind it gets what cannot be read here
    /// once more, and perhaps can read it.
    pub fn on_answer(&mut self, first: Option<Position>) {
        let Some(asked) = self.next_question() else { return };
        match first.filter(|first| first.sequence_number.0 <= self.target) {
            Some(first) => self.found = Some(first),
            None => {
                self.bare_from = asked;
                self.stride = self.stride.saturating_mul(2);
            }
        }
    }

    /// From which number on to ask; `None` where everything is known.
    fn next_question(&self) -> Option<i64> {
        match &self.found {
            Some(found) => {
                let from = found.sequence_number.0 + 1;
                (from < self.bare_from).then(|| from + (self.bare_from - from) / 2)
            }
            None if self.bare_from <= self.begin => None,
            None => Some(self.bare_from.saturating_sub(self.stride).max(self.begin)),
        }
    }

    fn position(&self) -> Position {
        match &self.found {
            Some(found) if found.sequence_number == self.wanted => found.clone(),
            Some(found) => Position { offset: found.offset.clone(), ..at(self.wanted) },
            None => Position { offset: Some(Offset::new(BEFORE_ALL)), ..at(self.wanted) },
        }
    }
}

fn at(number: SequenceNumber) -> Position {
    Position::at(number.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;

    fn time(number: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + number.unsigned_abs())
    }

    /// The event of this number, in a geo-replicated namespace.
    fn event(number: i64) -> Position {
        let offset = Some(format!("7:{}:{number}", number * 311).into());
        Position { offset, enqueued_time: Some(time(number)), ..Position::at(number) }
    }

    fn log(events: &BTreeSet<i64>, begin: i64, tells: bool) -> LogProperties {
        let last = events.last().copied();
        LogProperties::new(SequenceNumber(begin), last.map(SequenceNumber), last.map(time))
            .with_last_enqueued_offset(last.filter(|_| tells).and_then(|last| event(last).offset))
    }

    /// Searches a log; returns the position and how many questions it took.
    fn search(events: &BTreeSet<i64>, log: &LogProperties, wanted: i64) -> (Position, usize) {
        search_past(&BTreeSet::new(), events, log, wanted)
    }

    /// The same, where some of the events cannot be read.
    fn search_past(
        unreadable: &BTreeSet<i64>,
        events: &BTreeSet<i64>,
        log: &LogProperties,
        wanted: i64,
    ) -> (Position, usize) {
        let mut search = match OffsetSearch::begin(SequenceNumber(wanted), log) {
            Ok(search) => search,
            Err(position) => return (position, 0),
        };
        for questions in 0.. {
            let from = match search.next_step() {
                Step::Found(position) => return (position, questions),
                Step::Ask(LinkStart::FirstEvent) => log.begin.0,
                Step::Ask(LinkStart::After(number)) => number.0 + 1,
                Step::Ask(LinkStart::EnqueuedAt(_)) => panic!("it asks by number"),
            };
            let first = events.range(from.max(log.begin.0)..).next();
            let first = *first.expect("it asks for what is there");
            search.on_answer((!unreadable.contains(&first)).then(|| event(first)));
        }
        unreachable!()
    }

    proptest! {
        #[test]
        fn whoever_begins_behind_the_offset_gets_the_first_event_above_the_number(
            events in proptest::collection::btree_set(0..200_i64, 0..40),
            trimmed in 0..220_i64,
            wanted in -1..220_i64,
            tells in any::<bool>(),
        ) {
            // Retention removes the oldest; the log remembers its last number.
            let last = events.last().copied();
            let begin = last.map_or(0, |last| trimmed.min(last + 1));
            let held: BTreeSet<i64> = events.range(begin..).copied().collect();
            let log = log(&events, begin, tells);
            let (position, questions) = search(&held, &log, wanted);
            prop_assert_eq!(position.sequence_number.0, wanted);
            prop_assert!(questions <= 20, "{} questions", questions);

            let offset = position.offset.expect("an offset");
            let behind = match offset.as_str() {
                BEFORE_ALL => i64::MIN,
                text => text.rsplit(':').next().and_then(|n| n.parse().ok()).expect("an event's"),
            };
            // What the log holds, and what is enqueued later.
            let end = log.end().0;
            let mut later: BTreeSet<i64> = held;
            later.extend([end + 1, end + 5, end + 300]);
            let next = later.iter().find(|number| **number > behind);
            let right = later.iter().find(|number| **number > wanted.min(end));
            prop_assert_eq!(next, right);
            let is_known = position.enqueued_time.is_some();
            prop_assert!(!is_known || position.enqueued_time == Some(time(wanted)));
        }
    }

    #[test]
    fn an_event_that_cannot_be_read_is_passed_downwards() {
        let events: BTreeSet<i64> = (0..100).collect();
        let log = log(&events, 0, true);
        let unreadable: BTreeSet<i64> = (40..60).collect();
        let (position, questions) = search_past(&unreadable, &events, &log, 55);
        assert_eq!((position.sequence_number.0, position.offset), (55, event(39).offset));
        assert!(questions < 20, "{questions}");
        let (position, _) = search_past(&events, &events, &log, 55);
        assert_eq!(position.offset, Some(BEFORE_ALL.into()), "nothing can be read");
    }

    #[test]
    fn one_question_does_where_there_is_no_gap_and_none_at_the_ends() {
        let events: BTreeSet<i64> = (0..100).collect();
        let log = log(&events, 10, true);
        let held: BTreeSet<i64> = (10..100).collect();
        for (wanted, offset, questions) in [
            (-1, "-1", 0),
            (9, "-1", 0),
            (10, "7:3110:10", 1),
            (98, "7:30478:98", 1),
            (99, "7:30789:99", 0),
            (500, "7:30789:99", 0),
        ] {
            let (position, asked) = search(&held, &log, wanted);
            assert_eq!(position.offset, Some(offset.into()), "{wanted}");
            assert_eq!(asked, questions, "{wanted}");
        }
    }

    #[test]
    fn in_a_gap_it_is_the_last_event_below() {
        let events: BTreeSet<i64> = (0..50).chain(100_000..100_010).collect();
        let log = log(&events, 0, true);
        let (position, questions) = search(&events, &log, 99_000);
        assert_eq!((position.sequence_number.0, position.offset), (99_000, event(49).offset));
        assert_eq!(position.enqueued_time, None, "there is no such event");
        assert!(questions < 40, "{questions}");
    }

    #[test]
    fn an_empty_log_is_begun_at_its_beginning() {
        let never = log(&BTreeSet::new(), 0, false);
        assert_eq!(search(&BTreeSet::new(), &never, -1).0.offset, Some(BEFORE_ALL.into()));
        // Retention took everything.
        let emptied = log(&(0..10).collect(), 10, true);
        assert_eq!(search(&BTreeSet::new(), &emptied, 9).0.offset, event(9).offset);
        let untold = log(&(0..10).collect(), 10, false);
        assert_eq!(search(&BTreeSet::new(), &untold, 9).0.offset, Some(BEFORE_ALL.into()));
    }
}
