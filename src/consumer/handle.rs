//! [`ConsumerHandle`]: controls a consumer that runs, and says where it stands.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::breakers::BreakerSnapshot;
use super::counts::ConsumerCounts;
use super::exit::{ConsumerExit, ExitReason};
use super::lanes::SharedLanes;
use super::lock::lock;
use super::orders::Directive;
use super::shared::Shared;
use super::status::{PartitionPhase, PartitionSnapshot};
use crate::config::MAX_SLOTS;
use crate::error::{Error, ErrorClass, InvalidConfig};
use crate::lanes::{Lane, LaneSnapshot};

/// Controls a running consumer. Dropping it drains the consumer in the background.
///
/// A program with a readiness probe looks at the handle while the consumer runs:
///
/// ```no_run
/// # use longshore::{BatchConsumer, shutdown_signal};
/// # use std::time::Duration;
/// async fn run(consumer: BatchConsumer) -> Result<(), Box<dyn std::error::Error>> {
///     let mut consumer = consumer.start();
///     let signal = shutdown_signal();
///     tokio::pin!(signal);
///     let mut looks = tokio::time::interval(Duration::from_secs(1));
///     loop {
///         tokio::select! {
///             () = consumer.ended() => break,
///             () = &mut signal => break,
///             // For a probe that looks for a file. An endpoint can do the same with a watch channel.
///             _ = looks.tick() => match consumer.is_ready() {
///                 true => std::fs::write("/tmp/ready", "")?,
///                 false => drop(std::fs::remove_file("/tmp/ready")),
///             },
///         }
///     }
///     consumer.drain();
///     let exit = consumer.join().await.into_result()?;
///     println!("{:?}", exit.counts);
///     Ok(())
/// }
/// ```
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
    pub(super) fn new(
        shared: Arc<Shared>,
        task: JoinHandle<ConsumerExit>,
        ended: CancellationToken,
    ) -> Self {
        Self { shared, task: Some(task), ended }
    }

    /// Whether the consumer has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Takes in no new events until [`ConsumerHandle::resume`]. Events that are already here go on.
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

    /// Changes how many handler calls run at once. Running calls are not cut.
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

    /// Closes a lane: for `time`, no handler gets an event of it. Running calls go on. If the lane is already
    /// closed, the longer time counts.
    ///
    /// # Errors
    /// The consumer has no lanes, or the time is longer than
    /// [`MAX_LANE_CLOSING`](crate::lanes::MAX_LANE_CLOSING).
    pub fn close_lane(&self, lane: &Lane, time: Duration) -> Result<(), InvalidConfig> {
        self.lanes()?.close(lane, time)
    }

    /// Opens a closed lane at once, whatever closed it.
    pub fn open_lane(&self, lane: &Lane) {
        if let Some(lanes) = &self.shared.lanes {
            lanes.open(lane);
        }
    }

    /// Changes how many events of a lane are handled at once. Running calls are not cut.
    ///
    /// # Errors
    /// The consumer has no lanes, they are ordered, or the cap is 0.
    pub fn set_lane_cap(&self, cap: usize) -> Result<(), InvalidConfig> {
        self.lanes()?.set_cap(cap)
    }

    /// Whether events have lanes.
    pub(super) fn has_lanes(&self) -> bool {
        self.shared.lanes.is_some()
    }

    fn lanes(&self) -> Result<&SharedLanes, InvalidConfig> {
        self.shared.lanes.as_deref().ok_or_else(|| {
            InvalidConfig::new("lanes", "none", "the consumer must be built with lanes")
        })
    }

    /// Begins to stop: takes in no new events, waits for running handlers for
    /// [`ConsumerOptions::drain_timeout`](crate::ConsumerOptions::drain_timeout) at most, and writes a last
    /// checkpoint.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Stops within 1 s ([`CANCEL_GRACE`](crate::consumer::CANCEL_GRACE)): handlers are asked to give up, and then
    /// dropped. The next run delivers their events again.
    pub fn stop(&self) {
        self.shared.directive.send_replace(Directive::Drain(Instant::now()));
    }

    /// Ends the consumer as a crash does: nothing is drained and nothing is written. Running handlers are dropped.
    /// [`ConsumerHandle::join`] then says that it ended abnormally.
    #[cfg(feature = "testing")]
    pub fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }

    /// Whether this worker has connected and all partitions that it has are running: an answer for a readiness
    /// probe.
    ///
    /// It is false before the first connection, and while a partition is claimed or drained. It stays true while the
    /// hub is away, for that is waited out. With leases, a worker is ready as soon as it has read the leases, also
    /// without a partition: others may have them all. [`ConsumerSnapshot::partitions`] says which ones it has.
    pub fn is_ready(&self) -> bool {
        let partitions = lock(&self.shared.partitions);
        (!partitions.is_empty() || self.shared.leases_seen.load(Ordering::Relaxed))
            && partitions.iter().all(|(_, status)| status.phase() == PartitionPhase::Running)
    }

    /// Where the consumer stands now.
    pub fn snapshot(&self) -> ConsumerSnapshot {
        let now = self.shared.service_now();
        let partitions: Vec<PartitionSnapshot> = lock(&self.shared.partitions)
            .iter()
            .map(|(id, status)| status.snapshot(id, now))
            .collect();
        let waiting_events = partitions.iter().map(|one| one.lane_waiting_events).sum();
        let lanes = self.shared.lanes.as_ref().map(|lanes| lanes.snapshot());
        ConsumerSnapshot {
            counts: self.shared.counters.read(),
            slots: self.shared.slots.full_limit(),
            memory_used_bytes: self.shared.budget.used_bytes(),
            slots_in_use: self.shared.slots.in_use(),
            lanes: lanes.map(|lanes| LaneSnapshot { waiting_events, ..lanes }),
            breakers: self.shared.breakers.snapshot(),
            partitions,
        }
    }

    /// Waits for the end. It does not take the exit.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Waits for the end and takes the exit. A second call returns an exit that says so.
    ///
    /// # Cancel safety
    /// A dropped call loses nothing; call again.
    pub async fn join(&mut self) -> ConsumerExit {
        let failed = |error| ConsumerExit {
            reason: ExitReason::Failed(error),
            partitions: Vec::new(),
            counts: self.shared.counters.read(),
        };
        let unknown = |message| Error::new(ErrorClass::Unknown, "join the consumer", message);
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
    /// The lanes, if there are some. Consumers of a set that shares lanes report the same ones.
    pub lanes: Option<LaneSnapshot>,
    /// Destinations that get probes only, because most attempts there fail, and those that are recovering.
    /// Consumers of a set report the same ones.
    pub breakers: Vec<BreakerSnapshot>,
    /// The partitions that this worker has, and those that stopped here for good, in order of their names. A
    /// partition that another worker took over, or was given, is not listed.
    pub partitions: Vec<PartitionSnapshot>,
}
