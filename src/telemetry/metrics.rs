//! All metrics, each with its name and description; `docs/metrics.md` is generated from here.
//!
//! Metrics go through the `metrics` facade: an application installs a recorder before it builds a consumer.
//! Handles are taken once for each consumer
//! or ownership of a partition, so that an event costs no look-up. Without a recorder they do nothing.
//!
//! The facade cannot unregister a gauge, and an exporter repeats what it was told last. So the gauges of a
//! partition have a life. They are registered when the partition is ours, are `NaN` while a
//! value is not known, and are 0 as soon as the partition is no longer ours, for whatever reason. 0 changes no sum
//! and no maximum over a fleet, and it is true: nothing of that partition is here.
#![doc = include_str!("../../docs/metrics.md")]

use std::collections::BTreeSet;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::event::{ConsumerGroup, EntityName, Partition, SequenceNumber};
use crate::lanes::Lane;
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
        "Events received, without repeats.";
    SETTLED = "longshore_events_settled_total", Counter, "entity, consumer_group, outcome",
        "Events settled, by outcome: done, skip, parked or dead_letter. A parked event is counted once more \
         when it ends.";
    RETURNED = "longshore_events_returned_total", Counter, ENTITY,
        "Parked events that came back to their handler.";
    RETRIES = "longshore_event_retries_total", Counter, ENTITY,
        "Attempts after which the event is tried again.";
    IN_FLIGHT = "longshore_handlers_in_flight", Gauge, ENTITY,
        "Handler calls that run now.";
    BATCHES = "longshore_batches_total", Counter, "entity, consumer_group, reason",
        "Batches handed out, by reason: size, bytes, timeout, drain, pressure, bisection or probe.";
    HANDLER_SECONDS = "longshore_handler_seconds", Histogram, ENTITY,
        "How long handler calls took, in seconds.";
    LATENCY_SECONDS = "longshore_event_latency_seconds", Histogram, ENTITY,
        "The time from when an event was enqueued to when it was settled, in seconds. For a batch that \
         is done at once, only its oldest event is measured.";
    OWNED = "longshore_partition_owned", Gauge, PARTITION,
        "1 while this worker owns the partition, 0 when it no longer does. The next ten gauges are then 0 as well.";
    WATERMARK = "longshore_watermark", Gauge, PARTITION,
        "The highest sequence number up to which every event is settled; `NaN` if nothing is settled.";
    UNSETTLED = "longshore_unsettled_events", Gauge, PARTITION,
        "Events received and not settled.";
    HOLES = "longshore_settled_above_watermark_events", Gauge, PARTITION,
        "Events that are settled above the watermark, because an older event is not settled yet.";
    EVENT_BYTES = "longshore_held_event_bytes", Gauge, PARTITION,
        "The part of the memory budget that events hold which are received and not settled.";
    LINK_BYTES = "longshore_held_link_bytes", Gauge, PARTITION,
        "The part of the memory budget that the link may hold ahead: its credit times the size of its events.";
    LAG_SECONDS = "longshore_lag_seconds", Gauge, PARTITION,
        "The age of the oldest event that waits, in seconds; 0 if none waits, `NaN` if it is not known.";
    LAG_EVENTS = "longshore_lag_events", Gauge, PARTITION,
        "Events of the log that wait: not settled, and not removed by retention; `NaN` if it is not known.";
    PARKED = "longshore_parked_events", Gauge, PARTITION,
        "Events that are parked, including those that are being tried again now.";
    PARKED_DUE = "longshore_parked_due_events", Gauge, PARTITION,
        "Parked events that are due and wait for others to end, up to 10,000. It stays high while a \
         destination fails.";
    LETTERS = "longshore_dead_letters", Gauge, PARTITION,
        "Dead letters in the failure store, not replayed or being replayed: as last counted, every five \
         minutes, up to 100,000; `NaN` if it is not known. Only if the consumer has a failure store.";
    LANE_WAITING = "longshore_lane_waiting_events", Gauge, PARTITION,
        "Events received whose lane is full or closed. Only with lanes.";
    HOLDING_LANE = "longshore_holding_lane_events", Gauge, "entity, consumer_group, partition, lane",
        "Events that wait for the lane that holds the watermark back, while the partition takes in no more \
         because such events fill the window or the budget; 0 when that is over.";
    BREAKERS_OPEN = "longshore_breakers_open", Gauge, "kind",
        "Destinations that get probes only, because most attempts there fail, by kind: handler, named or \
         lane.";
    CHECKPOINTS = "longshore_checkpoint_writes_total", Counter, "entity, consumer_group, result",
        "Checkpoint writes, by result: ok or failed.";
    LINKS = "longshore_links_opened_total", Counter, ENTITY,
        "Links opened: one for each partition that begins. More means that links were lost.";
    LOST = "longshore_events_lost_total", Counter, ENTITY,
        "Events that retention removed before they were received: at most this many.";
    PUBLISHED = "longshore_events_published_total", Counter, "entity, result",
        "Events that a producer was given, by result: ok or failed. An event is counted once, when its last attempt \
         is answered.";
    PUBLISH_RETRIES = "longshore_publish_retries_total", Counter, "entity",
        "Transfers of events that failed and are tried again.";
    PUBLISH_SECONDS = "longshore_publish_seconds", Histogram, "entity",
        "The time from the first attempt of a transfer of events to its acknowledgement, in seconds.";
    RETRIES_PUBLISHED = "longshore_retries_published_total", Counter, "entity, target",
        "Events of a retry hub that their target has acknowledged.";
    RETRIES_REFUSED = "longshore_retries_refused_total", Counter, "entity, reason",
        "Events of a retry hub that became dead letters, by reason: no_target, bad_property, too_far, attempts, \
         not_allowed, loop or unknown_target.";
    RETRY_LATE_SECONDS = "longshore_retry_late_seconds", Histogram, "entity",
        "The time from when an event of a retry hub was due to the acknowledgement of its target, in seconds.";
}

