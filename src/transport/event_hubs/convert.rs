//! Events of the SDK to ours and back, in one pass over their annotations.

use std::sync::Arc;

use azure_core_amqp::message::{
    AmqpAnnotationKey, AmqpAnnotations, AmqpMessageBody, AmqpMessageProperties,
};
use azure_core_amqp::{AmqpMessage, AmqpValue};
use azure_messaging_eventhubs::models::ReceivedEventData;
use bytes::Bytes;

use super::values;
use crate::error::{Error, ErrorClass, Result};
use crate::event::{
    AnnotationKey, Body, Event, EventParts, MAX_NESTING, MessageProperties, Offset, OutgoingEvent,
    Partition, SequenceNumber, Unreadable, Value,
};

const SEQUENCE_NUMBER: &str = "x-opt-sequence-number";
const OFFSET: &str = "x-opt-offset";
const ENQUEUED_TIME: &str = "x-opt-enqueued-time";
const PARTITION_KEY: &str = "x-opt-partition-key";

/// What the broker writes of every event itself.
const OF_THE_BROKER: [&str; 4] = [SEQUENCE_NUMBER, OFFSET, ENQUEUED_TIME, PARTITION_KEY];

/// Takes a received event apart. One that is nested deeper than [`MAX_NESTING`] is unreadable: nothing
/// of ours may walk through it.
///
/// # Errors
/// `Unreadable` if it carries no sequence number: without one there is no position to resume
/// from.
pub(super) fn received(partition: &Arc<Partition>, received: &ReceivedEventData) -> Result<Event> {
    let message = received.raw_amqp_message();
    let is_too_deep = is_nested_too_deeply(message);
    let mut sequence_number = None;
    let mut parts = EventParts::new(Arc::clone(partition), 0, Bytes::new());
    for (name, value) in message.message_annotations.iter().flat_map(|all| all.0.iter()) {
        let name = match name {
            AmqpAnnotationKey::Symbol(name) => name.0.as_str(),
            AmqpAnnotationKey::Ulong(number) => {
                if !is_too_deep {
                    let value = values::received(value);
                    parts.annotations.insert(AnnotationKey::Number(*number), value);
                }
                continue;
            }
        };
        // What every event has is taken over with one copy.
        match (name, value) {
            (SEQUENCE_NUMBER, AmqpValue::Long(number)) => sequence_number = Some(*number),
            (OFFSET, AmqpValue::String(text)) => parts.offset = Some(Offset::new(text)),
            (ENQUEUED_TIME, AmqpValue::TimeStamp(time)) => {
                parts.enqueued_time = crate::timestamp::from_unix_millis(values::millis(time));
            }
            (PARTITION_KEY, AmqpValue::String(text)) => parts.key = Some(text.clone()),
            (_, _) if is_too_deep => {}
            (_, value) => {
                parts.annotations.insert(AnnotationKey::from(name), values::received(value));
            }
        }
    }
    let Some(sequence_number) = sequence_number else {
        let message = "an event came without a sequence number";
        return Err(Error::new(ErrorClass::Unreadable, "receive from the link", message)
            .with_partition(partition));
    };
    let number = SequenceNumber(sequence_number);
    parts.sequence_number = number;
    if is_too_deep {
        let reason = format!("values within each other, more than {MAX_NESTING} levels of them");
        parts.unreadable = Some(Box::new(Unreadable { reason, first: number, last: number }));
        return Ok(parts.into());
    }
    match &message.body {
        AmqpMessageBody::Binary(sections) => match sections.as_slice() {
            [section] => parts.body = Bytes::copy_from_slice(section),
            sections => {
                let copy = |section: &Vec<u8>| Bytes::copy_from_slice(section);
                parts.set_structured_body(Body::Data(sections.iter().map(copy).collect()));
            }
        },
        AmqpMessageBody::Value(value) => {
            parts.set_structured_body(Body::Value(values::received(value)));
        }
        AmqpMessageBody::Sequence(lists) => {
            let list = |list: &azure_core_amqp::AmqpList| {
                list.iter().map(values::received).collect::<Vec<_>>()
            };
            parts.set_structured_body(Body::Sequence(lists.iter().map(list).collect()));
        }
        AmqpMessageBody::Empty => parts.set_structured_body(Body::Data(Vec::new())),
    }
    if let Some(properties) = &message.application_properties {
        let property = |(name, value): (&String, _)| (name.clone(), values::received_simple(value));
        parts.properties = properties.0.iter().map(property).collect();
    }
    if let Some(properties) = &message.properties {
        parts.set_message(received_properties(properties));
    }
    Ok(parts.into())
}

