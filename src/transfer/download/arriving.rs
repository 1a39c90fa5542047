//! A file on its way into the store: what of it is there, and its hash so far.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::blob_store::{
    BlobError, BlobName, BlobNote, BlobStore, BlobWriter, BlockWriter, LeftBlocks,
};
use crate::state::block_plan::{BlockPlan, Blocks};
use crate::state::fetch_plan::{FetchPlan, FileVersion, Validator};

/// See the [module](self). Dropped, it leaves nothing behind but what the store keeps of blocks.
#[derive(Default)]
pub(super) struct Arriving {
    /// Of what comes in its order, over one connection at a time.
    pub(super) plan: FetchPlan,
    writing: Writing,
}

#[derive(Default)]
enum Writing {
    #[default]
    NotBegun,
    InOrder(Box<dyn BlobWriter>, Sha256),
    InBlocks(InBlocks),
}

/// A file that comes in blocks.
pub(super) struct InBlocks {
    /// Which file all of them are of.
    pub(super) version: FileVersion,
    pub(super) writer: Box<dyn BlockWriter>,
    plan: Mutex<BlockPlan>,
}

impl InBlocks {
    pub(super) fn plan(&self) -> MutexGuard<'_, BlockPlan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arriving {
    /// Throws away what is there, and opens the blob for the bytes that come.
    pub(super) async fn begin_anew(
        &mut self,
        store: &dyn BlobStore,
        name: &BlobName,
    ) -> Result<(), BlobError> {
        self.throw_away().await;
        let writer = store.open(name, self.plan.total()).await?;
        self.writing = Writing::InOrder(writer, Sha256::new());
        Ok(())
    }

    /// Throws away what is there, and opens the blob for blocks of any order, where the store takes such.
    /// Returns whether it does.
    pub(super) async fn begin_in_blocks(
        &mut self,
        store: &dyn BlobStore,
        name: &BlobName,
        source: &[u8; 16],
        version: FileVersion,
        blocks: Blocks,
    ) -> Result<bool, BlobError> {
        self.throw_away().await;
        let opened = store.open_blocks(name, source, &text_of(&version), version.total).await?;
        let Some(writer) = opened else { return Ok(false) };
        let plan = Mutex::new(BlockPlan::new(version.total, blocks));
        self.writing = Writing::InBlocks(InBlocks { version, writer, plan });
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
                let plan = Mutex::new(BlockPlan::new(bytes, blocks).with_there(there));
                self.writing = Writing::InBlocks(InBlocks { version, writer, plan });
            }
            None => writer.abort().await,
        }
        Ok(())
    }

    /// What there is of a file that comes in blocks.
    pub(super) fn in_blocks(&self) -> Option<&InBlocks> {
        match &self.writing {
            Writing::InBlocks(blocks) => Some(blocks),
            Writing::NotBegun | Writing::InOrder(..) => None,
        }
    }

    /// Blocks did not fit together: the file is fetched anew, in its order.
    pub(super) async fn on_no_parts(&mut self) {
        self.throw_away().await;
        self.plan.on_no_parts();
    }

    pub(super) async fn write(&mut self, part: Bytes) -> Result<(), BlobError> {
        match &mut self.writing {
            Writing::InOrder(writer, hasher) => {
                hasher.update(&part);
                writer.write(part).await
            }
            // Each body that begins has opened one.
            Writing::NotBegun | Writing::InBlocks(_) => Err(not_open()),
        }
    }

    /// Bytes that are there.
    pub(super) fn received(&self) -> u64 {
        self.in_blocks().map_or_else(|| self.plan.received(), |blocks| blocks.plan().received())
    }

    /// The hash of what was written.
    pub(super) fn sha256(&self) -> [u8; 32] {
        match &self.writing {
            Writing::NotBegun => Sha256::new().finalize().into(),
            Writing::InOrder(_, hasher) => hasher.clone().finalize().into(),
            Writing::InBlocks(blocks) => blocks.writer.sha256(),
        }
    }

    /// Whether what is there came in several bodies.
    pub(super) fn is_joined(&self) -> bool {
        self.in_blocks().is_some() || self.plan.is_joined()
    }

    pub(super) async fn commit(self, note: BlobNote) -> Result<(), BlobError> {
        match self.writing {
            Writing::NotBegun => Err(not_open()),
            Writing::InOrder(writer, _) => writer.commit(Some(note)).await,
            Writing::InBlocks(blocks) => blocks.writer.commit(Some(note)).await,
        }
    }

    pub(super) async fn abort(mut self) {
        self.throw_away().await;
    }

    /// What is there is of no use.
    pub(super) async fn throw_away(&mut self) {
        match std::mem::take(&mut self.writing) {
            Writing::NotBegun => {}
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
