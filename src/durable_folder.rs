//! A folder of small files, each replaced whole and durably; the ground under the file stores.
//!
//! A write goes to a temporary file beside its target, is flushed to the disk, renamed into
//! place, and the folder is flushed: whatever instant the process or the machine dies at, a
//! reader finds the old content or the new one. What a reader was shown stays: a folder is
//! flushed before its first read, because a process that was killed may have left a rename
//! that only the page cache knows.
//!
//! It does not compare before it writes, and it does not arbitrate between writers of one
//! file: its users do. What it makes is its owner's alone (see [`private_file`]): events, URLs with
//! signatures and checkpoints are in it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorClass};
use crate::private_file;

mod checksum;
mod faults;
mod lock;
mod staged;

pub(crate) use checksum::{DIGITS, checksum, is_checksum};
pub(crate) use faults::{disk_error, explain};
pub(crate) use lock::in_use;
use lock::{LOCK_FILE, is_same_file, lock, user_of};
pub(crate) use staged::FolderLock;

/// Begins the name of every temporary file; [`escape`] never begins a name with a dot.
const PARTIAL_PREFIX: &str = ".partial-";

/// How deep below the root left-over temporary files are looked for.
const SWEEP_DEPTH: usize = 4;

/// How often a write begins anew when its temporary file or its folder was taken away.
const WRITE_ATTEMPTS: usize = 16;

/// Escaped names are at most this long, so that a suffix fits in the 255 bytes of a file name.
const MAX_ESCAPED_BYTES: usize = 160;

/// Who may use a folder at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// One process.
    Exclusive,
    /// Any number: each write stands alone.
    Shared,
    /// Only reads, beside whoever uses the folder: it makes nothing, locks nothing and removes nothing.
    ReadOnly,
}

/// See the module's description. Paths of its methods are relative to the root.
#[derive(Debug)]
pub(crate) struct DurableFolder {
    root: PathBuf,
    /// Folders whose own entries, and those of all above, are on the disk.
    durable: Mutex<BTreeSet<PathBuf>>,
    /// Locked for as long as it is open.
    lock: Option<File>,
}

impl DurableFolder {
    /// Opens a folder, creates it where it is missing, and removes the temporary files that
    /// dead writers left; [`Access::ReadOnly`] does none of that. `operation` names the call in errors.
    pub(crate) fn open(
        root: PathBuf,
        access: Access,
        operation: &'static str,
    ) -> Result<Self, Error> {
        if access == Access::ReadOnly {
            let root = existing_root(&root).map_err(|error| match error.kind() {
                ErrorKind::NotFound => {
                    let message = format!("there is no folder {}", root.display());
                    Error::new(ErrorClass::Permanent, operation, message).with_source(error)
                }
                _ => disk_error(operation, &root, error),
            })?;
            return Ok(Self { root, durable: Mutex::default(), lock: None });
        }
        let root = create_root_with(&root, private_file::create_folder)
            .map_err(|error| disk_error(operation, &root, error))?;
        let lock = match access {
            Access::Exclusive => Some(lock(&root, operation)?),
            Access::Shared | Access::ReadOnly => None,
        };
        let folder = Self { root, durable: Mutex::default(), lock };
        folder
            .sweep(Path::new(""), SWEEP_DEPTH)
            .map_err(|error| disk_error(operation, &folder.root, error))?;
        Ok(folder)
    }

