//! Where one partition stands: written by its worker, read by snapshots and metrics.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use super::lock::lock;
use crate::checkpoint_store::VersionToken;
use crate::event::{PartitionId, SequenceNumber};
use crate::telemetry::metrics::PartitionMetrics;

/// The state of one partition, written by its worker and read by snapshots.
#[derive(Debug)]
pub(crate) struct PartitionStatus {
    pub(crate) metrics: PartitionMetrics,
    /// The end of the log, when it was last read.
    last_enqueued: AtomicI64,
    settled_to: AtomicI64,
    checkpointed_to: AtomicI64,
    /// The version of the stored checkpoint, while it is known.
    checkpoint_version: Mutex<Option<VersionToken>>,
    last_received: AtomicI64,
    unsettled: AtomicUsize,
    in_flight: AtomicUsize,
    settled_above: AtomicUsize,
    phase: AtomicUsize,
}

/// No position: below every sequence number.
const NONE: i64 = i64::MIN;

/// What a partition's worker is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PartitionPhase {
    /// Fencing the checkpoint and comparing it with the hub.
    Claiming,
    /// Receiving and handling.
    Running,
    /// Ending what runs.
    Draining,
    /// Not owned any more.
    Stopped,
}

/// Where one partition stands.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PartitionSnapshot {
    /// The partition.
    pub partition: PartitionId,
    /// What its worker is doing.
    pub phase: PartitionPhase,
    /// The watermark.
    pub settled_to: Option<SequenceNumber>,
    /// The last acknowledged checkpoint.
    pub checkpointed_to: Option<SequenceNumber>,
    /// The newest event received.
    pub last_received: Option<SequenceNumber>,
    /// Events received and not settled.
    pub unsettled_events: usize,
    /// Handler calls running.
    pub in_flight: usize,
    /// Events settled above the watermark.
    pub settled_above_events: usize,
    /// Sequence numbers between the watermark and the end of the log, as it was last read:
    /// every [`LAG_PROBE_INTERVAL`](crate::consumer::LAG_PROBE_INTERVAL).
    pub lag_events: Option<u64>,
}

pub(crate) struct Progress {
    pub(crate) settled_to: Option<SequenceNumber>,
    pub(crate) last_received: Option<SequenceNumber>,
    pub(crate) unsettled: usize,
    pub(crate) in_flight: usize,
    pub(crate) settled_above: usize,
}

impl PartitionStatus {
    pub(crate) fn new(metrics: PartitionMetrics) -> Self {
        Self {
            metrics,
            last_enqueued: AtomicI64::new(NONE),
            settled_to: AtomicI64::new(NONE),
            checkpointed_to: AtomicI64::new(NONE),
            checkpoint_version: Mutex::new(None),
            last_received: AtomicI64::new(NONE),
            unsettled: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            settled_above: AtomicUsize::new(0),
            phase: AtomicUsize::new(0),
        }
    }

    /// The end of the log was read.
    pub(crate) fn on_log_end(&self, last_enqueued: Option<SequenceNumber>) {
        let end = last_enqueued.map_or(NONE, |number| number.0);
        self.last_enqueued.store(end, Ordering::Relaxed);
        self.metrics.lag_events.set(self.lag_events().unwrap_or(0) as f64);
    }

    /// Sequence numbers between the watermark and the end of the log, where both are known.
    fn lag_events(&self) -> Option<u64> {
        let end = self.last_enqueued.load(Ordering::Relaxed);
        // Nothing settled yet: all of the log, which begins at 0 or later.
        let settled = self.settled_to.load(Ordering::Relaxed).max(-1);
        (end != NONE).then(|| u64::try_from(end.saturating_sub(settled)).unwrap_or(0))
    }

    pub(crate) fn on_progress(&self, progress: &Progress) {
        let number = |position: Option<SequenceNumber>| position.map_or(NONE, |number| number.0);
        self.settled_to.store(number(progress.settled_to), Ordering::Relaxed);
        self.last_received.store(number(progress.last_received), Ordering::Relaxed);
        self.unsettled.store(progress.unsettled, Ordering::Relaxed);
        self.in_flight.store(progress.in_flight, Ordering::Relaxed);
        self.settled_above.store(progress.settled_above, Ordering::Relaxed);
        if let Some(settled_to) = progress.settled_to {
            self.metrics.watermark.set(settled_to.0 as f64);
        }
        self.metrics.unsettled.set(progress.unsettled as f64);
        self.metrics.holes.set(progress.settled_above as f64);
    }

    pub(crate) fn on_checkpoint(&self, watermark: Option<SequenceNumber>) {
        let number = watermark.map_or(NONE, |number| number.0);
        self.checkpointed_to.store(number, Ordering::Relaxed);
    }

    /// The watermark, as it was last written.
    pub(crate) fn settled_to(&self) -> Option<SequenceNumber> {
        let number = self.settled_to.load(Ordering::Relaxed);
        (number != NONE).then_some(SequenceNumber(number))
    }

    /// `None`: a write is under way, or whether one was applied is not known.
    pub(crate) fn set_checkpoint_version(&self, version: Option<VersionToken>) {
        *lock(&self.checkpoint_version) = version;
    }

    pub(crate) fn checkpoint_version(&self) -> Option<VersionToken> {
        lock(&self.checkpoint_version).clone()
    }

    pub(crate) fn set_phase(&self, phase: PartitionPhase) {
        let number = match phase {
            PartitionPhase::Claiming => 0,
            PartitionPhase::Running => 1,
            PartitionPhase::Draining => 2,
            PartitionPhase::Stopped => 3,
        };
        self.phase.store(number, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> PartitionPhase {
        match self.phase.load(Ordering::Relaxed) {
            0 => PartitionPhase::Claiming,
            1 => PartitionPhase::Running,
            2 => PartitionPhase::Draining,
            _ => PartitionPhase::Stopped,
        }
    }

    pub(crate) fn snapshot(&self, partition: &PartitionId) -> PartitionSnapshot {
        let position = |cell: &AtomicI64| match cell.load(Ordering::Relaxed) {
            NONE => None,
            number => Some(SequenceNumber(number)),
        };
        PartitionSnapshot {
            partition: partition.clone(),
            phase: self.phase(),
            settled_to: position(&self.settled_to),
            checkpointed_to: position(&self.checkpointed_to),
            last_received: position(&self.last_received),
            unsettled_events: self.unsettled.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            settled_above_events: self.settled_above.load(Ordering::Relaxed),
            lag_events: self.lag_events(),
        }
    }
}
