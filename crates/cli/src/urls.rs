//! The list of `longshore transfer`: lines become tasks.
//!
//! A line that cannot become a task is published all the same, as it is: the worker refuses
//! it, and it ends in the dead letters with its bytes and its reason like any other task. Of a
//! line that no message holds, only the beginning does.

use std::collections::HashMap;
use std::path::Path;

use sha2::{Digest, Sha256};
use url::Url;

use super::CommandError;
use longshore::event::OutgoingEvent;
use longshore::transfer::task::{DownloadTask, hex};

/// The property that says where a task came from.
pub(super) const LINE: &str = "line";

/// The property that says why a line cannot become a task, for the worker's answer.
pub(super) const FAULT: &str = "fault";

/// The longest a task may be: with its result, which repeats its metadata, it must fit into a
/// message of 1 MiB.
const MAX_TASK_BYTES: usize = 1_040_000;

/// What is kept of a line that is longer.
const KEPT_BYTES: usize = 4_096;

/// The longest reason, in characters: a line can be one long word, and a reason quotes it.
const MAX_FAULT_CHARS: usize = 400;

/// One line of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: usize,
    /// What it says; the task's identity.
    pub(super) key: String,
    /// The task's JSON, or the line itself where it is none.
    pub(super) body: Vec<u8>,
    /// Where its file goes, where it is a task.
    pub(super) path: Option<String>,
    /// How large its file is, where the task says so.
    pub(super) size: Option<u64>,
    /// Why it is no task.
    pub(super) fault: Option<String>,
}

impl Line {
    /// The event that asks for the task.
    pub(super) fn event(&self, list: &str) -> OutgoingEvent {
        let event = OutgoingEvent::new(self.body.clone())
            .with_message_id(self.key.as_str())
            .with_property(LINE, format!("{list}:{}", self.number));
        match &self.fault {
            Some(fault) => event.with_property(FAULT, fault.as_str()),
            None => event,
        }
    }
}

/// Reads the list: one entry for each line that says something, the first where lines repeat.
///
/// # Errors
/// Where the file cannot be read.
pub(super) fn read(list: &Path) -> Result<Vec<Line>, CommandError> {
    let text = std::fs::read(list).map_err(|error| {
        CommandError::caused(format!("the list {} cannot be read", list.display()), &error)
    })?;
    Ok(parse(&text))
}

fn parse(text: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut seen = HashMap::new();
    let mut paths: HashMap<String, usize> = HashMap::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let number = index + 1;
        let key = key(line);
        if seen.insert(key.clone(), number).is_some() {
            continue;
        }
        let parsed = task(line, &key).and_then(|task| {
            let path = task.path.as_str().to_owned();
            let size = task.size;
            match paths.get(&path) {
                Some(first) => Err(format!(
                    "its file {path:?} is that of line {first} already; \
                     give it a path of its own, as a JSON task"
                )),
                None => {
                    let json = fitting(task.to_json())?;
                    paths.insert(path.clone(), number);
                    Ok((json, path, size))
                }
            }
        });
        lines.push(match parsed {
            Ok((body, path, size)) => {
                Line { number, key, body, path: Some(path), size, fault: None }
            }
            Err(fault) => {
                let (body, fault) = (kept(line).to_vec(), Some(shortened(fault)));
                Line { number, key, body, path: None, size: None, fault }
            }
        });
    }
    lines
}

fn fitting(json: Vec<u8>) -> Result<Vec<u8>, String> {
    if json.len() > MAX_TASK_BYTES {
        return Err(too_long(json.len()));
    }
    Ok(json)
}

fn too_long(bytes: usize) -> String {
    format!("it has {bytes} bytes, and a task may have {MAX_TASK_BYTES}; make it shorter")
}

