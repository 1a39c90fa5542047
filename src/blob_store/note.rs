//! What a commit notes beside a blob, so that whoever comes back finds that the work was done.

use std::fmt;

use super::Sums;
use crate::hex::{self, from_hex};

/// Stands for a sum that is not known.
const UNKNOWN: &str = "-";

/// The note of a commit: the work that put a blob where it is. It is committed with the blob, whole or not at all.
/// A store without a place for it leaves it out, and the work is then done again.
///
/// As text it is one line of ASCII:
/// `v1 work=00112233445566778899aabbccddeeff source=… bytes=123 sha256=… crc64=…`, with `-` for a
/// SHA-256 that nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobNote {
    /// The one delivery that the blob is the work of.
    pub work: [u8; 16],
    /// What it was made from: the same for each delivery of one task.
    pub source: [u8; 16],
    /// The length of the blob.
    pub bytes: u64,
    /// The sums of the blob's bytes.
    pub sums: Sums,
}

impl BlobNote {
    /// Reads the text of a note. `None` if it is not a note, or one of a later version.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("v1 ")?.trim_end().split(' ');
        let mut field = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let (work, source) = (from_hex(field("work")?)?, from_hex(field("source")?)?);
        let bytes = field("bytes")?.parse().ok()?;
        let sha256 = match field("sha256")? {
            UNKNOWN => None,
            digits => Some(from_hex(digits)?),
        };
        // Notes of before have none.
        let crc64 = field("crc64").and_then(from_hex).map(u64::from_be_bytes);
        Some(Self { work, source, bytes, sums: Sums::new(crc64, sha256) })
    }
}

impl fmt::Display for BlobNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(192);
        text.push_str("v1");
        for (name, bytes) in [(" work=", &self.work), (" source=", &self.source)] {
            text.push_str(name);
            hex::push(&mut text, bytes);
        }
        text.push_str(&format!(" bytes={} sha256=", self.bytes));
        match &self.sums.sha256 {
            Some(sha256) => hex::push(&mut text, sha256),
            None => text.push_str(UNKNOWN),
        }
        if let Some(crc64) = self.sums.crc64 {
            text.push_str(" crc64=");
            hex::push(&mut text, &crc64.to_be_bytes());
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_survives_its_text_and_nothing_else_is_one() {
        let of = |crc64, sha256| BlobNote {
            work: [1; 16],
            source: [0xab; 16],
            bytes: 7,
            sums: Sums::new(crc64, sha256),
        };
        for note in [of(Some(0xf0), Some([0xff; 32])), of(Some(7), None), of(None, Some([0; 32]))] {
            let text = note.to_string();
            assert_eq!(BlobNote::parse(&text), Some(note));
            assert_eq!(BlobNote::parse(&format!("{text} more=1")), Some(note), "of a later writer");
        }
        let text = of(None, Some([0xff; 32])).to_string();
        assert!(!text.contains("crc64"), "as before");
        for other in ["", "v1", "v2 work=", &text[..text.len() - 1], &text.replace("v1", "v2")] {
            assert_eq!(BlobNote::parse(other), None, "{other}");
        }
        assert_eq!(BlobNote::parse(&text.replace("ab", "äb")), None);
    }
}
