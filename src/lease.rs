//! The values of leases: which worker owns a partition, and which workers are alive.
//!
//! A *lease* is the ownership of a partition in the store. It is as good as its owner is alive:
//! a worker of ours by the heartbeat of its [`Member`] record, a foreign processor by the age of
//! the ownership itself, which it renews.

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::checkpoint::VersionToken;
use crate::event::{PartitionId, name_type};

name_type!(
    /// A worker as leases know it: one run of one consumer. Never used again by another run.
    OwnerId
);

/// An ownership record: the worker that has a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Holder {
    /// Nobody: never owned, or released.
    #[default]
    Nobody,
    /// A worker of longshore.
    Worker(OwnerId),
    /// A processor of another SDK, by the name it gave itself.
    Foreign(OwnerId),
}

impl Holder {
    /// The worker of ours that has it.
    pub fn worker(&self) -> Option<&OwnerId> {
        match self {
            Holder::Worker(owner) => Some(owner),
            Holder::Nobody | Holder::Foreign(_) => None,
        }
    }
}

/// The ownership record of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ownership {
    /// The owner.
    pub holder: Holder,
    /// The worker that a hand-off under way is for: the holder drains, and then writes it here as
    /// the holder.
    pub target: Option<OwnerId>,
}

impl Ownership {
    /// Held by `owner`, and not being handed to anyone.
    pub fn of(owner: OwnerId) -> Self {
        Self { holder: Holder::Worker(owner), target: None }
    }
}

/// An ownership record as the store holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredOwnership {
    /// The record.
    pub ownership: Ownership,
    /// Its version, for compare-and-swap.
    pub version: VersionToken,
    /// When it was last written, by the store's clock.
    pub modified: SystemTime,
}

/// What a worker says of itself. Writing it is the worker's heartbeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Which worker.
    pub owner: OwnerId,
    /// The partitions of others that it asks for.
    pub wants: BTreeSet<PartitionId>,
    /// Whether it is about to stop: it gives everything, and takes nothing.
    pub leaving: bool,
}

/// A member record as the store holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredMember {
    /// The record.
    pub member: Member,
    /// The last heartbeat, by the store's clock.
    pub modified: SystemTime,
}

/// The leases of a consumer group of an entity. Not a snapshot: each record is as it was at some
/// moment while the listing was made, the members' after the ownerships.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseListing {
    /// The time of the store's clock when the listing was answered.
    pub now: SystemTime,
    /// The ownership records, by partition; a partition without one was never owned.
    pub ownerships: Vec<(PartitionId, StoredOwnership)>,
    /// The member records, the ones of workers that are long gone included.
    pub members: Vec<StoredMember>,
}
