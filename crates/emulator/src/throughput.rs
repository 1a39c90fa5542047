//! Throughput units: how much a broker takes in before it says that it is busy.
//!
//! A bucket for bytes and one for events, each filled continuously and holding what one second
//! gives. What does not fit is refused whole. No clock: times come in.

use std::time::Instant;

use super::refusal::{Refusal, SERVER_BUSY};

/// What one throughput unit takes in a second, as in the service.
pub(super) const BYTES_PER_UNIT: f64 = 1024.0 * 1024.0;
pub(super) const EVENTS_PER_UNIT: f64 = 1000.0;
/// A namespace may have at most this many, as in the service.
pub(super) const MAX_UNITS: u32 = 40;

/// The text that the service sends.
const BUSY: &str = "The request was terminated because the namespace is being throttled. \
                    Error code: 50002. Please wait 4 seconds and try again.";

pub(super) fn busy() -> Refusal {
    Refusal::new(SERVER_BUSY, BUSY)
}

/// What may come in now.
#[derive(Debug)]
pub(super) struct Ingress {
    units: f64,
    bytes: f64,
    events: f64,
    filled_at: Instant,
}

impl Ingress {
    pub(super) fn new(units: u32, now: Instant) -> Self {
        let units = f64::from(units);
        Self {
            units,
            bytes: units * BYTES_PER_UNIT,
            events: units * EVENTS_PER_UNIT,
            filled_at: now,
        }
    }

    /// Takes a publication in, or refuses it.
    pub(super) fn take(
        &mut self,
        bytes: usize,
        events: usize,
        now: Instant,
    ) -> Result<(), Refusal> {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.filled_at = self.filled_at.max(now);
        let fill = |has: f64, per_unit: f64| {
            let each_second = self.units * per_unit;
            (has + passed * each_second).min(each_second)
        };
        self.bytes = fill(self.bytes, BYTES_PER_UNIT);
        self.events = fill(self.events, EVENTS_PER_UNIT);
        let (bytes, events) = (bytes as f64, events as f64);
        // One that is larger than a second's worth gets through when nothing else does.
        let full = self.bytes >= self.units * BYTES_PER_UNIT
            && self.events >= self.units * EVENTS_PER_UNIT;
        if !full && (self.bytes < bytes || self.events < events) {
            return Err(busy());
        }
        self.bytes -= bytes;
        self.events -= events;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_unit_takes_a_thousand_events_and_a_mebibyte_a_second() {
        let start = Instant::now();
        let mut ingress = Ingress::new(1, start);
        for _ in 0..1000 {
            ingress.take(10, 1, start).unwrap();
        }
        assert_eq!(ingress.take(10, 1, start).unwrap_err().condition, SERVER_BUSY);
        let later = start + Duration::from_millis(500);
        ingress.take(10, 500, later).unwrap();
        assert!(ingress.take(10, 1, later).is_err());
        // A long rest gives a second's worth, not more.
        let rested = start + Duration::from_secs(60);
        ingress.take(1024 * 1024, 1, rested).unwrap();
        assert!(ingress.take(1, 1, rested).is_err());
        ingress.take(1024 * 1024, 1, rested + Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn what_is_larger_than_a_second_gets_through_after_a_rest() {
        let start = Instant::now();
        let mut ingress = Ingress::new(1, start);
        ingress.take(100, 3000, start).unwrap();
        assert!(ingress.take(1, 1, start + Duration::from_millis(2000)).is_err());
        ingress.take(1, 1, start + Duration::from_millis(2005)).unwrap();
    }
}
