//! `longshore transfer`: a list of URLs becomes files, each once, whatever happens in between.
//!
//! The state is a hub of tasks, a hub of results, the consumer's checkpoints, and the dead
//! letters, all in one folder. A run compares the list with it and publishes what is neither
//! complete nor waiting; then the consumer does what is waiting. So a run after a crash goes
//! on, a run after an edit does what is new, and a run after a finished one does nothing.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::signal::unix::{SignalKind, signal};

use super::failing::{Failing, Stop};
use super::job::{Broker, Job, RESULTS, TASKS, fault, worker};
use super::report::{Report, mib};
use super::urls::{self, FAULT, LINE, Line};
use super::{CommandError, Ending, ReportFormat, TransferArgs};
use crate::blob_store::folder::FolderBlobStore;
use crate::blob_store::{BlobName, BlobStore};
use crate::checkpoint_store::file::FileCheckpointStore;
use crate::checkpoint_store::{Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore};
use crate::consumer::{ConsumerExit, EventContext, EventHandler};
use crate::dead_letter::folder::FolderDeadLetterSink;
use crate::dead_letter::{DeadLetter, DeadLetterSink};
use crate::error::{Error, ErrorClass};
use crate::event::{Event, Partition, SequenceNumber};
use crate::outcome::{Failure, Outcome};
use crate::state::resume::ResumePosition;
use crate::transfer::download::DownloadWorker;
use crate::transfer::task::TransferResult;
use crate::transfer::url_policy::{PrivateAddresses, Schemes, UrlPolicy};
use crate::transport::resume::{PartitionStream, StreamEnd, StreamOptions};
use crate::transport::{LinkStart, Transport};

/// Events read ahead when the state is read.
const READ_PREFETCH_EVENTS: u32 = 2_000;

pub(super) async fn run(args: TransferArgs) -> Result<Ending, CommandError> {
    let list = args.urls.display().to_string();
    let lines = urls::read(&args.urls)?;
    let store = Arc::new(FolderBlobStore::open(&args.to)?);
    let state = State::open(&args).await?;
    let stop = Stop::new();

    let plan = state.plan(&lines, &*store).await?;
    if !plan.missing.is_empty() {
        let tasks = plan.missing.iter().map(|line| line.event(&list)).collect();
        state.broker.publish(tasks).await?;
    }
    let State { broker, checkpoints, letters } = state;
    let wanted: HashSet<String> = lines.iter().map(|line| line.key.clone()).collect();
    let complete = plan.complete;
    let already = complete.len() as u64;
    let download = worker(&broker, store.clone(), policy(&args))?.skip_if(move |event, _| {
        let key = event.message_id().unwrap_or_default();
        if complete.contains(key) {
            Some("its file is complete".to_owned())
        } else if !wanted.contains(key) {
            Some("it is not on the list any more".to_owned())
        } else {
            None
        }
    });
    let progress = download.progress();
    let mut job = Job::start(
        &broker,
        Lines(download),
        Arc::clone(&progress),
        Arc::new(Failing::new(checkpoints, stop.clone())),
        Arc::new(Failing::new(Announcing(letters), stop.clone())),
        &args.pace,
    )?;
    let ended = supervise(&mut job, &stop).await?;
    let elapsed = job.elapsed();
    let (mut report, exit) = match ended.exit {
        Some(exit) => (job.report(&exit, elapsed), exit),
        None => job.finish(elapsed).await,
    };
    report.skipped = already + progress.skipped().saturating_sub(plan.waiting_complete);
    report.interrupted = ended.interrupted;
    store.close().await;
    broker.shutdown().await?;
    print(&report, args.report);
    if let Some(reason) = ended.stopped.or_else(|| fault(&exit)) {
        return Err(CommandError::new(format!(
            "stopped: {reason}. What is complete is kept; mend this and run the command again"
        )));
    }
    Ok(if report.failed > 0 { Ending::SomeFailed } else { Ending::Done })
}

fn policy(args: &TransferArgs) -> UrlPolicy {
    let private =
        if args.allow_private { PrivateAddresses::Allow } else { PrivateAddresses::Refuse };
    let schemes = if args.allow_http { Schemes::HttpAndHttps } else { Schemes::HttpsOnly };
    UrlPolicy::new().with_private_addresses(private).with_schemes(schemes)
}

