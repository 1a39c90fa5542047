//! The keys of tables that have a name: `[namespaces.NAME]`, `[topics.NAME]`, `[worker.NAME]`.
//!
//! A key is called by its path, `topics.<TOPIC>.entity`. Its variable is `LONGSHORE_` and the path in upper
//! case, with `_` for every character that is not a letter or a digit.

use super::{A_NAME, Key, key};
use crate::settings::knob::Kind;

/// What the variables of these keys begin with.
const VARIABLE_PREFIX: &str = "LONGSHORE_";

/// A kind of tables. Each table of it has a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::settings) enum Section {
    Namespaces,
    Topics,
    Worker,
}

impl Section {
    pub(in crate::settings) const ALL: [Self; 3] = [Self::Namespaces, Self::Topics, Self::Worker];

    /// Its word in the file.
    pub(in crate::settings) const fn word(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Topics => "topics",
            Self::Worker => "worker",
        }
    }

    /// The section of this word.
    pub(in crate::settings) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.word() == word)
    }

    /// The keys of its tables.
    pub(in crate::settings) fn keys(self) -> impl Iterator<Item = &'static Key> {
        super::ALL.iter().filter(move |key| key.section() == Some(self))
    }

    /// The key of this field.
    pub(in crate::settings) fn key(self, field: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.field() == field)
    }

    /// What a variable stands for: the name of a table as it is spelled there, and a key.
    pub(in crate::settings) fn of_variable(name: &str) -> Option<(Self, &str, &'static Key)> {
        let rest = name.strip_prefix(VARIABLE_PREFIX)?;
        Self::ALL.into_iter().find_map(|section| {
            let rest = rest.strip_prefix(&canonical(section.word()))?.strip_prefix('_')?;
            section.keys().find_map(|key| {
                let table = rest.strip_suffix(&canonical(key.field()))?.strip_suffix('_')?;
                let is_name = !table.is_empty() && canonical(table) == table;
                is_name.then_some((section, table, key))
            })
        })
    }
}

/// What names of tables are compared by, and how variables spell them: in upper case, with `_` for every
/// character that is not a letter or a digit.
pub(in crate::settings) fn canonical(name: &str) -> String {
    let letter = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' => letter.to_ascii_uppercase(),
        _ => '_',
    };
    name.chars().map(letter).collect()
}

impl Key {
    /// The tables it is a key of; `None` if it stands by itself.
    pub(in crate::settings) fn section(&self) -> Option<Section> {
        Section::of(self.name.split_once('.')?.0)
    }

    /// Its name within its table.
    pub(in crate::settings) fn field(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, field)| field)
    }

    /// The variable that stands for it, if it is a key of tables.
    pub(super) fn variable(&self) -> Option<String> {
        let (section, rest) = self.name.split_once('.')?;
        let path = rest.replace('.', "_").to_ascii_uppercase();
        Some(format!("{VARIABLE_PREFIX}{}_{path}", canonical(section)))
    }
}

pub(in crate::settings) const TABLE_STRING: Key = Key {
    is_secret: true,
    ..key(
        "namespaces.<NAME>.connection_string",
        "",
        super::CONNECTION_STRING.kind,
        "The connection string of a namespace.",
    )
};
pub(in crate::settings) const TABLE_SECRET: Key = key(
    "namespaces.<NAME>.connection_string_secret",
    "",
    super::SECRET.kind,
    "Or the Key Vault secret that holds the connection string.",
);
pub(in crate::settings) const TABLE_HOST: Key = key(
    "namespaces.<NAME>.host",
    "",
    super::NAMESPACE.kind,
    "Or the host of the namespace, for Microsoft Entra ID.",
);
pub(in crate::settings) const TABLE_CREDENTIAL: Key = key(
    "namespaces.<NAME>.credential",
    "connection-string, if one is set, else EVENTHUB_CREDENTIAL",
    super::CREDENTIAL.kind,
    "How to sign in.",
);
pub(in crate::settings) const TOPIC_NAMESPACE: Key = key(
    "topics.<TOPIC>.namespace",
    "the namespace of the EVENTHUB_ keys",
    Kind::Text("the name of a table [namespaces.NAME]"),
    "The namespace of a topic.",
);
pub(in crate::settings) const TOPIC_ENTITY: Key = key(
    "topics.<TOPIC>.entity",
    "the EntityPath of the connection string, or the name of the topic",
    Kind::Text(A_NAME),
    "The hub of the topic.",
);
pub(in crate::settings) const WORKER_INPUT: Key = key(
    "worker.<WORKER>.input",
    "the hub of EVENTHUB_ENTITY_<WORKER> or EVENTHUB_ENTITY_NAME",
    Kind::Text(A_TOPIC),
    "The topic that a worker reads.",
);
pub(in crate::settings) const WORKER_RESULTS: Key =
    key("worker.<WORKER>.results", "", Kind::Text(A_TOPIC), "The topic that its results go to.");
