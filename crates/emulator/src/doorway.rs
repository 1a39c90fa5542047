//! From an accepted socket to a byte stream of AMQP: TLS and WebSocket, if the port has them.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::broker::Broker;
use super::budget::Budget;
use super::socket::{self, Ending, Stream};
use super::upgrade;
use super::websocket::WebSocket;

/// What is spoken at a port.
#[derive(Debug, Clone)]
pub(super) enum Protocol {
    Amqp,
    AmqpTls(Arc<ServerConfig>),
    WebSocket,
    WebSocketTls(Arc<ServerConfig>),
}

impl<S: Stream> Stream for TlsStream<S> {
    fn on_read(&self) {
        self.get_ref().0.on_read();
    }

    fn on_cut(&self) {
        self.get_ref().0.on_cut();
    }
}

/// Takes a client in and serves it. The time for the handshakes of all layers is one and the same.
pub(super) async fn enter(
    stream: TcpStream,
    protocol: Protocol,
    broker: Arc<Broker>,
    ending: Ending,
) {
    // A network that stands still keeps even the handshakes from beginning.
    if !broker.weather.watch().calm(&ending).await {
        return stream.on_cut();
    }
    let at = Instant::now();
    match protocol {
        Protocol::Amqp => socket::serve(stream, broker, ending, at).await,
        Protocol::AmqpTls(tls) => {
            if let Some(stream) = secure(stream, tls, &broker, &ending, at).await {
                socket::serve(stream, broker, ending, at).await;
            }
        }
        Protocol::WebSocket => {
            if let Some(stream) = upgrade(stream, &broker, &ending, at).await {
                socket::serve(stream, broker, ending, at).await;
            }
        }
        Protocol::WebSocketTls(tls) => {
            if let Some(stream) = secure(stream, tls, &broker, &ending, at).await
                && let Some(stream) = upgrade(stream, &broker, &ending, at).await
            {
                socket::serve(stream, broker, ending, at).await;
            }
        }
    }
}

async fn secure(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    broker: &Broker,
    ending: &Ending,
    at: Instant,
) -> Option<TlsStream<TcpStream>> {
    stream.on_read();
    in_time("TLS", TlsAcceptor::from(tls).accept(stream), broker, ending, at).await
}

async fn upgrade<S: Stream>(
    mut stream: S,
    broker: &Broker,
    ending: &Ending,
    at: Instant,
) -> Option<WebSocket<S>> {
    let accepting = upgrade::accept(&mut stream, &broker.settings.names);
    let rest = in_time("WebSocket", accepting, broker, ending, at).await??;
    let most = Budget::new(broker.settings.tokens).limits().message_bytes;
    Some(WebSocket::upgraded(stream, rest, most).await)
}

/// The end of a handshake; `None` when it failed, took too long or was cut short.
async fn in_time<T>(
    what: &str,
    handshake: impl Future<Output = io::Result<T>>,
    broker: &Broker,
    ending: &Ending,
    at: Instant,
) -> Option<T> {
    let deadline = at + broker.settings.handshake_timeout;
    tokio::select! {
        biased;
        () = ending.cut.cancelled() => None,
        () = ending.stop.cancelled() => None,
        result = tokio::time::timeout_at(deadline.into(), handshake) => match result {
            Ok(Ok(done)) => Some(done),
            Ok(Err(error)) => {
                tracing::debug!(what, %error, "a handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(what, "a handshake took too long");
                None
            }
        },
    }
}
