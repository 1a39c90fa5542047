//! [`BatchConsumer`] and what it is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::counts::Counters;
use super::exit::{ConsumerExit, Unclean};
use super::handle::ConsumerHandle;
use super::handling::call::{self, StartCall};
use super::handling::handler::{BatchHandler, EventHandler};
use super::ownership;
use super::shared::{self, Classify, Common, Leases, PartitionHook, Shared};
use crate::checkpoint_store::CheckpointStore;
use crate::clock::{Clock, SystemClock};
use crate::config::{ConsumerOptions, LeaseOptions, Ordering, RetryPolicy};
use crate::dead_letter::DeadLetterSink;
use crate::dead_letter::store::StoreDeadLetterSink;
use crate::error::{ErrorClass, InvalidConfig};
use crate::event::Partition;
use crate::failure_store::FailureStore;
use crate::lanes::LaneRule;
use crate::lease_store::LeaseStore;
use crate::outcome::Failure;
use crate::telemetry::metrics::{self, Labelled};
use crate::transport::Transport;

/// Consumes all partitions of an entity, many events at once, settling each.
///
/// Built by [`BatchConsumer::builder`]; runs once [`BatchConsumer::start`] is called.
pub struct BatchConsumer {
    pub(super) shared: Arc<Shared>,
    pub(super) run: BoxFuture<'static, ConsumerExit>,
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
    /// Begins a consumer that reads `transport` and keeps its place in `checkpoints`. What is used
    /// elsewhere too is given in an `Arc`.
    pub fn builder(
        transport: impl Transport,
        checkpoints: impl CheckpointStore,
    ) -> BatchConsumerBuilder {
        BatchConsumerBuilder {
            transport: Arc::new(transport),
            checkpoints: Arc::new(checkpoints),
            dead_letters: None,
            failures: None,
            options: ConsumerOptions::default(),
            worker: "longshore".to_owned(),
            clock: Arc::new(SystemClock),
            seed: None,
            leases: None,
            lanes: None,
            on_assigned: None,
            on_revoked: None,
            classify: None,
        }
    }

    /// Starts consuming on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> ConsumerHandle {
        ConsumerHandle::new(self.shared, tokio::spawn(self.run), self.ended)
    }

    /// Consumes until `signal` comes, then drains; or until the consumer ends by itself.
    ///
    /// ```no_run
    /// # async fn run(consumer: longshore::BatchConsumer) -> Result<(), Box<dyn std::error::Error>> {
    /// let exit = consumer.run_until(longshore::shutdown_signal()).await?;
    /// println!("{} events are done", exit.counts.done);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the end was not clean; see [`ConsumerExit::is_clean`]. The error says in a line why, has the
    /// exit, and tells the causes apart: [`Unclean::cause`].
    ///
    /// # Cancel safety
    /// A dropped call leaves nothing behind: handlers are dropped at their next await, there is
    /// no last checkpoint, and the events they had are delivered again. To end in good order,
    /// use `signal`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn run_until(
        self,
        signal: impl Future,
    ) -> Result<ConsumerExit, Unclean<ConsumerExit>> {
        let Self { shared, mut run, .. } = self;
        tokio::select! {
            biased;
            exit = &mut run => return exit.into_result(),
            _ = signal => shared.drain(),
        }
        run.await.into_result()
    }
}

/// Collects what a [`BatchConsumer`] is made of.
#[must_use]
pub struct BatchConsumerBuilder {
    pub(super) transport: Arc<dyn Transport>,
    checkpoints: Arc<dyn CheckpointStore>,
    dead_letters: Option<Arc<dyn DeadLetterSink>>,
    failures: Option<Arc<dyn FailureStore>>,
    pub(super) options: ConsumerOptions,
    worker: String,
    clock: Arc<dyn Clock>,
    seed: Option<u64>,
    leases: Option<(Arc<dyn LeaseStore>, LeaseOptions)>,
    pub(super) lanes: Option<LaneRule>,
    on_assigned: Option<PartitionHook>,
    on_revoked: Option<PartitionHook>,
    classify: Option<Classify>,
}

