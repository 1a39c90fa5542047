//! Which partitions run here, from the first look at the hub to the consumer's exit: all of
//! them, or those that this worker has leases for.

mod begin;
pub(super) mod checkpoint_watch;
mod claim;
pub(super) mod hub_watch;
pub(super) mod lease_loop;
mod lease_requests;
mod own_all;
mod owners;

use std::sync::Arc;

use tokio::time::timeout;

use hub_watch::{list_partitions, probe_lag};
use own_all::own_all;
use owners::Owners;

use super::exit::{ConsumerExit, ExitReason, StopReason};
use super::handling::call::StartCall;
use super::orders::Directive;
use super::shared::Shared;
use crate::outcome::Failure;
use crate::state::tenure::CANCEL_GRACE;

/// Runs until the consumer ends.
pub(super) async fn run(shared: Arc<Shared>, handler: Arc<dyn StartCall>) -> ConsumerExit {
    let partitions = match list_partitions(&shared).await {
        Ok(partitions) => partitions,
        Err(reason) => {
            return ConsumerExit { reason, partitions: Vec::new(), counts: shared.counters.read() };
        }
    };
    let probe = shared.tasks.spawn(probe_lag(Arc::clone(&shared)));
    let owners = Owners::new(Arc::clone(&shared), handler);
    let mut exits = if shared.leases.is_some() {
        lease_loop::run(&shared, owners, partitions).await
    } else {
        own_all(&shared, owners, partitions).await
    };
    probe.abort();
    // Handlers that were cut may still hold the last of their resources.
    shared.tasks.close();
    let _ended = timeout(CANCEL_GRACE, shared.tasks.wait()).await;
    shared.transport.close().await;
    exits.sort_by(|one, other| one.partition.cmp(&other.partition));
    let aborted: Option<Failure> = exits.iter().find_map(|exit| match &exit.reason {
        StopReason::Aborted(failure) => Some(failure.clone()),
        _ => None,
    });
    let drained = matches!(*shared.directive.borrow(), Directive::Drain(_));
    ConsumerExit {
        reason: match aborted {
            Some(failure) => ExitReason::Aborted(failure),
            None if drained => ExitReason::Drained,
            None => ExitReason::PartitionsStopped,
        },
        partitions: exits,
        counts: shared.counters.read(),
    }
}
