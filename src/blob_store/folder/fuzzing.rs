//! What holds of the files that a folder of blobs has for itself.

use super::super::BlobNote;
use super::unfinished;

/// A journal that is read says of parts that are not empty and ends within its bytes; what was read of it
/// alone is read as the same. A note that is read is read as the same from its text.
///
/// # Panics
/// Where that does not hold.
pub fn journals(bytes: &[u8]) {
    if let Ok(Some(noted)) = unfinished::read(bytes) {
        let end = usize::try_from(noted.end).unwrap_or(usize::MAX);
        assert!(end <= bytes.len() && noted.parts.iter().all(|(part, _)| part.start < part.end));
        let again = unfinished::read(&bytes[..end]);
        assert!(matches!(&again, Ok(Some(again)) if *again == noted), "{noted:?}: {again:?}");
    }
    let note = std::str::from_utf8(bytes).ok().and_then(BlobNote::parse);
    if let Some(note) = note {
        assert_eq!(BlobNote::parse(&note.to_string()), Some(note));
    }
}
