//! Files that are written before they get their place, and the lock under which they do: how processes
//! that share a folder compare before they replace.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::lock::is_same_file;
use super::{
    DurableFolder, PARTIAL_PREFIX, WRITE_ATTEMPTS, random_name, sync_folder, write_and_flush,
};
use crate::private_file;

/// Locked by who changes what is in a folder.
const FOLDER_LOCK: &str = ".lock";

/// A file whose content is on the disk and that has no place yet. Dropped, it is gone.
pub(crate) struct Staged {
    path: PathBuf,
    /// Locked for as long as it has no place: a sweep takes it for a dead writer's otherwise.
    file: File,
    is_placed: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_placed {
            // What cannot be removed now is swept at the next open.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The lock of one folder below the root, of all processes. It does not say what is on the disk.
pub(crate) struct FolderLock(File);

impl Drop for FolderLock {
    /// To close the file would not be enough, see [`DurableFolder`].
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl DurableFolder {
    /// Writes a file that has no place yet, and flushes it.
    pub(crate) fn stage(&self, content: &[u8]) -> io::Result<Staged> {
        self.check_root()?;
        let mut attempt = 1;
        loop {
            let path = self.root.join(format!("{PARTIAL_PREFIX}{}", random_name()));
            match write_and_flush(&path, content) {
                // Another process that opened the folder swept it before it was locked.
                Err(error) if error.kind() == ErrorKind::NotFound && attempt < WRITE_ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => {
                    let _ = fs::remove_file(&path);
                    return Err(error);
                }
                Ok(file) => return Ok(Staged { path, file, is_placed: false }),
            }
        }
    }

    /// Gives a staged file its place, whatever was there. It stays there after a crash once the folder is
    /// [flushed](Self::flush).
    pub(crate) fn place(
        &self,
        mut staged: Staged,
        folder: &Path,
        file: &str,
    ) -> io::Result<Metadata> {
        fs::rename(&staged.path, self.root.join(folder).join(file))?;
        staged.is_placed = true;
        staged.file.metadata()
    }

    /// Flushes what was placed in a folder, or removed from it.
    pub(crate) fn flush(&self, folder: &Path) -> io::Result<()> {
        let flushed = sync_folder(&self.root.join(folder));
        match flushed {
            // Somebody removed it when it was empty: with what was in it.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.check_root()?;
                folder.parent().map_or(Ok(()), |above| self.flush(above))
            }
            Err(error) => {
                self.durable().clear();
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Locks a folder, which is created where it is missing, and waits for who has it.
    pub(crate) fn lock_folder(&self, folder: &Path) -> io::Result<FolderLock> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        loop {
            self.check_root()?;
            let opened =
                self.make_durable(folder).and_then(|()| self.open_lock(folder, &mut options));
            match opened {
                Ok(file) => {
                    file.lock()?;
                    if let Some(lock) = self.checked(folder, file)? {
                        return Ok(lock);
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            // It was removed when it was empty.
            self.durable().remove(folder);
        }
    }

    /// Locks a folder that is there and that nobody has locked.
    pub(crate) fn try_lock_folder(&self, folder: &Path) -> Option<FolderLock> {
        let options = &mut OpenOptions::new();
        let file = self.open_lock(folder, options.write(true).create(true).truncate(false)).ok()?;
        match file.try_lock() {
            Ok(()) => self.checked(folder, file).ok()?,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
        }
    }

    fn open_lock(&self, folder: &Path, options: &mut OpenOptions) -> io::Result<File> {
        private_file::open(options, &self.root.join(folder).join(FOLDER_LOCK))
    }

    /// The lock, unless its file was removed while it was waited for: others look at another one then.
    fn checked(&self, folder: &Path, file: File) -> io::Result<Option<FolderLock>> {
        let lock = FolderLock(file);
        match fs::metadata(self.root.join(folder).join(FOLDER_LOCK)) {
            Ok(found) => Ok(is_same_file(&lock.0.metadata()?, &found).then_some(lock)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds to a file of a locked folder, which is emptied first where it has more than `max_bytes`. It is
    /// not flushed.
    pub(crate) fn append(
        &self,
        _lock: &FolderLock,
        folder: &Path,
        file: &str,
        content: &[u8],
        max_bytes: u64,
    ) -> io::Result<()> {
        let path = self.root.join(folder).join(file);
        let mut file = private_file::open(OpenOptions::new().append(true).create(true), &path)?;
        if file.metadata()?.len() > max_bytes {
            file.set_len(0)?;
        }
        file.write_all(content)
    }

    /// Removes a locked folder that holds nothing but hidden files, which go with it.
    pub(crate) fn remove_if_empty(&self, lock: FolderLock, folder: &Path) -> io::Result<()> {
        let path = self.root.join(folder);
        let mut hidden = Vec::new();
        for entry in fs::read_dir(&path)? {
            let name = entry?.file_name();
            if !name.to_string_lossy().starts_with('.') {
                return Ok(());
            }
            hidden.push(name);
        }
        // The lock last: from then on others may come, and the folder stays.
        hidden.sort_by_key(|name| name == FOLDER_LOCK);
        for name in hidden {
            fs::remove_file(path.join(name))?;
        }
        self.durable().remove(folder);
        let removed = fs::remove_dir(&path);
        drop(lock);
        match removed {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Access;
    use super::*;

    fn open(path: &Path) -> DurableFolder {
        DurableFolder::open(path.to_owned(), Access::Shared, "open").unwrap()
    }

    #[test]
    fn a_staged_file_has_a_place_or_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, other) = (open(dir.path()), Path::new("a/b"));
        drop(folder.stage(b"1").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let staged = folder.stage(b"2").unwrap();
        // A living writer's file is spared by whoever opens the folder meanwhile.
        open(dir.path());
        let lock = folder.lock_folder(other).unwrap();
        assert_eq!(folder.place(staged, other, "x").unwrap().len(), 1);
        folder.flush(other).unwrap();
        drop(lock);
        assert_eq!(folder.read(other, "x").unwrap().unwrap(), b"2");
    }

    #[test]
    fn a_lock_is_for_one_and_outlives_a_folder_that_was_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, below) = (open(dir.path()), Path::new("a"));
        let lock = folder.lock_folder(below).unwrap();
        assert!(open(dir.path()).try_lock_folder(below).is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let other = open(dir.path());
                let lock = other.lock_folder(below).unwrap();
                let staged = other.stage(b"1").unwrap();
                other.place(staged, below, "x").unwrap();
                drop(lock);
            });
            folder.remove_if_empty(lock, below).unwrap();
            waiting.join().unwrap();
        });
        let lock = folder.lock_folder(below).unwrap();
        folder.remove_if_empty(lock, below).unwrap();
        assert_eq!(folder.read(below, "x").unwrap().unwrap(), b"1", "it was not empty");
    }
}
