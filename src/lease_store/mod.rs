//! The port to leases: list, compare-and-swap of ownership records, heartbeats.
//!
//! Like a checkpoint store, a lease store is simple: a linearizable register for each partition, a register for
//! each member, and a clock that all workers share. The consumer decides above it which worker may take what.

#[cfg(feature = "blob")]
pub mod blob;
pub mod memory;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

pub use crate::checkpoint::{CheckpointKey, CheckpointScope, Expected, StoreError, VersionToken};
use crate::error::Error;
pub use crate::lease::{
    Holder, LeaseListing, Member, OwnerId, Ownership, StoredMember, StoredOwnership,
};

/// Keeps leases. The calls on one record are linearizable.
pub trait LeaseStore: Send + Sync + fmt::Debug + 'static {
    /// Lists the ownership and member records of a scope, ownerships in the order of their partitions. A member
    /// record that cannot be understood is left out. An ownership that cannot be understood has no holder.
    ///
    /// Each record is as it was at some moment during the call. Member records must be read after all
    /// ownerships. A worker writes its member record before it takes anything, so the holder of an ownership
    /// is among the members unless it is gone.
    ///
    /// # Errors
    /// As the medium fails.
    fn list<'a>(&'a self, scope: &'a CheckpointScope)
    -> BoxFuture<'a, Result<LeaseListing, Error>>;

    /// Reads one ownership record. `None` if there is none.
    ///
    /// # Errors
    /// As the medium fails.
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredOwnership>, Error>>;

    /// Writes an ownership record if the store holds the expected one. The age of the record begins anew, even if
    /// nothing in it changes.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the store holds another record.
    ///
    /// # Cancel safety
    /// A dropped call may still be applied.
    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        ownership: &'a Ownership,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>>;

    /// Writes the member record of a worker over any earlier one. This is its heartbeat.
    ///
    /// # Errors
    /// As the medium fails.
    fn write_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        member: &'a Member,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes the member record of a worker, if there is one.
    ///
    /// # Errors
    /// As the medium fails.
    fn remove_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        owner: &'a OwnerId,
    ) -> BoxFuture<'a, Result<(), Error>>;
}

/// A shared store is a store as well.
#[deny(clippy::missing_trait_methods)]
impl<T: LeaseStore + ?Sized> LeaseStore for Arc<T> {
    fn list<'a>(
        &'a self,
        scope: &'a CheckpointScope,
    ) -> BoxFuture<'a, Result<LeaseListing, Error>> {
        T::list(self, scope)
    }

    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredOwnership>, Error>> {
        T::load(self, key)
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        ownership: &'a Ownership,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        T::store(self, key, ownership, expected)
    }

    fn write_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        member: &'a Member,
    ) -> BoxFuture<'a, Result<(), Error>> {
        T::write_member(self, scope, member)
    }

    fn remove_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        owner: &'a OwnerId,
    ) -> BoxFuture<'a, Result<(), Error>> {
        T::remove_member(self, scope, owner)
    }
}
