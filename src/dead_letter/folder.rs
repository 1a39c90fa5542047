//! Dead letters as files of a folder: one JSON record per event, in
//! `entity/partition/sequence number-enqueued time.consumer group.json`.
//!
//! A record is durable when the write returns, and whole: killed at any instant, the folder
//! holds the record or does not, never a part of it. The same event, dead-lettered again by
//! the same consumer group, replaces its own record; another group's record stands beside it,
//! and so does that of an event with the same number from before the hub was created anew.
//! Processes may share a folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::record::DeadLetterRecord;
use super::{DeadLetter, DeadLetterSink};
use crate::durable_folder::{Access, DurableFolder, disk_error, escape};
use crate::error::{Error, ErrorClass, Result};
use crate::timestamp::unix_millis;

const SUFFIX: &str = ".json";

const OPEN: &str = "open the dead-letter folder";
const WRITE: &str = "write the dead letter";
const LIST: &str = "list the dead letters";
const READ: &str = "read the dead letter";

/// A [`DeadLetterSink`] in a local folder. See the [module](self).
#[derive(Debug, Clone)]
pub struct FolderDeadLetterSink {
    folder: Arc<DurableFolder>,
}

/// A file of a dead-letter folder: a record, or why it cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub struct StoredDeadLetter {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    pub record: Result<DeadLetterRecord>,
}

impl FolderDeadLetterSink {
    /// Opens a folder, and creates it if it is missing. Temporary files of killed processes are removed. It blocks
    /// for a few file operations.
    ///
    /// # Errors
    /// `Permanent` if the folder is a file or may not be written; otherwise as the file
    /// system fails.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        DurableFolder::open(dir.into(), Access::Shared, OPEN)
            .map(|folder| Self { folder: Arc::new(folder) })
    }

    /// The folder, resolved.
    pub fn folder(&self) -> &Path {
        self.folder.root()
    }

    /// Reads one record after the other, in no order. Blocks.
    ///
    /// # Errors
    /// If a folder cannot be listed.
    pub fn visit(&self, mut on_letter: impl FnMut(StoredDeadLetter)) -> Result<()> {
        visit(&self.folder, &mut on_letter)
    }

    /// Reads all records, by entity, partition and sequence number; files that cannot be read
    /// come last and hide no other. All are held in memory at once.
    ///
    /// # Errors
    /// If a folder cannot be listed.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn read_all(&self) -> Result<Vec<StoredDeadLetter>> {
        let folder = self.folder.clone();
        spawn_blocking(move || read_all(&folder)).await.map_err(|gone| interrupted(LIST, gone))?
    }
}

impl DeadLetterSink for FolderDeadLetterSink {
    fn write<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<()>> {
        let (folder, letter) = (self.folder.clone(), letter.clone());
        async move {
            spawn_blocking(move || write(&folder, &letter))
                .await
                .map_err(|gone| interrupted(WRITE, gone))?
        }
        .boxed()
    }
}

/// The runtime is shutting down: whether the call was made is unknown.
fn interrupted(operation: &'static str, gone: tokio::task::JoinError) -> Error {
    Error::new(ErrorClass::Transient, operation, "the call was interrupted").with_source(gone)
}

fn write(root: &DurableFolder, letter: &DeadLetter) -> Result<()> {
    let (folder, file) = place(letter);
    DeadLetterRecord::new(letter)
        .to_json()
        .and_then(|json| {
            root.replace(&folder, &file, &json)
                .map_err(|error| root.error(WRITE, &folder.join(&file), error))
        })
        .map_err(|error| {
            error
                .with_partition(letter.event.partition())
                .with_sequence_number(letter.event.sequence_number())
        })
}