pub(in crate::settings) const WORKER_DEAD_LETTERS: Key = key(
    "worker.<WORKER>.dead_letters",
    "LONGSHORE_FAILURES",
    Kind::Text("the name of a table [topics.NAME], or a folder: a path with a / in it"),
    "Where its dead letters go.",
);
pub(in crate::settings) const WORKER_FILES: Key = key(
    "worker.<WORKER>.files",
    "",
    Kind::Text(A_PLACE),
    "Where it puts files. An address counts as a secret. If it has no signature, `EVENTHUB_CREDENTIAL` \
     opens the container.",
);
pub(in crate::settings) const WORKER_SOURCE: Key = key(
    "worker.<WORKER>.source",
    "",
    Kind::Text(A_PLACE),
    "Where an upload worker takes files from: a place like `files`.",
);

pub(in crate::settings) const WORKER_METADATA: Key = key(
    "worker.<WORKER>.metadata",
    "none",
    Kind::Choice(&["none", "task", "source", "both"]),
    "Which metadata goes along with a file into a container: that of its task, that of the blob it comes \
     from, or both.",
);
pub(in crate::settings) const WORKER_TIME: Key = key(
    "worker.<WORKER>.time",
    "commit",
    Kind::Choice(&["commit", "source"]),
    "Which time a file gets: that of its commit, or that of its source. A folder keeps it as the time of \
     the file, a container as the metadata `mtime` of the blob.",
);
pub(in crate::settings) const WORKER_TIER: Key = key(
    "worker.<WORKER>.tier",
    "the tier of the account",
    Kind::Choice(&["hot", "cool", "cold", "archive"]),
    "The access tier of the blobs that it puts into a container.",
);

pub(in crate::settings) const WORKER_COPY: Key = key(
    "worker.<WORKER>.copy",
    "worker",
    Kind::Choice(&["worker", "service"]),
    "Who copies a large file into a container: the worker, or the storage service, if it can read the \
     source itself.",
);

pub(in crate::settings) const A_PLACE: &str =
    "a folder, or https://ACCOUNT.blob.core.windows.net/CONTAINER?SIGNATURE, which is a secret";

const A_TOPIC: &str = "the name of a table [topics.NAME]";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_stands_for_one_key_of_one_table() {
        for (name, section, table, key) in [
            ("LONGSHORE_NAMESPACES_A_CONNECTION_STRING", Section::Namespaces, "A", &TABLE_STRING),
            (
                "LONGSHORE_NAMESPACES_A_CONNECTION_STRING_SECRET",
                Section::Namespaces,
                "A",
                &TABLE_SECRET,
            ),
            ("LONGSHORE_TOPICS_A_NAMESPACE_ENTITY", Section::Topics, "A_NAMESPACE", &TOPIC_ENTITY),
            ("LONGSHORE_WORKER_DOWNLOAD_INPUT", Section::Worker, "DOWNLOAD", &WORKER_INPUT),
        ] {
            let (is_section, is_table, is_key) = Section::of_variable(name).expect(name);
            assert_eq!((is_section, is_table, is_key.name), (section, table, key.name), "{name}");
        }
        for wrong in [
            "LONGSHORE_TOPICS_ENTITY",
            "LONGSHORE_TOPICS__ENTITY ",
            "LONGSHORE_TOPICS_a_ENTITY",
            "LONGSHORE_TOPIC_A_ENTITY",
            "TOPICS_A_ENTITY",
            "LONGSHORE_WORKER_A_ENTITY",
        ] {
            assert!(Section::of_variable(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn no_field_is_the_end_of_another() {
        for section in Section::ALL {
            assert!(section.keys().count() > 0, "{section:?}");
            for key in section.keys() {
                let variable = key.variable().expect("a table's").replace(['<', '>'], "");
                let (is_section, _, is_key) = Section::of_variable(&variable).expect("a variable");
                assert_eq!((is_section, is_key.name), (section, key.name));
                let end = format!("_{}", key.field());
                assert!(section.keys().all(|other| !other.field().ends_with(&end)), "{end}");
            }
        }
    }
}
