//! The tables that have a name, `[namespaces.NAME]`, `[topics.NAME]` and `[worker.NAME]`: their values
//! from the file, and from the variables that stand for their keys.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::keys::{self, Key, Section, canonical};
use super::problem::{Origin, Problem, shown};
use super::source::{BY_ITSELF, Value, scalar};
use super::value::is_name;

/// Most characters of the name of a table.
const MAX_NAME_CHARS: usize = 256;

/// All of them, by what their names are compared by.
#[derive(Default)]
pub(super) struct Tables(BTreeMap<(Section, String), Table>);

/// One of them.
pub(super) struct Table {
    pub(super) section: Section,
    /// As the file spells it; where only variables name the table, in lower case.
    pub(super) name: String,
    /// Where it is in the file.
    pub(super) place: Option<Origin>,
    values: BTreeMap<&'static str, Value>,
}

impl Table {
    fn new(section: Section, name: String, place: Option<Origin>) -> Self {
        Self { section, name, place, values: BTreeMap::new() }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.values.get(key.name)
    }

    /// A key of it as the file would have it: `topics.orders.entity`.
    pub(super) fn path(&self, key: &Key) -> String {
        path(self.section, &self.name, key.field())
    }
}

fn path(section: Section, table: &str, field: &str) -> String {
    format!("{}.{table}.{field}", section.word())
}

impl Tables {
    /// The tables of a section.
    pub(super) fn of(&self, section: Section) -> impl Iterator<Item = &Table> {
        self.0.iter().filter(move |((of, _), _)| *of == section).map(|(_, table)| table)
    }

    /// The table of this name.
    pub(super) fn get(&self, section: Section, name: &str) -> Option<&Table> {
        self.0.get(&(section, canonical(name)))
    }

    /// Takes what is not here from another source.
    pub(super) fn fall_back_to(&mut self, other: Self) {
        for (key, theirs) in other.0 {
            let ours = self.0.entry(key).or_insert_with(|| {
                Table::new(theirs.section, theirs.name.clone(), theirs.place.clone())
            });
            // The file says how the name is spelled.
            if theirs.place.is_some() {
                (ours.name, ours.place) = (theirs.name, theirs.place);
            }
            for (key, value) in theirs.values {
                ours.values.entry(key).or_insert(value);
            }
        }
    }

    /// Keeps the value of a variable; false where it stands for no key of a table.
    pub(super) fn insert_variable(&mut self, value: &Value) -> bool {
        let Some((section, name, key)) = Section::of_variable(&value.name) else { return false };
        let table = self
            .0
            .entry((section, name.to_owned()))
            .or_insert_with(|| Table::new(section, name.to_ascii_lowercase(), None));
        table.values.insert(key.name, value.clone());
        true
    }

    /// Reads the tables of a section of the file. `place` is that of a position.
    pub(super) fn read(
        &mut self,
        section: Section,
        tables: &DeTable<'_>,
        place: impl Fn(usize) -> Origin,
        problems: &mut Vec<Problem>,
    ) {
        let mut in_order: Vec<_> = tables.iter().collect();
        in_order.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in in_order {
            let origin = place(name.span().start);
            let name = name.get_ref().as_ref();
            let word = section.word();
            let DeValue::Table(values) = value.get_ref() else {
                let must = match keys::find(&canonical(name)) {
                    Some(key) => format!("{} {BY_ITSELF}", key.name),
                    None if section.key(&name.to_ascii_lowercase()).is_some() => {
                        format!(
                            "it is a key of a table that has a name: write [{word}.NAME] above it"
                        )
                    }
                    None => format!("it must be a table, [{word}.NAME]"),
                };
                let name = shown(name);
                problems.push(Problem::new(format!("{word}.{name} ({origin}): {must}")));
                continue;
            };
            if !is_name(name, MAX_NAME_CHARS) {
                let (must, name) =
                    ("have a name of letters, digits, '.', '-' and '_'", shown(name));
                problems
                    .push(Problem::new(format!("[{word}.{name:?}] ({origin}): it must {must}")));
                continue;
            }
            let key = (section, canonical(name));
            if let Some(other) = self.0.get(&key) {
                let at =
                    other.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
                problems.push(Problem::new(format!(
                    "[{word}.{name}] ({origin}): it must be another name than [{word}.{}]{at}: in \
                     variables both are {}",
                    other.name, key.1
                )));
                continue;
            }
            let mut table = Table::new(section, name.to_owned(), Some(origin));
            table.read(values, &place, problems);
            self.0.insert(key, table);
        }
    }
}

impl Table {
    fn read(
        &mut self,
        values: &DeTable<'_>,
        place: &impl Fn(usize) -> Origin,
        problems: &mut Vec<Problem>,
    ) {
        for (field, value) in values {
            let origin = place(field.span().start);
            let field = field.get_ref().as_ref();
            let name = path(self.section, &self.name, field);
            let Some(key) = self.section.key(field) else {
                let hint = self.hint_of(field);
                let name = shown(&name);
                problems.push(Problem::new(format!("{name} ({origin}) is not a key{hint}")));
                continue;
            };
            let Some(text) = scalar(value.get_ref()) else {
                let allowed = key.allowed();
                let must = format!("be text: {allowed}");
                problems.push(Problem::new(format!("{name} ({origin}): it must {must}")));
                continue;
            };
            // As with a variable: not everybody can leave it out.
            if !text.is_empty() {
                self.values.insert(key.name, Value { name, text, origin });
            }
        }
    }
}

impl Table {
    /// What somebody probably meant by a field that is none of this table.
    fn hint_of(&self, field: &str) -> String {
        if let Some(key) = keys::find(&canonical(field)) {
            return format!("; {} {BY_ITSELF}", key.name);
        }
        let fields = self.section.keys().map(Key::field);
        let meant = keys::nearest_of(&field.to_ascii_lowercase(), fields);
        suggestion(meant.map(|meant| path(self.section, &self.name, meant)).as_deref())
    }
}

/// The section that a word of the file was probably meant to be.
pub(super) fn nearest_section(word: &str) -> Option<&'static str> {
    keys::nearest_of(&word.to_ascii_lowercase(), Section::ALL.into_iter().map(Section::word))
}

/// The variable that stands for a key of a table and that `name` was probably meant to be.
pub(super) fn nearest_variable(name: &str) -> Option<String> {
    Section::ALL.into_iter().find_map(|section| {
        let start = format!("LONGSHORE_{}_", canonical(section.word()));
        let rest = name.strip_prefix(&start)?;
        // The last words, as many as the key has, are the key.
        let candidates = section.keys().filter_map(|key| {
            let field = canonical(key.field());
            let words = field.split('_').count();
            let (at, _) = rest.rmatch_indices('_').nth(words - 1)?;
            let distance = keys::distance(&rest[at + 1..], &field);
            (distance <= field.len() / 3)
                .then(|| (distance, format!("{start}{}_{field}", &rest[..at])))
        });
        candidates.min().map(|(_, name)| name)
    })
}

/// What is behind the words that something is not known.
pub(super) fn suggestion(meant: Option<&str>) -> String {
    meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default()
}
