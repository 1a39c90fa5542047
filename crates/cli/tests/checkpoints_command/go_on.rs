//! What longshore writes, processors of other SDKs go on from: after every kind of checkpoint, a
//! Python and a JavaScript processor receive the right event first, of every partition.
//!
//! A hub for each kind of writer, a partition for each state of a log: full, trimmed, never used,
//! and emptied by retention. Then each log gets two more events, and what the processors begin with
//! is compared. They are the clients as they are published, which scripts/test installs; what they
//! do is in `tests/foreign_clients/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use azure_core::time::{OffsetDateTime, to_rfc3339};
use futures::future::join_all;
use longshore::checkpoint_store::blob::BlobCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected,
};
use longshore::config::PositionLost;
use longshore::event::{SequenceNumber, StartPosition};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{Publisher, SendTarget, Transport};
use longshore::{BatchConsumer, ConsumerOptions, Event, EventContext, Failure, OutgoingEvent};
use longshore_emulator::Emulator;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::azurite::{self, ALL, Container};
use crate::broker;
use crate::command::{longshore, start};
use crate::stage::{at, with_holes};
use crate::support::{LIMIT, within};

/// Enough of what is there for the others to be in its middle.
const EVENTS: usize = 10;

/// The states of a log: the partition of each, in the hubs of workers.
const FULL: u32 = 0;
const TRIMMED: u32 = 1;
const NEVER_USED: u32 = 2;
const EMPTIED: u32 = 3;
const STATES: u32 = 4;

/// Where the trimmed log begins.
const BEGIN: i64 = 4;

/// The first number of each partition that a processor is to receive, by hub.
type Firsts = BTreeMap<String, BTreeMap<String, i64>>;

struct Ground {
    broker: Emulator,
    namespace: Namespace,
    container: Container,
    dir: tempfile::TempDir,
    /// Between the first half of the events and the second.
    between: SystemTime,
}

impl Ground {
    async fn new(hubs: &[(&str, u32)]) -> Self {
        let mut builder = broker::patient();
        for (hub, partitions) in hubs {
            let hub = longshore_emulator::HubOptions::new(*hub, *partitions);
            builder = builder.hub_with(hub.consumer_groups(["billing"]));
        }
        let broker = builder.start().await.unwrap();
        let namespace = Namespace::from_connection_string(&broker.connection_string(None)).unwrap();
        let mut ground = Self {
            broker,
            namespace,
            container: Container::create().await,
            dir: tempfile::tempdir().unwrap(),
            between: SystemTime::UNIX_EPOCH,
        };
        ground.publish_halves(hubs).await;
        ground
    }

    /// Two halves, with a time between them that is neither's. What is never used stays so.
    async fn publish_halves(&mut self, hubs: &[(&str, u32)]) {
        let used = |hub: &&str, partition: u32| match *hub {
            "orders" => partition != commands::EMPTY,
            _ => partition != NEVER_USED,
        };
        for half in 0..2 {
            if half == 1 {
                // The clock of the broker, in milliseconds, has to pass.
                sleep(Duration::from_millis(20)).await;
                self.between = SystemTime::now();
                sleep(Duration::from_millis(20)).await;
            }
            self.publish(hubs, EVENTS / 2, used).await;
        }
        sleep(Duration::from_millis(20)).await;
        for (hub, _) in hubs {
            let trims = match *hub {
                "orders" => commands::TRIMS,
                _ => &[(TRIMMED, BEGIN), (EMPTIED, EVENTS as i64)],
            };
            for (partition, before) in trims {
                self.broker.faults().trim_log(hub, *partition, *before).unwrap();
            }
        }
    }

    async fn publish(
        &self,
        hubs: &[(&str, u32)],
        count: usize,
        wanted: impl Fn(&&str, u32) -> bool,
    ) {
        join_all(hubs.iter().map(async |(hub, partitions)| {
            let publisher = EventHubsPublisher::new(self.namespace.clone(), *hub);
            let wanted = (0..*partitions).filter(|partition| wanted(hub, *partition));
            let sends = wanted.map(|partition| {
                let events = (0..count).map(|_| OutgoingEvent::new("x")).collect();
                let target = SendTarget::Partition(partition.to_string().into());
                publisher.send_batch(target, events)
            });
            join_all(sends).await.into_iter().for_each(|sent| sent.unwrap());
            publisher.close().await;
        }))
        .await;
    }

