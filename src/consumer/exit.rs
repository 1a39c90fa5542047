//! How a partition and a consumer ended, as values.

use std::fmt;

use crate::error::{Error, ErrorClass, error_chain};
use crate::event::{PartitionId, SequenceNumber};
use crate::outcome::Failure;
use crate::state::fence::Superseded;
use crate::state::resume::Continuity;

use super::counts::ConsumerCounts;
use super::never_connected::NeverConnected;

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
    /// An event failed for good and there is no dead-letter sink, so the partition does not pass it.
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
    /// Whether events that are settled could not be checkpointed. The next run repeats them.
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
    /// It never read its hub, or never saw the leases. Nothing was begun.
    NeverConnected(NeverConnected),
    /// The reason is not known: its task ended abnormally, or the exit was taken before.
    Failed(Error),
    /// Every partition stopped for its own reason; see [`ConsumerExit::partitions`].
    PartitionsStopped,
}

/// Why a run ended, for the code that decides what to do next. The greater value is the graver cause.
///
/// ```no_run
/// use longshore::consumer::ExitCause;
/// # use std::process::ExitCode;
///
/// # async fn run(consumer: longshore::BatchConsumer) -> ExitCode {
/// match consumer.run_until(longshore::shutdown_signal()).await {
///     Ok(_) => ExitCode::SUCCESS,
///     Err(error) => {
///         eprintln!("{error}");
///         match error.cause() {
///             // To start again is all that it takes.
///             ExitCause::WorkLeft | ExitCause::TakenOver | ExitCause::Unreachable => ExitCode::from(75),
///             // Somebody must look at it.
///             _ => ExitCode::FAILURE,
///         }
///     }
/// }
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum ExitCause {
    /// It was drained: all calls that had begun have ended, and what they did is checkpointed. An event that was
    /// between two attempts is handled by the next run.
    Drained,
    /// Other owners have partitions that it lost: their links, leases or checkpoints.
    TakenOver,
    /// It was drained, and handler calls were cut, or a last checkpoint was not written: the next run
    /// repeats that.
    WorkLeft,
    /// The hub or a store could not be reached, or not in time.
    Unreachable,
    /// The hub or a store refused the key, the role or the token.
    AccessDenied,
    /// The hub or a store refused for good for another reason: a hub that is not there, a checkpoint that
    /// cannot be read.
    Refused,
    /// A partition stopped in order not to lose an event: the event failed for good and nothing keeps dead
    /// letters, or the log no longer has the event.
    EventStopped,
    /// A handler said that the environment is broken ([`Outcome::abort`](crate::Outcome::abort)).
    Aborted,
    /// Something panicked again and again, or the run was ended from outside.
    Crashed,
}

impl ExitCause {
    /// What an error of the hub or of a store comes to.
    fn of(error: Option<&Error>) -> Self {
        match error.map(Error::class) {
            Some(ErrorClass::Auth) => ExitCause::AccessDenied,
            Some(ErrorClass::PartitionLost) => ExitCause::TakenOver,
            Some(class) if !class.is_retryable() => ExitCause::Refused,
            Some(_) | None => ExitCause::Unreachable,
        }
    }
}

impl StopReason {
    fn cause(&self) -> ExitCause {
        match self {
            StopReason::Drained | StopReason::HandedOff => ExitCause::Drained,
            StopReason::Lost(_) | StopReason::LeaseLost | StopReason::Superseded(_) => {
                ExitCause::TakenOver
            }
            StopReason::Aborted(_) => ExitCause::Aborted,
            StopReason::NoDeadLetterSink { .. } | StopReason::PositionLost(_) => {
                ExitCause::EventStopped
            }
            StopReason::Failed(error) => ExitCause::of(Some(error)),
            StopReason::Panicked { .. } => ExitCause::Crashed,
        }
    }
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

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Drained => f.write_str("it was drained"),
            StopReason::HandedOff => f.write_str("it was handed to another worker"),
            StopReason::Lost(error) => {
                write!(f, "another receiver has it: {}", error_chain(error).join(": "))
            }
            StopReason::LeaseLost => f.write_str("another owner has its lease"),
            StopReason::Superseded(by) => write!(f, "its checkpoint is another's: {by:?}"),
            StopReason::Aborted(failure) => write!(f, "a handler stopped the consumer: {failure}"),
            StopReason::NoDeadLetterSink { sequence_number, failure } => write!(
                f,
                "the event {sequence_number} failed for good, and there is no dead-letter sink: \
                 {failure}"
            ),
            StopReason::PositionLost(continuity) => {
                write!(f, "its position is not in the log: {continuity:?}")
            }
            StopReason::Failed(error) => f.write_str(&error_chain(error).join(": ")),
            StopReason::Panicked { times, message } => {
                write!(f, "its task panicked {times} times without getting any further: {message}")
            }
        }
    }
}

/// One line about an exit that is not clean.
impl fmt::Display for ConsumerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            ExitReason::NeverConnected(never) => return never.fmt(f),
            ExitReason::Failed(error) => return f.write_str(&error_chain(error).join(": ")),
            ExitReason::Aborted(failure) => {
                return write!(f, "a handler stopped the consumer: {failure}");
            }
            ExitReason::PartitionsStopped => f.write_str("every partition stopped")?,
            ExitReason::Drained => f.write_str("the consumer was drained")?,
        }
        let unclean: Vec<&PartitionExit> =
            self.partitions.iter().filter(|exit| !exit.is_clean()).collect();
        let Some(first) = unclean.first() else {
            return Ok(());
        };
        write!(f, "; partition {}: {}", first.partition, first.reason)?;
        if first.cut_handlers > 0 {
            let calls = if first.cut_handlers == 1 { "call was" } else { "calls were" };
            write!(f, ", {} handler {calls} cut", first.cut_handlers)?;
        }
        if first.checkpoint_behind {
            f.write_str(", what it settled last is not checkpointed")?;
        }
        match unclean.len() {
            1 => Ok(()),
            count => write!(f, "; and {} more", count - 1),
        }
    }
}

