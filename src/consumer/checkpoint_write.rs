//! One attempt to write a checkpoint, bounded in time.

use std::time::Duration;

use tokio::time::timeout;

use crate::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointStore, Expected, StoreError, StoredCheckpoint,
    VersionToken,
};
use crate::error::{Error, ErrorClass};

/// What one attempt to write a checkpoint came to.
#[derive(Debug)]
pub(super) enum Written {
    Stored(VersionToken),
    /// The store holds this instead of what was expected.
    Conflict(Option<StoredCheckpoint>),
    Failed(Error),
}

/// Makes one attempt to write, and reads what is there where the compare failed.
pub(super) async fn write_once(
    store: &dyn CheckpointStore,
    key: &CheckpointKey,
    checkpoint: &Checkpoint,
    expected: &Expected,
    limit: Duration,
) -> Written {
    let attempt = async {
        match store.store(key, checkpoint, expected).await {
            Ok(version) => Written::Stored(version),
            Err(StoreError::Conflict) => match store.load(key).await {
                Ok(found) => Written::Conflict(found),
                Err(error) => Written::Failed(error),
            },
            Err(StoreError::Failed(error)) => Written::Failed(error),
        }
    };
    timeout(limit, attempt)
        .await
        .unwrap_or_else(|_elapsed| Written::Failed(too_slow("write the checkpoint", limit)))
}

/// Why a call of a store is given up.
pub(super) fn too_slow(operation: &'static str, limit: Duration) -> Error {
    Error::new(ErrorClass::Transient, operation, format!("no answer within {limit:?}"))
}
