//! The record: how one event lies in a log file.
//!
//! ```text
//! 0      4      8           16             24
//! | len  | crc  | sequence  | enqueued ms  | encoded event (len bytes) |     little endian
//! ```
//!
//! The checksum covers everything but itself, the length included. A record that was written only in
//! part, or over which a file system left zeros, does not pass; [`parse`] tells such a record from
//! one that merely continues beyond the bytes at hand.

/// Bytes in front of the encoded event.
pub(super) const RECORD_HEADER_BYTES: usize = 24;
/// No event is larger: a publisher's message has at most 1 MiB, and the broker adds its annotations
/// and, to each event of a batch, the partition key.
pub(super) const MAX_RECORD_BYTES: usize = 3 * 1024 * 1024;

/// Fills in the header of `record`, whose event is in place.
pub(super) fn seal(record: &mut [u8], sequence: i64, enqueued_ms: i64) {
    let len = record.len().saturating_sub(RECORD_HEADER_BYTES) as u32;
    let Some((header, encoded)) = record.split_at_mut_checked(RECORD_HEADER_BYTES) else {
        return;
    };
    header[0..4].copy_from_slice(&len.to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..24].copy_from_slice(&enqueued_ms.to_le_bytes());
    let crc = checksum(&header[0..4], &header[8..24], encoded);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(len: &[u8], positions: &[u8], encoded: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(len);
    hasher.update(positions);
    hasher.update(encoded);
    hasher.finalize()
}

/// What the front of some bytes of a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    Whole(Record),
    /// It continues: `bytes` are needed in all.
    Partial {
        bytes: usize,
    },
    Damaged,
}

/// A record that passed its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Header and event.
    pub(super) bytes: usize,
    pub(super) sequence: i64,
    pub(super) enqueued_ms: i64,
}

/// Reads the record at the front of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else {
        return Parsed::Partial { bytes: RECORD_HEADER_BYTES };
    };
    let len = le_u32(&header[0..4]) as usize;
    let total = RECORD_HEADER_BYTES + len;
    if total > MAX_RECORD_BYTES {
        return Parsed::Damaged;
    }
    let Some(encoded) = rest.get(..len) else {
        return Parsed::Partial { bytes: total };
    };
    if le_u32(&header[4..8]) != checksum(&header[0..4], &header[8..24], encoded) {
        return Parsed::Damaged;
    }
    Parsed::Whole(Record {
        bytes: total,
        sequence: le_i64(&header[8..16]),
        enqueued_ms: le_i64(&header[16..24]),
    })
}

/// The number a record at the front of `bytes` would have.
pub(super) fn sequence(bytes: &[u8]) -> Option<i64> {
    bytes.get(8..16).map(le_i64)
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn le_i64(bytes: &[u8]) -> i64 {
    bytes.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes))
}
