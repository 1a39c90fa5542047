//! What an event holds, as JSON: one form for records of dead letters and for lines of events.
//!
//! | field | what it holds |
//! | --- | --- |
//! | `key` | the partition key |
//! | `message_id`, `content_type`, … | the [`MessageProperties`], each a field |
//! | `properties` | the application properties, with their types: see [`Value::to_json`] |
//! | `annotations`, `numbered_annotations` | annotations, by name and by number |
//! | `body_text` | the body, where it is one section of bytes and UTF-8; then it is exact |
//! | `body_base64` | the body in base64, where it is one section of bytes and not UTF-8 |
//! | `body_amqp` | the body, where it is anything but one section of bytes |

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::{
    AnnotationKey, Annotations, Body, Event, MessageProperties, OutgoingEvent, Properties, Value,
};
use crate::error::{Error, ErrorClass};

const READ: &str = "read the event";

/// Properties or annotations in JSON, by name or by number.
pub(crate) type JsonBy<K> = BTreeMap<K, Json>;

/// What an event holds, in JSON: key, message properties, properties, annotations and body. What is
/// written of an event is read as the same event, type and value. `Debug` leaves the content out: it is
/// the customer's.
///
/// ```
/// use longshore::event::{EventContent, OutgoingEvent};
///
/// let line = r#"{"key": "customer 7", "properties": {"tries": {"int": 3}}, "body_text": "{}"}"#;
/// let fields = serde_json::from_str(line).expect("JSON");
/// let event: OutgoingEvent = EventContent::from_fields(fields)?.to_outgoing()?;
/// assert_eq!(event.key.as_deref(), Some("customer 7"));
/// # Ok::<(), longshore::Error>(())
/// ```
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventContent {
    /// The partition key the publisher gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Message id, correlation id, media type and the like, each a field; the ids with their types.
    #[serde(flatten)]
    pub message: MessageProperties,
    /// The application properties, with their types.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, Json>,
    /// Annotations that are named, with their types.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, Json>,
    /// Annotations that are numbered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbered_annotations: BTreeMap<u64, Json>,
    /// The body, where it is one section of bytes and UTF-8; then it is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_text: Option<String>,
    /// The body in base64, where it is one section of bytes and not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// The body, where it is anything but one section of bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_amqp: Option<Body>,
}

impl EventContent {
    /// The names of all fields that there may be.
    pub const FIELDS: [&'static str; 20] = [
        "key",
        "properties",
        "annotations",
        "numbered_annotations",
        "body_text",
        "body_base64",
        "body_amqp",
        "message_id",
        "correlation_id",
        "content_type",
        "content_encoding",
        "subject",
        "to",
        "reply_to",
        "user_id",
        "group_id",
        "group_sequence",
        "reply_to_group_id",
        "creation_time",
        "absolute_expiry_time",
    ];

    /// What an event holds. One that [could not be read](Event::unreadable) has no body.
    pub fn of(event: &Event) -> Self {
        let body_amqp = event.structured_body().cloned();
        let (body_text, body_base64) = match std::str::from_utf8(event.body()) {
            _ if body_amqp.is_some() || event.unreadable().is_some() => (None, None),
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(BASE64.encode(event.body()))),
        };
        let (annotations, numbered_annotations) = split(event.annotations());
        let properties = event.properties().iter();
        Self {
            key: event.key().map(str::to_owned),
            message: event.message_properties().cloned().unwrap_or_default(),
            properties: properties.map(|(name, value)| (name.clone(), value.to_json())).collect(),
            annotations,
            numbered_annotations,
            body_text,
            body_base64,
            body_amqp,
        }
    }

    /// Reads the fields of an event.
    ///
    /// # Errors
    /// `BadData` where a field is none of [`EventContent::FIELDS`], or not what it must be; the message
    /// names it.
    pub fn from_fields(fields: Map<String, Json>) -> Result<Self, Error> {
        if let Some(unknown) = fields.keys().find(|name| !Self::FIELDS.contains(&name.as_str())) {
            return Err(bad_data(format!(
                "it has a field {unknown:?}, and an event has none of that name; its fields are {}",
                Self::FIELDS.join(", ")
            )));
        }
        let whole = Json::Object(fields);
        Self::deserialize(&whole).map_err(|error| {
            // The parser does not say which field it was.
            let fields = whole.as_object().into_iter().flatten();
            let is_wrong = |(name, value): &(&String, &Json)| {
                let alone = Map::from_iter([((*name).clone(), (*value).clone())]);
                Self::deserialize(&Json::Object(alone)).is_err()
            };
            let field = fields.into_iter().find(is_wrong).map(|(name, _)| format!("{name}: "));
            bad_data(format!("{}{error}", field.unwrap_or_default()))
        })
    }

    /// The event to publish, with all that it holds.
    ///
    /// # Errors
    /// `BadData` where a value is not what [`Value::to_json`] writes, and where there is no body, or more
    /// than one; the message names it.
    pub fn to_outgoing(&self) -> Result<OutgoingEvent, Error> {
        let bodies =
            [self.body_text.is_some(), self.body_base64.is_some(), self.body_amqp.is_some()];
        match bodies.into_iter().filter(|is_there| *is_there).count() {
            0 => return Err(bad_data("it has no body: body_text, body_base64 or body_amqp")),
            1 => {}
            _ => {
                return Err(bad_data(
                    "it has more than one of body_text, body_base64 and body_amqp",
                ));
            }
        }
        let body = body_of(&self.body_amqp, &self.body_base64, &self.body_text);
        let body = body
            .transpose()
            .map_err(|error| bad_data("its body_base64 is not base64").with_source(error))?;
        let mut event = OutgoingEvent::new(body.unwrap_or_default());
        event.key.clone_from(&self.key);
        event.structured_body.clone_from(&self.body_amqp);
        event.properties = properties_of(&self.properties, Value::from_json).map_err(bad_data)?;
        let (named, numbered) = (&self.annotations, &self.numbered_annotations);
        event.annotations = annotations_of(named, numbered, Value::from_json).map_err(bad_data)?;
        event.message = self.message.clone();
        Ok(event)
    }
}

