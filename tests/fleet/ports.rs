//! Stores that keep a journal of their calls: when each began and ended, what it was asked, what
//! it answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use longshore::Error;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, Listed, StoreError,
    StoredCheckpoint, VersionToken,
};
use longshore::event::PartitionId;
use longshore::lease_store::{
    Holder, LeaseListing, LeaseStore, Member, OwnerId, Ownership, StoredOwnership,
};
use serde::{Deserialize, Serialize};

use super::journal::{Journal, now};

/// The beginning or the end of a call.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct CallLine {
    /// Which call of its process.
    pub call: u64,
    pub at: u64,
    pub what: CallNews,
}

#[derive(Clone, Serialize, Deserialize, Debug)]
pub enum CallNews {
    Asked(Question),
    Answered(Answer),
}

#[derive(Clone, Serialize, Deserialize, Debug)]
pub enum Question {
    LoadCheckpoint { partition: PartitionId },
    StoreCheckpoint { partition: PartitionId, checkpoint: Checkpoint, expected: Option<String> },
    ListCheckpoints,
    LoadLease { partition: PartitionId },
    StoreLease { partition: PartitionId, lease: Lease, expected: Option<String> },
    ListLeases,
    WriteMember { member: Peer },
    RemoveMember { owner: OwnerId },
}

#[derive(Clone, Serialize, Deserialize, Debug)]
pub enum Answer {
    Checkpoint(FoundCheckpoint),
    /// `None` also for what could not be read.
    Checkpoints(Vec<(PartitionId, FoundCheckpoint)>),
    Lease(Option<StoredLease>),
    Leases {
        now: u64,
        leases: Vec<(PartitionId, StoredLease)>,
        members: Vec<(Peer, u64)>,
    },
    Stored(String),
    Conflict,
    Done,
    Failed(String),
}

/// A checkpoint and its version.
pub type FoundCheckpoint = Option<(Checkpoint, String)>;

/// An [`Ownership`] in a journal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Lease {
    pub holder: Option<OwnerId>,
    pub is_foreign: bool,
    pub target: Option<OwnerId>,
}

