//! Who has no leases owns every partition.

use std::sync::Arc;

use tracing::info;

use super::hub_watch::{Found, HubWatch};
use super::owners::Owners;
use crate::consumer::exit::PartitionExit;
use crate::consumer::orders::Order;
use crate::consumer::shared::Shared;
use crate::event::PartitionId;

/// Without leases: every partition, until all have ended.
pub(super) async fn own_all(
    shared: &Arc<Shared>,
    mut owners: Owners,
    mut partitions: Vec<PartitionId>,
) -> Vec<PartitionExit> {
    let mut directive = shared.directive.subscribe();
    let mut order = Order::from(*directive.borrow_and_update());
    for id in &partitions {
        owners.start(id.clone(), order);
    }
    let mut exits = Vec::new();
    let mut watch = HubWatch::new(shared);
    loop {
        tokio::select! {
            biased;
            Ok(()) = directive.changed() => {
                order = Order::from(*directive.borrow_and_update());
                owners.order_all(order);
            }
            ended = owners.next_exit() => match ended {
                Some((_, Some(exit))) => exits.push(exit),
                // Abnormally: it is found again, as one that is new.
                Some((id, None)) => partitions.retain(|known| *known != id),
                None => return exits,
            },
            found = watch.next() => match found {
                Found::Partitions(found) => {
                    for id in found {
                        if !partitions.contains(&id) {
                            info!(partition = %id, "the hub has one more partition");
                            owners.start(id.clone(), order);
                            partitions.push(id);
                        }
                    }
                }
                Found::Overwritten(found) => found.iter().for_each(|id| owners.recheck(id)),
            }
        }
    }
}
