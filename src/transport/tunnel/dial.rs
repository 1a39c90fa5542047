//! The way from the tunnel to the broker, layer by layer, and what a failure of each layer means.
//!
//! | what failed | class |
//! |---|---|
//! | no address, no connection, a connection that breaks, no answer in time | transient |
//! | proxy or broker: 429, 503 | throttling |
//! | proxy or broker: 5xx otherwise | transient |
//! | proxy: 4xx; broker: 401, 403 | auth |
//! | the certificate | auth |
//! | anything else: no TLS, no WebSocket, other answers | unknown |
//!
//! Auth, for a proxy that refuses and a certificate that is not trusted: somebody has to be told,
//! and until it is mended another try, made slowly, does no harm. Permanent would stop a partition
//! for what may be mended in a minute, on the other side.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite;

use super::websocket::WebSocket;
use super::{TunnelOptions, Wire, trust};
use crate::error::ErrorClass;

/// How long what was sent may stay unacknowledged. Without it a peer that is gone is noticed after
/// a quarter of an hour only.
#[cfg(any(target_os = "linux", target_os = "android"))]
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(60);

/// A peer that is gone is noticed by the kernel within a minute in silence, too, and what keeps
/// track of connections on the way does not forget this one.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

fn set_options(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(ACKNOWLEDGED_WITHIN))?;
    socket.set_tcp_keepalive(&KEEPALIVE)
}

/// A byte stream to a broker.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Why the broker could not be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DialFailure {
    /// What to do about it.
    pub(crate) class: ErrorClass,
    pub(crate) reason: String,
}

impl DialFailure {
    pub(super) fn new(class: ErrorClass, reason: impl Into<String>) -> Self {
        Self { class, reason: reason.into() }
    }
}

/// Dials one broker.
pub(super) struct Dialer {
    options: TunnelOptions,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dialer {
    /// Reads what the system trusts, once.
    pub(super) async fn prepare(options: TunnelOptions) -> io::Result<Self> {
        let tls = match options.trust.clone() {
            None => None,
            Some(trust) => {
                let name = ServerName::try_from(options.host.clone())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                let config = tokio::task::spawn_blocking(move || trust::client_config(&trust));
                let config = config.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
                Some((TlsConnector::from(Arc::new(config)), name))
            }
        };
        Ok(Self { options, tls })
    }

    pub(super) async fn dial(&self) -> Result<Box<dyn Stream>, DialFailure> {
        let limit = self.options.dial_timeout;
        timeout(limit, self.all_layers()).await.unwrap_or_else(|_elapsed| {
            let reason = format!("{} is not reached within {limit:?}", self.way());
            Err(DialFailure::new(ErrorClass::Transient, reason))
        })
    }

    async fn all_layers(&self) -> Result<Box<dyn Stream>, DialFailure> {
        let socket = self.connect().await?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(socket),
            Some((connector, name)) => {
                let secured = connector.connect(name.clone(), socket).await;
                Box::new(secured.map_err(|error| self.tls_failed(&error))?)
            }
        };
        match self.options.wire {
            Wire::Amqp => Ok(stream),
            Wire::WebSocket => {
                let socket = WebSocket::connect(stream, &self.authority()).await;
                Ok(Box::new(socket.map_err(|error| self.websocket_failed(error))?))
            }
        }
    }

    /// A TCP connection to the broker, through the proxy where there is one.
    async fn connect(&self) -> Result<TcpStream, DialFailure> {
        let TunnelOptions { host, port, proxy, .. } = &self.options;
        let connected = match proxy {
            None => TcpStream::connect((host.as_str(), *port)).await,
            Some(proxy) => TcpStream::connect(proxy.address()).await,
        };
        let mut socket = connected.map_err(|error| {
            let whom = match proxy {
                None => self.way(),
                Some(proxy) => format!("the proxy {proxy}"),
            };
            DialFailure::new(ErrorClass::Transient, format!("{whom} cannot be reached: {error}"))
        })?;
        if let Err(error) = set_options(&socket) {
            tracing::debug!(%error, "not all options of TCP are available");
        }
        if let Some(proxy) = proxy {
            proxy.ask(&mut socket, &format!("{}:{port}", self.host_in_url())).await?;
        }
        Ok(socket)
    }

    fn host_in_url(&self) -> String {
        let host = &self.options.host;
        if host.contains(':') { format!("[{host}]") } else { host.clone() }
    }

    /// Host and port, as the request for a WebSocket has it.
    fn authority(&self) -> String {
        match self.options.port {
            443 if self.tls.is_some() => self.host_in_url(),
            port => format!("{}:{port}", self.host_in_url()),
        }
    }

    fn way(&self) -> String {
        let to = format!("{}:{}", self.host_in_url(), self.options.port);
        match &self.options.proxy {
            None => to,
            Some(proxy) => format!("{to} through the proxy {proxy}"),
        }
    }

    fn tls_failed(&self, error: &io::Error) -> DialFailure {
        let host = &self.options.host;
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::InvalidCertificate(why)) => DialFailure::new(
                ErrorClass::Auth,
                format!("the certificate of {host} is not trusted: {why}; {}", trust::ADVICE),
            ),
            Some(cause) => {
                DialFailure::new(ErrorClass::Unknown, format!("TLS with {host} failed: {cause}"))
            }
            None => DialFailure::new(
                ErrorClass::Transient,
                format!("{} hung up before TLS was there: {error}", self.way()),
            ),
        }
    }

    fn websocket_failed(&self, error: tungstenite::Error) -> DialFailure {
        let host = &self.options.host;
        match error {
            tungstenite::Error::Http(answer) => {
                let status = answer.status();
                let class = match status.as_u16() {
                    401 | 403 => ErrorClass::Auth,
                    429 | 503 => ErrorClass::Throttling,
                    500.. => ErrorClass::Transient,
                    _ => ErrorClass::Unknown,
                };
                let reason = format!("{host} answered {status} when asked for a WebSocket");
                DialFailure::new(class, reason)
            }
            tungstenite::Error::Io(error) => DialFailure::new(
                ErrorClass::Transient,
                format!("{} hung up before a WebSocket was there: {error}", self.way()),
            ),
            other => DialFailure::new(
                ErrorClass::Unknown,
                format!("{host} does not speak AMQP over WebSocket: {other}"),
            ),
        }
    }
}
