//! Blobs in a container of Azure Blob Storage.
//!
//! ```text
//!  short ────────────> Put Blob ─────────────────────────────┐
//!                                                            ├──> visible, whole
//!  long ─> blocks ───> Put Block ── side by side ──> Put Block List
//! ```
//!
//! - Every request carries the CRC-64/NVME of its bytes. The service refuses bytes that changed on the way, and
//!   they are sent again.
//! - A blob becomes visible with one request. That request carries everything that belongs to the blob. It
//!   replaces what was seen there before, and nothing else.
//! - Blocks of a blob that was not committed stay at the service for a week. They are known by their ids,
//!   and are used again only for the same blob, made from the same version of the same source.
//! - The same holds if the service copies a blob from a URL. The blocks of such a blob never are in our memory.
//! - Blocks wait in memory that has a budget, 64 MiB by default ([`DEFAULT_TRANSFER_BUDGET`]). When it is used up,
//!   reading waits.
//!
//! A signature needs the rights to create and to write. With the right to read as well, existing files are
//! recognised, and blocks of an earlier attempt are used again. Without it, every file is written over. The
//! container must exist.

mod block_id;
mod blocks;
mod copied;
mod in_order;
mod memory;
mod sent;
mod sha256;
mod staging;
mod upload;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use azure_core::credentials::TokenCredential;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use self::blocks::ContainerBlockWriter;
use self::copied::ContainerCopier;
use self::in_order::InOrderWriter;
use self::memory::Memory;
use self::upload::{Target, Upload};
use super::{
    BlobError, BlobName, BlobNote, BlobSource, BlobStore, BlobWriter, CopySource, FoundBlob,
    MadeOf, OpenBlocks, OpenCopy, ReadBlob,
};
use crate::blob_container::{CONTENT_REQUEST_TIMEOUT, Container};
pub use crate::config::{DEFAULT_TRANSFER_BUDGET, MIN_TRANSFER_BUDGET};
use crate::error::{Error, error_chain};
use crate::secret::Secret;
use crate::timestamp::parse_rfc3339;

/// Default of how many streams share the budget: 10.
pub const DEFAULT_STREAMS: usize = 10;

/// The most blocks of a blob that the service takes:
/// <https://learn.microsoft.com/azure/storage/blobs/scalability-targets>.
const MOST_BLOCKS: usize = 50_000;

/// The length of a block is a multiple of this.
const BLOCK_STEP_BYTES: u64 = 64 << 10;

/// How far behind the first byte that is missing blocks may be that wait to be hashed.
const HASHED_WINDOW_BYTES: u64 = 32 << 20;

/// The key of the metadata that holds the note of a commit.
const NOTE_KEY: &str = "longshore";

/// The key of the metadata that keeps the time of a file, in RFC 3339; rclone has the same.
const TIME_KEY: &str = "mtime";

/// The key of the metadata by which an account with a hierarchical namespace shows a directory.
const DIRECTORY_KEY: &str = "hdi_isfolder";

/// What is asked for to see whether the container can be used. Nothing is ever put there.
const CHECKED_NAME: &str = "longshore-check";

/// A [`BlobStore`] in a container of Azure Blob Storage. See the [module](self).
pub struct ContainerBlobStore {
    target: Arc<Target>,
    memory: Arc<Memory>,
    streams: usize,
    with_sha256: bool,
}

/// Shows no signature.
impl fmt::Debug for ContainerBlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerBlobStore")
            .field("container", &self.target.container)
            .field("budget_bytes", &self.memory.budget_bytes())
            .finish_non_exhaustive()
    }
}

impl ContainerBlobStore {
    /// Opens a container by an address with a shared access signature:
    /// `https://ACCOUNT.blob.core.windows.net/CONTAINER?…&sig=…`. Sends no request yet.
    ///
    /// # Errors
    /// `Permanent` if the address cannot be used; the error shows it without the signature.
    pub fn with_signature(container_url: &Secret) -> Result<Self, Error> {
        Ok(Self::of(Container::with_signature(container_url, CONTENT_REQUEST_TIMEOUT)?))
    }

