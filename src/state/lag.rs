//! How far a position is behind the end of its log.

use std::time::Duration;

use crate::event::SequenceNumber;
use crate::hub::LogProperties;
use crate::state::reset::before;

/// How much is not settled yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lag {
    /// Events that the log holds behind the position, at most: numbers may be left out.
    pub events: u64,
    /// How much later than the position's event the last one was enqueued, where that is known.
    pub time: Option<Duration>,
}

impl Lag {
    /// The lag of a partition that is settled to `settled`. A position beyond the log has none.
    pub fn of(settled: SequenceNumber, log: &LogProperties) -> Self {
        let from = settled.max(before(log.begin));
        let events = log.end().0.saturating_sub(from.0);
        let events = u64::try_from(events).unwrap_or(0);
        Self { events, time: (events == 0).then_some(Duration::ZERO) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_that_the_log_holds_count() {
        let log = |begin, end: Option<i64>| {
            LogProperties::new(SequenceNumber(begin), end.map(SequenceNumber), None)
        };
        let events = |settled, log: &LogProperties| Lag::of(SequenceNumber(settled), log).events;
        assert_eq!(events(41, &log(0, Some(99))), 58);
        assert_eq!(events(99, &log(0, Some(99))), 0);
        assert_eq!(events(-1, &log(0, Some(99))), 100);
        assert_eq!(events(5, &log(90, Some(99))), 10, "what retention took is not waited for");
        assert_eq!(events(200, &log(0, Some(99))), 0);
        assert_eq!((events(-1, &log(0, None)), events(99, &log(100, Some(99)))), (0, 0));
    }
}
