//! A link that receives: from a partition's log to transfer frames, as credit and windows allow.
//!
//! ```text
//!   Idle      no credit, or the session's window is used up
//!   Queued    in the connection's ready list
//!   Reading   a file is being read for it
//!   Waiting   registered at the partition; the next event wakes it
//!   Starved   other links of the connection hold all that it may have read and not sent
//! ```
//!
//! Invariants:
//! - A link holds at most one read's worth of events; the next read follows when they are sent.
//! - Nothing is sent without link credit and session window, and nothing while the connection's
//!   output is above its mark. A receiver that does not read costs no more memory than that.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use fe2o3_amqp_types::performatives::Flow;

use super::context::Context;
use super::frame::{self, Delivery, LinkFlow};
use super::hub::Partition;
use super::injection::FaultPoint;
use super::log::{Cursor, Read, ReadLimit, StoredEvent};
use super::mailbox::{LinkKey, Notice};
use super::refusal::{INTERNAL_ERROR, Refusal};
use super::session::Window;

/// How much one link sends before the next has its turn.
const TURN_BYTES: usize = 64 * 1024;
const READ_EVENTS: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feed {
    Idle,
    Queued,
    Reading,
    Waiting,
    Starved,
}

/// How a link's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has more and wants another turn.
    Again,
    /// It goes on when its session's window opens.
    Blocked,
    /// Something else wakes it.
    Resting,
}

/// The credit of a link the broker sends on.
#[derive(Debug, Default)]
pub(super) struct Credit {
    pub(super) left: u32,
    delivery_count: u32,
    drain: bool,
}

impl Credit {
    pub(super) fn on_flow(&mut self, flow: &Flow) {
        if let Some(credit) = flow.link_credit {
            // The peer counts from what it had seen when it wrote the flow. What is on its way to it
            // counts against the new credit, and may exceed it after the peer reduced it.
            let seen = flow.delivery_count.unwrap_or(0);
            let under_way = self.delivery_count.wrapping_sub(seen);
            self.left = credit.saturating_sub(under_way);
        }
        self.drain = flow.drain;
    }

    pub(super) fn on_sent(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.delivery_count = self.delivery_count.wrapping_add(1);
    }

    /// The flow that completes a drain: all credit is used up.
    pub(super) fn take_drain(&mut self, handle: u32) -> Option<LinkFlow> {
        if !std::mem::take(&mut self.drain) {
            return None;
        }
        self.delivery_count = self.delivery_count.wrapping_add(self.left);
        self.left = 0;
        Some(LinkFlow { drain: true, ..self.state(handle) })
    }

    pub(super) fn state(&self, handle: u32) -> LinkFlow {
        LinkFlow { handle, delivery_count: self.delivery_count, credit: self.left, drain: false }
    }
}

/// A delivery of which only some frames were sent.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) id: u32,
    pub(super) rest: Bytes,
}

/// A receiving link.
#[derive(Debug)]
pub(super) struct Consumer {
    partition: Arc<Partition>,
    group: String,
    cursor: Cursor,
    settled: bool,
    pub(super) credit: Credit,
    fetched: VecDeque<StoredEvent>,
    unsent: Option<Unsent>,
    /// What was read from a file for it, and counts until it is sent.
    read_bytes: usize,
    feed: Feed,
}

impl Consumer {
    pub(super) fn new(
        partition: Arc<Partition>,
        group: String,
        cursor: Cursor,
        settled: bool,
    ) -> Self {
        Self {
            partition,
            group,
            cursor,
            settled,
            credit: Credit::default(),
            fetched: VecDeque::new(),
            unsent: None,
            read_bytes: 0,
            feed: Feed::Idle,
        }
    }

    /// Takes new credit into account; true when the link is to be queued.
    pub(super) fn on_flow(&mut self, flow: &Flow) -> bool {
        self.credit.on_flow(flow);
        match self.feed {
            Feed::Idle => self.queue(),
            // There is nothing to send, which completes a drain at once.
            Feed::Waiting if flow.drain => self.queue(),
            _ => false,
        }
    }

    /// The partition has more; true when the link is to be queued.
    pub(super) fn on_readable(&mut self) -> bool {
        self.feed == Feed::Waiting && self.queue()
    }

    /// The session's window opened; true when the link is to be queued.
    pub(super) fn on_window(&mut self) -> bool {
        self.feed == Feed::Idle && self.queue()
    }

    /// A file was read for this link.
    pub(super) fn on_read(
        &mut self,
        result: std::io::Result<Vec<StoredEvent>>,
    ) -> Result<bool, Refusal> {
        let mut events = match result {
            Ok(events) => events,
            // Retention was faster; it goes on at the new beginning.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_behind() => Vec::new(),
            Err(error) => {
                tracing::error!(partition = self.partition.id, %error, "the log cannot be read");
                let text = format!("the log cannot be read: {error}");
                return Err(Refusal::new(INTERNAL_ERROR, text));
            }
        };
        self.cursor.advance(&mut events);
        self.fetched.extend(events);
        Ok(self.feed == Feed::Reading && self.queue())
    }

