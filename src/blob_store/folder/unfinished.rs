//! Blobs that came in part, for whoever fetches them next: `root/.longshore/unfinished/`.
//!
//! A blob has two files there, named by what it is made from: its bytes, and a journal that says which
//! of them are there. Whoever writes holds the bytes locked; another one that wants the same blob
//! meanwhile writes a temporary file of its own.
//!
//! ```text
//! longshore unfinished v1
//! 1073741824 ["etag","\"v1\"","https://example.com/a"]     the length, and the version
//! 0 262144 9a6d…                                           from, to, CRC-64/NVME
//! ```
//!
//! A line is written behind its bytes, and neither is flushed. After a crash of the process both are
//! there; after a loss of power a line may be there without its bytes. So what does not match its
//! checksum is as if it had not come. What nobody asked for in [`KEPT_FOR`] is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use super::blocks::read_parts;
use super::partial::PartialFile;
use crate::hex::hex;
use crate::private_file;

/// The folder below the one for temporary files.
pub(super) const FOLDER: &str = "unfinished";

const HEADER: &str = "longshore unfinished v1";

const JOURNAL: &str = "journal";

/// How long a blob that came in part is kept: a week.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest line of a journal that is read: a version is no longer.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// How long it is taken for known that there is nothing at all. Whoever comes after another process waits
/// for its lease for longer.
const EMPTY_FOR: Duration = Duration::from_millis(100);

/// The folder of what came in part.
#[derive(Debug)]
pub(super) struct UnfinishedFolder {
    path: PathBuf,
    /// When it was found to be empty.
    empty_at: Mutex<Option<Instant>>,
}

/// A blob that comes, or came in part. Dropped, what is there stays.
pub(super) struct Unfinished {
    pub(super) file: File,
    pub(super) partial: PartialFile,
    pub(super) journal: Journal,
}

/// What was left of a blob.
pub(super) struct Left {
    pub(super) unfinished: Unfinished,
    pub(super) bytes: u64,
    pub(super) version: String,
    pub(super) there: Vec<Range<u64>>,
}

/// Says what of the bytes is there.
pub(super) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

impl UnfinishedFolder {
    pub(super) fn of(holder: &Path) -> Self {
        Self { path: holder.join(FOLDER), empty_at: Mutex::default() }
    }

    /// Whether it was empty a moment ago. Asked for each file, and most folders are: no system call.
    pub(super) fn is_known_empty(&self) -> bool {
        self.empty_at().is_some_and(|at| at.elapsed() < EMPTY_FOR)
    }

    fn empty_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.empty_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what nobody came back for. What cannot be looked at stays.
    pub(super) fn sweep(&self, now: SystemTime) {
        if !is_folder(&self.path) {
            return;
        }
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let is_old = entry.metadata().and_then(|metadata| metadata.modified());
            let is_old = is_old
                .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > KEPT_FOR));
            let path = entry.path();
            let is_free = || {
                open(&path.with_extension(""), false).map_or_else(
                    |error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput),
                    |file| file.try_lock().is_ok(),
                )
            };
            if is_old && is_free() {
                let _stays = fs::remove_file(&path);
            }
        }
    }

    /// Whether something was left of a blob.
    pub(super) fn has(&self, source: &[u8; 16]) -> bool {
        let is_empty =
            fs::read_dir(&self.path).map_or(true, |mut entries| entries.next().is_none());
        if is_empty || !is_folder(&self.path) {
            *self.empty_at() = Some(Instant::now());
            return false;
        }
        fs::symlink_metadata(self.paths(source).1).is_ok_and(|metadata| metadata.is_file())
    }

    fn paths(&self, source: &[u8; 16]) -> (PathBuf, PathBuf) {
        let bytes = self.path.join(hex(source));
        let journal = bytes.with_extension(JOURNAL);
        (bytes, journal)
    }

    /// What was left of a blob, checked; `None` if there is nothing of use, or somebody has it.
    pub(super) fn resume(&self, source: &[u8; 16]) -> io::Result<Option<Left>> {
        if !is_folder(&self.path) {
            return Ok(None);
        }
        let (path, journal_path) = self.paths(source);
        let (file, journal) = match open(&path, false)
            .and_then(|file| Ok((file, open_journal(&journal_path, false)?)))
        {
            Ok(both) => both,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !is_ours(&file, &path) {
            return Ok(None);
        }
        let Some(Noted { bytes, version, parts, end }) = read(&journal)? else { return Ok(None) };
        // A line that was cut short would spoil the next one.
        journal.set_len(end)?;
        (&journal).seek(SeekFrom::Start(end))?;
        let there = parts.into_iter().filter(|(range, crc)| {
            range.end <= bytes && checksum(&file, range).is_ok_and(|found| found == *crc)
        });
        let there = there.map(|(range, _)| range).collect();
        let partial = PartialFile::kept(path);
        let journal = Journal { path: journal_path, file: Mutex::new(journal) };
        Ok(Some(Left { unfinished: Unfinished { file, partial, journal }, bytes, version, there }))
    }

    /// Begins a blob anew, whatever was left of it; `None` if somebody has it.
    pub(super) fn begin(
        &self,
        source: &[u8; 16],
        version: &str,
        bytes: u64,
    ) -> io::Result<Option<Unfinished>> {
        match private_file::create_one(&self.path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Err(_) if !is_folder(&self.path) => return Err(ErrorKind::NotADirectory.into()),
            _ => {}
        }
        *self.empty_at() = None;
        let (path, journal_path) = self.paths(source);
        let file = open(&path, true)?;
        if !is_ours(&file, &path) {
            return Ok(None);
        }
        // In this order: no journal speaks of bytes that are gone.
        let mut journal = open_journal(&journal_path, true)?;
        journal.set_len(0)?;
        file.set_len(0)?;
        writeln!(journal, "{HEADER}\n{bytes} {version}")?;
        let journal = Journal { path: journal_path, file: Mutex::new(journal) };
        Ok(Some(Unfinished { file, partial: PartialFile::kept(path), journal }))
    }
}