    /// What a failure at `path` means. A folder that is gone comes back by itself nowhere.
    pub(crate) fn error(&self, operation: &'static str, path: &Path, error: io::Error) -> Error {
        if !self.root.is_dir() {
            let message = format!(
                "{} was removed or unmounted while in use; put it back",
                self.root.display()
            );
            return Error::new(ErrorClass::Permanent, operation, message).with_source(error);
        }
        disk_error(operation, &self.root.join(path), error)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Who has the folder for itself, of one that is open to be read only: "process 4711". `None` where
    /// nobody has, or where the file system takes no locks.
    pub(crate) fn user(&self) -> io::Result<Option<String>> {
        user_of(&self.root)
    }

    /// Replaces a file, or creates it; `Ok` means that it is on the disk. After an error the
    /// old content is intact, or, where only the last flush failed, the new one is there.
    pub(crate) fn replace(&self, folder: &Path, file: &str, content: &[u8]) -> io::Result<()> {
        let mut attempt = 1;
        loop {
            match self.replace_once(folder, file, content) {
                // Somebody removed the folder, or another process that opened it swept our
                // temporary file before it was locked: nothing was replaced, so the write can
                // begin anew.
                Err(error) if error.kind() == ErrorKind::NotFound && attempt < WRITE_ATTEMPTS => {
                    self.durable().clear();
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn replace_once(&self, folder: &Path, file: &str, content: &[u8]) -> io::Result<()> {
        self.check_root()?;
        self.make_durable(folder)?;
        let folder = self.root.join(folder);
        let partial = folder.join(format!("{PARTIAL_PREFIX}{}", random_name()));
        // The file stays locked until it has its name: a sweep takes it for a dead writer's
        // otherwise.
        let replaced = write_and_flush(&partial, content)
            .and_then(|_locked| fs::rename(&partial, folder.join(file)));
        if replaced.is_err() {
            // What cannot be removed now is swept at the next open.
            let _ = fs::remove_file(&partial);
            return replaced;
        }
        let flushed = sync_folder(&folder);
        if flushed.is_err() {
            // The rename may not be on the disk: flush again before anyone reads it.
            self.durable().clear();
        }
        flushed
    }

    /// Reads a file; `None` if there is none.
    pub(crate) fn read(&self, folder: &Path, file: &str) -> io::Result<Option<Vec<u8>>> {
        if !self.exists(folder)? {
            return Ok(None);
        }
        let path = self.root.join(folder).join(file);
        let mut file = match private_file::open(OpenOptions::new().read(true), &path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// Removes a file, if there is one.
    pub(crate) fn remove(&self, folder: &Path, file: &str) -> io::Result<()> {
        match fs::remove_file(self.root.join(folder).join(file)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.flush(folder),
        }
    }

    /// The names in a folder that end in `suffix`, in order; none where there is no such folder. What has
    /// such a name and is no regular file is among them: [`read`](Self::read) refuses it, and says why.
    pub(crate) fn files(&self, folder: &Path, suffix: &str) -> io::Result<Vec<String>> {
        self.names(folder, |name, _| name.ends_with(suffix))
    }

    /// The names of the folders of a folder, in order.
    pub(crate) fn folders(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.names(folder, |_, kind| kind.is_dir())
    }

    fn names(
        &self,
        folder: &Path,
        wanted: impl Fn(&str, fs::FileType) -> bool,
    ) -> io::Result<Vec<String>> {
        if !self.exists(folder)? {
            return Ok(Vec::new());
        }
        let entries = match fs::read_dir(self.root.join(folder)) {
            // Another process removed it since: it was empty.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return self.check_root().map(|()| Vec::new());
            }
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with('.')
                && wanted(&name, entry.file_type()?)
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Whether the folder is there; if it is, all that can be read in it is on the disk.
    fn exists(&self, folder: &Path) -> io::Result<bool> {
        self.check_root()?;
        let found = match fs::metadata(self.root.join(folder)) {
            Ok(metadata) if metadata.is_dir() => self.flush_way_to(folder),
            Ok(_) => Err(ErrorKind::NotADirectory.into()),
            Err(error) => Err(error),
        };
        match found {
            // It never was, or another process has just removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => self.check_root().map(|()| false),
            found => found.map(|()| true),
        }
    }

    /// Fails where the root was taken away (an unmounted volume): its files are out of reach
    /// then, which is not the same as absent. And where the file that is locked is not the one
    /// whose lock others look at any more: another process may have the folder by now.
    fn check_root(&self) -> io::Result<()> {
        let witness = match self.lock {
            Some(_) => self.root.join(LOCK_FILE),
            None => self.root.clone(),
        };
        let found = fs::metadata(witness).map_err(|error| {
            if error.kind() == ErrorKind::NotFound {
                io::Error::other("the folder was removed or unmounted while in use")
            } else {
                error
            }
        })?;
        match &self.lock {
            Some(lock) if !is_same_file(&lock.metadata()?, &found) => Err(io::Error::other(
                "its lock file was replaced while in use: another process may have the folder",
            )),
            _ => Ok(()),
        }
    }

    /// Creates a folder where it is missing, and flushes the way to it once.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        if self.durable().contains(folder) {
            return Ok(());
        }
        private_file::create_folder(&self.root.join(folder))?;
        self.flush_way_to(folder)
    }

    /// Flushes a folder that is there, and all above it, once.
    fn flush_way_to(&self, folder: &Path) -> io::Result<()> {
        if self.durable().contains(folder) {
            return Ok(());
        }
        let mut way = self.root.clone();
        sync_folder(&way)?;
        for part in folder {
            way.push(part);
            sync_folder(&way)?;
        }
        self.durable().insert(folder.to_owned());
        Ok(())
    }

    fn sweep(&self, folder: &Path, depth: usize) -> io::Result<()> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            // Another process removed it since it was listed: it was empty.
            Err(error) if error.kind() == ErrorKind::NotFound && folder != Path::new("") => {
                return Ok(());
            }
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            let name = entry.file_name();
            let swept = if kind.is_dir() && depth > 0 {
                self.sweep(&folder.join(&name), depth - 1)
            } else if kind.is_file() && name.to_string_lossy().starts_with(PARTIAL_PREFIX) {
                remove_left_over(&entry.path())
            } else {
                Ok(())
            };
            // Another process may have been faster.
            swept.or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        }
        Ok(())
    }

    fn durable(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DurableFolder {
    /// To close the file would not be enough: the lock is the open file's, and a child that
    /// another thread has just forked has that too, until it executes its program.
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            let _ = lock.unlock();
        }
    }
}

/// Creates a folder and all above it where missing, flushes what it created, and resolves the
/// path.
pub(crate) fn create_root(root: &Path) -> io::Result<PathBuf> {
    create_root_with(root, |root| fs::create_dir_all(root))
}

fn create_root_with(
    root: &Path,
    create: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let root = std::path::absolute(root)?;
    let missing: Vec<&Path> = root.ancestors().take_while(|path| !path.exists()).collect();
    create(&root)?;
    for created in missing {
        if let Some(parent) = created.parent() {
            sync_folder(parent)?;
        }
    }
    existing_root(&root)
}

/// The resolved path of a folder that is there.
fn existing_root(root: &Path) -> io::Result<PathBuf> {
    let root = root.canonicalize()?;
    if root.is_dir() { Ok(root) } else { Err(ErrorKind::NotADirectory.into()) }
}

/// Flushes the entries of a folder: names that were created, renamed or removed in it.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        // Elsewhere a folder cannot be opened as a file, and names are journalled.
        Ok(())
    }
}

fn write_and_flush(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut file = private_file::open(OpenOptions::new().write(true).create_new(true), path)?;
    // A sweep that was faster holds the file or has removed it. Where there are no locks, this
    // shows when the rename finds no file.
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) || !path.exists() {
        return Err(ErrorKind::NotFound.into());
    }
    file.write_all(content)?;
    file.sync_all()?;
    Ok(file)
}

/// Removes a temporary file unless a living writer holds it.
fn remove_left_over(path: &Path) -> io::Result<()> {
    let file = private_file::open(OpenOptions::new().read(true), path)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(()),
        _ => fs::remove_file(path),
    }
}

