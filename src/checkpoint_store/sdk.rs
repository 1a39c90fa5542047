//! Checkpoints in a store that was written for the `CheckpointStore` trait of the Azure SDK, if you have one.
//! **Unfenced**: that trait writes without a condition, and keeps only an offset and a sequence number.
//!
//! Within one process it is a compare-and-swap register like any other. It has a lock for each key. In addition to
//! what the store of the SDK holds, it remembers the checkpoint that was last written or read, with its version. A
//! stored value that another program changed has a new version.
//!
//! What that costs, compared with the other stores:
//!
//! - Another process may write between the comparison and the write. So an owner that lost its partition can still
//!   move the checkpoint of its successor, even backwards, and events are handled again.
//! - After a restart, the events that were settled above the watermark are not known, and are handled again.
//! - The incarnation of the hub is not known either. A hub that was created anew is noticed only if its log is
//!   shorter than the position.
//! - Lease epochs, resets and takeovers are not known either. A running worker does not notice the claim of
//!   another worker, or a reset, until it finds another position stored.
//! - If another program writes exactly the same position, that is not noticed.
//! - Names are passed on as they are spelled. Whether their case matters depends on the store of the SDK; what
//!   this process remembers of them does not depend on their case.
//!
//! Every call lists the checkpoints of the consumer group, because the trait has no smaller read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError};

use azure_core::error::ErrorKind;
use azure_messaging_eventhubs::CheckpointStore as SdkStore;
use azure_messaging_eventhubs::models::Checkpoint as SdkCheckpoint;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, Listed, StoreError,
    StoredCheckpoint, VersionToken, foreign,
};
use crate::error::{Error, ErrorClass, error_chain};
use crate::event::{Partition, PartitionId};
use crate::secret::without_signatures;

const LOAD: &str = "load the checkpoint";
const STORE: &str = "store the checkpoint";
const LIST: &str = "list the checkpoints";

/// A [`CheckpointStore`] over one of the SDK's trait. See the [module](self).
pub struct SdkCheckpointStore {
    inner: Arc<dyn SdkStore>,
    /// A lock for each key seen: as many as there are partitions.
    keys: std::sync::Mutex<BTreeMap<CheckpointKey, Arc<Mutex<Known>>>>,
}

impl fmt::Debug for SdkCheckpointStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SdkCheckpointStore").finish_non_exhaustive()
    }
}

/// What the SDK's store holds of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Raw {
    offset: Option<String>,
    sequence_number: Option<i64>,
}

/// What is known of one key.
#[derive(Default)]
struct Known {
    /// Counts the states that were seen; none comes back.
    version: u64,
    current: Option<State>,
    /// A write of which the answer is not known.
    pending: Option<State>,
}

/// A stored value, and the checkpoint that it is a part of.
struct State {
    raw: Raw,
    checkpoint: Checkpoint,
}

impl Known {
    /// Takes in what the store holds.
    ///
    /// # Errors
    /// If it is no position.
    fn on_found(&mut self, found: Option<Raw>) -> Result<(), String> {
        if found.as_ref() == self.raw() {
            return Ok(());
        }
        let is_found = |state: &mut State| Some(&state.raw) == found.as_ref();
        self.current = match (self.pending.take_if(is_found), found) {
            (Some(ours), _) => Some(ours),
            (None, Some(raw)) => {
                let watermark = foreign::read(raw.offset.as_deref(), raw.sequence_number)?;
                Some(State { raw, checkpoint: Checkpoint { watermark, ..Checkpoint::default() } })
            }
            (None, None) => None,
        };
        self.version += 1;
        Ok(())
    }

    /// The pending write was made.
    fn on_written(&mut self) -> VersionToken {
        self.current = self.pending.take();
        self.version += 1;
        self.token()
    }

    fn raw(&self) -> Option<&Raw> {
        self.current.as_ref().map(|state| &state.raw)
    }

    fn token(&self) -> VersionToken {
        VersionToken(self.version.to_string())
    }

    fn stored(&self) -> Option<StoredCheckpoint> {
        let state = self.current.as_ref()?;
        Some(StoredCheckpoint { checkpoint: state.checkpoint.clone(), version: self.token() })
    }
}

impl SdkCheckpointStore {
    /// A store over one of the SDK's trait, which this process alone should use for a consumer
    /// group while its workers run.
    pub fn new(inner: Arc<dyn SdkStore>) -> Self {
        Self { inner, keys: std::sync::Mutex::default() }
    }

