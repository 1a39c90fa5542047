//! A file of the folder that is read, in large pieces and off the async threads.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::blocking;
use super::blocks::read_exact_at;
use crate::blob_store::{BlobError, BlobName, ReadBlob};

/// How much is read at a time.
const PIECE_BYTES: u64 = 256 * 1024;

/// Reads a part of an open file, or all of it.
pub(super) fn read(
    file: File,
    metadata: &Metadata,
    name: &BlobName,
    part: Option<Range<u64>>,
) -> ReadBlob {
    let bytes = metadata.len();
    let part = part.unwrap_or(0..bytes);
    let part = part.start.min(bytes)..part.end.min(bytes);
    let version = version_of(metadata);
    let (file, name, begun_as) = (Arc::new(file), name.clone(), version.clone());
    let pieces = stream::try_unfold(part.clone(), move |left| {
        let (file, name, begun_as) = (Arc::clone(&file), name.clone(), begun_as.clone());
        async move {
            let end = left.end.min(left.start + PIECE_BYTES);
            let is_last = end == left.end;
            if left.is_empty() {
                return Ok(None);
            }
            let read = move || {
                let mut piece = vec![0; usize::try_from(end - left.start).unwrap_or_default()];
                read_exact_at(&file, &mut piece, left.start)?;
                if is_last && version_of(&file.metadata()?) != begun_as {
                    return Err(io::Error::other("the file changed while it was read"));
                }
                Ok(Bytes::from(piece))
            };
            let failed = {
                let name = name.to_string();
                |source| BlobError::Transient { operation: "read", name, source }
            };
            let piece = blocking("read", &name, move || read().map_err(failed)).await?;
            Ok(Some((piece, end..left.end)))
        }
    });
    let mut blob = ReadBlob::new(bytes, version, part, pieces.boxed());
    blob.modified = metadata.modified().ok();
    blob
}

/// A file that is written to, or replaced by another one, has another time or another length.
fn version_of(metadata: &Metadata) -> String {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanos = modified.map_or(0, |since| since.as_nanos());
    format!("{nanos:x}-{:x}-{:x}", metadata.len(), inode(metadata))
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}
