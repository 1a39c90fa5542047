//! A job in its folder: which letters, how, and what became of them.
//!
//! ```text
//!  JOB/job.json         the plan; written whole, once
//!  JOB/edited.jsonl     records that are handed out in place of the letters, in their order
//!  JOB/originals.jsonl  those letters as they were
//!  JOB/journal.jsonl    what happened
//! ```
//!
//! A process has a job for itself: the folder is locked. All of it is its owner's alone, for the events of a
//! customer are in it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{
    self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _,
};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::journal::{End, Journal, Known, Note};
use crate::dead_letter::record::DeadLetterRecord;
use crate::durable_folder::{Access, DurableFolder, disk_error, random_name};
use crate::error::{Error, ErrorClass};
use crate::event::{EntityName, Incarnation, SequenceNumber};
use crate::failure_store::{EventIdentity, LogIdentity};
use crate::private_file;
use crate::state::replay::{Counts, Fate, Limits, Replay};
use crate::timestamp::rfc3339;

const PLAN: &str = "job.json";
const EDITED: &str = "edited.jsonl";
const ORIGINALS: &str = "originals.jsonl";
const JOURNAL: &str = "journal.jsonl";

const OPEN: &str = "open the job";
const WRITE: &str = "write the job";

/// Which letters a job replays, and how. It does not change.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The name of the job, which no other one has.
    pub job: String,
    /// When it was made.
    pub created: SystemTime,
    /// Where its letters are, as [`FailureStore::place`](crate::failure_store::FailureStore::place) says it.
    pub store: String,
    /// The hub that it publishes to. `None` if the letters go to their group.
    pub to: Option<EntityName>,
    /// How it goes about it.
    pub limits: Limits,
    /// Whether records of its own are handed out in place of the letters.
    pub is_edited: bool,
    logs: Vec<LogIdentity>,
    numbers: BTreeMap<LogIdentity, u32>,
    letters: Vec<Frozen>,
}

/// A letter of a plan: its log, its number, and how often it was replayed before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frozen {
    log: u32,
    number: SequenceNumber,
    generation: u32,
}

impl Plan {
    /// A plan without letters, under a name of its own, which begins with the day.
    pub fn new(created: SystemTime, store: impl Into<String>, limits: Limits) -> Self {
        let time = rfc3339(created);
        let day = time.get(..10).unwrap_or(&time).replace('-', "");
        let random = random_name();
        let job = format!("{day}-{}", random.get(..6).unwrap_or_default());
        Self {
            job,
            created,
            store: store.into(),
            to: None,
            limits,
            is_edited: false,
            logs: Vec::new(),
            numbers: BTreeMap::new(),
            letters: Vec::new(),
        }
    }

    /// Adds a letter, and how many times it was replayed before.
    pub fn add(&mut self, event: &EventIdentity, generation: u32) {
        let log = match self.numbers.get(&event.log) {
            Some(log) => *log,
            None => {
                // A plan has as many logs as partitions times groups.
                let log = u32::try_from(self.logs.len()).unwrap_or(u32::MAX);
                self.logs.push(event.log.clone());
                self.numbers.insert(event.log.clone(), log);
                log
            }
        };
        self.letters.push(Frozen { log, number: event.sequence_number, generation });
    }

    /// Leaves letters of some logs out.
    pub fn retain_logs(&mut self, is_kept: impl Fn(&LogIdentity) -> bool) {
        let kept: Vec<bool> = self.logs.iter().map(is_kept).collect();
        self.letters.retain(|letter| kept.get(letter.log as usize).is_some_and(|kept| *kept));
    }

    /// How many letters it has.
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// The logs that its letters are of.
    pub fn logs(&self) -> &[LogIdentity] {
        &self.logs
    }

    /// A letter's event; `None` beyond the last.
    pub fn event(&self, letter: usize) -> Option<EventIdentity> {
        let Frozen { log, number, .. } = *self.letters.get(letter)?;
        Some(self.logs.get(log as usize)?.event(number))
    }

