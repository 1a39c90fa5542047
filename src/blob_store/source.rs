//! The port to where files come from: open a blob, read it or a part of it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::{BlobError, BlobName};
use crate::secret::Secret;

/// Gives files by name.
pub trait BlobSource: Send + Sync + fmt::Debug + 'static {
    /// Opens a blob, or a part of it. `None` if there is no such blob. A part that begins behind the end is empty.
    /// A part that ends behind the end of the blob ends there.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn read<'a>(
        &'a self,
        name: &'a BlobName,
        part: Option<Range<u64>>,
    ) -> BoxFuture<'a, Result<Option<ReadBlob>, BlobError>>;

    /// Checks whether blobs can be read here, as [`BlobStore::check_writable`](super::BlobStore::check_writable)
    /// does for writing.
    ///
    /// # Errors
    /// [`BlobError::Unusable`] if no blob can be read until somebody changes something; another error if nothing
    /// answers, so that it cannot be decided.
    fn check_readable(&self) -> BoxFuture<'_, Result<(), BlobError>> {
        Box::pin(async { Ok(()) })
    }

    /// An address at which others can read the blob. It may be a secret. `None` if there is none.
    fn readable(&self, _name: &BlobName) -> Option<Secret> {
        None
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
    /// When it was changed last, if that is known.
    pub modified: Option<SystemTime>,
    /// When its content was last changed, if the store kept that time.
    pub kept_time: Option<SystemTime>,
    /// Names and values that stay with it, without those of the store's own.
    pub metadata: BTreeMap<String, String>,
    /// What kind of content it is, if that is known.
    pub content_type: Option<String>,
    /// Its MD5, if the source keeps one.
    pub md5: Option<[u8; 16]>,
    /// What of it the body holds.
    pub part: Range<u64>,
    /// The bytes. It ends with an error where they were not all of one state of the blob.
    pub body: BoxStream<'static, Result<Bytes, BlobError>>,
}

impl ReadBlob {
    /// A part of a blob with this length and state; `body` holds the part.
    pub fn new(
        bytes: u64,
        version: String,
        part: Range<u64>,
        body: BoxStream<'static, Result<Bytes, BlobError>>,
    ) -> Self {
        Self {
            bytes,
            version,
            modified: None,
            kept_time: None,
            metadata: BTreeMap::new(),
            content_type: None,
            md5: None,
            part,
            body,
        }
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