    /// Opens the container `https://ACCOUNT.blob.core.windows.net/CONTAINER` with a credential of
    /// Microsoft Entra ID, which needs the role Storage Blob Data Contributor. Sends no request yet.
    ///
    /// # Errors
    /// `Permanent` if the address cannot be used.
    pub fn with_credential(
        container_url: &str,
        credential: Arc<dyn TokenCredential>,
    ) -> Result<Self, Error> {
        let timeout = CONTENT_REQUEST_TIMEOUT;
        Ok(Self::of(Container::with_credential(container_url, credential, timeout)?))
    }

    fn of(container: Container) -> Self {
        Self {
            target: Arc::new(Target {
                container,
                is_blind: AtomicBool::new(false),
                is_away: AtomicBool::new(false),
            }),
            memory: Memory::new(DEFAULT_TRANSFER_BUDGET),
            streams: DEFAULT_STREAMS,
            with_sha256: false,
        }
    }

    /// Sets how much memory blocks may take, in bytes, and how many streams share it: the number of files that are
    /// moved at once, or of connections if that is greater. Each stream fills one block while another one is sent,
    /// so a block is at most half of the share of a stream. Defaults: 64 MiB ([`DEFAULT_TRANSFER_BUDGET`]) and 10
    /// streams ([`DEFAULT_STREAMS`]). At least 1 MiB ([`MIN_TRANSFER_BUDGET`]) and one stream.
    #[must_use]
    pub fn with_budget(mut self, bytes: u64, streams: usize) -> Self {
        self.memory = Memory::new(bytes.max(MIN_TRANSFER_BUDGET));
        self.streams = streams.max(1);
        self
    }

    /// Sets whether the SHA-256 of every blob is computed, not only of those whose task names one. The hash is
    /// kept in the note and in the result. Default: `false`.
    #[must_use]
    pub fn with_sha256(mut self, with_sha256: bool) -> Self {
        self.with_sha256 = with_sha256;
        self
    }

    /// The container's address, without a signature.
    pub fn container_url(&self) -> &str {
        self.target.container.url()
    }

    fn upload(&self, name: &BlobName) -> Upload {
        Upload { target: Arc::clone(&self.target), name: name.clone() }
    }
}

impl BlobStore for ContainerBlobStore {
    fn open<'a>(
        &'a self,
        name: &'a BlobName,
        size_hint_bytes: Option<u64>,
    ) -> BoxFuture<'a, Result<Box<dyn BlobWriter>, BlobError>> {
        async move {
            let total = size_hint_bytes.unwrap_or(0);
            let block_bytes = self.block_bytes(total, u64::MAX);
            self.check_block(name, total, block_bytes)?;
            let (upload, memory) = (self.upload(name), Arc::clone(&self.memory));
            let writer = InOrderWriter::new(upload, memory, block_bytes, size_hint_bytes);
            Ok(Box::new(writer) as _)
        }
        .boxed()
    }

    /// No longer than half of a stream's share of the budget, but as long as it takes for the blob to
    /// have no more blocks than the service takes.
    fn block_bytes(&self, bytes: u64, wanted: u64) -> u64 {
        let share = self.memory.budget_bytes() / (self.streams as u64 * 2);
        let fits = wanted.min(share) / BLOCK_STEP_BYTES * BLOCK_STEP_BYTES;
        fits.max(least_block_bytes(bytes)).max(BLOCK_STEP_BYTES)
    }

    fn window_bytes(&self, with_hash: bool) -> u64 {
        if with_hash { HASHED_WINDOW_BYTES } else { u64::MAX }
    }

    fn open_blocks<'a>(
        &'a self,
        name: &'a BlobName,
        made: &'a MadeOf<'a>,
    ) -> BoxFuture<'a, Result<Option<OpenBlocks>, BlobError>> {
        async move {
            self.check_block(name, made.bytes, made.block_bytes)?;
            let memory = Arc::clone(&self.memory);
            ContainerBlockWriter::open(self.upload(name), memory, made).await.map(Some)
        }
        .boxed()
    }

    fn open_copy<'a>(
        &'a self,
        name: &'a BlobName,
        made: &'a MadeOf<'a>,
        source: CopySource,
    ) -> BoxFuture<'a, Result<Option<OpenCopy>, BlobError>> {
        async move {
            // They wait in no memory of ours.
            let least = least_block_bytes(made.bytes);
            let made = MadeOf { block_bytes: made.block_bytes.max(least), ..*made };
            ContainerCopier::open(self.upload(name), &made, source).await
        }
        .boxed()
    }

    fn find<'a>(
        &'a self,
        name: &'a BlobName,
    ) -> BoxFuture<'a, Result<Option<FoundBlob>, BlobError>> {
        async move {
            let Some(looked) = self.upload(name).look().await? else { return Ok(None) };
            if looked.is_of_another_type {
                return Err(BlobError::Refused {
                    name: name.to_string(),
                    reason: "a page blob or an append blob has its name; delete that, or give the \
                             task another path"
                        .to_owned(),
                    source: None,
                });
            }
            if looked.metadata.get(DIRECTORY_KEY).is_some_and(|is| is == "true") {
                return Err(BlobError::Refused {
                    name: name.to_string(),
                    reason: "a directory has its name; give the task another path".to_owned(),
                    source: None,
                });
            }
            let note = looked.metadata.get(NOTE_KEY).and_then(|text| BlobNote::parse(text));
            let found = FoundBlob::new(looked.bytes)
                .with_modified(Some(looked.modified))
                .with_note(note)
                .with_version(Some(looked.version.0));
            Ok(Some(found))
        }
        .boxed()
    }

    fn check_writable(&self) -> BoxFuture<'_, Result<(), BlobError>> {
        async move { self.upload(&BlobName(CHECKED_NAME.to_owned())).check_writable().await }
            .boxed()
    }

    fn wants_sha256(&self) -> bool {
        self.with_sha256
    }
}

