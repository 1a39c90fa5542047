//! What a value may be, and how it becomes an option.

use std::time::Duration;

use super::value;
use crate::config::{
    ConsumerOptions, DownloadLimits, LeaseOptions, MAX_DURATION, MAX_SLOTS, Rate, RateLimits, Unit,
};
use crate::state::backoff::Backoff;

/// Most bytes a setting takes.
pub(super) const MAX_BYTES: usize = isize::MAX.unsigned_abs();

/// The shortest time that a download may be given.
const MIN_DOWNLOAD_TIME: Duration = Duration::from_millis(10);

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Text of a form that code checks.
    Text(&'static str),
    Choice(&'static [&'static str]),
    Flag,
    /// An option of the consumer.
    Knob(Knob),
    /// An option of the leases.
    LeaseTime(LeaseTime),
    /// A limit of transfer workers.
    RateLimit(RateLimit),
    /// A limit of each download.
    Download(DownloadLimit),
    /// Slots, or fewer.
    Slots,
}

impl Kind {
    /// What a value may be, as the documentation and the errors say it.
    pub(super) fn allowed(self) -> String {
        match self {
            Kind::Text(allowed) => allowed.to_owned(),
            Kind::Choice(words) => any_of(words),
            Kind::Flag => any_of(&["true", "false"]),
            Kind::Knob(knob) => knob.allowed(),
            Kind::LeaseTime(LeaseTime { least, .. }) => a_time_from(least),
            Kind::RateLimit(RateLimit { unit, .. }) => value::allowed_rate(unit),
            Kind::Download(limit) => limit.allowed(),
            Kind::Slots => format!("from 1 to {MAX_SLOTS}"),
        }
    }
}

/// How a duration becomes an option of the leases.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseTime {
    pub(super) least: Duration,
    pub(super) set: fn(&mut LeaseOptions, Duration),
}

impl LeaseTime {
    /// Sets the option; false where the value is not allowed.
    pub(super) fn apply(self, options: &mut LeaseOptions, text: &str) -> bool {
        time(self.least, text).map(|time| (self.set)(options, time)).is_some()
    }
}

/// How a rate becomes a limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateLimit {
    pub(super) unit: Unit,
    pub(super) set: fn(&mut RateLimits, Option<Rate>),
}

impl RateLimit {
    /// Sets the limit.
    ///
    /// # Errors
    /// What the value must be.
    pub(super) fn apply(self, limits: &mut RateLimits, text: &str) -> Result<(), String> {
        let rate = value::rate(text, self.unit)?;
        (self.set)(limits, Some(rate));
        Ok(())
    }
}

/// How a value becomes a limit of downloads.
#[derive(Clone, Copy, Debug)]
pub(super) enum DownloadLimit {
    Time(fn(&mut DownloadLimits, Duration)),
    Bytes { least: u64, set: fn(&mut DownloadLimits, u64) },
    Slots(fn(&mut DownloadLimits, usize)),
}

impl DownloadLimit {
    fn allowed(self) -> String {
        match self {
            Self::Time(_) => a_time_from(MIN_DOWNLOAD_TIME),
            Self::Bytes { least, .. } => bytes_from(least),
            Self::Slots(_) => format!("1 to {MAX_SLOTS}"),
        }
    }

    /// Sets the limit; false where the value is not allowed.
    pub(super) fn apply(self, limits: &mut DownloadLimits, text: &str) -> bool {
        match self {
            Self::Time(set) => {
                time(MIN_DOWNLOAD_TIME, text).map(|time| set(limits, time)).is_some()
            }
            Self::Bytes { least, set } => {
                let bytes = value::byte_count(text).ok().filter(|bytes| *bytes >= least);
                bytes.map(|bytes| set(limits, bytes)).is_some()
            }
            Self::Slots(set) => slots(text).map(|slots| set(limits, slots)).is_some(),
        }
    }
}

/// A number of slots.
pub(super) fn slots(text: &str) -> Option<usize> {
    text.parse().ok().filter(|slots| (1..=MAX_SLOTS).contains(slots))
}

/// How a value becomes an option of the consumer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Knob {
    Count { least: usize, most: usize, set: fn(&mut ConsumerOptions, usize) },
    Time { least: Duration, set: fn(&mut ConsumerOptions, Duration) },
    TimeOrNone { least: Duration, set: fn(&mut ConsumerOptions, Option<Duration>) },
    Delays { set: fn(&mut ConsumerOptions, Backoff) },
    Other { allowed: &'static str, set: fn(&mut ConsumerOptions, &str) -> Option<()> },
}

impl Knob {
    fn allowed(self) -> String {
        match self {
            Knob::Count { least, most: MAX_BYTES, .. } => bytes_from(least as u64),
            Knob::Count { least, most, .. } => format!("from {least} to {most}"),
            Knob::Time { least, .. } => a_time_from(least),
            Knob::TimeOrNone { least, .. } => format!("{}; or none", a_time_from(least)),
            Knob::Delays { .. } => {
                "the first and the longest delay, such as 1s..60s: above 0s, at \
                                    most a year, the first not the longer one"
                    .to_owned()
            }
            Knob::Other { allowed, .. } => allowed.to_owned(),
        }
    }

    /// Sets the option; false where the value is not allowed.
    pub(super) fn apply(self, options: &mut ConsumerOptions, text: &str) -> bool {
        match self {
            Knob::Count { least, most, set } => {
                let count = match most {
                    MAX_BYTES => value::byte_count(text).ok().and_then(|it| it.try_into().ok()),
                    _ => text.parse().ok(),
                };
                count
                    .filter(|count| (least..=most).contains(count))
                    .map(|count| set(options, count))
            }
            Knob::Time { least, set } => time(least, text).map(|time| set(options, time)),
            Knob::TimeOrNone { set, .. } if value::is_word(text, "none") => {
                set(options, None);
                Some(())
            }
            Knob::TimeOrNone { least, set } => {
                time(least, text).map(|time| set(options, Some(time)))
            }
            Knob::Delays { set } => value::backoff(text)
                .filter(|delays| {
                    !delays.initial.is_zero()
                        && delays.initial <= delays.max
                        && delays.max <= MAX_DURATION
                })
                .map(|delays| set(options, delays)),
            Knob::Other { set, .. } => set(options, text),
        }
        .is_some()
    }
}

fn bytes_from(least: u64) -> String {
    format!("{least} bytes or more, such as 20MB or 16MiB")
}

fn a_time_from(least: Duration) -> String {
    format!("from {} to a year, such as 500ms, 1s, 2m", value::as_text(least))
}

fn time(least: Duration, text: &str) -> Option<Duration> {
    value::duration(text).ok().filter(|time| (least..=MAX_DURATION).contains(time))
}

fn any_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [some @ .., last] => format!("{} or {last}", some.join(", ")),
    }
}