    async fn lock(&self, key: &CheckpointKey) -> OwnedMutexGuard<Known> {
        let known = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.entry(key.clone()).or_default().clone()
        };
        known.lock_owned().await
    }

    async fn read_all(
        &self,
        operation: &'static str,
        scope: &CheckpointScope,
    ) -> Result<BTreeMap<PartitionId, Raw>, Error> {
        let (entity, group) = (scope.entity.as_str(), scope.consumer_group.as_str());
        let listed = self.inner.list_checkpoints(&scope.namespace, entity, group).await;
        let listed = listed.map_err(|error| failed(operation, error))?;
        let raw = |found: SdkCheckpoint| {
            let raw = Raw { offset: found.offset, sequence_number: found.sequence_number };
            (PartitionId::from(found.partition_id), raw)
        };
        Ok(listed.into_iter().map(raw).collect())
    }

    async fn refresh(
        &self,
        operation: &'static str,
        key: &CheckpointKey,
        known: &mut Known,
    ) -> Result<(), Error> {
        let found = self.read_all(operation, &key.scope).await?.remove(&key.partition);
        known.on_found(found).map_err(|fault| {
            let message = format!("the stored value is not a checkpoint: {fault}");
            Error::new(ErrorClass::BadData, operation, message).with_partition(&partition(key))
        })
    }

    async fn load_one(&self, key: &CheckpointKey) -> Result<Option<StoredCheckpoint>, Error> {
        let mut known = self.lock(key).await;
        self.refresh(LOAD, key, &mut known).await?;
        Ok(known.stored())
    }

    async fn compare_and_swap(
        &self,
        key: &CheckpointKey,
        checkpoint: &Checkpoint,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let mut known = self.lock(key).await;
        self.refresh(STORE, key, &mut known).await?;
        if !expected.is_met_by(known.stored().map(|stored| stored.version).as_ref()) {
            return Err(StoreError::Conflict);
        }
        self.write(key, checkpoint, &mut known).await
    }

    async fn overwrite(
        &self,
        key: &CheckpointKey,
        checkpoint: &Checkpoint,
    ) -> Result<VersionToken, StoreError> {
        let mut known = self.lock(key).await;
        match self.refresh(STORE, key, &mut known).await {
            Err(error) if error.class() == ErrorClass::BadData => {
                self.write(key, checkpoint, &mut known).await
            }
            Err(error) => Err(error.into()),
            Ok(()) => Err(StoreError::Conflict),
        }
    }

    async fn write(
        &self,
        key: &CheckpointKey,
        checkpoint: &Checkpoint,
        known: &mut Known,
    ) -> Result<VersionToken, StoreError> {
        let (offset, number) = foreign::written(checkpoint.watermark.as_ref());
        let offset = Some(offset).filter(|offset| !offset.is_empty());
        let raw = Raw { offset: offset.clone(), sequence_number: Some(number) };
        known.pending = Some(State { raw, checkpoint: checkpoint.clone() });
        let update = SdkCheckpoint {
            fully_qualified_namespace: key.scope.namespace.clone(),
            event_hub_name: key.scope.entity.to_string(),
            consumer_group: key.scope.consumer_group.to_string(),
            partition_id: key.partition.to_string(),
            offset,
            sequence_number: Some(number),
        };
        let updated = self.inner.update_checkpoint(update).await;
        updated.map_err(|error| failed(STORE, error).with_partition(&partition(key)))?;
        Ok(known.on_written())
    }

    async fn list_all(&self, scope: &CheckpointScope) -> Result<Vec<Listed>, Error> {
        let mut found = self.read_all(LIST, scope).await?;
        let partitions: BTreeSet<PartitionId> = {
            let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let known = keys.keys().filter(|key| key.scope == *scope);
            known.map(|key| key.partition.clone()).chain(found.keys().cloned()).collect()
        };
        let mut listed = Vec::new();
        for partition in partitions {
            let key = CheckpointKey { scope: scope.clone(), partition };
            let mut known = self.lock(&key).await;
            // What was written meanwhile is newer than the listing.
            let refreshed = if found.remove(&key.partition).as_ref() == known.raw() {
                Ok(())
            } else {
                self.refresh(LIST, &key, &mut known).await
            };
            match refreshed {
                Ok(()) => listed.extend(known.stored().map(|stored| (key.partition, Ok(stored)))),
                Err(error) => listed.push((key.partition, Err(error))),
            }
        }
        Ok(listed)
    }
}

impl CheckpointStore for SdkCheckpointStore {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        self.load_one(key).boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        self.compare_and_swap(key, checkpoint, expected).boxed()
    }

    fn overwrite_unreadable<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        self.overwrite(key, checkpoint).boxed()
    }

    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
        self.list_all(scope).boxed()
    }
}

fn partition(key: &CheckpointKey) -> Partition {
    Partition::new(key.scope.entity.clone(), key.partition.clone())
}

/// The causes are kept as text: a store that a shared access signature opens has it in them.
fn failed(operation: &'static str, error: azure_core::Error) -> Error {
    let class = class_of(error.kind());
    let causes: Vec<_> = error_chain(&error).iter().map(|text| without_signatures(text)).collect();
    Error::new(class, operation, "the SDK's store failed").with_source(causes.join(": "))
}

/// What is not known is tried again, with an alert: what a store of one's own says is its own.
fn class_of(kind: &ErrorKind) -> ErrorClass {
    match kind {
        ErrorKind::Connection | ErrorKind::Io => ErrorClass::Transient,
        ErrorKind::Credential => ErrorClass::Auth,
        ErrorKind::HttpResponse { status, .. } => match u16::from(*status) {
            401 | 403 => ErrorClass::Auth,
            429 | 503 => ErrorClass::Throttling,
            408 | 500..=599 => ErrorClass::Transient,
            300..=499 => ErrorClass::Permanent,
            _ => ErrorClass::Unknown,
        },
        _ => ErrorClass::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use azure_core::http::StatusCode;

    use super::*;

    #[test]
    fn each_failure_has_its_class() {
        let answered = |status: u16| ErrorKind::HttpResponse {
            status: StatusCode::from(status),
            error_code: None,
            raw_response: None,
        };
        for (kind, class) in [
            (ErrorKind::Io, ErrorClass::Transient),
            (ErrorKind::Connection, ErrorClass::Transient),
            (ErrorKind::Credential, ErrorClass::Auth),
            (ErrorKind::Other, ErrorClass::Unknown),
            (ErrorKind::DataConversion, ErrorClass::Unknown),
            (answered(403), ErrorClass::Auth),
            (answered(404), ErrorClass::Permanent),
            (answered(500), ErrorClass::Transient),
            (answered(503), ErrorClass::Throttling),
        ] {
            assert_eq!(class_of(&kind), class, "{kind:?}");
        }
    }
}
