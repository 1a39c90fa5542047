//! A blob that the service copies from a URL, block by block (Put Block From URL).
//!
//! The ids of its blocks are those of an upload of its own: the sum of a block is known only behind its
//! copy, so it is not in the id, and a later run takes what is staged by its length and the version of the
//! source. Nothing is visible before all blocks are listed, each as long as it must be.
//!
//! Who stops midway notes the sums that it knows: in ids of blocks that are part of nothing, for staged blocks
//! cannot be read back ([`Layout::notes`]). The commit ends them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::time::timeout;
use tracing::debug;

use super::block_id::{BlockId, UploadKey};
use super::out_of_place;
use super::upload::{Content, Upload};
use crate::blob_container::content::Staged;
use crate::blob_store::sums::{crc64, joined_crc64};
use crate::blob_store::{BlobCopier, BlobError, Commit, CopySource, MadeOf, NotCopied, OpenCopy};
use crate::error::error_chain;

/// Sums in one note.
const NOTED_SUMS: usize = 4;

/// The bytes of a note, which nobody reads.
const NOTE: &[u8] = b"x";

/// How long notes may take, for all that the blob has: the next owner waits.
const NOTES_TIMEOUT: Duration = Duration::from_millis(500);

/// Notes that are sent at once.
const NOTES_AT_ONCE: usize = 16;

/// Where the sums of no more than one in so many blocks are missing, these are copied once more.
const FEW: usize = 20;

/// Blocks that are copied, by where they begin, and their sums, if they are known.
type Copied = BTreeMap<u64, Option<u64>>;

pub(super) struct ContainerCopier {
    upload: Upload,
    source: CopySource,
    blocks: Layout,
    copied: Mutex<Copied>,
    /// What others have noted.
    noted: HashSet<BlockId>,
}

/// The blocks of a blob.
#[derive(Clone, Copy)]
struct Layout {
    key: UploadKey,
    /// Of the notes.
    notes_key: UploadKey,
    total: u64,
    block_bytes: u64,
}

impl Layout {
    fn of(made: &MadeOf<'_>) -> Self {
        Self {
            key: UploadKey::of_copy(made),
            notes_key: UploadKey::of_notes(made),
            total: made.bytes,
            block_bytes: made.block_bytes,
        }
    }

    /// The block that begins here.
    fn block(self, at: u64) -> Range<u64> {
        at..at.saturating_add(self.block_bytes).min(self.total)
    }

    fn count(self) -> u64 {
        self.total.div_ceil(self.block_bytes)
    }

    fn begins(self) -> impl Iterator<Item = u64> {
        (0..self.count()).map(move |block| block * self.block_bytes)
    }

    fn id(self, at: u64) -> BlockId {
        BlockId { upload: self.key, at, crc64: 0, sha256_state: [0; 32] }
    }

    /// Which of the staged blocks are of this blob and as long as they must be, by where they begin, with
    /// their sums where somebody noted them.
    fn there(self, staged: &[Staged]) -> Copied {
        let is_whole = |at: u64, bytes: u64| {
            let block = self.block(at);
            at.is_multiple_of(self.block_bytes)
                && at < self.total
                && bytes == block.end - block.start
        };
        let sums = self.noted(staged);
        let there = staged.iter().filter_map(|block| {
            let id = BlockId::parse(&block.id).filter(|id| *id == self.id(id.at))?;
            is_whole(id.at, block.bytes).then(|| (id.at, sums.get(&id.at).copied().flatten()))
        });
        there.collect()
    }

    /// What is noted of sums; `None` if notes differ.
    fn noted(self, staged: &[Staged]) -> Copied {
        let mut sums = Copied::new();
        let notes = staged.iter().filter_map(|block| BlockId::parse(&block.id));
        for note in notes.filter(|id| id.upload == self.notes_key) {
            let (noted, _) = note.sha256_state.as_chunks();
            for (number, sum) in (0_u64..).zip(noted) {
                if note.crc64 & 1 << number == 0 {
                    continue;
                }
                let sum = u64::from_be_bytes(*sum);
                let at = note.at.saturating_add(number.saturating_mul(self.block_bytes));
                sums.entry(at)
                    .and_modify(|known| *known = known.filter(|known| *known == sum))
                    .or_insert(Some(sum));
            }
        }
        sums
    }

    /// Ids that say these sums: each of [`NOTED_SUMS`] blocks that follow one another, in the place of the
    /// state of a hash, and in that of a sum which of them are known.
    fn notes(self, copied: &Copied) -> Vec<BlockId> {
        let begins: Vec<u64> = self.begins().collect();
        let note = |group: &[u64]| {
            let (mut known, mut noted) = (0, [0; 32]);
            let (sums, _) = noted.as_chunks_mut();
            for (number, (at, place)) in group.iter().zip(sums).enumerate() {
                if let Some(Some(sum)) = copied.get(at) {
                    known |= 1 << number;
                    *place = sum.to_be_bytes();
                }
            }
            let at = *group.first()?;
            let note = BlockId { upload: self.notes_key, at, crc64: known, sha256_state: noted };
            (known != 0).then_some(note)
        };
        begins.chunks(NOTED_SUMS).filter_map(note).collect()
    }