    /// How often a letter was replayed before.
    pub(super) fn generation(&self, letter: usize) -> u32 {
        self.letters.get(letter).map_or(0, |frozen| frozen.generation)
    }

    /// The letters of each log, by number.
    pub(super) fn by_log(&self) -> Vec<(&LogIdentity, BTreeMap<SequenceNumber, usize>)> {
        let mut logs: Vec<_> = self.logs.iter().map(|log| (log, BTreeMap::new())).collect();
        for (letter, frozen) in self.letters.iter().enumerate() {
            if let Some((_, letters)) = logs.get_mut(frozen.log as usize) {
                letters.insert(frozen.number, letter);
            }
        }
        logs
    }

    fn to_json(&self) -> Result<Vec<u8>, Error> {
        let logs = self.logs.iter().map(|log| WrittenLog {
            namespace: log.namespace.clone(),
            entity: log.entity.as_str().to_owned(),
            incarnation: log.incarnation.0,
            consumer_group: log.consumer_group.as_str().to_owned(),
            partition: log.partition.as_str().to_owned(),
        });
        let Limits { canary, stop_at, per_second, at_once } = self.limits;
        let written = Written {
            version: VERSION,
            job: self.job.clone(),
            created: rfc3339(self.created),
            store: self.store.clone(),
            to: self.to.as_ref().map(|to| to.as_str().to_owned()),
            canary,
            stop_at,
            per_second,
            at_once,
            edited: self.is_edited,
            logs: logs.collect(),
            letters: self
                .letters
                .iter()
                .map(|frozen| (frozen.log, frozen.number.0, frozen.generation))
                .collect(),
        };
        serde_json::to_vec(&written).map_err(|error| {
            let message = "the plan cannot be written as JSON";
            Error::new(ErrorClass::Permanent, WRITE, message).with_source(error)
        })
    }

    fn from_json(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let unreadable = |error: serde_json::Error| format!("it is no job, or is cut: {error}");
        let Version { version } = serde_json::from_slice(json).map_err(unreadable)?;
        if version > VERSION {
            return Err(format!(
                "its version is {version}, and this release reads up to {VERSION}; use a later release"
            ));
        }
        let written: Written = serde_json::from_slice(json).map_err(unreadable)?;
        let created = crate::timestamp::from_rfc3339(&written.created)
            .ok_or_else(|| format!("{:?} is not a time", written.created))?;
        let limits = Limits {
            canary: written.canary,
            stop_at: written.stop_at,
            per_second: written.per_second,
            at_once: written.at_once,
        };
        let logs: Vec<_> = written.logs.into_iter().map(LogIdentity::from).collect();
        let letters = written.letters.into_iter().map(|(log, number, generation)| Frozen {
            log,
            number: SequenceNumber(number),
            generation,
        });
        let letters: Vec<_> = letters.collect();
        if letters.iter().any(|letter| letter.log as usize >= logs.len()) {
            return Err("a letter of it is of a log that it does not name".to_owned());
        }
        let numbers = (0_u32..).zip(&logs).map(|(number, log)| (log.clone(), number)).collect();
        Ok(Self {
            job: written.job,
            created,
            store: written.store,
            to: written.to.map(|to| to.as_str().into()),
            limits,
            is_edited: written.edited,
            logs,
            numbers,
            letters,
        })
    }
}

/// The layout of a job's file.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    job: String,
    created: String,
    store: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    canary: usize,
    stop_at: Option<f64>,
    per_second: Option<f64>,
    at_once: usize,
    edited: bool,
    logs: Vec<WrittenLog>,
    /// Each its log, its number, and how often it was replayed before.
    letters: Vec<(u32, i64, u32)>,
}

#[derive(Serialize, Deserialize)]
struct WrittenLog {
    namespace: String,
    entity: String,
    incarnation: i64,
    consumer_group: String,
    partition: String,
}

