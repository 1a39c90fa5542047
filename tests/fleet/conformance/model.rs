//! The stores in memory as registers: the model that real traces are compared with.

use futures::FutureExt as _;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore as _, Expected, StoreError,
    VersionToken,
};
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::lease_store::{Holder, LeaseStore as _, Member, OwnerId, Ownership};

use crate::ports::{Lease, Peer};

/// A record of a store that answers at once.
pub trait Model<V> {
    /// The value and its version.
    fn read(&self) -> Option<(V, String)>;

    /// The new version; `None`: something else is stored than was expected.
    fn write(&self, value: &V, expected: Option<String>) -> Option<String>;
}

fn at_once<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("a store in memory answers at once")
}

fn scope() -> CheckpointScope {
    CheckpointScope {
        namespace: "model".to_owned(),
        entity: "files".into(),
        consumer_group: "$Default".into(),
    }
}

fn key() -> CheckpointKey {
    CheckpointKey { scope: scope(), partition: "0".into() }
}

fn expects(version: Option<String>) -> Expected {
    version.map_or(Expected::Absent, |version| Expected::Version(VersionToken(version)))
}

fn stored(answer: Result<VersionToken, StoreError>) -> Option<String> {
    match answer {
        Ok(version) => Some(version.0),
        Err(StoreError::Conflict) => None,
        Err(error) => panic!("a store in memory does not fail: {error}"),
    }
}

#[derive(Default)]
pub struct Checkpoints(MemoryCheckpointStore);

impl Model<Checkpoint> for Checkpoints {
    fn read(&self) -> Option<(Checkpoint, String)> {
        let stored = at_once(self.0.load(&key())).expect("read")?;
        Some((stored.checkpoint, stored.version.0))
    }

    fn write(&self, checkpoint: &Checkpoint, expected: Option<String>) -> Option<String> {
        stored(at_once(self.0.store(&key(), checkpoint, &expects(expected))))
    }
}

#[derive(Default)]
pub struct Leases(MemoryLeaseStore);

impl Model<Lease> for Leases {
    fn read(&self) -> Option<(Lease, String)> {
        let stored = at_once(self.0.load(&key())).expect("read")?;
        Some((Lease::from(&stored.ownership), stored.version.0))
    }

    fn write(&self, lease: &Lease, expected: Option<String>) -> Option<String> {
        let holder = match (lease.holder.clone(), lease.is_foreign) {
            (None, _) => Holder::Nobody,
            (Some(owner), false) => Holder::Worker(owner),
            (Some(owner), true) => Holder::Foreign(owner),
        };
        let ownership = Ownership { holder, target: lease.target.clone() };
        stored(at_once(self.0.store(&key(), &ownership, &expects(expected))))
    }
}

/// The member record of one worker.
#[derive(Default)]
pub struct Members(MemoryLeaseStore);

impl Members {
    pub fn read(&self) -> Option<Peer> {
        let listing = at_once(self.0.list(&scope())).expect("listed");
        listing.members.first().map(|stored| Peer::from(&stored.member))
    }

    /// Writes the record, or removes it.
    pub fn write(&self, owner: &OwnerId, peer: Option<&Peer>) {
        let written = match peer {
            Some(Peer { owner, wants, leaving }) => {
                let (wants, leaving) = (wants.clone(), *leaving);
                let member = Member { owner: owner.clone(), wants, leaving };
                at_once(self.0.write_member(&scope(), &member))
            }
            None => at_once(self.0.remove_member(&scope(), owner)),
        };
        written.expect("written");
    }
}
