//! The partitions that run here: a task each, which takes orders, and ends with an exit.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{error, warn};

use super::claim::claim;
use super::letter_count::LetterCount;
use crate::checkpoint_store::CheckpointKey;
use crate::config::PositionLost;
use crate::consumer::exit::{PartitionExit, StopReason};
use crate::consumer::handling::call::StartCall;
use crate::consumer::handling::panics::panic_text;
use crate::consumer::lock::lock;
use crate::consumer::orders::{Order, Told};
use crate::consumer::partition::PartitionWorker;
use crate::consumer::shared::Shared;
use crate::consumer::status::{PartitionPhase, PartitionStatus};
use crate::event::{Partition, PartitionId};
use crate::state::fence::Superseded;
use crate::state::panics::Panics;
use crate::telemetry::metrics::PartitionGauges;

/// The ownerships under way. Dropped, it takes them with it.
pub(super) struct Owners {
    shared: Arc<Shared>,
    /// It goes with the last of them.
    handler: Arc<dyn StartCall>,
    tasks: JoinSet<PartitionExit>,
    running: BTreeMap<PartitionId, (Id, watch::Sender<Told>)>,
    panics: BTreeMap<PartitionId, Panics>,
}

impl Owners {
    pub(super) fn new(shared: Arc<Shared>, handler: Arc<dyn StartCall>) -> Self {
        Self {
            shared,
            handler,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            panics: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Claims the partition and runs it. Nothing of it may be running here.
    pub(super) fn start(&mut self, id: PartitionId, order: Order) {
        let status = Arc::new(PartitionStatus::new(self.shared.timings.in_flight.clone()));
        lock(&self.shared.partitions).insert(id.clone(), Arc::clone(&status));
        let (sender, orders) = watch::channel(Told { order, rechecks: 0 });
        let own =
            own(Arc::clone(&self.shared), Arc::clone(&self.handler), id.clone(), status, orders);
        let task = self.tasks.spawn(own);
        self.running.insert(id, (task.id(), sender));
    }

    /// Tells one partition what to do.
    pub(super) fn order(&self, id: &PartitionId, order: Order) {
        if let Some((_, orders)) = self.running.get(id) {
            orders.send_modify(|told| told.order = order);
        }
    }

    /// Has one partition compare its checkpoint with the stored one.
    pub(super) fn recheck(&self, id: &PartitionId) {
        if let Some((_, orders)) = self.running.get(id) {
            orders.send_modify(|told| told.rechecks = told.rechecks.wrapping_add(1));
        }
    }

    /// Tells all partitions what to do.
    pub(super) fn order_all(&self, order: Order) {
        for (_, orders) in self.running.values() {
            orders.send_modify(|told| told.order = order);
        }
    }

    /// Waits for the next ownership to end; at once `None` where none is under way. Without an
    /// exit it ended abnormally, and may begin again.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next_exit(&mut self) -> Option<(PartitionId, Option<PartitionExit>)> {
        let ended = self.tasks.join_next_with_id().await?;
        let task = ended.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
        let id = self.running.iter().find(|(_, (known, _))| *known == task)?.0.clone();
        self.running.remove(&id);
        let exit = match ended {
            Ok((_, exit)) => {
                self.panics.remove(&id);
                Some(exit)
            }
            Err(error) => self.on_abnormal_end(&id, error),
        };
        Some((id, exit))
    }

    /// A worker that panics over and over without getting any further stops: to begin again would
    /// change nothing.
    fn on_abnormal_end(&mut self, id: &PartitionId, error: JoinError) -> Option<PartitionExit> {
        let status = lock(&self.shared.partitions).get(id).cloned();
        let settled_to = status.as_ref().and_then(|status| status.settled_to());
        if let Some(status) = &status {
            status.on_gone(PartitionPhase::Stopped);
        }
        let partition = Partition::new(self.shared.transport.entity().clone(), id.clone());
        let message = match error.try_into_panic() {
            Ok(panic) => panic_text(&*panic).to_owned(),
            Err(cancelled) => cancelled.to_string(),
        };
        let Some(times) = self.panics.entry(id.clone()).or_default().on_panic(settled_to) else {
            error!(
                message_topic = %partition.entity,
                message_partition = %partition.id,
                panic = message,
                "a partition's worker panicked; it begins again"
            );
            return None;
        };
        let reason = StopReason::Panicked { times, message };
        report(&partition, &reason);
        Some(PartitionExit {
            partition: id.clone(),
            reason,
            cut_handlers: 0,
            checkpoint_behind: true,
        })
    }
}

/// Whoever drops it mid-way, as a crash does, has no partition any more.
impl Drop for Owners {
    fn drop(&mut self) {
        let partitions = lock(&self.shared.partitions);
        for status in self.running.keys().filter_map(|id| partitions.get(id)) {
            status.on_gone(PartitionPhase::Stopped);
        }
    }
}

/// Owns one partition, anew where its position was lost or reset, until it stops for good.
async fn own(
    shared: Arc<Shared>,
    handler: Arc<dyn StartCall>,
    id: PartitionId,
    status: Arc<PartitionStatus>,
    mut orders: watch::Receiver<Told>,
) -> PartitionExit {
    let partition = Partition::new(shared.transport.entity().clone(), id.clone());
    let key = CheckpointKey { scope: shared.scope(), partition: id.clone() };
    let mut lost = None;
    loop {
        status.on_gone(PartitionPhase::Claiming);
        let claimed = match claim(&shared, &key, &partition, lost, &mut orders).await {
            Ok(claimed) => claimed,
            Err(reason) => {
                status.on_gone(PartitionPhase::Stopped);
                report(&partition, &reason);
                return PartitionExit {
                    partition: id,
                    reason,
                    cut_handlers: 0,
                    checkpoint_behind: false,
                };
            }
        };
        on_assigned(&shared, &partition, &mut orders).await;
        let mut gauges = PartitionGauges::new(&partition, shared.transport.consumer_group());
        if shared.failures.is_some() {
            gauges = gauges.with_letters();
        }
        status.on_owned(claimed.begun(gauges), shared.service_now());
        let counting = LetterCount::begin(&shared, &partition, claimed.incarnation(), &status);
        let worker = PartitionWorker::new(
            Arc::clone(&shared),
            Arc::clone(&handler),
            partition.clone(),
            key.clone(),
            Arc::clone(&status),
            claimed,
        );
        let exit = worker.run(&mut orders).await;
        drop(counting);
        on_revoked(&shared, &partition).await;
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

/// Awaits the hook of a partition that is ours, for as long as it may stay.
async fn on_assigned(shared: &Shared, partition: &Partition, orders: &mut watch::Receiver<Told>) {
    let Some(hook) = &shared.on_assigned else { return };
    tokio::select! {
        biased;
        () = hook(partition.clone()) => {}
        () = told_to_leave(orders) => {}
    }
}

/// Awaits the hook of a partition that has left, for as long as a drain may take.
async fn on_revoked(shared: &Shared, partition: &Partition) {
    let Some(hook) = &shared.on_revoked else { return };
    if timeout(shared.options.drain_timeout, hook(partition.clone())).await.is_err() {
        warn!(
            message_topic = %partition.entity,
            message_partition = %partition.id,
            "the hook of a partition that has left did not end in time and was dropped"
        );
    }
}

/// Waits until the partition is to leave, in whatever way.
async fn told_to_leave(orders: &mut watch::Receiver<Told>) {
    let leaves = |told: &Told| match told.order {
        Order::Run | Order::Pause => false,
        Order::HandOff | Order::Drain(_) | Order::Lose => true,
    };
    if orders.wait_for(leaves).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn report(partition: &Partition, reason: &StopReason) {
    if !matches!(reason, StopReason::Drained | StopReason::HandedOff) {
        error!(
            message_topic = %partition.entity,
            message_partition = %partition.id,
            %reason,
            "the partition stopped"
        );
    }
}
