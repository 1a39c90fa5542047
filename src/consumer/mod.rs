//! [`BatchConsumer`]: receive -> buffer -> dispatch -> settle -> checkpoint, for every
//! partition of an entity, under shared slots and one byte budget.
//!
//! ```text
//!  link ──> PartitionStream ──> watermark (window W) ──> buffer ──> slots ──> handler
//!           exact resume        tickets                  batches    shared      │
//!                                  ^                                            │ outcomes
//!  checkpoint store <── fence <────┴──── settled <── done, skip ────────────────┤
//!                                           ^                                   │
//!                        dead-letter sink ──┘ acknowledged <── dead letter ─────┤
//!                                             retry queue  <── retry ───────────┘
//! ```
//!
//! One worker task owns all of that for a partition, see `partition_worker`; handlers run in
//! tasks of their own, see `dispatch`; `rebalance` decides which partitions are ours, and
//! `claim` fences one before its first link is opened.

mod blocking;
mod checkpoint_watch;
mod checkpointer;
mod claim;
mod dispatch;
mod entities;
mod event_consumer;
mod exit;
mod handler;
mod lease_loop;
mod lease_requests;
mod letters;
mod owners;
mod partition_worker;
mod rebalance;
mod running;
mod shared;
mod status;
mod trial;
mod unit;
mod waiting;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use checkpoint_watch::CHECKPOINTS_INTERVAL;
pub use entities::{
    ConsumerSet, ConsumerSetBuilder, ConsumerSetExit, ConsumerSetHandle, ConsumerSetSnapshot,
    EntityExit, EntitySnapshot,
};
pub use event_consumer::{EventConsumer, EventConsumerBuilder};
pub use exit::{ConsumerExit, ExitReason, PartitionExit, StopReason};
pub use handler::{
    Batch, BatchContext, BatchHandler, EventContext, EventHandler, HandlerError, Outcomes, Settler,
    decoded,
};
pub use lease_loop::{BUSY_LOOK, HAND_OFF_POLL, LEAVING_SHARE, MAX_HAND_OFFS};
pub use partition_worker::CANCEL_GRACE;
pub use rebalance::{LAG_PROBE_INTERVAL, PARTITIONS_INTERVAL};
pub use shared::ConsumerCounts;
pub use status::{PartitionPhase, PartitionSnapshot};

use crate::checkpoint_store::CheckpointStore;
use crate::clock::{Clock, SystemClock};
use crate::config::{ConsumerOptions, LeaseOptions, MAX_SLOTS};
use crate::dead_letter::DeadLetterSink;
use crate::error::InvalidConfig;
use crate::event::Partition;
use crate::lease_store::LeaseStore;
use crate::telemetry::metrics::{self, Labelled};
use crate::transport::Transport;
use dispatch::{BatchMode, EventMode, Mode};
use shared::{Common, Counters, Directive, Leases, PartitionHook, Shared, lock};

/// Consumes all partitions of an entity, many events at once, settling each.
///
/// Built by [`BatchConsumer::builder`]; runs once [`BatchConsumer::start`] is called.
pub struct BatchConsumer {
    shared: Arc<Shared>,
    run: BoxFuture<'static, ConsumerExit>,
    ended: CancellationToken,
}

impl fmt::Debug for BatchConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchConsumer")
            .field("transport", &self.shared.transport)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl BatchConsumer {
    /// Begins a consumer that reads `transport` and keeps its place in `checkpoints`.
    pub fn builder(
        transport: Arc<dyn Transport>,
        checkpoints: Arc<dyn CheckpointStore>,
    ) -> BatchConsumerBuilder {
        BatchConsumerBuilder {
            transport,
            checkpoints,
            dead_letters: None,
            options: ConsumerOptions::default(),
            worker: "longshore".to_owned(),
            clock: Arc::new(SystemClock),
            seed: None,
            leases: None,
            on_assigned: None,
            on_revoked: None,
        }
    }

    /// Starts consuming on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> ConsumerHandle {
        ConsumerHandle {
            task: Some(tokio::spawn(self.run)),
            shared: self.shared,
            ended: self.ended,
        }
    }
}

/// Collects what a [`BatchConsumer`] is made of.
#[must_use]
pub struct BatchConsumerBuilder {
    transport: Arc<dyn Transport>,
    checkpoints: Arc<dyn CheckpointStore>,
    dead_letters: Option<Arc<dyn DeadLetterSink>>,
    options: ConsumerOptions,
    worker: String,
    clock: Arc<dyn Clock>,
    seed: Option<u64>,
    leases: Option<(Arc<dyn LeaseStore>, LeaseOptions)>,
    on_assigned: Option<PartitionHook>,
    on_revoked: Option<PartitionHook>,
}

impl fmt::Debug for BatchConsumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchConsumerBuilder")
            .field("transport", &self.transport)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

macro_rules! option_setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        $($(#[$doc])* pub fn $name(mut self, $name: $type) -> Self {
            self.options.$name = $name;
            self
        })*
    };
}

