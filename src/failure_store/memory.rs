//! Failures in memory: for tests, and for runs that may forget them. Nothing outlives the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{
    Expected, FailureEntry, FailureKey, FailureMeta, FailurePage, FailurePrefix, FailureStore,
    Listed, ListedFailure, MAX_PAGE_ENTRIES, PageToken, StoreError, StoredFailure, VersionToken,
};
use crate::error::{Error, ErrorClass};

/// A [`FailureStore`] that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryFailureStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stored: BTreeMap<String, Stored>,
    last_version: u64,
    /// So many calls to come fail, with an error of this class.
    to_fail: Option<(u32, ErrorClass)>,
}

#[derive(Debug)]
struct Stored {
    key: FailureKey,
    /// The metadata as other stores have it, so that it is cut as theirs is.
    line: String,
    content: Bytes,
    version: VersionToken,
}

impl MemoryFailureStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next `calls` calls fail with a transient error, before anything is done.
    pub fn fail_next(&self, calls: u32) {
        self.fail_next_with(calls, ErrorClass::Transient);
    }

    /// The same with an error of this class, such as [`Permanent`](ErrorClass::Permanent) of a store that is
    /// full or was deleted, and [`Auth`](ErrorClass::Auth) of one that may not be used.
    pub fn fail_next_with(&self, calls: u32, class: ErrorClass) {
        self.state().to_fail = Some((calls, class));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state for a call, unless the call is to fail.
    fn call(&self, operation: &'static str) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.state();
        match state.to_fail {
            Some((calls @ 1.., class)) => {
                state.to_fail = Some((calls - 1, class));
                let message = "the failure store in memory was told to fail";
                Err(Error::new(class, operation, message))
            }
            _ => Ok(state),
        }
    }
}

impl Stored {
    fn listed(&self) -> Listed {
        let (_event, meta) = FailureMeta::decode(&self.line)
            .map_err(|fault| Error::new(ErrorClass::BadData, "list the failures", fault))?;
        Ok(ListedFailure { key: self.key.clone(), meta, version: self.version.clone() })
    }
}

impl State {
    fn version_of(&self, path: &str) -> Option<&VersionToken> {
        self.stored.get(path).map(|stored| &stored.version)
    }

    fn put(
        &mut self,
        key: &FailureKey,
        entry: &FailureEntry,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let path = key.path();
        let line = entry.meta.encode(&key.event)?;
        if !expected.is_met_by(self.version_of(&path)) {
            return Err(StoreError::Conflict);
        }
        self.last_version += 1;
        let version = VersionToken(self.last_version.to_string());
        let content = entry.content.clone();
        let stored = Stored { key: key.clone(), line, content, version: version.clone() };
        self.stored.insert(path, stored);
        Ok(version)
    }

    fn delete(&mut self, key: &FailureKey, version: &VersionToken) -> Result<(), StoreError> {
        let path = key.path();
        match self.version_of(&path) {
            Some(stored) if stored != version => Err(StoreError::Conflict),
            _ => {
                self.stored.remove(&path);
                Ok(())
            }
        }
    }

    fn list(&self, prefix: &str, after: Option<&PageToken>, limit: usize) -> FailurePage {
        let limit = limit.clamp(1, MAX_PAGE_ENTRIES);
        let first = match after {
            Some(PageToken(path)) => Bound::Excluded(path.clone()),
            None => Bound::Included(prefix.to_owned()),
        };
        let mut behind = self
            .stored
            .range((first, Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(prefix));
        let mut page = FailurePage::default();
        let mut last = None;
        for (path, stored) in behind.by_ref().take(limit) {
            page.entries.push(stored.listed());
            last = Some(path);
        }
        page.next = behind.next().and(last).map(|path| PageToken(path.clone()));
        page
    }
}

impl FailureStore for MemoryFailureStore {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn put<'a>(
        &'a self,
        key: &'a FailureKey,
        entry: &'a FailureEntry,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move { self.call("put the failure")?.put(key, entry, expected) }.boxed()
    }

    fn read<'a>(
        &'a self,
        key: &'a FailureKey,
    ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>> {
        async move {
            let state = self.call("read the failure")?;
            Ok(state.stored.get(&key.path()).map(|stored| StoredFailure {
                key: stored.key.clone(),
                content: stored.content.clone(),
                version: stored.version.clone(),
                is_damaged: false,
            }))
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a FailurePrefix,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<FailurePage, Error>> {
        async move { Ok(self.call("list the failures")?.list(prefix.path(), after, limit)) }.boxed()
    }

    fn delete<'a>(
        &'a self,
        key: &'a FailureKey,
        version: &'a VersionToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move { self.call("delete the failure")?.delete(key, version) }.boxed()
    }
}
