//! The blocks of a blob that are on their way to the service.
//!
//! A commit ends all blocks of its blob that came before it, and one that comes behind it stays for a week. So
//! whoever throws a blob away waits for its blocks: the next attempt's commit is to come behind them.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::block_id::BlockId;
use super::upload::Upload;
use crate::blob_store::{BlobError, BlobName};

/// How long blocks on their way are waited for where the blob is thrown away: what is tried again and again
/// may take longer, and is given up.
const LAND_TIMEOUT: Duration = Duration::from_secs(10);

/// See the [module](self). Dropped, it gives up what is on its way, which may land all the same.
#[derive(Default)]
pub(super) struct Staging(JoinSet<Result<(), BlobError>>);

impl Staging {
    /// Sends a block, beside what else is done.
    pub(super) fn send(&mut self, upload: &Upload, id: BlockId, block: Bytes) {
        let upload = upload.clone();
        self.0.spawn(async move { upload.stage(id, block).await });
    }

    /// What is known by now of those that were sent.
    ///
    /// # Errors
    /// One of them could not be staged.
    pub(super) fn check(&mut self, name: &BlobName) -> Result<(), BlobError> {
        while let Some(staged) = self.0.try_join_next() {
            joined(staged, name)?;
        }
        Ok(())
    }

    /// Waits until all that were sent are staged.
    ///
    /// # Errors
    /// One of them could not be; none is on its way any more.
    pub(super) async fn all(&mut self, name: &BlobName) -> Result<(), BlobError> {
        let mut all = Ok(());
        while let Some(staged) = self.0.join_next().await {
            all = all.and(joined(staged, name));
        }
        all
    }

    /// Waits until none is on its way, however they ended, but not for longer than this.
    pub(super) async fn landed_within(mut self, most: Duration) {
        let landed = async { while self.0.join_next().await.is_some() {} };
        let _ = timeout(most, landed).await;
    }

    /// The blob is thrown away.
    pub(super) async fn landed(self) {
        self.landed_within(LAND_TIMEOUT).await;
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How a block was sent.
fn joined(
    staged: Result<Result<(), BlobError>, JoinError>,
    name: &BlobName,
) -> Result<(), BlobError> {
    staged.unwrap_or_else(|gone| {
        let source = io::Error::other(gone);
        Err(BlobError::Transient { operation: "write", name: name.to_string(), source })
    })
}