    fn transport(&self, hub: &str) -> EventHubsTransport {
        EventHubsTransport::new(self.namespace.clone(), hub, "$Default")
    }

    fn store(&self) -> BlobCheckpointStore {
        self.container.store(ALL)
    }

    fn key(&self, hub: &str, partition: u32) -> CheckpointKey {
        CheckpointKey {
            scope: CheckpointScope {
                namespace: self.namespace.name().to_owned(),
                entity: hub.into(),
                consumer_group: "$Default".into(),
            },
            partition: partition.to_string().into(),
        }
    }

    async fn write(&self, hub: &str, partition: u32, checkpoint: &Checkpoint) {
        let key = self.key(hub, partition);
        self.store().store(&key, checkpoint, &Expected::Absent).await.unwrap();
    }

    /// The metadata of each checkpoint of a hub, as others read it.
    async fn offset(&self, hub: &str, partition: u32) -> Option<String> {
        let blob = format!("{}/{hub}/$default/checkpoint/{partition}", self.namespace.name());
        self.container.metadata(&blob).await.map(|mut metadata| metadata.remove("offset").unwrap())
    }

    /// `longshore checkpoints` with these arguments, which must succeed.
    async fn run(&self, group: &str, arguments: &[&str]) {
        let mut command = longshore();
        command.env_clear().current_dir(self.dir.path()).arg("checkpoints").args(arguments);
        command.env("EVENTHUB_CONNECTION_STRING", self.broker.connection_string(Some("orders")));
        command.env("EVENTHUB_CONSUMER_GROUP", group);
        command.env("LONGSHORE_CHECKPOINT_CONTAINER", self.container.url(ALL));
        let ended = tokio::task::spawn_blocking(move || start(&mut command).end()).await.unwrap();
        println!("$ {arguments:?}\n{}{}", ended.stdout, ended.stderr);
        let ended = ended.expect_code(0);
        assert!(!ended.stdout.contains("not known"), "{ended:#?}");
    }
}

/// The kinds of checkpoints that `longshore checkpoints` writes, a partition each.
mod commands {
    use super::*;

    pub(super) const EMPTY: u32 = 8;
    pub(super) const TRIMS: &[(u32, i64)] = &[(3, BEGIN), (4, BEGIN), (6, BEGIN), (9, 10)];
    pub(super) const PARTITIONS: u32 = 21;

    /// Writes them all; returns the next event of each partition.
    pub(super) async fn write(ground: &Ground) -> BTreeMap<String, i64> {
        let time = |time: SystemTime| to_rfc3339(&OffsetDateTime::from(time));
        let between = time(ground.between);
        let after_all = time(SystemTime::now());
        let hub = ground.transport("orders").hub_properties().await.unwrap().incarnation;
        // What is there before does not show through.
        ground.write("orders", 14, &with_holes(7, hub)).await;
        let blob = format!("{}/orders/$default/checkpoint/15", ground.namespace.name());
        ground.container.put(&blob, &[("offset", ""), ("sequencenumber", "soon")]).await;
        let written: &[(u32, &[&str], i64)] = &[
            (0, &["set", "--sequence", "3"], 4),
            (1, &["set", "--sequence", "-1"], 0),
            (2, &["set", "--sequence", "9"], 10),
            (3, &["set", "--sequence", "1"], BEGIN),
            (4, &["set", "--sequence", "6"], 7),
            (5, &["reset", "--to", "earliest"], 0),
            (6, &["reset", "--to", "earliest"], BEGIN),
            (7, &["reset", "--to", "latest"], 10),
            (EMPTY, &["reset", "--to", "latest"], 0),
            (9, &["reset", "--to", "latest"], 10),
            (10, &["reset", "--to", "5"], 5),
            (11, &["reset", "--to", &between], 5),
            (12, &["reset", "--to", "2020-01-01T00:00:00Z"], 0),
            (13, &["reset", "--to", &after_all], 10),
            (14, &["reset", "--to", "6"], 6),
            (15, &["reset", "--force", "--to", "2"], 2),
            // Not there yet: they go on behind what is.
            (20, &["set", "--force", "--sequence", "50"], 10),
        ];
        let mut next = BTreeMap::new();
        for (partition, arguments, first) in written {
            let partition = partition.to_string();
            ground.run("$Default", &[*arguments, &["--partition", &partition]].concat()).await;
            next.insert(partition, *first);
        }
        // A copy from another group, and lines that an earlier release, or a person, wrote.
        ground.run("billing", &["set", "--partition", "16", "--sequence", "3"]).await;
        ground.run("billing", &["export", "--to", "kept.jsonl"]).await;
        let file = ground.dir.path().join("kept.jsonl");
        let kept = fs::read_to_string(&file).unwrap().replace("\"billing\"", "\"$Default\"");
        let mut line: Value = serde_json::from_str(kept.trim()).unwrap();
        assert!(line["offset"].is_string(), "{line}");
        let mut lines = kept;
        for (partition, settled, first) in
            [("17", Value::from(5), 6), ("18", Value::Null, 0), ("19", Value::from(9), 10)]
        {
            (line["partition"], line["offset"]) = (partition.into(), Value::Null);
            line["sequence_number"] = settled;
            lines.push_str(&format!("{line}\n"));
            next.insert(partition.to_owned(), first);
        }
        next.insert("16".to_owned(), 4);
        fs::write(&file, lines).unwrap();
        ground.run("$Default", &["import", "--from", "kept.jsonl"]).await;
        next
    }
}

