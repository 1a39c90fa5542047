//! What a transfer worker is asked to do, and what it answers: the JSON of tasks and results.
//!
//! Everything in a task comes from outside. Parsing checks the form; the URL's policy and the
//! store check the rest.

mod fault;
mod hash;
mod upload;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

pub use self::fault::InvalidTask;
use self::fault::{reason, refuse_others, shown};
use self::hash::{parse_sha256, read_md5};
pub use self::upload::UploadTask;
use crate::blob_store::{BlobName, Sums};
use crate::error::ErrorClass;
use crate::event::{self, Event};
pub use crate::hex::{from_hex, hex};
use crate::outcome::{Failure, Outcome};
use crate::timestamp::rfc3339;
use crate::transfer::stages::{self, StageTimes, between};
use crate::transfer::url_policy::redacted_text;

/// A file to fetch.
///
/// ```
/// use longshore::transfer::task::DownloadTask;
///
/// let task = DownloadTask::from_json(br#"{
///     "id": "7",
///     "url": "https://example.com/photos/cat.jpg",
///     "path": "photos/cat.jpg",
///     "size": 48213
/// }"#)?;
/// assert_eq!(task.path.as_str(), "photos/cat.jpg");
/// # Ok::<(), longshore::transfer::task::InvalidTask>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct DownloadTask {
    /// The sender's name for the task; comes back in the result.
    pub id: String,
    /// Where the file is.
    pub url: Url,
    /// Where it goes, relative to the store.
    pub path: BlobName,
    /// The SHA-256 it must have.
    pub sha256: Option<[u8; 32]>,
    /// The MD5 it must have.
    pub md5: Option<[u8; 16]>,
    /// The length it must have, in bytes.
    pub size: Option<u64>,
    /// Passed through to the result.
    pub metadata: Map<String, Value>,
}

/// The keys of a task.
const KEYS: [&str; 7] = ["id", "url", "path", "sha256", "md5", "size", "metadata"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTask {
    id: String,
    url: String,
    path: String,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    md5: Option<String>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Serialize)]
struct WrittenTask<'a> {
    id: &'a str,
    url: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    md5: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: &'a Map<String, Value>,
}

impl DownloadTask {
    /// A task without hash, size or metadata.
    pub fn new(id: impl Into<String>, url: Url, path: BlobName) -> Self {
        Self { id: id.into(), url, path, sha256: None, md5: None, size: None, metadata: Map::new() }
    }

    /// Reads a task from the body of an event.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(body: &[u8]) -> Result<Self, InvalidTask> {
        refuse_others(body)?;
        let raw: RawTask = serde_json::from_slice(body).map_err(|error| {
            fault_of_key(body).unwrap_or_else(|| InvalidTask::Json { reason: reason(&error) })
        })?;
        let RawTask { id, url, path, sha256, md5, size, metadata } = raw;
        let url = Url::parse(&url).map_err(|reason| InvalidTask::Url {
            id: id.clone(),
            url: shown(&redacted_text(&url)),
            reason,
        })?;
        let path = BlobName::parse(&path).map_err(|reason| InvalidTask::path(&id, reason))?;
        let sha256 = sha256
            .map(|text| {
                parse_sha256(&text)
                    .ok_or_else(|| InvalidTask::Hash { id: id.clone(), sha256: shown(&text) })
            })
            .transpose()?;
        let md5 = read_md5(&id, md5.as_deref())?;
        Ok(Self { id, url, path, sha256, md5, size, metadata })
    }

    /// The task as the body of an event.
    pub fn to_json(&self) -> Vec<u8> {
        let written = WrittenTask {
            id: &self.id,
            url: self.url.as_str(),
            path: self.path.as_str(),
            sha256: self.sha256.as_ref().map(|sha256| hex(sha256)),
            md5: self.md5.as_ref().map(|md5| hex(md5)),
            size: self.size,
            metadata: &self.metadata,
        };
        // Texts and numbers, which JSON holds.
        serde_json::to_vec(&written).unwrap_or_default()
    }
}

