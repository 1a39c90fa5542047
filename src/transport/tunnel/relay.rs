//! Copies between a client and a broker, both ways, until one of them ends.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// The buffer of one direction.
const BUFFER_BYTES: usize = 32 * 1024;

/// How long the goodbye of one side may take to reach the other.
const GOODBYE: Duration = Duration::from_secs(1);

/// Who ended a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Client,
    Broker,
    /// Nobody said anything for too long.
    Idle,
}

/// Copies until one side ends or both are silent for `idle_timeout`, and lets the other side know.
///
/// # Errors
/// If a side fails.
pub(super) async fn run(
    client: &mut TcpStream,
    broker: &mut (impl AsyncRead + AsyncWrite + Unpin),
    idle_timeout: Duration,
) -> io::Result<End> {
    let end = copy(client, broker, idle_timeout).await;
    let goodbye = async {
        match end {
            Ok(End::Client) => broker.shutdown().await,
            // Brokers hang up without the goodbyes of TLS and WebSocket, too.
            Ok(End::Broker) | Err(_) => {
                client.shutdown().await?;
                // A socket that is closed with input unread is reset, and the reset would overtake
                // the broker's last words.
                let mut rest = [0; 1024];
                while client.read(&mut rest).await? > 0 {}
                Ok(())
            }
            Ok(End::Idle) => Ok(()),
        }
    };
    if let Ok(Err(error)) = timeout(GOODBYE, goodbye).await {
        tracing::trace!(%error, "the other side had gone, too");
    }
    end
}

async fn copy(
    client: &mut TcpStream,
    broker: &mut (impl AsyncRead + AsyncWrite + Unpin),
    idle_timeout: Duration,
) -> io::Result<End> {
    let mut to_broker = Direction::new();
    let mut to_client = Direction::new();
    let mut last_moved = Instant::now();
    let mut idle = pin!(sleep_until(last_moved + idle_timeout));
    poll_fn(|cx| {
        let sent = to_broker.poll(cx, client, broker)?;
        if to_broker.take_moved() {
            acknowledge_at_once(client);
            last_moved = Instant::now();
        }
        if sent.is_ready() {
            return Poll::Ready(Ok(End::Client));
        }
        let received = to_client.poll(cx, broker, client)?;
        if to_client.take_moved() {
            last_moved = Instant::now();
        }
        if received.is_ready() {
            return Poll::Ready(Ok(End::Broker));
        }
        // Looked at when it fires, not set anew for every byte.
        while idle.as_mut().poll(cx).is_ready() {
            let limit = last_moved + idle_timeout;
            if limit <= Instant::now() {
                return Poll::Ready(Ok(End::Idle));
            }
            idle.as_mut().reset(limit);
        }
        Poll::Pending
    })
    .await
}

/// The client may leave Nagle's algorithm on and write small frames one by one: without this each
/// of its steps waits some 40 ms for a delayed acknowledgement. The kernel forgets the setting.
fn acknowledge_at_once(client: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket2::SockRef::from(client).set_tcp_quickack(true) {
        tracing::trace!(%error, "TCP_QUICKACK is not available");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = client;
}

/// What is on its way in one direction.
struct Direction {
    buffer: Box<[u8]>,
    filled: usize,
    written: usize,
    unflushed: bool,
    moved: bool,
}

impl Direction {
    fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES].into(),
            filled: 0,
            written: 0,
            unflushed: false,
            moved: false,
        }
    }

    /// Whether bytes have moved since the last call.
    fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Moves what can be moved; ready when `from` has ended and all of it has been passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while self.written < self.filled {
                let rest = &self.buffer[self.written..self.filled];
                match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.written += written,
                }
                self.unflushed = true;
                self.moved = true;
            }
            let mut buffer = ReadBuf::new(&mut self.buffer);
            let read = Pin::new(&mut *from).poll_read(cx, &mut buffer)?;
            if read.is_ready() && !buffer.filled().is_empty() {
                self.filled = buffer.filled().len();
                self.written = 0;
                self.moved = true;
                continue;
            }
            if self.unflushed {
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                self.unflushed = false;
            }
            return read.map(Ok);
        }
    }
}
