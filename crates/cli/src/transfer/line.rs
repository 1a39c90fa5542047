//! One line of the list becomes a task, or a fault that says why it is none.
//!
//! A line means exactly what it says. Where a URL would have to be mended before it could be asked for,
//! the line is a fault: whoever wrote it knows what was meant.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use sha2::{Digest, Sha256};
use url::Url;

use longshore::blob_store::{BlobName, InvalidBlobName};
use longshore::transfer::task::{DownloadTask, InvalidTask, from_hex, hex};
use longshore::transfer::url_policy::redacted_text;

/// The longest a task may be: with its result, which repeats its metadata, it must fit into a
/// message of 1 MiB.
pub(super) const MAX_TASK_BYTES: usize = 1_040_000;

/// What is kept of a line that is longer.
pub(super) const KEPT_BYTES: usize = 4_096;

/// The longest reason, in characters: a line can be one long word, and a reason quotes it.
const MAX_FAULT_CHARS: usize = 400;

/// What a line says; the identity of its task.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key(pub(crate) [u8; 16]);

impl Key {
    pub(super) fn of(line: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(line))
    }

    pub(super) fn finish(hasher: Sha256) -> Self {
        let hash: [u8; 32] = hasher.finalize().into();
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
        Self(key)
    }

    /// Reads what [`Self::text`] writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        from_hex(text).map(Self)
    }

    pub(super) fn text(&self) -> String {
        hex(&self.0)
    }
}

/// A line that is a task: its JSON and what is to be known of it.
#[derive(PartialEq, Debug)]
pub(super) struct Task {
    pub(super) json: Vec<u8>,
    pub(super) url: Url,
    pub(super) path: String,
    pub(super) size: Option<u64>,
}

/// Reads a line of which `text` may be the beginning, if it is longer than a task may be.
///
/// # Errors
/// Why it is no task.
pub(super) fn read_raw(text: &[u8], bytes: u64, key: &Key) -> Result<Task, String> {
    if bytes > MAX_TASK_BYTES as u64 { Err(too_long(bytes)) } else { read(text, key) }
}

/// Reads a line, without its end and the white space around it.
///
/// # Errors
/// Why it is no task.
pub(super) fn read(line: &[u8], key: &Key) -> Result<Task, String> {
    let read = if line.starts_with(b"{") { json_task(line, key) } else { url_task(line, key) };
    let task = read.map_err(shortened)?;
    let json = task.to_json();
    if json.len() > MAX_TASK_BYTES {
        return Err(too_long(json.len() as u64));
    }
    Ok(Task { json, path: task.path.as_str().to_owned(), size: task.size, url: task.url })
}

pub(super) fn too_long(bytes: u64) -> String {
    format!("it has {bytes} bytes, and a task may have {MAX_TASK_BYTES}; make it shorter")
}

/// As much of a line as a message takes. The rest is in the list.
pub(super) fn kept(line: &[u8]) -> &[u8] {
    if line.len() <= KEPT_BYTES {
        return line;
    }
    // Not through the midst of a character.
    let end =
        (0..=KEPT_BYTES).rev().find(|end| line.get(*end).is_none_or(|next| next & 0xC0 != 0x80));
    line.get(..end.unwrap_or(KEPT_BYTES)).unwrap_or(line)
}

/// Both ends of a reason: one names what is wrong, the other says why.
fn shortened(fault: String) -> String {
    let chars = fault.chars().count();
    if chars <= MAX_FAULT_CHARS {
        return fault;
    }
    let half = MAX_FAULT_CHARS / 2;
    let first = fault.chars().take(half);
    first.chain(" … ".chars()).chain(fault.chars().skip(chars - half)).collect()
}

fn url_task(line: &[u8], key: &Key) -> Result<DownloadTask, String> {
    let text = std::str::from_utf8(line).map_err(|_| {
        if line.contains(&0) {
            "it is not text; the list must be UTF-8".to_owned()
        } else {
            "it is not UTF-8".to_owned()
        }
    })?;
    let url = exact_url(text)?;
    let id = key.text();
    let path = file_path(&url).and_then(|path| BlobName::parse(&path));
    let path = path.map_err(|reason| InvalidTask::path(&id, reason).to_string())?;
    Ok(DownloadTask::new(id, url, path))
}

