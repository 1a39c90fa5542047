//! Values of the SDK to ours and back.
//!
//! The SDK keeps a time as a `SystemTime`: it takes the milliseconds for an unsigned number, so a
//! time before 1970 comes as one in the far future, and the one value -62,135,596,800,000, the year
//! 1, as none. Both ways lose nothing, so the number is restored, and the same way back.

use std::time::{Duration, SystemTime};

use azure_core_amqp::message::AmqpMessageId;
use azure_core_amqp::{
    AmqpDescribed, AmqpDescriptor, AmqpList, AmqpOrderedMap, AmqpSimpleValue, AmqpSymbol,
    AmqpTimestamp, AmqpValue,
};
use bytes::Bytes;

use crate::event::{Described, Descriptor, MessageId, Value};

/// What the SDK has no time for: 0001-01-01T00:00:00Z.
const YEAR_ONE_MILLIS: i64 = -62_135_596_800_000;

/// The milliseconds since 1970 that a client sent.
pub(super) fn millis(time: &AmqpTimestamp) -> i64 {
    let Some(time) = time.0 else {
        return YEAR_ONE_MILLIS;
    };
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    // Back over the sign that the SDK took for a digit.
    u64::try_from(since.as_millis()).map_or(i64::MAX, u64::cast_signed)
}

/// The time that the SDK sends as these milliseconds since 1970.
pub(super) fn timestamp(millis: i64) -> AmqpTimestamp {
    if millis == YEAR_ONE_MILLIS {
        return AmqpTimestamp(None);
    }
    let since = Duration::from_millis(millis.cast_unsigned());
    AmqpTimestamp(SystemTime::UNIX_EPOCH.checked_add(since))
}

/// Whether more than so many values are within each other.
pub(super) fn is_deeper_than(value: &AmqpValue, levels: usize) -> bool {
    let within = levels.checked_sub(1);
    let is_too_deep = |value: &AmqpValue| within.is_none_or(|levels| is_deeper_than(value, levels));
    match value {
        AmqpValue::List(values) => within.is_none() || values.iter().any(is_too_deep),
        AmqpValue::Array(values) => within.is_none() || values.iter().any(is_too_deep),
        AmqpValue::Map(pairs) => {
            within.is_none()
                || pairs.iter().any(|(key, value)| is_too_deep(key) || is_too_deep(value))
        }
        AmqpValue::Described(described) => is_too_deep(&described.value),
        // A described list: two levels.
        AmqpValue::Composite(composite) => {
            levels < 2 || composite.value().iter().any(|value| is_deeper_than(value, levels - 2))
        }
        _ => false,
    }
}

/// Whether an array is in it that the SDK's encoder (`serde_amqp` 0.16) writes wrongly: one of lists, maps, arrays, described
/// values or nothings. The service accepts such an event, and nobody can read it. A single list or array is written rightly.
/// Nothing that is nested too deeply is asked for.
pub(super) fn has_unwritable_array(value: &Value) -> bool {
    let is_wrong = |values: &[Value]| match values {
        [Value::List(_) | Value::Array(_)] => false,
        [first, ..] => !first.is_simple() || matches!(first, Value::Null | Value::Described(_)),
        [] => false,
    };
    match value {
        Value::Array(values) => is_wrong(values) || values.iter().any(has_unwritable_array),
        Value::List(values) => values.iter().any(has_unwritable_array),
        Value::Map(pairs) => pairs
            .iter()
            .any(|(key, value)| has_unwritable_array(key) || has_unwritable_array(value)),
        Value::Described(described) => has_unwritable_array(&described.value),
        _ => false,
    }
}

pub(super) fn is_simple_deeper_than(value: &AmqpSimpleValue, levels: usize) -> bool {
    match value {
        AmqpSimpleValue::Described(described) => {
            levels.checked_sub(1).is_none_or(|within| is_deeper_than(&described.value, within))
        }
        _ => false,
    }
}

