//! The port to where files go: open a blob, write its parts, commit or abort.
//!
//! Nothing is visible under the blob's name before [`BlobWriter::commit`] returned `Ok`.

pub mod folder;
mod note;

use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use note::BlobNote;

/// A relative name of a blob, checked: `/` between parts, no part empty, `.` or `..`, no
/// backslash, no control character, no leading `/`, at most [`BlobName::MAX_CHARS`] characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobName(String);

impl BlobName {
    /// The longest name Azure Blob Storage takes, in characters.
    pub const MAX_CHARS: usize = 1_024;

    /// Checks a name that came from outside.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(name: &str) -> Result<Self, InvalidBlobName> {
        let fault = if name.is_empty() {
            "it is empty"
        } else if name.chars().count() > Self::MAX_CHARS {
            "it has more than 1,024 characters"
        } else if name.chars().any(char::is_control) {
            "it has a control character"
        } else if name.contains('\\') {
            "it has a backslash"
        } else if name.starts_with('/') {
            "it begins with a slash"
        } else if name.split('/').any(|part| part == "..") {
            "it climbs out of the folder with '..'"
        } else if name.split('/').any(|part| part.is_empty() || part == ".") {
            "it has an empty part or '.'"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(InvalidBlobName { name: name.to_owned(), fault })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A name that may not be used, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the path {name:?} is refused: {fault}")]
pub struct InvalidBlobName {
    /// The name as it came.
    pub name: String,
    /// What is wrong with it.
    pub fault: &'static str,
}

/// Why a blob could not be written or read: whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// This blob cannot be written; others can.
    #[error("cannot store {name}: {reason}")]
    Refused {
        /// The blob.
        name: String,
        /// What stands in the way, and what to do.
        reason: String,
        /// The cause, where there is one.
        source: Option<std::io::Error>,
    },
    /// The store itself cannot be used: a full disk, a file where the folder must be, a folder
    /// that may not be written.
    #[error("the store cannot be used: {reason}")]
    Unusable {
        /// What is wrong, and what to do.
        reason: String,
        /// The cause, where there is one.
        source: Option<std::io::Error>,
    },
    /// Failed for now.
    #[error("could not {operation} {name}")]
    Transient {
        /// What was tried.
        operation: &'static str,
        /// The blob.
        name: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// Keeps files by name.
pub trait BlobStore: Send + Sync + fmt::Debug + 'static {
    /// Opens a blob for writing, under a temporary name. `size_hint_bytes` is what is known of
    /// its length.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn open<'a>(
        &'a self,
        name: &'a BlobName,
        size_hint_bytes: Option<u64>,
    ) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>>;

    /// Opens a blob of `bytes` bytes that is written in blocks of any order, under a temporary name;
    /// `None` where the store takes bytes in their order only. `source` names what the blob is made
    /// from, and `version` which state of it, in one line of text: a later
    /// [`resume_blocks`](Self::resume_blocks) gives both back. What was left of the blob before is
    /// thrown away.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn open_blocks<'a>(
        &'a self,
        _name: &'a BlobName,
        _source: &'a [u8; 16],
        _version: &'a str,
        _bytes: u64,
    ) -> BoxFuture<'a, Result<Option<Box<dyn BlockWriter>>, BlobError>> {
        Box::pin(async { Ok(None) })
    }

    /// Opens what was left of a blob that came in blocks and was neither committed nor aborted, by
    /// whatever process; `None` where there is nothing, or somebody writes it.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn resume_blocks<'a>(
        &'a self,
        _name: &'a BlobName,
        _source: &'a [u8; 16],
    ) -> BoxFuture<'a, Result<Option<LeftBlocks>, BlobError>> {
        Box::pin(async { Ok(None) })
    }

    /// What is known of a committed blob; `None` where there is none.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn find<'a>(
        &'a self,
        name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<FoundBlob>, BlobError>>;

    /// The SHA-256 of a committed blob, of its bytes as they are now; `None` where there is no such
    /// blob, or the store does not read blobs.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn sha256<'a>(
        &'a self,
        _name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<[u8; 32]>, BlobError>> {
        Box::pin(async { Ok(None) })
    }
}

/// A blob that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FoundBlob {
    /// Its length.
    pub bytes: u64,
    /// When it was put there, or changed last, where the store knows it.
    pub modified: Option<SystemTime>,
    /// What its commit noted, where the store has it.
    pub note: Option<BlobNote>,
}

impl FoundBlob {
    /// A blob of this length, of which nothing else is known.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, modified: None, note: None }
    }

    /// It was changed last at this time.
    #[must_use]
    pub fn with_modified(mut self, modified: Option<SystemTime>) -> Self {
        self.modified = modified;
        self
    }

    /// Its commit noted this.
    #[must_use]
    pub fn with_note(mut self, note: Option<BlobNote>) -> Self {
        self.note = note;
        self
    }
}

/// An open blob. Dropped without a commit, it leaves nothing behind.
pub trait BlobWriter: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// See [`BlobError`]; the writer is spent afterwards.
    fn write(&mut self, part: Bytes) -> BoxFuture<'_, Result<(), BlobError>>;

    /// Makes what was written visible under the blob's name, whole or not at all, replacing
    /// what was there, with a note where the store has a place for one. `Ok` means durable.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn commit(self: Box<Self>, note: Option<BlobNote>)
    -> BoxFuture<'static, Result<(), BlobError>>;

    /// Throws away what was written.
    fn abort(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// What is there of a blob that came in blocks.
pub struct LeftBlocks {
    /// Takes the rest.
    pub writer: Box<dyn BlockWriter>,
    /// The length of the blob.
    pub bytes: u64,
    /// What [`BlobStore::open_blocks`] was told of the version.
    pub version: String,
    /// What is there, checked; in any order.
    pub there: Vec<Range<u64>>,
}

impl fmt::Debug for LeftBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeftBlocks").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// An open blob that takes its bytes in any order. Dropped, what was written may be kept for
/// [`BlobStore::resume_blocks`].
pub trait BlockWriter: Send + Sync {
    /// Writes parts that follow one another, the first one at this place. Calls may run side by side, and
    /// no two write to one place.
    ///
    /// # Errors
    /// See [`BlobError`]; what was written of it is not known.
    fn write_at(&self, at: u64, parts: Vec<Bytes>) -> BoxFuture<'_, Result<(), BlobError>>;

    /// Everything before this byte is written, and is hashed now. One call at a time.
    ///
    /// # Errors
    /// See [`BlobError`]; it may be said once more.
    fn on_written_to(&self, frontier: u64) -> BoxFuture<'_, Result<(), BlobError>>;

    /// The SHA-256 of everything that [`Self::on_written_to`] was told of.
    fn sha256(&self) -> [u8; 32];

    /// As [`BlobWriter::commit`].
    ///
    /// # Errors
    /// See [`BlobError`].
    fn commit(self: Box<Self>, note: Option<BlobNote>)
    -> BoxFuture<'static, Result<(), BlobError>>;

    /// Throws away what was written.
    fn abort(self: Box<Self>) -> BoxFuture<'static, ()>;
}
