//! A port that lets a test meddle with the calls of another.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, Listed, StoreError,
    StoredCheckpoint, VersionToken,
};
use crate::dead_letter::{DeadLetter, DeadLetterSink};
use crate::error::Error;
use crate::event::{ConsumerGroup, EntityName, PartitionId, Position};
use crate::failure_store::{
    Expected as ExpectedFailure, FailureEntry, FailureKey, FailurePage, FailurePrefix,
    FailureStore, PageToken, StoredFailure,
};
use crate::lease_store::{LeaseListing, LeaseStore, Member, OwnerId, Ownership, StoredOwnership};
use crate::transport::{HubProperties, Link, LinkStart, LogProperties, OpenLink, Transport};

/// One call of a port that is intercepted.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PortCall {
    /// The method of the port, as it is spelled: `store`, `write`, `open`.
    pub method: &'static str,
    /// The partition that the call is about, if it is about one.
    pub partition: Option<PartitionId>,
    /// How many calls of any method came before it.
    pub number: u64,
}

type Hook = Arc<dyn Fn(PortCall) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// A port around another of its kind: a [`Transport`], a [`CheckpointStore`], a [`LeaseStore`], a
/// [`DeadLetterSink`] or a [`FailureStore`]. A test sees its calls, delays them, and lets them fail.
///
/// [`before`](Self::before) runs before a call. If it fails, the call is not made. [`after`](Self::after) runs
/// after a call that succeeded. If it fails, the answer is lost, and the effect of the call stays.
///
/// ```
/// use longshore::checkpoint_store::memory::MemoryCheckpointStore;
/// use longshore::testing::{Intercepted, PortCall};
/// use longshore::{Error, ErrorClass};
///
/// // Every third call loses its answer, after a second.
/// let store = Intercepted::new(MemoryCheckpointStore::new()).after(async |call: PortCall| {
///     tokio::time::sleep(std::time::Duration::from_secs(1)).await;
///     match call.number % 3 {
///         2 => Err(Error::new(ErrorClass::Transient, "write", "the answer was lost")),
///         _ => Ok(()),
///     }
/// });
/// # fn check(_: impl longshore::checkpoint_store::CheckpointStore) {}
/// # check(store);
/// ```
pub struct Intercepted<P> {
    below: P,
    before: Option<Hook>,
    after: Option<Hook>,
    calls: AtomicU64,
}

impl<P> Intercepted<P> {
    /// Lets every call through to `below`.
    pub fn new(below: P) -> Self {
        Self { below, before: None, after: None, calls: AtomicU64::new(0) }
    }

    /// Sets what runs before every call that may fail. The caller waits for it.
    #[must_use]
    pub fn before<Fut>(mut self, hook: impl Fn(PortCall) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.before = Some(Arc::new(move |call| hook(call).boxed()));
        self
    }

    /// Sets what runs after every call that succeeded. The caller waits for it.
    #[must_use]
    pub fn after<Fut>(mut self, hook: impl Fn(PortCall) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.after = Some(Arc::new(move |call| hook(call).boxed()));
        self
    }

    /// The port below.
    pub fn below(&self) -> &P {
        &self.below
    }

    /// How many calls came that may fail.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn next(&self, method: &'static str, partition: Option<&PartitionId>) -> Hooks {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        Hooks {
            before: self.before.clone(),
            after: self.after.clone(),
            call: PortCall { method, partition: partition.cloned(), number },
        }
    }
}

impl<P: fmt::Debug> fmt::Debug for Intercepted<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Intercepted").field(&self.below).finish()
    }
}

/// What comes before and behind one call.
struct Hooks {
    before: Option<Hook>,
    after: Option<Hook>,
    call: PortCall,
}

impl Hooks {
    async fn around<T, E: From<Error>>(
        self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if let Some(hook) = &self.before {
            hook(self.call.clone()).await?;
        }
        let answer = call.await?;
        if let Some(hook) = &self.after {
            hook(self.call).await?;
        }
        Ok(answer)
    }
}

impl<P: CheckpointStore> CheckpointStore for Intercepted<P> {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        self.next("load", Some(&key.partition)).around(self.below.load(key)).boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let call = self.below.store(key, checkpoint, expected);
        self.next("store", Some(&key.partition)).around(call).boxed()
    }

    fn overwrite_unreadable<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let call = self.below.overwrite_unreadable(key, checkpoint);
        self.next("overwrite_unreadable", Some(&key.partition)).around(call).boxed()
    }

    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
        self.next("list", None).around(self.below.list(scope)).boxed()
    }
}

