//! Checkpoints in Azure Blob Storage, in the format of the other Azure SDKs and KEDA: an empty
//! block blob for each partition, whose metadata is the checkpoint.
//!
//! - A blob is created with `If-None-Match: *` and changed with `If-Match`, so every write is a compare-and-swap.
//!   The other SDKs write theirs without conditions.
//! - Paths are in lower case. If another SDK kept the case of its configuration, its blob is read as well, and
//!   counts if it is newer and further ahead. Only the blob in lower case is written.
//! - The path of a broker on this machine contains its port, `localhost:5673/…`, as in the clients of Python and
//!   Go. The clients of JavaScript and .NET leave the port out, and so did earlier releases. For them the position
//!   is copied to the path without the port. If there is no blob at the path with the port, the one that they, or
//!   an earlier release, wrote is read.
//! - Events that are settled above the watermark are stored with it, up to the 8 KiB of metadata. Those that do
//!   not fit are handled again after a crash.
//! - A write replaces all metadata. Keys of other programs are gone after our first write, as after the first
//!   write of any SDK.
//!
//! The container must exist.

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod join;
mod metadata;
mod settled;

use std::collections::BTreeMap;
use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tracing::debug;

use self::join::{Blobs, NOT_OURS};
use super::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, Listed, StoreError,
    StoredCheckpoint, VersionToken,
};
pub use crate::blob_container::DEFAULT_REQUEST_TIMEOUT;
use crate::blob_container::names::{self, Spelling};
use crate::blob_container::{Container, Found, WriteFailure};
use crate::error::{Error, ErrorClass, error_chain};
use crate::event::{Partition, PartitionId};
use crate::secret::Secret;

/// The folder of the blobs.
const KIND: &str = "checkpoint";

const LOAD: &str = "load the checkpoint";
const STORE: &str = "store the checkpoint";
const LIST: &str = "list the checkpoints";

/// A [`CheckpointStore`] in a container of Azure Blob Storage. See the [module](self).
#[derive(Debug)]
pub struct BlobCheckpointStore {
    container: Container,
}

impl BlobCheckpointStore {
    /// Opens a container by an address with a shared access signature:
    /// `https://ACCOUNT.blob.core.windows.net/CONTAINER?…&sig=…`. The signature must allow to
    /// read, list, create and write. Sends no request yet.
    ///
    /// # Errors
    /// `Permanent` if the address cannot be used; the error shows it without the signature.
    pub fn with_signature(container_url: &Secret) -> Result<Self, Error> {
        Ok(Self { container: Container::with_signature(container_url, DEFAULT_REQUEST_TIMEOUT)? })
    }

    /// Opens the container `https://ACCOUNT.blob.core.windows.net/CONTAINER` with a credential of
    /// Microsoft Entra ID, which needs the role Storage Blob Data Contributor. Sends no request
    /// yet.
    ///
    /// # Errors
    /// `Permanent` if the address cannot be used.
    pub fn with_credential(
        container_url: &str,
        credential: Arc<dyn TokenCredential>,
    ) -> Result<Self, Error> {
        Ok(Self {
            container: Container::with_credential(
                container_url,
                credential,
                DEFAULT_REQUEST_TIMEOUT,
            )?,
        })
    }

    /// The container's address, without a signature.
    pub fn container_url(&self) -> &str {
        self.container.url()
    }

    async fn load_all(&self, key: &CheckpointKey) -> Result<Blobs, Error> {
        let mut blobs = Blobs::default();
        for spelling in spellings(&key.scope, Some(&key.partition)) {
            if spelling == Spelling::WithoutPort && !blobs.is_empty() {
                break;
            }
            let name = blob_name(LOAD, key, spelling)?;
            let found = self.container.read(LOAD, &name).await?;
            *blobs.of(spelling) = found.filter(|found| counts(spelling, found));
        }
        Ok(blobs)
    }

    async fn overwrite(
        &self,
        key: &CheckpointKey,
        checkpoint: &Checkpoint,
    ) -> Result<VersionToken, StoreError> {
        let blobs = self.load_all(key).await?;
        let expected = match &blobs.ours {
            Some(ours) => Expected::Version(ours.version.clone()),
            None => Expected::Absent,
        };
        match blobs.joined(LOAD, key) {
            Some(Err(_)) => self.compare_and_swap(key, checkpoint, &expected).await,
            _ => Err(StoreError::Conflict),
        }
    }

