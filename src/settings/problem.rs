//! What is wrong with a configuration: every problem, each with its key, value, place and range.

use std::fmt;
use std::path::PathBuf;

use super::keys::Key;
use crate::error::OneLine;
use crate::secret::{HIDDEN, has_secret};

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Origin {
    /// The environment.
    Environment,
    /// A line of the file; the first is 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// The vault.
    KeyVault,
    /// A default that the program sets.
    Program,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Environment => f.write_str("environment"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::KeyVault => f.write_str("Key Vault"),
            Origin::Program => f.write_str("default of the program"),
        }
    }
}

/// A name for a message: where it reads as a secret, which stands where a name belongs, it is not shown.
pub(super) fn shown(name: &str) -> &str {
    if has_secret(name) { HIDDEN } else { name }
}

/// Most characters that are shown of a value.
const MOST_CHARS: usize = 200;

/// One thing that is wrong. `Display` is one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    key: Option<&'static str>,
    message: String,
}

impl Problem {
    /// The key it is about, if it is about one.
    pub fn key(&self) -> Option<&'static str> {
        self.key
    }

    /// Without a value that is to blame.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { key: None, message: message.into() }
    }

    /// `key` has to be set.
    pub(super) fn missing(key: &Key, why: impl fmt::Display) -> Self {
        Self::missing_as(key, key.name, why)
    }

    /// The same for a key of a table, by its whole name.
    pub(super) fn missing_as(key: &Key, name: &str, why: impl fmt::Display) -> Self {
        Self { key: Some(key.name), message: format!("{name} is not set: {why}") }
    }

    /// The value cannot be used. `name` is the key as it was written.
    pub(super) fn refused(
        key: &Key,
        name: &str,
        value: &str,
        origin: &Origin,
        bound: impl fmt::Display,
    ) -> Self {
        // A connection string may stand where a host or a name belongs.
        let is_hidden = key.is_secret || has_secret(value);
        let value = if is_hidden { HIDDEN } else { value };
        let short: String = value.chars().take(MOST_CHARS).collect();
        let rest = if short.len() < value.len() { "…" } else { "" };
        let message = format!("{name} = {short}{rest} ({origin}): {bound}");
        Self { key: Some(key.name), message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values and names come from outside.
        OneLine(&self.message).fmt(f)
    }
}

/// A configuration that cannot be used, with all that is wrong with it.
///
/// `Display` and `Debug` write one problem behind the first words, and several one a line, with two
/// spaces before each. Warnings follow the problems in the same form.
#[derive(Clone, PartialEq, Eq)]
pub struct SettingsError {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl SettingsError {
    pub(super) fn new(problems: Vec<Problem>, warnings: Vec<String>) -> Self {
        Self { problems, warnings }
    }

    /// Each thing that is wrong.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What is odd beside it: a misspelt variable may be why another is not set.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl From<Problem> for SettingsError {
    fn from(problem: Problem) -> Self {
        Self::new(vec![problem], Vec::new())
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        let is_short = self.problems.len() + self.warnings.len() == 1;
        let gap = if is_short { " " } else { "\n  " };
        self.problems.iter().try_for_each(|problem| write!(f, "{gap}{problem}"))?;
        self.warnings.iter().try_for_each(|warning| write!(f, "{gap}{}", OneLine(warning)))
    }
}

/// In words: what a `main` that returns it prints.
impl fmt::Debug for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for SettingsError {}
