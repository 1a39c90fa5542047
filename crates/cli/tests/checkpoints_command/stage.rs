//! A broker with a hub, a place for checkpoints, and the command between them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use std::sync::Arc;

use longshore::checkpoint_store::blob::BlobCheckpointStore;
use longshore::checkpoint_store::file::FileCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, SettledRun,
};
use longshore::consumer::BatchConsumerBuilder;
use longshore::event::{Incarnation, Position, SequenceNumber};
use longshore::lease_store::blob::BlobLeaseStore;
use longshore::lease_store::{Holder, LeaseStore, Member, OwnerId, Ownership};
use longshore::secret::Secret;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{
    HubProperties, LinkStart, LogProperties, Publisher, SendTarget, Transport,
};
use longshore::{BatchConsumer, Event, EventContext, Failure, OutgoingEvent};
use longshore_emulator::{Emulator, HubOptions};
use serde_json::Value;

use crate::azurite::{ALL, Container};
use crate::broker;
use crate::command::{Ended, let_go, longshore, start};
use crate::support::{Seen, drained, until, within};

/// Looked for in everything that is printed.
const KEY: &str = "Y2FuYXJ5LWtleQ==";

/// Where checkpoints are.
pub(crate) enum Place {
    /// In the folder below the working directory that is the default.
    Folder,
    Container(Container),
}

/// See the module.
pub(crate) struct Stage {
    pub(crate) broker: Emulator,
    pub(crate) place: Place,
    pub(crate) dir: tempfile::TempDir,
    publisher: EventHubsPublisher,
    transport: EventHubsTransport,
    environment: Vec<(String, String)>,
}

impl Stage {
    pub(crate) async fn over_a_folder(partitions: u32) -> Self {
        Self::new(partitions, Place::Folder).await
    }

    pub(crate) async fn over_a_container(partitions: u32) -> Self {
        Self::new(partitions, Place::Container(Container::create().await)).await
    }

