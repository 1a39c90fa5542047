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
    // Also of an address that is mangled.
    let has_user = || lower.split_once(':').is_some_and(|(_, rest)| rest.contains('@'));
    is_string || has_user() || has_signature(text)
}

/// What the names of secrets end in, where texts have `name=value`, `"name": "value"` or the like.
const NAMES: &[&str] = &[
    "accesskey",
    "accountkey",
    "api-key",
    "api_key",
    "apikey",
    "authorization",
    "password",
    "passwd",
    "pwd",
    "secret",
    "sig",
    "signature",
    "token",
];

/// Those that are words of people too: what is behind `token: ` is secret only where it looks like it.
const WORDS: &[&str] = &["secret", "sig", "signature", "token"];

/// Words before credentials, as `Authorization` has them.
const SCHEMES: &[&str] = &["basic", "bearer", "sharedaccesssignature", "sharedkey"];

/// So far back an address may begin before its query.
const MAX_ADDRESS_BYTES: usize = 1_024;

/// What ends a value or an address within a text.
const ENDS: &str = "()<>\"'`";

/// A text of somebody else without what may be secret in it: queries, fragments and user names of
/// addresses, values that are named like secrets, and what follows words like `Bearer`. All else is as it
/// was, and what was taken out leaves `(hidden)` or `…`.
///
/// A text in which a shared access signature is left, or looks to be, is hidden whole.
pub fn redacted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let used = match secret_at(&shown, rest) {
            Some((bytes, instead)) => {
                shown.push_str(instead);
                bytes
            }
            None => {
                let letter = rest.chars().next().unwrap_or_default();
                shown.push(letter);
                letter.len_utf8()
            }
        };
        rest = rest.get(used..).unwrap_or_default();
    }
    let left = shown.replace(&format!("={HIDDEN}"), "");
    if has_signature(&left) { HIDDEN.to_owned() } else { shown }
}

/// How much of `rest` is secret behind what is `shown`, and what is shown instead.
fn secret_at(shown: &str, rest: &str) -> Option<(usize, &'static str)> {
    let ends = |letter: char| letter.is_whitespace() || ENDS.contains(letter);
    let word = |text: &str| text.find(ends).unwrap_or(text.len());
    if shown.ends_with("://") {
        // Up to the last @ of the word: a password may hold any of `/?#@`.
        return rest.get(..word(rest))?.rfind('@').map(|at| (at + 1, ""));
    }
    if let Some(query) = rest.strip_prefix(['?', '#']) {
        let bytes = query.get(..word(query))?.trim_end_matches([':', ',', ';', '.']).len();
        let is_query = rest.starts_with('?') && query.get(..bytes)?.contains('=');
        let near = shown.floor_char_boundary(shown.len().saturating_sub(MAX_ADDRESS_BYTES));
        let address = shown.get(near..)?.rsplit(ends).next().unwrap_or_default();
        return ((is_query || address.contains("://")) && bytes > 0).then_some((1 + bytes, "…"));
    }
    let before = shown.trim_end_matches([' ', '"', '\'']);
    if let Some(named) = before.strip_suffix(['=', ':'])
        && before.len() + 4 > shown.len()
        && !rest.starts_with([' ', '"', '\'', '/'])
        && ends_in_one_of(NAMES, named)
    {
        let all = rest.find(|letter: char| ends(letter) || ";&,".contains(letter));
        let bytes = all.unwrap_or(rest.len());
        let value = rest.get(..bytes)?;
        let is_prose = shown.ends_with(": ") && ends_in_one_of(WORDS, named) && is_a_word(value);
        let is_scheme = SCHEMES.iter().any(|scheme| value.eq_ignore_ascii_case(scheme));
        return (bytes > 0 && !is_scheme && !is_prose).then_some((bytes, HIDDEN));
    }
    let scheme =
        shown.strip_suffix(' ')?.rsplit(|letter: char| !letter.is_ascii_alphanumeric()).next()?;
    let is_scheme = SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let bytes = word(rest);
    (is_scheme && bytes > 0 && !is_a_word(rest.get(..bytes)?)).then_some((bytes, HIDDEN))
}

/// Whether it may be a word of a sentence, and no credential.
fn is_a_word(text: &str) -> bool {
    text.chars().all(|letter| letter.is_ascii_lowercase())
}

fn ends_in_one_of(names: &[&str], before: &str) -> bool {
    let before = before.trim_end_matches([' ', '"', '\'']);
    names.iter().any(|name| {
        let start = before.len().checked_sub(name.len());
        start
            .and_then(|start| before.get(start..))
            .is_some_and(|end| end.eq_ignore_ascii_case(name))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_taken_out_of_a_text() {
        for (text, shown) in [
            ("https://u:canary@h:1/a/b?sig=canary#canary: 404", "https://h:1/a/b…: 404"),
            ("(https://u:ca/na?ry@h/a) is bad", "(https://h/a) is bad"),
            ("amqps://h/a#canary", "amqps://h/a…"),
            ("GET /a?key=canary HTTP/1.1", "GET /a… HTTP/1.1"),
            ("what? nothing #7", "what? nothing #7"),
            ("Authorization: Bearer canary.Canary, x", "Authorization: Bearer (hidden) x"),
            ("{\"authorization\": \"Basic Q2FuYXJ5\"}", "{\"authorization\": \"Basic (hidden)\"}"),
            ("X-Api-Key: canary; ok", "X-Api-Key: (hidden); ok"),
            (
                "Endpoint=sb://h/;SharedAccessKey=canary=;a=b",
                "Endpoint=sb://h/;SharedAccessKey=(hidden);a=b",
            ),
            ("password = 'canary'", "password = '(hidden)'"),
            ("sv=1&sig=canary", "sv=1&sig=(hidden)"),
            (
                "the bearer of bad news: a token: it ended",
                "the bearer of bad news: a token: it ended",
            ),
            ("no blob http://h/b%3Fsv=1%26sig%3Dcanary", HIDDEN),
            ("a@b.example: no user", "a@b.example: no user"),
            ("", ""),
        ] {
            let redacted = redacted(text);
            assert_eq!(redacted, shown);
            assert!(!redacted.to_lowercase().contains("canary"));
        }
    }

    #[test]
    #[cfg(any(feature = "blob", feature = "event-hubs"))]
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
            "http;//user:canary@proxy",
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
