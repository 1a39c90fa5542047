//! The port to a store whose own service copies a blob from where it is: its bytes never pass this
//! process.

use std::fmt;
use std::ops::Range;

use futures::future::BoxFuture;

use super::{BlobError, Commit};
use crate::secret::Secret;

/// What a blob is copied from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopySource {
    /// Its address, as the service asks for it.
    pub url: Secret,
    /// The strong ETag of the state that is copied, in quotes.
    pub etag: String,
    /// Whether the CRC-64 of the blob must be known. Then a block that an earlier attempt had copied is copied
    /// again if its sum is not known: the service tells the sum of a block only when it copies it.
    pub needs_crc64: bool,
}

impl CopySource {
    /// This address, in this state.
    pub fn new(url: Secret, etag: String) -> Self {
        Self { url, etag, needs_crc64: false }
    }

    /// Sets whether the CRC-64 of the blob is to be known.
    #[must_use]
    pub fn with_crc64(mut self, needs_crc64: bool) -> Self {
        self.needs_crc64 = needs_crc64;
        self
    }
}

/// A blob that is open for the service to copy it.
pub struct OpenCopy {
    /// Has it copied.
    pub copier: Box<dyn BlobCopier>,
    /// The blocks that are missing, in their order.
    pub missing: Vec<Range<u64>>,
}

impl fmt::Debug for OpenCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenCopy").field("missing", &self.missing).finish_non_exhaustive()
    }
}

/// Has a blob copied, block by block. Dropped, what is copied may be kept for
/// [`BlobStore::open_copy`](super::BlobStore::open_copy).
pub trait BlobCopier: Send + Sync {
    /// Has the block copied that begins here. Calls may run side by side.
    ///
    /// # Errors
    /// Whose fault it is.
    fn copy(&self, at: u64) -> BoxFuture<'_, Result<(), NotCopied>>;

    /// Whether the service has every block, each as long as it must be.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn is_whole(&self) -> BoxFuture<'_, Result<bool, BlobError>>;

    /// The CRC-64/NVME of all of it, if the service told that of each block.
    fn crc64(&self) -> Option<u64>;

    /// As [`BlobWriter::commit`](super::BlobWriter::commit).
    ///
    /// # Errors
    /// See [`BlobError`].
    fn commit(self: Box<Self>, commit: Commit) -> BoxFuture<'static, Result<(), BlobError>>;

    /// Stops here, and leaves for a later attempt what is known of the blocks that are copied.
    fn keep(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

/// Why the service did not copy a block.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotCopied {
    /// The source is in another state by now.
    #[error("the source changed while the service copied it")]
    Changed,
    /// The service does not, or cannot, read it; somebody else may.
    #[error("the service did not copy it: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// The store is not to be asked now.
    #[error(transparent)]
    Store(#[from] BlobError),
}
