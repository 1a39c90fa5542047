//! Which partitions are ours. For now all of them: one worker claims every partition of its
//! entity and owns each until it is told to drain or loses it.
//!
//! This is the seam of the lease loop: [`own`] is one ownership of one partition from claim to
//! release, and whoever decides about ownership starts and ends it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use super::claim::claim;
use super::dispatch::Mode;
use super::exit::{ConsumerExit, ExitReason, PartitionExit, StopReason};
use super::partition_worker::{CANCEL_GRACE, PartitionWorker};
use super::shared::{Directive, PartitionPhase, PartitionStatus, Shared, lock};
use crate::checkpoint_store::CheckpointKey;
use crate::config::PositionLost;
use crate::error::{Error, error_chain};
use crate::event::{Partition, PartitionId};
use crate::outcome::Failure;
use crate::state::fence::Superseded;
use crate::telemetry::metrics::PartitionMetrics;

/// Owns all partitions until the consumer ends.
pub(super) async fn run<M: Mode>(shared: Arc<Shared>, mode: Arc<M>) -> ConsumerExit {
    let partitions = match list_partitions(&shared).await {
        Ok(partitions) => partitions,
        Err(reason) => {
            return ConsumerExit { reason, partitions: Vec::new(), counts: shared.counters.read() };
        }
    };
    let mut owners = JoinSet::new();
    for id in partitions {
        let partition = Partition::new(shared.transport.entity().clone(), id.clone());
        let metrics = PartitionMetrics::new(&partition, shared.transport.consumer_group());
        let status = Arc::new(PartitionStatus::new(metrics));
        lock(&shared.partitions).insert(id.clone(), Arc::clone(&status));
        owners.spawn(own(Arc::clone(&shared), Arc::clone(&mode), id, status));
    }
    let probe = shared.tasks.spawn(probe_lag(Arc::clone(&shared)));
    let mut exits = Vec::new();
    while let Some(ended) = owners.join_next().await {
        match ended {
            Ok(exit) => exits.push(exit),
            Err(error) => error!(%error, "a partition's worker ended abnormally"),
        }
    }
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

/// Owns one partition, anew where its position was lost or reset, until it stops for good.
async fn own<M: Mode>(
    shared: Arc<Shared>,
    mode: Arc<M>,
    id: PartitionId,
    status: Arc<PartitionStatus>,
) -> PartitionExit {
    let partition = Partition::new(shared.transport.entity().clone(), id.clone());
    let key = CheckpointKey { scope: shared.scope(), partition: id.clone() };
    let mut lost = None;
    loop {
        status.set_phase(PartitionPhase::Claiming);
        let claimed = match claim(&shared, &key, &partition, lost).await {
            Ok(claimed) => claimed,
            Err(reason) => {
                status.set_phase(PartitionPhase::Stopped);
                report(&partition, &reason);
                return PartitionExit {
                    partition: id,
                    reason,
                    cut_handlers: 0,
                    checkpoint_behind: false,
                };
            }
        };
        status.set_phase(PartitionPhase::Running);
        if let Some(hook) = &shared.on_assigned {
            hook(&partition);
        }
        let worker = PartitionWorker::new(
            Arc::clone(&shared),
            Arc::clone(&mode),
            partition.clone(),
            key.clone(),
            Arc::clone(&status),
            claimed,
        );
        let exit = worker.run().await;
        if let Some(hook) = &shared.on_revoked {
            hook(&partition);
        }
        let again = match &exit.reason {
            StopReason::PositionLost(_) => shared.options.position_lost != PositionLost::Stop,
            StopReason::Superseded(by) => {
                matches!(by, Superseded::Reset(_) | Superseded::Incarnation(_))
            }
            _ => false,
        };
        report(&partition, &exit.reason);
        if !again {
            return exit;
        }
        lost = match exit.reason {
            StopReason::PositionLost(continuity) => Some(continuity),
            _ => None,
        };
    }
}

fn report(partition: &Partition, reason: &StopReason) {
    if !matches!(reason, StopReason::Drained) {
        error!(
            message_topic = %partition.entity,
            message_partition = %partition.id,
            reason = ?reason,
            "the partition stopped"
        );
    }
}
