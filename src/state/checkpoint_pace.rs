//! When to write a partition's checkpoint: after a batch finished, never two at once, never
//! more often than the minimum interval, and not at all where nothing moved.
//!
//! Events that are handled one by one have no batch to finish; for them a checkpoint is due
//! when as many events as a batch holds have settled, or a batch's timeout after the first.
//!
//! States: clean (all that settled is stored) -> dirty (a write becomes due) -> writing ->
//! clean, or dirty again when more settled meanwhile or the write failed.

use std::time::{Duration, Instant};

/// The rules of a [`CheckpointPace`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PaceLimits {
    /// Settled events that make a write due at once.
    pub batch_events: usize,
    /// How long a settled event waits for the write to become due.
    pub batch_timeout: Duration,
    /// Shortest time from the start of one write to the start of the next.
    pub min_interval: Duration,
}

/// The pace of one partition's checkpoint writes.
#[derive(Debug)]
pub struct CheckpointPace {
    limits: PaceLimits,
    state: State,
    last_start: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Clean,
    Dirty { events: usize, due: Instant },
    Writing { since: Option<Dirtied> },
}

/// What settled while a write was under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Dirtied {
    events: usize,
    due: Instant,
}

impl CheckpointPace {
    /// Clean.
    pub fn new(limits: PaceLimits) -> Self {
        Self { limits, state: State::Clean, last_start: None }
    }

    /// Events settled.
    pub fn on_settled(&mut self, events: usize, now: Instant) {
        let (before, due) = match self.state {
            State::Clean | State::Writing { since: None } => (0, now + self.limits.batch_timeout),
            State::Dirty { events, due }
            | State::Writing { since: Some(Dirtied { events, due }) } => (events, due),
        };
        let events = before + events;
        let due = if events >= self.limits.batch_events { due.min(now) } else { due };
        self.set_dirty(events, due);
    }

    /// A batch finished: what settled is due now.
    pub fn on_batch_finished(&mut self, now: Instant) {
        match self.state {
            State::Dirty { events, due } => self.set_dirty(events, due.min(now)),
            State::Writing { since: Some(Dirtied { events, due }) } => {
                self.set_dirty(events, due.min(now))
            }
            State::Clean | State::Writing { since: None } => {}
        }
    }

    /// When the next write is due; `None` while one is under way or nothing is to write.
    pub fn next_deadline(&self) -> Option<Instant> {
        let State::Dirty { due, .. } = self.state else {
            return None;
        };
        let earliest = self.last_start.map(|start| start + self.limits.min_interval);
        Some(earliest.map_or(due, |earliest| due.max(earliest)))
    }

    /// Begins the write that is due, if one is.
    pub fn take_due(&mut self, now: Instant) -> bool {
        self.next_deadline().is_some_and(|due| due <= now) && self.take_any(now)
    }

    /// Begins a write if anything is to write, due or not: the last one of a drain.
    pub fn take_any(&mut self, now: Instant) -> bool {
        let dirty = matches!(self.state, State::Dirty { .. });
        if dirty {
            self.state = State::Writing { since: None };
            self.last_start = Some(now);
        }
        dirty
    }

    /// The write under way is acknowledged.
    pub fn on_written(&mut self) {
        if let State::Writing { since } = self.state {
            self.state =
                since.map_or(State::Clean, |Dirtied { events, due }| State::Dirty { events, due });
        }
    }

    /// The write under way failed: try again after `delay`.
    pub fn on_failed(&mut self, now: Instant, delay: Duration) {
        if let State::Writing { since } = self.state {
            self.state =
                State::Dirty { events: since.map_or(0, |since| since.events), due: now + delay };
        }
    }

    /// Whether a write is under way.
    pub fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing { .. })
    }

    /// Whether all that settled is stored.
    pub fn is_clean(&self) -> bool {
        matches!(self.state, State::Clean)
    }

    fn set_dirty(&mut self, events: usize, due: Instant) {
        self.state = match self.state {
            State::Writing { .. } => State::Writing { since: Some(Dirtied { events, due }) },
            State::Clean | State::Dirty { .. } => State::Dirty { events, due },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PaceLimits = PaceLimits {
        batch_events: 3,
        batch_timeout: Duration::from_millis(100),
        min_interval: Duration::from_millis(50),
    };

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn nothing_is_written_where_nothing_settled() {
        let start = Instant::now();
        let mut pace = CheckpointPace::new(LIMITS);
        pace.on_batch_finished(start);
        assert_eq!(pace.next_deadline(), None);
        assert!(!pace.take_any(start));
    }

    #[test]
    fn a_settled_event_waits_for_a_batch_of_others_or_the_timeout() {
        let start = Instant::now();
        let mut pace = CheckpointPace::new(LIMITS);
        pace.on_settled(1, start);
        assert_eq!(pace.next_deadline(), Some(at(start, 100)));
        pace.on_settled(2, at(start, 10));
        assert_eq!(pace.next_deadline(), Some(at(start, 10)));
    }

    #[test]
    fn writes_never_overlap_and_keep_their_distance() {
        let start = Instant::now();
        let mut pace = CheckpointPace::new(LIMITS);
        pace.on_settled(3, start);
        assert!(pace.take_due(start));
        pace.on_settled(3, at(start, 1));
        assert!(!pace.take_due(at(start, 1)), "one is under way");
        pace.on_written();
        assert!(!pace.take_due(at(start, 49)), "too soon after the last");
        assert!(pace.take_due(at(start, 50)));
        pace.on_written();
        assert!(pace.is_clean());
    }

    #[test]
    fn a_failed_write_is_tried_again_after_its_delay() {
        let start = Instant::now();
        let mut pace = CheckpointPace::new(LIMITS);
        pace.on_settled(3, start);
        assert!(pace.take_due(start));
        pace.on_failed(at(start, 60), Duration::from_millis(40));
        assert_eq!(pace.next_deadline(), Some(at(start, 100)));
        assert!(pace.take_due(at(start, 100)));
    }
}
