//! The port to where files come from: open a blob, read it or a part of it.

use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::{BlobError, BlobName};

/// Gives files by name.
pub trait BlobSource: Send + Sync + fmt::Debug + 'static {
    /// Opens a blob, or a part of it; `None` where there is no such blob. A part that begins behind the
    /// end is empty, and one that ends behind it ends there.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn read<'a>(
        &'a self,
        name: &'a BlobName,
        part: Option<Range<u64>>,
    ) -> BoxFuture<'a, Result<Option<ReadBlob>, BlobError>>;

    /// Looks whether blobs can be read here, as
    /// [`BlobStore::check_writable`](super::BlobStore::check_writable) does for writing.
    ///
    /// # Errors
    /// [`BlobError::Unusable`] where no blob can be read, for as long as nobody does something about it;
    /// another one where it cannot be told, since nothing answers.
    fn check_readable(&self) -> BoxFuture<'_, Result<(), BlobError>> {
        Box::pin(async { Ok(()) })
    }

    /// The blob as messages name it, without a secret.
    fn shown(&self, name: &BlobName) -> String;
}

/// A blob that is read.
#[non_exhaustive]
pub struct ReadBlob {
    /// Its length.
    pub bytes: u64,
    /// What tells this state of the blob from every other.
    pub version: String,
    /// When it was changed last, where that is known.
    pub modified: Option<SystemTime>,
    /// What kind of content it is, where that is known.
    pub content_type: Option<String>,
    /// Its MD5, where the source keeps one.
    pub md5: Option<[u8; 16]>,
    /// What of it the body holds.
    pub part: Range<u64>,
    /// The bytes. It ends with an error where they were not all of one state of the blob.
    pub body: BoxStream<'static, Result<Bytes, BlobError>>,
}

impl ReadBlob {
    /// A blob of this length, in this state, of which `body` holds a part.
    pub fn new(
        bytes: u64,
        version: String,
        part: Range<u64>,
        body: BoxStream<'static, Result<Bytes, BlobError>>,
    ) -> Self {
        Self { bytes, version, modified: None, content_type: None, md5: None, part, body }
    }
}

impl fmt::Debug for ReadBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBlob")
            .field("bytes", &self.bytes)
            .field("version", &self.version)
            .field("part", &self.part)
            .finish_non_exhaustive()
    }
}
