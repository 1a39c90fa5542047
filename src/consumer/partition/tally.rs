//! What a turn of the worker's loop did, to be counted at its end.

use std::time::SystemTime;

/// What settled.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    /// When the oldest event of what settled together had been enqueued.
    pub(super) settled: Vec<SystemTime>,
}
