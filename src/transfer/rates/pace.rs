//! One rate: whether so many may go now, or how long they must wait.
//!
//! The arithmetic is `governor`'s (GCRA). What it counts are ticks of time: so many units cost the
//! ticks in which the rate earns them. Its own cells, a unit each, last whole nanoseconds: 30 MB/s
//! would be 30.3. What is kept is one moment, when all that went is earned; so a rate can be
//! changed, and what went can be taken back, which a limiter with a state of its own cannot.
//!
//! Pure: time is an argument, counted from a moment of the caller's.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use crate::config::{DEFAULT_BYTE_BURST, DEFAULT_REQUEST_BURST, Rate, Unit};

/// What a cell of the limiter is.
const TICK: Duration = Duration::from_micros(10);

/// Most bytes that go at once: a turn of a stream.
const MAX_PIECE_BYTES: f64 = 65_536.0;

/// Smaller pieces for slower rates: what the rate earns in this time.
const PIECE_TIME: Duration = Duration::from_millis(20);

/// A rate, and what of it is used up.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    per_second: f64,
    /// Most units that go at once after a pause: a request or a piece, and the burst.
    most: f64,
    quota: Quota,
    /// When all that went is earned, and `most` can go again.
    earned_at: Duration,
    /// What went and was not counted yet: less than a tick.
    rest_ticks: f64,
}

/// Bytes that go at once.
pub(super) fn piece_bytes(rate: Rate) -> u64 {
    (rate.per_second * PIECE_TIME.as_secs_f64()).clamp(1.0, MAX_PIECE_BYTES) as u64
}

impl Pace {
    /// Of a rate that was checked; nothing of it is used up.
    pub(super) fn new(rate: Rate, unit: Unit, now: Duration) -> Self {
        let per_second = rate.per_second;
        let (at_once, default_burst) = match unit {
            Unit::Requests => (1.0, DEFAULT_REQUEST_BURST),
            Unit::Bytes => (piece_bytes(rate) as f64, DEFAULT_BYTE_BURST),
        };
        let burst = rate.burst.unwrap_or(default_burst.as_secs_f64() * per_second);
        let most = at_once + burst;
        // A tick more, for the rest of one. At most an hour and a second: a checked rate fits.
        let ticks = (most / per_second / TICK.as_secs_f64()).ceil() + 1.0;
        let burst_ticks = NonZeroU32::new(ticks as u32).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(TICK).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        Self {
            per_second,
            most,
            quota: quota.allow_burst(burst_ticks),
            earned_at: now,
            rest_ticks: 0.0,
        }
    }

    /// Lets so many units go, at most one request or one piece.
    ///
    /// # Errors
    /// How long they must wait at least; nothing is used up.
    pub(super) fn take(&mut self, units: u64, now: Duration) -> Result<(), Duration> {
        let cost = self.ticks(units) + self.rest_ticks;
        let ticks = cost.floor();
        if let Some(cells) = NonZeroU32::new(ticks as u32) {
            let earned_at = Cell::new(self.earned_at);
            let cells = cells.min(self.quota.burst_size());
            let limiter: Limiter<'_> =
                RateLimiter::new(self.quota, Kept { earned_at: &earned_at, now }, AtZero);
            // The other error is of more cells than the quota ever has.
            if let Ok(Err(not_until)) = limiter.check_n(cells) {
                return Err(not_until.wait_time_from(Duration::ZERO));
            }
            self.earned_at = earned_at.get();
        }
        self.rest_ticks = cost - ticks;
        Ok(())
    }

    /// How long a request or so many bytes must wait at least.
    pub(super) fn wait(&self, units: u64, now: Duration) -> Duration {
        self.clone().take(units, now).err().unwrap_or_default()
    }

    /// Counts what went without asking.
    pub(super) fn charge(&mut self, units: u64, now: Duration) {
        let cost = Duration::from_secs_f64(units as f64 / self.per_second);
        self.earned_at = self.earned_at.max(now).saturating_add(cost);
    }

