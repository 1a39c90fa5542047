//! The note of a blob as an extended attribute of its file: written before the rename, so it is there
//! with the file and goes with it.

use std::fs::File;
use std::path::Path;

use crate::blob_store::BlobNote;

/// The extended attribute that holds the [`BlobNote`] of a file, as text: `getfattr -n user.longshore
/// FILE` shows it.
pub const NOTE_ATTRIBUTE: &str = "user.longshore";

/// Longer than any note.
const MAX_BYTES: usize = 512;

/// Notes where the file is from. A file system without such attributes, or without room for them, keeps
/// the file all the same.
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(super) fn write(file: &File, note: &BlobNote) {
    use rustix::fs::{XattrFlags, fsetxattr};

    let _kept = fsetxattr(file, NOTE_ATTRIBUTE, note.to_string().as_bytes(), XattrFlags::empty());
}

/// What is noted of a file.
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(super) fn read(path: &Path) -> Option<BlobNote> {
    let mut text = [0; MAX_BYTES];
    let bytes = rustix::fs::getxattr(path, NOTE_ATTRIBUTE, &mut text[..]).ok()?;
    BlobNote::parse(std::str::from_utf8(text.get(..bytes)?).ok()?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub(super) fn write(_file: &File, _note: &BlobNote) {}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub(super) fn read(_path: &Path) -> Option<BlobNote> {
    None
}
