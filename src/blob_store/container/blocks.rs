//! A blob whose blocks come in any order: each is sent when it is whole, or, if the hash of the blob
//! is asked for, when everything before it is hashed. The state of a SHA-256 is in the ids of the blocks; that
//! of an MD5 is nowhere, so it is known only where all blocks come in one go.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use md5::{Digest as _, Md5};
use tracing::warn;

use super::block_id::{BlockId, UploadKey};
use super::memory::{Buffer, Memory};
use super::out_of_place;
use super::sent::{Sent, SentBlock};
use super::sha256::KeptSha256;
use super::staging::Staging;
use super::upload::{Content, Upload};
use crate::blob_container::content::Staged;
use crate::blob_store::sums::{crc64, joined_crc64};
use crate::blob_store::{AskedMd5, BlobError, BlockWriter, Commit, MadeOf, OpenBlocks, Sums};
use crate::error::error_chain;

/// How long blocks on their way are waited for where the blob is left as it is: shorter than a hand-off
/// should take.
const KEEP_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct ContainerBlockWriter {
    upload: Upload,
    key: UploadKey,
    memory: Arc<Memory>,
    total: u64,
    block_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Blocks that come, or wait to be hashed, by where they begin.
    here: BTreeMap<u64, Buffer>,
    /// Blocks that are on their way or staged.
    sent: Sent,
    /// The hash of what is before `hashed`, if it is asked for.
    sha256: Option<KeptSha256>,
    /// The MD5 of the same bytes.
    md5: Option<Md5>,
    hashed: u64,
    staging: Staging,
}

/// What is staged of an upload already.
#[derive(Default)]
struct There {
    ids: BTreeMap<u64, BlockId>,
    sha256: Option<KeptSha256>,
    hashed: u64,
}

impl ContainerBlockWriter {
    /// Opens the blob, with what is staged of it already.
    pub(super) async fn open(
        upload: Upload,
        memory: Arc<Memory>,
        made: &MadeOf<'_>,
    ) -> Result<OpenBlocks, BlobError> {
        let key = UploadKey::of(made);
        let staged = match made.md5 {
            AskedMd5::Always => Vec::new(),
            AskedMd5::No | AskedMd5::OfNewBlobs => upload.staged().await?,
        };
        let There { ids, sha256, hashed } = There::of(staged, key, made);
        let md5 = (made.md5 != AskedMd5::No && ids.is_empty()).then(Md5::new);
        let length = |at: u64| made.block_bytes.min(made.bytes - at);
        let there = ids.keys().map(|at| *at..*at + length(*at)).collect();
        let mut sent = Sent::default();
        for BlockId { at, crc64, sha256_state, .. } in ids.into_values() {
            sent.insert(SentBlock { number: number(at, made.block_bytes), crc64, sha256_state });
        }
        let state = Mutex::new(State { sent, sha256, md5, hashed, ..State::default() });
        let (total, block_bytes) = (made.bytes, made.block_bytes);
        let writer = Box::new(Self { upload, key, memory, total, block_bytes, state });
        Ok(OpenBlocks { writer, there })
    }

    /// What is on its way; the memory of what is not sent is given back.
    fn into_staging(self) -> Staging {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).staging
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block of a byte.
    fn block(&self, at: u64) -> Range<u64> {
        let begin = at - at % self.block_bytes;
        begin..(begin + self.block_bytes).min(self.total)
    }

    /// Where a block begins.
    fn at(&self, number: usize) -> u64 {
        number as u64 * self.block_bytes
    }

    fn length(&self, at: u64) -> usize {
        let block = self.block(at);
        usize::try_from(block.end - block.start).unwrap_or(usize::MAX)
    }

