//! Stores that stop the command when they cannot be used.
//!
//! A consumer waits out a store that fails, because in a fleet somebody repairs it. At a
//! terminal that would be a command that hangs on a full disk: here a failure that will not
//! pass by itself ends the run in good order, with its reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, Listed, StoreError,
    StoredCheckpoint, VersionToken,
};
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::error::{Error, ErrorClass, error_chain};
use longshore::event::{EntityName, OutgoingEvent, PartitionId};
use longshore::transport::{Publisher, SendReceipt, SendTarget};

/// Where the first reason to stop is kept.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<watch::Sender<Option<String>>>);

impl Stop {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Waits for a reason to stop.
    pub(super) async fn reason(&self) -> String {
        let mut reason = self.0.subscribe();
        loop {
            if let Some(reason) = &*reason.borrow_and_update() {
                return reason.clone();
            }
            if reason.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn on_error(&self, what: &str, error: &Error) {
        if error.class() == ErrorClass::Permanent {
            self.on_reason(format!("{what}: {}", error_chain(error).join(": ")));
        }
    }

    fn on_reason(&self, why: String) {
        self.0.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                *reason = Some(why);
            }
            first
        });
    }
}

/// A store or a sink whose failures end the run.
#[derive(Debug)]
pub(super) struct Failing<S> {
    inner: S,
    stop: Stop,
}

impl<S> Failing<S> {
    pub(super) fn new(inner: S, stop: Stop) -> Self {
        Self { inner, stop }
    }

    fn on_stored<T>(&self, stored: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Failed(error)) = &stored {
            self.stop.on_error("the state cannot be saved", error);
        }
        stored
    }
}

impl<S: CheckpointStore> CheckpointStore for Failing<S> {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        self.inner.load(key)
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move { self.on_stored(self.inner.store(key, checkpoint, expected).await) }.boxed()
    }

    fn overwrite_unreadable<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move { self.on_stored(self.inner.overwrite_unreadable(key, checkpoint).await) }
            .boxed()
    }

    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
        self.inner.list(scope)
    }
}

impl<S: DeadLetterSink> DeadLetterSink for Failing<S> {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let written = self.inner.write(letter).await;
            if let Err(error) = &written {
                self.stop.on_error("a dead letter cannot be saved", error);
            }
            written
        }
        .boxed()
    }
}

/// A publisher of results to the broker in this process: one that keeps failing ends the run,
/// because every other task would be fetched for nothing.
#[derive(Debug)]
pub(super) struct FailingPublisher<P> {
    inner: P,
    stop: Stop,
    /// What it means for the person at the terminal.
    what: String,
    /// So many failures in a row are no accident.
    limit: u32,
    failures: AtomicU32,
}

impl<P> FailingPublisher<P> {
    pub(super) fn new(inner: P, stop: Stop, what: String, limit: u32) -> Self {
        Self { inner, stop, what, limit, failures: AtomicU32::new(0) }
    }

    fn on_sent<T>(&self, sent: Result<T, Error>) -> Result<T, Error> {
        match &sent {
            // Too large a result is the fault of its task.
            Err(error) if error.class() == ErrorClass::Permanent => {}
            Err(error) => {
                if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= self.limit {
                    // Without its sources: they say the same in the words of the protocol.
                    self.stop.on_reason(format!("{}: {error}", self.what));
                }
            }
            Ok(_) => self.failures.store(0, Ordering::Relaxed),
        }
        sent
    }
}

impl<P: Publisher> Publisher for FailingPublisher<P> {
    fn entity(&self) -> &EntityName {
        self.inner.entity()
    }

    fn send(
        &self,
        target: SendTarget,
        event: OutgoingEvent,
    ) -> BoxFuture<'_, Result<SendReceipt, Error>> {
        async move { self.on_sent(self.inner.send(target, event).await) }.boxed()
    }

    fn send_batch(
        &self,
        target: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        async move { self.on_sent(self.inner.send_batch(target, events).await) }.boxed()
    }

    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>, Error>> {
        self.inner.partitions()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that has a checkpoint which nobody can read.
    #[derive(Debug)]
    struct Unreadable;

    impl CheckpointStore for Unreadable {
        fn load<'a>(
            &'a self,
            _: &'a CheckpointKey,
        ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
            async { Err(Error::new(ErrorClass::BadData, "load the checkpoint", "scrambled")) }
                .boxed()
        }

        fn store<'a>(
            &'a self,
            _: &'a CheckpointKey,
            _: &'a Checkpoint,
            _: &'a Expected,
        ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
            async { Err(StoreError::Conflict) }.boxed()
        }

        fn overwrite_unreadable<'a>(
            &'a self,
            _: &'a CheckpointKey,
            _: &'a Checkpoint,
        ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
            async { Ok(VersionToken("2".to_owned())) }.boxed()
        }

        fn list<'a>(&'a self, _: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
            async { Ok(Vec::new()) }.boxed()
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_written_over_where_the_store_below_does_so() {
        let store = Failing::new(Unreadable, Stop::new());
        let scope = CheckpointScope {
            namespace: "local".to_owned(),
            entity: "hub".into(),
            consumer_group: "$Default".into(),
        };
        let key = CheckpointKey { scope, partition: "0".into() };
        let written = store.overwrite_unreadable(&key, &Checkpoint::default()).await;
        assert!(written.is_ok(), "{written:?}");
    }
}
