//! What an answer of Blob Storage that is an error says: whom it is about, and what is to be done.
//!
//! By status and code of the service's own lists of them. An error without a code is not the service's:
//! something on the way has answered.

/// Whom an error is about, and so what becomes of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// The blob is not what the request expected: somebody else wrote or deleted it.
    Changed,
    /// Blocks that a commit names are not there.
    BlocksGone,
    /// The same request may succeed at any time.
    Again,
    /// The service asks for less.
    Busy,
    /// Somebody has a lease on the blob, which may end by itself.
    Leased,
    /// This blob cannot be written, whoever tries; others can.
    OneBlob,
    /// What was to be copied is not in the state that the request named.
    SourceChanged,
    /// What was to be copied cannot be read by the service.
    Source,
    /// Whatever else is asked of the container meets the same.
    Everything,
}

/// What the error says, and what is to be done in words that follow a semicolon.
pub(super) fn meaning(status: u16, code: &str) -> (Meaning, &'static str) {
    match (status, code) {
        // With a status of its own, or with that of the source.
        (412, "SourceConditionNotMet" | "CannotVerifyCopySource") => {
            (Meaning::SourceChanged, "the source is not what it was")
        }
        (_, "CannotVerifyCopySource" | "InvalidSourceBlobUrl" | "InvalidSourceBlobType") => {
            (Meaning::Source, "the service must be able to read the source")
        }
        (409, "BlobAlreadyExists") | (412, "ConditionNotMet" | "") | (404, "BlobNotFound") => {
            (Meaning::Changed, "somebody else wrote or deleted the blob")
        }
        (416, _) => (Meaning::Changed, "the blob is shorter than it was"),
        (400, "InvalidBlockList") => (
            Meaning::BlocksGone,
            "blocks of the blob are gone: a week has passed, or another commit",
        ),
        (400, "Md5Mismatch" | "Crc64Mismatch") => (Meaning::Again, "bytes were changed on the way"),
        (429 | 503, _) => (Meaning::Busy, "ask for less"),
        (408 | 500 | 502 | 504, _) => (Meaning::Again, "it may pass"),
        (409, _) => of_conflict(code),
        (412, _) => (Meaning::Leased, "remove the lease"),
        (401 | 403, _) => of_access(code),
        (400 | 413 | 414, code) if !code.is_empty() || status != 400 => of_request(code),
        (404, "ContainerNotFound") => (Meaning::Everything, "create it"),
        (300..500, "") => {
            (Meaning::Everything, "this is no answer of Blob Storage: look at what is on the way")
        }
        _ => (Meaning::Everything, "look the code up in the service's list of error codes"),
    }
}

fn of_conflict(code: &str) -> (Meaning, &'static str) {
    match code {
        "ContainerBeingDeleted" => (Meaning::Again, "the container is being deleted"),
        "AccountBeingCreated" | "SystemInUse" => (Meaning::Again, "it may pass"),
        "PendingCopyOperation" => {
            (Meaning::Again, "the blob is being copied to: wait, or abort that")
        }
        "LeaseAlreadyPresent" => (Meaning::Leased, "remove the lease"),
        "BlobArchived" => {
            (Meaning::OneBlob, "the blob is in the archive tier: rehydrate it, or delete it")
        }
        "BlobBeingRehydrated" => {
            (Meaning::OneBlob, "the blob comes back from the archive tier: wait")
        }
        "BlobImmutableDueToPolicy" => {
            (Meaning::OneBlob, "remove the policy, or wait until it is over")
        }
        "BlobImmutableDueToLegalHold" => (Meaning::OneBlob, "remove the legal hold"),
        "SnapshotsPresent" => (Meaning::OneBlob, "the blob has snapshots: delete them first"),
        "InvalidBlobType" => (
            Meaning::OneBlob,
            "a blob of another type has the name: delete it, or use another name",
        ),
        "ResourceTypeMismatch"
        | "PathAlreadyExists"
        | "PathConflict"
        | "OperationNotSupportedOnDirectory" => (
            Meaning::OneBlob,
            "the name is a directory, or leads through a file: use another name, or remove it",
        ),
        "BlobOperationNotSupported" => (
            Meaning::OneBlob,
            "the blob was made as a file of Data Lake Storage: delete it, or use another name",
        ),
        "BlockCountExceedsLimit" => (
            Meaning::OneBlob,
            "blocks of other uploads wait under the name: put any blob there, which ends them",
        ),
        "ContainerDisabled" => (Meaning::Everything, "the container is disabled"),
        "AccountQuotaExceeded" => (Meaning::Everything, "the account is full"),
        "" => {
            (Meaning::Everything, "this is no answer of Blob Storage: look at what is on the way")
        }
        _ => (Meaning::OneBlob, "look the code up in the service's list of error codes"),
    }
}

fn of_access(code: &str) -> (Meaning, &'static str) {
    match code {
        "UnauthorizedBlobOverwrite" => (
            Meaning::OneBlob,
            "the signature allows to create blobs and not to replace them, and there is one",
        ),
        "AccountIsDisabled" => {
            (Meaning::Everything, "the account is disabled: look at its subscription")
        }
        "InsufficientAccountPermissions" => (
            Meaning::Everything,
            "the account takes nothing now: it is full, read-only or being failed over",
        ),
        "AuthorizationFailure" => (
            Meaning::Everything,
            "its network rules must let this machine in, and its signature or role must be valid",
        ),
        "AuthorizationSourceIPMismatch" => {
            (Meaning::Everything, "its signature is for other addresses than this machine's")
        }
        "AuthorizationProtocolMismatch" => (Meaning::Everything, "its signature is for https only"),
        _ => (
            Meaning::Everything,
            "its signature or role must be valid and allow to read, list, create and write blobs",
        ),
    }
}

