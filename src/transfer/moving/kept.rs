//! What an attempt that failed left of a file, for the next attempt of the same task in this process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::arriving::Arriving;
use crate::consumer::EventContext;
use crate::event::{Event, Partition, SequenceNumber};

/// Most files that are kept; the oldest goes first. Each is an open temporary file.
const MAX_KEPT: usize = 64;

/// How long one is kept: longer than the back-off between two attempts. Whoever comes later begins anew;
/// and of a task that was given up nobody comes.
const KEPT_FOR: Duration = Duration::from_secs(10 * 60);

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
    since: Instant,
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
        let (mut files, gone) = self.live();
        let index = files.iter().position(|file| id.is(file));
        let taken = index.map(|index| files.remove(index).arriving);
        self.count.store(files.len(), Ordering::Release);
        drop(files);
        throw_away(gone);
        taken
    }

    pub(super) fn put(&self, id: &TaskId<'_>, arriving: Arriving, context: &EventContext) {
        let file = File {
            partition: id.partition.clone(),
            number: id.number,
            arriving,
            since: Instant::now(),
            gone: [context.partition_lost().clone(), context.cancelled().clone()],
        };
        let (mut files, mut gone) = self.live();
        if files.len() >= MAX_KEPT {
            gone.push(files.remove(0));
        }
        files.push(file);
        self.count.store(files.len(), Ordering::Release);
        drop(files);
        throw_away(gone);
    }

    /// The files whose tasks may come back, and the others.
    fn live(&self) -> (MutexGuard<'_, Vec<File>>, Vec<File>) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let is_gone = |file: &mut File| {
            file.since.elapsed() > KEPT_FOR || file.gone.iter().any(CancellationToken::is_cancelled)
        };
        let gone = files.extract_if(.., is_gone).collect();
        (files, gone)
    }
}

/// To remove a file blocks.
fn throw_away(files: Vec<File>) {
    if !files.is_empty() {
        // Where the runtime is shutting down, they are dropped with it.
        drop(spawn_blocking(move || drop(files)));
    }
}
