//! The data folder of a durable broker.
//!
//! ```text
//! <data dir>/lock                          held while a broker runs on the folder
//! <data dir>/hubs/<hub>/hub.json           name, partitions, created_at; written once
//! <data dir>/hubs/<hub>/<partition>/*.log  segments, see `segment`
//! ```

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::EmulatorError;
use super::broker::unix_millis;
use super::hub::{Hub, Partition};
use super::log::PartitionLog;
use super::segment;

/// Newest events a hub keeps in memory beside the files, over all of its partitions.
const TAIL_BYTES: usize = 64 * 1024 * 1024;
const MIN_TAIL_BYTES: usize = 64 * 1024;

/// What `hub.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct HubFile {
    name: String,
    partitions: u32,
    created_at_ms: i64,
}

/// An open data folder.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    lock: Mutex<Option<FolderLock>>,
}

/// Keeps other brokers out of the folder, until its last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct FolderLock {
    _file: Arc<LockedFile>,
}

/// Unlocked when dropped. To close it would not be enough: the lock is the open file's, and a
/// child that another thread has just forked has that too, until it executes its program.
#[derive(Debug)]
struct LockedFile(File);

impl Drop for LockedFile {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Store {
    /// Opens the folder and locks it against a second broker. The lock is for whoever writes: it may
    /// outlive the store. Blocks.
    pub(super) fn open(root: PathBuf) -> Result<(Self, FolderLock), EmulatorError> {
        std::fs::create_dir_all(&root)
            .map_err(|error| EmulatorError::storage("create", &root, error))?;
        let path = root.join("lock");
        let file =
            File::create(&path).map_err(|error| EmulatorError::storage("create", &path, error))?;
        match file.try_lock() {
            Ok(()) => {
                let lock = FolderLock { _file: Arc::new(LockedFile(file)) };
                let store = Self { root, lock: Mutex::new(Some(lock.clone())) };
                Ok((store, lock))
            }
            Err(TryLockError::WouldBlock) => Err(EmulatorError::DataDirInUse { path: root }),
            Err(TryLockError::Error(error)) => Err(EmulatorError::storage("lock", &path, error)),
        }
    }

    /// Lets another broker open the folder as soon as the writer is done with it, too.
    pub(super) fn unlock(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn folder_of(&self, hub: &str) -> PathBuf {
        self.root.join("hubs").join(hub.to_ascii_lowercase())
    }

    /// How many partitions a hub of the folder has, if it is there.
    pub(super) fn stored_partitions(&self, hub: &str) -> Result<Option<u32>, EmulatorError> {
        let file = read_hub_file(&self.folder_of(hub).join("hub.json"))?;
        Ok(file.map(|file| file.partitions))
    }

    /// Removes a hub with its events. Blocks.
    pub(super) fn remove_hub(&self, name: &str) -> Result<(), EmulatorError> {
        let folder = self.folder_of(name);
        // Out of the way first: a crash leaves the whole hub or none.
        let away = self.root.join("removed");
        remove_folder(&away)?;
        std::fs::rename(&folder, &away)
            .map_err(|error| EmulatorError::storage("move away", &folder, error))?;
        remove_folder(&away)
    }

    /// Opens a hub and recovers its partitions, or creates it. Blocks.
    pub(super) fn open_hub(&self, name: &str, partitions: u32) -> Result<Hub, EmulatorError> {
        let folder = self.folder_of(name);
        let path = folder.join("hub.json");
        let file = match read_hub_file(&path)? {
            Some(file) if file.partitions == partitions => file,
            Some(file) => {
                return Err(EmulatorError::PartitionCount {
                    hub: name.to_owned(),
                    asked: partitions,
                    present: file.partitions,
                });
            }
            None => {
                let file =
                    HubFile { name: name.to_owned(), partitions, created_at_ms: unix_millis() };
                write_hub_file(&folder, &file)
                    .map_err(|error| EmulatorError::storage("write", &path, error))?;
                file
            }
        };
        let tail_bytes = tail_bytes(partitions);
        let partitions = (0..partitions)
            .map(|id| open_partition(&folder, id, tail_bytes))
            .collect::<Result<_, _>>()?;
        Ok(Hub::new(file.name, file.created_at_ms, partitions))
    }

    /// Adds partitions to a hub that is there, behind those it has. Blocks.
    pub(super) fn add_partitions(
        &self,
        name: &str,
        more: u32,
    ) -> Result<Vec<Arc<Partition>>, EmulatorError> {
        let folder = self.folder_of(name);
        let path = folder.join("hub.json");
        let mut file = read_hub_file(&path)?
            .ok_or_else(|| EmulatorError::storage("read", &path, io::ErrorKind::NotFound.into()))?;
        let ids = file.partitions..file.partitions + more;
        file.partitions = ids.end;
        let tail_bytes = tail_bytes(file.partitions);
        let added =
            ids.map(|id| open_partition(&folder, id, tail_bytes)).collect::<Result<Vec<_>, _>>()?;
        // Last: a crash leaves the hub as it was.
        write_hub_file(&folder, &file)
            .map_err(|error| EmulatorError::storage("write", &path, error))?;
        Ok(added)
    }
}

/// What each of so many partitions keeps in memory.
fn tail_bytes(partitions: u32) -> usize {
    (TAIL_BYTES / partitions.max(1) as usize).max(MIN_TAIL_BYTES)
}

fn remove_folder(folder: &Path) -> Result<(), EmulatorError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(EmulatorError::storage("remove", folder, error))
        }
        _ => Ok(()),
    }
}

fn open_partition(
    hub_folder: &Path,
    id: u32,
    tail_bytes: usize,
) -> Result<Arc<Partition>, EmulatorError> {
    let folder = hub_folder.join(id.to_string());
    let recovered = segment::recover(&folder)?;
    let log = PartitionLog::durable(
        recovered.segments,
        recovered.next,
        recovered.last_offset,
        tail_bytes,
    );
    Ok(Arc::new(Partition::new(id, log, Some(folder))))
}

fn read_hub_file(path: &Path) -> Result<Option<HubFile>, EmulatorError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(EmulatorError::storage("read", path, error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| EmulatorError::storage("read", path, error.into()))
}

/// Writes under another name first: a crash leaves the whole file or none.
fn write_hub_file(folder: &Path, file: &HubFile) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let temporary = folder.join("hub.json.new");
    let mut out = File::create(&temporary)?;
    out.write_all(&serde_json::to_vec_pretty(file)?)?;
    out.sync_all()?;
    std::fs::rename(&temporary, folder.join("hub.json"))?;
    sync_folder(folder)?;
    match folder.parent() {
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

/// Makes new names in a folder survive a crash of the machine.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_folder_is_free_although_a_child_has_the_lock_open() {
        let dir = tempfile::tempdir().unwrap();
        let (store, lock) = Store::open(dir.path().to_owned()).unwrap();
        let child = lock._file.0.try_clone().unwrap();
        store.unlock();
        let refused = Store::open(dir.path().to_owned());
        assert!(matches!(refused, Err(EmulatorError::DataDirInUse { .. })), "{refused:?}");
        drop(lock);
        Store::open(dir.path().to_owned()).unwrap();
        drop(child);
    }
}
