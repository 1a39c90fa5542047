//! What a partition's folder holds at the start, and what of it is damage.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::BytesMut;

use super::{MAGIC, READ_BYTES, SEGMENT_HEADER_BYTES, Segment};
use crate::EmulatorError;
use crate::extents::Extent;
use crate::log::Next;
use crate::private;
use crate::record::{self, MAX_RECORD_BYTES, Parsed, Record};

/// What a partition's folder holds.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Segment>,
    pub(crate) next: Next,
    pub(crate) last_offset: i64,
    /// What people should know: what was cut, and where.
    pub(crate) notes: Vec<String>,
}

/// Reads a partition's folder, checks every record, and cuts a torn end off the newest segment.
///
/// # Errors
/// [`EmulatorError::DamagedLog`], [`EmulatorError::LostBetween`] and [`EmulatorError::LostEvents`]
/// where a record is damaged, or something between two files or of `noted` is missing. Then no file
/// was changed.
pub(crate) fn recover(folder: &Path, noted: Option<Extent>) -> Result<Recovered, EmulatorError> {
    let mut recovered =
        Recovered { segments: Vec::new(), next: Next::FIRST, last_offset: -1, notes: Vec::new() };
    let mut paths = segment_files(folder)?;
    paths.sort();
    let newest = paths.pop();
    for path in paths {
        let opened = Opened::read(path, &mut recovered)?;
        opened.refuse_damage()?;
        recovered.segments.extend(opened.segment);
    }
    let newest = newest.map(|path| Opened::read(path, &mut recovered)).transpose()?;
    // Before anything is cut: what is missing may be what would be cut.
    let first = recovered.segments.first();
    let first = first.or(newest.as_ref().and_then(|newest| newest.segment.as_ref()));
    let begin = first.map_or(0, |first| first.base_sequence);
    let found = Extent { begin, end: recovered.next.sequence, end_offset: recovered.next.offset };
    if let Some(noted) = noted.filter(|noted| !found.holds(noted)) {
        if let Some(newest) = &newest {
            newest.refuse_damage()?;
        }
        return Err(EmulatorError::LostEvents {
            path: folder.to_owned(),
            noted: noted.begin..noted.end,
            found: found.begin..found.end,
        });
    }
    if let Some(newest) = newest {
        // What is noted was on the disk before it was noted.
        let is_synced = noted.is_some_and(|noted| noted.end == found.end);
        newest.finish(is_synced, &mut recovered)?;
    }
    Ok(recovered)
}

