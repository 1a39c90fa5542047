//! An event as a line of JSON: what `tail --json` prints and `send --json` takes.
//!
//! The fields of what an event holds are those of a dead letter's record
//! ([`EventContent`]). Before them is where it was received, which is nothing that can be sent.

use serde::Serialize;
use serde_json::{Map, Value};

use super::json::as_json;
use longshore::error::error_chain;
use longshore::event::{Event, EventContent, OutgoingEvent, SequenceNumber};
use longshore::timestamp::rfc3339;

/// What an event was received as.
const RECEIVED: [&str; 7] = [
    "topic",
    "partition",
    "sequence_number",
    "sequence_numbers",
    "offset",
    "enqueued_time",
    "unreadable",
];

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: &'a str,
    sequence_number: SequenceNumber,
    /// The first and the last that it may have, where its own is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence_numbers: Option<[SequenceNumber; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<&'a str>,
    enqueued_time: String,
    /// Why it could not be decoded; then it has no body.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
    #[serde(flatten)]
    content: EventContent,
}

/// The line of an event, in ASCII.
pub(crate) fn write(event: &Event) -> serde_json::Result<String> {
    let unreadable = event.unreadable();
    let range = unreadable.filter(|unreadable| !unreadable.is_exact());
    as_json(&Line {
        topic: event.partition().entity.as_str(),
        partition: event.partition().id.as_str(),
        sequence_number: event.sequence_number(),
        sequence_numbers: range.map(|unreadable| [unreadable.first, unreadable.last]),
        offset: event.offset().map(|offset| offset.as_str()),
        enqueued_time: rfc3339(event.enqueued_time()),
        unreadable: unreadable.map(|unreadable| unreadable.reason.as_str()),
        content: EventContent::of(event),
    })
}

/// The event of a line. Where it was received is left out.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(line: &[u8]) -> Result<OutgoingEvent, String> {
    let value: Value = serde_json::from_slice(line).map_err(|error| {
        format!("it is no JSON: {error}; without --json, a line is a body as it is")
    })?;
    let Value::Object(mut fields) = value else {
        return Err(
            "it is no JSON object such as {\"key\": \"k\", \"body_text\": \"…\"}".to_owned()
        );
    };
    check_received(&fields)?;
    for name in RECEIVED {
        fields.remove(name);
    }
    let read = EventContent::from_fields(fields).and_then(|content| content.to_outgoing());
    read.map_err(|error| {
        let why = error_chain(&error).join(": ");
        let operation = format!("could not {}: ", error.operation());
        why.strip_prefix(&operation).unwrap_or(&why).to_owned()
    })
}

/// Where an event was received is not where it goes: nobody is to think so.
fn check_received(fields: &Map<String, Value>) -> Result<(), String> {
    if fields.get("unreadable").is_some_and(|why| !why.is_null()) {
        return Err("its event could not be decoded where it was received, so there is nothing \
                    to send"
            .to_owned());
    }
    let is_received = fields.contains_key("sequence_number");
    match RECEIVED.iter().find(|name| fields.contains_key(**name)) {
        Some(name) if !is_received => Err(format!(
            "its {name} says where an event was received, and not where it goes: leave it out; \
             --partition names a partition, and --hub a hub"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use longshore::event::{EventParts, Partition, Unreadable};

    #[test]
    fn a_line_that_was_printed_is_the_event_again() {
        let partition = Arc::new(Partition::new("orders", "3"));
        let mut parts = EventParts::new(partition, 17, vec![0xff, 0]);
        parts.offset = Some("4096".into());
        parts.key = Some("k\u{202e}\n".to_owned());
        parts.properties.insert("n".to_owned(), 3_u8.into());
        let event = Event::from(parts);
        let line = write(&event).expect("JSON");
        assert!(line.is_ascii() && !line.contains('\n'), "{line}");
        let read = read(line.as_bytes()).expect("an event");
        let copy = OutgoingEvent::copy_of(&event);
        assert_eq!((read.key, read.body, read.properties), (copy.key, copy.body, copy.properties));
    }

    #[test]
    fn what_is_no_event_is_named() {
        for (line, said) in [
            ("", "it is no JSON"),
            ("text", "it is no JSON"),
            ("[]", "it is no JSON object"),
            ("{\"body\": \"x\"}", "a field \"body\""),
            ("{\"body_text\": \"x\", \"partition\": \"3\"}", "its partition says where"),
            ("{\"sequence_number\": 1}", "it has no body"),
        ] {
            let fault = read(line.as_bytes()).expect_err(line);
            assert!(fault.contains(said), "{line}: {fault}");
        }
        let mut parts = EventParts::new(Arc::new(Partition::new("orders", "3")), 17, "");
        let (first, last) = (SequenceNumber(15), SequenceNumber(17));
        let reason = "nesting".to_owned();
        parts.unreadable = Some(Box::new(Unreadable { reason, first, last }));
        let line = write(&parts.into()).expect("JSON");
        assert!(line.contains("\"sequence_numbers\":[15,17]"), "{line}");
        assert!(read(line.as_bytes()).expect_err("no event").contains("could not be decoded"));
    }
}
