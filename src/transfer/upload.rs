//! The upload worker: one task, one file from a place of the worker's own, one result.
//!
//! It reads the task and moves the file: see [`transfer`](super) for what that is. Where its files come
//! from is a [`BlobSource`]: a folder, in which a download worker may have put them, or a container.

use std::fmt;
use std::sync::Arc;

use super::along::Along;
use super::moving::{ExistingFiles, Job, Mover, Named, Stored};
use super::progress::Progress;
use super::rates::Rates;
use super::source::Source;
use super::task::{InvalidTask, Moved, UploadTask, bad_task};
use crate::blob_store::{BlobSource, BlobStore};
pub use crate::config::CopyBy;
use crate::config::{DownloadLimits, GoesAlong};
use crate::consumer::{EventContext, EventHandler};
use crate::event::Event;
use crate::outcome::Outcome;
use crate::producer::EntityProducer;

/// Copies files from a folder or a container into a store. It is an [`EventHandler`].
pub struct UploadWorker {
    files: Arc<dyn BlobSource>,
    mover: Mover,
}

impl fmt::Debug for UploadWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadWorker")
            .field("files", &self.files)
            .field("store", &self.mover.store)
            .field("limits", &self.mover.limits)
            .finish_non_exhaustive()
    }
}

impl UploadWorker {
    /// A worker that puts the files of `files` into `store`, and publishes results to `results`. The limits of
    /// connecting and of answers do not apply, because they are for HTTP servers.
    pub fn new(
        files: Arc<dyn BlobSource>,
        store: Arc<dyn BlobStore>,
        results: Arc<EntityProducer>,
        limits: DownloadLimits,
    ) -> Self {
        Self { files, mover: Mover::new(store, results, limits) }
    }

    /// Sets what happens to a task whose file is already in the store. Default: [`ExistingFiles::Replace`].
    #[must_use]
    pub fn with_existing(mut self, existing: ExistingFiles) -> Self {
        self.mover.existing = existing;
        self
    }

    /// As [`DownloadWorker::with_along`](super::download::DownloadWorker::with_along).
    #[must_use]
    pub fn with_along(mut self, along: GoesAlong) -> Self {
        self.mover.along = along;
        self
    }

    /// Sets who copies large files into the store: the worker or the storage service. Default: [`CopyBy::Worker`].
    /// The service can read a container that a signature opens.
    #[must_use]
    pub fn with_copy(mut self, copy: CopyBy) -> Self {
        self.mover.copy = copy;
        self
    }

    /// As [`DownloadWorker::with_result_room`](super::download::DownloadWorker::with_result_room).
    #[must_use]
    pub fn with_result_room(mut self, results: usize, bytes: usize) -> Self {
        self.mover.results = self.mover.results.resized(results, bytes);
        self
    }

    /// Sets the rates that it keeps to: those of all hosts together. Several workers may share them. Default: no
    /// limit.
    #[must_use]
    pub fn with_rates(mut self, rates: Arc<Rates>) -> Self {
        self.mover.rates = rates;
        self
    }

    /// What the worker has done, while it runs.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.mover.progress)
    }

    async fn run(&self, event: &Event, context: &EventContext) -> Result<Stored, Outcome> {
        let task = UploadTask::from_json(event.body()).map_err(bad_task)?;
        let along = Along::of(self.mover.along, &task.metadata)
            .map_err(|reason| bad_task(InvalidTask::Metadata { id: task.id.clone(), reason }))?;
        let job = Job {
            id: &task.id,
            source: Source::Blob { from: &*self.files, name: &task.path },
            path: task.target(),
            sha256: task.sha256,
            md5: task.md5,
            crc64: task.crc64,
            size: task.size,
            along,
            named: Named::Blob(task.path.as_str()),
        };
        let moved = Moved { id: &task.id, path: task.target(), metadata: &task.metadata };
        self.mover.run(event, context, &job, &moved).await
    }
}

impl EventHandler for UploadWorker {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        match self.run(&event, &context).await {
            Ok(stored) => self.mover.publish(stored, context),
            Err(outcome) => outcome,
        }
    }
}
