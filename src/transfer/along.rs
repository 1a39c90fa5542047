//! What goes along with a file: names and values of its blob, checked before the file is fetched, and
//! the time of its source.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::source::Said;
use crate::blob_store::Commit;
use crate::config::{FileTime, GoesAlong};

/// Names and values of a blob's metadata, together:
/// <https://learn.microsoft.com/rest/api/storageservices/setting-and-retrieving-properties-and-metadata-for-blob-resources>.
const MOST_BYTES: usize = 8 << 10;

/// What of that is left for the note of a commit and the time.
const OURS_BYTES: usize = 512;

/// Names that stand for something else: the note of a commit, and a directory.
const RESERVED: [&str; 2] = ["longshore", "hdi_isfolder"];

/// The name under which a blob has the time of its source.
const TIME: &str = "mtime";

/// See the [module](self).
#[derive(Default)]
pub(super) struct Along {
    choice: GoesAlong,
    /// With names in lower case, as they arrive.
    of_task: BTreeMap<String, String>,
}

impl Along {
    /// What goes along with the file of a task that has this metadata.
    ///
    /// # Errors
    /// What the service would not take.
    pub(super) fn of(choice: GoesAlong, metadata: &Map<String, Value>) -> Result<Self, String> {
        let mut of_task = BTreeMap::new();
        if choice.metadata.has_task() {
            for (name, value) in metadata {
                let checked = checked_name(name, choice.time)?;
                if of_task.insert(checked, text_of(name, value)?).is_some() {
                    return Err(format!(
                        "{name:?} is there twice: upper and lower case are one name"
                    ));
                }
            }
        }
        check_length(&of_task)?;
        Ok(Self { choice, of_task })
    }

    /// Whether the time of the source is to be known.
    pub(super) fn has_time(&self) -> bool {
        self.choice.time == FileTime::Source
    }

    /// Whether all that the source says can go along.
    ///
    /// # Errors
    /// What the service would not take.
    pub(super) fn check(&self, said: &Said) -> Result<(), String> {
        if self.choice.metadata.has_source() { check_length(&self.metadata(said)) } else { Ok(()) }
    }

    /// Adds it to a commit.
    pub(super) fn added_to(&self, commit: Commit, said: Said) -> Commit {
        let metadata = self.metadata(&said);
        let modified = said.modified.filter(|_| self.has_time());
        commit
            .with_metadata(metadata)
            .with_modified(modified)
            .with_tier(self.choice.tier)
            .with_content_type(said.content_type)
    }

    fn metadata(&self, said: &Said) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::new();
        if self.choice.metadata.has_source() {
            metadata.extend(said.metadata.iter().map(|(name, value)| (lower(name), value.clone())));
        }
        metadata.extend(self.of_task.iter().map(|(name, value)| (name.clone(), value.clone())));
        metadata
    }
}

fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// A name as the service takes it: an identifier of C#, in ASCII, as all that headers have.
fn checked_name(name: &str, time: FileTime) -> Result<String, String> {
    let is_word = name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_');
    if !is_word || name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(format!(
            "the name {name:?} must have letters, digits and _, and begin with no digit"
        ));
    }
    let checked = lower(name);
    if RESERVED.contains(&checked.as_str()) {
        return Err(format!("the name {name:?} stands for something else"));
    }
    if checked == TIME && time == FileTime::Source {
        return Err(format!(
            "the name {name:?} is that of the source's time, which goes along as well"
        ));
    }
    Ok(checked)
}

fn text_of(name: &str, value: &Value) -> Result<String, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(is) => is.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            return Err(format!("{name:?} must be a text, a number, true or false"));
        }
    };
    if text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
        return Err(format!(
            "{name:?} must be of characters of ASCII, none of them a control character"
        ));
    }
    if text.trim() != text {
        return Err(format!(
            "{name:?} must not begin or end with a space, which gets lost on the way"
        ));
    }
    Ok(text)
}

