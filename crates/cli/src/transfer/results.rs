//! What runs have done, in a file of the state: a line for each file that was committed.
//!
//! A line is on the disk before its task is settled, and lines that come together are flushed together. A
//! line that a crash cut short is no line. A run has its state for itself.

use std::borrow::Cow;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::files::Files;
use super::full_disk;
use super::ledger::{Results, ResultsBuilder};
use super::line::Key;
use crate::CommandError;
use crate::failing::Stop;
use crate::terminal::tell;
use longshore::error::{Error, ErrorClass};
use longshore::event::{EntityName, OutgoingEvent};
use longshore::private_file;
use longshore::transfer::task::TransferResult;
use longshore::transport::{Publisher, SendReceipt, SendTarget};

/// The file in the state folder.
const FILE: &str = "results";

/// Held locked by the run that has the state.
const LOCK: &str = ".longshore.lock";

/// Its first line.
const HEADER: &str = "# longshore results v1: line, bytes, SHA-256, time, path\n";

/// How long a result waits for others, so that many are flushed at once, and the folders of their files with
/// them. No slot waits for it; the end of a run does.
const GATHERING: Duration = Duration::from_millis(20);

const PUBLISH: &str = "write down that a file is complete";

/// The file of a state that this run has.
#[derive(Debug)]
pub(super) struct ResultsFile {
    entity: EntityName,
    shared: Arc<Shared>,
    stop: Stop,
}

#[derive(Debug)]
struct Shared {
    files: Files,
    /// The folder of the state, as the user named it.
    folder: PathBuf,
    path: PathBuf,
    file: Mutex<File>,
    _lock: File,
}

impl ResultsFile {
    /// Opens the file of a state, creates it where it is missing, and reads it. `files` has what they tell of.
    pub(super) fn open(
        folder: &Path,
        files: Files,
        stop: Stop,
    ) -> Result<(Self, Results), CommandError> {
        let path = folder.join(FILE);
        let cannot = |error: io::Error| {
            CommandError::new(format!("the state {} cannot be used: {error}", path.display()))
        };
        let lock = lock(folder)?;
        let mut file =
            private_file::open(OpenOptions::new().read(true).append(true).create(true), &path)
                .map_err(cannot)?;
        if !is_ours(&file).map_err(cannot)? {
            return Err(CommandError::new(format!(
                "{} is no file of this command; move it away, or name another folder with --state",
                path.display()
            )));
        }
        let Found { results, whole_bytes, damaged_lines } = read(&file).map_err(cannot)?;
        if damaged_lines > 0 {
            tell(format_args!(
                "{} has {damaged_lines} damaged lines; their tasks are checked again",
                path.display()
            ));
        }
        if file.metadata().map_err(cannot)?.len() > whole_bytes {
            file.set_len(whole_bytes).map_err(cannot)?;
        }
        if whole_bytes == 0 {
            file.write_all(HEADER.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)?;
            // The name as well.
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(cannot)?;
        }
        let file = Mutex::new(file);
        let shared = Shared { files, folder: folder.to_owned(), path, file, _lock: lock };
        Ok((Self { entity: "results".into(), shared: Arc::new(shared), stop }, results))
    }

    /// Writes results that another run wrote down elsewhere.
    pub(super) fn import(&self, results: &[(Key, TransferResult)]) -> io::Result<()> {
        let mut lines = String::new();
        for (key, TransferResult { bytes, sha256, finished_at, path, .. }) in results {
            let sha256 = sha256.as_deref().map(Cow::from);
            let finished_at = finished_at.into();
            Told { bytes: *bytes, sha256, finished_at, path: path.into() }.write(key, &mut lines);
        }
        self.shared.append(lines.as_bytes())
    }

    /// Whether the state is still where it was.
    pub(super) fn check(&self) -> Result<(), CommandError> {
        self.shared.check().map_err(|error| CommandError::new(error.to_string()))
    }

