//! The bytes of a file as they come, whatever they come from.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::Response;
use tokio::time::timeout;
use url::Url;

use crate::blob_store::BlobError;
use crate::outcome::{Failure, Outcome};
use crate::transfer::http::failure::{failed, silent};
use crate::transfer::store_failure::store_failed;

/// The limit that a silence reaches, as settings name it.
const READ_TIMEOUT: &str = "read-timeout";

/// See the [module](self).
pub(in crate::transfer) enum Body<'a> {
    Http { response: Response, url: &'a Url },
    Blob { pieces: BoxStream<'static, Result<Bytes, BlobError>>, shown: String },
}

impl Body<'_> {
    /// What comes next, behind so many bytes; `None` at the end.
    ///
    /// # Errors
    /// Nothing came for as long as `silence`, or the body broke off.
    pub(in crate::transfer) async fn next(
        &mut self,
        received: u64,
        silence: Duration,
    ) -> Result<Option<Bytes>, Outcome> {
        let nothing = || format!("after {received} bytes no more came");
        match self {
            Self::Http { response, url } => {
                // Not the client's own timeout, which counts what we wait before we read as silence.
                let chunk = timeout(silence, response.chunk()).await;
                let chunk =
                    chunk.map_err(|_elapsed| silent(url, &nothing(), silence, READ_TIMEOUT))?;
                let broke = || format!("the body broke off after {received} bytes");
                chunk.map_err(|error| failed(url, &broke(), error))
            }
            Self::Blob { pieces, shown } => {
                let piece = timeout(silence, pieces.next()).await.map_err(|_elapsed| {
                    let waited = silence.as_secs_f64();
                    let what = format!("{shown}: {} in {waited} s ({READ_TIMEOUT})", nothing());
                    Outcome::retry(Failure::transient(what))
                })?;
                piece.transpose().map_err(store_failed)
            }
        }
    }
}
