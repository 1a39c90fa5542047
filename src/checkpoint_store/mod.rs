//! The port to durable checkpoints: load, compare-and-swap, list.
//!
//! A store is a dumb, linearizable register per partition. What may be written over what —
//! the fence at the claim, forward only, the merge after a lost race — is decided above it, by
//! [`crate::state::fence`], so that every store gets the same answer.

#[cfg(feature = "blob")]
pub mod blob;
pub mod file;
#[cfg(any(feature = "blob", feature = "event-hubs"))]
mod foreign;
pub mod memory;
#[cfg(feature = "event-hubs")]
pub mod sdk;

use std::fmt;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

pub use crate::checkpoint::{
    Checkpoint, CheckpointKey, CheckpointScope, Expected, LeaseEpoch, SettledRun, StoreError,
    StoredCheckpoint, Trial, VersionToken, WriteId,
};
use crate::error::{Error, ErrorClass};
use crate::event::PartitionId;

/// One entry of a listing: a checkpoint, or why it cannot be read.
pub type Listed = (PartitionId, Result<StoredCheckpoint, Error>);

/// Keeps checkpoints. Every call on one key is linearizable. Keys whose scopes are equal are one:
/// names of hubs and consumer groups are one whatever their case.
pub trait CheckpointStore: Send + Sync + fmt::Debug + 'static {
    /// Reads one checkpoint; `None` where there is none.
    ///
    /// # Errors
    /// `BadData` where what is stored cannot be understood; otherwise as the medium fails.
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>>;

    /// Writes a checkpoint if the store holds what is expected. `Ok` means durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where it holds something else.
    ///
    /// # Cancel safety
    /// A dropped call may still be applied.
    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>>;

    /// Writes a checkpoint over one that cannot be read, whatever that is: an operator's last resort.
    /// `Ok` means durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where what is stored can be read, or was changed meanwhile. By
    /// default `Permanent`: a store that keeps what it was given as it is has no such value.
    ///
    /// # Cancel safety
    /// A dropped call may still be applied.
    fn overwrite_unreadable<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let _unused = checkpoint;
        async move {
            let message = format!("this store does not write over what cannot be read: {key}");
            let operation = "write over the checkpoint";
            Err(StoreError::Failed(Error::new(ErrorClass::Permanent, operation, message)))
        }
        .boxed()
    }

    /// Lists the checkpoints of a scope by partition; one bad entry does not hide the others.
    ///
    /// # Errors
    /// Where the listing itself fails.
    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>>;
}

/// What is shared is a store as well.
#[deny(clippy::missing_trait_methods)]
impl<T: CheckpointStore + ?Sized> CheckpointStore for Arc<T> {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        T::load(self, key)
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        T::store(self, key, checkpoint, expected)
    }

    fn overwrite_unreadable<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        T::overwrite_unreadable(self, key, checkpoint)
    }

    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
        T::list(self, scope)
    }
}
