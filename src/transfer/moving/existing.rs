//! Files that are there before they are fetched: what of them is taken for the file of a task.

use sha2::{Digest, Sha256};
use tracing::debug;

use super::job::{Job, Named};
use crate::blob_store::{BlobNote, BlobStore, ExpectedBlob, FoundBlob, Sums};
pub use crate::config::ExistingFiles;
use crate::event::Event;
use crate::outcome::Outcome;
use crate::transfer::progress::Progress;
use crate::transfer::rates::Rates;
use crate::transfer::store_failure::store_failed;

/// Names of a task: of this delivery, and of what it asks for.
pub(super) struct Names {
    work: [u8; 16],
    source: [u8; 16],
}

impl Names {
    pub(super) fn of(event: &Event, job: &Job<'_>) -> Self {
        let partition = event.partition();
        let enqueued = event.enqueued_time().duration_since(std::time::UNIX_EPOCH);
        let enqueued = enqueued.map_or(0, |since| since.as_millis());
        let (place, named) = match job.named {
            Named::Url(url) => (None, url),
            Named::Blob(name) => (Some(&b"blob"[..]), name),
        };
        Self {
            work: name([
                partition.entity.as_str().as_bytes(),
                partition.id.as_str().as_bytes(),
                &event.sequence_number().0.to_be_bytes(),
                &enqueued.to_be_bytes(),
            ]),
            source: name(
                place
                    .into_iter()
                    .chain([
                        named.as_bytes(),
                        job.path.as_str().as_bytes(),
                        job.sha256.as_ref().map_or(&[], |sha256| &sha256[..]),
                        &job.size.map_or(0, |size| size.wrapping_add(1)).to_be_bytes(),
                    ])
                    .chain(job.md5.as_ref().map(|md5| &md5[..])),
            ),
        }
    }

    pub(super) fn source(&self) -> &[u8; 16] {
        &self.source
    }

    pub(super) fn note(&self, bytes: u64, sums: Sums) -> BlobNote {
        BlobNote { work: self.work, source: self.source, bytes, sums }
    }
}

/// No two lists of parts have one name.
fn name<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
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
    pub(super) store: &'a dyn BlobStore,
    pub(super) rates: &'a Rates,
    pub(super) progress: &'a Progress,
}

/// What is there under the name of a task's file.
pub(super) enum There {
    /// It is the file: its length and its sums.
    Done(u64, Sums),
    /// The file is to be fetched, and takes the place of this.
    Replaced(ExpectedBlob),
}

impl Existing<'_> {
    /// Looks for the file of a task.
    ///
    /// # Errors
    /// What becomes of the task instead.
    pub(super) async fn of(&self, job: &Job<'_>, names: &Names) -> Result<There, Outcome> {
        let Some(found) = self.store.find(job.path).await.map_err(store_failed)? else {
            return Ok(There::Replaced(ExpectedBlob::Absent));
        };
        if let Some(note) = found.note
            && note.work == names.work
            && note.bytes == found.bytes
            // Somebody may have changed it, or its bytes may never have come to the disk.
            && self.is_still(job, &note).await?
        {
            debug!(task = %job.id, path = %job.path, "its file was committed before");
            return Ok(There::Done(found.bytes, note.sums));
        }
        let fits = job.size.is_none_or(|size| size == found.bytes);
        let done = match self.choice {
            // What a worker put there is no file of somebody else.
            ExistingFiles::Skip if fits && found.note.is_none() => {
                self.progress.on_skipped();
                return Err(Outcome::skip("its file is there"));
            }
            ExistingFiles::Skip | ExistingFiles::Verify if fits => {
                self.verify(job, names, &found).await?
            }
            _ => None,
        };
        Ok(match done {
            Some(sums) => There::Done(found.bytes, sums),
            None => {
                There::Replaced(found.version.map_or(ExpectedBlob::Anything, ExpectedBlob::Version))
            }
        })
    }

    /// Whether the bytes of a file are those of its note, as far as the store can tell.
    async fn is_still(&self, job: &Job<'_>, note: &BlobNote) -> Result<bool, Outcome> {
        let is = self.store.sha256(job.path).await.map_err(store_failed)?;
        Ok(is.zip(note.sums.sha256).is_none_or(|(is, noted)| is == noted))
    }

    async fn verify(
        &self,
        job: &Job<'_>,
        names: &Names,
        found: &FoundBlob,
    ) -> Result<Option<Sums>, Outcome> {
        let noted = found.note.filter(|note| note.source == names.source).map(|note| note.sums);
        let expected = match (job.sha256, &found.note) {
            (Some(sha256), _) => Some(sha256),
            (None, Some(_)) => match noted {
                Some(sums) => sums.sha256,
                // Another task's.
                None => return Ok(None),
            },
            // What nobody noted has no MD5 that is known.
            (None, None) if job.md5.is_none() && self.is_unchanged(job, found).await? => None,
            (None, None) => return Ok(None),
        };
        let sums = match self.store.sha256(job.path).await.map_err(store_failed)? {
            Some(sha256) => {
                let crc64 = noted.and_then(|sums| sums.crc64);
                expected.is_none_or(|is| is == sha256).then(|| Sums::new(crc64, Some(sha256)))
            }
            // A store that does not read its blobs keeps each with its note, or without one.
            None => noted.filter(|sums| job.sha256.is_none() || sums.sha256 == job.sha256),
        };
        if sums.is_some() {
            self.progress.on_verified();
        }
        Ok(sums)
    }

    /// Whether the server has a file of this length, and has not changed it since.
    async fn is_unchanged(&self, job: &Job<'_>, found: &FoundBlob) -> Result<bool, Outcome> {
        let Some(modified) = found.modified else { return Ok(false) };
        let head = job.source.head(self.rates).await?;
        Ok(head.is_some_and(|head| {
            head.length == Some(found.bytes) && head.modified.is_some_and(|time| time <= modified)
        }))
    }
}
