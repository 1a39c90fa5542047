//! Failures in a container of Azure Blob Storage. Each is a block blob with a name like
//! `dead/{namespace}/{hub}/{incarnation}/{group}/{partition}/{number}.json`. Its content is the record, and its
//! metadata is what a listing shows.
//!
//! Every put and delete carries its condition in the request, so the service compares and replaces in one step. A
//! listing needs one request for 5,000 records and opens none. The container must exist. It may also hold
//! checkpoints, whose names begin with a namespace.

use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{
    Expected, FailureEntry, FailureKey, FailureKind, FailureMeta, FailurePage, FailurePrefix,
    FailureStore, Listed, ListedFailure, MAX_PAGE_ENTRIES, PageToken, StoreError, StoredFailure,
    VersionToken,
};
use crate::blob_container::content::{Condition, Properties};
use crate::blob_container::names::MAX_NAME_CHARS;
use crate::blob_container::{CONTENT_REQUEST_TIMEOUT, Container, Found, Metadata, WriteFailure};
use crate::error::{Error, ErrorClass};
use crate::secret::Secret;

const SUFFIX: &str = ".json";

/// The field of the metadata.
const FIELD: &str = "longshore";

const PUT: &str = "put the failure";
const READ: &str = "read the failure";
const LIST: &str = "list the failures";
const DELETE: &str = "delete the failure";

/// A [`FailureStore`] in a container of Azure Blob Storage. See the [module](self).
#[derive(Debug)]
pub struct ContainerFailureStore {
    container: Container,
}

impl ContainerFailureStore {
    /// Opens a container by an address with a shared access signature:
    /// `https://ACCOUNT.blob.core.windows.net/CONTAINER?…&sig=…`. The signature must allow to read,
    /// list, create, write and delete. Sends no request yet.
    ///
    /// # Errors
    /// `Permanent` if the address cannot be used; the error shows it without the signature.
    pub fn with_signature(container_url: &Secret) -> Result<Self, Error> {
        Ok(Self { container: Container::with_signature(container_url, CONTENT_REQUEST_TIMEOUT)? })
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
        let timeout = CONTENT_REQUEST_TIMEOUT;
        Ok(Self { container: Container::with_credential(container_url, credential, timeout)? })
    }

    async fn put(
        &self,
        key: &FailureKey,
        entry: &FailureEntry,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let line = entry.meta.encode(&key.event)?;
        let properties = Properties {
            content_type: Some("application/json".to_owned()),
            tier: None,
            metadata: Metadata::from([(FIELD.to_owned(), line)]),
        };
        let condition = match expected {
            Expected::Absent => Condition::Absent,
            Expected::Version(version) => Condition::Version(version.clone()),
            Expected::Anything => Condition::Anything,
        };
        let name = blob_name(PUT, key)?;
        let content = entry.content.clone();
        let crc64 = crc_fast::crc64_nvme(&content);
        let put = self.container.put_record(PUT, &name, content, crc64, properties, &condition);
        put.await.map_err(refused)
    }

    async fn read(&self, key: &FailureKey) -> Result<Option<StoredFailure>, Error> {
        let found = self.container.read_record(READ, &blob_name(READ, key)?).await?;
        Ok(found.map(|(content, version)| StoredFailure {
            key: key.clone(),
            content,
            version,
            is_damaged: false,
        }))
    }

    async fn list(
        &self,
        prefix: &FailurePrefix,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<FailurePage, Error> {
        let limit = limit.clamp(1, MAX_PAGE_ENTRIES);
        let marker = after.map(|PageToken(marker)| marker.as_str());
        let page = self.container.list_page(LIST, prefix.path(), marker, limit).await?;
        let mut listed = FailurePage::default();
        listed.entries = page.blobs.into_iter().map(|blob| self.listed(blob)).collect();
        listed.next = page.next.map(PageToken);
        Ok(listed)
    }

    fn listed(&self, (name, found): (String, Option<Found>)) -> Listed {
        let unreadable = |fault: &str| {
            let url = self.container.url();
            let message =
                format!("{name} in {url} is no failure: {fault}; delete it, or move it away");
            Error::new(ErrorClass::BadData, LIST, message)
        };
        let Found { metadata, version, .. } =
            found.ok_or_else(|| unreadable("it was listed without an ETag or a date"))?;
        let line = metadata.get(FIELD).map(String::as_str).unwrap_or_default();
        let (event, meta) = FailureMeta::decode(line).map_err(|fault| unreadable(&fault))?;
        let kind = match name.starts_with("dead/") {
            true => FailureKind::Dead,
            false => FailureKind::Parked,
        };
        let key = event.key(kind);
        if blob_name(LIST, &key).ok().as_ref() != Some(&name) {
            return Err(unreadable(&format!("it is a copy of {key}")));
        }
        Ok(ListedFailure { key, meta, version })
    }
}

fn blob_name(operation: &'static str, key: &FailureKey) -> Result<String, Error> {
    let name = format!("{}{SUFFIX}", key.path());
    if name.len() <= MAX_NAME_CHARS {
        return Ok(name);
    }
    let message = format!("the name of a blob has at most {MAX_NAME_CHARS} characters: {name}");
    Err(Error::new(ErrorClass::Permanent, operation, message))
}

fn refused(failure: WriteFailure) -> StoreError {
    match failure {
        WriteFailure::Conflict => StoreError::Conflict,
        WriteFailure::Failed(error) => StoreError::Failed(error),
    }
}

impl FailureStore for ContainerFailureStore {
    fn place(&self) -> String {
        self.container.url().to_owned()
    }

    fn put<'a>(
        &'a self,
        key: &'a FailureKey,
        entry: &'a FailureEntry,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        self.put(key, entry, expected).boxed()
    }

    fn read<'a>(
        &'a self,
        key: &'a FailureKey,
    ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>> {
        self.read(key).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a FailurePrefix,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<FailurePage, Error>> {
        self.list(prefix, after, limit).boxed()
    }

    fn delete<'a>(
        &'a self,
        key: &'a FailureKey,
        version: &'a VersionToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let name = blob_name(DELETE, key)?;
            match self.container.delete_version(DELETE, &name, version).await {
                // Where there is no blob, the condition may not be met either.
                Err(WriteFailure::Conflict)
                    if self.container.read(DELETE, &name).await?.is_none() =>
                {
                    Ok(())
                }
                deleted => deleted.map_err(refused),
            }
        }
        .boxed()
    }
}
