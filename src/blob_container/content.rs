//! Blobs that have content: put in one request, or in blocks that are committed together.
//!
//! Every request carries the CRC-64/NVME of its bytes, which the service compares before it takes
//! them.

use std::ops::Range;

use azure_core_of_blob::Bytes;
use azure_core_of_blob::http::headers::CONTENT_TYPE;
use azure_core_of_blob::http::response::AsyncResponseBody;
use azure_core_of_blob::http::{Etag, NoFormat, RequestContent};
use azure_storage_blob::models::{
    AccessTier, BlobClientDownloadInternalOptions, BlobClientDownloadInternalResultHeaders,
    BlobClientGetPropertiesResultHeaders, BlobType, BlockBlobClientCommitBlockListOptions,
    BlockBlobClientCommitBlockListResultHeaders, BlockBlobClientStageBlockFromUrlOptions,
    BlockBlobClientStageBlockFromUrlResultHeaders, BlockBlobClientStageBlockOptions,
    BlockBlobClientUploadInternalOptions, BlockBlobClientUploadInternalResultHeaders,
    BlockListType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::content_failure::ContentFailure;
use super::{Container, Metadata, version};
use crate::checkpoint::VersionToken;
use crate::error::Error;
use crate::secret::Secret;

/// What a blob must be for another one to take its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Condition {
    Anything,
    Absent,
    Version(VersionToken),
}

impl Condition {
    /// As `If-Match` and `If-None-Match` say it.
    pub(super) fn headers(&self) -> (Option<Etag>, Option<Etag>) {
        match self {
            Self::Anything => (None, None),
            Self::Absent => (None, Some("*".into())),
            Self::Version(version) => (Some(format!("\"{}\"", version.0).into()), None),
        }
    }
}

/// Ids of staged blocks, in their order, as the service reads them.
pub(crate) struct BlockList(Bytes);

impl BlockList {
    /// So many ids of this length. It is written once, and in one piece: a large file has many blocks, and many
    /// files may be committed at once.
    pub(crate) fn of(ids: impl Iterator<Item = Vec<u8>>, count: usize, id_bytes: usize) -> Self {
        const BEGIN: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>";
        const END: &str = "</BlockList>";
        // Not only those that wait: they are part of the blob where just the answer was lost.
        const OPEN: &str = "<Latest>";
        const CLOSE: &str = "</Latest>";
        let each = OPEN.len() + id_bytes.div_ceil(3) * 4 + CLOSE.len();
        let mut list = String::with_capacity(BEGIN.len() + count * each + END.len());
        list.push_str(BEGIN);
        for id in ids {
            list.push_str(OPEN);
            STANDARD.encode_string(id, &mut list);
            list.push_str(CLOSE);
        }
        list.push_str(END);
        Self(list.into())
    }
}

/// What a blob is beside its bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Properties {
    pub(crate) content_type: Option<String>,
    pub(crate) metadata: Metadata,
    /// As the service spells it.
    pub(crate) tier: Option<&'static str>,
}

impl Properties {
    fn tier(&self) -> Option<AccessTier> {
        // Every text is one.
        self.tier.and_then(|tier| tier.parse().ok())
    }
}

/// A blob that was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    pub(crate) bytes: u64,
    pub(crate) version: VersionToken,
    pub(crate) modified: std::time::SystemTime,
    pub(crate) metadata: Metadata,
    /// It is a page or an append blob.
    pub(crate) is_of_another_type: bool,
}

/// Where the service reads what it copies, and in which state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadFrom<'a> {
    pub(crate) url: &'a Secret,
    pub(crate) etag: &'a str,
}

/// A block that is staged and not committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Staged {
    pub(crate) id: Vec<u8>,
    pub(crate) bytes: u64,
}

impl Container {
    /// What is known of a blob; `None` if there is none.
    pub(crate) async fn look(&self, name: &str) -> Result<Option<Looked>, ContentFailure> {
        let looked = match self.blob(name).get_properties(None).await {
            Ok(looked) => looked,
            Err(error) if super::is_absent_blob(&error) => return Ok(None),
            Err(error) => return Err(self.content_failure("look up", &error)),
        };
        let read = || {
            let bytes = looked.content_length().ok()??;
            let is_of_another_type = looked.blob_type().ok()?? != BlobType::BlockBlob;
            let metadata = looked.metadata().ok()?.into_iter().collect();
            let version = version(&looked.etag().ok()??);
            let modified = looked.last_modified().ok()??.into();
            Some(Looked { bytes, version, modified, metadata, is_of_another_type })
        };
        read().map(Some).ok_or_else(|| ContentFailure::Again(self.incomplete("look up")))
    }

