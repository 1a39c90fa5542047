//! What all partitions of one consumer share: ports, options, slots, budget, counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use metrics::Counter;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::dispatch::Slots;
use super::status::PartitionStatus;
use crate::checkpoint_store::{CheckpointScope, CheckpointStore, WriteId};
use crate::clock::Clock;
use crate::config::{ConsumerOptions, LeaseOptions};
use crate::dead_letter::DeadLetterSink;
use crate::event::{Partition, PartitionId};
use crate::lease_store::{LeaseStore, OwnerId};
use crate::state::batch_buffer::FlushReason;
use crate::state::byte_budget::{Account, ByteBudget};
use crate::state::takeovers::{LONGEST_TRIAL, TakeoverRule};
use crate::telemetry::metrics::{Labelled, Timings};
use crate::timestamp::unix_millis;
use crate::transport::Transport;

/// What the consumer is told to do, all partitions alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Directive {
    Run,
    /// Take no new events; what is here goes on.
    Pause,
    /// Take no new events, end what runs by the deadline, checkpoint, stop.
    Drain(Instant),
}

/// What one partition's worker is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Run,
    /// Take no new events; what is here goes on.
    Pause,
    /// Take no new events, end what runs without cutting it, checkpoint, stop. Until that is
    /// done, [`Order::Run`] calls it back.
    HandOff,
    /// Take no new events, end what runs by the deadline, checkpoint, stop.
    Drain(Instant),
    /// The lease is another owner's: stop, and write nothing.
    Lose,
}

/// What a partition's worker was told last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub(crate) order: Order,
    /// How often somebody else's write was found in the place of its checkpoint.
    pub(crate) rechecks: u32,
}

impl From<Directive> for Order {
    fn from(directive: Directive) -> Self {
        match directive {
            Directive::Run => Order::Run,
            Directive::Pause => Order::Pause,
            Directive::Drain(deadline) => Order::Drain(deadline),
        }
    }
}

/// What consumers that run together have in common: one, or those of several entities.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) slots: Arc<Slots>,
    pub(crate) budget: Arc<SharedBudget>,
    pub(crate) directive: watch::Sender<Directive>,
    /// Whose turn it is to try an event that may end the process.
    pub(crate) trials: Arc<Semaphore>,
}

impl Common {
    pub(crate) fn new(slots: usize, memory_budget_bytes: usize) -> Self {
        Self {
            slots: Arc::new(Slots::new(slots)),
            budget: Arc::new(SharedBudget::new(memory_budget_bytes)),
            directive: watch::Sender::new(Directive::Run),
            trials: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Where leases are kept, how long they last, and who we are there.
pub(crate) struct Leases {
    pub(crate) store: Arc<dyn LeaseStore>,
    /// No two runs share it, or one would take the other's leases for its own.
    pub(crate) owner: OwnerId,
    pub(crate) options: LeaseOptions,
}

/// Called with a partition when it is taken or given up.
pub(crate) type PartitionHook = Arc<dyn Fn(&Partition) + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) checkpoints: Arc<dyn CheckpointStore>,
    pub(crate) dead_letters: Option<Arc<dyn DeadLetterSink>>,
    pub(crate) options: ConsumerOptions,
    pub(crate) worker: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Mutex<SmallRng>,
    /// Names this run in what it writes.
    pub(crate) run: u32,
    pub(crate) slots: Arc<Slots>,
    pub(crate) budget: Arc<SharedBudget>,
    pub(crate) directive: watch::Sender<Directive>,
    /// See [`Common::trials`].
    pub(crate) trials: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    pub(crate) counters: Counters,
    pub(crate) timings: Timings,
    pub(crate) partitions: Mutex<BTreeMap<PartitionId, Arc<PartitionStatus>>>,
    pub(crate) leases: Option<Leases>,
    /// Whether the leases were listed once: from then on a worker without partitions is ready.
    pub(crate) leases_seen: AtomicBool,
    /// How far the lease store's clock is ahead of ours.
    pub(crate) store_ahead_millis: AtomicI64,
    pub(crate) on_assigned: Option<PartitionHook>,
    pub(crate) on_revoked: Option<PartitionHook>,
}

impl Shared {
    pub(crate) fn scope(&self) -> CheckpointScope {
        CheckpointScope {
            namespace: self.transport.namespace().to_owned(),
            entity: self.transport.entity().clone(),
            consumer_group: self.transport.consumer_group().clone(),
        }
    }

    /// The lease store says what time it is.
    pub(crate) fn on_store_time(&self, now: SystemTime) {
        let ahead = unix_millis(now).saturating_sub(unix_millis(self.clock.now()));
        self.store_ahead_millis.store(ahead, Ordering::Relaxed);
    }

    /// The time that all workers agree on, as far as known, in milliseconds since 1970: what
    /// lease epochs begin with.
    pub(crate) fn shared_now_millis(&self) -> u64 {
        let ahead = self.store_ahead_millis.load(Ordering::Relaxed);
        u64::try_from(unix_millis(self.clock.now()).saturating_add(ahead)).unwrap_or(0)
    }

    /// Uniform in `0.0..1.0`.
    pub(crate) fn random(&self) -> f64 {
        lock(&self.random).random()
    }

    pub(crate) fn seed(&self) -> u64 {
        lock(&self.random).random()
    }

    /// Names a write: the upper half names this run of the consumer.
    pub(crate) fn write_id(&self) -> WriteId {
        let number = self.seed() & u64::from(u32::MAX);
        WriteId(u64::from(self.run) << 32 | number)
    }

    /// Whether a write was made by this run of the consumer.
    pub(crate) fn is_own(&self, write: WriteId) -> bool {
        write.0 >> 32 == u64::from(self.run)
    }

