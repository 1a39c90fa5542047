//! `longshore retry-scheduler` as a service manager runs it, over the broker in the box.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code)]

#[path = "../../../../tests/azurite/mod.rs"]
mod azurite;
#[path = "../../../../tests/support/broker.rs"]
mod broker;
#[path = "../command/mod.rs"]
mod command;
#[path = "../../../../tests/support/every_type.rs"]
mod every_type;
#[path = "../../../../tests/support/waiting.rs"]
mod waiting;

use std::future::poll_fn;
use std::time::{Duration, SystemTime};

use longshore::dead_letter::record::DeadLetterRecord;
use longshore::event::{Properties, Value};
use longshore::failure_store::folder::FolderFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore, MAX_PAGE_ENTRIES};
use longshore::timestamp::{rfc3339, unix_millis};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};
use longshore::transport::{LinkStart, OpenLink, Publisher, SendTarget, Transport};
use longshore::{Event, OutgoingEvent};
use longshore_emulator::{Emulator, HubOptions};

use azurite::{ALL, Container};
use command::{Running, longshore, start};
use waiting::within;

/// Looked for in everything that is printed.
const KEY: &str = "Y2FuYXJ5LWtleQ==";

/// At once, on a busy machine. What does not end at once here ends in minutes or never.
const PROMPT: Duration = Duration::from_secs(60);

const HUBS: [(&str, u32); 5] =
    [("xact-retry", 2), ("claimx-retry", 1), ("pending", 1), ("results", 1), ("letters", 1)];

