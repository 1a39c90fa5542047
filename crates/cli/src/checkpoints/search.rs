//! Where a log reaches a time: the service tells it only to who opens a link there.

use std::future::poll_fn;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use longshore::error::{Error, ErrorClass};
use longshore::event::{Event, PartitionId, SequenceNumber};
use longshore::hub::LinkStart;
use longshore::transport::{OpenLink, Transport};

/// How long the first event may take to arrive.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(30);

const OPERATION: &str = "find the first event of that time";

/// The number of the first event enqueued at `time` or later, of which the log has one. The link
/// has no owner level, so it takes the partition from nobody.
///
/// # Errors
/// Where it cannot be read, in time; `PartitionLost` where an owner has the log for itself.
pub(super) async fn first_since(
    transport: &dyn Transport,
    partition: &PartitionId,
    time: SystemTime,
) -> Result<SequenceNumber, Error> {
    let open = transport.open(OpenLink::new(partition.clone(), LinkStart::EnqueuedAt(time), 1));
    let search = async {
        let mut link = open.await?;
        let mut events: Vec<Event> = Vec::new();
        let received = poll_fn(|cx| link.poll_receive(cx, 1, &mut events)).await;
        link.close().await;
        received?;
        let first = events.first().map(Event::sequence_number);
        first.ok_or_else(|| Error::new(ErrorClass::Unknown, OPERATION, "the link gave none"))
    };
    match timeout(SEARCH_TIMEOUT, search).await {
        Ok(found) => found,
        Err(_elapsed) => {
            let message = format!("no event arrived within {} s", SEARCH_TIMEOUT.as_secs());
            Err(Error::new(ErrorClass::Transient, OPERATION, message))
        }
    }
}