/// What is wrong with one of the keys, if that is what is wrong with the task: one that is not known, for a
/// hash under another name must not go unchecked, or a value of another kind.
fn fault_of_key(body: &[u8]) -> Option<InvalidTask> {
    let json: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let id = json.get("id").and_then(Value::as_str).map(str::to_owned);
    if let Some(key) = json.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Some(InvalidTask::Key { id, key: shown(key) });
    }
    let is_wrong = |key: &str| {
        json.get(key).is_some_and(|value| match key {
            "size" => !value.is_u64() && !value.is_null(),
            "metadata" => !value.is_object(),
            "sha256" | "md5" => !value.is_string() && !value.is_null(),
            _ => !value.is_string(),
        })
    };
    let key = KEYS.into_iter().find(|key| is_wrong(key))?;
    let must = match key {
        "size" => "a whole number of bytes, without quotes",
        "metadata" => "an object",
        _ => "a text in quotes",
    };
    Some(InvalidTask::Value { id, key, must })
}

/// What becomes of an event that is no task.
pub(super) fn bad_task(invalid: InvalidTask) -> Outcome {
    Outcome::DeadLetter(Failure::from_error(ErrorClass::BadData, &invalid))
}

/// What a finished task is answered with.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TransferResult {
    /// The task's id.
    pub id: String,
    /// Where the file is, relative to the store.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its CRC-64/NVME, in 16 hexadecimal digits, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64: Option<String>,
    /// Its SHA-256, in hexadecimal digits: always of a file in a folder, of one in a container where the
    /// task has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// When the task was enqueued, in RFC 3339.
    pub enqueued_at: String,
    /// When the successful attempt began, in RFC 3339. Results of before have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub started_at: String,
    /// When the file was committed, in RFC 3339.
    pub finished_at: String,
    /// How long the successful attempt took, in seconds.
    pub seconds: f64,
    /// Which attempt it was, from 1.
    pub attempts: u32,
    /// The times of the stages before this one, the first of them first; see [`stages`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageTimes>,
    /// Passed through from the task.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// What is known when a file is committed.
pub(super) struct Finished {
    pub(super) bytes: u64,
    pub(super) sums: Sums,
    pub(super) elapsed: Duration,
    pub(super) attempts: u32,
    pub(super) at: SystemTime,
}

/// What of a task its result repeats.
pub(super) struct Moved<'a> {
    pub(super) id: &'a str,
    pub(super) path: &'a BlobName,
    pub(super) metadata: &'a Map<String, Value>,
}

impl Moved<'_> {
    pub(super) fn result(&self, event: &Event, finished: &Finished) -> TransferResult {
        TransferResult {
            id: self.id.to_owned(),
            path: self.path.as_str().to_owned(),
            bytes: finished.bytes,
            crc64: finished.sums.crc64.map(|crc64| hex(&crc64.to_be_bytes())),
            sha256: finished.sums.sha256.map(|sha256| hex(&sha256)),
            enqueued_at: rfc3339(event.enqueued_time()),
            started_at: rfc3339(finished.at.checked_sub(finished.elapsed).unwrap_or(finished.at)),
            finished_at: rfc3339(finished.at),
            seconds: finished.elapsed.as_secs_f64(),
            attempts: finished.attempts,
            stages: stages::earlier(event),
            metadata: self.metadata.clone(),
        }
    }
}

impl TransferResult {
    /// The times of the stage that this is the result of, for the next one.
    pub(super) fn handed_on(&self, event: &Event) -> event::Value {
        let this = StageTimes {
            entity: event.partition().entity.as_str().to_owned(),
            enqueued_at: self.enqueued_at.clone(),
            started_at: self.started_at.clone(),
            finished_at: self.finished_at.clone(),
        };
        stages::handed_on(&self.stages, &this)
    }

    /// How long it took from the task's event to the file; zero where clocks differ, `None` if the
    /// times are none.
    pub fn since_enqueued(&self) -> Option<Duration> {
        between(&self.enqueued_at, &self.finished_at)
    }