/// Where the record of an event goes. The enqueued time tells events of one number apart when
/// the hub was deleted and created anew; it is the same at every delivery of one event.
fn place(letter: &DeadLetter) -> (PathBuf, String) {
    let event = &letter.event;
    let partition = event.partition();
    // Names of hubs and groups are one whatever their case.
    let entity = escape(&partition.entity.as_str().to_ascii_lowercase());
    let folder = Path::new(&entity).join(escape(partition.id.as_str()));
    let file = format!(
        "{:020}-{}.{}{SUFFIX}",
        event.sequence_number().0,
        unix_millis(event.enqueued_time()),
        escape(&letter.consumer_group.as_str().to_ascii_lowercase()),
    );
    (folder, file)
}

fn read_all(root: &DurableFolder) -> Result<Vec<StoredDeadLetter>> {
    let mut letters = Vec::new();
    visit(root, &mut |letter| letters.push(letter))?;
    letters.sort_by(|left, right| order(left).cmp(&order(right)));
    Ok(letters)
}

fn visit(root: &DurableFolder, on_letter: &mut dyn FnMut(StoredDeadLetter)) -> Result<()> {
    let failed = |folder: &Path, error| disk_error(LIST, &root.root().join(folder), error);
    let top = Path::new("");
    for entity in root.folders(top).map_err(|error| failed(top, error))? {
        let entity = PathBuf::from(entity);
        for partition in root.folders(&entity).map_err(|error| failed(&entity, error))? {
            let folder = entity.join(partition);
            for file in root.files(&folder, SUFFIX).map_err(|error| failed(&folder, error))? {
                read(root, &folder, &file).into_iter().for_each(&mut *on_letter);
            }
        }
    }
    Ok(())
}

/// One file; `None` if it went away meanwhile.
fn read(root: &DurableFolder, folder: &Path, file: &str) -> Option<StoredDeadLetter> {
    let path = root.root().join(folder).join(file);
    let record = match root.read(folder, file) {
        Ok(Some(json)) => DeadLetterRecord::from_json(&json).map_err(|error| {
            Error::new(
                error.class(),
                READ,
                format!(
                    "{} is not a record of a dead letter; repair it, or move it away",
                    path.display()
                ),
            )
            .with_source(error)
        }),
        Ok(None) => return None,
        Err(error) => Err(disk_error(READ, &path, error)),
    };
    Some(StoredDeadLetter { path, record })
}

