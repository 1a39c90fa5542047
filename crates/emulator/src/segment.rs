//! Segments: the files of a partition's log, oldest first.
//!
//! ```text
//! 0          8               16            24     28        32
//! | "LSLOG01\n" | base sequence | base offset | crc | reserved | record | record | …
//! ```
//!
//! A segment is named after its first sequence number. Only the newest one is written to; an older
//! one was synced before the newer one was begun, whatever the durability. So only the newest
//! can end in a torn record, and a damaged older one is an error, never cut. Of the newest only that
//! torn end is cut: bytes behind all that is noted in [`extents`](super::extents), with no whole
//! record behind them. Whatever else is not right is damage, and left as it is.
//!
//! A segment keeps a sparse index of marks in memory, one in [`MARK_EVERY_BYTES`]. A reader starts at
//! the mark before its position and then knows the exact place of its next record.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::address::StartKey;
use super::log::{Next, StoredEvent};
use super::private;
use super::record::{self, Parsed, RECORD_HEADER_BYTES};

mod recovery;

pub(super) use recovery::recover;

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
    /// How much it reads, unless one record is larger.
    pub(super) fn bytes(&self) -> usize {
        self.left().min(READ_BYTES)
    }

    fn left(&self) -> usize {
        usize::try_from(self.end_offset - self.offset).unwrap_or(usize::MAX)
    }

    /// Blocks. Returns at least one event, unless the file is damaged or gone.
    pub(super) fn run(self) -> io::Result<Vec<StoredEvent>> {
        let mut file = private::open(OpenOptions::new().read(true), &self.path)?;
        file.seek(SeekFrom::Start(self.place))?;
        let (left, mut want) = (self.left(), self.bytes());
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

#[cfg(test)]
mod tests {
    use super::recovery::tests::{recovered, write_segment};
    use super::*;

    #[test]
    fn reads_follow_each_other_through_records_larger_than_a_read() {
        let dir = tempfile::tempdir().unwrap();
        let large = vec![1; READ_BYTES * 2];
        let bodies: [&[u8]; 4] = [b"a", &large, b"c", &large];
        write_segment(dir.path(), Next::FIRST, &bodies);
        let recovered = recovered(dir.path()).unwrap();
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
        let recovered = recovered(dir.path()).unwrap();
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
