//! Every option of the consumer, its default, and its allowed values.
//!
//! Each default is a `DEFAULT_` constant. [`ConsumerOptions::validate`] checks each value, and the pairs that
//! depend on each other. Its error names field, value and bound.

mod along;
mod choices;
mod download;
mod http;
mod rates;
mod retries;

use std::time::Duration;

pub use along::{AccessTier, FileTime, GoesAlong, MetadataOf};
pub use choices::{CopyBy, ExistingFiles, PrivateAddresses, Schemes};
pub use download::{
    DEFAULT_ANSWER_TIMEOUT, DEFAULT_BLOCK_BYTES, DEFAULT_CONNECTIONS,
    DEFAULT_DOWNLOAD_CONNECT_TIMEOUT, DEFAULT_MAX_BYTES, DEFAULT_MIN_BYTES_PER_SECOND,
    DEFAULT_READ_TIMEOUT, DEFAULT_TRANSFER_BUDGET, DownloadLimits, MIN_BLOCK_BYTES,
    MIN_TRANSFER_BUDGET, SLOW_START,
};
pub use http::{Authorization, Credentials, HttpOptions, HttpProxy, MAX_REDIRECTS, Redirects};
pub(crate) use rates::Unit;
pub use rates::{
    DEFAULT_BYTE_BURST, DEFAULT_REQUEST_BURST, MAX_BYTES_PER_SECOND, MAX_REQUESTS_PER_SECOND,
    MIN_BYTES_PER_SECOND, MIN_REQUESTS_PER_SECOND, Rate, RateLimits,
};

pub use retries::{
    AfterAttempts, MIN_AUTH_DELAY, MIN_LONGEST_AUTH_DELAY, MIN_THROTTLING_DELAY, RetryPolicies,
    RetryPolicy,
};

use crate::error::{ErrorClass, InvalidConfig};
use crate::event::StartPosition;
use crate::lanes::LaneRule;
pub use crate::state::backoff::Backoff;
pub use crate::state::takeovers::MIN_TAKEOVERS;

/// Default of [`ConsumerOptions::max_batch_size`]: 20.
pub const DEFAULT_MAX_BATCH_SIZE: usize = 20;
/// Default of [`ConsumerOptions::max_batch_bytes`]: 4 MiB.
pub const DEFAULT_MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Default of [`ConsumerOptions::batch_timeout`]: 1 s.
pub const DEFAULT_BATCH_TIMEOUT: Duration = Duration::from_secs(1);
/// Default of [`ConsumerOptions::max_batches_in_flight`]: 4.
pub const DEFAULT_MAX_BATCHES_IN_FLIGHT: usize = 4;
/// Default of [`ConsumerOptions::max_events_in_flight`]: 10.
pub const DEFAULT_MAX_EVENTS_IN_FLIGHT: usize = 10;
/// Default of [`ConsumerOptions::window_events`]: 4,096.
pub const DEFAULT_WINDOW_EVENTS: usize = 4_096;
/// The largest [`ConsumerOptions::window_events`]: 32,768.
pub const MAX_WINDOW_EVENTS: usize = 32_768;
/// Default of [`ConsumerOptions::memory_budget_bytes`]: 256 MiB.
pub const DEFAULT_MEMORY_BUDGET_BYTES: usize = 256 * 1024 * 1024;
/// Default of [`ConsumerOptions::prefetch_events`]: 300.
pub const DEFAULT_PREFETCH_EVENTS: u32 = 300;
/// Default of [`ConsumerOptions::handler_timeout`]: 15 min.
pub const DEFAULT_HANDLER_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Default of [`ConsumerOptions::max_attempts`]: 5.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 5;
/// Default of [`ConsumerOptions::max_age`]: 24 h.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Default of [`ConsumerOptions::park_after`]: 60 s.
pub const DEFAULT_PARK_AFTER: Duration = Duration::from_secs(60);
/// Default of [`ConsumerOptions::park_delays`]: 5 min, 30 min, 2 h, 8 h.
pub const DEFAULT_PARK_DELAYS: [Duration; 4] = [
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(8 * 60 * 60),
];
/// The shortest delay of [`ConsumerOptions::park_delays`]: 1 ms.
pub const MIN_PARK_DELAY: Duration = Duration::from_millis(1);
/// The most delays of [`ConsumerOptions::park_delays`]: 64.
pub const MAX_PARK_DELAYS: usize = 64;
/// Default of [`ConsumerOptions::max_parked_events`]: 100,000.
pub const DEFAULT_MAX_PARKED_EVENTS: usize = 100_000;
/// The largest [`ConsumerOptions::max_parked_events`]: 1,000,000.
pub const MAX_PARKED_EVENTS: usize = 1_000_000;
/// Default of [`ConsumerOptions::max_takeovers`]: 7.
pub const DEFAULT_MAX_TAKEOVERS: u32 = 7;
/// Default of [`ConsumerOptions::retry_backoff`]: 1 s, doubled up to 60 s.
pub const DEFAULT_RETRY_BACKOFF: Backoff =
    Backoff::doubling(Duration::from_secs(1), Duration::from_secs(60));
