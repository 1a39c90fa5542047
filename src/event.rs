//! What a hub delivers: events, and the names and positions that identify them.
//!
//! An [`Event`] is a reference-counted value: cloning one copies a pointer. Events of a
//! partition are ordered by [`SequenceNumber`]; an [`Offset`] is an opaque string of the
//! service, carried along for stores that other SDKs read, and never parsed or compared here.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
    /// The service's notation of the same place, where it is known.
    pub offset: Option<Offset>,
    /// When the service accepted the event, where it is known; stores keep milliseconds.
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
    /// With the first event enqueued after the consumer looked.
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

/// The value of an event property, as all transports can carry it.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum PropertyValue {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed integer of any width.
    Int(i64),
    /// An unsigned integer beyond the range of [`PropertyValue::Int`].
    UInt(u64),
    /// A floating-point number.
    Float(f64),
    /// Text; also symbols, UUIDs and times, in their usual notation.
    Text(String),
    /// Bytes.
    Binary(Bytes),
}

impl PropertyValue {
    /// The text of a [`PropertyValue::Text`].
    pub fn as_text(&self) -> Option<&str> {
        match self {
            PropertyValue::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl From<&str> for PropertyValue {
    fn from(text: &str) -> Self {
        PropertyValue::Text(text.to_owned())
    }
}

impl From<String> for PropertyValue {
    fn from(text: String) -> Self {
        PropertyValue::Text(text)
    }
}

impl From<i64> for PropertyValue {
    fn from(number: i64) -> Self {
        PropertyValue::Int(number)
    }
}

impl From<bool> for PropertyValue {
    fn from(truth: bool) -> Self {
        PropertyValue::Bool(truth)
    }
}

/// Named properties of an event, in the order of their names.
pub type Properties = BTreeMap<String, PropertyValue>;

/// One event as a handler gets it. Cloning is a reference count.
#[derive(Clone)]
pub struct Event(Arc<EventParts>);

/// The parts of an [`Event`]; what an adapter of a transport fills in.
// What the engine looks at of every event comes first, beside the reference count.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct EventParts {
    /// The event's number in the partition.
    pub sequence_number: SequenceNumber,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The partition the event was received from.
    pub partition: Arc<Partition>,
    /// The event's offset, where the transport gives one.
    pub offset: Option<Offset>,
    /// When the service accepted the event.
    pub enqueued_time: SystemTime,
    /// The partition key the publisher gave.
    pub key: Option<String>,
    /// Application properties: the headers of the event.
    pub properties: Properties,
    /// The publisher's message id, as text.
    pub message_id: Option<String>,
    /// The publisher's correlation id, as text.
    pub correlation_id: Option<String>,
    /// The media type of the body.
    pub content_type: Option<String>,
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
            message_id: None,
            correlation_id: None,
            content_type: None,
        }
    }
}

impl From<EventParts> for Event {
    fn from(parts: EventParts) -> Self {
        Event(Arc::new(parts))
    }
}

impl Event {
    /// The partition the event was received from.
    pub fn partition(&self) -> &Partition {
        &self.0.partition
    }

    /// The event's number in the partition.
    pub fn sequence_number(&self) -> SequenceNumber {
        self.0.sequence_number
    }

    /// The event's offset, where the transport gives one.
    pub fn offset(&self) -> Option<&Offset> {
        self.0.offset.as_ref()
    }

    /// The event's place in its partition.
    pub fn position(&self) -> Position {
        let EventParts { sequence_number, ref offset, enqueued_time, .. } = *self.0;
        Position { sequence_number, offset: offset.clone(), enqueued_time: known(enqueued_time) }
    }

    /// When the service accepted the event.
    pub fn enqueued_time(&self) -> SystemTime {
        self.0.enqueued_time
    }

    /// The same, where the transport said so.
    pub(crate) fn known_enqueued_time(&self) -> Option<SystemTime> {
        known(self.0.enqueued_time)
    }

    /// The partition key the publisher gave.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The body, byte for byte.
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// Application properties: the headers of the event.
    pub fn properties(&self) -> &Properties {
        &self.0.properties
    }

    /// The publisher's message id, as text.
    pub fn message_id(&self) -> Option<&str> {
        self.0.message_id.as_deref()
    }

    /// The publisher's correlation id, as text.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.correlation_id.as_deref()
    }

    /// The media type of the body.
    pub fn content_type(&self) -> Option<&str> {
        self.0.content_type.as_deref()
    }

    /// What the event counts for in a byte budget: its body plus [`EVENT_OVERHEAD_BYTES`].
    pub fn budget_bytes(&self) -> usize {
        self.0.body.len() + EVENT_OVERHEAD_BYTES
    }
}

/// What a transport that says no time leaves is the beginning of time.
fn known(time: SystemTime) -> Option<SystemTime> {
    (time != SystemTime::UNIX_EPOCH).then_some(time)
}

/// What an event costs in memory beside its body: headers, ids and bookkeeping, an estimate.
pub const EVENT_OVERHEAD_BYTES: usize = 512;

/// The body is left out: it is the customer's.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("partition", &format_args!("{}", self.0.partition))
            .field("sequence_number", &self.0.sequence_number)
            .field("key", &self.0.key)
            .field("body_bytes", &self.0.body.len())
            .finish_non_exhaustive()
    }
}

/// An event to publish.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct OutgoingEvent {
    /// Decides the partition, where the publisher does not name one.
    pub key: Option<String>,
    /// The body, byte for byte.
    pub body: Bytes,
    /// Application properties: the headers of the event.
    pub properties: Properties,
    /// An id of the publisher's choice.
    pub message_id: Option<String>,
    /// The media type of the body.
    pub content_type: Option<String>,
}

impl OutgoingEvent {
    /// An event with this body and nothing else.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// Sets the key.
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a property.
    pub fn with_property(
        mut self,
        name: impl Into<String>,
        value: impl Into<PropertyValue>,
    ) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// Sets the message id.
    pub fn with_message_id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// What was put into the event: body, key, ids, names and values.
    pub(crate) fn content_bytes(&self) -> usize {
        let value_bytes = |value: &PropertyValue| match value {
            PropertyValue::Text(text) => text.len(),
            PropertyValue::Binary(bytes) => bytes.len(),
            _ => size_of::<i64>(),
        };
        let properties =
            self.properties.iter().map(|(name, value)| name.len() + value_bytes(value));
        let texts = [&self.key, &self.message_id, &self.content_type].into_iter().flatten();
        self.body.len() + properties.chain(texts.map(String::len)).sum::<usize>()
    }
}

/// The body is left out: it is the customer's.
impl fmt::Debug for OutgoingEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingEvent")
            .field("key", &self.key)
            .field("body_bytes", &self.body.len())
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
