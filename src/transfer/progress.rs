//! What a transfer worker has done so far, for code that shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// From this length on a file is shown by itself: 32 MiB.
pub const LARGE_FILE_BYTES: u64 = 32 << 20;

/// Counts of a transfer worker. Shared, cheap to read while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    bytes_received: AtomicU64,
    bytes_copied: AtomicU64,
    skipped: AtomicU64,
    verified: AtomicU64,
    large: Mutex<Vec<Arc<Large>>>,
}

/// A large file that is under way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LargeFile {
    /// Where it goes.
    pub path: String,
    /// What of it is there.
    pub bytes: u64,
    /// Its length.
    pub total: u64,
}

#[derive(Debug)]
struct Large {
    path: String,
    bytes: AtomicU64,
    total: u64,
}

/// A large file is under way for as long as this is there.
pub(super) struct LargeUnderWay<'a> {
    progress: &'a Progress,
    file: Arc<Large>,
}

impl LargeUnderWay<'_> {
    /// So much of it is there.
    pub(super) fn on_bytes(&self, bytes: u64) {
        self.file.bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for LargeUnderWay<'_> {
    fn drop(&mut self) {
        self.progress.large().retain(|file| !Arc::ptr_eq(file, &self.file));
    }
}

impl Progress {
    pub(super) fn on_received(&self, bytes: u64) {
        self.bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn on_copied(&self, bytes: u64) {
        self.bytes_copied.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn on_file(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn on_skipped(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn on_verified(&self) {
        self.verified.fetch_add(1, Ordering::Relaxed);
    }

    /// A body begins, or goes on; it is shown by itself where its file is large.
    pub(super) fn on_body(
        &self,
        path: &str,
        bytes: u64,
        total: Option<u64>,
    ) -> Option<LargeUnderWay<'_>> {
        let total = total.filter(|total| *total >= LARGE_FILE_BYTES)?;
        let file = Arc::new(Large { path: path.to_owned(), bytes: AtomicU64::new(bytes), total });
        self.large().push(Arc::clone(&file));
        Some(LargeUnderWay { progress: self, file })
    }

    fn large(&self) -> MutexGuard<'_, Vec<Arc<Large>>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of [`LARGE_FILE_BYTES`] or more that are under way, the oldest first.
    pub fn large_files(&self) -> Vec<LargeFile> {
        let shown = |file: &Arc<Large>| LargeFile {
            path: file.path.clone(),
            bytes: file.bytes.load(Ordering::Relaxed),
            total: file.total,
        };
        self.large().iter().map(shown).collect()
    }

    /// Files committed.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Bytes of committed files.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that arrived, those of attempts that failed included.
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Ordering::Relaxed)
    }

    /// Bytes that a storage service copied itself, those of attempts that failed included.
    pub fn bytes_copied(&self) -> u64 {
        self.bytes_copied.load(Ordering::Relaxed)
    }

    /// Tasks there was nothing to do for.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Files that were there and are those of their tasks, so that they were not fetched. See
    /// [`ExistingFiles::Verify`](super::download::ExistingFiles::Verify).
    pub fn verified(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }
}
