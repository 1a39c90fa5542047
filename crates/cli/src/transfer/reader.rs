//! The lines of a list, one by one, however long the list and the lines are.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::line::{Key, MAX_TASK_BYTES};

/// How much is read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Where the list is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ListPlace {
    Stdin,
    File(PathBuf),
}

impl ListPlace {
    pub(crate) fn of(path: &Path) -> Self {
        if path == Path::new("-") { Self::Stdin } else { Self::File(path.to_owned()) }
    }

    /// As messages name it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

impl ListPlace {
    /// What the list is, whatever it is called from where; `None` of stdin and of pipes, which are
    /// another list each time.
    pub(crate) fn identity(&self) -> Option<PathBuf> {
        match self {
            Self::Stdin => None,
            Self::File(path) => path.canonicalize().ok().filter(|real| real.is_file()),
        }
    }
}

/// A line without its end and the white space around it.
pub(super) struct RawLine<'a> {
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) key: Key,
    /// Its beginning where it is longer than a task may be.
    pub(super) text: &'a [u8],
    /// How long it is.
    pub(super) bytes: u64,
}

/// Reads lines. Memory is that of the longest task, whatever the list is.
pub(super) struct ListReader {
    input: BufReader<Box<dyn Read + Send>>,
    /// The file, to be looked at again.
    file: Option<(PathBuf, Metadata)>,
    line: Vec<u8>,
    number: u64,
}

impl ListReader {
    /// # Errors
    /// If it cannot be opened, or is in an encoding that is not UTF-8.
    pub(super) fn open(place: &ListPlace) -> io::Result<Self> {
        let (input, file): (Box<dyn Read + Send>, _) = match place {
            ListPlace::Stdin => (Box::new(io::stdin()), None),
            ListPlace::File(path) => {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                if metadata.is_dir() {
                    return Err(io::Error::new(io::ErrorKind::IsADirectory, "Is a directory"));
                }
                let file_again = metadata.is_file().then(|| (path.clone(), metadata));
                (Box::new(file), file_again)
            }
        };
        let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
        let begin = first_bytes(&mut input)?;
        // The mark that Windows editors put before UTF-8.
        let mark = begin.starts_with(b"\xEF\xBB\xBF");
        let utf16 = begin.starts_with(b"\xFF\xFE") || begin.starts_with(b"\xFE\xFF");
        // Without a mark: ASCII, each character with a zero beside it.
        let unmarked = matches!(begin, [0, a, 0, b] | [a, 0, b, 0] if *a != 0 && *b != 0);
        if utf16 || unmarked {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is UTF-16; save it as UTF-8",
            ));
        }
        if mark {
            input.consume(3);
        }
        Ok(Self { input, file, line: Vec::new(), number: 0 })
    }

    /// Whether a line can be had without waiting for more of the list.
    pub(super) fn has_line(&self) -> bool {
        self.input.buffer().contains(&b'\n')
    }

    /// The next line that is not empty and no comment; `None` at the end.
    pub(super) fn next_line(&mut self) -> io::Result<Option<RawLine<'_>>> {
        loop {
            let Some((key, bytes)) = self.read_line()? else { return Ok(None) };
            self.number += 1;
            let is_wanted = !self.line.is_empty() && !self.line.starts_with(b"#");
            if is_wanted {
                return Ok(Some(RawLine { number: self.number, key, text: &self.line, bytes }));
            }
        }
    }

    /// Reads to the end of a line; its key, and its length without the white space around it.
    fn read_line(&mut self) -> io::Result<Option<(Key, u64)>> {
        self.line.clear();
        let (mut hasher, mut bytes, mut begun) = (None::<Sha256>, 0_u64, false);
        loop {
            let part = match self.input.fill_buf() {
                Ok(part) => part,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if part.is_empty() && !begun {
                return Ok(None);
            }
            begun = true;
            let end = part.iter().position(|byte| *byte == b'\n');
            let (text, taken) = match end {
                Some(end) => (part.get(..end).unwrap_or_default(), end + 1),
                None => (part, part.len()),
            };
            let at_end = end.is_some() || part.is_empty();
            bytes += text.len() as u64;
            match &mut hasher {
                Some(hasher) => hasher.update(text),
                None => {
                    self.line.extend_from_slice(text);
                    if self.line.len() > 2 * MAX_TASK_BYTES {
                        // It is no task, whatever follows; only its key needs the rest.
                        hasher = Some(Sha256::new_with_prefix(&self.line));
                        self.line.truncate(MAX_TASK_BYTES + 1);
                    }
                }
            }
            self.input.consume(taken);
            if at_end {
                break;
            }
        }
        Ok(Some(match hasher {
            Some(hasher) => (Key::finish(hasher), bytes),
            None => {
                let text = self.line.trim_ascii();
                let (key, bytes) = (Key::of(text), text.len() as u64);
                let begin = self.line.len() - self.line.trim_ascii_start().len();
                self.line.truncate(self.line.trim_ascii_end().len());
                self.line.drain(..begin.min(self.line.len()));
                (key, bytes)
            }
        }))
    }

    /// What the list was when it was opened.
    pub(super) fn stamp(&self) -> ListStamp {
        ListStamp(self.file.clone())
    }
}

