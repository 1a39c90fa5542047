//! What a refusal means for one blob's content: whose fault it is, and what is to be done.
//!
//! `answer` has the table, and docs/troubleshooting.md what it comes to.

use std::time::{Duration, SystemTime};

use azure_core_of_blob::error::ErrorKind;
use azure_core_of_blob::http::headers::{HeaderName, Headers};
use azure_core_of_blob::time::parse_rfc7231;

use super::answer::{Meaning, meaning};
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
    /// What was to be copied is in another state.
    SourceChanged,
    /// What was to be copied cannot be read.
    SourceRefused(Error),
    /// No blob can be written.
    Unusable(Error),
    /// The signature or the role does not allow this kind of request.
    NotAllowed(Error),
    /// The service is busy, and may have said how long it wants to be left alone; or it is not there.
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
                // No blob is at fault where nothing answers at the address.
                ErrorKind::Connection => Self::Busy(told(), None),
                _ => Self::Again(told()),
            };
        };
        match meaning(status, code).0 {
            Meaning::Changed => Self::Changed,
            Meaning::BlocksGone => Self::BlocksGone(told()),
            // For half a minute or more, and then it is missing.
            Meaning::Again if code == "ContainerBeingDeleted" => Self::Unusable(told()),
            // Most leases end by themselves, within a minute.
            Meaning::Again | Meaning::Leased => Self::Again(told()),
            Meaning::Busy => Self::Busy(told(), named_wait(error)),
            Meaning::OneBlob => Self::Refused(told()),
            Meaning::SourceChanged => Self::SourceChanged,
            Meaning::Source => Self::SourceRefused(told()),
            Meaning::Everything if code == "AuthorizationPermissionMismatch" => {
                Self::NotAllowed(told())
            }
            Meaning::Everything if (300..500).contains(&status) => Self::Unusable(told()),
            Meaning::Everything => Self::Again(told()),
        }
    }
}

/// A busy service is asked again after this, whatever it says.
const MOST_NAMED_WAIT: Duration = Duration::from_secs(5 * 60);

/// How long the service wants to be left alone, if it says so in one of its ways.
fn named_wait(error: &azure_core_of_blob::Error) -> Option<Duration> {
    match error.kind() {
        ErrorKind::HttpResponse { raw_response: Some(response), .. } => {
            wait_of(response.headers(), SystemTime::now()).map(|wait| wait.min(MOST_NAMED_WAIT))
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
            (404, "BlobNotFound", "Changed"),
            (412, "LeaseIdMissing", "Again"),
            (409, "BlobImmutableDueToPolicy", "Refused"),
            (409, "InvalidBlobType", "Refused"),
            (409, "BlobArchived", "Refused"),
            (400, "InvalidBlockId", "Refused"),
            (400, "InvalidBlockList", "BlocksGone"),
            (412, "SourceConditionNotMet", "SourceChanged"),
            (404, "CannotVerifyCopySource", "SourceRefused"),
            (400, "Crc64Mismatch", "Again"),
            (413, "RequestBodyTooLarge", "Refused"),
            (404, "ContainerNotFound", "Unusable"),
            (403, "AuthorizationPermissionMismatch", "NotAllowed"),
            (403, "AuthenticationFailed", "Unusable"),
            (403, "UnauthorizedBlobOverwrite", "Refused"),
            (409, "ContainerBeingDeleted", "Unusable"),
            (409, "AccountBeingCreated", "Again"),
            (400, "InvalidAuthenticationInfo", "Unusable"),
            (400, "", "Unusable"),
            (307, "", "Unusable"),
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
