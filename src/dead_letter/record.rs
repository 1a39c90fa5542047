//! The record of a dead letter as it is written down, in JSON, by whatever sink.
//!
//! A record holds what is needed to understand the failure and to replay the event: the body
//! comes back byte for byte, the properties with their types. Times are RFC 3339 in UTC.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::DeadLetter;
use crate::error::{Error, ErrorClass};
use crate::event::{
    ConsumerGroup, EntityName, Offset, PartitionId, Properties, PropertyValue, SequenceNumber,
};
use crate::timestamp::rfc3339;

const READ: &str = "read the dead letter";

/// The key of a property value that JSON has no notation for.
const BASE64_KEY: &str = "base64";
const FLOAT_KEY: &str = "float";

/// A dead letter, written down. `Debug` leaves body and properties out: they are the
/// customer's.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetterRecord {
    /// The layout of the record: [`DeadLetterRecord::VERSION`].
    pub version: u32,
    /// The entity the event came from.
    pub topic: EntityName,
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset, where the transport gave one.
    pub offset: Option<Offset>,
    /// Its number in the partition.
    pub sequence_number: SequenceNumber,
    /// When the service accepted it.
    pub enqueued_time: String,
    /// The group that consumed it.
    pub consumer_group: ConsumerGroup,
    /// The worker that gave up.
    pub worker: String,
    /// The partition key the publisher gave.
    pub key: Option<String>,
    /// The publisher's message id.
    pub message_id: Option<String>,
    /// The publisher's correlation id.
    pub correlation_id: Option<String>,
    /// The media type of the body.
    pub content_type: Option<String>,
    /// The application properties; bytes are `{"base64": "…"}`, and numbers that JSON does
    /// not carry exactly are `{"float": "NaN"}`. [`DeadLetterRecord::event_properties`] reads them.
    pub properties: Map<String, Value>,
    /// The body, where it is UTF-8; then it is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_text: Option<String>,
    /// The body in base64, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Why the event failed.
    pub error: DeadLetterFailure,
    /// How many times the handler had the event.
    pub attempts: u32,
    /// When it failed first.
    pub first_failure: String,
    /// When it failed last.
    pub last_failure: String,
}

/// Why an event failed, written down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetterFailure {
    /// What kind of failure it was.
    pub class: ErrorClass,
    /// One line.
    pub message: String,
    /// The causes, outermost first.
    pub causes: Vec<String>,
}

impl DeadLetterRecord {
    /// The layout that this release writes, and the latest it reads.
    pub const VERSION: u32 = 1;

    /// Writes a dead letter down.
    pub fn new(letter: &DeadLetter) -> Self {
        let event = &letter.event;
        let (body_text, body_base64) = match std::str::from_utf8(event.body()) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(BASE64.encode(event.body()))),
        };
        Self {
            version: Self::VERSION,
            topic: event.partition().entity.clone(),
            partition: event.partition().id.clone(),
            offset: event.offset().cloned(),
            sequence_number: event.sequence_number(),
            enqueued_time: rfc3339(event.enqueued_time()),
            consumer_group: letter.consumer_group.clone(),
            worker: letter.worker.clone(),
            key: event.key().map(str::to_owned),
            message_id: event.message_id().map(str::to_owned),
            correlation_id: event.correlation_id().map(str::to_owned),
            content_type: event.content_type().map(str::to_owned),
            properties: event
                .properties()
                .iter()
                .map(|(name, value)| (name.clone(), to_json_value(value)))
                .collect(),
            body_text,
            body_base64,
            error: DeadLetterFailure {
                class: letter.failure.class,
                message: letter.failure.message.clone(),
                causes: letter.failure.causes.clone(),
            },
            attempts: letter.attempts,
            first_failure: rfc3339(letter.first_failure),
            last_failure: rfc3339(letter.last_failure),
        }
    }

    /// The body of the event, byte for byte.
    ///
    /// # Errors
    /// `BadData` where the record was damaged.
    pub fn body(&self) -> Result<Bytes, Error> {
        match (&self.body_base64, &self.body_text) {
            (Some(encoded), _) => BASE64.decode(encoded).map(Bytes::from).map_err(|error| {
                bad_data("its body_base64 is not base64; replay the event from elsewhere")
                    .with_source(error)
            }),
            (None, Some(text)) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, None) => Err(bad_data(
                "it has neither body_text nor body_base64; replay the event from elsewhere",
            )),
        }
    }

    /// The properties of the event, with their types.
    ///
    /// # Errors
    /// `BadData` where the record was damaged.
    pub fn event_properties(&self) -> Result<Properties, Error> {
        self.properties
            .iter()
            .map(|(name, value)| {
                let value = from_json_value(value).ok_or_else(|| {
                    bad_data(format!("its property {name:?} is not one of an event"))
                })?;
                Ok((name.clone(), value))
            })
            .collect()
    }

    /// The record as JSON text for people and programs.
    ///
    /// # Errors
    /// None that is known; the type leaves room.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| {
            Error::new(
                ErrorClass::Permanent,
                "write the dead letter",
                "it cannot be written as JSON",
            )
            .with_source(error)
        })?;
        json.push(b'\n');
        Ok(json)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// `BadData` where the text is no record, or one of a later release.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        // The version first: a later one may not have the other fields.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let unreadable = |error| bad_data("it is not a dead-letter record").with_source(error);
        let Version { version } = serde_json::from_slice(json).map_err(unreadable)?;
        if version > Self::VERSION {
            return Err(bad_data(format!(
                "its version is {version}, and this release reads up to {}; use a later release",
                Self::VERSION
            )));
        }
        serde_json::from_slice(json).map_err(unreadable)
    }
}

