//! A partition's events, each exactly once, across lost links: the shell around
//! [`crate::state::resume`].
//!
//! States: waiting (a back-off) -> opening (say goodbye to the old link, compare the hub with
//! our position, open a new link after the last event received) -> open -> waiting …, until
//! an error that no new link can mend, which ends the stream. All progress is kept in the
//! struct, so dropping a call to [`PartitionStream::next_events`] loses nothing.
//!
//! A link may hang. So it is watched: see the file `silence`.
//!
//! A link begins with little credit, and anew with what its events' size allows: see
//! [`crate::state::prefetch`] and the file `refit`.
//!
//! Events that cannot be decoded come out in their place, as events without content
//! ([`Event::unreadable`]), as soon as their numbers are known as well as they can be: see
//! [`crate::state::unreadable`] and the file `runs`.

mod opening;
mod refit;
mod runs;
mod silence;
mod unread;
mod watch;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{error, warn};

use opening::{Opened, Opening};
use unread::Unread;
pub use watch::{PROBE_AFTER, PROBE_AGAIN};
use watch::{Silence, Watched};

use super::{Link, LogProperties, Transport};
use crate::config::DEFAULT_REOPEN_BACKOFF;
use crate::error::{Error, ErrorClass, Result};
use crate::event::{Event, Partition};
use crate::state::backoff::Backoff;
use crate::state::prefetch::Prefetch;
use crate::state::resume::{Continuity, ResumePosition};

/// The shortest wait where the service asked for less.
pub const THROTTLING_WAIT: Duration = Duration::from_secs(4);

/// The shortest wait where the credentials were refused.
pub const AUTH_WAIT: Duration = Duration::from_secs(30);

/// How a [`PartitionStream`] opens its links.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamOptions {
    /// See [`OpenLink::owner_level`](super::OpenLink::owner_level).
    pub owner_level: Option<i64>,
    /// Most events that a link may bring ahead; see [`OpenLink`](super::OpenLink).
    pub prefetch_events: u32,
    /// Bytes that a link may hold ahead, as far as the sizes of events tell; see
    /// [`crate::state::prefetch`].
    pub link_bytes: usize,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// Seeds the jitter.
    pub seed: u64,
}

impl StreamOptions {
    /// No owner level, [`DEFAULT_REOPEN_BACKOFF`], this prefetch and seed, and links that may hold
    /// whatever their prefetch brings.
    pub fn new(prefetch_events: u32, seed: u64) -> Self {
        Self {
            owner_level: None,
            prefetch_events,
            link_bytes: usize::MAX,
            backoff: DEFAULT_REOPEN_BACKOFF,
            seed,
        }
    }

    /// Sets the bytes that a link may hold ahead.
    pub fn with_link_bytes(mut self, link_bytes: usize) -> Self {
        self.link_bytes = link_bytes;
        self
    }

    /// Sets the owner level.
    pub fn with_owner_level(mut self, owner_level: Option<i64>) -> Self {
        self.owner_level = owner_level;
        self
    }

    /// Sets the delays between attempts.
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

/// Why a [`PartitionStream`] ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum StreamEnd {
    /// An error that opening another link does not mend: the partition is lost, the hub is
    /// gone, the events cannot be understood.
    Failed(Error),
    /// The log is not the one we were reading: the reset policy decides.
    Discontinuity(Continuity),
}

/// The events of one partition, in order, each once.
pub struct PartitionStream {
    transport: Arc<dyn Transport>,
    partition: Partition,
    options: StreamOptions,
    position: ResumePosition,
    random: SmallRng,
    state: State,
    failures: u32,
    /// Whether the service refused our position since the last event.
    position_refused: bool,
    prefetch: Prefetch,
    /// What the open link has to bring first, for it began anew.
    expected: Option<Event>,
    /// What cannot be read, since the last event that could.
    unread: Unread,
    /// Received, in order, and not given out yet.
    ready: VecDeque<Event>,
    lost_events: u64,
    links_opened: u64,
}

enum State {
    Waiting(Pin<Box<Sleep>>),
    Opening(BoxFuture<'static, Result<Opened>>),
    Open(Watched),
    Ended,
}

impl PartitionStream {
    /// Reads `partition` from `position` on. Opens its first link at the first call.
    pub fn new(
        transport: Arc<dyn Transport>,
        partition: Partition,
        position: ResumePosition,
        options: StreamOptions,
    ) -> Self {
        let random = SmallRng::seed_from_u64(options.seed);
        let prefetch = Prefetch::new(options.prefetch_events, options.link_bytes);
        let mut stream = Self {
            transport,
            partition,
            options,
            position,
            random,
            state: State::Ended,
            failures: 0,
            position_refused: false,
            prefetch,
            expected: None,
            unread: Unread::default(),
            ready: VecDeque::new(),
            lost_events: 0,
            links_opened: 0,
        };
        stream.state = stream.opening(None);
        stream
    }

