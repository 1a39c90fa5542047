//! Failures in a folder, which processes may share. Each is a file:
//! `dead/{namespace}/{hub}/{incarnation}/{group}/{partition}/{number / 16384}/{number}.json`.
//!
//! A file is two JSON values: a line with what a listing shows, and the record, each with a checksum, so a flipped bit
//! is noticed. It is durable when the put
//! returns, and whole: if the process is killed at any moment, the folder holds the old value or the new one. A
//! process that compares and replaces holds the lock of the folder of some thousand numbers, so a million failures
//! are listed a folder at a time. Each folder has an index of such lines, so a listing opens only the files that
//! it does not know.

mod head;
mod index;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::spawn_blocking;

use self::head::{Content, Head};
use self::index::{Index, Stamp};
use super::key::{number_of, number_text, numbers_of_digits};
use super::{
    Expected, FailureEntry, FailureKey, FailureMeta, FailurePage, FailurePrefix, FailureStore,
    Listed, ListedFailure, MAX_PAGE_ENTRIES, PageToken, StoreError, StoredFailure, VersionToken,
};
use crate::durable_folder::{Access, DurableFolder};
use crate::error::{Error, ErrorClass};
use crate::event::SequenceNumber;

const SUFFIX: &str = ".json";

/// So many numbers share a folder.
const BUCKET_NUMBERS: i64 = 16_384;

/// Folders on the way to a bucket: kind, namespace, hub, incarnation, group, partition, bucket.
const DEPTH: usize = 7;

const OPEN: &str = "open the failure store";
const PUT: &str = "put the failure";
const READ: &str = "read the failure";
const LIST: &str = "list the failures";
const DELETE: &str = "delete the failure";

/// A [`FailureStore`] in a local folder. See the [module](self).
#[derive(Debug, Clone)]
pub struct FolderFailureStore {
    folder: Arc<DurableFolder>,
}

impl FolderFailureStore {
    /// Opens a folder, and creates it if it is missing. Temporary files of killed processes are removed. It blocks
    /// for a few file operations.
    ///
    /// # Errors
    /// `Permanent` if the folder is a file or may not be used; otherwise as the file system fails.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        DurableFolder::open(dir.into(), Access::Shared, OPEN)
            .map(|folder| Self { folder: Arc::new(folder) })
    }

    /// The folder, resolved.
    pub fn folder(&self) -> &Path {
        self.folder.root()
    }

    /// Runs a call where it may block.
    fn call<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&Files) -> Result<T, E> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, E>> {
        let files = Files(Arc::clone(&self.folder));
        let call = spawn_blocking(move || call(&files));
        let interrupted = move |gone| {
            let error = Error::new(ErrorClass::Transient, operation, "the call was interrupted");
            E::from(error.with_source(gone))
        };
        async move { call.await.map_err(interrupted)? }.boxed()
    }
}

impl FailureStore for FolderFailureStore {
    fn place(&self) -> String {
        self.folder.root().display().to_string()
    }

    fn put<'a>(
        &'a self,
        key: &'a FailureKey,
        entry: &'a FailureEntry,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let (key, entry, expected) = (key.clone(), entry.clone(), expected.clone());
        self.call(PUT, move |files| files.put(&key, &entry, &expected))
    }

    fn read<'a>(
        &'a self,
        key: &'a FailureKey,
    ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>> {
        let key = key.clone();
        self.call(READ, move |files| files.read(&key))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a FailurePrefix,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<FailurePage, Error>> {
        let (prefix, after) = (prefix.clone(), after.cloned());
        self.call(LIST, move |files| files.list(&prefix, after.as_ref(), limit))
    }

    fn delete<'a>(
        &'a self,
        key: &'a FailureKey,
        version: &'a VersionToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (key, version) = (key.clone(), version.clone());
        self.call(DELETE, move |files| files.delete(&key, &version))
    }
}

/// The calls, which block.
struct Files(Arc<DurableFolder>);

impl Files {
    fn put(
        &self,
        key: &FailureKey,
        entry: &FailureEntry,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let head = Head::new(entry.meta.encode(&key.event)?);
        let (folder, file) = place(key);
        let failed = |error| self.0.error(PUT, &folder.join(&file), error);
        let staged = self.0.stage(&head.before(&entry.content)?).map_err(failed)?;
        let lock = self.0.lock_folder(&folder).map_err(failed)?;
        let found = self.0.read(&folder, &file).map_err(failed)?;
        if !expected.is_met_by(found.map(|content| Content::of(&content).version).as_ref()) {
            return Err(StoreError::Conflict);
        }
        let metadata = self.0.place(staged, &folder, &file).map_err(failed)?;
        let stamp = Stamp::of(&metadata);
        Index::of(&self.0, &folder).append(&lock, [(file.as_str(), stamp, &head)]);
        drop(lock);
        self.0.flush(&folder).map_err(failed)?;
        Ok(head.version)
    }

