//! The ports for files: [`BlobStore`] opens a blob, writes its parts, and commits or aborts it; [`BlobSource`]
//! reads. Nothing is visible under the name of a blob before [`BlobWriter::commit`] returned `Ok`.
//!
//! Nothing is visible under the blob's name before [`BlobWriter::commit`] returned `Ok`.

mod commit;
#[cfg(feature = "blob")]
#[cfg_attr(docsrs, doc(cfg(feature = "blob")))]
pub mod container;
mod copy;
pub mod folder;
mod note;
mod source;
pub(crate) mod sums;

use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;

pub use commit::{AccessTier, Commit, ExpectedBlob};
pub use copy::{BlobCopier, CopySource, NotCopied, OpenCopy};
pub use note::BlobNote;
pub use source::{BlobSource, ReadBlob};
pub use sums::Sums;

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
        /// The cause, if there is one.
        source: Option<std::io::Error>,
    },
    /// The store itself cannot be used: a full disk, a file where the folder must be, a folder
    /// that may not be written.
    #[error("the store cannot be used: {reason}")]
    Unusable {
        /// What is wrong, and what to do.
        reason: String,
        /// The cause, if there is one.
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
    /// The store is busy, or nothing answers at its address. The blob is not at fault.
    #[error("could not {operation} {name}: the store is busy or away")]
    Busy {
        /// What was tried.
        operation: &'static str,
        /// The blob.
        name: String,
        /// How long the store wants to be left alone, if it said so.
        wait: Option<Duration>,
        /// The cause.
        source: std::io::Error,
    },
    /// Another writer changed the blob since it was looked at.
    #[error("{name} was written by somebody else meanwhile")]
    Changed {
        /// The blob.
        name: String,
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

    /// The length of the blocks that a blob of `bytes` bytes is written in, where `wanted` is what its
    /// reader would like.
    fn block_bytes(&self, _bytes: u64, wanted: u64) -> u64 {
        wanted
    }

    /// How far behind the first missing byte other bytes may be written. `with_hash`: whether the SHA-256 or the
    /// MD5 of the blob is asked for.
    fn window_bytes(&self, _with_hash: bool) -> u64 {
        u64::MAX
    }

    /// Opens a blob that is written in blocks of any order, under a temporary name. `None` if the store takes
    /// bytes in order only. Blocks of the same blob from an earlier attempt may be kept, and are reported.
    /// Everything else that was left of it is thrown away.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn open_blocks<'a>(
        &'a self,
        _name: &'a BlobName,
        _made: &'a MadeOf<'a>,
    ) -> BoxFuture<'a, Result<Option<OpenBlocks>, BlobError>> {
        Box::pin(async { Ok(None) })
    }

    /// Opens the rest of a blob that came in blocks and was neither committed nor aborted, by any process. `None`
    /// if there is nothing, if another writer has it, or if the store finds it only when it is told the version
    /// ([`open_blocks`](Self::open_blocks)).
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

    /// Opens a blob whose blocks the service of the store copies from a URL. `None` if the store has no such
    /// service, or if its copies cannot be checked. The blocks may be longer than `made` says.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn open_copy<'a>(
        &'a self,
        _name: &'a BlobName,
        _made: &'a MadeOf<'a>,
        _source: CopySource,
    ) -> BoxFuture<'a, Result<Option<OpenCopy>, BlobError>> {
        Box::pin(async { Ok(None) })
    }

    /// Describes a committed blob. `None` if there is none.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn find<'a>(
        &'a self,
        name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<FoundBlob>, BlobError>>;

    /// The SHA-256 of the bytes of a committed blob as they are now. `None` if there is no such blob, or if the
    /// store does not read blobs.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn sha256<'a>(
        &'a self,
        _name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<[u8; 32]>, BlobError>> {
        Box::pin(async { Ok(None) })
    }

    /// Checks whether blobs can be put here, without putting one. It needs no other right than putting a blob
    /// does. Call it at the start of a program, before its first file. A busy store counts as present. `Ok` is no
    /// promise.
    ///
    /// # Errors
    /// [`BlobError::Unusable`] if no blob can be put until somebody changes something; another error if nothing
    /// answers, so that it cannot be decided.
    fn check_writable(&self) -> BoxFuture<'_, Result<(), BlobError>> {
        Box::pin(async { Ok(()) })
    }

    /// Whether the SHA-256 of every blob must be computed, so that a later reader can check that it is whole.
    /// Otherwise it is computed when it is asked for.
    fn wants_sha256(&self) -> bool {
        true
    }
}

