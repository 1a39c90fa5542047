//! Moving files: a task is an event, a finished task is a result event.
//!
//! [`DownloadWorker`](download::DownloadWorker) is an event handler. It reads a
//! [`DownloadTask`](task::DownloadTask) from the event, checks its URL against the
//! [`UrlPolicy`](url_policy::UrlPolicy), streams the body into a blob store under a temporary name, verifies it,
//! commits it, and publishes a result. The task is settled only after the result is acknowledged.
//! [`Rates`](rates::Rates) limit how fast it asks and reads, and [`HttpOptions`](crate::config::HttpOptions) say
//! how. [`UploadWorker`](upload::UploadWorker) does the same with files of a folder or a container. The results of
//! a download worker are tasks of an upload worker.

mod along;
mod connections;
pub mod download;
mod host;
mod http;
mod moving;
pub mod progress;
pub mod rates;
mod source;
pub mod stages;
mod store_failure;
pub mod task;
pub mod upload;
pub mod url_policy;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub use http::fuzzing;

/// What goes along with a file, which are settings.
pub mod goes_along {
    pub use crate::config::{AccessTier, FileTime, GoesAlong, MetadataOf};
}

/// The limits of a download, which are settings.
pub mod limits {
    pub use crate::config::{
        DEFAULT_ANSWER_TIMEOUT, DEFAULT_BLOCK_BYTES, DEFAULT_CONNECTIONS,
        DEFAULT_DOWNLOAD_CONNECT_TIMEOUT, DEFAULT_MAX_BYTES, DEFAULT_MIN_BYTES_PER_SECOND,
        DEFAULT_READ_TIMEOUT, DEFAULT_TRANSFER_BUDGET, DownloadLimits, MIN_BLOCK_BYTES,
        MIN_TRANSFER_BUDGET, SLOW_START,
    };
}
