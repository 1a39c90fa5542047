//! Leases in Azure Blob Storage, beside the processors of the other Azure SDKs.
//!
//! - `{namespace host}/{hub}/{group}/ownership/{partition}` is an ownership record in the format of the other
//!   SDKs: metadata `ownerid`, empty or missing if the partition has no owner. Our records also have `longshore`.
//!   An owner of another SDK drops that when it writes its own record, which tells the two apart.
//! - `…/longshore/member/{owner}` is a member record. No other SDK lists that folder.
//! - Every write of an ownership is a compare-and-swap. A heartbeat is written without a condition.
//! - The shared clock is that of the service: the `Date` of its answers and the last-modified times of blobs, both
//!   to the second.
//!
//! Paths are in lower case. Ownerships that another SDK keeps under another spelling are not seen. If it shares a
//! hub with longshore, configure it with names in lower case.
//!
//! The container must exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{
    CheckpointKey, CheckpointScope, Expected, Holder, LeaseListing, LeaseStore, Member, OwnerId,
    Ownership, StoreError, StoredMember, StoredOwnership, VersionToken,
};
use crate::blob_container::names::{self, MAX_NAME_CHARS, Spelling};
use crate::blob_container::{Container, DEFAULT_REQUEST_TIMEOUT, Found, Metadata, WriteFailure};
use crate::error::{Error, ErrorClass};
use crate::event::PartitionId;
use crate::secret::Secret;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;

const OWNERSHIP: &str = "ownership";
const MEMBER: &str = "longshore/member";

const LIST: &str = "list the leases";
const LOAD: &str = "read the lease";
const STORE: &str = "write the lease";
const HEARTBEAT: &str = "write the heartbeat";
const REMOVE: &str = "remove the member record";

const OWNER_ID: &str = "ownerid";
/// In an ownership: that a worker of longshore wrote it, and for whom it drains.
const OURS: &str = "longshore";
const VERSION: &str = "v=1";
const TARGET: &str = "target=";
const WANTS: &str = "wants";
const LEAVING: &str = "leaving";

/// Most bytes of the partitions that a member asks for; what does not fit is asked for later.
const MAX_WANTS_BYTES: usize = 4_096;

/// A [`LeaseStore`] in a container of Azure Blob Storage. See the [module](self).
#[derive(Debug)]
pub struct BlobLeaseStore {
    container: Container,
}

impl BlobLeaseStore {
    /// Opens a container by an address with a shared access signature:
    /// `https://ACCOUNT.blob.core.windows.net/CONTAINER?…&sig=…`. The signature must allow to
    /// read, list, create, write and delete. Sends no request yet.
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

    async fn compare_and_swap(
        &self,
        key: &CheckpointKey,
        ownership: &Ownership,
        expected: &Expected,
    ) -> Result<VersionToken, StoreError> {
        let name = ownership_name(STORE, key)?;
        let metadata = encode(ownership);
        let written = match expected {
            Expected::Version(version) => {
                self.container.replace(STORE, &name, metadata, version).await
            }
            Expected::Absent => self.container.create(STORE, &name, metadata).await,
        };
        written.map_err(|failure| match failure {
            WriteFailure::Conflict => StoreError::Conflict,
            WriteFailure::Failed(error) => StoreError::Failed(error),
        })
    }

    async fn list_all(&self, scope: &CheckpointScope) -> Result<LeaseListing, Error> {
        let folder = names::folder(scope, OWNERSHIP, Spelling::Lower);
        let listed = self.container.list(LIST, &folder).await?;
        let mut ownerships: Vec<(PartitionId, StoredOwnership)> = listed
            .blobs
            .into_iter()
            .filter_map(|(name, found)| {
                let file = name.strip_prefix(&folder)?;
                Some((names::partition(file, Spelling::Lower)?, decode(found?)))
            })
            .collect();
        ownerships.sort_by(|(left, _), (right, _)| left.cmp(right));
        let folder = names::folder(scope, MEMBER, Spelling::Lower);
        let listed = self.container.list(LIST, &folder).await?;
        let now = listed.answered.ok_or_else(|| {
            let message = format!("{} answered without a date", self.container.url());
            Error::new(ErrorClass::Unknown, LIST, message)
        })?;
        let members = listed
            .blobs
            .into_iter()
            .filter_map(|(_, found)| {
                let found = found?;
                let member = decode_member(&found.metadata)?;
                Some(StoredMember { member, modified: found.modified })
            })
            .collect();
        Ok(LeaseListing { now, ownerships, members })
    }
}

