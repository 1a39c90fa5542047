//! What all partitions of one consumer share: ports, options, slots, budget, counters.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::breakers::Breakers;
use super::budget::SharedBudget;
use super::counts::Counters;
use super::handling::slots::Slots;
use super::lanes::SharedLanes;
use super::lock::lock;
use super::orders::Directive;
use super::status::PartitionStatus;
use crate::checkpoint_store::{CheckpointScope, CheckpointStore, WriteId};
use crate::clock::Clock;
use crate::config::{ConsumerOptions, LeaseOptions};
use crate::dead_letter::DeadLetterSink;
use crate::error::ErrorClass;
use crate::event::{Incarnation, Partition, PartitionId};
use crate::failure_store::{FailureStore, LogIdentity};
use crate::lanes::LaneRule;
use crate::lease_store::{LeaseStore, OwnerId};
use crate::outcome::{Failure, Outcome, RetryRequest};
use crate::state::lag::service_time;
use crate::state::rarely::Rarely;
use crate::state::takeovers::{LONGEST_TRIAL, TakeoverRule};
use crate::telemetry::metrics::Timings;
use crate::timestamp::unix_millis;
use crate::transport::Transport;

/// What consumers that run together have in common: one, or those of several entities.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) slots: Arc<Slots>,
    pub(crate) budget: Arc<SharedBudget>,
    pub(crate) directive: watch::Sender<Directive>,
    /// Whose turn it is to try an event that may end the process.
    pub(crate) trials: Arc<Semaphore>,
    /// Whose turn it is to hand out a parked event that may end the process.
    pub(crate) suspects: Arc<Semaphore>,
    /// The lanes of events, if there are some.
    pub(crate) lanes: Option<Arc<SharedLanes>>,
    pub(crate) breakers: Arc<Breakers>,
}

impl Common {
    pub(crate) fn new(slots: usize, memory_budget_bytes: usize, lanes: Option<LaneRule>) -> Self {
        let slots = Arc::new(Slots::new(slots));
        Self {
            breakers: Arc::new(Breakers::new(Arc::clone(&slots))),
            slots,
            budget: Arc::new(SharedBudget::new(memory_budget_bytes)),
            directive: watch::Sender::new(Directive::Run),
            trials: Arc::new(Semaphore::new(1)),
            suspects: Arc::new(Semaphore::new(1)),
            lanes: lanes.map(|rule| Arc::new(SharedLanes::new(rule))),
        }
    }
}

impl Common {
    /// With lanes of this rule, if there are none that all share.
    pub(crate) fn or_lanes(mut self, rule: Option<LaneRule>) -> Self {
        self.lanes = self.lanes.or_else(|| rule.map(|rule| Arc::new(SharedLanes::new(rule))));
        self
    }
}

/// Where leases are kept, how long they last, and who we are there.
pub(crate) struct Leases {
    pub(crate) store: Arc<dyn LeaseStore>,
    /// No two runs share it, or one would take the other's leases for its own.
    pub(crate) owner: OwnerId,
    pub(crate) options: LeaseOptions,
}

/// Called with a partition when it is taken or given up, and awaited.
pub(crate) type PartitionHook = Arc<dyn Fn(Partition) -> BoxFuture<'static, ()> + Send + Sync>;

/// Says of which class a failure is.
pub(crate) type Classify = Arc<dyn Fn(&Failure) -> ErrorClass + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) checkpoints: Arc<dyn CheckpointStore>,
    pub(crate) dead_letters: Option<Arc<dyn DeadLetterSink>>,
    /// Where events are parked.
    pub(crate) failures: Option<Arc<dyn FailureStore>>,
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
    /// See [`Common::suspects`].
    pub(crate) suspects: Arc<Semaphore>,
    pub(crate) lanes: Option<Arc<SharedLanes>>,
    pub(crate) breakers: Arc<Breakers>,
    /// Attempts that failed and are made again.
    pub(crate) retries_told: Mutex<Rarely>,
    pub(crate) tasks: TaskTracker,
    pub(crate) counters: Counters,
    pub(crate) timings: Timings,
    pub(crate) partitions: Mutex<BTreeMap<PartitionId, Arc<PartitionStatus>>>,
    pub(crate) leases: Option<Leases>,
    /// Whether the leases were listed once: from then on a worker without partitions is ready.
    pub(crate) leases_seen: AtomicBool,
    /// How far the lease store's clock is ahead of ours.
    pub(crate) store_ahead_millis: AtomicI64,
    pub(crate) classify: Option<Classify>,
    pub(crate) on_assigned: Option<PartitionHook>,
    pub(crate) on_revoked: Option<PartitionHook>,
}

impl Shared {
    /// The log of a partition, as records of failures name it.
    pub(crate) fn log_of(&self, partition: &Partition, incarnation: Incarnation) -> LogIdentity {
        LogIdentity {
            namespace: self.transport.namespace().to_owned(),
            entity: partition.entity.clone(),
            incarnation,
            consumer_group: self.transport.consumer_group().clone(),
            partition: partition.id.clone(),
        }
    }

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

    /// The time by which the ages of events are told; see [`service_time`].
    pub(crate) fn service_now(&self) -> SystemTime {
        service_time(self.clock.now(), self.store_ahead_millis.load(Ordering::Relaxed))
    }

    /// The outcome with the class that the user's own classification gives its failure: what may pass is
    /// tried again, and what does not becomes a dead letter.
    pub(crate) fn classified(&self, outcome: Outcome) -> Outcome {
        let Some(classify) = &self.classify else { return outcome };
        let (failure, request) = match outcome {
            Outcome::Retry(request) => (request.failure.clone(), Some(request)),
            Outcome::DeadLetter(failure) => (failure, None),
            other => return other,
        };
        // Where it panics, the failure is what it was.
        let class = catch_unwind(AssertUnwindSafe(|| classify(&failure))).unwrap_or(failure.class);
        if class == failure.class {
            return match request {
                Some(request) => Outcome::Retry(request),
                None => Outcome::DeadLetter(failure),
            };
        }
        let failure = Failure { class, ..failure };
        match request {
            Some(request) if class.is_retryable() => {
                Outcome::Retry(RetryRequest { failure, ..request })
            }
            None if class.is_retryable() => Outcome::retry(failure),
            _ => Outcome::DeadLetter(failure),
        }
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
