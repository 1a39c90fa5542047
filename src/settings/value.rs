//! Values as people write them, one reader for each kind. An error says what is allowed.

use std::time::Duration;

use crate::config::{
    AfterAttempts, MAX_DURATION, MAX_PARK_DELAYS, MIN_PARK_DELAY, Rate, RetryPolicies, RetryPolicy,
    Unit,
};
use crate::error::ErrorClass;
use crate::event::{SequenceNumber, StartPosition};
use crate::state::backoff::Backoff;
use crate::timestamp::from_rfc3339;

const A_DURATION: &str = "write a number and a unit: 500ms, 1s, 2m";

/// A duration: a number and ms, s, m or h, in either case, with or without a space between them.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    let split = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let unit = unit.trim_start().to_ascii_lowercase();
    let number: f64 = number.parse().map_err(|_| A_DURATION)?;
    let seconds = match unit.as_str() {
        "" => return Err(A_DURATION),
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

/// Times with commas between them, or none.
pub(super) fn park_delays(text: &str) -> Option<Vec<Duration>> {
    if is_word(text, "none") {
        return Some(Vec::new());
    }
    let delays: Option<Vec<_>> = text.split(',').map(|delay| duration(delay.trim()).ok()).collect();
    let is_allowed = |delay: &Duration| *delay >= MIN_PARK_DELAY && *delay <= MAX_DURATION;
    delays.filter(|delays| delays.len() <= MAX_PARK_DELAYS && delays.iter().all(is_allowed))
}

/// Policies by class: `CLASS ATTEMPTS FIRST..LONGEST`, with commas between them, and `dead` where an event
/// is not parked then.
pub(super) fn retry_policies(text: &str) -> Option<RetryPolicies> {
    let mut policies = RetryPolicies::default();
    if is_word(text, "none") {
        return Some(policies);
    }
    for policy in text.split(',') {
        let mut words = policy.split_whitespace();
        let (class, attempts, delays) = (words.next()?, words.next()?, words.next()?);
        let class = ErrorClass::from_word(&class.to_ascii_lowercase())?;
        let max_attempts = attempts.parse().ok().filter(|attempts| *attempts > 0)?;
        let then = match words.next() {
            None => AfterAttempts::Park,
            Some(word) if is_word(word, "dead") => AfterAttempts::DeadLetter,
            Some(_) => return None,
        };
        if words.next().is_some() || !class.is_retryable() {
            return None;
        }
        policies.set(class, RetryPolicy::new(max_attempts, backoff(delays)?).then(then));
    }
    Some(policies)
}

/// The first and the longest delay, two dots between them.
pub(super) fn backoff(text: &str) -> Option<Backoff> {
    let (first, longest) = text.split_once("..")?;
    Some(Backoff::doubling(duration(first).ok()?, duration(longest).ok()?))
}

/// Requests a second: `50`, `0.5`, or with a burst `50+5`.
///
/// # Errors
/// What it must be.
pub fn requests_per_second(text: &str) -> Result<Rate, String> {
    rate(text, Unit::Requests)
}

/// Bytes a second: `20000000`, `20MB`, `16MiB`, or with a burst `20MB+2MB`.
///
/// # Errors
/// What it must be.
pub fn bytes_per_second(text: &str) -> Result<Rate, String> {
    rate(text, Unit::Bytes)
}

pub(super) fn rate(text: &str, unit: Unit) -> Result<Rate, String> {
    let read = match unit {
        Unit::Requests => number,
        Unit::Bytes => bytes,
    };
    let read = || {
        let Some((per_second, burst)) = text.split_once('+') else {
            return Some(Rate::new(read(text)?));
        };
        Some(Rate::new(read(per_second)?).with_burst(read(burst)?))
    };
    let rate = read().ok_or_else(|| format!("it must be {}", allowed_rate(unit)))?;
    rate.fault(unit).map_or(Ok(rate), Err)
}

/// What a rate may be, as the documentation and the errors say it.
pub(super) fn allowed_rate(unit: Unit) -> String {
    let such_as = match unit {
        Unit::Requests => "50 or 0.5, or with its burst 50+5",
        Unit::Bytes => "20000000, 20MB or 16MiB, or with its burst 20MB+2MB",
    };
    format!("{}, such as {such_as}", unit.allowed())
}

/// Digits, and a point where there is one; no sign, exponent or name of a number.
fn number(text: &str) -> Option<f64> {
    let allowed = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    text.bytes().all(allowed).then(|| text.parse().ok())?
}

/// A number of bytes, in a unit of a thousand or of 1,024 where one is named.
fn bytes(text: &str) -> Option<f64> {
    let split = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let each = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1_024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        "tb" => 1e12,
        "tib" => 1_099_511_627_776.0,
        _ => return None,
    };
    Some(number(digits)? * each)
}

