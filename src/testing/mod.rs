//! For your own tests of handlers, workers and stores (feature `testing`).
//!
//! | to test | there is |
//! | --- | --- |
//! | a handler alone | [`TestCall`]: it calls the handler with a context, and returns the outcome of each event |
//! | a worker, offline | [`TestHub`]: a hub in memory with its faults, and stores beside it |
//! | what a fault does | [`Intercepted`]: any port, delayed, failing, without its answer |
//! | your own store or sink | [`contract`]: what each port must do |
//! | an event that failed | [`event_from_record`]: a dead letter becomes a test |
//! | a crash | [`ConsumerHandle::abort`](crate::ConsumerHandle::abort) |
//!
//! Paused time, in which back-offs take no time, is `#[tokio::test(start_paused = true)]`; it needs the feature
//! `test-util` of tokio among your dev-dependencies.
//!
//! The hub, the stores and the sink in memory need no feature: [`MemoryHub`], [`MemoryCheckpointStore`],
//! [`MemoryLeaseStore`], [`MemoryDeadLetterSink`], [`MemoryFailureStore`].
//!
//! To turn a dead letter into a test, export it, keep the file beside the tests, and give its event to the handler
//! that failed.
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

pub mod contract;
mod hub;
mod intercept;

use std::sync::Arc;

use bytes::Bytes;

pub use hub::{IntoTestEvent, TestHub};
pub use intercept::{Intercepted, PortCall};

pub use crate::checkpoint_store::memory::MemoryCheckpointStore;
pub use crate::consumer::TestCall;
pub use crate::dead_letter::memory::MemoryDeadLetterSink;
use crate::dead_letter::record::DeadLetterRecord;
use crate::error::Error;
use crate::event::{EntityName, Event, EventParts, Partition, PartitionId};
pub use crate::failure_store::memory::MemoryFailureStore;
pub use crate::lease_store::memory::MemoryLeaseStore;
pub use crate::transport::memory::MemoryHub;

/// An event as a handler gets it. For one with a key, properties or times, [`EventParts`].
pub fn event(
    entity: impl Into<EntityName>,
    partition: impl Into<PartitionId>,
    sequence_number: i64,
    body: impl Into<Bytes>,
) -> Event {
    let partition = Arc::new(Partition::new(entity, partition));
    EventParts::new(partition, sequence_number, body).into()
}

/// The event of a dead letter as it was received: body, properties, annotations and position, with all types.
/// `record` is the output of `longshore dead-letters show --report json`, or a line of an export.
///
/// # Errors
/// `BadData` if it is no record, or one of a later release. `Permanent` if the body was left out, and
/// `Unreadable` if the event could not be read.
pub fn event_from_record(record: &[u8]) -> Result<Event, Error> {
    DeadLetterRecord::from_json(record)?.to_event()
}
