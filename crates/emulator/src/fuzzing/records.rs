//! The files of the log.

use std::path::Path;

use crate::EmulatorError;
use crate::log::Next;
use crate::record::{self, Parsed, RECORD_HEADER_BYTES};
use crate::segment::{self, Segment};

/// A record that is whole is the one that would be written of what it says; one that continues needs
/// more than there is.
pub fn records(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    for seal in [false, true] {
        if seal {
            seal_all(&mut bytes);
        }
        match record::parse(&bytes) {
            Parsed::Whole(record) => {
                let mut again = bytes[..record.bytes].to_vec();
                record::seal(&mut again, record.sequence, record.enqueued_ms);
                assert_eq!(again, bytes[..record.bytes]);
                assert_eq!(record::sequence(&bytes), Some(record.sequence));
            }
            Parsed::Partial { bytes: needed } => assert!(needed > bytes.len()),
            Parsed::Damaged => {}
        }
    }
}

/// A segment is served as far as it is right, the same at the next start, or refused and left as it is.
/// The first byte says whether its header, and the checksums of its records, are put right first. The file is written
/// to `folder`, which is empty.
pub fn segments(folder: &Path, bytes: &[u8]) {
    let Some((kind, records)) = bytes.split_first() else { return };
    let first = Segment::starting_at(folder, Next::FIRST);
    let mut file = Vec::new();
    if kind & 1 != 0 {
        file.extend_from_slice(&first.header());
    }
    file.extend_from_slice(records);
    if kind & 2 != 0 {
        let header = file.len() - records.len();
        seal_all(&mut file[header..]);
    }
    assert!(std::fs::write(&first.path, &file).is_ok());
    match segment::recover(folder, None) {
        Ok(recovered) => {
            let mut read = 0;
            for segment in &recovered.segments {
                let mut offset = segment.base_offset;
                while let Some(job) = segment.read_job(offset) {
                    let events = job.run().unwrap_or_default();
                    assert!(!events.is_empty(), "what was accepted is read");
                    for event in events {
                        assert_eq!(
                            (event.sequence, event.offset),
                            (segment.base_sequence + read, offset)
                        );
                        offset += (RECORD_HEADER_BYTES + event.encoded.len()) as i64;
                        read += 1;
                    }
                }
                assert_eq!(offset, recovered.next.offset);
            }
            let again = segment::recover(folder, None);
            let is_same = again.is_ok_and(|again| {
                (again.next, again.last_offset, again.notes.is_empty())
                    == (recovered.next, recovered.last_offset, true)
            });
            assert!(is_same, "{recovered:?}");
        }
        Err(error) => {
            assert!(matches!(error, EmulatorError::DamagedLog { .. }), "{error}");
            assert!(std::fs::read(&first.path).is_ok_and(|left| left == file));
        }
    }
    let _only_begun = std::fs::remove_file(&first.path);
}

/// Gives each record a length that fits, and its checksum: a fuzzer does not find them.
fn seal_all(bytes: &mut [u8]) {
    let mut rest = bytes;
    while let Some(len) = rest.first_chunk::<4>().filter(|_| rest.len() >= RECORD_HEADER_BYTES) {
        let len = u32::from_le_bytes(*len) as usize % 4096;
        let end = RECORD_HEADER_BYTES + len.min(rest.len() - RECORD_HEADER_BYTES);
        let (record, after) = rest.split_at_mut(end);
        let number =
            |at: usize| record[at..].first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes));
        let (sequence, enqueued_ms) = (number(8), number(16));
        record::seal(record, sequence, enqueued_ms);
        rest = after;
    }
}
