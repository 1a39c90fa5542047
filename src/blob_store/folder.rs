//! Blobs as files below a local folder.
//!
//! A writer collects parts up to 256 KiB ([`CHUNK_BYTES`]) and writes them to a temporary file below
//! `root/.longshore/`. A commit flushes the file, renames it into place and flushes the folder, so a blob is there
//! whole or not at all. A blob of at most one chunk touches the disk once, at its commit. A blob that comes in
//! blocks is written where each block belongs, and hashed behind them, from what the system still has in memory.
//! The note of a commit is in the extended attribute [`NOTE_ATTRIBUTE`] of the file, if the file system supports
//! it. A temporary file is removed when its writer is dropped, when the store is closed or dropped, and, after a
//! crash, when the next process opens the root. Processes may share a root.
//!
//! No name leads out of the root: a link to a folder outside of it is refused. Programs that may write to the root
//! are trusted: the store does not guard against one that swaps folders for links while a commit runs.

mod attribute;
mod blocks;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod look;
mod partial;
mod read;
mod root;
mod unfinished;

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::spawn_blocking;

pub use self::attribute::NOTE_ATTRIBUTE;
use self::blocks::{FolderBlockWriter, Made};
use self::look::{LookPace, timed};
use self::root::{Partial, Root};
use super::{
    AskedMd5, BlobError, BlobName, BlobSource, BlobStore, BlobWriter, Commit, FoundBlob,
    LeftBlocks, MadeOf, OpenBlocks, ReadBlob,
};

/// How many bytes a writer collects before it writes them: 256 KiB. It holds them in memory, in addition to the
/// part that it was just given.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// A part that is smaller is copied behind other small ones.
const SMALL_PART_BYTES: usize = 4 * 1024;

/// Whether a commit waits until the disk has the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum SyncFiles {
    /// A committed blob outlives the loss of power.
    #[default]
    Always,
    /// It does once [`FolderBlobStore::flush`] has returned. The bytes are on the disk at the commit, their
    /// names are not: of many files in few folders, each folder is flushed once.
    AtFlush,
    /// A committed blob outlives the process. After a loss of power it may be gone, or be empty. This is faster,
    /// most of all for small files. Use it if the files can be fetched again. A full disk that shows only when
    /// data is flushed is not noticed.
    Never,
}

/// A [`BlobStore`] below a local folder. See the [module](self).
#[derive(Debug)]
pub struct FolderBlobStore {
    root: Arc<Root>,
    sync: SyncFiles,
    look_pace: LookPace,
}

impl FolderBlobStore {
    /// Opens a folder, creates it if it is missing, and removes the temporary files of dead processes. It blocks
    /// for a few file operations.
    ///
    /// # Errors
    /// [`BlobError::Unusable`] if the folder is a file or may not be written.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let root = Arc::new(Root::create(&root.into())?);
        Ok(Self { root, sync: SyncFiles::default(), look_pace: LookPace::default() })
    }

    /// Sets whether commits wait for the disk. Default: [`SyncFiles::Always`].
    #[must_use]
    pub fn with_sync(mut self, sync: SyncFiles) -> Self {
        self.sync = sync;
        self
    }

    /// The folder, resolved.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The length of a committed blob. `None` if there is none. It blocks for a file operation or two.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub fn length(&self, name: &BlobName) -> Result<Option<u64>, BlobError> {
        self.root.length(name)
    }

    /// Flushes the names of all committed blobs to the disk, if the store leaves that to this call
    /// ([`SyncFiles::AtFlush`]). It blocks.
    ///
    /// # Errors
    /// As of a commit. What was not flushed is flushed by the next call.
    pub fn flush(&self) -> Result<(), BlobError> {
        self.root.flush()
    }

    /// Removes the temporary files of this store, those of open writers too: they fail at their
    /// commit. Dropping the store and all its writers does the same.
    ///
    /// # Cancel safety
    /// A dropped call goes on.
    pub async fn close(&self) {
        let root = self.root.clone();
        // Where the runtime is shutting down, the drop closes.
        let _ = spawn_blocking(move || root.close()).await;
    }
}

