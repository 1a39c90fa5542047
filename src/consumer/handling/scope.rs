//! What a handler call and the worker of its partition share: where it belongs, what ends it, and the
//! channel its report comes back through.

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::batch::Outcomes;
use super::blocking::WatchedHandler;
use super::unit::Tracked;
use crate::checkpoint_store::LeaseEpoch;
use crate::event::{ConsumerGroup, Partition};
use crate::outcome::Outcome;

/// Names a call; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CallId {
    pub(super) key: usize,
    pub(super) serial: u64,
}

/// What comes back to the partition's worker.
#[derive(Debug)]
pub(crate) enum Completion {
    /// A call ended, with an outcome for each of its events.
    Call(CallId, Outcomes),
    /// From a settler of this call of the event.
    Deferred { tracked: Tracked, attempt: u32, outcome: Outcome },
}

/// What all handler calls of one ownership of a partition share.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) partition: Partition,
    pub(crate) consumer_group: ConsumerGroup,
    pub(crate) lease_epoch: LeaseEpoch,
    /// Fires when running handlers are asked to give up.
    pub(crate) cancelled: CancellationToken,
    /// Fires when the partition belongs to another owner.
    pub(crate) lost: CancellationToken,
    pub(crate) completions: UnboundedSender<Completion>,
    pub(crate) watched: WatchedHandler,
}
