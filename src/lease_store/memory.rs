//! Leases in memory: for tests, and for several consumers in one process.
//!
//! Every record ever stored has a version of its own. Nothing outlives the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{
    CheckpointKey, CheckpointScope, Expected, LeaseListing, LeaseStore, Member, OwnerId, Ownership,
    StoreError, StoredMember, StoredOwnership, VersionToken,
};
use crate::clock::{Clock, SystemClock};
use crate::error::Error;

/// A [`LeaseStore`] that forgets everything when it is dropped.
#[derive(Debug)]
pub struct MemoryLeaseStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ownerships: BTreeMap<CheckpointKey, StoredOwnership>,
    members: BTreeMap<(CheckpointScope, OwnerId), StoredMember>,
    last_version: u64,
}

impl Default for MemoryLeaseStore {
    fn default() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }
}

impl MemoryLeaseStore {
    /// An empty store that stamps records by the machine's clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that stamps records by this clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn compare_and_swap(
        &mut self,
        key: &CheckpointKey,
        ownership: &Ownership,
        expected: &Expected,
        modified: SystemTime,
    ) -> Result<VersionToken, StoreError> {
        if !expected.is_met_by(self.ownerships.get(key).map(|stored| &stored.version)) {
            return Err(StoreError::Conflict);
        }
        self.last_version += 1;
        let version = VersionToken(self.last_version.to_string());
        let ownership = ownership.clone();
        let stored = StoredOwnership { ownership, version: version.clone(), modified };
        self.ownerships.insert(key.clone(), stored);
        Ok(version)
    }
}

impl LeaseStore for MemoryLeaseStore {
    fn list<'a>(
        &'a self,
        scope: &'a CheckpointScope,
    ) -> BoxFuture<'a, Result<LeaseListing, Error>> {
        async move {
            let state = self.state();
            let ownerships = state.ownerships.iter().filter(|(key, _)| key.scope == *scope);
            let members = state.members.iter().filter(|((of, _), _)| of == scope);
            Ok(LeaseListing {
                now: self.clock.now(),
                ownerships: ownerships
                    .map(|(key, stored)| (key.partition.clone(), stored.clone()))
                    .collect(),
                members: members.map(|(_, stored)| stored.clone()).collect(),
            })
        }
        .boxed()
    }

    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredOwnership>, Error>> {
        async move { Ok(self.state().ownerships.get(key).cloned()) }.boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        ownership: &'a Ownership,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move {
            let now = self.clock.now();
            self.state().compare_and_swap(key, ownership, expected, now)
        }
        .boxed()
    }

    fn write_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        member: &'a Member,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let stored = StoredMember { member: member.clone(), modified: self.clock.now() };
            self.state().members.insert((scope.clone(), member.owner.clone()), stored);
            Ok(())
        }
        .boxed()
    }

    fn remove_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        owner: &'a OwnerId,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.state().members.remove(&(scope.clone(), owner.clone()));
            Ok(())
        }
        .boxed()
    }
}
