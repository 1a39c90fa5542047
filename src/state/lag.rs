//! How far a position is behind the end of its log.

use std::time::Duration;

use crate::event::Position;
use crate::hub::LogProperties;
use crate::state::reset::before;

/// How much is not settled yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lag {
    /// Events that the log holds behind the position, at most: numbers may be left out.
    pub events: u64,
    /// How much later than the position's event the last one was enqueued; `None` where the time
    /// of either is not known, as behind a position that a foreign writer left.
    pub time: Option<Duration>,
}

impl Lag {
    /// The lag of a partition that is settled to `settled`. A position beyond the log has none.
    pub fn of(settled: &Position, log: &LogProperties) -> Self {
        let from = settled.sequence_number.max(before(log.begin));
        let events = log.end().0.saturating_sub(from.0);
        let events = u64::try_from(events).unwrap_or(0);
        let time = match (settled.enqueued_time, log.last_enqueued_time) {
            _ if events == 0 => Some(Duration::ZERO),
            // Two events of one moment, or a clock of the service that was put back.
            (Some(settled), Some(last)) => Some(last.duration_since(settled).unwrap_or_default()),
            _ => None,
        };
        Self { events, time }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::event::SequenceNumber;

    #[test]
    fn only_events_that_the_log_holds_count() {
        let log = |begin, end: Option<i64>| {
            LogProperties::new(SequenceNumber(begin), end.map(SequenceNumber), None)
        };
        let events = |settled, log: &LogProperties| Lag::of(&Position::at(settled), log).events;
        assert_eq!(events(41, &log(0, Some(99))), 58);
        assert_eq!(events(99, &log(0, Some(99))), 0);
        assert_eq!(events(-1, &log(0, Some(99))), 100);
        assert_eq!(events(5, &log(90, Some(99))), 10, "what retention took is not waited for");
        assert_eq!(events(200, &log(0, Some(99))), 0);
        assert_eq!((events(-1, &log(0, None)), events(99, &log(100, Some(99)))), (0, 0));
    }

    #[test]
    fn the_time_is_that_between_the_settled_event_and_the_last_one() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let log = LogProperties::new(SequenceNumber(0), Some(SequenceNumber(99)), Some(at(100)));
        let settled = |number, seconds: Option<u64>| Position {
            enqueued_time: seconds.map(at),
            ..Position::at(number)
        };
        for (position, time) in [
            (settled(41, Some(88)), Some(12)),
            (settled(41, Some(100)), Some(0)),
            (settled(41, Some(101)), Some(0)),
            (settled(41, None), None),
            (settled(99, None), Some(0)),
        ] {
            let found = Lag::of(&position, &log).time;
            assert_eq!(found, time.map(Duration::from_secs), "{position:?}");
        }
    }
}