/// Most characters of the name of a hub.
pub(super) const MAX_ENTITY_CHARS: usize = 256;

/// Whether a text is a name, of at most so many characters.
pub(super) fn is_name(text: &str, most: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=most).contains(&text.len()) && text.bytes().all(allowed)
}

/// The host of a namespace, in lower case: a name, or an address as the portal and SDKs show it,
/// `sb://HOST/` and `https://HOST:443/`.
pub(super) fn host(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let known = ["sb://", "amqps://", "https://"];
    let rest = known.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(&text);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let host = [":443", ":5671"].iter().find_map(|port| rest.strip_suffix(port)).unwrap_or(rest);
    is_host(host).then(|| host.to_owned())
}

/// Whether a text may be the name of a host.
fn is_host(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(allowed)
}

/// A number of bytes: `2000000`, `20MB` or `2GiB`.
///
/// # Errors
/// What it must be.
pub fn byte_count(text: &str) -> Result<u64, String> {
    let must = || "it must be a number of bytes, such as 2000000, 20MB or 2GiB".to_owned();
    // Digits alone are exact; up to 2^53 the others are as well.
    if let Ok(count) = text.parse() {
        return if text.starts_with('+') { Err(must()) } else { Ok(count) };
    }
    let count = bytes(text).filter(|count| count.fract() == 0.0 && *count < u64::MAX as f64);
    count.map(|count| count as u64).ok_or_else(must)
}

/// A switch.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Whether a text is this word of a setting: in either case, and with `_` for `-`.
pub(super) fn is_word(text: &str, word: &str) -> bool {
    text.replace('_', "-").eq_ignore_ascii_case(word)
}

/// What a text stands for, if it is one of these words.
pub(super) fn one_of<T, const N: usize>(text: &str, words: [(&str, T); N]) -> Option<T> {
    words.into_iter().find(|(word, _)| is_word(text, word)).map(|(_, meant)| meant)
}

/// A word, a time in RFC 3339 or a sequence number.
pub fn start_position(text: &str) -> Option<StartPosition> {
    if is_word(text, "earliest") {
        return Some(StartPosition::Earliest);
    }
    if is_word(text, "latest") {
        return Some(StartPosition::Latest);
    }
    if let Ok(number) = text.parse::<i64>() {
        return (number >= 0).then_some(StartPosition::SequenceNumber(SequenceNumber(number)));
    }
    from_rfc3339(text).map(StartPosition::EnqueuedAt)
}