/// An end that was not clean. Its `Debug` is its `Display`, so a `main` that returns it says in words what is
/// wrong.
pub struct Unclean<E> {
    exit: Box<E>,
}

impl<E> Unclean<E> {
    pub(super) fn new(exit: E) -> Self {
        Self { exit: Box::new(exit) }
    }

    /// How it ended.
    pub fn exit(&self) -> &E {
        &self.exit
    }

    /// Takes it.
    pub fn into_exit(self) -> E {
        *self.exit
    }
}

impl<E: fmt::Display> fmt::Display for Unclean<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exit.fmt(f)
    }
}

impl<E: fmt::Display> fmt::Debug for Unclean<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exit.fmt(f)
    }
}

impl<E: fmt::Display> std::error::Error for Unclean<E> {}

impl Unclean<ConsumerExit> {
    /// Why it ended; see [`ConsumerExit::cause`].
    pub fn cause(&self) -> ExitCause {
        self.exit.cause()
    }
}

impl PartitionExit {
    /// Why it stopped, in as few words as its owner acts on.
    pub fn cause(&self) -> ExitCause {
        match self.cut_handlers > 0 || self.checkpoint_behind {
            true => self.reason.cause().max(ExitCause::WorkLeft),
            false => self.reason.cause(),
        }
    }

    /// Whether all that was begun of it was ended and checkpointed.
    fn is_clean(&self) -> bool {
        self.cause() == ExitCause::Drained
    }
}

impl ConsumerExit {
    /// Turns an exit that is not clean into an error, for a `main` that has nothing more to say about it.
    ///
    /// # Errors
    /// If the exit is not clean; see [`ConsumerExit::is_clean`].
    pub fn into_result(self) -> Result<Self, Unclean<Self>> {
        if self.is_clean() { Ok(self) } else { Err(Unclean::new(self)) }
    }

    /// Whether all calls that had begun have ended, and what they did is checkpointed. Events that were between
    /// two attempts are left to the next run. A run that never connected is not clean.
    pub fn is_clean(&self) -> bool {
        self.cause() == ExitCause::Drained
    }

    /// Why it ended: the gravest of its own reason and those of its partitions.
    pub fn cause(&self) -> ExitCause {
        let own = match &self.reason {
            ExitReason::Drained => ExitCause::Drained,
            // Each has its own, and none of them goes on here.
            ExitReason::PartitionsStopped => ExitCause::TakenOver,
            ExitReason::Aborted(_) => ExitCause::Aborted,
            ExitReason::NeverConnected(never) => ExitCause::of(never.error()),
            ExitReason::Failed(_) => ExitCause::Crashed,
        };
        self.partitions.iter().map(PartitionExit::cause).fold(own, ExitCause::max)
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

    #[test]
    fn the_gravest_cause_is_told() {
        let failed = |class| StopReason::Failed(Error::new(class, "read the hub", "no"));
        let mut seen = Vec::new();
        for (reason, cause) in [
            (StopReason::Drained, ExitCause::Drained),
            (StopReason::LeaseLost, ExitCause::TakenOver),
            (failed(ErrorClass::Transient), ExitCause::Unreachable),
            (failed(ErrorClass::Auth), ExitCause::AccessDenied),
            (failed(ErrorClass::Permanent), ExitCause::Refused),
            (StopReason::Aborted(Failure::permanent("full")), ExitCause::Aborted),
        ] {
            let mut one = exit(reason);
            assert_eq!(one.cause(), cause);
            // Whatever it is, it is told of a run whose other partitions were drained.
            one.partitions.extend(exit(StopReason::Drained).partitions);
            assert_eq!(one.cause(), cause);
            seen.push(cause);
        }
        assert!(seen.is_sorted(), "the greater one is the graver one");
        let mut lost = exit(StopReason::LeaseLost);
        lost.partitions[0].cut_handlers = 1;
        assert_eq!(lost.cause(), ExitCause::WorkLeft, "what was cut is handled by both");
        lost.reason = ExitReason::Aborted(Failure::permanent("full"));
        assert_eq!(lost.into_result().expect_err("unclean").cause(), ExitCause::Aborted);
        let mut none = exit(StopReason::Drained);
        (none.reason, none.partitions) = (ExitReason::PartitionsStopped, Vec::new());
        assert!(!none.is_clean());
    }

    #[test]
    fn an_end_that_is_not_clean_is_an_error_that_says_it_in_one_line() {
        assert!(exit(StopReason::Drained).into_result().is_ok());
        let mut cut = exit(StopReason::Drained);
        (cut.partitions[0].cut_handlers, cut.partitions[0].checkpoint_behind) = (2, true);
        cut.partitions.extend(exit(StopReason::LeaseLost).partitions);
        let error = cut.into_result().expect_err("unclean");
        let said = "the consumer was drained; partition 0: it was drained, 2 handler calls were \
                    cut, what it settled last is not checkpointed; and 1 more";
        assert_eq!((error.to_string(), format!("{error:?}")), (said.to_owned(), said.to_owned()));
        assert_eq!(error.into_exit().partitions.len(), 2);
    }
}