impl fmt::Debug for EventContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventContent").field("key", &self.key).finish_non_exhaustive()
    }
}

fn bad_data(message: impl Into<String>) -> Error {
    Error::new(ErrorClass::BadData, READ, message)
}

/// The annotations by name and by number, as JSON has no objects with numbers for keys.
fn split(annotations: &Annotations) -> (JsonBy<String>, JsonBy<u64>) {
    let mut split = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in annotations {
        match key {
            AnnotationKey::Name(name) => split.0.insert(name.clone(), value.to_json()),
            AnnotationKey::Number(number) => split.1.insert(*number, value.to_json()),
        };
    }
    split
}

/// The body that one of the three fields holds; `None` where none is there.
pub(crate) fn body_of(
    amqp: &Option<Body>,
    encoded: &Option<String>,
    text: &Option<String>,
) -> Option<Result<Bytes, base64::DecodeError>> {
    match (amqp, encoded, text) {
        (Some(body), ..) => Some(Ok(body.to_bytes())),
        (_, Some(encoded), _) => Some(BASE64.decode(encoded).map(Bytes::from)),
        (.., Some(text)) => Some(Ok(Bytes::copy_from_slice(text.as_bytes()))),
        _ => None,
    }
}

/// Properties, as `read` reads a value.
///
/// # Errors
/// Which one cannot be read.
pub(crate) fn properties_of(
    properties: &JsonBy<String>,
    read: impl Fn(&Json) -> Option<Value>,
) -> Result<Properties, String> {
    let each = properties.iter();
    each.map(|(name, json)| Ok((name.clone(), value_of("property", name, read(json))?))).collect()
}

/// Annotations, as `read` reads a value.
///
/// # Errors
/// Which one cannot be read.
pub(crate) fn annotations_of(
    named: &JsonBy<String>,
    numbered: &JsonBy<u64>,
    read: impl Fn(&Json) -> Option<Value>,
) -> Result<Annotations, String> {
    let mut annotations = Annotations::new();
    for (name, json) in named {
        let value = value_of("annotation", name, read(json))?;
        annotations.insert(AnnotationKey::Name(name.clone()), value);
    }
    for (number, json) in numbered {
        let value = value_of("annotation", &number.to_string(), read(json))?;
        annotations.insert(AnnotationKey::Number(*number), value);
    }
    Ok(annotations)
}

