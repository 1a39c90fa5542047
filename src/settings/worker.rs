//! What a worker reads and where it writes, as settings name it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::Settings;
use super::entities::worker_key;
use super::failures::FailurePlace;
use super::files::{FilesPlace, is_address, read_folder};
use super::keys::{self, Key, Section, canonical};
use super::problem::{Problem, SettingsError};
use super::resolve::choice_of;
use super::source::Value;
use super::tables::{Table, Tables, suggestion};
use super::topics::{Topic, Topics, no_such};
use crate::config::{AccessTier, CopyBy, FileTime, GoesAlong, MetadataOf};
use crate::credential::Credential;

/// What a worker reads and where it writes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkerPlaces {
    /// Where its tasks come from.
    pub input: Topic,
    /// Where its results go.
    pub results: Topic,
    /// Where its dead letters go.
    pub dead_letters: DeadLetterPlace,
    /// Where its files go.
    pub files: FilesPlace,
    /// Where its files come from, unless they come from the URLs of tasks.
    pub source: Option<FilesPlace>,
    /// What goes along with its files.
    pub along: GoesAlong,
    /// Who copies them.
    pub copy: CopyBy,
}

/// Where dead letters go.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DeadLetterPlace {
    /// The failure store, unless the settings name another place.
    Store(FailurePlace),
    /// A folder, which processes may share.
    Folder(PathBuf),
    /// A hub.
    Topic(Topic),
}

impl fmt::Display for DeadLetterPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(place) => place.fmt(f),
            Self::Folder(path) => path.display().fmt(f),
            Self::Topic(topic) => topic.fmt(f),
        }
    }
}

/// A table `[worker.NAME]`.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    name: String,
    input: Option<Topic>,
    results: Option<Topic>,
    dead_letters: Option<DeadLetterPlace>,
    files: Option<FilesPlace>,
    source: Option<FilesPlace>,
    along: GoesAlong,
    copy: CopyBy,
}

/// The tables of workers, by what their names are compared by.
pub(super) fn read_workers(
    tables: &Tables,
    topics: &Topics,
    credential: Option<&Credential>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Worker> {
    let mut workers = BTreeMap::new();
    for table in tables.of(Section::Worker) {
        let mut reading = Reading { tables, topics, table, credential, problems };
        let worker = Worker {
            name: table.name.clone(),
            input: reading.topic(&keys::WORKER_INPUT),
            results: reading.topic(&keys::WORKER_RESULTS),
            dead_letters: reading.dead_letters(),
            files: reading.files(&keys::WORKER_FILES),
            source: reading.files(&keys::WORKER_SOURCE),
            along: reading.along(),
            copy: match reading.choice(&keys::WORKER_COPY) {
                Some("service") => CopyBy::Service,
                _ => CopyBy::Worker,
            },
        };
        workers.insert(canonical(&table.name), worker);
    }
    workers
}

struct Reading<'a> {
    tables: &'a Tables,
    topics: &'a Topics,
    table: &'a Table,
    credential: Option<&'a Credential>,
    problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    fn topic(&mut self, key: &Key) -> Option<Topic> {
        let value = self.table.get(key)?;
        self.topic_of(key, value)
    }

    fn topic_of(&mut self, key: &Key, value: &Value) -> Option<Topic> {
        let topic = self.topics.topics.get(&canonical(&value.text)).cloned();
        // What is wrong with a table that is there was said.
        if topic.is_none() && self.tables.get(Section::Topics, &value.text).is_none() {
            let names = self.tables.of(Section::Topics).map(|table| table.name.as_str());
            self.problems.push(value.refused(key, no_such(key, &value.text, names)));
        }
        topic
    }

    fn dead_letters(&mut self) -> Option<DeadLetterPlace> {
        let key = &keys::WORKER_DEAD_LETTERS;
        let value = self.table.get(key)?;
        if !value.text.contains('/') && !is_address(&value.text) {
            return self.topic_of(key, value).map(DeadLetterPlace::Topic);
        }
        match read_folder(&value.text) {
            Ok(folder) => Some(DeadLetterPlace::Folder(folder)),
            Err(bound) => {
                self.problems.push(refused(key, value, &bound));
                None
            }
        }
    }

    /// The value of a key that is one of several words.
    fn choice(&mut self, key: &Key) -> Option<&'static str> {
        let value = self.table.get(key)?;
        let read = choice_of(key, &value.text);
        read.map_err(|bound| self.problems.push(value.refused(key, bound))).ok()
    }

    fn along(&mut self) -> GoesAlong {
        let metadata = match self.choice(&keys::WORKER_METADATA) {
            Some("task") => MetadataOf::Task,
            Some("source") => MetadataOf::Source,
            Some("both") => MetadataOf::Both,
            _ => MetadataOf::None,
        };
        let time = match self.choice(&keys::WORKER_TIME) {
            Some("source") => FileTime::Source,
            _ => FileTime::Commit,
        };
        let tier = self.choice(&keys::WORKER_TIER);
        let tier = tier.and_then(|word| AccessTier::ALL.into_iter().find(|it| it.as_str() == word));
        GoesAlong::new().with_metadata(metadata).with_time(time).with_tier(tier)
    }

    fn files(&mut self, key: &Key) -> Option<FilesPlace> {
        let value = self.table.get(key)?;
        let read = FilesPlace::read(&value.text, self.credential);
        read.map_err(|bound| self.problems.push(refused(key, value, &bound))).ok()
    }
}