pub(super) fn received(value: &AmqpValue) -> Value {
    match value {
        AmqpValue::Null => Value::Null,
        AmqpValue::Boolean(truth) => Value::Bool(*truth),
        AmqpValue::UByte(number) => Value::UByte(*number),
        AmqpValue::UShort(number) => Value::UShort(*number),
        AmqpValue::UInt(number) => Value::UInt(*number),
        AmqpValue::ULong(number) => Value::ULong(*number),
        AmqpValue::Byte(number) => Value::Byte(*number),
        AmqpValue::Short(number) => Value::Short(*number),
        AmqpValue::Int(number) => Value::Int(*number),
        AmqpValue::Long(number) => Value::Long(*number),
        AmqpValue::Float(number) => Value::Float(*number),
        AmqpValue::Double(number) => Value::Double(*number),
        AmqpValue::Char(letter) => Value::Char(*letter),
        AmqpValue::TimeStamp(time) => Value::Timestamp(millis(time)),
        AmqpValue::Uuid(id) => Value::Uuid(*id.as_bytes()),
        AmqpValue::Binary(bytes) => Value::Binary(Bytes::copy_from_slice(bytes)),
        AmqpValue::String(text) => Value::String(text.clone()),
        AmqpValue::Symbol(symbol) => Value::Symbol(symbol.0.clone()),
        AmqpValue::Decimal128(bytes) => Value::Decimal128(*bytes),
        AmqpValue::Decimal64(bytes) => Value::Decimal64(*bytes),
        AmqpValue::Decimal32(bytes) => Value::Decimal32(*bytes),
        AmqpValue::List(values) => Value::List(values.iter().map(received).collect()),
        AmqpValue::Map(pairs) => {
            Value::Map(pairs.iter().map(|(key, value)| (received(key), received(value))).collect())
        }
        AmqpValue::Array(values) => Value::Array(values.iter().map(received).collect()),
        AmqpValue::Described(described) => received_described(described),
        // A described list, of which the SDK knows the type.
        AmqpValue::Composite(composite) => {
            let values = AmqpValue::List(composite.value().clone());
            received_described(&AmqpDescribed::new(composite.descriptor().clone(), values))
        }
    }
}

pub(super) fn received_simple(value: &AmqpSimpleValue) -> Value {
    match value {
        AmqpSimpleValue::Null => Value::Null,
        AmqpSimpleValue::Boolean(truth) => Value::Bool(*truth),
        AmqpSimpleValue::UByte(number) => Value::UByte(*number),
        AmqpSimpleValue::UShort(number) => Value::UShort(*number),
        AmqpSimpleValue::UInt(number) => Value::UInt(*number),
        AmqpSimpleValue::ULong(number) => Value::ULong(*number),
        AmqpSimpleValue::Byte(number) => Value::Byte(*number),
        AmqpSimpleValue::Short(number) => Value::Short(*number),
        AmqpSimpleValue::Int(number) => Value::Int(*number),
        AmqpSimpleValue::Long(number) => Value::Long(*number),
        AmqpSimpleValue::Float(number) => Value::Float(*number),
        AmqpSimpleValue::Double(number) => Value::Double(*number),
        AmqpSimpleValue::Char(letter) => Value::Char(*letter),
        AmqpSimpleValue::TimeStamp(time) => Value::Timestamp(millis(time)),
        AmqpSimpleValue::Uuid(id) => Value::Uuid(*id.as_bytes()),
        AmqpSimpleValue::Binary(bytes) => Value::Binary(Bytes::copy_from_slice(bytes)),
        AmqpSimpleValue::String(text) => Value::String(text.clone()),
        AmqpSimpleValue::Symbol(symbol) => Value::Symbol(symbol.0.clone()),
        AmqpSimpleValue::Decimal128(bytes) => Value::Decimal128(*bytes),
        AmqpSimpleValue::Decimal64(bytes) => Value::Decimal64(*bytes),
        AmqpSimpleValue::Decimal32(bytes) => Value::Decimal32(*bytes),
        AmqpSimpleValue::Described(described) => received_described(described),
    }
}

fn received_described(described: &AmqpDescribed) -> Value {
    let descriptor = match &described.descriptor {
        AmqpDescriptor::Code(code) => Descriptor::Code(*code),
        AmqpDescriptor::Name(name) => Descriptor::Name(name.0.clone()),
    };
    Value::Described(Box::new(Described { descriptor, value: received(&described.value) }))
}

pub(super) fn received_id(id: &AmqpMessageId) -> MessageId {
    match id {
        AmqpMessageId::String(text) => MessageId::String(text.clone()),
        AmqpMessageId::Uuid(id) => MessageId::Uuid(*id.as_bytes()),
        AmqpMessageId::Ulong(number) => MessageId::ULong(*number),
        AmqpMessageId::Binary(bytes) => MessageId::Binary(Bytes::copy_from_slice(bytes)),
    }
}

pub(super) fn outgoing_id(id: MessageId) -> AmqpMessageId {
    match id {
        MessageId::String(text) => AmqpMessageId::String(text),
        MessageId::ULong(number) => AmqpMessageId::Ulong(number),
        MessageId::Uuid(bytes) => AmqpMessageId::Uuid(uuid(bytes)),
        MessageId::Binary(bytes) => AmqpMessageId::Binary(bytes.to_vec()),
    }
}