fn value_of(what: &str, name: &str, value: Option<Value>) -> Result<Value, String> {
    value.ok_or_else(|| format!("its {what} {name:?} is not one of an event"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::event::{EventParts, MessageId, Partition};

    fn fields(json: Json) -> Map<String, Json> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn an_event_comes_back_from_its_json_with_all_types() {
        let mut parts = EventParts::new(Arc::new(Partition::new("orders", "3")), 17, "");
        parts.key = Some("k\u{202e}".to_owned());
        for (name, value) in [
            ("int", Value::Int(3)),
            ("nan", Value::Float(f32::NEG_INFINITY)),
            ("big", Value::ULong(u64::MAX)),
            ("bytes", Value::Binary(Bytes::from_static(b"\0\xff"))),
            ("time", Value::Timestamp(-1)),
        ] {
            parts.properties.insert(name.to_owned(), value.clone());
            parts.annotations.insert(name.into(), value);
        }
        parts.annotations.insert(AnnotationKey::Number(5), 1_u8.into());
        let mut message = MessageProperties::default();
        message.message_id = Some(MessageId::Uuid([7; 16]));
        message.user_id = Some(Bytes::from_static(b"\xff"));
        message.group_sequence = Some(9);
        parts.set_message(message);
        let bodies: [(Bytes, Option<Body>); 5] = [
            (Bytes::new(), None),
            (Bytes::from_static("ä\r\n\0\u{2028}".as_bytes()), None),
            (Bytes::from_static(b"\xff\xfe"), None),
            (Bytes::new(), Some(Body::Data(vec![]))),
            (Bytes::new(), Some(Body::Value(Value::Map(vec![(Value::Null, Value::Int(1))])))),
        ];
        for (body, structured) in bodies {
            let mut parts = parts.clone();
            parts.body = body;
            if let Some(structured) = structured {
                parts.set_structured_body(structured);
            }
            let event = Event::from(parts);
            let text = serde_json::to_string(&EventContent::of(&event)).unwrap();
            let read = EventContent::from_fields(serde_json::from_str(&text).unwrap()).unwrap();
            let (again, copy) = (read.to_outgoing().unwrap(), OutgoingEvent::copy_of(&event));
            assert_eq!((&again.key, &again.body), (&copy.key, &copy.body));
            assert_eq!(again.structured_body, copy.structured_body);
            assert_eq!((again.properties, again.annotations), (copy.properties, copy.annotations));
            assert_eq!(again.message, copy.message);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, said) in [
            (json!({"body_text": "x", "propertes": {}}), "it has a field \"propertes\""),
            (json!({"body_text": 5}), "body_text: invalid type"),
            (json!({"body_text": "x", "group_sequence": "9"}), "group_sequence: "),
            (json!({"body_text": "x", "message_id": {"int": 9}}), "message_id: it is not an id"),
            (json!({"body_text": "x", "numbered_annotations": {"a": 1}}), "numbered_annotations: "),
            (json!({"body_text": "x", "body_base64": "eA=="}), "more than one of body_text"),
            (json!({"key": "k"}), "it has no body"),
            (json!({"body_base64": "?"}), "not base64"),
            (json!({"body_text": "x", "properties": {"p": [1]}}), "its property \"p\""),
            (json!({"body_text": "x", "properties": {"p": {"int": 1e10}}}), "its property \"p\""),
            (json!({"body_text": "x", "annotations": {"a": {}}}), "its annotation \"a\""),
        ] {
            let read = EventContent::from_fields(fields(json.clone()));
            let error = read.and_then(|content| content.to_outgoing()).unwrap_err();
            assert_eq!(error.class(), ErrorClass::BadData);
            assert!(error.to_string().contains(said), "{json}: {error}");
        }
    }

    #[test]
    fn the_names_of_the_fields_are_those_that_are_written() {
        let mut message = MessageProperties::default();
        message.message_id = Some("m".into());
        message.correlation_id = Some("c".into());
        message.user_id = Some(Bytes::from_static(b"u"));
        (message.group_sequence, message.creation_time) = (Some(1), Some(1));
        message.absolute_expiry_time = Some(1);
        for text in [
            &mut message.content_type,
            &mut message.content_encoding,
            &mut message.subject,
            &mut message.to,
            &mut message.reply_to,
            &mut message.group_id,
            &mut message.reply_to_group_id,
        ] {
            *text = Some("t".to_owned());
        }
        let content = EventContent {
            key: Some("k".to_owned()),
            message,
            properties: BTreeMap::from([("p".to_owned(), json!(1))]),
            annotations: BTreeMap::from([("a".to_owned(), json!(1))]),
            numbered_annotations: BTreeMap::from([(1, json!(1))]),
            body_text: Some(String::new()),
            body_base64: Some(String::new()),
            body_amqp: Some(Body::Data(vec![])),
        };
        let json = serde_json::to_value(&content).unwrap();
        let mut written: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut named = EventContent::FIELDS.to_vec();
        written.sort_unstable();
        named.sort_unstable();
        assert_eq!(written, named);
    }
}