/// Describes every metric to the recorder. Called when a consumer or a producer of an entity is built.
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

const BELOW_THE_TABLE: &str = r#"
## Gauges of a partition

These gauges appear when a worker owns the partition and has read its log for the first time. They are 0 when the
worker no longer owns it: it was handed off, lost, drained, or it stopped or failed. `longshore_partition_owned` tells
the two kinds of 0 apart: a partition that is caught up, and one that has left. So a sum or a maximum over a fleet is
right as it is:

```promql
sum by (entity) (longshore_lag_events)            # what waits in all partitions that have an owner
max by (entity, partition) (longshore_lag_seconds)
sum by (entity) (longshore_partition_owned)       # below the number of partitions: some have no owner
```

If a worker owns a partition and a value is not known, the gauge is `NaN`, and so is a sum that includes it. That
happens in these cases:

- the watermark, while nothing is settled;
- both lags, if a partition without a checkpoint begins at a time, until its first event arrives;
- the lag in events, after the log could not be read three times in a row;
- the lag in seconds, in the same case if no waiting event is here, and before the first of many events arrives;
- the dead letters, for some seconds after the claim, until they are counted, and after they could not be counted three
  times in a row.

For an average or a minimum, add `and on (entity, consumer_group, partition, instance)
longshore_partition_owned == 1`.

These gauges, `ConsumerHandle::snapshot` and `longshore checkpoints list` count what waits in the same way: what was
received and is not settled, and what the log holds beyond that. The end of a log is read when a partition is claimed,
and every half minute after that; what is received in between counts at once. Ages are updated every two seconds. They
use the clock of the lease store if that differs from ours by five seconds or more, and our clock otherwise. No age
counts from before the newest event of the log.

The dead letters of a partition are counted by listing them: every five minutes, a request for each 5,000 letters. The
count leaves out what was written or replayed since, letters of other groups, letters of a hub that was created anew
since, and letters in a hub or a folder of dead letters. 100,000 means that many or more.

To make the series disappear instead of being 0, give the exporter an idle timeout of a minute for gauges, such as
`PrometheusBuilder::idle_timeout`. The gauges of a partition that a worker owns are updated every two seconds.

## Prometheus over HTTP

Use an exporter for version 0.24 of the `metrics` crate, such as 0.18 of `metrics-exporter-prometheus`. With an exporter
for another version, all metrics stay empty.

```toml
[dependencies]
metrics-exporter-prometheus = { version = "0.18", default-features = false, features = ["http-listener"] }
```

