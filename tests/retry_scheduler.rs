//! The scheduler of retry hubs over the memory transport, in paused time.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "support/every_type.rs"]
mod every_type;
mod support;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::clock::Clock;
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::event::{Body, Value};
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore, MAX_PAGE_ENTRIES};
use longshore::retry_scheduler::{RetryScheduler, RetrySchedulerOptions, Target};
use longshore::timestamp::{rfc3339, unix_millis};
use longshore::transport::memory::MemoryHub;
use longshore::transport::{LinkStart, OpenLink, Transport};
use longshore::{BatchConsumer, ConsumerHandle, ConsumerOptions, ErrorClass, Event, OutgoingEvent};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::{Instant, sleep};

use support::waiting::found;
use support::{drained, settled};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Follows the clock of the runtime, which is paused.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800) + self.0.elapsed()
    }
}

/// Waits for up to a week, by that clock.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let look = || if condition() { Ok(()) } else { Err(()) };
    found(what, Duration::from_millis(200), 7 * 24 * HOUR, look).await;
}

/// A retry hub, the hubs that events may go to, and the stores.
struct Stage {
    clock: Arc<Virtual>,
    retries: MemoryHub,
    hubs: BTreeMap<String, MemoryHub>,
    checkpoints: Arc<MemoryCheckpointStore>,
    store: Arc<MemoryFailureStore>,
    options: RetrySchedulerOptions,
}

impl Stage {
    fn new(targets: &[&str]) -> Self {
        let clock = Arc::new(Virtual(Instant::now()));
        let hub = |name: &str| MemoryHub::with_clock(name, 1, Arc::clone(&clock) as _);
        let hubs = targets.iter().map(|name| ((*name).to_owned(), hub(name))).collect();
        Self {
            retries: hub("xact-retry"),
            hubs,
            clock,
            checkpoints: Arc::new(MemoryCheckpointStore::new()),
            store: Arc::new(MemoryFailureStore::new()),
            options: RetrySchedulerOptions::default(),
        }
    }

    fn scheduler(&self) -> RetryScheduler {
        let (hubs, retries) = (self.hubs.clone(), self.retries.clone());
        let resolve = move |name: &str| {
            let is_it = |(hub, _): &(&String, &MemoryHub)| hub.eq_ignore_ascii_case(name);
            match hubs.iter().find(is_it) {
                Some((_, hub)) => Ok(Target::new("memory", Arc::new(hub.publisher()))),
                None if name.eq_ignore_ascii_case("xact-retry") => {
                    Ok(Target::new("MEMORY", Arc::new(retries.publisher())))
                }
                None => Err("there is no such hub".to_owned()),
            }
        };
        let scheduler = RetryScheduler::new(self.options.clone(), resolve).unwrap();
        scheduler.reading("memory", "Xact-Retry").with_clock(Arc::clone(&self.clock) as _)
    }

    fn start_with(&self, options: ConsumerOptions) -> ConsumerHandle {
        let scheduler = self.scheduler();
        self.run(scheduler, options)
    }

    fn run(&self, scheduler: RetryScheduler, mut options: ConsumerOptions) -> ConsumerHandle {
        options.park_after = 5 * SECOND;
        let transport = self.retries.transport("$Default");
        BatchConsumer::builder(transport, Arc::clone(&self.checkpoints))
            .failure_store(Arc::clone(&self.store))
            .options(options)
            .clock(Arc::clone(&self.clock) as Arc<dyn Clock>)
            .seed(7)
            .lanes(scheduler.lanes(5))
            .event_handler(scheduler)
            .unwrap()
            .start()
    }

    fn start(&self) -> ConsumerHandle {
        self.start_with(self.options.fit(ConsumerOptions::default()))
    }

    fn publish(&self, event: OutgoingEvent) {
        self.retries.publish(0, event).unwrap();
    }

    /// How long until it is due, from now on.
    fn publish_due_in(&self, target: &str, wait: Duration, body: &str) {
        let due = self.clock.now() + wait;
        self.publish(
            OutgoingEvent::new(body.to_owned())
                .with_property("target_topic", target)
                .with_property("scheduled_retry_time", Value::Timestamp(unix_millis(due))),
        );
    }

