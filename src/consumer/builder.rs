//! [`BatchConsumer`] and its builder.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
use crate::state::rarely::Rarely;
use crate::telemetry::metrics::{self, Labelled};
use crate::transport::Transport;

/// How often the log tells of attempts that fail and are made again: once a minute.
const RETRIES_TOLD_EVERY: Duration = Duration::from_secs(60);

/// Consumes all partitions of an entity, many events at once, and settles each event by itself.
///
/// [`BatchConsumer::builder`] builds it. [`BatchConsumer::start`] or [`BatchConsumer::run_until`] runs it.
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
    /// Begins to build a consumer that reads `transport` and keeps its place in `checkpoints`. If you also use
    /// one of them elsewhere, pass it in an `Arc`.
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

    /// Consumes until `signal` completes, and then drains. It also returns when the consumer ends by itself.
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
    /// If the end was not clean; see [`ConsumerExit::is_clean`]. The error says why in one line and holds the
    /// exit. [`Unclean::cause`] tells the causes apart.
    ///
    /// # Cancel safety
    /// If the call is dropped, the consumer ends as in a crash: handlers are dropped at their next await, no
    /// last checkpoint is written, and the events that were in flight are delivered again. To end in good
    /// order, use `signal`.
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
    /// Sets where dead letters go. Default: to the failure store; without one, an event that fails for good stops
    /// its partition.
    pub fn dead_letters(mut self, sink: impl DeadLetterSink) -> Self {
        self.dead_letters = Some(Arc::new(sink));
        self
    }

    /// Sets where events are parked: they failed, may succeed later, and hold nothing up meanwhile; see
    /// [`ConsumerOptions::park_delays`]. Default: none, and events are tried in place only. If no sink of dead
    /// letters is set, dead letters go to this store as well. Workers of one consumer group must have the same
    /// store.
    pub fn failure_store(mut self, store: impl FailureStore) -> Self {
        self.failures = Some(Arc::new(store));
        self
    }

    /// Replaces all options.
    pub fn options(mut self, options: ConsumerOptions) -> Self {
        self.options = options;
        self
    }

    /// Shares the partitions with the other workers that keep their leases in `store`. Default: no lease store,
    /// and the consumer takes all partitions of its entity.
    ///
    /// Workers that share partitions must have the same lease store, checkpoint store, failure store,
    /// namespace, entity and consumer group.
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

    /// Sets which events belong together, so that they are handled in order, or only some of them at once; see
    /// [`crate::lanes`]. Default: none. It cannot be used together with [`ConsumerOptions::ordering`], which
    /// names two such rules.
    pub fn lanes(mut self, rule: LaneRule) -> Self {
        self.lanes = Some(rule);
        self
    }

    /// Sets the name of this worker in dead letters and logs. Default: "longshore".
    pub fn worker(mut self, name: impl Into<String>) -> Self {
        self.worker = name.into();
        self
    }

    /// Sets a hook that is called when this worker becomes the owner of a partition. Its first event is received
    /// after the hook has ended. If the partition leaves before that, the hook is dropped at its next await.
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

    /// Sets a hook that is called when this worker no longer owns a partition and none of its handlers run here.
    /// If the partition goes to another worker, that worker waits for the hook. After
    /// [`ConsumerOptions::drain_timeout`] the hook is dropped.
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

    /// Replaces the wall clock that gives records their times. Default: the clock of the system.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets how events are tried when their failure is of this class; see
    /// [`ConsumerOptions::retry_policies`].
    pub fn retry_policy(mut self, class: ErrorClass, policy: RetryPolicy) -> Self {
        self.options.retry_policies.set(class, policy);
        self
    }

    /// Sets a function that decides the class of every failure, before anything else is decided about it. It
    /// overrides the class that the handler gave. An event with a retryable class is tried again; any other
    /// becomes a dead letter. If the function panics, the failure keeps its class.
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

    /// Seeds the jitter and the write ids, so that a run can be repeated. Default: random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Builds a consumer that calls `handler` with each event, up to
    /// [`ConsumerOptions::max_events_in_flight`] at once.
    ///
    /// # Errors
    /// If a value of the options cannot be used.
    pub fn event_handler(self, handler: impl EventHandler) -> Result<BatchConsumer, InvalidConfig> {
        self.validate()?;
        let options = &self.options;
        let slots = options.max_events_in_flight;
        let common = Common::new(slots, options.memory_budget_bytes, self.lane_rule());
        Ok(self.assemble(call::of_events(Arc::new(handler)), common))
    }

    /// Builds a consumer that calls `handler` with batches, up to
    /// [`ConsumerOptions::max_batches_in_flight`] at once.
    ///
    /// # Errors
    /// If a value of the options cannot be used, alone or together with another.
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
                "it must be unordered if the builder has lanes: the lanes say what is ordered",
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
            suspects: common.suspects,
            lanes: common.lanes,
            breakers: common.breakers,
            retries_told: Mutex::new(Rarely::new(RETRIES_TOLD_EVERY)),
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