fn of_request(code: &str) -> (Meaning, &'static str) {
    match code {
        "InvalidBlobOrBlock" => (
            Meaning::OneBlob,
            "blocks of another upload wait under the name, with ids of another length: put any blob \
             there, which ends them, or wait a week",
        ),
        "InvalidResourceName" | "InvalidUri" => {
            (Meaning::OneBlob, "the service takes no such name: use another one")
        }
        "InvalidMetadata" | "EmptyMetadataKey" | "MetadataTooLarge" => (
            Meaning::OneBlob,
            "names of metadata are letters, digits and _, values are ASCII, 8 KiB of both",
        ),
        "InvalidAuthenticationInfo"
        | "MissingRequiredHeader"
        | "UnsupportedHeader"
        | "UnsupportedHttpVerb"
        | "InvalidHttpVerb"
        | "UnsupportedQueryParameter"
        | "InvalidQueryParameterValue"
        | "FeatureVersionMismatch"
        | "BlobAccessTierNotSupportedForAccountType" => {
            (Meaning::Everything, "the account does not take what is asked of it")
        }
        "" | "RequestBodyTooLarge" | "RequestEntityTooLarge" | "BlockListTooLong" => {
            (Meaning::OneBlob, "it is too large")
        }
        _ => (Meaning::OneBlob, "look the code up in the service's list of error codes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_about_somebody() {
        for (status, code, meant) in [
            (409, "BlobAlreadyExists", Meaning::Changed),
            (412, "ConditionNotMet", Meaning::Changed),
            (412, "", Meaning::Changed),
            (404, "BlobNotFound", Meaning::Changed),
            (416, "InvalidRange", Meaning::Changed),
            (400, "InvalidBlockList", Meaning::BlocksGone),
            (400, "Md5Mismatch", Meaning::Again),
            (400, "Crc64Mismatch", Meaning::Again),
            (408, "", Meaning::Again),
            (500, "OperationTimedOut", Meaning::Again),
            (500, "InternalError", Meaning::Again),
            (502, "", Meaning::Again),
            (504, "", Meaning::Again),
            (409, "ContainerBeingDeleted", Meaning::Again),
            (409, "AccountBeingCreated", Meaning::Again),
            (409, "PendingCopyOperation", Meaning::Again),
            (429, "", Meaning::Busy),
            (503, "ServerBusy", Meaning::Busy),
            (503, "OperationTimedOut", Meaning::Busy),
            (412, "LeaseIdMissing", Meaning::Leased),
            (412, "LeaseIdMismatchWithBlobOperation", Meaning::Leased),
            (412, "LeaseLost", Meaning::Leased),
            (409, "LeaseAlreadyPresent", Meaning::Leased),
            (409, "BlobArchived", Meaning::OneBlob),
            (409, "BlobBeingRehydrated", Meaning::OneBlob),
            (409, "BlobImmutableDueToPolicy", Meaning::OneBlob),
            (409, "BlobImmutableDueToLegalHold", Meaning::OneBlob),
            (409, "SnapshotsPresent", Meaning::OneBlob),
            (409, "InvalidBlobType", Meaning::OneBlob),
            (409, "ResourceTypeMismatch", Meaning::OneBlob),
            (409, "PathConflict", Meaning::OneBlob),
            (409, "BlobOperationNotSupported", Meaning::OneBlob),
            (409, "BlockCountExceedsLimit", Meaning::OneBlob),
            (409, "OfLaterYears", Meaning::OneBlob),
            (412, "SourceConditionNotMet", Meaning::SourceChanged),
            (412, "CannotVerifyCopySource", Meaning::SourceChanged),
            (403, "CannotVerifyCopySource", Meaning::Source),
            (503, "CannotVerifyCopySource", Meaning::Source),
            (400, "InvalidSourceBlobUrl", Meaning::Source),
            (400, "InvalidBlobOrBlock", Meaning::OneBlob),
            (400, "InvalidResourceName", Meaning::OneBlob),
            (400, "InvalidMetadata", Meaning::OneBlob),
            (400, "BlockListTooLong", Meaning::OneBlob),
            (400, "OfLaterYears", Meaning::OneBlob),
            (413, "RequestBodyTooLarge", Meaning::OneBlob),
            (413, "", Meaning::OneBlob),
            (414, "", Meaning::OneBlob),
            (403, "UnauthorizedBlobOverwrite", Meaning::OneBlob),
            (403, "AuthenticationFailed", Meaning::Everything),
            (403, "AuthorizationPermissionMismatch", Meaning::Everything),
            (403, "AccountIsDisabled", Meaning::Everything),
            (403, "InsufficientAccountPermissions", Meaning::Everything),
            (401, "NoAuthenticationInformation", Meaning::Everything),
            (404, "ContainerNotFound", Meaning::Everything),
            (404, "ResourceNotFound", Meaning::Everything),
            (409, "ContainerDisabled", Meaning::Everything),
            (409, "AccountQuotaExceeded", Meaning::Everything),
            (400, "InvalidAuthenticationInfo", Meaning::Everything),
            (307, "", Meaning::Everything),
            (400, "", Meaning::Everything),
            (404, "", Meaning::Everything),
            (407, "", Meaning::Everything),
            (409, "", Meaning::Everything),
        ] {
            let (is, advice) = meaning(status, code);
            assert_eq!(is, meant, "{status} {code}");
            assert!(!advice.is_empty() && !advice.ends_with('.'), "{status} {code}: {advice}");
        }
    }
}
