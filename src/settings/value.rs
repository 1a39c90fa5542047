//! Values as people write them, one reader for each kind. An error says what is allowed.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event::{SequenceNumber, StartPosition};
use crate::state::backoff::Backoff;

const A_DURATION: &str = "write a number and a unit: 500ms, 1s, 2m";

/// A duration: a number and ms, s, m or h.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    let split = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let number: f64 = number.parse().map_err(|_| A_DURATION)?;
    let seconds = match unit {
        "ms" => number / 1_000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err("the unit must be ms, s, m or h: 500ms, 1s, 2m"),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| "it must be at most a year")
}

/// A duration in the notation that [`duration`] reads.
pub fn as_text(duration: Duration) -> String {
    match (duration.subsec_millis(), duration.as_secs()) {
        (0, seconds) if seconds > 0 && seconds % 3_600 == 0 => format!("{}h", seconds / 3_600),
        (0, seconds) if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        (0, seconds) => format!("{seconds}s"),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// The first and the longest delay, two dots between them.
pub(super) fn backoff(text: &str) -> Option<Backoff> {
    let (first, longest) = text.split_once("..")?;
    Some(Backoff::doubling(duration(first).ok()?, duration(longest).ok()?))
}

/// A switch.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A word, a time in RFC 3339 or a sequence number.
pub fn start_position(text: &str) -> Option<StartPosition> {
    match text {
        "earliest" => return Some(StartPosition::Earliest),
        "latest" => return Some(StartPosition::Latest),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return (number >= 0).then_some(StartPosition::SequenceNumber(SequenceNumber(number)));
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(StartPosition::EnqueuedAt(SystemTime::from(time)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["500ms", "1s", "90s", "15m", "2h", "0s"] {
            assert_eq!(duration(text).map(as_text), Ok(text.to_owned()));
        }
        for wrong in ["", "5", "s", "-1s", "1d", "1e9h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_start_is_a_word_a_number_or_a_time() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(start_position("2023-11-14T22:13:20Z"), Some(StartPosition::EnqueuedAt(at)));
        assert_eq!(start_position("42"), Some(StartPosition::SequenceNumber(SequenceNumber(42))));
        for wrong in ["", "-1", "yesterday", "2023-11-14"] {
            assert_eq!(start_position(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_switch_is_true_or_false() {
        assert_eq!(
            ["true", "TRUE", "1", "false", "0"].map(flag).map(Option::unwrap_or_default),
            [true, true, true, false, false]
        );
        assert_eq!(["yes", "on", ""].map(flag), [None; 3]);
    }
}
