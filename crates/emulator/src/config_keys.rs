//! Every key of the configuration file, described once: what is checked and what
//! `docs/configuration.md` says come from here.

use std::fmt::Display;

use super::broker::MAX_PARTITIONS;
use super::throughput::MAX_UNITS;
use super::{EmulatorError, MAX_MESSAGE_BYTES};

/// The smallest limit of a message: less than this has no room for what the protocol adds.
pub(super) const MIN_MESSAGE_BYTES: usize = 1024;
const MAX_RETENTION_SECONDS: i64 = 90 * 24 * 3600;
const MIN_RETENTION_BYTES: i64 = 1024;
/// Room for the largest message.
const MIN_MEMORY_BYTES: i64 = MAX_MESSAGE_BYTES as i64;
pub(super) const MAX_GROUP_CHARS: usize = 50;

/// What a value is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Flag,
    Number {
        least: i64,
        most: i64,
    },
    /// Text that is described.
    Text(&'static str),
    /// A list of such texts.
    Texts(&'static str),
}

/// A key of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What applies without it; none where it must be there. As TOML has it, or in words, which are
    /// in brackets.
    default: Option<&'static str>,
    help: &'static str,
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Key {
    Key { name, kind, default, help }
}

pub(super) const LISTEN: Key = key(
    "listen",
    Kind::Text("an IP address"),
    Some("\"127.0.0.1\""),
    "The address that every port listens on; `0.0.0.0` is every address of the machine. The command's \
     `--listen` comes before it.",
);
pub(super) const ADVERTISE: Key = key(
    "advertise",
    Kind::Text("a host name or an IP address"),
    Some("(`localhost`, or the one address that is listened on)"),
    "What clients call the machine: the host in connection strings, and a name in the certificate. \
     The command's `--advertise` comes before it.",
);
pub(super) const ALLOW_ANYONE: Key = key(
    "allow_anyone",
    Kind::Flag,
    Some("false"),
    "Starts with an address that other machines reach though no token is checked against a key of \
     your own.",
);
pub(super) const CHECK_TOKENS: Key = key(
    "check_tokens",
    Kind::Flag,
    Some("(`true` with `[[keys]]`, else `false`)"),
    "Whether a link needs a token that one of the keys signed.",
);
pub(super) const MAX_MESSAGE: Key = key(
    "max_message_bytes",
    Kind::Number { least: MIN_MESSAGE_BYTES as i64, most: MAX_MESSAGE_BYTES as i64 },
    Some("1048576"),
    "The largest event, or batch of events.",
);
pub(super) const THROUGHPUT: Key = key(
    "throughput_units",
    Kind::Number { least: 1, most: MAX_UNITS as i64 },
    Some("(no limit)"),
    "What the whole broker takes in: 1 MiB or 1,000 events a second for each. Beyond that it is busy.",
);
pub(super) const MAX_MEMORY: Key = key(
    "max_memory_bytes",
    Kind::Number { least: MIN_MEMORY_BYTES, most: i64::MAX },
    Some("1073741824"),
    "What all events may take that are kept in memory; beyond that they are refused. Without effect with a \
     data folder.",
);
pub(super) const KEY_NAME: Key = key(
    "name",
    Kind::Text("text without `;`, not empty"),
    None,
    "The name of a shared access key. The first key is in the connection strings.",
);
pub(super) const KEY_VALUE: Key = key(
    "key",
    Kind::Text("text without `;`, not empty"),
    None,
    "The key itself. `SAS_KEY_VALUE` is known to everyone and lets no other machine in.",
);
pub(super) const HUB_NAME: Key = key(
    "name",
    Kind::Text("1 to 256 letters, digits, `.`, `-` and `_`, with a letter or digit at both ends"),
    None,
    "The name of the hub; upper and lower case are the same.",
);
pub(super) const PARTITIONS: Key = key(
    "partitions",
    Kind::Number { least: 1, most: MAX_PARTITIONS as i64 },
    None,
    "How many partitions it has.",
);
pub(super) const GROUPS: Key = key(
    "consumer_groups",
    Kind::Texts("1 to 50 letters, digits, `.`, `-` and `_`, or `$Default`"),
    Some("(any group that a client names)"),
    "The consumer groups that it has, beside `$Default`.",
);
pub(super) const RETENTION_SECONDS: Key = key(
    "retention_seconds",
    Kind::Number { least: 1, most: MAX_RETENTION_SECONDS },
    Some("(for ever)"),
    "How long events are kept; 90 days at most.",
);
pub(super) const RETENTION_BYTES: Key = key(
    "retention_bytes",
    Kind::Number { least: MIN_RETENTION_BYTES, most: i64::MAX },
    Some("(everything)"),
    "How much of each partition is kept.",
);

/// A refusal of a value.
pub(super) fn refused(
    key: impl Into<String>,
    value: impl Display,
    allowed: impl Into<String>,
) -> EmulatorError {
    EmulatorError::Setting { key: key.into(), value: value.to_string(), allowed: allowed.into() }
}

impl Key {
    /// What its value may be.
    pub(super) fn allowed(&self) -> String {
        match self.kind {
            Kind::Flag => "true or false".to_owned(),
            Kind::Number { least, most: i64::MAX } => format!("{least} or more"),
            Kind::Number { least, most } => format!("from {least} to {most}"),
            Kind::Text(allowed) => allowed.to_owned(),
            Kind::Texts(allowed) => format!("each {allowed}"),
        }
    }

    /// The number, if it may be; `at` is the table in front of the name.
    pub(super) fn in_range(&self, at: &str, value: i64) -> Result<i64, EmulatorError> {
        match self.kind {
            Kind::Number { least, most } if !(least..=most).contains(&value) => {
                Err(refused(format!("{at}{}", self.name), value, self.allowed()))
            }
            _ => Ok(value),
        }
    }
}

#[cfg(test)]
#[path = "config_keys_tests.rs"]
mod tests;
