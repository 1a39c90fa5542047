//! What a commit notes beside a blob, so that whoever comes back finds that the work was done.

use std::fmt;

use crate::hex::{self, from_hex};

/// Says which work put a blob where it is. It is committed with the blob, whole or not at all; where a
/// store has no place for it, it is left out, and the work is done again.
///
/// As text it is one line of ASCII:
/// `v1 work=00112233445566778899aabbccddeeff source=… bytes=123 sha256=…`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobNote {
    /// The one delivery that the blob is the work of.
    pub work: [u8; 16],
    /// What it was made from: the same for each delivery of one task.
    pub source: [u8; 16],
    /// The length of the blob.
    pub bytes: u64,
    /// The hash of the blob's bytes.
    pub sha256: [u8; 32],
}

impl BlobNote {
    /// Reads the text of a note; `None` where it is none, or one of a later version.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("v1 ")?.trim_end().split(' ');
        let mut field = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        Some(Self {
            work: from_hex(field("work")?)?,
            source: from_hex(field("source")?)?,
            bytes: field("bytes")?.parse().ok()?,
            sha256: from_hex(field("sha256")?)?,
        })
    }
}

impl fmt::Display for BlobNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(160);
        text.push_str("v1");
        for (name, bytes) in [(" work=", &self.work), (" source=", &self.source)] {
            text.push_str(name);
            hex::push(&mut text, bytes);
        }
        text.push_str(&format!(" bytes={} sha256=", self.bytes));
        hex::push(&mut text, &self.sha256);
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_survives_its_text_and_nothing_else_is_one() {
        let note = BlobNote { work: [1; 16], source: [0xab; 16], bytes: 7, sha256: [0xff; 32] };
        let text = note.to_string();
        assert_eq!(BlobNote::parse(&text), Some(note));
        assert_eq!(BlobNote::parse(&format!("{text} more=1")), Some(note), "of a later writer");
        for other in ["", "v1", "v2 work=", &text[..text.len() - 1], &text.replace("v1", "v2")] {
            assert_eq!(BlobNote::parse(other), None, "{other}");
        }
        assert_eq!(BlobNote::parse(&text.replace("ab", "äb")), None);
    }
}
