//! What a consumer did since it started: counts for snapshots and exits, and the metrics that show
//! them.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;

use crate::state::batch_buffer::FlushReason;
use crate::telemetry::metrics::Labelled;

/// A count since the consumer started, and the metric that shows it.
pub(crate) struct Count {
    total: AtomicU64,
    metric: Counter,
}

impl Count {
    fn new(metric: Counter) -> Self {
        Self { total: AtomicU64::new(0), metric }
    }

    pub(crate) fn add(&self, count: u64) {
        if count > 0 {
            self.total.fetch_add(count, Ordering::Relaxed);
            self.metric.increment(count);
        }
    }
}

macro_rules! counters {
    ($labelled:ident: $($(#[$doc:meta])* $name:ident = $metric:expr,)*) => {
        /// Counts since the consumer started, over all partitions.
        pub(crate) struct Counters {
            $(pub(crate) $name: Count,)*
        }

        /// Counts since the consumer started, over all partitions.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct ConsumerCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn new($labelled: &Labelled) -> Self {
                Self { $($name: Count::new($metric),)* }
            }

            pub(crate) fn read(&self) -> ConsumerCounts {
                ConsumerCounts { $($name: self.$name.total.load(Ordering::Relaxed),)* }
            }
        }

        impl std::iter::Sum for ConsumerCounts {
            fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
                counts.fold(Self::default(), |sum, one| Self { $($name: sum.$name + one.$name,)* })
            }
        }
    };
}

counters! {
    labelled:
    /// Events received, without repeats.
    received = labelled.received(),
    /// Events that are settled without being handled again: an earlier run had settled them above its watermark, or
    /// the failure store has them.
    settled_before = Counter::noop(),
    /// Events that handlers finished.
    done = labelled.settled("done"),
    /// Events that handlers skipped.
    skipped = labelled.settled("skip"),
    /// Retries that handlers asked for or caused.
    retried = labelled.retries(),
    /// Events that handlers put back, unsettled, because their partition was about to leave.
    put_back = Counter::noop(),
    /// Events that were parked: their records were acknowledged.
    parked = labelled.settled("parked"),
    /// Events that came back from the failure store. When such an event ends, it is counted once more.
    returned = labelled.returned(),
    /// Dead letters that were acknowledged.
    dead_letters = labelled.settled("dead_letter"),
    /// Batches that filled to their count.
    batches_by_size = labelled.batches(FlushReason::Size),
    /// Batches that filled to their bytes.
    batches_by_bytes = labelled.batches(FlushReason::Bytes),
    /// Batches whose oldest event had waited long enough.
    batches_by_timeout = labelled.batches(FlushReason::Timeout),
    /// Batches handed out by a drain.
    batches_by_drain = labelled.batches(FlushReason::Drain),
    /// Batches handed out because the byte budget was short.
    batches_by_pressure = labelled.batches(FlushReason::Pressure),
    /// Batches that are a part of a batch that failed as a whole.
    batches_by_bisection = labelled.batches(FlushReason::Bisection),
    /// Batches of one event, to probe a destination that fails.
    batches_by_probe = labelled.batches(FlushReason::Probe),
    /// Checkpoint writes that were acknowledged, claims included.
    checkpoints = labelled.checkpoints("ok"),
    /// Checkpoint writes that failed.
    checkpoint_failures = labelled.checkpoints("failed"),
    /// Links opened.
    links_opened = labelled.links(),
    /// Events that retention removed before they were received: at most this many.
    lost_events = labelled.lost(),
}

impl Counters {
    pub(crate) fn on_batch(&self, reason: FlushReason) {
        match reason {
            FlushReason::Size => &self.batches_by_size,
            FlushReason::Bytes => &self.batches_by_bytes,
            FlushReason::Timeout => &self.batches_by_timeout,
            FlushReason::Drain => &self.batches_by_drain,
            FlushReason::Pressure => &self.batches_by_pressure,
            FlushReason::Bisection => &self.batches_by_bisection,
            FlushReason::Probe => &self.batches_by_probe,
        }
        .add(1);
    }
}

impl ConsumerCounts {
    /// Batches for any reason.
    pub fn batches(&self) -> u64 {
        self.batches_by_size
            + self.batches_by_bytes
            + self.batches_by_timeout
            + self.batches_by_drain
            + self.batches_by_pressure
            + self.batches_by_bisection
            + self.batches_by_probe
    }
}