impl fmt::Debug for DeadLetterRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterRecord")
            .field(
                "event",
                &format_args!("{}/{}#{}", self.topic, self.partition, self.sequence_number),
            )
            .field("consumer_group", &self.consumer_group)
            .field("error", &self.error)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

fn bad_data(message: impl Into<String>) -> Error {
    Error::new(ErrorClass::BadData, READ, message)
}

fn to_json_value(value: &PropertyValue) -> Value {
    match value {
        PropertyValue::Null => Value::Null,
        PropertyValue::Bool(truth) => json!(truth),
        PropertyValue::Int(number) => json!(number),
        PropertyValue::UInt(number) => json!(number),
        PropertyValue::Float(number) if survives_json(*number) => json!(number),
        PropertyValue::Float(number) => json!({ FLOAT_KEY: number.to_string() }),
        PropertyValue::Text(text) => json!(text),
        PropertyValue::Binary(bytes) => json!({ BASE64_KEY: BASE64.encode(bytes) }),
    }
}

/// Not NaN, not infinite, and not one of the few that the reader rounds differently.
fn survives_json(number: f64) -> bool {
    let read = json!(number).to_string().parse::<Value>().ok();
    read.and_then(|read| read.as_f64()) == Some(number)
}

fn from_json_value(value: &Value) -> Option<PropertyValue> {
    Some(match value {
        Value::Null => PropertyValue::Null,
        Value::Bool(truth) => PropertyValue::Bool(*truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => PropertyValue::Int(number),
            (None, Some(number)) => PropertyValue::UInt(number),
            (None, None) => PropertyValue::Float(number.as_f64()?),
        },
        Value::String(text) => PropertyValue::Text(text.clone()),
        Value::Object(fields) if fields.len() == 1 => {
            if let Some(encoded) = fields.get(BASE64_KEY) {
                PropertyValue::Binary(BASE64.decode(encoded.as_str()?).ok()?.into())
            } else {
                PropertyValue::Float(fields.get(FLOAT_KEY)?.as_str()?.parse().ok()?)
            }
        }
        Value::Object(_) | Value::Array(_) => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::event::{Event, EventParts, Partition};
    use crate::outcome::Failure;

    fn record(parts: EventParts) -> DeadLetterRecord {
        let letter = DeadLetter::new(
            Event::from(parts),
            "$Default".into(),
            "worker-1",
            Failure {
                class: ErrorClass::Permanent,
                message: "404".to_owned(),
                causes: vec!["not found".to_owned()],
            },
            SystemTime::UNIX_EPOCH + Duration::from_secs(60),
        )
        .with_history(3, SystemTime::UNIX_EPOCH);
        let record = DeadLetterRecord::new(&letter);
        let read = DeadLetterRecord::from_json(&record.to_json().unwrap()).unwrap();
        assert_eq!(read, record);
        read
    }

    fn parts(body: impl Into<Bytes>) -> EventParts {
        EventParts::new(Arc::new(Partition::new("orders", "3")), 17, body)
    }

    #[test]
    fn every_field_of_the_letter_is_written() {
        let mut parts = parts("text");
        parts.offset = Some("4096".into());
        parts.key = Some("k".to_owned());
        parts.message_id = Some("m".to_owned());
        parts.correlation_id = Some("c".to_owned());
        parts.content_type = Some("text/plain".to_owned());
        parts.properties.insert("tries".to_owned(), 3.into());
        let json: Value = serde_json::from_slice(&record(parts).to_json().unwrap()).unwrap();
        assert_eq!(
            json,
            json!({
                "version": 1,
                "topic": "orders",
                "partition": "3",
                "offset": "4096",
                "sequence_number": 17,
                "enqueued_time": "1970-01-01T00:00:00.000Z",
                "consumer_group": "$Default",
                "worker": "worker-1",
                "key": "k",
                "message_id": "m",
                "correlation_id": "c",
                "content_type": "text/plain",
                "properties": {"tries": 3},
                "body_text": "text",
                "error": {"class": "permanent", "message": "404", "causes": ["not found"]},
                "attempts": 3,
                "first_failure": "1970-01-01T00:00:00.000Z",
                "last_failure": "1970-01-01T00:01:00.000Z",
            })
        );
    }

    #[test]
    fn bodies_come_back_byte_for_byte() {
        let all: Vec<u8> = (0..=255).collect();
        for body in [
            Bytes::new(),
            Bytes::from_static(b"plain"),
            Bytes::from_static("\u{feff}ä\r\n\0\u{7f}\"\\\u{2028}".as_bytes()),
            Bytes::from_static(b"\xff\xfe"),
            Bytes::from(all.repeat(4_096)),
            Bytes::from("x".repeat(1 << 20)),
        ] {
            let record = record(parts(body.clone()));
            assert_eq!(record.body().unwrap(), body);
            assert!(record.body_text.is_some() != record.body_base64.is_some());
        }
    }

    #[test]
    fn properties_come_back_with_their_types() {
        let mut parts = parts("");
        for (name, value) in [
            ("null", PropertyValue::Null),
            ("bool", PropertyValue::Bool(true)),
            ("int", PropertyValue::Int(i64::MIN)),
            ("uint", PropertyValue::UInt(u64::MAX)),
            ("whole", PropertyValue::Float(1.0)),
            ("float", PropertyValue::Float(0.1)),
            ("infinite", PropertyValue::Float(f64::NEG_INFINITY)),
            ("text", PropertyValue::Text("{\"base64\":\"AA==\"}".into())),
            ("binary", PropertyValue::Binary(Bytes::from_static(b"\0\xff"))),
        ] {
            parts.properties.insert(name.to_owned(), value);
        }
        let written = parts.properties.clone();
        assert_eq!(record(parts).event_properties().unwrap(), written);
    }

    proptest::proptest! {
        #[test]
        fn any_finite_number_comes_back_exactly(number in proptest::num::f64::NORMAL) {
            let value = PropertyValue::Float(number);
            let json = to_json_value(&value).to_string();
            let read: Value = serde_json::from_str(&json).unwrap();
            proptest::prop_assert_eq!(from_json_value(&read), Some(value));
        }
    }

    #[test]
    fn a_damaged_record_is_bad_data() {
        let good = record(parts("x"));
        for json in ["", "{}", "[]", "{\"version\": 1}", "{\"version\": 99}"] {
            let error = DeadLetterRecord::from_json(json.as_bytes()).unwrap_err();
            assert_eq!(error.class(), ErrorClass::BadData);
        }
        let mut without_body = good.clone();
        without_body.body_text = None;
        assert!(without_body.body().is_err());
        let mut no_base64 = good.clone();
        no_base64.body_base64 = Some("?".to_owned());
        assert!(no_base64.body().is_err());
        let mut list = good;
        list.properties.insert("list".to_owned(), json!([1]));
        assert!(list.event_properties().is_err());
    }

    #[test]
    fn debug_shows_neither_body_nor_properties() {
        let mut parts = parts("secret body");
        parts.properties.insert("token".to_owned(), "secret".into());
        let shown = format!("{:?}", record(parts));
        assert!(shown.contains("orders/3#17"), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}
