//! What one download may cost, in time and in bytes. An error names the limit that was reached.

use std::time::Duration;

/// Default of [`DownloadLimits::connect_timeout`]: 10 s.
pub const DEFAULT_DOWNLOAD_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of [`DownloadLimits::answer_timeout`]: 5 min. A server may pack a folder before its first byte.
pub const DEFAULT_ANSWER_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Default of [`DownloadLimits::read_timeout`]: 30 s.
pub const DEFAULT_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Default of [`DownloadLimits::max_bytes`]: 1 TiB.
pub const DEFAULT_MAX_BYTES: u64 = 1 << 40;
/// Default of [`DownloadLimits::min_bytes_per_second`]: 1,024.
pub const DEFAULT_MIN_BYTES_PER_SECOND: u64 = 1_024;
/// Default of [`DownloadLimits::connections`]: 10.
pub const DEFAULT_CONNECTIONS: usize = 10;
/// Default of [`DownloadLimits::block_bytes`]: 8 MiB.
pub const DEFAULT_BLOCK_BYTES: u64 = 8 << 20;
/// Default of [`DownloadLimits::transfer_budget`]: 64 MiB.
pub const DEFAULT_TRANSFER_BUDGET: u64 = 64 << 20;
/// The least transfer budget: 1 MiB.
pub const MIN_TRANSFER_BUDGET: u64 = 1 << 20;
/// The shortest block: 64 KiB. Each block is a request.
pub const MIN_BLOCK_BYTES: u64 = 64 << 10;

/// How long a download may be slower than [`DownloadLimits::min_bytes_per_second`] on average: 60 s.
pub const SLOW_START: Duration = Duration::from_secs(60);

/// What one download may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DownloadLimits {
    /// How long to wait for a name to resolve, and for a connection.
    /// Default: 10 s ([`DEFAULT_DOWNLOAD_CONNECT_TIMEOUT`]).
    pub connect_timeout: Duration,
    /// How long to wait for an answer, up to the first byte of its body. Default: 5 min ([`DEFAULT_ANSWER_TIMEOUT`]).
    pub answer_timeout: Duration,
    /// How long to wait for the next bytes of a body. The time that a stream waits for our own rates does not
    /// count. Default: 30 s ([`DEFAULT_READ_TIMEOUT`]).
    pub read_timeout: Duration,
    /// The most bytes of a file. Default: 1 TiB ([`DEFAULT_MAX_BYTES`]).
    pub max_bytes: u64,
    /// The average, in bytes a second, that a download must reach after 60 s ([`SLOW_START`]). The time that it
    /// waits for our own rates does not count. Default: 1,024 ([`DEFAULT_MIN_BYTES_PER_SECOND`]).
    pub min_bytes_per_second: u64,
    /// How many connections fetch files at once. Each file has one, even if there are more files. The other
    /// connections fetch blocks of large files. With 1, every file comes over one connection.
    /// Default: 10 ([`DEFAULT_CONNECTIONS`]).
    pub connections: usize,
    /// The length of a block. A file of two blocks or more comes in blocks, over several connections, if its
    /// server gives parts of it. Default: 8 MiB ([`DEFAULT_BLOCK_BYTES`]).
    pub block_bytes: u64,
    /// Memory for the blocks of all files on their way into a container. A folder needs none. The code that
    /// opens the container gives it this budget. Default: 64 MiB ([`DEFAULT_TRANSFER_BUDGET`]).
    /// At least 1 MiB ([`MIN_TRANSFER_BUDGET`]).
    pub transfer_budget: u64,
}

impl Default for DownloadLimits {
    fn default() -> Self {
        Self {
            connect_timeout: DEFAULT_DOWNLOAD_CONNECT_TIMEOUT,
            answer_timeout: DEFAULT_ANSWER_TIMEOUT,
            read_timeout: DEFAULT_READ_TIMEOUT,
            max_bytes: DEFAULT_MAX_BYTES,
            min_bytes_per_second: DEFAULT_MIN_BYTES_PER_SECOND,
            connections: DEFAULT_CONNECTIONS,
            block_bytes: DEFAULT_BLOCK_BYTES,
            transfer_budget: DEFAULT_TRANSFER_BUDGET,
        }
    }
}
