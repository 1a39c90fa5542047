//! A file for which the disk has no room: [`DiskRoom`] decides, and this carries it out.

use std::io::ErrorKind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::blob_store::BlobError;
use crate::outcome::Outcome;
use crate::state::disk_room::{DiskRoom, NoRoom, OnItsWay};

/// How long a small file leaves the disk to a large one.
const WAIT: Duration = Duration::from_secs(1);

/// What a worker does about a disk that is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum FullDisk {
    /// It stops: whoever runs it makes room, and no task is lost.
    #[default]
    Stop,
    /// A task whose file does not fit becomes a dead letter, once its part is removed, and the others go on. It
    /// stops where a file below [`LARGE_BYTES`](crate::state::disk_room::LARGE_BYTES) finds no room although no
    /// larger one was on its way, or after [`MOST_IN_A_ROW`](crate::state::disk_room::MOST_IN_A_ROW) files that
    /// found none.
    PassOver,
}

/// Whether the disk is what a store failed by.
pub(super) fn is_full(error: &BlobError) -> bool {
    let BlobError::Unusable { source: Some(source), .. } = error else { return false };
    matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// The files on their way to a store.
#[derive(Default)]
pub(super) struct Files {
    pub(super) choice: FullDisk,
    room: Mutex<DiskRoom>,
}

impl Files {
    pub(super) fn begin(&self) -> File<'_> {
        let on_its_way = Mutex::new(self.lock().on_begin());
        File { files: self, on_its_way, is_stored: false }
    }

    fn lock(&self) -> MutexGuard<'_, DiskRoom> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file on its way, for as long as this is there.
pub(super) struct File<'a> {
    files: &'a Files,
    on_its_way: Mutex<OnItsWay>,
    is_stored: bool,
}

impl File<'_> {
    /// So much of it is there, or will be.
    pub(super) fn on_bytes(&self, bytes: u64) {
        if bytes >= crate::state::disk_room::LARGE_BYTES {
            self.files.lock().on_bytes(&mut self.on_its_way(), bytes);
        }
    }

    pub(super) fn on_stored(mut self) {
        self.is_stored = true;
    }

    /// What becomes of its task where the disk is full, once nothing is left of it there.
    pub(super) fn without_room(self, outcome: Outcome) -> Outcome {
        let Outcome::Abort(failure) = outcome else { return outcome };
        let verdict = match self.files.choice {
            FullDisk::Stop => NoRoom::Stop,
            FullDisk::PassOver => self.files.lock().on_no_room(&self.on_its_way()),
        };
        match verdict {
            NoRoom::GiveUp => Outcome::dead_letter(failure),
            NoRoom::Later => Outcome::postpone(WAIT, failure),
            NoRoom::Stop => Outcome::abort(failure),
        }
    }

    fn on_its_way(&self) -> MutexGuard<'_, OnItsWay> {
        self.on_its_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        self.files.lock().on_end(&self.on_its_way(), self.is_stored);
    }
}
