//! What happens often is told rarely: the first time at once, then how often it happened, once in a while.

use std::time::{Duration, Instant};

/// How often something happened that is told once in a while.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rarely {
    every: Duration,
    told: Option<Instant>,
    untold: u64,
}

impl Rarely {
    /// It is told at most once in each `every`.
    pub fn new(every: Duration) -> Self {
        Self { every, told: None, untold: 0 }
    }

    /// It happens. Where it is to be told, how often it did since the last time, this one included.
    pub fn on_one(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        let rests = |told: Instant| now.saturating_duration_since(told) < self.every;
        if self.told.is_some_and(rests) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_then_the_number_once_in_a_while() {
        let mut rarely = Rarely::new(Duration::from_secs(60));
        let start = Instant::now();
        let told: Vec<_> = (0..=180)
            .filter_map(|second| {
                let told = rarely.on_one(start + Duration::from_secs(second))?;
                Some((second, told))
            })
            .collect();
        assert_eq!(told, [(0, 1), (60, 60), (120, 60), (180, 60)]);
    }
}
