//! Moving files: a task is an event, a finished task is a result event.
//!
//! [`DownloadWorker`](download::DownloadWorker) is an event handler: it reads a
//! [`DownloadTask`](task::DownloadTask) from the event, checks its URL against the
//! [`UrlPolicy`](url_policy::UrlPolicy), streams the body into a blob store under a temporary
//! name, verifies it, commits it, and publishes a result behind it. The task is settled only after
//! the result is acknowledged. [`Rates`](rates::Rates) limit how fast it asks and reads,
//! [`HttpOptions`](http::HttpOptions) say how.

pub mod download;
mod host;
pub mod http;
pub mod limits;
pub mod progress;
pub mod rates;
pub mod task;
pub mod url_policy;
