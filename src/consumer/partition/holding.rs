//! Says which lane holds a partition up, while it does.
//!
//! A lane that is slow or closed keeps its events in the window W and in the budget. When those are
//! full of events that wait for lanes, nothing comes in any more, of other lanes neither. That is told
//! once when it begins, with the lane of the oldest unsettled event, and once when it is over: when
//! half of what waited has gone, or the partition ends.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::PartitionWorker;
use crate::event::{ConsumerGroup, Partition};
use crate::lanes::{HoldingLane, Lane, LaneHold};
use crate::telemetry::metrics::LaneGauges;

/// What is told of a partition's lanes.
#[derive(Debug)]
pub(super) struct Holding {
    gauges: LaneGauges,
    waiting_shown: usize,
    episode: Option<Episode>,
}

#[derive(Debug)]
struct Episode {
    lane: Lane,
    begun: Instant,
    /// Events that waited for lanes when it began.
    waited: usize,
}

impl Holding {
    pub(super) fn new(partition: &Partition, group: &ConsumerGroup) -> Self {
        Self { gauges: LaneGauges::new(partition, group), waiting_shown: 0, episode: None }
    }
}

impl PartitionWorker {
    /// Looks whether a lane holds the partition up. `starved`: the budget lets nothing in.
    pub(super) fn watch_lanes(&mut self, starved: bool, now: Instant) {
        let Some(mut holding) = self.holding.take() else { return };
        let waiting = self.waiting.lanes().map_or(0, |lanes| lanes.blocked_events());
        if std::mem::replace(&mut holding.waiting_shown, waiting) != waiting {
            holding.gauges.show_waiting(waiting);
        }
        let is_full =
            starved || self.watermark.window_events() >= self.shared.options.window_events;
        match &holding.episode {
            Some(episode) if waiting <= episode.waited / 2 || !self.tenure.is_running() => {
                self.on_released(&mut holding, now);
            }
            Some(_) => {}
            None if is_full && self.tenure.is_running() => {
                self.on_full(&mut holding, waiting, now);
            }
            None => {}
        }
        self.show_holding(&holding, now);
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
        holding.gauges.begin_holding(&lane);
        holding.episode = Some(Episode { lane, begun: now, waited });
    }

    fn on_released(&self, holding: &mut Holding, now: Instant) {
        holding.gauges.end_holding();
        self.status.set_holding_lane(None);
        if let Some(Episode { lane, begun, .. }) = holding.episode.take() {
            info!(
                message_topic = %self.partition.entity,
                message_partition = %self.partition.id,
                message_consumer_group = %self.key.scope.consumer_group,
                lane = %lane,
                held_for_ms = now.saturating_duration_since(begun).as_millis(),
                "a lane holds the partition up no more"
            );
        }
    }

    /// Tells how much waits for the lane that holds the watermark back now: it may be another one than
    /// at first.
    fn show_holding(&mut self, holding: &Holding, now: Instant) {
        if holding.episode.is_none() {
            return;
        }
        if let Some(lane) = self.holding_lane(now) {
            holding.gauges.show_holding(lane.waiting_events);
            self.status.set_holding_lane(Some(lane));
        }
    }
}
