//! Events of one partition become batches: full by count, full by bytes, or old enough.
//!
//! Invariants: batches come out in the order events went in (a retried event goes in at the
//! front); no batch is empty, has more than `max_events`, or more than `max_bytes` unless a
//! single event alone is larger; no event waits longer than `timeout` for its batch to be
//! ready. A batch that is ready may wait outside, for a slot.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Why a batch was handed out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FlushReason {
    /// It holds `max_events`.
    Size,
    /// The next event would take it past `max_bytes`, or it is there.
    Bytes,
    /// Its oldest event waited for the timeout.
    Timeout,
    /// The consumer stops or gives the partition away.
    Drain,
    /// The byte budget is short.
    Pressure,
    /// It is a part of a batch that failed whole.
    Bisection,
    /// It is a single event that tries a destination which fails.
    Probe,
}

impl FlushReason {
    /// The reason as one lower-case word, as metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            FlushReason::Size => "size",
            FlushReason::Bytes => "bytes",
            FlushReason::Timeout => "timeout",
            FlushReason::Drain => "drain",
            FlushReason::Pressure => "pressure",
            FlushReason::Bisection => "bisection",
            FlushReason::Probe => "probe",
        }
    }
}

/// When a batch is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchLimits {
    /// Most events in a batch; at least 1.
    pub max_events: usize,
    /// Most bytes in a batch; a larger event travels alone.
    pub max_bytes: usize,
    /// Longest wait of an event for its batch to be ready.
    pub timeout: Duration,
}

/// A batch that was handed out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken<T> {
    /// Its events, in order; never none.
    pub items: Vec<T>,
    /// Their bytes.
    pub bytes: usize,
    /// Why it was handed out.
    pub reason: FlushReason,
}

/// The first events of a buffer: those that its next batch has.
#[derive(Clone, Copy, Debug, Default)]
struct Front {
    events: usize,
    bytes: usize,
    /// Whether the event after them would be too much.
    closed: bool,
}

impl Front {
    fn add(&mut self, bytes: usize, limits: &BatchLimits) {
        self.closed = self.closed
            || self.events == limits.max_events
            || (self.events > 0 && self.bytes + bytes > limits.max_bytes);
        if !self.closed {
            self.events += 1;
            self.bytes += bytes;
        }
    }
}

/// What waits to become a batch.
#[derive(Debug)]
pub struct BatchBuffer<T> {
    limits: BatchLimits,
    items: VecDeque<T>,
    /// The bytes of each, apart: what is small and has no owner is cheap to move.
    bytes: VecDeque<usize>,
    /// The batch at the front, as far as it has come.
    front: Front,
    /// Since when they wait: so many from the front on since a time, the next since another.
    since: VecDeque<(Instant, usize)>,
}

