//! The data folder of a durable broker.
//!
//! ```text
//! <data dir>/lock                          held while a broker runs on the folder
//! <data dir>/extents.json                  what must be there, see `extents`
//! <data dir>/hubs/<hub>/hub.json           name, partitions, created_at; written once
//! <data dir>/hubs/<hub>/<partition>/*.log  segments, see `segment`
//! ```

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::EmulatorError;
use super::broker::unix_millis;
use super::extents::{self, Extent, Extents, HubExtent, Seal};
use super::hub::{Hub, Partition};
use super::log::{Next, PartitionLog};
use super::private;
use super::segment;

const HUBS: &str = "hubs";
const HUB_FILE: &str = "hub.json";
/// Newest events a hub keeps in memory beside the files, over all of its partitions.
const TAIL_BYTES: usize = 64 * 1024 * 1024;
const MIN_TAIL_BYTES: usize = 64 * 1024;

/// What `hub.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HubFile {
    pub(super) name: String,
    pub(super) partitions: u32,
    pub(super) created_at_ms: i64,
}

/// An open data folder.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    lock: Mutex<Option<FolderLock>>,
    extents: Mutex<Extents>,
    /// What people should know of what was found.
    notes: Mutex<Vec<String>>,
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
    ///
    /// # Errors
    /// Among others [`EmulatorError::LostHub`] where a hub is missing that must be there.
    pub(super) fn open(root: PathBuf) -> Result<(Self, FolderLock), EmulatorError> {
        private::create_folder(&root)
            .map_err(|error| EmulatorError::storage("create", &root, error))?;
        let path = root.join("lock");
        let file = private::open(OpenOptions::new().write(true).create(true).truncate(true), &path)
            .map_err(|error| EmulatorError::storage("create", &path, error))?;
        let lock = match file.try_lock() {
            Ok(()) => FolderLock { _file: Arc::new(LockedFile(file)) },
            Err(TryLockError::WouldBlock) => {
                return Err(EmulatorError::DataDirInUse { path: root });
            }
            Err(TryLockError::Error(error)) => {
                return Err(EmulatorError::storage("lock", &path, error));
            }
        };
        let noted = extents::load(&root)?;
        let mut notes = Vec::new();
        if noted.is_none() && !stored_hubs(&root)?.is_empty() {
            notes.push(format!(
                "{} is missing, so lost files of {} cannot be found out: the folder is of an earlier \
                 version, or the file was removed",
                root.join(extents::FILE).display(),
                root.display()
            ));
        }
        let store = Self {
            root,
            lock: Mutex::new(Some(lock.clone())),
            extents: Mutex::new(noted.unwrap_or_default()),
            notes: Mutex::new(notes),
        };
        store.find_hubs()?;
        Ok((store, lock))
    }

    /// Whether every hub is there that is noted.
    fn find_hubs(&self) -> Result<(), EmulatorError> {
        for (hub, noted) in &self.extents().hubs {
            let path = self.folder_of(hub).join(HUB_FILE);
            let is_it = read_hub_file(&path)?.is_some_and(|file| {
                file.created_at_ms == noted.created_at_ms
                    && file.partitions as usize >= noted.partitions.len()
            });
            if !is_it {
                return Err(EmulatorError::LostHub { hub: hub.clone(), path });
            }
        }
        Ok(())
    }

    fn extents(&self) -> MutexGuard<'_, Extents> {
        self.extents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, notes: impl IntoIterator<Item = String>) {
        let mut all = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        for note in notes {
            tracing::warn!("{note}");
            all.push(note);
        }
    }

    /// What was found that people should know, since the last call.
    pub(super) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is noted, durably.
    fn change_extents(&self, change: impl FnOnce(&mut Extents)) -> Result<(), EmulatorError> {
        let mut extents = self.extents();
        let mut changed = extents.clone();
        change(&mut changed);
        if changed != *extents {
            extents::save(&self.root, &changed)?;
            *extents = changed;
        }
        Ok(())
    }

    /// Notes where the logs begin and how far their older files go: before files are removed. Blocks.
    pub(super) fn on_trimmed(&self, hubs: &[Arc<Hub>]) -> Result<(), EmulatorError> {
        self.change_extents(|extents| {
            for hub in hubs {
                let noted = extents.hubs.get_mut(&hub.name.to_ascii_lowercase());
                let noted = noted.into_iter().flat_map(|noted| &mut noted.partitions);
                for (noted, partition) in noted.zip(hub.partitions()) {
                    *noted = noted.followed_by(partition.log.older_extent());
                }
            }
        })
    }

    /// Notes files that were begun: their logs hold the events before `Next` from now on, which are
    /// on the disk. Blocks.
    pub(super) fn on_begun(&self, begun: &[(&Arc<Partition>, Next)]) -> Result<(), EmulatorError> {
        self.change_extents(|extents| {
            for (partition, next) in begun {
                let hub = partition.folder.as_deref().and_then(Path::parent);
                let hub = hub.and_then(Path::file_name).and_then(OsStr::to_str);
                let noted = hub.and_then(|hub| extents.hubs.get_mut(hub));
                let noted = noted.and_then(|noted| noted.partitions.get_mut(partition.id as usize));
                // A hub goes before it is removed; what is noted by its name is then of the next one.
                if let Some(noted) = noted.filter(|_| !partition.is_gone()) {
                    let Extent { begin, .. } = partition.log.extent();
                    let (end, end_offset) = (next.sequence, next.offset);
                    *noted = noted.followed_by(Extent { begin, end, end_offset });
                }
            }
        })
    }

    /// Notes that everything was written and synced, and what that is. Blocks.
    pub(super) fn on_closed(&self, hubs: &[Arc<Hub>]) -> Result<(), EmulatorError> {
        self.change_extents(|extents| {
            for hub in hubs {
                extents.hubs.insert(hub.name.to_ascii_lowercase(), extent_of(hub, false));
            }
        })
    }

    /// The names of the hubs of the folder.
    pub(super) fn stored_hubs(&self) -> Result<Vec<String>, EmulatorError> {
        stored_hubs(&self.root)
    }

    /// Lets another broker open the folder as soon as the writer is done with it, too.
    pub(super) fn unlock(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn folder_of(&self, hub: &str) -> PathBuf {
        self.root.join(HUBS).join(hub.to_ascii_lowercase())
    }

    /// How many partitions a hub of the folder has, if it is there.
    pub(super) fn stored_partitions(&self, hub: &str) -> Result<Option<u32>, EmulatorError> {
        let file = read_hub_file(&self.folder_of(hub).join(HUB_FILE))?;
        Ok(file.map(|file| file.partitions))
    }

    /// Removes a hub with its events. Blocks.
    pub(super) fn remove_hub(&self, name: &str) -> Result<(), EmulatorError> {
        let folder = self.folder_of(name);
        self.change_extents(|extents| drop(extents.hubs.remove(&name.to_ascii_lowercase())))?;
        // Out of the way first: a crash leaves the whole hub or none.
        let away = self.root.join("removed");
        remove_folder(&away)?;
        std::fs::rename(&folder, &away)
            .map_err(|error| EmulatorError::storage("move away", &folder, error))?;
        remove_folder(&away)
    }

    /// Opens a hub and recovers its partitions, or creates it. Blocks.
    ///
    /// # Errors
    /// Those of [`segment::recover`], and of [`Self::open`].
    pub(super) fn open_hub(&self, name: &str, partitions: u32) -> Result<Hub, EmulatorError> {
        let folder = self.folder_of(name);
        let path = folder.join(HUB_FILE);
        let noted = self.extents().hubs.get(&name.to_ascii_lowercase()).cloned();
        let file = match read_hub_file(&path)? {
            Some(file) if file.partitions == partitions => file,
            Some(file) => {
                return Err(EmulatorError::PartitionCount {
                    hub: name.to_owned(),
                    asked: partitions,
                    present: file.partitions,
                });
            }
            None if noted.is_some() || holds_logs(&folder)? => {
                return Err(EmulatorError::LostHub { hub: name.to_owned(), path });
            }
            None => {
                let file =
                    HubFile { name: name.to_owned(), partitions, created_at_ms: unix_millis() };
                write_hub_file(&folder, &file)?;
                file
            }
        };
        let tail_bytes = tail_bytes(partitions);
        let partitions = (0..partitions)
            .map(|id| {
                let noted = noted.as_ref().and_then(|noted| noted.partitions.get(id as usize));
                self.open_partition(&folder, id, noted.copied(), tail_bytes)
            })
            .collect::<Result<_, _>>()?;
        let hub = Hub::new(file.name, file.created_at_ms, partitions);
        if noted.is_some_and(|noted| noted.is_open) {
            self.note([not_closed(&hub)]);
        }
        self.change_extents(|extents| {
            extents.hubs.insert(name.to_ascii_lowercase(), extent_of(&hub, true));
        })?;
        Ok(hub)
    }

    /// Adds partitions to a hub that is there, behind those it has. Blocks.
    pub(super) fn add_partitions(
        &self,
        name: &str,
        more: u32,
    ) -> Result<Vec<Arc<Partition>>, EmulatorError> {
        let folder = self.folder_of(name);
        let path = folder.join(HUB_FILE);
        let mut file = read_hub_file(&path)?
            .ok_or_else(|| EmulatorError::storage("read", &path, io::ErrorKind::NotFound.into()))?;
        let ids = file.partitions..file.partitions + more;
        file.partitions = ids.end;
        let tail_bytes = tail_bytes(file.partitions);
        let added = ids
            .map(|id| self.open_partition(&folder, id, None, tail_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        // A crash leaves the hub as it was, or with partitions of which nothing is noted yet.
        write_hub_file(&folder, &file)?;
        self.change_extents(|extents| {
            if let Some(noted) = extents.hubs.get_mut(&name.to_ascii_lowercase()) {
                noted.partitions.resize(file.partitions as usize, Extent::default());
            }
        })?;
        Ok(added)
    }

    fn open_partition(
        &self,
        hub_folder: &Path,
        id: u32,
        noted: Option<Extent>,
        tail_bytes: usize,
    ) -> Result<Arc<Partition>, EmulatorError> {
        let folder = hub_folder.join(id.to_string());
        let recovered = segment::recover(&folder, noted)?;
        self.note(recovered.notes);
        let log = PartitionLog::durable(
            recovered.segments,
            recovered.next,
            recovered.last_offset,
            tail_bytes,
        );
        Ok(Arc::new(Partition::new(id, log, Some(folder))))
    }
}

fn extent_of(hub: &Hub, is_open: bool) -> HubExtent {
    let partitions = hub.partitions().iter().map(|partition| partition.log.extent()).collect();
    HubExtent { created_at_ms: hub.created_at_ms, is_open, partitions }
}

/// What is said of a hub whose broker was killed, or its machine.
fn not_closed(hub: &Hub) -> String {
    let extents = hub.partitions().iter().map(|partition| partition.log.extent());
    let events: i64 = extents.map(|extent| extent.end - extent.begin).sum();
    format!(
        "the last run did not close the event hub '{}'; its files hold {events} events, and what \
         came after them is not known",
        hub.name
    )
}

/// The names of the hubs whose folders are there.
fn stored_hubs(root: &Path) -> Result<Vec<String>, EmulatorError> {
    let mut hubs = Vec::new();
    for path in folders(&root.join(HUBS))? {
        if let Some(file) = read_hub_file(&path.join(HUB_FILE))? {
            hubs.push(file.name);
        } else if holds_logs(&path)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(EmulatorError::LostHub { hub: name, path: path.join(HUB_FILE) });
        }
    }
    hubs.sort();
    Ok(hubs)
}

/// Whether a hub's folder has partitions in it.
fn holds_logs(folder: &Path) -> Result<bool, EmulatorError> {
    Ok(!folders(folder)?.is_empty())
}

/// The folders of a folder; none where it is not there.
fn folders(folder: &Path) -> Result<Vec<PathBuf>, EmulatorError> {
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let mut listed: Vec<PathBuf> =
        listed.map_err(|error| EmulatorError::storage("list", folder, error))?;
    listed.retain(|path| path.is_dir());
    Ok(listed)
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

fn read_hub_file(path: &Path) -> Result<Option<HubFile>, EmulatorError> {
    extents::read_sealed(path, Seal::Optional)
}

fn write_hub_file(folder: &Path, file: &HubFile) -> Result<(), EmulatorError> {
    private::create_folder(folder)
        .map_err(|error| EmulatorError::storage("create", folder, error))?;
    extents::write_sealed(&folder.join(HUB_FILE), file)?;
    folder
        .parent()
        .map_or(Ok(()), private::sync_folder)
        .map_err(|error| EmulatorError::storage("sync", folder, error))
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
