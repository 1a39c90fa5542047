//! For tests of one's own handlers (feature `testing`).
//!
//! A dead letter becomes a test: export it, keep the file beside the tests, and give its event to the
//! handler that failed.
//!
//! ```
//! # fn main() -> Result<(), longshore::Error> {
//! # let file = br#"{"version":3,"topic":"orders","partition":"0","offset":null,"sequence_number":17,
//! #   "enqueued_time":"2026-01-31T12:00:00.000Z","consumer_group":"$Default","worker":"w","key":null,
//! #   "properties":{},"body_text":"{}","error":{"class":"permanent","message":"","causes":[]},
//! #   "attempts":1,"first_failure":"2026-01-31T12:00:00.000Z","last_failure":"2026-01-31T12:00:00.000Z"}"#;
//! // longshore dead-letters show orders/0#17 --report json > tests/letters/17.json
//! // let file = std::fs::read("tests/letters/17.json")?;
//! let event = longshore::testing::event_from_record(file)?;
//! assert_eq!(event.sequence_number().0, 17);
//! # Ok(())
//! # }
//! ```

use crate::dead_letter::record::DeadLetterRecord;
use crate::error::Error;
use crate::event::Event;

/// The event of a dead letter as it was received: body, properties, annotations and position, with all
/// types. `record` is what `longshore dead-letters show --report json` gives, or a line of an export.
///
/// # Errors
/// `BadData` where it is no record, or one of a later release. `Permanent` where the body was left out, and
/// `Unreadable` where the event could not be read.
pub fn event_from_record(record: &[u8]) -> Result<Event, Error> {
    DeadLetterRecord::from_json(record)?.to_event()
}
