//! Looks which lane holds the partition up.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::PartitionWorker;
use super::holding::Holding;
use crate::lanes::{HoldingLane, LaneHold};

impl PartitionWorker {
    /// Looks whether a lane holds the partition up. `starved`: the budget lets nothing in.
    pub(super) fn watch_lanes(&mut self, starved: bool, now: Instant) {
        let Some(mut holding) = self.holding.take() else { return };
        let waiting = self.waiting.lanes().map_or(0, |lanes| lanes.blocked_events());
        holding.on_waiting(waiting);
        let is_full =
            starved || self.watermark.window_events() >= self.shared.options.window_events;
        if holding.is_on() {
            if holding.is_over(waiting) || !self.tenure.is_running() {
                self.on_released(&mut holding, now);
            }
        } else if is_full && self.tenure.is_running() {
            self.on_full(&mut holding, waiting, now);
        }
        if holding.is_on()
            && let Some(lane) = self.holding_lane(now)
        {
            holding.show(&lane);
            self.status.set_holding_lane(Some(lane));
        }
        self.holding = Some(holding);
    }

    /// The lane of the oldest unsettled event, where all that waits waits for lanes.
    fn holding_lane(&mut self, now: Instant) -> Option<HoldingLane> {
        let oldest = self.watermark.oldest_unsettled()?;
        self.waiting.lanes()?.holding(oldest, now.into_std())
    }

    fn on_full(&mut self, holding: &mut Holding, waited: usize, now: Instant) {
        let Some(HoldingLane { lane, waiting_events, hold }) = self.holding_lane(now) else {
            return;
        };
        let closed_for = match hold {
            LaneHold::Full => Duration::ZERO,
            LaneHold::ClosedFor(time) => time,
        };
        warn!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_consumer_group = %self.key.scope.consumer_group,
            lane = %lane,
            waiting_events,
            closed_for_ms = closed_for.as_millis(),
            waiting_in_all_lanes = waited,
            unsettled = self.watermark.unsettled_events(),
            "a lane holds the partition up: nothing more comes in before it goes on"
        );
        holding.begin(lane, waited, now);
    }

    fn on_released(&self, holding: &mut Holding, now: Instant) {
        self.status.set_holding_lane(None);
        if let Some((lane, time)) = holding.end(now) {
            info!(
                message_topic = %self.partition.entity,
                message_partition = %self.partition.id,
                message_consumer_group = %self.key.scope.consumer_group,
                lane = %lane,
                held_for_ms = time.as_millis(),
                "a lane holds the partition up no more"
            );
        }
    }
}
