//! Destinations that have failed for so long that their events are parked.
//!
//! A lane whose breaker stays open would fill the window with its events, and the watermark would wait for
//! them. So they are parked, due at once, and one of them at a time comes back to try the destination; when
//! it works again, all of them do.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tracing::{info, warn};

use super::PartitionWorker;
use super::parking::{ParkingOrder, tag};
use crate::consumer::shared::Shared;
use crate::lanes::Lane;
use crate::outcome::Failure;

/// How often it is looked which lanes are so.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Events of such a lane that stay: one of them tries the destination.
const KEPT: usize = 1;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct DeadLanes {
    lanes: BTreeSet<Lane>,
    next_look: Instant,
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

    /// Whether a lane is one of them.
    pub(super) fn contains(&self, lane: &Lane) -> bool {
        self.lanes.contains(lane)
    }
}

impl PartitionWorker {
    /// Looks which lanes have failed for long, and parks what waits for them.
    pub(super) fn park_dead_lanes(&mut self, now: Instant) {
        if self.dead_lanes.next_look(&self.shared).is_none_or(|next| next > now) {
            return;
        }
        self.dead_lanes.next_look = now + LOOK_EVERY;
        let open = self.shared.breakers.lanes_open_for(self.shared.options.park_after, now);
        let open: BTreeSet<Lane> = open.into_iter().collect();
        let before = std::mem::replace(&mut self.dead_lanes.lanes, open.clone());
        for lane in before.symmetric_difference(&open) {
            let is_dead = open.contains(lane);
            if let Some(parking) = &mut self.parking {
                parking.state.set_dead(tag(lane), is_dead);
            }
            self.log_dead(lane, is_dead);
        }
        for lane in &open {
            self.park_waiting(lane, now);
        }
    }

    fn park_waiting(&mut self, lane: &Lane, now: Instant) {
        let waiting = self.waiting.take_behind(lane, KEPT, now.into_std());
        for tracked in waiting {
            if !self.may_park(&tracked) {
                // It waits on, as it would without a store.
                let bytes = tracked.event.budget_bytes();
                self.waiting.on_retry(tracked, bytes, now.into_std());
                continue;
            }
            let failure = Failure::transient(format!("{lane} fails, and has for long"));
            let due = self.shared.clock.now();
            let order = ParkingOrder { failure, due, is_attempt: false, is_step: false };
            self.park(tracked, order, now);
        }
    }

    fn log_dead(&self, lane: &Lane, is_dead: bool) {
        let (topic, partition) = (&self.partition.entity, &self.partition.id);
        let group = &self.key.scope.consumer_group;
        if is_dead {
            warn!(
                message_topic = %topic,
                message_partition = %partition,
                message_consumer_group = %group,
                lane = %lane,
                "a lane has failed for {:?}: its events are parked", self.shared.options.park_after
            );
        } else {
            info!(
                message_topic = %topic,
                message_partition = %partition,
                message_consumer_group = %group,
                lane = %lane,
                "the lane works again: its events come back"
            );
        }
    }
}
