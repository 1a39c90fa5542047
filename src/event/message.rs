//! What a message of AMQP holds beside its body and application properties.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::json;
use super::value::{MAX_NESTING, MessageId, Value, each_bytes};

/// The properties section of a message: those that the specification names. All are the
/// publisher's, and all may be missing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct MessageProperties {
    /// An id of the publisher's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// The id of another message, to which this one belongs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<MessageId>,
    /// The media type of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// How the body is encoded beyond its media type, for example `gzip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// What the message is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Where it is to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Where an answer is to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The user that produced it.
    #[serde(skip_serializing_if = "Option::is_none", with = "json::optional_bytes")]
    pub user_id: Option<Bytes>,
    /// The group it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// Its place within the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_sequence: Option<u32>,
    /// The group that an answer belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to_group_id: Option<String>,
    /// When it was made, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<i64>,
    /// When it is of no use any more, in milliseconds since 1970. Nothing is dropped for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absolute_expiry_time: Option<i64>,
}

impl MessageProperties {
    /// Whether there are no properties.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn content_bytes(&self) -> usize {
        let ids = [&self.message_id, &self.correlation_id].into_iter().flatten();
        let texts = [
            &self.content_type,
            &self.content_encoding,
            &self.subject,
            &self.to,
            &self.reply_to,
            &self.group_id,
            &self.reply_to_group_id,
        ];
        ids.map(MessageId::content_bytes).sum::<usize>()
            + texts.into_iter().flatten().map(String::len).sum::<usize>()
            + self.user_id.as_ref().map_or(0, Bytes::len)
    }
}

/// The name of an annotation: text, or, rarely, a number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AnnotationKey {
    /// A symbol, for example `iothub-connection-device-id`.
    Name(String),
    /// A number; the specification reserves them.
    Number(u64),
}

impl fmt::Display for AnnotationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnnotationKey::Name(name) => f.write_str(name),
            AnnotationKey::Number(number) => number.fmt(f),
        }
    }
}

impl From<&str> for AnnotationKey {
    fn from(name: &str) -> Self {
        AnnotationKey::Name(name.to_owned())
    }
}

/// Annotations of a message: what its transports and services say of it, for example IoT Hub of a
/// device. Those that the broker writes of every event (sequence number, offset, time, key) are
/// fields of the event instead.
pub type Annotations = BTreeMap<AnnotationKey, Value>;

/// A body that is anything but one section of bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Body {
    /// Sections of bytes; none, or several.
    #[serde(with = "sections")]
    Data(Vec<Bytes>),
    /// One value.
    Value(Value),
    /// Lists of values.
    Sequence(Vec<Vec<Value>>),
}

impl Body {
    /// The body as bytes: of sections of bytes, all of them in a row; of a value that is text or
    /// bytes, those; of anything else its JSON, with all types.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Body::Data(sections) => match sections.as_slice() {
                [] => Bytes::new(),
                [section] => section.clone(),
                sections => Bytes::from(sections.concat()),
            },
            Body::Value(Value::Binary(bytes)) => bytes.clone(),
            Body::Value(Value::String(text)) => Bytes::copy_from_slice(text.as_bytes()),
            Body::Value(value) => value.to_json().to_string().into(),
            Body::Sequence(lists) => {
                let json = |list: &Vec<Value>| {
                    list.iter().map(Value::to_json).collect::<serde_json::Value>()
                };
                lists.iter().map(json).collect::<serde_json::Value>().to_string().into()
            }
        }
    }

    /// Whether a value of it is nested deeper than [`MAX_NESTING`].
    pub(super) fn is_nested_too_deeply(&self) -> bool {
        let is_too_deep = |value: &Value| value.is_deeper_than(MAX_NESTING);
        match self {
            Body::Data(_) => false,
            Body::Value(value) => is_too_deep(value),
            Body::Sequence(lists) => lists.iter().flatten().any(is_too_deep),
        }
    }

    pub(super) fn content_bytes(&self) -> usize {
        match self {
            Body::Data(sections) => sections.iter().map(Bytes::len).sum(),
            Body::Value(value) => value.content_bytes(),
            Body::Sequence(lists) => lists.iter().map(|list| each_bytes(list)).sum(),
        }
    }
}

/// Sections of bytes as JSON: a list of texts in base64.
mod sections {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Value;

    pub(super) fn serialize<S: Serializer>(
        sections: &[Bytes],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let values: Vec<Value> = sections.iter().cloned().map(Value::Binary).collect();
        values.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Bytes>, D::Error> {
        let values = Vec::<Value>::deserialize(deserializer)?;
        let bytes = |value| match value {
            Value::Binary(bytes) => Ok(bytes),
            _ => Err(serde::de::Error::custom("a section is no bytes")),
        };
        values.into_iter().map(bytes).collect()
    }
}

/// The text of an id, borrowed where it is text.
pub(super) fn text(id: Option<&MessageId>) -> Option<Cow<'_, str>> {
    id.map(MessageId::text)
}
