//! Whose fault it is that a store does not take a file, or does not look at one.

use crate::blob_store::BlobError;
use crate::error::ErrorClass;
use crate::outcome::{Failure, Outcome};

/// What becomes of the task.
pub(super) fn store_failed(error: BlobError) -> Outcome {
    match &error {
        BlobError::Refused { .. } => {
            Outcome::dead_letter(Failure::from_error(ErrorClass::Permanent, &error))
        }
        BlobError::Unusable { .. } => {
            Outcome::abort(Failure::from_error(ErrorClass::Permanent, &error))
        }
        BlobError::Transient { .. } => {
            Outcome::retry(Failure::from_error(ErrorClass::Transient, &error))
        }
    }
}