    async fn write(&self, events: Vec<OutgoingEvent>) -> Result<(), Error> {
        let mut lines = String::new();
        for event in &events {
            let told: Option<Told<'_>> = serde_json::from_slice(&event.body).ok();
            let id = event.message.message_id.as_ref();
            let key = id.and_then(|id| Key::parse(&id.text()));
            match key.zip(told) {
                Some((key, told)) => told.write(&key, &mut lines),
                None => {
                    return Err(Error::new(ErrorClass::Permanent, PUBLISH, "it is no result"));
                }
            }
        }
        let lines: Arc<str> = lines.into();
        let write = || {
            let (shared, lines) = (Arc::clone(&self.shared), Arc::clone(&lines));
            let written = spawn_blocking(move || {
                // Their names are on the disk before anything says that they are there.
                shared.files.flush().map_err(io::Error::other)?;
                shared.append(lines.as_bytes())
            });
            async move { written.await.unwrap_or_else(|gone| Err(io::Error::other(gone))) }
        };
        let written = full_disk::patiently(write, full_disk::is_full).await;
        written.map_err(|error| {
            // Whatever failed ends the run: what was fetched behind it would be fetched for nothing.
            let why = format!(
                "the state folder {} cannot take the results: {error}",
                self.shared.folder.display()
            );
            self.stop.on_reason(why.clone());
            Error::new(ErrorClass::Transient, PUBLISH, why)
        })
    }
}

impl Shared {
    fn append(&self, lines: &[u8]) -> io::Result<()> {
        self.check()?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let before = file.metadata()?.len();
        let written = file.write_all(lines).and_then(|()| file.sync_data());
        if written.is_err() {
            // A part of a line would spoil the next one.
            let _ = file.set_len(before);
        }
        written
    }

    /// A file that was removed takes everything, and keeps nothing.
    fn check(&self) -> io::Result<()> {
        let ours = self.file.lock().unwrap_or_else(PoisonError::into_inner).metadata()?;
        let there = std::fs::metadata(&self.path);
        if there.is_ok_and(|there| is_same_file(&ours, &there)) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} was removed or unmounted while in use; put it back", self.path.display()),
        ))
    }
}

fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = (one, other);
        true
    }
}

/// What the state in this folder says of earlier runs, also while one is under way. Changes nothing.
pub(super) fn read_only(folder: &Path) -> Result<Results, CommandError> {
    let path = folder.join(FILE);
    let mut options = OpenOptions::new();
    let found = match private_file::open(options.read(true), &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Results::default()),
        opened => opened.and_then(|file| read(&file)),
    };
    found.map(|found| found.results).map_err(|error| {
        CommandError::new(format!("the state {} cannot be used: {error}", path.display()))
    })
}

/// What of a [`TransferResult`] is written down.
#[derive(Deserialize)]
struct Told<'a> {
    bytes: u64,
    #[serde(default, borrow)]
    sha256: Option<Cow<'a, str>>,
    #[serde(borrow)]
    finished_at: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
}

impl Told<'_> {
    /// A path has no control character, so it is the last field and as it is.
    fn write(&self, key: &Key, lines: &mut String) {
        use std::fmt::Write as _;

        let Self { bytes, sha256, finished_at, path } = self;
        let key = key.text();
        let sha256 = sha256.as_deref().unwrap_or("-");
        // A text takes everything.
        let _written = writeln!(lines, "{key}\t{bytes}\t{sha256}\t{finished_at}\t{path}");
    }
}