    /// Appends the next events, at most `max_events`, waiting where there are none. A row of events
    /// that cannot be read, of which only the range is known, comes whole, however long it is.
    ///
    /// # Errors
    /// If no new link can go on; see [`StreamEnd`]. Everything else is waited out.
    ///
    /// # Cancel safety
    /// Nothing is lost: a dropped call goes on with the next one.
    pub async fn next_events(
        &mut self,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Result<usize, StreamEnd> {
        std::future::poll_fn(|cx| self.poll_events(cx, max_events, into)).await
    }

    /// The poll form of [`PartitionStream::next_events`].
    pub fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Poll<Result<usize, StreamEnd>> {
        loop {
            if !self.ready.is_empty() {
                let count = self.whole_rows(max_events);
                into.extend(self.ready.drain(..count));
                return Poll::Ready(Ok(count));
            }
            match &mut self.state {
                State::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    self.state = self.opening(None);
                }
                State::Opening(opening) => match ready!(opening.poll_unpin(cx)) {
                    Ok(opened) => self.on_opened(opened)?,
                    Err(error) => self.on_error(error, None)?,
                },
                State::Open(_) => {
                    let count = ready!(self.poll_open(cx, max_events, into))?;
                    if count > 0 {
                        return Poll::Ready(Ok(count));
                    }
                }
                State::Ended => return Poll::Pending,
            }
        }
    }

    fn on_opened(&mut self, opened: Opened) -> Result<(), StreamEnd> {
        if let (Some(lost_at_most), Some(log)) = (opened.lost_at_most, &opened.log) {
            if self.unread.looks_at.take().is_some() {
                // What was lost is reckoned from the position, not from the place that was looked at.
                let goodbye = opened.outcome.ok().map(|link| (link, Duration::ZERO));
                self.state = self.opening(goodbye);
                return Ok(());
            }
            self.on_trimmed(lost_at_most, log);
        }
        match opened.outcome {
            Ok(link) => {
                self.links_opened += u64::from(opened.expected.is_none());
                self.prefetch.on_link_opened(opened.prefetch_events);
                self.unread.on_link_opened(opened.prefetch_events, opened.log.as_ref());
                self.expected = opened.expected;
                let mut watched = Watched::new(link);
                if self.expected.is_some() {
                    watched.look_after(PROBE_AGAIN);
                }
                self.state = State::Open(watched);
                Ok(())
            }
            Err(continuity) => {
                self.state = State::Ended;
                Err(StreamEnd::Discontinuity(continuity))
            }
        }
    }

    /// Receives from the open link. Ready with no events: the state changed, or `ready` has some.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Poll<Result<usize, StreamEnd>> {
        let State::Open(watched) = &mut self.state else {
            return Poll::Ready(Ok(0));
        };
        let first = into.len();
        let error = match watched.link.poll_receive(cx, max_events, into) {
            Poll::Ready(Ok(_)) => None,
            Poll::Ready(Err(error)) => Some(error),
            Poll::Pending => match ready!(self.poll_silence(cx)) {
                Silence::Lost(error) => Some(error),
                Silence::RunEnded => return Poll::Ready(Ok(0)),
                Silence::OpenAgain => {
                    self.open_again();
                    return Poll::Ready(Ok(0));
                }
                Silence::LookAtLast(last) => {
                    self.look_at_last(last);
                    return Poll::Ready(Ok(0));
                }
            },
        };
        if self.on_looked(error.as_ref())? {
            into.truncate(first);
            return Poll::Ready(Ok(0));
        }
        if !self.is_expected(into.get(first..).unwrap_or_default(), error.as_ref()) {
            into.truncate(first);
            self.open_again();
            return Poll::Ready(Ok(0));
        }
        let after = self.unread.after(self.position.next_start());
        let mut count = self.drop_repeats(first, into);
        let (mut credit, mut last) = (None, None);
        if count > 0 {
            self.failures = 0;
            self.position_refused = false;
            credit = self.fitting_credit(into.get(first..).unwrap_or_default());
            last = into.last().filter(|_| credit.is_some()).cloned();
            self.end_run(after, first, into);
            count = into.len() - first;
        }
        match error {
            None => {
                if let State::Open(watched) = &mut self.state {
                    watched.on_heard();
                }
                if let (Some(credit), Some(last)) = (credit, last) {
                    self.refit(credit, last);
                }
            }
            Some(error) if error.class() == ErrorClass::Unreadable => self.on_unreadable(&error)?,
            Some(error) => {
                let state = std::mem::replace(&mut self.state, State::Ended);
                if let State::Open(watched) = state {
                    self.on_error(error, Some(watched.link))?;
                }
            }
        }
        Poll::Ready(Ok(count))
    }

