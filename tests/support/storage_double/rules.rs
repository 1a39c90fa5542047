//! What the service refuses of everybody, and Azurite takes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::blocks::Blocks;
use super::refusal::{self, Refusal};
use super::request::{Operation, Request};

/// The most parts of a name, between slashes.
const MOST_SEGMENTS: usize = 254;
/// Names and values of a blob's metadata, together.
const MOST_METADATA_BYTES: usize = 8 << 10;
const MOST_COMMITTED_BLOCKS: usize = 50_000;

const MIB: u64 = 1 << 20;

pub(super) struct Limits {
    pub(super) uncommitted_blocks: usize,
    pub(super) body_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { uncommitted_blocks: 100_000, body_bytes: None }
    }
}

/// Why the service would not do it.
pub(super) fn refusal(request: &Request, limits: &Limits, blocks: &Blocks) -> Option<Refusal> {
    let bytes = request.body.len() as u64;
    let by_operation = match request.operation {
        Operation::PutBlob if bytes > limits.body_bytes.unwrap_or(5_000 * MIB) => {
            Some(refusal::REQUEST_BODY_TOO_LARGE)
        }
        Operation::PutBlock if bytes > limits.body_bytes.unwrap_or(4_000 * MIB) => {
            Some(refusal::REQUEST_BODY_TOO_LARGE)
        }
        Operation::PutBlock => of_block(request, limits, blocks),
        Operation::PutBlockList => of_list(request, blocks),
        _ => None,
    };
    let writes = matches!(
        request.operation,
        Operation::PutBlob
            | Operation::PutBlock
            | Operation::PutBlockList
            | Operation::SetMetadata
            | Operation::Copy
    );
    let by_name = || writes.then(|| of_name(&request.blob)).flatten();
    by_name().or_else(|| of_metadata(request)).or(by_operation)
}

fn of_name(name: &str) -> Option<Refusal> {
    if name.split('/').count() > MOST_SEGMENTS {
        return Some(refusal::INVALID_URI);
    }
    let ends_badly = |part: &str| part.ends_with('.');
    let is_bad = name.ends_with(['/', '\\']) || name.split('/').any(ends_badly);
    is_bad.then_some(refusal::INVALID_RESOURCE_NAME)
}

fn of_metadata(request: &Request) -> Option<Refusal> {
    let mut bytes = 0;
    for (key, value) in &request.head.headers {
        let Some(key) = key.strip_prefix("x-ms-meta-") else { continue };
        if key.is_empty() {
            return Some(refusal::EMPTY_METADATA_KEY);
        }
        if !is_identifier(key) || !value.is_ascii() {
            return Some(refusal::INVALID_METADATA);
        }
        bytes += key.len() + value.len();
    }
    (bytes > MOST_METADATA_BYTES).then_some(refusal::METADATA_TOO_LARGE)
}

/// Of C#, in ASCII, which is all that a header takes.
fn is_identifier(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_')
}

fn of_block(request: &Request, limits: &Limits, blocks: &Blocks) -> Option<Refusal> {
    // Before it is encoded.
    let width = |id: &str| STANDARD.decode(id).map_or(0, |id| id.len());
    let id = request.block_id.as_deref().unwrap_or_default();
    if !(1..=64).contains(&width(id)) {
        return Some(refusal::INVALID_BLOCK_ID);
    }
    if blocks.staged(&request.blob).any(|other| width(other) != width(id)) {
        return Some(refusal::INVALID_BLOB_OR_BLOCK);
    }
    let is_new = !blocks.staged(&request.blob).any(|other| other == id);
    let is_full = blocks.staged(&request.blob).count() >= limits.uncommitted_blocks;
    (is_new && is_full).then_some(refusal::BLOCK_COUNT_EXCEEDS_LIMIT)
}

fn of_list(request: &Request, blocks: &Blocks) -> Option<Refusal> {
    let list = String::from_utf8_lossy(&request.body);
    let named = ["</Latest>", "</Uncommitted>", "</Committed>"];
    if named.iter().map(|end| list.matches(end).count()).sum::<usize>() > MOST_COMMITTED_BLOCKS {
        return Some(refusal::BLOCK_LIST_TOO_LONG);
    }
    blocks.names_an_expired_one(&request.blob, &list).then_some(refusal::INVALID_BLOCK_LIST)
}
