//! `longshore transfer`: a list of URLs becomes files, each once, whatever happens in between.
//!
//! The state is a hub of tasks, a hub of results, the consumer's checkpoints, and the dead
//! letters, all in one folder. A run compares the list with it and publishes what is neither
//! complete nor waiting; then the consumer does what is waiting. So a run after a crash goes
//! on, a run after an edit does what is new, and a run after a finished one does nothing.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failing::{Failing, FailingPublisher, Stop};
use super::job::{Broker, Job, RESULTS, SEND_ATTEMPTS, TASKS, fault, patiently, worker};
use super::report::{Report, mib};
use super::urls::{self, FAULT, LINE, Line};
use super::{CommandError, Ending, ReportFormat, TransferArgs, give, tell};
use crate::blob_store::folder::FolderBlobStore;
use crate::blob_store::{BlobName, BlobStore};
use crate::checkpoint_store::file::FileCheckpointStore;
use crate::checkpoint_store::{Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore};
use crate::consumer::{ConsumerExit, EventContext, EventHandler};
use crate::dead_letter::folder::FolderDeadLetterSink;
use crate::dead_letter::{DeadLetter, DeadLetterSink};
use crate::error::{Error, ErrorClass};
use crate::event::{Event, Partition, PartitionId, SequenceNumber};
use crate::outcome::{Failure, Outcome};
use crate::state::resume::ResumePosition;
use crate::transfer::download::DownloadWorker;
use crate::transfer::task::{DownloadTask, TransferResult};
use crate::transfer::url_policy::{PrivateAddresses, Reason, Schemes, UrlPolicy};
use crate::transport::resume::{PartitionStream, StreamEnd, StreamOptions};
use crate::transport::{LinkStart, Transport};

/// Where the dead letters are in the state folder.
const DEAD_LETTERS: &str = "dead-letters";

/// Events read ahead when the state is read.
const READ_PREFETCH_EVENTS: u32 = 2_000;

pub(super) async fn run(args: TransferArgs) -> Result<Ending, CommandError> {
    let mut signals = Signals::listen()?;
    let Prepared { store, state, lines, plan } = tokio::select! {
        prepared = Prepared::new(&args) => prepared?,
        // Nothing is under way yet.
        _code = signals.next() => {
            print(&Report { interrupted: true, ..Report::default() }, args.report);
            return Ok(Ending::Done);
        }
    };
    let stop = Stop::new();
    let State { folder, broker, checkpoints, letters } = state;
    let wanted: HashSet<String> = lines.into_iter().map(|line| line.key).collect();
    let complete = plan.complete;
    let already = complete.len() as u64;
    let results = FailingPublisher::new(
        broker.publisher(RESULTS),
        stop.clone(),
        format!("the state folder {} cannot take the results", folder.display()),
        SEND_ATTEMPTS,
    );
    let download = worker(results, store.clone(), policy(&args))?.skip_if(move |event, _| {
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
    let announcing = Announcing { letters, policy: policy(&args) };
    let mut job = Job::start(
        &broker,
        Lines { download, begun: Mutex::default() },
        Arc::clone(&progress),
        Arc::new(Failing::new(checkpoints, stop.clone())),
        Arc::new(Failing::new(announcing, stop.clone())),
        &args.pace,
    )?;
    let ended = supervise(&mut job, &stop, &mut signals).await?;
    let elapsed = job.elapsed();
    let (mut report, fault) = match (ended.exit, ended.stopped) {
        (Some(exit), _) => (job.report(&exit.counts, elapsed), fault(&exit)),
        (None, Some(reason)) => (job.give_up(elapsed).await, Some(reason)),
        (None, None) => {
            let (report, exit) = job.finish(elapsed).await;
            (report, fault(&exit))
        }
    };
    report.skipped = already + progress.skipped().saturating_sub(plan.waiting_complete);
    report.interrupted = ended.interrupted;
    store.close().await;
    broker.shutdown().await?;
    print(&report, args.report);
    if report.failed > 0 {
        tell(format_args!(
            "{} tasks failed; their records are in {}. Mend what is wrong and run the command \
             again: it tries them again",
            report.failed,
            folder.join(DEAD_LETTERS).display()
        ));
    }
    if let Some(reason) = fault {
        return Err(CommandError::new(format!(
            "stopped: {reason}. What is complete is kept; mend this and run the command again"
        )));
    }
    Ok(if report.failed > 0 { Ending::SomeFailed } else { Ending::Done })
}

/// What a run has before its consumer starts.
struct Prepared {
    store: Arc<FolderBlobStore>,
    state: State,
    lines: Vec<Line>,
    plan: Plan,
}

impl Prepared {
    /// Reads the list and the state, and publishes what is missing.
    async fn new(args: &TransferArgs) -> Result<Self, CommandError> {
        let lines = urls::read(&args.urls)?;
        let store = Arc::new(FolderBlobStore::open(&args.to)?);
        let state = State::open(args, store.root()).await?;
        let plan = state.plan(&lines, &*store).await?;
        if !plan.missing.is_empty() {
            let list = args.urls.display().to_string();
            let tasks = plan.missing.iter().map(|line| line.event(&list)).collect();
            // Without its sources: they say the same in the words of the protocol.
            state.broker.publish(tasks).await.map_err(|error| {
                let folder = state.folder.display();
                CommandError::new(format!(
                    "the state folder {folder} cannot take the tasks: {error}"
                ))
            })?;
        }
        Ok(Self { store, state, lines, plan })
    }
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
            Ok(json) => give(json),
            Err(error) => tell(format_args!("the report cannot be written: {error}")),
        }
        return;
    }
    give(format_args!(
        "{} files, {:.2} MiB in {:.2} s ({:.2} MiB/s); {} complete before, {} failed{}",
        report.files,
        mib(report.bytes),
        report.seconds,
        report.mib_per_second,
        report.skipped,
        report.failed,
        if report.interrupted { "; interrupted" } else { "" }
    ));
}