/// Default of [`ConsumerOptions::reopen_backoff`]: 100 ms, doubled up to 30 s.
pub const DEFAULT_REOPEN_BACKOFF: Backoff =
    Backoff::doubling(Duration::from_millis(100), Duration::from_secs(30));
/// Default of [`ConsumerOptions::checkpoint_min_interval`]: 1 s.
pub const DEFAULT_CHECKPOINT_MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Default of [`ConsumerOptions::drain_timeout`]: 30 s.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Default of [`ConsumerOptions::connect_timeout`]: 20 s.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Default of [`ConsumerOptions::store_timeout`]: 30 s.
pub const DEFAULT_STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// Default of [`LeaseOptions::heartbeat_interval`]: 5 s.
pub const DEFAULT_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Default of [`LeaseOptions::lease_expiry`]: 30 s.
pub const DEFAULT_LEASE_EXPIRY: Duration = Duration::from_secs(30);
/// Default of [`LeaseOptions::foreign_lease_expiry`]: 2 min, the longest time that a processor of another SDK
/// waits by default.
pub const DEFAULT_FOREIGN_LEASE_EXPIRY: Duration = Duration::from_secs(120);
/// Default of [`LeaseOptions::look_interval`]: 10 s.
pub const DEFAULT_LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Default of [`LeaseOptions::hand_off_timeout`]: 1 min.
pub const DEFAULT_HAND_OFF_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest duration of a setting: a year. A longer one is a mistake, and overflows clocks.
pub const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The most slots of a setting: 1,000,000.
pub const MAX_SLOTS: usize = 1_000_000;

/// Which events are handled in order. Events of other keys, or of other partitions, do not wait for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Ordering {
    /// None. Events begin in order, as slots become free, and end in any order.
    #[default]
    Unordered,
    /// The events of a partition key: [`LaneRule::per_key`]. `Batch::for_each_concurrent` keeps that order within a
    /// batch; a batch handler that goes through its events in another way keeps it itself.
    PerKey,
    /// The events of a partition: [`LaneRule::per_partition`].
    PerPartition,
}

impl Ordering {
    /// The rule of lanes that it stands for; `None` for [`Unordered`](Self::Unordered).
    pub fn rule(self) -> Option<LaneRule> {
        match self {
            Ordering::Unordered => None,
            Ordering::PerKey => Some(LaneRule::per_key()),
            Ordering::PerPartition => Some(LaneRule::per_partition()),
        }
    }

    /// The word that a setting uses for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Ordering::Unordered => "unordered",
            Ordering::PerKey => "per-key",
            Ordering::PerPartition => "per-partition",
        }
    }
}

/// The owner level (AMQP epoch) of a consumer's links.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum OwnerLevel {
    /// The lease epoch. At the broker, the links of a later owner win over those of an earlier one.
    #[default]
    LeaseEpoch,
    /// Always this level. All workers of a checkpoint store must have the same level. A newcomer claims the
    /// checkpoint before the broker compares levels, so one with a lower level would end the owner and then
    /// be refused itself.
    Fixed(i64),
    /// No level. The partition is shared with other readers of the group.
    None,
}