impl From<&Ownership> for Lease {
    fn from(ownership: &Ownership) -> Self {
        let (holder, is_foreign) = match &ownership.holder {
            Holder::Worker(owner) => (Some(owner.clone()), false),
            Holder::Foreign(owner) => (Some(owner.clone()), true),
            _ => (None, false),
        };
        Self { holder, is_foreign, target: ownership.target.clone() }
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct StoredLease {
    pub lease: Lease,
    pub version: String,
    /// Milliseconds since 1970, on the store's clock.
    pub modified: u64,
}

impl From<&StoredOwnership> for StoredLease {
    fn from(stored: &StoredOwnership) -> Self {
        Self {
            lease: Lease::from(&stored.ownership),
            version: stored.version.0.clone(),
            modified: millis(stored.modified),
        }
    }
}

/// A [`Member`] in a journal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Peer {
    pub owner: OwnerId,
    pub wants: BTreeSet<PartitionId>,
    pub leaving: bool,
}

impl From<&Member> for Peer {
    fn from(member: &Member) -> Self {
        let Member { owner, wants, leaving } = member.clone();
        Self { owner, wants, leaving }
    }
}

fn millis(time: std::time::SystemTime) -> u64 {
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

fn version_of(expected: &Expected) -> Option<String> {
    match expected {
        Expected::Absent => None,
        Expected::Version(version) => Some(version.0.clone()),
    }
}

fn stored(stored: &StoredCheckpoint) -> (Checkpoint, String) {
    (stored.checkpoint.clone(), stored.version.0.clone())
}

/// The calls of one process.
#[derive(Debug)]
pub struct Calls {
    journal: Journal,
    count: AtomicU64,
}

impl Calls {
    pub fn new(journal: Journal) -> Arc<Self> {
        Arc::new(Self { journal, count: AtomicU64::new(0) })
    }

    /// A call that is dropped has no answer in the journal.
    async fn record<T, E: std::fmt::Display>(
        &self,
        question: Question,
        call: impl Future<Output = Result<T, E>>,
        answer: impl FnOnce(&Result<T, E>) -> Option<Answer>,
    ) -> Result<T, E> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let say = |what| self.journal.append(&CallLine { call: number, at: now(), what });
        say(CallNews::Asked(question));
        let result = call.await;
        let failed = || match &result {
            Err(error) => Answer::Failed(error.to_string()),
            Ok(_) => Answer::Done,
        };
        say(CallNews::Answered(answer(&result).unwrap_or_else(failed)));
        result
    }
}

fn written(result: &Result<VersionToken, StoreError>) -> Option<Answer> {
    match result {
        Ok(version) => Some(Answer::Stored(version.0.clone())),
        Err(StoreError::Conflict) => Some(Answer::Conflict),
        Err(_) => None,
    }
}

#[derive(Debug)]
pub struct TracedCheckpoints<S> {
    pub inner: S,
    pub calls: Arc<Calls>,
}

impl<S: CheckpointStore> CheckpointStore for TracedCheckpoints<S> {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        let question = Question::LoadCheckpoint { partition: key.partition.clone() };
        let answer = |result: &Result<Option<StoredCheckpoint>, Error>| {
            let found = result.as_ref().ok()?;
            Some(Answer::Checkpoint(found.as_ref().map(stored)))
        };
        self.calls.record(question, self.inner.load(key), answer).boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let question = Question::StoreCheckpoint {
            partition: key.partition.clone(),
            checkpoint: checkpoint.clone(),
            expected: version_of(expected),
        };
        self.calls.record(question, self.inner.store(key, checkpoint, expected), written).boxed()
    }

    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
        let answer = |result: &Result<Vec<Listed>, Error>| {
            let entry = |(id, found): &Listed| (id.clone(), found.as_ref().ok().map(stored));
            Some(Answer::Checkpoints(result.as_ref().ok()?.iter().map(entry).collect()))
        };
        self.calls.record(Question::ListCheckpoints, self.inner.list(scope), answer).boxed()
    }
}

#[derive(Debug)]
pub struct TracedLeases<S> {
    pub inner: S,
    pub calls: Arc<Calls>,
}

impl<S: LeaseStore> LeaseStore for TracedLeases<S> {
    fn list<'a>(
        &'a self,
        scope: &'a CheckpointScope,
    ) -> BoxFuture<'a, Result<LeaseListing, Error>> {
        let answer = |result: &Result<LeaseListing, Error>| {
            let listing = result.as_ref().ok()?;
            let leases = listing.ownerships.iter();
            let members = listing.members.iter();
            Some(Answer::Leases {
                now: millis(listing.now),
                leases: leases.map(|(id, stored)| (id.clone(), stored.into())).collect(),
                members: members
                    .map(|stored| (Peer::from(&stored.member), millis(stored.modified)))
                    .collect(),
            })
        };
        self.calls.record(Question::ListLeases, self.inner.list(scope), answer).boxed()
    }

    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredOwnership>, Error>> {
        let question = Question::LoadLease { partition: key.partition.clone() };
        let answer = |result: &Result<Option<StoredOwnership>, Error>| {
            Some(Answer::Lease(result.as_ref().ok()?.as_ref().map(StoredLease::from)))
        };
        self.calls.record(question, self.inner.load(key), answer).boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        ownership: &'a Ownership,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let question = Question::StoreLease {
            partition: key.partition.clone(),
            lease: ownership.into(),
            expected: version_of(expected),
        };
        self.calls.record(question, self.inner.store(key, ownership, expected), written).boxed()
    }

    fn write_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        member: &'a Member,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let question = Question::WriteMember { member: member.into() };
        self.calls.record(question, self.inner.write_member(scope, member), |_| None).boxed()
    }

    fn remove_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        owner: &'a OwnerId,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let question = Question::RemoveMember { owner: owner.clone() };
        self.calls.record(question, self.inner.remove_member(scope, owner), |_| None).boxed()
    }
}