pub(super) fn outgoing(value: Value) -> AmqpValue {
    let each = |values: Vec<Value>| values.into_iter().map(outgoing).collect::<Vec<_>>();
    match value {
        Value::Null => AmqpValue::Null,
        Value::Bool(truth) => AmqpValue::Boolean(truth),
        Value::UByte(number) => AmqpValue::UByte(number),
        Value::UShort(number) => AmqpValue::UShort(number),
        Value::UInt(number) => AmqpValue::UInt(number),
        Value::ULong(number) => AmqpValue::ULong(number),
        Value::Byte(number) => AmqpValue::Byte(number),
        Value::Short(number) => AmqpValue::Short(number),
        Value::Int(number) => AmqpValue::Int(number),
        Value::Long(number) => AmqpValue::Long(number),
        Value::Float(number) => AmqpValue::Float(number),
        Value::Double(number) => AmqpValue::Double(number),
        Value::Decimal32(bytes) => AmqpValue::Decimal32(bytes),
        Value::Decimal64(bytes) => AmqpValue::Decimal64(bytes),
        Value::Decimal128(bytes) => AmqpValue::Decimal128(bytes),
        Value::Char(letter) => AmqpValue::Char(letter),
        Value::Timestamp(millis) => AmqpValue::TimeStamp(timestamp(millis)),
        Value::Uuid(bytes) => AmqpValue::Uuid(uuid(bytes)),
        Value::Binary(bytes) => AmqpValue::Binary(bytes.to_vec()),
        Value::String(text) => AmqpValue::String(text),
        Value::Symbol(text) => AmqpValue::Symbol(AmqpSymbol(text)),
        Value::List(values) => AmqpValue::List(AmqpList(each(values))),
        Value::Array(values) => AmqpValue::Array(each(values)),
        Value::Map(pairs) => {
            let mut map = AmqpOrderedMap::new();
            for (key, value) in pairs {
                map.insert(outgoing(key), outgoing(value));
            }
            AmqpValue::Map(map)
        }
        Value::Described(described) => {
            AmqpValue::Described(Box::new(outgoing_described(*described)))
        }
    }
}

/// A value for application properties, of which [`Value::is_simple`] was asked before: what they
/// cannot hold becomes null.
pub(super) fn outgoing_simple(value: Value) -> AmqpSimpleValue {
    match value {
        Value::Null | Value::List(_) | Value::Map(_) | Value::Array(_) => AmqpSimpleValue::Null,
        Value::Bool(truth) => AmqpSimpleValue::Boolean(truth),
        Value::UByte(number) => AmqpSimpleValue::UByte(number),
        Value::UShort(number) => AmqpSimpleValue::UShort(number),
        Value::UInt(number) => AmqpSimpleValue::UInt(number),
        Value::ULong(number) => AmqpSimpleValue::ULong(number),
        Value::Byte(number) => AmqpSimpleValue::Byte(number),
        Value::Short(number) => AmqpSimpleValue::Short(number),
        Value::Int(number) => AmqpSimpleValue::Int(number),
        Value::Long(number) => AmqpSimpleValue::Long(number),
        Value::Float(number) => AmqpSimpleValue::Float(number),
        Value::Double(number) => AmqpSimpleValue::Double(number),
        Value::Decimal32(bytes) => AmqpSimpleValue::Decimal32(bytes),
        Value::Decimal64(bytes) => AmqpSimpleValue::Decimal64(bytes),
        Value::Decimal128(bytes) => AmqpSimpleValue::Decimal128(bytes),
        Value::Char(letter) => AmqpSimpleValue::Char(letter),
        Value::Timestamp(millis) => AmqpSimpleValue::TimeStamp(timestamp(millis)),
        Value::Uuid(bytes) => AmqpSimpleValue::Uuid(uuid(bytes)),
        Value::Binary(bytes) => AmqpSimpleValue::Binary(bytes.to_vec()),
        Value::String(text) => AmqpSimpleValue::String(text),
        Value::Symbol(text) => AmqpSimpleValue::Symbol(AmqpSymbol(text)),
        Value::Described(described) => {
            AmqpSimpleValue::Described(Box::new(outgoing_described(*described)))
        }
    }
}

fn outgoing_described(described: Described) -> AmqpDescribed {
    let descriptor = match described.descriptor {
        Descriptor::Code(code) => AmqpDescriptor::Code(code),
        Descriptor::Name(name) => AmqpDescriptor::Name(AmqpSymbol(name)),
    };
    AmqpDescribed { descriptor, value: outgoing(described.value) }
}