struct Stage {
    broker: Emulator,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let keys = [("everything", KEY)];
        let mut builder = broker::patient().require_tokens().shared_access_keys(keys);
        for (name, partitions) in HUBS {
            builder = builder.hub_with(HubOptions::new(name, partitions));
        }
        let broker = builder.start().await.unwrap();
        Self { broker, dir: tempfile::tempdir().unwrap() }
    }

    fn start(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Running {
        let mut command = longshore();
        command.current_dir(self.dir.path()).arg("retry-scheduler").args(arguments);
        command.env("EVENTHUB_CONNECTION_STRING", self.broker.connection_string(None));
        for (key, value) in environment {
            command.env(key, value);
        }
        start(&mut command)
    }

    /// `longshore parked` with the settings of this stage.
    fn parked(&self, arguments: &[&str]) -> Running {
        let mut command = longshore();
        command.current_dir(self.dir.path()).arg("parked").args(arguments);
        start(command.env("EVENTHUB_CONNECTION_STRING", self.broker.connection_string(None)))
    }

    async fn publish(&self, hub: &str, partition: &str, events: Vec<OutgoingEvent>) {
        let publisher = EventHubsPublisher::new(broker::namespace(&self.broker), hub);
        let target = SendTarget::Partition(partition.into());
        within("publishing", publisher.send_batch(target, events)).await.unwrap();
    }

    fn transport(&self, hub: &str) -> EventHubsTransport {
        EventHubsTransport::new(broker::namespace(&self.broker), hub, "$Default")
    }

    /// Waits until a hub has so many events.
    async fn until(&self, hub: &str, count: usize) {
        within("the events", async {
            while broker::log_end(&self.transport(hub), "0").await < count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    /// The first events of a hub.
    async fn events(&self, hub: &str, count: usize) -> Vec<Event> {
        let open = OpenLink::new("0".into(), LinkStart::FirstEvent, 300);
        let mut link = self.transport(hub).open(open).await.unwrap();
        let mut events = Vec::new();
        while events.len() < count {
            let polled = poll_fn(|cx| link.poll_receive(cx, 300, &mut events));
            within("the events", polled).await.unwrap();
        }
        assert_eq!(events.len(), count);
        events
    }

    async fn records(&self, kind: FailureKind) -> Vec<DeadLetterRecord> {
        let folder = self.dir.path().join("longshore-state/failures");
        let store = FolderFailureStore::open(folder).unwrap();
        let page = store.list(&FailurePrefix::all(kind), None, MAX_PAGE_ENTRIES).await.unwrap();
        let mut records = Vec::new();
        for listed in page.entries {
            let stored = store.read(&listed.unwrap().key).await.unwrap().unwrap();
            records.push(stored.record().unwrap());
        }
        records
    }

    /// Whether the dead letters say why each of [`bad`] cannot be scheduled.
    async fn expect_reasons(&self) {
        let said: Vec<String> = self
            .records(FailureKind::Dead)
            .await
            .iter()
            .map(|letter| letter.error.message.clone())
            .collect();
        for (letter, said_of_it) in said.iter().zip([
            "claimx-retry is a hub that the scheduler reads",
            "its target nowhere cannot be published to: ",
            "the worker download writes its dead letters there",
            "its target secret is not among those that are allowed",
            "it has no property target_topic",
            "scheduled_retry_time is 'true', which is not a time",
            "an event may wait for at most 30 days",
        ]) {
            assert!(letter.contains(said_of_it), "{said_of_it:?} is not {letter:?}");
        }
    }

    /// Whether these are what `pending` has, in any order.
    async fn expect_published(&self, originals: &[OutgoingEvent]) {
        let content = |event: &OutgoingEvent| every_type::content(event).to_string();
        let mut expected: Vec<_> = originals.iter().map(content).collect();
        let published = self.events("pending", originals.len()).await;
        let mut published: Vec<_> =
            published.iter().map(|event| content(&OutgoingEvent::copy_of(event))).collect();
        expected.sort();
        published.sort();
        for (published, expected) in published.iter().zip(&expected) {
            assert_eq!(published, expected);
        }
    }
}

fn to(target: &str, event: OutgoingEvent) -> OutgoingEvent {
    event.with_property("target_topic", target)
}

fn in_time(wait: Duration) -> SystemTime {
    SystemTime::now() + wait
}

/// Events that cannot be scheduled.
fn bad() -> [OutgoingEvent; 7] {
    let text = |text: &str| OutgoingEvent::new(text.to_owned());
    [
        to("claimx-retry", text("a loop")),
        to("nowhere", text("no such hub")),
        to("letters", text("dead letters")),
        to("secret", text("not allowed")),
        text("no target"),
        to("pending", text("no time")).with_property("scheduled_retry_time", true),
        to("pending", text("a century")).with_property(
            "scheduled_retry_time",
            Value::Timestamp(unix_millis(in_time(Duration::from_secs(100 * 365 * 86_400)))),
        ),
    ]
}

const FROM_BOTH: [&str; 6] = ["--from", "xact-retry", "--from", "claimx-retry", "--report", "json"];

#[tokio::test(flavor = "multi_thread")]
async fn retries_of_two_hubs_go_where_they_belong_when_they_are_due_over_a_restart() {
    let stage = Stage::new().await;
    let originals = every_type::events();
    let due_now: Vec<_> = originals
        .iter()
        .map(|event| {
            to("pending", event.clone())
                .with_property("scheduled_retry_time", rfc3339(SystemTime::now()))
        })
        .collect();
    stage.publish("xact-retry", "1", due_now).await;
    // Parked, and then there is another scheduler.
    let due = in_time(Duration::from_secs(3_600));
    let text = |text: &str| OutgoingEvent::new(text.to_owned());
    let later =
        to("Pending", text("later")).with_property("scheduled_retry_time", unix_millis(due));
    let soon = to("a-topic", text("soon")).with_property("retry_delay_seconds", "2");
    stage.publish("claimx-retry", "0", vec![later.with_property("original_key", "k"), soon]).await;
    let bad = bad();
    stage.publish("xact-retry", "0", bad.to_vec()).await;

    let allow = ["pending", "nowhere", "letters", "claimx-retry", "a-topic"];
    let arguments: Vec<&str> =
        FROM_BOTH.into_iter().chain(allow.iter().flat_map(|name| ["--allow", name])).collect();
    let environment = [
        ("LONGSHORE_TOPICS_DEAD_ENTITY", "letters"),
        ("LONGSHORE_WORKER_DOWNLOAD_DEAD_LETTERS", "dead"),
        ("LONGSHORE_NAMESPACES_OTHER_CONNECTION_STRING", &stage.broker.connection_string(None)),
        ("LONGSHORE_TOPICS_A_TOPIC_NAMESPACE", "other"),
        ("LONGSHORE_TOPICS_A_TOPIC_ENTITY", "results"),
    ];
    let scheduler = stage.start(&arguments, &environment);
    scheduler.wait_until_said("ready, with 3 partitions");
    stage.until("pending", originals.len()).await;
    stage.until("results", 1).await;
    within("the bad ones", async {
        while stage.records(FailureKind::Dead).await.len() < bad.len() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    scheduler.terminate();
    let ended = scheduler.end_within(PROMPT).expect_code(0);
    assert_eq!(ended.figure("published"), originals.len() as u64 + 1, "{ended:#?}");
    assert_eq!(ended.report()["targets"]["pending"], originals.len(), "{ended:#?}");
    assert_eq!(ended.report()["targets"]["results"], 1, "{ended:#?}");
    assert_eq!((ended.figure("dead_letters"), ended.figure("parked")), (bad.len() as u64, 1));
    assert!(!format!("{ended:?}").contains(KEY), "{ended:#?}");
    let port = stage.broker.local_addr().port();
    let ended = ended
        .expect_said(&format!("reads hub xact-retry at localhost:{port}, consumer group $Default"));
    ended.expect_said("what is due later than 5s waits in longshore-state/failures");

    stage.expect_reasons().await;
    stage.expect_published(&originals).await;

    // To wait for no hour: it is made due, and the next scheduler reads its time elsewhere.
    let retried = stage.parked(&["retry", "--all"]).end_within(PROMPT).expect_code(0);
    assert!(retried.stdout.starts_with("1 event"), "{retried:#?}");
    let elsewhere = [&FROM_BOTH[..], &["--due-property", "another_time"]].concat();
    let scheduler = stage.start(&elsewhere, &[]);
    stage.until("pending", originals.len() + 1).await;
    scheduler.terminate();
    let ended = scheduler.end_within(PROMPT).expect_code(0);
    assert_eq!((ended.figure("published"), ended.figure("dead_letters")), (1, 0), "{ended:#?}");
    let all = stage.events("pending", originals.len() + 1).await;
    let last = all.last().unwrap();
    assert_eq!((&last.body()[..], last.key()), (&b"later"[..], Some("k")));
    let left = Properties::from([("scheduled_retry_time".to_owned(), unix_millis(due).into())]);
    assert_eq!(last.properties(), &left, "what is no property of the scheduler's");
    assert!(stage.records(FailureKind::Parked).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn schedulers_share_the_hubs_where_their_checkpoints_are_in_a_container() {
    let (stage, container) = (Stage::new().await, Container::create().await);
    let environment = [
        ("LONGSHORE_CHECKPOINT_CONTAINER", container.url(ALL)),
        ("LONGSHORE_HEARTBEAT_INTERVAL", "200ms".to_owned()),
        ("LONGSHORE_LOOK_INTERVAL", "200ms".to_owned()),
    ];
    let environment = environment.each_ref().map(|(key, value)| (*key, value.as_str()));
    let publish = async |numbers: std::ops::Range<usize>| {
        for (hub, partition) in [("xact-retry", "0"), ("xact-retry", "1"), ("claimx-retry", "0")] {
            let name = |number| format!("{hub} {partition} {number}");
            let events =
                numbers.clone().map(|number| to("pending", OutgoingEvent::new(name(number))));
            stage.publish(hub, partition, events.collect()).await;
        }
    };
    let start = || stage.start(&FROM_BOTH, &environment);
    let (one, other) = (start(), start());
    one.wait_until_said("shared with other schedulers");
    for scheduler in [&one, &other] {
        scheduler.wait_until_said("ready, with");
    }
    publish(0..20).await;
    stage.until("pending", 60).await;
    one.terminate();
    let first = one.end_within(PROMPT).expect_code(0);
    // The other has all of them now.
    publish(20..40).await;
    stage.until("pending", 120).await;
    other.terminate();
    let second = other.end_within(PROMPT).expect_code(0);
    assert_eq!(first.figure("published") + second.figure("published"), 120, "none twice");
    assert!(!format!("{first:?}{second:?}").contains("sig="), "{first:#?} {second:#?}");
    let events = stage.events("pending", 120).await;
    let bodies: std::collections::BTreeSet<_> =
        events.iter().map(|event| event.body().clone()).collect();
    assert_eq!(bodies.len(), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_that_cannot_be_used_says_what_and_why() {
    let stage = Stage::new().await;
    let one = ["--from", "xact-retry"];
    for (arguments, environment, said) in [
        (
            vec!["--from", "xact-retry", "--from", "XACT-RETRY"],
            vec![],
            "--from XACT-RETRY: the hub is named twice",
        ),
        (
            [&one[..], &["--key-property", "retry_count"]].concat(),
            vec![],
            "--key-property retry_count cannot be used: another property has that name",
        ),
        ([&one[..], &["--due-property", ""]].concat(), vec![], "--due-property '' cannot be used"),
        (
            [&one[..], &["--max-delay", "10ms"]].concat(),
            vec![],
            "--max-delay 10ms cannot be used: it must be from 1 s",
        ),
        ([&one[..], &["--max-delay", "9000h"]].concat(), vec![], "it must be at most a year"),
        ([&one[..], &["--max-attempts", "0"]].concat(), vec![], "0 is not in 1.."),
        (vec![], vec![], "--from <HUB>"),
        (
            one.to_vec(),
            vec![("LONGSHORE_ORDERING", "per-key")],
            "LONGSHORE_ORDERING must be unordered",
        ),
        (
            one.to_vec(),
            vec![("PIPELINE_TRANSPORT", "memory")],
            "has no retries that others publish",
        ),
        (
            vec!["--from", "dead"],
            vec![
                ("LONGSHORE_TOPICS_DEAD_ENTITY", "letters"),
                ("LONGSHORE_WORKER_DOWNLOAD_DEAD_LETTERS", "dead"),
            ],
            "--from dead cannot be read: the worker download writes its dead letters there",
        ),
    ] {
        let ended = stage.start(&arguments, &environment).end_within(PROMPT);
        ended.expect_code(2).expect_said(said);
    }
    let bound = stage.broker.connection_string(Some("xact-retry"));
    let other = [("EVENTHUB_CONNECTION_STRING", bound.as_str())];
    let ended = stage.start(&["--from", "claimx-retry"], &other).end_within(PROMPT).expect_code(2);
    ended.expect_said("the connection string opens the hub xact-retry alone");
}
