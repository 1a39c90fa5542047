//! The root of a folder of blobs: where a blob goes, what stands in its way, and the commit.
//!
//! Everything here blocks. Folders are looked at part by part, and a link is followed only
//! once its end is known to be below the root, so nothing is ever created outside.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::partial::{HOLDER, PartialFile, PartialFolder};
use super::unfinished::UnfinishedFolder;
use super::{SyncFiles, attribute};
use crate::blob_store::{BlobError, BlobName, Commit, FoundBlob};
use crate::durable_folder::{create_root, explain, sync_folder};
use crate::private_file;

/// The longest file name that the usual file systems take, in bytes.
const MAX_PART_BYTES: usize = 255;

/// How many folders are remembered as flushed; past it, they are flushed once more.
const MAX_REMEMBERED_FOLDERS: usize = 4_096;

/// An open temporary file; the file is removed when this is dropped.
pub(super) type Partial = (File, PartialFile);

/// What to do about a folder on the way to a blob that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Leave,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Root {
    /// Without links, absolute.
    path: PathBuf,
    partials: PartialFolder,
    unfinished: UnfinishedFolder,
    /// Folders whose own entries, and those of all above, are on the disk.
    durable: Mutex<BTreeSet<PathBuf>>,
    /// Folders with names that are to be flushed.
    unflushed: Mutex<BTreeSet<PathBuf>>,
    flushing: Mutex<()>,
}