fn is_nested_too_deeply(message: &AmqpMessage) -> bool {
    let is_too_deep = |value: &AmqpValue| values::is_deeper_than(value, MAX_NESTING);
    let mut annotations = message.message_annotations.iter().flat_map(|all| all.0.iter());
    let mut properties = message.application_properties.iter().flat_map(|all| all.0.iter());
    let body = match &message.body {
        AmqpMessageBody::Value(value) => is_too_deep(value),
        AmqpMessageBody::Sequence(lists) => lists.iter().any(|list| list.iter().any(is_too_deep)),
        AmqpMessageBody::Binary(_) | AmqpMessageBody::Empty => false,
    };
    body || annotations.any(|(_, value)| is_too_deep(value))
        || properties.any(|(_, value)| values::is_simple_deeper_than(value, MAX_NESTING))
}

fn received_properties(properties: &AmqpMessageProperties) -> MessageProperties {
    let mut message = MessageProperties::default();
    message.message_id = properties.message_id.as_ref().map(values::received_id);
    message.correlation_id = properties.correlation_id.as_ref().map(values::received_id);
    message.content_type = properties.content_type.as_ref().map(|symbol| symbol.0.clone());
    message.content_encoding = properties.content_encoding.as_ref().map(|symbol| symbol.0.clone());
    message.subject = properties.subject.clone();
    message.to = properties.to.clone();
    message.reply_to = properties.reply_to.clone();
    message.user_id = properties.user_id.as_deref().map(Bytes::copy_from_slice);
    message.group_id = properties.group_id.clone();
    message.group_sequence = properties.group_sequence;
    message.reply_to_group_id = properties.reply_to_group_id.clone();
    message.creation_time = properties.creation_time.as_ref().map(values::millis);
    message.absolute_expiry_time = properties.absolute_expiry_time.as_ref().map(values::millis);
    message
}

const PUBLISH: &str = "publish an event";

/// Builds the message of an event to publish.
///
/// # Errors
/// `BadData` if the event holds what AMQP does not allow, or what the SDK writes wrongly. That is a fault of this event
/// alone.
pub(super) fn outgoing(event: OutgoingEvent) -> Result<AmqpMessage> {
    if let Some((name, type_name)) = event.property_not_allowed() {
        let message = format!(
            "its property {name:?} is of the type {type_name}, and AMQP allows no lists, maps and \
             arrays in properties: write it as text, or into the body"
        );
        return Err(Error::new(ErrorClass::BadData, PUBLISH, message));
    }
    if event.is_nested_too_deeply() {
        let message = format!(
            "it has values within each other, more than {MAX_NESTING} levels of them: write what is \
             deeper as bytes or text"
        );
        return Err(Error::new(ErrorClass::BadData, PUBLISH, message));
    }
    if has_unwritable_array(&event) {
        let message = "it has an array of lists, maps, arrays, described values or nulls, which the client for Event Hubs \
                       writes so that nobody can read it: write a list in its place";
        return Err(Error::new(ErrorClass::BadData, PUBLISH, message));
    }
    let mut builder = AmqpMessage::builder().with_body(outgoing_body(&event));
    if !event.message.is_empty() {
        builder = builder.with_properties(outgoing_properties(event.message));
    }
    for (name, value) in event.properties {
        builder = builder.add_application_property(name, values::outgoing_simple(value));
    }
    let mut annotations = AmqpAnnotations::new();
    for (name, value) in event.annotations {
        let name = match name {
            AnnotationKey::Name(name) if OF_THE_BROKER.contains(&name.as_str()) => continue,
            AnnotationKey::Name(name) => AmqpAnnotationKey::Symbol(name.into()),
            AnnotationKey::Number(number) => AmqpAnnotationKey::Ulong(number),
        };
        annotations.insert(name, values::outgoing(value));
    }
    if let Some(key) = event.key {
        annotations.insert(AmqpAnnotationKey::Symbol(PARTITION_KEY.into()), key);
    }
    if !annotations.0.is_empty() {
        builder = builder.with_message_annotations(annotations);
    }
    Ok(builder.build())
}

fn has_unwritable_array(event: &OutgoingEvent) -> bool {
    let is_so = values::has_unwritable_array;
    let body = match &event.structured_body {
        Some(Body::Value(value)) => is_so(value),
        Some(Body::Sequence(lists)) => lists.iter().flatten().any(is_so),
        Some(Body::Data(_)) | None => false,
    };
    body || event.annotations.values().chain(event.properties.values()).any(is_so)
}