    /// Whether the log does not have the next event any more.
    fn is_behind(&self) -> bool {
        self.cursor.sequence < self.partition.log.ends().begin_sequence
    }

    fn queue(&mut self) -> bool {
        self.feed = Feed::Queued;
        true
    }

    /// Sends what it may.
    pub(super) fn on_turn(
        &mut self,
        link: LinkKey,
        window: &mut Window,
        context: &mut Context,
    ) -> Turn {
        let full_at = context.out.len() + TURN_BYTES;
        while context.out.len() < full_at {
            if self.has_next()
                && let Some(refusal) = context.broker.injections.take(FaultPoint::Receive)
            {
                context.mailbox.post(Notice::Detach(link, refusal));
                self.feed = Feed::Idle;
                return Turn::Resting;
            }
            if !self.take_next(window) {
                match self.fetch(link, window, context) {
                    Some(turn) => return turn,
                    None => continue,
                }
            }
            if !self.send(link, window, context) {
                self.feed = Feed::Idle;
                return Turn::Blocked;
            }
        }
        Turn::Again
    }

    /// Whether an event is at hand, and credit for it.
    fn has_next(&self) -> bool {
        self.unsent.is_none() && self.credit.left > 0 && !self.fetched.is_empty()
    }

    /// Makes an event the current delivery, if there is one at hand and credit for it.
    fn take_next(&mut self, window: &mut Window) -> bool {
        if self.unsent.is_some() {
            return true;
        }
        if !self.has_next() {
            return false;
        }
        let Some(event) = self.fetched.pop_front() else {
            return false;
        };
        self.credit.on_sent();
        self.unsent = Some(Unsent { id: window.next_delivery_id(), rest: event.encoded });
        true
    }

    /// Gets the next events; `None` when there are some to look at.
    fn fetch(&mut self, link: LinkKey, window: &Window, context: &mut Context) -> Option<Turn> {
        if self.fetched.is_empty() {
            context.on_read_done(std::mem::take(&mut self.read_bytes));
        }
        if self.credit.left == 0 {
            self.complete_drain(link, window, context);
            self.feed = Feed::Idle;
            return Some(Turn::Resting);
        }
        let limit =
            ReadLimit { events: READ_EVENTS.min(self.credit.left as usize), bytes: TURN_BYTES };
        let partition = &self.partition;
        match partition.log.read_or_wait(&mut self.cursor, limit, &context.mailbox, link) {
            Read::Events(events) => {
                self.fetched.extend(events);
                None
            }
            Read::File(job) => {
                // Nothing is read for a window that is closed.
                if !window.is_open() {
                    self.feed = Feed::Idle;
                    return Some(Turn::Blocked);
                }
                let bytes = job.bytes();
                self.feed = match context.read(link, job) {
                    true => {
                        self.read_bytes = bytes;
                        Feed::Reading
                    }
                    false => Feed::Starved,
                };
                Some(Turn::Resting)
            }
            Read::CaughtUp => {
                self.complete_drain(link, window, context);
                self.feed = Feed::Waiting;
                Some(Turn::Resting)
            }
        }
    }

    fn complete_drain(&mut self, link: LinkKey, window: &Window, context: &mut Context) {
        if let Some(flow) = self.credit.take_drain(link.handle) {
            frame::put_flow(&mut context.out, link.channel, window.state(), Some(flow));
        }
    }

    /// Sends frames of the current delivery; false when the window is used up before its end.
    fn send(&mut self, link: LinkKey, window: &mut Window, context: &mut Context) -> bool {
        let Some(mut unsent) = self.unsent.take() else {
            return true;
        };
        let done = window.send(link, &mut unsent, self.settled, context);
        if !done {
            self.unsent = Some(unsent);
        }
        done
    }

    pub(super) fn on_detach(&mut self, link: LinkKey, context: &mut Context) {
        context.on_read_done(std::mem::take(&mut self.read_bytes));
        self.partition.log.forget(&context.mailbox, link);
        self.partition.on_detach(&self.group, &context.mailbox, link);
    }
}

impl Window {
    /// Sends frames of a delivery until it is out or the window is used up.
    pub(super) fn send(
        &mut self,
        link: LinkKey,
        unsent: &mut Unsent,
        settled: bool,
        context: &mut Context,
    ) -> bool {
        let delivery = Delivery { handle: link.handle, id: unsent.id, settled };
        loop {
            if !self.take_outgoing() {
                return false;
            }
            let sent = frame::put_transfer(
                &mut context.out,
                link.channel,
                delivery,
                &unsent.rest,
                context.max_frame_bytes,
            );
            unsent.rest.advance(sent);
            if unsent.rest.is_empty() {
                return true;
            }
        }
    }
}
