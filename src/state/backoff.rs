//! How long to wait before the next attempt: exponential, capped, with full jitter on the
//! upper half.
//!
//! Half of the delay is kept and half is random ("equal jitter", Marc Brooker, "Exponential
//! Backoff And Jitter", AWS Architecture Blog, 2015): clients that failed together do not come
//! back together, and none comes back at once.

use std::time::Duration;

/// A rule for delays between attempts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Backoff {
    /// The delay after the first failure. Each delay is shortened by up to a half of it, at random.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
    /// What the delay grows by with each failure.
    pub factor: f64,
}

impl Backoff {
    /// A rule that doubles.
    pub const fn doubling(initial: Duration, max: Duration) -> Self {
        Self { initial, max, factor: 2.0 }
    }

    /// The delay after `failures` failures in a row (the first is 1); `random` is uniform in
    /// `0.0..1.0`.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let exponent = f64::from(failures.saturating_sub(1).min(64));
        let ceiling = self.max.as_secs_f64();
        let full = (self.initial.as_secs_f64() * self.factor.powf(exponent)).min(ceiling);
        Duration::from_secs_f64(full / 2.0 + full / 2.0 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_cap_and_keep_half() {
        let backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(5));
        assert_eq!(backoff.delay(1, 1.0), Duration::from_millis(100));
        assert_eq!(backoff.delay(1, 0.0), Duration::from_millis(50));
        assert_eq!(backoff.delay(3, 1.0), Duration::from_millis(400));
        assert_eq!(backoff.delay(1_000, 1.0), Duration::from_secs(5));
    }
}
