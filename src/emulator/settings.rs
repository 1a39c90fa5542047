//! How the broker behaves; fixed at start.

use std::time::Duration;

use super::{
    DEFAULT_DETACH_DELAY, DEFAULT_DISPOSITION_DELAY, DEFAULT_HANDSHAKE_TIMEOUT,
    DEFAULT_IDLE_TIMEOUT, DEFAULT_MAX_CONNECTIONS,
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
        }
    }
}
