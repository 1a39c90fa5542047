//! One connection's state, without I/O and without a clock: bytes, notices and times go in, frames
//! and file reads come out. `socket` runs it.
//!
//! ```text
//!   Header --"AMQP 3"--> Sasl --init--> SecondHeader --"AMQP 0"--> AwaitOpen --open--> Running
//!      |                                                               ^                  |
//!      +--------------------------"AMQP 0"-----------------------------+                  |
//!   Running --close from the peer, or an error--> Closed (what is in `out` still goes out)
//! ```
//!
//! Invariants:
//! - No frame, not even an empty one, is written before `open`.
//! - Input that cannot be understood ends the connection with an AMQP error, never with a panic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use fe2o3_amqp_types::performatives::{Attach, Begin, Open};

use super::broker::Broker;
use super::budget::Limits;
use super::context::Context;
use super::frame::{self, Body, Frame, Outcome};
use super::log::StoredEvent;
use super::mailbox::{AppendTicket, LinkKey, Mailbox, Notice};
use super::refusal::{CONNECTION_FORCED, FRAMING_ERROR, NOT_ALLOWED, Refusal};
use super::segment::ReadJob;
use super::session::{Fatal, HANDLE_MAX, INCOMING_WINDOW, Session};
use super::tokens;

const SASL_HEADER: [u8; 8] = *b"AMQP\x03\x01\x00\x00";
const AMQP_HEADER: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
const MECHANISMS: [&str; 4] = ["ANONYMOUS", "MSSBCBS", "EXTERNAL", "PLAIN"];
const CHANNEL_MAX: u16 = 4999;
/// Above this much output nothing more is produced, below it the links have their turns.
const OUTPUT_MARK_BYTES: usize = 256 * 1024;
/// Above this much output no input is read: a peer that only asks and never reads is held off.
const OUTPUT_LIMIT_BYTES: usize = 4 * 1024 * 1024;
/// Above this much under way to the log no input is read.
const APPEND_LIMIT_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug)]
enum Phase {
    Header,
    Sasl,
    SecondHeader,
    AwaitOpen,
    Running { heartbeat: Option<Duration> },
    Closed,
}

#[derive(Debug)]
enum Slot {
    Live(Session),
    /// The broker ended it; what still comes on the channel is ignored until the peer's `end`.
    Ended,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Connection {
    phase: Phase,
    sessions: BTreeMap<u16, Slot>,
    context: Context,
    heard_at: Instant,
    wrote_at: Instant,
    started_at: Instant,
}

impl Connection {
    pub(super) fn new(broker: Arc<Broker>, mailbox: Arc<Mailbox>, now: Instant) -> Self {
        Self {
            phase: Phase::Header,
            sessions: BTreeMap::new(),
            context: Context::new(broker, mailbox),
            heard_at: now,
            wrote_at: now,
            started_at: now,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Whether to read more input now.
    pub(super) fn wants_input(&self) -> bool {
        !self.is_closed() && self.has_room()
    }

    /// Whether it may answer, and give to the log, more than it has under way.
    fn has_room(&self) -> bool {
        self.context.out.len() < OUTPUT_LIMIT_BYTES
            && self.context.append_bytes < APPEND_LIMIT_BYTES
    }

    /// What the peer may make the broker keep.
    pub(super) fn limits(&self) -> &'static Limits {
        self.context.budget.limits()
    }

    /// Frames for the peer; whoever writes them removes them.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.context.out
    }

    pub(super) fn on_wrote(&mut self, now: Instant) {
        self.wrote_at = now;
    }

    pub(super) fn take_read_jobs(&mut self) -> Vec<(LinkKey, ReadJob)> {
        std::mem::take(&mut self.context.read_jobs)
    }

    /// Takes what arrived; `input` keeps what is not a whole frame yet.
    pub(super) fn on_input(&mut self, input: &mut BytesMut, now: Instant) {
        self.heard_at = now;
        self.go_on(input, now);
    }