/// How the waiting ended.
#[derive(Default)]
struct Ended {
    /// The consumer's own end, where it came first.
    exit: Option<ConsumerExit>,
    interrupted: bool,
    stopped: Option<String>,
}

/// Ctrl-C, and the request to end of a service manager.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, CommandError> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next, and gives the exit code for ending on it.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _signal = self.interrupt.recv() => 130,
            _signal = self.terminate.recv() => 143,
        }
    }
}

/// Waits until all is settled, the consumer ends by itself, the environment fails, or a signal
/// comes; a second signal ends the process.
async fn supervise(
    job: &mut Job,
    stop: &Stop,
    signals: &mut Signals,
) -> Result<Ended, CommandError> {
    tokio::select! {
        settled = job.until_settled() => {
            settled?;
            return Ok(Ended::default());
        }
        reason = stop.reason() => {
            return Ok(Ended { stopped: Some(reason), ..Ended::default() });
        }
        _code = signals.next() => {}
        () = job.ended() => {
            return Ok(Ended { exit: Some(job.join().await), ..Ended::default() });
        }
    }
    let in_flight: usize =
        job.handle().snapshot().partitions.iter().map(|partition| partition.in_flight).sum();
    tell(format_args!("finishing {in_flight} files in flight; Ctrl-C again stops at once"));
    job.handle().drain();
    let interrupted = Ended { interrupted: true, ..Ended::default() };
    Ok(tokio::select! {
        exit = job.join() => Ended { exit: Some(exit), ..interrupted },
        reason = stop.reason() => Ended { stopped: Some(reason), ..interrupted },
        code = signals.next() => std::process::exit(code),
    })
}

/// What is kept between runs.
struct State {
    folder: PathBuf,
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
    async fn open(args: &TransferArgs, target: &Path) -> Result<Self, CommandError> {
        let folder = args.state.clone().unwrap_or_else(|| beside(&args.to, target));
        if std::path::absolute(&folder)?.starts_with(target)
            || resolved(&folder).starts_with(target)
        {
            return Err(CommandError::new(format!(
                "the state folder {} is in the target {}, where a task could write to it; name \
                 another with --state",
                folder.display(),
                target.display()
            )));
        }
        let what = format!("the state folder {} cannot be used", folder.display());
        let opened = folder.clone();
        let (checkpoints, letters) = tokio::task::spawn_blocking(move || {
            let checkpoints = FileCheckpointStore::open(opened.join("checkpoints"))?;
            let letters = FolderDeadLetterSink::open(opened.join(DEAD_LETTERS))?;
            Ok::<_, Error>((checkpoints, letters))
        })
        .await
        .map_err(|error| CommandError::new(error.to_string()))?
        .map_err(|error| CommandError::caused(&what, &error))?;
        let broker = Broker::start(Some(&folder.join("hub")))
            .await
            .map_err(|CommandError(why)| CommandError::new(format!("{what}: {why}")))?;
        Ok(Self { folder, broker, checkpoints, letters })
    }