    fn write(&self, at: u64, parts: Vec<Bytes>) -> Result<(), BlobError> {
        let begin = self.block(at).start;
        let mut state = self.state();
        let buffer = state.here.get_mut(&begin);
        let Some(buffer) = buffer.filter(|buffer| begin + buffer.bytes().len() as u64 == at) else {
            return Err(out_of_place(&self.upload.name, at));
        };
        for mut part in parts {
            buffer.fill(&mut part);
            if !part.is_empty() {
                return Err(out_of_place(&self.upload.name, at));
            }
        }
        if buffer.room() == 0 && !state.is_hashed() {
            self.send(&mut state, begin, [0; 32]);
        }
        state.staging.check(&self.upload.name)
    }

    /// Sends a block that is whole.
    fn send(&self, state: &mut State, at: u64, sha256_state: [u8; 32]) {
        let Some(block) = state.here.remove(&at) else { return };
        let (bytes, crc64) = block.freeze();
        let id = BlockId { upload: self.key, at, crc64, sha256_state };
        let number = number(at, self.block_bytes);
        state.sent.insert(SentBlock { number, crc64, sha256_state });
        state.staging.send(&self.upload, id, bytes);
    }

    /// Hashes what is here up to a byte, and sends the blocks that are hashed to their end.
    fn hash_to(&self, frontier: u64) -> Result<(), BlobError> {
        let mut state = self.state();
        let state = &mut *state;
        while state.is_hashed() && state.hashed < frontier {
            let block = self.block(state.hashed);
            let from = usize::try_from(state.hashed - block.start).unwrap_or(usize::MAX);
            let to = usize::try_from(frontier.min(block.end) - block.start).unwrap_or(usize::MAX);
            let bytes = state.here.get(&block.start).and_then(|here| here.bytes().get(from..to));
            let Some(bytes) = bytes else {
                return Err(out_of_place(&self.upload.name, state.hashed));
            };
            if let Some(sha256) = &mut state.sha256 {
                sha256.update(bytes);
            }
            if let Some(md5) = &mut state.md5 {
                md5.update(bytes);
            }
            state.hashed = frontier.min(block.end);
            if state.hashed == block.end {
                // The last block may end within a step: nothing follows it.
                let kept = state.sha256.as_ref().and_then(KeptSha256::state).unwrap_or_default();
                self.send(state, block.start, kept);
            }
        }
        state.staging.check(&self.upload.name)
    }
}

impl State {
    /// Whether a block waits until what is before it is hashed.
    fn is_hashed(&self) -> bool {
        self.sha256.is_some() || self.md5.is_some()
    }
}

/// The number of the block that begins here.
fn number(at: u64, block_bytes: u64) -> usize {
    usize::try_from(at / block_bytes).unwrap_or(usize::MAX)
}

/// What says of an upload that its blocks are of no use: a block at a place that no blob has.
fn rejection(key: UploadKey) -> (BlockId, Bytes) {
    let block = Bytes::from_static(b"x");
    let id = BlockId { upload: key, at: u64::MAX, crc64: crc64(&block), sha256_state: [0; 32] };
    (id, block)
}

impl There {
    /// What of the staged blocks is of this upload.
    fn of(staged: Vec<Staged>, key: UploadKey, made: &MadeOf<'_>) -> Self {
        let rejected = rejection(key).0.to_bytes();
        let staged =
            if staged.iter().any(|block| block.id == rejected) { Vec::new() } else { staged };
        let mut ids: BTreeMap<u64, Option<BlockId>> = BTreeMap::new();
        for Staged { id, bytes } in staged {
            let Some(id) = BlockId::parse(&id).filter(|id| id.upload == key) else { continue };
            let fits = id.at % made.block_bytes == 0
                && id.at < made.bytes
                && bytes == made.block_bytes.min(made.bytes - id.at);
            if fits {
                // Of two with different bytes nobody knows which is right.
                ids.entry(id.at)
                    .and_modify(|known| *known = known.filter(|is| *is == id))
                    .or_insert(Some(id));
            }
        }
        let mut ids: BTreeMap<u64, BlockId> =
            ids.into_iter().filter_map(|(at, id)| Some((at, id?))).collect();
        if !made.with_sha256 {
            return Self { ids, ..Self::default() };
        }
        // The hash goes on behind the last block that everything is there before.
        let (mut sha256, mut hashed) = (KeptSha256::default(), 0);
        while let Some(id) = ids.get(&hashed) {
            let end = made.bytes.min(hashed + made.block_bytes);
            let Some(resumed) = KeptSha256::resume(id.sha256_state, end) else { break };
            (sha256, hashed) = (resumed, end);
        }
        ids.retain(|at, _| *at < hashed);
        Self { ids, sha256: Some(sha256), hashed }
    }
}

