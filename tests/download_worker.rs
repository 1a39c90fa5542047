//! The download worker in a consumer, without a broker: what becomes of hostile events, and
//! that a task is settled after its result and not before.
#![allow(missing_docs)]

mod support;
#[path = "web/mod.rs"]
#[allow(dead_code)]
mod web;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::blob_store::folder::FolderBlobStore;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::ConsumerOptions;
use longshore::consumer::ExitReason;
use longshore::dead_letter::DeadLetter;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::event::{self, EntityName};
use longshore::producer::EntityProducer;
use longshore::state::backoff::Backoff;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::stages::{STAGES, StageTimes};
use longshore::transfer::task::TransferResult;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::transport::{Publisher, SendReceipt, SendTarget};
use longshore::{BatchConsumer, ConsumerHandle, Error, ErrorClass, OutgoingEvent};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use support::{drained, until, within};
use web::{Answer, WebServer};

/// A hub of tasks, a server, a folder for files, and a place for results.
struct Harness {
    web: WebServer,
    tasks: MemoryHub,
    results: Arc<Results>,
    letters: Arc<MemoryDeadLetterSink>,
    folder: TempDir,
}

/// Keeps results; each send needs a permit, and the next ones may fail.
#[derive(Debug)]
struct Results {
    entity: EntityName,
    sent: Mutex<Vec<OutgoingEvent>>,
    failures: Mutex<Vec<ErrorClass>>,
    permits: Semaphore,
    /// Sends that began.
    asked: AtomicUsize,
}

impl Results {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Publisher for Results {
    fn entity(&self) -> &EntityName {
        &self.entity
    }

