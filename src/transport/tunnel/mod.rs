//! A tunnel from this machine to a broker, for a client that cannot be told what is on the way: an
//! authority of one's own, a proxy, no verification, a WebSocket without TLS.
//!
//! ```text
//! client -- TCP, loopback --> tunnel -- [proxy, CONNECT] -- [TLS] -- [WebSocket] --> broker
//! ```
//!
//! Each connection of a client gets one of its own to the broker, and both end together. Bytes are
//! copied as they are; nothing of AMQP is known here. A slow side slows the other: there is one
//! small buffer for each direction.
//!
//! Whoever is on this machine can connect to a tunnel, and reaches the broker as if there were
//! none, through the proxy with its password, but without a token: the clients bring theirs.

mod dial;
mod proxy;
mod relay;
mod trust;
mod websocket;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use dial::DialFailure;
use dial::Dialer;
pub(crate) use proxy::Proxy;
use relay::End;
pub(crate) use trust::{ADVICE as CERTIFICATE_ADVICE, Trust, read_authorities};

/// After this time without a byte either way a connection is ended. AMQP's heartbeats come more
/// often.
pub(crate) const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How long dialling may take, from the first packet to the last handshake. Shorter than what a
/// client waits for its connection, so that the reason is there when the client gives up.
pub(crate) const DEFAULT_DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// How long to wait after a connection could not be accepted: there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

/// An open tunnel. Dropped, it closes, with all connections in it.
#[derive(Debug)]
pub(crate) struct Tunnel {
    address: SocketAddr,
    last_failure: Arc<Mutex<Option<(Instant, DialFailure)>>>,
    accepting: JoinHandle<()>,
    _close: DropGuard,
}

impl Tunnel {
    /// Opens a tunnel, on a port of its own. The broker is dialled when a client comes.
    ///
    /// # Errors
    /// If there is no port, or TLS cannot be set up: the system trusts nobody, or the host is
    /// no name that a certificate could have.
    pub(crate) async fn start(options: TunnelOptions) -> io::Result<Self> {
        if matches!(options.trust, Some(Trust::Anything)) {
            tracing::warn!(
                host = options.host,
                "certificates are NOT verified: anyone on the way can read and change \
                 everything, tokens included. Never do this in production"
            );
        }
        let idle_timeout = options.idle_timeout;
        let dialer = Dialer::prepare(options).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let close = CancellationToken::new();
        let last_failure = Arc::default();
        let server = Arc::new(Server {
            dialer,
            idle_timeout,
            last_failure: Arc::clone(&last_failure),
            close: close.clone(),
        });
        let accepting = tokio::spawn(server.accept(listener));
        Ok(Self { address, last_failure, accepting, _close: close.drop_guard() })
    }

    /// Where clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it takes connections; not after the runtime it was started on has ended.
    pub(crate) fn is_open(&self) -> bool {
        !self.accepting.is_finished()
    }

    /// Why the broker could not be reached, if that happened after `since`.
    pub(crate) fn failure_since(&self, since: Instant) -> Option<DialFailure> {
        let last = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| *at >= since).map(|(_, failure)| failure.clone())
    }
}

/// What all connections share.
struct Server {
    dialer: Dialer,
    idle_timeout: Duration,
    last_failure: Arc<Mutex<Option<(Instant, DialFailure)>>>,
    close: CancellationToken,
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.close.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((client, peer)) if peer.ip().is_loopback() => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move {
                        tokio::select! {
                            () = server.close.cancelled() => {}
                            () = server.serve(client) => {}
                        }
                    });
                }
                Ok((_, peer)) => tracing::warn!(%peer, "a connection from elsewhere is refused"),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the tunnel is not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, mut client: TcpStream) {
        if let Err(error) = client.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is not available");
        }
        let mut broker = match self.dialer.dial().await {
            Ok(broker) => broker,
            Err(failure) => {
                tracing::debug!(class = %failure.class, reason = failure.reason, "not connected");
                // Before the client sees its connection close, and asks why.
                let mut last = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
                *last = Some((Instant::now(), failure));
                return;
            }
        };
        match relay::run(&mut client, &mut broker, self.idle_timeout).await {
            Ok(End::Idle) => tracing::warn!(
                limit = ?self.idle_timeout,
                "a connection was silent for too long and is ended"
            ),
            Ok(end) => tracing::debug!(?end, "a connection has ended"),
            Err(error) => tracing::debug!(%error, "a connection failed"),
        }
    }
}