    /// Takes what arrived before, and was left for want of room.
    pub(super) fn go_on(&mut self, input: &mut BytesMut, now: Instant) {
        while !self.is_closed() {
            // The frames of one read can stand for much more than they are.
            if !self.has_room() {
                return;
            }
            match self.next_input(input, now) {
                Ok(true) => {}
                Ok(false) => return,
                Err(refusal) => return self.fail(&refusal),
            }
        }
        input.clear();
    }

    /// Takes one frame or header; false when there is no whole one.
    fn next_input(&mut self, input: &mut BytesMut, now: Instant) -> Result<bool, Refusal> {
        match self.phase {
            Phase::Header | Phase::SecondHeader => self.on_header(input),
            _ => match frame::take_frame_within(input, self.limits().frame_bytes)? {
                Some(frame) => self.on_frame(frame, now).map(|()| true),
                None => Ok(false),
            },
        }
    }

    fn on_header(&mut self, input: &mut BytesMut) -> Result<bool, Refusal> {
        let Some(header) = input.first_chunk::<8>().copied() else {
            return Ok(false);
        };
        input.advance(header.len());
        let sasl_allowed = matches!(self.phase, Phase::Header);
        if header == SASL_HEADER && sasl_allowed {
            self.context.out.extend_from_slice(&SASL_HEADER);
            frame::put_sasl_mechanisms(&mut self.context.out, &MECHANISMS);
            self.phase = Phase::Sasl;
        } else if header == AMQP_HEADER {
            self.context.out.extend_from_slice(&AMQP_HEADER);
            self.phase = Phase::AwaitOpen;
        } else {
            // The standard's answer to a protocol that is not offered: the one that is, and the end.
            self.context.out.extend_from_slice(&AMQP_HEADER);
            self.phase = Phase::Closed;
            input.clear();
        }
        Ok(true)
    }

    fn on_frame(&mut self, frame: Frame, now: Instant) -> Result<(), Refusal> {
        match (&self.phase, frame.body) {
            (Phase::Sasl, Body::SaslInit) => {
                frame::put_sasl_outcome_ok(&mut self.context.out);
                self.phase = Phase::SecondHeader;
                Ok(())
            }
            (Phase::AwaitOpen, Body::Open(open)) => {
                self.on_open(&open);
                Ok(())
            }
            (Phase::Running { .. }, body) => self.on_running(frame.channel, body, now),
            _ => Err(Refusal::new(
                NOT_ALLOWED,
                "a frame that does not belong in this phase of the connection",
            )),
        }
    }

    fn on_open(&mut self, open: &Open) {
        self.context.max_frame_bytes =
            open.max_frame_size.0.clamp(frame::MIN_MAX_FRAME_BYTES, frame::MAX_FRAME_BYTES);
        let idle_timeout = self.context.broker.settings.idle_timeout;
        frame::put_open(
            &mut self.context.out,
            "longshore-emulator",
            CHANNEL_MAX,
            u32::try_from(idle_timeout.as_millis()).unwrap_or(u32::MAX),
        );
        self.phase = Phase::Running {
            // Twice as often as the peer insists on: one lost race must not end the connection.
            heartbeat: open
                .idle_time_out
                .filter(|millis| *millis > 0)
                .map(|millis| Duration::from_millis(u64::from(millis)) / 2),
        };
    }

    fn on_running(&mut self, channel: u16, body: Body, now: Instant) -> Result<(), Refusal> {
        let context = &mut self.context;
        match body {
            Body::Empty => Ok(()),
            Body::SaslInit | Body::Open(_) => {
                Err(Refusal::new(NOT_ALLOWED, "the connection is open already"))
            }
            Body::Begin(begin) => self.on_begin(channel, &begin),
            Body::Attach(attach) => self.on_attach(channel, *attach),
            Body::Transfer(transfer) => {
                let result = match self.sessions.get_mut(&channel) {
                    Some(Slot::Live(session)) => session.on_transfer(transfer, now, context),
                    Some(Slot::Ended) => Ok(()),
                    None => Err(Fatal::Connection(no_session(channel))),
                };
                self.on_result(channel, result)
            }
            Body::Flow(flow) => {
                if let Some(Slot::Live(session)) = self.sessions.get_mut(&channel) {
                    session.on_flow(&flow, context);
                }
                Ok(())
            }
            Body::Disposition(disposition) => {
                if let Some(Slot::Live(session)) = self.sessions.get_mut(&channel) {
                    session.on_disposition(&disposition, context);
                }
                Ok(())
            }
            Body::Detach(detach) => {
                if let Some(Slot::Live(session)) = self.sessions.get_mut(&channel) {
                    session.on_detach(&detach, now, context);
                }
                Ok(())
            }
            Body::End(end) => {
                if let Some(Slot::Live(session)) = self.sessions.remove(&channel) {
                    tracing::trace!(channel, ?end, "session ended by the peer");
                    session.on_gone(context);
                    frame::put_end(&mut context.out, channel, None);
                }
                Ok(())
            }
            Body::Close(close) => {
                tracing::trace!(?close, "connection closed by the peer");
                self.drop_sessions();
                frame::put_close(&mut self.context.out, None);
                self.phase = Phase::Closed;
                Ok(())
            }
        }
    }

