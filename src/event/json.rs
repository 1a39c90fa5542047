//! Values of AMQP as JSON, with their types: what dead letters hold, and what the bytes of a body
//! are that came as a value.
//!
//! | AMQP | JSON |
//! | --- | --- |
//! | null, boolean, string | `null`, `true`, `"text"` |
//! | long | `-5` |
//! | double | `1.5`; what JSON does not carry exactly is `{"double": "NaN"}`, another NaN `{"double": "NaN(7ff0000000000001)"}` |
//! | binary | `{"base64": "/wA="}` |
//! | ubyte, ushort, uint, ulong, byte, short, int | `{"int": 5}` |
//! | float | `{"float": 1.5}`, `{"float": "NaN"}`, `{"float": "NaN(7f800001)"}` |
//! | decimal32, decimal64, decimal128 | `{"decimal32": "225e0001"}`, the bytes in hexadecimal |
//! | char, symbol | `{"char": "x"}`, `{"symbol": "text"}` |
//! | timestamp | `{"timestamp": -1000}`, in milliseconds since 1970 |
//! | uuid | `{"uuid": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}` |
//! | list, array | `{"list": […]}`, `{"array": […]}` |
//! | map | `{"map": [[key, value], …]}`: keys may be of any type |
//! | described | `{"described": [descriptor, value]}`, the descriptor a number or a text |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::value::{Described, Descriptor, MAX_NESTING, MessageId, Value};
use crate::hex::from_hex;
pub(super) use crate::hex::hex;

impl Value {
    /// The value as JSON, with its type: see the table of dead letters.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Bool(truth) => json!(truth),
            Value::Long(number) => json!(number),
            Value::String(text) => json!(text),
            Value::Double(number) if survives_json(*number) => json!(number),
            Value::Binary(bytes) => json!({ "base64": base64(bytes) }),
            other => json!({ other.type_name(): other.tagged() }),
        }
    }

    /// What stands beside the name of the type.
    fn tagged(&self) -> Json {
        match self {
            Value::UByte(number) => json!(number),
            Value::UShort(number) => json!(number),
            Value::UInt(number) => json!(number),
            Value::ULong(number) => json!(number),
            Value::Byte(number) => json!(number),
            Value::Short(number) => json!(number),
            Value::Int(number) => json!(number),
            Value::Long(number) | Value::Timestamp(number) => json!(number),
            Value::Float(number) if survives_json((*number).into()) => json!(number),
            Value::Float(number) if is_other(number.to_bits(), f32::NAN.to_bits(), *number) => {
                json!(format!("NaN({:08x})", number.to_bits()))
            }
            Value::Float(number) => json!(number.to_string()),
            Value::Double(number) if is_other(number.to_bits(), f64::NAN.to_bits(), *number) => {
                json!(format!("NaN({:016x})", number.to_bits()))
            }
            Value::Double(number) => json!(number.to_string()),
            Value::Decimal32(bytes) => json!(hex(bytes)),
            Value::Decimal64(bytes) => json!(hex(bytes)),
            Value::Decimal128(bytes) => json!(hex(bytes)),
            Value::Char(letter) => json!(letter),
            Value::Uuid(bytes) => json!(uuid_text(bytes)),
            Value::Binary(bytes) => json!(base64(bytes)),
            Value::String(text) | Value::Symbol(text) => json!(text),
            Value::List(values) | Value::Array(values) => {
                values.iter().map(Value::to_json).collect()
            }
            Value::Map(pairs) => {
                pairs.iter().map(|(key, value)| json!([key.to_json(), value.to_json()])).collect()
            }
            Value::Described(described) => {
                let descriptor = match &described.descriptor {
                    Descriptor::Code(code) => json!(code),
                    Descriptor::Name(name) => json!(name),
                };
                json!([descriptor, described.value.to_json()])
            }
            Value::Null | Value::Bool(_) => Json::Null,
        }
    }

    /// Reads what [`Value::to_json`] wrote. `None` if it is something else, or deeper than [`MAX_NESTING`].
    pub fn from_json(json: &Json) -> Option<Self> {
        // What is within the deepest level may be there.
        read(json, MAX_NESTING + 1)
    }
}

fn read(json: &Json, depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Long(number),
            (None, Some(number)) => Value::ULong(number),
            (None, None) => Value::Double(number.as_f64()?),
        },
        Json::String(text) => Value::String(text.clone()),
        Json::Array(_) => return None,
        Json::Object(fields) => {
            let mut fields = fields.iter();
            let (name, json) = fields.next()?;
            if fields.next().is_some() {
                return None;
            }
            read_tagged(name, json, depth)?
        }
    })
}

