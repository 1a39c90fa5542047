//! The same through a worker, of files from a folder and over HTTP: what becomes of tasks, of their files, and
//! of the worker.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use longshore::blob_store::folder::FolderBlobStore;
use longshore::blob_store::{BlobName, BlobSource, BlobStore};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::ConsumerOptions;
use longshore::consumer::ExitReason;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::producer::EntityProducer;
use longshore::state::backoff::Backoff;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::task::{DownloadTask, TransferResult, UploadTask};
use longshore::transfer::upload::UploadWorker;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, ConsumerHandle, Event, EventContext, EventHandler, OutgoingEvent};

use crate::stage::{LONG, SHORT, Stage, all_of, content};
use crate::storage_double::refusal::*;
use crate::storage_double::{Operation, Play, Refusal, Script};
use crate::support::{drained, until, within};
use crate::table::{Becomes, WRITES, is_answered, refusals};

type Results = Arc<Mutex<BTreeMap<String, TransferResult>>>;

/// Where files come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    Folder,
    /// A web server that gives parts: long files come block by block, in any order.
    Ranges,
    /// One that does not: they come in their order.
    Bodies,
}

const ORIGINS: [Origin; 3] = [Origin::Folder, Origin::Ranges, Origin::Bodies];

/// A hub of tasks to move files, and what became of them.
struct Work {
    from: Origin,
    folder: tempfile::TempDir,
    tasks: MemoryHub,
    done: MemoryHub,
    letters: Arc<MemoryDeadLetterSink>,
    checkpoints: Arc<MemoryCheckpointStore>,
}

impl Work {
    /// A file and a task for each of these names, each with what its requests are.
    async fn of<'a>(from: Origin, files: impl IntoIterator<Item = (&'a str, Operation)>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let tasks = MemoryHub::new("tasks", 1);
        let mut served = BTreeMap::new();
        let mut names = Vec::new();
        for (name, operation) in files {
            let bytes = if operation == Operation::PutBlob { SHORT } else { LONG };
            let content = content(bytes, 1);
            if from == Origin::Folder {
                std::fs::write(folder.path().join(name), &content).expect("written");
            } else {
                served.insert(name.to_owned(), content);
            }
            names.push(name);
        }
        let server = serve(served, from == Origin::Ranges).await;
        for name in names {
            let path = BlobName::parse(name).expect("a name");
            tasks.publish(
                0,
                OutgoingEvent::new(if from == Origin::Folder {
                    UploadTask::new(name, path).to_json()
                } else {
                    let url = format!("{server}/{name}").parse().expect("a URL");
                    DownloadTask::new(name, url, path).to_json()
                }),
            );
        }
        Self {
            from,
            folder,
            tasks,
            done: MemoryHub::new("done", 1),
            letters: Arc::default(),
            checkpoints: Arc::new(MemoryCheckpointStore::new()),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A worker that puts the files into the container.
    fn start(&self, stage: &Stage) -> ConsumerHandle {
        if self.from == Origin::Folder {
            let files = Arc::new(FolderBlobStore::open(self.path()).expect("a folder"));
            return self.run(self.upload(files, stage.through()));
        }
        let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
        let worker = DownloadWorker::new(stage.through(), self.results_to(), policy, limits());
        self.run(worker.expect("a worker"))
    }

    /// A worker that puts the blobs of the container into a folder.
    fn start_back(&self, stage: &Stage, folder: &Path) -> ConsumerHandle {
        let folder = Arc::new(FolderBlobStore::open(folder).expect("a folder"));
        self.run(self.upload(stage.through(), folder))
    }

    fn upload(&self, from: Arc<dyn BlobSource>, to: Arc<dyn BlobStore>) -> UploadWorker {
        UploadWorker::new(from, to, self.results_to(), limits())
    }

    fn results_to(&self) -> Arc<EntityProducer> {
        Arc::new(EntityProducer::new(Arc::new(self.done.publisher())))
    }

    /// With as few attempts as there can be.
    fn run(&self, worker: impl EventHandler) -> ConsumerHandle {
        let mut options = ConsumerOptions::default();
        options.max_attempts = 2;
        // Some names fail always, and nothing but they is left at the end.
        options.max_age = Duration::ZERO;
        let first = Duration::from_millis(50);
        options.retry_backoff = Backoff::doubling(first, first);
        let transport = Arc::new(self.tasks.transport("$Default"));
        BatchConsumer::builder(transport, self.checkpoints.clone())
            .options(options)
            .dead_letters(self.letters.clone())
            .max_events_in_flight(32)
            .event_handler(worker)
            .expect("valid")
            .start()
    }

    /// What was published of files that are done, as it comes.
    fn results(&self) -> (Results, ConsumerHandle) {
        let came = Results::default();
        let record = came.clone();
        let transport = Arc::new(self.done.transport("$Default"));
        let reader = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
            .event_handler(move |event: Event, _: EventContext| {
                let result: TransferResult = serde_json::from_slice(event.body()).expect("one");
                record.lock().expect("lock").insert(result.id.clone(), result);
                async {}
            })
            .expect("valid")
            .start();
        (came, reader)
    }
}

