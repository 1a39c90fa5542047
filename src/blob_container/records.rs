//! Blobs that are records: content that is put and read whole, and metadata that a listing gives without
//! it, a page at a time.

use azure_core_of_blob::Bytes;
use azure_core_of_blob::http::{NoFormat, RequestContent};
use azure_storage_blob::models::{
    BlobClientDeleteOptions, BlobClientDownloadInternalOptions,
    BlobClientDownloadInternalResultHeaders, BlobContainerClientListBlobsOptions,
    BlockBlobClientUploadInternalOptions, BlockBlobClientUploadInternalResultHeaders,
    ListBlobsIncludeItem,
};
use futures::TryStreamExt as _;

use super::content::{Condition, Properties};
use super::{Container, Found, WriteFailure, found, is_absent_blob, version};
use crate::checkpoint::VersionToken;
use crate::error::Error;

/// A part of a listing.
pub(crate) struct Page {
    /// By name; `None` if it was listed without an ETag or a date.
    pub(crate) blobs: Vec<(String, Option<Found>)>,
    /// Where the next part begins; `None` if this is the last one.
    pub(crate) next: Option<String>,
}

impl Container {
    /// Lists blobs whose names begin with `prefix`, in one request: at most so many, from a marker on.
    pub(crate) async fn list_page(
        &self,
        operation: &'static str,
        prefix: &str,
        marker: Option<&str>,
        limit: usize,
    ) -> Result<Page, Error> {
        let options = BlobContainerClientListBlobsOptions {
            include: Some(vec![ListBlobsIncludeItem::Metadata]),
            prefix: Some(prefix.to_owned()),
            marker: marker.map(str::to_owned),
            maxresults: i32::try_from(limit).ok(),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let failed = |error| self.failures.error(operation, &error);
        let mut pages = self.client.list_blobs(Some(options)).map_err(failed)?.into_pages();
        let Some(page) = pages.try_next().await.map_err(failed)? else {
            return Ok(Page { blobs: Vec::new(), next: None });
        };
        let page = page.into_model().map_err(failed)?;
        self.check_listing(operation, prefix, page.prefix.as_deref())?;
        let next = page.next_marker.filter(|marker| !marker.is_empty());
        let items = page.segment.blob_items.into_iter();
        let blobs = items.filter_map(|item| Some((item.name.clone()?, found(item)))).collect();
        Ok(Page { blobs, next })
    }

    /// Puts a blob in one request, where what there is meets the condition.
    pub(crate) async fn put_record(
        &self,
        operation: &'static str,
        name: &str,
        content: Bytes,
        crc64: u64,
        properties: Properties,
        condition: &Condition,
    ) -> Result<VersionToken, WriteFailure> {
        let (if_match, if_none_match) = condition.headers();
        let options = BlockBlobClientUploadInternalOptions {
            if_match,
            if_none_match,
            blob_content_type: properties.content_type,
            metadata: Some(properties.metadata.into_iter().collect()),
            transactional_content_crc64: Some(crc64.to_le_bytes().to_vec()),
            ..BlockBlobClientUploadInternalOptions::default()
        };
        let bytes = content.len() as u64;
        let body: RequestContent<Bytes, NoFormat> = content.into();
        let client = self.blob(name).block_blob_client();
        let put = client.upload_internal(body, bytes, Some(options)).await;
        self.written(operation, put.map(|put| put.etag().ok().flatten()))
    }

    /// Reads a blob whole; `None` if there is no such blob.
    pub(crate) async fn read_record(
        &self,
        operation: &'static str,
        name: &str,
    ) -> Result<Option<(Bytes, VersionToken)>, Error> {
        let failed = |error| self.failures.error(operation, &error);
        let options = BlobClientDownloadInternalOptions::default();
        let answer = match self.blob(name).download_internal(Some(options)).await {
            Ok(answer) => answer,
            Err(error) if is_absent_blob(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let etag = answer.etag().ok().flatten().ok_or_else(|| self.incomplete(operation))?;
        let content = answer.into_body().collect().await.map_err(failed)?;
        Ok(Some((content, version(&etag))))
    }

    /// Deletes a blob that is still in the state `expected`, if there is one.
    pub(crate) async fn delete_version(
        &self,
        operation: &'static str,
        name: &str,
        expected: &VersionToken,
    ) -> Result<(), WriteFailure> {
        let options = BlobClientDeleteOptions {
            if_match: Some(format!("\"{}\"", expected.0).into()),
            ..BlobClientDeleteOptions::default()
        };
        match self.blob(name).delete(Some(options)).await {
            Err(error) if !is_absent_blob(&error) => Err(self.failures.of_write(operation, &error)),
            _ => Ok(()),
        }
    }
}