    /// What the rate takes for so many.
    pub(super) fn time_of(&self, units: usize) -> Duration {
        Duration::from_secs_f64(units as f64 / self.per_second)
    }

    /// Goes on with another rate. What could go now still can, as far as the new rate ever lets as
    /// many go at once.
    pub(super) fn change(&mut self, rate: Rate, unit: Unit, now: Duration) {
        let used = self.earned_at.saturating_sub(now).as_secs_f64() * self.per_second;
        let mut new = Self::new(rate, unit, now);
        let left = self.most - used;
        let used = (new.most - left.min(new.most)).max(0.0);
        new.earned_at = now + Duration::from_secs_f64(used / new.per_second);
        *self = new;
    }

    /// Whether it is as good as new.
    pub(super) fn is_fresh(&self, now: Duration) -> bool {
        self.earned_at <= now
    }

    fn ticks(&self, units: u64) -> f64 {
        units as f64 / self.per_second / TICK.as_secs_f64()
    }
}

type Limiter<'a> = RateLimiter<NotKeyed, Kept<'a>, AtZero, NoOpMiddleware<Duration>>;

/// Times are told to the limiter as seen from now.
#[derive(Clone, Copy)]
struct AtZero;

impl Clock for AtZero {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// Where the limiter keeps its moment.
struct Kept<'a> {
    earned_at: &'a Cell<Duration>,
    now: Duration,
}

