//! Files that are there before they are fetched: what of them is taken for the file of a task.

use sha2::{Digest, Sha256};
use tracing::debug;

use super::store_failure::store_failed;
use crate::blob_store::{BlobNote, BlobStore, FoundBlob};
pub use crate::config::ExistingFiles;
use crate::event::Event;
use crate::outcome::Outcome;
use crate::transfer::http::Fetcher;
use crate::transfer::progress::Progress;
use crate::transfer::rates::Rates;
use crate::transfer::task::DownloadTask;

/// Names of a task: of this delivery, and of what it asks for.
pub(super) struct Names {
    work: [u8; 16],
    source: [u8; 16],
}

impl Names {
    pub(super) fn of(event: &Event, task: &DownloadTask) -> Self {
        let partition = event.partition();
        let enqueued = event.enqueued_time().duration_since(std::time::UNIX_EPOCH);
        let enqueued = enqueued.map_or(0, |since| since.as_millis());
        Self {
            work: name(&[
                partition.entity.as_str().as_bytes(),
                partition.id.as_str().as_bytes(),
                &event.sequence_number().0.to_be_bytes(),
                &enqueued.to_be_bytes(),
            ]),
            source: name(&[
                task.url.as_str().as_bytes(),
                task.path.as_str().as_bytes(),
                task.sha256.as_ref().map_or(&[], |sha256| &sha256[..]),
                &task.size.map_or(0, |size| size.wrapping_add(1)).to_be_bytes(),
            ]),
        }
    }

    pub(super) fn source(&self) -> &[u8; 16] {
        &self.source
    }

    pub(super) fn note(&self, bytes: u64, sha256: [u8; 32]) -> BlobNote {
        BlobNote { work: self.work, source: self.source, bytes, sha256 }
    }
}

/// No two lists of parts have one name.
fn name(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let hash: [u8; 32] = hasher.finalize().into();
    let mut name = [0; 16];
    name.copy_from_slice(&hash[..16]);
    name
}

/// How a worker looks at what is there.
pub(super) struct Existing<'a> {
    pub(super) choice: ExistingFiles,
    pub(super) fetcher: &'a Fetcher,
    pub(super) store: &'a dyn BlobStore,
    pub(super) rates: &'a Rates,
    pub(super) progress: &'a Progress,
}

impl Existing<'_> {
    /// The length and hash of a file that is there, where it is taken for that of the task.
    ///
    /// # Errors
    /// What becomes of the task instead.
    pub(super) async fn of(
        &self,
        task: &DownloadTask,
        names: &Names,
    ) -> Result<Option<(u64, [u8; 32])>, Outcome> {
        let Some(found) = self.store.find(&task.path).await.map_err(store_failed)? else {
            return Ok(None);
        };
        if let Some(note) = found.note
            && note.work == names.work
            && note.bytes == found.bytes
            // Somebody may have changed it, or its bytes may never have come to the disk.
            && self.store.sha256(&task.path).await.map_err(store_failed)?.is_none_or(|is| is == note.sha256)
        {
            debug!(task = %task.id, path = %task.path, "its file was committed before");
            return Ok(Some((found.bytes, note.sha256)));
        }
        let fits = task.size.is_none_or(|size| size == found.bytes);
        match self.choice {
            // What a worker put there is no file of somebody else.
            ExistingFiles::Skip if fits && found.note.is_none() => {
                self.progress.on_skipped();
                Err(Outcome::skip("its file is there"))
            }
            ExistingFiles::Skip | ExistingFiles::Verify if fits => {
                self.verify(task, names, found).await
            }
            _ => Ok(None),
        }
    }

    async fn verify(
        &self,
        task: &DownloadTask,
        names: &Names,
        found: FoundBlob,
    ) -> Result<Option<(u64, [u8; 32])>, Outcome> {
        let expected = match (task.sha256, found.note) {
            (Some(sha256), _) => Some(sha256),
            (None, Some(note)) if note.source == names.source => Some(note.sha256),
            // Another task's.
            (None, Some(_)) => return Ok(None),
            (None, None) if self.is_unchanged(task, found).await? => None,
            (None, None) => return Ok(None),
        };
        let Some(sha256) = self.store.sha256(&task.path).await.map_err(store_failed)? else {
            return Ok(None);
        };
        let is_it = expected.is_none_or(|expected| expected == sha256);
        if is_it {
            self.progress.on_verified();
        }
        Ok(is_it.then_some((found.bytes, sha256)))
    }

    /// Whether the server has a file of this length, and has not changed it since.
    async fn is_unchanged(&self, task: &DownloadTask, found: FoundBlob) -> Result<bool, Outcome> {
        let Some(modified) = found.modified else { return Ok(false) };
        let head = self.fetcher.head(&task.url, self.rates).await?;
        Ok(head.is_some_and(|head| {
            head.length == Some(found.bytes) && head.modified.is_some_and(|time| time <= modified)
        }))
    }
}
