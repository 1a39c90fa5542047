//! The port to a dead-letter queue, and the record that it keeps.
//!
//! `Ok` from a sink means that the record is durable. Only then does the watermark pass the event.

mod contents;
pub mod folder;
pub mod hub;
pub mod memory;
pub mod record;
pub mod store;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::BoxFuture;

use crate::error::Result;
use crate::event::{ConsumerGroup, Event, Incarnation};
use crate::outcome::Failure;

/// An event that failed for good, with what is needed to understand and to replay it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The event, its body untouched.
    pub event: Event,
    /// The group that consumed it.
    pub consumer_group: ConsumerGroup,
    /// The worker that gave up.
    pub worker: String,
    /// The last failure.
    pub failure: Failure,
    /// How many times the handler had the event.
    pub attempts: u32,
    /// When it failed first.
    pub first_failure: SystemTime,
    /// When it failed last.
    pub last_failure: SystemTime,
    /// The namespace of its hub. Empty if it is not known.
    pub namespace: String,
    /// When its hub was created. Zero if it is not known.
    pub incarnation: Incarnation,
    /// The lane of the event, if it has one.
    pub lane: Option<String>,
    /// What the failure blames, if it says so.
    pub destination: Option<String>,
    /// How many times it was parked.
    pub parkings: u32,
    /// The job that replayed it.
    pub job: Option<String>,
    /// How many times it was replayed.
    pub generation: u32,
}

impl DeadLetter {
    /// Records that `worker` of `consumer_group` gave up on `event` after one attempt.
    pub fn new(
        event: Event,
        consumer_group: ConsumerGroup,
        worker: impl Into<String>,
        failure: Failure,
        failed_at: SystemTime,
    ) -> Self {
        Self {
            event,
            consumer_group,
            worker: worker.into(),
            destination: failure.destination.clone(),
            failure,
            attempts: 1,
            first_failure: failed_at,
            last_failure: failed_at,
            namespace: String::new(),
            incarnation: Incarnation(0),
            lane: None,
            parkings: 0,
            job: None,
            generation: 0,
        }
    }

    /// Sets how often and since when the event failed.
    pub fn with_history(mut self, attempts: u32, first_failure: SystemTime) -> Self {
        self.attempts = attempts;
        self.first_failure = first_failure;
        self
    }

    /// Sets which hub the event came from, beyond its name.
    pub fn with_origin(mut self, namespace: impl Into<String>, incarnation: Incarnation) -> Self {
        self.namespace = namespace.into();
        self.incarnation = incarnation;
        self
    }
}

/// Keeps dead letters.
pub trait DeadLetterSink: Send + Sync + fmt::Debug + 'static {
    /// Writes one record. `Ok` means that it is durable. An event that is written twice leaves one record or two,
    /// never none.
    ///
    /// # Errors
    /// Any class; the caller tries again and holds the watermark meanwhile.
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<()>>;
}

/// What is shared is a sink as well.
#[deny(clippy::missing_trait_methods)]
impl<T: DeadLetterSink + ?Sized> DeadLetterSink for Arc<T> {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<()>> {
        T::write(self, letter)
    }
}
