//! What an attempt that failed left of a file, for the next attempt of the same task in this process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::arriving::Arriving;
use crate::consumer::EventContext;
use crate::event::{Event, Partition, SequenceNumber};

/// Most files that are kept; the oldest goes first. Each is an open temporary file.
const MAX_KEPT: usize = 64;

/// The event of a task.
pub(super) struct TaskId<'a> {
    partition: &'a Partition,
    number: SequenceNumber,
}

impl<'a> TaskId<'a> {
    pub(super) fn of(event: &'a Event) -> Self {
        Self { partition: event.partition(), number: event.sequence_number() }
    }

    fn is(&self, file: &File) -> bool {
        self.number == file.number && *self.partition == file.partition
    }
}

struct File {
    partition: Partition,
    number: SequenceNumber,
    arriving: Arriving,
    /// Fires when the task does not come back to this worker.
    gone: [CancellationToken; 2],
}

/// The files, the oldest first.
#[derive(Default)]
pub(super) struct Kept {
    files: Mutex<Vec<File>>,
    /// How many: most workers never keep one, and take no lock.
    count: AtomicUsize,
}

impl Kept {
    /// What there is of a task's file.
    pub(super) fn take(&self, id: &TaskId<'_>) -> Option<Arriving> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut files = self.live();
        let index = files.iter().position(|file| id.is(file));
        let taken = index.map(|index| files.remove(index).arriving);
        self.count.store(files.len(), Ordering::Release);
        taken
    }

    pub(super) fn put(&self, id: &TaskId<'_>, arriving: Arriving, context: &EventContext) {
        let file = File {
            partition: id.partition.clone(),
            number: id.number,
            arriving,
            gone: [context.partition_lost().clone(), context.cancelled().clone()],
        };
        let mut files = self.live();
        if files.len() >= MAX_KEPT {
            files.remove(0);
        }
        files.push(file);
        self.count.store(files.len(), Ordering::Release);
    }

    /// The files whose tasks may come back; the others are thrown away.
    fn live(&self) -> MutexGuard<'_, Vec<File>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|file| !file.gone.iter().any(CancellationToken::is_cancelled));
        files
    }
}