fn segment_files(folder: &Path) -> Result<Vec<PathBuf>, EmulatorError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(EmulatorError::storage("list", folder, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| EmulatorError::storage("list", folder, error))?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// A segment's file as it was found; only [`finish`](Self::finish) changes it.
struct Opened {
    path: PathBuf,
    file: File,
    file_bytes: u64,
    /// None where the file ends within its header, or right behind it and the header is not right:
    /// nothing was ever accepted into it.
    segment: Option<Segment>,
}

impl Opened {
    /// Reads all records that are whole and follow.
    fn read(path: PathBuf, recovered: &mut Recovered) -> Result<Self, EmulatorError> {
        let storage = |what| {
            let path = path.clone();
            move |error| EmulatorError::storage(what, &path, error)
        };
        let mut file = private::open(OpenOptions::new().read(true).write(true), &path)
            .map_err(storage("open"))?;
        let file_bytes = file.metadata().map_err(storage("inspect"))?.len();
        let mut header = [0; SEGMENT_HEADER_BYTES];
        let whole_header = file_bytes >= SEGMENT_HEADER_BYTES as u64;
        if whole_header {
            file.read_exact(&mut header).map_err(storage("read"))?;
        }
        let mut opened = Self { path, file, file_bytes, segment: None };
        let (base_sequence, base_offset) = match parse_header(&header) {
            Some(bases) if whole_header => bases,
            _ if file_bytes <= SEGMENT_HEADER_BYTES as u64 => return Ok(opened),
            _ => return Err(opened.damaged(0)),
        };
        let continues = recovered.segments.is_empty()
            || (base_sequence, base_offset) == (recovered.next.sequence, recovered.next.offset);
        let end = recovered.next.sequence;
        if !continues && base_sequence > end {
            let path = opened.path.parent().unwrap_or(&opened.path).to_owned();
            return Err(EmulatorError::LostBetween { path, missing: end..base_sequence });
        }
        if !continues {
            return Err(opened.damaged(0));
        }
        recovered.next.sequence = base_sequence;
        recovered.next.offset = base_offset;
        let mut segment = Segment::starting_at(Path::new(""), recovered.next);
        segment.path.clone_from(&opened.path);
        scan(&mut opened.file, &mut segment, recovered)
            .map_err(|error| EmulatorError::storage("read", &opened.path, error))?;
        opened.segment = Some(segment);
        Ok(opened)
    }

    /// Length up to the first byte that is not right.
    fn good_bytes(&self) -> u64 {
        self.segment.as_ref().map_or(0, Segment::file_bytes)
    }

    fn damaged(&self, at: u64) -> EmulatorError {
        EmulatorError::DamagedLog { path: self.path.clone(), at }
    }

    /// A file that is not right to its end is damaged.
    fn refuse_damage(&self) -> Result<(), EmulatorError> {
        match self.good_bytes() {
            good if good == self.file_bytes && self.segment.is_some() => Ok(()),
            good => Err(self.damaged(good)),
        }
    }

    /// Takes the newest file in: what its last write left unfinished is cut.
    fn finish(mut self, is_synced: bool, recovered: &mut Recovered) -> Result<(), EmulatorError> {
        let path = self.path.clone();
        let storage = |what| {
            let path = path.clone();
            move |error| EmulatorError::storage(what, &path, error)
        };
        let good = self.good_bytes();
        let shown = path.display();
        let Some(segment) = self.segment.take() else {
            recovered.notes.push(format!("{shown} was only begun, and is removed"));
            return std::fs::remove_file(&path).map_err(storage("remove"));
        };
        if good < self.file_bytes {
            let mut rest = Vec::new();
            self.file
                .seek(SeekFrom::Start(good))
                .and_then(|_| self.file.read_to_end(&mut rest))
                .map_err(storage("read"))?;
            if holds_record(&rest, recovered.next) {
                return Err(self.damaged(good));
            }
            recovered.notes.push(format!(
                "the last write to {shown} did not finish: {} bytes behind event {} were cut off",
                rest.len(),
                recovered.next.sequence - 1,
            ));
            self.file.set_len(good).map_err(storage("truncate"))?;
        }
        if good < self.file_bytes || !is_synced {
            // It counts as accepted from now on, and was perhaps never synced.
            self.file.sync_all().map_err(storage("sync"))?;
        }
        recovered.segments.push(segment);
        Ok(())
    }
}

/// Whether a whole record of `next` or later is anywhere in `bytes`.
fn holds_record(bytes: &[u8], next: Next) -> bool {
    let most = next.sequence.saturating_add(bytes.len() as i64);
    (0..bytes.len()).map(|at| &bytes[at..]).any(|rest| {
        // The checksum of a large record takes its time; few places have a number that fits.
        record::sequence(rest).is_some_and(|sequence| (next.sequence..most).contains(&sequence))
            && matches!(record::parse(rest), Parsed::Whole(_))
    })
}

fn parse_header(header: &[u8; SEGMENT_HEADER_BYTES]) -> Option<(i64, i64)> {
    let (magic, rest) = header.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    let crc = rest.first_chunk()?;
    let intact = *magic == MAGIC && u32::from_le_bytes(*crc) == crc32fast::hash(&header[..24]);
    intact.then(|| (i64::from_le_bytes(*sequence), i64::from_le_bytes(*offset)))
}

/// Reads records until the first that is not whole or does not follow.
fn scan(file: &mut File, segment: &mut Segment, recovered: &mut Recovered) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut piece = vec![0; READ_BYTES];
    let mut at_end = false;
    loop {
        let record = match record::parse(&buffer) {
            Parsed::Whole(record) if follows(record, recovered) => record,
            Parsed::Partial { bytes } if !at_end && bytes <= MAX_RECORD_BYTES => {
                let read = file.read(&mut piece)?;
                at_end = read == 0;
                buffer.extend_from_slice(&piece[..read]);
                continue;
            }
            _ => return Ok(()),
        };
        let next = &mut recovered.next;
        segment.on_record(record.sequence, next.offset, record.enqueued_ms);
        recovered.last_offset = next.offset;
        next.offset += record.bytes as i64;
        next.sequence += 1;
        next.not_before_ms = record.enqueued_ms;
        segment.end_offset = next.offset;
        let _ = buffer.split_to(record.bytes);
    }
}

