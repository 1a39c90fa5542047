//! What a failure of Blob Storage means for us, by status and error code.

use azure_core_of_blob::Error as SdkError;
use azure_core_of_blob::error::ErrorKind;

use super::answer::{Meaning, meaning};
use crate::error::{Error, ErrorClass, error_chain};
use crate::secret::{HIDDEN, without_signatures};

/// How a conditional write failed.
pub(crate) enum WriteFailure {
    /// The blob is not what was expected.
    Conflict,
    /// Anything else.
    Failed(Error),
}

/// Turns failures of one container into errors that hold no secret.
pub(crate) struct Failures {
    /// The container's address without its signature.
    pub(crate) container: String,
    pub(crate) signature: Option<String>,
}

impl Failures {
    /// The error of a read or a listing.
    pub(crate) fn error(&self, operation: &'static str, error: &SdkError) -> Error {
        let (class, message) = self.meaning(error);
        let cause = error_chain(error)
            .iter()
            .map(|text| self.without_secrets(text))
            .collect::<Vec<_>>()
            .join(": ");
        Error::new(class, operation, message).with_source(cause)
    }

    /// What a refused conditional write means.
    pub(crate) fn of_write(&self, operation: &'static str, error: &SdkError) -> WriteFailure {
        match answer(error).map(|(status, code)| meaning(status, code)) {
            Some((Meaning::Changed, _)) => WriteFailure::Conflict,
            _ => WriteFailure::Failed(self.error(operation, error)),
        }
    }

    fn meaning(&self, error: &SdkError) -> (ErrorClass, String) {
        let container = &self.container;
        let Some((status, code)) = answer(error) else {
            return match error.kind() {
                ErrorKind::Connection | ErrorKind::Io => {
                    (ErrorClass::Transient, format!("{container} cannot be reached"))
                }
                ErrorKind::Credential => {
                    (ErrorClass::Auth, format!("there is no token for {container}"))
                }
                // Not `BadData`: that is of a blob, and stops its partition.
                ErrorKind::DataConversion => {
                    (ErrorClass::Unknown, format!("the answer of {container} cannot be understood"))
                }
                _ => {
                    (ErrorClass::Unknown, format!("{container} failed in a way that is not known"))
                }
            };
        };
        let answered =
            if code.is_empty() { format!("{status}") } else { format!("{status} {code}") };
        let (meaning, advice) = meaning(status, code);
        let class = match (meaning, status) {
            (Meaning::Again, _) => ErrorClass::Transient,
            (Meaning::Busy, _) => ErrorClass::Throttling,
            (_, 401 | 403) => ErrorClass::Auth,
            (_, 300..500) => ErrorClass::Permanent,
            _ => ErrorClass::Unknown,
        };
        let message = match (class, code) {
            (_, "ContainerNotFound") => {
                format!("the container {container} does not exist; {advice}")
            }
            (ErrorClass::Transient, _) => format!("{container} failed ({answered}); {advice}"),
            (ErrorClass::Throttling, _) => format!("{container} is busy ({answered})"),
            (ErrorClass::Unknown, _) => format!("{container} answered {answered}"),
            _ => format!("{container} refused ({answered}); {advice}"),
        };
        (class, message)
    }

    fn without_secrets(&self, text: &str) -> String {
        let shown = without_signatures(text);
        match &self.signature {
            Some(signature) if shown.contains(signature) => HIDDEN.to_owned(),
            _ => shown,
        }
    }
}