fn limits() -> DownloadLimits {
    let mut limits = DownloadLimits::default();
    limits.block_bytes = 64 << 10;
    limits
}

/// A web server with these files, which gives parts of them or does not.
async fn serve(files: BTreeMap<String, Bytes>, with_ranges: bool) -> String {
    type Served = State<Arc<(BTreeMap<String, Bytes>, bool)>>;
    async fn file(served: Served, UrlPath(name): UrlPath<String>, headers: HeaderMap) -> Response {
        let State(served) = served;
        let (files, with_ranges) = &*served;
        let file = &files[&name];
        if !with_ranges {
            return file.clone().into_response();
        }
        let same = [(header::ACCEPT_RANGES, "bytes"), (header::ETAG, "\"v1\"")];
        let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
        let part = asked.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let Some((from, to)) = part else { return (same, file.clone()).into_response() };
        let from: usize = from.parse().expect("a number");
        let to = to.parse().map_or(file.len(), |last: usize| file.len().min(last + 1));
        let range = format!("bytes {from}-{}/{}", to - 1, file.len());
        let head = [(header::CONTENT_RANGE, range)];
        (StatusCode::PARTIAL_CONTENT, same, head, file.slice(from..to)).into_response()
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = Router::new().route("/{name}", axum::routing::get(file));
    let app = app.with_state(Arc::new((files, with_ranges)));
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_files_are_letters_that_say_why_and_all_others_are_stored() {
    all_of(ORIGINS.map(refused_files_are_letters)).await;
}

async fn refused_files_are_letters(from: Origin) {
    let stage = Stage::set().await;
    let mut files: BTreeMap<String, (Operation, Option<Refusal>)> = BTreeMap::new();
    for (refusal, becomes) in refusals() {
        // A lost race is looked at again, and blocks that are gone are staged again: tested beside.
        let is_tried = matches!(becomes, Becomes::DeadLetter | Becomes::Again)
            && !["ConditionNotMet", "BlobAlreadyExists", "BlobNotFound"].contains(&refusal.code);
        for operation in WRITES {
            if is_tried && is_answered(&refusal, operation) {
                let name = format!("{}-{}-{operation:?}", refusal.status, refusal.code);
                files.insert(name, (operation, Some(refusal.clone())));
            }
        }
    }
    for operation in WRITES {
        files.insert(format!("fine-{operation:?}"), (operation, None));
    }
    for (name, (operation, refusal)) in &files {
        if let Some(refusal) = refusal {
            stage.double.play(Script::on(*operation).of(name), Play::Refuse(refusal.clone()));
        }
    }
    let named = files.iter().map(|(name, (operation, _))| (name.as_str(), *operation));
    let work = Work::of(from, named).await;
    let (came, reader) = work.results();
    let worker = work.start(&stage);
    let refused = files.values().filter(|(_, refusal)| refusal.is_some()).count();
    until("the letters", || work.letters.letters().len() == refused).await;
    until("the results", || came.lock().expect("lock").len() == WRITES.len()).await;
    within("the drain", drained(worker)).await;
    within("the drain", drained(reader)).await;
    for letter in work.letters.letters() {
        let failure = &letter.failure;
        let said = format!("{}: {}", failure.message, failure.causes.join(": "));
        let task = said.strip_prefix("task ").and_then(|rest| rest.split(':').next());
        let task = task.unwrap_or_else(|| unreachable!("{said}"));
        let (_, refusal) = &files[task];
        let refusal = refusal.as_ref().expect("it was refused");
        assert!(said.contains(refusal.code) && said.contains("; "), "{said}");
        assert!(!said.contains("sig="), "{said}");
        stage.has_none(task).await;
    }
    for (name, result) in &*came.lock().expect("lock") {
        assert!(name.starts_with("fine-") && result.attempts == 1, "{name}: {result:?}");
    }
    for operation in WRITES {
        stage.has(&format!("fine-{operation:?}"), operation).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_where_every_task_would_meet_the_same_and_goes_on_later() {
    all_of(ORIGINS.map(a_worker_stops)).await;
}

async fn a_worker_stops(from: Origin) {
    let stops = refusals().into_iter().filter(|(_, becomes)| *becomes == Becomes::Stop);
    all_of(stops.map(|(refusal, _)| async move {
        let stage = Stage::set().await;
        let names: Vec<String> = (0..12).map(|number| format!("f{number}")).collect();
        let operation = |number: usize| [Operation::PutBlob, Operation::PutBlockList][number % 2];
        let files = || names.iter().enumerate().map(|(at, name)| (name.as_str(), operation(at)));
        let work = Work::of(from, files()).await;
        // Some are stored before; from then on nothing is, as when a signature is over.
        let script = Script::on_any(WRITES).after(7);
        stage.double.play(script, Play::Refuse(refusal.clone()));
        let worker = work.start(&stage);
        within("its end", worker.ended()).await;
        let exit = drained(worker).await;
        let ExitReason::Aborted(failure) = &exit.reason else { unreachable!("{exit:?}") };
        assert!(
            failure.message.contains(&refusal.status.to_string())
                || failure.message.contains("does not exist"),
            "{failure:?}"
        );
        assert!(failure.message.starts_with("task "), "{failure:?}");
        assert!(work.letters.letters().is_empty(), "{refusal:?}: {:?}", work.letters.letters());
        stage.double.be_kind();
        let (came, reader) = work.results();
        let worker = work.start(&stage);
        until("all results", || came.lock().expect("lock").len() == names.len()).await;
        within("the drain", drained(worker)).await;
        within("the drain", drained(reader)).await;
        for (name, operation) in files() {
            stage.has(name, operation).await;
        }
        assert!(work.letters.letters().is_empty(), "{refusal:?}: {:?}", work.letters.letters());
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_service_uses_up_no_attempt_and_lost_answers_store_every_file_once() {
    all_of(ORIGINS.map(lost_answers_store_every_file_once)).await;
}

async fn lost_answers_store_every_file_once(from: Origin) {
    let stage = Stage::set().await;
    let mut files = BTreeMap::new();
    for operation in WRITES {
        // Four tries an attempt, and two attempts: that would be all.
        for (name, play, times) in [
            ("busy", Play::Refuse(SERVER_BUSY.retry_after_ms(50)), 18),
            ("throttled", Play::Refuse(TOO_MANY_REQUESTS.retry_after(11)), 2),
            ("lost", Play::LoseAnswer, 3),
        ] {
            let name = format!("{name}-{operation:?}");
            stage.double.play(Script::on(operation).of(&name).times(times), play);
            files.insert(name, operation);
        }
    }
    let named = files.iter().map(|(name, operation)| (name.as_str(), *operation));
    let work = Work::of(from, named).await;
    let (came, reader) = work.results();
    let worker = work.start(&stage);
    until("all results", || came.lock().expect("lock").len() == files.len()).await;
    within("the drain", drained(worker)).await;
    within("the drain", drained(reader)).await;
    assert!(work.letters.letters().is_empty(), "{:?}", work.letters.letters());
    for (name, operation) in &files {
        stage.has(name, *operation).await;
        let commits = [Operation::PutBlob, Operation::PutBlockList];
        let done: usize = commits.iter().map(|commit| stage.double.done(*commit, name)).sum();
        assert_eq!(done, 1, "{name}");
        assert_eq!(came.lock().expect("lock")[name].attempts, 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_from_a_container_becomes_a_right_file_or_a_letter() {
    let stage = Stage::set().await;
    let plays = [
        ("archived", Play::Refuse(BLOB_ARCHIVED), None, Some("BlobArchived")),
        ("rehydrated", Play::Refuse(BLOB_BEING_REHYDRATED), None, Some("BlobBeingRehydrated")),
        ("failing", Play::Refuse(INTERNAL_ERROR), None, Some("InternalError")),
        ("busy", Play::Refuse(SERVER_BUSY.retry_after_ms(50)), Some(18), None),
        ("failed", Play::Refuse(OPERATION_TIMED_OUT), Some(3), None),
        ("lost", Play::LoseAnswer, Some(3), None),
        ("cut", Play::CutAnswer, Some(1), None),
        ("fine", Play::LoseAnswer, Some(0), None),
    ];
    let mut files = BTreeMap::new();
    for (name, play, times, code) in plays {
        for operation in [Operation::PutBlob, Operation::PutBlock] {
            let name = format!("{name}-{operation:?}");
            stage.put(&name, operation).await.expect("stored");
            let script = Script::on(Operation::GetBlob).of(&name);
            let script = times.into_iter().fold(script, Script::times);
            stage.double.play(script, play.clone());
            files.insert(name, (operation, code));
        }
    }
    let named = files.iter().map(|(name, (operation, _))| (name.as_str(), *operation));
    let work = Work::of(Origin::Folder, named).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (came, reader) = work.results();
    let worker = work.start_back(&stage, folder.path());
    let refused = files.values().filter(|(_, code)| code.is_some()).count();
    until("the letters", || work.letters.letters().len() == refused).await;
    until("the results", || came.lock().expect("lock").len() == files.len() - refused).await;
    within("the drain", drained(worker)).await;
    within("the drain", drained(reader)).await;
    let letters = work.letters.letters();
    for (name, (operation, code)) in &files {
        let file = std::fs::read(folder.path().join(name)).ok();
        if let Some(code) = code {
            let task = format!("task {name}: ");
            let letter = letters.iter().find(|it| it.failure.message.starts_with(&task));
            let failure = &letter.unwrap_or_else(|| unreachable!("{name}")).failure;
            assert!(failure.message.contains(code) || failure.causes.join(" ").contains(code));
            assert!(file.is_none(), "{name}");
        } else {
            let bytes = if *operation == Operation::PutBlob { SHORT } else { LONG };
            assert!(file.as_deref() == Some(&content(bytes, 1)[..]), "{name}");
            assert_eq!(came.lock().expect("lock")[name].attempts, 1, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_where_no_blob_can_be_read() {
    for refusal in [CONTAINER_NOT_FOUND, AUTHENTICATION_FAILED, AUTHORIZATION_PERMISSION_MISMATCH] {
        let stage = Stage::set().await;
        let operations = [("a", Operation::PutBlob), ("b", Operation::PutBlock)];
        for (name, operation) in operations {
            stage.put(name, operation).await.expect("stored");
        }
        let work = Work::of(Origin::Folder, operations).await;
        let folder = tempfile::tempdir().expect("a folder");
        stage.double.play(Script::on(Operation::GetBlob), Play::Refuse(refusal.clone()));
        let worker = work.start_back(&stage, folder.path());
        within("its end", worker.ended()).await;
        let exit = drained(worker).await;
        assert!(matches!(exit.reason, ExitReason::Aborted(_)), "{refusal:?}: {exit:?}");
        assert!(work.letters.letters().is_empty(), "{refusal:?}: {:?}", work.letters.letters());
        stage.double.be_kind();
        let (came, reader) = work.results();
        let worker = work.start_back(&stage, folder.path());
        until("all results", || came.lock().expect("lock").len() == operations.len()).await;
        within("the drain", drained(worker)).await;
        within("the drain", drained(reader)).await;
    }
}