/// A JSON task may leave out its id, which is then its key, and its path, which is then its
/// URL's.
fn json_task(line: &[u8], key: &Key) -> Result<DownloadTask, String> {
    let Keys(mut json) =
        serde_json::from_slice(line).map_err(|error| format!("it is not valid JSON: {error}"))?;
    if !json.contains_key("id") {
        json.insert("id".to_owned(), key.text().into());
    }
    if let Some(url) = json.get("url").and_then(|url| url.as_str()) {
        let url = exact_url(url)?;
        if !json.contains_key("path") {
            let id = json.get("id").and_then(|id| id.as_str()).unwrap_or_default();
            let path = file_path(&url);
            let path = path.map_err(|reason| InvalidTask::path(id, reason).to_string())?;
            json.insert("path".to_owned(), path.into());
        }
    }
    let json = serde_json::Value::Object(json).to_string();
    DownloadTask::from_json(json.as_bytes()).map_err(|invalid| invalid.to_string())
}

/// An object that says nothing twice.
struct Keys(serde_json::Map<String, serde_json::Value>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = serde_json::Map::new();
                while let Some((key, value)) = map.next_entry::<String, serde_json::Value>()? {
                    if keys.contains_key(&key) {
                        // It may be a URL with a secret.
                        let key = redacted_text(&key);
                        return Err(A::Error::custom(format!("it says {key:?} twice")));
                    }
                    keys.insert(key, value);
                }
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// A URL that is asked for as it stands: what a browser would mend is a fault.
fn exact_url(text: &str) -> Result<Url, String> {
    let is_no_url =
        |fault: &dyn fmt::Display| format!("{:?} is not a URL: {fault}", redacted_text(text));
    let url = Url::parse(text).map_err(|error| is_no_url(&error))?;
    let fault = if text.chars().any(char::is_whitespace) {
        "it has white space; write %20 for a space, and one URL on a line"
    } else if text.chars().any(char::is_control) {
        "it has a control character"
    } else if url.has_host() && text.split(['?', '#']).next().unwrap_or_default().contains('\\') {
        "it has a backslash; write %5C, or / where a part ends"
    } else if url.has_host() && !has_two_slashes(text) {
        "it must have two slashes behind its scheme"
    } else {
        return Ok(url);
    };
    Err(is_no_url(&fault))
}

fn has_two_slashes(text: &str) -> bool {
    text.split_once(':')
        .is_some_and(|(_scheme, rest)| rest.starts_with("//") && !rest.starts_with("///"))
}

/// The name of a file: the parts of its URL's path, each decoded as RFC 3986 says. Empty parts are left
/// out, and `index.html` stands for a path that ends with a slash. What does not decode to a text that a
/// part of a name may be is kept as it stands, so that two URLs stay two names.
fn file_path(url: &Url) -> Result<String, InvalidBlobName> {
    let mut parts: Vec<String> = Vec::new();
    for part in url.path().split('/').filter(|part| !part.is_empty()) {
        let decoded = decoded(part);
        if decoded.split(['/', '\\']).any(|part| part == "..") {
            let before = parts.iter().map(|part| format!("{part}/")).collect::<String>();
            let fault = "it climbs out of the folder with '..'";
            return Err(InvalidBlobName { name: format!("{before}{decoded}"), fault });
        }
        let is_a_part = !decoded.contains(['/', '\\']) && !decoded.chars().any(char::is_control);
        parts.push(match is_a_part && decoded != "." {
            true => decoded.into_owned(),
            false => part.to_owned(),
        });
    }
    if parts.is_empty() || url.path().ends_with('/') {
        parts.push("index.html".to_owned());
    }
    Ok(parts.join("/"))
}

/// A part of a path without its escapes; as it stands where they are not UTF-8.
fn decoded(part: &str) -> Cow<'_, str> {
    if !part.contains('%') {
        return Cow::Borrowed(part);
    }
    let mut decoded = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(decoded).map_or(Cow::Borrowed(part), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(line: &str) -> Result<String, String> {
        read(line.as_bytes(), &Key::of(line.as_bytes())).map(|task| task.path)
    }

    #[test]
    fn a_file_is_named_like_the_path_of_its_url() {
        for (line, name) in [
            ("https://h/a/b%20c.bin?sig=1#x", "a/b c.bin"),
            ("https://h", "index.html"),
            ("https://h/a/", "a/index.html"),
            ("https://h/2026/1//1d8c54.bin", "2026/1/1d8c54.bin"),
            ("https://h//a//", "a/index.html"),
            ("https://h/%C3%A4.bin", "ä.bin"),
            ("https://h/ä.bin", "ä.bin"),
            ("https://h/%E4.bin", "%E4.bin"),
            ("https://h/%F6/%41", "%F6/A"),
            ("https://h/100%.bin", "100%.bin"),
            ("https://h/a%2Fb.bin", "a%2Fb.bin"),
            ("https://h/a%5Cb%00c", "a%5Cb%00c"),
            (r#"{"url":"https://h/x/y"}"#, "x/y"),
            (r#"{"url":"https://h/x","path":"y"}"#, "y"),
        ] {
            assert_eq!(path(line).as_deref(), Ok(name), "{line}");
        }
    }

    #[test]
    fn a_line_means_what_it_says_or_is_a_fault() {
        for (line, why) in [
            ("no url", "is not a URL"),
            ("https://h/a b.bin", "write %20"),
            ("https://h/a\tb.bin", "white space"),
            ("https://h/a https://h/b", "one URL on a line"),
            ("https://h/a\u{1}", "control character"),
            ("https://h\\a", "backslash"),
            ("https:/h/a", "two slashes"),
            ("https:h/a", "two slashes"),
            ("https:///h/a", "two slashes"),
            ("https://h/%2e%2e%2fetc/passwd", "the path \"../etc\" is refused"),
            ("https://h/a%5c..%5cb", "climbs out"),
            ("{\"url\":", "not valid JSON"),
            (r#"{"url":"https://h/a b"}"#, "write %20"),
            (r#"{"url":"https://h/a","url":"https://h/b"}"#, "it says \"url\" twice"),
            (r#"{"id":"x"}"#, "missing field `url`"),
            (r#"{"url":"https://h/a","md5":"00"}"#, "\"00\" is not an MD5"),
            (r#"{"url":"https://h/a","sha1":"00"}"#, "\"sha1\" is not known"),
            (r#"{"url":"https://h/a","SHA256":"00"}"#, "\"SHA256\" is not known"),
        ] {
            let fault = path(line).expect_err(line);
            assert!(fault.contains(why), "{line}: {fault}");
        }
        assert_eq!(path("data:x").map(|_| ()), Ok(()), "its scheme is the policy's to judge");
    }

    #[test]
    fn no_reason_shows_a_secret() {
        for line in [
            "a.binsig=hush,https:b",
            "https://h/us:hush@e/%2e%2e%2fx",
            r#"{"url":"https://h/us:hush@e/%2e%2e%2fx"}"#,
            r#"{"https://u:hush@h/":1,"https://u:hush@h/":2}"#,
            r#"{"sig=hush":1,"sig=hush":2}"#,
        ] {
            let fault = path(line).expect_err(line);
            assert!(!fault.contains("hush"), "{line}: {fault}");
        }
    }

    #[test]
    fn reasons_are_short_and_what_is_kept_of_a_line_is_text() {
        let fault = path(&"x".repeat(900_000)).expect_err("no URL");
        assert!(fault.len() < 500 && fault.starts_with("\"xxx"), "{fault}");
        assert!(fault.contains("is not a URL"), "{fault}");
        assert_eq!(kept("ä".repeat(600_000).as_bytes()), "ä".repeat(2_048).as_bytes());
        assert_eq!(kept(format!("x{}", "ä".repeat(600_000)).as_bytes()).len(), 4_095);
        let bad = read(b"https://\xff\xfe/x", &Key::of(b"")).expect_err("not UTF-8");
        assert_eq!(bad, "it is not UTF-8");
    }

    #[test]
    fn a_key_survives_its_text() {
        let key = Key::of(b"a line");
        assert_eq!(Key::parse(&key.text()), Some(key));
        for wrong in ["", "00", &"g".repeat(32), &"ä".repeat(16)] {
            assert_eq!(Key::parse(wrong), None, "{wrong}");
        }
    }
}