    fn read(&self, key: &FailureKey) -> Result<Option<StoredFailure>, Error> {
        let (folder, file) = place(key);
        let content = self.0.read(&folder, &file);
        let content = content.map_err(|error| self.0.error(READ, &folder.join(&file), error))?;
        Ok(content.map(|content| {
            let Content { version, record_at, is_damaged } = Content::of(&content);
            let content = Bytes::from(content).slice(record_at..);
            StoredFailure { key: key.clone(), content, version, is_damaged }
        }))
    }

    fn delete(&self, key: &FailureKey, version: &VersionToken) -> Result<(), StoreError> {
        let (folder, file) = place(key);
        let failed = |error| self.0.error(DELETE, &folder.join(&file), error);
        let found = self.0.read(&folder, &file).map_err(failed)?;
        if found.is_none() {
            return Ok(());
        }
        let lock = self.0.lock_folder(&folder).map_err(failed)?;
        let found = self.0.read(&folder, &file).map_err(failed)?;
        if let Some(content) = found {
            if Content::of(&content).version != *version {
                return Err(StoreError::Conflict);
            }
            self.0.remove(&folder, &file).map_err(failed)?;
        }
        // A folder that stays is in nobody's way.
        let _ = self.0.remove_if_empty(lock, &folder);
        Ok(())
    }