impl From<WrittenLog> for LogIdentity {
    fn from(written: WrittenLog) -> Self {
        Self {
            namespace: written.namespace,
            entity: written.entity.as_str().into(),
            incarnation: Incarnation(written.incarnation),
            consumer_group: written.consumer_group.as_str().into(),
            partition: written.partition.as_str().into(),
        }
    }
}

/// Why a job cannot be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum JobError {
    /// There is no job of this name in the folder.
    NotThere,
    /// Something else.
    Failed(Error),
}

impl From<Error> for JobError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A job that this process has for itself.
#[derive(Debug)]
pub struct Job {
    folder: PathBuf,
    pub(super) plan: Plan,
    pub(super) journal: Journal,
    pub(super) edits: Option<Mutex<Edits>>,
    /// The lock is its.
    _held: DurableFolder,
}

/// Records that are handed out in place of letters, and those letters as they were.
#[derive(Debug)]
pub(super) struct Edits {
    folder: PathBuf,
    lines: Lines,
    originals: File,
}

/// A file of lines that are read one by one.
#[derive(Debug)]
struct Lines {
    file: File,
    /// Where each begins, and where the last one ends.
    begins: Vec<u64>,
}

/// Records that are handed out in place of letters, on their way into a job.
#[derive(Debug)]
pub struct Edited {
    folder: DurableFolder,
    file: BufWriter<File>,
}

impl Edited {
    /// Begins the folder of the job `plan` names below `jobs`.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn begin(jobs: &Path, plan: &Plan) -> Result<Self, Error> {
        let folder = DurableFolder::open(jobs.join(&plan.job), Access::Exclusive, OPEN)?;
        let path = folder.root().join(EDITED);
        let file = private_file::open(OpenOptions::new().write(true).create_new(true), &path);
        let file = file.map_err(|error| folder.error(WRITE, Path::new(EDITED), error))?;
        Ok(Self { folder, file: BufWriter::new(file) })
    }

    /// Adds the record of the plan's next letter.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn add(&mut self, record: &DeadLetterRecord) -> Result<(), Error> {
        let mut line = to_line(record)?;
        line.push(b'\n');
        let written = self.file.write_all(&line);
        written.map_err(|error| self.folder.error(WRITE, Path::new(EDITED), error))
    }
}

fn to_line(record: &DeadLetterRecord) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(record).map_err(|error| {
        let message = "a record cannot be written as JSON";
        Error::new(ErrorClass::Permanent, WRITE, message).with_source(error)
    })
}

