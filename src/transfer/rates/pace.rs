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
