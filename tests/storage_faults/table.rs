//! The table of docs/troubleshooting.md: what Blob Storage answers, and what becomes of it.

use std::collections::BTreeMap;

use longshore::blob_store::BlobError;

use crate::storage_double::refusal::*;
use crate::storage_double::{Operation, Refusal};

/// The table's third column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Becomes {
    Again,
    Later,
    DeadLetter,
    Stop,
}

impl Becomes {
    pub(crate) fn of(error: &BlobError) -> Self {
        match error {
            BlobError::Transient { .. } | BlobError::Changed { .. } => Self::Again,
            BlobError::Busy { .. } => Self::Later,
            BlobError::Refused { .. } => Self::DeadLetter,
            BlobError::Unusable { .. } => Self::Stop,
            other => unreachable!("{other}"),
        }
    }

    fn as_written(self) -> &'static str {
        match self {
            Self::Again => "again",
            Self::Later => "later",
            Self::DeadLetter => "dead letter",
            Self::Stop => "stop",
        }
    }
}

/// The table's refusals.
pub(crate) fn refusals() -> Vec<(Refusal, Becomes)> {
    use Becomes::*;
    let of = |becomes, refusals: &[Refusal]| {
        refusals.iter().map(|refusal| (refusal.clone(), becomes)).collect::<Vec<_>>()
    };
    [
        of(
            Again,
            &[
                OPERATION_TIMED_OUT,
                INTERNAL_ERROR,
                BAD_GATEWAY,
                CRC64_MISMATCH,
                MD5_MISMATCH,
                ACCOUNT_BEING_CREATED,
                PENDING_COPY_OPERATION,
                INVALID_BLOCK_LIST,
                CONDITION_NOT_MET,
                BLOB_ALREADY_EXISTS,
                BLOB_NOT_FOUND,
                LEASE_ID_MISSING,
                LEASE_ID_MISMATCH,
                LEASE_ALREADY_PRESENT,
            ],
        ),
        of(Later, &[SERVER_BUSY, TOO_MANY_REQUESTS]),
        of(
            DeadLetter,
            &[
                BLOB_ARCHIVED,
                BLOB_BEING_REHYDRATED,
                BLOB_IMMUTABLE_DUE_TO_POLICY,
                BLOB_IMMUTABLE_DUE_TO_LEGAL_HOLD,
                SNAPSHOTS_PRESENT,
                INVALID_BLOB_TYPE,
                RESOURCE_TYPE_MISMATCH,
                PATH_ALREADY_EXISTS,
                PATH_CONFLICT,
                OPERATION_NOT_SUPPORTED_ON_DIRECTORY,
                BLOB_OPERATION_NOT_SUPPORTED,
                UNAUTHORIZED_BLOB_OVERWRITE,
                REQUEST_BODY_TOO_LARGE,
                BLOCK_LIST_TOO_LONG,
                INVALID_RESOURCE_NAME,
                INVALID_URI,
                INVALID_METADATA,
                EMPTY_METADATA_KEY,
                METADATA_TOO_LARGE,
                INVALID_BLOB_OR_BLOCK,
                INVALID_BLOCK_ID,
                BLOCK_COUNT_EXCEEDS_LIMIT,
            ],
        ),
        of(
            Stop,
            &[
                CONTAINER_NOT_FOUND,
                CONTAINER_DISABLED,
                CONTAINER_BEING_DELETED,
                AUTHENTICATION_FAILED,
                NO_AUTHENTICATION_INFORMATION,
                AUTHORIZATION_PERMISSION_MISMATCH,
                AUTHORIZATION_FAILURE,
                ACCOUNT_IS_DISABLED,
                INSUFFICIENT_ACCOUNT_PERMISSIONS,
            ],
        ),
    ]
    .concat()
}

/// The requests that make a blob, one by one.
pub(crate) const WRITES: [Operation; 3] =
    [Operation::PutBlob, Operation::PutBlock, Operation::PutBlockList];

/// Whether the service answers this to such a request.
pub(crate) fn is_answered(refusal: &Refusal, operation: Operation) -> bool {
    match refusal.code {
        "ConditionNotMet" | "BlobAlreadyExists" | "BlobNotFound" => {
            operation != Operation::PutBlock
        }
        "InvalidBlockList" | "BlockListTooLong" => operation == Operation::PutBlockList,
        "InvalidBlobOrBlock" | "InvalidBlockId" | "BlockCountExceedsLimit" => {
            operation == Operation::PutBlock
        }
        _ => true,
    }
}

#[test]
fn the_table_of_the_documentation_is_this_one() {
    let page = include_str!("../../docs/troubleshooting.md");
    let (_, table) = page.split_once("## What Blob Storage answers").expect("the section");
    let mut written = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        // Some rows have no answer with a code.
        let cells: Vec<&str> = row.split(" | ").collect();
        let &[_, answer, becomes] = &cells[..] else { continue };
        for code in answer.split('`').skip(1).step_by(2) {
            written.insert(code, becomes);
        }
    }
    for (refusal, becomes) in refusals().iter().filter(|(refusal, _)| !refusal.code.is_empty()) {
        let code = refusal.code;
        let is = written.remove(code).unwrap_or_else(|| unreachable!("{code} is not in the table"));
        assert!(is.starts_with(becomes.as_written()), "{code}: {is}");
    }
    assert!(written.is_empty(), "{written:?}");
}
