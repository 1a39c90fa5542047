//! Text that must not be seen: no `Debug`, no `Display`, one way to read it.

use std::fmt;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

/// A key, a token, a connection string. `Debug` shows that there is one, and nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// The text itself: for the call that needs it, and for no log, error or report.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// What is shown in place of a secret.
pub(crate) const HIDDEN: &str = "(hidden)";

/// Drops the query of every address in a text: a shared access signature may be there. A text in
/// which one is left, or looks to be, is hidden whole.
#[cfg(any(feature = "blob", feature = "event-hubs"))]
pub(crate) fn without_signatures(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, query)) = rest.split_once('?') {
        shown.push_str(before);
        let end = query
            .find(|letter: char| letter.is_whitespace() || "()<>\"'`".contains(letter))
            .unwrap_or(query.len());
        rest = &query[end..];
    }
    shown.push_str(rest);
    if has_signature(&shown) { HIDDEN.to_owned() } else { shown }
}

/// Whether a text reads as one with a secret in it, wherever it stands: a connection string, a signature,
/// or an address with a user.
pub(crate) fn has_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let is_string = ["accesskey=", "accountkey="].iter().any(|part| lower.contains(part));
    let has_user = || lower.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    is_string || has_user() || has_signature(text)
}

/// Whether a text reads as a shared access signature, percent-encoded or not.
pub(crate) fn has_signature(text: &str) -> bool {
    let mut text = text.to_ascii_lowercase();
    // What was encoded twice is decoded twice; each time it gets shorter.
    loop {
        if text.contains("sig=") {
            return true;
        }
        let decoded = percent_decode_str(&text).decode_utf8_lossy().to_ascii_lowercase();
        if decoded == text {
            return false;
        }
        text = decoded;
    }
}

#[cfg(all(test, any(feature = "blob", feature = "event-hubs")))]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shown_without_signatures() {
        for (text, shown) in [
            ("for url (http://h/b?sv=1&sig=canary): refused", "for url (http://h/b): refused"),
            (
                "GET http://h/b?sig=canary then http://h/?sig=canary",
                "GET http://h/b then http://h/",
            ),
            ("http://h/b?se='1'&sig=canary", HIDDEN),
            ("the token sv=1&SIG=canary is wrong", HIDDEN),
            ("no blob http://h/b%3Fsv=1%26sig%3Dcanary", HIDDEN),
            ("no blob http://h/b%253Fsv=1%2526%2573ig%253Dcanary", HIDDEN),
            ("100% of http://h/b%20c failed", "100% of http://h/b%20c failed"),
        ] {
            assert_eq!(without_signatures(text), shown);
        }
    }

    #[test]
    fn what_has_a_secret_in_it_is_known() {
        for text in [
            "Endpoint=sb://h/;SharedAccessKeyName=n;SharedAccessKey=canary",
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=canary",
            "sv=1&sig=canary",
            "http://user:canary@proxy",
        ] {
            assert!(has_secret(text), "{text}");
        }
        for text in ["", "orders", "a@b", "http://proxy:3128", "Endpoint=sb://h/"] {
            assert!(!has_secret(text), "{text}");
        }
    }

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Some(Secret::new("canary"))), "Some((hidden))");
        assert_eq!(Secret::new("canary").reveal(), "canary");
    }
}
