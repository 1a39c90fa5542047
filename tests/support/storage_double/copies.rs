//! Put Block From URL, which Azurite does not have: the double reads the source as the service would, and
//! puts what it read as a block.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;

use super::refusal::{self, Refusal};
use super::request::{Operation, Request};
use super::wire::{Answer, Head};

/// What the service calls itself where it reads a source.
pub const USER_AGENT: &str = "storage-service";

/// The request that puts the block, or why the source is not read.
pub(super) async fn as_block(request: &Request) -> Result<Request, Refusal> {
    let header = |name: &str| request.head.get(name).unwrap_or_default();
    let unread = |status: StatusCode| {
        let mut refusal = refusal::CANNOT_VERIFY_COPY_SOURCE;
        refusal.status = status.as_u16();
        refusal
    };
    let (etag, range) = (header("x-ms-source-if-match"), header("x-ms-source-range"));
    let mut read = reqwest::Client::new().get(header("x-ms-copy-source"));
    read = read.header("user-agent", USER_AGENT).header("range", range);
    if !etag.is_empty() {
        read = read.header("if-match", etag);
    }
    let read = read.send().await.map_err(|_| refusal::CANNOT_VERIFY_COPY_SOURCE)?;
    match read.status() {
        StatusCode::PARTIAL_CONTENT => {}
        StatusCode::PRECONDITION_FAILED => return Err(refusal::SOURCE_CONDITION_NOT_MET),
        status => return Err(unread(status)),
    }
    let body = read.bytes().await.map_err(|_| refusal::CANNOT_VERIFY_COPY_SOURCE)?;
    let is_of_the_copy =
        |name: &str| name == "x-ms-copy-source" || name.starts_with("x-ms-source-");
    let headers = request.head.headers.iter().filter(|(name, _)| !is_of_the_copy(name));
    Ok(Request {
        operation: Operation::PutBlock,
        blob: request.blob.clone(),
        block_id: request.block_id.clone(),
        head: Head { first: request.head.first.clone(), headers: headers.cloned().collect() },
        body: body.to_vec(),
    })
}

/// The service says the sum of what it read.
pub(super) fn add_sum(answer: &mut Answer, block: &[u8]) {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, block);
    let sum = STANDARD.encode(sum.to_le_bytes());
    answer.head.headers.retain(|(name, _)| name != "x-ms-content-crc64");
    answer.head.headers.push(("x-ms-content-crc64".to_owned(), sum));
}