impl LeaseStore for BlobLeaseStore {
    fn list<'a>(
        &'a self,
        scope: &'a CheckpointScope,
    ) -> BoxFuture<'a, Result<LeaseListing, Error>> {
        self.list_all(scope).boxed()
    }

    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredOwnership>, Error>> {
        async move {
            let name = ownership_name(LOAD, key)?;
            Ok(self.container.read(LOAD, &name).await?.map(decode))
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        ownership: &'a Ownership,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        self.compare_and_swap(key, ownership, expected).boxed()
    }

    fn write_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        member: &'a Member,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let name = member_name(HEARTBEAT, scope, &member.owner)?;
            self.container.put(HEARTBEAT, &name, encode_member(member)).await
        }
        .boxed()
    }

    fn remove_member<'a>(
        &'a self,
        scope: &'a CheckpointScope,
        owner: &'a OwnerId,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let name = member_name(REMOVE, scope, owner)?;
            self.container.delete(REMOVE, &name).await
        }
        .boxed()
    }
}

fn ownership_name(operation: &'static str, key: &CheckpointKey) -> Result<String, Error> {
    let folder = names::folder(&key.scope, OWNERSHIP, Spelling::Lower);
    bounded(operation, folder + &names::file(&key.partition, Spelling::Lower))
}

fn member_name(
    operation: &'static str,
    scope: &CheckpointScope,
    owner: &OwnerId,
) -> Result<String, Error> {
    let folder = names::folder(scope, MEMBER, Spelling::Lower);
    // Owners are told apart by what is in their records; a file name keeps no case.
    let file = names::file(&PartitionId::new(owner.as_str()), Spelling::Lower);
    bounded(operation, folder + &file)
}

fn bounded(operation: &'static str, name: String) -> Result<String, Error> {
    if name.len() <= MAX_NAME_CHARS {
        return Ok(name);
    }
    let message = format!(
        "the name of its blob has {} characters, and a blob's may have {MAX_NAME_CHARS}",
        name.len()
    );
    Err(Error::new(ErrorClass::Permanent, operation, message))
}

fn encode(ownership: &Ownership) -> Metadata {
    let owner = match &ownership.holder {
        Holder::Nobody => String::new(),
        Holder::Worker(owner) | Holder::Foreign(owner) => header(owner.as_str()),
    };
    let mut metadata = Metadata::from([(OWNER_ID.to_owned(), owner)]);
    if !matches!(ownership.holder, Holder::Foreign(_)) {
        let target = ownership.target.as_ref();
        let target = target.map(|target| format!(";{TARGET}{}", header(target.as_str())));
        metadata.insert(OURS.to_owned(), format!("{VERSION}{}", target.unwrap_or_default()));
    }
    metadata
}

/// Whoever wrote it. What cannot be understood is held by nobody.
fn decode(found: Found) -> StoredOwnership {
    let ours = value(&found.metadata, OURS);
    let owner = value(&found.metadata, OWNER_ID).filter(|owner| !owner.is_empty());
    let holder = match (owner, ours) {
        (None, _) => Holder::Nobody,
        (Some(owner), Some(_)) => Holder::Worker(name(owner)),
        (Some(owner), None) => Holder::Foreign(OwnerId::new(owner)),
    };
    let target = ours
        .and_then(|ours| ours.split(';').find_map(|field| field.strip_prefix(TARGET)))
        .map(name);
    StoredOwnership {
        ownership: Ownership { holder, target },
        version: found.version,
        modified: found.modified,
    }
}

fn encode_member(member: &Member) -> Metadata {
    let mut wants = String::new();
    for partition in &member.wants {
        let partition = header(partition.as_str());
        if wants.len() + partition.len() < MAX_WANTS_BYTES {
            if !wants.is_empty() {
                wants.push(',');
            }
            wants.push_str(&partition);
        }
    }
    Metadata::from([
        (OWNER_ID.to_owned(), header(member.owner.as_str())),
        (WANTS.to_owned(), wants),
        (LEAVING.to_owned(), member.leaving.to_string()),
    ])
}

fn decode_member(metadata: &Metadata) -> Option<Member> {
    let owner = value(metadata, OWNER_ID).filter(|owner| !owner.is_empty())?;
    let wants = value(metadata, WANTS).unwrap_or_default();
    let wants: BTreeSet<PartitionId> = wants
        .split(',')
        .filter(|partition| !partition.is_empty())
        .filter_map(|partition| names::partition(partition, Spelling::AsGiven))
        .collect();
    let leaving = value(metadata, LEAVING) == Some("true");
    Some(Member { owner: name(owner), wants, leaving })
}

/// A name as a header may carry it.
fn header(name: &str) -> String {
    names::file(&PartitionId::new(name), Spelling::AsGiven)
}

/// What [`header`] wrote; any other text is the name itself.
fn name(text: &str) -> OwnerId {
    let name = names::partition(text, Spelling::AsGiven);
    name.map_or_else(|| OwnerId::new(text), |name| OwnerId::new(name.as_str()))
}

/// Services and proxies may change the case of names.
fn value<'a>(metadata: &'a Metadata, name: &str) -> Option<&'a str> {
    metadata.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}