    /// How long it took from the event of the first stage to the file, through all stages.
    pub fn since_first_stage(&self) -> Option<Duration> {
        let first = self.stages.first().map_or(&self.enqueued_at, |stage| &stage.enqueued_at);
        between(first, &self.finished_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_survives_its_json() {
        let json = format!(
            r#"{{"id":"a","url":"https://h/x","path":"d/x","sha256":"{}","md5":"kAFQmDzST7DWlj99KOF/cg==","size":3,"metadata":{{"k":[1]}}}}"#,
            "aB".repeat(32)
        );
        let task = DownloadTask::from_json(json.as_bytes()).expect("valid");
        assert_eq!(task.sha256, Some([0xab; 32]));
        assert_eq!(task.md5.map(|md5| md5[0]), Some(0x90));
        assert_eq!(DownloadTask::from_json(&task.to_json()).expect("valid"), task);
    }

    #[test]
    fn what_is_wrong_with_a_task_is_named() {
        for (json, message) in [
            ("", "the task is empty"),
            ("[]", "not valid JSON of a task"),
            (r#" ["a","https://h/","x",null,null,{}]"#, "it is a list"),
            (r#""https://h/?sig=hush""#, "(it is a text)"),
            (r#"{"https://h/?sig=hush":1"#, "a key that is not known, expected one of `id`"),
            (
                r#"{"id":"a","url":"https://h/","path":"https://u:hush@h/a?sig=hush"}"#,
                "task a: the path \"https://h/a…\" is refused",
            ),
            (
                r#"{"id":"a","url":"https://h/","path":"x","sha256":"https://h/?sig=hush"}"#,
                "task a: \"https://h/…\" is not a SHA-256",
            ),
            (r#"{"id":"a","https://h/?sig=hush":1}"#, "task a: \"https://h/…\" is not known"),
            ("{\"id\":\"a\"", "EOF while parsing"),
            (r#"{"id":"a","path":"x"}"#, "missing field `url`"),
            (
                r#"{"id":"a","url":"no url","path":"x"}"#,
                "task a: \"no url\" is not a URL: relative URL without a base",
            ),
            (
                r#"{"id":"a","url":"https://h/","path":"../x"}"#,
                "task a: the path \"../x\" is refused: it climbs out of the folder",
            ),
            (
                r#"{"id":"a","url":"https://h/","path":"x","sha256":"12"}"#,
                "task a: \"12\" is not a SHA-256",
            ),
            (
                r#"{"id":"a","url":"https://h/","path":"x","md5":"12"}"#,
                "task a: \"12\" is not an MD5",
            ),
            (
                r#"{"id":"a","url":"https://h/","path":"x","size":-1}"#,
                "task a: \"size\" must be a whole number of bytes",
            ),
            (
                r#"{"id":7,"url":"https://h/","path":"x"}"#,
                "the task: \"id\" must be a text in quotes",
            ),
            (
                r#"{"id":"a","url":"https://h/","path":"x","metadata":null}"#,
                "task a: \"metadata\" must be an object",
            ),
            (
                r#"{"id":"a","url":"https://h/","path":"x","SHA256":"12"}"#,
                "task a: \"SHA256\" is not known",
            ),
            (r#"{"url":"https://h/","length":1}"#, "the task: \"length\" is not known"),
            (r#"{"id":"a","url":"https://h/","url":"https://i/","path":"x"}"#, "duplicate field"),
        ] {
            let error = DownloadTask::from_json(json.as_bytes()).expect_err(json).to_string();
            assert!(error.contains(message), "{json}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_result_of_before_is_read() {
        let json = r#"{"id":"7","path":"a","bytes":5,"sha256":"00","attempts":1,"seconds":1.5,
            "enqueued_at":"2026-01-31T12:00:10.000Z","finished_at":"2026-01-31T12:00:12.000Z"}"#;
        let result: TransferResult = serde_json::from_str(json).expect("a result");
        assert_eq!((result.started_at.as_str(), result.stages.as_slice()), ("", &[][..]));
        assert_eq!(result.since_enqueued(), Some(Duration::from_secs(2)));
        assert_eq!(result.since_first_stage(), result.since_enqueued());
        let written: Value = serde_json::to_value(&result).expect("JSON");
        let read: Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(written, read, "what it does not say is left out");
    }
}
