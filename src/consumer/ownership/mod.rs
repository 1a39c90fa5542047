//! Which partitions run here, from the first look at the hub to the consumer's exit: all of
//! them, or those that this worker has leases for.

mod begin;
pub(super) mod checkpoint_watch;
mod claim;
mod first_look;
pub(super) mod hub_watch;
pub(super) mod lease_loop;
mod lease_requests;
pub(super) mod letter_count;
mod own_all;
mod owners;

use std::sync::Arc;

use tokio::time::timeout;
use tracing::error;

use first_look::list_partitions;
use hub_watch::watch_lag;
use own_all::own_all;
use owners::Owners;

use super::exit::{ConsumerExit, ExitReason, PartitionExit, StopReason};
use super::handling::call::StartCall;
use super::never_connected::NeverConnected;
use super::orders::Directive;
use super::shared::Shared;
use crate::outcome::Failure;
use crate::state::tenure::CANCEL_GRACE;

/// Runs until the consumer ends.
pub(super) async fn run(shared: Arc<Shared>, handler: Arc<dyn StartCall>) -> ConsumerExit {
    let (reason, mut exits) = match own(&shared, handler).await {
        Ok(exits) => (reason(&shared, &exits), exits),
        Err(never) => {
            // Nobody may be waiting for the exit of a run that has begun nothing.
            error!(message_topic = %shared.transport.entity(), "{never}");
            (ExitReason::NeverConnected(never), Vec::new())
        }
    };
    // Handlers that were cut may still hold the last of their resources.
    shared.tasks.close();
    let _ended = timeout(CANCEL_GRACE, shared.tasks.wait()).await;
    shared.transport.close().await;
    exits.sort_by(|one, other| one.partition.cmp(&other.partition));
    ConsumerExit { reason, partitions: exits, counts: shared.counters.read() }
}

/// Owns what is ours until the consumer is to end. What is looked at beside that ends with it.
async fn own(
    shared: &Arc<Shared>,
    handler: Arc<dyn StartCall>,
) -> Result<Vec<PartitionExit>, NeverConnected> {
    let partitions = list_partitions(shared).await?;
    let owners = Owners::new(Arc::clone(shared), handler);
    let owning = async {
        if shared.leases.is_some() {
            lease_loop::run(shared, owners, partitions).await
        } else {
            Ok(own_all(shared, owners, partitions).await)
        }
    };
    tokio::select! {
        biased;
        exits = owning => exits,
        never = watch_lag(shared) => match never {},
    }
}

fn reason(shared: &Shared, exits: &[PartitionExit]) -> ExitReason {
    let aborted: Option<Failure> = exits.iter().find_map(|exit| match &exit.reason {
        StopReason::Aborted(failure) => Some(failure.clone()),
        _ => None,
    });
    match aborted {
        Some(failure) => ExitReason::Aborted(failure),
        None if matches!(*shared.directive.borrow(), Directive::Drain(_)) => ExitReason::Drained,
        None => ExitReason::PartitionsStopped,
    }
}
