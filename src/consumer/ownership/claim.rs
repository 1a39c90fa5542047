//! Takes a partition: compares its checkpoint with the hub, and fences it before the first
//! link is opened.
//!
//! The claim rewrites the checkpoint by compare-and-swap with a new lease epoch. It starts from
//! what that write held; where that is, [`begin`](super::begin) decides.

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::begin::{Begin, Known};
use crate::checkpoint_store::CheckpointKey;
use crate::consumer::checkpoint_write::{Written, too_slow, write_once};
use crate::consumer::exit::StopReason;
use crate::consumer::orders::{Order, Told};
use crate::consumer::partition::Claimed;
use crate::consumer::shared::Shared;
use crate::consumer::status::Look;
use crate::error::{Error, error_chain};
use crate::event::Partition;
use crate::state::fence::{Fence, Verdict};
use crate::state::resume::{Continuity, ResumePosition};
use crate::transport::LinkStart;

/// Claims the partition, however long it takes. `lost` is how its position was lost, where an
/// ownership of ours just ended for that.
///
/// # Errors
/// Where it cannot be owned: an order ends it, the hub is gone, the policy says stop.
pub(super) async fn claim(
    shared: &Shared,
    key: &CheckpointKey,
    partition: &Partition,
    lost: Option<Continuity>,
    orders: &mut watch::Receiver<Told>,
) -> Result<Claimed, StopReason> {
    let mut failures = 0;
    loop {
        match orders.borrow_and_update().order {
            Order::Run | Order::Pause => {}
            Order::HandOff => return Err(StopReason::HandedOff),
            Order::Drain(_) => return Err(StopReason::Drained),
            Order::Lose => return Err(StopReason::LeaseLost),
        }
        let error = tokio::select! {
            biased;
            _changed = orders.changed() => continue,
            step = try_once(shared, key, partition, lost, failures) => match step? {
                ClaimStep::Claimed(claimed) => return Ok(*claimed),
                ClaimStep::Again => continue,
                ClaimStep::Failed(error) if !error.class().is_retryable() => {
                    return Err(StopReason::Failed(error));
                }
                ClaimStep::Failed(error) | ClaimStep::LeaseUnread(error) => error,
            },
        };
        failures += 1;
        let delay = shared.options.reopen_backoff.delay(failures, shared.random());
        warn!(
            message_topic = %partition.entity,
            message_partition = %partition.id,
            message_consumer_group = %key.scope.consumer_group,
            class = %error.class(),
            failures,
            retry_in_ms = delay.as_millis(),
            causes = ?error_chain(&error),
            "the partition could not be claimed; trying again"
        );
        tokio::select! {
            biased;
            _changed = orders.changed() => {}
            () = sleep(delay) => {}
        }
    }
}

/// What one try came to.
enum ClaimStep {
    Claimed(Box<Claimed>),
    /// Another writer was faster: look again.
    Again,
    Failed(Error),
    /// Whether it is still ours is not known. The lease loop goes on whatever the reason, and so
    /// does the claim.
    LeaseUnread(Error),
}

async fn try_once(
    shared: &Shared,
    key: &CheckpointKey,
    partition: &Partition,
    lost: Option<Continuity>,
    failures: u32,
) -> Result<ClaimStep, StopReason> {
    let limit = shared.options.store_timeout;
    let look_begun = shared.service_now();
    let read = async {
        // The checkpoint first: whatever of the rest is old by the time of the write, for this
        // process may have slept, the write fails if another owner claimed meanwhile.
        let stored = timeout(limit, shared.checkpoints.load(key))
            .await
            .map_err(|_elapsed| too_slow("load the checkpoint", limit))??;
        let hub = shared.transport.hub_properties().await?;
        let log = shared.transport.log_properties(&partition.id).await?;
        Ok((hub, log, stored))
    };
    let (hub, log, stored) = match read.await {
        Ok(read) => read,
        Err(error) => return Ok(ClaimStep::Failed(error)),
    };
    let known = Known { hub: &hub, log: &log, stored: stored.as_ref() };
    let begin = match Begin::decide(shared, partition, known, lost) {
        Ok(begin) => match begin.look_up(shared, partition, known, failures).await {
            Ok(begin) => Ok(begin),
            Err(error) => return Ok(ClaimStep::Failed(error)),
        },
        Err(stop) => Err(stop),
    };
    // The lease last: much may have happened since it was taken, and a claim by who has it no
    // longer would end the ownership of who has it now.
    if let Some(leases) = &shared.leases {
        let lease = timeout(limit, leases.store.load(key)).await;
        let lease = match lease.unwrap_or_else(|_elapsed| Err(too_slow("read the lease", limit))) {
            Ok(lease) => lease,
            Err(error) => return Ok(ClaimStep::LeaseUnread(error)),
        };
        let holder = lease.as_ref().and_then(|lease| lease.ownership.holder.worker());
        if holder != Some(&leases.owner) {
            return Err(StopReason::LeaseLost);
        }
    }
    let begin = begin?;
    let is_anothers = stored.as_ref().is_some_and(|it| !shared.is_own(it.checkpoint.write_id));
    let mut fence =
        Fence::claim(stored, hub.incarnation, shared.shared_now_millis(), shared.write_id());
    fence.on_takeover(&shared.takeover_rule(), is_anothers, log.last_enqueued);
    begin.prepare(&mut fence);
    while let Some((checkpoint, expected)) = fence.pending() {
        match write_once(&*shared.checkpoints, key, checkpoint, expected, limit).await {
            Written::Stored(version) => fence.on_stored(version),
            Written::Conflict(found) => match fence.on_conflict(found) {
                Verdict::Written => {}
                // Not merged: where to begin, and whose it is, was read before that write.
                Verdict::WriteAgain | Verdict::Superseded(_) => return Ok(ClaimStep::Again),
            },
            Written::Failed(error) => return Ok(ClaimStep::Failed(error)),
        }
    }
    shared.counters.checkpoints.add(1);
    let start = begin.start();
    announce(shared, partition, &fence, start);
    Ok(ClaimStep::Claimed(Box::new(Claimed {
        resume: ResumePosition::new(hub.incarnation, start),
        fence,
        look: Look { begun: look_begun, log },
    })))
}

/// Tells the log what was claimed, and whether one of its events is under suspicion.
fn announce(shared: &Shared, partition: &Partition, fence: &Fence, start: LinkStart) {
    info!(
        message_topic = %partition.entity,
        message_partition = %partition.id,
        message_consumer_group = %shared.transport.consumer_group(),
        lease_epoch = fence.lease_epoch().0,
        %start,
        "the partition is ours"
    );
    let claimed = fence.stored();
    let takeovers = claimed.takeovers_without_progress;
    if let Some(in_flight) = shared.takeover_rule().window(takeovers) {
        warn!(
            message_topic = %partition.entity,
            message_partition = %partition.id,
            message_consumer_group = %shared.transport.consumer_group(),
            takeovers,
            in_flight,
            suspects_to = claimed.suspects_to.map(|number| number.0),
            "owners end one after the other while they handle these events: fewer are handled at \
             once, to find the one that ends its process"
        );
    }
}
