//! What the service answers when it does not do what it is asked: status, code and text, as in its lists
//! of common error codes and of those of Blob Storage.

use std::time::SystemTime;

use super::request::Request;
use super::wire::{Answer, Head};

/// An answer of the service that is an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub status: u16,
    /// `x-ms-error-code`; empty where something on the way answers, and not the service.
    pub code: &'static str,
    pub message: &'static str,
    headers: Vec<(&'static str, String)>,
}

const fn refusal(status: u16, code: &'static str, message: &'static str) -> Refusal {
    Refusal { status, code, message, headers: Vec::new() }
}

// For now.

pub const SERVER_BUSY: Refusal = refusal(503, "ServerBusy", "Ingress is over the account limit.");
pub const OPERATION_TIMED_OUT: Refusal = refusal(
    500,
    "OperationTimedOut",
    "The operation could not be completed within the permitted time.",
);
pub const INTERNAL_ERROR: Refusal = refusal(
    500,
    "InternalError",
    "The server encountered an internal error. Please retry the request.",
);
/// Of a gateway, which is not the service.
pub const TOO_MANY_REQUESTS: Refusal = refusal(429, "", "Too Many Requests");
pub const BAD_GATEWAY: Refusal = refusal(502, "", "Bad Gateway");
pub const CONTAINER_BEING_DELETED: Refusal = refusal(
    409,
    "ContainerBeingDeleted",
    "The specified container is being deleted. Try operation later.",
);
pub const ACCOUNT_BEING_CREATED: Refusal = refusal(
    409,
    "AccountBeingCreated",
    "The specified account is in the process of being created.",
);
pub const PENDING_COPY_OPERATION: Refusal =
    refusal(409, "PendingCopyOperation", "There is currently a pending copy operation.");

// What was sent did not arrive as it was.

pub const MD5_MISMATCH: Refusal = refusal(
    400,
    "Md5Mismatch",
    "The MD5 value specified in the request did not match with the MD5 value calculated by the server.",
);
pub const CRC64_MISMATCH: Refusal = refusal(
    400,
    "Crc64Mismatch",
    "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.",
);

// Of what is copied.

/// Its status is that of the source, where that answered.
pub const CANNOT_VERIFY_COPY_SOURCE: Refusal = refusal(
    400,
    "CannotVerifyCopySource",
    "Could not verify the copy source within the specified time.",
);
pub const SOURCE_CONDITION_NOT_MET: Refusal = refusal(
    412,
    "SourceConditionNotMet",
    "The source condition specified using HTTP conditional header(s) is not met.",
);

// Of one blob.

pub const BLOB_ARCHIVED: Refusal =
    refusal(409, "BlobArchived", "This operation is not permitted on an archived blob.");
pub const BLOB_BEING_REHYDRATED: Refusal = refusal(
    409,
    "BlobBeingRehydrated",
    "This operation is not permitted because the blob is being rehydrated.",
);
pub const LEASE_ID_MISSING: Refusal = refusal(
    412,
    "LeaseIdMissing",
    "There is currently a lease on the blob and no lease ID was specified in the request.",
);
pub const LEASE_ID_MISMATCH: Refusal = refusal(
    412,
    "LeaseIdMismatchWithBlobOperation",
    "The lease ID specified did not match the lease ID for the blob.",
);
pub const LEASE_ALREADY_PRESENT: Refusal =
    refusal(409, "LeaseAlreadyPresent", "There is already a lease present.");
pub const BLOB_IMMUTABLE_DUE_TO_POLICY: Refusal = refusal(
    409,
    "BlobImmutableDueToPolicy",
    "This operation is not permitted as the blob is immutable due to a policy.",
);
pub const BLOB_IMMUTABLE_DUE_TO_LEGAL_HOLD: Refusal = refusal(
    409,
    "BlobImmutableDueToLegalHold",
    "This operation is not permitted as the blob is immutable due to one or more legal holds.",
);
pub const SNAPSHOTS_PRESENT: Refusal = refusal(
    409,
    "SnapshotsPresent",
    "This operation is not permitted because the blob has snapshots.",
);
pub const INVALID_BLOB_TYPE: Refusal =
    refusal(409, "InvalidBlobType", "The blob type is invalid for this operation.");
pub const BLOB_OPERATION_NOT_SUPPORTED: Refusal =
    refusal(409, "BlobOperationNotSupported", "Blob operation is not supported.");
/// The blob is a directory of an account with a hierarchical namespace.
pub const RESOURCE_TYPE_MISMATCH: Refusal = refusal(
    409,
    "ResourceTypeMismatch",
    "The specified resource type does not match the type of the existing resource.",
);
pub const PATH_ALREADY_EXISTS: Refusal =
    refusal(409, "PathAlreadyExists", "The specified path already exists.");
/// A part of the name is a file of such an account.
pub const PATH_CONFLICT: Refusal = refusal(
    409,
    "PathConflict",
    "The specified path, or an element of the path, exists and its resource type is invalid for this operation.",
);
pub const OPERATION_NOT_SUPPORTED_ON_DIRECTORY: Refusal = refusal(
    409,
    "OperationNotSupportedOnDirectory",
    "The requested operation is not supported on a directory.",
);
pub const UNAUTHORIZED_BLOB_OVERWRITE: Refusal = refusal(
    403,
    "UnauthorizedBlobOverwrite",
    "This request is not authorized to perform blob overwrites.",
);
pub const REQUEST_BODY_TOO_LARGE: Refusal = refusal(
    413,
    "RequestBodyTooLarge",
    "The request body is too large and exceeds the maximum permissible limit.",
);
pub const INVALID_RESOURCE_NAME: Refusal =
    refusal(400, "InvalidResourceName", "The specified resource name contains invalid characters.");
