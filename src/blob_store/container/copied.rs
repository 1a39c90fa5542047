//! A blob that the service copies from a URL, block by block (Put Block From URL).
//!
//! The ids of its blocks are those of an upload of its own: the sum of a block is known only behind its
//! copy, so it is not in the id, and a later run takes what is staged by its length and the version of the
//! source. Nothing is visible before all blocks are listed, each as long as it must be.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::block_id::{BlockId, UploadKey};
use super::out_of_place;
use super::upload::{Content, Upload};
use crate::blob_container::content::Staged;
use crate::blob_store::sums::{crc64, joined_crc64};
use crate::blob_store::{BlobCopier, BlobError, Commit, CopySource, MadeOf, NotCopied, OpenCopy};

pub(super) struct ContainerCopier {
    upload: Upload,
    source: CopySource,
    blocks: Layout,
    /// Of the blocks that are copied, by where they begin: their sums, where they are known.
    copied: Mutex<BTreeMap<u64, Option<u64>>>,
}

/// The blocks of a blob.
#[derive(Clone, Copy)]
struct Layout {
    key: UploadKey,
    total: u64,
    block_bytes: u64,
}

impl Layout {
    /// The block that begins here.
    fn block(self, at: u64) -> Range<u64> {
        at..at.saturating_add(self.block_bytes).min(self.total)
    }

    fn begins(self) -> impl Iterator<Item = u64> {
        (0..self.total.div_ceil(self.block_bytes)).map(move |block| block * self.block_bytes)
    }

    fn id(self, at: u64) -> BlockId {
        BlockId { upload: self.key, at, crc64: 0, sha256_state: [0; 32] }
    }

    /// Which of the staged blocks are of this blob and as long as they must be, by where they begin.
    fn there(self, staged: &[Staged]) -> BTreeMap<u64, Option<u64>> {
        let is_whole = |at: u64, bytes: u64| {
            let block = self.block(at);
            at.is_multiple_of(self.block_bytes)
                && at < self.total
                && bytes == block.end - block.start
        };
        let there = staged.iter().filter_map(|block| {
            let id = BlockId::parse(&block.id).filter(|id| *id == self.id(id.at))?;
            is_whole(id.at, block.bytes).then_some((id.at, None))
        });
        there.collect()
    }
}

impl ContainerCopier {
    /// Opens the blob, with what is copied of it already; `None` where the blocks that wait may not be
    /// looked at, and so nothing can be checked.
    pub(super) async fn open(
        upload: Upload,
        made: &MadeOf<'_>,
        source: CopySource,
    ) -> Result<Option<OpenCopy>, BlobError> {
        let key = UploadKey::of_copy(made);
        let blocks = Layout { key, total: made.bytes, block_bytes: made.block_bytes };
        let Some(staged) = upload.staged_if_allowed().await? else { return Ok(None) };
        let copied = if source.needs_crc64 { BTreeMap::new() } else { blocks.there(&staged) };
        let missing = blocks.begins().filter(|at| !copied.contains_key(at));
        let missing = missing.map(|at| blocks.block(at)).collect();
        let copier = Box::new(Self { upload, source, blocks, copied: Mutex::new(copied) });
        Ok(Some(OpenCopy { copier, missing }))
    }

    fn copied(&self) -> MutexGuard<'_, BTreeMap<u64, Option<u64>>> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobCopier for ContainerCopier {
    fn copy(&self, at: u64) -> BoxFuture<'_, Result<(), NotCopied>> {
        async move {
            let (id, block) = (self.blocks.id(at), self.blocks.block(at));
            let crc64 = self.upload.stage_from(id, &self.source, block).await?;
            self.copied().insert(at, crc64);
            Ok(())
        }
        .boxed()
    }

    fn is_whole(&self) -> BoxFuture<'_, Result<bool, BlobError>> {
        async move {
            let staged = self.upload.staged_if_allowed().await?.unwrap_or_default();
            let there = self.blocks.there(&staged);
            Ok(self.blocks.begins().all(|at| there.contains_key(&at)))
        }
        .boxed()
    }

    fn crc64(&self) -> Option<u64> {
        let copied = self.copied();
        self.blocks.begins().try_fold(crc64(&[]), |sum, at| {
            let block = self.blocks.block(at);
            Some(joined_crc64(sum, (*copied.get(&at)?)?, block.end - block.start))
        })
    }

    fn commit(self: Box<Self>, commit: Commit) -> BoxFuture<'static, Result<(), BlobError>> {
        async move {
            let Self { upload, blocks, copied, .. } = *self;
            let copied = copied.into_inner().unwrap_or_else(PoisonError::into_inner);
            if !blocks.begins().all(|at| copied.contains_key(&at)) {
                return Err(out_of_place(&upload.name, blocks.total));
            }
            let ids = blocks.begins().map(|at| blocks.id(at)).collect();
            upload.commit(Content::Blocks(ids), &commit).await
        }
        .boxed()
    }
}
