//! `longshore demo`: the main job on this machine, over the real protocols.

mod barrier;
mod chart;
mod files;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use self::barrier::Barrier;
use self::chart::{Colours, Row, chart, said};
use self::files::{Source, collect, hash, make};
use super::file_server::FileServer;
use super::job::{Broker, Job, RESULTS, TASKS, fault, producer};
use super::progress::{Display, Standing};
use super::report::{Report, size};
use super::signals::Signals;
use super::temporary;
use super::terminal::{give, give_picture, is_colourful, result_columns};
use super::{CommandError, DemoArgs, DurationArg, Ending, PaceArgs};
use longshore::blob_store::folder::{FolderBlobStore, SyncFiles};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::event::OutgoingEvent;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::task::DownloadTask;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};

/// What the server gives each connection: the 5 MB/s that one file at a time was stuck at.
const BYTES_PER_SECOND: u32 = 5_000_000;

/// A way to move the files.
struct Way {
    name: String,
    pace: PaceArgs,
    /// The events of a batch that must end before the next begins, where batches do not overlap.
    barrier_events: Option<usize>,
}

/// One file at a time, batches with a barrier between them, and batches that overlap.
fn ways(pace: PaceArgs) -> [Way; 3] {
    let single = PaceArgs {
        concurrency: 1,
        batch_size: 1,
        batch_timeout: DurationArg(Duration::from_millis(1)),
    };
    let at_once = pace.concurrency;
    [
        Way { name: "one at a time".to_owned(), pace: single, barrier_events: None },
        Way {
            name: format!("batches of {}, {at_once} at once", pace.batch_size),
            pace,
            barrier_events: Some(pace.batch_size),
        },
        Way { name: format!("longshore, {at_once} at once"), pace, barrier_events: None },
    ]
}

pub(super) async fn run(args: DemoArgs) -> Result<Ending, CommandError> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        done = compare(args) => done.map(|()| Ending::Done),
        // What was moved so far, and its folder, go with the future.
        code = signals.next() => Ok(Ending::Stopped(code)),
    }
}

async fn compare(args: DemoArgs) -> Result<(), CommandError> {
    let made = temporary::folder()?;
    let (named, makes) = (args.dir, made.path().to_owned());
    let collecting = tokio::task::spawn_blocking(move || match named {
        Some(dir) => collect(&dir),
        None => make(&makes).map_err(CommandError::from).and_then(|()| collect(&makes)),
    });
    let sources = collecting.await.map_err(|error| CommandError::new(error.to_string()))??;
    let (files, bytes) = (sources.len() as u64, sources.iter().map(|source| source.bytes).sum());
    let ways = ways(args.pace);
    give(format_args!("Moving {files} files ({}) in {} ways:\n", size(bytes), ways.len()));
    let served =
        sources.iter().map(|source| (source.url_path.clone(), source.file.clone())).collect();
    let server = FileServer::start(served, BYTES_PER_SECOND).await?;
    let width = ways.iter().map(|way| way.name.len()).max().unwrap_or_default() + 2;
    let mut rows = Vec::new();
    // The bars of the ways that are done stay until all are.
    let mut displays = Vec::new();
    for way in &ways {
        let mut display = Display::new(format!("{:width$}", way.name));
        display.prepare("starting a broker and publishing the tasks…");
        let report = move_files(&sources, &server, way, &mut display).await?;
        let time = Duration::from_secs_f64(report.seconds);
        rows.push(Row { name: way.name.clone(), time, bytes: report.bytes });
        displays.push(display);
    }
    drop(displays);
    let colours = if is_colourful() { Colours::Ansi } else { Colours::None };
    let said = said(files, bytes, ways.len(), BYTES_PER_SECOND);
    give_picture(&chart(&rows, &said, result_columns(), colours));
    Ok(())
}

/// Moves the files once, through a broker of their own, and verifies them.
async fn move_files(
    sources: &[Source],
    server: &FileServer,
    way: &Way,
    display: &mut Display,
) -> Result<Report, CommandError> {
    let target = temporary::folder()?;
    let broker = Broker::start(None).await?;
    let tasks = sources
        .iter()
        .map(|source| {
            let url = Url::parse(&server.url(&source.url_path))?;
            let mut task = DownloadTask::new(source.name.as_str(), url, source.name.clone());
            task.sha256 = Some(source.sha256);
            task.size = Some(source.bytes);
            Ok(OutgoingEvent::new(task.to_json()).with_message_id(source.name.as_str()))
        })
        .collect::<Result<Vec<_>, CommandError>>()?;
    broker.publish(tasks).await?;
    // Not flushed to the disk: the files are thrown away.
    let store = FolderBlobStore::open(target.path())?.with_sync(SyncFiles::Never);
    let letters = Arc::new(MemoryDeadLetterSink::new());
    let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
    let results = Arc::new(producer(broker.publisher(RESULTS)));
    let limits = DownloadLimits::default();
    let worker = DownloadWorker::new(Arc::new(store), results, policy, limits)?;
    let checkpoints = Arc::new(MemoryCheckpointStore::new());
    let progress = worker.progress();
    let mut job = Job::start(
        broker.transport(TASKS),
        Barrier::new(worker, way.barrier_events),
        progress,
        checkpoints,
        letters.clone(),
        &way.pace,
        None,
    )?;
    let begin = Standing {
        total_files: sources.len() as u64,
        is_total_known: true,
        total_bytes: Some(sources.iter().map(|source| source.bytes).sum()),
        ..Standing::default()
    };
    let settled = async {
        tokio::select! {
            settled = job.until_settled() => settled.map(|()| false),
            () = job.ended() => Ok(true),
        }
    };
    let ended_early = display.during(settled, || job.standing(begin.clone())).await?;
    if ended_early {
        let exit = job.join().await;
        let why = fault(&exit).unwrap_or_else(|| "the consumer ended early".to_owned());
        return Err(CommandError::new(why));
    }
    let elapsed = job.moving();
    display.end(&job.standing(begin.clone()), elapsed);
    let (report, exit) = job.finish(elapsed).await;
    broker.shutdown().await?;
    if let Some(letter) = letters.letters().first() {
        return Err(CommandError::new(format!("a file did not arrive: {}", letter.failure)));
    }
    if let Some(why) = fault(&exit) {
        return Err(CommandError::new(why));
    }
    verify(sources, target.path())?;
    Ok(report)
}

fn verify(sources: &[Source], target: &Path) -> Result<(), CommandError> {
    for source in sources {
        let arrived = target.join(source.name.as_str());
        let (sha256, _) = hash(&arrived)?;
        if sha256 != source.sha256 {
            return Err(CommandError::new(format!("{} arrived damaged", source.name)));
        }
    }
    Ok(())
}