impl fmt::Debug for BatchConsumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchConsumerBuilder")
            .field("transport", &self.transport)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl BatchConsumerBuilder {
    /// Where events that failed for good go. Without one, such an event stops its partition.
    pub fn dead_letters(mut self, sink: impl DeadLetterSink) -> Self {
        self.dead_letters = Some(Arc::new(sink));
        self
    }

    /// Where events wait that failed and may succeed later, so that they hold nothing up; see
    /// [`ConsumerOptions::park_delays`]. Without one they are tried in place alone. Where there is no
    /// sink of dead letters, they go to this store as well. Workers that share a consumer group have the
    /// same one.
    pub fn failure_store(mut self, store: impl FailureStore) -> Self {
        self.failures = Some(Arc::new(store));
        self
    }

    /// Replaces all options.
    pub fn options(mut self, options: ConsumerOptions) -> Self {
        self.options = options;
        self
    }

    /// Shares the partitions with the other workers that keep their leases in `store`. Without
    /// it, a consumer takes all partitions of its entity.
    ///
    /// Workers share what they should share if they have the same lease store, the same
    /// checkpoint store, and the same namespace, entity and consumer group.
    pub fn leases(mut self, store: impl LeaseStore) -> Self {
        let options = self.leases.take().map(|(_, options)| options).unwrap_or_default();
        self.leases = Some((Arc::new(store), options));
        self
    }

    /// Shares the partitions as [`BatchConsumerBuilder::leases`] does, with these options.
    pub fn leases_with(mut self, store: impl LeaseStore, options: LeaseOptions) -> Self {
        self.leases = Some((Arc::new(store), options));
        self
    }

    /// Says which events belong together, so that they are handled in order, or at most so many of
    /// them at once; see [`crate::lanes`]. Not together with [`ConsumerOptions::ordering`], which is
    /// the name of two such rules.
    pub fn lanes(mut self, rule: LaneRule) -> Self {
        self.lanes = Some(rule);
        self
    }

    /// Names this worker in dead letters and logs. Default "longshore".
    pub fn worker(mut self, name: impl Into<String>) -> Self {
        self.worker = name.into();
        self
    }

    /// Called when a partition is ours, and awaited before its first event is received. Where the
    /// partition is to leave before the hook ended, the hook is dropped at its next await.
    ///
    /// ```
    /// use longshore::BatchConsumer;
    /// # use longshore::checkpoint_store::memory::MemoryCheckpointStore;
    /// # use longshore::transport::memory::MemoryHub;
    /// # use std::sync::Arc;
    /// # let transport = Arc::new(MemoryHub::new("orders", 1).transport("$Default"));
    /// # let checkpoints = Arc::new(MemoryCheckpointStore::new());
    /// BatchConsumer::builder(transport, checkpoints)
    ///     .on_partition_assigned(async |partition| println!("{partition} is ours"))
    ///     .on_partition_revoked(|partition| async move { println!("{partition} has left") });
    /// ```
    pub fn on_partition_assigned<Fut>(
        mut self,
        hook: impl Fn(Partition) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.on_assigned = Some(Arc::new(move |partition| hook(partition).boxed()));
        self
    }

    /// Called when a partition is no longer ours and nothing of it runs here any more. Where it goes to
    /// another worker, that one waits for the hook. It is awaited for
    /// [`ConsumerOptions::drain_timeout`] at most, and dropped then.
    pub fn on_partition_revoked<Fut>(
        mut self,
        hook: impl Fn(Partition) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.on_revoked = Some(Arc::new(move |partition| hook(partition).boxed()));
        self
    }

    /// Replaces the wall clock that stamps records.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets how events are tried whose failure is of this class; see
    /// [`ConsumerOptions::retry_policies`].
    pub fn retry_policy(mut self, class: ErrorClass, policy: RetryPolicy) -> Self {
        self.options.retry_policies.set(class, policy);
        self
    }

    /// Says of which class a failure is, whatever the handler made of it: before anything else is decided
    /// on it. What is of a retryable class then is tried again, anything else becomes a dead letter. A
    /// failure whose classification panics stays as it is.
    ///
    /// ```
    /// use longshore::{BatchConsumer, ErrorClass, Failure};
    /// # use std::sync::Arc;
    /// # use longshore::checkpoint_store::memory::MemoryCheckpointStore;
    /// # use longshore::transport::memory::MemoryHub;
    /// # let transport = Arc::new(MemoryHub::new("orders", 1).transport("$Default"));
    /// # let checkpoints = Arc::new(MemoryCheckpointStore::new());
    /// BatchConsumer::builder(transport, checkpoints).classify(|failure: &Failure| {
    ///     match failure.message.starts_with("duplicate key") {
    ///         true => ErrorClass::Permanent,
    ///         false => failure.class,
    ///     }
    /// });
    /// ```
    pub fn classify(
        mut self,
        classify: impl Fn(&Failure) -> ErrorClass + Send + Sync + 'static,
    ) -> Self {
        self.classify = Some(Arc::new(classify));
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
        let options = &self.options;
        let slots = options.max_events_in_flight;
        let common = Common::new(slots, options.memory_budget_bytes, self.lane_rule());
        Ok(self.assemble(call::of_events(Arc::new(handler)), common))
    }

    /// Makes a consumer that calls `handler` with batches, up to
    /// [`ConsumerOptions::max_batches_in_flight`] at once.
    ///
    /// # Errors
    /// A value of the options that cannot be used, alone or together with another.
    pub fn batch_handler(self, handler: impl BatchHandler) -> Result<BatchConsumer, InvalidConfig> {
        self.validate()?;
        self.options.validate_batches()?;
        let options = &self.options;
        let slots = options.max_batches_in_flight;
        let common = Common::new(slots, options.memory_budget_bytes, self.lane_rule());
        Ok(self.assemble(call::of_batches(Arc::new(handler)), common))
    }

    /// The rule of its lanes, whichever way it was given.
    pub(super) fn lane_rule(&self) -> Option<LaneRule> {
        self.lanes.clone().or_else(|| self.options.ordering.rule())
    }

    /// Checks the rule of its lanes, and that there is one at most.
    pub(super) fn validate_lanes(&self) -> Result<(), InvalidConfig> {
        let Some(rule) = &self.lanes else { return Ok(()) };
        if self.options.ordering != Ordering::Unordered {
            return Err(InvalidConfig::new(
                "ordering",
                self.options.ordering.as_str(),
                "it must be unordered where the builder is given lanes: they say what is ordered",
            ));
        }
        rule.validate()
    }

    fn validate(&self) -> Result<(), InvalidConfig> {
        self.options.validate()?;
        self.validate_lanes()?;
        self.leases.as_ref().map_or(Ok(()), |(_, options)| options.validate())
    }

    /// Puts the parts together; they are valid.
    pub(super) fn assemble(self, handler: Arc<dyn StartCall>, common: Common) -> BatchConsumer {
        metrics::describe();
        let labelled = Labelled::new(self.transport.entity(), self.transport.consumer_group());
        let mut random = shared::seeded(self.seed);
        let leases = self.leases.map(|(store, options)| {
            let owner = format!("{}-{:016x}", self.worker, random.random::<u64>());
            Leases { store, options, owner: owner.into() }
        });
        let of_store = |store: &Arc<dyn FailureStore>| {
            Arc::new(StoreDeadLetterSink::new(Arc::clone(store))) as Arc<dyn DeadLetterSink>
        };
        let dead_letters = self.dead_letters.or_else(|| self.failures.as_ref().map(of_store));
        let shared = Arc::new(Shared {
            run: random.random(),
            random: Mutex::new(random),
            transport: self.transport,
            checkpoints: self.checkpoints,
            dead_letters,
            failures: self.failures,
            options: self.options,
            worker: self.worker,
            clock: self.clock,
            slots: common.slots,
            budget: common.budget,
            directive: common.directive,
            trials: common.trials,
            lanes: common.lanes,
            breakers: common.breakers,
            tasks: TaskTracker::new(),
            counters: Counters::new(&labelled),
            timings: labelled.timings(),
            partitions: Mutex::new(BTreeMap::new()),
            leases,
            leases_seen: AtomicBool::new(false),
            store_ahead_millis: AtomicI64::new(0),
            classify: self.classify,
            on_assigned: self.on_assigned,
            on_revoked: self.on_revoked,
        });
        let ended = CancellationToken::new();
        // Fires however the run ends, a panic included.
        let on_end = ended.clone().drop_guard();
        let run = ownership::run(Arc::clone(&shared), handler).map(move |exit| {
            drop(on_end);
            exit
        });
        BatchConsumer { shared, run: run.boxed(), ended }
    }
}