    fn on_begin(&mut self, channel: u16, begin: &Begin) -> Result<(), Refusal> {
        if channel > CHANNEL_MAX {
            return Err(Refusal::new(
                FRAMING_ERROR,
                format!("channel {channel}; this connection's channel-max is {CHANNEL_MAX}"),
            ));
        }
        if self.sessions.contains_key(&channel) {
            return Err(Refusal::new(
                NOT_ALLOWED,
                format!("channel {channel} has a session already"),
            ));
        }
        frame::put_begin(&mut self.context.out, channel, INCOMING_WINDOW, HANDLE_MAX);
        let session = Session::new(channel, begin);
        self.sessions.insert(channel, Slot::Live(session));
        Ok(())
    }

    fn on_attach(&mut self, channel: u16, attach: Attach) -> Result<(), Refusal> {
        let result = match self.sessions.get_mut(&channel) {
            Some(Slot::Live(session)) => session.on_attach(attach, &mut self.context),
            Some(Slot::Ended) => Ok(()),
            None => Err(Fatal::Connection(no_session(channel))),
        };
        self.on_result(channel, result)
    }

    fn on_result(&mut self, channel: u16, result: Result<(), Fatal>) -> Result<(), Refusal> {
        let refusal = match result {
            Ok(()) => return Ok(()),
            Err(Fatal::Connection(refusal)) => return Err(refusal),
            Err(Fatal::Session(refusal)) => refusal,
        };
        tracing::debug!(channel, ?refusal, "ending a session");
        if let Some(Slot::Live(session)) = self.sessions.insert(channel, Slot::Ended) {
            session.on_gone(&mut self.context);
        }
        frame::put_end(&mut self.context.out, channel, Some(&refusal));
        Ok(())
    }

    /// Takes what other tasks want of this connection.
    pub(super) fn on_notices(&mut self) {
        for notice in self.context.mailbox.take_notices() {
            match notice {
                Notice::Readable(link) => self.with_session(link, |session, context| {
                    session.on_readable(link, context);
                }),
                Notice::Detach(link, refusal) => self.with_session(link, |session, context| {
                    session.drop_link(link, &refusal, context);
                }),
                Notice::Appended(ticket, result) => self.on_appended(&ticket, result),
            }
        }
    }

    fn on_appended(&mut self, ticket: &AppendTicket, result: Result<(), Refusal>) {
        self.context.append_bytes = self.context.append_bytes.saturating_sub(ticket.bytes);
        let outcome = match result {
            Ok(()) => Outcome::Accepted,
            Err(refusal) => Outcome::Rejected(refusal),
        };
        // A session that ended meanwhile has nobody left to tell; delivery ids may be in use again.
        if let Some(Slot::Live(session)) = self.sessions.get(&ticket.link.channel)
            && session.has_link(ticket.link)
        {
            self.context.settle_later(ticket, outcome);
        }
    }

    /// A file read for a link is done.
    pub(super) fn on_read(&mut self, link: LinkKey, result: std::io::Result<Vec<StoredEvent>>) {
        self.with_session(link, |session, context| {
            session.on_read(link, result, context);
        });
    }

    fn with_session(&mut self, link: LinkKey, act: impl FnOnce(&mut Session, &mut Context)) {
        if let Some(Slot::Live(session)) = self.sessions.get_mut(&link.channel) {
            act(session, &mut self.context);
        }
    }

