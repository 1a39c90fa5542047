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
        async move {
            let stored = self.inner.store(key, checkpoint, expected).await;
            if let Err(StoreError::Failed(error)) = &stored {
                self.stop.on_error("the state cannot be saved", error);
            }
            stored
        }
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
