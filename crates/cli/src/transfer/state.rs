//! What is kept between runs: results, dead letters, and what a state of the first form held.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::Files;
use super::ledger::Results;
use super::letters::Letters;
use super::line::Key;
use super::results::ResultsFile;
use crate::failing::Stop;
use crate::job::{Broker, RESULTS, TASKS, patiently};
use crate::{CommandError, TransferArgs};
use longshore::event::{Event, Partition, SequenceNumber};
use longshore::state::resume::ResumePosition;
use longshore::transfer::task::TransferResult;
use longshore::transfer::url_policy::UrlPolicy;
use longshore::transport::partition_stream::{PartitionStream, StreamEnd, StreamOptions};
use longshore::transport::{LinkStart, Transport};

/// Where the dead letters are in the state folder.
pub(super) const DEAD_LETTERS: &str = "dead-letters";

/// Where a state of the first form had its broker's log, and its checkpoints.
const FORMER_HUB: &str = "hub";
const FORMER_CHECKPOINTS: &str = "checkpoints";

/// The log, when what it held is taken over.
const TAKEN_OVER: &str = ".longshore-hub-taken-over";

/// Events read ahead when a state of the first form is read.
const READ_PREFETCH_EVENTS: u32 = 2_000;

/// What is kept between runs.
pub(super) struct State {
    pub(super) folder: PathBuf,
    pub(super) results: ResultsFile,
    /// What earlier runs did.
    pub(super) done: Results,
    pub(super) letters: Letters,
}

impl State {
    pub(super) async fn open(
        args: &TransferArgs,
        files: &Files,
        policy: UrlPolicy,
        stop: Stop,
    ) -> Result<Self, CommandError> {
        let folder = args.state.clone().unwrap_or_else(|| args.to.state());
        if let Some(target) = files.root() {
            check_apart(&folder, target)?;
        }
        let cannot = |error: CommandError| {
            let folder = folder.display();
            CommandError::new(format!("the state folder {folder} cannot be used: {}", error.0))
        };
        let letters = Letters::open(folder.join(DEAD_LETTERS), policy).await.map_err(cannot)?;
        let (results, done) = open_results(&folder, files, &stop).await?;
        let hub = folder.join(FORMER_HUB);
        let is_former =
            hub.join("hubs").join(RESULTS).is_dir() && hub.join("hubs").join(TASKS).is_dir();
        if is_former {
            // A crash before the log is aside means that it is read once more.
            let former = former_results(&hub).await.map_err(cannot)?;
            results.import(&former).map_err(|error| cannot(error.into()))?;
        }
        let removed = remove_former(&folder, is_former);
        removed.map_err(|error| cannot(error.into()))?;
        if !is_former {
            return Ok(Self { folder, results, done, letters });
        }
        drop(results);
        let (results, done) = open_results(&folder, files, &stop).await?;
        Ok(Self { folder, results, done, letters })
    }
}

/// Removes what a state of the first form had beside its dead letters, once it is taken over.
fn remove_former(folder: &Path, is_former: bool) -> std::io::Result<()> {
    let aside = folder.join(TAKEN_OVER);
    if is_former {
        std::fs::rename(folder.join(FORMER_HUB), &aside)?;
    }
    if !aside.is_dir() {
        return Ok(());
    }
    let checkpoints = folder.join(FORMER_CHECKPOINTS);
    if checkpoints.is_dir() {
        std::fs::remove_dir_all(checkpoints)?;
    }
    std::fs::remove_dir_all(aside)
}

async fn open_results(
    folder: &Path,
    files: &Files,
    stop: &Stop,
) -> Result<(ResultsFile, Results), CommandError> {
    let (folder, files, stop) = (folder.to_owned(), files.clone(), stop.clone());
    tokio::task::spawn_blocking(move || ResultsFile::open(&folder, files, stop))
        .await
        .map_err(|error| CommandError::new(error.to_string()))?
}

/// What the hub of results holds in a state of the first form: of each path the last.
async fn former_results(hub: &Path) -> Result<Vec<(Key, TransferResult)>, CommandError> {
    let broker = Broker::start(Some(hub)).await?;
    let mut results = HashMap::new();
    read_all(broker.transport(RESULTS), |event| {
        let key = event.message_id().and_then(|id| Key::parse(&id));
        let result = serde_json::from_slice::<TransferResult>(event.body());
        if let (Some(key), Ok(result)) = (key, result) {
            results.insert(result.path.clone(), (key, result));
        }
    })
    .await?;
    broker.shutdown().await?;
    Ok(results.into_values().collect())
}

/// # Errors
/// One of the two is within the other.
fn check_apart(folder: &Path, target: &Path) -> Result<(), CommandError> {
    if std::path::absolute(folder)?.starts_with(target) || resolved(folder).starts_with(target) {
        return Err(CommandError::new(format!(
            "the state folder {} is in the target {}, where a task could write to it; name \
             another with --state",
            folder.display(),
            target.display()
        )));
    }
    if target.starts_with(resolved(folder)) {
        return Err(CommandError::new(format!(
            "the target {} is in the state folder {}, where a task could write to it; name \
             another with --state",
            target.display(),
            folder.display()
        )));
    }
    Ok(())
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
        let mut last: Option<SequenceNumber> = None;
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
