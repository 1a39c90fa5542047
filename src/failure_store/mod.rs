//! The port to the failure store: events that failed, kept outside the stream by their identity.
//!
//! ```text
//!  parked/  waits for another attempt; its partition's owner hands it out
//!  dead/    given up; waits for a person
//! ```
//!
//! A store keeps one value for each [`FailureKey`]: a record, whose bytes it does not look at, and
//! [`FailureMeta`], which it lists without opening the record. What a record is, and what its
//! metadata is made of, [`FailureEntry::of`] says. It is a register per key, like a checkpoint
//! store: who may write over what is decided above it, by versions.

#[cfg(feature = "blob")]
pub mod container;
mod fingerprint;
pub mod folder;
mod key;
pub mod memory;
mod meta;
mod record;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use self::fingerprint::{Fingerprint, reason};
pub use self::key::{
    BLOCK_NUMBERS, EventIdentity, FailureKey, FailureKind, FailurePrefix, LogIdentity,
};
pub use self::meta::FailureMeta;
pub(crate) use self::meta::kept;
pub use crate::checkpoint::{StoreError, VersionToken};
use crate::error::Error;

/// Most entries of a page, whatever is asked for.
pub const MAX_PAGE_ENTRIES: usize = 5_000;

/// What a write expects to find.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// The value of this version.
    Version(VersionToken),
    /// Whatever there is: the later write counts.
    Anything,
}

impl Expected {
    /// Whether a store that holds this version, or nothing, holds what is expected.
    pub fn is_met_by(&self, stored: Option<&VersionToken>) -> bool {
        match self {
            Expected::Absent => stored.is_none(),
            Expected::Version(version) => stored == Some(version),
            Expected::Anything => true,
        }
    }
}

/// What is put under a key: [`FailureEntry::of`] makes it of a record. `Debug` leaves the record
/// out.
#[derive(Clone, PartialEq)]
pub struct FailureEntry {
    /// What a listing says of it.
    pub meta: FailureMeta,
    /// The record, in JSON.
    pub content: Bytes,
}

impl fmt::Debug for FailureEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureEntry")
            .field("meta", &self.meta)
            .field("content_bytes", &self.content.len())
            .finish()
    }
}

/// A value as the store holds it. `Debug` leaves the record out.
#[derive(Clone, PartialEq)]
pub struct StoredFailure {
    /// Where.
    pub key: FailureKey,
    /// The record, in JSON: see [`StoredFailure::record`].
    pub content: Bytes,
    /// Its version.
    pub version: VersionToken,
}

impl fmt::Debug for StoredFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredFailure")
            .field("key", &format_args!("{}", self.key))
            .field("content_bytes", &self.content.len())
            .field("version", &self.version)
            .finish()
    }
}

/// What a listing found.
#[derive(Clone, PartialEq, Debug)]
pub struct ListedFailure {
    /// Where.
    pub key: FailureKey,
    /// What is known of it.
    pub meta: FailureMeta,
    /// The version that has this metadata.
    pub version: VersionToken,
}

/// One entry of a listing: what was found, or why it cannot be told, with the name it is stored under
/// in the error.
pub type Listed = Result<ListedFailure, Error>;

/// Where the next page begins. Opaque, and of one store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageToken(pub String);

/// A part of a listing. It may be shorter than what was asked for, and empty, with others behind it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct FailurePage {
    /// In the order of their keys: those of one partition by sequence number.
    pub entries: Vec<Listed>,
    /// The page behind it; `None` where this is the last one.
    pub next: Option<PageToken>,
}

/// Keeps events that failed. Every call on one key is linearizable. Keys that are equal are one: names
/// of hubs and consumer groups are one whatever their case.
pub trait FailureStore: Send + Sync + fmt::Debug + 'static {
    /// Where it is, for messages; without a secret.
    fn place(&self) -> String;

    /// Puts a value if the store holds what is expected. `Ok` means durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where it holds something else. A put whose answer was lost and that is
    /// made again may find its own value: compare contents, or expect [`Expected::Anything`].
    ///
    /// # Cancel safety
    /// A dropped call may still be applied.
    fn put<'a>(
        &'a self,
        key: &'a FailureKey,
        entry: &'a FailureEntry,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>>;

    /// Reads a value; `None` where there is none.
    ///
    /// # Errors
    /// As the medium fails. The record is not looked at: [`StoredFailure::record`] does that.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    fn read<'a>(
        &'a self,
        key: &'a FailureKey,
    ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>>;

    /// Lists values with their metadata and opens no record: those whose paths begin with the prefix,
    /// which may end amid a number, behind the page before, at most `limit` and never more than [`MAX_PAGE_ENTRIES`]. What is put or deleted while pages are read
    /// may be listed or not; all else is listed once.
    ///
    /// # Errors
    /// Where the listing itself fails; one bad entry hides no other.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    fn list<'a>(
        &'a self,
        prefix: &'a FailurePrefix,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<FailurePage, Error>>;

    /// Deletes a value that still has this version. `Ok` means that it is gone for good, and also that
    /// there was none: a delete whose answer was lost can be made again.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where it has another version.
    ///
    /// # Cancel safety
    /// A dropped call may still be applied.
    fn delete<'a>(
        &'a self,
        key: &'a FailureKey,
        version: &'a VersionToken,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// What is shared is a store as well.
#[deny(clippy::missing_trait_methods)]
impl<T: FailureStore + ?Sized> FailureStore for Arc<T> {
    fn place(&self) -> String {
        T::place(self)
    }

    fn put<'a>(
        &'a self,
        key: &'a FailureKey,
        entry: &'a FailureEntry,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        T::put(self, key, entry, expected)
    }

    fn read<'a>(
        &'a self,
        key: &'a FailureKey,
    ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>> {
        T::read(self, key)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a FailurePrefix,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<FailurePage, Error>> {
        T::list(self, prefix, after, limit)
    }

    fn delete<'a>(
        &'a self,
        key: &'a FailureKey,
        version: &'a VersionToken,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        T::delete(self, key, version)
    }
}
