//! What is told of the lane that holds a partition up, while it does.
//!
//! A lane that is slow or closed keeps its events in the window W and in the budget. When those are
//! full of events that wait for lanes, nothing comes in any more, of other lanes neither. That is told
//! once when it begins, with the lane of the oldest unsettled event, and once when it is over: when
//! half of what waited has gone, or the partition ends.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::{ConsumerGroup, Partition};
use crate::lanes::{HoldingLane, Lane};
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

    /// So many events wait for lanes.
    pub(super) fn on_waiting(&mut self, events: usize) {
        if std::mem::replace(&mut self.waiting_shown, events) != events {
            self.gauges.show_waiting(events);
        }
    }

    /// Whether a lane holds the partition up.
    pub(super) fn is_on(&self) -> bool {
        self.episode.is_some()
    }

    /// Whether that is over, with so many events that wait now.
    pub(super) fn is_over(&self, waiting: usize) -> bool {
        self.episode.as_ref().is_some_and(|episode| waiting <= episode.waited / 2)
    }

    /// It begins, with so many events that wait for lanes.
    pub(super) fn begin(&mut self, lane: Lane, waited: usize, now: Instant) {
        self.gauges.begin_holding(&lane);
        self.episode = Some(Episode { lane, begun: now, waited });
    }

    /// The lane that holds the watermark back now: it may be another one than at first.
    pub(super) fn show(&self, lane: &HoldingLane) {
        self.gauges.show_holding(lane.waiting_events);
    }

    /// It is over: which lane it began with, and how long it took.
    pub(super) fn end(&mut self, now: Instant) -> Option<(Lane, Duration)> {
        self.gauges.end_holding();
        let Episode { lane, begun, .. } = self.episode.take()?;
        Some((lane, now.saturating_duration_since(begun)))
    }
}