    async fn events(&self, hub: &str) -> Vec<Event> {
        let transport = self.hubs[hub].transport("$Default");
        let end = transport.log_properties(&"0".into()).await.unwrap().last_enqueued;
        let mut events: Vec<Event> = Vec::new();
        let open = OpenLink::new("0".into(), LinkStart::FirstEvent, 10_000);
        let mut link = transport.open(open).await.unwrap();
        while events.last().map(Event::sequence_number) < end {
            poll_fn(|cx| link.poll_receive(cx, 10_000, &mut events)).await.unwrap();
        }
        events
    }

    async fn bodies(&self, hub: &str) -> Vec<String> {
        let events = self.events(hub).await;
        let body = |event: &Event| String::from_utf8(event.body().to_vec()).unwrap();
        let mut bodies: Vec<_> = events.iter().map(body).collect();
        bodies.sort();
        bodies
    }

    async fn records(&self, kind: FailureKind) -> Vec<DeadLetterRecord> {
        let page = self.store.list(&FailurePrefix::all(kind), None, MAX_PAGE_ENTRIES).await;
        let mut records = Vec::new();
        for listed in page.unwrap().entries {
            let key = listed.unwrap().key;
            records.push(self.store.read(&key).await.unwrap().unwrap().record().unwrap());
        }
        records
    }
}