impl BlobStore for FolderBlobStore {
    fn open<'a>(
        &'a self,
        name: &'a BlobName,
        size_hint_bytes: Option<u64>,
    ) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        async move {
            let known = size_hint_bytes.and_then(|bytes| usize::try_from(bytes).ok());
            let partial = match known {
                // It goes to the disk as a whole, with one call that blocks.
                Some(bytes) if bytes < CHUNK_BYTES => PartialState::NotOpened,
                _ => {
                    let (root, opened) = (self.root.clone(), name.clone());
                    let partial = blocking("open", name, move || root.open(&opened)).await?;
                    PartialState::Open(partial)
                }
            };
            let writer: Box<dyn BlobWriter> = Box::new(FolderBlobWriter {
                root: self.root.clone(),
                sync: self.sync,
                name: name.clone(),
                parts: Parts::default(),
                partial,
            });
            Ok(writer)
        }
        .boxed()
    }

    fn open_blocks<'a>(
        &'a self,
        name: &'a BlobName,
        made: &'a MadeOf<'a>,
    ) -> BoxFuture<'a, Result<Option<OpenBlocks>, BlobError>> {
        let (root, opened, sync) = (self.root.clone(), name.clone(), self.sync);
        let made = Made {
            source: *made.source,
            version: made.version.to_owned(),
            bytes: made.bytes,
            with_md5: made.md5 != AskedMd5::No,
        };
        let open = move || {
            let writer = FolderBlockWriter::begin(root, opened, sync, &made)?;
            Ok(Some(OpenBlocks { writer: Box::new(writer), there: Vec::new() }))
        };
        blocking("open", name, open).boxed()
    }

    fn resume_blocks<'a>(
        &'a self,
        name: &'a BlobName,
        source: &'a [u8; 16],
    ) -> BoxFuture<'a, Result<Option<LeftBlocks>, BlobError>> {
        async move {
            if self.root.unfinished().is_known_empty() {
                return Ok(None);
            }
            let look = |root: &Root, source: &[u8; 16]| root.unfinished().has(source);
            let (root, resumed) = (self.root.clone(), *source);
            let (there, took) = if self.look_pace.is_quick() {
                timed(|| look(&root, source))
            } else {
                let root = root.clone();
                blocking("look up", name, move || Ok(timed(|| look(&root, &resumed)))).await?
            };
            self.look_pace.on_looked(took);
            if !there {
                return Ok(None);
            }
            let (opened, sync) = (name.clone(), self.sync);
            let resume = move || FolderBlockWriter::resume(root, opened, sync, &resumed);
            blocking("open", name, resume).await
        }
        .boxed()
    }

    fn find<'a>(
        &'a self,
        name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<FoundBlob>, BlobError>> {
        async move {
            let (found, took) = if self.look_pace.is_quick() {
                timed(|| self.root.find(name))
            } else {
                let (root, looked) = (self.root.clone(), name.clone());
                blocking("look up", name, move || Ok(timed(|| root.find(&looked)))).await?
            };
            self.look_pace.on_looked(took);
            found
        }
        .boxed()
    }

    fn sha256<'a>(
        &'a self,
        name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<[u8; 32]>, BlobError>> {
        let (root, read) = (self.root.clone(), name.clone());
        blocking("read", name, move || root.sha256(&read)).boxed()
    }
}

impl BlobSource for FolderBlobStore {
    fn read<'a>(
        &'a self,
        name: &'a BlobName,
        part: Option<Range<u64>>,
    ) -> BoxFuture<'a, Result<Option<ReadBlob>, BlobError>> {
        let (root, opened) = (self.root.clone(), name.clone());
        let open = move || {
            let Some(file) = root.open_to_read(&opened)? else { return Ok(None) };
            let metadata = file.metadata().map_err(|source| BlobError::Transient {
                operation: "read",
                name: opened.to_string(),
                source,
            })?;
            Ok(Some(read::read(file, &metadata, &opened, part)))
        };
        blocking("read", name, open).boxed()
    }

    fn shown(&self, name: &BlobName) -> String {
        self.root().join(name.as_str()).display().to_string()
    }
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    name: &BlobName,
    call: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match spawn_blocking(call).await {
        Ok(result) => result,
        Err(gone) => Err(BlobError::Transient {
            operation,
            name: name.to_string(),
            source: io::Error::other(gone),
        }),
    }
}

