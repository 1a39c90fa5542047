//! What a turn of the worker's loop did: told once, to counters, metrics and snapshots.

use std::time::SystemTime;

use super::PartitionWorker;
use super::parking::Parking;
use crate::consumer::status::Progress;
use crate::transport::partition_stream::PartitionStream;

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
        let parked = self.parking.as_ref().map_or(0, |parking| parking.state.len());
        let parked_due = self.parking.as_mut().map_or(0, Parking::due_events);
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

/// Seconds from `then` to `now`; 0 where a clock went back.
fn age(then: SystemTime, now: SystemTime) -> f64 {
    now.duration_since(then).unwrap_or_default().as_secs_f64()
}
