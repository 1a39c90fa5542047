//! A large file over several connections at once, block by block.
//!
//! ```text
//!                ┌─ the first body, of the request for all of it ─┐
//!  block plan ───┼─ a request for a block ────────────────────────┼──> block writer ──> hash, in order
//!                └─ a request for a block ────────────────────────┘
//! ```
//!
//! One connection is the file's own; it has others as long as the worker has some to spare. They all
//! run within the call of the handler, and end with it. A request for a block that is refused while
//! another stream runs is no failure of the file: it goes on with the streams that it has.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, OptionFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::arriving::InBlocks;
use super::checks::check_rate;
use super::job::Job;
use super::net::{First, Net, Stopped, put_back};
use crate::outcome::{Failure, Outcome};
use crate::state::block_plan::StreamId;
use crate::state::fetch_plan::{AfterBreak, Ask};
use crate::transfer::connections::Connection;
use crate::transfer::http::NotFetched;
use crate::transfer::progress::LargeUnderWay;
use crate::transfer::source::{Body, Opened};
use crate::transfer::store_failure::store_failed;

/// Most that is hashed in one go: whoever is to stop waits for it.
const MOST_HASHED_BYTES: u64 = 64 * 1024 * 1024;

/// Why a file that comes in blocks is not there.
pub(super) enum NotThere {
    Stopped(Stopped),
    /// The server has no parts of it after all, or they are parts of something else: it is to be
    /// fetched anew, in its order.
    NoParts,
}

/// How one of the streams ended, or what ran beside them.
enum Ended {
    /// With all that it had taken, or because it is to stop.
    Done(StreamId),
    /// The connection broke.
    Broke(StreamId, Outcome),
    /// The request for a block had no answer that is of use.
    Refused(StreamId, Outcome),
    NoParts,
    Failed(Outcome),
    Hashed(Result<(), Outcome>),
}

/// A file that is fetched.
pub(super) struct SideBySide<'a> {
    pub(super) net: Net<'a>,
    pub(super) job: &'a Job<'a>,
    pub(super) host: &'a str,
    pub(super) blocks: &'a InBlocks,
    pub(super) large: Option<LargeUnderWay<'a>>,
}

/// What runs, and what may be added.
struct Running<'a> {
    streams: FuturesUnordered<BoxFuture<'a, Ended>>,
    /// Streams among them.
    count: usize,
    /// The one that has the file's own connection.
    own: Option<StreamId>,
    /// Most of them: fewer once the server refused one.
    most: usize,
    /// After a break in vain, nothing is asked for before.
    not_before: Option<Instant>,
    /// So much of the file is hashed.
    hashed: u64,
    is_hashing: bool,
}

impl Running<'_> {
    fn on_ended(&mut self, stream: StreamId) {
        self.count -= 1;
        self.own = self.own.filter(|own| *own != stream);
    }
}

impl<'a> SideBySide<'a> {
    /// Fetches what is missing. `first` is the body of an answer to a request for all of the file.
    pub(super) async fn run(&'a self, first: Option<First<'a>>) -> Result<(), NotThere> {
        let mut running = Running {
            streams: FuturesUnordered::new(),
            count: 0,
            own: None,
            most: usize::MAX,
            not_before: None,
            hashed: 0,
            is_hashing: false,
        };
        // Where the beginning is there, the body of all of it is of no use.
        if let Some(First { body, host }) = first.filter(|_| self.blocks.plan().frontier() == 0)
            && let Some((stream, _)) = self.take()
        {
            (running.count, running.own) = (1, Some(stream));
            running.streams.push(self.first_body(stream, body, host).boxed());
        }
        while !self.is_there(&running) {
            // Before it looks, so that none that is given back is missed.
            let given_back = self.net.connections.given_back();
            if !self.net.stop.is_cancelled() {
                self.begin_more(&mut running);
            } else if running.streams.is_empty() {
                // All of it is written, and the store keeps it for the next owner.
                return Err(NotThere::Stopped(Stopped::Broke(put_back())));
            }
            let waits = running.not_before.filter(|_| running.count < running.most);
            tokio::select! {
                biased;
                Some(ended) = running.streams.next() => self.on_ended(ended, &mut running)?,
                Some(()) = OptionFuture::from(waits.map(sleep_until)) => running.not_before = None,
                () = self.net.stop.cancelled(), if running.streams.is_empty() => {}
                () = given_back => {}
            }
        }
        Ok(())
    }