/// Refuses a value, which is a secret where it is an address.
fn refused(key: &Key, value: &Value, bound: &str) -> Problem {
    value.refused(&Key { is_secret: is_address(&value.text), ..*key }, bound)
}

impl Settings {
    /// The hub that a worker reads if no key names another one: that of `EVENTHUB_ENTITY_NAME`, or the
    /// `EntityPath` of the connection string.
    ///
    /// # Errors
    /// If neither is given.
    pub fn input(&self) -> Result<Topic, SettingsError> {
        self.entity().map(Topic::of_entity)
    }

    /// What the worker of this name reads: the topic of its table `[worker.NAME]`, or the hub of
    /// `EVENTHUB_ENTITY_<WORKER>` or `EVENTHUB_ENTITY_NAME`.
    ///
    /// # Errors
    /// If the settings name none.
    pub fn input_of(&self, worker: &str) -> Result<Topic, SettingsError> {
        let named = self.workers.get(&canonical(worker));
        if let Some(input) = named.and_then(|named| named.input.clone()) {
            return Ok(input);
        }
        // Without the namespace that all share, no key but a topic names a hub.
        let hub = self.has_common_namespace().then(|| self.entity_of(worker).ok()).flatten();
        hub.map(Topic::of_entity).ok_or_else(|| {
            let why = format!(
                "name the topic that it reads, or its hub in {} or {}",
                worker_key(worker),
                keys::ENTITY.name
            );
            self.missing(worker, &keys::WORKER_INPUT, &why).into()
        })
    }

    /// Where the dead letters of the worker of this name go: what its table `[worker.NAME]` says, or the
    /// store of failures.
    pub fn dead_letters_of(&self, worker: &str) -> DeadLetterPlace {
        let named = self.workers.get(&canonical(worker));
        let set = named.and_then(|named| named.dead_letters.clone());
        set.unwrap_or_else(|| DeadLetterPlace::Store(self.failure_place()))
    }

    /// Whether there is a table `[worker.NAME]` of this name.
    pub fn has_worker(&self, name: &str) -> bool {
        self.workers.contains_key(&canonical(name))
    }

    /// The name of a worker whose dead letters go to this hub: a topic, or a hub of the namespace that all share.
    /// Names are compared as the service does.
    pub fn writer_of_dead_letters(&self, hub: &str) -> Option<&str> {
        let topic = self.topic(hub).cloned().unwrap_or_else(|_| Topic::of_entity(hub.into()));
        let is_its = |worker: &&Worker| {
            let letters = worker.dead_letters.as_ref().and_then(DeadLetterPlace::topic);
            letters.is_some_and(|letters| self.is_same_hub(letters, &topic))
        };
        self.workers.values().find(is_its).map(|worker| worker.name.as_str())
    }