    fn list(
        &self,
        prefix: &FailurePrefix,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<FailurePage, Error> {
        let limit = limit.clamp(1, MAX_PAGE_ENTRIES);
        let (begin, digits) = prefix.path().rsplit_once('/').unwrap_or_default();
        let Some(buckets) = buckets_of(digits) else { return Ok(FailurePage::default()) };
        let behind = after.and_then(|PageToken(path)| names_of(path)).unwrap_or_default();
        let depth = begin.split('/').count();
        let page = FailurePage::default();
        let mut walk = Walk { files: self, limit, digits, buckets, page, last: None };
        walk.folder(Path::new(begin), depth, behind.get(depth..).unwrap_or_default())?;
        let is_full = walk.page.entries.len() >= limit;
        walk.page.next = walk.last.filter(|_| is_full).map(PageToken);
        Ok(walk.page)
    }

    /// What the files of a bucket say of themselves: by the index where it knows them.
    fn entries(&self, folder: &Path, files: Vec<String>) -> Result<Vec<(String, Listed)>, Error> {
        let failed = |error| self.0.error(LIST, folder, error);
        let index = Index::of(&self.0, folder);
        let mut known = index.read(&files);
        let mut learned = Vec::new();
        let mut entries = Vec::with_capacity(files.len());
        for file in files {
            let Some(stamp) = self.stamp(folder, &file).map_err(failed)? else { continue };
            let head = match known.remove(&file) {
                Some((indexed, head)) if indexed == stamp => Ok(head),
                _ => match self.head(folder, &file) {
                    Ok(None) => continue,
                    Ok(Some(head)) => {
                        learned.push((file.clone(), stamp, head.clone()));
                        Ok(head)
                    }
                    Err(error) => Err(error),
                },
            };
            let listed = head.and_then(|head| self.listed(folder, &file, head));
            entries.push((file, listed));
        }
        if let Some(lock) = (!learned.is_empty()).then(|| self.0.try_lock_folder(folder)).flatten()
        {
            index.append(&lock, learned.iter().map(|(file, stamp, head)| (&**file, *stamp, head)));
        }
        Ok(entries)
    }

    fn stamp(&self, folder: &Path, file: &str) -> std::io::Result<Option<Stamp>> {
        match std::fs::symlink_metadata(self.0.root().join(folder).join(file)) {
            Ok(metadata) => Ok(Some(Stamp::of(&metadata))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a file says of itself; `None` if it went away meanwhile.
    fn head(&self, folder: &Path, file: &str) -> Result<Option<Head>, Error> {
        let path = folder.join(file);
        let content =
            self.0.read(folder, file).map_err(|error| self.0.error(LIST, &path, error))?;
        content
            .map(|content| Head::read(&content).map_err(|fault| self.unreadable(&path, fault)))
            .transpose()
    }

    fn listed(&self, folder: &Path, file: &str, head: Head) -> Listed {
        let path = folder.join(file);
        let (event, meta) =
            FailureMeta::decode(&head.line).map_err(|fault| self.unreadable(&path, &fault))?;
        let kind = match folder.starts_with("dead") {
            true => super::FailureKind::Dead,
            false => super::FailureKind::Parked,
        };
        let key = event.key(kind);
        let (own_folder, own_file) = place(&key);
        if own_folder != folder || own_file != file {
            return Err(self.unreadable(&path, &format!("it is a copy of {key}")));
        }
        Ok(ListedFailure { key, meta, version: head.version })
    }

    fn unreadable(&self, path: &Path, fault: &str) -> Error {
        let path = self.0.root().join(path);
        let message =
            format!("{} is no failure: {fault}; repair it, or move it away", path.display());
        Error::new(ErrorClass::BadData, LIST, message)
    }
}

/// Goes through folders in order until a page is full.
struct Walk<'a> {
    files: &'a Files,
    limit: usize,
    /// What the numbers begin with, and the names of the first and the last bucket of such ones.
    digits: &'a str,
    buckets: (String, String),
    page: FailurePage,
    /// The path of the last entry of the page.
    last: Option<String>,
}

impl Walk<'_> {
    /// What is below a folder, behind the names of `after`.
    fn folder(&mut self, folder: &Path, depth: usize, after: &[String]) -> Result<(), Error> {
        let failed = |error| self.files.0.error(LIST, folder, error);
        let (first, rest) = match after.split_first() {
            Some((first, rest)) => (Some(first), rest),
            None => (None, after),
        };
        if depth == DEPTH {
            let mut files = self.files.0.files(folder, SUFFIX).map_err(failed)?;
            files.retain(|file| file.starts_with(self.digits) && is_behind(file, first));
            files.truncate(self.limit - self.page.entries.len());
            for (file, entry) in self.files.entries(folder, files)? {
                self.last = Some(format!("{}/{file}", folder.display()));
                self.page.entries.push(entry);
            }
            return Ok(());
        }
        let (first_bucket, last_bucket) = &self.buckets;
        let mut names = self.files.0.folders(folder).map_err(failed)?;
        if depth == DEPTH - 1 {
            names.retain(|name| name >= first_bucket && name <= last_bucket);
        }
        for name in names {
            if self.page.entries.len() >= self.limit {
                break;
            }
            match first.map(|first| name.cmp(first)) {
                Some(std::cmp::Ordering::Less) => {}
                Some(std::cmp::Ordering::Equal) => {
                    self.folder(&folder.join(&name), depth + 1, rest)?;
                }
                Some(std::cmp::Ordering::Greater) | None => {
                    self.folder(&folder.join(&name), depth + 1, &[])?;
                }
            }
        }
        Ok(())
    }
}

fn is_behind(file: &str, first: Option<&String>) -> bool {
    first.is_none_or(|first| file > first.as_str())
}

/// The names on the way to an entry, the file's included; `None` for a token of another store.
fn names_of(token: &str) -> Option<Vec<String>> {
    let names: Vec<String> = token.split('/').map(str::to_owned).collect();
    (names.len() == DEPTH + 1).then_some(names)
}

/// The first and the last bucket of the numbers that begin with these digits.
fn buckets_of(digits: &str) -> Option<(String, String)> {
    let (first, last) = numbers_of_digits(digits)?;
    Some((bucket_of(first), bucket_of(last)))
}

fn bucket_of(SequenceNumber(number): SequenceNumber) -> String {
    number_text(SequenceNumber(number.div_euclid(BUCKET_NUMBERS)))
}

/// Folder and file of a key.
fn place(key: &FailureKey) -> (PathBuf, String) {
    let path = key.path();
    let (log, number) = path.rsplit_once('/').unwrap_or_default();
    let bucket = bucket_of(SequenceNumber(number_of(number).unwrap_or_default()));
    let folder = Path::new(log).join(bucket);
    (folder, format!("{number}{SUFFIX}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::event::Incarnation;
    use crate::failure_store::{FailureKind, LogIdentity};

    #[test]
    fn numbers_that_are_near_share_a_folder() {
        let log = LogIdentity {
            namespace: "ns.example".to_owned(),
            entity: "orders".into(),
            incarnation: Incarnation(1),
            consumer_group: "$Default".into(),
            partition: "0".into(),
        };
        let of = |number| place(&log.event(SequenceNumber(number)).key(FailureKind::Dead));
        let folder = "dead/ns.example/orders/0000000000001/%24default/0/0000000000000000000";
        assert_eq!(of(17), (folder.into(), "0000000000000000017.json".to_owned()));
        assert_eq!(of(0).0, of(16_383).0);
        assert!(of(16_383).0 < of(16_384).0 && of(-1).0 < of(0).0);
        assert_eq!(of(17).0.components().count(), DEPTH);
    }
}