    /// Sequence numbers that retention removed before they were received, at most.
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    /// Links opened so far. One that begins anew with other credit is the same.
    pub fn links_opened(&self) -> u64 {
        self.links_opened
    }

    /// Sets the bytes that a link may hold ahead, from the next link on.
    pub fn set_link_bytes(&mut self, link_bytes: usize) {
        self.prefetch.set_share(link_bytes);
    }

    /// Bytes that the link may hold ahead, by the size of what it brought.
    pub fn link_holds_bytes(&self) -> usize {
        self.prefetch.held_bytes()
    }

    /// How many events of the size of what came before are so many bytes; at least one.
    pub(crate) fn events_of(&self, bytes: usize) -> usize {
        self.prefetch.events_of(bytes)
    }

    /// Detaches, within a time the adapter bounds.
    pub async fn close(self) {
        if let State::Open(watched) = self.state {
            watched.link.close().await;
        }
    }

    /// Keeps of `into[first..]` what was not received before; returns how many.
    fn drop_repeats(&mut self, first: usize, into: &mut Vec<Event>) -> usize {
        let received = into.get(first..).unwrap_or_default();
        // Nearly always nothing is a repeat, and nothing moves.
        let new = received
            .iter()
            .take_while(|event| self.position.on_received(event.sequence_number()))
            .count();
        let mut keep = first + new;
        for index in keep + 1..into.len() {
            if let Some(event) = into.get(index)
                && self.position.on_received(event.sequence_number())
            {
                into.swap(keep, index);
                keep += 1;
            }
        }
        into.truncate(keep);
        keep - first
    }

    fn on_trimmed(&mut self, lost_at_most: u64, log: &LogProperties) {
        self.lost_events += lost_at_most;
        self.position.on_trimmed(log);
        error!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            lost_at_most,
            log_begin = log.begin.0,
            "events were removed by retention before they were received"
        );
    }

    /// Waits and opens anew, or ends where that is of no use.
    fn on_error(&mut self, error: Error, link: Option<Box<dyn Link>>) -> Result<(), StreamEnd> {
        self.failures += 1;
        self.unread.looks_at = None;
        let class = error.class();
        if class == ErrorClass::BadPosition {
            // The log may have been trimmed between our look and the link: one more look.
            if std::mem::replace(&mut self.position_refused, true) {
                self.state = State::Ended;
                let start = self.position.next_start();
                return Err(StreamEnd::Discontinuity(Continuity::Refused { start }));
            }
        } else if !class.is_retryable() {
            self.state = State::Ended;
            return Err(StreamEnd::Failed(error));
        }
        let backoff = self.options.backoff.delay(self.failures, self.random.random());
        let jitter = |wait: Duration, random: f64| wait + wait.mul_f64(random / 4.0);
        let delay = match class {
            ErrorClass::Throttling => backoff.max(jitter(THROTTLING_WAIT, self.random.random())),
            ErrorClass::Auth => backoff.max(jitter(AUTH_WAIT, self.random.random())),
            _ => backoff,
        };
        warn!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            class = %class,
            failures = self.failures,
            retry_in_ms = delay.as_millis(),
            causes = ?crate::error::error_chain(&error),
            "the link is lost; it will be opened again after the last event received"
        );
        self.state = match link {
            // The goodbye runs within the back-off's own state, before the new link opens.
            Some(link) => self.opening(Some((link, delay))),
            None => State::Waiting(Box::pin(sleep_until(Instant::now() + delay))),
        };
        Ok(())
    }

    /// Opens a link behind what was received, after a goodbye to the old one and a wait.
    fn opening(&self, before: Option<(Box<dyn Link>, Duration)>) -> State {
        let credit = self.unread.prefetch(self.prefetch.next_credit());
        State::Opening(self.link_of(credit).open(before).boxed())
    }

    fn link_of(&self, prefetch_events: u32) -> Opening {
        Opening {
            transport: Arc::clone(&self.transport),
            partition: self.partition.clone(),
            position: self.position.clone(),
            owner_level: self.options.owner_level,
            prefetch_events,
        }
    }
}

impl std::fmt::Debug for PartitionStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionStream")
            .field("partition", &self.partition)
            .field("position", &self.position)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}
