//! The port to durable checkpoints: load, compare-and-swap, list.
//!
//! A store is a simple, linearizable register for each partition. It does not decide what may be written over what. The
//! consumer decides that above it, in the same way for every store: a new owner fences the old one, and a checkpoint
//! moves forward only.

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

/// One entry of a listing: a partition with its checkpoint, or with the reason why that cannot be read.
pub type Listed = (PartitionId, Result<StoredCheckpoint, Error>);

/// Keeps checkpoints. The calls on one key are linearizable. Names of hubs and consumer groups do not depend on their
/// case, so two keys that differ in case only are the same key.
pub trait CheckpointStore: Send + Sync + fmt::Debug + 'static {
    /// Reads one checkpoint. `None` if there is none.
    ///
    /// # Errors
    /// `BadData` if the stored value cannot be understood; otherwise as the medium fails.
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>>;

    /// Writes a checkpoint if the store holds the expected value. `Ok` means that the checkpoint is durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the store holds another value.
    ///
    /// # Cancel safety
    /// A dropped call may still be applied.
    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>>;

    /// Writes a checkpoint over a value that cannot be read: the last resort of an operator. `Ok` means that the
    /// checkpoint is durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the stored value can be read, or was changed meanwhile. The default
    /// implementation fails with `Permanent`: a store that keeps values unchanged has none that cannot be read.
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

    /// Lists the checkpoints of a scope, in the order of their partitions. One bad entry does not hide the others.
    ///
    /// # Errors
    /// If the listing itself fails.
    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>>;
}

/// A shared store is a store as well.
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