/// Where to go on if the position of the checkpoint is not in the log. That happens when the hub was created
/// anew, when the log ends before the position, or when the service refuses the position.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PositionLost {
    /// With the oldest event. Nothing is lost, and some events may be repeated.
    #[default]
    Earliest,
    /// With the events that are enqueued from now on.
    Latest,
    /// Nowhere: the partition stops and waits for an operator.
    Stop,
}

/// What happens to running handler calls when their partition is lost to another owner. What they do is not
/// checkpointed: the new owner gets the same events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum LostPartition {
    /// They are asked to give up, and dropped a second later.
    #[default]
    Cancel,
    /// They finish, within [`ConsumerOptions::handler_timeout`]. They are told that the partition is lost.
    /// The partition does not come back to this worker before they have ended.
    Finish,
}

/// What to do when checkpoints cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum UncheckpointedEvents {
    /// Go on. A crash may repeat everything since the last checkpoint that was acknowledged.
    #[default]
    Unlimited,
    /// Take in no more events of a partition when a crash would repeat this many.
    PauseAt(u64),
}

/// How long leases last, and how often a worker looks at them.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LeaseOptions {
    /// The time between two heartbeats. Default: 5 s ([`DEFAULT_HEARTBEAT_INTERVAL`]).
    pub heartbeat_interval: Duration,
    /// When a worker has lost its leases: its last heartbeat is older than this. At least three heartbeat
    /// intervals. Default: 30 s ([`DEFAULT_LEASE_EXPIRY`]).
    pub lease_expiry: Duration,
    /// When an ownership of a processor of another SDK is free: it was not renewed for this long. The default
    /// is the longest time that such a processor waits by default.
    /// Default: 2 min ([`DEFAULT_FOREIGN_LEASE_EXPIRY`]).
    pub foreign_lease_expiry: Duration,
    /// The time between two looks at the leases while nothing changes. At most half of the lease expiry.
    /// Default: 10 s ([`DEFAULT_LOOK_INTERVAL`]).
    pub look_interval: Duration,
    /// How long a hand-off waits for handlers before it is put off. It cuts no handler. A handler that takes
    /// longer can stop instead
    /// ([`EventContext::handing_off`](crate::consumer::EventContext::handing_off)).
    /// Default: 1 min ([`DEFAULT_HAND_OFF_TIMEOUT`]).
    pub hand_off_timeout: Duration,
}

impl Default for LeaseOptions {
    fn default() -> Self {
        Self {
            heartbeat_interval: DEFAULT_HEARTBEAT_INTERVAL,
            lease_expiry: DEFAULT_LEASE_EXPIRY,
            foreign_lease_expiry: DEFAULT_FOREIGN_LEASE_EXPIRY,
            look_interval: DEFAULT_LOOK_INTERVAL,
            hand_off_timeout: DEFAULT_HAND_OFF_TIMEOUT,
        }
    }
}

impl LeaseOptions {
    /// Checks every value, and the pairs that depend on each other.
    ///
    /// # Errors
    /// The first value that cannot be used, with its bound.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        duration("heartbeat_interval", self.heartbeat_interval, Duration::from_millis(10))?;
        duration("lease_expiry", self.lease_expiry, Duration::from_secs(1))?;
        duration("foreign_lease_expiry", self.foreign_lease_expiry, Duration::from_secs(1))?;
        duration("look_interval", self.look_interval, Duration::from_millis(10))?;
        duration("hand_off_timeout", self.hand_off_timeout, Duration::from_millis(10))?;
        self.validate_heartbeats()?;
        self.validate_looks()
    }

    /// Checks that a lease outlasts three heartbeats.
    pub(crate) fn validate_heartbeats(&self) -> Result<(), InvalidConfig> {
        if self.lease_expiry / 3 < self.heartbeat_interval {
            return Err(InvalidConfig::new(
                "lease_expiry",
                format!("{:?}", self.lease_expiry),
                format!(
                    "it must be at least three heartbeat_interval of {:?}",
                    self.heartbeat_interval
                ),
            ));
        }
        Ok(())
    }

    /// Checks that an expiry is found in time.
    pub(crate) fn validate_looks(&self) -> Result<(), InvalidConfig> {
        if self.look_interval > self.lease_expiry / 2 {
            return Err(InvalidConfig::new(
                "look_interval",
                format!("{:?}", self.look_interval),
                format!("it must be at most half the lease_expiry of {:?}", self.lease_expiry),
            ));
        }
        Ok(())
    }
}

