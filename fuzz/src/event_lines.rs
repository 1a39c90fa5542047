//! Lines of events, which `longshore send` reads and `longshore tail` prints.

use std::sync::Arc;

use longshore::event::{EventParts, OutgoingEvent, Partition};

use crate::json;

#[path = "../../crates/cli/src/event_line.rs"]
#[allow(dead_code, unreachable_pub, reason = "the command's own, of which this reads lines")]
mod event_line;

/// A line that is read is the same event where it is received and printed; or it is said what is wrong.
pub(crate) fn event_lines(bytes: &[u8]) {
    match event_line::read(bytes) {
        Ok(event) => {
            let line = printed(event);
            let again = event_line::read(line.as_bytes()).expect("what is printed is read");
            assert_eq!(printed(again), line);
        }
        Err(fault) => assert!(!fault.is_empty()),
    }
}

/// The line of an event that was received with this content.
fn printed(event: OutgoingEvent) -> String {
    let mut parts = EventParts::new(Arc::new(Partition::new("orders", "0")), 7, event.body);
    parts.key = event.key;
    parts.properties = event.properties;
    parts.annotations = event.annotations;
    parts.set_message(event.message);
    if let Some(body) = event.structured_body {
        parts.set_structured_body(body);
    }
    let line = event_line::write(&parts.into()).expect("it is written");
    assert!(line.is_ascii() && !line.contains(|letter: char| letter.is_control()), "{line}");
    line
}
