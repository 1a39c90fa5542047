//! The blobs of a container, one call a request: the shell around the storage SDK's client, and
//! the ground under the stores that keep their records as metadata of empty blobs.
//!
//! The SDK's retries are off. The callers try again with a back-off of their own, and a write
//! that was tried again by itself would find its own first attempt in its way.

mod address;
mod answer;
pub(crate) mod content;
pub(crate) mod content_failure;
mod failure;
pub(crate) mod names;
pub(crate) mod records;
mod token;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use azure_core::credentials::TokenCredential;
use azure_core_of_blob::Bytes;
use azure_core_of_blob::Result as SdkResult;
use azure_core_of_blob::http::headers::HeaderName;
use azure_core_of_blob::http::{ClientOptions, Etag, RetryOptions, Transport};
use azure_core_of_blob::time::parse_rfc7231;
use azure_storage_blob::models::{
    BlobClientGetPropertiesOptions, BlobClientGetPropertiesResultHeaders,
    BlobClientSetMetadataOptions, BlobContainerClientListBlobsOptions, BlobItem,
    BlockBlobClientUploadOptions, ListBlobsIncludeItem,
};
use azure_storage_blob::{BlobClient, BlobContainerClient, BlobContainerClientOptions};
use futures::TryStreamExt as _;

pub(crate) use self::address::ContainerAddress;
use self::failure::Failures;
pub(crate) use self::failure::WriteFailure;
use self::token::Adapted;
use crate::checkpoint::VersionToken;
use crate::error::{Error, ErrorClass, InvalidConfig};
use crate::secret::Secret;

/// How long one request may take, including its connection: 30 s.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request that carries content may take: 8 MiB at 28 KB/s.
pub(crate) const CONTENT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5 * 60);

const OPEN: &str = "open the container";

const DATE: HeaderName = HeaderName::from_static("date");

/// All keys of a blob's metadata. Writing replaces every key, so all are written each time.
pub(crate) type Metadata = BTreeMap<String, String>;

/// A blob's metadata, and which state of the blob it is.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) metadata: Metadata,
    pub(crate) version: VersionToken,
    /// By the service's clock, to the second.
    pub(crate) modified: SystemTime,
}

/// What a listing found.
pub(crate) struct Blobs {
    /// By name; `None` if it was listed without an ETag or a date.
    pub(crate) blobs: Vec<(String, Option<Found>)>,
    /// The service's time when it answered, if it said so.
    pub(crate) answered: Option<SystemTime>,
}

/// A container. `Debug` shows no secret.
pub(crate) struct Container {
    client: BlobContainerClient,
    failures: Failures,
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("url", &self.failures.container).finish_non_exhaustive()
    }
}

impl Container {
    /// Opens a container by an address with a shared access signature. Sends no request yet.
    pub(crate) fn with_signature(container_url: &Secret, timeout: Duration) -> Result<Self, Error> {
        let address = ContainerAddress::with_signature(container_url.reveal()).map_err(invalid)?;
        Self::open(address, None, timeout)
    }

    /// Opens a container with a credential of Microsoft Entra ID. Sends no request yet.
    pub(crate) fn with_credential(
        container_url: &str,
        credential: Arc<dyn TokenCredential>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let address = ContainerAddress::without_signature(container_url).map_err(invalid)?;
        Self::open(address, Some(credential), timeout)
    }

    fn open(
        address: ContainerAddress,
        credential: Option<Arc<dyn TokenCredential>>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .timeout(timeout)
            .build()
            .map_err(|error| {
                Error::new(ErrorClass::Permanent, OPEN, "TLS cannot be set up").with_source(error)
            })?;
        let options = BlobContainerClientOptions {
            client_options: ClientOptions {
                retry: RetryOptions::none(),
                transport: Some(Transport::new(Arc::new(http))),
                ..ClientOptions::default()
            },
            ..BlobContainerClientOptions::default()
        };
        let ContainerAddress { url, shown, signature } = address;
        let failures = Failures { container: shown, signature };
        let credential = credential.map(|credential| Arc::new(Adapted(credential)) as _);
        let client = BlobContainerClient::from_url(url, credential, Some(options))
            .map_err(|error| failures.error(OPEN, &error))?;
        Ok(Self { client, failures })
    }

    /// The container's address, without a secret.
    pub(crate) fn url(&self) -> &str {
        &self.failures.container
    }

    /// Reads the metadata of a blob; `None` if there is no such blob. An answer without what
    /// the service always says is an error: something else on the way may have given it.
    pub(crate) async fn read(
        &self,
        operation: &'static str,
        name: &str,
    ) -> Result<Option<Found>, Error> {
        match self.try_read(name).await {
            Ok(found) => found.map(Some).ok_or_else(|| self.incomplete(operation)),
            Err(error) if is_absent_blob(&error) => Ok(None),
            Err(error) => Err(self.failures.error(operation, &error)),
        }
    }

    /// `None` if the answer is not whole.
    async fn try_read(&self, name: &str) -> SdkResult<Option<Found>> {
        let options = BlobClientGetPropertiesOptions::default();
        let response = self.blob(name).get_properties(Some(options)).await?;
        let (Some(etag), Some(modified), Some(_)) =
            (response.etag()?, response.last_modified()?, response.blob_type()?)
        else {
            return Ok(None);
        };
        Ok(Some(Found {
            metadata: response.metadata()?.into_iter().collect(),
            version: version(&etag),
            modified: modified.into(),
        }))
    }

