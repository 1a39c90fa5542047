//! Whose fault it is that a store does not take a file, or does not look at one.

use std::time::Duration;

use crate::blob_store::BlobError;
use crate::error::ErrorClass;
use crate::outcome::{Failure, Outcome};

/// How long a busy store is left alone by a task, if it did not say how long.
const BUSY_WAIT: Duration = Duration::from_secs(4);

/// What becomes of the task.
pub(super) fn store_failed(error: BlobError) -> Outcome {
    match &error {
        BlobError::Refused { .. } => {
            Outcome::dead_letter(Failure::from_error(ErrorClass::Permanent, &error))
        }
        BlobError::Unusable { .. } => {
            Outcome::abort(Failure::from_error(ErrorClass::Permanent, &error))
        }
        BlobError::Transient { .. } | BlobError::Changed { .. } => {
            Outcome::retry(Failure::from_error(ErrorClass::Transient, &error))
        }
        // It counts for no attempt: the file is not at fault.
        BlobError::Busy { wait, .. } => {
            let failure = Failure::from_error(ErrorClass::Throttling, &error);
            Outcome::postpone(wait.unwrap_or(BUSY_WAIT), failure)
        }
    }
}