    /// Does what is due, and lets links send until the output is at its mark.
    pub(super) fn on_turn(&mut self, now: Instant) {
        if self.is_closed() {
            return;
        }
        self.check_times(now);
        for due in self.context.take_due_detaches(now) {
            self.with_session(due.link, |session, context| {
                session.on_detach_due(due.link, due.closed, context);
            });
        }
        for link in self.context.grants.take_expired(now) {
            self.with_session(link, |session, context| {
                session.drop_link(link, &tokens::expired(), context);
            });
        }
        self.context.put_due_outcomes(now);
        for (link, refusal) in self.context.take_due_drops(now) {
            self.with_session(link, |session, context| {
                session.drop_link(link, &refusal, context);
            });
        }
        while self.context.out.len() < OUTPUT_MARK_BYTES {
            let Some(link) = self.context.ready.pop_front() else {
                break;
            };
            self.with_session(link, |session, context| session.on_turn(link, context));
        }
    }

    fn check_times(&mut self, now: Instant) {
        match self.phase {
            Phase::Running { heartbeat } => {
                if now >= self.silence_ends_at() {
                    let millis = self.context.broker.settings.idle_timeout.as_millis();
                    return self.fail(&Refusal::new(
                        CONNECTION_FORCED,
                        format!(
                            "The connection was inactive for more than the allowed {millis} \
                             milliseconds and is closed"
                        ),
                    ));
                }
                let due = heartbeat.is_some_and(|every| now >= self.wrote_at + every);
                if due && self.context.out.is_empty() {
                    frame::put_heartbeat(&mut self.context.out);
                }
            }
            _ if now >= self.handshake_ends_at() => self.phase = Phase::Closed,
            _ => {}
        }
    }

    /// Until then a peer may take to get through the headers and `open`.
    fn handshake_ends_at(&self) -> Instant {
        self.started_at + self.context.broker.settings.handshake_timeout
    }

    /// The announced timeout is half of the real one, as the standard asks: a heartbeat that is a
    /// little late is not a reason.
    fn silence_ends_at(&self) -> Instant {
        self.heard_at + self.context.broker.settings.idle_timeout * 2
    }

    /// When [`Self::on_turn`] wants to be called, if nothing else happens.
    pub(super) fn next_deadline(&self) -> Instant {
        let fixed = match self.phase {
            Phase::Running { heartbeat } => {
                let silence = self.silence_ends_at();
                // While output waits for the peer, a heartbeat would only wait with it.
                match heartbeat {
                    Some(every) if self.context.out.is_empty() => {
                        silence.min(self.wrote_at + every)
                    }
                    _ => silence,
                }
            }
            _ => self.handshake_ends_at(),
        };
        match self.context.next_due() {
            Some(due) => fixed.min(due),
            None => fixed,
        }
    }

    /// Ends the connection with an error.
    pub(super) fn fail(&mut self, refusal: &Refusal) {
        if self.is_closed() {
            return;
        }
        tracing::debug!(?refusal, "closing a connection");
        self.drop_sessions();
        match self.phase {
            Phase::Running { .. } => frame::put_close(&mut self.context.out, Some(refusal)),
            Phase::AwaitOpen => {
                // A close needs an open before it.
                frame::put_open(&mut self.context.out, "longshore-emulator", CHANNEL_MAX, 0);
                frame::put_close(&mut self.context.out, Some(refusal));
            }
            _ => {}
        }
        self.phase = Phase::Closed;
    }

    /// Gives up everything the connection holds in the broker.
    pub(super) fn drop_sessions(&mut self) {
        for (_, slot) in std::mem::take(&mut self.sessions) {
            if let Slot::Live(session) = slot {
                session.on_gone(&mut self.context);
            }
        }
    }
}

/// However a connection ends, its receivers must not stay registered at their partitions.
impl Drop for Connection {
    fn drop(&mut self) {
        self.drop_sessions();
    }
}

fn no_session(channel: u16) -> Refusal {
    Refusal::new(NOT_ALLOWED, format!("channel {channel} has no session"))
}