    pub(crate) fn takeover_rule(&self) -> TakeoverRule {
        TakeoverRule {
            limit: self.options.max_takeovers,
            window_events: self.options.window_events,
            longest_trial: self.options.handler_timeout.unwrap_or(LONGEST_TRIAL).min(LONGEST_TRIAL),
        }
    }

    /// Begins a drain, unless one is under way already with an earlier deadline.
    pub(crate) fn drain(&self) {
        let deadline = Instant::now() + self.options.drain_timeout;
        self.directive.send_if_modified(|directive| match directive {
            Directive::Drain(earlier) if *earlier <= deadline => false,
            _ => {
                *directive = Directive::Drain(deadline);
                true
            }
        });
    }
}

pub(crate) fn seeded(seed: Option<u64>) -> SmallRng {
    seed.map_or_else(SmallRng::from_os_rng, SmallRng::seed_from_u64)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The byte budget behind a lock, with a wake-up for partitions that wait for room.
pub(crate) struct SharedBudget {
    budget: Mutex<ByteBudget>,
    room: Notify,
}

impl SharedBudget {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { budget: Mutex::new(ByteBudget::new(capacity)), room: Notify::new() }
    }

    pub(crate) fn open(&self) -> Account {
        lock(&self.budget).open()
    }

    pub(crate) fn close(&self, account: Account) {
        lock(&self.budget).close(account);
        self.room.notify_waiters();
    }

    /// Ready when there is room that there was not when this was called. Wakes in order: a run
    /// is a function of its seed.
    pub(crate) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    pub(crate) fn may_take(&self, account: Account) -> bool {
        lock(&self.budget).may_take(account)
    }

    pub(crate) fn on_taken(&self, account: Account, bytes: usize, prefetch_bytes: usize) {
        let mut budget = lock(&self.budget);
        budget.on_taken(account, bytes);
        budget.on_prefetch(account, prefetch_bytes);
    }

    pub(crate) fn on_returned(&self, account: Account, bytes: usize) {
        let wake = lock(&self.budget).on_returned(account, bytes);
        if wake {
            self.room.notify_waiters();
        }
    }

    pub(crate) fn used_bytes(&self) -> usize {
        lock(&self.budget).used_bytes()
    }
}

/// A count since the consumer started, and the metric that shows it.
pub(crate) struct Count {
    total: AtomicU64,
    metric: Counter,
}

impl Count {
    fn new(metric: Counter) -> Self {
        Self { total: AtomicU64::new(0), metric }
    }

    pub(crate) fn add(&self, count: u64) {
        if count > 0 {
            self.total.fetch_add(count, Ordering::Relaxed);
            self.metric.increment(count);
        }
    }
}

macro_rules! counters {
    ($labelled:ident: $($(#[$doc:meta])* $name:ident = $metric:expr,)*) => {
        /// Counts since the consumer started, over all partitions.
        pub(crate) struct Counters {
            $(pub(crate) $name: Count,)*
        }

        /// Counts since the consumer started, over all partitions.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct ConsumerCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn new($labelled: &Labelled) -> Self {
                Self { $($name: Count::new($metric),)* }
            }

            pub(crate) fn read(&self) -> ConsumerCounts {
                ConsumerCounts { $($name: self.$name.total.load(Ordering::Relaxed),)* }
            }
        }

        impl std::iter::Sum for ConsumerCounts {
            fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
                counts.fold(Self::default(), |sum, one| Self { $($name: sum.$name + one.$name,)* })
            }
        }
    };
}

counters! {
    labelled:
    /// Events received, repeats dropped.
    received = labelled.received(),
    /// Events an earlier run had settled above its watermark: not handled again.
    settled_before = Counter::noop(),
    /// Events that handlers finished.
    done = labelled.settled("done"),
    /// Events that handlers skipped.
    skipped = labelled.settled("skip"),
    /// Retries that handlers asked for or caused.
    retried = labelled.retries(),
    /// Dead letters that were acknowledged.
    dead_letters = labelled.settled("dead_letter"),
    /// Batches that filled to their count.
    batches_by_size = labelled.batches(FlushReason::Size),
    /// Batches that filled to their bytes.
    batches_by_bytes = labelled.batches(FlushReason::Bytes),
    /// Batches whose oldest event had waited long enough.
    batches_by_timeout = labelled.batches(FlushReason::Timeout),
    /// Batches handed out by a drain.
    batches_by_drain = labelled.batches(FlushReason::Drain),
    /// Batches handed out because the byte budget was short.
    batches_by_pressure = labelled.batches(FlushReason::Pressure),
    /// Checkpoint writes that were acknowledged; claims included.
    checkpoints = labelled.checkpoints("ok"),
    /// Checkpoint writes that failed.
    checkpoint_failures = labelled.checkpoints("failed"),
    /// Links opened.
    links_opened = labelled.links(),
    /// Sequence numbers that retention removed before they were received, at most.
    lost_events = labelled.lost(),
}

impl Counters {
    pub(crate) fn on_batch(&self, reason: FlushReason) {
        match reason {
            FlushReason::Size => &self.batches_by_size,
            FlushReason::Bytes => &self.batches_by_bytes,
            FlushReason::Timeout => &self.batches_by_timeout,
            FlushReason::Drain => &self.batches_by_drain,
            FlushReason::Pressure => &self.batches_by_pressure,
        }
        .add(1);
    }
}

impl ConsumerCounts {
    /// Batches for any reason.
    pub fn batches(&self) -> u64 {
        self.batches_by_size
            + self.batches_by_bytes
            + self.batches_by_timeout
            + self.batches_by_drain
            + self.batches_by_pressure
    }
}
