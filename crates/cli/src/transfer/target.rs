//! The target of a run: files, of which it is known which are there.
//!
//! The thread that reads the list looks for the file of each line. So the worker asks only for those that
//! were there, and for the others no thread waits.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::files::Files;
use longshore::blob_store::{
    BlobError, BlobName, BlobStore, BlobWriter, FoundBlob, LeftBlocks, MadeOf, OpenBlocks,
};

/// See the [module](self). Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    files: Files,
    /// The names of files that were there, by their hash. Where two have one, a file is looked for in vain.
    there: Arc<Mutex<HashSet<u64>>>,
    /// Files below it that no task may replace.
    kept: Arc<Vec<String>>,
    hasher: RandomState,
}

impl Target {
    /// The files of `kept` that lie below it are replaced by no task.
    pub(super) fn new(files: Files, kept: impl IntoIterator<Item = PathBuf>) -> Self {
        let below = |file: PathBuf| {
            Some(file.canonicalize().ok()?.strip_prefix(files.root()?).ok()?.to_str()?.to_owned())
        };
        let kept = Arc::new(kept.into_iter().filter_map(below).collect());
        Self { files, there: Arc::default(), kept, hasher: RandomState::new() }
    }

    /// Whether no task may have this file.
    pub(super) fn is_kept(&self, path: &str) -> bool {
        self.kept.iter().any(|kept| kept == path)
    }

    /// Looks for a file that is to have this length; the one that it has where it is there. What cannot be
    /// looked at is looked at by the worker, who says what is wrong. Blocks.
    pub(super) fn look(&self, path: &str, expected: Option<u64>) -> Option<u64> {
        let looked = BlobName::parse(path).map(|name| self.files.length(&name, expected));
        let length = match looked {
            Ok(Ok(length)) => length,
            Ok(Err(_)) | Err(_) => None,
        };
        if !matches!(looked, Ok(Ok(None))) {
            self.names().insert(self.hasher.hash_one(path));
        }
        length
    }

    /// A file of a line that is done: nobody asks for it.
    pub(super) fn forget(&self, path: &str) {
        self.names().remove(&self.hasher.hash_one(path));
    }

    fn names(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobStore for Target {
    fn open<'a>(
        &'a self,
        name: &'a BlobName,
        size_hint_bytes: Option<u64>,
    ) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        self.files.store().open(name, size_hint_bytes)
    }

    fn open_blocks<'a>(
        &'a self,
        name: &'a BlobName,
        made: &'a MadeOf<'a>,
    ) -> BoxFuture<'a, Result<Option<OpenBlocks>, BlobError>> {
        self.files.store().open_blocks(name, made)
    }

    fn block_bytes(&self, bytes: u64, wanted: u64) -> u64 {
        self.files.store().block_bytes(bytes, wanted)
    }

    fn window_bytes(&self, with_sha256: bool) -> u64 {
        self.files.store().window_bytes(with_sha256)
    }

    fn check_writable(&self) -> BoxFuture<'_, Result<(), BlobError>> {
        self.files.store().check_writable()
    }

    fn wants_sha256(&self) -> bool {
        self.files.store().wants_sha256()
    }

    fn resume_blocks<'a>(
        &'a self,
        name: &'a BlobName,
        source: &'a [u8; 16],
    ) -> BoxFuture<'a, Result<Option<LeftBlocks>, BlobError>> {
        self.files.store().resume_blocks(name, source)
    }

    fn find<'a>(
        &'a self,
        name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<FoundBlob>, BlobError>> {
        // Nobody has looked into a container yet.
        let is_unknown = self.files.root().is_none();
        if is_unknown || self.names().contains(&self.hasher.hash_one(name.as_str())) {
            self.files.store().find(name)
        } else {
            async { Ok(None) }.boxed()
        }
    }

    fn sha256<'a>(
        &'a self,
        name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<[u8; 32]>, BlobError>> {
        self.files.store().sha256(name)
    }
}