    /// Puts a blob in one request.
    pub(crate) async fn put_whole(
        &self,
        name: &str,
        content: Bytes,
        crc64: u64,
        properties: &Properties,
        condition: &Condition,
    ) -> Result<VersionToken, ContentFailure> {
        let (if_match, if_none_match) = condition.headers();
        let options = BlockBlobClientUploadInternalOptions {
            if_match,
            if_none_match,
            blob_content_type: properties.content_type.clone(),
            metadata: Some(properties.metadata.clone().into_iter().collect()),
            tier: properties.tier(),
            transactional_content_crc64: Some(crc64.to_le_bytes().to_vec()),
            ..BlockBlobClientUploadInternalOptions::default()
        };
        let bytes = content.len() as u64;
        let body: RequestContent<Bytes, NoFormat> = content.into();
        let client = self.blob(name).block_blob_client();
        let put = client.upload_internal(body, bytes, Some(options)).await;
        let put = put.map_err(|error| self.content_failure("store", &error))?;
        self.version_of(put.etag().ok().flatten())
    }

    /// Stages a block: it is no part of the blob yet.
    pub(crate) async fn stage(
        &self,
        name: &str,
        id: &[u8],
        block: Bytes,
        crc64: u64,
    ) -> Result<(), ContentFailure> {
        let options = BlockBlobClientStageBlockOptions {
            transactional_content_crc64: Some(crc64.to_le_bytes().to_vec()),
            ..BlockBlobClientStageBlockOptions::default()
        };
        let bytes = block.len() as u64;
        let client = self.blob(name).block_blob_client();
        let staged = client.stage_block(id, bytes, block.into(), Some(options)).await;
        staged.map(drop).map_err(|error| self.content_failure("stage a block of", &error))
    }

    /// Has the service stage a block that it reads elsewhere; its CRC-64, if the service says it.
    pub(crate) async fn stage_from(
        &self,
        name: &str,
        id: &[u8],
        source: ReadFrom<'_>,
        part: &Range<u64>,
    ) -> Result<Option<u64>, ContentFailure> {
        let options = BlockBlobClientStageBlockFromUrlOptions {
            source_if_match: Some(source.etag.into()),
            source_range: Some(format!("bytes={}-{}", part.start, part.end.saturating_sub(1))),
            ..BlockBlobClientStageBlockFromUrlOptions::default()
        };
        let client = self.blob(name).block_blob_client();
        let url = source.url.reveal().to_owned();
        let staged = client.stage_block_from_url(id, 0, url, Some(options)).await;
        let staged = staged.map_err(|error| self.content_failure("copy a block of", &error))?;
        let crc64 = staged.content_crc64().ok().flatten().and_then(|crc64| crc64.try_into().ok());
        Ok(crc64.map(u64::from_le_bytes))
    }

    /// An address at which others can read a blob; `None` if they would need a token.
    pub(crate) fn readable(&self, name: &str) -> Option<Secret> {
        self.failures.signature.as_ref()?;
        Some(Secret::new(self.blob(name).url().as_str()))
    }

    /// The blocks of a blob that are staged and not committed.
    pub(crate) async fn staged(&self, name: &str) -> Result<Vec<Staged>, ContentFailure> {
        const LOOK: &str = "list the blocks of";
        let client = self.blob(name).block_blob_client();
        let listed = match client.get_block_list(BlockListType::Uncommitted, None).await {
            Ok(listed) => listed.into_model(),
            Err(error) if super::is_absent_blob(&error) => return Ok(Vec::new()),
            Err(error) => return Err(self.content_failure(LOOK, &error)),
        };
        let listed = listed.map_err(|error| self.content_failure(LOOK, &error))?;
        let blocks = listed.uncommitted_blocks.unwrap_or_default();
        let staged = blocks.into_iter().filter_map(|block| {
            let (id, bytes) = (block.name?, u64::try_from(block.size?).ok()?);
            Some(Staged { id, bytes })
        });
        Ok(staged.collect())
    }

