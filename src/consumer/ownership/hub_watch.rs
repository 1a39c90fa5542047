//! What is looked at beside the work: whether the hub has more partitions, whether somebody else wrote
//! our checkpoints, and where the logs end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::sleep;

use super::checkpoint_watch::overwritten;
use crate::consumer::lock::lock;
use crate::consumer::shared::Shared;
use crate::consumer::status::{Look, PartitionPhase, PartitionStatus};
use crate::event::PartitionId;

/// How often the hub is asked whether it has more partitions: every 60 s.
pub const PARTITIONS_INTERVAL: Duration = Duration::from_secs(60);

/// What a look found.
pub(super) enum Found {
    /// The partitions that the hub has now.
    Partitions(Vec<PartitionId>),
    /// Partitions whose checkpoints somebody else wrote.
    Overwritten(Vec<PartitionId>),
}

/// Looks again and again, at what has nothing to do with who owns what.
pub(super) struct HubWatch {
    shared: Arc<Shared>,
    partitions: BoxFuture<'static, Vec<PartitionId>>,
    overwritten: BoxFuture<'static, Vec<PartitionId>>,
}

impl HubWatch {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let (partitions, overwritten) = (Self::partitions(shared), Self::overwritten(shared));
        Self { shared: Arc::clone(shared), partitions, overwritten }
    }

    fn partitions(shared: &Arc<Shared>) -> BoxFuture<'static, Vec<PartitionId>> {
        let shared = Arc::clone(shared);
        async move { new_partitions(&shared).await }.boxed()
    }

    fn overwritten(shared: &Arc<Shared>) -> BoxFuture<'static, Vec<PartitionId>> {
        let shared = Arc::clone(shared);
        async move { overwritten(&shared).await }.boxed()
    }

    /// Waits for what the next look finds.
    ///
    /// # Cancel safety
    /// A look under way goes on with the next call.
    pub(super) async fn next(&mut self) -> Found {
        tokio::select! {
            biased;
            found = &mut self.partitions => {
                self.partitions = Self::partitions(&self.shared);
                Found::Partitions(found)
            }
            found = &mut self.overwritten => {
                self.overwritten = Self::overwritten(&self.shared);
                Found::Overwritten(found)
            }
        }
    }
}

/// Asks the hub after a while which partitions it has. What cannot be read is asked for again.
async fn new_partitions(shared: &Shared) -> Vec<PartitionId> {
    loop {
        sleep(PARTITIONS_INTERVAL.mul_f64(0.75 + shared.random() / 2.0)).await;
        if let Ok(hub) = shared.transport.hub_properties().await {
            return hub.partitions;
        }
    }
}

/// How often the end of the log of each partition is read, for the lag: every 30 s.
pub const LAG_PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// How often the gauges of the partitions are told again: events that wait grow older while nothing
/// else happens.
const GAUGES_INTERVAL: Duration = Duration::from_secs(2);

/// Keeps what is known of the lag as young as it has to be, for ever.
pub(super) async fn watch_lag(shared: &Shared) -> Infallible {
    let (looks, _shows) = tokio::join!(look_at_logs(shared), show_gauges(shared));
    looks
}

/// Reads the ends of the logs now and then. What cannot be read is left for the next time.
async fn look_at_logs(shared: &Shared) -> Infallible {
    loop {
        // Jittered: a fleet does not ask all at once.
        sleep(LAG_PROBE_INTERVAL.mul_f64(0.75 + shared.random() / 2.0)).await;
        for (id, status) in statuses(shared) {
            if status.phase() == PartitionPhase::Stopped {
                continue;
            }
            let begun = shared.service_now();
            let read = shared.transport.log_properties(&id).await;
            status.on_look(read.ok().map(|log| Look { begun, log }), shared.service_now());
        }
    }
}

async fn show_gauges(shared: &Shared) -> Infallible {
    loop {
        sleep(GAUGES_INTERVAL).await;
        let now = shared.service_now();
        for (_, status) in statuses(shared) {
            status.show(now);
        }
        // An exporter may forget what is not told again.
        shared.timings.in_flight.increment(0.0);
    }
}

fn statuses(shared: &Shared) -> Vec<(PartitionId, Arc<PartitionStatus>)> {
    let partitions = lock(&shared.partitions);
    partitions.iter().map(|(id, status)| (id.clone(), Arc::clone(status))).collect()
}
