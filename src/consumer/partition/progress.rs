//! What a turn of the worker's loop did: told once, to counters, metrics and snapshots.

use std::time::SystemTime;

use super::PartitionWorker;
use crate::consumer::status::Progress;
use crate::transport::partition_stream::PartitionStream;

/// Most events that are counted as due.
const MOST_DUE: usize = 10_000;

impl PartitionWorker {
    /// Tells what happened since the last call, once for all events of a turn of the loop.
    pub(super) fn publish_progress(&mut self) {
        self.shared.counters.done.add(std::mem::take(&mut self.tally.done));
        if !self.tally.settled.is_empty() {
            let now = self.shared.clock.now();
            for oldest in self.tally.settled.drain(..) {
                self.shared.timings.latency_seconds.record(age(oldest, now));
            }
        }
        let (parked, parked_due) = self.parked_events();
        let oldest_unsettled = self.watermark.oldest_unsettled();
        self.status.on_progress(Progress {
            settled_to: self.watermark.settled_to().map(|position| position.sequence_number),
            last_received: self.watermark.last_received(),
            received_time: self.ages.newest(),
            unsettled: self.watermark.unsettled_events(),
            oldest_unsettled: oldest_unsettled.and_then(|oldest| self.ages.enqueued(oldest)),
            in_flight: self.running.len(),
            settled_above: self.watermark.settled_above_events(),
            event_bytes: self.event_bytes,
            lane_waiting: self.waiting.lanes().map_or(0, |lanes| lanes.blocked_events()),
            parked,
            parked_due,
            link_bytes: self.stream.as_ref().map_or(0, PartitionStream::link_holds_bytes),
        });
    }
}

impl PartitionWorker {
    /// Events that are parked, and those of them that wait though they are due.
    fn parked_events(&self) -> (usize, usize) {
        let Some(parking) = self.parking.as_ref().filter(|parking| !parking.state.is_empty())
        else {
            return (0, 0);
        };
        let due = parking.state.due_events(self.shared.clock.now(), MOST_DUE);
        (parking.state.len(), due)
    }
}

/// Seconds from `then` to `now`; 0 where a clock went back.
fn age(then: SystemTime, now: SystemTime) -> f64 {
    now.duration_since(then).unwrap_or_default().as_secs_f64()
}