fn read_tagged(name: &str, json: &Json, depth: usize) -> Option<Value> {
    Some(match name {
        "base64" => Value::Binary(BASE64.decode(json.as_str()?).ok()?.into()),
        "ubyte" => Value::UByte(json.as_u64()?.try_into().ok()?),
        "ushort" => Value::UShort(json.as_u64()?.try_into().ok()?),
        "uint" => Value::UInt(json.as_u64()?.try_into().ok()?),
        "ulong" => Value::ULong(json.as_u64()?),
        "byte" => Value::Byte(json.as_i64()?.try_into().ok()?),
        "short" => Value::Short(json.as_i64()?.try_into().ok()?),
        "int" => Value::Int(json.as_i64()?.try_into().ok()?),
        "timestamp" => Value::Timestamp(json.as_i64()?),
        "float" => Value::Float(match json.as_str() {
            Some(text) => match nan_bits(text) {
                Some(bits) => f32::from_bits(u32::from_str_radix(bits, 16).ok()?),
                None => text.parse().ok()?,
            },
            None => serde_json::from_value(json.clone()).ok()?,
        }),
        "double" => Value::Double(match nan_bits(json.as_str()?) {
            Some(bits) => f64::from_bits(u64::from_str_radix(bits, 16).ok()?),
            None => json.as_str()?.parse().ok()?,
        }),
        "decimal32" => Value::Decimal32(from_hex(json.as_str()?)?),
        "decimal64" => Value::Decimal64(from_hex(json.as_str()?)?),
        "decimal128" => Value::Decimal128(from_hex(json.as_str()?)?),
        "char" => Value::Char(json.as_str()?.parse().ok()?),
        "symbol" => Value::Symbol(json.as_str()?.to_owned()),
        "uuid" => Value::Uuid(from_hex(&json.as_str()?.replace('-', ""))?),
        "list" => Value::List(read_each(json, depth)?),
        "array" => Value::Array(read_each(json, depth)?),
        "map" => {
            let pair = |json: &Json| match json.as_array()?.as_slice() {
                [key, value] => Some((read(key, depth)?, read(value, depth)?)),
                _ => None,
            };
            Value::Map(json.as_array()?.iter().map(pair).collect::<Option<_>>()?)
        }
        "described" => match json.as_array()?.as_slice() {
            [descriptor, value] => {
                let descriptor = match descriptor {
                    Json::String(name) => Descriptor::Name(name.clone()),
                    code => Descriptor::Code(code.as_u64()?),
                };
                let value = read(value, depth)?;
                Value::Described(Box::new(Described { descriptor, value }))
            }
            _ => return None,
        },
        _ => return None,
    })
}

fn read_each(json: &Json, depth: usize) -> Option<Vec<Value>> {
    json.as_array()?.iter().map(|json| read(json, depth)).collect()
}

/// Not NaN, not infinite, and not one of the few that the reader rounds differently.
fn survives_json(number: f64) -> bool {
    let read = json!(number).to_string().parse::<Json>().ok();
    read.and_then(|read| read.as_f64()).is_some_and(|read| read.to_bits() == number.to_bits())
}

/// Whether a number is a NaN, and not the one that the text `NaN` stands for.
fn is_other<B: PartialEq>(bits: B, usual: B, number: impl Into<f64>) -> bool {
    number.into().is_nan() && bits != usual
}

/// The bits of a NaN that is not the usual one.
fn nan_bits(text: &str) -> Option<&str> {
    text.strip_prefix("NaN(")?.strip_suffix(')')
}

pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// The usual notation: hexadecimal in groups of 8, 4, 4, 4 and 12 digits.
pub(super) fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = hex(bytes);
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    text
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(deserializer)?;
        Value::from_json(&json)
            .ok_or_else(|| serde::de::Error::custom("it is not the JSON of a value of AMQP"))
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Value::from(self.clone()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        MessageId::try_from(Value::deserialize(deserializer)?)
            .map_err(|_other| serde::de::Error::custom("it is not an id of a message"))
    }
}

/// Bytes that may be missing, as [`Value::Binary`] is written.
pub(super) mod optional_bytes {
    use super::*;

    pub(in crate::event) fn serialize<S: Serializer>(
        bytes: &Option<Bytes>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.clone().map(Value::Binary).serialize(serializer)
    }