    pub(crate) async fn new(partitions: u32, place: Place) -> Self {
        let hub = HubOptions::new("orders", partitions).consumer_groups(["billing"]);
        let builder = broker::patient().hub_with(hub).require_tokens();
        let broker = builder.shared_access_keys([("everything", KEY)]).start().await.unwrap();
        let string = broker.connection_string(Some("orders"));
        let namespace = Namespace::from_connection_string(&string).unwrap();
        let mut environment = vec![("EVENTHUB_CONNECTION_STRING".to_owned(), string)];
        if let Place::Container(container) = &place {
            let url = container.url(ALL);
            environment.push(("LONGSHORE_CHECKPOINT_CONTAINER".to_owned(), url));
        }
        Self {
            broker,
            place,
            dir: tempfile::tempdir().unwrap(),
            publisher: EventHubsPublisher::new(namespace.clone(), "orders"),
            transport: EventHubsTransport::new(namespace, "orders", "$Default"),
            environment,
        }
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.environment.retain(|(known, _)| known != key);
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    pub(crate) async fn publish(&self, partition: &str, count: usize) {
        let events = (0..count).map(|_| OutgoingEvent::new("x")).collect();
        let target = SendTarget::Partition(partition.into());
        self.publisher.send_batch(target, events).await.unwrap();
    }

    pub(crate) async fn hub(&self) -> HubProperties {
        self.transport.hub_properties().await.unwrap()
    }

    pub(crate) async fn log(&self, partition: &str) -> LogProperties {
        self.transport.log_properties(&partition.into()).await.unwrap()
    }

    pub(crate) async fn last_offset(&self, partition: &str) -> String {
        self.log(partition).await.last_enqueued_offset.unwrap().as_str().to_owned()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("longshore-state/checkpoints")
    }

    /// The store, which may not outlive a call over a folder.
    pub(crate) fn store(&self) -> Box<dyn CheckpointStore> {
        match &self.place {
            Place::Folder => Box::new(FileCheckpointStore::open(self.folder()).unwrap()),
            Place::Container(container) => Box::new(blobs(container)),
        }
    }

    pub(crate) async fn write(&self, partition: &str, checkpoint: &Checkpoint) {
        let (store, key) = (self.store(), self.key(partition));
        let stored = store.load(&key).await.unwrap();
        let expected = stored.map_or(Expected::Absent, |stored| Expected::Version(stored.version));
        store.store(&key, checkpoint, &expected).await.unwrap();
        let_go(store);
    }

    pub(crate) async fn read(&self, partition: &str) -> Option<Checkpoint> {
        let store = self.store();
        let stored = store.load(&self.key(partition)).await.unwrap();
        let_go(store);
        stored.map(|stored| stored.checkpoint)
    }

    /// The watermark's number.
    pub(crate) async fn settled_to(&self, partition: &str) -> Option<i64> {
        Some(self.read(partition).await?.watermark?.sequence_number.0)
    }

    pub(crate) async fn own(&self, partition: &str, holder: Holder) {
        let mut ownership = Ownership::default();
        ownership.holder = holder;
        let leases = self.leases();
        leases.store(&self.key(partition), &ownership, &Expected::Absent).await.unwrap();
    }

    /// A heartbeat of this worker.
    pub(crate) async fn beat(&self, owner: &str) {
        let owner = OwnerId::new(owner);
        let member = Member { owner, wants: BTreeSet::new(), leaving: false };
        self.leases().write_member(&self.scope(), &member).await.unwrap();
    }

    fn leases(&self) -> BlobLeaseStore {
        let Place::Container(container) = &self.place else { panic!("a folder has no leases") };
        BlobLeaseStore::with_signature(&Secret::new(container.url(ALL))).unwrap()
    }

    /// Runs `longshore checkpoints` with these arguments, to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = longshore();
        command.env_clear().envs(self.environment.iter().cloned()).current_dir(self.dir.path());
        command.arg("checkpoints").args(arguments);
        let ended = tokio::task::spawn_blocking(move || start(&mut command).end());
        let ended = ended.await.unwrap();
        for printed in [&ended.stdout, &ended.stderr] {
            // What is missing may be named.
            let printed = printed.replace("sig=…", "");
            for secret in [KEY, "sig=", "SharedAccessKey="] {
                assert!(!printed.contains(secret), "{secret} is in\n{printed}");
            }
        }
        println!("$ {arguments:?}\n{}{}", ended.stdout, ended.stderr);
        ended
    }

    /// What `longshore checkpoints` writes to a terminal of its own, which has eighty columns.
    pub(crate) async fn on_a_terminal(&self, arguments: &str) -> String {
        let program = longshore().get_program().to_str().unwrap().to_owned();
        let command = format!("stty cols 80; {program} checkpoints {arguments}");
        let mut script = Command::new("script");
        script
            .args(["--quiet", "--flush", "--return", "--command", &command, "screen"])
            .current_dir(self.dir.path())
            .envs(self.environment.iter().cloned())
            .env("TERM", "xterm")
            .env_remove("RUST_LOG");
        let ended = tokio::task::spawn_blocking(move || start(&mut script).end());
        ended.await.unwrap().expect_code(0);
        fs::read_to_string(self.dir.path().join("screen")).unwrap()
    }

    /// The report in JSON, and the exit code.
    pub(crate) async fn report(&self, arguments: &[&str]) -> (Value, i32) {
        let ended = self.run(&[arguments, &["--report", "json"]].concat()).await;
        (ended.report(), ended.code.unwrap())
    }

    /// A worker over this store.
    fn worker_over(&self, store: Arc<dyn CheckpointStore>) -> BatchConsumerBuilder {
        let string = self.broker.connection_string(None);
        let namespace = Namespace::from_connection_string(&string).unwrap();
        let transport = EventHubsTransport::new(namespace, "orders", "$Default");
        BatchConsumer::builder(Arc::new(transport), store)
    }

    /// A worker over a container.
    pub(crate) fn worker(&self) -> BatchConsumerBuilder {
        self.worker_over(Arc::from(self.store()))
    }

