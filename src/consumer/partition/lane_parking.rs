//! Parks what waits for destinations that have failed for long.

use tokio::time::Instant;
use tracing::{info, warn};

use super::PartitionWorker;
use super::dead_lanes::Look;
use super::parking::{ParkingOrder, tag};
use crate::lanes::Lane;
use crate::outcome::Failure;

/// Events of such a lane that stay: one of them tries the destination.
const KEPT: usize = 1;

impl PartitionWorker {
    /// Looks which lanes have failed for long, and parks what waits for them.
    pub(super) fn park_dead_lanes(&mut self, now: Instant) {
        if self.dead_lanes.next_look(&self.shared).is_none() {
            return;
        }
        let (breakers, time) = (&self.shared.breakers, self.shared.options.park_after);
        let open = || breakers.lanes_open_for(time, now).into_iter().collect();
        let Some(Look { before, after: open }) = self.dead_lanes.look(open, now) else { return };
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
