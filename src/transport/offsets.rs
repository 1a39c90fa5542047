//! Looks up what only a reader of the log can know: the offset of a sequence number, and the first event of a
//! time.
//!
//! Checkpoints that were not made of a received event need it, for processors of other SDKs begin
//! behind an offset: a first checkpoint, a reset, an import. Events never pass through here. Each
//! look-up is bounded by [`LOOK_UP_TIMEOUT`] and takes a partition from nobody.

use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::{LinkStart, LogProperties, Transport};
use crate::error::{Error, ErrorClass, Result};
use crate::event::{Partition, PartitionId, Position, SequenceNumber};
use crate::state::offset_search::{OffsetSearch, Step};

/// How long a look-up may take: 15 s.
pub const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(15);

const LOCATE: &str = "look up the offset of a sequence number";
const FIRST_SINCE: &str = "find the first event of that time";

/// The position of which everything up to `settled` is settled, with the offset behind which a
/// processor finds the first event above that number. `log` is what the partition just said of
/// itself.
///
/// # Errors
/// As [`Transport::first_event`]; `Transient` if it takes longer than [`LOOK_UP_TIMEOUT`].
///
/// # Cancel safety
/// Nothing is lost.
pub async fn locate(
    transport: &dyn Transport,
    partition: &PartitionId,
    settled: SequenceNumber,
    log: &LogProperties,
) -> Result<Position> {
    let mut search = match OffsetSearch::begin(settled, log) {
        Ok(search) => search,
        Err(position) => return Ok(position),
    };
    let searching = async {
        loop {
            match search.next_step() {
                Step::Found(position) => return Ok(position),
                Step::Ask(from) => match transport.first_event(partition, from).await {
                    Ok(first) => search.on_answer(Some(first)),
                    Err(error) if error.class() == ErrorClass::Unreadable => search.on_answer(None),
                    Err(error) => return Err(error),
                },
            }
        }
    };
    within(transport, partition, LOCATE, searching).await
}

/// The number of the first event enqueued at `time` or later, of which the log has one.
///
/// # Errors
/// As [`Transport::first_event`]; `Transient` if it takes longer than [`LOOK_UP_TIMEOUT`].
///
/// # Cancel safety
/// Nothing is lost.
pub async fn first_since(
    transport: &dyn Transport,
    partition: &PartitionId,
    time: SystemTime,
) -> Result<SequenceNumber> {
    let searching = transport.first_event(partition, LinkStart::EnqueuedAt(time));
    let first = within(transport, partition, FIRST_SINCE, searching).await?;
    Ok(first.sequence_number)
}

async fn within<T>(
    transport: &dyn Transport,
    partition: &PartitionId,
    operation: &'static str,
    searching: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout(LOOK_UP_TIMEOUT, searching).await.unwrap_or_else(|_elapsed| {
        let message = format!("no event arrived within {} s", LOOK_UP_TIMEOUT.as_secs());
        let partition = Partition::new(transport.entity().clone(), partition.clone());
        Err(Error::new(ErrorClass::Transient, operation, message).with_partition(&partition))
    })
}
