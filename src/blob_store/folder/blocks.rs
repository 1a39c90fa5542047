//! A blob that is written in blocks of any order, into a file that stays where it is not committed
//! ([`unfinished`](super::unfinished)).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::partial::PartialFile;
use super::root::Root;
use super::unfinished::{Journal, Left, Unfinished};
use super::{SyncFiles, blocking};
use crate::blob_store::sums::Summing;
use crate::blob_store::{BlobError, BlobName, BlockWriter, Commit, LeftBlocks, Sums};

/// How much is read at a time.
const READ_BYTES: usize = 256 * 1024;

pub(super) struct FolderBlockWriter {
    root: Arc<Root>,
    sync: SyncFiles,
    name: BlobName,
    file: Arc<File>,
    partial: PartialFile,
    /// Of a blob that is kept where it comes in part only.
    journal: Option<Arc<Journal>>,
    hashed: Arc<Mutex<Hashed>>,
}

/// What a blob is made from: [`MadeOf`](crate::blob_store::MadeOf), as much as is of use here.
pub(super) struct Made {
    pub(super) source: [u8; 16],
    pub(super) version: String,
    pub(super) bytes: u64,
    pub(super) with_md5: bool,
}

/// The sums of the first bytes.
struct Hashed {
    summing: Summing,
    to: u64,
}

impl Hashed {
    fn nothing(with_md5: bool) -> Self {
        let summing = Summing::new(true);
        Self { summing: if with_md5 { summing.with_md5() } else { summing }, to: 0 }
    }
}

fn lock(hashed: &Mutex<Hashed>) -> MutexGuard<'_, Hashed> {
    hashed.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FolderBlockWriter {
    /// Begins anew, whatever was left of the blob. Blocks.
    pub(super) fn begin(
        root: Arc<Root>,
        name: BlobName,
        sync: SyncFiles,
        made: &Made,
    ) -> Result<Self, BlobError> {
        root.check_way_to(&name)?;
        let hashed = Hashed::nothing(made.with_md5);
        match root.unfinished().begin(&made.source, &made.version, made.bytes) {
            Ok(Some(unfinished)) => Ok(Self::of(root, name, sync, unfinished, hashed)),
            // Somebody fetches the same, or nothing can be kept: then it is as other temporary files are.
            Ok(None) | Err(_) => {
                let (file, partial) = root.open(&name)?;
                let file = Arc::new(file);
                let hashed = Arc::new(Mutex::new(hashed));
                Ok(Self { root, sync, name, file, partial, journal: None, hashed })
            }
        }
    }

    /// Goes on with what was left of the blob. Blocks.
    pub(super) fn resume(
        root: Arc<Root>,
        name: BlobName,
        sync: SyncFiles,
        source: &[u8; 16],
    ) -> Result<Option<LeftBlocks>, BlobError> {
        root.check_way_to(&name)?;
        // What cannot be read is fetched again.
        let left = root.unfinished().resume(source).ok().flatten();
        Ok(left.map(|Left { unfinished, bytes, version, there }| {
            // What is there is read once more in any case, and nobody knows yet who asks for what.
            let writer = Box::new(Self::of(root, name, sync, unfinished, Hashed::nothing(true)));
            LeftBlocks { writer, bytes, version, there }
        }))
    }

    fn of(
        root: Arc<Root>,
        name: BlobName,
        sync: SyncFiles,
        unfinished: Unfinished,
        hashed: Hashed,
    ) -> Self {
        let Unfinished { file, partial, journal } = unfinished;
        let (file, journal) = (Arc::new(file), Some(Arc::new(journal)));
        Self { root, sync, name, file, partial, journal, hashed: Arc::new(Mutex::new(hashed)) }
    }
}

impl BlockWriter for FolderBlockWriter {
    fn write_at(&self, at: u64, parts: Vec<Bytes>) -> BoxFuture<'_, Result<(), BlobError>> {
        let (file, root, name) = (self.file.clone(), self.root.clone(), self.name.clone());
        let journal = self.journal.clone();
        let write = move || {
            let mut to = at;
            for part in &parts {
                write_all_at(&file, part, to)
                    .map_err(|error| root.partial_failed("write", &name, error))?;
                to += part.len() as u64;
            }
            if let Some(journal) = journal {
                // Without it a later run fetches it again.
                let _noted = journal.on_written(at, &parts);
            }
            Ok(())
        };
        blocking("write", &self.name, write).boxed()
    }

    fn on_written_to(&self, frontier: u64) -> BoxFuture<'_, Result<(), BlobError>> {
        let (file, root, name) = (self.file.clone(), self.root.clone(), self.name.clone());
        let hashed = Arc::clone(&self.hashed);
        let hash = move || {
            let mut hashed = lock(&hashed);
            let Hashed { summing, to } = &mut *hashed;
            let read = read_parts(&file, *to..frontier, |part| {
                summing.update(part);
                *to += part.len() as u64;
            });
            read.map_err(|error| root.partial_failed("read", &name, error))
        };
        blocking("read", &self.name, hash).boxed()
    }

    fn sums(&self) -> Sums {
        lock(&self.hashed).summing.sums()
    }

    fn commit(self: Box<Self>, commit: Commit) -> BoxFuture<'static, Result<(), BlobError>> {
        async move {
            let Self { root, sync, name, file, partial, journal, .. } = *self;
            let committed = name.clone();
            let put = move || {
                let busy = |_file| io::Error::other("a write of it still runs");
                let file = Arc::try_unwrap(file).map_err(busy);
                // Until it has its name, nobody else takes it for what an earlier attempt left.
                let locked = file.and_then(|file| Ok((file.try_clone()?, file)));
                let (_locked, file) =
                    locked.map_err(|error| root.partial_failed("commit", &committed, error))?;
                let nothing = |_file: &mut File| Ok(());
                let partial = Some((file, partial));
                let done = root.commit(&committed, partial, nothing, &commit, sync);
                // Where it is refused, nobody comes back for it.
                if let (Ok(()) | Err(BlobError::Refused { .. }), Some(journal)) = (&done, journal) {
                    journal.remove();
                }
                done
            };
            blocking("commit", &name, put).await
        }
        .boxed()
    }

    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            // Where the runtime is shutting down, the drop removes the file.
            let Self { partial, journal, file, .. } = *self;
            let _ = spawn_blocking(move || {
                partial.remove();
                journal.iter().for_each(|journal| journal.remove());
                // It was locked until then.
                drop(file);
            })
            .await;
        }
        .boxed()
    }
}

/// Reads a part of a file, piece by piece.
pub(super) fn read_parts(
    file: &File,
    range: Range<u64>,
    mut on_part: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut at = range.start;
    while at < range.end {
        let most = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(READ_BYTES);
        let part = buffer.get_mut(..most).unwrap_or_default();
        read_exact_at(file, part, at)?;
        on_part(part);
        at += part.len() as u64;
    }
    Ok(())
}

#[cfg(unix)]
pub(super) fn write_all_at(file: &File, part: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, part, at)
}

#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, part: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, part, at)
}

#[cfg(windows)]
pub(super) fn write_all_at(file: &File, mut part: &[u8], mut at: u64) -> io::Result<()> {
    while !part.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, part, at)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => (part, at) = (&part[written..], at + written as u64),
        }
    }
    Ok(())
}

#[cfg(windows)]
pub(super) fn read_exact_at(file: &File, part: &mut [u8], at: u64) -> io::Result<()> {
    let mut read = 0;
    while read < part.len() {
        match std::os::windows::fs::FileExt::seek_read(file, &mut part[read..], at + read as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => read += more,
        }
    }
    Ok(())
}
