//! How much of a log waits to be handled, and for how long: the one definition, which gauges,
//! snapshots and `longshore checkpoints list` share.
//!
//! ```text
//!  removed by retention │ settled        ▲ unsettled, settled above it │ not received  │ end
//!                       │           watermark        "from" is here ───┘
//! ```
//!
//! What waits is every event that is not settled and still can be handled: what was received and is
//! not settled, and the numbers of the log above "from" that are in no settled run. Events settled
//! above the watermark do not wait, nor does what retention removed. Where events were received,
//! gaps between their numbers are known and do not count; above "from" every number counts, for
//! nobody can know better.
//!
//! The lag in time is the age of the oldest event that waits, and zero where none does. It is known
//! exactly where that event was received, or is the last one of the log. Otherwise it has bounds: the
//! event is not younger than the last one of the log, and not older than what came before it.
//!
//! Ages are between the service's clock, which stamps events, and [`service_time`]: the clock of whoever
//! asks, unless the lease store's shows that it is wrong. "Now" is never before the newest event of the
//! log, so a clock that is behind makes no age negative, and none too small by more than the time since
//! that event. A clock that is ahead, and has no lease store to compare with, makes every age too great
//! by as much.

use std::time::{Duration, SystemTime};

use crate::checkpoint::SettledRun;
use crate::hub::{LinkStart, LogProperties};
use crate::state::reset::before;

/// Clocks that seem less apart than this are taken for equal.
pub const CLOCKS_AGREE: Duration = Duration::from_secs(5);

/// The time by which ages are told: ours, or that of the lease store, whose clock is so many
/// milliseconds ahead of ours, where the two are so far apart that ours is wrong. The store tells
/// whole seconds, and its answer was under way for a while: too coarse to mend a clock that is right.
pub fn service_time(ours: SystemTime, store_ahead_millis: i64) -> SystemTime {
    let apart = Duration::from_millis(store_ahead_millis.unsigned_abs());
    let mended = if apart < CLOCKS_AGREE {
        None
    } else if store_ahead_millis > 0 {
        ours.checked_add(apart)
    } else {
        ours.checked_sub(apart)
    };
    mended.unwrap_or(ours)
}

/// How far the handling of a log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing<'a> {
    /// Where what was not received begins: everything before it is settled, or unsettled and here.
    pub from: LinkStart,
    /// Events before that are not settled.
    pub unsettled_events: u64,
    /// When the oldest of them was enqueued, where that is known.
    pub oldest_unsettled: Option<SystemTime>,
    /// Settled, and perhaps not received: in ascending order.
    pub settled_ahead: &'a [SettledRun],
    /// No event from there on was enqueued before this.
    pub not_before: Option<SystemTime>,
}

impl<'a> Standing<'a> {
    /// Of a log of which everything before `from` is settled, and these runs above it.
    pub fn settled(from: LinkStart, settled_ahead: &'a [SettledRun]) -> Self {
        Self { from, unsettled_events: 0, oldest_unsettled: None, settled_ahead, not_before: None }
    }

    /// Events that wait; `None` where only a link can tell where to begin.
    pub fn waiting_events(&self, log: &LogProperties) -> Option<u64> {
        Some(self.unsettled_events.saturating_add(self.ahead(log)?.events))
    }

    /// For how long the oldest event that is here waits, where one is: whatever the log holds beyond
    /// it came later.
    pub fn oldest_here(&self, now: SystemTime) -> Option<Duration> {
        let oldest = self.oldest_unsettled.filter(|_| self.unsettled_events > 0)?;
        Some(now.duration_since(oldest).unwrap_or_default())
    }

    /// What waits beyond what was received.
    fn ahead(&self, log: &LogProperties) -> Option<Ahead> {
        let end = log.end();
        let from = match self.from {
            LinkStart::FirstEvent => before(log.begin),
            LinkStart::After(number) => number.max(before(log.begin)),
            LinkStart::EnqueuedAt(time) => {
                let is_behind = log.last_enqueued_time.is_some_and(|last| last < time);
                if !is_behind && !log.is_empty() {
                    return None;
                }
                end
            }
        };
        let mut next = from.0.saturating_add(1);
        let mut first = next;
        let mut settled: u64 = 0;
        for run in self.settled_ahead {
            let (begin, last) = (run.first.0.max(next), run.last.0.min(end.0));
            if begin > last {
                continue;
            }
            settled = settled.saturating_add(begin.abs_diff(last)).saturating_add(1);
            next = last.saturating_add(1);
            if begin == first {
                first = next;
            }
        }
        let numbers = u64::try_from(end.0.saturating_sub(from.0)).unwrap_or(0);
        Some(Ahead { events: numbers.saturating_sub(settled), is_only_last: first == end.0 })
    }
}