/// A number that is not below `least`, or `unlimited`, which is none.
pub(super) fn limit<T: std::str::FromStr + PartialOrd>(text: &str, least: T) -> Option<Option<T>> {
    if is_word(text, "unlimited") {
        return Some(None);
    }
    text.parse().ok().filter(|number| *number >= least).map(Some)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

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
    fn policies_name_classes_attempts_and_delays() {
        let seconds = |first, longest| {
            Backoff::doubling(Duration::from_secs(first), Duration::from_secs(longest))
        };
        let mut policies = RetryPolicies::default();
        policies.set(ErrorClass::Throttling, RetryPolicy::new(9, seconds(4, 60)));
        policies.set(ErrorClass::Auth, RetryPolicy::new(20, seconds(10, 300)));
        policies.set(
            ErrorClass::Unknown,
            RetryPolicy::new(2, seconds(1, 2)).then(AfterAttempts::DeadLetter),
        );
        let read = retry_policies("throttling 9 4s..60s, auth 20 10s..5m,unknown 2 1s..2s dead");
        assert_eq!(read, Some(policies));
        assert_eq!(retry_policies("none"), Some(RetryPolicies::default()));
        for wrong in [
            "",
            "busy 9 4s..60s",
            "auth 0 4s..60s",
            "auth 9",
            "permanent 2 1s..2s",
            "auth 9 4s..60s x",
        ] {
            assert_eq!(retry_policies(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn delays_of_parking_are_times_or_none() {
        let seconds = |all: &[u64]| Some(all.iter().copied().map(Duration::from_secs).collect());
        assert_eq!(park_delays("5m, 30m,2h"), seconds(&[300, 1_800, 7_200]));
        assert_eq!(park_delays("none"), seconds(&[]));
        let many = vec!["1m"; MAX_PARK_DELAYS + 1].join(",");
        for wrong in ["", "5m,", "5m 30m", "0s", "9000h", many.as_str()] {
            assert_eq!(park_delays(wrong), None, "{wrong}");
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
    fn a_number_of_bytes_may_have_a_unit() {
        for (text, count) in [
            ("0", 0),
            ("18446744073709551615", u64::MAX),
            ("20MB", 20_000_000),
            ("2GiB", 2 << 30),
            ("1.5kib", 1_536),
            ("1TiB", 1 << 40),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(byte_count(text), Ok(count), "{text}");
        }
        for wrong in ["", "GiB", "-1", "+1", "1.5", "1 GiB", "1PB", "1e9", "99999999999GiB"] {
            assert!(byte_count(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_a_number_and_perhaps_a_burst() {
        for (text, rate) in [
            ("50", Rate::new(50.0)),
            ("0.5", Rate::new(0.5)),
            ("50+5", Rate::new(50.0).with_burst(5.0)),
            ("50+0", Rate::new(50.0).with_burst(0.0)),
        ] {
            assert_eq!(requests_per_second(text), Ok(rate));
            assert_eq!(bytes_per_second(text).is_ok(), rate.per_second >= 1.0);
            assert_eq!(rate.to_string(), text);
        }
        assert_eq!(bytes_per_second("20MB+512KiB"), Ok(Rate::new(20e6).with_burst(524_288.0)));
        assert_eq!(bytes_per_second("1.5gib"), Ok(Rate::new(1_610_612_736.0)));
        for wrong in [
            "",
            "0",
            "-1",
            "+",
            "+5",
            "50+",
            "50+51",
            "nan",
            "inf",
            "1e3",
            "1e400",
            "50/s",
            "5 0",
            "50 MB",
            "50+5+5",
            "99999999999999",
            "1PB",
            "0.0000001",
            ".",
            "5.5.5",
            "\u{661}",
        ] {
            assert!(requests_per_second(wrong).is_err(), "{wrong}");
            assert!(bytes_per_second(wrong).is_err(), "{wrong}");
        }
        let zero = bytes_per_second("0MB").expect_err("nothing would ever go");
        assert_eq!(zero, "it must be from 1 to 1000000000000 a second");
        assert!(requests_per_second("5MB").is_err(), "requests have no unit");
    }

    #[test]
    fn a_host_is_a_name_or_an_address_as_others_show_it() {
        for text in [
            "ns.example",
            "NS.example",
            "sb://ns.example/",
            "SB://ns.example",
            "https://ns.example:443/",
            "amqps://ns.example:5671",
            "ns.example:443",
            "ns.example/",
        ] {
            assert_eq!(host(text).as_deref(), Some("ns.example"), "{text}");
        }
        for wrong in ["", "sb://", "http://ns.example", "ns.example:8443", "ns.example/hub", "a b"]
        {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn words_units_and_times_may_be_in_another_case() {
        assert_eq!(start_position("Latest"), Some(StartPosition::Latest));
        assert_eq!(limit("Unlimited", 1), Some(None));
        assert_eq!(duration("5 M"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("500MS"), Ok(Duration::from_millis(500)));
        assert_eq!(park_delays("None"), Some(Vec::new()));
        let policies = retry_policies("Throttling 9 4s..60s DEAD");
        assert_eq!(policies, retry_policies("throttling 9 4s..60s dead"));
        assert!(policies.is_some());
        assert!(is_word("Per_Key", "per-key") && !is_word("per key", "per-key"));
        assert_eq!(duration("5"), Err(A_DURATION), "the unit is missing");
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
