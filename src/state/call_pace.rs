//! How often a service may be called: at most so many calls in any second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The calls of the last second.
#[derive(Debug)]
pub struct CallPace {
    calls_a_second: usize,
    /// When they begin, the oldest first; some may be to come.
    begins: VecDeque<Instant>,
}

impl CallPace {
    /// At most this many calls in any second; at least one.
    pub fn new(calls_a_second: usize) -> Self {
        Self { calls_a_second: calls_a_second.max(1), begins: VecDeque::new() }
    }

    /// Takes the next place: when the call may begin.
    pub fn take_place(&mut self, now: Instant) -> Instant {
        let begin = if self.begins.len() < self.calls_a_second {
            now
        } else {
            self.begins.pop_front().map_or(now, |oldest| now.max(oldest + Duration::from_secs(1)))
        };
        self.begins.push_back(begin);
        begin
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_second_has_more_calls_and_none_waits_without_need(
            calls_a_second in 1_usize..60,
            pauses in proptest::collection::vec(0_u64..200, 1..300),
        ) {
            let mut pace = CallPace::new(calls_a_second);
            let start = Instant::now();
            let mut now = start;
            let mut begins: Vec<Instant> = Vec::new();
            for pause in pauses {
                now += Duration::from_millis(pause);
                let begin = pace.take_place(now);
                prop_assert!(begin >= now);
                if begin > now {
                    let full = begin - Duration::from_secs(1);
                    let within = begins.iter().filter(|other| **other >= full).count();
                    prop_assert!(within >= calls_a_second, "it waits, and {} are within", within);
                }
                begins.push(begin);
                // As the caller does: it waits, and only then is the next one let in.
                now = begin;
            }
            for (index, begin) in begins.iter().enumerate() {
                let second = *begin + Duration::from_secs(1);
                let within = begins.iter().skip(index).filter(|other| **other < second).count();
                prop_assert!(within <= calls_a_second);
            }
        }
    }
}