fn outgoing_body(event: &OutgoingEvent) -> AmqpMessageBody {
    match &event.structured_body {
        None => AmqpMessageBody::Binary(vec![event.body.to_vec()]),
        Some(Body::Data(sections)) if sections.is_empty() => AmqpMessageBody::Empty,
        Some(Body::Data(sections)) => {
            AmqpMessageBody::Binary(sections.iter().map(|section| section.to_vec()).collect())
        }
        Some(Body::Value(value)) => AmqpMessageBody::Value(values::outgoing(value.clone())),
        Some(Body::Sequence(lists)) => {
            let list = |list: &Vec<Value>| {
                let values = list.iter().cloned().map(values::outgoing).collect::<Vec<_>>();
                azure_core_amqp::AmqpList::from(values)
            };
            AmqpMessageBody::Sequence(lists.iter().map(list).collect())
        }
    }
}

fn outgoing_properties(properties: MessageProperties) -> AmqpMessageProperties {
    AmqpMessageProperties {
        message_id: properties.message_id.map(values::outgoing_id),
        correlation_id: properties.correlation_id.map(values::outgoing_id),
        content_type: properties.content_type.map(Into::into),
        content_encoding: properties.content_encoding.map(Into::into),
        subject: properties.subject,
        to: properties.to,
        reply_to: properties.reply_to,
        user_id: properties.user_id.map(|bytes| bytes.to_vec()),
        group_id: properties.group_id,
        group_sequence: properties.group_sequence,
        reply_to_group_id: properties.reply_to_group_id,
        creation_time: properties.creation_time.map(values::timestamp),
        absolute_expiry_time: properties.absolute_expiry_time.map(values::timestamp),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::event::{Described, Descriptor};

    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::Int(1), |value, _| Value::List(vec![value]))
    }

    fn in_property(levels: usize) -> Value {
        let value = nested(levels - 1);
        Value::Described(Box::new(Described { descriptor: Descriptor::Code(1), value }))
    }

    /// An event as a client sends it that knows no limit, with these levels in its body, in an
    /// annotation and in a property.
    fn sent(body: usize, annotation: usize, property: usize) -> ReceivedEventData {
        let mut annotations = AmqpAnnotations::new();
        let name = |name: &str| AmqpAnnotationKey::Symbol(name.into());
        annotations.insert(name(SEQUENCE_NUMBER), 7_i64);
        annotations.insert(name("of-a-device"), values::outgoing(nested(annotation)));
        AmqpMessage::builder()
            .with_body(AmqpMessageBody::Value(values::outgoing(nested(body))))
            .with_message_annotations(annotations)
            .add_application_property(
                "a".to_owned(),
                values::outgoing_simple(in_property(property)),
            )
            .build()
            .into()
    }

    #[test]
    fn an_event_that_is_nested_too_deeply_is_unreadable_in_its_place() {
        let partition = Arc::new(Partition::new("orders", "0"));
        let whole = received(&partition, &sent(MAX_NESTING, MAX_NESTING, MAX_NESTING)).unwrap();
        assert_eq!(whole.unreadable(), None);
        assert_eq!(whole.structured_body(), Some(&Body::Value(nested(MAX_NESTING))));
        assert_eq!(whole.properties()["a"], in_property(MAX_NESTING));
        let more = MAX_NESTING + 1;
        for (body, annotation, property) in [(more, 1, 1), (1, more, 1), (1, 1, more), (500, 1, 1)]
        {
            let event = received(&partition, &sent(body, annotation, property)).unwrap();
            assert_eq!(event.sequence_number(), SequenceNumber(7));
            let unreadable = event.unreadable().unwrap();
            assert!(unreadable.is_exact() && unreadable.first == SequenceNumber(7));
            assert!(unreadable.reason.contains("more than 32 levels"), "{}", unreadable.reason);
            assert!(event.annotations().is_empty() && event.properties().is_empty());
        }
    }

    #[test]
    fn an_event_that_is_nested_too_deeply_is_not_published() {
        let body =
            |levels| OutgoingEvent::new("").with_structured_body(Body::Value(nested(levels)));
        assert!(outgoing(body(MAX_NESTING)).is_ok());
        let refused = outgoing(body(MAX_NESTING + 1)).unwrap_err();
        assert_eq!(refused.class(), ErrorClass::BadData, "of this event alone");
        assert!(refused.to_string().contains("more than 32 levels"), "{refused}");
    }
}
