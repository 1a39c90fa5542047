//! A file on its way into the store: what of it is there, and its sums so far.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::json;

use super::room::is_full;
use crate::blob_store::sums::Summing;
use crate::blob_store::{
    AskedMd5, BlobCopier, BlobError, BlobName, BlobStore, BlobWriter, BlockWriter, Commit,
    CopySource, LeftBlocks, MadeOf, OpenBlocks, OpenCopy, Sums,
};
use crate::state::block_plan::{BlockPlan, Blocks};
use crate::state::fetch_plan::{FetchPlan, FileVersion, Validator};
use crate::transfer::source::Said;

/// Which hashes of a file are computed, beside its CRC-64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hashes {
    pub(super) sha256: bool,
    pub(super) md5: AskedMd5,
}

/// See the [module](self). Dropped, it leaves nothing behind but what the store keeps of blocks.
#[derive(Default)]
pub(super) struct Arriving {
    /// Of what comes in its order, over one connection at a time.
    pub(super) plan: FetchPlan,
    /// What the source says of it; `None` if nobody asked for all of it, since it came in blocks.
    pub(super) said: Option<Said>,
    /// The service of the store does not copy it.
    pub(super) is_fetched: bool,
    found_full: bool,
    writing: Writing,
}

#[derive(Default)]
enum Writing {
    #[default]
    NotBegun,
    InOrder(Box<dyn BlobWriter>, Box<Summing>),
    InBlocks(InBlocks),
    /// All of it was copied by the service of the store, so many bytes.
    Copied(Box<dyn BlobCopier>, u64),
}

/// A file that comes in blocks.
pub(super) struct InBlocks {
    /// Which file all of them are of.
    pub(super) version: FileVersion,
    pub(super) writer: Box<dyn BlockWriter>,
    plan: Mutex<BlockPlan>,
    found_full: AtomicBool,
}

impl InBlocks {
    fn new(version: FileVersion, writer: Box<dyn BlockWriter>, plan: BlockPlan) -> Self {
        Self { version, writer, plan: Mutex::new(plan), found_full: AtomicBool::new(false) }
    }

    pub(super) fn plan(&self) -> MutexGuard<'_, BlockPlan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn write_at(&self, at: u64, parts: Vec<Bytes>) -> Result<(), BlobError> {
        let written = self.writer.write_at(at, parts).await;
        if written.as_ref().is_err_and(is_full) {
            self.found_full.store(true, Ordering::Relaxed);
        }
        written
    }
}

impl Arriving {
    /// Throws away what is there, and opens the blob for the bytes that come.
    pub(super) async fn begin_anew(
        &mut self,
        store: &dyn BlobStore,
        name: &BlobName,
        hashes: Hashes,
    ) -> Result<(), BlobError> {
        self.throw_away().await;
        let opened = store.open(name, self.plan.total()).await;
        let writer = self.noted(opened)?;
        let summing = Summing::new(hashes.sha256);
        let summing = match hashes.md5 {
            AskedMd5::No => summing,
            AskedMd5::OfNewBlobs | AskedMd5::Always => summing.with_md5(),
        };
        self.writing = Writing::InOrder(writer, Box::new(summing));
        Ok(())
    }

    /// Throws away what is there, and opens the blob for blocks of any order, if the store takes such:
    /// it may have some of them from before. Returns whether it does.
    pub(super) async fn begin_in_blocks(
        &mut self,
        store: &dyn BlobStore,
        name: &BlobName,
        source: &[u8; 16],
        version: FileVersion,
        blocks: Blocks,
        hashes: Hashes,
    ) -> Result<bool, BlobError> {
        self.throw_away().await;
        let text = text_of(&version);
        let made = MadeOf::new(source, &text, version.total, blocks.block_bytes)
            .with_sha256(hashes.sha256)
            .with_md5(hashes.md5);
        let opened = store.open_blocks(name, &made).await;
        let Some(OpenBlocks { writer, there }) = self.noted(opened)? else { return Ok(false) };
        let plan = BlockPlan::new(version.total, blocks).with_there(there);
        self.writing = Writing::InBlocks(InBlocks::new(version, writer, plan));
        Ok(true)
    }

    /// Goes on with what an earlier attempt left in the store, of whatever process.
    pub(super) async fn resume(
        &mut self,
        store: &dyn BlobStore,
        name: &BlobName,
        source: &[u8; 16],
        blocks: Blocks,
    ) -> Result<(), BlobError> {
        let Some(left) = store.resume_blocks(name, source).await? else { return Ok(()) };
        let LeftBlocks { writer, bytes, version, there } = left;
        match version_of(&version, bytes) {
            Some(version) => {
                let plan = BlockPlan::new(bytes, blocks).with_there(there);
                self.writing = Writing::InBlocks(InBlocks::new(version, writer, plan));
            }
            None => writer.abort().await,
        }
        Ok(())
    }

    /// Opens the blob for the service of its store to copy it.
    pub(super) async fn open_copy(
        &mut self,
        store: &dyn BlobStore,
        name: &BlobName,
        source: &[u8; 16],
        version: &FileVersion,
        block_bytes: u64,
        from: CopySource,
    ) -> Result<Option<OpenCopy>, BlobError> {
        self.throw_away().await;
        let text = text_of(version);
        let made = MadeOf::new(source, &text, version.total, block_bytes).with_sha256(false);
        store.open_copy(name, &made, from).await
    }

