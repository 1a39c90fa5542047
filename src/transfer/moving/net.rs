//! What every body is read with, and how that ends early.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::DownloadLimits;
use crate::outcome::Outcome;
use crate::transfer::connections::Connections;
use crate::transfer::progress::Progress;
use crate::transfer::rates::Rates;
use crate::transfer::source::Body;

/// What limits a body, and counts it.
#[derive(Clone, Copy)]
pub(super) struct Net<'a> {
    pub(super) rates: &'a Rates,
    pub(super) progress: &'a Progress,
    pub(super) limits: &'a DownloadLimits,
    pub(super) connections: &'a Connections,
    /// Fires when whoever can go on later is to stop.
    pub(super) stop: &'a CancellationToken,
}

/// The body of an answer to a request for all of a file, and whose it is.
pub(super) struct First<'a> {
    pub(super) body: Body<'a>,
    pub(super) host: Arc<str>,
}

/// Why a body was not read to its end.
pub(super) enum Stopped {
    /// Its connection broke, or it fell silent; what becomes of the task where that cannot be gone on
    /// from.
    Broke(Outcome),
    /// What becomes of the task.
    Ends(Outcome),
}

/// The partition is about to leave, and its next owner goes on with the task.
pub(super) fn put_back() -> Outcome {
    Outcome::put_back("its partition is about to leave this worker")
}

impl From<Outcome> for Stopped {
    fn from(outcome: Outcome) -> Self {
        Self::Ends(outcome)
    }
}