    /// What of the blocks that are there is left as it is. The service tells the sum of a block only to who
    /// has it copied, so those without one are copied once more where the sum is needed, or where they are
    /// few.
    fn left(self, mut there: Copied, needs_crc64: bool) -> Copied {
        let without = there.values().filter(|sum| sum.is_none()).count();
        let are_few = (without as u64).saturating_mul(FEW as u64) <= self.count();
        if needs_crc64 || are_few {
            there.retain(|_, sum| sum.is_some());
        }
        there
    }
}

impl ContainerCopier {
    /// Opens the blob, with what is copied of it already; `None` if the blocks that wait may not be
    /// looked at, and so nothing can be checked.
    pub(super) async fn open(
        upload: Upload,
        made: &MadeOf<'_>,
        source: CopySource,
    ) -> Result<Option<OpenCopy>, BlobError> {
        let blocks = Layout::of(made);
        let Some(staged) = upload.staged_if_allowed().await? else { return Ok(None) };
        let copied = blocks.left(blocks.there(&staged), source.needs_crc64);
        let missing = blocks.begins().filter(|at| !copied.contains_key(at));
        let missing = missing.map(|at| blocks.block(at)).collect();
        let noted = staged.iter().filter_map(|block| BlockId::parse(&block.id)).collect();
        let copier = Box::new(Self { upload, source, blocks, copied: Mutex::new(copied), noted });
        Ok(Some(OpenCopy { copier, missing }))
    }

    fn copied(&self) -> MutexGuard<'_, Copied> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the sums that nobody has noted, as many as come in time.
    async fn note_sums(&self) {
        let notes = self.blocks.notes(&self.copied());
        let notes = notes.into_iter().filter(|note| !self.noted.contains(note));
        let noted = stream::iter(notes).for_each_concurrent(NOTES_AT_ONCE, |note| async move {
            let block = Bytes::from_static(NOTE);
            if let Err(error) = self.upload.stage_with(note, block, crc64(NOTE)).await {
                debug!(causes = ?error_chain(&error), "sums of {} are not noted", self.upload.name);
            }
        });
        let _ = timeout(NOTES_TIMEOUT, noted).await;
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
            if !blocks.begins().eq(copied.keys().copied()) {
                return Err(out_of_place(&upload.name, blocks.total));
            }
            let count = copied.len();
            let ids = copied.into_keys().map(|at| blocks.id(at));
            upload.commit(Content::blocks(ids, count), &commit).await
        }
        .boxed()
    }

    fn keep(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move { self.note_sums().await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(blocks: u64) -> Layout {
        // The last one is shorter.
        Layout::of(&MadeOf::new(&[1; 16], "v", blocks * 100 - 7, 100))
    }

    fn staged(id: BlockId, bytes: u64) -> Staged {
        Staged { id: id.to_bytes(), bytes }
    }

    /// All blocks but these have come, and all sums but those of every seventh are known.
    fn copied(blocks: Layout, missing: &[u64]) -> Copied {
        let there = blocks.begins().filter(|at| !missing.contains(at));
        there.map(|at| (at, (at % 700 != 0).then_some(at << 40 | 1))).collect()
    }

    #[test]
    fn what_is_noted_of_sums_is_known_to_whoever_comes() {
        let blocks = layout(30);
        let known = copied(blocks, &[300, 2_900]);
        let mut list: Vec<Staged> = blocks.notes(&known).iter().map(|id| staged(*id, 1)).collect();
        // Of the last two nothing is known.
        assert!(list.iter().all(|note| BlockId::parse(&note.id).is_some()) && list.len() == 7);
        list.extend(known.keys().map(|at| staged(blocks.id(*at), 100)));
        assert_eq!(blocks.there(&list), known);
        // What another one knows of the same blocks is added; what differs is not known.
        let (mut more, mut other) = (known.clone(), known.clone());
        more.insert(700, Some(5));
        other.insert(100, Some(6));
        list.extend(blocks.notes(&more).iter().map(|id| staged(*id, 1)));
        assert_eq!(blocks.there(&list), more);
        list.extend(blocks.notes(&other).iter().map(|id| staged(*id, 1)));
        more.insert(100, None);
        assert_eq!(blocks.there(&list), more);
        // Notes of another version are of another upload.
        let another = Layout::of(&MadeOf::new(&[1; 16], "w", blocks.total, 100));
        assert!(another.noted(&list).is_empty() && another.there(&list).is_empty());
    }

    #[test]
    fn blocks_without_a_sum_come_once_more_where_they_are_few_or_it_is_needed() {
        let with = |without: u64, of: u64| -> Copied {
            layout(of).begins().map(|at| (at, (at >= without * 100).then_some(at))).collect()
        };
        assert_eq!(layout(40).left(with(2, 40), false).len(), 38);
        assert_eq!(layout(40).left(with(3, 40), false).len(), 40);
        assert_eq!(layout(40).left(with(3, 40), true).len(), 37);
        assert_eq!(layout(40).left(with(0, 40), true).len(), 40);
    }
}
