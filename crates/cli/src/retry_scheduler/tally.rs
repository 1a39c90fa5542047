//! What was published, counted when it was acknowledged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::latencies::Latencies;
use longshore::retry_scheduler::Published;

/// The figures of what was published. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<Mutex<Told>>);

/// The figures so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Events, by the hub that they went to.
    pub(super) targets: BTreeMap<String, u64>,
    /// From when they were due to the acknowledgement.
    pub(super) late: Latencies,
}

impl Told {
    pub(super) fn published(&self) -> u64 {
        self.targets.values().sum()
    }
}

impl Tally {
    pub(super) fn on_published(&self, published: &Published<'_>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *told.targets.entry(published.target.to_string()).or_default() += 1;
        told.late.add(published.late);
    }

    pub(super) fn published(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).published()
    }

    pub(super) fn told(&self) -> Told {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