    fn send(
        &self,
        _target: SendTarget,
        event: OutgoingEvent,
    ) -> BoxFuture<'_, Result<SendReceipt, Error>> {
        async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.permits.acquire().await.expect("open").forget();
            if let Some(class) = self.failures.lock().expect("lock").pop() {
                return Err(Error::new(class, "publish", "told to fail"));
            }
            self.sent.lock().expect("lock").push(event);
            Ok(SendReceipt::new(None, None))
        }
        .boxed()
    }

    fn send_batch(
        &self,
        target: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            for event in events {
                self.send(target.clone(), event).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

impl Harness {
    fn new() -> Self {
        Self::with_permits(1_000)
    }

    fn with_permits(permits: usize) -> Self {
        Self {
            web: WebServer::start(),
            tasks: MemoryHub::new("tasks", 1),
            results: Arc::new(Results {
                entity: "results".into(),
                sent: Mutex::default(),
                failures: Mutex::default(),
                permits: Semaphore::new(permits),
                asked: AtomicUsize::new(0),
            }),
            letters: Arc::default(),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Serves a file and publishes its task.
    fn publish_file(&self, name: &str) {
        self.web.serve(name, name.as_bytes());
        self.tasks.publish(0, OutgoingEvent::new(self.task(name).to_string()));
    }

    fn task(&self, name: &str) -> Value {
        json!({ "id": name, "url": self.web.url(name), "path": name })
    }

    fn start(&self) -> ConsumerHandle {
        let store = FolderBlobStore::open(self.folder.path()).expect("a store");
        self.start_with(store)
    }

    fn start_with(&self, store: FolderBlobStore) -> ConsumerHandle {
        let results = EntityProducer::new(self.results.clone()).with_attempts(1);
        let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
        let worker = DownloadWorker::new(
            Arc::new(store),
            Arc::new(results),
            policy,
            DownloadLimits::default(),
        );
        let mut options = ConsumerOptions::default();
        options.retry_backoff =
            Backoff::doubling(Duration::from_millis(10), Duration::from_millis(20));
        let transport = Arc::new(self.tasks.transport("$Default"));
        BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
            .dead_letters(self.letters.clone())
            .options(options)
            .event_handler(worker.expect("a worker"))
            .expect("valid")
            .start()
    }

    fn results(&self) -> Vec<TransferResult> {
        let sent = self.results.sent.lock().expect("lock");
        sent.iter().map(|event| serde_json::from_slice(&event.body).expect("a result")).collect()
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.folder.path().join(name)).ok()
    }
}

fn settled_to(handle: &ConsumerHandle) -> Option<i64> {
    handle.snapshot().partitions.first()?.settled_to.map(|number| number.0)
}

#[tokio::test]
async fn hostile_events_become_dead_letters_byte_for_byte_and_others_are_done() {
    let harness = Harness::new();
    let megabyte: Vec<u8> = (0..1_048_576_u32).map(|number| (number % 256) as u8).collect();
    let hostile: [(Vec<u8>, &str); 5] = [
        (b"no json at all".to_vec(), "the task is not valid JSON"),
        (Vec::new(), "the task is empty"),
        (megabyte, "the task is not valid JSON"),
        (b"{\"id\":\"x\",\"url\":\"https://h/\",\"path\":\"".repeat(20_000), "not valid JSON"),
        (
            [
                br#"{"id":"x","url":"https://h/","path":"x","metadata":{"deep":"#.to_vec(),
                vec![b'['; 900_000],
            ]
            .concat(),
            "recursion limit exceeded",
        ),
    ];
    for (number, (body, _)) in hostile.iter().enumerate() {
        let event = OutgoingEvent::new(body.clone())
            .with_property("origin", "a test")
            .with_message_id(format!("m{number}"));
        harness.tasks.publish(0, event);
        harness.publish_file(&format!("{number}.bin"));
    }
    let handle = harness.start();
    until("all", || settled_to(&handle) == Some(9)).await;
    let exit = within("the drain", drained(handle)).await;
    assert!(exit.is_clean(), "{exit:?}");
    let mut letters: Vec<DeadLetter> = harness.letters.letters();
    letters.sort_by_key(|letter| letter.event.sequence_number());
    assert_eq!(letters.len(), hostile.len());
    for (number, (letter, (body, reason))) in letters.iter().zip(&hostile).enumerate() {
        assert!(letter.event.body() == body, "event {number} was changed");
        let (message, causes) = (&letter.failure.message, &letter.failure.causes);
        assert!(message.contains(reason), "{number}: {message} {causes:?}");
        assert!(message.len() < 500, "{message}");
        assert_eq!(letter.failure.class, ErrorClass::BadData);
        assert_eq!(letter.event.message_id().as_deref(), Some(format!("m{number}").as_str()));
        assert_eq!(letter.event.properties().get("origin"), Some(&event::Value::from("a test")));
        assert_eq!(letter.attempts, 1);
    }
    for number in 0..hostile.len() {
        let name = format!("{number}.bin");
        assert_eq!(harness.file(&name), Some(name.clone().into_bytes()));
    }
    assert_eq!(harness.results().len(), hostile.len());
}

#[tokio::test]
async fn a_result_hands_its_times_on_and_has_those_of_the_stages_before() {
    let harness = Harness::new();
    harness.publish_file("a.bin");
    let earlier = json!([{
        "entity": "enriched", "enqueued_at": "2026-01-31T12:00:00.000Z",
        "started_at": "2026-01-31T12:00:01.000Z", "finished_at": "2026-01-31T12:00:02.000Z",
    }]);
    harness.web.serve("b.bin", "b");
    let task = OutgoingEvent::new(harness.task("b.bin").to_string())
        .with_property(STAGES, earlier.to_string())
        .with_property("origin", "a test");
    harness.tasks.publish(0, task);
    let handle = harness.start();
    until("both", || settled_to(&handle) == Some(1)).await;
    assert!(within("the drain", drained(handle)).await.is_clean());

    let results = harness.results();
    let by_id = |id: &str| results.iter().position(|result| result.id == id).expect("a result");
    let (first, second) = (by_id("a.bin"), by_id("b.bin"));
    assert_eq!(results[first].stages, []);
    assert_eq!(json!(results[second].stages), earlier);
    assert_eq!(results[first].since_first_stage(), results[first].since_enqueued());
    assert!(results[second].since_first_stage() > results[second].since_enqueued());
    for (result, count) in [(first, 1), (second, 2)] {
        let told = &results[result];
        let times = [&told.enqueued_at, &told.started_at, &told.finished_at];
        assert!(times.is_sorted(), "{told:?}");
        let sent = harness.results.sent.lock().expect("lock");
        let handed_on = sent[result].properties[STAGES].as_text().expect("a text");
        let handed_on: Vec<StageTimes> = serde_json::from_str(handed_on).expect("times");
        assert_eq!(handed_on.len(), count);
        let last = handed_on.last().expect("one");
        assert_eq!(last.entity, "tasks");
        assert_eq!([&last.enqueued_at, &last.started_at, &last.finished_at], times);
    }
    let sent = harness.results.sent.lock().expect("lock");
    assert_eq!(sent[second].properties.get("origin"), Some(&event::Value::from("a test")));
}

#[tokio::test]
async fn a_task_is_settled_after_its_result_and_not_before() {
    let harness = Harness::with_permits(0);
    harness.publish_file("a.bin");
    let handle = harness.start();
    until("the file", || harness.file("a.bin").is_some()).await;
    until("its result waits for a permit", || harness.results.asked() == 1).await;
    assert_eq!(settled_to(&handle), None);
    assert_eq!(handle.snapshot().partitions[0].unsettled_events, 1);
    harness.results.permits.add_permits(1);
    until("the settlement", || settled_to(&handle) == Some(0)).await;
    assert_eq!(harness.results().len(), 1);
    assert!(within("the drain", drained(handle)).await.is_clean());
}

#[tokio::test]
async fn a_result_waits_for_its_hub_and_its_file_is_not_fetched_again() {
    let harness = Harness::new();
    *harness.results.failures.lock().expect("lock") = vec![ErrorClass::Transient; 2];
    harness.publish_file("a.bin");
    let handle = harness.start();
    until("the settlement", || settled_to(&handle) == Some(0)).await;
    let exit = within("the drain", drained(handle)).await;
    assert_eq!((exit.counts.retried, exit.counts.done), (0, 1));
    let results = harness.results();
    assert_eq!(results.len(), 1);
    assert_eq!((results[0].attempts, harness.web.requests("a.bin")), (1, 1));
}

#[tokio::test]
async fn a_result_that_is_too_large_makes_a_dead_letter_that_says_the_file_is_there() {
    let harness = Harness::new();
    *harness.results.failures.lock().expect("lock") = vec![ErrorClass::TooLarge; 2];
    harness.publish_file("a.bin");
    let handle = harness.start();
    until("the settlement", || settled_to(&handle) == Some(0)).await;
    within("the drain", drained(handle)).await;
    let letters = harness.letters.letters();
    assert_eq!(letters.len(), 1);
    let failure = &letters[0].failure;
    assert_eq!(failure.message, "task a.bin: the file is stored, but not its result");
    assert!(failure.causes.iter().any(|cause| cause.contains("told to fail")), "{failure:?}");
    assert!(harness.file("a.bin").is_some() && harness.results().is_empty());
}

#[tokio::test]
async fn a_hub_of_results_that_refuses_stops_the_worker_and_blames_no_task() {
    let harness = Harness::new();
    *harness.results.failures.lock().expect("lock") = vec![ErrorClass::Permanent; 2];
    harness.publish_file("a.bin");
    let mut handle = harness.start();
    let exit = within("the end by itself", handle.join()).await;
    let ExitReason::Aborted(failure) = &exit.reason else {
        panic!("{exit:?}");
    };
    assert_eq!(failure.message, "task a.bin: the file is stored, but not its result");
    assert!(harness.letters.letters().is_empty());
}

#[tokio::test]
async fn headers_and_metadata_come_back_with_the_result() {
    let harness = Harness::new();
    harness.web.serve("a.bin", b"abc".to_vec());
    let metadata = json!({ "order": 7, "nested": { "list": [1, null, "ä"] } });
    let mut task = harness.task("a.bin");
    task["metadata"] = metadata.clone();
    let event = OutgoingEvent::new(task.to_string())
        .with_property("tenant", "north")
        .with_property("priority", 3_i64)
        .with_message_id("m-1");
    harness.tasks.publish(0, event.clone());
    let handle = harness.start();
    until("the settlement", || settled_to(&handle) == Some(0)).await;
    within("the drain", drained(handle)).await;
    let sent = harness.results.sent.lock().expect("lock").clone();
    assert_eq!(sent.len(), 1);
    let mut properties = sent[0].properties.clone();
    assert!(properties.remove(STAGES).is_some(), "the times of the stage");
    assert_eq!(properties, event.properties);
    assert_eq!(sent[0].message.message_id, Some("m-1".into()));
    assert_eq!(sent[0].message.content_type.as_deref(), Some("application/json"));
    let result = &harness.results()[0];
    assert_eq!(Value::Object(result.metadata.clone()), metadata);
    assert_eq!((result.id.as_str(), result.path.as_str()), ("a.bin", "a.bin"));
    assert_eq!((result.bytes, result.attempts), (3, 1));
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(result.sha256.as_deref(), Some(abc));
    assert_eq!(result.crc64.as_deref(), Some("05e5cabb3fc1faeb"));
    assert!(result.enqueued_at <= result.finished_at && result.finished_at.ends_with('Z'));
}

#[tokio::test]
async fn a_store_that_cannot_be_used_stops_the_consumer_and_loses_no_task() {
    let harness = Harness::new();
    for number in 0..30 {
        harness.publish_file(&format!("{number}.bin"));
    }
    let store = FolderBlobStore::open(harness.folder.path()).expect("a store");
    // Unmounted, as it were, under a running worker.
    fs::remove_dir_all(harness.folder.path()).expect("removed");
    let mut handle = harness.start_with(store);
    let exit = within("the end by itself", handle.join()).await;
    let ExitReason::Aborted(failure) = &exit.reason else {
        panic!("{exit:?}");
    };
    for part in ["task ", "the store cannot be used", "was removed or unmounted"] {
        assert!(failure.message.contains(part), "{failure:?}");
    }
    assert!(harness.letters.letters().is_empty() && harness.results().is_empty());
    assert_eq!(exit.counts.done, 0);
    // Mended, everything is done.
    fs::create_dir_all(harness.folder.path()).expect("created");
    let handle = harness.start();
    until("all", || settled_to(&handle) == Some(29)).await;
    assert!(within("the drain", drained(handle)).await.is_clean());
    assert_eq!(harness.results().len(), 30);
}

#[tokio::test]
async fn a_slot_is_free_when_its_file_is_stored() {
    // Nobody takes results, and there are ten slots for thirty files.
    let harness = Harness::with_permits(0);
    for number in 0..30 {
        harness.publish_file(&format!("{number}.bin"));
    }
    let handle = harness.start();
    until("all files", || (0..30).all(|number| harness.file(&format!("{number}.bin")).is_some()))
        .await;
    assert_eq!(settled_to(&handle), None);
    assert_eq!(harness.results().len(), 0);
    harness.results.permits.add_permits(30);
    until("the settlement", || settled_to(&handle) == Some(29)).await;
    assert!(within("the drain", drained(handle)).await.is_clean());
    assert_eq!(harness.results().len(), 30);
    assert_eq!(harness.web.all_requests(), 30);
}

#[tokio::test]
async fn a_result_that_a_drain_cut_is_published_by_the_next_run_without_a_fetch() {
    let harness = Harness::with_permits(0);
    harness.publish_file("a.bin");
    let mut handle = harness.start();
    until("its result waits", || harness.results.asked() == 1).await;
    handle.stop();
    let exit = within("the cut", handle.join()).await;
    assert_eq!(exit.partitions[0].cut_handlers, 1, "{exit:?}");
    assert_eq!(exit.counts.done, 0);
    harness.results.permits.add_permits(10);
    let handle = harness.start();
    until("the settlement", || settled_to(&handle) == Some(0)).await;
    assert!(within("the drain", drained(handle)).await.is_clean());
    assert_eq!(harness.web.requests("a.bin"), 1);
    let results = harness.results();
    assert_eq!(results.iter().filter(|result| result.path == "a.bin").count(), results.len());
    assert_eq!(results[0].bytes, 5);
}

#[tokio::test]
async fn a_file_is_what_its_server_says_of_it_or_it_is_fetched_again() {
    // RFC 1321, A.5, in base64.
    const ABC: &str = "kAFQmDzST7DWlj99KOF/cg==";
    let harness = Harness::new();
    let wrong = || Answer::Summed(b"abd".to_vec(), ABC);
    harness.web.answer("mended", [wrong(), Answer::Summed(b"abc".to_vec(), ABC)]);
    harness.web.answer("wrong", [wrong()]);
    // What is no sum says nothing.
    harness.web.answer("odd", [Answer::Summed(b"abc".to_vec(), "none")]);
    for name in ["mended", "wrong", "odd"] {
        harness.tasks.publish(0, OutgoingEvent::new(harness.task(name).to_string()));
    }
    let handle = harness.start();
    until("all three", || settled_to(&handle) == Some(2)).await;
    within("the drain", drained(handle)).await;
    assert_eq!(harness.file("mended").as_deref(), Some(&b"abc"[..]));
    assert_eq!(harness.file("odd").as_deref(), Some(&b"abc"[..]));
    assert_eq!((harness.file("wrong"), harness.web.requests("mended")), (None, 2));
    let letters = harness.letters.letters();
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let why = &letter.failure.message;
    assert!(why.contains("and its source said 900150983cd24fb0d6963f7d28e17f72"), "{why}");
}

#[tokio::test]
async fn the_same_task_published_again_is_fetched_again() {
    let harness = Harness::new();
    harness.publish_file("a.bin");
    let handle = harness.start();
    until("the settlement", || settled_to(&handle) == Some(0)).await;
    harness.web.serve("a.bin", b"changed".to_vec());
    harness.tasks.publish(0, OutgoingEvent::new(harness.task("a.bin").to_string()));
    until("the second", || settled_to(&handle) == Some(1)).await;
    within("the drain", drained(handle)).await;
    assert_eq!(harness.file("a.bin"), Some(b"changed".to_vec()));
    assert_eq!(harness.web.requests("a.bin"), 2);
}
