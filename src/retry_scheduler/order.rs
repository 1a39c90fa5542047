//! What the properties of an event order: where it is published to, and when. Pure: the time is an argument.
//!
//! | property, by default | what it holds |
//! | --- | --- |
//! | `target_topic` | the hub, as text |
//! | `scheduled_retry_time` | when: a time of AMQP, RFC 3339, or a number since 1970 |
//! | `retry_delay_seconds` | how long after it was enqueued, where there is no time |
//! | `retry_count` | how often the event was tried |
//! | `original_key` | its partition key |
//!
//! Numbers may be of any width, or text. A number since 1970 is seconds below 100,000,000,000, and milliseconds
//! from there on: the year 5138 in seconds is March 1973 in milliseconds.

use std::time::{Duration, SystemTime};

use super::options::{RetryProperties, RetrySchedulerOptions};
use super::refusal::Refusal;
use crate::event::{Event, Value};
use crate::timestamp::{parse_rfc3339, unix_millis};

/// Longest name of a hub.
const MAX_NAME_CHARS: usize = 256;

/// A number since 1970 from here on is milliseconds.
const FIRST_MILLIS: f64 = 1e11;

/// What is to become of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Order {
    /// The name of the hub.
    pub(super) target: String,
    /// When it is due, in milliseconds since 1970; `None` where nothing says so: at once.
    pub(super) due: Option<i64>,
    /// How long until then; zero where the time has come.
    pub(super) wait: Duration,
}

impl Order {
    /// Reads the order of an event.
    ///
    /// # Errors
    /// What is missing, is nothing of its kind, or is beyond a limit.
    pub(super) fn read(
        event: &Event,
        options: &RetrySchedulerOptions,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        let properties = &options.properties;
        let target = target(event, properties)?.to_owned();
        check_attempts(event, options)?;
        let due = due(event, properties)?;
        let now = unix_millis(now);
        let left = due.map_or(0, |due| due.saturating_sub(now));
        let wait = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        match due {
            Some(due) if wait > options.max_delay => {
                Err(Refusal::TooFar { due, limit: options.max_delay })
            }
            _ => Ok(Self { target, due, wait }),
        }
    }
}

/// The name of the hub that an event is for.
pub(super) fn target<'a>(
    event: &'a Event,
    properties: &RetryProperties,
) -> Result<&'a str, Refusal> {
    let property = &properties.target;
    let value = match event.properties().get(property) {
        None | Some(Value::Null) => return Err(Refusal::NoTarget { property: property.clone() }),
        Some(value) => value,
    };
    let name = text(value).map(str::trim).filter(|name| is_name(name));
    name.ok_or_else(|| Refusal::not(property, value, "the name of a hub"))
}

/// Letters, digits and `.`, `_`, `-`: whatever else is in a name would be part of an address.
fn is_name(text: &str) -> bool {
    let is_plain =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    !text.is_empty()
        && text.len() <= MAX_NAME_CHARS
        && text.chars().all(is_plain)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

fn check_attempts(event: &Event, options: &RetrySchedulerOptions) -> Result<(), Refusal> {
    let property = &options.properties.attempts;
    let Some(most) = options.max_attempts else { return Ok(()) };
    let value = match event.properties().get(property) {
        None | Some(Value::Null) => return Ok(()),
        Some(value) => value,
    };
    let count = number(value).filter(|count| count.fract() == 0.0 && *count >= 0.0);
    match count {
        None => Err(Refusal::not(property, value, "a count of attempts")),
        Some(count) if count >= f64::from(most) => Err(Refusal::UsedUp { count, most }),
        Some(_) => Ok(()),
    }
}

/// When an event is due, in milliseconds since 1970.
fn due(event: &Event, properties: &RetryProperties) -> Result<Option<i64>, Refusal> {
    let given = |property: &str| match event.properties().get(property) {
        None | Some(Value::Null) => None,
        Some(value) => Some(value),
    };
    if let Some(value) = given(&properties.due) {
        let due = time(value).ok_or_else(|| Refusal::not(&properties.due, value, "a time"))?;
        return Ok(Some(due));
    }
    let Some(value) = given(&properties.delay) else { return Ok(None) };
    let seconds = number(value)
        .ok_or_else(|| Refusal::not(&properties.delay, value, "a number of seconds"))?;
    let enqueued = unix_millis(event.enqueued_time());
    Ok(Some(enqueued.saturating_add(millis(seconds))))
}

/// The key that a property gives back to an event.
pub(super) fn key<'a>(event: &'a Event, properties: &RetryProperties) -> Option<&'a str> {
    let given = event.properties().get(&properties.key).and_then(text);
    given.filter(|key| !key.is_empty()).or_else(|| event.key())
}

/// Text, as clients send it: Python sends bytes where it was given bytes.
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Binary(bytes) => std::str::from_utf8(bytes).ok(),
        other => other.as_text(),
    }
}

/// A number of any width, or its text.
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::ULong(number) => Some(*number as f64),
        other => other.as_i64().map(|number| number as f64).or_else(|| other.as_f64()),
    };
    let read = || text(value)?.trim().parse().ok();
    number.or_else(read).filter(|number| number.is_finite())
}