impl<T> BatchBuffer<T> {
    /// An empty buffer.
    pub fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            items: VecDeque::new(),
            bytes: VecDeque::new(),
            front: Front::default(),
            since: VecDeque::new(),
        }
    }

    /// Adds an event at the end.
    #[inline]
    pub fn on_event(&mut self, item: T, bytes: usize, now: Instant) {
        self.front.add(bytes, &self.limits);
        self.items.push_back(item);
        self.bytes.push_back(bytes);
        match self.since.back_mut() {
            Some((since, count)) if *since == now => *count += 1,
            _ => self.since.push_back((now, 1)),
        }
    }

    /// Adds an event at the front: it was here before.
    pub fn on_retry(&mut self, item: T, bytes: usize, now: Instant) {
        self.items.push_front(item);
        self.bytes.push_front(bytes);
        self.front = self.measure_front();
        match self.since.front_mut() {
            // Never younger than the one behind it, so that the front carries the deadline.
            Some((since, count)) if *since <= now => *count += 1,
            _ => self.since.push_front((now, 1)),
        }
    }

    /// When the oldest event has waited long enough.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (since, _) = self.since.front()?;
        Some(*since + self.limits.timeout)
    }

    /// Why a batch is ready at `now`, if one is.
    pub fn ready(&self, now: Instant) -> Option<FlushReason> {
        if self.front.events >= self.limits.max_events {
            return Some(FlushReason::Size);
        }
        if self.front.closed || self.front.bytes >= self.limits.max_bytes {
            return Some(FlushReason::Bytes);
        }
        (self.next_deadline()? <= now).then_some(FlushReason::Timeout)
    }

    /// Takes the batch that is ready at `now`, if one is.
    pub fn take_ready(&mut self, now: Instant) -> Option<Taken<T>> {
        let reason = self.ready(now)?;
        Some(self.take_front(reason))
    }

    /// Takes the next batch for a reason of the caller's, whether it is ready or not; `None`
    /// when nothing waits.
    pub fn take_any(&mut self, reason: FlushReason) -> Option<Taken<T>> {
        (!self.items.is_empty()).then(|| self.take_front(reason))
    }

    /// Takes the first event by itself; `None` when nothing waits.
    pub fn take_first(&mut self, reason: FlushReason) -> Option<Taken<T>> {
        let bytes = *self.bytes.front()?;
        self.front = Front { events: 1, bytes, closed: false };
        Some(self.take_front(reason))
    }

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Empties the buffer, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.front = Front::default();
        self.since.clear();
        self.bytes.clear();
        self.items.drain(..)
    }

    fn measure_front(&self) -> Front {
        let mut front = Front::default();
        for bytes in &self.bytes {
            front.add(*bytes, &self.limits);
            if front.closed {
                break;
            }
        }
        front
    }

    fn take_front(&mut self, reason: FlushReason) -> Taken<T> {
        let Front { events: count, bytes, .. } = self.front;
        let mut taken = count;
        while let Some((_, waiting)) = self.since.front_mut() {
            if *waiting > taken {
                *waiting -= taken;
                break;
            }
            taken -= *waiting;
            self.since.pop_front();
        }
        let items = self.items.drain(..count).collect();
        self.bytes.drain(..count);
        self.front = self.measure_front();
        Taken { items, bytes, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Event { bytes: usize },
        Retry { bytes: usize },
        Wait { millis: u64 },
        TakeReady,
        TakeAny,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0usize..60).prop_map(|bytes| Step::Event { bytes }),
            1 => (0usize..60).prop_map(|bytes| Step::Retry { bytes }),
            2 => (0u64..40).prop_map(|millis| Step::Wait { millis }),
            3 => Just(Step::TakeReady),
            1 => Just(Step::TakeAny),
        ]
    }

    /// The same rules over a plain list, scanned from the start each time.
    struct Naive {
        limits: BatchLimits,
        list: Vec<(u32, usize, Instant)>,
    }

    impl Naive {
        fn front(&self) -> Vec<(u32, usize, Instant)> {
            let mut batch: Vec<(u32, usize, Instant)> = Vec::new();
            for entry in &self.list {
                let bytes: usize = batch.iter().map(|one| one.1).sum();
                if batch.len() == self.limits.max_events
                    || (!batch.is_empty() && bytes + entry.1 > self.limits.max_bytes)
                {
                    break;
                }
                batch.push(*entry);
            }
            batch
        }

        fn ready(&self, now: Instant) -> Option<FlushReason> {
            let front = self.front();
            let bytes: usize = front.iter().map(|one| one.1).sum();
            let oldest = self.list.iter().map(|one| one.2).min()?;
            if front.len() == self.limits.max_events {
                Some(FlushReason::Size)
            } else if front.len() < self.list.len() || bytes >= self.limits.max_bytes {
                Some(FlushReason::Bytes)
            } else if now.duration_since(oldest) >= self.limits.timeout {
                Some(FlushReason::Timeout)
            } else {
                None
            }
        }

        fn take(&mut self, reason: FlushReason) -> Taken<u32> {
            let front = self.front();
            self.list.drain(..front.len());
            let bytes = front.iter().map(|one| one.1).sum();
            Taken { items: front.into_iter().map(|one| one.0).collect(), bytes, reason }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn agrees_with_a_plain_list(
            max_events in 1usize..6,
            max_bytes in 1usize..120,
            steps in prop::collection::vec(step(), 0..40),
        ) {
            let limits = BatchLimits { max_events, max_bytes, timeout: Duration::from_millis(50) };
            let mut buffer = BatchBuffer::new(limits);
            let mut naive = Naive { limits, list: Vec::new() };
            let mut now = Instant::now();
            let mut id = 0;
            for step in steps {
                match step {
                    Step::Event { bytes } => {
                        buffer.on_event(id, bytes, now);
                        naive.list.push((id, bytes, now));
                        id += 1;
                    }
                    Step::Retry { bytes } => {
                        buffer.on_retry(id, bytes, now);
                        naive.list.insert(0, (id, bytes, now));
                        id += 1;
                    }
                    Step::Wait { millis } => now += Duration::from_millis(millis),
                    Step::TakeReady => {
                        let expected = naive.ready(now).map(|reason| naive.take(reason));
                        prop_assert_eq!(buffer.take_ready(now), expected);
                    }
                    Step::TakeAny => {
                        let reason = FlushReason::Pressure;
                        let expected = (!naive.list.is_empty()).then(|| naive.take(reason));
                        prop_assert_eq!(buffer.take_any(reason), expected);
                    }
                }
                prop_assert_eq!(buffer.len(), naive.list.len());
                prop_assert_eq!(buffer.ready(now), naive.ready(now));
                let oldest = naive.list.iter().map(|one| one.2).min();
                prop_assert_eq!(buffer.next_deadline(), oldest.map(|since| since + limits.timeout));
            }
        }
    }

    #[test]
    fn an_event_larger_than_the_limit_travels_alone() {
        let limits =
            BatchLimits { max_events: 10, max_bytes: 100, timeout: Duration::from_secs(1) };
        let now = Instant::now();
        let mut buffer = BatchBuffer::new(limits);
        buffer.on_event("small", 10, now);
        buffer.on_event("huge", 1_000, now);
        buffer.on_event("last", 10, now);
        let reason = FlushReason::Bytes;
        let mut take = || buffer.take_ready(now);
        assert_eq!(take(), Some(Taken { items: vec!["small"], bytes: 10, reason }));
        assert_eq!(take(), Some(Taken { items: vec!["huge"], bytes: 1_000, reason }));
        assert_eq!(buffer.take_ready(now), None);
    }
}
