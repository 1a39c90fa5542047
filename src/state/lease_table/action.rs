//! What a lease table asks for, and what it is told of what came of it.

use crate::checkpoint::{Expected, VersionToken};
use crate::event::PartitionId;
use crate::lease::{OwnerId, Ownership, StoredOwnership};

/// What a write is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Take the partition.
    Claim,
    /// Say that it drains for a target.
    Mark,
    /// Say that it does not drain any more.
    Unmark,
    /// Keep the record young, for foreign owners.
    Renew,
    /// Write the new holder.
    Give,
}

/// A write of an ownership record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseWrite {
    /// Of which partition.
    pub partition: PartitionId,
    /// What to write.
    pub ownership: Ownership,
    /// What it replaces.
    pub expected: Expected,
    /// What for.
    pub purpose: Purpose,
}

/// What a write came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseWritten {
    /// It is stored, under this version.
    Stored(VersionToken),
    /// The store holds this instead of what was expected.
    Conflict(Option<StoredOwnership>),
    /// Whether it was applied is not known.
    Unknown,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write, and say what it came to: [`LeaseTable::on_written`](super::LeaseTable::on_written).
    Write(LeaseWrite),
    /// Run the partition, until [`LeaseTable::on_ended`](super::LeaseTable::on_ended).
    Start(PartitionId),
    /// Drain it for a hand-off.
    Yield(PartitionId),
    /// Do not drain it any more; where it has ended meanwhile, that is fine too.
    CallBack(PartitionId),
    /// It is another owner's: stop.
    Lose(PartitionId),
    /// Remove the member record of a worker that is long gone.
    Forget(OwnerId),
}

/// How what ran of a partition ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// All that was begun is settled and checkpointed, as far as the deadline allowed.
    Drained,
    /// Another owner has it, or had it.
    Lost,
    /// It stopped for good, and stays ours: an operator is needed.
    Stopped,
}
