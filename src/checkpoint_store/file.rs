//! Checkpoints as files of a folder: one readable JSON file per partition, in
//! `namespace/entity/consumer group/partition.json`, names percent-encoded.
//!
//! Names do not depend on their case at the service, so file names are in lower case. Earlier releases named files
//! as the names were spelled. Such a file is read if there is none in lower case; if there are several, the one
//! that is furthest ahead. The first write replaces it by one in lower case. The port of a broker on this machine
//! is left out: a broker that comes back on another port finds its checkpoints, and two brokers with a hub of the
//! same name need a folder each.
//!
//! A write is durable when it returns, and whole: if the process is killed at any moment, the store holds the old
//! value or the new one. One process uses a folder at a time. Within it, a lock for each key makes
//! compare-and-swap atomic and every call linearizable. The version of a value is its revision and a hash of the
//! file, so an edit by hand is a change too. Others can read beside that process:
//! [`FileCheckpointStore::open_read_only`].
//!
//! A file has a checksum of itself in its third line, so a flipped bit is noticed. A file without one is of an
//! earlier release, or was edited by somebody who removed the line, and is taken as it is.
//!
//! Processes do not share a folder. Workers on several machines keep their checkpoints in Blob Storage.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, Listed, StoreError,
    StoredCheckpoint, VersionToken,
};
use crate::checkpoint::host_of;
use crate::durable_folder::{
    Access, DIGITS, DurableFolder, checksum, disk_error, escape, in_use, is_checksum, unescape,
};
use crate::error::{Error, ErrorClass};
use crate::event::{ConsumerGroup, EntityName, Partition, PartitionId};

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;

/// The layout of the files; a greater number is of a later release.
const FORMAT: u32 = 1;

/// What a file begins with, up to the digits of its checksum. They are of what is behind them. It is a line of its
/// own, so that it can be removed by whoever edits the file.
const UP_TO_CHECKSUM: &str = "{\n  \"format\": 1,\n  \"checksum\": \"";

const SUFFIX: &str = ".json";

const OPEN: &str = "open the checkpoint folder";
const LOAD: &str = "load the checkpoint";
const STORE: &str = "store the checkpoint";
const LIST: &str = "list the checkpoints";

/// A [`CheckpointStore`] in a local folder. See the [module](self).
#[derive(Debug)]
pub struct FileCheckpointStore {
    shared: Arc<Shared>,
}

impl FileCheckpointStore {
    /// Opens a folder, and creates it if it is missing. The folder belongs to this store until it and all its
    /// calls are gone. Temporary files of a killed process are removed.
    ///
    /// It blocks for a few file operations.
    ///
    /// # Errors
    /// `Permanent` if the folder is in use by another process, is a file, or may not be
    /// written; otherwise as the file system fails.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = DurableFolder::open(dir.into(), Access::Exclusive, OPEN)?;
        let shared = Shared { folder, key_locks: Mutex::default(), is_read_only: false };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Opens a folder that is there to read it, beside the process that has it for itself. Each
    /// checkpoint is read whole, as its last write left it; two of them may be of different moments.
    /// Nothing is made, locked or removed, and what would write fails with `Permanent`.
    ///
    /// It blocks for a few file operations.
    ///
    /// # Errors
    /// `Permanent` where there is no such folder, or it may not be read; otherwise as the file system
    /// fails.
    pub fn open_read_only(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = DurableFolder::open(dir.into(), Access::ReadOnly, OPEN)?;
        let shared = Shared { folder, key_locks: Mutex::default(), is_read_only: true };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Who has the folder for itself, of a store that was
    /// [opened to be read](Self::open_read_only): "process 4711". `None` where nobody has.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn user(&self) -> Result<Option<String>, Error> {
        let folder = &self.shared.folder;
        folder.user().map_err(|error| disk_error(OPEN, folder.root(), error))
    }

    /// What [`open`](Self::open) says of a folder that somebody [uses](Self::user).
    pub fn in_use(&self, user: &str) -> Error {
        in_use(self.folder(), user, OPEN)
    }

    /// The folder, resolved.
    pub fn folder(&self) -> &Path {
        self.shared.folder.root()
    }
}

impl CheckpointStore for FileCheckpointStore {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        let (shared, key) = (self.shared.clone(), key.clone());
        async move {
            spawn_blocking(move || shared.load(&key))
                .await
                .map_err(|gone| interrupted(LOAD, gone))?
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let shared = self.shared.clone();
        let (key, checkpoint, expected) = (key.clone(), checkpoint.clone(), expected.clone());
        async move {
            spawn_blocking(move || shared.compare_and_swap(&key, checkpoint, &expected))
                .await
                .map_err(|gone| interrupted(STORE, gone))?
        }
        .boxed()
    }

