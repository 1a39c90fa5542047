//! Dead letters in a failure store, below `dead/`: one record an event, however often it is written.
//!
//! They stand beside what is parked, and `longshore dead-letters` lists, shows and purges them.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::record::DeadLetterRecord;
use super::{DeadLetter, DeadLetterSink};
use crate::error::{Error, ErrorClass, Result};
use crate::failure_store::{Expected, FailureEntry, FailureKind, FailureStore, StoreError};

/// Whether the bodies of events are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum LetterBody {
    /// They are kept, byte for byte.
    #[default]
    Keep,
    /// They are left out: the letter says what failed and why, and cannot be replayed.
    Omit,
}

/// A [`DeadLetterSink`] over any [`FailureStore`].
#[derive(Clone, Debug)]
pub struct StoreDeadLetterSink {
    store: Arc<dyn FailureStore>,
    body: LetterBody,
}

impl StoreDeadLetterSink {
    /// Writes into `store`, bodies included.
    pub fn new(store: Arc<dyn FailureStore>) -> Self {
        Self { store, body: LetterBody::Keep }
    }

    /// Sets whether bodies are kept. Default: [`LetterBody::Keep`].
    #[must_use]
    pub fn with_body(mut self, body: LetterBody) -> Self {
        self.body = body;
        self
    }

    /// Where the store is, for messages; without a secret.
    pub fn place(&self) -> String {
        self.store.place()
    }

    async fn put(&self, letter: &DeadLetter) -> Result<()> {
        let mut record = DeadLetterRecord::new(letter);
        if self.body == LetterBody::Omit {
            record = record.without_body();
        }
        let key = record.identity().key(FailureKind::Dead);
        let entry = FailureEntry::of(&record)?;
        match self.store.put(&key, &entry, &Expected::Anything).await {
            Ok(_version) => Ok(()),
            Err(StoreError::Failed(error)) => Err(error),
            Err(StoreError::Conflict) => Err(Error::new(
                ErrorClass::Transient,
                "write the dead letter",
                "the store took it for a conflict where anything may be written over",
            )),
        }
    }
}

impl DeadLetterSink for StoreDeadLetterSink {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<()>> {
        async move {
            self.put(letter).await.map_err(|error| {
                let event = &letter.event;
                error
                    .with_partition(event.partition())
                    .with_sequence_number(event.sequence_number())
            })
        }
        .boxed()
    }
}
