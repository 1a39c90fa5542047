//! A tunnel from this machine to a broker, for clients that cannot be told what is on the way.
//!
//! ```text
//! client -- plain TCP, loopback --> tunnel -- [proxy, CONNECT] -- [TLS] -- [WebSocket] --> broker
//! ```

mod proxy;
mod trust;

use std::time::Duration;

pub(crate) use proxy::Proxy;
pub(crate) use trust::{Trust, read_authorities};

/// After this time without a byte either way a connection is ended. AMQP's heartbeats come more
/// often.
pub(crate) const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How long dialling may take, from the first packet to the last handshake. Shorter than what a
/// client waits for its connection, so that the reason is there when the client gives up.
pub(crate) const DEFAULT_DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// What carries AMQP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wire {
    /// Nothing: its frames are sent as they are.
    Amqp,
    /// Binary messages of a WebSocket.
    WebSocket,
}

/// Where a tunnel leads.
#[derive(Clone, Debug)]
pub(crate) struct TunnelOptions {
    /// A host name or an IP address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) wire: Wire,
    /// Which certificates are taken; `None` for a connection without TLS.
    pub(crate) trust: Option<Trust>,
    pub(crate) proxy: Option<Proxy>,
    /// See [`DEFAULT_IDLE_TIMEOUT`].
    pub(crate) idle_timeout: Duration,
    /// See [`DEFAULT_DIAL_TIMEOUT`].
    pub(crate) dial_timeout: Duration,
}

impl TunnelOptions {
    /// To `host`, with TLS and what the system trusts.
    pub(crate) fn new(host: impl Into<String>, port: u16, wire: Wire) -> Self {
        Self {
            host: host.into(),
            port,
            wire,
            trust: Some(Trust::System),
            proxy: None,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            dial_timeout: DEFAULT_DIAL_TIMEOUT,
        }
    }
}
