//! A container of Azure Blob Storage as settings name it: its address, and what opens it.

use std::sync::Arc;

use super::keys::Key;
use super::stores::Stores;
use crate::blob_container::ContainerAddress;
use crate::blob_store::container::ContainerBlobStore;
use crate::checkpoint_store::blob::BlobCheckpointStore;
use crate::credential::Credential;
use crate::error::Error;
use crate::failure_store::FailureStore;
use crate::failure_store::container::ContainerFailureStore;
use crate::lease_store::blob::BlobLeaseStore;
use crate::secret::Secret;

/// `Debug` shows no signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Container {
    /// Without a signature.
    url: String,
    opened_by: OpenedBy,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum OpenedBy {
    /// The whole address.
    Signature(Secret),
    Credential(Credential),
}

impl Container {
    /// Reads an address that has a signature, or else one that the credential opens, which the key
    /// `named_by` names.
    ///
    /// # Errors
    /// What it must be; nothing of it is repeated.
    pub(super) fn read(
        text: &str,
        credential: Option<Credential>,
        named_by: &Key,
    ) -> Result<Self, String> {
        let is_signed = ContainerAddress::names_a_signature(text);
        let address = if is_signed {
            ContainerAddress::with_signature(text)
        } else {
            ContainerAddress::without_signature(text)
        };
        let url = address.map_err(|error| error.bound)?.shown;
        let opened_by = match credential {
            _ if is_signed => OpenedBy::Signature(Secret::new(text)),
            Some(credential) => OpenedBy::Credential(credential),
            None => {
                return Err(format!(
                    "it must end in a shared access signature: ?…&sig=…; or go with {}",
                    named_by.name
                ));
            }
        };
        Ok(Self { url, opened_by })
    }

    pub(super) fn is_signed(&self) -> bool {
        matches!(self.opened_by, OpenedBy::Signature(_))
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The container as a place of files.
    pub(super) fn open_files(&self) -> Result<ContainerBlobStore, Error> {
        match &self.opened_by {
            OpenedBy::Signature(url) => ContainerBlobStore::with_signature(url),
            OpenedBy::Credential(credential) => {
                ContainerBlobStore::with_credential(&self.url, credential.open()?)
            }
        }
    }

    /// The container as a place of failures.
    pub(super) fn open_failures(&self) -> Result<Arc<dyn FailureStore>, Error> {
        Ok(Arc::new(match &self.opened_by {
            OpenedBy::Signature(url) => ContainerFailureStore::with_signature(url)?,
            OpenedBy::Credential(credential) => {
                ContainerFailureStore::with_credential(&self.url, credential.open()?)?
            }
        }))
    }

    pub(super) fn open(&self) -> Result<Stores, Error> {
        let (checkpoints, leases) = match &self.opened_by {
            OpenedBy::Signature(url) => {
                (BlobCheckpointStore::with_signature(url)?, BlobLeaseStore::with_signature(url)?)
            }
            OpenedBy::Credential(credential) => {
                let token = credential.open()?;
                (
                    BlobCheckpointStore::with_credential(&self.url, Arc::clone(&token))?,
                    BlobLeaseStore::with_credential(&self.url, token)?,
                )
            }
        };
        Ok(Stores { checkpoints: Arc::new(checkpoints), leases: Some(Arc::new(leases)) })
    }
}
