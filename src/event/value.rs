//! Values as AMQP 1.0 has them: what properties, annotations and bodies of events hold.
//!
//! Every type of the [specification][types] has a variant of its own, so that a value that was
//! received and published again reads equal, type and value, at any client.
//!
//! [types]: https://docs.oasis-open.org/amqp/core/v1.0/os/amqp-core-types-v1.0-os.html

use std::fmt;

use bytes::Bytes;

/// Most levels of lists, maps, arrays and described values within each other that an event may have.
///
/// Deeper values are neither published nor received, because hostile nesting would end the process that walks
/// through them. With this limit, the JSON of a dead letter stays within the 128 levels that JSON parsers commonly
/// read: a map takes three levels for each.
pub const MAX_NESTING: usize = 32;

/// A value of AMQP 1.0.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub enum Value {
    /// No value.
    #[default]
    Null,
    /// A truth value.
    Bool(bool),
    /// An unsigned integer of 8 bits.
    UByte(u8),
    /// An unsigned integer of 16 bits.
    UShort(u16),
    /// An unsigned integer of 32 bits.
    UInt(u32),
    /// An unsigned integer of 64 bits.
    ULong(u64),
    /// A signed integer of 8 bits.
    Byte(i8),
    /// A signed integer of 16 bits.
    Short(i16),
    /// A signed integer of 32 bits.
    Int(i32),
    /// A signed integer of 64 bits.
    Long(i64),
    /// A floating-point number of 32 bits.
    Float(f32),
    /// A floating-point number of 64 bits.
    Double(f64),
    /// A decimal number of IEEE 754-2008, as its bytes.
    Decimal32([u8; 4]),
    /// A decimal number of IEEE 754-2008, as its bytes.
    Decimal64([u8; 8]),
    /// A decimal number of IEEE 754-2008, as its bytes.
    Decimal128([u8; 16]),
    /// One Unicode character.
    Char(char),
    /// A point in time, in milliseconds since 1970; times before it are negative.
    Timestamp(i64),
    /// A UUID, as its bytes.
    Uuid([u8; 16]),
    /// Bytes.
    Binary(Bytes),
    /// Text.
    String(String),
    /// A name from a constrained domain: text, and another type than [`Value::String`].
    Symbol(String),
    /// Values of any types.
    List(Vec<Value>),
    /// Pairs of key and value, in the order they came.
    Map(Vec<(Value, Value)>),
    /// Values of one type.
    Array(Vec<Value>),
    /// A value with a descriptor that says what it means.
    Described(Box<Described>),
}

/// A described value of AMQP.
#[derive(Clone, PartialEq, Debug)]
pub struct Described {
    /// What the value means.
    pub descriptor: Descriptor,
    /// The value.
    pub value: Value,
}

/// What a described value means: a number or a name that somebody registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Descriptor {
    /// A numeric code.
    Code(u64),
    /// A symbolic name.
    Name(String),
}

impl Value {
    /// The text of a [`Value::String`] or a [`Value::Symbol`].
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::String(text) | Value::Symbol(text) => Some(text),
            _ => None,
        }
    }

    /// The truth of a [`Value::Bool`].
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The number of an integer of any width, if it fits into an `i64`.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::UByte(number) => Some(number.into()),
            Value::UShort(number) => Some(number.into()),
            Value::UInt(number) => Some(number.into()),
            Value::ULong(number) => number.try_into().ok(),
            Value::Byte(number) => Some(number.into()),
            Value::Short(number) => Some(number.into()),
            Value::Int(number) => Some(number.into()),
            Value::Long(number) => Some(number),
            _ => None,
        }
    }

    /// The number of a [`Value::Float`] or a [`Value::Double`].
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::Float(number) => Some(number.into()),
            Value::Double(number) => Some(number),
            _ => None,
        }
    }

    /// The bytes of a [`Value::Binary`].
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Value::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The type, as the specification spells it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::UByte(_) => "ubyte",
            Value::UShort(_) => "ushort",
            Value::UInt(_) => "uint",
            Value::ULong(_) => "ulong",
            Value::Byte(_) => "byte",
            Value::Short(_) => "short",
            Value::Int(_) => "int",
            Value::Long(_) => "long",
            Value::Float(_) => "float",
            Value::Double(_) => "double",
            Value::Decimal32(_) => "decimal32",
            Value::Decimal64(_) => "decimal64",
            Value::Decimal128(_) => "decimal128",
            Value::Char(_) => "char",
            Value::Timestamp(_) => "timestamp",
            Value::Uuid(_) => "uuid",
            Value::Binary(_) => "binary",
            Value::String(_) => "string",
            Value::Symbol(_) => "symbol",
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Array(_) => "array",
            Value::Described(_) => "described",
        }
    }

    /// Whether application properties may hold it: AMQP allows no lists, maps and arrays there.
    pub fn is_simple(&self) -> bool {
        !matches!(self, Value::List(_) | Value::Map(_) | Value::Array(_))
    }

    /// Whether more than so many values are within each other.
    pub(crate) fn is_deeper_than(&self, levels: usize) -> bool {
        let Some(within) = levels.checked_sub(1) else { return !self.is_flat() };
        match self {
            Value::List(values) | Value::Array(values) => {
                values.iter().any(|value| value.is_deeper_than(within))
            }
            Value::Map(pairs) => pairs
                .iter()
                .any(|(key, value)| key.is_deeper_than(within) || value.is_deeper_than(within)),
            Value::Described(described) => described.value.is_deeper_than(within),
            _ => false,
        }
    }

    /// Whether it may not have other values within.
    fn is_flat(&self) -> bool {
        self.is_simple() && !matches!(self, Value::Described(_))
    }

    /// What it holds, in bytes: the contents of text, bytes and everything within.
    pub(crate) fn content_bytes(&self) -> usize {
        match self {
            Value::Binary(bytes) => bytes.len(),
            Value::String(text) | Value::Symbol(text) => text.len(),
            Value::List(values) | Value::Array(values) => each_bytes(values),
            Value::Map(pairs) => {
                let bytes = |(key, value): &(Value, Value)| {
                    2 * size_of::<Value>() + key.content_bytes() + value.content_bytes()
                };
                pairs.iter().map(bytes).sum()
            }
            Value::Described(described) => described.value.content_bytes(),
            _ => size_of::<i64>(),
        }
    }
}