/// As much of a line as a message takes. The rest is in the list.
fn kept(line: &[u8]) -> &[u8] {
    if line.len() <= MAX_TASK_BYTES {
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

/// The identity of a task is its content.
fn key(line: &[u8]) -> String {
    let hash: [u8; 32] = Sha256::digest(line).into();
    hex(hash.get(..16).unwrap_or_default())
}

fn task(line: &[u8], key: &str) -> Result<DownloadTask, String> {
    if line.len() > MAX_TASK_BYTES {
        return Err(too_long(line.len()));
    }
    if line.starts_with(b"{") {
        return json_task(line, key);
    }
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    let path = file_path(&url);
    let json = serde_json::json!({ "id": key, "url": url.as_str(), "path": path });
    DownloadTask::from_json(json.to_string().as_bytes()).map_err(|invalid| invalid.to_string())
}

/// A JSON task may leave out its id, which is then its key, and its path, which is then its
/// URL's.
fn json_task(line: &[u8], key: &str) -> Result<DownloadTask, String> {
    let mut json: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(line).map_err(|error| format!("it is not valid JSON: {error}"))?;
    if !json.contains_key("id") {
        json.insert("id".to_owned(), key.into());
    }
    let url = json.get("url").and_then(|url| url.as_str()).and_then(|url| Url::parse(url).ok());
    if let Some(url) = url
        && !json.contains_key("path")
    {
        json.insert("path".to_owned(), file_path(&url).into());
    }
    let json = serde_json::Value::Object(json).to_string();
    DownloadTask::from_json(json.as_bytes()).map_err(|invalid| invalid.to_string())
}

/// The URL's path, decoded; `index.html` where it ends with a slash. What it decodes to may
/// still be refused as a name.
fn file_path(url: &Url) -> String {
    let path = percent_decoded(url.path());
    let path = path.trim_start_matches('/');
    if path.is_empty() || path.ends_with('/') {
        format!("{path}index.html")
    } else {
        path.to_owned()
    }
}

fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
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
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_tasks_once_and_faults_keep_their_bytes() {
        let lines = parse(
            b"# a list\n\nhttps://h/a/b%20c.bin?sig=1\n  https://h/a/b%20c.bin?sig=1  \nhttps://h/\nno url\n{\"url\":\"https://h/x\",\"path\":\"y\"}\n{\"url\":\n",
        );
        let paths: Vec<Option<&str>> = lines.iter().map(|line| line.path.as_deref()).collect();
        assert_eq!(paths, [Some("a/b c.bin"), Some("index.html"), None, Some("y"), None]);
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [3, 5, 6, 7, 8]);
        assert_eq!(lines[2].body, b"no url");
        assert!(lines[2].fault.as_deref().is_some_and(|fault| fault.contains("is not a URL")));
        assert!(lines[4].fault.as_deref().is_some_and(|fault| fault.contains("not valid JSON")));
    }

    #[test]
    fn a_line_that_no_message_holds_is_a_fault_that_one_holds() {
        let lines = parse("ä".repeat(600_000).as_bytes());
        assert!(lines[0].fault.as_deref().is_some_and(|fault| fault.contains("1200000 bytes")));
        assert_eq!(lines[0].body, "ä".repeat(2_048).as_bytes());
        let mixed = parse(format!("x{}", "ä".repeat(600_000)).as_bytes());
        assert_eq!(mixed[0].body.len(), 4_095);
        let words = parse("x".repeat(900_000).as_bytes());
        assert_eq!(words[0].body.len(), 900_000);
        assert!(words[0].fault.as_deref().is_some_and(|fault| {
            fault.len() < 500 && fault.starts_with("\"xxx") && fault.contains("is not a URL")
        }));
    }

    #[test]
    fn two_lines_may_not_have_one_file() {
        let lines = parse(b"https://one/x\nhttps://two/x\n");
        assert!(lines[1].fault.as_deref().is_some_and(|fault| fault.contains("that of line 1")));
    }

    #[test]
    fn a_path_that_climbs_out_is_a_fault_even_when_it_is_encoded() {
        for url in ["https://h/%2e%2e%2fetc/passwd", "https://h/a%5c..%5cb", "https://h/a%00b"] {
            let lines = parse(url.as_bytes());
            assert!(lines[0].fault.is_some(), "{url}: {:?}", lines[0].path);
        }
    }
}
