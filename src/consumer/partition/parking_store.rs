//! What is asked of the failure store about parked events, each call for as long as it takes.

use std::sync::Arc;
use std::time::SystemTime;

use super::persist::{Written, in_time, until_done};
use crate::consumer::handling::unit::Tracked;
use crate::consumer::shared::Shared;
use crate::dead_letter::record::DeadLetterRecord;
use crate::error::Error;
use crate::event::{Event, SequenceNumber};
use crate::failure_store::{
    Expected, FailureEntry, FailureKey, FailureKind, FailurePage, FailurePrefix, FailureStore,
    MAX_PAGE_ENTRIES, PageToken, StoreError, StoredFailure, VersionToken,
};

const PARK: Written = Written { operation: "park the event", waits: "the checkpoint waits for it" };
const PARK_AGAIN: Written =
    Written { operation: "park the event again", waits: "it is not tried again here before that" };
const REMOVE: Written = Written {
    operation: "remove the parked event",
    waits: "it is over, and another owner would try it again",
};
const READ: &str = "read the parked event";
const LIST: &str = "list the parked events";

/// What the failure store did.
#[derive(Debug)]
pub(super) enum Stored {
    /// The record of an event is there for the first time.
    Parked(Tracked),
    /// The record was written again, and is due then.
    ParkedAgain(Tracked, SystemTime),
    /// The record says that the event is about to be handled.
    Marked(Tracked, Box<DeadLetterRecord>, VersionToken),
    /// Somebody else changed the record, or deleted it: what it says now counts.
    Changed(Tracked),
    /// The record is gone.
    Removed(Tracked),
    /// An event that is due was read.
    Read(SequenceNumber, Result<Option<StoredFailure>, Error>),
    /// A page of the listing.
    Listed(Result<FailurePage, Error>),
}

/// The store as one partition asks it.
#[derive(Clone)]
pub(super) struct ParkingStore {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<dyn FailureStore>,
}

impl ParkingStore {
    /// Puts the record of an event for the first time. One that is there is as good: an owner before put it,
    /// or this call did when it was made first. So a call that comes late writes over nothing.
    pub(super) async fn park(self, tracked: Tracked, record: DeadLetterRecord) -> Stored {
        let key = record.identity().key(FailureKind::Parked);
        let put = || async {
            let entry = FailureEntry::of(&record)?;
            match self.store.put(&key, &entry, &Expected::Absent).await {
                Ok(_) | Err(StoreError::Conflict) => Ok(()),
                Err(StoreError::Failed(error)) => Err(error),
            }
        };
        until_done(&self.shared, &tracked.event, PARK, put).await;
        Stored::Parked(tracked)
    }

    /// Writes the record of an event again that came from there with this version.
    pub(super) async fn park_again(
        self,
        tracked: Tracked,
        record: DeadLetterRecord,
        version: VersionToken,
        due: SystemTime,
    ) -> Stored {
        match self.put_over(&tracked, &record, version).await {
            Some(_version) => Stored::ParkedAgain(tracked, due),
            None => Stored::Changed(tracked),
        }
    }

    /// Puts a record in the place of this version. `None` where somebody else has changed that.
    async fn put_over(
        &self,
        tracked: &Tracked,
        record: &DeadLetterRecord,
        version: VersionToken,
    ) -> Option<VersionToken> {
        let key = record.identity().key(FailureKind::Parked);
        let expected = Expected::Version(version);
        let put = || async {
            let entry = FailureEntry::of(record)?;
            match self.store.put(&key, &entry, &expected).await {
                Ok(version) => Ok(Some(version)),
                Err(StoreError::Failed(error)) => Err(error),
                // A put whose answer was lost finds its own record.
                Err(StoreError::Conflict) => {
                    let found = self.store.read(&key).await?;
                    let found = found.filter(|found| found.content == entry.content);
                    Ok(found.map(|found| found.version))
                }
            }
        };
        until_done(&self.shared, &tracked.event, PARK_AGAIN, put).await
    }

    /// Writes down that an event is about to be handled that may end the process.
    pub(super) async fn mark(
        self,
        tracked: Tracked,
        record: Box<DeadLetterRecord>,
        version: VersionToken,
    ) -> Stored {
        match self.put_over(&tracked, &record, version).await {
            Some(version) => Stored::Marked(tracked, record, version),
            None => Stored::Changed(tracked),
        }
    }

    /// Deletes the record of an event that is over; before that the letter that it replays, where it is
    /// done: what is left in between says that it is not.
    pub(super) async fn remove(
        self,
        tracked: Tracked,
        key: FailureKey,
        version: VersionToken,
        ends_letter: bool,
    ) -> Stored {
        let remove = || async {
            if ends_letter {
                self.remove_letter(&key).await?;
            }
            match self.store.delete(&key, &version).await {
                Ok(()) => Ok(true),
                Err(StoreError::Failed(error)) => Err(error),
                Err(StoreError::Conflict) => Ok(false),
            }
        };
        match until_done(&self.shared, &tracked.event, REMOVE, remove).await {
            true => Stored::Removed(tracked),
            false => Stored::Changed(tracked),
        }
    }

    async fn remove_letter(&self, key: &FailureKey) -> Result<(), Error> {
        let letter = key.event.clone().key(FailureKind::Dead);
        let Some(found) = self.store.read(&letter).await? else { return Ok(()) };
        match self.store.delete(&letter, &found.version).await {
            // Whoever wrote it anew meanwhile wants it there.
            Ok(()) | Err(StoreError::Conflict) => Ok(()),
            Err(StoreError::Failed(error)) => Err(error),
        }
    }

    /// Reads an event that is due.
    pub(super) async fn read(self, key: FailureKey) -> Stored {
        let read = in_time(&self.shared, READ, self.store.read(&key)).await;
        Stored::Read(key.event.sequence_number, read)
    }

    /// Reads a page of the listing.
    pub(super) async fn list(self, prefix: FailurePrefix, after: Option<PageToken>) -> Stored {
        let list = self.store.list(&prefix, after.as_ref(), MAX_PAGE_ENTRIES);
        Stored::Listed(in_time(&self.shared, LIST, list).await)
    }
}

/// The event of a record.
pub(super) fn event_of(stored: &StoredFailure) -> Result<(DeadLetterRecord, Event), Error> {
    let record = stored.record()?;
    let event = record.to_event()?;
    Ok((record, event))
}