    fn overwrite_unreadable<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let (shared, key, checkpoint) = (self.shared.clone(), key.clone(), checkpoint.clone());
        async move {
            spawn_blocking(move || shared.overwrite_unreadable(&key, checkpoint))
                .await
                .map_err(|gone| interrupted(STORE, gone))?
        }
        .boxed()
    }

    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
        let (shared, scope) = (self.shared.clone(), scope.clone());
        async move {
            spawn_blocking(move || shared.list(&scope))
                .await
                .map_err(|gone| interrupted(LIST, gone))?
        }
        .boxed()
    }
}

/// The runtime is shutting down: whether the call was made is unknown.
fn interrupted(operation: &'static str, gone: tokio::task::JoinError) -> Error {
    Error::new(ErrorClass::Transient, operation, "the call was interrupted").with_source(gone)
}

/// What the calls share; they run on threads that may block.
#[derive(Debug)]
struct Shared {
    folder: DurableFolder,
    /// A lock for each file seen: as many as there are partitions.
    key_locks: Mutex<BTreeMap<PathBuf, Arc<Mutex<()>>>>,
    /// Another process may have the folder for itself.
    is_read_only: bool,
}

impl Shared {
    fn load(&self, key: &CheckpointKey) -> Result<Option<StoredCheckpoint>, Error> {
        // A reader waits for a writer: what it sees is then durable.
        let lock = self.key_lock(key);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.read(key, LOAD)?.map(|found| found.stored))
    }

    fn compare_and_swap(
        &self,
        key: &CheckpointKey,
        checkpoint: Checkpoint,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let lock = self.key_lock(key);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.read(key, STORE)?;
        let revision = match (&found, expected) {
            (None, Expected::Absent) => 1,
            (Some(found), Expected::Version(version)) if found.stored.version == *version => {
                found.revision.saturating_add(1)
            }
            _ => return Err(StoreError::Conflict),
        };
        self.write(key, revision, checkpoint)
    }

    fn overwrite_unreadable(
        &self,
        key: &CheckpointKey,
        checkpoint: Checkpoint,
    ) -> Result<VersionToken, StoreError> {
        let lock = self.key_lock(key);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read(key, STORE) {
            Err(error) if error.class() == ErrorClass::BadData => self.write(key, 1, checkpoint),
            Err(error) => Err(error.into()),
            Ok(_) => Err(StoreError::Conflict),
        }
    }

    /// Writes the file, and takes away those that the same names have in another spelling: it
    /// counts in their place.
    fn write(
        &self,
        key: &CheckpointKey,
        revision: u64,
        checkpoint: Checkpoint,
    ) -> Result<VersionToken, StoreError> {
        if self.is_read_only {
            let message = "the folder was opened to be read only";
            return Err(Error::new(ErrorClass::Permanent, STORE, message).into());
        }
        let content = Record::new(key, revision, checkpoint).to_json(key)?;
        let (folder, file) = place(key);
        let is_first = !self.folder.root().join(&folder).join(&file).exists();
        let failed = |error| StoreError::Failed(self.failed(STORE, key, error));
        self.folder.replace(&folder, &file, &content).map_err(failed)?;
        if is_first {
            // What cannot be taken away does not count any more.
            for other in self.other_spellings(&key.scope).unwrap_or_default() {
                let _gone = self.folder.remove(&other, &file);
            }
        }
        Ok(version(revision, &content))
    }

    fn list(&self, scope: &CheckpointScope) -> Result<Vec<Listed>, Error> {
        let failed =
            |folder: &Path, error| disk_error(LIST, &self.folder.root().join(folder), error);
        let mut folders =
            self.other_spellings(scope).map_err(|error| failed(Path::new(""), error))?;
        // Ours last: what another process moves there meanwhile is in one of the two listings.
        folders.reverse();
        folders.push(scope_folder(scope));
        let mut places = BTreeMap::new();
        for folder in folders {
            let files =
                self.folder.files(&folder, SUFFIX).map_err(|error| failed(&folder, error))?;
            places.extend(files.into_iter().map(|file| (file, folder.clone())));
        }
        let mut listed: Vec<Listed> =
            places.iter().filter_map(|(file, folder)| self.list_one(scope, folder, file)).collect();
        listed.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(listed)
    }

    /// One file of a listing; `None` if it went away meanwhile.
    fn list_one(&self, scope: &CheckpointScope, folder: &Path, file: &str) -> Option<Listed> {
        let stem = file.strip_suffix(SUFFIX).unwrap_or(file);
        let id = match unescape(stem) {
            Some(name) => PartitionId::from(name),
            // A long name was cut: only the file's content knows it.
            None => match self.partition_in(folder, file) {
                Ok(id) => id.unwrap_or(stem.into()),
                Err(error) => return Some((stem.into(), Err(error))),
            },
        };
        let key = CheckpointKey { scope: scope.clone(), partition: id.clone() };
        if place(&key).1 != file {
            let path = self.folder.root().join(folder).join(file);
            let error = unreadable(LIST, &path, "its name is not a partition's");
            return Some((stem.into(), Err(error)));
        }
        let lock = self.key_lock(&key);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read(&key, LIST) {
            Ok(found) => found.map(|found| (id, Ok(found.stored))),
            Err(error) => Some((id, Err(error))),
        }
    }

    /// What a file says of its partition; `None` where it is gone, or says nothing.
    fn partition_in(&self, folder: &Path, file: &str) -> Result<Option<PartitionId>, Error> {
        let content = self.folder.read(folder, file).map_err(|error| {
            disk_error(LIST, &self.folder.root().join(folder).join(file), error)
        })?;
        let record = content.and_then(|content| serde_json::from_slice::<Record>(&content).ok());
        Ok(record.map(|record| record.partition))
    }

    /// The value under a key.
    fn read(&self, key: &CheckpointKey, operation: &'static str) -> Result<Option<Found>, Error> {
        let (folder, _) = place(key);
        if let Some(found) = self.read_in(&folder, key, operation)? {
            return Ok(Some(found));
        }
        let others = self.other_spellings(&key.scope);
        let others = others.map_err(|error| self.failed(operation, key, error))?;
        let mut furthest: Option<Found> = None;
        for folder in &others {
            if let Some(found) = self.read_in(folder, key, operation)?
                && furthest.as_ref().is_none_or(|other| other.order() < found.order())
            {
                furthest = Some(found);
            }
        }
        if furthest.is_none() && !others.is_empty() && self.is_read_only {
            // Its owner may have moved it meanwhile.
            return self.read_in(&place(key).0, key, operation);
        }
        Ok(furthest)
    }

    /// The value under a key, in one of the folders that may hold it.
    fn read_in(
        &self,
        folder: &Path,
        key: &CheckpointKey,
        operation: &'static str,
    ) -> Result<Option<Found>, Error> {
        let (_, file) = place(key);
        let path = || self.folder.root().join(folder).join(&file);
        let content = self.folder.read(folder, &file).map_err(|error| {
            disk_error(operation, &path(), error).with_partition(&partition(key))
        })?;
        let Some(content) = content else {
            return Ok(None);
        };
        let record = Record::from_json(&content, key).map_err(|fault| {
            unreadable(operation, &path(), &fault).with_partition(&partition(key))
        })?;
        let version = version(record.revision, &content);
        let stored = StoredCheckpoint { checkpoint: record.checkpoint, version };
        Ok(Some(Found { revision: record.revision, stored }))
    }

    /// Folders of the same names, spelled otherwise.
    fn other_spellings(&self, scope: &CheckpointScope) -> io::Result<Vec<PathBuf>> {
        let names = [scope.host(), scope.entity.as_str(), scope.consumer_group.as_str()];
        let mut folders = vec![PathBuf::new()];
        for name in names {
            let mut below = Vec::new();
            for folder in folders {
                for found in self.folder.folders(&folder)? {
                    if unescape(&found).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
                        below.push(folder.join(found));
                    }
                }
            }
            folders = below;
        }
        let own = scope_folder(scope);
        folders.retain(|folder| *folder != own);
        Ok(folders)
    }

    fn failed(&self, operation: &'static str, key: &CheckpointKey, error: io::Error) -> Error {
        disk_error(operation, &self.path(key), error).with_partition(&partition(key))
    }

    fn path(&self, key: &CheckpointKey) -> PathBuf {
        let (folder, file) = place(key);
        self.folder.root().join(folder).join(file)
    }

    fn key_lock(&self, key: &CheckpointKey) -> Arc<Mutex<()>> {
        let mut locks = self.key_locks.lock().unwrap_or_else(PoisonError::into_inner);
        let (folder, file) = place(key);
        locks.entry(folder.join(file)).or_default().clone()
    }
}