/// A worker that writes checkpoints, and the first event of each state that they leave.
struct Writer {
    hub: &'static str,
    start: StartPosition,
    lost: PositionLost,
    /// What is there before, in each state.
    before: Option<[i64; 4]>,
    /// Handled; the rest is in flight when it ends.
    handles: fn(i64) -> bool,
    firsts: [i64; 4],
}

impl Writer {
    fn starts(hub: &'static str, start: StartPosition, firsts: [i64; 4]) -> Self {
        let lost = PositionLost::Stop;
        Self { hub, start, lost, before: None, handles: |_| false, firsts }
    }

    fn after(self, before: [i64; 4], lost: PositionLost) -> Self {
        Self { before: Some(before), lost, ..self }
    }

    fn handling(self, handles: fn(i64) -> bool) -> Self {
        Self { handles, ..self }
    }

    /// Runs until each partition is claimed, and what it handles is checkpointed.
    async fn work(&self, ground: &Ground) {
        let transport = ground.transport(self.hub);
        let incarnation = transport.hub_properties().await.unwrap().incarnation;
        for (partition, before) in (0..).zip(self.before.into_iter().flatten()) {
            // As releases before this one wrote it: without an offset.
            let checkpoint = Checkpoint { incarnation: Some(incarnation), ..at(before) };
            ground.write(self.hub, partition, &checkpoint).await;
        }
        let mut options = ConsumerOptions::default();
        options.start_position = self.start;
        options.position_lost = self.lost;
        options.drain_timeout = Duration::from_millis(50);
        let handles = self.handles;
        let store = Arc::new(ground.store());
        let mut handle = BatchConsumer::builder(Arc::new(transport), store.clone())
            .options(options)
            .event_handler(move |event: Event, _: EventContext| async move {
                if !handles(event.sequence_number().0) {
                    std::future::pending::<()>().await;
                }
                Ok::<(), Failure>(())
            })
            .unwrap()
            .start();
        let deadline = Instant::now() + LIMIT;
        let mut settled = [const { None }; STATES as usize];
        while settled.iter().any(Option::is_none) {
            assert!(Instant::now() < deadline, "{}: {settled:?}", self.hub);
            sleep(Duration::from_millis(20)).await;
            for (partition, settled) in (0..).zip(&mut settled) {
                let stored = store.load(&ground.key(self.hub, partition)).await.unwrap();
                let stored = stored.map(|stored| stored.checkpoint);
                let to = |checkpoint: &Checkpoint| {
                    checkpoint.watermark.as_ref().map_or(-1, |at| at.sequence_number.0)
                };
                let first = self.firsts[partition as usize];
                // What has events has to be handled.
                let waits = handles(0) && matches!(partition, FULL | TRIMMED);
                *settled = stored.filter(|checkpoint| {
                    checkpoint.lease_epoch.0 > 0 && (!waits || to(checkpoint) + 1 >= first)
                });
            }
        }
        handle.drain();
        within("the worker's end", handle.join()).await;
    }
}