#[tokio::test(start_paused = true)]
async fn each_event_is_published_when_it_is_due_and_the_watermark_waits_for_none_of_them() {
    let stage = Stage::new(&["pending"]);
    let begun = Instant::now();
    let now = stage.clock.now();
    let to =
        |body: &str| OutgoingEvent::new(body.to_owned()).with_property("target_topic", "pending");
    let at = |wait: Duration| rfc3339(now + wait);
    let waits = [Duration::ZERO, 3 * SECOND, 600 * SECOND, HOUR, 40 * HOUR];
    stage.publish(to("0"));
    stage.publish(to("1").with_property("scheduled_retry_time", at(waits[1])));
    stage.publish(to("2").with_property("retry_delay_seconds", "600"));
    stage.publish(
        to("3").with_property("scheduled_retry_time", unix_millis(now + waits[3]) / 1_000),
    );
    stage.publish(to("4").with_property("scheduled_retry_time", at(waits[4])));

    let late: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let told = Arc::clone(&late);
    let scheduler = stage.scheduler().on_published(move |published| {
        assert_eq!(
            (published.target.as_str(), published.source.to_string().as_str()),
            ("pending", "xact-retry/0")
        );
        told.lock().unwrap().push(published.late);
    });
    let handle = stage.run(scheduler, stage.options.fit(ConsumerOptions::default()));
    settled(&handle, 4).await;
    assert!(begun.elapsed() < 4 * SECOND, "{:?}", begun.elapsed());
    let parked = stage.records(FailureKind::Parked).await;
    let waiting: Vec<_> = parked.iter().map(|it| (it.sequence_number.0, it.attempts)).collect();
    assert_eq!(waiting, [(2, 0), (3, 0), (4, 0)], "no attempt is used up");
    assert!(parked[2].error.message.contains("published to pending at 2026-02-02T04:00:00.000Z"));
    assert_eq!(parked[2].destination.as_deref(), Some("pending"));

    until("all are published", || handle.snapshot().counts.done == 5).await;
    let events = stage.events("pending").await;
    assert_eq!(stage.bodies("pending").await, ["0", "1", "2", "3", "4"]);
    for (event, wait) in events.iter().zip(waits) {
        let came = event.enqueued_time().duration_since(now).unwrap();
        assert!(came >= wait && came < wait + 2 * SECOND, "{wait:?}: {came:?}");
    }
    assert!(late.lock().unwrap().iter().all(|late| *late < 2 * SECOND), "{late:?}");
    assert!(drained(handle).await.is_clean());
    assert!(stage.records(FailureKind::Parked).await.is_empty());
    assert!(stage.records(FailureKind::Dead).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_is_published_as_it_came_without_what_is_the_schedulers() {
    let stage = Stage::new(&["pending"]);
    let own = |event: OutgoingEvent, wait: Duration| {
        event
            .with_property("target_topic", "pending")
            .with_property("scheduled_retry_time", rfc3339(stage.clock.now() + wait))
            .with_property("retry_delay_seconds", 5_i32)
            .with_property("original_key", "the first key")
            .with_property("retry_count", "3")
    };
    let mut originals = every_type::events();
    originals.push(
        OutgoingEvent::default().with_structured_body(Body::Value(Value::Null)).with_key("k"),
    );
    // Half of them come back from the store.
    for (at, event) in originals.iter().enumerate() {
        stage.publish(own(event.clone(), if at % 2 == 0 { HOUR } else { Duration::ZERO }));
    }
    let handle = stage.start();
    until("all are published", || handle.snapshot().counts.done == originals.len() as u64).await;
    assert!(drained(handle).await.is_clean());
    let content = |event: &OutgoingEvent| every_type::content(event).to_string();
    let mut expected: Vec<_> = originals
        .into_iter()
        .map(|event| content(&event.with_key("the first key").with_property("retry_count", "3")))
        .collect();
    let published = stage.events("pending").await;
    let mut published: Vec<_> =
        published.iter().map(|event| content(&OutgoingEvent::copy_of(event))).collect();
    expected.sort();
    published.sort();
    assert_eq!(published.len(), expected.len());
    for (published, expected) in published.iter().zip(&expected) {
        assert_eq!(published, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_survives_a_restart_and_is_published_once() {
    let stage = Stage::new(&["pending"]);
    for number in 0..20 {
        stage.publish_due_in("pending", 2 * HOUR + number * SECOND, &format!("{number:02}"));
    }
    let handle = stage.start();
    settled(&handle, 19).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(stage.events("pending").await.len(), 0);
    // What was due while nobody was there goes out at once.
    sleep(2 * HOUR + 10 * SECOND).await;
    let handle = stage.start();
    until("all are published", || handle.snapshot().counts.done == 20).await;
    assert!(drained(handle).await.is_clean());
    let expected: Vec<_> = (0..20).map(|number| format!("{number:02}")).collect();
    assert_eq!(stage.bodies("pending").await, expected);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_scheduled_is_a_dead_letter_that_says_why_and_stops_no_other() {
    let mut stage = Stage::new(&["pending", "secret", "odd"]);
    stage.options.allowed =
        Some(["Pending", "xact-retry", "nowhere", "odd"].map(Into::into).into_iter().collect());
    stage.options.max_attempts = Some(4);
    stage.hubs["odd"].limit_event_bytes(100);
    let to = |target: &str| OutgoingEvent::new("x").with_property("target_topic", target);
    let due = |text: &str| to("pending").with_property("scheduled_retry_time", text);
    let bad = [
        (OutgoingEvent::new("x"), "it has no property target_topic", ErrorClass::BadData),
        (to("a/b"), "'a/b', which is not the name of a hub", ErrorClass::BadData),
        (
            to("secret"),
            "its target secret is not among those that are allowed",
            ErrorClass::Permanent,
        ),
        (to("XACT-RETRY"), "is a hub that the scheduler reads", ErrorClass::Permanent),
        (
            to("nowhere"),
            "nowhere cannot be published to: there is no such hub",
            ErrorClass::Permanent,
        ),
        (due("soon"), "scheduled_retry_time is 'soon', which is not a time", ErrorClass::BadData),
        (due("2126-01-31T12:00:00Z"), "an event may wait for at most 30 days", ErrorClass::BadData),
        (
            to("pending").with_property("retry_delay_seconds", true),
            "retry_delay_seconds is 'true', which is not a number of seconds",
            ErrorClass::BadData,
        ),
        (
            to("pending").with_property("retry_count", 4_i32),
            "it was tried 4 times, and 4 are the most",
            ErrorClass::Permanent,
        ),
        (
            OutgoingEvent::new("x".repeat(101)).with_property("target_topic", "odd"),
            "large",
            ErrorClass::TooLarge,
        ),
    ];
    let (shown, recorder) = {
        let recorder = PrometheusBuilder::new().build_recorder();
        (recorder.handle(), recorder)
    };
    let _here = metrics::set_default_local_recorder(&recorder);
    for (event, ..) in &bad {
        stage.publish(event.clone());
        stage.publish(to("pending"));
    }
    stage.publish(due("1970-01-01T00:00:00Z"));
    let handle = stage.start();
    let last = 2 * i64::try_from(bad.len()).unwrap();
    settled(&handle, last).await;
    assert!(drained(handle).await.is_clean());
    let letters = stage.records(FailureKind::Dead).await;
    assert_eq!(letters.len(), bad.len());
    for (letter, (_, said, class)) in letters.iter().zip(&bad) {
        let causes = format!("{}: {}", letter.error.message, letter.error.causes.join(": "));
        assert!(causes.contains(said), "{said:?} is not in {causes:?}");
        assert_eq!(letter.error.class, *class, "{causes}");
    }
    assert_eq!(stage.events("pending").await.len(), bad.len() + 1);
    let shown = shown.render();
    for (line, count) in [
        (
            "longshore_retries_published_total{entity=\"xact-retry\",target=\"pending\"}",
            bad.len() + 1,
        ),
        ("longshore_retries_refused_total{entity=\"xact-retry\",reason=\"no_target\"}", 1),
        ("longshore_retries_refused_total{entity=\"xact-retry\",reason=\"bad_property\"}", 3),
        ("longshore_retries_refused_total{entity=\"xact-retry\",reason=\"too_far\"}", 1),
        ("longshore_retries_refused_total{entity=\"xact-retry\",reason=\"attempts\"}", 1),
        ("longshore_retries_refused_total{entity=\"xact-retry\",reason=\"not_allowed\"}", 1),
        ("longshore_retries_refused_total{entity=\"xact-retry\",reason=\"loop\"}", 1),
        ("longshore_retries_refused_total{entity=\"xact-retry\",reason=\"unknown_target\"}", 1),
    ] {
        assert!(shown.contains(&format!("{line} {count}\n")), "{line} {count} is not in\n{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_down_holds_up_its_own_events_alone_and_loses_none() {
    let stage = Stage::new(&["down", "up"]);
    let begun = Instant::now();
    for number in 0..300 {
        stage.publish_due_in("down", Duration::ZERO, &format!("{number:03}"));
        stage.publish_due_in("up", Duration::ZERO, &format!("{number:03}"));
    }
    stage.hubs["down"].fail_sends(usize::MAX, ErrorClass::Transient);
    let handle = stage.start();
    until("the others", || handle.snapshot().counts.done == 300).await;
    assert!(begun.elapsed() < 60 * SECOND, "{:?}", begun.elapsed());
    let all: Vec<_> = (0..300).map(|number| format!("{number:03}")).collect();
    assert_eq!(stage.bodies("up").await, all);
    // Its events are parked after a while, all but the one that tries it.
    until("the watermark goes on", || handle.snapshot().partitions[0].unsettled_events <= 5).await;
    sleep(HOUR).await;
    assert_eq!(stage.records(FailureKind::Dead).await, []);
    stage.hubs["down"].fail_sends(0, ErrorClass::Transient);
    until("all of it", || handle.snapshot().counts.done == 600).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(stage.bodies("down").await, all);
    assert_eq!(stage.records(FailureKind::Dead).await, []);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_waited_for_two_days_is_not_given_up_at_the_first_failure() {
    for (is_fitted, dead) in [(true, 0), (false, 1)] {
        let stage = Stage::new(&["pending"]);
        stage.publish_due_in("pending", 48 * HOUR, "late");
        let options = ConsumerOptions::default();
        let fitted = stage.options.fit(options.clone());
        let handle = stage.start_with(if is_fitted { fitted } else { options });
        settled(&handle, 0).await;
        // Both attempts of one send.
        stage.hubs["pending"].fail_sends(2, ErrorClass::Transient);
        let ended = || {
            let counts = handle.snapshot().counts;
            counts.done + counts.dead_letters == 1
        };
        until("published or given up", ended).await;
        assert!(drained(handle).await.is_clean());
        assert_eq!(stage.records(FailureKind::Dead).await.len(), dead, "fitted: {is_fitted}");
        assert_eq!(stage.events("pending").await.len(), 1 - dead);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_takes_nothing_is_a_dead_letter_and_is_asked_again_for_the_next_event() {
    let stage = Stage::new(&["pending"]);
    stage.hubs["pending"].fail_sends(1, ErrorClass::Permanent);
    stage.publish_due_in("pending", Duration::ZERO, "first");
    let handle = stage.start();
    settled(&handle, 0).await;
    stage.publish_due_in("pending", Duration::ZERO, "second");
    settled(&handle, 1).await;
    assert!(drained(handle).await.is_clean());
    let letters = stage.records(FailureKind::Dead).await;
    assert!(letters[0].error.message.starts_with("its target pending cannot be published to: "));
    assert_eq!((letters.len(), stage.bodies("pending").await), (1, vec!["second".to_owned()]));
}