impl StateStore for Kept<'_> {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // A moment that is past counts like now, in the limiter as well.
        let ahead = self.earned_at.get().saturating_sub(self.now);
        let (outcome, ahead) = decide(Some(ahead.into()))?;
        self.earned_at.set(self.now.saturating_add(ahead.into()));
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes as soon as it may, until the time is over; the moments, and how much went at each.
    fn greedy(
        pace: &mut Pace,
        units: u64,
        from: Duration,
        until: Duration,
    ) -> Vec<(Duration, u64)> {
        let (mut now, mut went) = (from, Vec::new());
        while now < until {
            match pace.take(units, now) {
                Ok(()) => went.push((now, units)),
                Err(wait) => {
                    assert!(!wait.is_zero(), "a wait of nothing is no answer");
                    now += wait;
                }
            }
        }
        went
    }

    /// The most that went in any second.
    fn most_in_a_second(went: &[(Duration, u64)]) -> u64 {
        let (mut first, mut sum, mut most) = (0, 0, 0);
        for (at, units) in went {
            sum += units;
            while went[first].0 + Duration::from_secs(1) <= *at {
                sum -= went[first].1;
                first += 1;
            }
            most = most.max(sum);
        }
        most
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn fifty_requests_a_second_are_fifty_and_never_more_than_fifty_one() {
        let mut pace = Pace::new(Rate::new(50.0), Unit::Requests, Duration::ZERO);
        let went = greedy(&mut pace, 1, Duration::ZERO, LONG);
        assert!((1_000..=1_001).contains(&went.len()), "{}", went.len());
        assert_eq!(most_in_a_second(&went[1..]), 50);
        // After a pause as well.
        let went = greedy(&mut pace, 1, 2 * LONG, 3 * LONG);
        assert_eq!(most_in_a_second(&went), 51);
    }

    #[test]
    fn what_timers_are_late_is_made_good() {
        let mut pace = Pace::new(Rate::new(50.0), Unit::Requests, Duration::ZERO);
        let (mut now, mut went) = (Duration::ZERO, 0);
        while now < LONG {
            match pace.take(1, now) {
                Ok(()) => went += 1,
                Err(wait) => now += wait + Duration::from_millis(5),
            }
        }
        assert!((998..=1_001).contains(&went), "{went}");
    }

    #[test]
    fn rates_that_no_whole_nanosecond_divides_hold() {
        for per_second in [30e6, 70e6, 333e6, 7e9, 1e12] {
            let mut pace = Pace::new(Rate::new(per_second), Unit::Bytes, Duration::ZERO);
            let until = Duration::from_secs_f64((2e6 * 65_536.0 / per_second).min(1.0));
            let went = greedy(&mut pace, 65_536, Duration::ZERO, until).len() as f64 * 65_536.0;
            let burst = 0.1 * per_second + 2.0 * 65_536.0;
            let most = per_second * until.as_secs_f64() + burst;
            assert!((most * 0.999 - burst..=most * 1.001).contains(&went), "{per_second}: {went}");
        }
    }

    fn any_rate() -> impl Strategy<Value = (Rate, Unit)> {
        let bursts = prop_oneof![Just(None), (0.0..=1.0).prop_map(Some)];
        let requests = (-3.5_f64..=6.0).prop_map(|exponent| (Unit::Requests, exponent));
        let bytes = (0.0..=12.0).prop_map(|exponent| (Unit::Bytes, exponent));
        (prop_oneof![requests, bytes], bursts).prop_map(|((unit, exponent), burst)| {
            let per_second = 10_f64.powf(exponent);
            (Rate { per_second, burst: burst.map(|share: f64| share * per_second) }, unit)
        })
    }

    fn at_once(rate: Rate, unit: Unit) -> u64 {
        if unit == Unit::Bytes { piece_bytes(rate) } else { 1 }
    }

    proptest! {
        /// Over any time, no more than the rate, the burst and one more; and who always wants gets
        /// the rate, however late its timers are within the burst.
        #[test]
        fn a_rate_is_kept_from_above_and_from_below(
            (rate, unit) in any_rate(),
            pauses in prop::collection::vec((0_u64..1_000, 0.0..3.0_f64), 1..60),
        ) {
            let units = at_once(rate, unit);
            let mut pace = Pace::new(rate, unit, Duration::ZERO);
            let most = pace.most;
            // A tick and what it is rounded up by.
            let slack = 3.0 * TICK.as_secs_f64() * rate.per_second + 1e-6 * most;
            let step = Duration::from_secs_f64(units as f64 / rate.per_second);
            let (mut now, mut total) = (Duration::ZERO, 0_u64);
            let mut went = vec![];
            for (takes, pause) in pauses {
                for _ in 0..takes % 40 {
                    if let Err(wait) = pace.take(units, now) {
                        now += wait;
                        prop_assert_eq!(pace.take(units, now), Ok(()), "after the wait it was told");
                    }
                    total += units;
                    went.push((now, total));
                }
                now += step.mul_f64(pause);
            }
            for (index, (from, before)) in went.iter().enumerate() {
                for (to, after) in &went[index..] {
                    let earned = (*to - *from).as_secs_f64() * rate.per_second;
                    let taken = (after - before + units) as f64;
                    prop_assert!(taken <= earned * (1.0 + 1e-9) + most + slack, "{taken} {earned} {most}");
                }
            }
        }

        /// Changes let nothing more through than the rates that applied, and cost nothing.
        #[test]
        fn changes_neither_give_nor_take(
            rates in prop::collection::vec(1.0..1_000.0_f64, 1..30),
            millis in prop::collection::vec(1_u64..3_000, 30),
        ) {
            let mut pace = Pace::new(Rate::new(rates[0]), Unit::Requests, Duration::ZERO);
            let (mut now, mut earned, mut taken, mut lost) = (Duration::ZERO, 0.0, 0.0, 0.0);
            for (per_second, millis) in rates.iter().zip(millis) {
                let before = pace.most;
                pace.change(Rate::new(*per_second), Unit::Requests, now);
                lost += (before - pace.most).max(0.0);
                let until = now + Duration::from_millis(millis);
                let went = greedy(&mut pace, 1, now, until);
                taken += went.len() as f64;
                earned += per_second * (until - now).as_secs_f64();
                now = until;
            }
            // The burst of the slower rate may have been all that was left, and nobody asked at the
            // very end.
            let most = 1_000.0 / 100.0 + 2.0;
            prop_assert!(taken <= earned + most, "{taken} of {earned}");
            prop_assert!(taken >= earned - lost - most, "{taken} of {earned}, lost {lost}");
        }
    }
}
