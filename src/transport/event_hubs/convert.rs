//! Events of the SDK to ours and back, in one pass over their annotations.

use std::sync::Arc;
use std::time::SystemTime;

use azure_core_amqp::message::{
    AmqpAnnotationKey, AmqpMessageBody, AmqpMessageId, AmqpMessageProperties,
};
use azure_core_amqp::{AmqpMessage, AmqpSimpleValue, AmqpValue};
use azure_messaging_eventhubs::models::ReceivedEventData;
use bytes::Bytes;

use crate::error::{Error, ErrorClass};
use crate::event::{
    Event, EventParts, Offset, OutgoingEvent, Partition, Properties, PropertyValue, SequenceNumber,
};

const SEQUENCE_NUMBER: &str = "x-opt-sequence-number";
const OFFSET: &str = "x-opt-offset";
const ENQUEUED_TIME: &str = "x-opt-enqueued-time";
const PARTITION_KEY: &str = "x-opt-partition-key";

/// Takes a received event apart.
///
/// # Errors
/// `BadData` where it carries no sequence number: without one there is no position to resume
/// from, and no event to dead-letter.
pub(super) fn received(
    partition: &Arc<Partition>,
    received: &ReceivedEventData,
) -> Result<Event, Error> {
    let message = received.raw_amqp_message();
    let mut sequence_number = None;
    let mut offset = None;
    let mut enqueued_time = SystemTime::UNIX_EPOCH;
    let mut key = None;
    if let Some(annotations) = &message.message_annotations {
        for (name, value) in annotations.0.iter() {
            let AmqpAnnotationKey::Symbol(name) = name else {
                continue;
            };
            match (name.0.as_str(), value) {
                (SEQUENCE_NUMBER, AmqpValue::Long(number)) => sequence_number = Some(*number),
                (OFFSET, AmqpValue::String(text)) => offset = Some(Offset::new(text)),
                (ENQUEUED_TIME, AmqpValue::TimeStamp(time)) => {
                    enqueued_time = time.0.unwrap_or(SystemTime::UNIX_EPOCH);
                }
                (PARTITION_KEY, AmqpValue::String(text)) => key = Some(text.clone()),
                _ => {}
            }
        }
    }
    let Some(sequence_number) = sequence_number else {
        return Err(Error::new(
            ErrorClass::BadData,
            "receive from the link",
            "an event came without a sequence number",
        )
        .with_partition(partition));
    };
    let properties = message.properties.as_ref();
    Ok(EventParts {
        partition: Arc::clone(partition),
        sequence_number: SequenceNumber(sequence_number),
        offset,
        enqueued_time,
        key,
        body: body(&message.body),
        properties: application_properties(message),
        message_id: properties.and_then(|properties| properties.message_id.as_ref()).map(id_text),
        correlation_id: properties
            .and_then(|properties| properties.correlation_id.as_ref())
            .map(id_text),
        content_type: properties
            .and_then(|properties| properties.content_type.as_ref())
            .map(|symbol| symbol.0.clone()),
    }
    .into())
}

/// The bytes of the data sections; of a value that is text or bytes, those.
fn body(body: &AmqpMessageBody) -> Bytes {
    match body {
        AmqpMessageBody::Binary(sections) => match sections.as_slice() {
            [] => Bytes::new(),
            [section] => Bytes::copy_from_slice(section),
            sections => Bytes::from(sections.concat()),
        },
        AmqpMessageBody::Value(AmqpValue::Binary(bytes)) => Bytes::copy_from_slice(bytes),
        AmqpMessageBody::Value(AmqpValue::String(text)) => Bytes::copy_from_slice(text.as_bytes()),
        _ => Bytes::new(),
    }
}

fn application_properties(message: &AmqpMessage) -> Properties {
    message
        .application_properties
        .as_ref()
        .map(|properties| {
            properties.0.iter().map(|(name, value)| (name.clone(), property(value))).collect()
        })
        .unwrap_or_default()
}

fn property(value: &AmqpSimpleValue) -> PropertyValue {
    match value {
        AmqpSimpleValue::Null => PropertyValue::Null,
        AmqpSimpleValue::Boolean(truth) => PropertyValue::Bool(*truth),
        AmqpSimpleValue::UByte(number) => PropertyValue::Int(i64::from(*number)),
        AmqpSimpleValue::Byte(number) => PropertyValue::Int(i64::from(*number)),
        AmqpSimpleValue::UShort(number) => PropertyValue::Int(i64::from(*number)),
        AmqpSimpleValue::Short(number) => PropertyValue::Int(i64::from(*number)),
        AmqpSimpleValue::UInt(number) => PropertyValue::Int(i64::from(*number)),
        AmqpSimpleValue::Int(number) => PropertyValue::Int(i64::from(*number)),
        AmqpSimpleValue::Long(number) => PropertyValue::Int(*number),
        AmqpSimpleValue::ULong(number) => {
            i64::try_from(*number).map_or(PropertyValue::UInt(*number), PropertyValue::Int)
        }
        AmqpSimpleValue::Float(number) => PropertyValue::Float(f64::from(*number)),
        AmqpSimpleValue::Double(number) => PropertyValue::Float(*number),
        AmqpSimpleValue::Char(letter) => PropertyValue::Text(letter.to_string()),
        AmqpSimpleValue::String(text) => PropertyValue::Text(text.clone()),
        AmqpSimpleValue::Symbol(symbol) => PropertyValue::Text(symbol.0.clone()),
        AmqpSimpleValue::Uuid(id) => PropertyValue::Text(id.to_string()),
        AmqpSimpleValue::Binary(bytes) => PropertyValue::Binary(Bytes::copy_from_slice(bytes)),
        AmqpSimpleValue::TimeStamp(time) => time.0.map_or(PropertyValue::Null, |time| {
            PropertyValue::Text(crate::timestamp::rfc3339(time))
        }),
        other => PropertyValue::Text(format!("{other:?}")),
    }
}

fn id_text(id: &AmqpMessageId) -> String {
    match id {
        AmqpMessageId::String(text) => text.clone(),
        AmqpMessageId::Uuid(id) => id.to_string(),
        AmqpMessageId::Ulong(number) => number.to_string(),
        AmqpMessageId::Binary(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Builds the message of an event to publish.
pub(super) fn outgoing(event: OutgoingEvent) -> AmqpMessage {
    let mut builder = AmqpMessage::builder().with_body(event.body.to_vec());
    if event.message_id.is_some() || event.content_type.is_some() {
        builder = builder.with_properties(AmqpMessageProperties {
            message_id: event.message_id.map(AmqpMessageId::String),
            content_type: event.content_type.map(Into::into),
            ..AmqpMessageProperties::default()
        });
    }
    for (name, value) in event.properties {
        builder = builder.add_application_property(name, simple_value(value));
    }
    let mut message = builder.build();
    if let Some(key) = event.key {
        message.add_message_annotation(PARTITION_KEY.into(), key);
    }
    message
}

fn simple_value(value: PropertyValue) -> AmqpSimpleValue {
    match value {
        PropertyValue::Null => AmqpSimpleValue::Null,
        PropertyValue::Bool(truth) => AmqpSimpleValue::Boolean(truth),
        PropertyValue::Int(number) => AmqpSimpleValue::Long(number),
        PropertyValue::UInt(number) => AmqpSimpleValue::ULong(number),
        PropertyValue::Float(number) => AmqpSimpleValue::Double(number),
        PropertyValue::Text(text) => AmqpSimpleValue::String(text),
        PropertyValue::Binary(bytes) => AmqpSimpleValue::Binary(bytes.to_vec()),
    }
}