impl BlockWriter for ContainerBlockWriter {
    fn reserve(&self, at: u64) -> BoxFuture<'_, ()> {
        let begin = self.block(at).start;
        async move {
            if self.state().here.contains_key(&begin) {
                return;
            }
            let buffer = self.memory.buffer(self.length(begin)).await;
            self.state().here.entry(begin).or_insert(buffer);
        }
        .boxed()
    }

    fn try_reserve(&self, at: u64) -> bool {
        let begin = self.block(at).start;
        let mut state = self.state();
        if state.here.contains_key(&begin) {
            return true;
        }
        let buffer = self.memory.try_buffer(self.length(begin));
        buffer.is_some_and(|buffer| state.here.insert(begin, buffer).is_none())
    }

    /// A write only copies: done at once, it finds the bytes in the cache, and what they came in is free
    /// for the next ones.
    fn write_bytes(&self) -> u64 {
        1
    }

    fn write_at(&self, at: u64, parts: Vec<Bytes>) -> BoxFuture<'_, Result<(), BlobError>> {
        async move { self.write(at, parts) }.boxed()
    }

    fn on_written_to(&self, frontier: u64) -> BoxFuture<'_, Result<(), BlobError>> {
        async move { self.hash_to(frontier) }.boxed()
    }

    fn sums(&self) -> Sums {
        let state = self.state();
        let crc64 = state.sent.blocks().fold(crc64(&[]), |sum, block| {
            joined_crc64(sum, block.crc64, self.length(self.at(block.number)) as u64)
        });
        let md5 = state.md5.clone().map(|md5| md5.finalize().into());
        Sums::new(Some(crc64), state.sha256.as_ref().map(KeptSha256::finalize)).with_md5(md5)
    }

    fn commit(self: Box<Self>, commit: Commit) -> BoxFuture<'static, Result<(), BlobError>> {
        async move {
            let mut state = std::mem::take(&mut *self.state());
            state.staging.all(&self.upload.name).await?;
            if state.sent.count() as u64 != self.total.div_ceil(self.block_bytes) {
                return Err(out_of_place(&self.upload.name, self.total));
            }
            let ids = state.sent.blocks().map(|SentBlock { number, crc64, sha256_state }| {
                BlockId { upload: self.key, at: self.at(number), crc64, sha256_state }
            });
            let blocks = Content::blocks(ids, state.sent.count());
            drop(state);
            self.upload.commit(blocks, &commit).await
        }
        .boxed()
    }

    fn keep(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            // What is not staged by then is fetched again.
            self.into_staging().landed_within(KEEP_TIMEOUT).await;
        }
        .boxed()
    }

    /// A block of another place stays beside the others, and says that they are of no use.
    fn reject(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            let (upload, (id, block)) = (self.upload.clone(), rejection(self.key));
            self.into_staging().landed().await;
            if let Err(error) = upload.stage(id, block).await {
                warn!(
                    causes = ?error_chain(&error),
                    "blocks of {} are wrong, and may be taken for right: they could not be marked",
                    upload.name
                );
            }
        }
        .boxed()
    }

    /// What is staged stays for a week, and is looked for again where the same is made once more.
    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move { self.into_staging().landed().await }.boxed()
    }
}
