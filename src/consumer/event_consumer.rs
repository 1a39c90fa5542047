//! [`EventConsumer`]: one event of a partition at a time, in order, each checkpointed before
//! the next one begins.
//!
//! ```text
//!  received ──> handler ──> settled ──> checkpoint acknowledged ──> next event
//!                  ^  │
//!         back-off └──┘ failed for now: nothing is checkpointed, the next event waits
//! ```
//!
//! It is the engine of [`BatchConsumer`] with two other settings: a window of one event, and at most one event that is
//! not checkpointed. So at most one event of each partition is received and not below its checkpoint, whatever happens.

use std::time::Duration;

use super::builder::{BatchConsumer, BatchConsumerBuilder};
use super::exit::{ConsumerExit, Unclean};
use super::handle::ConsumerHandle;
use super::handling::handler::EventHandler;
use crate::checkpoint_store::CheckpointStore;
use crate::clock::Clock;
use crate::config::{ConsumerOptions, LeaseOptions, Ordering, RetryPolicy, UncheckpointedEvents};
use crate::dead_letter::DeadLetterSink;
use crate::error::{ErrorClass, InvalidConfig};
use crate::event::Partition;
use crate::lease_store::LeaseStore;
use crate::outcome::Failure;
use crate::transport::Transport;

/// Consumes all partitions of an entity, in each of them one event after the other.
///
/// - The handler gets the events of a partition in order. Partitions go on beside each other,
///   up to [`ConsumerOptions::max_events_in_flight`] handlers at once.
/// - When the handler returned without an error, a checkpoint is written, and the next event
///   begins when it is acknowledged. A crash repeats at most one event of each partition. A
///   store that fails pauses the partition.
/// - On an error there is no checkpoint: an error that may pass is tried again after a
///   back-off, up to [`ConsumerOptions::max_attempts`] times, while the partition waits. What
///   failed for good goes to the dead-letter sink and is passed when the sink acknowledged it;
///   without a sink the partition stops, and its exit names event and failure. With
///   `max_attempts(1)` and no sink, the first error stops the partition.
/// - Nothing runs in the background between two events, and nothing is left behind by an
///   error: when a partition's exit is there, no handler of it runs.
///
/// The price is one checkpoint write per event. Where it matters, use a [`BatchConsumer`].
///
/// ```
/// use std::sync::Arc;
///
/// use longshore::checkpoint_store::memory::MemoryCheckpointStore;
/// use longshore::transport::memory::MemoryHub;
/// use longshore::{Event, EventConsumer, EventContext, Failure, OutgoingEvent};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = MemoryHub::new("orders", 1);
/// hub.publish(0, OutgoingEvent::new("first"));
/// let seen = Arc::new(tokio::sync::Notify::new());
/// let noticed = seen.clone();
/// let transport = hub.transport("$Default");
/// let consumer = EventConsumer::builder(transport, MemoryCheckpointStore::new())
///     .handler(move |event: Event, _: EventContext| {
///         println!("{} bytes", event.body().len());
///         noticed.notify_one();
///         async { Ok::<(), Failure>(()) }
///     })?;
/// let exit = consumer.run_until(seen.notified()).await?;
/// assert_eq!(exit.counts.done, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EventConsumer(BatchConsumer);

impl EventConsumer {
    /// Begins a consumer that reads `transport` and keeps its place in `checkpoints`.
    pub fn builder(
        transport: impl Transport,
        checkpoints: impl CheckpointStore,
    ) -> EventConsumerBuilder {
        EventConsumerBuilder(BatchConsumer::builder(transport, checkpoints))
    }

    /// Starts consuming on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> ConsumerHandle {
        self.0.start()
    }

    /// Consumes until `signal` completes, and then drains. It also returns when the consumer ends by itself.
    ///
    /// # Errors
    /// If the end was not clean; see [`BatchConsumer::run_until`].
    ///
    /// # Cancel safety
    /// If the call is dropped, the consumer ends as in a crash: handlers are dropped at their next await, no last
    /// checkpoint is written, and the events that were in flight are delivered again. To end in good order, use
    /// `signal`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn run_until(
        self,
        signal: impl Future,
    ) -> Result<ConsumerExit, Unclean<ConsumerExit>> {
        self.0.run_until(signal).await
    }
}

/// Collects what an [`EventConsumer`] is made of.
#[derive(Debug)]
#[must_use]
pub struct EventConsumerBuilder(pub(super) BatchConsumerBuilder);

impl EventConsumerBuilder {
    /// Where events that failed for good go. Without one, such an event stops its partition.
    pub fn dead_letters(self, sink: impl DeadLetterSink) -> Self {
        Self(self.0.dead_letters(sink))
    }

    /// Replaces all options. Those about batches, order, the window and the pace of checkpoints are
    /// what makes a consumer of single events, and are set by [`EventConsumerBuilder::handler`].
    pub fn options(self, options: ConsumerOptions) -> Self {
        Self(self.0.options(options))
    }

    /// Shares the partitions with the other workers that keep their leases in `store`; see
    /// [`BatchConsumerBuilder::leases`].
    pub fn leases(self, store: impl LeaseStore) -> Self {
        Self(self.0.leases(store))
    }

    /// Shares the partitions as [`EventConsumerBuilder::leases`] does, with these options.
    pub fn leases_with(self, store: impl LeaseStore, options: LeaseOptions) -> Self {
        Self(self.0.leases_with(store, options))
    }

    /// See [`BatchConsumerBuilder::retry_policy`].
    pub fn retry_policy(self, class: ErrorClass, policy: RetryPolicy) -> Self {
        Self(self.0.retry_policy(class, policy))
    }

    /// See [`BatchConsumerBuilder::classify`].
    pub fn classify(
        self,
        classify: impl Fn(&Failure) -> ErrorClass + Send + Sync + 'static,
    ) -> Self {
        Self(self.0.classify(classify))
    }

    /// See [`BatchConsumerBuilder::worker`].
    pub fn worker(self, name: impl Into<String>) -> Self {
        Self(self.0.worker(name))
    }

    /// See [`BatchConsumerBuilder::on_partition_assigned`].
    pub fn on_partition_assigned<Fut>(
        self,
        hook: impl Fn(Partition) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self(self.0.on_partition_assigned(hook))
    }

    /// See [`BatchConsumerBuilder::on_partition_revoked`].
    pub fn on_partition_revoked<Fut>(
        self,
        hook: impl Fn(Partition) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self(self.0.on_partition_revoked(hook))
    }

    /// See [`BatchConsumerBuilder::clock`].
    pub fn clock(self, clock: impl Clock) -> Self {
        Self(self.0.clock(clock))
    }

    /// See [`BatchConsumerBuilder::seed`].
    pub fn seed(self, seed: u64) -> Self {
        Self(self.0.seed(seed))
    }

    /// Makes a consumer that calls `handler` with each event.
    ///
    /// # Errors
    /// A value of the options that cannot be used.
    pub fn handler(mut self, handler: impl EventHandler) -> Result<EventConsumer, InvalidConfig> {
        let options = &mut self.0.options;
        options.max_batch_size = 1;
        options.window_events = 1;
        // More than any of them asks for.
        options.ordering = Ordering::Unordered;
        options.uncheckpointed_events = UncheckpointedEvents::PauseAt(1);
        options.checkpoint_min_interval = Duration::ZERO;
        self.0.event_handler(handler).map(EventConsumer)
    }
}