impl Job {
    /// Makes the job durable below the folder `jobs`, which is created if it is missing. It blocks while it
    /// handles files.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn create(jobs: &Path, plan: Plan) -> Result<Self, Error> {
        let held = DurableFolder::open(jobs.join(&plan.job), Access::Exclusive, OPEN)?;
        Self::created(held, plan)
    }

    /// The same, with records that are handed out in place of the letters: one for each, in their order.
    ///
    /// # Errors
    /// As the file system fails.
    pub fn create_edited(edited: Edited, mut plan: Plan) -> Result<Self, Error> {
        let Edited { folder, mut file } = edited;
        let flushed = file.flush().and_then(|()| file.get_ref().sync_all());
        flushed.map_err(|error| folder.error(WRITE, Path::new(EDITED), error))?;
        plan.is_edited = true;
        Self::created(folder, plan)
    }

    fn created(held: DurableFolder, plan: Plan) -> Result<Self, Error> {
        if held.root().join(PLAN).exists() {
            let message = format!("there is a job {} already: make another one", plan.job);
            return Err(Error::new(ErrorClass::Permanent, WRITE, message));
        }
        let json = plan.to_json()?;
        // With it the job is there: it is the last thing that is written of it.
        held.replace(Path::new(""), PLAN, &json)
            .map_err(|error| held.error(WRITE, Path::new(PLAN), error))?;
        Self::opened(held, plan)
    }

    /// Opens a job of the folder `jobs`. Blocks while it handles files.
    ///
    /// # Errors
    /// [`JobError::NotThere`]; `Permanent` if another process has the job; `BadData` if its file is damaged or of
    /// a later release; and as the file system fails.
    pub fn open(jobs: &Path, name: &str) -> Result<Self, JobError> {
        let folder = jobs.join(name);
        let is_name = Path::new(name).components().count() == 1 && !name.starts_with('.');
        if !is_name || !folder.join(PLAN).exists() {
            return Err(JobError::NotThere);
        }
        let held = DurableFolder::open(folder, Access::Exclusive, OPEN)?;
        let failed = |error| held.error(OPEN, Path::new(PLAN), error);
        let json = held.read(Path::new(""), PLAN).map_err(failed)?;
        let plan = Plan::from_json(&json.ok_or(JobError::NotThere)?).map_err(|fault| {
            let path = held.root().join(PLAN);
            let message = format!("{} cannot be used: {fault}", path.display());
            Error::new(ErrorClass::BadData, OPEN, message)
        })?;
        Ok(Self::opened(held, plan)?)
    }

    fn opened(held: DurableFolder, plan: Plan) -> Result<Self, Error> {
        let folder = held.root().to_owned();
        let journal = Journal::open(&folder.join(JOURNAL))
            .map_err(|error| held.error(OPEN, Path::new(JOURNAL), error))?;
        let edits =
            if plan.is_edited { Some(Mutex::new(Edits::open(&held, plan.len())?)) } else { None };
        Ok(Self { folder, plan, journal, edits, _held: held })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it was made for.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How the job ended. `None` if it has not ended.
    pub fn end(&self) -> Option<End> {
        self.journal.end
    }

    /// How many letters have which fate, as far as the journal knows.
    pub fn counts(&self) -> Counts {
        let mut replay = Replay::new(self.plan.len(), Limits::default(), Instant::now());
        let known = self.journal.known.iter();
        replay.restore(known.filter_map(|(letter, known)| match known {
            Known::Has(fate) => Some((*letter, *fate)),
            Known::HandingOut | Known::Out => None,
        }));
        replay.counts()
    }

    /// Letters of one fate, as far as the journal knows, with what is known of them.
    pub fn letters_of(&self, fate: Fate) -> impl Iterator<Item = (EventIdentity, Option<&Note>)> {
        let known = Known::Has(fate);
        let of_fate = self.journal.known.iter().filter(move |(_, has)| **has == known);
        of_fate.filter_map(|(letter, _)| {
            Some((self.plan.event(*letter)?, self.journal.notes.get(letter)))
        })
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plan.job)
    }
}

impl Edits {
    fn open(held: &DurableFolder, letters: usize) -> Result<Self, Error> {
        let folder = held.root().to_owned();
        let failed = |file, error| held.error(OPEN, Path::new(file), error);
        let path = folder.join(EDITED);
        let lines = Lines::open(&path).map_err(|error| failed(EDITED, error))?;
        if lines.begins.len() <= letters {
            let message = format!("{} is cut: it has fewer records than letters", path.display());
            return Err(Error::new(ErrorClass::BadData, OPEN, message));
        }
        let mut options = OpenOptions::new();
        let originals =
            private_file::open(options.append(true).create(true), &folder.join(ORIGINALS));
        let originals = originals.map_err(|error| failed(ORIGINALS, error))?;
        Ok(Self { folder, lines, originals })
    }

    /// What is handed out in place of a letter.
    pub(super) fn edited(
        &mut self,
        letter: usize,
        original: &DeadLetterRecord,
    ) -> Result<DeadLetterRecord, Error> {
        let line = self
            .lines
            .read(letter)
            .map_err(|error| disk_error(OPEN, &self.folder.join(EDITED), error))?;
        let content = DeadLetterRecord::from_json(&line)?;
        Ok(original.clone().with_content_of(&content))
    }

    /// Keeps a letter as it is, for good: what fails again takes its place.
    pub(super) fn keep(&mut self, original: &DeadLetterRecord) -> Result<(), Error> {
        let mut line = to_line(original)?;
        line.push(b'\n');
        let written = self.originals.write_all(&line).and_then(|()| self.originals.sync_data());
        written.map_err(|error| disk_error(WRITE, &self.folder.join(ORIGINALS), error))
    }
}