/// The options of a consumer.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ConsumerOptions {
    /// The most events in a batch. Default: 20 ([`DEFAULT_MAX_BATCH_SIZE`]).
    pub max_batch_size: usize,
    /// The most bytes in a batch. A larger event is a batch of its own.
    /// Default: 4 MiB ([`DEFAULT_MAX_BATCH_BYTES`]).
    pub max_batch_bytes: usize,
    /// How long a batch waits to fill. Default: 1 s ([`DEFAULT_BATCH_TIMEOUT`]).
    pub batch_timeout: Duration,
    /// How many batches are handled at once, over all partitions, by a batch handler.
    /// Default: 4 ([`DEFAULT_MAX_BATCHES_IN_FLIGHT`]).
    pub max_batches_in_flight: usize,
    /// How many events are handled at once, over all partitions, by an event handler.
    /// Default: 10 ([`DEFAULT_MAX_EVENTS_IN_FLIGHT`]).
    pub max_events_in_flight: usize,
    /// Which events are handled in order. Default: none ([`Ordering::Unordered`]). For other lanes use
    /// [`BatchConsumerBuilder::lanes`](crate::consumer::BatchConsumerBuilder::lanes).
    pub ordering: Ordering,
    /// The window W: the most events of a partition that are received and not yet below the watermark.
    /// Default: 4,096 ([`DEFAULT_WINDOW_EVENTS`]). At most 32,768 ([`MAX_WINDOW_EVENTS`]).
    pub window_events: usize,
    /// Memory for events, over all partitions. Seven eighths are for events that are received and not settled,
    /// one eighth is for what links hold ahead. An event counts as its body, properties and annotations plus
    /// 512 bytes. Default: 256 MiB ([`DEFAULT_MEMORY_BUDGET_BYTES`]).
    pub memory_budget_bytes: usize,
    /// The most events that a link holds ahead. A link holds fewer if they do not fit into its part of the
    /// memory budget. Default: 300 ([`DEFAULT_PREFETCH_EVENTS`]).
    pub prefetch_events: u32,
    /// How long a handler may take. After that its future is dropped, and its events are retried. `None`: as
    /// long as it likes. Default: 15 min ([`DEFAULT_HANDLER_TIMEOUT`]).
    pub handler_timeout: Option<Duration>,
    /// How many times a handler gets an event before it is parked or becomes a dead letter. 1 means that
    /// nothing is tried again. A failure that may pass has one more rule: if nothing has succeeded at its
    /// destination since the event failed first, the event is tried further, until something succeeds there
    /// or until [`max_age`](Self::max_age). A failure while the destination gets probes only uses up no
    /// attempt. Default: 5 ([`DEFAULT_MAX_ATTEMPTS`]).
    pub max_attempts: u32,
    /// How long an event is tried while nothing succeeds at its destination. With zero, destinations are not
    /// considered, no destination is left alone, and an event is given up after
    /// [`max_attempts`](Self::max_attempts). Default: 24 h ([`DEFAULT_MAX_AGE`]).
    pub max_age: Duration,
    /// The longest delay for which an event waits in place, where it holds the watermark. For a longer delay it
    /// is parked, if the consumer has a
    /// [`failure_store`](crate::consumer::BatchConsumerBuilder::failure_store). If a limited lane fails for
    /// this long, the events that wait for it are parked as well. Default: 60 s ([`DEFAULT_PARK_AFTER`]).
    pub park_after: Duration,
    /// How long an event is parked after it failed [`max_attempts`](Self::max_attempts) times in place and may
    /// still succeed: the first time, the second time, and so on. After the last time it becomes a dead
    /// letter. If the list is empty, nothing is parked.
    /// Default: 5 min, 30 min, 2 h, 8 h ([`DEFAULT_PARK_DELAYS`]).
    pub park_delays: Vec<Duration>,
    /// The most parked events of a partition. An event that fails beyond that is treated as without a failure
    /// store: tried in place, then given up as [`max_attempts`](Self::max_attempts) says. A parked event costs
    /// some 200 bytes of memory, whatever its size. Default: 100,000 ([`DEFAULT_MAX_PARKED_EVENTS`]).
    pub max_parked_events: usize,
    /// How many owners of a partition may end one after the other without progress before the event that ends
    /// them becomes a dead letter. Otherwise such an event would end every process for ever. The search
    /// begins four ends earlier: 256 events are in flight, then 16, then one, which is on trial; see
    /// [`guarantees`](crate::guarantees). `None`: no event is searched for.
    /// Default: 7 ([`DEFAULT_MAX_TAKEOVERS`]). At least 6 ([`MIN_TAKEOVERS`]).
    pub max_takeovers: Option<u32>,
    /// Delays between attempts. Default: 1 s, doubled up to 60 s ([`DEFAULT_RETRY_BACKOFF`]).
    /// The first delay is at least 4 s after [`ErrorClass::Throttling`] ([`MIN_THROTTLING_DELAY`]), and at
    /// least 10 s after [`ErrorClass::Auth`] ([`MIN_AUTH_DELAY`]).
    pub retry_backoff: Backoff,
    /// Other attempts and delays for failures of some classes. Default: none.
    pub retry_policies: RetryPolicies,
    /// The shortest time between two checkpoint writes of a partition.
    /// Default: 1 s ([`DEFAULT_CHECKPOINT_MIN_INTERVAL`]).
    pub checkpoint_min_interval: Duration,
    /// What to do when checkpoints cannot be written. Default: go on
    /// ([`UncheckpointedEvents::Unlimited`]).
    pub uncheckpointed_events: UncheckpointedEvents,
    /// How long a drain waits for handlers before it cuts them. Default: 30 s ([`DEFAULT_DRAIN_TIMEOUT`]).
    pub drain_timeout: Duration,
    /// How long a run tries to connect for the first time: to read its hub, and then, for as long again, to
    /// read the leases if it has some. After that it ends with
    /// [`NeverConnected`](crate::consumer::ExitReason::NeverConnected). It ends at once if the hub does not
    /// exist, and after 5 s
    /// ([`REFUSAL_GRACE`](crate::consumer::REFUSAL_GRACE)) if the credentials are refused. Once connected, it reconnects for ever. `None`: it
    /// tries for as long as it may help. Default: 20 s ([`DEFAULT_CONNECT_TIMEOUT`]).
    pub connect_timeout: Option<Duration>,
    /// How long one call of the checkpoint store or of the dead-letter sink may take.
    /// Default: 30 s ([`DEFAULT_STORE_TIMEOUT`]).
    pub store_timeout: Duration,
    /// Where to begin in a partition that has no checkpoint. Default: the oldest event.
    pub start_position: StartPosition,
    /// Where to go on if the position of the checkpoint is not in the log. Default: the oldest event.
    pub position_lost: PositionLost,
    /// What happens to handler calls whose partition is lost. Default: they are cancelled.
    pub lost_partition: LostPartition,
    /// The owner level of the links. Default: the lease epoch.
    pub owner_level: OwnerLevel,
    /// Delays between attempts to open a link. Default: 100 ms, doubled up to 30 s ([`DEFAULT_REOPEN_BACKOFF`]).
    pub reopen_backoff: Backoff,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            max_batch_size: DEFAULT_MAX_BATCH_SIZE,
            max_batch_bytes: DEFAULT_MAX_BATCH_BYTES,
            batch_timeout: DEFAULT_BATCH_TIMEOUT,
            max_batches_in_flight: DEFAULT_MAX_BATCHES_IN_FLIGHT,
            max_events_in_flight: DEFAULT_MAX_EVENTS_IN_FLIGHT,
            ordering: Ordering::default(),
            window_events: DEFAULT_WINDOW_EVENTS,
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            prefetch_events: DEFAULT_PREFETCH_EVENTS,
            handler_timeout: Some(DEFAULT_HANDLER_TIMEOUT),
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            max_age: DEFAULT_MAX_AGE,
            park_after: DEFAULT_PARK_AFTER,
            park_delays: DEFAULT_PARK_DELAYS.to_vec(),
            max_parked_events: DEFAULT_MAX_PARKED_EVENTS,
            max_takeovers: Some(DEFAULT_MAX_TAKEOVERS),
            retry_backoff: DEFAULT_RETRY_BACKOFF,
            retry_policies: RetryPolicies::default(),
            checkpoint_min_interval: DEFAULT_CHECKPOINT_MIN_INTERVAL,
            uncheckpointed_events: UncheckpointedEvents::default(),
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            connect_timeout: Some(DEFAULT_CONNECT_TIMEOUT),
            store_timeout: DEFAULT_STORE_TIMEOUT,
            start_position: StartPosition::default(),
            position_lost: PositionLost::default(),
            lost_partition: LostPartition::default(),
            owner_level: OwnerLevel::default(),
            reopen_backoff: DEFAULT_REOPEN_BACKOFF,
        }
    }
}

