//! Changes what becomes of parked events, each by the version that was listed: what an owner rewrites or settles
//! meanwhile is left alone.

use std::time::SystemTime;

use super::ChangeArgs;
use crate::dead_letters::acts::{self, Acted, Deed};
use crate::dead_letters::opened::Opened;
use crate::terminal::tell;
use crate::{CommandError, Ending, brief};
use longshore::Error;
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::failure_store::{
    Expected, FailureEntry, FailureKind, FailureStore, ListedFailure, StoreError, StoredFailure,
};
use longshore::replay::release;
use longshore::timestamp::rfc3339;

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Retry,
    Drop,
    GiveUp,
}

pub(super) async fn run(args: ChangeArgs, change: Change) -> Result<Ending, CommandError> {
    let ChangeArgs { filter, all, dry_run, common } = args;
    if let Some(fault) = filter.fault(all) {
        tell(fault);
        return Ok(Ending::Unusable);
    }
    let Some(opened) = Opened::new(&common.config, common.report)? else {
        return Ok(Ending::Unusable);
    };
    let act = |event: ListedFailure| {
        let store = &*opened.store;
        async move {
            let changed = match change {
                Change::Retry => retry(store, &event).await,
                Change::Drop => drop_one(store, &event).await,
                Change::GiveUp => give_up(store, &event).await,
            };
            match changed {
                Ok(()) => Acted::Done,
                Err(StoreError::Conflict) => Acted::Changed,
                Err(StoreError::Failed(error)) => Acted::Failed(brief(&error)),
            }
        }
    };
    let kind = FailureKind::Parked;
    let acts = acts::each(&opened, &filter, kind, dry_run, act).await?;
    let deed = match change {
        Change::Retry => Deed { figure: "due_now", words: "due now in" },
        Change::Drop => Deed { figure: "dropped", words: "dropped from" },
        Change::GiveUp => Deed { figure: "given_up", words: "given up in" },
    };
    acts.give(&opened, kind, deed, dry_run, common.report)
}

/// The event as it was listed.
async fn unchanged(
    store: &dyn FailureStore,
    event: &ListedFailure,
) -> Result<DeadLetterRecord, StoreError> {
    match store.read(&event.key).await? {
        Some(stored) if stored.version == event.version => Ok(stored.record()?),
        _ => Err(StoreError::Conflict),
    }
}

async fn retry(store: &dyn FailureStore, event: &ListedFailure) -> Result<(), StoreError> {
    let mut record = unchanged(store, event).await?;
    record.due = Some(rfc3339(SystemTime::now()));
    let expected = Expected::Version(event.version.clone());
    store.put(&event.key, &FailureEntry::of(&record)?, &expected).await.map(drop)
}

/// It need not be readable.
async fn drop_one(store: &dyn FailureStore, event: &ListedFailure) -> Result<(), StoreError> {
    store.delete(&event.key, &event.version).await?;
    if let Some(job) = &event.meta.job {
        release(store, &event.key.event, job).await?;
    }
    Ok(())
}

/// The letter first: whoever is killed in between leaves an event twice, and not never.
async fn give_up(store: &dyn FailureStore, event: &ListedFailure) -> Result<(), StoreError> {
    let mut record = unchanged(store, event).await?;
    (record.due, record.takeovers) = (None, 0);
    let dead = event.key.event.clone().key(FailureKind::Dead);
    // That of a replay has a letter, which this one takes the place of.
    let before = store.read(&dead).await?;
    let expected = match &before {
        Some(StoredFailure { version, .. }) => Expected::Version(version.clone()),
        None => Expected::Absent,
    };
    let written = store.put(&dead, &FailureEntry::of(&record)?, &expected).await?;
    let is_there = store.read(&event.key).await?.is_some_and(|it| it.version == event.version);
    let deleted = match is_there {
        true => store.delete(&event.key, &event.version).await,
        false => Err(StoreError::Conflict),
    };
    let Err(StoreError::Conflict) = deleted else { return deleted };
    // An owner handled it meanwhile, and has its own word on it. One that wrote over our letter keeps its own.
    let undone = match before.map(|stored| stored.record().and_then(|it| FailureEntry::of(&it))) {
        Some(entry) => store.put(&dead, &entry?, &Expected::Version(written)).await.map(drop),
        None => store.delete(&dead, &written).await,
    };
    match undone {
        Err(StoreError::Failed(error)) => Err(StoreError::Failed(not_undone(error))),
        _ => Err(StoreError::Conflict),
    }
}

fn not_undone(error: Error) -> Error {
    let message =
        "it changed meanwhile, and the letter that was written for it could not be taken back";
    Error::new(error.class(), "give the event up", message).with_source(error)
}