fn print(report: &Report, format: Option<ReportFormat>) {
    if format == Some(ReportFormat::Json) {
        match serde_json::to_string(report) {
            Ok(json) => println!("{json}"),
            Err(error) => eprintln!("longshore: the report cannot be written: {error}"),
        }
        return;
    }
    println!(
        "{} files, {:.2} MiB in {:.2} s ({:.2} MiB/s); {} complete before, {} failed{}",
        report.files,
        mib(report.bytes),
        report.seconds,
        report.mib_per_second,
        report.skipped,
        report.failed,
        if report.interrupted { "; interrupted" } else { "" }
    );
}

/// How the waiting ended.
#[derive(Default)]
struct Ended {
    /// The consumer's own end, where it came first.
    exit: Option<ConsumerExit>,
    interrupted: bool,
    stopped: Option<String>,
}

/// Waits until all is settled, the consumer ends by itself, the environment fails, or a signal
/// comes; a second signal ends the process.
async fn supervise(job: &mut Job, stop: &Stop) -> Result<Ended, CommandError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        settled = job.until_settled() => {
            settled?;
            return Ok(Ended::default());
        }
        reason = stop.reason() => {
            return Ok(Ended { stopped: Some(reason), ..Ended::default() });
        }
        _signal = interrupt.recv() => {}
        _signal = terminate.recv() => {}
        () = job.ended() => {
            return Ok(Ended { exit: Some(job.join().await), ..Ended::default() });
        }
    }
    let in_flight: usize =
        job.handle().snapshot().partitions.iter().map(|partition| partition.in_flight).sum();
    eprintln!("longshore: finishing {in_flight} files in flight; Ctrl-C again stops at once");
    job.handle().drain();
    let exit = tokio::select! {
        exit = job.join() => exit,
        _signal = interrupt.recv() => std::process::exit(130),
        _signal = terminate.recv() => std::process::exit(143),
    };
    Ok(Ended { exit: Some(exit), interrupted: true, ..Ended::default() })
}

/// What is kept between runs.
struct State {
    broker: Broker,
    checkpoints: FileCheckpointStore,
    letters: FolderDeadLetterSink,
}

/// What is to do.
struct Plan {
    /// Lines to publish.
    missing: Vec<Line>,
    /// Keys of the list whose files are complete.
    complete: HashSet<String>,
    /// How many of those wait in the hub all the same, and will be skipped.
    waiting_complete: u64,
}

impl State {
    async fn open(args: &TransferArgs) -> Result<Self, CommandError> {
        let folder = args.state.clone().unwrap_or_else(|| beside(&args.to));
        std::fs::create_dir_all(&folder).map_err(|error| {
            let what = format!("the state folder {} cannot be used", folder.display());
            CommandError::caused(what, &error)
        })?;
        let (checkpoints, letters) = {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || {
                let checkpoints = FileCheckpointStore::open(folder.join("checkpoints"))?;
                let letters = FolderDeadLetterSink::open(folder.join("dead-letters"))?;
                Ok::<_, Error>((checkpoints, letters))
            })
            .await
            .map_err(|error| CommandError::new(error.to_string()))??
        };
        let broker = Broker::start(Some(&folder.join("hub"))).await?;
        Ok(Self { broker, checkpoints, letters })
    }

    /// Compares the list with what was done and what waits.
    async fn plan(&self, lines: &[Line], store: &dyn BlobStore) -> Result<Plan, CommandError> {
        let mut results = HashMap::new();
        read_all(self.broker.transport(RESULTS), |event| {
            if let (Some(key), Ok(result)) =
                (event.message_id(), serde_json::from_slice::<TransferResult>(event.body()))
            {
                results.insert(key.to_owned(), result);
            }
        })
        .await?;
        let tasks = self.broker.transport(TASKS);
        let checkpoints = self.checkpoints_of(&*tasks).await?;
        let mut waiting = HashSet::new();
        read_all(tasks, |event| {
            let checkpoint = checkpoints.get(event.partition().id.as_str());
            let settled = checkpoint
                .is_some_and(|checkpoint| is_settled(checkpoint, event.sequence_number()));
            if !settled && let Some(key) = event.message_id() {
                waiting.insert(key.to_owned());
            }
        })
        .await?;
        let mut plan = Plan { missing: Vec::new(), complete: HashSet::new(), waiting_complete: 0 };
        for line in lines {
            let complete = match (&line.path, results.get(&line.key)) {
                (Some(path), Some(result)) if result.path == *path => {
                    let name = BlobName::parse(path)?;
                    store.size_bytes(&name).await? == Some(result.bytes)
                }
                _ => false,
            };
            if complete {
                plan.waiting_complete += u64::from(waiting.contains(&line.key));
                plan.complete.insert(line.key.clone());
            } else if !waiting.contains(&line.key) {
                plan.missing.push(line.clone());
            }
        }
        Ok(plan)
    }

    async fn checkpoints_of(
        &self,
        transport: &dyn Transport,
    ) -> Result<HashMap<String, Checkpoint>, CommandError> {
        let hub = transport.hub_properties().await?;
        let mut checkpoints = HashMap::new();
        for partition in hub.partitions {
            let key = CheckpointKey {
                scope: CheckpointScope {
                    namespace: transport.namespace().to_owned(),
                    entity: transport.entity().clone(),
                    consumer_group: transport.consumer_group().clone(),
                },
                partition,
            };
            if let Some(stored) = self.checkpoints.load(&key).await?
                && stored.checkpoint.incarnation == Some(hub.incarnation)
            {
                checkpoints.insert(key.partition.as_str().to_owned(), stored.checkpoint);
            }
        }
        Ok(checkpoints)
    }
}