impl ConsumerOptions {
    /// Checks every value, and the pairs that depend on each other.
    ///
    /// # Errors
    /// The first value that cannot be used, with its bound.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        count("max_batch_size", self.max_batch_size, 1, MAX_WINDOW_EVENTS)?;
        count("max_batch_bytes", self.max_batch_bytes, 1, isize::MAX.unsigned_abs())?;
        duration("batch_timeout", self.batch_timeout, Duration::from_millis(1))?;
        count("max_batches_in_flight", self.max_batches_in_flight, 1, MAX_SLOTS)?;
        count("max_events_in_flight", self.max_events_in_flight, 1, MAX_SLOTS)?;
        count("window_events", self.window_events, 1, MAX_WINDOW_EVENTS)?;
        count(
            "memory_budget_bytes",
            self.memory_budget_bytes,
            64 * 1024,
            isize::MAX.unsigned_abs(),
        )?;
        if self.prefetch_events == 0 {
            return Err(InvalidConfig::new("prefetch_events", 0, "it must be at least 1"));
        }
        if let Some(timeout) = self.handler_timeout {
            duration("handler_timeout", timeout, Duration::from_millis(1))?;
        }
        if self.max_attempts == 0 {
            return Err(InvalidConfig::new("max_attempts", 0, "it must be at least 1"));
        }
        duration("max_age", self.max_age, Duration::ZERO)?;
        duration("park_after", self.park_after, Duration::ZERO)?;
        count("park_delays", self.park_delays.len(), 0, MAX_PARK_DELAYS)?;
        for delay in &self.park_delays {
            duration("park_delays", *delay, MIN_PARK_DELAY)?;
        }
        count("max_parked_events", self.max_parked_events, 1, MAX_PARKED_EVENTS)?;
        if let Some(takeovers) = self.max_takeovers
            && takeovers < MIN_TAKEOVERS
        {
            let problem = format!("it must be at least {MIN_TAKEOVERS}");
            return Err(InvalidConfig::new("max_takeovers", takeovers, problem));
        }
        backoff("retry_backoff", &self.retry_backoff)?;
        backoff("reopen_backoff", &self.reopen_backoff)?;
        self.retry_policies.validate()?;
        duration("checkpoint_min_interval", self.checkpoint_min_interval, Duration::ZERO)?;
        duration("drain_timeout", self.drain_timeout, Duration::ZERO)?;
        if let Some(timeout) = self.connect_timeout {
            duration("connect_timeout", timeout, Duration::from_millis(1))?;
        }
        duration("store_timeout", self.store_timeout, Duration::from_millis(1))?;
        if self.uncheckpointed_events == UncheckpointedEvents::PauseAt(0) {
            return Err(InvalidConfig::new("uncheckpointed_events", 0, "it must be at least 1"));
        }
        Ok(())
    }

    /// How events are tried when their failure is of this class.
    pub fn retry_policy(&self, class: ErrorClass) -> RetryPolicy {
        let common = RetryPolicy::new(self.max_attempts, self.retry_backoff);
        self.retry_policies.of(class, common)
    }

    /// Checks that the batches in flight fit in the window W.
    ///
    /// # Errors
    /// If they do not.
    pub fn validate_batches(&self) -> Result<(), InvalidConfig> {
        let in_flight = self.max_batch_size.saturating_mul(self.max_batches_in_flight);
        if in_flight > self.window_events {
            return Err(InvalidConfig::new(
                "window_events",
                self.window_events,
                format!(
                    "it must hold max_batch_size x max_batches_in_flight = {} x {} = {in_flight} events",
                    self.max_batch_size, self.max_batches_in_flight
                ),
            ));
        }
        Ok(())
    }
}

