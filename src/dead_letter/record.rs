//! The record of a dead letter as it is written down, in JSON, by whatever sink.
//!
//! A record holds what is needed to understand the failure and to replay the event: the body
//! comes back byte for byte, values of properties and annotations with their types, as
//! [`Value::to_json`](crate::event::Value::to_json) writes them. Times are RFC 3339 in UTC.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::DeadLetter;
use crate::error::{Error, ErrorClass};
use crate::event::{
    Body, ConsumerGroup, EntityName, EventContent, Incarnation, MessageProperties, Offset,
    PartitionId, SequenceNumber, Unreadable,
};
use crate::outcome::Failure;
use crate::secret::redacted;
use crate::timestamp::rfc3339;

pub(super) const READ: &str = "read the dead letter";

/// A dead letter, written down. `Debug` leaves body and properties out: they are the
/// customer's.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetterRecord {
    /// The layout of the record: [`DeadLetterRecord::VERSION`].
    pub version: u32,
    /// The namespace of the event. Empty if it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// When the hub was created, in milliseconds since 1970. Zero if it is not known.
    #[serde(default = "unknown_incarnation", skip_serializing_if = "is_unknown")]
    pub incarnation: Incarnation,
    /// The entity the event came from.
    pub topic: EntityName,
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset, if the transport gave one.
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
    /// The publisher's message id, correlation id, media type and the like, each a field of the
    /// record; the ids with their types.
    #[serde(flatten)]
    pub message: MessageProperties,
    /// The application properties, with their types.
    pub properties: BTreeMap<String, serde_json::Value>,
    /// Annotations that are named, with their types.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, serde_json::Value>,
    /// Annotations that are numbered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbered_annotations: BTreeMap<u64, serde_json::Value>,
    /// The body, if it is one section of bytes and UTF-8; then it is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_text: Option<String>,
    /// The body in base64, if it is one section of bytes and not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// The body, if it is anything but one section of bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_amqp: Option<Body>,
    /// The size of the body, if it was left out: such an event cannot be replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_omitted_bytes: Option<u64>,
    /// Where the event could not be read, and its number is not known exactly: the first and the
    /// last that it may have. Such an event has no body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_numbers: Option<[SequenceNumber; 2]>,
    /// Why the event failed.
    pub error: DeadLetterFailure,
    /// How many times the handler had the event.
    pub attempts: u32,
    /// When it failed first.
    pub first_failure: String,
    /// When it failed last.
    pub last_failure: String,
    /// The lane of the event, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// What the failure blames, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// When it is to be tried again, of one that is parked; since when a job replays it, of one that is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// How many times it was parked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parkings: u32,
    /// How many owners of its partition ended while it was handled, of one that is parked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub takeovers: u32,
    /// The job that replays it, or did last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// How many times it was replayed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u32,
}