/// What waits beyond what was received.
struct Ahead {
    events: u64,
    /// Whether the lowest number that waits is the last of the log.
    is_only_last: bool,
}

/// How much waits, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lag {
    /// Events that wait: at most, where numbers of the log that were not received have gaps.
    pub events: u64,
    /// The oldest of them waits for this long at least.
    pub at_least: Duration,
    /// And for this long at most, where that is known.
    pub at_most: Option<Duration>,
}

impl Lag {
    /// The lag of a log that is handled so far; `None` where only a link can tell where to begin.
    pub fn of(standing: &Standing<'_>, log: &LogProperties, now: SystemTime) -> Option<Self> {
        let Ahead { events: ahead, is_only_last } = standing.ahead(log)?;
        let events = standing.unsettled_events.saturating_add(ahead);
        let now = now.max(log.last_enqueued_time.unwrap_or(now));
        let age = |then: SystemTime| now.duration_since(then).unwrap_or_default();
        let (at_least, at_most) = if events == 0 {
            (Duration::ZERO, Some(Duration::ZERO))
        } else if standing.unsettled_events > 0 {
            let oldest = standing.oldest_here(now);
            (oldest.unwrap_or_default(), oldest)
        } else {
            let last = log.last_enqueued_time.map(age);
            let at_least = last.unwrap_or_default();
            let at_most = if is_only_last { last } else { standing.not_before.map(age) };
            // A clock of the service that was put back: the later statement counts.
            (at_least, at_most.map(|most| most.max(at_least)))
        };
        Some(Self { events, at_least, at_most })
    }

