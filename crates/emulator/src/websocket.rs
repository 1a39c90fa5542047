//! AMQP over WebSocket as a byte stream: the binary messages of a client, one after the other.
//!
//! Frames and messages do not have to agree: an AMQP frame may span several messages and share one
//! with others. What the connection has to say at one time goes out as one message, so many small
//! frames cost one header and one TLS record.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::message_sizes::MessageSizes;
use super::socket::Stream;

/// The largest message written.
const WRITE_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 32 * 1024;
/// A stream of bytes in binary messages.
#[derive(Debug)]
pub(super) struct WebSocket<S> {
    inner: WebSocketStream<Measured<S>>,
    /// What is left of the message that arrived last.
    received: Bytes,
}

impl<S: Stream> WebSocket<S> {
    /// Goes on where the upgrade of `stream` ended; `rest` is what was read beyond it. A message may have
    /// `most` bytes.
    pub(super) async fn upgraded(stream: S, rest: Bytes, most: usize) -> Self {
        // How large a message may be is for `Measured` to say, and changes.
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(WRITE_BYTES)
            .max_message_size(None)
            .max_frame_size(None);
        let mut stream =
            Measured { inner: stream, sizes: MessageSizes::default(), most, is_beyond: false };
        stream.measure(&rest);
        let rest = if stream.is_beyond { Vec::new() } else { rest.into() };
        let inner = WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(config));
        Self { inner: inner.await, received: Bytes::new() }
    }

    /// Says why the connection ends, as far as the socket takes it at once.
    fn refuse(&mut self, cx: &mut Context<'_>, code: CloseCode, reason: &str) -> io::Error {
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        if Pin::new(&mut self.inner).start_send(close).is_ok() {
            let _tried = Pin::new(&mut self.inner).poll_flush(cx);
        }
        io::Error::new(io::ErrorKind::InvalidData, reason)
    }
}

impl<S: Stream> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.received.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.received = bytes,
                Some(Ok(Message::Text(_))) => {
                    let reason = "AMQP travels in binary messages";
                    return Poll::Ready(Err(self.refuse(cx, CloseCode::Unsupported, reason)));
                }
                // A ping is answered, and a close completed, by the calls that follow.
                Some(Ok(_)) => {}
                Some(Err(_)) if self.inner.get_ref().is_beyond => {
                    let most = self.inner.get_ref().most;
                    let reason = format!("a message of more than {most} bytes");
                    return Poll::Ready(Err(self.refuse(cx, CloseCode::Size, &reason)));
                }
                Some(Err(tungstenite::Error::Protocol(_))) => {
                    let reason = "not a WebSocket frame of a client";
                    return Poll::Ready(Err(self.refuse(cx, CloseCode::Protocol, reason)));
                }
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.received.len().min(buffer.remaining());
        buffer.put_slice(&self.received[..taken]);
        self.received.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for WebSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(io_error)?;
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES)];
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.inner).start_send(message).map_err(io_error)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(io_error)
    }
}

impl<S: Stream> Stream for WebSocket<S> {
    fn on_read(&self) {
        self.inner.get_ref().inner.on_read();
    }

    fn on_cut(&self) {
        self.inner.get_ref().inner.on_cut();
    }

    fn limit_messages(&mut self, bytes: usize) {
        self.inner.get_mut().most = bytes;
    }
}

/// Lets nothing of a message by that is too large.
#[derive(Debug)]
struct Measured<S> {
    inner: S,
    sizes: MessageSizes,
    most: usize,
    is_beyond: bool,
}

impl<S> Measured<S> {
    fn measure(&mut self, bytes: &[u8]) {
        self.is_beyond |= !self.sizes.admit(bytes, self.most);
    }
}

impl<S: Stream> AsyncRead for Measured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_beyond {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
            self.measure(&buffer.filled()[before..]);
        }
        match self.is_beyond {
            true => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            false => Poll::Ready(Ok(())),
        }
    }
}

impl<S: Stream> AsyncWrite for Measured<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn io_error(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::ErrorKind::BrokenPipe.into()
        }
        other => io::Error::other(other),
    }
}