impl<P: LeaseStore> LeaseStore for Intercepted<P> {
    fn list<'a>(
        &'a self,
        scope: &'a CheckpointScope,
    ) -> BoxFuture<'a, Result<LeaseListing, Error>> {
        self.next("list", None).around(self.below.list(scope)).boxed()
    }

    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredOwnership>, Error>> {
        self.next("load", Some(&key.partition)).around(self.below.load(key)).boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        ownership: &'a Ownership,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let call = self.below.store(key, ownership, expected);
        self.next("store", Some(&key.partition)).around(call).boxed()
    }

    fn write_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        member: &'a Member,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.next("write_member", None).around(self.below.write_member(scope, member)).boxed()
    }

    fn remove_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        owner: &'a OwnerId,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.next("remove_member", None).around(self.below.remove_member(scope, owner)).boxed()
    }
}

impl<P: DeadLetterSink> DeadLetterSink for Intercepted<P> {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        let partition = &letter.event.partition().id;
        self.next("write", Some(partition)).around(self.below.write(letter)).boxed()
    }
}

impl<P: FailureStore> FailureStore for Intercepted<P> {
    fn place(&self) -> String {
        self.below.place()
    }

    fn put<'a>(
        &'a self,
        key: &'a FailureKey,
        entry: &'a FailureEntry,
        expected: &'a ExpectedFailure,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let call = self.below.put(key, entry, expected);
        self.next("put", Some(&key.event.log.partition)).around(call).boxed()
    }

    fn read<'a>(
        &'a self,
        key: &'a FailureKey,
    ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>> {
        self.next("read", Some(&key.event.log.partition)).around(self.below.read(key)).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a FailurePrefix,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<FailurePage, Error>> {
        self.next("list", None).around(self.below.list(prefix, after, limit)).boxed()
    }

    fn delete<'a>(
        &'a self,
        key: &'a FailureKey,
        version: &'a VersionToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let call = self.below.delete(key, version);
        self.next("delete", Some(&key.event.log.partition)).around(call).boxed()
    }
}

impl<P: Transport> Transport for Intercepted<P> {
    fn namespace(&self) -> &str {
        self.below.namespace()
    }

    fn entity(&self) -> &EntityName {
        self.below.entity()
    }

    fn consumer_group(&self) -> &ConsumerGroup {
        self.below.consumer_group()
    }

    fn place(&self) -> String {
        self.below.place()
    }

    fn connect(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.next("connect", None).around(self.below.connect()).boxed()
    }

    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties, Error>> {
        self.next("hub_properties", None).around(self.below.hub_properties()).boxed()
    }

    fn log_properties<'a>(
        &'a self,
        partition: &'a PartitionId,
    ) -> BoxFuture<'a, Result<LogProperties, Error>> {
        let call = self.below.log_properties(partition);
        self.next("log_properties", Some(partition)).around(call).boxed()
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        let hooks = self.next("open", Some(&options.partition));
        hooks.around(self.below.open(options)).boxed()
    }

    fn first_event<'a>(
        &'a self,
        partition: &'a PartitionId,
        from: LinkStart,
    ) -> BoxFuture<'a, Result<Position, Error>> {
        let call = self.below.first_event(partition, from);
        self.next("first_event", Some(partition)).around(call).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.below.close()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::checkpoint_store::memory::MemoryCheckpointStore;
    use crate::error::ErrorClass;

    fn key() -> CheckpointKey {
        let scope = CheckpointScope {
            namespace: "memory".to_owned(),
            entity: "orders".into(),
            consumer_group: "$Default".into(),
        };
        CheckpointKey { scope, partition: "3".into() }
    }

    fn away() -> Error {
        Error::new(ErrorClass::Transient, "call", "away")
    }

    #[tokio::test]
    async fn a_call_that_fails_before_is_not_made_and_one_that_fails_after_is() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let store = Intercepted::new(MemoryCheckpointStore::new())
            .before(move |call| {
                record.lock().expect("lock").push(call.clone());
                async move { if call.number == 0 { Err(away()) } else { Ok(()) } }
            })
            .after(async |call| if call.number == 1 { Err(away()) } else { Ok(()) });
        let (key, checkpoint) = (key(), Checkpoint::default());
        for stored in [None, Some(checkpoint.clone())] {
            let failed = store.store(&key, &checkpoint, &Expected::Absent).await;
            assert!(matches!(failed, Err(StoreError::Failed(_))), "{failed:?}");
            let below = store.below().load(&key).await.expect("loads");
            assert_eq!(below.map(|below| below.checkpoint), stored);
        }
        let found = store.load(&key).await.expect("let through").expect("there");
        assert_eq!(found.checkpoint, checkpoint);
        let seen = seen.lock().expect("lock").clone();
        let call = |method, number| PortCall { method, partition: Some("3".into()), number };
        assert_eq!(seen, [call("store", 0), call("store", 1), call("load", 2)]);
        assert_eq!(store.calls(), 3);
    }
}
