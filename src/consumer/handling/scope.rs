//! What a handler call and the worker of its partition share: where it belongs, what ends it, and the
//! channel its report comes back through.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::batch::Outcomes;
use super::blocking::WatchedHandler;
use super::renewals::Renewals;
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

/// What handler calls of one ownership of a partition share: all of them, or those up to the end of a
/// hand-off that is called back, and those that come after it.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) partition: Partition,
    pub(crate) consumer_group: ConsumerGroup,
    pub(crate) lease_epoch: LeaseEpoch,
    /// Fires when the partition is about to leave: handed off, drained, or lost.
    pub(crate) handing_off: CancellationToken,
    /// Fires when running handlers are asked to give up.
    pub(crate) cancelled: CancellationToken,
    /// Fires when the partition belongs to another owner.
    pub(crate) lost: CancellationToken,
    pub(crate) completions: UnboundedSender<Completion>,
    pub(crate) watched: Arc<WatchedHandler>,
    pub(crate) renewals: Arc<Renewals>,
}

impl Scope {
    /// The scope of calls that begin after a hand-off was called back: nothing tells them of it.
    pub(crate) fn after_call_back(&self) -> Self {
        Self {
            partition: self.partition.clone(),
            consumer_group: self.consumer_group.clone(),
            lease_epoch: self.lease_epoch,
            handing_off: CancellationToken::new(),
            cancelled: self.cancelled.clone(),
            lost: self.lost.clone(),
            completions: self.completions.clone(),
            watched: Arc::clone(&self.watched),
            renewals: Arc::clone(&self.renewals),
        }
    }
}