impl Lines {
    fn open(path: &Path) -> io::Result<Self> {
        let file = private_file::open(OpenOptions::new().read(true), path)?;
        let mut begins = vec![0];
        let mut reader = BufReader::new(&file);
        let (mut at, mut line) = (0_u64, Vec::new());
        loop {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line)?;
            if bytes == 0 || line.last() != Some(&b'\n') {
                break;
            }
            at += bytes as u64;
            begins.push(at);
        }
        drop(reader);
        Ok(Self { file, begins })
    }

    fn read(&mut self, line: usize) -> io::Result<Vec<u8>> {
        let (Some(begin), Some(end)) = (self.begins.get(line), self.begins.get(line + 1)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let length = usize::try_from(end - begin).map_err(io::Error::other)?;
        let mut content = vec![0; length];
        self.file.seek(SeekFrom::Start(*begin))?;
        self.file.read_exact(&mut content)?;
        Ok(content)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::event::Incarnation;

    fn log(partition: &str) -> LogIdentity {
        LogIdentity {
            namespace: "ns.example".to_owned(),
            entity: "Orders".into(),
            incarnation: Incarnation(7),
            consumer_group: "$Default".into(),
            partition: partition.into(),
        }
    }

    fn plan() -> Plan {
        let limits = Limits { canary: 2, stop_at: Some(0.5), ..Limits::default() };
        let created = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_764_000_000);
        let mut plan = Plan::new(created, "a store", limits);
        for number in [3, 1] {
            plan.add(&log("0").event(SequenceNumber(number)), 4);
        }
        plan.add(&log("1").event(SequenceNumber(1)), 0);
        plan
    }

    #[test]
    fn a_job_is_what_it_was_when_it_is_opened_again() {
        let jobs = tempfile::tempdir().unwrap();
        let plan = plan();
        assert!(plan.job.starts_with("20251124-"), "{}", plan.job);
        let job = Job::create(jobs.path(), plan.clone()).unwrap();
        let Err(JobError::Failed(busy)) = Job::open(jobs.path(), &plan.job) else {
            unreachable!("a job is for one process")
        };
        assert!(busy.to_string().contains("is in use by process"), "{busy}");
        drop(job);
        let again = Job::open(jobs.path(), &plan.job).unwrap();
        assert_eq!(again.plan, plan);
        assert_eq!(again.plan.event(1), Some(log("0").event(SequenceNumber(1))));
        assert_eq!((again.plan.generation(1), again.plan.event(3)), (4, None));
        assert_eq!(
            again.plan.by_log()[0].1,
            BTreeMap::from([(SequenceNumber(1), 1), (SequenceNumber(3), 0)])
        );
    }

    #[test]
    fn what_is_no_job_is_named() {
        let jobs = tempfile::tempdir().unwrap();
        for name in ["nothing", "..", "a/b", "", ".hidden"] {
            assert!(matches!(Job::open(jobs.path(), name), Err(JobError::NotThere)), "{name}");
        }
        let plan = plan();
        drop(Job::create(jobs.path(), plan.clone()).unwrap());
        let file = jobs.path().join(&plan.job).join(PLAN);
        let json = std::fs::read(&file).unwrap();
        for (damaged, fault) in [
            (json[..json.len() / 2].to_vec(), "it is no job, or is cut"),
            (b"{\"version\":2}".to_vec(), "use a later release"),
            (
                String::from_utf8(json).unwrap().replace("[1,1,0]", "[9,1,0]").into_bytes(),
                "of a log",
            ),
        ] {
            std::fs::write(&file, damaged).unwrap();
            let Err(JobError::Failed(error)) = Job::open(jobs.path(), &plan.job) else {
                unreachable!("{fault}")
            };
            assert!(error.to_string().contains(fault), "{error}");
        }
    }
}
