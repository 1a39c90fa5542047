//! What a turn of the worker's loop did, to be counted at its end.

use std::time::SystemTime;

/// What settled, and what runs.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    /// When what settled together had been enqueued, the oldest and the newest of it.
    pub(super) settled: Vec<(SystemTime, SystemTime)>,
    pub(super) newest: Option<SystemTime>,
    /// Handler calls that ran when they were last counted.
    pub(super) running: usize,
}
