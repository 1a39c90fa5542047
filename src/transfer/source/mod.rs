//! Where a file comes from: a URL, or a place that gives files by name; asked in one way, for all of it or
//! for a part.

mod body;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_TYPE, HeaderName};
use url::Url;

pub(super) use self::body::Body;
use super::host::host_name;
use super::http::{Fetched, Fetcher, Head, NotFetched};
use super::rates::Rates;
use super::store_failure::store_failed;
use super::url_policy::redacted;
use crate::blob_store::{BlobError, BlobName, BlobSource, ReadBlob};
use crate::outcome::{Failure, Outcome};
use crate::secret::Secret;
use crate::state::fetch_plan::{Answer, Ask, ContentRange, Version};

/// Base64 of the MD5 of a body: RFC 1864, and what Azure Blob Storage and others still say.
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// See the [module](self). Shown as messages name it, without a secret.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Http { fetcher: &'a Fetcher, url: &'a Url },
    Blob { from: &'a dyn BlobSource, name: &'a BlobName },
}

/// A body of the file, and what is said of it.
pub(super) struct Opened<'a> {
    pub(super) body: Body<'a>,
    pub(super) answer: Answer,
    /// Whose rates its bytes count for.
    pub(super) host: Arc<str>,
    pub(super) said: Said,
    /// Where redirects led.
    pub(super) at: Option<Url>,
}

/// What a source says of a file beside its bytes.
#[derive(Clone, Default)]
pub(super) struct Said {
    /// What kind of content it is.
    pub(super) content_type: Option<String>,
    /// The MD5 of the body, where all of the file is in it.
    pub(super) md5: Option<[u8; 16]>,
    /// When its content was changed last.
    pub(super) modified: Option<SystemTime>,
    /// Names and values that a container has of it.
    pub(super) metadata: BTreeMap<String, String>,
}

impl<'a> Source<'a> {
    /// Whose connections it takes; files from no host have them together.
    pub(super) fn host(&self) -> Cow<'_, str> {
        match self {
            Self::Http { url, .. } => host_name(url).unwrap_or_default().into(),
            Self::Blob { .. } => "".into(),
        }
    }

    /// Asks for the file, or for a part of it, when the rates let it.
    ///
    /// # Errors
    /// What becomes of the task instead.
    pub(super) async fn get(&self, ask: Ask<'_>, rates: &Rates) -> Result<Opened<'a>, NotFetched> {
        match *self {
            Self::Http { fetcher, url } => {
                let Fetched { response, answer, host, at } = fetcher.get(url, ask, rates).await?;
                let content_type = header(&response, CONTENT_TYPE);
                // Of an answer 206 it would be that of the part.
                let is_whole = answer.partial.is_none();
                let md5 = header(&response, CONTENT_MD5).filter(|_| is_whole);
                let md5 = md5.and_then(|text| STANDARD.decode(text.trim()).ok()?.try_into().ok());
                let modified = Head::of(response.headers()).modified;
                let said = Said { content_type, md5, modified, metadata: BTreeMap::new() };
                Ok(Opened { body: Body::Http { response, url }, answer, host, said, at: Some(at) })
            }
            Self::Blob { from, name } => self.read(from, name, ask).await,
        }
    }

    /// What is known of the file without its bytes; `None` if nothing of use is.
    ///
    /// # Errors
    /// What becomes of the task where the source may not be asked.
    pub(super) async fn head(&self, rates: &Rates) -> Result<Option<Head>, Outcome> {
        match self {
            Self::Http { fetcher, url } => fetcher.head(url, rates).await,
            Self::Blob { from, name } => {
                let read = from.read(name, None).await.map_err(store_failed)?;
                Ok(read.map(|read| Head { length: Some(read.bytes), modified: read.modified }))
            }
        }
    }

    /// An address at which others can read the file, if it is at such a one: `at`, for a URL.
    pub(super) fn readable(&self, at: Option<&Url>) -> Option<Secret> {
        match self {
            Self::Http { fetcher, .. } => fetcher.readable(at?),
            Self::Blob { from, name } => from.readable(name),
        }
    }

    /// When the content of the file was changed last, if the source says so.
    ///
    /// # Errors
    /// As of [`head`](Self::head).
    pub(super) async fn modified(&self, rates: &Rates) -> Result<Option<SystemTime>, Outcome> {
        match self {
            Self::Http { .. } => Ok(self.head(rates).await?.and_then(|head| head.modified)),
            Self::Blob { from, name } => {
                let read = from.read(name, None).await.map_err(store_failed)?;
                Ok(read.and_then(|read| read.kept_time.or(read.modified)))
            }
        }
    }

    async fn read(
        &self,
        from: &dyn BlobSource,
        name: &BlobName,
        ask: Ask<'_>,
    ) -> Result<Opened<'a>, NotFetched> {
        let part = match ask {
            Ask::Whole => None,
            Ask::Rest { from, .. } => Some(from..u64::MAX),
            Ask::Part { from, to, .. } => Some(from..to),
        };
        let is_part = part.is_some();
        let blob = match from.read(name, part).await {
            Ok(Some(blob)) => blob,
            Ok(None) => {
                let failure = Failure::permanent(format!("{self}: there is no such file"));
                return Err(Outcome::dead_letter(failure).into());
            }
            Err(BlobError::Changed { .. }) => return Err(NotFetched::NoSuchPart),
            Err(error) => return Err(store_failed(error).into()),
        };
        let ReadBlob { bytes, version, part, body, metadata, .. } = blob;
        let said = Said {
            content_type: blob.content_type,
            md5: blob.md5.filter(|_| !is_part),
            modified: blob.kept_time.or(blob.modified),
            metadata,
        };
        if is_part && part.is_empty() {
            return Err(NotFetched::NoSuchPart);
        }
        let shown = self.to_string();
        let answer = Answer {
            partial: is_part.then(|| content_range(&part, bytes)),
            length: Some(part.end - part.start),
            version: Version { etag: Some(format!("\"{version}\"")), ..Version::default() },
            resource: shown.clone(),
            has_ranges: true,
        };
        let body = Body::Blob { pieces: body, shown };
        Ok(Opened { body, answer, host: "".into(), said, at: None })
    }
}

fn content_range(part: &Range<u64>, total: u64) -> Option<ContentRange> {
    let last = part.end.checked_sub(1)?;
    Some(ContentRange { first: part.start, last, total: Some(total) })
}

fn header(response: &reqwest::Response, name: HeaderName) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url, .. } => redacted(url).fmt(f),
            Self::Blob { from, name } => from.shown(name).fmt(f),
        }
    }
}