    fn is_there(&self, running: &Running<'_>) -> bool {
        let is_hashed = running.hashed == self.blocks.version.total && !running.is_hashing;
        is_hashed && self.blocks.plan().is_complete()
    }

    fn take(&self) -> Option<(StreamId, Range<u64>)> {
        self.blocks.plan().take()
    }

    /// Asks for blocks over as many connections as there are, and hashes what is there.
    fn begin_more(&'a self, running: &mut Running<'a>) {
        while running.not_before.is_none() && running.count < running.most {
            // A connection that is taken and given back would wake us again, and again: it comes last.
            let is_own = running.own.is_none();
            if !self.blocks.plan().can_take()
                || !is_own && !self.net.connections.has_left(self.host)
            {
                break;
            }
            let Some((stream, range)) = self.take() else { break };
            // Memory is taken in the order of the blocks, so that the first one never waits for those
            // that wait for it.
            let has_memory = self.blocks.writer.try_reserve(range.start);
            // Its own connection is counted with the file.
            let connection = match is_own {
                true => None,
                false => has_memory.then(|| self.net.connections.of_block(self.host)).flatten(),
            };
            if !is_own && connection.is_none() {
                self.blocks.plan().on_end(stream);
                break;
            }
            running.count += 1;
            running.own = running.own.or(Some(stream));
            running.streams.push(self.block(stream, range, connection).boxed());
            if !has_memory {
                break;
            }
        }
        let frontier = self.blocks.plan().frontier().min(running.hashed + MOST_HASHED_BYTES);
        if !running.is_hashing && frontier > running.hashed {
            (running.is_hashing, running.hashed) = (true, frontier);
            let hash = async move {
                let hashed = self.blocks.writer.on_written_to(frontier).await;
                Ended::Hashed(hashed.map_err(store_failed))
            };
            running.streams.push(hash.boxed());
        }
    }

    fn on_ended(&self, ended: Ended, running: &mut Running<'a>) -> Result<(), NotThere> {
        let ends = |outcome| NotThere::Stopped(Stopped::Ends(outcome));
        let breaks = |outcome| NotThere::Stopped(Stopped::Broke(outcome));
        match ended {
            Ended::Hashed(hashed) => {
                running.is_hashing = false;
                return hashed.map_err(ends);
            }
            Ended::NoParts => return Err(NotThere::NoParts),
            Ended::Failed(outcome) => return Err(ends(outcome)),
            Ended::Done(stream) => {
                running.on_ended(stream);
                self.blocks.plan().on_end(stream);
            }
            Ended::Broke(stream, outcome) => {
                running.on_ended(stream);
                match self.blocks.plan().on_break(stream) {
                    AfterBreak::GoOn(Duration::ZERO) => {}
                    AfterBreak::GoOn(pause) => running.not_before = Some(Instant::now() + pause),
                    AfterBreak::Failed => return Err(breaks(outcome)),
                }
                debug!(task = %self.job.id, "a connection broke; its block is asked for again");
            }
            Ended::Refused(stream, outcome) => {
                running.on_ended(stream);
                self.blocks.plan().on_end(stream);
                if running.count == 0 {
                    return Err(match outcome {
                        Outcome::Retry(_) => breaks(outcome),
                        // It gave all of the file, and gives no part of it.
                        Outcome::DeadLetter(_) => NotThere::NoParts,
                        _ => ends(outcome),
                    });
                }
                running.most = running.count;
                debug!(task = %self.job.id, streams = running.count, "no more connections are given");
            }
        }
        Ok(())
    }

    /// The body of all of the file, as far as nobody else has what it brings.
    async fn first_body(&self, stream: StreamId, body: Body<'_>, host: Arc<str>) -> Ended {
        self.reserve(stream).await;
        let goes_on = || self.blocks.plan().take_next(stream).is_some();
        self.body(stream, body, host, goes_on).await
    }

    /// Waits for the memory of the block that a stream has taken.
    async fn reserve(&self, stream: StreamId) {
        let at = self.blocks.plan().left(stream).start;
        self.blocks.writer.reserve(at).await;
    }