/// The bytes of a blob, which become its file.
fn open(path: &Path, create: bool) -> io::Result<File> {
    private_file::open_regular(OpenOptions::new().read(true).write(true).create(create), path)
}

/// A journal: the version of a blob has its URL in it.
fn open_journal(path: &Path, create: bool) -> io::Result<File> {
    private_file::open(OpenOptions::new().read(true).write(true).create(create), path)
}

/// Whether it is a folder, and no link to one.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Whether this process has the file now, and it is still the one of this name.
fn is_ours(file: &File, path: &Path) -> bool {
    if file.try_lock().is_err() {
        return false;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let same = |ours: fs::Metadata, there: fs::Metadata| {
            (ours.dev(), ours.ino()) == (there.dev(), there.ino())
        };
        file.metadata().is_ok_and(|ours| fs::metadata(path).is_ok_and(|there| same(ours, there)))
    }
    #[cfg(not(unix))]
    path.exists()
}

/// What a journal says.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Noted {
    bytes: u64,
    version: String,
    /// Each with its checksum.
    pub(super) parts: Vec<(Range<u64>, u64)>,
    /// Where its last whole line ends.
    pub(super) end: u64,
}

/// `None` if it is no journal. A line that a crash cut short is none.
pub(super) fn read(journal: impl Read) -> io::Result<Option<Noted>> {
    let (mut input, mut end) = (BufReader::new(journal), 0);
    let mut next_line = || -> io::Result<Option<(String, u64)>> {
        let mut line = Vec::new();
        end += input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? as u64;
        let text = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
        Ok(text.map(|text| (text.to_owned(), end)))
    };
    let is_ours = next_line()?.is_some_and(|(line, _)| line == HEADER);
    let Some((line, mut end)) = next_line()?.filter(|_| is_ours) else { return Ok(None) };
    let Some((bytes, version)) = line.split_once(' ') else { return Ok(None) };
    let Ok(bytes) = bytes.parse() else { return Ok(None) };
    let (version, mut parts) = (version.to_owned(), Vec::new());
    while let Some((line, behind)) = next_line()? {
        let Some(part) = part(&line) else { break };
        parts.push(part);
        end = behind;
    }
    Ok(Some(Noted { bytes, version, parts, end }))
}

fn part(line: &str) -> Option<(Range<u64>, u64)> {
    let mut fields = line.split(' ');
    let (from, to) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let crc = u64::from_str_radix(fields.next()?, 16).ok()?;
    (from < to).then_some((from..to, crc))
}

/// The checksum of bytes that were written.
fn checksum(file: &File, range: &Range<u64>) -> io::Result<u64> {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    read_parts(file, range.clone(), |part| digest.update(part))?;
    Ok(digest.finalize())
}

impl Journal {
    /// Parts that follow one another were written, the first one at this place.
    pub(super) fn on_written(&self, at: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut to = at;
        for part in parts {
            digest.update(part);
            to += part.len() as u64;
        }
        let line = format!("{at} {to} {:016x}\n", digest.finalize());
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }

