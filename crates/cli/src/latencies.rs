//! How long it took, for any number of files in a fixed amount of memory.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Buckets for each doubling of the time: what is said is at most a twentieth too much.
const BUCKETS_PER_DOUBLING: f64 = 16.0;

/// From a millisecond to more than a month.
const BUCKETS: usize = 32 * BUCKETS_PER_DOUBLING as usize;

/// Counts times by their length. A millisecond is the least that is told apart.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0 }
    }
}

impl Latencies {
    pub(super) fn add(&mut self, time: Duration) {
        let millis = (time.as_secs_f64() * 1_000.0).max(1.0);
        let bucket = (millis.log2() * BUCKETS_PER_DOUBLING).ceil() as usize;
        if let Some(count) = self.buckets.get_mut(bucket.min(BUCKETS - 1)) {
            *count += 1;
            self.count += 1;
        }
    }

    /// What this share of the times, from 0 to 1, is not above; `None` without any.
    pub(super) fn within(&self, share: f64) -> Option<Duration> {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut counted = 0;
        let bucket = self.buckets.iter().position(|count| {
            counted += count;
            counted >= wanted
        })?;
        let millis = (bucket as f64 / BUCKETS_PER_DOUBLING).exp2();
        Some(Duration::from_secs_f64(millis / 1_000.0))
    }
}

/// How long it took for the half of all, and for all but a hundredth.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Share {
    pub(super) median_seconds: f64,
    pub(super) p99_seconds: f64,
}

impl Share {
    pub(super) fn of(latencies: &Latencies) -> Option<Self> {
        let seconds = |share| latencies.within(share).map(|time| time.as_secs_f64());
        Some(Self { median_seconds: seconds(0.5)?, p99_seconds: seconds(0.99)? })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "median {:.2} s, 99% within {:.2} s", self.median_seconds, self.p99_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_a_sorted_list_to_a_twentieth() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.within(0.5), None);
        // Millions of milliseconds, in no order.
        let mut times: Vec<u64> = (1..=1_000_u64).map(|number| number * 7_919 % 1_009).collect();
        for millis in &times {
            latencies.add(Duration::from_millis(millis * millis));
        }
        times.sort_unstable();
        for share in [0.001, 0.5, 0.9, 0.99, 1.0] {
            let exact = times[(1_000.0 * share) as usize - 1].pow(2).max(1) as f64 / 1_000.0;
            let said = latencies.within(share).expect("some").as_secs_f64();
            assert!(said >= exact * 0.999 && said <= exact * 1.05, "{share}: {said}, not {exact}");
        }
    }

    #[test]
    fn the_shortest_and_the_longest_have_a_place() {
        for (time, said) in [(Duration::ZERO, 0.001), (Duration::from_secs(u64::MAX), 4e6)] {
            let mut latencies = Latencies::default();
            latencies.add(time);
            let within = latencies.within(0.99).expect("one").as_secs_f64();
            assert!((said * 0.95..=said * 1.05).contains(&within), "{time:?}: {within}");
        }
    }
}