    /// Compares the list with what was done and what waits.
    async fn plan(&self, lines: &[Line], store: &dyn BlobStore) -> Result<Plan, CommandError> {
        // The last of each path: what an earlier task put there was replaced.
        let mut results = HashMap::new();
        read_all(self.broker.transport(RESULTS), |event| {
            if let (Some(key), Ok(result)) =
                (event.message_id(), serde_json::from_slice::<TransferResult>(event.body()))
            {
                results.insert(result.path, (key.to_owned(), result.bytes));
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
            let result = line.path.as_ref().and_then(|path| results.get_key_value(path));
            let complete = match result {
                Some((path, (key, bytes))) if *key == line.key => {
                    let name = BlobName::parse(path)?;
                    store.size_bytes(&name).await? == Some(*bytes)
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
        let hub = patiently(|| transport.hub_properties()).await?;
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

/// `downloads` keeps its state in `downloads.longshore`, and a target without a name of its
/// own, like `.`, beside the folder that it is.
fn beside(given: &Path, target: &Path) -> PathBuf {
    let named = if given.file_name().is_some() { given } else { target };
    let mut name = named.file_name().unwrap_or_default().to_owned();
    name.push(".longshore");
    named.with_file_name(name)
}

/// Where a folder is, whose last parts may not exist yet.
fn resolved(folder: &Path) -> PathBuf {
    for known in folder.ancestors() {
        // The parent of a plain name is the current folder.
        let known = if known.as_os_str().is_empty() { Path::new(".") } else { known };
        if let Ok(real) = known.canonicalize() {
            return real.join(folder.strip_prefix(known).unwrap_or(folder));
        }
    }
    folder.to_owned()
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
    let hub = patiently(|| transport.hub_properties()).await?;
    for id in hub.partitions {
        let Some(end) = patiently(|| transport.log_properties(&id)).await?.last_enqueued else {
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
struct Lines {
    download: DownloadWorker,
    /// Which event of a task is the one: a publication that had no answer was made again.
    begun: Mutex<HashMap<String, (PartitionId, SequenceNumber)>>,
}

impl Lines {
    /// Whether another event of the same task came before this one.
    fn is_second(&self, event: &Event) -> bool {
        let Some(key) = event.message_id() else {
            return false;
        };
        let this = (event.partition().id.clone(), event.sequence_number());
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        *begun.entry(key.to_owned()).or_insert_with(|| this.clone()) != this
    }
}

impl EventHandler for Lines {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        if self.is_second(&event) {
            return Outcome::skip("the task was published before");
        }
        if let Some(fault) = event.properties().get(FAULT).and_then(|fault| fault.as_text()) {
            return Outcome::dead_letter(Failure::new(ErrorClass::BadData, fault));
        }
        let place = place(&event).to_owned();
        match self.download.handle(event, context).await {
            Outcome::Abort(mut failure) => {
                failure.message = format!("{place}: {}", failure.message);
                Outcome::Abort(failure)
            }
            outcome => outcome,
        }
    }
}

/// Where a task stands on the list.
fn place(event: &Event) -> &str {
    event.properties().get(LINE).and_then(|line| line.as_text()).unwrap_or("a task")
}

/// Says on the terminal which task failed and why, once its dead letter is safe.
#[derive(Debug)]
struct Announcing<S> {
    letters: S,
    policy: UrlPolicy,
}

impl<S> Announcing<S> {
    /// The argument that would allow what was refused.
    fn remedy(&self, letter: &DeadLetter) -> &'static str {
        let Ok(task) = DownloadTask::from_json(letter.event.body()) else {
            return "";
        };
        match self.policy.check_url(&task.url).map_err(|refused| refused.reason().clone()) {
            Err(Reason::Address { kind, .. }) if kind.is_local() => "; --allow-private allows it",
            Err(Reason::PlainHttp) => "; --allow-http allows it",
            _ => "",
        }
    }
}

impl<S: DeadLetterSink> DeadLetterSink for Announcing<S> {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.letters.write(letter).await?;
            let causes = letter.failure.causes.iter().map(|cause| format!(": {cause}"));
            tell(format_args!(
                "failed: {}: {}{}{}",
                place(&letter.event),
                letter.failure,
                causes.collect::<String>(),
                self.remedy(letter)
            ));
            Ok(())
        }
        .boxed()
    }
}