fn order(letter: &StoredDeadLetter) -> impl Ord + '_ {
    let place = letter
        .record
        .as_ref()
        .ok()
        .map(|record| (&record.topic, &record.partition, record.sequence_number));
    (place.is_none(), place, &letter.path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;

    use super::*;
    use crate::event::{EventParts, Partition};
    use crate::outcome::Failure;

    fn letter(entity: &str, partition: &str, number: i64, body: impl Into<Bytes>) -> DeadLetter {
        let partition = Arc::new(Partition::new(entity, partition));
        DeadLetter::new(
            EventParts::new(partition, number, body).into(),
            "$Default".into(),
            "worker",
            Failure::permanent("404"),
            SystemTime::UNIX_EPOCH,
        )
    }

    fn files_below(folder: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(files_below(&path));
            } else {
                files.push(path);
            }
        }
        files
    }

    #[tokio::test]
    async fn bodies_of_any_bytes_come_back_after_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = [
            Bytes::new(),
            Bytes::from_static(b"{\"a\":1}"),
            Bytes::from_static(b"\x00\xff\xfe\x80"),
            Bytes::from(vec![0xab; 1 << 20]),
            Bytes::from("y".repeat(1 << 20)),
        ];
        let sink = FolderDeadLetterSink::open(dir.path()).unwrap();
        for (number, body) in (0..).zip(&bodies) {
            sink.write(&letter("orders", "0", number, body.clone())).await.unwrap();
        }
        let read = FolderDeadLetterSink::open(dir.path()).unwrap().read_all().await.unwrap();
        let read: Vec<_> =
            read.into_iter().map(|letter| letter.record.unwrap().body().unwrap()).collect();
        assert_eq!(read, bodies);
    }

    #[tokio::test]
    async fn an_event_replaces_its_own_record_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let sink = FolderDeadLetterSink::open(dir.path()).unwrap();
        let first = letter("orders", "0", 7, "x");
        sink.write(&first).await.unwrap();
        let again = first.clone().with_history(5, SystemTime::UNIX_EPOCH);
        sink.write(&again).await.unwrap();
        let read = sink.read_all().await.unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].record.as_ref().unwrap().attempts, 5);

        let mut other_group = first.clone();
        other_group.consumer_group = "audit".into();
        sink.write(&other_group).await.unwrap();
        let mut parts = EventParts::new(Arc::new(Partition::new("orders", "0")), 7, "new hub");
        parts.enqueued_time = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let mut other_incarnation = first;
        other_incarnation.event = parts.into();
        sink.write(&other_incarnation).await.unwrap();
        assert_eq!(sink.read_all().await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_write_leaves_one_file_and_a_killed_writers_rest_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let sink = FolderDeadLetterSink::open(dir.path()).unwrap();
        sink.write(&letter("orders", "0", 7, "x")).await.unwrap();
        let files = files_below(dir.path());
        assert_eq!(files.len(), 1);
        assert_eq!(
            files[0].strip_prefix(dir.path()).unwrap(),
            Path::new("orders/0/00000000000000000007-0.%24default.json")
        );
        fs::write(dir.path().join("orders/0/.partial-1"), "{").unwrap();
        FolderDeadLetterSink::open(dir.path()).unwrap();
        assert_eq!(files_below(dir.path()), files);
    }

    #[tokio::test]
    async fn records_are_listed_by_entity_partition_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let sink = FolderDeadLetterSink::open(dir.path()).unwrap();
        let sorted = [
            ("a/b", "0", -1),
            ("a/b", "0", 9),
            ("a/b", "0", 10),
            ("a/b", "1", 2),
            ("b", "..", 0),
            ("Orders", "0", 1),
        ];
        for (entity, partition, number) in sorted.iter().rev() {
            sink.write(&letter(entity, partition, *number, "x")).await.unwrap();
        }
        let read = sink.read_all().await.unwrap();
        let read: Vec<_> = read
            .iter()
            .map(|letter| {
                let record = letter.record.as_ref().unwrap();
                (record.topic.as_str(), record.partition.as_str(), record.sequence_number.0)
            })
            .collect();
        assert_eq!(read, sorted);
    }

    #[tokio::test]
    async fn an_unreadable_record_is_reported_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let sink = FolderDeadLetterSink::open(dir.path()).unwrap();
        for number in [1, 2, 3] {
            sink.write(&letter("orders", "0", number, "x")).await.unwrap();
        }
        let bad = dir.path().join("orders/0/00000000000000000002-0.%24default.json");
        fs::write(&bad, "{\"version\": 1, ").unwrap();
        let read = sink.read_all().await.unwrap();
        assert_eq!(read.len(), 3);
        assert!(read[0].record.is_ok() && read[1].record.is_ok());
        let error = read[2].record.as_ref().unwrap_err();
        assert_eq!(error.class(), ErrorClass::BadData);
        let text = error.to_string();
        assert!(text.contains("0002-0.") && text.contains("move it away"), "{text}");
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_permanent_and_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("orders"), "").unwrap();
        let sink = FolderDeadLetterSink::open(dir.path()).unwrap();
        let error = sink.write(&letter("orders", "0", 7, "x")).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent);
        let text = error.to_string();
        assert!(text.contains("of orders/0 at 7"), "{text}");
        assert!(text.contains("orders is a file; choose a folder"), "{text}");
        let error = FolderDeadLetterSink::open(dir.path().join("orders")).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent);
    }

    #[tokio::test]
    async fn two_sinks_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = FolderDeadLetterSink::open(dir.path()).unwrap();
        let second = FolderDeadLetterSink::open(dir.path()).unwrap();
        first.write(&letter("orders", "0", 1, "x")).await.unwrap();
        second.write(&letter("orders", "0", 2, "x")).await.unwrap();
        assert_eq!(first.read_all().await.unwrap().len(), 2);
    }
}