/// `downloads` keeps its state in `downloads.longshore`.
fn beside(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_else(|| "files".as_ref()).to_owned();
    name.push(".longshore");
    // A target like `..` has no name of its own to stand beside.
    match target.parent() {
        Some(parent) if target.file_name().is_some() => parent.join(name),
        _ => target.join(name),
    }
}

fn is_settled(checkpoint: &Checkpoint, number: SequenceNumber) -> bool {
    let below =
        checkpoint.watermark.as_ref().is_some_and(|watermark| number <= watermark.sequence_number);
    below || checkpoint.settled_above.iter().any(|run| run.first <= number && number <= run.last)
}

/// Reads everything a hub holds.
async fn read_all(
    transport: Arc<dyn Transport>,
    mut on_event: impl FnMut(&Event),
) -> Result<(), CommandError> {
    let hub = transport.hub_properties().await?;
    for id in hub.partitions {
        let Some(end) = transport.log_properties(&id).await?.last_enqueued else {
            continue;
        };
        let partition = Partition::new(transport.entity().clone(), id);
        let position = ResumePosition::new(hub.incarnation, LinkStart::FirstEvent);
        let options = StreamOptions::new(READ_PREFETCH_EVENTS, 0);
        let mut stream = PartitionStream::new(Arc::clone(&transport), partition, position, options);
        let mut events = Vec::new();
        let mut last = None;
        while last < Some(end) {
            let read = stream.next_events(1_024, &mut events).await;
            for event in events.drain(..) {
                last = Some(event.sequence_number());
                on_event(&event);
            }
            read.map_err(|end| match end {
                StreamEnd::Failed(error) => error.into(),
                other => CommandError::new(format!("the state cannot be read: {other:?}")),
            })?;
        }
        stream.close().await;
    }
    transport.close().await;
    Ok(())
}

/// Refuses the lines that are no tasks, and downloads the rest.
struct Lines(DownloadWorker);

impl EventHandler for Lines {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        if let Some(fault) = event.properties().get(FAULT).and_then(|fault| fault.as_text()) {
            return Outcome::dead_letter(Failure::new(ErrorClass::BadData, fault));
        }
        self.0.handle(event, context).await
    }
}

/// Says on the terminal which task failed and why, once its dead letter is safe.
#[derive(Debug)]
struct Announcing<S>(S);

impl<S: DeadLetterSink> DeadLetterSink for Announcing<S> {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.0.write(letter).await?;
            let place = letter.event.properties().get(LINE).and_then(|line| line.as_text());
            let causes = letter.failure.causes.iter().map(|cause| format!(": {cause}"));
            eprintln!(
                "longshore: failed: {}: {}{}",
                place.unwrap_or("a task"),
                letter.failure,
                causes.collect::<String>()
            );
            Ok(())
        }
        .boxed()
    }
}
