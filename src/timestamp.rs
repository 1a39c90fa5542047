//! Wall-clock times as text and numbers, in one notation for all files and records.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since 1970; negative before.
pub(crate) fn unix_millis(time: SystemTime) -> i64 {
    let millis = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_millis()),
        Err(before) => i128::try_from(before.duration().as_millis()).map(|millis| -millis),
    };
    millis.ok().and_then(|millis| i64::try_from(millis).ok()).unwrap_or(i64::MAX)
}

/// The time `millis` milliseconds after 1970; earlier times become 1970.
#[cfg(test)]
pub(crate) fn from_unix_millis(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// The time in RFC 3339, UTC, to the millisecond.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let millis = Duration::from_millis(u64::try_from(unix_millis(time)).unwrap_or(0));
    let rounded = OffsetDateTime::from(SystemTime::UNIX_EPOCH + millis);
    rounded.format(&Rfc3339).unwrap_or_else(|_| rounded.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_to_the_millisecond() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.123Z");
        assert_eq!(
            from_unix_millis(unix_millis(time)),
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
        );
    }
}