    /// What the worker of this name reads, and where it writes: all of its table `[worker.NAME]`.
    ///
    /// # Errors
    /// Everything that is missing, or that does not fit together.
    pub fn worker(&self, name: &str) -> Result<WorkerPlaces, SettingsError> {
        let mut problems = Vec::new();
        let input =
            self.input_of(name).map_err(|error| problems.extend_from_slice(error.problems()));
        let named = self.workers.get(&canonical(name));
        let results = named.and_then(|named| named.results.clone());
        if results.is_none() {
            let why = "name the topic of its results";
            problems.push(self.missing(name, &keys::WORKER_RESULTS, why));
        }
        let dead_letters = self.dead_letters_of(name);
        let along = named.map(|named| named.along).unwrap_or_default();
        let copy = named.map(|named| named.copy).unwrap_or_default();
        let files = named.and_then(|named| named.files.clone());
        if files.is_none() {
            let why = "say where its files go";
            problems.push(self.missing(name, &keys::WORKER_FILES, why));
        }
        let (Ok(input), Some(results), Some(files)) = (input, results, files) else {
            return Err(SettingsError::new(problems, self.warnings.clone()));
        };
        for (topic, key) in [
            (Some(&results), &keys::WORKER_RESULTS),
            (dead_letters.topic(), &keys::WORKER_DEAD_LETTERS),
        ] {
            if let Some(topic) = topic.filter(|topic| self.is_same_hub(topic, &input)) {
                let path = self.path(name, key);
                problems.push(Problem::new(format!(
                    "{path} = {topic}: it must be another hub than the one that the worker reads"
                )));
            }
        }
        if let FilesPlace::Folder(_) = files {
            for (is_set, key) in [
                (along.metadata != MetadataOf::None, &keys::WORKER_METADATA),
                (along.tier.is_some(), &keys::WORKER_TIER),
                (copy != CopyBy::Worker, &keys::WORKER_COPY),
            ] {
                if is_set {
                    let path = self.path(name, key);
                    problems.push(Problem::new(format!(
                        "{path}: it is for files that go to a container; a folder has no place for it"
                    )));
                }
            }
        }
        if !problems.is_empty() {
            return Err(SettingsError::new(problems, self.warnings.clone()));
        }
        let source = named.and_then(|named| named.source.clone());
        Ok(WorkerPlaces { input, results, dead_letters, files, source, along, copy })
    }

    /// The same of a worker whose files come from a place of its own.
    ///
    /// # Errors
    /// As [`worker`](Self::worker), and where it has no such place.
    pub fn worker_with_source(&self, name: &str) -> Result<WorkerPlaces, SettingsError> {
        let places = self.worker(name);
        let named = self.workers.get(&canonical(name));
        if named.is_some_and(|named| named.source.is_some()) {
            return places;
        }
        let missing = self.missing(name, &keys::WORKER_SOURCE, "say where its files come from");
        let mut problems = vec![missing];
        problems.extend(places.err().iter().flat_map(SettingsError::problems).cloned());
        Err(SettingsError::new(problems, self.warnings.clone()))
    }

    fn path(&self, worker: &str, key: &Key) -> String {
        format!("{}.{worker}.{}", Section::Worker.word(), key.field())
    }

    fn missing(&self, worker: &str, key: &Key, why: &str) -> Problem {
        // One whose name is not spelled as it is asked for.
        let other = match self.workers.contains_key(&canonical(worker)) {
            true => None,
            false => keys::nearest_of(worker, self.workers.values().map(|it| it.name.as_str())),
        };
        let meant = other.map(|name| format!("[worker.{name}]"));
        let why = format!("{why}{}", suggestion(meant.as_deref()));
        Problem::missing_as(key, &self.path(worker, key), why)
    }
}

impl DeadLetterPlace {
    fn topic(&self) -> Option<&Topic> {
        match self {
            Self::Topic(topic) => Some(topic),
            Self::Store(_) | Self::Folder(_) => None,
        }
    }
}