impl BatchConsumerBuilder {
    /// Where events that failed for good go. Without one, such an event stops its partition.
    pub fn dead_letters(mut self, sink: Arc<dyn DeadLetterSink>) -> Self {
        self.dead_letters = Some(sink);
        self
    }

    /// Replaces all options.
    pub fn options(mut self, options: ConsumerOptions) -> Self {
        self.options = options;
        self
    }

    option_setters! {
        /// See [`ConsumerOptions::max_batch_size`].
        max_batch_size: usize,
        /// See [`ConsumerOptions::max_batch_bytes`].
        max_batch_bytes: usize,
        /// See [`ConsumerOptions::batch_timeout`].
        batch_timeout: Duration,
        /// See [`ConsumerOptions::max_batches_in_flight`].
        max_batches_in_flight: usize,
        /// See [`ConsumerOptions::max_events_in_flight`].
        max_events_in_flight: usize,
        /// See [`ConsumerOptions::handler_timeout`].
        handler_timeout: Option<Duration>,
        /// See [`ConsumerOptions::max_attempts`].
        max_attempts: u32,
        /// See [`ConsumerOptions::max_takeovers`].
        max_takeovers: Option<u32>,
        /// See [`ConsumerOptions::drain_timeout`].
        drain_timeout: Duration,
    }

    /// Shares the partitions with the other workers that keep their leases in `store`. Without
    /// it, a consumer takes all partitions of its entity.
    ///
    /// Workers share what they should share if they have the same lease store, the same
    /// checkpoint store, and the same namespace, entity and consumer group.
    pub fn leases(mut self, store: Arc<dyn LeaseStore>) -> Self {
        let options = self.leases.take().map(|(_, options)| options).unwrap_or_default();
        self.leases = Some((store, options));
        self
    }

    /// Shares the partitions as [`BatchConsumerBuilder::leases`] does, with these options.
    pub fn leases_with(mut self, store: Arc<dyn LeaseStore>, options: LeaseOptions) -> Self {
        self.leases = Some((store, options));
        self
    }

    /// Names this worker in dead letters and logs. Default "longshore".
    pub fn worker(mut self, name: impl Into<String>) -> Self {
        self.worker = name.into();
        self
    }

    /// Called when a partition is ours and before its first event is received.
    pub fn on_partition_assigned(
        mut self,
        hook: impl Fn(&Partition) + Send + Sync + 'static,
    ) -> Self {
        self.on_assigned = Some(Arc::new(hook));
        self
    }

    /// Called when a partition is no longer ours and nothing of it runs here any more.
    pub fn on_partition_revoked(
        mut self,
        hook: impl Fn(&Partition) + Send + Sync + 'static,
    ) -> Self {
        self.on_revoked = Some(Arc::new(hook));
        self
    }

    /// Replaces the wall clock that stamps records.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Seeds jitter and write ids, so that a run can be repeated.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes a consumer that calls `handler` with each event, up to
    /// [`ConsumerOptions::max_events_in_flight`] at once.
    ///
    /// # Errors
    /// A value of the options that cannot be used.
    pub fn event_handler(self, handler: impl EventHandler) -> Result<BatchConsumer, InvalidConfig> {
        self.validate()?;
        let common =
            Common::new(self.options.max_events_in_flight, self.options.memory_budget_bytes);
        Ok(self.assemble_events(handler, common))
    }

    /// Makes a consumer that calls `handler` with batches, up to
    /// [`ConsumerOptions::max_batches_in_flight`] at once.
    ///
    /// # Errors
    /// A value of the options that cannot be used, alone or together with another.
    pub fn batch_handler(self, handler: impl BatchHandler) -> Result<BatchConsumer, InvalidConfig> {
        self.validate()?;
        self.options.validate_batches()?;
        let common =
            Common::new(self.options.max_batches_in_flight, self.options.memory_budget_bytes);
        Ok(self.assemble_batches(handler, common))
    }

    fn validate(&self) -> Result<(), InvalidConfig> {
        self.options.validate()?;
        self.leases.as_ref().map_or(Ok(()), |(_, options)| options.validate())
    }

    fn assemble_events(self, handler: impl EventHandler, common: Common) -> BatchConsumer {
        self.assemble(EventMode(handler), common)
    }

    fn assemble_batches(self, handler: impl BatchHandler, common: Common) -> BatchConsumer {
        self.assemble(BatchMode(handler), common)
    }

    fn assemble<M: Mode>(self, mode: M, common: Common) -> BatchConsumer {
        metrics::describe();
        let labelled = Labelled::new(self.transport.entity(), self.transport.consumer_group());
        let mut random = shared::seeded(self.seed);
        let leases = self.leases.map(|(store, options)| {
            let owner = format!("{}-{:016x}", self.worker, random.random::<u64>());
            Leases { store, options, owner: owner.into() }
        });
        let shared = Arc::new(Shared {
            run: random.random(),
            random: Mutex::new(random),
            transport: self.transport,
            checkpoints: self.checkpoints,
            dead_letters: self.dead_letters,
            options: self.options,
            worker: self.worker,
            clock: self.clock,
            slots: common.slots,
            budget: common.budget,
            directive: common.directive,
            trials: common.trials,
            tasks: TaskTracker::new(),
            counters: Counters::new(&labelled),
            timings: labelled.timings(),
            partitions: Mutex::new(BTreeMap::new()),
            leases,
            leases_seen: AtomicBool::new(false),
            store_ahead_millis: AtomicI64::new(0),
            on_assigned: self.on_assigned,
            on_revoked: self.on_revoked,
        });
        let ended = CancellationToken::new();
        // Fires however the run ends, a panic included.
        let on_end = ended.clone().drop_guard();
        let run = rebalance::run(Arc::clone(&shared), Arc::new(mode)).map(move |exit| {
            drop(on_end);
            exit
        });
        BatchConsumer { shared, run: run.boxed(), ended }
    }
}