/// What values hold, in bytes, each with its place in a list.
pub(super) fn each_bytes(values: &[Value]) -> usize {
    values.iter().map(|value| size_of::<Value>() + value.content_bytes()).sum()
}

/// For people: texts, numbers and truths as they are, UUIDs and times in their usual notation,
/// bytes in base64, and everything else as [`Value::to_json`] has it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::String(text) | Value::Symbol(text) => f.write_str(text),
            Value::Bool(truth) => truth.fmt(f),
            Value::ULong(number) => number.fmt(f),
            Value::Float(number) => number.fmt(f),
            Value::Double(number) => number.fmt(f),
            Value::Char(letter) => letter.fmt(f),
            Value::Uuid(bytes) => super::json::uuid_text(bytes).fmt(f),
            Value::Binary(bytes) => super::json::base64(bytes).fmt(f),
            Value::Timestamp(millis) => match crate::timestamp::rfc3339_millis(*millis) {
                Some(time) => time.fmt(f),
                None => write!(f, "{millis} ms after 1970"),
            },
            _ => match self.as_i64() {
                Some(number) => number.fmt(f),
                None => self.to_json().fmt(f),
            },
        }
    }
}

macro_rules! value_from {
    ($($type:ty => $variant:ident),* $(,)?) => {
        $(
            impl From<$type> for Value {
                fn from(value: $type) -> Self {
                    Value::$variant(value.into())
                }
            }
        )*
    };
}

value_from! {
    &str => String, String => String, bool => Bool, char => Char, Bytes => Binary,
    u8 => UByte, u16 => UShort, u32 => UInt, u64 => ULong,
    i8 => Byte, i16 => Short, i32 => Int, i64 => Long, f32 => Float, f64 => Double,
}

/// An id that a publisher gave a message: of any of the four types that AMQP allows.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MessageId {
    /// Text.
    String(String),
    /// A number.
    ULong(u64),
    /// A UUID, as its bytes.
    Uuid([u8; 16]),
    /// Bytes.
    Binary(Bytes),
}

impl MessageId {
    /// The id as text: numbers in decimal, UUIDs in their usual notation, bytes in hexadecimal.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        match self {
            MessageId::String(text) => text.as_str().into(),
            MessageId::ULong(number) => number.to_string().into(),
            MessageId::Uuid(bytes) => super::json::uuid_text(bytes).into(),
            MessageId::Binary(bytes) => super::json::hex(bytes).into(),
        }
    }

    pub(super) fn content_bytes(&self) -> usize {
        match self {
            MessageId::String(text) => text.len(),
            MessageId::Binary(bytes) => bytes.len(),
            MessageId::ULong(_) | MessageId::Uuid(_) => size_of::<Self>(),
        }
    }
}

impl From<&str> for MessageId {
    fn from(text: &str) -> Self {
        MessageId::String(text.to_owned())
    }
}

impl From<&String> for MessageId {
    fn from(text: &String) -> Self {
        MessageId::String(text.clone())
    }
}

impl From<String> for MessageId {
    fn from(text: String) -> Self {
        MessageId::String(text)
    }
}

impl From<MessageId> for Value {
    fn from(id: MessageId) -> Self {
        match id {
            MessageId::String(text) => Value::String(text),
            MessageId::ULong(number) => Value::ULong(number),
            MessageId::Uuid(bytes) => Value::Uuid(bytes),
            MessageId::Binary(bytes) => Value::Binary(bytes),
        }
    }
}

/// The value back where it is of no type that an id may have.
impl TryFrom<Value> for MessageId {
    type Error = Value;

    fn try_from(value: Value) -> Result<Self, Value> {
        Ok(match value {
            Value::String(text) => MessageId::String(text),
            Value::ULong(number) => MessageId::ULong(number),
            Value::Uuid(bytes) => MessageId::Uuid(bytes),
            Value::Binary(bytes) => MessageId::Binary(bytes),
            other => return Err(other),
        })
    }
}