    /// A request for a block, and its body.
    async fn block(
        &self,
        stream: StreamId,
        range: Range<u64>,
        _connection: Option<Connection<'_>>,
    ) -> Ended {
        self.reserve(stream).await;
        let version = &self.blocks.version;
        let ask = Ask::Part { from: range.start, to: range.end, validator: &version.validator };
        let asked = tokio::select! {
            biased;
            () = self.net.stop.cancelled() => return Ended::Done(stream),
            asked = self.job.source.get(ask, self.net.rates) => asked,
        };
        match asked {
            Ok(Opened { body, answer, host, .. }) => match version.part(&answer, &range) {
                Some(_) => self.body(stream, body, host, || false).await,
                None => Ended::NoParts,
            },
            Err(NotFetched::NoSuchPart) => Ended::NoParts,
            Err(NotFetched::Ends(outcome)) => Ended::Refused(stream, outcome),
        }
    }

    /// Writes what a body brings of what its stream has taken. `goes_on` takes more for it.
    async fn body(
        &self,
        stream: StreamId,
        mut body: Body<'_>,
        host: Arc<str>,
        goes_on: impl Fn() -> bool,
    ) -> Ended {
        let Self { net, job, .. } = self;

        let (begun, mut came) = (Instant::now(), 0);
        let mut meter = net.rates.meter(host);
        let mut collected = Collected::default();
        let write_bytes = self.blocks.writer.write_bytes();
        loop {
            let chunk = tokio::select! {
                biased;
                () = net.stop.cancelled() => return self.stop(stream, collected).await,
                chunk = body.next(self.received(), net.limits.read_timeout) => chunk,
            };
            let mut chunk = match chunk {
                Ok(Some(chunk)) => chunk,
                ended => {
                    // What came is not to be fetched again.
                    if let Err(outcome) = self.write(stream, &mut collected).await {
                        return Ended::Failed(outcome);
                    }
                    meter.on_end().await;
                    return match ended {
                        Err(outcome) => Ended::Broke(stream, outcome),
                        Ok(_) if self.blocks.plan().left(stream).is_empty() => Ended::Done(stream),
                        Ok(_) => {
                            let what = format!("{}: less came than was asked for", job.source);
                            Ended::Broke(stream, Outcome::retry(Failure::transient(what)))
                        }
                    };
                }
            };
            meter.on_arrived(chunk.len());
            net.progress.on_received(chunk.len() as u64);
            came += chunk.len() as u64;
            let spent = begun.elapsed().saturating_sub(meter.waited());
            let rate = check_rate(job, came, spent, net.limits);
            while !chunk.is_empty() {
                let left = self.blocks.plan().left(stream);
                let room = (left.end - left.start).saturating_sub(collected.bytes);
                let fits = usize::try_from(room).unwrap_or(usize::MAX).min(chunk.len());
                let mut piece = chunk.split_to(fits);
                while !piece.is_empty() {
                    tokio::select! {
                        biased;
                        part = meter.next_part(&mut piece) => collected.add(part),
                        () = net.stop.cancelled() => return self.stop(stream, collected).await,
                    }
                }
                if (collected.bytes >= write_bytes || fits as u64 == room)
                    && let Err(outcome) = self.write(stream, &mut collected).await
                {
                    return Ended::Failed(outcome);
                }
                if self.blocks.plan().left(stream).is_empty() {
                    if !goes_on() {
                        return Ended::Done(stream);
                    }
                    self.reserve(stream).await;
                }
            }
            if let Err(outcome) = rate {
                return match self.write(stream, &mut collected).await {
                    Ok(()) => Ended::Broke(stream, outcome),
                    Err(outcome) => Ended::Failed(outcome),
                };
            }
        }
    }

    /// Ends a body in the midst of its block: what came is not to be fetched again.
    async fn stop(&self, stream: StreamId, mut collected: Collected) -> Ended {
        match self.write(stream, &mut collected).await {
            Ok(()) => Ended::Done(stream),
            Err(outcome) => Ended::Failed(outcome),
        }
    }

    async fn write(&self, stream: StreamId, collected: &mut Collected) -> Result<(), Outcome> {
        let Collected { parts, bytes } = std::mem::take(collected);
        if bytes == 0 {
            return Ok(());
        }
        let at = self.blocks.plan().left(stream).start;
        self.blocks.write_at(at, parts).await.map_err(store_failed)?;
        self.blocks.plan().on_bytes(stream, bytes);
        if let Some(large) = &self.large {
            large.on_bytes(self.received());
        }
        Ok(())
    }

    fn received(&self) -> u64 {
        self.blocks.plan().received()
    }
}

/// Parts that follow one another, to be written together.
#[derive(Default)]
struct Collected {
    parts: Vec<Bytes>,
    bytes: u64,
}

impl Collected {
    fn add(&mut self, part: Bytes) {
        self.bytes += part.len() as u64;
        self.parts.push(part);
    }
}
