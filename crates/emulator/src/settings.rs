//! How the broker behaves; fixed at start.

use std::time::Duration;

use super::tokens::AccessKey;
use super::{
    DEFAULT_DETACH_DELAY, DEFAULT_DISPOSITION_DELAY, DEFAULT_HANDSHAKE_TIMEOUT,
    DEFAULT_IDLE_TIMEOUT, DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_MEMORY_BYTES, KEY, KEY_NAME,
    MAX_MESSAGE_BYTES,
};

/// The settings all connections share.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) disposition_delay: Duration,
    pub(super) detach_delay: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) max_connections: usize,
    /// Partitions of a hub that a client names first; without it such a hub does not exist.
    pub(super) create_on_first_use: Option<u32>,
    /// The largest delivery: one event, or a batch of them.
    pub(super) max_message_bytes: usize,
    /// What the whole broker takes in; without a limit as fast as it can.
    pub(super) throughput_units: Option<u32>,
    /// What events may take that are kept in memory.
    pub(super) max_memory_bytes: usize,
    pub(super) tokens: TokenCheck,
    /// What this machine is called beside its addresses.
    pub(super) names: Vec<String>,
    /// Never empty; the first is in the connection strings.
    pub(super) keys: Vec<AccessKey>,
}

/// What is done with tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenCheck {
    /// Any token, and none, opens everything.
    Ignored,
    /// A link needs a valid token for what it names, for as long as it is attached.
    Required,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            disposition_delay: DEFAULT_DISPOSITION_DELAY,
            detach_delay: DEFAULT_DETACH_DELAY,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            create_on_first_use: None,
            max_message_bytes: MAX_MESSAGE_BYTES,
            throughput_units: None,
            max_memory_bytes: DEFAULT_MAX_MEMORY_BYTES,
            tokens: TokenCheck::Ignored,
            names: Vec::new(),
            keys: vec![AccessKey { name: KEY_NAME.to_owned(), key: KEY.to_owned() }],
        }
    }
}
