//! Every metric, named and described once; `docs/metrics.md` is generated from here.
//!
//! Metrics go through the `metrics` facade: an application installs a recorder, for example a
//! Prometheus exporter, before it builds a consumer. Handles are taken once for each consumer
//! or partition, so that an event costs no look-up. Without a recorder they do nothing.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::event::{ConsumerGroup, EntityName, Partition};
use crate::state::batch_buffer::FlushReason;

/// What a metric counts in and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A metric: its name and what it means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, as Prometheus spells it.
    pub name: &'static str,
    /// How it counts.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static str,
    /// What it counts, in one sentence.
    pub description: &'static str,
}

const ENTITY: &str = "entity, consumer_group";
const PARTITION: &str = "entity, consumer_group, partition";

macro_rules! metrics_table {
    ($($id:ident = $name:literal, $kind:ident, $labels:expr, $description:literal;)*) => {
        $(const $id: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: $labels,
            description: $description,
        };)*

        /// Every metric, in the order of the documentation.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics_table! {
    RECEIVED = "longshore_events_received_total", Counter, ENTITY,
        "Events received, repeats left out.";
    SETTLED = "longshore_events_settled_total", Counter, "entity, consumer_group, outcome",
        "Events settled, by outcome: done, skip or dead_letter.";
    RETRIES = "longshore_event_retries_total", Counter, ENTITY,
        "Attempts that ended with a wish for another one.";
    IN_FLIGHT = "longshore_handlers_in_flight", Gauge, ENTITY,
        "Handler calls that run now.";
    BATCHES = "longshore_batches_total", Counter, "entity, consumer_group, reason",
        "Batches handed out, by reason: size, bytes, timeout, drain or pressure.";
    HANDLER_SECONDS = "longshore_handler_seconds", Histogram, ENTITY,
        "How long handler calls took, in seconds.";
    LATENCY_SECONDS = "longshore_event_latency_seconds", Histogram, ENTITY,
        "From the moment an event was enqueued to the moment it was settled, in seconds; of a \
         batch that is done at once, its oldest event.";
    WATERMARK = "longshore_watermark", Gauge, PARTITION,
        "The last sequence number of which it and everything before it are settled.";
    UNSETTLED = "longshore_unsettled_events", Gauge, PARTITION,
        "Events received and not settled.";
    HOLES = "longshore_settled_above_watermark_events", Gauge, PARTITION,
        "Events settled above the watermark: an older one holds it.";
    LAG_SECONDS = "longshore_lag_seconds", Gauge, PARTITION,
        "The age of the newest settled event when it was settled, in seconds.";
    LAG_EVENTS = "longshore_lag_events", Gauge, PARTITION,
        "Sequence numbers between the watermark and the end of the log, read now and then.";
    CHECKPOINTS = "longshore_checkpoint_writes_total", Counter, "entity, consumer_group, result",
        "Checkpoint writes, by result: ok or failed.";
    LINKS = "longshore_links_opened_total", Counter, ENTITY,
        "Links opened; more than partitions means that links were lost.";
    LOST = "longshore_events_lost_total", Counter, ENTITY,
        "Sequence numbers that retention removed before they were received, at most.";
}

/// Describes every metric to the recorder. Called when a consumer is built.
pub(crate) fn describe() {
    for metric in ALL {
        let unit = if metric.name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, unit, metric.description),
            Kind::Gauge => describe_gauge!(metric.name, unit, metric.description),
            Kind::Histogram => describe_histogram!(metric.name, unit, metric.description),
        }
    }
}

/// `docs/metrics.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Generated from `src/telemetry/metrics.rs`; a test keeps it true. Install a recorder of the\n\
         `metrics` facade before the consumer is built.\n\n\
         | name | kind | labels | what it says |\n| --- | --- | --- | --- |\n",
    );
    for metric in ALL {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        text.push_str(&format!(
            "| `{}` | {kind} | {} | {} |\n",
            metric.name, metric.labels, metric.description
        ));
    }
    text
}

/// Takes the handles of one consumer, labelled with its entity and group.
pub(crate) struct Labelled {
    labels: Vec<(&'static str, String)>,
}

impl Labelled {
    pub(crate) fn new(entity: &EntityName, group: &ConsumerGroup) -> Self {
        Self { labels: vec![("entity", entity.to_string()), ("consumer_group", group.to_string())] }
    }

    fn with(&self, metric: Metric, name: &'static str, value: &'static str) -> Counter {
        let mut labels = self.labels.clone();
        labels.push((name, value.to_owned()));
        counter!(metric.name, &labels)
    }

    pub(crate) fn received(&self) -> Counter {
        counter!(RECEIVED.name, &self.labels)
    }

    pub(crate) fn settled(&self, outcome: &'static str) -> Counter {
        self.with(SETTLED, "outcome", outcome)
    }

    pub(crate) fn retries(&self) -> Counter {
        counter!(RETRIES.name, &self.labels)
    }

    pub(crate) fn batches(&self, reason: FlushReason) -> Counter {
        self.with(BATCHES, "reason", reason.as_str())
    }

    pub(crate) fn checkpoints(&self, result: &'static str) -> Counter {
        self.with(CHECKPOINTS, "result", result)
    }

    pub(crate) fn links(&self) -> Counter {
        counter!(LINKS.name, &self.labels)
    }

    pub(crate) fn lost(&self) -> Counter {
        counter!(LOST.name, &self.labels)
    }

    pub(crate) fn timings(&self) -> Timings {
        Timings {
            in_flight: gauge!(IN_FLIGHT.name, &self.labels),
            handler_seconds: histogram!(HANDLER_SECONDS.name, &self.labels),
            latency_seconds: histogram!(LATENCY_SECONDS.name, &self.labels),
        }
    }
}

/// What is measured of every handler call.
pub(crate) struct Timings {
    pub(crate) in_flight: Gauge,
    pub(crate) handler_seconds: Histogram,
    pub(crate) latency_seconds: Histogram,
}

/// The handles of one partition.
#[derive(Debug)]
pub(crate) struct PartitionMetrics {
    pub(crate) watermark: Gauge,
    pub(crate) unsettled: Gauge,
    pub(crate) holes: Gauge,
    pub(crate) lag_seconds: Gauge,
    pub(crate) lag_events: Gauge,
}

impl PartitionMetrics {
    pub(crate) fn new(partition: &Partition, group: &ConsumerGroup) -> Self {
        let labels = [
            ("entity", partition.entity.to_string()),
            ("consumer_group", group.to_string()),
            ("partition", partition.id.to_string()),
        ];
        Self {
            watermark: gauge!(WATERMARK.name, &labels),
            unsettled: gauge!(UNSETTLED.name, &labels),
            holes: gauge!(HOLES.name, &labels),
            lag_seconds: gauge!(LAG_SECONDS.name, &labels),
            lag_events: gauge!(LAG_EVENTS.name, &labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_is_true() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("LONGSHORE_WRITE_DOCS").is_some() {
            std::fs::write(path, markdown()).expect("writable");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            written,
            markdown(),
            "run `LONGSHORE_WRITE_DOCS=1 cargo test the_documentation_is_true`"
        );
    }

    #[test]
    fn names_are_unique_and_end_as_prometheus_expects() {
        for (index, metric) in ALL.iter().enumerate() {
            assert!(ALL.iter().skip(index + 1).all(|other| other.name != metric.name));
            let total = metric.name.ends_with("_total");
            assert_eq!(total, metric.kind == Kind::Counter, "{}", metric.name);
        }
    }
}