/// A name that no other process and no other call has: 64 random bits. The keys of a
/// `RandomState` come from the operating system and differ at every call.
pub(crate) fn random_name() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// Makes a file name of any text, one to one and safe on every file system: all but
/// `a-z 0-9 . _ -` is percent-encoded, upper case too, as some file systems do not tell it from
/// lower case. Long names are cut and end in their hash.
pub(crate) fn escape(name: &str) -> String {
    if name.is_empty() {
        return "%".to_owned();
    }
    let mut escaped = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        // A dot at an end makes a hidden file, a parent folder, or a name Windows cuts.
        let outer_dot = byte == b'.' && (at == 0 || at + 1 == name.len());
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' if !outer_dot => {
                escaped.push(char::from(byte));
            }
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    if escaped.len() > MAX_ESCAPED_BYTES {
        let digest = Sha256::digest(name.as_bytes());
        escaped.truncate(MAX_ESCAPED_BYTES - 2 - 2 * digest.len());
        let _ = write!(escaped, "%-{digest:x}");
    }
    escaped
}

/// The text that [`escape`] made the file name of; `None` if it was cut, or is foreign.
pub(crate) fn unescape(escaped: &str) -> Option<String> {
    if escaped == "%" {
        return Some(String::new());
    }
    let mut parts = escaped.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let name = String::from_utf8(bytes).ok()?;
    (escape(&name) == escaped).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(path: &Path) -> DurableFolder {
        DurableFolder::open(path.to_owned(), Access::Shared, "open").unwrap()
    }

    #[test]
    fn a_closed_folder_is_free_although_a_child_has_the_lock_open() {
        let dir = tempfile::tempdir().unwrap();
        let open = || DurableFolder::open(dir.path().to_owned(), Access::Exclusive, "open");
        let folder = open().unwrap();
        let child = folder.lock.as_ref().unwrap().try_clone().unwrap();
        assert!(open().is_err());
        drop(folder);
        open().unwrap();
        drop(child);
    }

    #[test]
    fn sweeps_spare_living_writers() {
        let dir = tempfile::tempdir().unwrap();
        let folder = open(dir.path());
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..40_u32 {
                    folder.replace(Path::new("a/b"), "x.json", &round.to_le_bytes()).unwrap();
                }
            });
            while !writer.is_finished() {
                // As another process does that opens the folder.
                let _ = folder.sweep(Path::new(""), SWEEP_DEPTH);
                std::thread::yield_now();
            }
        });
        let read = folder.read(Path::new("a/b"), "x.json").unwrap().unwrap();
        assert_eq!(read, 39_u32.to_le_bytes());
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_was_removed_is_created_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = open(dir.path());
        folder.replace(Path::new("a/b"), "x", b"1").unwrap();
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        assert_eq!(folder.read(Path::new("a/b"), "x").unwrap(), None);
        folder.replace(Path::new("a/b"), "x", b"2").unwrap();
        assert_eq!(folder.read(Path::new("a/b"), "x").unwrap().unwrap(), b"2".to_vec());
    }

    #[test]
    fn a_folder_that_comes_and_goes_is_there_or_not_and_never_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (bucket, rounds) = (Path::new("a/b"), 400);
        std::thread::scope(|scope| {
            // As another process does that deletes the last of a folder.
            let writers = [0, 1].map(|_| {
                scope.spawn(|| {
                    let folder = open(dir.path());
                    for _ in 0..rounds {
                        let lock = folder.lock_folder(bucket).unwrap();
                        let staged = folder.stage(b"1").unwrap();
                        folder.place(staged, bucket, "x").unwrap();
                        folder.remove(bucket, "x").unwrap();
                        folder.remove_if_empty(lock, bucket).unwrap();
                    }
                })
            });
            while writers.iter().any(|writer| !writer.is_finished()) {
                // Each time anew: what it knows as flushed is looked at only once.
                let folder = open(dir.path());
                assert!(folder.files(bucket, "x").unwrap().len() <= 1);
                folder.folders(Path::new("a")).unwrap();
                folder.read(bucket, "x").unwrap();
            }
        });
    }

    #[test]
    fn a_root_that_was_removed_is_an_error_and_not_an_absence() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let folder = open(&root);
        fs::remove_dir_all(&root).unwrap();
        let error = folder.read(Path::new("a"), "x").unwrap_err();
        assert!(error.to_string().contains("removed or unmounted"));
        assert!(folder.replace(Path::new("a"), "x", b"1").is_err());
    }

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = open(dir.path());
        folder.replace(Path::new("a"), "x", b"old").unwrap();
        // A folder in the place of the target makes the rename fail, for root too.
        fs::create_dir(dir.path().join("a/y")).unwrap();
        let error = folder.replace(Path::new("a"), "y", b"new").unwrap_err();
        assert_eq!(
            disk_error("write", &dir.path().join("a/y"), error).class(),
            ErrorClass::Permanent
        );
        assert_eq!(folder.read(Path::new("a"), "x").unwrap().unwrap(), b"old".to_vec());
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 2);
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("taken");
        fs::write(&file, "x").unwrap();
        for root in [file.clone(), file.join("below"), file.join("far/below")] {
            let error =
                DurableFolder::open(root, Access::Exclusive, "open the folder").unwrap_err();
            assert_eq!(error.class(), ErrorClass::Permanent);
            let expected = format!("{} is a file; choose a folder", file.display());
            assert!(error.to_string().contains(&expected), "{error}");
        }
        let error = DurableFolder::open(PathBuf::new(), Access::Shared, "open").unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn errors_that_need_help_are_permanent_and_others_pass() {
        for (code, class, text) in [
            (28, ErrorClass::Permanent, "is full"),
            (122, ErrorClass::Permanent, "quota"),
            (30, ErrorClass::Permanent, "read-only"),
            (27, ErrorClass::Permanent, "beyond the limit"),
            (13, ErrorClass::Permanent, "may not use"),
            (36, ErrorClass::Permanent, "too long"),
            (5, ErrorClass::Transient, "failed at"),
            (24, ErrorClass::Transient, "failed at"),
        ] {
            let error = io::Error::from_raw_os_error(code);
            let error = disk_error("write", Path::new("/data"), error);
            assert_eq!(error.class(), class, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn names_become_safe_file_names() {
        for (name, escaped) in [
            ("orders", "orders"),
            ("", "%"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            (".hidden.", "%2Ehidden%2E"),
            ("a.b", "a.b"),
            ("../../etc", "%2E.%2F..%2Fetc"),
            ("$Default", "%24%44efault"),
            ("ä\0", "%C3%A4%00"),
        ] {
            assert_eq!(escape(name), escaped);
            assert_eq!(unescape(escaped).as_deref(), Some(name));
        }
        for foreign in ["A", "%2", "%zz", "%2e", "%FF", "a%"] {
            assert_eq!(unescape(foreign), None, "{foreign}");
        }
        let long = escape(&"x".repeat(1_000));
        assert_eq!(long.len(), MAX_ESCAPED_BYTES);
        assert_ne!(long, escape(&"x".repeat(1_001)));
    }

    proptest! {
        #[test]
        fn escaping_is_one_to_one(name in any::<String>()) {
            let escaped = escape(&name);
            prop_assert!(escaped.len() <= MAX_ESCAPED_BYTES);
            prop_assert!(!escaped.starts_with('.') && !escaped.contains('/'));
            if !escaped.contains("%-") {
                prop_assert_eq!(unescape(&escaped), Some(name));
            }
        }
    }
}
