//! A broker with the hubs of a worker, a web server, and a folder with the file of its settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::failure_store::folder::FolderFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore, MAX_PAGE_ENTRIES};
use longshore::producer::EntityProducer;
use longshore::transfer::task::{DownloadTask, TransferResult};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};
use longshore::transport::{SendTarget, Transport};
use longshore::{BatchConsumer, Event, EventContext, Failure, OutgoingEvent};
use longshore_emulator::{Emulator, HubOptions};

use crate::broker;
use crate::command::{Running, files_below, longshore, start};
use crate::waiting::{until, within};
use crate::web::WebServer;

/// Looked for in everything that is printed.
pub(crate) const KEY: &str = "Y2FuYXJ5LWtleQ==";

/// The partitions of the hub of tasks.
const PARTITIONS: u32 = 4;

/// The hubs of a broker.
const HUBS: [(&str, u32); 4] =
    [("tasks", PARTITIONS), ("others", 2), ("results", 1), ("dead-letters", 1)];

pub(crate) struct Stage {
    pub(crate) broker: Emulator,
    pub(crate) web: WebServer,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) async fn start_broker() -> Emulator {
    let mut builder = broker::patient().require_tokens().shared_access_keys([("everything", KEY)]);
    for (name, partitions) in HUBS {
        builder = builder.hub_with(HubOptions::new(name, partitions));
    }
    builder.start().await.unwrap()
}

impl Stage {
    /// With settings that lead a worker from `tasks` to `results`.
    pub(crate) async fn new() -> Self {
        let broker = start_broker().await;
        let stage = Self { broker, web: WebServer::start(), dir: tempfile::tempdir().unwrap() };
        stage.configure(
            "[worker.download]\n\
             input = \"pending\"\n\
             results = \"done\"\n\
             files = \"files\"\n",
        );
        stage
    }

    /// The namespaces and topics of this stage's broker, and what is behind them.
    pub(crate) fn configure(&self, more: &str) {
        let string = self.broker.connection_string(None);
        fs::write(
            self.dir.path().join("worker.toml"),
            format!(
                "LONGSHORE_DOWNLOAD_PRIVATE_ADDRESSES = \"allow\"\n\
                 [namespaces.pipeline]\n\
                 connection_string = \"{string}\"\n\
                 [topics]\n\
                 pending = {{ namespace = \"pipeline\", entity = \"tasks\" }}\n\
                 others = {{ namespace = \"pipeline\" }}\n\
                 done = {{ namespace = \"pipeline\", entity = \"results\" }}\n\
                 letters = {{ namespace = \"pipeline\", entity = \"dead-letters\" }}\n\
                 {more}"
            ),
        )
        .unwrap();
    }

    /// `longshore worker download` with the settings of this stage.
    pub(crate) fn command(&self) -> Command {
        let mut command = longshore();
        command.args(["worker", "download", "--config", "worker.toml", "--report", "json"]);
        command.current_dir(self.dir.path());
        command
    }

    pub(crate) fn start(&self) -> Running {
        start(&mut self.command())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The dead letters in a folder of failures.
    pub(crate) async fn letters(&self, folder: &str) -> Vec<DeadLetterRecord> {
        let store = FolderFailureStore::open(self.path(folder)).unwrap();
        let all = FailurePrefix::all(FailureKind::Dead);
        let page = store.list(&all, None, MAX_PAGE_ENTRIES).await.unwrap();
        let mut letters = Vec::new();
        for listed in page.entries {
            let stored = store.read(&listed.unwrap().key).await.unwrap().unwrap();
            letters.push(stored.record().unwrap());
        }
        letters
    }

    /// Files that the web server has from now on, and a task for each, by the names of the tasks.
    pub(crate) fn serve(&self, count: usize) -> BTreeMap<String, Vec<u8>> {
        let files = (0..count).map(|number| {
            let name = format!("{}/{number}.bin", number % 7);
            let body = format!("file {number} ").repeat(50 + number % 500).into_bytes();
            self.web.serve(&name, body.clone());
            (name, body)
        });
        files.collect()
    }

    /// The task to fetch a file.
    pub(crate) fn task(&self, name: &str) -> OutgoingEvent {
        let url = self.web.url(name).parse().unwrap();
        let path = longshore::blob_store::BlobName::parse(name).unwrap();
        OutgoingEvent::new(DownloadTask::new(name, url, path).to_json())
    }

    /// Publishes a task for each file, spread over the partitions.
    pub(crate) async fn publish<'a>(&self, hub: &str, names: impl IntoIterator<Item = &'a String>) {
        let tasks: Vec<_> = names.into_iter().map(|name| self.task(name)).collect();
        publish(&self.broker, hub, tasks).await;
    }

    /// How many results there are.
    pub(crate) async fn count(&self, hub: &str) -> usize {
        broker::log_end(&transport(&self.broker, hub), "0").await
    }

    /// Waits until there are so many results.
    pub(crate) async fn until_results(&self, count: usize) {
        within("the results", async {
            while self.count("results").await < count {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// All results, by the names of their tasks: each once.
    pub(crate) async fn results(&self) -> BTreeMap<String, TransferResult> {
        let count = self.count("results").await;
        let events = events(&self.broker, "results", count).await;
        let results = events.iter().map(|event| {
            let result: TransferResult = serde_json::from_slice(event.body()).unwrap();
            (result.id.clone(), result)
        });
        let results: BTreeMap<_, _> = results.collect();
        assert_eq!(results.len(), count, "each task has one result");
        results
    }

    /// Whether there is each file, right and whole, and a result that says so; and no other.
    pub(crate) async fn expect_all(&self, files: &BTreeMap<String, Vec<u8>>) {
        let there = files_below(&self.path("files"));
        assert_eq!(there, files.keys().cloned().collect(), "files, and no temporary ones");
        let results = self.results().await;
        assert_eq!(results.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
        for (name, body) in files {
            assert!(fs::read(self.path("files").join(name)).unwrap() == *body, "{name}");
            assert_eq!(results[name].bytes, body.len() as u64, "{name}");
        }
    }
}

pub(crate) fn transport(broker: &Emulator, hub: &str) -> EventHubsTransport {
    EventHubsTransport::new(broker::namespace(broker), hub, "$Default")
}

/// Publishes events, spread over the partitions.
pub(crate) async fn publish(broker: &Emulator, hub: &str, tasks: Vec<OutgoingEvent>) {
    let partitions = transport(broker, hub).hub_properties().await.unwrap().partitions;
    let publisher = EventHubsPublisher::new(broker::namespace(broker), hub);
    let producer = EntityProducer::new(Arc::new(publisher));
    let share = tasks.len().div_ceil(partitions.len()).max(1);
    for (chunk, partition) in tasks.chunks(share).zip(partitions) {
        let target = SendTarget::Partition(partition);
        within("publishing", producer.send_batch(target, chunk.to_vec())).await.unwrap();
    }
}

/// The first events of a hub, so many.
pub(crate) async fn events(broker: &Emulator, hub: &str, count: usize) -> Vec<Event> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let transport = Arc::new(transport(broker, hub));
    let mut reading = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
        .event_handler(move |event: Event, _: EventContext| {
            kept.lock().unwrap().push(event);
            async { Ok::<(), Failure>(()) }
        })
        .unwrap()
        .start();
    until("the events of the hub", || seen.lock().unwrap().len() >= count).await;
    reading.stop();
    reading.join().await;
    std::mem::take(&mut *seen.lock().unwrap())
}