    /// The blob is committed, or thrown away.
    pub(super) fn remove(&self) {
        let _swept_later = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SOURCE: [u8; 16] = [7; 16];

    fn begin(folder: &UnfinishedFolder, version: &str) -> Option<Unfinished> {
        folder.begin(&SOURCE, version, 100).unwrap()
    }

    fn write(unfinished: &Unfinished, at: u64, bytes: &'static [u8]) {
        super::super::blocks::write_all_at(&unfinished.file, bytes, at).unwrap();
        unfinished.journal.on_written(at, &[Bytes::from_static(bytes)]).unwrap();
    }

    #[test]
    fn what_came_is_there_for_who_comes_next_and_what_does_not_match_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = UnfinishedFolder::of(dir.path());
        assert!(!folder.has(&SOURCE) && folder.resume(&SOURCE).unwrap().is_none());
        assert!(folder.is_known_empty());
        let unfinished = begin(&folder, "[1]").unwrap();
        assert!(!folder.is_known_empty());
        for (at, bytes) in [(0, &b"abcd"[..]), (40, b"efgh"), (60, b"ijkl")] {
            write(&unfinished, at, bytes);
        }
        assert!(folder.has(&SOURCE) && folder.resume(&SOURCE).unwrap().is_none(), "it is in use");
        assert!(begin(&folder, "[1]").is_none());
        // As after a loss of power: one line has no bytes, and the last one is cut short.
        super::super::blocks::write_all_at(&unfinished.file, b"????", 40).unwrap();
        unfinished.journal.file.lock().unwrap().write_all(b"80 84 00").unwrap();
        drop(unfinished);

        let left = folder.resume(&SOURCE).unwrap().unwrap();
        assert_eq!((left.bytes, left.version.as_str()), (100, "[1]"));
        assert_eq!(left.there, [0..4, 60..64]);
        write(&left.unfinished, 80, b"mnop");
        drop(left);
        let left = folder.resume(&SOURCE).unwrap().unwrap();
        assert_eq!(left.there, [0..4, 60..64, 80..84]);
        drop(left);

        drop(begin(&folder, "[2]").unwrap());
        let left = folder.resume(&SOURCE).unwrap().unwrap();
        assert!(left.there.is_empty() && left.version == "[2]", "another version begins anew");
        left.unfinished.journal.remove();
        left.unfinished.partial.remove();
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_journal_of_ours_is_of_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let folder = UnfinishedFolder::of(dir.path());
        drop(begin(&folder, "[1]").unwrap());
        let (_, journal) = folder.paths(&SOURCE);
        for text in
            ["", "x", HEADER, "longshore unfinished v1\nmuch [1]\n", "longshore v2\n1 [1]\n"]
        {
            fs::write(&journal, text).unwrap();
            assert!(folder.resume(&SOURCE).unwrap().is_none(), "{text:?}");
        }
        let odd = format!("{HEADER}\n100 [1]\n5 5 0\n0 4 0\n");
        fs::write(&journal, odd).unwrap();
        assert!(folder.resume(&SOURCE).unwrap().unwrap().there.is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = UnfinishedFolder::of(dir.path());
        drop(begin(&folder, "[1]").unwrap());
        let (bytes, _) = folder.paths(&SOURCE);
        fs::write(dir.path().join("other"), "mine").unwrap();
        fs::remove_file(&bytes).unwrap();
        std::os::unix::fs::symlink(dir.path().join("other"), &bytes).unwrap();
        assert!(folder.begin(&SOURCE, "[1]", 1).is_err() && folder.resume(&SOURCE).is_err());
        assert_eq!(fs::read(dir.path().join("other")).unwrap(), b"mine");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_in_the_place_of_either_file_holds_nobody_up_and_goes_with_its_time() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let dir = tempfile::tempdir().unwrap();
        let folder = UnfinishedFolder::of(dir.path());
        let (bytes, journal) = folder.paths(&SOURCE);
        for pipe in [bytes, journal] {
            drop(begin(&folder, "[1]").unwrap());
            fs::remove_file(&pipe).unwrap();
            mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
            assert!(folder.resume(&SOURCE).is_err());
            assert!(folder.begin(&SOURCE, "[1]", 1).is_err());
            folder.sweep(SystemTime::now() + KEPT_FOR + Duration::from_secs(60));
            assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 0, "{pipe:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_is_a_link_is_left_alone() {
        let (dir, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let theirs =
            UnfinishedFolder { path: others.path().to_owned(), empty_at: Mutex::default() };
        drop(theirs.begin(&SOURCE, "[1]", 1).unwrap());
        fs::write(others.path().join("old"), "mine").unwrap();
        std::os::unix::fs::symlink(others.path(), dir.path().join(FOLDER)).unwrap();
        let folder = UnfinishedFolder::of(dir.path());
        folder.sweep(SystemTime::now() + KEPT_FOR + Duration::from_secs(60));
        assert_eq!(fs::read_dir(others.path()).unwrap().count(), 3);
        assert!(!folder.has(&SOURCE) && folder.resume(&SOURCE).unwrap().is_none());
        assert!(folder.begin(&SOURCE, "[2]", 1).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_journal_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let folder = UnfinishedFolder::of(dir.path());
        drop(begin(&folder, "[1]").unwrap());
        for path in [folder.path.clone(), folder.paths(&SOURCE).1] {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{path:?}");
        }
    }

    #[test]
    fn what_nobody_comes_back_for_goes_after_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let folder = UnfinishedFolder::of(dir.path());
        let in_use = begin(&folder, "[1]").unwrap();
        let later = SystemTime::now() + KEPT_FOR + Duration::from_secs(60);
        folder.sweep(later);
        assert!(folder.has(&SOURCE));
        drop(in_use);
        folder.sweep(SystemTime::now());
        assert!(folder.has(&SOURCE));
        folder.sweep(later);
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 0);
    }
}