fn uuid(bytes: [u8; 16]) -> azure_core::Uuid {
    azure_core::Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::MAX_NESTING;

    #[test]
    fn what_is_nested_deeper_than_an_event_may_be_is_known_before_it_is_walked_through() {
        type Nest = fn(Value) -> Value;
        let described = |value| {
            Value::Described(Box::new(Described { descriptor: Descriptor::Code(1), value }))
        };
        let kinds: [Nest; 5] = [
            |value| Value::List(vec![Value::Null, value]),
            |value| Value::Array(vec![value]),
            |value| Value::Map(vec![(Value::Null, value)]),
            |value| Value::Map(vec![(value, Value::Null)]),
            described,
        ];
        for nest in kinds {
            let nested = |levels| (0..levels).fold(Value::Int(1), |value, _| nest(value));
            let (most, more) = (nested(MAX_NESTING), nested(MAX_NESTING + 1));
            assert!(!most.is_deeper_than(MAX_NESTING) && more.is_deeper_than(MAX_NESTING));
            assert!(!is_deeper_than(&outgoing(most.clone()), MAX_NESTING));
            assert!(is_deeper_than(&outgoing(more.clone()), MAX_NESTING));
            // What may be kept is read back from the JSON of a dead letter.
            let text = serde_json::json!({ "record": [{ "body": most.to_json() }] }).to_string();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(Value::from_json(&json["record"][0]["body"]), Some(most));
        }
        let deep = described(Value::List(Vec::new()));
        assert!(is_simple_deeper_than(&outgoing_simple(deep.clone()), 1));
        assert!(!is_simple_deeper_than(&outgoing_simple(deep), 2));
    }

    #[test]
    fn arrays_that_the_encoder_writes_wrongly_are_known_wherever_they_are() {
        let described = |value| {
            Value::Described(Box::new(Described { descriptor: Descriptor::Code(1), value }))
        };
        let (list, array) = (Value::List(vec![Value::Int(1)]), Value::Array(vec![Value::Int(1)]));
        let map = || Value::Map(vec![(Value::Int(1), Value::Null)]);
        for rightly in [
            vec![],
            vec![Value::Int(1), Value::Int(2)],
            vec![Value::from("a"), Value::from("")],
            vec![list.clone()],
            vec![array.clone()],
        ] {
            assert!(!has_unwritable_array(&Value::Array(rightly.clone())), "{rightly:?}");
        }
        for wrongly in [
            vec![list.clone(), list.clone()],
            vec![array.clone(), array.clone()],
            vec![map()],
            vec![described(Value::Int(1))],
            vec![Value::Null],
        ] {
            let value = Value::Array(wrongly);
            for value in [
                value.clone(),
                Value::List(vec![Value::Null, value.clone()]),
                Value::Map(vec![(value.clone(), Value::Null)]),
                Value::Map(vec![(Value::Null, value.clone())]),
                described(value.clone()),
                Value::Array(vec![Value::List(vec![value])]),
            ] {
                assert!(has_unwritable_array(&value), "{value:?}");
            }
        }
    }

    #[test]
    fn times_come_back_over_the_sign_that_the_sdk_loses() {
        for number in [0, 1, -1, -1000, YEAR_ONE_MILLIS, YEAR_ONE_MILLIS - 1, i64::MIN, i64::MAX] {
            assert_eq!(millis(&timestamp(number)), number, "{number}");
            let value = Value::Timestamp(number);
            assert_eq!(received(&outgoing(value.clone())), value);
        }
    }

    #[test]
    fn values_and_simple_values_are_the_same_both_ways() {
        let point = Described {
            descriptor: Descriptor::Name("com.example:point".to_owned()),
            value: Value::List(vec![Value::Int(1), Value::Double(0.5)]),
        };
        for value in [
            Value::Null,
            Value::Bool(true),
            Value::UByte(u8::MAX),
            Value::UShort(u16::MAX),
            Value::UInt(u32::MAX),
            Value::ULong(u64::MAX),
            Value::Byte(i8::MIN),
            Value::Short(i16::MIN),
            Value::Int(i32::MIN),
            Value::Long(i64::MIN),
            Value::Float(0.1),
            Value::Double(0.1),
            Value::Decimal32([1; 4]),
            Value::Decimal64([2; 8]),
            Value::Decimal128([3; 16]),
            Value::Char('ä'),
            Value::Timestamp(-5),
            Value::Uuid([7; 16]),
            Value::Binary(Bytes::from_static(b"\0\xff")),
            Value::String("text".to_owned()),
            Value::Symbol("symbol".to_owned()),
            Value::Described(Box::new(point)),
        ] {
            assert_eq!(received(&outgoing(value.clone())), value);
            assert_eq!(received_simple(&outgoing_simple(value.clone())), value);
        }
        for value in [
            Value::List(vec![Value::Null, Value::from("x")]),
            Value::Map(vec![(Value::Int(1), Value::from("x"))]),
            Value::Array(vec![Value::Int(1), Value::Int(2)]),
        ] {
            assert_eq!(received(&outgoing(value.clone())), value);
        }
    }
}
