//! Which partitions run here, from the first look at the hub to the consumer's exit: all of
//! them, or those that this worker has leases for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::checkpoint_watch::overwritten;
use super::dispatch::Mode;
use super::exit::{ConsumerExit, ExitReason, PartitionExit, StopReason};
use super::lease_loop;
use super::owners::Owners;
use super::partition_worker::CANCEL_GRACE;
use super::shared::{Directive, Order, Shared, lock};
use crate::error::{Error, error_chain};
use crate::event::PartitionId;
use crate::outcome::Failure;

/// How often the hub is asked whether it has more partitions.
pub const PARTITIONS_INTERVAL: Duration = Duration::from_secs(60);

/// Runs until the consumer ends.
pub(super) async fn run<M: Mode>(shared: Arc<Shared>, mode: Arc<M>) -> ConsumerExit {
    let partitions = match list_partitions(&shared).await {
        Ok(partitions) => partitions,
        Err(reason) => {
            return ConsumerExit { reason, partitions: Vec::new(), counts: shared.counters.read() };
        }
    };
    let probe = shared.tasks.spawn(probe_lag(Arc::clone(&shared)));
    let owners = Owners::new(Arc::clone(&shared), mode);
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

/// Without leases: every partition, until all have ended.
async fn own_all<M: Mode>(
    shared: &Arc<Shared>,
    mut owners: Owners<M>,
    mut partitions: Vec<PartitionId>,
) -> Vec<PartitionExit> {
    let mut directive = shared.directive.subscribe();
    let mut order = Order::from(*directive.borrow_and_update());
    for id in &partitions {
        owners.start(id.clone(), order);
    }
    let mut exits = Vec::new();
    let mut more = Box::pin(new_partitions(shared));
    let mut foreign_writes = Box::pin(overwritten(shared));
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
            found = &mut more => {
                for id in found {
                    if !partitions.contains(&id) {
                        info!(partition = %id, "the hub has one more partition");
                        owners.start(id.clone(), order);
                        partitions.push(id);
                    }
                }
                more.set(new_partitions(shared));
            }
            found = &mut foreign_writes => {
                found.iter().for_each(|id| owners.recheck(id));
                foreign_writes.set(overwritten(shared));
            }
        }
    }
}

/// Asks the hub after a while which partitions it has. What cannot be read is asked for again.
pub(super) async fn new_partitions(shared: &Shared) -> Vec<PartitionId> {
    loop {
        sleep(PARTITIONS_INTERVAL.mul_f64(0.75 + shared.random() / 2.0)).await;
        if let Ok(hub) = shared.transport.hub_properties().await {
            return hub.partitions;
        }
    }
}

/// How often the end of each partition's log is read, to know the lag in events.
pub const LAG_PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Reads the ends of the logs now and then. What cannot be read is left for the next time.
async fn probe_lag(shared: Arc<Shared>) {
    loop {
        // Jittered: a fleet does not ask all at once.
        sleep(LAG_PROBE_INTERVAL.mul_f64(0.75 + shared.random() / 2.0)).await;
        let partitions: Vec<_> = lock(&shared.partitions)
            .iter()
            .map(|(id, status)| (id.clone(), Arc::clone(status)))
            .collect();
        for (id, status) in partitions {
            if let Ok(log) = shared.transport.log_properties(&id).await {
                status.on_log_end(log.last_enqueued);
            }
        }
    }
}

/// Asks the hub for its partitions, however long it takes.
async fn list_partitions(shared: &Shared) -> Result<Vec<PartitionId>, ExitReason> {
    let mut directive = shared.directive.subscribe();
    let mut failures = 0;
    loop {
        if matches!(*directive.borrow_and_update(), Directive::Drain(_)) {
            return Err(ExitReason::Drained);
        }
        let error: Error = tokio::select! {
            biased;
            _changed = directive.changed() => continue,
            read = shared.transport.hub_properties() => match read {
                Ok(hub) => return Ok(hub.partitions),
                Err(error) => error,
            },
        };
        if !error.class().is_retryable() {
            return Err(ExitReason::Failed(error));
        }
        failures += 1;
        let delay = shared.options.reopen_backoff.delay(failures, shared.random());
        warn!(
            message_topic = %shared.transport.entity(),
            class = %error.class(),
            failures,
            retry_in_ms = delay.as_millis(),
            causes = ?error_chain(&error),
            "the hub cannot be read; trying again"
        );
        tokio::select! {
            biased;
            _changed = directive.changed() => {}
            () = sleep(delay) => {}
        }
    }
}
