//! Segments: the files of a partition's log, oldest first.
//!
//! ```text
//! 0          8               16            24     28        32
//! | "LSLOG01\n" | base sequence | base offset | crc | reserved | record | record | …
//! ```
//!
//! A segment is named after its first sequence number. Only the newest one is written to; an older
//! one was synced before the newer one was begun, whatever the durability. So only the newest
//! can end in a torn record, and a damaged older one is an error, never cut.
//!
//! A segment keeps a sparse index of marks in memory, one in [`MARK_EVERY_BYTES`]. A reader starts at
//! the mark before its position and then knows the exact place of its next record.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::EmulatorError;
use super::address::StartKey;
use super::log::{Next, StoredEvent};
use super::record::{self, MAX_RECORD_BYTES, Parsed, RECORD_HEADER_BYTES, Record};

pub(super) const SEGMENT_HEADER_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"LSLOG01\n";
const MARK_EVERY_BYTES: i64 = 64 * 1024;
/// How much of a file is read at a time.
const READ_BYTES: usize = 256 * 1024;

/// A place in a segment where a record starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) sequence: i64,
    pub(super) offset: i64,
    pub(super) enqueued_ms: i64,
}

/// One file of a log, as far as the log has accepted it.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) base_sequence: i64,
    pub(super) base_offset: i64,
    /// Offset behind the last accepted record.
    pub(super) end_offset: i64,
    marks: Vec<Mark>,
}

impl Segment {
    /// The segment that starts at `next`; its file is not touched.
    pub(super) fn starting_at(folder: &Path, next: Next) -> Self {
        Self {
            path: folder.join(format!("{:020}.log", next.sequence)),
            base_sequence: next.sequence,
            base_offset: next.offset,
            end_offset: next.offset,
            marks: Vec::new(),
        }
    }

    /// When its first event came.
    pub(super) fn begun_ms(&self) -> Option<i64> {
        self.marks.first().map(|mark| mark.enqueued_ms)
    }

    pub(super) fn header(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        header[0..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&self.base_sequence.to_le_bytes());
        header[16..24].copy_from_slice(&self.base_offset.to_le_bytes());
        let crc = crc32fast::hash(&header[0..24]);
        header[24..28].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Length of the file up to the last accepted record.
    pub(super) fn file_bytes(&self) -> u64 {
        self.place_of(self.end_offset)
    }

    fn place_of(&self, offset: i64) -> u64 {
        SEGMENT_HEADER_BYTES as u64 + offset.abs_diff(self.base_offset)
    }

    /// Takes accepted events into account.
    pub(super) fn on_accepted(&mut self, events: &[StoredEvent], end_offset: i64) {
        for event in events {
            self.on_record(event.sequence, event.offset, event.enqueued_ms);
        }
        self.end_offset = end_offset;
    }

    fn on_record(&mut self, sequence: i64, offset: i64, enqueued_ms: i64) {
        let due = match self.marks.last() {
            Some(last) => offset - last.offset >= MARK_EVERY_BYTES,
            None => true,
        };
        if due {
            self.marks.push(Mark { sequence, offset, enqueued_ms });
        }
    }

    /// The last mark before the first event whose `key` is at least `least`; `None` when that event
    /// may be in an older segment.
    pub(super) fn seek(&self, key: StartKey, least: i64) -> Option<Mark> {
        let at = self.marks.partition_point(|mark| {
            let value = match key {
                StartKey::Offset => mark.offset,
                StartKey::SequenceNumber => mark.sequence,
                StartKey::EnqueuedMillis => mark.enqueued_ms,
            };
            value < least
        });
        self.marks.get(at.checked_sub(1)?).copied()
    }

    /// Reads from the record at `offset` on; `None` behind the end.
    pub(super) fn read_job(&self, offset: i64) -> Option<ReadJob> {
        (offset < self.end_offset).then(|| ReadJob {
            path: self.path.clone(),
            place: self.place_of(offset),
            offset,
            end_offset: self.end_offset,
        })
    }
}

/// A piece of a file to read, away from the runtime.
#[derive(Debug)]
pub(super) struct ReadJob {
    path: PathBuf,
    place: u64,
    offset: i64,
    end_offset: i64,
}

impl ReadJob {
    /// Blocks. Returns at least one event, unless the file is damaged or gone.
    pub(super) fn run(self) -> io::Result<Vec<StoredEvent>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.place))?;
        let left = usize::try_from(self.end_offset - self.offset).unwrap_or(usize::MAX);
        let mut want = left.min(READ_BYTES);
        loop {
            let mut buffer = BytesMut::zeroed(want);
            file.read_exact(&mut buffer)?;
            let buffer = buffer.freeze();
            match record::parse(&buffer) {
                Parsed::Whole(_) => return Ok(self.events_of(&buffer)),
                Parsed::Partial { bytes } if bytes <= left && bytes > want => want = bytes,
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{} is damaged at byte {}", self.path.display(), self.place),
                    ));
                }
            }
            file.seek(SeekFrom::Start(self.place))?;
        }
    }

    fn events_of(&self, buffer: &Bytes) -> Vec<StoredEvent> {
        let mut events = Vec::new();
        let mut at = 0;
        while let Parsed::Whole(record) = record::parse(&buffer[at..]) {
            events.push(StoredEvent {
                sequence: record.sequence,
                offset: self.offset + at as i64,
                enqueued_ms: record.enqueued_ms,
                encoded: buffer.slice(at + RECORD_HEADER_BYTES..at + record.bytes),
            });
            at += record.bytes;
        }
        events
    }
}

