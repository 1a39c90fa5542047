//! The keys of downloads: rates, limits, how they ask, and what they may ask for.

use super::{Key, key};
use crate::config::{MIN_BLOCK_BYTES, MIN_TRANSFER_BUDGET, Unit};
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

pub(in crate::settings) const REQUESTS_PER_SECOND: Key = rate_limit(
    "LONGSHORE_REQUESTS_PER_SECOND",
    RateLimit { unit: Unit::Requests, set: |o, rate| o.requests_per_second = rate },
    "The most requests a second that a transfer worker makes, to all hosts together.",
);

pub(in crate::settings) const REQUESTS_PER_SECOND_PER_HOST: Key = rate_limit(
    "LONGSHORE_REQUESTS_PER_SECOND_PER_HOST",
    RateLimit { unit: Unit::Requests, set: |o, rate| o.requests_per_second_per_host = rate },
    "The most requests a second that a transfer worker makes, to each host.",
);

pub(in crate::settings) const BYTES_PER_SECOND: Key = rate_limit(
    "LONGSHORE_BYTES_PER_SECOND",
    RateLimit { unit: Unit::Bytes, set: |o, rate| o.bytes_per_second = rate },
    "The most bytes a second that a transfer worker reads, from all hosts together.",
);

pub(in crate::settings) const BYTES_PER_SECOND_PER_HOST: Key = rate_limit(
    "LONGSHORE_BYTES_PER_SECOND_PER_HOST",
    RateLimit { unit: Unit::Bytes, set: |o, rate| o.bytes_per_second_per_host = rate },
    "The most bytes a second that a transfer worker reads, from each host.",
);

pub(in crate::settings) const DOWNLOAD_CONNECT_TIMEOUT: Key = download(
    "LONGSHORE_DOWNLOAD_CONNECT_TIMEOUT",
    "10s",
    DownloadLimit::Time(|o, time| o.connect_timeout = time),
    "How long a download waits for a name to resolve, and for a connection.",
);

pub(in crate::settings) const DOWNLOAD_ANSWER_TIMEOUT: Key = download(
    "LONGSHORE_DOWNLOAD_ANSWER_TIMEOUT",
    "5m",
    DownloadLimit::Time(|o, time| o.answer_timeout = time),
    "How long a download waits for the first byte of an answer.",
);

pub(in crate::settings) const DOWNLOAD_READ_TIMEOUT: Key = download(
    "LONGSHORE_DOWNLOAD_READ_TIMEOUT",
    "30s",
    DownloadLimit::Time(|o, time| o.read_timeout = time),
    "How long a download waits for the next bytes of a file.",
);

pub(in crate::settings) const DOWNLOAD_MIN_BYTES_PER_SECOND: Key = download(
    "LONGSHORE_DOWNLOAD_MIN_BYTES_PER_SECOND",
    "1024",
    DownloadLimit::Bytes { least: 0, set: |o, bytes| o.min_bytes_per_second = bytes },
    "The average, in bytes a second, that a download must reach after a minute.",
);

pub(in crate::settings) const DOWNLOAD_MAX_BYTES: Key = download(
    "LONGSHORE_DOWNLOAD_MAX_BYTES",
    "1099511627776",
    DownloadLimit::Bytes { least: 1, set: |o, bytes| o.max_bytes = bytes },
    "The most bytes of a file.",
);

pub(in crate::settings) const DOWNLOAD_CONNECTIONS: Key = download(
    "LONGSHORE_DOWNLOAD_CONNECTIONS",
    "10",
    DownloadLimit::Slots(|o, connections| o.connections = connections),
    "How many connections fetch files at once. Each file has one; the others fetch blocks of large files.",
);

pub(in crate::settings) const DOWNLOAD_BLOCK_BYTES: Key = download(
    "LONGSHORE_DOWNLOAD_BLOCK_BYTES",
    "8388608",
    DownloadLimit::Bytes { least: MIN_BLOCK_BYTES, set: |o, bytes| o.block_bytes = bytes },
    "The length of a block. A file of two blocks or more comes over several connections.",
);

pub(in crate::settings) const TRANSFER_BUDGET: Key = download(
    "LONGSHORE_TRANSFER_BUDGET",
    "67108864",
    DownloadLimit::Bytes { least: MIN_TRANSFER_BUDGET, set: |o, bytes| o.transfer_budget = bytes },
    "Memory for the blocks of all files on their way into a container.",
);

pub(in crate::settings) const DOWNLOAD_REDIRECTS: Key = key(
    "LONGSHORE_DOWNLOAD_REDIRECTS",
    "follow",
    Kind::Choice(&["follow", "refuse"]),
    "Whether a download follows redirects. Each URL on the way is judged by the same policy.",
);
pub(in crate::settings) const DOWNLOAD_PROXY: Key = Key {
    name: "LONGSHORE_DOWNLOAD_PROXY",
    aliases: &[],
    default: "",
    is_secret: true,
    help: "An HTTP proxy for all downloads. The proxy resolves the names of hosts.",
    kind: Kind::Text("http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT"),
};
pub(in crate::settings) const DOWNLOAD_CREDENTIALS: Key = key(
    "LONGSHORE_DOWNLOAD_CREDENTIALS",
    "",
    Kind::Text(
        "a TOML file with a table for each origin, which holds bearer, or user and password",
    ),
    "The credentials of downloads. Each origin is shown its own credential and no other.",
);

pub(in crate::settings) const DOWNLOAD_PRIVATE_ADDRESSES: Key = key(
    "LONGSHORE_DOWNLOAD_PRIVATE_ADDRESSES",
    "refuse",
    Kind::Choice(&["refuse", "allow"]),
    "Whether URLs may lead to loopback and private addresses, also over plain http.",
);

pub(in crate::settings) const DOWNLOAD_SCHEMES: Key = key(
    "LONGSHORE_DOWNLOAD_SCHEMES",
    "https",
    Kind::Choice(&["https", "http-and-https"]),
    "Whether URLs may use plain http everywhere. Anyone on the way can read and change such files.",
);

pub(in crate::settings) const DOWNLOAD_EXISTING: Key = key(
    "LONGSHORE_DOWNLOAD_EXISTING",
    "replace",
    Kind::Choice(&["replace", "verify", "skip"]),
    "What happens to a task whose file is already there: the file is fetched again (replace), kept if it \
     is known to be right (verify), or left alone (skip).",
);
