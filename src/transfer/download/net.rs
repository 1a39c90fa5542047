//! What every body is read with, and how that ends early.

use bytes::Bytes;
use reqwest::Response;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::DownloadLimits;
use crate::outcome::Outcome;
use crate::transfer::connections::Connections;
use crate::transfer::http::Fetcher;
use crate::transfer::http::failure::{failed, silent};
use crate::transfer::progress::Progress;
use crate::transfer::rates::Rates;
use crate::transfer::task::DownloadTask;

/// The worker's way to the servers.
#[derive(Clone, Copy)]
pub(super) struct Net<'a> {
    pub(super) fetcher: &'a Fetcher,
    pub(super) rates: &'a Rates,
    pub(super) progress: &'a Progress,
    pub(super) limits: &'a DownloadLimits,
    pub(super) connections: &'a Connections,
    /// Fires when whoever can go on later is to stop.
    pub(super) stop: &'a CancellationToken,
}

/// Why a body was not read to its end.
pub(super) enum Stopped {
    /// Its connection broke, or it fell silent; what becomes of the task where that cannot be gone on
    /// from.
    Broke(Outcome),
    /// What becomes of the task.
    Ends(Outcome),
}

/// The partition is about to leave, and its next owner goes on with the task.
pub(super) fn put_back() -> Outcome {
    Outcome::put_back("its partition is about to leave this worker")
}

impl From<Outcome> for Stopped {
    fn from(outcome: Outcome) -> Self {
        Self::Ends(outcome)
    }
}

impl Net<'_> {
    /// What comes next of a body; `None` at its end.
    ///
    /// # Errors
    /// It fell silent, or its connection broke.
    pub(super) async fn next_chunk(
        &self,
        response: &mut Response,
        task: &DownloadTask,
        received: u64,
    ) -> Result<Option<Bytes>, Outcome> {
        // Not the client's own timeout, which counts what we wait before we read as silence.
        let silence = self.limits.read_timeout;
        let chunk = timeout(silence, response.chunk()).await.map_err(|_elapsed| {
            let what = format!("after {received} bytes no more came");
            silent(&task.url, &what, silence, "read-timeout")
        })?;
        chunk.map_err(|error| {
            let what = format!("the body broke off after {received} bytes");
            failed(&task.url, &what, error)
        })
    }
}