fn unknown_incarnation() -> Incarnation {
    Incarnation(0)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_unknown(incarnation: &Incarnation) -> bool {
    *incarnation == unknown_incarnation()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
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

impl DeadLetterFailure {
    /// Writes a failure down, without what may be secret in its texts.
    pub(super) fn of(failure: &Failure) -> Self {
        Self {
            class: failure.class,
            message: redacted(&failure.message),
            causes: failure.causes.iter().map(|cause| redacted(cause)).collect(),
        }
    }
}

impl DeadLetterRecord {
    /// The layout that this release writes, and the latest it reads. In version 1 there were no
    /// annotations, integers had one width, and `{"float": "NaN"}` was a number of 64 bits. In version 2
    /// there were no namespace and incarnation, and nothing of parking and replay.
    pub const VERSION: u32 = 3;

    /// Writes a dead letter down. What may be secret in texts of the failure is taken out, see
    /// [`redacted`]; body, properties and annotations are as they came.
    pub fn new(letter: &DeadLetter) -> Self {
        let event = &letter.event;
        let EventContent {
            key,
            message,
            properties,
            annotations,
            numbered_annotations,
            body_text,
            body_base64,
            body_amqp,
        } = EventContent::of(event);
        let range = event.unreadable().filter(|unreadable| !unreadable.is_exact());
        Self {
            version: Self::VERSION,
            namespace: letter.namespace.clone(),
            incarnation: letter.incarnation,
            topic: event.partition().entity.clone(),
            partition: event.partition().id.clone(),
            offset: event.offset().cloned(),
            sequence_number: event.sequence_number(),
            enqueued_time: rfc3339(event.enqueued_time()),
            consumer_group: letter.consumer_group.clone(),
            worker: letter.worker.clone(),
            key,
            message,
            properties,
            annotations,
            numbered_annotations,
            body_text,
            body_base64,
            body_amqp,
            body_omitted_bytes: None,
            sequence_numbers: range.map(|Unreadable { first, last, .. }| [*first, *last]),
            error: DeadLetterFailure::of(&letter.failure),
            attempts: letter.attempts,
            first_failure: rfc3339(letter.first_failure),
            last_failure: rfc3339(letter.last_failure),
            lane: letter.lane.as_deref().map(redacted),
            destination: letter.destination.as_deref().map(redacted),
            due: None,
            parkings: letter.parkings,
            takeovers: 0,
            job: letter.job.clone(),
            generation: letter.generation,
        }
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
    /// `BadData` if the text is not a record, or one of a later release.
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

/// What is wrong with a record.
pub(super) fn bad_data(message: impl Into<String>) -> Error {
    Error::new(ErrorClass::BadData, READ, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::event::{
        AnnotationKey, Event, EventParts, MessageId, OutgoingEvent, Partition, Value,
    };
    use crate::outcome::{Blame, Failure};

    fn record(parts: EventParts) -> DeadLetterRecord {
        let letter = DeadLetter::new(
            Event::from(parts),
            "$Default".into(),
            "worker-1",
            Failure {
                class: ErrorClass::Permanent,
                message: "404".to_owned(),
                causes: vec!["not found".to_owned()],
                destination: None,
                blames: Blame::Destination,
            },
            SystemTime::UNIX_EPOCH + Duration::from_secs(60),
        )
        .with_history(3, SystemTime::UNIX_EPOCH)
        .with_origin("ns.example", Incarnation(1_700_000_000_123));
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
        let mut message = MessageProperties::default();
        message.message_id = Some("m".into());
        message.correlation_id = Some(MessageId::ULong(7));
        message.content_type = Some("text/plain".to_owned());
        message.content_encoding = Some("gzip".to_owned());
        message.user_id = Some(Bytes::from_static(b"u"));
        parts.set_message(message);
        parts.properties.insert("tries".to_owned(), 3_i64.into());
        parts.annotations.insert("iothub-connection-device-id".into(), "dev-7".into());
        parts.annotations.insert(AnnotationKey::Number(5), 1_u8.into());
        let json: serde_json::Value =
            serde_json::from_slice(&record(parts).to_json().unwrap()).unwrap();
        assert_eq!(
            json,
            json!({
                "version": 3,
                "namespace": "ns.example",
                "incarnation": 1_700_000_000_123_i64,
                "topic": "orders",
                "partition": "3",
                "offset": "4096",
                "sequence_number": 17,
                "enqueued_time": "1970-01-01T00:00:00.000Z",
                "consumer_group": "$Default",
                "worker": "worker-1",
                "key": "k",
                "message_id": "m",
                "correlation_id": {"ulong": 7},
                "content_type": "text/plain",
                "content_encoding": "gzip",
                "user_id": {"base64": "dQ=="},
                "properties": {"tries": 3},
                "annotations": {"iothub-connection-device-id": "dev-7"},
                "numbered_annotations": {"5": {"ubyte": 1}},
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
            assert_eq!(record.body_bytes(), body.len() as u64);
            assert_eq!(record.to_event().unwrap().body(), &body);
            let without = record.without_body();
            assert_eq!(without.body_bytes(), body.len() as u64);
            let error = without.body().unwrap_err();
            assert!(error.to_string().contains("left out"), "{error}");
        }
    }

    #[test]
    fn an_event_comes_back_with_all_types() {
        let mut parts = parts("");
        for (name, value) in [
            ("null", Value::Null),
            ("ulong", Value::ULong(5)),
            ("whole", Value::Double(1.0)),
            ("infinite", Value::Double(f64::NEG_INFINITY)),
            ("text", Value::from("{\"base64\":\"AA==\"}")),
            ("binary", Value::Binary(Bytes::from_static(b"\0\xff"))),
            ("before 1970", Value::Timestamp(-1)),
        ] {
            parts.properties.insert(name.to_owned(), value.clone());
            parts.annotations.insert(name.into(), value);
        }
        parts.key = Some("k".to_owned());
        let mut message = MessageProperties::default();
        message.message_id = Some(MessageId::Uuid([7; 16]));
        message.subject = Some("s".to_owned());
        parts.set_message(message);
        for body in [
            Body::Data(vec![]),
            Body::Data(vec![Bytes::from_static(b"a"), Bytes::from_static(b"\xff")]),
            Body::Value(Value::Map(vec![(Value::Int(1), Value::from("one"))])),
            Body::Value(Value::Null),
            Body::Sequence(vec![vec![Value::from(1_i64)], vec![]]),
        ] {
            parts.set_structured_body(body);
            let event = Event::from(parts.clone());
            let written = OutgoingEvent::copy_of(&event);
            let record = record(parts.clone());
            let again = OutgoingEvent::copy_of(&record.to_event().unwrap());
            let read = record.to_outgoing().unwrap();
            assert_eq!(again.structured_body, written.structured_body);
            assert_eq!(again.properties, written.properties);
            assert_eq!(again.annotations, written.annotations);
            assert_eq!((&again.message, &again.key), (&written.message, &written.key));
            assert_eq!(read.body, written.body);
            assert_eq!(read.structured_body, written.structured_body);
            assert_eq!(read.properties, written.properties);
            assert_eq!(read.annotations, written.annotations);
            assert_eq!(read.message, written.message);
            assert_eq!(read.key, written.key);
        }
    }

    #[test]
    fn a_record_of_version_1_is_read() {
        let record = DeadLetterRecord::from_json(
            br#"{"version":1,"topic":"t","partition":"0","offset":null,"sequence_number":1,
                "enqueued_time":"","consumer_group":"g","worker":"w","key":null,"message_id":"m",
                "correlation_id":null,"content_type":null,
                "properties":{"f":{"float":"NaN"},"i":5,"u":18446744073709551615},"body_text":"x",
                "error":{"class":"permanent","message":"","causes":[]},"attempts":1,
                "first_failure":"","last_failure":""}"#,
        )
        .unwrap();
        assert_eq!(record.message.message_id, Some("m".into()));
        assert_eq!(record.message.content_type, None);
        let properties = record.event_properties().unwrap();
        assert!(matches!(properties["f"], Value::Double(number) if number.is_nan()));
        assert_eq!(properties["i"], Value::Long(5));
        assert_eq!(properties["u"], Value::ULong(u64::MAX));
        assert_eq!(record.body().unwrap(), "x");
    }

    #[test]
    fn a_record_of_version_2_is_read() {
        let mut json: serde_json::Value =
            serde_json::from_slice(&record(parts("x")).to_json().unwrap()).unwrap();
        let fields = json.as_object_mut().unwrap();
        fields.insert("version".to_owned(), json!(2));
        fields.remove("namespace");
        fields.remove("incarnation");
        let read = DeadLetterRecord::from_json(json.to_string().as_bytes()).unwrap();
        assert_eq!((read.namespace.as_str(), read.incarnation), ("", Incarnation(0)));
        assert_eq!(read.to_event().unwrap().body(), "x");
    }

    #[test]
    fn texts_of_the_failure_hold_no_secret_and_the_body_is_as_it_came() {
        let failure = Failure::permanent("GET https://u:canary@h/a?sig=canary: 404")
            .caused_by(&std::io::Error::other("Authorization: Bearer CANARY.canary"));
        let body = "{\"url\": \"https://h/a?sig=kept\"}";
        let event = Event::from(parts(body));
        let now = SystemTime::UNIX_EPOCH;
        let mut letter = DeadLetter::new(event, "$Default".into(), "worker-1", failure, now);
        letter.destination = Some("https://u:canary@h".to_owned());
        let record = DeadLetterRecord::new(&letter);
        let json = String::from_utf8(record.to_json().unwrap()).unwrap();
        assert!(!json.to_lowercase().contains("canary"), "{json}");
        assert_eq!(record.body().unwrap(), body);
    }

    #[test]
    fn an_event_that_could_not_be_read_has_no_body_and_names_its_numbers() {
        let mut parts = parts("");
        let (first, last) = (SequenceNumber(15), SequenceNumber(17));
        let reason = "bad".to_owned();
        parts.unreadable = Some(Box::new(Unreadable { reason: reason.clone(), first, last }));
        let mut read = record(parts.clone());
        read.error.class = ErrorClass::Unreadable;
        assert_eq!(read.sequence_numbers, Some([first, last]));
        assert_eq!(read.body().unwrap_err().class(), ErrorClass::Unreadable);
        parts.unreadable = Some(Box::new(Unreadable { reason, first: last, last }));
        assert_eq!(record(parts).sequence_numbers, None);
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