/// Has the state for this run alone, for as long as the file is open. It says whose it is.
fn lock(folder: &Path) -> Result<File, CommandError> {
    let path = folder.join(LOCK);
    let cannot = |error: io::Error| {
        CommandError::new(format!("the state {} cannot be used: {error}", path.display()))
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = private_file::open(&mut options, &path).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => {
            // For the reader of a refusal only.
            let _said = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _said = file.read_to_string(&mut owner);
            let owner = match owner.trim() {
                "" => "another run".to_owned(),
                owner => format!("process {owner}"),
            };
            Err(CommandError::new(format!(
                "the state folder {} is in use by {owner}; wait for it, or give this run a state of \
                 its own with --state",
                folder.display()
            )))
        }
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}

/// Whether it begins as a file of ours does, as far as it goes.
fn is_ours(file: &File) -> io::Result<bool> {
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    let mut begin = Vec::new();
    file.take(HEADER.len() as u64).read_to_end(&mut begin)?;
    Ok(HEADER.as_bytes().starts_with(&begin))
}

/// What a file of results holds.
struct Found {
    results: Results,
    /// Up to the end of the last line that is whole.
    whole_bytes: u64,
    /// Lines that are no results.
    damaged_lines: u64,
}

fn read(file: &File) -> io::Result<Found> {
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    let mut input = BufReader::with_capacity(1 << 20, file);
    let (mut results, mut line) = (ResultsBuilder::default(), Vec::new());
    let (mut whole_bytes, mut damaged_lines) = (0, 0);
    loop {
        line.clear();
        let bytes = input.read_until(b'\n', &mut line)?;
        if bytes == 0 || !line.ends_with(b"\n") {
            return Ok(Found { results: results.build(), whole_bytes, damaged_lines });
        }
        let is_header = whole_bytes == 0;
        whole_bytes += bytes as u64;
        // What cannot be read is as if it were not there: its file is looked at again.
        match std::str::from_utf8(&line).ok().and_then(fields) {
            Some((key, bytes, path)) => results.add(path, &key, bytes),
            None if is_header => {}
            None => damaged_lines += 1,
        }
    }
}

fn fields(line: &str) -> Option<(Key, u64, &str)> {
    let mut fields = line.trim_end_matches('\n').splitn(5, '\t');
    let key = Key::parse(fields.next()?)?;
    let bytes = fields.next()?.parse().ok()?;
    let (_sha256, _time) = (fields.next()?, fields.next()?);
    Some((key, bytes, fields.next()?))
}

impl Publisher for ResultsFile {
    fn entity(&self) -> &EntityName {
        &self.entity
    }

    fn send(
        &self,
        _target: SendTarget,
        event: OutgoingEvent,
    ) -> BoxFuture<'_, Result<SendReceipt, Error>> {
        async move {
            // Those that come meanwhile are written together.
            sleep(GATHERING).await;
            self.write(vec![event]).await.map(|()| SendReceipt::new(None, None))
        }
        .boxed()
    }

    fn send_batch(
        &self,
        _target: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            sleep(GATHERING).await;
            self.write(events).await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::files::To;
    use super::*;

    fn files(dir: &Path) -> Files {
        Files::open(&To::Folder(dir.join("files")), 1, 1 << 20).expect("a store")
    }

    fn open(dir: &Path) -> Result<(ResultsFile, Results), CommandError> {
        ResultsFile::open(dir, files(dir), Stop::new())
    }

    fn result(path: &str, bytes: u64) -> TransferResult {
        let json = serde_json::json!({
            "id": "x", "path": path, "bytes": bytes, "sha256": "00", "enqueued_at": "then",
            "finished_at": "now", "seconds": 1.0, "attempts": 1,
        });
        serde_json::from_value(json).expect("a result")
    }

    fn event(path: &str, bytes: u64) -> OutgoingEvent {
        let body = serde_json::to_vec(&result(path, bytes)).expect("JSON");
        OutgoingEvent::new(body).with_message_id(Key::of(path.as_bytes()).text())
    }

    #[tokio::test]
    async fn what_was_written_is_read_by_the_next_run_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let (file, results) = open(dir.path()).expect("open");
        assert_eq!(results.of_line(&Key::of(b"c")), None);
        let twice = open(dir.path()).expect_err("in use");
        let owner = format!("in use by process {}", std::process::id());
        assert!(twice.0.contains(&owner), "{twice:?}");
        file.send(SendTarget::Any, event("a b", 1)).await.expect("written");
        file.send_batch(SendTarget::Any, vec![event("c", 2), event("d", 3)]).await.expect("both");
        drop(file);
        let path = dir.path().join(FILE);
        let mut torn = fs::read(&path).expect("read");
        torn.truncate(torn.len() - 1);
        fs::write(&path, torn).expect("written");
        let (file, results) = open(dir.path()).expect("open");
        let bytes = |path: &str| results.of_line(&Key::of(path.as_bytes())).map(|done| done.bytes);
        assert_eq!((bytes("a b"), bytes("c"), bytes("d")), (Some(1), Some(2), None));
        file.send(SendTarget::Any, event("d", 4)).await.expect("written");
        drop(file);
        let (_file, results) = open(dir.path()).expect("open");
        let bytes = results.of_line(&Key::of(b"d")).map(|done| done.bytes);
        assert_eq!(bytes, Some(4), "the torn line is in nobody's way");
    }

    #[tokio::test]
    async fn a_file_that_was_removed_takes_nothing_and_ends_the_run() {
        let dir = tempfile::tempdir().expect("a folder");
        let stop = Stop::new();
        let (file, _) =
            ResultsFile::open(dir.path(), files(dir.path()), stop.clone()).expect("open");
        fs::remove_file(dir.path().join(FILE)).expect("removed");
        let error = file.send(SendTarget::Any, event("a", 1)).await.expect_err("nobody keeps it");
        assert!(error.to_string().contains("removed or unmounted"), "{error}");
        assert!(stop.reason().await.contains("put it back"));
        assert!(file.check().is_err());
    }
}