fn writers(between: SystemTime) -> Vec<Writer> {
    let time = StartPosition::EnqueuedAt;
    let number = |number| StartPosition::SequenceNumber(SequenceNumber(number));
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    use StartPosition::{Earliest, Latest};
    vec![
        Writer::starts("at-earliest", Earliest, [0, BEGIN, 0, 10]),
        Writer::starts("at-latest", Latest, [10, 10, 0, 10]),
        Writer::starts("at-6", number(6), [6, 6, 0, 10]),
        Writer::starts("at-2", number(2), [2, BEGIN, 0, 10]),
        Writer::starts("at-50", number(50), [10, 10, 0, 10]),
        Writer::starts("between", time(between), [5, 5, 0, 10]),
        Writer::starts("before-all", time(past), [0, BEGIN, 0, 10]),
        Writer::starts("after-all", time(SystemTime::now()), [10, 10, 0, 10]),
        Writer::starts("lost-latest", Earliest, [10, 10, 0, 10])
            .after([50, 50, 50, 50], PositionLost::Latest),
        Writer::starts("lost-earliest", Latest, [0, BEGIN, 0, 10])
            .after([50, 50, 50, 50], PositionLost::Earliest),
        Writer::starts("claimed", Latest, [7, 7, 0, 10]).after([6, 6, -1, -1], PositionLost::Stop),
        Writer::starts("worked", Earliest, [10, 10, 0, 10]).handling(|_| true),
        Writer::starts("holed", Earliest, [7, 7, 0, 10]).handling(|number| number != 7),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_of_other_sdks_go_on_from_every_kind_of_checkpoint() {
    let kinds = writers(SystemTime::UNIX_EPOCH);
    let mut hubs: Vec<(&str, u32)> = kinds.iter().map(|kind| (kind.hub, STATES)).collect();
    hubs.push(("orders", commands::PARTITIONS));
    let ground = Ground::new(&hubs).await;
    let kinds = writers(ground.between);
    let of_commands = async { commands::write(&ground).await };
    let of_workers = join_all(kinds.iter().map(|kind| kind.work(&ground)));
    let (of_commands, _) = tokio::join!(of_commands, of_workers);

    let mut expected = Firsts::new();
    for kind in &kinds {
        let firsts = (0..STATES).map(|state| (state.to_string(), kind.firsts[state as usize]));
        expected.insert(kind.hub.to_owned(), firsts.collect());
    }
    expected.insert("orders".to_owned(), of_commands);
    for (hub, partitions) in &hubs {
        for partition in 0..*partitions {
            let offset = ground.offset(hub, partition).await;
            assert!(
                offset.as_ref().is_some_and(|it| !it.is_empty()),
                "{hub}/{partition}: {offset:?}"
            );
        }
    }
    // So that each has a next event.
    ground.publish(&hubs, 2, |_, _| true).await;
    for processor in [python, javascript] {
        let received = received(processor(&ground), &ground, &hubs).await;
        assert_eq!(received, expected);
    }
    ground.broker.shutdown().await.unwrap();
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What `scripts/test` installs.
fn installed(path: &str) -> PathBuf {
    let path = root().join("target/foreign-clients").join(path);
    assert!(path.exists(), "{} is missing: scripts/test installs it", path.display());
    path
}

/// Its store is the one of the SDK, and so is the path: the port is a part of it.
fn python(ground: &Ground) -> Command {
    let mut command = Command::new(installed("python/bin/python"));
    command.arg(root().join("tests/foreign_clients/python/first_events.py"));
    command.arg(azurite::connection_string()).arg(ground.container.name());
    command
}

/// Its store is in the script. This client leaves the port out of the path.
fn javascript(ground: &Ground) -> Command {
    let mut command = Command::new("node");
    command.arg(root().join("tests/foreign_clients/javascript/first_events.mjs"));
    command.arg(installed("javascript"));
    command.arg(ground.container.url(ALL));
    command
}

/// What a processor receives first of each partition.
async fn received(mut command: Command, ground: &Ground, hubs: &[(&str, u32)]) -> Firsts {
    let hubs: Vec<String> = hubs.iter().map(|(hub, count)| format!("{hub}:{count}")).collect();
    command.arg(ground.broker.connection_string(None)).arg(hubs.join(","));
    command.stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    let complaints = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}\n{complaints}");
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said}\n{complaints}"))
}
