//! The port to the failure store: events that failed, kept outside the stream by their identity.
//!
//! ```text
//!  parked/  waits for another attempt; its partition's owner hands it out
//!  dead/    given up; waits for a person
//! ```
//!
//! A store keeps one value for each [`FailureKey`]: a record, whose bytes it does not interpret, and
//! [`FailureMeta`], which it lists without opening the record. [`FailureEntry::of`] makes both. Like a checkpoint
//! store, it is a register for each key: the consumer decides above it, by versions, what may be written over
//! what.
//!
//! `longshore dead-letters` lists and shows letters. A program reads them like this:
//!
//! ```
//! use longshore::Error;
//! use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore};
//!
//! async fn print_dead_letters(store: &impl FailureStore) -> Result<(), Error> {
//!     let mut page = None;
//!     loop {
//!         let found = store.list(&FailurePrefix::all(FailureKind::Dead), page.as_ref(), 1_000).await?;
//!         for listed in found.entries {
//!             let key = listed?.key;
//!             // It may have been replayed meanwhile.
//!             let Some(stored) = store.read(&key).await? else { continue };
//!             let record = stored.record()?;
//!             println!("{key}: {}, {} bytes", record.error.message, record.body()?.len());
//!         }
//!         page = found.next;
//!         if page.is_none() {
//!             return Ok(());
//!         }
//!     }
//! }
//! ```
//!
//! The same event has three forms. [`DeadLetter`](crate::dead_letter::DeadLetter) is what a sink is given,
//! [`DeadLetterRecord`](crate::dead_letter::record::DeadLetterRecord) is its JSON form, and [`StoredFailure`] is that in a store. The default failure store of
//! [`Settings`](crate::settings::Settings) is [`folder`]; [`dead_letter::folder`](crate::dead_letter::folder) is a
//! sink of single files, without parking.

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

/// The most entries of a page: 5,000.
pub const MAX_PAGE_ENTRIES: usize = 5_000;

/// What a write expects to find.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// The value of this version.
    Version(VersionToken),
    /// Anything. The later write wins.
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

/// The value under a key. [`FailureEntry::of`] makes it from a record. `Debug` leaves the record out.
#[derive(Clone, PartialEq)]
pub struct FailureEntry {
    /// The part that a listing shows.
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
    /// Whether the store knows that the record is not what was put, for example by a checksum. Then
    /// [`StoredFailure::record`] refuses it.
    pub is_damaged: bool,
}

impl fmt::Debug for StoredFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredFailure")
            .field("key", &format_args!("{}", self.key))
            .field("content_bytes", &self.content.len())
            .field("version", &self.version)
            .field("is_damaged", &self.is_damaged)
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

/// One entry of a listing, or the reason why it cannot be read. The error names where it is stored.
pub type Listed = Result<ListedFailure, Error>;

/// Where the next page begins. It is opaque, and valid for one store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageToken(pub String);

/// A part of a listing. It may have fewer entries than were asked for, or none, although more pages follow.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct FailurePage {
    /// The entries in the order of their keys: those of one partition by sequence number.
    pub entries: Vec<Listed>,
    /// The next page. `None` if this is the last one.
    pub next: Option<PageToken>,
}

/// Keeps events that failed: dead letters and parked events. The calls on one key are linearizable. Names of hubs and
/// consumer groups do not depend on their case.
pub trait FailureStore: Send + Sync + fmt::Debug + 'static {
    /// Where the store is, for messages. Without a secret.
    fn place(&self) -> String;

    /// Puts a value if the store holds the expected one. `Ok` means that the value is durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the store holds another value. If the answer to a put is lost and the put is
    /// made again, it may find its own value: compare the contents, or expect [`Expected::Anything`].
    ///
    /// # Cancel safety
    /// A dropped call may still be applied.
    fn put<'a>(
        &'a self,
        key: &'a FailureKey,
        entry: &'a FailureEntry,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>>;

    /// Reads a value. `None` if there is none.
    ///
    /// # Errors
    /// As the medium fails. The record is not parsed here; [`StoredFailure::record`] does that.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    fn read<'a>(
        &'a self,
        key: &'a FailureKey,
    ) -> BoxFuture<'a, Result<Option<StoredFailure>, Error>>;

    /// Lists values with their metadata, without opening a record: those whose paths begin with `prefix` (it may
    /// end amid a number), after the page before, at most `limit` and at most [`MAX_PAGE_ENTRIES`]. A value that
    /// is put or deleted while pages are read may be listed or not. Every other value is listed once.
    ///
    /// # Errors
    /// If the listing itself fails. One bad entry does not hide the others.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    fn list<'a>(
        &'a self,
        prefix: &'a FailurePrefix,
        after: Option<&'a PageToken>,
        limit: usize,
    ) -> BoxFuture<'a, Result<FailurePage, Error>>;

    /// Deletes a value that still has this version. `Ok` means that the value is gone for good, or that there was
    /// none. So a delete whose answer was lost can be made again.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the value has another version.
    ///
    /// # Cancel safety
    /// A dropped call may still be applied.
    fn delete<'a>(
        &'a self,
        key: &'a FailureKey,
        version: &'a VersionToken,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// A shared store is a store as well.
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
