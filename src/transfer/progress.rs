//! What a transfer worker has done so far, for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of a transfer worker. Shared, cheap to read while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    bytes_received: AtomicU64,
    skipped: AtomicU64,
    verified: AtomicU64,
}

impl Progress {
    pub(super) fn on_received(&self, bytes: u64) {
        self.bytes_received.fetch_add(bytes, Ordering::Relaxed);
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
