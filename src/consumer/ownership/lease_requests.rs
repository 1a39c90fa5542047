//! Requests to the lease store as futures that own what they need, each with a time limit.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;
use tracing::warn;

use crate::checkpoint_store::{CheckpointKey, CheckpointScope};
use crate::error::{Error, ErrorClass, error_chain};
use crate::event::PartitionId;
use crate::lease_store::{LeaseListing, LeaseStore, Member, OwnerId, StoreError, StoredOwnership};
use crate::state::lease_table::{LeaseWrite, LeaseWritten};

/// What records said when they were read.
pub(super) type Polled = Vec<(PartitionId, Result<Option<StoredOwnership>, Error>)>;

/// What each request needs.
pub(super) struct Requests {
    pub(super) store: Arc<dyn LeaseStore>,
    pub(super) scope: CheckpointScope,
    /// How long one may take.
    pub(super) limit: Duration,
}

impl Requests {
    fn key(&self, partition: &PartitionId) -> CheckpointKey {
        CheckpointKey { scope: self.scope.clone(), partition: partition.clone() }
    }

    pub(super) fn list(&self) -> BoxFuture<'static, Result<LeaseListing, Error>> {
        let (store, scope, limit) = (Arc::clone(&self.store), self.scope.clone(), self.limit);
        async move { within(limit, "list the leases", store.list(&scope)).await }.boxed()
    }

    pub(super) fn heartbeat(&self, member: Member) -> BoxFuture<'static, Result<Member, Error>> {
        let (store, scope, limit) = (Arc::clone(&self.store), self.scope.clone(), self.limit);
        async move {
            within(limit, "write the heartbeat", store.write_member(&scope, &member)).await?;
            Ok(member)
        }
        .boxed()
    }

    pub(super) fn write(
        &self,
        write: LeaseWrite,
    ) -> BoxFuture<'static, (LeaseWrite, LeaseWritten)> {
        let (store, limit) = (Arc::clone(&self.store), self.limit);
        let key = self.key(&write.partition);
        async move {
            let attempt = async {
                match store.store(&key, &write.ownership, &write.expected).await {
                    Ok(version) => Ok(LeaseWritten::Stored(version)),
                    Err(StoreError::Conflict) => store.load(&key).await.map(LeaseWritten::Conflict),
                    Err(StoreError::Failed(error)) => Err(error),
                }
            };
            let written = within(limit, "write the lease", attempt).await;
            let written = written.unwrap_or_else(|error| {
                warn!(
                    lease = %key,
                    causes = ?error_chain(&error),
                    "a lease could not be written; trying again"
                );
                LeaseWritten::Unknown
            });
            (write, written)
        }
        .boxed()
    }

    pub(super) fn remove_member(&self, owner: OwnerId) -> BoxFuture<'static, ()> {
        let (store, scope, limit) = (Arc::clone(&self.store), self.scope.clone(), self.limit);
        async move {
            let removed = store.remove_member(&scope, &owner);
            if let Err(error) = within(limit, "remove the member record", removed).await {
                warn!(
                    worker = %owner,
                    causes = ?error_chain(&error),
                    "a member record could not be removed; it counts until it expires"
                );
            }
        }
        .boxed()
    }

    pub(super) fn poll(&self, partitions: Vec<PartitionId>) -> BoxFuture<'static, Polled> {
        let reads: FuturesUnordered<_> = partitions
            .into_iter()
            .map(|partition| {
                let (store, limit) = (Arc::clone(&self.store), self.limit);
                let key = self.key(&partition);
                async move {
                    let found = within(limit, "read the lease", store.load(&key)).await;
                    (partition, found)
                }
            })
            .collect();
        reads.collect().boxed()
    }
}

async fn within<T>(
    limit: Duration,
    operation: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(limit, call).await.unwrap_or_else(|_elapsed| {
        let message = format!("no answer within {limit:?}");
        Err(Error::new(ErrorClass::Transient, operation, message))
    })
}