    /// Makes a blob of staged blocks, in this order. All others that are staged are gone then.
    pub(crate) async fn commit(
        &self,
        name: &str,
        blocks: &BlockList,
        properties: &Properties,
        condition: &Condition,
    ) -> Result<VersionToken, ContentFailure> {
        const COMMIT: &str = "commit the blocks of";
        let (if_match, if_none_match) = condition.headers();
        let options = BlockBlobClientCommitBlockListOptions {
            if_match,
            if_none_match,
            blob_content_type: properties.content_type.clone(),
            metadata: Some(properties.metadata.clone().into_iter().collect()),
            tier: properties.tier(),
            ..BlockBlobClientCommitBlockListOptions::default()
        };
        let failed = |error| self.content_failure(COMMIT, &error);
        let list = blocks.0.clone().into();
        let client = self.blob(name).block_blob_client();
        let committed = client.commit_block_list(list, Some(options)).await.map_err(failed)?;
        self.version_of(committed.etag().ok().flatten())
    }

    fn version_of(&self, etag: Option<Etag>) -> Result<VersionToken, ContentFailure> {
        etag.map(|etag| version(&etag))
            .ok_or_else(|| ContentFailure::Again(self.incomplete("store")))
    }

    /// A failure in words, without a secret.
    pub(crate) fn told(&self, operation: &'static str, error: &azure_core_of_blob::Error) -> Error {
        self.failures.error(operation, error)
    }

    fn content_failure(
        &self,
        operation: &'static str,
        error: &azure_core_of_blob::Error,
    ) -> ContentFailure {
        ContentFailure::of(&self.failures, operation, error)
    }
}

/// A blob that is read.
pub(crate) struct Reading {
    pub(crate) bytes: u64,
    pub(crate) version: VersionToken,
    pub(crate) modified: std::time::SystemTime,
    pub(crate) metadata: Metadata,
    pub(crate) content_type: Option<String>,
    /// Of the whole blob, where all of it is read and the service has it.
    pub(crate) md5: Option<[u8; 16]>,
    /// What of it the body holds.
    pub(crate) part: Range<u64>,
    pub(crate) body: AsyncResponseBody,
}

impl Container {
    /// Reads a blob, or a part of it that is not empty and that ends where it ends at `u64::MAX`; `None`
    /// if there is no such blob.
    pub(crate) async fn read_content(
        &self,
        name: &str,
        part: Option<&Range<u64>>,
    ) -> Result<Option<Reading>, ContentFailure> {
        const READ: &str = "read";
        let range = part.map(|part| match part.end {
            u64::MAX => format!("bytes={}-", part.start),
            end => format!("bytes={}-{}", part.start, end.saturating_sub(1)),
        });
        let options = BlobClientDownloadInternalOptions {
            range,
            ..BlobClientDownloadInternalOptions::default()
        };
        let answer = match self.blob(name).download_internal(Some(options)).await {
            Ok(answer) => answer,
            Err(error) if super::is_absent_blob(&error) => return Ok(None),
            Err(error) => return Err(self.content_failure(READ, &error)),
        };
        let read = || {
            let length = answer.content_length().ok()??;
            // `bytes 0-99/1000`, of an answer that is a part.
            let range = answer.content_range().ok()?;
            let (part, bytes) = match range.as_deref().map(|text| text.trim_start_matches("bytes "))
            {
                None => (0..length, length),
                Some(range) => {
                    let (range, total) = range.split_once('/')?;
                    let start: u64 = range.split_once('-')?.0.parse().ok()?;
                    (start..start.checked_add(length)?, total.parse().ok()?)
                }
            };
            let version = version(&answer.etag().ok()??);
            let modified = answer.last_modified().ok()??.into();
            Some((bytes, version, modified, part))
        };
        let Some((bytes, version, modified, part)) = read() else {
            return Err(ContentFailure::Again(self.incomplete(READ)));
        };
        let metadata = answer.metadata().ok().unwrap_or_default().into_iter().collect();
        let content_type = answer.headers().get_optional_string(&CONTENT_TYPE);
        let md5 = answer.content_md5().ok().flatten().and_then(|md5| md5.try_into().ok());
        let body = answer.into_body();
        let reading = Reading { bytes, version, modified, metadata, content_type, md5, part, body };
        Ok(Some(reading))
    }
}