fn count(
    field: &'static str,
    value: usize,
    least: usize,
    most: usize,
) -> Result<(), InvalidConfig> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let bound = if value < least {
        format!("it must be at least {least}")
    } else {
        format!("it must be at most {most}")
    };
    Err(InvalidConfig::new(field, value, bound))
}

fn duration(field: &'static str, value: Duration, least: Duration) -> Result<(), InvalidConfig> {
    if (least..=MAX_DURATION).contains(&value) {
        return Ok(());
    }
    let bound = if value < least {
        format!("it must be at least {least:?}")
    } else {
        "it must be at most a year".to_owned()
    };
    Err(InvalidConfig::new(field, format!("{value:?}"), bound))
}

fn backoff(field: &'static str, value: &Backoff) -> Result<(), InvalidConfig> {
    if value.initial.is_zero() || value.initial > value.max || value.max > MAX_DURATION {
        return Err(InvalidConfig::new(
            field,
            format!("{:?} to {:?}", value.initial, value.max),
            "the first delay must be above zero and at most the longest, and that at most a year",
        ));
    }
    if !value.factor.is_finite() || !(1.0..=100.0).contains(&value.factor) {
        return Err(InvalidConfig::new(
            field,
            value.factor,
            "the factor must be between 1 and 100",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut ConsumerOptions)) -> ConsumerOptions {
        let mut options = ConsumerOptions::default();
        change(&mut options);
        options
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(ConsumerOptions::default().validate(), Ok(()));
        assert_eq!(ConsumerOptions::default().validate_batches(), Ok(()));
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_its_bound() {
        let cases: [(ConsumerOptions, &str); 9] = [
            (
                with(|o| o.max_batch_size = 0),
                "max_batch_size = 0 cannot be used: it must be at least 1",
            ),
            (
                with(|o| o.batch_timeout = Duration::ZERO),
                "batch_timeout = 0ns cannot be used: it must be at least 1ms",
            ),
            (
                with(|o| o.max_events_in_flight = 0),
                "max_events_in_flight = 0 cannot be used: it must be at least 1",
            ),
            (
                with(|o| o.max_batches_in_flight = 0),
                "max_batches_in_flight = 0 cannot be used: it must be at least 1",
            ),
            (
                with(|o| o.window_events = 40_000),
                "window_events = 40000 cannot be used: it must be at most 32768",
            ),
            (
                with(|o| o.max_attempts = 0),
                "max_attempts = 0 cannot be used: it must be at least 1",
            ),
            (
                with(|o| o.max_takeovers = Some(5)),
                "max_takeovers = 5 cannot be used: it must be at least 6",
            ),
            (with(|o| o.drain_timeout = Duration::MAX), "it must be at most a year"),
            (with(|o| o.max_batch_bytes = usize::MAX), "it must be at most"),
        ];
        for (options, message) in cases {
            let error = options.validate().expect_err(message).to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn batches_in_flight_must_fit_in_the_window() {
        let options = with(|o| {
            o.max_batch_size = 100;
            o.max_batches_in_flight = 50;
        });
        let error = options.validate_batches().expect_err("too much").to_string();
        assert!(error.contains("100 x 50 = 5000"), "{error}");
        let overflowing = with(|o| {
            o.max_batch_size = usize::MAX;
            o.max_batches_in_flight = 2;
        });
        assert!(overflowing.validate_batches().is_err());
    }
}
