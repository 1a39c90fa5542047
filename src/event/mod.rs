//! What a hub delivers: events, and the names and positions that identify them.
//!
//! An [`Event`] is a reference-counted value: cloning one copies a pointer. Events of a
//! partition are ordered by [`SequenceNumber`]; an [`Offset`] is an opaque string of the
//! service, carried along for stores that other SDKs read, and never parsed or compared here.

mod content;
mod json;
mod message;
mod outgoing;
mod value;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use content::EventContent;
pub(crate) use content::{annotations_of, body_of, properties_of};
pub use message::{AnnotationKey, Annotations, Body, MessageProperties};
pub use outgoing::OutgoingEvent;
pub use value::{Described, Descriptor, MAX_NESTING, MessageId, Value};

macro_rules! text_type {
    ($(#[$attribute:meta])* $name:ident) => {
        $(#[$attribute])*
        #[derive(Clone, serde::Serialize, serde::Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Wraps a name as the service spells it.
            pub fn new(name: impl AsRef<str>) -> Self {
                Self(std::sync::Arc::from(name.as_ref()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self::new(name)
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $crate::event::text_type! {
            $(#[$doc])*
            #[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
            $name
        }
    };
}

macro_rules! caseless_name_type {
    ($(#[$doc:meta])* $name:ident) => {
        text_type! {
            $(#[$doc])*
            ///
            /// The service takes names that differ only by case for one name, and so do `==`,
            /// the order and the hash. It is shown as it is spelled.
            $name
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.eq_ignore_ascii_case(&other.0)
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                compare_caseless(&self.0, &other.0)
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                hash_caseless(&self.0, state);
            }
        }
    };
}

pub(crate) use {name_type, text_type};

/// The order of names that are one whatever their case.
pub(crate) fn compare_caseless(one: &str, other: &str) -> Ordering {
    one.bytes()
        .map(|byte| byte.to_ascii_lowercase())
        .cmp(other.bytes().map(|byte| byte.to_ascii_lowercase()))
}

/// The hash that goes with [`compare_caseless`].
pub(crate) fn hash_caseless<H: Hasher>(name: &str, state: &mut H) {
    for byte in name.bytes() {
        state.write_u8(byte.to_ascii_lowercase());
    }
    state.write_u8(0xff);
}

caseless_name_type!(
    /// The name of an Event Hubs entity (one hub).
    EntityName
);
caseless_name_type!(
    /// The name of a consumer group of an entity.
    ConsumerGroup
);
name_type!(
    /// The identifier of a partition within its entity; text, as the service gives it.
    PartitionId
);
name_type!(
    /// Where an event stands in its partition's log, in the service's own opaque notation.
    ///
    /// Never compared or parsed: order events by [`SequenceNumber`].
    Offset
);

/// A partition of an entity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Partition {
    /// The entity the partition belongs to.
    pub entity: EntityName,
    /// The partition's identifier within the entity.
    pub id: PartitionId,
}

impl Partition {
    /// Names the partition `id` of `entity`.
    pub fn new(entity: impl Into<EntityName>, id: impl Into<PartitionId>) -> Self {
        Self { entity: entity.into(), id: id.into() }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.entity, self.id)
    }
}

/// The number the service gave an event within its partition.
///
/// Numbers grow along the log, with gaps: the successor of 7 need not be 8.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SequenceNumber(pub i64);

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of one event in its partition. As a checkpoint it is inclusive: the event at
/// the position is settled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Position {
    /// Orders positions of one partition.
    pub sequence_number: SequenceNumber,
    /// The notation of the service for the same place, if it is known.
    pub offset: Option<Offset>,
    /// When the service accepted the event, if it is known. Stores keep milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::timestamp::millis")]
    pub enqueued_time: Option<SystemTime>,
}

impl Position {
    /// The position of the event with this sequence number, all else unknown.
    pub fn at(sequence_number: i64) -> Self {
        Self { sequence_number: SequenceNumber(sequence_number), offset: None, enqueued_time: None }
    }
}

/// Where to begin in a partition that has no checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StartPosition {
    /// With the oldest event the log still holds.
    #[default]
    Earliest,
    /// With the first event that is enqueued after the consumer has read the hub.
    Latest,
    /// With the first event enqueued at this time or later.
    EnqueuedAt(SystemTime),
    /// With the event of this sequence number, or the first after it.
    SequenceNumber(SequenceNumber),
}

/// The moment a hub was created: two hubs of one name and different incarnations are
/// different logs, whose sequence numbers do not compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub i64);

impl Incarnation {
    /// The incarnation of a hub created at `created_at`, in milliseconds since 1970.
    pub fn from_created_at(created_at: SystemTime) -> Self {
        Self(crate::timestamp::unix_millis(created_at))
    }
}

/// Named properties of an event, in the order of their names.
pub type Properties = BTreeMap<String, Value>;

/// One event as a handler gets it. Cloning is a reference count.
#[derive(Clone)]
pub struct Event(Arc<Counted>);

// What the engine looks at of every event comes first, beside the reference count.
#[repr(C)]
struct Counted {
    budget_bytes: usize,
    parts: EventParts,
}

/// The parts of an [`Event`]; what an adapter of a transport fills in.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct EventParts {
    /// The event's number in the partition.
    pub sequence_number: SequenceNumber,
    /// The body as bytes; of a body that is not one section of bytes, [`Body::to_bytes`].
    pub body: Bytes,
    /// The partition the event was received from.
    pub partition: Arc<Partition>,
    /// Why the event could not be read; it then has no content.
    pub unreadable: Option<Box<Unreadable>>,
    /// The event's offset, if the transport gives one.
    pub offset: Option<Offset>,
    /// When the service accepted the event.
    pub enqueued_time: SystemTime,
    /// The partition key the publisher gave.
    pub key: Option<String>,
    /// Application properties: the headers of the event.
    pub properties: Properties,
    /// Annotations that are no field of the event.
    pub annotations: Annotations,
    /// Ids, media type, encoding, subject and the like, if there are any.
    pub message: Option<Box<MessageProperties>>,
    /// The body as AMQP has it, if it is anything but one section of bytes.
    pub structured_body: Option<Box<Body>>,
}

/// An event that was received and cannot be read: its content is in the hub, and nowhere here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// Why not, in one line.
    pub reason: String,
    /// The event's number is not below this one,
    pub first: SequenceNumber,
    /// and not above this one. Both are the event's own number where that is known.
    pub last: SequenceNumber,
}

impl Unreadable {
    /// Whether the event's number is known exactly.
    pub fn is_exact(&self) -> bool {
        self.first == self.last
    }
}

impl EventParts {
    /// The parts of an event without key, properties or ids.
    pub fn new(partition: Arc<Partition>, sequence_number: i64, body: impl Into<Bytes>) -> Self {
        Self {
            partition,
            sequence_number: SequenceNumber(sequence_number),
            offset: None,
            enqueued_time: SystemTime::UNIX_EPOCH,
            key: None,
            body: body.into(),
            properties: Properties::new(),
            annotations: Annotations::new(),
            message: None,
            structured_body: None,
            unreadable: None,
        }
    }

    /// Sets the message properties. If all are missing, the event has none.
    pub fn set_message(&mut self, properties: MessageProperties) {
        self.message = (!properties.is_empty()).then(|| Box::new(properties));
    }

    /// Sets a body that is anything but one section of bytes.
    pub fn set_structured_body(&mut self, body: Body) {
        self.body = body.to_bytes();
        self.structured_body = Some(Box::new(body));
    }

    fn content_bytes(&self) -> usize {
        let annotations = self.annotations.values().map(Value::content_bytes).sum::<usize>();
        self.body.len()
            + properties_bytes(&self.properties)
            + annotations
            + self.message.as_ref().map_or(0, |message| message.content_bytes())
            + self.structured_body.as_ref().map_or(0, |body| body.content_bytes())
    }
}

fn properties_bytes(properties: &Properties) -> usize {
    properties.iter().map(|(name, value)| name.len() + value.content_bytes()).sum()
}

impl From<EventParts> for Event {
    fn from(parts: EventParts) -> Self {
        let budget_bytes = parts.content_bytes() + EVENT_OVERHEAD_BYTES;
        Event(Arc::new(Counted { budget_bytes, parts }))
    }
}

impl Event {
    fn parts(&self) -> &EventParts {
        &self.0.parts
    }

    /// The partition the event was received from.
    pub fn partition(&self) -> &Partition {
        &self.parts().partition
    }

    /// The event's number in the partition.
    pub fn sequence_number(&self) -> SequenceNumber {
        self.parts().sequence_number
    }

    /// The event's offset, if the transport gives one.
    pub fn offset(&self) -> Option<&Offset> {
        self.parts().offset.as_ref()
    }

    /// The event's place in its partition.
    pub fn position(&self) -> Position {
        let EventParts { sequence_number, ref offset, enqueued_time, .. } = *self.parts();
        Position { sequence_number, offset: offset.clone(), enqueued_time: known(enqueued_time) }
    }

    /// When the service accepted the event.
    pub fn enqueued_time(&self) -> SystemTime {
        self.parts().enqueued_time
    }

    /// The same, if the transport said so.
    pub(crate) fn known_enqueued_time(&self) -> Option<SystemTime> {
        known(self.parts().enqueued_time)
    }

    /// The partition key the publisher gave.
    pub fn key(&self) -> Option<&str> {
        self.parts().key.as_deref()
    }

    /// The body, byte for byte. A body that is not one section of bytes is a
    /// [`structured_body`](Event::structured_body); then these are its [`Body::to_bytes`].
    pub fn body(&self) -> &Bytes {
        &self.parts().body
    }

    /// The body as AMQP has it, if it is anything but one section of bytes.
    pub fn structured_body(&self) -> Option<&Body> {
        self.parts().structured_body.as_deref()
    }

    /// Application properties: the headers of the event.
    pub fn properties(&self) -> &Properties {
        &self.parts().properties
    }

    /// Annotations that are no field of the event, for example those of IoT Hub.
    pub fn annotations(&self) -> &Annotations {
        &self.parts().annotations
    }

    /// The annotation of this name, for example `iothub-connection-device-id`.
    pub fn annotation(&self, name: &str) -> Option<&Value> {
        if self.parts().annotations.is_empty() {
            return None;
        }
        self.parts().annotations.get(&AnnotationKey::from(name))
    }

    /// Ids, media type, encoding, subject and the like, if the publisher gave any.
    pub fn message_properties(&self) -> Option<&MessageProperties> {
        self.parts().message.as_deref()
    }

    /// The publisher's message id, as text.
    pub fn message_id(&self) -> Option<Cow<'_, str>> {
        message::text(self.message_properties()?.message_id.as_ref())
    }

    /// The publisher's correlation id, as text.
    pub fn correlation_id(&self) -> Option<Cow<'_, str>> {
        message::text(self.message_properties()?.correlation_id.as_ref())
    }

    /// The media type of the body.
    pub fn content_type(&self) -> Option<&str> {
        self.message_properties()?.content_type.as_deref()
    }

    /// How the body is encoded beyond its media type, for example `gzip`.
    pub fn content_encoding(&self) -> Option<&str> {
        self.message_properties()?.content_encoding.as_deref()
    }

    /// What the publisher says the event is about.
    pub fn subject(&self) -> Option<&str> {
        self.message_properties()?.subject.as_deref()
    }

    /// Why the event could not be read. No handler gets such an event: it is a dead letter of the
    /// class [`ErrorClass::Unreadable`](crate::ErrorClass::Unreadable).
    pub fn unreadable(&self) -> Option<&Unreadable> {
        self.parts().unreadable.as_deref()
    }

    /// What the event counts for in a byte budget: its content plus [`EVENT_OVERHEAD_BYTES`].
    pub fn budget_bytes(&self) -> usize {
        self.0.budget_bytes
    }
}