/// Controls a running consumer. Dropping it drains the consumer in the background.
pub struct ConsumerHandle {
    shared: Arc<Shared>,
    /// `None` once the exit was taken.
    task: Option<JoinHandle<ConsumerExit>>,
    ended: CancellationToken,
}

impl fmt::Debug for ConsumerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerHandle")
            .field("directive", &*self.shared.directive.borrow())
            .finish_non_exhaustive()
    }
}

impl ConsumerHandle {
    /// Takes no new events until [`ConsumerHandle::resume`]; what is here goes on.
    pub fn pause(&self) {
        self.switch(Directive::Run, Directive::Pause);
    }

    /// Takes new events again.
    pub fn resume(&self) {
        self.switch(Directive::Pause, Directive::Run);
    }

    fn switch(&self, from: Directive, to: Directive) {
        self.shared.directive.send_if_modified(|directive| {
            let matches = *directive == from;
            if matches {
                *directive = to;
            }
            matches
        });
    }

    /// Changes how many handler calls run at once; those that run are not cut.
    ///
    /// # Errors
    /// 0, or more than [`MAX_SLOTS`].
    pub fn set_concurrency(&self, slots: usize) -> Result<(), InvalidConfig> {
        if (1..=MAX_SLOTS).contains(&slots) {
            self.shared.slots.set_limit(slots);
            Ok(())
        } else {
            Err(InvalidConfig::new(
                "concurrency",
                slots,
                format!("it must be between 1 and {MAX_SLOTS}"),
            ))
        }
    }

    /// Begins to stop: no new events; what runs is ended within
    /// [`ConsumerOptions::drain_timeout`]; a last checkpoint is written.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Stops within [`CANCEL_GRACE`]: handlers are asked to give up and dropped. What they had
    /// not finished is delivered again by the next run.
    pub fn stop(&self) {
        self.shared.directive.send_replace(Directive::Drain(Instant::now()));
    }

    /// Ends the consumer as a crash does: nothing is drained, nothing is written any more.
    /// Handlers that run are dropped. [`ConsumerHandle::join`] then says that it ended
    /// abnormally.
    #[cfg(feature = "testing")]
    pub fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }

    /// Whether everything that is ours is running: all partitions, or those that this worker has
    /// leases for, be they none.
    pub fn is_ready(&self) -> bool {
        let partitions = lock(&self.shared.partitions);
        (!partitions.is_empty() || self.shared.leases_seen.load(Ordering::Relaxed))
            && partitions.iter().all(|(_, status)| status.phase() == PartitionPhase::Running)
    }

    /// Where the consumer stands now.
    pub fn snapshot(&self) -> ConsumerSnapshot {
        ConsumerSnapshot {
            counts: self.shared.counters.read(),
            slots: self.shared.slots.limit(),
            memory_used_bytes: self.shared.budget.used_bytes(),
            slots_in_use: self.shared.slots.in_use(),
            partitions: lock(&self.shared.partitions)
                .iter()
                .map(|(id, status)| status.snapshot(id))
                .collect(),
        }
    }

    /// Waits for the end, without taking the exit.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Waits for the end and takes the exit. Called again, it fails with a word about that.
    ///
    /// # Cancel safety
    /// A dropped call loses nothing; call again.
    pub async fn join(&mut self) -> ConsumerExit {
        let failed = |error| ConsumerExit {
            reason: ExitReason::Failed(error),
            partitions: Vec::new(),
            counts: self.shared.counters.read(),
        };
        let unknown =
            |message| crate::Error::new(crate::ErrorClass::Unknown, "join the consumer", message);
        let Some(task) = &mut self.task else {
            return failed(unknown("the exit was taken before"));
        };
        let joined = task.await;
        self.task = None;
        joined.unwrap_or_else(|error| {
            failed(unknown("the consumer's task ended abnormally").with_source(error))
        })
    }
}

impl Drop for ConsumerHandle {
    fn drop(&mut self) {
        self.shared.drain();
    }
}

/// Where a consumer stands.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConsumerSnapshot {
    /// What was done so far.
    pub counts: ConsumerCounts,
    /// How many handler calls may run at once.
    pub slots: usize,
    /// How many of them are taken.
    pub slots_in_use: usize,
    /// Bytes of the memory budget in use.
    pub memory_used_bytes: usize,
    /// The partitions, in order of their names.
    pub partitions: Vec<PartitionSnapshot>,
}