    /// Lets a worker handle so many events, and returns their numbers in order.
    pub(crate) async fn work(&self, expected: usize) -> Vec<i64> {
        let store: Arc<dyn CheckpointStore> = Arc::from(self.store());
        let seen = Seen::default();
        let record = seen.clone();
        let handle = self
            .worker_over(Arc::clone(&store))
            .event_handler(move |event: Event, _: EventContext| {
                record.record(&event);
                async { Ok::<(), Failure>(()) }
            })
            .unwrap()
            .start();
        until("handled", || seen.len() >= expected).await;
        assert!(within("the drain", drained(handle)).await.is_clean());
        let_go(store);
        let mut numbers = seen.numbers();
        numbers.sort_unstable();
        numbers
    }

    /// Whose checkpoints the command is about, as settings spell it.
    pub(crate) fn scope(&self) -> CheckpointScope {
        CheckpointScope {
            namespace: self.transport.namespace().to_owned(),
            entity: "orders".into(),
            consumer_group: "$Default".into(),
        }
    }

    fn key(&self, partition: &str) -> CheckpointKey {
        CheckpointKey { scope: self.scope(), partition: partition.into() }
    }

    /// Where the blobs are, in a container.
    pub(crate) fn blobs(&self) -> String {
        format!("{}/orders/$default/checkpoint", self.transport.namespace())
    }

    /// Makes a checkpoint one that cannot be read.
    pub(crate) async fn spoil(&self, partition: &str) {
        match &self.place {
            Place::Folder => {
                let file = self.folder().join(self.named(partition));
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "{}").unwrap();
            }
            Place::Container(container) => {
                let name = self.named(partition);
                container.put(&name, &[("offset", "1"), ("sequencenumber", "soon")]).await;
            }
        }
    }

    /// What a checkpoint is stored as.
    pub(crate) fn named(&self, partition: &str) -> String {
        match &self.place {
            Place::Folder => format!("localhost/orders/%24default/{partition}.json"),
            Place::Container(_) => format!("{}/{partition}", self.blobs()),
        }
    }

    /// The event of this number, as who receives it knows its place.
    pub(crate) async fn event(&self, partition: &str, number: i64) -> Position {
        let from = LinkStart::After(SequenceNumber(number - 1));
        self.transport.first_event(&partition.into(), from).await.unwrap()
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    pub(crate) async fn stop(self) {
        self.publisher.close().await;
        self.transport.close().await;
        self.broker.shutdown().await.unwrap();
    }
}

fn blobs(container: &Container) -> BlobCheckpointStore {
    container.store(ALL)
}

/// The rows of a report, by partition.
#[track_caller]
pub(crate) fn row<'a>(report: &'a Value, partition: &str) -> &'a Value {
    let rows = report["partitions"].as_array().unwrap();
    rows.iter().find(|row| row["partition"] == partition).unwrap_or_else(|| panic!("{report}"))
}

pub(crate) fn at(sequence_number: i64) -> Checkpoint {
    Checkpoint { watermark: Some(Position::at(sequence_number)), ..Checkpoint::default() }
}

pub(crate) fn with_holes(sequence_number: i64, incarnation: Incarnation) -> Checkpoint {
    let run = |first, last| SettledRun {
        first: SequenceNumber(sequence_number + first),
        last: SequenceNumber(sequence_number + last),
    };
    let mut checkpoint = at(sequence_number);
    let position = checkpoint.watermark.as_mut().unwrap();
    position.offset = Some("4096".into());
    position.enqueued_time =
        Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_080_000_123));
    checkpoint.settled_above = vec![run(2, 6), run(8, 8)];
    checkpoint.incarnation = Some(incarnation);
    checkpoint.lease_epoch = longshore::checkpoint_store::LeaseEpoch(1_764_080_000_123);
    checkpoint
}

pub(crate) fn worker(name: &str) -> Holder {
    Holder::Worker(OwnerId::new(name))
}

pub(crate) fn foreign(name: &str) -> Holder {
    Holder::Foreign(OwnerId::new(name))
}

/// Longer than the shortest expiry that settings take, to the second of the store's clock.
pub(crate) const EXPIRED: Duration = Duration::from_millis(2_500);