    async fn compare_and_swap(
        &self,
        key: &CheckpointKey,
        checkpoint: &Checkpoint,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let name = blob_name(STORE, key, Spelling::Lower)?;
        let metadata = metadata::encode(checkpoint);
        let written = match expected {
            Expected::Version(version) if !version.0.starts_with(NOT_OURS) => {
                self.container.replace(STORE, &name, metadata, version).await
            }
            _ => self.container.create(STORE, &name, metadata).await,
        };
        let version = written.map_err(|failure| match failure {
            WriteFailure::Conflict => StoreError::Conflict,
            WriteFailure::Failed(error) => {
                StoreError::Failed(error.with_partition(&partition(key)))
            }
        })?;
        self.copy(key, checkpoint).await;
        Ok(version)
    }

    /// Copies the position of a checkpoint to where some clients look for those of a local broker.
    /// Nothing depends on it here.
    async fn copy(&self, key: &CheckpointKey, checkpoint: &Checkpoint) {
        let name = |spelling| blob_name(STORE, key, spelling);
        let (Ok(ours), Ok(without_port)) = (name(Spelling::Lower), name(Spelling::WithoutPort))
        else {
            return;
        };
        if ours == without_port {
            return;
        }
        let copy = metadata::copy(checkpoint);
        if let Err(error) = self.container.put(STORE, &without_port, copy).await {
            debug!(causes = ?error_chain(&error), "the checkpoint is not copied to {without_port}");
        }
    }

    async fn list_all(&self, scope: &CheckpointScope) -> Result<Vec<Listed>, Error> {
        let mut found: BTreeMap<PartitionId, Blobs> = BTreeMap::new();
        let mut alien: Vec<Listed> = Vec::new();
        for spelling in spellings(scope, None) {
            let folder = names::folder(scope, KIND, spelling);
            for (name, blob) in self.container.list(LIST, &folder).await?.blobs {
                let file = name.strip_prefix(&folder).unwrap_or(&name);
                let fault = match (names::partition(file, spelling), blob) {
                    (Some(_), Some(blob)) if !counts(spelling, &blob) => continue,
                    (Some(id), Some(blob)) => {
                        *found.entry(id).or_default().of(spelling) = Some(blob);
                        continue;
                    }
                    (None, _) => "its name is not a partition's",
                    (_, None) => "it was listed without an ETag or a date",
                };
                let message = format!("the blob {name:?} is no checkpoint: {fault}; delete it");
                alien.push((file.into(), Err(Error::new(ErrorClass::BadData, LIST, message))));
            }
        }
        let mut listed: Vec<Listed> = found
            .into_iter()
            .filter_map(|(id, blobs)| {
                let key = CheckpointKey { scope: scope.clone(), partition: id };
                let stored = blobs.joined(LIST, &key)?;
                Some((key.partition, stored))
            })
            .chain(alien)
            .collect();
        listed.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(listed)
    }
}

impl CheckpointStore for BlobCheckpointStore {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        async move { self.load_all(key).await?.joined(LOAD, key).transpose() }.boxed()
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

/// Whether a blob is a checkpoint of its own. A copy of ours is not: it would come back where ours
/// is deleted, to begin anew, and may be of a broker on another port.
fn counts(spelling: Spelling, found: &Found) -> bool {
    spelling != Spelling::WithoutPort || !metadata::is_copy(&found.metadata)
}

/// The spellings under which there may be blobs of a scope, or of one of its partitions, ours first.
fn spellings(scope: &CheckpointScope, partition: Option<&PartitionId>) -> Vec<Spelling> {
    let name = |spelling| {
        let file = partition.map(|partition| names::file(partition, spelling));
        names::folder(scope, KIND, spelling) + &file.unwrap_or_default()
    };
    let mut seen: Vec<String> = Vec::new();
    [Spelling::Lower, Spelling::AsGiven, Spelling::WithoutPort]
        .into_iter()
        .filter(|spelling| {
            let name = name(*spelling);
            let is_new = !seen.contains(&name);
            seen.push(name);
            is_new
        })
        .collect()
}

fn blob_name(
    operation: &'static str,
    key: &CheckpointKey,
    spelling: Spelling,
) -> Result<String, Error> {
    let mut name = names::folder(&key.scope, KIND, spelling);
    name.push_str(&names::file(&key.partition, spelling));
    if name.len() > names::MAX_NAME_CHARS {
        let message = format!(
            "the name of its blob has {} characters, and a blob's may have {}",
            name.len(),
            names::MAX_NAME_CHARS
        );
        let error = Error::new(ErrorClass::Permanent, operation, message);
        return Err(error.with_partition(&partition(key)));
    }
    Ok(name)
}

fn partition(key: &CheckpointKey) -> Partition {
    Partition::new(key.scope.entity.clone(), key.partition.clone())
}
