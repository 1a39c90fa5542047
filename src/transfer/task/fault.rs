//! What is wrong with a task.

use crate::blob_store::InvalidBlobName;
use crate::secret::{HIDDEN, has_secret, redacted};
use crate::transfer::url_policy::redacted_text;

/// Why a task cannot be understood. Names the task where it has a name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTask {
    /// The body is empty.
    #[error("the task is empty; it must be a JSON object with id, url and path")]
    Empty,
    /// The body is no JSON, or not of the right form.
    #[error(
        "the task is not valid JSON of a task ({reason}); it must be an object with id, url and path"
    )]
    Json {
        /// What is wrong, and where.
        reason: String,
    },
    /// It is not a URL.
    #[error("{}: {url:?} is not a URL: {reason}", task(id))]
    Url {
        /// The task.
        id: String,
        /// What stood there.
        url: String,
        /// What is wrong with it.
        reason: url::ParseError,
    },
    /// The path may not be used.
    #[error("{}: {reason}", task(id))]
    Path {
        /// The task.
        id: String,
        /// What is wrong with it.
        reason: InvalidBlobName,
    },
    /// A value is of another kind.
    #[error("{}: {key:?} must be {must}", named(id))]
    Value {
        /// The task, if it has a name.
        id: Option<String>,
        /// The key.
        key: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// It says something that is not known.
    #[error(
        "{}: {key:?} is not known, so it is not kept to; a task has id, url, path, sha256, md5, \
         size, and metadata for whatever is yours",
        named(id)
    )]
    Key {
        /// The task, if it has a name.
        id: Option<String>,
        /// What is not known.
        key: String,
    },
    /// An upload task says something that is not known.
    #[error("{}", unknown_upload_key(id, key))]
    UploadKey {
        /// The task, if it has a name.
        id: Option<String>,
        /// What is not known.
        key: String,
    },
    /// Its metadata is to go along with the file, and the service would not take it.
    #[error("{}: its metadata cannot go along: {reason}", task(id))]
    Metadata {
        /// The task.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is not a SHA-256.
    #[error(
        "{}: {sha256:?} is not a SHA-256; it must have 64 hexadecimal digits, or 44 characters of base64",
        task(id)
    )]
    Hash {
        /// The task.
        id: String,
        /// What stood there.
        sha256: String,
    },
    /// It is not an MD5.
    #[error(
        "{}: {md5:?} is not an MD5; it must have 32 hexadecimal digits, or 24 characters of base64",
        task(id)
    )]
    Md5 {
        /// The task.
        id: String,
        /// What stood there.
        md5: String,
    },
}

impl InvalidTask {
    /// The path of this task may not be used. Of a path that reads as one with a secret in it, nothing is said.
    pub fn path(id: &str, InvalidBlobName { name, fault }: InvalidBlobName) -> Self {
        let reason = InvalidBlobName { name: shown(&name), fault };
        Self::Path { id: id.to_owned(), reason }
    }
}

/// What is wrong with JSON. A text of the wrong kind, and a key, are left out of it: they may be a URL with
/// a secret.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let text = said.split_once(": string \"").zip(said.rsplit_once("\", expected "));
    let key = said.split_once("unknown field `").zip(said.rsplit_once("`, expected "));
    match (text, key) {
        (Some(((before, _), (_, after))), _) => format!("{before}: a text, expected {after}"),
        (None, Some((_, (_, after)))) => format!("a key that is not known, expected {after}"),
        (None, None) => said,
    }
}

/// What is not even an object.
pub(super) fn refuse_others(body: &[u8]) -> Result<(), InvalidTask> {
    let what = match body.trim_ascii_start().first() {
        None => return Err(InvalidTask::Empty),
        // A list of the same values in the right order would do for serde.
        Some(b'[') => "it is a list",
        Some(b'"') => "it is a text",
        _ => return Ok(()),
    };
    Err(InvalidTask::Json { reason: what.to_owned() })
}

/// Enough of a hostile text to recognise it. Where it is a URL, which may stand where it does not belong,
/// its secrets are left out.
pub(super) fn shown(text: &str) -> String {
    let text = if text.contains("://") { redacted_text(text) } else { text.to_owned() };
    without_secret(text)
}

/// What reads as a secret still, of an address that is mangled, is not shown at all.
fn without_secret(text: String) -> String {
    if has_secret(&text) { HIDDEN.to_owned() } else { shortened(&text) }
}

fn shortened(text: &str) -> String {
    const MOST_CHARS: usize = 120;
    if text.chars().count() <= MOST_CHARS {
        text.to_owned()
    } else {
        text.chars().take(MOST_CHARS).chain(['…']).collect()
    }
}

fn named(id: &Option<String>) -> String {
    id.as_ref().map_or_else(|| "the task".to_owned(), |id| task(id))
}

/// A task by its name, which may be the URL.
fn task(id: &str) -> String {
    format!("task {}", without_secret(redacted(id)))
}

/// The message of a key that an upload task does not have.
fn unknown_upload_key(id: &Option<String>, key: &str) -> String {
    format!(
        "{}: {key:?} is not known, so it is not kept to; an upload task has id, path, to, sha256, md5, \
         crc64, size, and metadata for whatever is yours",
        named(id)
    )
}
