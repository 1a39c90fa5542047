//! Wall-clock times as text and numbers, in one notation for all files and records.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since 1970; negative before.
pub fn unix_millis(time: SystemTime) -> i64 {
    let millis = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_millis()),
        Err(before) => i128::try_from(before.duration().as_millis()).map(|millis| -millis),
    };
    millis.ok().and_then(|millis| i64::try_from(millis).ok()).unwrap_or(i64::MAX)
}

/// The time `millis` milliseconds after 1970; earlier times become 1970.
pub fn from_unix_millis(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// The time in RFC 3339, UTC, always with three digits of milliseconds: the text of a later
/// time sorts later. Times that have no such text, before the year 0 and after 9999, become the
/// nearest that has one.
pub fn rfc3339(time: SystemTime) -> String {
    rfc3339_millis(unix_millis(time).clamp(FIRST_MILLIS, LAST_MILLIS)).unwrap_or_default()
}

/// The time of a text in RFC 3339. `None` if the text is not one.
pub fn from_rfc3339(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

/// 0000-01-01T00:00:00.000Z.
const FIRST_MILLIS: i64 = -62_167_219_200_000;
/// 9999-12-31T23:59:59.999Z.
const LAST_MILLIS: i64 = 253_402_300_799_999;

/// The time this many milliseconds after 1970, or before it, as [`rfc3339`] writes it. `None` before the year 0
/// and after 9999.
pub fn rfc3339_millis(millis: i64) -> Option<String> {
    if !(FIRST_MILLIS..=LAST_MILLIS).contains(&millis) {
        return None;
    }
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()?;
    let (date, time) = (time.date(), time.time());
    let mut text = String::with_capacity("0000-01-01T00:00:00.000Z".len());
    for (number, digits, behind) in [
        (date.year().unsigned_abs(), 4, '-'),
        (u8::from(date.month()).into(), 2, '-'),
        (date.day().into(), 2, 'T'),
        (time.hour().into(), 2, ':'),
        (time.minute().into(), 2, ':'),
        (time.second().into(), 2, '.'),
        (time.millisecond().into(), 3, 'Z'),
    ] {
        push_digits(&mut text, number, digits);
        text.push(behind);
    }
    Some(text)
}

/// By hand, for each file that is moved has several times: the machinery of `format!` takes ten times as long.
fn push_digits(text: &mut String, number: u32, digits: u32) {
    for place in (0..digits).rev() {
        let digit = number / 10_u32.pow(place) % 10;
        text.extend(char::from_digit(digit, 10));
    }
}

/// The time in RFC 3339, UTC, with nine digits behind the second; `None` before the year 0 and after 9999.
pub fn rfc3339_nanos(time: SystemTime) -> Option<String> {
    let nanos = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_nanos()).ok()?,
        Err(before) => -i128::try_from(before.duration().as_nanos()).ok()?,
    };
    let millis = i64::try_from(nanos.div_euclid(1_000_000)).ok()?;
    let text = rfc3339_millis(millis)?;
    let whole = text.strip_suffix('Z')?;
    Some(format!("{whole}{:06}Z", nanos.rem_euclid(1_000_000)))
}

/// Reads a time in RFC 3339, of whatever zone.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

/// How times that may be missing are written in files: milliseconds since 1970.
pub(crate) mod millis {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(super::unix_millis).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let millis = Option::<i64>::deserialize(deserializer)?;
        Ok(millis.map(super::from_unix_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_to_the_millisecond() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.123Z");
        let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(rfc3339(whole), "2023-11-14T22:13:20.000Z", "so that texts sort like times");
        assert_eq!(rfc3339_millis(-1).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        let millis = Duration::from_millis(1);
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - millis), "1969-12-31T23:59:59.999Z");
        // What an SDK makes of a time before 1970.
        let wrapped = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::MAX);
        assert_eq!(rfc3339(wrapped), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339_millis(FIRST_MILLIS).as_deref(), Some("0000-01-01T00:00:00.000Z"));
        assert_eq!(rfc3339_nanos(time).as_deref(), Some("2023-11-14T22:13:20.123456000Z"));
        let before = SystemTime::UNIX_EPOCH - Duration::from_nanos(1);
        assert_eq!(rfc3339_nanos(before).as_deref(), Some("1969-12-31T23:59:59.999999999Z"));
        for time in [time, before] {
            let text = rfc3339_nanos(time).expect("within the years");
            assert_eq!(parse_rfc3339(&text), Some(time));
        }
        let zoned = parse_rfc3339("2023-11-14T23:13:20.123456+01:00");
        assert_eq!((zoned, parse_rfc3339("yesterday")), (Some(time), None));
        assert_eq!(rfc3339_millis(FIRST_MILLIS - 1), None);
        assert_eq!(rfc3339_millis(LAST_MILLIS + 1), None);
        let read = |millis| from_rfc3339(&rfc3339_millis(millis).unwrap_or_default());
        assert_eq!(read(1_700_000_000_123), Some(from_unix_millis(1_700_000_000_123)));
        assert_eq!(read(-1), Some(SystemTime::UNIX_EPOCH - millis));
        assert!(read(FIRST_MILLIS).is_some() && read(LAST_MILLIS).is_some());
        assert_eq!(from_rfc3339("yesterday"), None);
        assert_eq!(
            from_unix_millis(unix_millis(time)),
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
        );
    }
}