fn follows(record: Record, recovered: &Recovered) -> bool {
    record.sequence == recovered.next.sequence && record.enqueued_ms >= recovered.next.not_before_ms
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(super) mod tests {
    use super::*;
    use crate::event::{self, Prepared};
    use crate::log::encode_records;
    use crate::record::RECORD_HEADER_BYTES;
    use crate::wire;

    fn events(bodies: &[&[u8]]) -> Vec<Prepared> {
        let prepare = |body: &&[u8]| {
            let mut message = BytesMut::new();
            wire::put_descriptor(&mut message, 0x75);
            wire::put_binary(&mut message, body);
            event::prepare(message.freeze(), None).unwrap().events
        };
        bodies.iter().flat_map(prepare).collect()
    }

    /// Writes a segment as the writer does and returns its path and where each record ends.
    pub(in crate::segment) fn write_segment(
        folder: &Path,
        next: Next,
        bodies: &[&[u8]],
    ) -> (PathBuf, Vec<usize>, Next) {
        std::fs::create_dir_all(folder).unwrap();
        let segment = Segment::starting_at(folder, next);
        let encoded = encode_records(events(bodies).iter(), next, 1_000);
        let mut file = segment.header().to_vec();
        file.extend_from_slice(&encoded.records);
        std::fs::write(&segment.path, file).unwrap();
        let mut ends = vec![SEGMENT_HEADER_BYTES];
        for event in &encoded.events {
            let last = ends[ends.len() - 1];
            ends.push(last + RECORD_HEADER_BYTES + event.encoded.len());
        }
        (segment.path, ends, encoded.next)
    }

    pub(in crate::segment) fn recovered(folder: &Path) -> Result<Recovered, EmulatorError> {
        recover(folder, None)
    }

    #[test]
    fn a_log_cut_anywhere_in_its_last_record_recovers_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends, _) = write_segment(dir.path(), Next::FIRST, &[b"a", b"bb", b"ccc"]);
        let whole = std::fs::read(&path).unwrap();
        for cut in ends[2]..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let recovered = recovered(dir.path()).unwrap();
            assert_eq!(recovered.next.sequence, 2, "cut at {cut}");
            assert_eq!(recovered.next.offset as usize, ends[2] - SEGMENT_HEADER_BYTES);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), ends[2] as u64);
            assert_eq!(recovered.notes.len(), usize::from(cut > ends[2]), "{:?}", recovered.notes);
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(recovered(dir.path()).unwrap().next.sequence, 3);
    }

    #[test]
    fn a_log_with_any_byte_of_its_last_record_wrong_recovers_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends, _) = write_segment(dir.path(), Next::FIRST, &[b"a", b"bb", b"ccc"]);
        let whole = std::fs::read(&path).unwrap();
        for at in ends[2]..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(recovered(dir.path()).unwrap().next.sequence, 2, "byte {at}");
        }
    }

    #[test]
    fn a_file_that_was_only_begun_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _, _) = write_segment(dir.path(), Next::FIRST, &[]);
        let header = std::fs::read(&path).unwrap();
        for cut in 0..header.len() {
            std::fs::write(&path, &header[..cut]).unwrap();
            let recovered = recovered(dir.path()).unwrap();
            assert_eq!(recovered.next, Next::FIRST);
            assert!(recovered.notes[0].contains("only begun"), "{:?}", recovered.notes);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_bad_record_with_good_ones_behind_it_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends, _) = write_segment(dir.path(), Next::FIRST, &[b"a", b"bb", b"ccc"]);
        let whole = std::fs::read(&path).unwrap();
        for (record, place) in [(0, ends[0]..ends[1]), (1, ends[1]..ends[2])] {
            for at in place {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x40;
                std::fs::write(&path, &damaged).unwrap();
                match recovered(dir.path()) {
                    Err(EmulatorError::DamagedLog { at, .. }) => {
                        assert_eq!(at, ends[record] as u64);
                    }
                    other => panic!("byte {at}: {other:?}"),
                }
                assert_eq!(std::fs::read(&path).unwrap(), damaged);
            }
        }
    }

    #[test]
    fn less_than_what_is_noted_is_a_loss_and_nothing_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends, next) = write_segment(dir.path(), Next::FIRST, &[b"a", b"bb", b"ccc"]);
        let noted = Extent { begin: 0, end: 3, end_offset: next.offset };
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(recover(dir.path(), Some(noted)).unwrap().next, next);
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = recover(dir.path(), Some(noted)).unwrap_err();
            let is_whole = ends.contains(&cut);
            assert_eq!(matches!(error, EmulatorError::LostEvents { .. }), is_whole, "{cut}");
            assert_eq!(matches!(error, EmulatorError::DamagedLog { .. }), !is_whole, "{cut}");
            assert_eq!(std::fs::read(&path).unwrap().len(), cut);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(recover(dir.path(), Some(noted)), Err(EmulatorError::LostEvents { .. })));
        write_segment(dir.path(), next, &[b"d"]);
        assert!(matches!(recover(dir.path(), Some(noted)), Err(EmulatorError::LostEvents { .. })));
    }

    #[test]
    fn a_damaged_older_segment_is_an_error_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends, next) = write_segment(dir.path(), Next::FIRST, &[b"a", b"b"]);
        write_segment(dir.path(), next, &[b"c"]);
        assert_eq!(recovered(dir.path()).unwrap().next.sequence, 3);
        let mut damaged = std::fs::read(&path).unwrap();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        match recovered(dir.path()) {
            Err(EmulatorError::DamagedLog { at, .. }) => assert_eq!(at, ends[1] as u64),
            other => panic!("{other:?}"),
        }
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }

    #[test]
    fn a_missing_segment_in_between_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (_, _, next) = write_segment(dir.path(), Next::FIRST, &[b"a"]);
        let (middle, _, next) = write_segment(dir.path(), next, &[b"b"]);
        write_segment(dir.path(), next, &[b"c"]);
        std::fs::remove_file(middle).unwrap();
        match recovered(dir.path()) {
            Err(EmulatorError::LostBetween { path, missing }) => {
                assert_eq!((path.as_path(), missing), (dir.path(), 1..2));
            }
            other => panic!("{other:?}"),
        }
    }
}