struct FolderBlobWriter {
    root: Arc<Root>,
    sync: SyncFiles,
    name: BlobName,
    /// Shorter than [`CHUNK_BYTES`].
    parts: Parts,
    partial: PartialState,
}

/// Parts of a blob as they came, to be written together.
#[derive(Default)]
struct Parts {
    parts: Vec<Part>,
    bytes: usize,
}

enum Part {
    AsItCame(Bytes),
    /// Many small ones: each would hold the buffer that it was read into.
    Joined(Vec<u8>),
}

impl Part {
    fn slice(&self) -> IoSlice<'_> {
        match self {
            Self::AsItCame(part) => IoSlice::new(part),
            Self::Joined(joined) => IoSlice::new(joined),
        }
    }
}

impl Parts {
    fn add(&mut self, part: Bytes) {
        self.bytes += part.len();
        if part.len() >= SMALL_PART_BYTES {
            return self.parts.push(Part::AsItCame(part));
        }
        match self.parts.last_mut() {
            Some(Part::Joined(joined)) => joined.extend_from_slice(&part),
            _ => self.parts.push(Part::Joined(part.to_vec())),
        }
    }

    fn write_to(&self, file: &mut File) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = self.parts.iter().map(Part::slice).collect();
        let mut left = slices.as_mut_slice();
        // What is empty would be taken for the end of what can be written.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match file.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The temporary file of a writer.
enum PartialState {
    /// Nothing is written yet.
    NotOpened,
    Open(Partial),
    /// A call failed or was dropped.
    Spent,
}

impl FolderBlobWriter {
    /// The temporary file, if there is one yet. The writer is spent until it is put back.
    fn take(&mut self, operation: &'static str) -> Result<Option<Partial>, BlobError> {
        match std::mem::replace(&mut self.partial, PartialState::Spent) {
            PartialState::NotOpened => Ok(None),
            PartialState::Open(partial) => Ok(Some(partial)),
            PartialState::Spent => Err(BlobError::Transient {
                operation,
                name: self.name.to_string(),
                source: io::Error::other(
                    "a call on this writer failed before or was dropped; open the blob anew",
                ),
            }),
        }
    }
}

impl BlobWriter for FolderBlobWriter {
    fn write(&mut self, part: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        async move {
            const OPERATION: &str = "write";
            // Taken while the write runs: dropped in the midst of it, the writer is spent.
            let partial = self.take(OPERATION)?;
            self.parts.add(part);
            if self.parts.bytes < CHUNK_BYTES {
                self.partial = partial.map_or(PartialState::NotOpened, PartialState::Open);
                return Ok(());
            }
            let parts = std::mem::take(&mut self.parts);
            let (root, name) = (self.root.clone(), self.name.clone());
            let written = blocking(OPERATION, &self.name, move || {
                let (mut file, partial) = match partial {
                    Some(partial) => partial,
                    None => root.open(&name)?,
                };
                parts
                    .write_to(&mut file)
                    .map_err(|error| root.partial_failed(OPERATION, &name, error))?;
                Ok((file, partial))
            })
            .await?;
            self.partial = PartialState::Open(written);
            Ok(())
        }
        .boxed()
    }

    fn commit(mut self: Box<Self>, commit: Commit) -> BoxFuture<'static, Result<(), BlobError>> {
        async move {
            let partial = self.take("commit")?;
            let rest = std::mem::take(&mut self.parts);
            let (root, name, sync) = (self.root.clone(), self.name.clone(), self.sync);
            let write = move |file: &mut File| rest.write_to(file);
            blocking("commit", &self.name, move || {
                root.commit(&name, partial, write, &commit, sync)
            })
            .await
        }
        .boxed()
    }

    fn abort(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            if let Ok(Some(partial)) = self.take("abort") {
                // Where the runtime is shutting down, the drop removes the file.
                let _ = spawn_blocking(move || drop(partial)).await;
            }
        }
        .boxed()
    }
}

#[cfg(all(test, unix))]
mod tests;