/// What a transport that says no time leaves is the beginning of time.
fn known(time: SystemTime) -> Option<SystemTime> {
    (time != SystemTime::UNIX_EPOCH).then_some(time)
}

/// What an event costs in memory beside its content: an estimate.
pub const EVENT_OVERHEAD_BYTES: usize = 512;

/// The content is left out: it is the customer's.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("partition", &format_args!("{}", self.partition()))
            .field("sequence_number", &self.sequence_number())
            .field("key", &self.key())
            .field("body_bytes", &self.body().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    #[test]
    fn names_of_hubs_and_groups_are_one_whatever_their_case() {
        let spelled = ["orders", "Orders", "ORDERS"].map(EntityName::from);
        assert_eq!(spelled.iter().collect::<BTreeSet<_>>().len(), 1);
        assert_eq!(spelled.iter().collect::<HashSet<_>>().len(), 1);
        assert_eq!(spelled[1].as_str(), "Orders", "it is shown as it is spelled");
        assert_eq!(ConsumerGroup::from("$Default"), ConsumerGroup::from("$default"));
        assert_ne!(EntityName::from("orders"), EntityName::from("orders-2"));
        assert!(EntityName::from("Orders") < EntityName::from("orders-2"));
        assert_ne!(PartitionId::from("a"), PartitionId::from("A"));
    }
}
