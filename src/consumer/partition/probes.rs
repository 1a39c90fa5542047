//! The probes of one partition that run.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use crate::consumer::breakers::Breakers;
use crate::state::watermark::Ticket;

/// See the [module](self). Dropped, they say nothing any more.
pub(super) struct Probes {
    breakers: Arc<Breakers>,
    running: HashSet<Ticket>,
}

impl Probes {
    pub(super) fn new(breakers: &Arc<Breakers>) -> Self {
        Self { breakers: Arc::clone(breakers), running: HashSet::new() }
    }

    /// A probe begins.
    pub(super) fn on_begun(&mut self, ticket: Ticket) {
        self.running.insert(ticket);
    }

    /// A call of an event ended. Returns whether it was a probe.
    pub(super) fn take(&mut self, ticket: Ticket) -> bool {
        !self.running.is_empty() && self.running.remove(&ticket)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        if !self.running.is_empty() {
            self.breakers.on_probes_of_no_use(self.running.len(), Instant::now());
        }
    }
}