Call this in a tokio runtime, before the consumer is built:

```rust,no_run
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

/// Serves http://127.0.0.1:9000/metrics.
fn serve_metrics() -> Result<(), BuildError> {
    let seconds = [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];
    PrometheusBuilder::new()
        .with_http_listener(([127, 0, 0, 1], 9_000))
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)?
        .install()
}
```

The buckets make histograms, which can be added up over a fleet. Without buckets, the exporter makes summaries, which
cannot.
"#;

/// `docs/metrics.md`.
#[doc(hidden)]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Generated from `src/telemetry/metrics.rs`; a test keeps it true. The metrics go to the `metrics` facade:\n\
         without a recorder they do nothing. [Prometheus over HTTP](#prometheus-over-http) shows how to install one.\n\n\
         | name | kind | labels | what it says |\n| --- | --- | --- | --- |\n",
    );
    for metric in ALL {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        text.push_str(&format!(
            "| `{}` | {kind} | {} | {} |\n",
            metric.name, metric.labels, metric.description
        ));
    }
    text.push_str(BELOW_THE_TABLE);
    text
}

/// Shows how many destinations of a kind are left alone.
pub(crate) fn open_breakers(kind: &'static str) -> Gauge {
    gauge!(BREAKERS_OPEN.name, "kind" => kind)
}

/// What is told of a retry scheduler. A target that is named in a label has acknowledged an event, so it is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryMetrics(());

impl RetryMetrics {
    pub(crate) fn new() -> Self {
        describe();
        Self(())
    }

    pub(crate) fn on_published(self, entity: &EntityName, target: &EntityName, late: Duration) {
        let labels = [("entity", entity.to_string()), ("target", target.to_string())];
        counter!(RETRIES_PUBLISHED.name, &labels).increment(1);
        histogram!(RETRY_LATE_SECONDS.name, "entity" => entity.to_string())
            .record(late.as_secs_f64());
    }

    pub(crate) fn on_refused(self, entity: &EntityName, reason: &'static str) {
        let labels = [("entity", entity.to_string()), ("reason", reason.to_owned())];
        counter!(RETRIES_REFUSED.name, &labels).increment(1);
    }
}

/// What is told of a producer of one entity.
#[derive(Clone, Debug)]
pub(crate) struct PublishMetrics {
    published: Counter,
    failed: Counter,
    retries: Counter,
    seconds: Histogram,
}

impl PublishMetrics {
    pub(crate) fn new(entity: &EntityName) -> Self {
        describe();
        let entity = entity.to_string();
        let by_result = |result: &'static str| counter!(PUBLISHED.name, "entity" => entity.clone(), "result" => result);
        Self {
            published: by_result("ok"),
            failed: by_result("failed"),
            retries: counter!(PUBLISH_RETRIES.name, "entity" => entity.clone()),
            seconds: histogram!(PUBLISH_SECONDS.name, "entity" => entity),
        }
    }

    pub(crate) fn on_answered(&self, events: usize, is_published: bool) {
        let counter = if is_published { &self.published } else { &self.failed };
        counter.increment(u64::try_from(events).unwrap_or(u64::MAX));
    }

    pub(crate) fn on_acknowledged(&self, time: Duration) {
        self.seconds.record(time.as_secs_f64());
    }

    pub(crate) fn on_retry(&self) {
        self.retries.increment(1);
    }
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