pub const INVALID_URI: Refusal =
    refusal(400, "InvalidUri", "The requested URI does not represent any resource on the server.");
pub const EMPTY_METADATA_KEY: Refusal =
    refusal(400, "EmptyMetadataKey", "The key for one of the metadata key-value pairs is empty.");
pub const INVALID_METADATA: Refusal = refusal(
    400,
    "InvalidMetadata",
    "The specified metadata is invalid. It includes characters that are not permitted.",
);
pub const METADATA_TOO_LARGE: Refusal = refusal(
    400,
    "MetadataTooLarge",
    "The size of the specified metadata exceeds the maximum size permitted.",
);
pub const CONDITION_NOT_MET: Refusal = refusal(
    412,
    "ConditionNotMet",
    "The condition specified using HTTP conditional header(s) is not met.",
);
pub const BLOB_ALREADY_EXISTS: Refusal =
    refusal(409, "BlobAlreadyExists", "The specified blob already exists.");
pub const BLOB_NOT_FOUND: Refusal =
    refusal(404, "BlobNotFound", "The specified blob does not exist.");

// Of blocks.

pub const INVALID_BLOCK_LIST: Refusal =
    refusal(400, "InvalidBlockList", "The specified block list is invalid.");
pub const INVALID_BLOCK_ID: Refusal = refusal(
    400,
    "InvalidBlockId",
    "The specified block ID is invalid. The block ID must be Base64-encoded.",
);
/// Of a block: its id is not as wide as the others of its blob.
pub const INVALID_BLOB_OR_BLOCK: Refusal =
    refusal(400, "InvalidBlobOrBlock", "The specified blob or block content is invalid.");
pub const BLOCK_COUNT_EXCEEDS_LIMIT: Refusal = refusal(
    409,
    "BlockCountExceedsLimit",
    "The uncommitted block count cannot exceed the maximum limit of 100,000 blocks.",
);
pub const BLOCK_LIST_TOO_LONG: Refusal =
    refusal(400, "BlockListTooLong", "The block list may not contain more than 50,000 blocks.");

// Of everything in the container, or the account.

pub const CONTAINER_NOT_FOUND: Refusal =
    refusal(404, "ContainerNotFound", "The specified container does not exist.");
pub const CONTAINER_DISABLED: Refusal = refusal(
    409,
    "ContainerDisabled",
    "The specified container has been disabled by the administrator.",
);
/// A signature that is over, or was never right.
pub const AUTHENTICATION_FAILED: Refusal = refusal(
    403,
    "AuthenticationFailed",
    "Server failed to authenticate the request. Make sure the value of Authorization header is formed \
     correctly including the signature.",
);
pub const AUTHORIZATION_FAILURE: Refusal = refusal(
    403,
    "AuthorizationFailure",
    "This request is not authorized to perform this operation.",
);
pub const AUTHORIZATION_PERMISSION_MISMATCH: Refusal = refusal(
    403,
    "AuthorizationPermissionMismatch",
    "This request is not authorized to perform this operation using this permission.",
);
pub const NO_AUTHENTICATION_INFORMATION: Refusal = refusal(
    401,
    "NoAuthenticationInformation",
    "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
);
pub const ACCOUNT_IS_DISABLED: Refusal =
    refusal(403, "AccountIsDisabled", "The specified account is disabled.");
/// An account that takes no more, for it is full or in arrears.
pub const INSUFFICIENT_ACCOUNT_PERMISSIONS: Refusal = refusal(
    403,
    "InsufficientAccountPermissions",
    "The account being accessed does not have sufficient permissions to execute this operation.",
);

impl Refusal {
    /// It asks to wait so long: seconds, or an HTTP date.
    #[must_use]
    pub fn retry_after(self, value: impl ToString) -> Self {
        self.header("retry-after", value)
    }

    /// It asks to wait so many milliseconds, as other services of Azure do.
    #[must_use]
    pub fn retry_after_ms(self, milliseconds: u64) -> Self {
        self.header("x-ms-retry-after-ms", milliseconds)
    }

    /// It asks to be left alone until then, as an HTTP date.
    #[must_use]
    pub fn retry_at(self, at: SystemTime) -> Self {
        self.retry_after(httpdate::fmt_http_date(at))
    }

    /// It is closer explained, as some codes are.
    #[must_use]
    pub fn saying(self, message: &'static str) -> Self {
        Self { message, ..self }
    }

    fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub(super) fn answer(&self, request: &Request) -> Answer {
        let Self { status, code, message, .. } = self;
        let id = "1b2c3d4e-501e-0042-7a5b-0c9d8e000000";
        let mut headers = vec![
            ("server".to_owned(), "Windows-Azure-Blob/1.0 Microsoft-HTTPAPI/2.0".to_owned()),
            ("date".to_owned(), httpdate::fmt_http_date(SystemTime::now())),
        ];
        let mut body = String::new();
        if !code.is_empty() {
            headers.push(("x-ms-request-id".to_owned(), id.to_owned()));
            headers.push(("x-ms-version".to_owned(), "2021-12-02".to_owned()));
            headers.push(("x-ms-error-code".to_owned(), (*code).to_owned()));
            headers.push(("content-type".to_owned(), "application/xml".to_owned()));
            // With the mark at its beginning that the service sends.
            body = format!(
                "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code>\
                 <Message>{message}\nRequestId:{id}\nTime:2026-01-01T00:00:00.0000000Z</Message></Error>"
            );
        }
        headers.extend(self.headers.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        if request.is_head() {
            body.clear();
        }
        let first = format!("HTTP/1.1 {status} {message}");
        Answer { head: Head { first, headers }, body: body.into_bytes(), cut: None, is_last: false }
    }
}
