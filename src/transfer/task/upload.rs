//! A task of an upload worker, which is also what a download worker's result is.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::fault::{InvalidTask, reason, refuse_others, shown};
use super::hash::parse_sha256;
use crate::blob_store::BlobName;
use crate::hex::{from_hex, hex};

/// A file to bring from the place of a worker's files into its store.
///
/// The result of a download worker is a task as it stands, so that the results of one worker are the tasks
/// of the next.
///
/// ```
/// use longshore::transfer::task::UploadTask;
///
/// let task = UploadTask::from_json(br#"{
///     "id": "7",
///     "path": "photos/cat.jpg",
///     "to": "2026/cat.jpg",
///     "size": 48213
/// }"#)?;
/// assert_eq!(task.target().as_str(), "2026/cat.jpg");
/// # Ok::<(), longshore::transfer::task::InvalidTask>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct UploadTask {
    /// The sender's name for the task; comes back in the result.
    pub id: String,
    /// The file, relative to where the worker's files are.
    pub path: BlobName,
    /// Where it goes, relative to the store; `None`: under the same name.
    pub to: Option<BlobName>,
    /// The SHA-256 it must have.
    pub sha256: Option<[u8; 32]>,
    /// The CRC-64/NVME it must have.
    pub crc64: Option<u64>,
    /// The length it must have, in bytes.
    pub size: Option<u64>,
    /// Passed through to the result.
    pub metadata: Map<String, Value>,
}

/// What a task may say. The times of an earlier stage's result say nothing of this one.
#[derive(Deserialize)]
struct RawTask {
    id: String,
    path: String,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    crc64: Option<String>,
    #[serde(default, alias = "bytes")]
    size: Option<u64>,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The keys of a result that a task need not have.
const OF_RESULTS: [&str; 6] =
    ["enqueued_at", "started_at", "finished_at", "seconds", "attempts", "stages"];

impl UploadTask {
    /// A task without sums, size or metadata, whose file keeps its name.
    pub fn new(id: impl Into<String>, path: BlobName) -> Self {
        Self {
            id: id.into(),
            path,
            to: None,
            sha256: None,
            crc64: None,
            size: None,
            metadata: Map::new(),
        }
    }

    /// Where the file goes.
    pub fn target(&self) -> &BlobName {
        self.to.as_ref().unwrap_or(&self.path)
    }

    /// Reads a task from the body of an event.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(body: &[u8]) -> Result<Self, InvalidTask> {
        refuse_others(body)?;
        let raw: RawTask = serde_json::from_slice(body)
            .map_err(|error| InvalidTask::Json { reason: reason(&error) })?;
        let RawTask { id, path, to, sha256, crc64, size, metadata, others } = raw;
        if let Some(key) = others.keys().find(|key| !OF_RESULTS.contains(&key.as_str())) {
            return Err(InvalidTask::UploadKey { id: Some(id), key: shown(key) });
        }
        let name =
            |text: &str| BlobName::parse(text).map_err(|reason| InvalidTask::path(&id, reason));
        let (path, to) = (name(&path)?, to.as_deref().map(name).transpose()?);
        let sha256 = match sha256 {
            None => None,
            Some(text) => Some(
                parse_sha256(&text)
                    .ok_or_else(|| InvalidTask::Hash { id: id.clone(), sha256: shown(&text) })?,
            ),
        };
        let crc64 = match crc64 {
            None => None,
            Some(text) => Some(from_hex(&text).map(u64::from_be_bytes).ok_or_else(|| {
                let must = "the 16 hexadecimal digits of a CRC-64/NVME";
                InvalidTask::Value { id: Some(id.clone()), key: "crc64", must }
            })?),
        };
        Ok(Self { id, path, to, sha256, crc64, size, metadata })
    }

    /// The task as the body of an event.
    pub fn to_json(&self) -> Vec<u8> {
        let mut task = Map::new();
        let mut add = |key: &str, value: Option<Value>| {
            task.extend(value.map(|value| (key.to_owned(), value)));
        };
        add("id", Some(self.id.as_str().into()));
        add("path", Some(self.path.as_str().into()));
        add("to", self.to.as_ref().map(|to| to.as_str().into()));
        add("sha256", self.sha256.as_ref().map(|sha256| hex(sha256).into()));
        add("crc64", self.crc64.map(|crc64| hex(&crc64.to_be_bytes()).into()));
        add("size", self.size.map(Value::from));
        let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone().into());
        add("metadata", metadata);
        // Texts and numbers, which JSON holds.
        serde_json::to_vec(&task).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_survives_its_json() {
        let mut task = UploadTask::new("7", BlobName::parse("a/b").expect("a name"));
        assert_eq!(UploadTask::from_json(&task.to_json()).expect("valid"), task);
        task.to = Some(BlobName::parse("c").expect("a name"));
        (task.sha256, task.crc64, task.size) = (Some([0xab; 32]), Some(0xfeed), Some(3));
        task.metadata.insert("k".to_owned(), 1.into());
        assert_eq!(UploadTask::from_json(&task.to_json()).expect("valid"), task);
        assert_eq!(task.target().as_str(), "c");
    }

    #[test]
    fn a_result_of_a_download_is_a_task() {
        let result =
            br#"{"id":"7","path":"a","bytes":3,"crc64":"00000000000000ff","enqueued_at":"x",
            "finished_at":"y","seconds":0.1,"attempts":1,"metadata":{"k":[1]}}"#;
        let task = UploadTask::from_json(result).expect("valid");
        assert_eq!((task.size, task.crc64, task.target()), (Some(3), Some(255), &task.path));
    }

    #[test]
    fn what_is_wrong_with_a_task_is_named() {
        for (json, message) in [
            ("", "the task is empty"),
            ("[1]", "it is a list"),
            (r#""https://h/?sig=hush""#, "(it is a text)"),
            (r#"{"id":"7","path":"a","size":"https://h/?sig=hush"}"#, "a text, expected u64"),
            (r#"{"id":"7","path":"a","https://h/?sig=hush":1}"#, "\"https://h/…\" is not known"),
            (r#"{"id":"7","path":"a","to":"https://h/?sig=hush"}"#, "\"https://h/…\" is refused"),
            (r#"{"id":"7"}"#, "missing field `path`"),
            (r#"{"id":"7","path":"../a"}"#, "task 7: the path \"../a\" is refused"),
            (r#"{"id":"7","path":"a","to":"/b"}"#, "task 7: the path \"/b\" is refused"),
            (r#"{"id":"7","path":"a","url":"https://h/"}"#, "task 7: \"url\" is not known"),
            (r#"{"id":"7","path":"a","crc64":"1"}"#, "task 7: \"crc64\" must be the 16"),
            (r#"{"id":"7","path":"a","sha256":"1"}"#, "task 7: \"1\" is not a SHA-256"),
        ] {
            let error = UploadTask::from_json(json.as_bytes()).expect_err(json).to_string();
            assert!(error.contains(message), "{json}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
