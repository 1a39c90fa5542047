//! A blob whose bytes come in their order: put as a whole where it is short, else block by block, each of
//! which is sent while the next one comes.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::block_id::{BlockId, UploadKey};
use super::memory::Buffer;
use super::staging::Staging;
use super::upload::{Content, Upload};
use super::{MOST_BLOCKS, Memory};
use crate::blob_store::sums::crc64;
use crate::blob_store::{BlobError, BlobWriter, Commit};

pub(super) struct InOrderWriter {
    upload: Upload,
    key: UploadKey,
    memory: Arc<Memory>,
    block_bytes: usize,
    /// What fits where the whole blob is shorter than a block.
    first_bytes: usize,
    buffer: Option<Buffer>,
    /// The sums of the blocks before the one that comes, in order.
    crc64s: Vec<u64>,
    staging: Staging,
}

impl InOrderWriter {
    /// A blob of so many bytes, if that is known.
    pub(super) fn new(
        upload: Upload,
        memory: Arc<Memory>,
        block_bytes: u64,
        size_hint_bytes: Option<u64>,
    ) -> Self {
        let of = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let first_bytes = size_hint_bytes.unwrap_or(block_bytes).clamp(1, block_bytes);
        Self {
            upload,
            key: UploadKey::random(),
            memory,
            block_bytes: of(block_bytes),
            first_bytes: of(first_bytes),
            buffer: None,
            crc64s: Vec::new(),
            staging: Staging::default(),
        }
    }

    async fn add(&mut self, mut part: Bytes) -> Result<(), BlobError> {
        while !part.is_empty() {
            let mut buffer = match self.buffer.take() {
                Some(full) if full.room() == 0 => {
                    self.stage(full)?;
                    self.memory.buffer(self.block_bytes).await
                }
                Some(buffer) => buffer,
                None => self.memory.buffer(self.first_bytes).await,
            };
            buffer.fill(&mut part);
            self.buffer = Some(buffer);
            self.staging.check(&self.upload.name)?;
        }
        Ok(())
    }

    /// The id of a block. All but the first and the last one have one length.
    fn id(&self, number: usize, crc64: u64) -> BlockId {
        let before = number.checked_sub(1);
        let at = before.map_or(0, |before| self.first_bytes + before * self.block_bytes) as u64;
        BlockId { upload: self.key, at, crc64, sha256_state: [0; 32] }
    }

    /// Sends a block, beside what comes.
    fn stage(&mut self, block: Buffer) -> Result<(), BlobError> {
        if self.crc64s.len() >= MOST_BLOCKS {
            return Err(BlobError::Refused {
                name: self.upload.name.to_string(),
                reason: format!(
                    "it has more than {MOST_BLOCKS} blocks of {} bytes; a source that says its length \
                     is written in longer ones",
                    self.block_bytes
                ),
                source: None,
            });
        }
        let (bytes, crc64) = block.freeze();
        let id = self.id(self.crc64s.len(), crc64);
        self.crc64s.push(crc64);
        self.staging.send(&self.upload, id, bytes);
        Ok(())
    }
}

impl BlobWriter for InOrderWriter {
    fn write(&mut self, part: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        self.add(part).boxed()
    }

    fn commit(mut self: Box<Self>, commit: Commit) -> BoxFuture<'static, Result<(), BlobError>> {
        async move {
            let last = self.buffer.take();
            if self.crc64s.is_empty() {
                let nothing = || (Bytes::new(), crc64(&[]));
                let (bytes, crc64) = last.map_or_else(nothing, Buffer::freeze);
                return self.upload.commit(Content::Whole(bytes, crc64), &commit).await;
            }
            if let Some(last) = last {
                self.stage(last)?;
            }
            self.staging.all(&self.upload.name).await?;
            let ids = self.crc64s.iter().enumerate().map(|(number, crc64)| self.id(number, *crc64));
            let blocks = Content::blocks(ids, self.crc64s.len());
            self.upload.commit(blocks, &commit).await
        }
        .boxed()
    }

    /// Blocks that are staged are part of nothing; the commit of a later attempt ends them, or the service
    /// does after a week.
    fn abort(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            self.buffer = None;
            self.staging.landed().await;
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::blob_container::{CONTENT_REQUEST_TIMEOUT, Container};
    use crate::blob_store::BlobName;
    use crate::blob_store::container::upload::Target;
    use crate::secret::Secret;

    #[tokio::test]
    async fn more_blocks_than_the_service_takes_are_refused_before_the_next_is_sent() {
        let url = Secret::new("http://127.0.0.1:1/account/container?sig=x");
        let container = Container::with_signature(&url, CONTENT_REQUEST_TIMEOUT).expect("valid");
        let (is_blind, is_away) = (AtomicBool::new(false), AtomicBool::new(false));
        let target = Arc::new(Target { container, is_blind, is_away });
        let upload = Upload { target, name: BlobName("a".to_owned()) };
        let mut writer = InOrderWriter::new(upload, Memory::new(1 << 20), 1 << 10, None);
        writer.crc64s = vec![0; MOST_BLOCKS];
        writer.write(Bytes::from(vec![0; 1 << 10])).await.expect("it fits");
        let refused = writer.write(Bytes::from_static(b"x")).await.expect_err("too many");
        assert!(matches!(refused, BlobError::Refused { .. }), "{refused:?}");
        let refused = refused.to_string();
        assert!(refused.contains("more than 50000 blocks of 1024 bytes; a source"), "{refused}");
        assert!(writer.staging.is_empty());
    }
}