/// Status and error code of an answer; `None` if there was none.
pub(super) fn answer(error: &SdkError) -> Option<(u16, &str)> {
    match error.kind() {
        ErrorKind::HttpResponse { status, error_code, .. } => {
            Some((u16::from(*status), error_code.as_deref().unwrap_or_default()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use azure_core_of_blob::http::StatusCode;

    use super::*;

    fn failures() -> Failures {
        Failures {
            container: "https://acc.example/state".to_owned(),
            signature: Some("ca+nary".to_owned()),
        }
    }

    fn answered(status: u16, code: &str) -> SdkError {
        let error_code = (!code.is_empty()).then(|| code.to_owned());
        let status = StatusCode::from(status);
        SdkError::with_message(
            ErrorKind::HttpResponse { status, error_code, raw_response: None },
            "a body",
        )
    }

    #[test]
    fn each_answer_has_its_class() {
        for (status, code, class) in [
            (404, "ContainerNotFound", ErrorClass::Permanent),
            (404, "ResourceNotFound", ErrorClass::Permanent),
            (401, "NoAuthenticationInformation", ErrorClass::Auth),
            (403, "AuthorizationPermissionMismatch", ErrorClass::Auth),
            (403, "", ErrorClass::Auth),
            (400, "InvalidHeaderValue", ErrorClass::Permanent),
            (307, "", ErrorClass::Permanent),
            (408, "", ErrorClass::Transient),
            (409, "ContainerBeingDeleted", ErrorClass::Transient),
            (409, "BlobArchived", ErrorClass::Permanent),
            (400, "Crc64Mismatch", ErrorClass::Transient),
            (403, "AccountIsDisabled", ErrorClass::Auth),
            (412, "LeaseIdMissing", ErrorClass::Permanent),
            (429, "", ErrorClass::Throttling),
            (500, "InternalError", ErrorClass::Transient),
            (502, "", ErrorClass::Transient),
            (503, "ServerBusy", ErrorClass::Throttling),
            (504, "", ErrorClass::Transient),
            (599, "", ErrorClass::Unknown),
        ] {
            let error = failures().error("load the checkpoint", &answered(status, code));
            assert_eq!(error.class(), class, "{status} {code}");
            assert!(error.to_string().contains("https://acc.example/state"), "{error}");
        }
        for (kind, class) in [
            (ErrorKind::Connection, ErrorClass::Transient),
            (ErrorKind::Io, ErrorClass::Transient),
            (ErrorKind::Credential, ErrorClass::Auth),
            (ErrorKind::DataConversion, ErrorClass::Unknown),
            (ErrorKind::Other, ErrorClass::Unknown),
        ] {
            let error = SdkError::with_message(kind, "a cause");
            assert_eq!(failures().error("load the checkpoint", &error).class(), class);
        }
    }

    #[test]
    fn a_lost_compare_is_a_conflict_and_a_lease_is_none() {
        for (status, code, is_conflict) in [
            (409, "BlobAlreadyExists", true),
            (412, "ConditionNotMet", true),
            (412, "", true),
            (404, "BlobNotFound", true),
            (404, "ContainerNotFound", false),
            (409, "ContainerBeingDeleted", false),
            (409, "BlobArchived", false),
            (409, "InvalidBlobType", false),
            (409, "PendingCopyOperation", false),
            (409, "PathConflict", false),
            (409, "", false),
            (409, "BlobImmutableDueToPolicy", false),
            (412, "LeaseIdMissing", false),
            (403, "AuthorizationPermissionMismatch", false),
            (503, "ServerBusy", false),
        ] {
            let failure = failures().of_write("store the checkpoint", &answered(status, code));
            assert_eq!(matches!(failure, WriteFailure::Conflict), is_conflict, "{status} {code}");
        }
    }

    #[test]
    fn no_error_holds_the_signature() {
        for text in [
            "error sending request for url (http://127.0.0.1:1/a/b?sv=1&sig=ca%2Bnary&x=y)",
            "GET http://127.0.0.1/b?sig=ca%2Bnary then http://h/?sig=ca%2Bnary",
            "the signature ca+nary did not match",
        ] {
            let cause = std::io::Error::other(text);
            let error = SdkError::with_error(ErrorKind::Io, cause, text);
            let error = failures().error("load the checkpoint", &error);
            let shown = format!("{error:?} {}", error_chain(&error).join(" "));
            assert!(!shown.contains("nary"), "{shown}");
        }
    }
}
