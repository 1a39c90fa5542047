//! A partition's events, each exactly once, across lost links: the shell around
//! [`crate::state::resume`].
//!
//! States: waiting (a back-off) -> opening (say goodbye to the old link, compare the hub with
//! our position, open a new link after the last event received) -> open -> waiting …, until
//! an error that no new link can mend, which ends the stream. All progress is kept in the
//! struct, so dropping a call to [`PartitionStream::next_events`] loses nothing.
//!
//! A link may hang: the SDK waits without a limit for an answer that got lost, and a half-open
//! connection says nothing at all. So a link that is silent for [`PROBE_AFTER`] is compared
//! with the end of the log; where events wait that it does not bring, twice in a row, or where
//! the hub cannot be asked, the link is given up.
//!
//! A link begins with little credit, and another one with what its events' size allows takes over
//! from it while it still brings some: see [`crate::state::prefetch`] and the file `refit`.
//!
//! Events that cannot be decoded come out in their place, as events without content
//! ([`Event::unreadable`]), as soon as their numbers are known as well as they can be: see
//! [`crate::state::unreadable`] and the file `runs`.

mod opening;
mod refit;
mod runs;
mod unread;

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

use super::{Link, LinkStart, LogProperties, Transport};
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

/// How long a link may be silent before the hub is asked whether events wait.
pub const PROBE_AFTER: Duration = Duration::from_secs(20);

/// How long a link that is behind has to bring an event before it is given up.
pub const PROBE_AGAIN: Duration = Duration::from_secs(5);

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
    /// A link with other credit, while the open one still brings events.
    next: Option<BoxFuture<'static, Result<Opened>>>,
    /// Whether the open link brought something that cannot be read since `next` was begun: that one
    /// would bring it again, and nothing would tell that it is the same.
    next_is_stale: bool,
    /// The goodbye to a link that another one took over from.
    goodbye: Option<BoxFuture<'static, ()>>,
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

/// An open link, and when it was last heard of.
struct Watched {
    link: Box<dyn Link>,
    heard: Instant,
    /// When to look whether it is silent.
    look: Pin<Box<Sleep>>,
    /// The question to the hub that is under way.
    probe: Option<BoxFuture<'static, Result<LogProperties>>>,
    /// Whether the last answer said that events wait which the link does not bring.
    behind: bool,
}

impl Watched {
    fn new(link: Box<dyn Link>) -> Self {
        let heard = Instant::now();
        let look = Box::pin(sleep_until(heard + PROBE_AFTER));
        Self { link, heard, look, probe: None, behind: false }
    }

    fn on_heard(&mut self) {
        self.heard = Instant::now();
        self.probe = None;
        self.behind = false;
    }

    fn look_after(&mut self, wait: Duration) {
        self.look.as_mut().reset(Instant::now() + wait);
    }
}

/// What the watch over a link that has nothing to give leads to.
enum Silence {
    /// The link is given up.
    Lost(Error),
    /// A run of events that cannot be read ends with the log: they are in `ready`.
    RunEnded,
    /// The link is opened again.
    OpenAgain,
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
            next: None,
            next_is_stale: false,
            goodbye: None,
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
    /// Where no new link can go on; see [`StreamEnd`]. Everything else is waited out.
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
        if let Some(goodbye) = &mut self.goodbye
            && goodbye.poll_unpin(cx).is_ready()
        {
            self.goodbye = None;
        }
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
        self.next = None;
        if let (Some(lost_at_most), Some(log)) = (opened.lost_at_most, &opened.log) {
            self.on_trimmed(lost_at_most, log);
        }
        match opened.outcome {
            Ok(link) => {
                self.links_opened += 1;
                self.prefetch.on_link_opened(opened.prefetch_events);
                self.unread.on_link_opened(opened.prefetch_events, opened.log.as_ref());
                self.state = State::Open(Watched::new(link));
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
        if self.poll_next_link(cx)? {
            return Poll::Ready(Ok(0));
        }
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
            },
        };
        let after = self.unread.after(self.position.next_start());
        let mut count = self.drop_repeats(first, into);
        if count > 0 {
            self.failures = 0;
            self.position_refused = false;
            self.open_with_what_fits(into.get(first..).unwrap_or_default());
            count = self.end_run(after, first, into);
        }
        match error {
            None => {
                if let State::Open(watched) = &mut self.state {
                    watched.on_heard();
                }
            }
            Some(error) if error.class() == ErrorClass::Unreadable => self.on_unreadable(&error)?,
            Some(error) => {
                let state = std::mem::replace(&mut self.state, State::Ended);
                if let State::Open(watched) = state {
                    self.on_link_error(error, watched.link)?;
                }
            }
        }
        Poll::Ready(Ok(count))
    }

    /// Sequence numbers that retention removed before they were received, at most.
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    /// Links opened so far.
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

    /// Detaches, within a time the adapter bounds.
    pub async fn close(self) {
        if let Some(goodbye) = self.goodbye {
            goodbye.await;
        }
        if let State::Open(watched) = self.state {
            watched.link.close().await;
        }
    }

    /// Watches a link that has nothing to give; ready with what is to be done.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Silence> {
        let next = self.position.next_start();
        loop {
            let State::Open(watched) = &mut self.state else {
                return Poll::Pending;
            };
            if let Some(probe) = &mut watched.probe {
                let answer = ready!(probe.poll_unpin(cx));
                watched.probe = None;
                let behind = match answer {
                    Ok(log) if !self.unread.is_empty() => match self.on_silence_in_run(&log) {
                        Some(silence) => return Poll::Ready(silence),
                        None => continue,
                    },
                    Ok(log) => waits_beyond(next, &log),
                    // Whatever keeps the hub from answering may keep the link from speaking.
                    Err(error) if error.class() == ErrorClass::Transient => {
                        return Poll::Ready(Silence::Lost(error));
                    }
                    Err(_) => false,
                };
                if behind && watched.behind {
                    let error = Error::new(
                        ErrorClass::Transient,
                        "receive from the link",
                        "it is silent although events wait",
                    );
                    return Poll::Ready(Silence::Lost(error.with_partition(&self.partition)));
                }
                watched.behind = behind;
                watched.look_after(if behind { PROBE_AGAIN } else { PROBE_AFTER });
            }
            ready!(watched.look.as_mut().poll(cx));
            let silent = watched.heard.elapsed();
            let limit = self.unread.probe_after(PROBE_AFTER);
            if silent < limit {
                watched.look_after(limit - silent);
                continue;
            }
            let (transport, id) = (Arc::clone(&self.transport), self.partition.id.clone());
            watched.probe = Some(async move { transport.log_properties(&id).await }.boxed());
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

/// Whether the log holds an event that a link at `next` has not brought.
fn waits_beyond(next: LinkStart, log: &LogProperties) -> bool {
    match (next, log.last_enqueued) {
        (_, None) => false,
        (LinkStart::After(number), Some(end)) => end > number,
        (LinkStart::FirstEvent, Some(end)) => end >= log.begin,
        (LinkStart::EnqueuedAt(time), Some(_)) => {
            log.last_enqueued_time.is_some_and(|enqueued| enqueued >= time)
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
