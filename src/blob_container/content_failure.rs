//! What a refusal means for one blob's content: whose fault it is, and what is to be done.
//!
//! | answer | meaning |
//! | --- | --- |
//! | 409 `BlobAlreadyExists`, 412 `ConditionNotMet`, 412 without a code | somebody else wrote the blob |
//! | 416 | the blob is shorter than it was |
//! | 400 `InvalidBlockList` | blocks are gone: somebody else committed, or a week has passed |
//! | 400 `Md5Mismatch`, `Crc64Mismatch` | the bytes changed on the way: sent again |
//! | 429, 503 | busy; the time that it names is kept |
//! | 408, 500, 502, 504, `ContainerBeingDeleted`, no answer | sent again |
//! | 403 `AuthorizationPermissionMismatch` | this kind of request is not allowed |
//! | 401, other 403 | nothing can be written: a signature that is over, an account that is disabled |
//! | 404, `ContainerDisabled`, an account that is full | the same |
//! | any other 4xx | this blob cannot be written: leases, policies, types, names |

use std::time::{Duration, SystemTime};

use azure_core_of_blob::error::ErrorKind;
use azure_core_of_blob::http::headers::{HeaderName, Headers};
use azure_core_of_blob::time::parse_rfc7231;

use super::failure::{Failures, answer};
use crate::error::Error;

/// See the [module](self).
#[derive(Debug)]
pub(crate) enum ContentFailure {
    /// The blob is not what was expected.
    Changed,
    /// Staged blocks are not there any more.
    BlocksGone(Error),
    /// This blob cannot be written.
    Refused(Error),
    /// No blob can be written.
    Unusable(Error),
    /// The signature or the role does not allow this kind of request.
    NotAllowed(Error),
    /// The service is busy, and may have said how long it wants to be left alone.
    Busy(Error, Option<Duration>),
    /// It may be tried again at once.
    Again(Error),
}

impl ContentFailure {
    pub(super) fn of(
        failures: &Failures,
        operation: &'static str,
        error: &azure_core_of_blob::Error,
    ) -> Self {
        let told = || failures.error(operation, error);
        let Some((status, code)) = answer(error) else {
            return match error.kind() {
                ErrorKind::Credential => Self::Unusable(told()),
                _ => Self::Again(told()),
            };
        };
        match (status, code) {
            (409, "BlobAlreadyExists") | (412, "ConditionNotMet" | "") | (416, _) => Self::Changed,
            (400, "InvalidBlockList") => Self::BlocksGone(told()),
            (400, "Md5Mismatch" | "Crc64Mismatch")
            | (408 | 500 | 502 | 504, _)
            | (_, "ContainerBeingDeleted") => Self::Again(told()),
            (429 | 503, _) => Self::Busy(told(), named_wait(error)),
            (403, "AuthorizationPermissionMismatch") => Self::NotAllowed(told()),
            (401 | 403 | 404, _) | (_, "ContainerDisabled" | "AccountQuotaExceeded") => {
                Self::Unusable(told())
            }
            (400..500, _) => Self::Refused(told()),
            _ => Self::Again(told()),
        }
    }
}

/// How long the service wants to be left alone, where it says so in one of its ways.
fn named_wait(error: &azure_core_of_blob::Error) -> Option<Duration> {
    match error.kind() {
        ErrorKind::HttpResponse { raw_response: Some(response), .. } => {
            wait_of(response.headers(), SystemTime::now())
        }
        _ => None,
    }
}

fn wait_of(headers: &Headers, now: SystemTime) -> Option<Duration> {
    const MILLIS: [HeaderName; 2] =
        [HeaderName::from_static("x-ms-retry-after-ms"), HeaderName::from_static("retry-after-ms")];
    const RETRY_AFTER: HeaderName = HeaderName::from_static("retry-after");
    let millis = MILLIS.iter().find_map(|name| headers.get_optional_str(name)?.parse().ok());
    if let Some(millis) = millis {
        return Some(Duration::from_millis(millis));
    }
    let named = headers.get_optional_str(&RETRY_AFTER)?.trim();
    match named.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let at: SystemTime = parse_rfc7231(named).ok()?.into();
            Some(at.duration_since(now).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use azure_core_of_blob::http::StatusCode;

    use super::*;

    fn of(status: u16, code: &str) -> ContentFailure {
        let failures =
            Failures { container: "https://acc.example/files".to_owned(), signature: None };
        let error_code = (!code.is_empty()).then(|| code.to_owned());
        let kind = ErrorKind::HttpResponse {
            status: StatusCode::from(status),
            error_code,
            raw_response: None,
        };
        let error = azure_core_of_blob::Error::with_message(kind, "a body");
        ContentFailure::of(&failures, "store", &error)
    }

    #[test]
    fn each_answer_has_its_meaning() {
        for (status, code, meaning) in [
            (412, "ConditionNotMet", "Changed"),
            (412, "", "Changed"),
            (409, "BlobAlreadyExists", "Changed"),
            (416, "InvalidRange", "Changed"),
            (412, "LeaseIdMissing", "Refused"),
            (409, "BlobImmutableDueToPolicy", "Refused"),
            (409, "InvalidBlobType", "Refused"),
            (409, "BlobArchived", "Refused"),
            (400, "InvalidBlockId", "Refused"),
            (400, "InvalidBlockList", "BlocksGone"),
            (400, "Crc64Mismatch", "Again"),
            (413, "RequestBodyTooLarge", "Refused"),
            (404, "ContainerNotFound", "Unusable"),
            (403, "AuthorizationPermissionMismatch", "NotAllowed"),
            (403, "AuthenticationFailed", "Unusable"),
            (409, "ContainerBeingDeleted", "Again"),
            (500, "OperationTimedOut", "Again"),
            (503, "ServerBusy", "Busy"),
            (429, "", "Busy"),
            (599, "", "Again"),
        ] {
            let is = format!("{:?}", of(status, code));
            assert!(is.starts_with(meaning), "{status} {code}: {is}");
        }
    }

    #[test]
    fn a_wait_is_read_in_each_of_its_forms() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (name, value, wait) in [
            ("x-ms-retry-after-ms", "250", Some(Duration::from_millis(250))),
            ("retry-after-ms", "1500", Some(Duration::from_millis(1500))),
            ("retry-after", "7", Some(Duration::from_secs(7))),
            ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT", Some(Duration::from_secs(30))),
            ("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT", Some(Duration::ZERO)),
            ("retry-after", "soon", None),
        ] {
            let mut headers = Headers::new();
            headers.insert(HeaderName::from_static(name), value.to_owned());
            assert_eq!(wait_of(&headers, at), wait, "{name}: {value}");
        }
        assert_eq!(wait_of(&Headers::new(), at), None);
    }
}
