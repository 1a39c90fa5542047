//! WebSockets of clients.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf as _;
use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::socket::Stream;
use crate::upgrade;
use crate::websocket::WebSocket;

/// What a client that showed no token may send at once.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// A request that opens a WebSocket.
const REQUEST: &str = "GET /$servicebus/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
     Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
     Sec-WebSocket-Protocol: amqp\r\n\r\n";

/// A client is refused, or gives no more bytes than it sent; it never has the broker wait for what does
/// not come. The first byte says whether a good request comes before the rest, and how the bytes arrive.
pub fn websockets(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let request = if kind & 1 == 0 { "" } else { REQUEST };
    let sent = [request.as_bytes(), rest].concat();
    let at_once = if kind & 2 == 0 { usize::MAX } else { 1 + usize::from(*kind) };
    let mut client = Client { left: &sent, at_once };
    let served = async {
        let Ok(Some(rest)) = upgrade::accept(&mut client, &[]).await else { return 0 };
        let (mut socket, mut given) =
            (WebSocket::upgraded(client, rest, MAX_MESSAGE_BYTES).await, 0);
        let mut piece = [0; 1024];
        while let Ok(bytes @ 1..) = socket.read(&mut piece).await {
            given += bytes;
        }
        given
    };
    let given = served.now_or_never();
    assert!(given.is_some_and(|given| given <= sent.len()), "{given:?} of {}", sent.len());
}

/// What a client sent, and it is gone. What it is told is let go.
struct Client<'a> {
    left: &'a [u8],
    at_once: usize,
}

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let taken = self.left.len().min(buffer.remaining()).min(self.at_once);
        buffer.put_slice(&self.left[..taken]);
        self.left.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Client<'_> {}