fn check_length(metadata: &BTreeMap<String, String>) -> Result<(), String> {
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    let most = MOST_BYTES - OURS_BYTES;
    if bytes <= most {
        return Ok(());
    }
    Err(format!("its names and values have {bytes} bytes together, and a blob takes {most}"))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;
    use crate::config::{AccessTier, MetadataOf};

    fn of(choice: GoesAlong, metadata: Value) -> Result<Along, String> {
        Along::of(choice, metadata.as_object().expect("an object"))
    }

    fn said() -> Said {
        let metadata = [("Owner", "b"), ("kept", "1")];
        Said {
            content_type: Some("text/plain".to_owned()),
            modified: Some(SystemTime::UNIX_EPOCH),
            metadata: metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Said::default()
        }
    }

    #[test]
    fn what_is_chosen_goes_along_and_nothing_else() {
        let all = json!({"owner": "a", "Page": 7, "last": true});
        let commit = |choice| {
            let along = of(choice, all.clone()).expect("valid");
            along.check(&said()).expect("short");
            along.added_to(Commit::default(), said())
        };
        let plain = commit(GoesAlong::new());
        let expected = Commit::default().with_content_type(Some("text/plain".to_owned()));
        assert_eq!(plain, expected);

        let (tier, time) = (Some(AccessTier::Cold), FileTime::Source);
        let choice = GoesAlong::new().with_tier(tier).with_time(time);
        let both = commit(choice.with_metadata(MetadataOf::Both));
        let pairs = [("kept", "1"), ("last", "true"), ("owner", "a"), ("page", "7")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(both.metadata, pairs.into(), "the task's win");
        assert_eq!((both.tier, both.modified), (tier, Some(SystemTime::UNIX_EPOCH)));
        assert_eq!(commit(choice.with_metadata(MetadataOf::Source)).metadata.len(), 2);
        assert_eq!(commit(choice.with_metadata(MetadataOf::Task)).metadata.len(), 3);
    }

    #[test]
    fn what_the_service_would_refuse_is_named() {
        let choice = GoesAlong::new().with_metadata(MetadataOf::Task).with_time(FileTime::Source);
        for (metadata, reason) in [
            (json!({"a-b": "x"}), "\"a-b\" must have letters"),
            (json!({"1a": "x"}), "\"1a\" must have letters"),
            (json!({"": "x"}), "\"\" must have letters"),
            (json!({"ä": "x"}), "must have letters"),
            (json!({"Longshore": "x"}), "\"Longshore\" stands for something else"),
            (json!({"hdi_isfolder": "true"}), "stands for something else"),
            (json!({"mtime": "x"}), "the source's time"),
            (json!({"a": "x", "A": "y"}), "is there twice"),
            (json!({"a": ["x"]}), "\"a\" must be a text, a number"),
            (json!({"a": null}), "\"a\" must be a text, a number"),
            (json!({"a": "ä"}), "\"a\" must be of characters of ASCII"),
            (json!({"a": "b\r\nc: d"}), "\"a\" must be of characters of ASCII"),
            (json!({"a": "b "}), "\"a\" must not begin or end with a space"),
            (json!({"a": "b".repeat(8 << 10)}), "have 8193 bytes together"),
        ] {
            let refused = of(choice, metadata.clone()).err().expect("refused");
            assert!(refused.contains(reason), "{refused}");
            assert!(of(GoesAlong::new(), metadata).is_ok(), "it does not go along");
        }
        let long =
            Said { metadata: [("a".to_owned(), "b".repeat(8 << 10))].into(), ..Said::default() };
        let along = of(choice.with_metadata(MetadataOf::Both), json!({})).expect("valid");
        assert!(along.check(&long).expect_err("too long").contains("8193 bytes"));
        assert!(of(choice, json!({})).expect("valid").check(&long).is_ok());
    }
}