    /// Makes an empty blob with this metadata, if there is none of this name.
    pub(crate) async fn create(
        &self,
        operation: &'static str,
        name: &str,
        metadata: Metadata,
    ) -> Result<VersionToken, WriteFailure> {
        let options = BlockBlobClientUploadOptions {
            if_none_match: Some("*".into()),
            metadata: Some(metadata.into_iter().collect()),
            ..BlockBlobClientUploadOptions::default()
        };
        let uploaded = self.blob(name).upload(Bytes::new().into(), Some(options)).await;
        self.written(operation, uploaded.map(|uploaded| uploaded.etag))
    }

    /// Makes an empty blob with this metadata, whatever there was.
    pub(crate) async fn put(
        &self,
        operation: &'static str,
        name: &str,
        metadata: Metadata,
    ) -> Result<(), Error> {
        let options = BlockBlobClientUploadOptions {
            metadata: Some(metadata.into_iter().collect()),
            ..BlockBlobClientUploadOptions::default()
        };
        let uploaded = self.blob(name).upload(Bytes::new().into(), Some(options)).await;
        uploaded.map(drop).map_err(|error| self.failures.error(operation, &error))
    }

    /// Deletes a blob, if there is one.
    pub(crate) async fn delete(&self, operation: &'static str, name: &str) -> Result<(), Error> {
        match self.blob(name).delete(None).await {
            Err(error) if !is_absent_blob(&error) => Err(self.failures.error(operation, &error)),
            _ => Ok(()),
        }
    }

    /// Replaces all metadata of a blob that is still in the state `expected`.
    pub(crate) async fn replace(
        &self,
        operation: &'static str,
        name: &str,
        metadata: Metadata,
        expected: &VersionToken,
    ) -> Result<VersionToken, WriteFailure> {
        let options = BlobClientSetMetadataOptions {
            if_match: Some(format!("\"{}\"", expected.0).into()),
            ..BlobClientSetMetadataOptions::default()
        };
        let metadata = metadata.into_iter().collect();
        let answer = self.blob(name).set_metadata(&metadata, Some(options)).await;
        self.written(operation, answer.map(|answer| etag_of(answer.headers())))
    }

    fn written(
        &self,
        operation: &'static str,
        answer: SdkResult<Option<Etag>>,
    ) -> Result<VersionToken, WriteFailure> {
        match answer {
            Ok(Some(etag)) => Ok(version(&etag)),
            Ok(None) => Err(WriteFailure::Failed(self.incomplete(operation))),
            Err(error) => Err(self.failures.of_write(operation, &error)),
        }
    }

    /// Reads the metadata of all blobs whose names begin with `prefix`, by name.
    pub(crate) async fn list(&self, operation: &'static str, prefix: &str) -> Result<Blobs, Error> {
        let options = BlobContainerClientListBlobsOptions {
            include: Some(vec![ListBlobsIncludeItem::Metadata]),
            prefix: Some(prefix.to_owned()),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let failed = |error| self.failures.error(operation, &error);
        let pager = self.client.list_blobs(Some(options)).map_err(failed)?;
        let mut pages = pager.into_pages();
        let mut blobs = Vec::new();
        let mut answered = None;
        while let Some(page) = pages.try_next().await.map_err(failed)? {
            let date = page.headers().get_optional_str(&DATE);
            answered = date.and_then(|date| parse_rfc7231(date).ok()).or(answered);
            let page = page.into_model().map_err(failed)?;
            self.check_listing(operation, prefix, page.prefix.as_deref())?;
            for item in page.segment.blob_items {
                if let Some(name) = item.name.clone() {
                    blobs.push((name, found(item)));
                }
            }
        }
        Ok(Blobs { blobs, answered: answered.map(SystemTime::from) })
    }

    /// The SDK takes any document for an empty page. The service repeats what was asked.
    fn check_listing(
        &self,
        operation: &'static str,
        asked: &str,
        answered: Option<&str>,
    ) -> Result<(), Error> {
        if answered == Some(asked) {
            return Ok(());
        }
        let message = format!("the answer of {} is not of the service", self.url());
        Err(Error::new(ErrorClass::Unknown, operation, message))
    }

    fn blob(&self, name: &str) -> BlobClient {
        self.client.blob_client(name)
    }

    fn incomplete(&self, operation: &'static str) -> Error {
        let message = format!("{} answered without an ETag, a date or a type", self.url());
        Error::new(ErrorClass::Unknown, operation, message)
    }
}

fn found(item: BlobItem) -> Option<Found> {
    let properties = item.properties?;
    let metadata = item.metadata.and_then(|metadata| metadata.additional_properties);
    Some(Found {
        metadata: metadata.unwrap_or_default().into_iter().collect(),
        version: version(&properties.etag?),
        modified: properties.last_modified?.into(),
    })
}

fn is_absent_blob(error: &azure_core_of_blob::Error) -> bool {
    use azure_core_of_blob::error::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::HttpResponse { status, error_code, .. }
            if u16::from(*status) == 404 && error_code.as_deref() == Some("BlobNotFound")
    )
}

fn etag_of(headers: &azure_core_of_blob::http::headers::Headers) -> Option<Etag> {
    headers.get_optional_string(&azure_core_of_blob::http::headers::ETAG).map(Etag::from)
}

/// A listing has ETags without quotes, a header with.
fn version(etag: &Etag) -> VersionToken {
    VersionToken(etag.as_ref().trim_matches('"').to_owned())
}

fn invalid(invalid: InvalidConfig) -> Error {
    Error::new(ErrorClass::Permanent, OPEN, invalid.to_string())
}
