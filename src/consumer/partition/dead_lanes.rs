//! Destinations that have failed for so long that their events are parked.
//!
//! A lane whose breaker stays open would fill the window with its events, and the watermark would wait for
//! them. So they are parked, due at once, and one of them at a time comes back to try the destination; when
//! it works again, all of them do.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::consumer::shared::Shared;
use crate::lanes::Lane;

/// How often it is looked which lanes are so.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct DeadLanes {
    lanes: BTreeSet<Lane>,
    next_look: Instant,
}

/// Which lanes were so, and which are.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) before: BTreeSet<Lane>,
    pub(super) after: BTreeSet<Lane>,
}

impl DeadLanes {
    pub(super) fn new(now: Instant) -> Self {
        Self { lanes: BTreeSet::new(), next_look: now }
    }

    /// When it is looked next, where there may be any.
    pub(super) fn next_look(&self, shared: &Shared) -> Option<Instant> {
        let is_limited = shared.lanes.as_ref().is_some_and(|lanes| !lanes.rule().is_ordered());
        (is_limited && shared.breakers.is_watching()).then_some(self.next_look)
    }

    /// These are so from now on. Returns those that were, where a look was due.
    pub(super) fn look(
        &mut self,
        open: impl FnOnce() -> BTreeSet<Lane>,
        now: Instant,
    ) -> Option<Look> {
        if self.next_look > now {
            return None;
        }
        self.next_look = now + LOOK_EVERY;
        let after = open();
        let before = std::mem::replace(&mut self.lanes, after.clone());
        Some(Look { before, after })
    }

    /// Whether a lane is one of them.
    pub(super) fn contains(&self, lane: &Lane) -> bool {
        self.lanes.contains(lane)
    }
}