/// A stored value, and how often it was written.
struct Found {
    revision: u64,
    stored: StoredCheckpoint,
}

impl Found {
    /// How far it is, as [`Fence`](crate::state::fence::Fence) orders checkpoints.
    fn order(&self) -> impl PartialOrd + use<> {
        let checkpoint = &self.stored.checkpoint;
        let number = checkpoint.watermark.as_ref().map(|position| position.sequence_number);
        (checkpoint.incarnation, checkpoint.reset_generation, number)
    }
}

fn scope_folder(scope: &CheckpointScope) -> PathBuf {
    [scope.host(), scope.entity.as_str(), scope.consumer_group.as_str()]
        .iter()
        .map(|name| escape(&name.to_ascii_lowercase()))
        .collect()
}

fn place(key: &CheckpointKey) -> (PathBuf, String) {
    let file = format!("{}{SUFFIX}", escape(key.partition.as_str()));
    (scope_folder(&key.scope), file)
}

fn partition(key: &CheckpointKey) -> Partition {
    Partition::new(key.scope.entity.clone(), key.partition.clone())
}

fn unreadable(operation: &'static str, path: &Path, fault: &str) -> Error {
    Error::new(
        ErrorClass::BadData,
        operation,
        format!(
            "{} cannot be read as a checkpoint: {fault}; put a good copy in its place, write over \
             it with `longshore checkpoints set --force`, or move it away to begin at the \
             configured start position",
            path.display()
        ),
    )
}