impl ContainerBlobStore {
    /// # Errors
    /// A blob of this length needs blocks that are longer than all of the budget.
    fn check_block(&self, name: &BlobName, total: u64, block_bytes: u64) -> Result<(), BlobError> {
        let budget = self.memory.budget_bytes();
        if block_bytes <= budget {
            return Ok(());
        }
        Err(BlobError::Refused {
            name: name.to_string(),
            reason: format!(
                "of {total} bytes each of {MOST_BLOCKS} blocks has {block_bytes}, which is more than \
                 the transfer budget of {budget}; raise it"
            ),
            source: None,
        })
    }
}

impl BlobSource for ContainerBlobStore {
    fn read<'a>(
        &'a self,
        name: &'a BlobName,
        part: Option<Range<u64>>,
    ) -> BoxFuture<'a, Result<Option<ReadBlob>, BlobError>> {
        async move {
            let upload = self.upload(name);
            let Some(reading) = upload.read(part.as_ref()).await? else { return Ok(None) };
            let (name, target) = (name.to_string(), Arc::clone(&self.target));
            let broke = move |error| {
                let error = target.container.told("read", &error);
                let source = io::Error::other(error_chain(&error).join(": "));
                BlobError::Transient { operation: "read", name: name.clone(), source }
            };
            let body = reading.body.map_err(broke).boxed();
            let mut blob = ReadBlob::new(reading.bytes, reading.version.0, reading.part, body);
            blob.modified = Some(reading.modified);
            blob.metadata = reading.metadata;
            blob.metadata.retain(|key, _| key != NOTE_KEY && key != DIRECTORY_KEY);
            blob.kept_time = blob.metadata.get(TIME_KEY).and_then(|text| parse_rfc3339(text));
            blob.content_type = reading.content_type;
            blob.md5 = reading.md5;
            Ok(Some(blob))
        }
        .boxed()
    }

    fn check_readable(&self) -> BoxFuture<'_, Result<(), BlobError>> {
        async move { self.upload(&BlobName(CHECKED_NAME.to_owned())).check_readable().await }
            .boxed()
    }

    fn readable(&self, name: &BlobName) -> Option<Secret> {
        self.target.container.readable(name.as_str())
    }

    fn shown(&self, name: &BlobName) -> String {
        format!("{}/{name}", self.container_url())
    }
}

/// The length of blocks of which a blob of this length has no more than the service takes.
fn least_block_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(MOST_BLOCKS as u64).next_multiple_of(BLOCK_STEP_BYTES)
}

/// Bytes came where none were expected, or are missing: nothing of ours does that.
fn out_of_place(name: &BlobName, at: u64) -> BlobError {
    let source = io::Error::other(format!("the bytes at {at} are out of place"));
    BlobError::Transient { operation: "write", name: name.to_string(), source }
}
