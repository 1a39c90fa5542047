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

/// What waits to become a batch.
#[derive(Debug)]
pub struct BatchBuffer<T> {
    limits: BatchLimits,
    waiting: VecDeque<Waiting<T>>,
    bytes: usize,
    /// Since when they wait: so many from the front on since a time, the next since another.
    since: VecDeque<(Instant, usize)>,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    bytes: usize,
}

impl<T> BatchBuffer<T> {
    /// An empty buffer.
    pub fn new(limits: BatchLimits) -> Self {
        Self { limits, waiting: VecDeque::new(), bytes: 0, since: VecDeque::new() }
    }

    /// Adds an event at the end.
    pub fn on_event(&mut self, item: T, bytes: usize, now: Instant) {
        self.bytes += bytes;
        self.waiting.push_back(Waiting { item, bytes });
        match self.since.back_mut() {
            Some((since, count)) if *since == now => *count += 1,
            _ => self.since.push_back((now, 1)),
        }
    }

    /// Adds an event at the front: it was here before.
    pub fn on_retry(&mut self, item: T, bytes: usize, now: Instant) {
        self.bytes += bytes;
        self.waiting.push_front(Waiting { item, bytes });
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
        if self.bytes >= self.limits.max_bytes {
            let (count, bytes) = self.extent();
            if count == self.limits.max_events {
                return Some(FlushReason::Size);
            }
            if count < self.waiting.len() || bytes >= self.limits.max_bytes {
                return Some(FlushReason::Bytes);
            }
        } else if self.waiting.len() >= self.limits.max_events {
            return Some(FlushReason::Size);
        }
        (self.next_deadline()? <= now).then_some(FlushReason::Timeout)
    }

    /// Takes the batch that is ready at `now`, if one is.
    pub fn take_ready(&mut self, now: Instant) -> Option<(Vec<T>, FlushReason)> {
        let reason = self.ready(now)?;
        Some((self.take_front(), reason))
    }

    /// Takes the next batch whether it is ready or not; `None` when nothing waits.
    pub fn take_any(&mut self) -> Option<Vec<T>> {
        (!self.waiting.is_empty()).then(|| self.take_front())
    }

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Empties the buffer, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.bytes = 0;
        self.since.clear();
        self.waiting.drain(..).map(|waiting| waiting.item)
    }

    /// How many events the front batch has, and their bytes.
    fn extent(&self) -> (usize, usize) {
        if self.bytes <= self.limits.max_bytes && self.waiting.len() <= self.limits.max_events {
            return (self.waiting.len(), self.bytes);
        }
        let mut bytes = 0;
        let mut count = 0;
        for waiting in self.waiting.iter().take(self.limits.max_events) {
            if count > 0 && bytes + waiting.bytes > self.limits.max_bytes {
                break;
            }
            bytes += waiting.bytes;
            count += 1;
        }
        (count, bytes)
    }

    fn take_front(&mut self) -> Vec<T> {
        let (count, bytes) = self.extent();
        self.bytes -= bytes;
        let mut taken = count;
        while let Some((_, waiting)) = self.since.front_mut() {
            if *waiting > taken {
                *waiting -= taken;
                break;
            }
            taken -= *waiting;
            self.since.pop_front();
        }
        self.waiting.drain(..count).map(|waiting| waiting.item).collect()
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

        fn take(&mut self) -> Vec<u32> {
            let front = self.front();
            self.list.drain(..front.len());
            front.into_iter().map(|one| one.0).collect()
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
                        let expected = naive.ready(now).map(|reason| (naive.take(), reason));
                        prop_assert_eq!(buffer.take_ready(now), expected);
                    }
                    Step::TakeAny => {
                        let expected = (!naive.list.is_empty()).then(|| naive.take());
                        prop_assert_eq!(buffer.take_any(), expected);
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
        assert_eq!(buffer.take_ready(now), Some((vec!["small"], FlushReason::Bytes)));
        assert_eq!(buffer.take_ready(now), Some((vec!["huge"], FlushReason::Bytes)));
        assert_eq!(buffer.take_ready(now), None);
    }
}