    pub(crate) fn returned(&self) -> Counter {
        counter!(RETURNED.name, &self.labels)
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

/// Most lanes that a partition's gauge names in one ownership; the others are `other`.
const MAX_NAMED_LANES: usize = 32;
/// Longest name of a lane in a label.
const MAX_LABEL: usize = 100;

/// The gauges of a partition's lanes while it is ours. Dropped, they are 0.
#[derive(Debug)]
pub(crate) struct LaneGauges {
    labels: Vec<(&'static str, String)>,
    waiting: Gauge,
    holding: Option<Gauge>,
    named: BTreeSet<String>,
}

impl LaneGauges {
    pub(crate) fn new(partition: &Partition, group: &ConsumerGroup) -> Self {
        let labels = vec![
            ("entity", partition.entity.to_string()),
            ("consumer_group", group.to_string()),
            ("partition", partition.id.to_string()),
        ];
        let waiting = gauge!(LANE_WAITING.name, &labels);
        Self { labels, waiting, holding: None, named: BTreeSet::new() }
    }

    pub(crate) fn show_waiting(&self, events: usize) {
        self.waiting.set(events as f64);
    }

    /// A lane begins to hold the watermark back. Who may name lanes may name many: past a bound
    /// they are one.
    pub(crate) fn begin_holding(&mut self, lane: &Lane) {
        let mut label: String = lane.to_string().chars().take(MAX_LABEL).collect();
        if self.named.len() >= MAX_NAMED_LANES && !self.named.contains(&label) {
            label = "other".to_owned();
        }
        let mut labels = self.labels.clone();
        labels.push(("lane", label.clone()));
        self.named.insert(label);
        self.holding = Some(gauge!(HOLDING_LANE.name, &labels));
    }

    pub(crate) fn show_holding(&self, events: usize) {
        if let Some(gauge) = &self.holding {
            gauge.set(events as f64);
        }
    }

    pub(crate) fn end_holding(&mut self) {
        self.show_holding(0);
        self.holding = None;
    }
}

impl Drop for LaneGauges {
    fn drop(&mut self) {
        self.show_waiting(0);
        self.end_holding();
    }
}

/// The gauges of one partition while it is ours. Dropped, they say that it is not.
#[derive(Debug)]
pub(crate) struct PartitionGauges {
    owned: Gauge,
    watermark: Gauge,
    unsettled: Gauge,
    holes: Gauge,
    event_bytes: Gauge,
    link_bytes: Gauge,
    lag_seconds: Gauge,
    lag_events: Gauge,
    parked: Gauge,
    parked_due: Gauge,
    /// Where there is a failure store.
    letters: Option<Gauge>,
    labels: [(&'static str, String); 3],
}

impl PartitionGauges {
    /// Registers them, for the handles of an earlier ownership may lead nowhere: exporters forget
    /// what was not updated for long.
    pub(crate) fn new(partition: &Partition, group: &ConsumerGroup) -> Self {
        let labels = [
            ("entity", partition.entity.to_string()),
            ("consumer_group", group.to_string()),
            ("partition", partition.id.to_string()),
        ];
        let this = Self {
            owned: gauge!(OWNED.name, &labels),
            watermark: gauge!(WATERMARK.name, &labels),
            unsettled: gauge!(UNSETTLED.name, &labels),
            holes: gauge!(HOLES.name, &labels),
            event_bytes: gauge!(EVENT_BYTES.name, &labels),
            link_bytes: gauge!(LINK_BYTES.name, &labels),
            lag_seconds: gauge!(LAG_SECONDS.name, &labels),
            lag_events: gauge!(LAG_EVENTS.name, &labels),
            parked: gauge!(PARKED.name, &labels),
            parked_due: gauge!(PARKED_DUE.name, &labels),
            letters: None,
            labels,
        };
        this.show_owned();
        this
    }

    /// The same for a partition whose dead letters may lie in a failure store.
    pub(crate) fn with_letters(mut self) -> Self {
        self.letters = Some(gauge!(LETTERS.name, &self.labels));
        self.show_letters(None);
        self
    }

    pub(crate) fn show_owned(&self) {
        self.owned.set(1.0);
    }

    pub(crate) fn show_progress(
        &self,
        watermark: Option<SequenceNumber>,
        unsettled_events: usize,
        settled_above_events: usize,
    ) {
        self.watermark.set(watermark.map_or(f64::NAN, |number| number.0 as f64));
        self.unsettled.set(unsettled_events as f64);
        self.holes.set(settled_above_events as f64);
    }

    pub(crate) fn show_memory(&self, event_bytes: usize, link_bytes: usize) {
        self.event_bytes.set(event_bytes as f64);
        self.link_bytes.set(link_bytes as f64);
    }

    pub(crate) fn show_parked(&self, events: usize, due: usize) {
        self.parked.set(events as f64);
        self.parked_due.set(due as f64);
    }

    pub(crate) fn show_letters(&self, letters: Option<u64>) {
        if let Some(gauge) = &self.letters {
            gauge.set(letters.map_or(f64::NAN, |letters| letters as f64));
        }
    }

    /// A partition that is caught up has no lag in seconds either; else that is told by the clock.
    pub(crate) fn show_lag_events(&self, events: Option<u64>) {
        self.lag_events.set(events.map_or(f64::NAN, |events| events as f64));
        if events == Some(0) {
            self.show_lag_time(Some(Duration::ZERO));
        }
    }

    pub(crate) fn show_lag_time(&self, time: Option<Duration>) {
        self.lag_seconds.set(time.map_or(f64::NAN, |time| time.as_secs_f64()));
    }
}

impl Drop for PartitionGauges {
    fn drop(&mut self) {
        for gauge in [
            &self.owned,
            &self.watermark,
            &self.unsettled,
            &self.holes,
            &self.event_bytes,
            &self.link_bytes,
            &self.lag_seconds,
            &self.lag_events,
            &self.parked,
            &self.parked_due,
        ]
        .into_iter()
        .chain(&self.letters)
        {
            gauge.set(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metrics_exporter_prometheus::PrometheusBuilder;

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
    fn gauges_say_nothing_that_is_not_known_and_end_at_zero() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = || {
            let text = recorder.handle().render();
            let values = text.lines().filter(|line| !line.starts_with('#'));
            values
                .filter_map(|line| {
                    let (name, value) = line.split_once('{')?;
                    Some((name.to_owned(), value.rsplit_once(' ')?.1.to_owned()))
                })
                .collect::<BTreeMap<_, _>>()
        };
        metrics::with_local_recorder(&recorder, || {
            let partition = Partition::new("files", "0");
            let group = ConsumerGroup::from("$Default");
            let gauges = PartitionGauges::new(&partition, &group);
            assert_eq!(shown().get("longshore_dead_letters"), None, "without a failure store");
            let gauges = gauges.with_letters();
            gauges.show_progress(None, 3, 0);
            gauges.show_lag_events(None);
            gauges.show_lag_time(None);
            let values = shown();
            assert_eq!(values["longshore_partition_owned"], "1");
            assert_eq!(values["longshore_unsettled_events"], "3");
            for unknown in ["watermark", "lag_events", "lag_seconds", "dead_letters"] {
                assert_eq!(values[&format!("longshore_{unknown}")], "NaN", "{unknown}");
            }
            gauges.show_progress(Some(SequenceNumber(41)), 7, 2);
            gauges.show_memory(1_000, 500);
            gauges.show_parked(5, 2);
            gauges.show_letters(Some(4));
            assert_eq!(shown()["longshore_dead_letters"], "4");
            gauges.show_lag_events(Some(9));
            gauges.show_lag_time(Some(Duration::from_millis(1_500)));
            assert_eq!(shown()["longshore_lag_seconds"], "1.5");
            gauges.show_lag_events(Some(0));
            assert_eq!(shown()["longshore_lag_seconds"], "0");
            drop(gauges);
            let values = shown();
            assert_eq!(values.len(), 11);
            assert!(values.values().all(|value| value == "0"), "{values:?}");
        });
    }

    #[test]
    fn a_lane_is_named_while_it_holds_and_past_a_bound_it_is_another() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = || recorder.handle().render();
        metrics::with_local_recorder(&recorder, || {
            let partition = Partition::new("files", "0");
            let mut gauges = LaneGauges::new(&partition, &ConsumerGroup::from("$Default"));
            gauges.show_waiting(9);
            gauges.begin_holding(&Lane::new("a.example"));
            gauges.show_holding(7);
            assert!(shown().contains("lane=\"a.example\"} 7"), "{}", shown());
            gauges.end_holding();
            assert!(shown().contains("lane=\"a.example\"} 0"), "{}", shown());
            for index in 0..100 {
                gauges.begin_holding(&Lane::new(format!("host {index}")));
                gauges.show_holding(3);
                gauges.end_holding();
            }
            gauges.begin_holding(&Lane::new("host 99"));
            gauges.show_holding(5);
            assert!(shown().contains("lane=\"other\"} 5"), "{}", shown());
            assert_eq!(shown().matches("lane=\"").count(), MAX_NAMED_LANES + 1);
            drop(gauges);
            let values = shown();
            let mut values = values.lines().filter(|line| line.contains('{'));
            assert!(values.all(|line| line.ends_with(" 0")));
        });
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
