//! Reads the environment, the file and the program's defaults into one value for each key, and remembers the places.
//!
//! Nothing is checked here but names: what is unknown, and what is given under two names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::{self, Key, Section, WORKER_ENTITY};
use super::problem::{Origin, Problem, shown};
use super::tables::{Tables, nearest_section, nearest_variable, suggestion};
use crate::credential::Credential;
use crate::named_file::{self, MOST_CONFIGURATION_BYTES};

/// What the keys of single workers begin with.
pub(super) const WORKER_PREFIX: &str = "EVENTHUB_ENTITY_";
/// Variables that begin so are ours.
const PREFIXES: [&str; 2] = ["EVENTHUB_", "LONGSHORE_"];

/// A value as it was written.
#[derive(Clone)]
pub(super) struct Value {
    /// The key or its alias.
    pub(super) name: String,
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl Value {
    pub(super) fn refused(&self, key: &Key, bound: impl std::fmt::Display) -> Problem {
        Problem::refused(key, &self.name, &self.text, &self.origin, bound)
    }
}

/// All values, and what is wrong with their names.
#[derive(Default)]
pub(super) struct Values {
    known: BTreeMap<&'static str, Value>,
    /// By the whole name of the key.
    workers: BTreeMap<String, Value>,
    pub(super) tables: Tables,
    /// The variables that every program reads.
    proxies: BTreeMap<String, String>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
}

impl Values {
    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.known.get(key.name)
    }

    /// Whether the key of this name is set.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// The credential of this word; `None` if it is none for a token.
    pub(super) fn credential(&self, word: &str) -> Option<Credential> {
        let text = |key| self.get(key).map(|value| value.text.clone());
        match word {
            "developer" => Some(Credential::Developer),
            "managed-identity" => {
                Some(Credential::ManagedIdentity { client_id: text(&keys::CLIENT_ID) })
            }
            "workload-identity" => Some(Credential::WorkloadIdentity {
                client_id: text(&keys::CLIENT_ID),
                tenant_id: text(&keys::TENANT_ID),
                token_file: text(&keys::TOKEN_FILE).map(PathBuf::from),
            }),
            _ => None,
        }
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.workers.iter()
    }

    /// HTTPS_PROXY or NO_PROXY; the lower-case spelling counts first, as with other programs.
    pub(super) fn proxy_variable(&self, name: &str) -> Option<&str> {
        let lower = name.to_ascii_lowercase();
        self.proxies.get(&lower).or_else(|| self.proxies.get(name)).map(String::as_str)
    }

    /// Reads the environment, which wins over the file, if there is one, and that over the program's defaults.
    pub(super) fn read(
        defaults: impl IntoIterator<Item = (String, String)>,
        environment: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Self {
        let mut from_file = Self::default();
        if let Some(file) = file {
            from_file.read_file(file);
        }
        let mut from_program = Self::default();
        from_program.read_defaults(defaults);
        from_file.fall_back_to(from_program);
        Self::joined(environment, from_file)
    }

    /// The same of a file that was read, and is called `path`.
    #[cfg(feature = "testing")]
    pub(super) fn of_text(
        environment: impl IntoIterator<Item = (String, String)>,
        path: &Path,
        text: &str,
    ) -> Self {
        let mut from_file = Self::default();
        from_file.read_text(path, text);
        Self::joined(environment, from_file)
    }

    fn joined(environment: impl IntoIterator<Item = (String, String)>, from_file: Self) -> Self {
        let mut values = Self::default();
        values.read_environment(environment);
        values.fall_back_to(from_file);
        values
    }

    fn fall_back_to(&mut self, other: Self) {
        for (key, value) in other.known {
            self.known.entry(key).or_insert(value);
        }
        for (key, value) in other.workers {
            self.workers.entry(key).or_insert(value);
        }
        self.tables.fall_back_to(other.tables);
        self.problems.splice(0..0, other.problems);
    }

    fn read_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        let (mut unknown, mut quoted) = (Vec::new(), Vec::new());
        for (name, text) in environment {
            let (text, had_quotes) = bare(&text);
            // Shells and deployments cannot always unset a variable.
            if text.is_empty() {
                continue;
            }
            let text = text.to_owned();
            match name.to_ascii_uppercase().as_str() {
                "HTTPS_PROXY" | "NO_PROXY" => {
                    self.proxies.insert(name, text);
                    continue;
                }
                _ => {}
            }
            let value = Value { name: name.clone(), text, origin: Origin::Environment };
            let is_known = self.tables.insert_variable(&value) || self.insert(value);
            if is_known && had_quotes {
                quoted.push(name);
            } else if !is_known && is_ours(&name) {
                unknown.push(name);
            }
        }
        quoted.sort();
        if !quoted.is_empty() {
            let message =
                "the quotes around these values are left out, as if a shell had read them";
            self.warnings.push(format!("{message}: {} (environment)", quoted.join(", ")));
        }
        unknown.sort();
        for name in unknown {
            let meant = nearest_variable(&name).or_else(|| nearest_key(&name).map(str::to_owned));
            self.warnings.push(no_key(&name, &Origin::Environment, meant.as_deref()));
        }
    }

