//! One file that is to be moved, whatever worker moves it.

use crate::blob_store::BlobName;
use crate::transfer::along::Along;
use crate::transfer::source::Source;

/// See the [module](self).
pub(in crate::transfer) struct Job<'a> {
    /// The sender's name for the task.
    pub(in crate::transfer) id: &'a str,
    pub(in crate::transfer) source: Source<'a>,
    /// Where it goes.
    pub(in crate::transfer) path: &'a BlobName,
    /// The SHA-256 that it must have.
    pub(in crate::transfer) sha256: Option<[u8; 32]>,
    /// The MD5 that it must have.
    pub(in crate::transfer) md5: Option<[u8; 16]>,
    /// The CRC-64/NVME that it must have.
    pub(in crate::transfer) crc64: Option<u64>,
    /// The length that it must have, in bytes.
    pub(in crate::transfer) size: Option<u64>,
    /// What goes along with it.
    pub(in crate::transfer) along: Along,
    /// Names the source and all that the file must be: the same for each delivery of one task, and in
    /// every release.
    pub(in crate::transfer) named: Named<'a>,
}

/// What a source is named by.
pub(in crate::transfer) enum Named<'a> {
    Url(&'a str),
    /// By a name below a place that the worker has.
    Blob(&'a str),
}