/// Whole milliseconds; what no number holds is the nearest that one does.
fn millis(seconds: f64) -> i64 {
    (seconds * 1_000.0).round() as i64
}

/// A time, in milliseconds since 1970.
fn time(value: &Value) -> Option<i64> {
    if let Value::Timestamp(millis) = value {
        return Some(*millis);
    }
    if let Some(number) = number(value) {
        let is_millis = number.abs() >= FIRST_MILLIS;
        return Some(if is_millis { number.round() as i64 } else { millis(number) });
    }
    written_time(text(value)?.trim()).map(unix_millis)
}

/// RFC 3339, and what Python writes of a `datetime`: with a space for the `T`, and without a zone, which is then UTC.
fn written_time(text: &str) -> Option<SystemTime> {
    let text = match text.split_once(' ') {
        Some((date, time)) if date.len() == "2026-01-31".len() => format!("{date}T{time}"),
        _ => text.to_owned(),
    };
    parse_rfc3339(&text).or_else(|| parse_rfc3339(&format!("{text}Z")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventParts;
    use crate::timestamp::from_unix_millis;

    /// 2026-01-31T12:00:00Z, in seconds.
    const NOW: i64 = 1_769_860_800;
    const ENQUEUED: i64 = NOW - 10;

    fn event(properties: &[(&str, Value)]) -> Event {
        let partition = crate::event::Partition::new("xact-retry", "0").into();
        let mut parts = EventParts::new(partition, 7, "{}");
        parts.enqueued_time = from_unix_millis(ENQUEUED * 1_000);
        parts.key = Some("of the event".to_owned());
        for (name, value) in properties {
            parts.properties.insert((*name).to_owned(), value.clone());
        }
        parts.into()
    }

    fn order_with(
        properties: &[(&str, Value)],
        options: &RetrySchedulerOptions,
    ) -> Result<Order, Refusal> {
        Order::read(&event(properties), options, from_unix_millis(NOW * 1_000))
    }

    fn order(properties: &[(&str, Value)]) -> Result<Order, Refusal> {
        let target = ("target_topic", Value::from("pending"));
        let all: Vec<_> = [target].into_iter().chain(properties.iter().cloned()).collect();
        order_with(&all, &RetrySchedulerOptions::default())
    }

    fn wait(property: &str, value: Value) -> Result<Duration, String> {
        let read = order(&[(property, value)]);
        read.map(|order| order.wait).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_time_is_read_in_every_notation() {
        let due = NOW + 90;
        let text = "2026-01-31T12:01:30";
        for value in [
            Value::Timestamp(due * 1_000),
            Value::Long(due),
            Value::Long(due * 1_000),
            Value::ULong(due as u64),
            Value::UInt(due as u32),
            Value::Int(due as i32),
            Value::Double(due as f64),
            Value::Double((due * 1_000) as f64),
            Value::from(due.to_string()),
            Value::from(format!("{}", due * 1_000)),
            Value::from(format!("{due}.0")),
            Value::from(format!("{text}Z")),
            Value::from(format!("{text}.000000+00:00")),
            Value::from("2026-01-31T13:01:30+01:00"),
            Value::from(text),
            Value::from(text.replace('T', " ")),
            Value::from(format!(" {text}Z ")),
            Value::Symbol(format!("{text}Z")),
            Value::Binary(format!("{text}Z").into()),
        ] {
            assert_eq!(
                wait("scheduled_retry_time", value.clone()),
                Ok(Duration::from_secs(90)),
                "{value:?}"
            );
        }
        let fraction = wait("scheduled_retry_time", Value::from(format!("{text}.250Z")));
        assert_eq!(fraction, Ok(Duration::from_millis(90_250)));
        assert_eq!(
            wait("scheduled_retry_time", Value::Double(due as f64 + 0.25)),
            Ok(Duration::from_millis(90_250))
        );
    }

    #[test]
    fn what_is_past_or_says_no_time_is_due_at_once() {
        for value in [
            Value::Long(NOW - 1),
            Value::Long(-1),
            Value::Timestamp(i64::MIN),
            Value::Double(-1e300),
            Value::from("1969-12-31T23:59:59Z"),
            Value::Null,
        ] {
            assert_eq!(
                wait("scheduled_retry_time", value.clone()),
                Ok(Duration::ZERO),
                "{value:?}"
            );
        }
        assert_eq!(order(&[]).map(|order| (order.due, order.wait)), Ok((None, Duration::ZERO)));
    }

    #[test]
    fn a_delay_is_counted_from_when_it_was_enqueued() {
        for (value, seconds) in [
            (Value::Int(30), 20.0),
            (Value::from("30"), 20.0),
            (Value::Double(30.5), 20.5),
            (Value::from("10"), 0.0),
            (Value::Long(-5), 0.0),
        ] {
            let wait = wait("retry_delay_seconds", value.clone());
            assert_eq!(wait.map(|wait| wait.as_secs_f64()), Ok(seconds), "{value:?}");
        }
        let both = [
            ("scheduled_retry_time", Value::Long(NOW + 5)),
            ("retry_delay_seconds", Value::Int(60)),
        ];
        assert_eq!(
            order(&both).map(|order| order.wait),
            Ok(Duration::from_secs(5)),
            "the time counts"
        );
    }

    #[test]
    fn what_is_no_time_is_named_with_its_property_and_value() {
        for value in [
            Value::from("tomorrow"),
            Value::from(""),
            Value::from("2026-13-31T12:00:00Z"),
            Value::from("nan"),
            Value::Double(f64::INFINITY),
            Value::Bool(true),
            Value::Binary(vec![0xff].into()),
        ] {
            let said = wait("scheduled_retry_time", value.clone()).expect_err("no time");
            assert!(said.contains("scheduled_retry_time") && said.contains("not a time"), "{said}");
            let said = wait("retry_delay_seconds", value).expect_err("no delay");
            assert!(said.contains("retry_delay_seconds"), "{said}");
        }
        let long =
            wait("scheduled_retry_time", Value::from("x".repeat(10_000))).expect_err("no time");
        assert!(long.chars().count() < 300, "{long}");
    }

    #[test]
    fn a_time_beyond_the_limit_names_the_limit() {
        let limit = RetrySchedulerOptions::default().max_delay.as_secs() as i64;
        assert!(wait("scheduled_retry_time", Value::Long(NOW + limit)).is_ok());
        for value in [
            Value::Long(NOW + limit + 1),
            Value::from("2126-01-31T12:00:00Z"),
            Value::Timestamp(i64::MAX),
            Value::Double(1e300),
            Value::ULong(u64::MAX),
        ] {
            let said = wait("scheduled_retry_time", value.clone()).expect_err("too far");
            assert!(said.contains("30 days"), "{value:?}: {said}");
        }
        let said = wait("scheduled_retry_time", Value::from("2126-01-31T12:00:00Z"));
        assert!(said.expect_err("too far").contains("2126-01-31T12:00:00.000Z"));
    }

    #[test]
    fn a_target_is_the_plain_name_of_a_hub() {
        for value in
            [Value::from("pending"), Value::Symbol("pending".to_owned()), Value::from(" pending ")]
        {
            let properties = [("target_topic", value)];
            let order = order_with(&properties, &RetrySchedulerOptions::default());
            assert_eq!(order.map(|order| order.target), Ok("pending".to_owned()));
        }
        for value in [
            Value::from(""),
            Value::from("a/Partitions/0"),
            Value::from(".."),
            Value::from("x".repeat(257)),
            Value::from("ä"),
            Value::from("a\nb"),
            Value::Int(5),
        ] {
            let properties = [("target_topic", value.clone())];
            let refusal = order_with(&properties, &RetrySchedulerOptions::default());
            let said = refusal.expect_err("refused").to_string();
            assert!(
                said.contains("target_topic") && said.contains("not the name of a hub"),
                "{value:?}: {said}"
            );
        }
        for none in [&[][..], &[("target_topic", Value::Null)]] {
            let refusal = order_with(none, &RetrySchedulerOptions::default()).expect_err("refused");
            assert_eq!(refusal, Refusal::NoTarget { property: "target_topic".to_owned() });
        }
    }

    #[test]
    fn attempts_are_counted_where_there_is_a_limit() {
        let mut options = RetrySchedulerOptions::default();
        let with = |count: Value, options: &RetrySchedulerOptions| {
            order_with(&[("target_topic", "pending".into()), ("retry_count", count)], options)
        };
        assert!(with(Value::from("a million"), &options).is_ok(), "nobody counts");
        options.max_attempts = Some(4);
        for count in [Value::Int(3), Value::from("3"), Value::Null] {
            assert!(with(count.clone(), &options).is_ok(), "{count:?}");
        }
        for count in [Value::Int(4), Value::from("5"), Value::ULong(u64::MAX)] {
            let refusal = with(count.clone(), &options).expect_err("used up");
            assert!(matches!(refusal, Refusal::UsedUp { most: 4, .. }), "{count:?}");
        }
        for count in [Value::from("four"), Value::Int(-1), Value::Double(1.5)] {
            let said = with(count.clone(), &options).expect_err("no count").to_string();
            assert!(said.contains("retry_count"), "{count:?}: {said}");
        }
    }

    #[test]
    fn the_key_comes_from_its_property_where_there_is_one() {
        let properties = RetryProperties::default();
        let of = |value: Option<Value>| {
            let with: Vec<_> = value.map(|value| ("original_key", value)).into_iter().collect();
            key(&event(&with), &properties).map(str::to_owned)
        };
        assert_eq!(of(Some(Value::from("k"))).as_deref(), Some("k"));
        assert_eq!(of(Some(Value::Binary("k".into()))).as_deref(), Some("k"));
        for none in [None, Some(Value::from("")), Some(Value::Int(5)), Some(Value::Null)] {
            assert_eq!(of(none).as_deref(), Some("of the event"));
        }
    }
}
