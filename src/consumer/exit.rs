//! How a partition and a consumer ended, as values.

use crate::error::Error;
use crate::event::{PartitionId, SequenceNumber};
use crate::outcome::Failure;
use crate::state::fence::Superseded;
use crate::state::resume::Continuity;

use super::counts::ConsumerCounts;

/// Why a partition's worker stopped.
#[derive(Debug)]
#[non_exhaustive]
pub enum StopReason {
    /// It was told to drain.
    Drained,
    /// It was drained for another worker, which goes on with it.
    HandedOff,
    /// Another receiver has the partition at the broker.
    Lost(Error),
    /// Another owner has the partition's lease.
    LeaseLost,
    /// Another owner claimed the checkpoint, or an operator reset it.
    Superseded(Superseded),
    /// A handler said that the environment is broken.
    Aborted(Failure),
    /// An event failed for good and there is no dead-letter sink: it is not passed over.
    NoDeadLetterSink {
        /// The event.
        sequence_number: SequenceNumber,
        /// Why it failed.
        failure: Failure,
    },
    /// The position is not in the log, and the policy says stop.
    PositionLost(Continuity),
    /// The hub or the store refused for good.
    Failed(Error),
    /// Its task panicked again and again without getting any further.
    Panicked {
        /// How often in a row.
        times: u32,
        /// What the last panic said.
        message: String,
    },
}

/// How one partition ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct PartitionExit {
    /// The partition.
    pub partition: PartitionId,
    /// Why it stopped.
    pub reason: StopReason,
    /// Handler calls that did not end by the drain's deadline and were dropped.
    pub cut_handlers: usize,
    /// Whether something settled could not be checkpointed: the next run repeats it.
    pub checkpoint_behind: bool,
}

/// Why a consumer ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExitReason {
    /// It was told to drain.
    Drained,
    /// A handler said that the environment is broken; everything else was drained.
    Aborted(Failure),
    /// The hub could not be read at all.
    Failed(Error),
    /// Every partition stopped for a reason of its own; see [`ConsumerExit::partitions`].
    PartitionsStopped,
}

/// How a consumer ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct ConsumerExit {
    /// Why.
    pub reason: ExitReason,
    /// How each partition ended, in order of their names.
    pub partitions: Vec<PartitionExit>,
    /// What was done.
    pub counts: ConsumerCounts,
}

impl ConsumerExit {
    /// Whether all that was begun was ended and checkpointed.
    pub fn is_clean(&self) -> bool {
        matches!(self.reason, ExitReason::Drained)
            && self.partitions.iter().all(|exit| {
                matches!(exit.reason, StopReason::Drained | StopReason::HandedOff)
                    && exit.cut_handlers == 0
                    && !exit.checkpoint_behind
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(reason: StopReason) -> ConsumerExit {
        let partition = PartitionExit {
            partition: PartitionId::from("0"),
            reason,
            cut_handlers: 0,
            checkpoint_behind: false,
        };
        ConsumerExit {
            reason: ExitReason::Drained,
            partitions: vec![partition],
            counts: ConsumerCounts::default(),
        }
    }

    #[test]
    fn an_end_whose_partitions_were_drained_for_others_is_clean() {
        assert!(exit(StopReason::Drained).is_clean());
        assert!(exit(StopReason::HandedOff).is_clean());
        assert!(!exit(StopReason::LeaseLost).is_clean());
    }
}
