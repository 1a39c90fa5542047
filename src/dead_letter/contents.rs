//! What a record holds of its event, back as it was: the body byte for byte, values with their types.

use bytes::Bytes;

use super::record::{DeadLetterRecord, READ, bad_data};
use crate::error::{Error, ErrorClass};
use crate::event::{
    Annotations, Event, EventParts, OutgoingEvent, Partition, Properties, Value, annotations_of,
    body_of, properties_of,
};
use crate::timestamp::from_rfc3339;

impl DeadLetterRecord {
    /// The same without the body, whose size is kept.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.body_omitted_bytes = Some(self.body_bytes());
        (self.body_text, self.body_base64, self.body_amqp) = (None, None, None);
        self
    }

    /// The same with the content of another record: body, key, properties and annotations. Where the event was
    /// received, and why and how often it failed, stays.
    #[must_use]
    pub fn with_content_of(mut self, edited: &Self) -> Self {
        self.version = edited.version;
        self.key.clone_from(&edited.key);
        self.message = edited.message.clone();
        self.properties.clone_from(&edited.properties);
        self.annotations.clone_from(&edited.annotations);
        self.numbered_annotations.clone_from(&edited.numbered_annotations);
        self.body_text.clone_from(&edited.body_text);
        self.body_base64.clone_from(&edited.body_base64);
        self.body_amqp.clone_from(&edited.body_amqp);
        self.body_omitted_bytes = edited.body_omitted_bytes;
        self
    }

    /// The size of the body, as [`Event::body`] has it.
    pub(crate) fn body_bytes(&self) -> u64 {
        if let Some(bytes) = self.body_omitted_bytes {
            return bytes;
        }
        let of_base64 = |text: &str| {
            let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
            (text.len() / 4 * 3).saturating_sub(padding)
        };
        let bytes = match (&self.body_amqp, &self.body_base64, &self.body_text) {
            (Some(body), ..) => body.to_bytes().len(),
            (_, Some(encoded), _) => of_base64(encoded),
            (.., Some(text)) => text.len(),
            _ => 0,
        };
        bytes as u64
    }

    /// The body of the event, byte for byte; see [`Event::body`](crate::Event::body).
    ///
    /// # Errors
    /// `BadData` if the record was damaged. `Unreadable` if the event could not be read.
    /// `Permanent` if the body was left out.
    pub fn body(&self) -> Result<Bytes, Error> {
        match body_of(&self.body_amqp, &self.body_base64, &self.body_text) {
            Some(body) => body.map_err(|error| {
                bad_data("its body_base64 is not base64; replay the event from elsewhere")
                    .with_source(error)
            }),
            _ if self.body_omitted_bytes.is_some() => Err(Error::new(
                ErrorClass::Permanent,
                READ,
                "its body was left out by the setting of its worker, so that it cannot be replayed: \
                 replay the event from elsewhere",
            )),
            _ if self.error.class == ErrorClass::Unreadable => Err(Error::new(
                ErrorClass::Unreadable,
                READ,
                "the event could not be decoded: read it from the hub with a client that can",
            )),
            _ => Err(bad_data(
                "it has neither body_text nor body_base64 nor body_amqp; replay the event from \
                 elsewhere",
            )),
        }
    }

    /// The properties of the event, with their types.
    ///
    /// # Errors
    /// `BadData` if the record was damaged.
    pub fn event_properties(&self) -> Result<Properties, Error> {
        properties_of(&self.properties, |json| self.value(json)).map_err(bad_data)
    }

    /// The annotations of the event, with their types.
    ///
    /// # Errors
    /// `BadData` if the record was damaged.
    pub fn event_annotations(&self) -> Result<Annotations, Error> {
        let (named, numbered) = (&self.annotations, &self.numbered_annotations);
        annotations_of(named, numbered, |json| self.value(json)).map_err(bad_data)
    }

    /// The event as it was received, with all that it held; times have milliseconds.
    ///
    /// # Errors
    /// As [`DeadLetterRecord::body`].
    pub fn to_event(&self) -> Result<Event, Error> {
        let partition = Partition::new(self.topic.clone(), self.partition.clone());
        let number = self.sequence_number.0;
        let mut parts = EventParts::new(partition.into(), number, self.body()?);
        if let Some(body) = &self.body_amqp {
            parts.set_structured_body(body.clone());
        }
        parts.offset.clone_from(&self.offset);
        parts.enqueued_time = from_rfc3339(&self.enqueued_time).ok_or_else(|| {
            bad_data(format!("its enqueued_time is {:?}, which is not a time", self.enqueued_time))
        })?;
        parts.key.clone_from(&self.key);
        parts.properties = self.event_properties()?;
        parts.annotations = self.event_annotations()?;
        parts.set_message(self.message.clone());
        Ok(parts.into())
    }

    /// The event to publish again, with all that it held.
    ///
    /// # Errors
    /// As [`DeadLetterRecord::body`].
    pub fn to_outgoing(&self) -> Result<OutgoingEvent, Error> {
        let mut event = OutgoingEvent::new(self.body()?);
        event.key = self.key.clone();
        event.structured_body = self.body_amqp.clone();
        event.properties = self.event_properties()?;
        event.annotations = self.event_annotations()?;
        event.message = self.message.clone();
        Ok(event)
    }

    fn value(&self, json: &serde_json::Value) -> Option<Value> {
        match json.get("float") {
            // What version 1 wrote of a number of 64 bits.
            Some(serde_json::Value::String(text)) if self.version == 1 => {
                text.parse().ok().map(Value::Double)
            }
            _ => Value::from_json(json),
        }
    }
}
