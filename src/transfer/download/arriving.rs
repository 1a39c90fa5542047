//! A file on its way into the store: what of it is there, and its hash so far.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::blob_store::{BlobError, BlobName, BlobNote, BlobStore, BlobWriter};
use crate::state::fetch_plan::FetchPlan;

/// See the [module](self). Dropped, it leaves nothing behind.
#[derive(Default)]
pub(super) struct Arriving {
    pub(super) plan: FetchPlan,
    writer: Option<Box<dyn BlobWriter>>,
    hasher: Sha256,
}

impl Arriving {
    /// Throws away what is there, and opens the blob for the bytes that come.
    pub(super) async fn begin_anew(
        &mut self,
        store: &dyn BlobStore,
        name: &BlobName,
    ) -> Result<(), BlobError> {
        if let Some(before) = self.writer.take() {
            before.abort().await;
        }
        self.hasher = Sha256::new();
        self.writer = Some(store.open(name, self.plan.total()).await?);
        Ok(())
    }

    pub(super) async fn write(&mut self, part: Bytes) -> Result<(), BlobError> {
        self.hasher.update(&part);
        self.writer()?.write(part).await
    }

    /// Each body that begins has opened one.
    fn writer(&mut self) -> Result<&mut Box<dyn BlobWriter>, BlobError> {
        self.writer.as_mut().ok_or_else(not_open)
    }

    /// The hash of what was written.
    pub(super) fn sha256(&self) -> [u8; 32] {
        self.hasher.clone().finalize().into()
    }

    pub(super) async fn commit(self, note: BlobNote) -> Result<(), BlobError> {
        self.writer.ok_or_else(not_open)?.commit(Some(note)).await
    }

    pub(super) async fn abort(self) {
        if let Some(writer) = self.writer {
            writer.abort().await;
        }
    }
}

fn not_open() -> BlobError {
    BlobError::Unusable { reason: "no blob is open for what comes".to_owned(), source: None }
}