fn version(revision: u64, content: &[u8]) -> VersionToken {
    let mut token = format!("{revision}-");
    for byte in &Sha256::digest(content)[..16] {
        let _ = write!(token, "{byte:02x}");
    }
    VersionToken(token)
}

/// The content of a file, with its checksum.
fn sealed(content: &[u8]) -> Option<Vec<u8>> {
    let (begin, _) = UP_TO_CHECKSUM.split_once("  \"checksum\"")?;
    let rest = content.strip_prefix(begin.as_bytes())?;
    let rest = [b"\",\n", rest].concat();
    Some([UP_TO_CHECKSUM.as_bytes(), checksum(&[&rest]).as_bytes(), &rest].concat())
}

/// Whether the content of a file has the checksum that it names.
fn is_whole(content: &[u8]) -> bool {
    let rest = content.strip_prefix(UP_TO_CHECKSUM.as_bytes());
    let Some((digits, rest)) = rest.and_then(|rest| rest.split_at_checked(DIGITS)) else {
        return false;
    };
    std::str::from_utf8(digits).is_ok_and(|digits| is_checksum(digits, &[rest]))
}

/// A file. It names its key, so that a file moved to another place is found out.
#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    revision: u64,
    namespace: String,
    entity: String,
    consumer_group: String,
    partition: PartitionId,
    checkpoint: Checkpoint,
}

impl Record {
    fn new(key: &CheckpointKey, revision: u64, checkpoint: Checkpoint) -> Self {
        Self {
            format: FORMAT,
            revision,
            namespace: key.scope.namespace.clone(),
            entity: key.scope.entity.to_string(),
            consumer_group: key.scope.consumer_group.to_string(),
            partition: key.partition.clone(),
            checkpoint,
        }
    }

    fn to_json(&self, key: &CheckpointKey) -> Result<Vec<u8>, Error> {
        let refused = || {
            Error::new(ErrorClass::Permanent, STORE, "it cannot be written as JSON")
                .with_partition(&partition(key))
        };
        let content = serde_json::to_vec_pretty(self);
        let mut content = content.map_err(|error| refused().with_source(error))?;
        content.push(b'\n');
        sealed(&content).ok_or_else(refused)
    }

    fn from_json(content: &[u8], key: &CheckpointKey) -> Result<Self, String> {
        // The format first: a later one may not have the other fields.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
            checksum: Option<String>,
        }
        let Format { format, checksum } =
            serde_json::from_slice(content).map_err(|e| e.to_string())?;
        if format != FORMAT {
            return Err(format!("its format is {format}, and this release reads {FORMAT}"));
        }
        if checksum.is_some() && !is_whole(content) {
            return Err(
                "its checksum is wrong, so it is damaged, or was edited and still has its line \
                        `checksum`"
                    .to_owned(),
            );
        }
        let record: Record = serde_json::from_slice(content).map_err(|e| e.to_string())?;
        let scope = &key.scope;
        if host_of(&record.namespace).eq_ignore_ascii_case(scope.host())
            && EntityName::new(&record.entity) == scope.entity
            && ConsumerGroup::new(&record.consumer_group) == scope.consumer_group
            && record.partition == key.partition
        {
            Ok(record)
        } else {
            Err(format!(
                "it is the checkpoint of {}/{}/{}/{}",
                record.namespace, record.entity, record.consumer_group, record.partition
            ))
        }
    }
}
