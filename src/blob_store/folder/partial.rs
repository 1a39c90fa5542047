//! The temporary files of one process: `root/.longshore/partial-<random>/`.
//!
//! The folder holds a file that its process keeps locked. Whoever gets the lock knows that the
//! process is dead and removes the folder; the lock goes last, so that a removal cut short is
//! taken up by the next. Neither a folder's name nor its lock is ever created twice, so who
//! holds a lock of the past finds nothing to remove.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::unfinished;
use crate::durable_folder::random_name;
use crate::private_file;

/// The folder below the root that no blob may be in.
pub(super) const HOLDER: &str = ".longshore";

const PREFIX: &str = "partial-";
const LOCK_FILE: &str = "lock";

/// How often the folder is created anew when another process, sweeping, was faster.
const ATTEMPTS: usize = 16;

/// This process's folder; dropped, it is removed with all in it.
#[derive(Debug)]
pub(super) struct PartialFolder {
    holder: PathBuf,
    path: PathBuf,
    /// `None` once closed.
    lock: Mutex<Option<File>>,
    next_file: AtomicU64,
}

impl PartialFolder {
    /// Removes the folders of dead processes and creates one for this.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let holder = root.join(HOLDER);
        for _ in 0..ATTEMPTS {
            match fs::create_dir(&holder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            match fs::symlink_metadata(&holder) {
                Ok(metadata) if metadata.is_dir() => {}
                // A link would lead temporary files out of the root.
                Ok(_) => return Err(ErrorKind::NotADirectory.into()),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            sweep(&holder);
            if let Some(folder) = Self::create_in(&holder)? {
                return Ok(folder);
            }
        }
        Err(io::Error::other("other processes keep removing the folder for temporary files"))
    }

    /// `None` if a sweeping process took the folder away in between.
    fn create_in(holder: &Path) -> io::Result<Option<Self>> {
        let path = holder.join(format!("{PREFIX}{}", random_name()));
        let lock_path = path.join(LOCK_FILE);
        let lock = private_file::create_one(&path).and_then(|()| {
            // Created once: see `remove_without_lock`.
            private_file::open(OpenOptions::new().write(true).create_new(true), &lock_path)
        });
        let lock = match lock {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            // Locked too late, after a sweep removed it, it protects nothing.
            Ok(()) if !lock_path.exists() => Ok(None),
            Ok(()) => Ok(Some(Self {
                holder: holder.to_owned(),
                path,
                lock: Mutex::new(Some(lock)),
                next_file: AtomicU64::new(0),
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder below the root that nobody's blobs are in.
    pub(super) fn holder(&self) -> &Path {
        &self.holder
    }

    pub(super) fn create_file(&self) -> io::Result<(File, PartialFile)> {
        if self.is_closed() {
            return Err(io::Error::other("the store was closed"));
        }
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(number.to_string());
        // What is made anew is a file, and no link is followed.
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok((file, PartialFile { path: Some(path), dropped: Dropped::Removed }))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Removes the folder with all in it; what cannot be removed is swept by a later process.
    pub(super) fn close(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = lock.take() {
            remove(&self.path);
            // Both stay where something is in them.
            let _ = fs::remove_dir(self.holder.join(unfinished::FOLDER));
            let _ = fs::remove_dir(&self.holder);
            drop(held);
        }
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        self.close();
    }
}

/// What becomes of a temporary file whose name is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dropped {
    Removed,
    Kept,
}

/// A temporary file's name; dropped, the file is removed, unless it is kept for who comes later.
#[derive(Debug)]
pub(super) struct PartialFile {
    path: Option<PathBuf>,
    dropped: Dropped,
}

impl PartialFile {
    /// The name of a file that stays where it is dropped.
    pub(super) fn kept(path: PathBuf) -> Self {
        Self { path: Some(path), dropped: Dropped::Kept }
    }

    /// Removes the file.
    pub(super) fn remove(mut self) {
        self.dropped = Dropped::Removed;
    }

    /// Gives the file its final name, in place of what was there.
    pub(super) fn rename_to(mut self, target: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            fs::rename(path, target)?;
            self.path = None;
        }
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if let (Some(path), Dropped::Removed) = (&self.path, self.dropped) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the folders whose processes are dead. A folder that cannot be looked at now, or whose lock is
/// none, is left to a later process.
fn sweep(holder: &Path) {
    let Ok(entries) = fs::read_dir(holder) else {
        return;
    };
    for entry in entries.flatten() {
        let is_partial = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_partial {
            continue;
        }
        let folder = entry.path();
        let lock = folder.join(LOCK_FILE);
        match private_file::open(OpenOptions::new().write(true), &lock) {
            Ok(lock) if lock.try_lock().is_ok() => remove(&folder),
            Err(error) if error.kind() == ErrorKind::NotFound => remove_without_lock(&folder),
            _ => {}
        }
    }
}

/// A folder without its lock is of a process that is about to create it, or that is dead.
fn remove_without_lock(folder: &Path) {
    let has_files = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    // Files come after the lock, and a lock that is gone does not come back: so a folder with
    // files and no lock, looked at in this order, is dead.
    if has_files && matches!(folder.join(LOCK_FILE).try_exists(), Ok(false)) {
        remove(folder);
    } else {
        // Fails where there is a file by now.
        let _ = fs::remove_dir(folder);
    }
}

/// Called where the folder's process is known to be dead, or closes.
fn remove(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name() != LOCK_FILE {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_file(folder.join(LOCK_FILE));
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_open_and_close_at_once_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let folder = PartialFolder::open(dir.path()).unwrap();
                        let (file, partial) = folder.create_file().unwrap();
                        file.set_len(1).unwrap();
                        drop(file);
                        let target = folder.path().join("renamed");
                        partial.rename_to(&target).unwrap();
                        assert!(target.exists());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_or_a_link_in_the_place_of_a_lock_holds_nobody_up_and_is_not_followed() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let dir = tempfile::tempdir().unwrap();
        let holder = dir.path().join(HOLDER);
        for name in ["partial-pipe", "partial-link"] {
            fs::create_dir_all(holder.join(name)).unwrap();
        }
        mknodat(CWD, holder.join("partial-pipe/lock"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let other = dir.path().join("other");
        fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, holder.join("partial-link/lock")).unwrap();
        std::os::unix::fs::symlink(dir.path(), holder.join("partial-folder")).unwrap();
        PartialFolder::open(dir.path()).unwrap().close();
        assert_eq!(fs::read(&other).unwrap(), b"mine");
    }

    #[test]
    fn a_folder_whose_removal_was_cut_short_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let holder = dir.path().join(HOLDER);
        for (name, files) in
            [("partial-1", &["lock", "0"][..]), ("partial-2", &["0"]), ("partial-3", &[])]
        {
            fs::create_dir_all(holder.join(name)).unwrap();
            for file in files {
                fs::write(holder.join(name).join(file), "x").unwrap();
            }
        }
        let folder = PartialFolder::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(&holder).unwrap().count(), 1);
        folder.close();
        assert!(!holder.exists());
        assert!(folder.create_file().is_err());
    }
}
