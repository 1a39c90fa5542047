//! How fast a transfer worker may ask and read, as checked values. `transfer::rates` keeps to them.

use std::fmt;
use std::time::Duration;

use crate::error::InvalidConfig;

/// The least requests a second: one an hour.
pub const MIN_REQUESTS_PER_SECOND: f64 = 1.0 / 3_600.0;
/// The most requests a second: 1,000,000.
pub const MAX_REQUESTS_PER_SECOND: f64 = 1_000_000.0;
/// The least bytes a second: 1.
pub const MIN_BYTES_PER_SECOND: f64 = 1.0;
/// The most bytes a second: a terabyte.
pub const MAX_BYTES_PER_SECOND: f64 = 1e12;

/// Default burst of requests: what a rate earns in 10 ms, enough to make up for late timers. So 50 a second are
/// never more than 51 in any second.
pub const DEFAULT_REQUEST_BURST: Duration = Duration::from_millis(10);
/// Default burst of bytes: what a rate earns in 100 ms.
pub const DEFAULT_BYTE_BURST: Duration = Duration::from_millis(100);

/// A number a second, and how many may come at once after a pause.
///
/// ```
/// use longshore::config::Rate;
///
/// assert_eq!(Rate::new(50.0).with_burst(5.0).to_string(), "50+5");
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Rate {
    /// Requests or bytes a second, on average.
    pub per_second: f64,
    /// How many are saved up, at most, while fewer come. In any second there are at most `per_second` plus
    /// this plus one more: a request, or a piece of a body. At most `per_second`. Default (`None`): what the
    /// rate earns in 10 ms for requests ([`DEFAULT_REQUEST_BURST`]), in 100 ms for bytes
    /// ([`DEFAULT_BYTE_BURST`]).
    pub burst: Option<f64>,
}

impl Rate {
    /// A rate with the default burst. [`RateLimits::validate`] checks it.
    pub fn new(per_second: f64) -> Self {
        Self { per_second, burst: None }
    }

    /// Sets the burst.
    #[must_use]
    pub fn with_burst(mut self, burst: f64) -> Self {
        self.burst = Some(burst);
        self
    }

    fn validate(self, field: &'static str, unit: Unit) -> Result<(), InvalidConfig> {
        let fault = self.fault(unit);
        fault.map_or(Ok(()), |bound| Err(InvalidConfig::new(field, self, bound)))
    }

    /// What is wrong with it.
    pub(crate) fn fault(self, unit: Unit) -> Option<String> {
        let (least, most) = unit.range();
        // Also false where it is not a number.
        if !(least..=most).contains(&self.per_second) {
            return Some(format!("it must be {}", unit.allowed()));
        }
        let burst = self.burst.filter(|burst| !(0.0..=self.per_second).contains(burst));
        burst.map(|_| "its burst, behind the plus, must be from 0 to the rate itself".to_owned())
    }
}

/// As settings write it: `50`, or `50+5` with its burst.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.per_second)?;
        match self.burst {
            Some(burst) => write!(f, "+{burst}"),
            None => Ok(()),
        }
    }
}

/// What a rate counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    Requests,
    Bytes,
}

impl Unit {
    fn range(self) -> (f64, f64) {
        match self {
            Unit::Requests => (MIN_REQUESTS_PER_SECOND, MAX_REQUESTS_PER_SECOND),
            Unit::Bytes => (MIN_BYTES_PER_SECOND, MAX_BYTES_PER_SECOND),
        }
    }

    /// What a rate may be, in words.
    pub(crate) fn allowed(self) -> &'static str {
        match self {
            Unit::Requests => "from one an hour (0.000278) to 1000000 a second",
            Unit::Bytes => "from 1 to 1000000000000 a second",
        }
    }
}

/// How fast a transfer worker may ask and read. `None` means as fast as it can. Default: no limit.
///
/// `http` and `https` of a host are one host. A port other than the one of the scheme makes another host.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct RateLimits {
    /// Requests a second, of all hosts together.
    pub requests_per_second: Option<Rate>,
    /// Requests a second, of each host.
    pub requests_per_second_per_host: Option<Rate>,
    /// Bytes of bodies a second, of all hosts together.
    pub bytes_per_second: Option<Rate>,
    /// Bytes of bodies a second, of each host.
    pub bytes_per_second_per_host: Option<Rate>,
}

impl RateLimits {
    /// Checks each rate and its burst.
    ///
    /// # Errors
    /// The first rate that cannot be used, by name.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let rates = [
            ("requests_per_second", Unit::Requests, self.requests_per_second),
            ("requests_per_second_per_host", Unit::Requests, self.requests_per_second_per_host),
            ("bytes_per_second", Unit::Bytes, self.bytes_per_second),
            ("bytes_per_second_per_host", Unit::Bytes, self.bytes_per_second_per_host),
        ];
        let given = rates.into_iter().filter_map(|(field, unit, rate)| Some((field, unit, rate?)));
        given.into_iter().try_for_each(|(field, unit, rate)| rate.validate(field, unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(set: impl FnOnce(&mut RateLimits)) -> String {
        let mut limits = RateLimits::default();
        set(&mut limits);
        limits.validate().expect_err("refused").to_string()
    }

    #[test]
    fn a_rate_that_cannot_be_kept_is_refused_by_name() {
        assert_eq!(
            refused(|limits| limits.requests_per_second = Some(Rate::new(0.0))),
            "requests_per_second = 0 cannot be used: it must be from one an hour (0.000278) to \
             1000000 a second"
        );
        assert_eq!(
            refused(|limits| {
                limits.bytes_per_second_per_host = Some(Rate::new(10.0).with_burst(11.0));
            }),
            "bytes_per_second_per_host = 10+11 cannot be used: its burst, behind the plus, must \
             be from 0 to the rate itself"
        );
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -0.0, 1e300, 2e12, 1e-9] {
            for burst in [None, Some(0.0)] {
                let rate = Some(Rate { per_second: wrong, burst });
                let of_requests = refused(|limits| limits.requests_per_second_per_host = rate);
                assert!(of_requests.starts_with("requests_per_second_per_host = "), "{wrong}");
                let of_bytes = refused(|limits| limits.bytes_per_second = rate);
                assert!(of_bytes.starts_with("bytes_per_second = "), "{wrong}");
            }
        }
        for wrong in [f64::NAN, f64::INFINITY, -1.0, 50.1] {
            let rate = Some(Rate::new(50.0).with_burst(wrong));
            refused(|limits| limits.requests_per_second = rate);
        }
    }

    #[test]
    fn the_ends_of_each_range_are_allowed() {
        for (requests, bytes) in [
            (MIN_REQUESTS_PER_SECOND, MIN_BYTES_PER_SECOND),
            (MAX_REQUESTS_PER_SECOND, MAX_BYTES_PER_SECOND),
        ] {
            for burst in [0.0, 1.0] {
                let rate =
                    |per_second: f64| Some(Rate::new(per_second).with_burst(burst * per_second));
                let limits = RateLimits {
                    requests_per_second: rate(requests),
                    requests_per_second_per_host: rate(requests),
                    bytes_per_second: rate(bytes),
                    bytes_per_second_per_host: rate(bytes),
                };
                assert_eq!(limits.validate(), Ok(()));
            }
        }
        assert_eq!(RateLimits::default().validate(), Ok(()));
    }
}
