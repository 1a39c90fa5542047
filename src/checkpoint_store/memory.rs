//! Checkpoints in memory: for tests, and for runs that may begin again from the start.
//!
//! Every value ever stored has a version of its own, so a value that comes back does not bring
//! its old version back. Nothing outlives the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, Listed, StoreError,
    StoredCheckpoint, VersionToken,
};
use crate::error::Error;

/// A [`CheckpointStore`] that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryCheckpointStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stored: BTreeMap<CheckpointKey, StoredCheckpoint>,
    last_version: u64,
}

impl MemoryCheckpointStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn compare_and_swap(
        &mut self,
        key: &CheckpointKey,
        checkpoint: &Checkpoint,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        if !expected.is_met_by(self.stored.get(key).map(|stored| &stored.version)) {
            return Err(StoreError::Conflict);
        }
        self.last_version += 1;
        let version = VersionToken(self.last_version.to_string());
        self.stored.insert(
            key.clone(),
            StoredCheckpoint { checkpoint: checkpoint.clone(), version: version.clone() },
        );
        Ok(version)
    }
}

impl CheckpointStore for MemoryCheckpointStore {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        async move { Ok(self.state().stored.get(key).cloned()) }.boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move { self.state().compare_and_swap(key, checkpoint, expected) }.boxed()
    }

    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
        async move {
            let state = self.state();
            Ok(state
                .stored
                .iter()
                .filter(|(key, _)| key.scope == *scope)
                .map(|(key, stored)| (key.partition.clone(), Ok(stored.clone())))
                .collect())
        }
        .boxed()
    }
}
