//! The keys of the rates and limits of downloads.

use super::{Key, key};
use crate::config::{MIN_BLOCK_BYTES, Unit};
use crate::settings::knob::{DownloadLimit, Kind, RateLimit};

const fn download(
    name: &'static str,
    default: &'static str,
    limit: DownloadLimit,
    help: &'static str,
) -> Key {
    key(name, default, Kind::Download(limit), help)
}

const fn rate_limit(name: &'static str, rate_limit: RateLimit, help: &'static str) -> Key {
    key(name, "", Kind::RateLimit(rate_limit), help)
}

pub(super) const REQUESTS_PER_SECOND: Key = rate_limit(
    "LONGSHORE_REQUESTS_PER_SECOND",
    RateLimit { unit: Unit::Requests, set: |o, rate| o.requests_per_second = rate },
    "Requests that a transfer worker makes, to all hosts together.",
);

pub(super) const REQUESTS_PER_SECOND_PER_HOST: Key = rate_limit(
    "LONGSHORE_REQUESTS_PER_SECOND_PER_HOST",
    RateLimit { unit: Unit::Requests, set: |o, rate| o.requests_per_second_per_host = rate },
    "The same, to each host.",
);

pub(super) const BYTES_PER_SECOND: Key = rate_limit(
    "LONGSHORE_BYTES_PER_SECOND",
    RateLimit { unit: Unit::Bytes, set: |o, rate| o.bytes_per_second = rate },
    "Bytes that a transfer worker reads, from all hosts together.",
);

pub(super) const BYTES_PER_SECOND_PER_HOST: Key = rate_limit(
    "LONGSHORE_BYTES_PER_SECOND_PER_HOST",
    RateLimit { unit: Unit::Bytes, set: |o, rate| o.bytes_per_second_per_host = rate },
    "The same, from each host.",
);

pub(super) const DOWNLOAD_CONNECT_TIMEOUT: Key = download(
    "LONGSHORE_DOWNLOAD_CONNECT_TIMEOUT",
    "10s",
    DownloadLimit::Time(|o, time| o.connect_timeout = time),
    "Longest wait of a download for a name to resolve, and for a connection.",
);

pub(super) const DOWNLOAD_ANSWER_TIMEOUT: Key = download(
    "LONGSHORE_DOWNLOAD_ANSWER_TIMEOUT",
    "5m",
    DownloadLimit::Time(|o, time| o.answer_timeout = time),
    "Longest wait for the first byte of an answer.",
);

pub(super) const DOWNLOAD_READ_TIMEOUT: Key = download(
    "LONGSHORE_DOWNLOAD_READ_TIMEOUT",
    "30s",
    DownloadLimit::Time(|o, time| o.read_timeout = time),
    "Longest wait for the next bytes of a file.",
);

pub(super) const DOWNLOAD_MIN_BYTES_PER_SECOND: Key = download(
    "LONGSHORE_DOWNLOAD_MIN_BYTES_PER_SECOND",
    "1024",
    DownloadLimit::Bytes { least: 0, set: |o, bytes| o.min_bytes_per_second = bytes },
    "The average that a download must reach after a minute.",
);

pub(super) const DOWNLOAD_MAX_BYTES: Key = download(
    "LONGSHORE_DOWNLOAD_MAX_BYTES",
    "1099511627776",
    DownloadLimit::Bytes { least: 1, set: |o, bytes| o.max_bytes = bytes },
    "Most bytes of a file.",
);

pub(super) const DOWNLOAD_CONNECTIONS: Key = download(
    "LONGSHORE_DOWNLOAD_CONNECTIONS",
    "10",
    DownloadLimit::Slots(|o, connections| o.connections = connections),
    "So many connections fetch files at once: one for each file, what is left for blocks of large ones.",
);

pub(super) const DOWNLOAD_BLOCK_BYTES: Key = download(
    "LONGSHORE_DOWNLOAD_BLOCK_BYTES",
    "8388608",
    DownloadLimit::Bytes { least: MIN_BLOCK_BYTES, set: |o, bytes| o.block_bytes = bytes },
    "The length of a block; a file of two and more comes over several connections.",
);