    pub(in crate::event) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Bytes>, D::Error> {
        match Option::<Value>::deserialize(deserializer)? {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Binary(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(serde::de::Error::custom("they are no bytes")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn back(value: &Value) -> Option<Value> {
        let text = value.to_json().to_string();
        Value::from_json(&text.parse().unwrap())
    }

    #[test]
    fn the_table_is_what_is_written() {
        for (value, json) in [
            (Value::Null, json!(null)),
            (Value::Long(-5), json!(-5)),
            (Value::Double(1.0), json!(1.0)),
            (Value::Double(f64::NEG_INFINITY), json!({"double": "-inf"})),
            (Value::Float(0.1), json!({"float": 0.1_f32})),
            (Value::Int(5), json!({"int": 5})),
            (Value::ULong(u64::MAX), json!({"ulong": u64::MAX})),
            (Value::Decimal32([0x22, 0x5e, 0, 1]), json!({"decimal32": "225e0001"})),
            (Value::Char('ä'), json!({"char": "ä"})),
            (Value::Timestamp(-1000), json!({"timestamp": -1000})),
            (
                Value::Uuid(*b"\xf8\x1d\x4f\xae\x7d\xec\x11\xd0\xa7\x65\x00\xa0\xc9\x1e\x6b\xf6"),
                json!({"uuid": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}),
            ),
            (
                Value::Map(vec![(Value::Int(1), Value::from("one"))]),
                json!({"map": [[{"int": 1}, "one"]]}),
            ),
            (
                Value::Described(Box::new(Described {
                    descriptor: Descriptor::Name("com.example:point".to_owned()),
                    value: Value::List(vec![]),
                })),
                json!({"described": ["com.example:point", {"list": []}]}),
            ),
        ] {
            assert_eq!(value.to_json(), json);
            assert_eq!(back(&value), Some(value));
        }
    }

    #[test]
    fn every_nan_keeps_its_bits() {
        for bits in [0x7ff8_0000_0000_0000, 0xfff8_0000_0000_0000, 0x7ff0_0000_0000_0001, u64::MAX]
        {
            let read = back(&Value::Double(f64::from_bits(bits)));
            let is = read.as_ref().and_then(Value::as_f64).map(f64::to_bits);
            assert_eq!(is, Some(bits), "{bits:x}: {read:?}");
        }
        for bits in [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, u32::MAX] {
            let read = back(&Value::Float(f32::from_bits(bits)));
            assert!(
                matches!(read, Some(Value::Float(is)) if is.to_bits() == bits),
                "{bits:x}: {read:?}"
            );
        }
        assert_eq!(Value::Double(f64::NAN).to_json(), json!({"double": "NaN"}));
    }

    #[test]
    fn what_is_no_value_is_not_read() {
        for json in [
            json!([1]),
            json!({}),
            json!({"int": 1, "long": 2}),
            json!({"byte": 128}),
            json!({"decimal32": "225e00"}),
            json!({"decimal32": "é25e001"}),
            json!({"uuid": "f81d"}),
            json!({"char": "ab"}),
            json!({"double": "NaN(xyz)"}),
            json!({"float": "NaN(7ff8000000000001)"}),
            json!({"base64": "?"}),
            json!({"map": [[1]]}),
            json!({"never heard of": 1}),
        ] {
            assert_eq!(Value::from_json(&json), None, "{json}");
        }
        let nested = |levels| (0..levels).fold(json!(1), |within, _| json!({ "list": [within] }));
        assert_eq!(Value::from_json(&nested(MAX_NESTING + 1)), None);
        assert!(Value::from_json(&nested(MAX_NESTING)).is_some());
    }

    fn values() -> impl Strategy<Value = Value> {
        let simple = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u8>().prop_map(Value::from),
            any::<u16>().prop_map(Value::from),
            any::<u32>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i8>().prop_map(Value::from),
            any::<i16>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            proptest::num::f32::ANY.prop_map(Value::from),
            proptest::num::f64::ANY.prop_map(Value::from),
            any::<[u8; 4]>().prop_map(Value::Decimal32),
            any::<[u8; 8]>().prop_map(Value::Decimal64),
            any::<[u8; 16]>().prop_map(Value::Decimal128),
            any::<char>().prop_map(Value::from),
            any::<i64>().prop_map(Value::Timestamp),
            any::<[u8; 16]>().prop_map(Value::Uuid),
            any::<Vec<u8>>().prop_map(|bytes| Value::Binary(bytes.into())),
            any::<String>().prop_map(Value::from),
            any::<String>().prop_map(Value::Symbol),
        ];
        simple.prop_recursive(4, 32, 4, |inner| {
            let many = || proptest::collection::vec(inner.clone(), 0..4);
            let described = |(code, value)| {
                Value::Described(Box::new(Described { descriptor: Descriptor::Code(code), value }))
            };
            prop_oneof![
                many().prop_map(Value::List),
                many().prop_map(Value::Array),
                proptest::collection::vec((inner.clone(), inner.clone()), 0..4)
                    .prop_map(Value::Map),
                (any::<u64>(), inner.clone()).prop_map(described),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back_with_its_type(value in values()) {
            let read = back(&value).unwrap();
            // NaN is not equal to itself; what is written of it is.
            prop_assert_eq!(read.to_json(), value.to_json());
            prop_assert_eq!(read.type_name(), value.type_name());
            match (&read, &value) {
                (Value::Float(read), Value::Float(value)) => {
                    prop_assert_eq!(read.to_bits(), value.to_bits());
                }
                (Value::Double(read), Value::Double(value)) => {
                    prop_assert_eq!(read.to_bits(), value.to_bits());
                }
                _ => {}
            }
        }

        #[test]
        fn the_text_of_a_value_never_fails(value in values()) {
            let _text = value.to_string();
        }
    }
}