    /// What the program itself sets. A name that is no key is its bug.
    fn read_defaults(&mut self, defaults: impl IntoIterator<Item = (String, String)>) {
        for (name, text) in defaults {
            let value = Value { name: name.clone(), text, origin: Origin::Program };
            if !self.tables.insert_variable(&value) && !self.insert(value) {
                let message = no_key(&name, &Origin::Program, nearest_key(&name));
                self.problems.push(Problem::new(message));
            }
        }
    }

    fn read_file(&mut self, path: &Path) {
        match named_file::read_text(path, MOST_CONFIGURATION_BYTES) {
            Ok(text) => self.read_text(path, &text),
            Err(error) => {
                let message = format!("{} cannot be read: {error}", path.display());
                self.problems.push(Problem::new(message));
            }
        }
    }

    fn read_text(&mut self, path: &Path, text: &str) {
        let line_at = |at: usize| text.get(..at).map_or(1, |read| read.matches('\n').count() + 1);
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                // The line itself may hold a key: it is not shown.
                let line = error.span().map_or(1, |span| line_at(span.start));
                let said = error.message().replace('\n', "; ");
                let message = format!("{}:{line}: {said}", path.display());
                self.problems.push(Problem::new(message));
                return;
            }
        };
        let place = |at: usize| Origin::File { path: path.to_owned(), line: line_at(at) };
        for (name, value) in table.get_ref() {
            let origin = place(name.span().start);
            let name = name.get_ref().as_ref();
            if let (Some(section), DeValue::Table(tables)) = (Section::of(name), value.get_ref()) {
                self.tables.read(section, tables, place, &mut self.problems);
                continue;
            }
            if keys::find(name).is_none()
                && let DeValue::Table(fields) = value.get_ref()
            {
                let hint = hint_of_table(name, fields);
                let name = shown(name);
                let message = format!("[{name}] ({origin}) is not a table{hint}");
                self.problems.push(Problem::new(message));
                continue;
            }
            let Some(text) = scalar(value.get_ref()) else {
                let must = "be text, a number, true or false";
                let name = shown(name);
                self.problems.push(Problem::new(format!("{name} ({origin}): it must {must}")));
                continue;
            };
            if !self.insert(Value { name: name.to_owned(), text, origin: origin.clone() }) {
                let message = no_key(name, &origin, nearest_key(name));
                self.problems.push(Problem::new(message));
            }
        }
    }

    /// Keeps a value of this source; false where its key is not known.
    fn insert(&mut self, value: Value) -> bool {
        let Some(key) = keys::find(&value.name) else {
            let is_worker = value.name.len() > WORKER_PREFIX.len()
                && value.name.starts_with(WORKER_PREFIX)
                && value
                    .name
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
            if is_worker {
                self.workers.insert(value.name.clone(), value);
            }
            return is_worker;
        };
        match self.known.get(key.name) {
            Some(other) if other.text != value.text => {
                let first = &other.name;
                let is_same_as =
                    format!("it must be the same as {first}, which is another name of the key");
                self.problems.push(value.refused(key, is_same_as));
            }
            Some(_) => {}
            None => {
                self.known.insert(key.name, value);
            }
        }
        true
    }
}

/// What is said of a name that is no key, with the key that was probably meant.
fn no_key(name: &str, origin: &Origin, meant: Option<&str>) -> String {
    format!("{} ({origin}) is not a key{}", shown(name), suggestion(meant))
}

/// Whether a variable is meant for us. Its case may be wrong.
fn is_ours(name: &str) -> bool {
    let start_is = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    PREFIXES.into_iter().any(start_is)
}

/// A value without the white space and the quotes around it, and whether there were quotes. `docker run
/// --env-file` and others keep the quotes that a shell takes away, and a mounted secret ends in a line break.
fn bare(text: &str) -> (&str, bool) {
    let text = text.trim();
    let inner = ['"', '\''].into_iter().find_map(|quote| {
        text.strip_prefix(quote)?.strip_suffix(quote).filter(|inner| !inner.contains(quote))
    });
    inner.map_or((text, false), |inner| (inner.trim(), true))
}

/// What somebody probably meant by a table that is not one of ours: keys that stand by themselves,
/// `[eventhub]` for instance, or a table within it.
fn hint_of_table(name: &str, fields: &DeTable<'_>) -> String {
    let fields = || fields.keys().map(|field| field.get_ref().as_ref());
    if let Some(section) = fields().find_map(Section::of) {
        return suggestion(Some(&format!("[{}.NAME]", section.word())));
    }
    let alone = |field: &str| {
        let joined = keys::canonical(&format!("{name}_{field}"));
        keys::find(&joined).or_else(|| keys::find(&keys::canonical(field))).map(|key| key.name)
    };
    match fields().find_map(alone) {
        Some(key) => format!("; {key} {BY_ITSELF}"),
        None => {
            let meant = nearest_section(name).map(|word| format!("[{word}.NAME]"));
            suggestion(meant.as_deref())
        }
    }
}

/// What is said of a key that stands in a table and is none of it.
pub(super) const BY_ITSELF: &str = "stands by itself: write it above the first table of the file";

/// The key that stands by itself and that `name` was probably meant to be.
fn nearest_key(name: &str) -> Option<&'static str> {
    keys::nearest(name).filter(|nearest| *nearest != WORKER_ENTITY.name)
}

/// A value as text; `None` if it is a list, a table or a time.
pub(super) fn scalar(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        _ => return None,
    })
}
