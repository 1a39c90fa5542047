//! Events to publish.

use std::fmt;

use bytes::Bytes;

use super::message::{AnnotationKey, Annotations, Body, MessageProperties};
use super::value::{MAX_NESTING, MessageId, Value};
use super::{Event, Properties, properties_bytes};

/// An event to publish.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct OutgoingEvent {
    /// Decides the partition, if the publisher does not name one.
    pub key: Option<String>,
    /// The body, byte for byte.
    pub body: Bytes,
    /// A body that is anything but one section of bytes; it goes out in place of `body`.
    pub structured_body: Option<Body>,
    /// Application properties: the headers of the event.
    pub properties: Properties,
    /// Annotations; those that the broker writes itself are its own.
    pub annotations: Annotations,
    /// Ids, media type, encoding, subject and the like.
    pub message: MessageProperties,
}

impl OutgoingEvent {
    /// An event with this body and nothing else.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// An event with everything that this one holds: key, body, properties, annotations and message
    /// properties. Published, it reads equal, type and value. The SDK for Event Hubs gives a message
    /// id to an event that has none.
    pub fn copy_of(event: &Event) -> Self {
        Self {
            key: event.key().map(str::to_owned),
            body: event.body().clone(),
            structured_body: event.structured_body().cloned(),
            properties: event.properties().clone(),
            annotations: event.annotations().clone(),
            message: event.message_properties().cloned().unwrap_or_default(),
        }
    }

    /// Sets the key.
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets a body that is anything but one section of bytes.
    pub fn with_structured_body(mut self, body: Body) -> Self {
        self.body = body.to_bytes();
        self.structured_body = Some(body);
        self
    }

    /// Adds a property. AMQP allows no lists, maps and arrays here.
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// Adds an annotation.
    pub fn with_annotation(
        mut self,
        name: impl Into<AnnotationKey>,
        value: impl Into<Value>,
    ) -> Self {
        self.annotations.insert(name.into(), value.into());
        self
    }

    /// Sets the message id.
    pub fn with_message_id(mut self, id: impl Into<MessageId>) -> Self {
        self.message.message_id = Some(id.into());
        self
    }

    /// Sets the correlation id.
    pub fn with_correlation_id(mut self, id: impl Into<MessageId>) -> Self {
        self.message.correlation_id = Some(id.into());
        self
    }

    /// Sets the media type of the body.
    pub fn with_content_type(mut self, media_type: impl Into<String>) -> Self {
        self.message.content_type = Some(media_type.into());
        self
    }

    /// Says how the body is encoded beyond its media type, for example `gzip`.
    pub fn with_content_encoding(mut self, encoding: impl Into<String>) -> Self {
        self.message.content_encoding = Some(encoding.into());
        self
    }

    /// Says what the event is about.
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.message.subject = Some(subject.into());
        self
    }

    /// A property that AMQP does not allow: its name, and the type of its value. AMQP has no lists,
    /// maps and arrays in application properties.
    pub fn property_not_allowed(&self) -> Option<(&str, &'static str)> {
        let found = self.properties.iter().find(|(_, value)| !value.is_simple());
        found.map(|(name, value)| (name.as_str(), value.type_name()))
    }

    /// Whether a value of it is nested deeper than [`MAX_NESTING`].
    pub fn is_nested_too_deeply(&self) -> bool {
        let is_too_deep = |value: &Value| value.is_deeper_than(MAX_NESTING);
        self.properties.values().chain(self.annotations.values()).any(is_too_deep)
            || self.structured_body.as_ref().is_some_and(Body::is_nested_too_deeply)
    }

    /// What was put into the event: body, key, ids, names and values.
    pub(crate) fn content_bytes(&self) -> usize {
        let body = match &self.structured_body {
            Some(body) => body.content_bytes(),
            None => self.body.len(),
        };
        let annotations = self.annotations.values().map(Value::content_bytes).sum::<usize>();
        body + properties_bytes(&self.properties)
            + annotations
            + self.message.content_bytes()
            + self.key.as_ref().map_or(0, String::len)
    }
}

/// The content is left out: it is the customer's.
impl fmt::Debug for OutgoingEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingEvent")
            .field("key", &self.key)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