    /// For how long the oldest event waits, where that is known exactly.
    pub fn time(&self) -> Option<Duration> {
        self.at_most.filter(|most| *most == self.at_least)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::event::SequenceNumber;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn log(begin: i64, end: Option<i64>) -> LogProperties {
        LogProperties::new(SequenceNumber(begin), end.map(SequenceNumber), end.map(|_| at(100)))
    }

    fn run(first: i64, last: i64) -> SettledRun {
        SettledRun { first: SequenceNumber(first), last: SequenceNumber(last) }
    }

    fn after(number: i64) -> LinkStart {
        LinkStart::After(SequenceNumber(number))
    }

    fn seconds(of: Option<Duration>) -> Option<u64> {
        of.map(|time| time.as_secs())
    }

    #[test]
    fn only_events_that_the_log_holds_wait() {
        let waiting = |from, log: &LogProperties| Standing::settled(from, &[]).waiting_events(log);
        assert_eq!(waiting(after(41), &log(0, Some(99))), Some(58));
        assert_eq!(waiting(after(99), &log(0, Some(99))), Some(0));
        assert_eq!(waiting(after(-1), &log(0, Some(99))), Some(100));
        assert_eq!(waiting(LinkStart::FirstEvent, &log(7, Some(99))), Some(93));
        assert_eq!(waiting(after(5), &log(90, Some(99))), Some(10), "retention took the rest");
        assert_eq!(waiting(after(200), &log(0, Some(99))), Some(0));
        assert_eq!(waiting(after(-1), &log(0, None)), Some(0));
        assert_eq!(waiting(after(99), &log(100, Some(99))), Some(0));
    }

    #[test]
    fn where_only_a_link_tells_where_to_begin_nothing_is_said() {
        let since = |seconds| Standing::settled(LinkStart::EnqueuedAt(at(seconds)), &[]);
        assert_eq!(since(100).waiting_events(&log(0, Some(9))), None);
        assert_eq!(Lag::of(&since(100), &log(0, Some(9)), at(200)), None);
        assert_eq!(since(101).waiting_events(&log(0, Some(9))), Some(0), "all is older");
        assert_eq!(since(0).waiting_events(&log(0, None)), Some(0));
        assert_eq!(since(0).waiting_events(&log(10, Some(9))), Some(0));
    }

    proptest! {
        /// Against a set of numbers.
        #[test]
        fn what_is_settled_ahead_does_not_wait(
            begin in 0i64..20,
            length in 0i64..30,
            from in -1i64..60,
            settled in prop::collection::btree_set(0i64..60, 0..30),
            unsettled in 0u64..5,
        ) {
            let end = begin + length - 1;
            let log = log(begin, (end >= 0).then_some(end));
            let mut runs: Vec<SettledRun> = Vec::new();
            for number in &settled {
                match runs.last_mut() {
                    Some(open) if open.last.0 + 1 == *number => open.last.0 = *number,
                    _ => runs.push(run(*number, *number)),
                }
            }
            let waiting: BTreeSet<i64> = (begin..=end)
                .filter(|number| *number > from && !settled.contains(number))
                .collect();
            let standing = Standing {
                unsettled_events: unsettled,
                ..Standing::settled(after(from), &runs)
            };
            let expected = waiting.len() as u64 + unsettled;
            prop_assert_eq!(standing.waiting_events(&log), Some(expected));
            let lag = Lag::of(&standing, &log, at(130)).unwrap();
            prop_assert_eq!(lag.events, expected);
            if expected == 0 {
                prop_assert_eq!(lag.time(), Some(Duration::ZERO));
            } else if unsettled == 0 {
                prop_assert_eq!(seconds(Some(lag.at_least)), Some(30));
                let is_last = waiting.first() == Some(&end);
                prop_assert_eq!(seconds(lag.at_most), is_last.then_some(30));
            }
        }
    }

    #[test]
    fn the_time_is_the_age_of_the_oldest_event_that_waits() {
        let log = log(0, Some(99));
        let here = |oldest: Option<u64>| Standing {
            unsettled_events: 3,
            oldest_unsettled: oldest.map(at),
            ..Standing::settled(after(60), &[])
        };
        let lag = |standing: &Standing<'_>, now| Lag::of(standing, &log, at(now)).unwrap();
        assert_eq!(seconds(lag(&here(Some(40)), 130).time()), Some(90));
        assert_eq!(
            seconds(here(Some(40)).oldest_here(at(130))),
            Some(90),
            "without the log as well"
        );
        let unknown = lag(&here(None), 130);
        assert_eq!((unknown.time(), unknown.at_most), (None, None), "its time is not known");

        // Of what is not here, only the last event's time is known, and what came before it.
        let away = |from, not_before: Option<u64>| Standing {
            not_before: not_before.map(at),
            ..Standing::settled(after(from), &[])
        };
        assert_eq!(seconds(lag(&away(98, Some(1)), 130).time()), Some(30), "it is the last one");
        let between = lag(&away(41, Some(20)), 130);
        assert_eq!(
            (seconds(Some(between.at_least)), seconds(between.at_most)),
            (Some(30), Some(110))
        );
        assert_eq!(between.time(), None);
        assert_eq!(seconds(lag(&away(41, Some(100)), 130).time()), Some(30), "both are the same");
        assert_eq!(lag(&away(41, None), 130).at_most, None);
        assert_eq!(lag(&away(99, None), 130).time(), Some(Duration::ZERO), "caught up");
    }

    #[test]
    fn a_clock_that_is_wrong_is_mended_by_the_stores_and_one_that_is_right_is_kept() {
        for (ahead, time) in [(0, 1_000), (4_999, 1_000), (-4_999, 1_000)] {
            assert_eq!(service_time(at(1_000), ahead), at(time));
        }
        assert_eq!(service_time(at(1_000), 60_000), at(1_060));
        assert_eq!(service_time(at(1_000), -60_000), at(940));
        assert_eq!(
            service_time(at(1_000), i64::MAX),
            at(1_000) + Duration::from_millis(i64::MAX as u64)
        );
    }

    #[test]
    fn a_clock_that_is_behind_makes_no_age_negative() {
        let log = log(0, Some(99));
        let standing = Standing {
            unsettled_events: 1,
            oldest_unsettled: Some(at(90)),
            ..Standing::settled(after(99), &[])
        };
        let lag = Lag::of(&standing, &log, at(5)).unwrap();
        assert_eq!(seconds(lag.time()), Some(10), "as of the newest event of the log");
        let only = Lag::of(&Standing::settled(after(98), &[]), &log, at(5)).unwrap();
        assert_eq!(only.time(), Some(Duration::ZERO));
    }
}
