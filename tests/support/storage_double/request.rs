//! What a request asks of which blob.

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::wire::Head;

/// An operation of the service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    PutBlob,
    PutBlock,
    PutBlockList,
    GetBlockList,
    GetBlob,
    /// HEAD of a blob, and its metadata alone.
    GetProperties,
    SetMetadata,
    Delete,
    Lease,
    /// Of the blobs of a container.
    List,
    /// A copy of a blob by the service.
    Copy,
    /// A copy of a block by the service.
    PutBlockFromUrl,
    Other,
}

/// A request, read.
pub(super) struct Request {
    pub(super) operation: Operation,
    /// Decoded, without its container; empty where the request is of the container.
    pub(super) blob: String,
    /// As it is in the address.
    pub(super) block_id: Option<String>,
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn of(head: Head) -> Self {
        let (path, query) = head.target().split_once('?').unwrap_or((head.target(), ""));
        // The account, the container, and the rest, which may have slashes.
        let blob = path.trim_start_matches('/').splitn(3, '/').nth(2).unwrap_or_default();
        let blob = percent_decode_str(blob).decode_utf8_lossy().into_owned();
        let ask = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let part = ask("comp");
        let operation = match (head.method(), part.as_deref(), blob.is_empty()) {
            ("GET", Some("list"), true) => Operation::List,
            (_, _, true) => Operation::Other,
            ("PUT", None, _) if head.get("x-ms-copy-source").is_some() => Operation::Copy,
            ("PUT", Some("block"), _) if head.get("x-ms-copy-source").is_some() => {
                Operation::PutBlockFromUrl
            }
            ("PUT", None, _) => Operation::PutBlob,
            ("PUT", Some("block"), _) => Operation::PutBlock,
            ("PUT", Some("blocklist"), _) => Operation::PutBlockList,
            ("PUT", Some("metadata"), _) => Operation::SetMetadata,
            ("PUT", Some("lease"), _) => Operation::Lease,
            ("GET", Some("blocklist"), _) => Operation::GetBlockList,
            ("GET", None, _) => Operation::GetBlob,
            ("HEAD", _, _) | ("GET", Some("metadata"), _) => Operation::GetProperties,
            ("DELETE", None, _) => Operation::Delete,
            _ => Operation::Other,
        };
        Self { operation, blob, block_id: ask("blockid"), head, body: Vec::new() }
    }

    pub(super) fn is_head(&self) -> bool {
        self.head.method() == "HEAD"
    }
}
