//! What a turn of the worker's loop did: told once, to counters, metrics and snapshots.

use std::time::SystemTime;

use super::PartitionWorker;
use crate::consumer::status::Progress;

impl PartitionWorker {
    /// Tells what happened since the last call, once for all events of a turn of the loop.
    pub(super) fn publish_progress(&mut self) {
        let running = self.running.len();
        if running != self.tally.running {
            self.shared.timings.in_flight.increment(running as f64 - self.tally.running as f64);
            self.tally.running = running;
        }
        self.shared.counters.done.add(std::mem::take(&mut self.tally.done));
        if !self.tally.settled.is_empty() {
            let now = self.shared.clock.now();
            for (oldest, newest) in self.tally.settled.drain(..) {
                self.shared.timings.latency_seconds.record(age(oldest, now));
                self.tally.newest = self.tally.newest.max(Some(newest));
            }
            if let Some(newest) = self.tally.newest.take() {
                self.status.metrics.lag_seconds.set(age(newest, now));
            }
        }
        self.status.on_progress(&Progress {
            settled_to: self.watermark.settled_to().map(|position| position.sequence_number),
            last_received: self.watermark.last_received(),
            unsettled: self.watermark.unsettled_events(),
            in_flight: self.running.len(),
            settled_above: self.watermark.settled_above_events(),
        });
    }
}

/// Seconds from `then` to `now`; 0 where a clock went back.
fn age(then: SystemTime, now: SystemTime) -> f64 {
    now.duration_since(then).unwrap_or_default().as_secs_f64()
}
