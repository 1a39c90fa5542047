//! What is looked at beside the work: whether the hub has more partitions, whether somebody else wrote
//! our checkpoints, and where the logs end.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::sleep;
use tracing::warn;

use super::checkpoint_watch::overwritten;
use crate::consumer::exit::ExitReason;
use crate::consumer::lock::lock;
use crate::consumer::orders::Directive;
use crate::consumer::shared::Shared;
use crate::error::{Error, error_chain};
use crate::event::PartitionId;

/// How often the hub is asked whether it has more partitions.
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

/// How often the end of each partition's log is read, to know the lag in events.
pub const LAG_PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Reads the ends of the logs now and then. What cannot be read is left for the next time.
pub(super) async fn probe_lag(shared: Arc<Shared>) {
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
pub(super) async fn list_partitions(shared: &Shared) -> Result<Vec<PartitionId>, ExitReason> {
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