impl Root {
    pub(super) fn create(path: &Path) -> Result<Self, BlobError> {
        let opened = create_root(path).and_then(|path| {
            let partials = PartialFolder::open(&path)?;
            let unfinished = UnfinishedFolder::of(partials.holder());
            unfinished.sweep(SystemTime::now());
            Ok(Self {
                path,
                partials,
                unfinished,
                durable: Mutex::default(),
                unflushed: Mutex::default(),
                flushing: Mutex::default(),
            })
        });
        opened.map_err(|error| BlobError::Unusable {
            reason: explain(&place_of_fault(path, &error), &error),
            source: Some(error),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the temporary files.
    pub(super) fn close(&self) {
        self.partials.close();
    }

    pub(super) fn open(&self, name: &BlobName) -> Result<Partial, BlobError> {
        self.check_way_to(name)?;
        self.partials.create_file().map_err(|error| self.partial_failed("open", name, error))
    }

    /// What stands in the way is told now, before anyone fetches the bytes.
    pub(super) fn check_way_to(&self, name: &BlobName) -> Result<(), BlobError> {
        self.check_open()?;
        let target = match self.folder_of(name, Missing::Leave)? {
            Some(folder) => folder.join(last_part(name)),
            None => self.path.join(name.as_str()),
        };
        check_target(name, &target)
    }

    /// Blobs that came in part.
    pub(super) fn unfinished(&self) -> &UnfinishedFolder {
        &self.unfinished
    }

    fn check_open(&self) -> Result<(), BlobError> {
        if self.partials.is_closed() {
            return Err(BlobError::Unusable {
                reason: "it was closed; open it anew".to_owned(),
                source: None,
            });
        }
        Ok(())
    }

    /// `partial` is the temporary file, if there is one already, and `write` writes what it lacks.
    pub(super) fn commit(
        &self,
        name: &BlobName,
        partial: Option<Partial>,
        write: impl FnOnce(&mut File) -> io::Result<()>,
        commit: &Commit,
        sync: SyncFiles,
    ) -> Result<(), BlobError> {
        const OPERATION: &str = "commit";
        let (mut file, partial) = match partial {
            Some(partial) => partial,
            None => {
                self.check_open()?;
                let created = self.partials.create_file();
                created.map_err(|error| self.partial_failed("open", name, error))?
            }
        };
        if let Some(note) = &commit.note {
            attribute::write(&file, note);
        }
        let written = write(&mut file)
            .and_then(|()| commit.modified.map_or(Ok(()), |time| file.set_modified(time)));
        let flushed = written.and_then(|()| match sync {
            SyncFiles::Always | SyncFiles::AtFlush => file.sync_all(),
            SyncFiles::Never => Ok(()),
        });
        flushed.map_err(|error| self.partial_failed(OPERATION, name, error))?;
        drop(file);
        let Some(folder) = self.folder_of(name, Missing::Create)? else {
            return Err(self.failed(OPERATION, name, &self.path, ErrorKind::NotFound.into()));
        };
        let target = folder.join(last_part(name));
        check_target(name, &target)?;
        partial.rename_to(&target).map_err(|error| self.failed(OPERATION, name, &target, error))?;
        match sync {
            SyncFiles::Always => self
                .make_durable(&folder)
                .map_err(|error| self.failed(OPERATION, name, &folder, error)),
            SyncFiles::AtFlush => {
                let mut unflushed = self.unflushed();
                if !unflushed.contains(&folder) {
                    unflushed.insert(folder);
                }
                Ok(())
            }
            SyncFiles::Never => Ok(()),
        }
    }

    fn unflushed(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flushes the folders of what was committed; one call at a time, for each answers for all before it.
    pub(super) fn flush(&self) -> Result<(), BlobError> {
        let _alone = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut folders = std::mem::take(&mut *self.unflushed());
        while let Some(folder) = folders.first() {
            if let Err(error) = self.make_durable(folder) {
                let reason = explain(folder, &error);
                // Those that were not are left for the next call.
                self.unflushed().append(&mut folders);
                return Err(BlobError::Unusable { reason, source: Some(error) });
            }
            folders.pop_first();
        }
        Ok(())
    }

    pub(super) fn find(&self, name: &BlobName) -> Result<Option<FoundBlob>, BlobError> {
        let Some((path, metadata)) = self.file_of(name)? else { return Ok(None) };
        let found = FoundBlob::new(metadata.len())
            .with_modified(metadata.modified().ok())
            .with_note(attribute::read(&path));
        Ok(Some(found))
    }

    pub(super) fn length(&self, name: &BlobName) -> Result<Option<u64>, BlobError> {
        Ok(self.file_of(name)?.map(|(_, metadata)| metadata.len()))
    }

    pub(super) fn sha256(&self, name: &BlobName) -> Result<Option<[u8; 32]>, BlobError> {
        let Some((path, _)) = self.file_of(name)? else { return Ok(None) };
        let mut hasher = Sha256::new();
        let read = open_file(&path).and_then(|mut file| io::copy(&mut file, &mut hasher));
        match read {
            Ok(_) => Ok(Some(hasher.finalize().into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", name, &path, error)),
        }
    }

    /// Opens a blob for reading; `None` if there is none.
    pub(super) fn open_to_read(&self, name: &BlobName) -> Result<Option<File>, BlobError> {
        let Some((path, _)) = self.file_of(name)? else { return Ok(None) };
        match open_file(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", name, &path, error)),
        }
    }

    /// Where the bytes of a blob are.
    fn file_of(&self, name: &BlobName) -> Result<Option<(PathBuf, Metadata)>, BlobError> {
        check_name(name)?;
        // Wherever links lead: where nothing is, nothing is refused either.
        let path = self.path.join(name.as_str());
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(None);
        }
        let Some(folder) = self.folder_of(name, Missing::Leave)? else {
            return Ok(None);
        };
        let path = folder.join(last_part(name));
        let found = fs::symlink_metadata(&path).and_then(|metadata| {
            if metadata.is_symlink() {
                let real = path.canonicalize()?;
                Ok((fs::metadata(&real)?, real))
            } else {
                Ok((metadata, path.clone()))
            }
        });
        match found {
            Ok((_, real)) if !self.holds(&real) => {
                Err(refused(name, link_leads_out(last_part(name)), None))
            }
            Ok((metadata, real)) => Ok(metadata.is_file().then_some((real, metadata))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("look up", name, &path, error)),
        }
    }

    /// The folder a blob goes to, without links; `None` if it is missing and left so. Each
    /// part is looked at before anything is created in it, so nothing is created outside.
    fn folder_of(&self, name: &BlobName, missing: Missing) -> Result<Option<PathBuf>, BlobError> {
        check_name(name)?;
        let mut parts: Vec<&str> = name.as_str().split('/').collect();
        parts.pop();
        let mut folder = self.path.clone();
        for part in parts {
            let next = folder.join(part);
            let failed = |error| self.failed("create the folders of", name, &next, error);
            let mut looked = fs::symlink_metadata(&next);
            if looked.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                if missing == Missing::Leave {
                    return Ok(None);
                }
                match fs::create_dir(&next) {
                    // Somebody else did.
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                        return Err(failed(error));
                    }
                    _ => {}
                }
                looked = fs::symlink_metadata(&next);
            }
            let metadata = looked.map_err(failed)?;
            folder = if metadata.is_dir() {
                next
            } else if metadata.is_symlink() {
                self.follow(name, part, &next)?
            } else {
                return Err(refused(name, part_is_a_file(part), None));
            };
        }
        Ok(Some(folder))
    }

    fn follow(&self, name: &BlobName, part: &str, link: &Path) -> Result<PathBuf, BlobError> {
        match link.canonicalize() {
            Ok(real) if !self.holds(&real) => Err(refused(name, link_leads_out(part), None)),
            Ok(real) if !real.is_dir() => Err(refused(name, part_is_a_file(part), None)),
            Ok(real) => Ok(real),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(refused(
                name,
                format!("{part:?} is a link that leads nowhere; remove it"),
                Some(error),
            )),
            Err(error) => Err(self.failed("follow the link to", name, link, error)),
        }
    }

    /// Whether a path without links is where blobs may be.
    fn holds(&self, real: &Path) -> bool {
        real.starts_with(&self.path) && !real.starts_with(self.path.join(HOLDER))
    }

    /// Flushes a folder, and once the way to it.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        sync_folder(folder)?;
        let lock = || self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().contains(folder) {
            return Ok(());
        }
        // Another commit may have created the folders and not flushed them yet, so what counts
        // is not who created them.
        for above in folder.ancestors().skip(1) {
            if !above.starts_with(&self.path) {
                break;
            }
            sync_folder(above)?;
        }
        let mut durable = lock();
        if durable.len() >= MAX_REMEMBERED_FOLDERS {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(())
    }

    pub(super) fn partial_failed(
        &self,
        operation: &'static str,
        name: &BlobName,
        error: io::Error,
    ) -> BlobError {
        self.failed(operation, name, self.partials.path(), error)
    }

    fn failed(
        &self,
        operation: &'static str,
        name: &BlobName,
        path: &Path,
        error: io::Error,
    ) -> BlobError {
        let partials = self.partials.path();
        if error.kind() == ErrorKind::NotFound && !partials.is_dir() {
            let reason = if self.partials.is_closed() {
                "it was closed while blobs were written; close it last".to_owned()
            } else {
                format!(
                    "{} was removed or unmounted while in use; put it back and start again",
                    partials.display()
                )
            };
            return BlobError::Unusable { reason, source: Some(error) };
        }
        blob_error(operation, name, path, error)
    }
}

/// A file without links on its way: whatever takes its place meanwhile holds nobody up.
fn open_file(path: &Path) -> io::Result<File> {
    private_file::open_regular(OpenOptions::new().read(true), path)
}

/// Sorts an error of the file system by whose fault it is.
pub(super) fn blob_error(
    operation: &'static str,
    name: &BlobName,
    path: &Path,
    error: io::Error,
) -> BlobError {
    match error.kind() {
        ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::FileTooLarge
        | ErrorKind::PermissionDenied => {
            BlobError::Unusable { reason: explain(path, &error), source: Some(error) }
        }
        ErrorKind::NotADirectory
        | ErrorKind::AlreadyExists
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidFilename => refused(name, explain(path, &error), Some(error)),
        ErrorKind::CrossesDevices => refused(
            name,
            format!(
                "{} is on another file system than the root; make that one the root",
                path.display()
            ),
            Some(error),
        ),
        _ => BlobError::Transient { operation, name: name.to_string(), source: error },
    }
}

fn refused(name: &BlobName, reason: String, source: Option<io::Error>) -> BlobError {
    BlobError::Refused { name: name.to_string(), reason, source }
}

fn part_is_a_file(part: &str) -> String {
    format!("{part:?} is a file, and a folder must be there; move it away or rename the blob")
}

fn link_leads_out(part: &str) -> String {
    format!("{part:?} is a link that leads out of the store's folder; remove it")
}

fn last_part(name: &BlobName) -> &str {
    name.as_str().rsplit('/').next().unwrap_or_default()
}

fn check_name(name: &BlobName) -> Result<(), BlobError> {
    let mut parts = name.as_str().split('/');
    // In any case: some file systems do not tell upper from lower.
    if parts.clone().next().is_some_and(|first| first.eq_ignore_ascii_case(HOLDER)) {
        let reason = format!("{HOLDER:?} is where temporary files are; rename the blob");
        return Err(refused(name, reason, None));
    }
    match parts.find(|part| part.len() > MAX_PART_BYTES) {
        Some(long) => Err(refused(
            name,
            format!(
                "a part of it has {} bytes, and a file name takes {MAX_PART_BYTES}; shorten it",
                long.len()
            ),
            None,
        )),
        None => Ok(()),
    }
}

/// A link in the blob's own place is replaced, not followed, so only a folder is in the way.
fn check_target(name: &BlobName, target: &Path) -> Result<(), BlobError> {
    match fs::symlink_metadata(target) {
        Ok(metadata) if metadata.is_dir() => Err(refused(
            name,
            "a folder has its name; move it away or rename the blob".to_owned(),
            None,
        )),
        // Each part may fit where the whole path does not.
        Err(error) if error.kind() == ErrorKind::InvalidFilename => {
            Err(refused(name, explain(target, &error), Some(error)))
        }
        _ => Ok(()),
    }
}

/// Where an open failed: the root, or the folder for temporary files in it.
fn place_of_fault(root: &Path, error: &io::Error) -> PathBuf {
    let holder = root.join(HOLDER);
    if error.kind() == ErrorKind::NotADirectory && root.is_dir() { holder } else { root.to_owned() }
}