/// What a list was when it was opened; nothing where it is no file that can be read again.
#[derive(Clone, Debug)]
pub(super) struct ListStamp(Option<(PathBuf, Metadata)>);

impl ListStamp {
    /// Whether the list can be read again: it is neither stdin nor a pipe.
    pub(super) fn can_be_read_again(&self) -> bool {
        self.0.is_some()
    }

    /// Whether somebody wrote to the list since, or put another one in its place.
    pub(super) fn has_changed(&self) -> bool {
        let Some((path, before)) = &self.0 else { return false };
        // What is gone was read.
        std::fs::metadata(path).is_ok_and(|now| {
            now.len() != before.len() || now.modified().ok() != before.modified().ok()
        })
    }
}

/// Up to four bytes, which stay to be read.
fn first_bytes(input: &mut BufReader<Box<dyn Read + Send>>) -> io::Result<&[u8]> {
    // A pipe may give less at first; a mark comes in one piece all the same.
    let begin = input.fill_buf()?;
    Ok(begin.get(..4).unwrap_or(begin))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(content: &[u8]) -> io::Result<Vec<(u64, Vec<u8>, u64)>> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("list");
        fs::write(&path, content).expect("written");
        let mut reader = ListReader::open(&ListPlace::File(path))?;
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line()? {
            assert!(line.bytes > MAX_TASK_BYTES as u64 || line.key == Key::of(line.text));
            lines.push((line.number, line.text.to_vec(), line.bytes));
        }
        Ok(lines)
    }

    #[test]
    fn lines_are_counted_and_comments_and_empty_ones_left_out() {
        let lines = read(b"# a list\n\n one \r\n\ttwo\nthree").expect("read");
        let expected: [(u64, &[u8], u64); 3] = [(3, b"one", 3), (4, b"two", 3), (5, b"three", 5)];
        assert_eq!(lines, expected.map(|(number, text, bytes)| (number, text.to_vec(), bytes)));
        assert_eq!(read(b"").expect("read"), []);
        assert_eq!(read(b"\n\n").expect("read"), []);
    }

    #[test]
    fn a_mark_of_utf_8_is_no_part_of_the_first_line() {
        assert_eq!(read(b"\xEF\xBB\xBFone\n").expect("read"), [(1, b"one".to_vec(), 3)]);
        assert_eq!(read(b"\xEF\xBB\xBF# one\n").expect("read"), []);
        assert_eq!(read(b"\xEF\xBB\xBF").expect("read"), []);
    }

    #[test]
    fn utf_16_is_said() {
        for list in [&b"\xFF\xFEh\0t\0"[..], b"\xFE\xFF\0h\0t", b"h\0t\0t\0p\0", b"\0h\0t\0t\0p"] {
            let error = read(list).expect_err("UTF-16").to_string();
            assert!(error.contains("save it as UTF-8"), "{error}");
        }
        assert!(read(b"\0\0\0\0").is_ok(), "that is something else");
    }

    #[test]
    fn a_line_that_is_too_long_for_a_task_is_not_held() {
        for bytes in [MAX_TASK_BYTES, MAX_TASK_BYTES + 1, 5_000_000] {
            let long = vec![b'x'; bytes];
            let lines = read(&[&long[..], b"\nnext\n"].concat()).expect("read");
            assert_eq!((lines.len(), lines[0].2), (2, bytes as u64));
            assert!(lines[0].1.len() <= 2 * MAX_TASK_BYTES);
            assert_eq!(lines[1].1, b"next");
        }
        let (mut one, mut other) = (vec![b'x'; 5_000_000], vec![b'x'; 5_000_000]);
        (one[4_999_999], other[4_999_999]) = (b'1', b'2');
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("list");
        fs::write(&path, [&one[..], b"\n", &other[..]].concat()).expect("written");
        let mut reader = ListReader::open(&ListPlace::File(path)).expect("open");
        let first = reader.next_line().expect("read").expect("a line").key;
        assert_ne!(Some(first), reader.next_line().expect("read").map(|line| line.key));
    }

    #[test]
    fn a_list_that_was_written_to_has_changed() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("list");
        fs::write(&path, "one\n").expect("written");
        let stamp = ListReader::open(&ListPlace::File(path.clone())).expect("open").stamp();
        assert!(stamp.can_be_read_again() && !stamp.has_changed());
        fs::write(&path, "one\ntwo\n").expect("written");
        assert!(stamp.has_changed());
    }
}
