//! What marks a letter as one that a job replays, and how a letter is read by it.

use std::time::SystemTime;

use super::journal::Note;
use crate::dead_letter::record::DeadLetterRecord;
use crate::error::{Error, ErrorClass, error_chain};
use crate::failure_store::{
    EventIdentity, Expected, FailureEntry, FailureKey, FailureKind, FailureStore, StoreError,
    VersionToken,
};
use crate::timestamp::rfc3339;

const RELEASE: &str = "take the mark of the job from the letter";

/// So often a letter is read again because it changed under us.
const ATTEMPTS: usize = 5;

/// The job that replays a letter now.
pub(super) fn replaying(letter: &DeadLetterRecord) -> Option<&str> {
    letter.due.as_ref().and(letter.job.as_deref())
}

/// The letter with the mark of a job.
pub(super) fn marked(mut letter: DeadLetterRecord, job: &str, now: SystemTime) -> DeadLetterRecord {
    letter.job = Some(job.to_owned());
    letter.due = Some(rfc3339(now));
    letter
}

/// Removes the mark of a job from a letter, so that another job can replay it. A letter that is gone, or that
/// another job has, is left alone.
///
/// # Errors
/// As the store fails; `BadData` if the letter cannot be read.
///
/// # Cancel safety
/// Nothing is lost.
pub async fn release(
    store: &dyn FailureStore,
    event: &EventIdentity,
    job: &str,
) -> Result<bool, Error> {
    let key = event.clone().key(FailureKind::Dead);
    for _ in 0..ATTEMPTS {
        let Some(stored) = store.read(&key).await? else { return Ok(false) };
        let mut letter = stored.record()?;
        if replaying(&letter) != Some(job) {
            return Ok(false);
        }
        letter.due = None;
        match put(store, &key, &letter, &Expected::Version(stored.version)).await {
            Ok(_version) => return Ok(true),
            Err(StoreError::Conflict) => {}
            Err(StoreError::Failed(error)) => return Err(error),
        }
    }
    Err(keeps_changing(RELEASE, &key))
}

pub(super) async fn put(
    store: &dyn FailureStore,
    key: &FailureKey,
    record: &DeadLetterRecord,
    expected: &Expected,
) -> Result<VersionToken, StoreError> {
    store.put(key, &FailureEntry::of(record)?, expected).await
}

pub(super) fn keeps_changing(operation: &'static str, key: &FailureKey) -> Error {
    Error::new(ErrorClass::Transient, operation, format!("{key} changes all the time"))
}

/// Why a letter failed again.
pub(super) fn failure_of(letter: &DeadLetterRecord) -> Note {
    Note { class: Some(letter.error.class), why: letter.error.message.clone() }
}

/// A note of an error.
pub(super) fn note(error: &Error) -> Note {
    Note { class: None, why: error_chain(error).join(": ") }
}

/// A note of something else.
pub(super) fn noted(why: impl Into<String>) -> Note {
    Note { class: None, why: why.into() }
}