    /// The service of the store has copied all of it.
    pub(super) fn on_copied(&mut self, copier: Box<dyn BlobCopier>, bytes: u64) {
        self.writing = Writing::Copied(copier, bytes);
    }

    /// The service of the store does not copy it: it is asked for anew, and fetched.
    pub(super) fn on_not_copied(&mut self) {
        (self.plan, self.is_fetched) = (FetchPlan::default(), true);
    }

    /// What there is of a file that comes in blocks.
    pub(super) fn in_blocks(&self) -> Option<&InBlocks> {
        match &self.writing {
            Writing::InBlocks(blocks) => Some(blocks),
            Writing::NotBegun | Writing::InOrder(..) | Writing::Copied(..) => None,
        }
    }

    /// Blocks did not fit together: the file is fetched anew, in its order.
    pub(super) async fn on_no_parts(&mut self) {
        match std::mem::take(&mut self.writing) {
            Writing::InBlocks(blocks) => blocks.writer.reject().await,
            other => {
                self.writing = other;
                self.throw_away().await;
            }
        }
        self.plan.on_no_parts();
    }

    pub(super) async fn write(&mut self, part: Bytes) -> Result<(), BlobError> {
        match &mut self.writing {
            Writing::InOrder(writer, summing) => {
                summing.update(&part);
                let written = writer.write(part).await;
                self.noted(written)
            }
            // Each body that begins has opened one.
            Writing::NotBegun | Writing::InBlocks(_) | Writing::Copied(..) => Err(not_open()),
        }
    }

    /// Notes of a call of the store whether the disk had no room.
    fn noted<T>(&mut self, called: Result<T, BlobError>) -> Result<T, BlobError> {
        self.found_full |= called.as_ref().is_err_and(is_full);
        called
    }

    /// Whether the disk had no room for it.
    pub(super) fn found_full(&self) -> bool {
        let blocks = self.in_blocks();
        self.found_full || blocks.is_some_and(|blocks| blocks.found_full.load(Ordering::Relaxed))
    }

    /// Bytes that are there.
    pub(super) fn received(&self) -> u64 {
        match &self.writing {
            Writing::InBlocks(blocks) => blocks.plan().received(),
            Writing::Copied(_, bytes) => *bytes,
            Writing::NotBegun | Writing::InOrder(..) => self.plan.received(),
        }
    }

    /// The sums of what was written.
    pub(super) fn sums(&self) -> Sums {
        match &self.writing {
            Writing::NotBegun => Sums::default(),
            Writing::InOrder(_, summing) => summing.sums(),
            Writing::InBlocks(blocks) => blocks.writer.sums(),
            Writing::Copied(copier, _) => Sums::new(copier.crc64(), None),
        }
    }

    /// The MD5 that the source says it has.
    pub(super) fn said_md5(&self) -> Option<[u8; 16]> {
        self.said.as_ref()?.md5
    }

    /// Whether what is there came in several bodies.
    pub(super) fn is_joined(&self) -> bool {
        self.in_blocks().is_some() || self.plan.is_joined()
    }

    pub(super) async fn commit(self, commit: Commit) -> Result<(), BlobError> {
        match self.writing {
            Writing::NotBegun => Err(not_open()),
            Writing::InOrder(writer, _) => writer.commit(commit).await,
            Writing::InBlocks(blocks) => blocks.writer.commit(commit).await,
            Writing::Copied(copier, _) => copier.commit(commit).await,
        }
    }

    pub(super) async fn abort(mut self) {
        self.throw_away().await;
    }

    /// Stops here; the store keeps what it can of blocks.
    pub(super) async fn keep(self) {
        if let Writing::InBlocks(blocks) = self.writing {
            blocks.writer.keep().await;
        }
    }

    /// What is there is of no use.
    pub(super) async fn throw_away(&mut self) {
        match std::mem::take(&mut self.writing) {
            // What the service has copied stays for a week.
            Writing::NotBegun | Writing::Copied(..) => {}
            Writing::InOrder(writer, _) => writer.abort().await,
            Writing::InBlocks(blocks) => blocks.writer.abort().await,
        }
    }
}

/// A version as one line of text, for the store to keep.
fn text_of(version: &FileVersion) -> String {
    let kind = match version.validator {
        Validator::ETag(_) => ETAG,
        Validator::LastModified(_) => LAST_MODIFIED,
    };
    json!([kind, version.validator.as_str(), version.resource]).to_string()
}

/// Reads what [`text_of`] wrote.
fn version_of(text: &str, total: u64) -> Option<FileVersion> {
    let (kind, validator, resource): (String, String, String) = serde_json::from_str(text).ok()?;
    let validator = match kind.as_str() {
        ETAG => Validator::ETag(validator),
        LAST_MODIFIED => Validator::LastModified(validator),
        _ => return None,
    };
    Some(FileVersion { validator, total, resource })
}

const ETAG: &str = "etag";
const LAST_MODIFIED: &str = "last-modified";

fn not_open() -> BlobError {
    BlobError::Unusable { reason: "no blob is open for what comes".to_owned(), source: None }
}
