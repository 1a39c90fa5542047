//! What is kept between runs, and what of the list it leaves to do.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::DEAD_LETTERS;
use crate::job::{Broker, RESULTS, TASKS, patiently};
use crate::urls::Line;
use crate::{CommandError, TransferArgs};
use longshore::blob_store::{BlobName, BlobStore};
use longshore::checkpoint_store::file::FileCheckpointStore;
use longshore::checkpoint_store::{Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore};
use longshore::dead_letter::folder::FolderDeadLetterSink;
use longshore::error::Error;
use longshore::event::{Event, Partition, SequenceNumber};
use longshore::state::resume::ResumePosition;
use longshore::transfer::task::TransferResult;
use longshore::transport::partition_stream::{PartitionStream, StreamEnd, StreamOptions};
use longshore::transport::{LinkStart, Transport};

/// Events read ahead when the state is read.
const READ_PREFETCH_EVENTS: u32 = 2_000;

/// What is kept between runs.
pub(super) struct State {
    pub(super) folder: PathBuf,
    pub(super) broker: Broker,
    pub(super) checkpoints: FileCheckpointStore,
    pub(super) letters: FolderDeadLetterSink,
}

/// What is to do.
pub(super) struct Plan {
    /// Lines to publish.
    pub(super) missing: Vec<Line>,
    /// Keys of the list whose files are complete.
    pub(super) complete: HashSet<String>,
    /// How many of those wait in the hub all the same, and will be skipped.
    pub(super) waiting_complete: u64,
    /// Files to fetch: what is missing and what waits.
    pub(super) files: u64,
    /// Their bytes, where each line says its own.
    pub(super) bytes: Option<u64>,
}

impl State {
    pub(super) async fn open(args: &TransferArgs, target: &Path) -> Result<Self, CommandError> {
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
    pub(super) async fn plan(
        &self,
        lines: &[Line],
        store: &dyn BlobStore,
    ) -> Result<Plan, CommandError> {
        // The last of each path: what an earlier task put there was replaced.
        let mut results = HashMap::new();
        read_all(self.broker.transport(RESULTS), |event| {
            if let (Some(key), Ok(result)) =
                (event.message_id(), serde_json::from_slice::<TransferResult>(event.body()))
            {
                results.insert(result.path, (key.into_owned(), result.bytes));
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
                waiting.insert(key.into_owned());
            }
        })
        .await?;
        let mut plan = Plan {
            missing: Vec::new(),
            complete: HashSet::new(),
            waiting_complete: 0,
            files: 0,
            bytes: Some(0),
        };
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
                continue;
            }
            plan.files += 1;
            plan.bytes = plan.bytes.zip(line.size).map(|(sum, size)| sum.saturating_add(size));
            if !waiting.contains(&line.key) {
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
