//! Places of a log that only the hub knows: where a time is reached, and the offset that goes with
//! a number. Processors of other SDKs begin behind an offset.

use crate::brief;
use longshore::error::{Error, ErrorClass};
use longshore::event::{PartitionId, Position, SequenceNumber};
use longshore::hub::LogProperties;
use longshore::transport::{Transport, offsets};

/// The position behind `settled`, and a note where its offset could not be looked up: what a worker
/// of longshore goes by is written all the same.
pub(super) async fn located(
    transport: &dyn Transport,
    partition: &PartitionId,
    settled: SequenceNumber,
    log: &LogProperties,
) -> (Position, Option<String>) {
    match offsets::locate(transport, partition, settled, log).await {
        Ok(position) => (position, None),
        Err(error) => (Position::at(settled.0), Some(without_offset(&error))),
    }
}

/// What it means that an offset is not known.
pub(super) fn without_offset(error: &Error) -> String {
    let why = match error.class() {
        ErrorClass::PartitionLost => "a worker has the log for itself".to_owned(),
        _ => brief(error),
    };
    format!(
        "its offset is not known ({why}): processors of other SDKs cannot go on from it before a \
         worker has begun there"
    )
}
