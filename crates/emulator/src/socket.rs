//! Runs a [`Connection`] over a byte stream: the only place where a connection meets I/O and the
//! clock.
//!
//! One task per connection does everything in one loop, so no state is shared and nothing is
//! buffered between a reader and a writer. Input is read only while the connection wants it, and
//! output is produced only while there is room for it: a slow peer slows itself down.
//!
//! The stream is any [`Stream`]; `doorway` says which there are.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::connection::Connection;
use super::log::StoredEvent;
use super::mailbox::{LinkKey, Mailbox};
use super::refusal::{CONNECTION_FORCED, Refusal};

const READ_BYTES: usize = 64 * 1024;
/// How long the last frames may take, and then how long the peer may take to hang up.
const GOODBYE: Duration = Duration::from_millis(500);
/// File reads of one connection at a time.
const MAX_READS: usize = 4;

/// A byte stream to a client.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Called after every read.
    fn on_read(&self) {}
    /// Makes the drop that follows look like a failure of the network.
    fn on_cut(&self) {}
    /// From now on a message may have so many bytes, if it comes in messages.
    fn limit_messages(&mut self, _bytes: usize) {}
}

impl Stream for TcpStream {
    fn on_read(&self) {
        // The client leaves Nagle's algorithm on and writes small frames one by one. Without this
        // each of its attaches waits some 40 ms for a delayed acknowledgement. The kernel forgets
        // the setting, so it is renewed.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Err(error) = socket2::SockRef::from(self).set_tcp_quickack(true) {
            tracing::trace!(%error, "TCP_QUICKACK is not available");
        }
    }

    fn on_cut(&self) {
        if let Err(error) = socket2::SockRef::from(self).set_linger(Some(Duration::ZERO)) {
            tracing::trace!(%error, "SO_LINGER is not available");
        }
    }
}

/// The ways a connection is ended from outside.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    /// With a close frame.
    pub(super) stop: CancellationToken,
    /// Without a word.
    pub(super) cut: CancellationToken,
    /// Not at all: nothing is read or written from then on.
    pub(super) silence: CancellationToken,
}

/// What moved in one step.
#[derive(Debug, Default)]
struct Moved {
    read: bool,
    wrote: bool,
    peer_is_done: bool,
}

/// Serves one client, which came at `accepted_at`, until it leaves, fails or is cut.
pub(super) async fn serve<S: Stream>(
    mut stream: S,
    broker: Arc<Broker>,
    ending: Ending,
    accepted_at: Instant,
) {
    let mut forecast = broker.weather.watch();
    let mailbox = Arc::new(Mailbox::default());
    let mut connection = Connection::new(broker, Arc::clone(&mailbox), accepted_at);
    let mut input = BytesMut::new();
    let mut unflushed = false;
    let mut reads: JoinSet<(LinkKey, io::Result<Vec<StoredEvent>>)> = JoinSet::new();
    let mut queued_reads = std::collections::VecDeque::new();
    while !connection.is_closed() {
        if !forecast.calm(&ending).await {
            return stream.on_cut();
        }
        connection.on_notices();
        connection.go_on(&mut input, Instant::now());
        connection.on_turn(Instant::now());
        queued_reads.extend(connection.take_read_jobs());
        while reads.len() < MAX_READS {
            let Some((link, job)) = queued_reads.pop_front() else {
                break;
            };
            reads.spawn_blocking(move || (link, job.run()));
        }
        stream.limit_messages(connection.limits().message_bytes);
        let deadline = connection.next_deadline();
        let wants_input = connection.wants_input();
        tokio::select! {
            biased;
            () = ending.cut.cancelled() => {
                stream.on_cut();
                return;
            }
            () = ending.stop.cancelled() => connection.fail(&Refusal::new(
                CONNECTION_FORCED,
                "The broker is shutting down",
            )),
            () = ending.silence.cancelled() => {}
            () = forecast.changed() => {}
            moved = exchange(
                &mut stream,
                wants_input.then_some(&mut input),
                connection.output(),
                &mut unflushed,
            ) => match moved {
                Ok(moved) => {
                    if moved.wrote {
                        connection.on_wrote(Instant::now());
                    }
                    if moved.read {
                        stream.on_read();
                        if !forecast.travel(&ending).await {
                            return stream.on_cut();
                        }
                        let now = Instant::now();
                        connection.on_input(&mut input, now);
                    }
                    if moved.peer_is_done {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection failed");
                    return;
                }
            },
            () = mailbox.posted() => {}
            Some(read) = reads.join_next(), if !reads.is_empty() => match read {
                Ok((link, result)) => connection.on_read(link, result),
                Err(error) => tracing::error!(%error, "a read of the log was lost"),
            },
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
    }
    say_goodbye(stream, connection.output(), &ending.cut).await;
}

/// Writes what there is to write and reads what there is to read, and returns after the first
/// progress of either. Dropping it early loses nothing.
async fn exchange<S: Stream>(
    stream: &mut S,
    mut input: Option<&mut BytesMut>,
    output: &mut BytesMut,
    unflushed: &mut bool,
) -> io::Result<Moved> {
    if let Some(input) = &mut input
        && input.capacity() - input.len() < READ_BYTES / 4
    {
        input.reserve(READ_BYTES);
    }
    poll_fn(|cx| {
        let mut moved = Moved::default();
        if !output.is_empty()
            && let Poll::Ready(wrote) = Pin::new(&mut *stream).poll_write(cx, output)
        {
            match wrote? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                wrote => output.advance(wrote),
            }
            *unflushed = true;
            moved.wrote = true;
        }
        if *unflushed
            && output.is_empty()
            && let Poll::Ready(flushed) = Pin::new(&mut *stream).poll_flush(cx)
        {
            flushed?;
            *unflushed = false;
        }
        if let Some(input) = &mut input
            && let Poll::Ready(read) = pin!(stream.read_buf(*input)).poll(cx)
        {
            match read? {
                0 => moved.peer_is_done = true,
                _ => moved.read = true,
            }
        }
        match moved.read || moved.wrote || moved.peer_is_done {
            true => Poll::Ready(Ok(moved)),
            false => Poll::Pending,
        }
    })
    .await
}

/// Writes the last frames, and waits a little for the peer to hang up: a socket closed with unread
/// input is reset, and the reset would overtake the close frame.
async fn say_goodbye<S: Stream>(mut stream: S, output: &mut BytesMut, cut: &CancellationToken) {
    let goodbye = async {
        stream.write_all(output).await?;
        stream.shutdown().await?;
        let mut rest = BytesMut::with_capacity(READ_BYTES);
        while stream.read_buf(&mut rest).await? > 0 {
            rest.clear();
        }
        io::Result::Ok(())
    };
    tokio::select! {
        () = cut.cancelled() => {}
        result = tokio::time::timeout(GOODBYE, goodbye) => {
            tracing::trace!(?result, "connection closed");
        }
    }
}
