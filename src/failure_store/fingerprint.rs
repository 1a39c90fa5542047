//! What failures have in common: the message of one without what is of its event alone.
//!
//! Numbers, ids, hexadecimal, quoted parts and paths are taken out, so that a thousand files that are
//! not found at one host are one group.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::error::ErrorClass;
use crate::hex::{from_hex, hex};

/// Words of so many letters and digits that have a digit are ids.
const ID_CHARS: usize = 8;

/// Stands for a part that was taken out.
const GAP: &str = "…";

/// So much of a message is looked at.
const MAX_MESSAGE_BYTES: usize = 4_096;

/// Most characters of a reason that are kept for people; the fingerprint is of more.
const MAX_REASON_CHARS: usize = 160;

/// Failures with the same fingerprint are one group. It does not change from release to release.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// Of a failure of this class and message.
    pub fn of(class: ErrorClass, message: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(class.as_str());
        digest.update([0]);
        digest.update(common(message));
        let mut bytes = [0; 8];
        bytes.iter_mut().zip(digest.finalize()).for_each(|(to, from)| *to = from);
        Self(bytes)
    }
}

/// In sixteen hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = from_hex(text).ok_or("a fingerprint has sixteen hexadecimal digits")?;
        Ok(Self(bytes))
    }
}

/// What the messages of a group have in common, for people: cut where it is long.
pub fn reason(message: &str) -> String {
    let common = common(message);
    match common.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}{GAP}", common.get(..end).unwrap_or_default()),
        None => common,
    }
}

fn common(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
    let mut rest = message.get(..end).unwrap_or_default();
    let mut kept = String::with_capacity(rest.len());
    while let Some(letter) = rest.chars().next() {
        let used = if letter.is_whitespace() {
            if !kept.is_empty() && !kept.ends_with(' ') {
                kept.push(' ');
            }
            letter.len_utf8()
        } else if let Some(bytes) = quoted(letter, rest, &kept) {
            push_gap(&mut kept);
            bytes
        } else if !kept.ends_with(char::is_alphanumeric)
            && let Some(bytes) = address(rest, &mut kept)
        {
            bytes
        } else {
            word(rest, &mut kept)
        };
        rest = rest.get(used..).unwrap_or_default();
    }
    kept.truncate(kept.trim_end().len());
    kept
}

/// So many bytes are in quotation marks, these included. An apostrophe within a word is none.
fn quoted(mark: char, rest: &str, before: &str) -> Option<usize> {
    let close = match mark {
        '"' | '`' => mark,
        '\'' if !before.ends_with(char::is_alphanumeric) => mark,
        '“' => '”',
        _ => return None,
    };
    let within = rest.get(mark.len_utf8()..)?;
    let end = within.find(close)?;
    Some(mark.len_utf8() + end + close.len_utf8())
}

/// A URL is kept to its host, a path not at all.
fn address(rest: &str, kept: &mut String) -> Option<usize> {
    let ends = |letter: char| letter.is_whitespace() || "\"'`()<>,;".contains(letter);
    let all = rest.get(..rest.find(ends).unwrap_or(rest.len()))?;
    let text = all.trim_end_matches([':', '.']);
    if let Some((scheme, place)) = text.split_once("://") {
        let host = place.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        kept.push_str(scheme);
        kept.push_str("://");
        kept.push_str(host);
        if place.len() > host.len() {
            kept.push('/');
            kept.push_str(GAP);
        }
        return Some(text.len());
    }
    let is_path = text.starts_with(['/', '.']) && text.len() > 2 || text.matches('/').count() > 1;
    if !text.contains('/') || !is_path {
        return None;
    }
    push_gap(kept);
    Some(text.len())
}

/// A word of letters and digits, or one other character.
fn word(rest: &str, kept: &mut String) -> usize {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
    let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
    let Some(text) = rest.get(..end).filter(|text| !text.is_empty()) else {
        let other = rest.chars().next().unwrap_or_default();
        kept.push(other);
        return other.len_utf8().max(1);
    };
    let has_digit = text.contains(|letter: char| letter.is_ascii_digit());
    let is_hex =
        |text: &str| text.chars().all(|letter| letter.is_ascii_hexdigit() || letter == '-');
    if text.len() >= ID_CHARS && is_hex(text) {
        push_gap(kept);
        return end;
    }
    for part in text.split_inclusive(['-', '_']) {
        let name = part.trim_end_matches(['-', '_']);
        if has_digit
            && name.len() >= ID_CHARS
            && name.contains(|letter: char| letter.is_ascii_digit())
        {
            push_gap(kept);
        } else {
            push_without_digits(name, kept);
        }
        kept.push_str(part.get(name.len()..).unwrap_or_default());
    }
    end
}

fn push_without_digits(name: &str, kept: &mut String) {
    for letter in name.chars() {
        match letter.is_ascii_digit() {
            true => push_gap(kept),
            false => kept.push(letter),
        }
    }
}

fn push_gap(kept: &mut String) {
    if !kept.ends_with(GAP) {
        kept.push_str(GAP);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_of_one_event_alone_is_taken_out() {
        for (message, kept) in [
            ("the server answered 404", "the server answered …"),
            (
                "https://u:p@files.example:8443/a/b%20c.zip?sig=x: the server answered 404 in 1.25 s",
                "https://files.example:8443/…: the server answered … in ….… s",
            ),
            ("https://files.example refused", "https://files.example refused"),
            ("no such file: /data/in/a.zip", "no such file: …"),
            ("task f81d4fae-7dec-11d0-a765-00a0c91e6bf6 is bad", "task … is bad"),
            ("task-17 of job_2026x0011 failed", "task-… of job_… failed"),
            ("cafebabedead: wrong checksum", "…: wrong checksum"),
            ("the field \"size of 7\" isn't 'large'", "the field … isn't …"),
            ("and/or  is kept\n", "and/or is kept"),
            ("an unclosed \"quote", "an unclosed \"quote"),
            ("déjà vu 7", "déjà vu …"),
            ("", ""),
        ] {
            assert_eq!(reason(message), kept);
        }
        assert_eq!(reason(&"x ".repeat(1_000)).chars().count(), MAX_REASON_CHARS + 1);
    }

    #[test]
    fn equal_failures_are_one_group_for_ever() {
        let of = |message| Fingerprint::of(ErrorClass::Permanent, message);
        let one = of("https://h/a/1.zip: the server answered 404");
        assert_eq!(one, of("https://h/b/27.zip: the server answered 404"));
        assert_ne!(one, of("https://g/b/27.zip: the server answered 404"));
        let message = "https://h/a/1.zip: the server answered 404";
        assert_ne!(one, Fingerprint::of(ErrorClass::Transient, message));
        assert_eq!(one.to_string().parse(), Ok(one));
        assert!("17".parse::<Fingerprint>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_has_a_reason(message in ".*") {
            let reason = reason(&message);
            prop_assert!(reason.chars().count() <= MAX_REASON_CHARS + 1);
            prop_assert!(!reason.contains(|letter: char| letter.is_ascii_digit()) || message.contains("://"));
        }
    }
}
