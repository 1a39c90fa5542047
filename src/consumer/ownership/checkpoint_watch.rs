//! Notices that somebody else wrote a checkpoint of ours: an operator's reset, a later owner, an SDK
//! that writes without conditions.
//!
//! A worker that has something to write finds out by its compare-and-swap. One that has nothing to
//! do would never: so now and then all checkpoints are listed, one request for all partitions, and
//! those whose version is not the one we know are compared by a write of our own.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::checkpoint_store::VersionToken;
use crate::consumer::lock::lock;
use crate::consumer::shared::Shared;
use crate::consumer::status::PartitionPhase;
use crate::error::error_chain;
use crate::event::PartitionId;

/// How often the stored checkpoints are compared with what this worker knows: every 30 s. An idle worker may take
/// this long to honour a reset.
pub const CHECKPOINTS_INTERVAL: Duration = Duration::from_secs(30);

/// Waits until checkpoints are found that somebody else wrote, or deleted.
///
/// # Cancel safety
/// Nothing is lost.
pub(super) async fn overwritten(shared: &Shared) -> Vec<PartitionId> {
    let scope = shared.scope();
    loop {
        // Jittered: a fleet does not ask all at once.
        sleep(CHECKPOINTS_INTERVAL.mul_f64(0.75 + shared.random() / 2.0)).await;
        let before = versions(shared);
        if before.is_empty() {
            continue;
        }
        let listed = timeout(shared.options.store_timeout, shared.checkpoints.list(&scope)).await;
        let listed: BTreeMap<_, _> = match listed {
            Ok(Ok(listed)) => listed.into_iter().collect(),
            Ok(Err(error)) => {
                debug!(causes = ?error_chain(&error), "the checkpoints cannot be listed");
                continue;
            }
            Err(_elapsed) => continue,
        };
        let after = versions(shared);
        // What was written meanwhile is newer than the listing.
        let unmoved = before.iter().filter(|(id, version)| after.get(*id) == Some(version));
        let found: Vec<PartitionId> = unmoved
            .filter(|(id, version)| match listed.get(*id) {
                Some(Ok(stored)) => stored.version != **version,
                // What cannot be read is reported by the next write.
                Some(Err(_)) => false,
                None => true,
            })
            .map(|(id, _)| id.clone())
            .collect();
        if !found.is_empty() {
            return found;
        }
    }
}

/// The versions of the checkpoints of what runs, where they are known.
fn versions(shared: &Shared) -> BTreeMap<PartitionId, VersionToken> {
    lock(&shared.partitions)
        .iter()
        .filter(|(_, status)| status.phase() == PartitionPhase::Running)
        .filter_map(|(id, status)| Some((id.clone(), status.checkpoint_version()?)))
        .collect()
}
