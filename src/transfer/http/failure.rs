//! What it means that a request got no answer, or an answer no end.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use url::Url;

use crate::error::ErrorClass;
use crate::outcome::{Failure, Outcome};
use crate::transfer::url_policy::redacted;

/// What it means that nothing comes any more. `limit` is the name of the limit that was reached.
pub(in crate::transfer) fn silent(url: &Url, what: &str, waited: Duration, limit: &str) -> Outcome {
    let message = format!("{}: {what} in {} s ({limit})", redacted(url), waited.as_secs_f64());
    Outcome::retry(Failure::transient(message))
}

/// What a request or a body that broke off means. The URL is taken out of the error: its query
/// may be a secret.
pub(in crate::transfer) fn failed(url: &Url, what: &str, error: reqwest::Error) -> Outcome {
    let error = error.without_url();
    if let Some(tls) = tls_refusal(&error) {
        let host = url.host_str().unwrap_or_default();
        return Outcome::dead_letter(Failure::permanent(format!(
            "{}: the certificate of {host} is not trusted, or no TLS can be agreed on: {tls}",
            redacted(url)
        )));
    }
    let class = if error.is_builder() { ErrorClass::Permanent } else { ErrorClass::Transient };
    let failure = Failure::new(class, format!("{}: {what}", redacted(url))).caused_by(&error);
    if class.is_retryable() { Outcome::retry(failure) } else { Outcome::DeadLetter(failure) }
}

/// Whether a request failed on a connection that there was, before it had any answer. Where that
/// connection had been used before, the server may have been about to close it, which says nothing
/// about the request (RFC 9112, 9.3.1). A connection that could not be made is another matter.
pub(super) fn is_unanswered(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout() && !error.is_builder()
}

/// Why TLS was refused for good: trying again changes no certificate.
fn tls_refusal(error: &reqwest::Error) -> Option<&rustls::Error> {
    let tls = innermost(error)?;
    matches!(
        tls,
        rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::PeerIncompatible(_)
            | rustls::Error::UnsupportedNameType
    )
    .then_some(tls)
}

/// The error of TLS below this one. An I/O error has it inside, and does not name it as its source.
fn innermost(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