/// What a blob is made from.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MadeOf<'a> {
    /// Names the source, and what is to be made of it.
    pub source: &'a [u8; 16],
    /// Which state of the source, in one line of text.
    pub version: &'a str,
    /// The length of the blob.
    pub bytes: u64,
    /// The length of its blocks; the last one may be shorter.
    pub block_bytes: u64,
    /// Its SHA-256 is asked for.
    pub with_sha256: bool,
    /// Whether its MD5 is asked for.
    pub md5: AskedMd5,
}

/// Whether the MD5 of a blob is asked for. The state of an MD5, unlike that of a SHA-256, cannot be kept with
/// blocks that cannot be read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum AskedMd5 {
    /// It is not.
    #[default]
    No,
    /// Only if all of the blob comes now. Blocks that are already there are worth more than the MD5.
    OfNewBlobs,
    /// In any case. Blocks that are already there are of no use if they cannot be read back.
    Always,
}

impl<'a> MadeOf<'a> {
    /// A blob of `bytes` bytes in blocks of `block_bytes`, whose SHA-256 is asked for.
    pub fn new(source: &'a [u8; 16], version: &'a str, bytes: u64, block_bytes: u64) -> Self {
        Self { source, version, bytes, block_bytes, with_sha256: true, md5: AskedMd5::No }
    }

    /// Whether its SHA-256 is asked for.
    #[must_use]
    pub fn with_sha256(mut self, with_sha256: bool) -> Self {
        self.with_sha256 = with_sha256;
        self
    }

    /// Whether its MD5 is asked for.
    #[must_use]
    pub fn with_md5(mut self, md5: AskedMd5) -> Self {
        self.md5 = md5;
        self
    }
}

/// A blob that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FoundBlob {
    /// Its length.
    pub bytes: u64,
    /// When it was put there, or changed last, if the store knows it.
    pub modified: Option<SystemTime>,
    /// What its commit noted, if the store has it.
    pub note: Option<BlobNote>,
    /// Which state of the blob it is, if the store can tell: for [`Commit::expected`].
    pub version: Option<String>,
}

impl FoundBlob {
    /// A blob of this length. Nothing else is known of it.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, modified: None, note: None, version: None }
    }

    /// It is in this state.
    #[must_use]
    pub fn with_version(mut self, version: Option<String>) -> Self {
        self.version = version;
        self
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
    /// what was there. `Ok` means durable.
    ///
    /// # Errors
    /// See [`BlobError`].
    fn commit(self: Box<Self>, commit: Commit) -> BoxFuture<'static, Result<(), BlobError>>;

    /// Throws away what was written.
    fn abort(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// A blob that is open for its blocks.
pub struct OpenBlocks {
    /// Takes what is missing.
    pub writer: Box<dyn BlockWriter>,
    /// What is there of it already; in any order.
    pub there: Vec<Range<u64>>,
}

impl fmt::Debug for OpenBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenBlocks").field("there", &self.there).finish_non_exhaustive()
    }
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
/// [`BlobStore::open_blocks`] or [`BlobStore::resume_blocks`].
pub trait BlockWriter: Send + Sync {
    /// Waits until there is memory for what is written to the block of this byte. Called before the first
    /// write to a block, in the order in which blocks are begun.
    fn reserve(&self, _at: u64) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// The same without a wait: whether there is memory.
    fn try_reserve(&self, _at: u64) -> bool {
        true
    }

    /// How many bytes to collect for one write if they come in smaller parts, because a write may cost more than
    /// its bytes. Default: 256 KiB.
    fn write_bytes(&self) -> u64 {
        256 * 1024
    }

    /// Writes parts that follow one another, the first one at this place, within one block. Calls may run
    /// side by side, and no two write to one place.
    ///
    /// # Errors
    /// See [`BlobError`]; what was written of it is not known.
    fn write_at(&self, at: u64, parts: Vec<Bytes>) -> BoxFuture<'_, Result<(), BlobError>>;

    /// Everything before this byte is written, and is hashed now. One call at a time.
    ///
    /// # Errors
    /// See [`BlobError`]; it may be said once more.
    fn on_written_to(&self, frontier: u64) -> BoxFuture<'_, Result<(), BlobError>>;

    /// The sums of everything that [`Self::on_written_to`] was told of.
    fn sums(&self) -> Sums;

    /// As [`BlobWriter::commit`].
    ///
    /// # Errors
    /// See [`BlobError`].
    fn commit(self: Box<Self>, commit: Commit) -> BoxFuture<'static, Result<(), BlobError>>;

    /// Stops here, and keeps what can be kept: waits for blocks that are on their way.
    fn keep(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }

    /// Throws away what was written, because it is wrong, so that no process continues it.
    fn reject(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.abort()
    }

    /// Throws away what was written.
    fn abort(self: Box<Self>) -> BoxFuture<'static, ()>;
}