/// What a partition's folder holds.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Segment>,
    pub(super) next: Next,
    pub(super) last_offset: i64,
}

/// Reads a partition's folder, checks every record, and cuts a torn end off the newest segment.
pub(super) fn recover(folder: &Path) -> Result<Recovered, EmulatorError> {
    let mut recovered = Recovered { segments: Vec::new(), next: Next::FIRST, last_offset: -1 };
    let mut paths = segment_files(folder)?;
    paths.sort();
    let newest = paths.len().saturating_sub(1);
    for (index, path) in paths.into_iter().enumerate() {
        recover_segment(path, index == newest, &mut recovered)?;
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

fn recover_segment(
    path: PathBuf,
    is_newest: bool,
    recovered: &mut Recovered,
) -> Result<(), EmulatorError> {
    let storage = |what| {
        let path = path.clone();
        move |error| EmulatorError::storage(what, &path, error)
    };
    let damaged = |at: u64| EmulatorError::DamagedLog { path: path.clone(), at };
    let mut file =
        OpenOptions::new().read(true).write(true).open(&path).map_err(storage("open"))?;
    let file_bytes = file.metadata().map_err(storage("inspect"))?.len();
    let mut header = [0; SEGMENT_HEADER_BYTES];
    let whole_header = file_bytes >= SEGMENT_HEADER_BYTES as u64;
    if whole_header {
        file.read_exact(&mut header).map_err(storage("read"))?;
    }
    let bases = parse_header(&header);
    let (base_sequence, base_offset) = match bases {
        Some(bases) if whole_header => bases,
        // Nothing was ever accepted into a file whose header is not whole.
        _ if is_newest && file_bytes <= SEGMENT_HEADER_BYTES as u64 => {
            tracing::warn!(path = %path.display(), "removing a log file that was only begun");
            return std::fs::remove_file(&path).map_err(storage("remove"));
        }
        _ => return Err(damaged(0)),
    };
    let continues = recovered.segments.is_empty()
        || (base_sequence, base_offset) == (recovered.next.sequence, recovered.next.offset);
    if !continues {
        return Err(damaged(0));
    }
    recovered.next.sequence = base_sequence;
    recovered.next.offset = base_offset;
    let mut segment = Segment::starting_at(Path::new(""), recovered.next);
    segment.path = path.clone();
    scan(&mut file, &mut segment, recovered).map_err(storage("read"))?;
    let good = segment.file_bytes();
    if good < file_bytes {
        if !is_newest {
            return Err(damaged(good));
        }
        tracing::warn!(
            path = %path.display(),
            kept_bytes = good,
            cut_bytes = file_bytes - good,
            "cutting the torn end off a log: its last write did not finish"
        );
        file.set_len(good).map_err(storage("truncate"))?;
        file.sync_all().map_err(storage("sync"))?;
    }
    recovered.segments.push(segment);
    Ok(())
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
mod tests {
    use super::super::event::{self, Prepared};
    use super::super::log::encode_records;
    use super::super::record::RECORD_HEADER_BYTES;
    use super::*;

    fn events(bodies: &[&[u8]]) -> Vec<Prepared> {
        let prepare = |body: &&[u8]| {
            let mut message = BytesMut::new();
            super::super::wire::put_descriptor(&mut message, 0x75);
            super::super::wire::put_binary(&mut message, body);
            event::prepare(message.freeze(), None).unwrap().events
        };
        bodies.iter().flat_map(prepare).collect()
    }

    /// Writes a segment as the writer does and returns its path and where each record ends.
    fn write_segment(folder: &Path, next: Next, bodies: &[&[u8]]) -> (PathBuf, Vec<usize>, Next) {
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

    #[test]
    fn a_log_cut_anywhere_in_its_last_record_recovers_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends, _) = write_segment(dir.path(), Next::FIRST, &[b"a", b"bb", b"ccc"]);
        let whole = std::fs::read(&path).unwrap();
        for cut in ends[2]..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let recovered = recover(dir.path()).unwrap();
            assert_eq!(recovered.next.sequence, 2, "cut at {cut}");
            assert_eq!(recovered.next.offset as usize, ends[2] - SEGMENT_HEADER_BYTES);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), ends[2] as u64);
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(recover(dir.path()).unwrap().next.sequence, 3);
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
            assert_eq!(recover(dir.path()).unwrap().next.sequence, 2, "byte {at}");
        }
    }

    #[test]
    fn a_file_that_was_only_begun_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _, _) = write_segment(dir.path(), Next::FIRST, &[]);
        let header = std::fs::read(&path).unwrap();
        for cut in 0..header.len() {
            std::fs::write(&path, &header[..cut]).unwrap();
            let recovered = recover(dir.path()).unwrap();
            assert_eq!(recovered.next, Next::FIRST);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_damaged_older_segment_is_an_error_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends, next) = write_segment(dir.path(), Next::FIRST, &[b"a", b"b"]);
        write_segment(dir.path(), next, &[b"c"]);
        assert_eq!(recover(dir.path()).unwrap().next.sequence, 3);
        let mut damaged = std::fs::read(&path).unwrap();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        match recover(dir.path()) {
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
        assert!(matches!(recover(dir.path()), Err(EmulatorError::DamagedLog { at: 0, .. })));
    }

    #[test]
    fn reads_follow_each_other_through_records_larger_than_a_read() {
        let dir = tempfile::tempdir().unwrap();
        let large = vec![1; READ_BYTES * 2];
        let bodies: [&[u8]; 4] = [b"a", &large, b"c", &large];
        write_segment(dir.path(), Next::FIRST, &bodies);
        let recovered = recover(dir.path()).unwrap();
        let segment = &recovered.segments[0];
        let mut offset = 0;
        let mut sequences = Vec::new();
        while let Some(job) = segment.read_job(offset) {
            for event in job.run().unwrap() {
                assert_eq!(event.offset, offset);
                offset += (RECORD_HEADER_BYTES + event.encoded.len()) as i64;
                sequences.push(event.sequence);
            }
        }
        assert_eq!(sequences, [0, 1, 2, 3]);
        assert_eq!(offset, recovered.next.offset);
    }

    #[test]
    fn marks_lead_to_a_place_before_the_first_match() {
        let dir = tempfile::tempdir().unwrap();
        let body = vec![1; 20_000];
        let bodies: Vec<&[u8]> = (0..50).map(|_| &body[..]).collect();
        write_segment(dir.path(), Next::FIRST, &bodies);
        let recovered = recover(dir.path()).unwrap();
        let segment = &recovered.segments[0];
        assert!(segment.marks.len() > 5 && segment.marks.len() < 20);
        for sequence in 1..50 {
            let mark = segment.seek(StartKey::SequenceNumber, sequence).unwrap();
            assert!(mark.sequence < sequence && sequence - mark.sequence <= 5);
        }
        assert_eq!(segment.seek(StartKey::SequenceNumber, 0), None);
        assert_eq!(segment.seek(StartKey::EnqueuedMillis, 1_000), None);
    }
}
