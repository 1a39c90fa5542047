//! A session: links by handle, and the windows that bound transfers in both directions.
//!
//! The broker uses the peer's channel and handle numbers for its own ends too.
//!
//! ```text
//!   (free) --attach--> Open --detach from the peer--> Leaving --answer is due--> (free)
//!                        |
//!                        +--detach from the broker--> Dropped --the peer answers--> (free)
//! ```
//!
//! Invariants:
//! - Nothing is sent on a handle after its detach was sent.
//! - A detach, and what follows it, is answered once, however often it comes.

use std::collections::BTreeMap;
use std::time::Instant;

use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::performatives::{Attach, Begin, Detach, Disposition, Flow};

use super::budget::Kept;
use super::consume::{Consumer, Turn};
use super::context::Context;
use super::endpoint;
use super::frame::{self, Outcome, SessionFlow, Termini, Transfer};
use super::log::StoredEvent;
use super::mailbox::LinkKey;
use super::publish::Publisher;
use super::refusal::{
    FRAMING_ERROR, HANDLE_IN_USE, RESOURCE_LIMIT_EXCEEDED, Refusal, UNATTACHED_HANDLE,
    WINDOW_VIOLATION,
};
use super::request::{Replies, Requests};

/// Transfers the peer may send before it needs a flow.
pub(super) const INCOMING_WINDOW: u32 = 5000;
/// Highest handle; bounds the links of a session.
pub(super) const HANDLE_MAX: u32 = 1023;

/// Both transfer windows of a session.
#[derive(Debug)]
pub(super) struct Window {
    next_incoming_id: u32,
    incoming: u32,
    next_outgoing_id: u32,
    /// Transfers the peer still takes.
    outgoing: u32,
    next_delivery_id: u32,
}

impl Window {
    fn new(begin: &Begin) -> Self {
        Self {
            next_incoming_id: begin.next_outgoing_id,
            incoming: INCOMING_WINDOW,
            next_outgoing_id: 0,
            outgoing: begin.incoming_window,
            next_delivery_id: 0,
        }
    }

    pub(super) fn state(&self) -> SessionFlow {
        SessionFlow {
            next_incoming_id: self.next_incoming_id,
            incoming_window: self.incoming,
            next_outgoing_id: self.next_outgoing_id,
            outgoing_window: INCOMING_WINDOW,
        }
    }

    pub(super) fn next_delivery_id(&mut self) -> u32 {
        let id = self.next_delivery_id;
        self.next_delivery_id = id.wrapping_add(1);
        id
    }

    /// Whether the peer takes a transfer now.
    pub(super) fn is_open(&self) -> bool {
        self.outgoing > 0
    }

    /// Counts an outgoing transfer; false when the peer takes none now.
    pub(super) fn take_outgoing(&mut self) -> bool {
        let Some(outgoing) = self.outgoing.checked_sub(1) else {
            return false;
        };
        self.outgoing = outgoing;
        self.next_outgoing_id = self.next_outgoing_id.wrapping_add(1);
        true
    }

    fn on_transfer(&mut self) -> Result<(), Refusal> {
        self.incoming = self.incoming.checked_sub(1).ok_or_else(|| {
            Refusal::new(WINDOW_VIOLATION, "a transfer beyond the session's window")
        })?;
        self.next_incoming_id = self.next_incoming_id.wrapping_add(1);
        Ok(())
    }

    fn on_flow(&mut self, flow: &Flow) {
        // Before the peer has seen our begin it cannot say what it expects: that is our first, 0.
        let expected = flow.next_incoming_id.unwrap_or(0);
        let under_way = self.next_outgoing_id.wrapping_sub(expected);
        self.outgoing = flow.incoming_window.saturating_sub(under_way);
    }

    /// The flow to send when the incoming window is half used.
    fn next_refill(&mut self) -> Option<SessionFlow> {
        (self.incoming <= INCOMING_WINDOW / 2).then(|| {
            self.incoming = INCOMING_WINDOW;
            self.state()
        })
    }
}

#[derive(Debug)]
struct Link {
    serial: u64,
    /// Of its name and its addresses.
    text_bytes: usize,
    state: LinkState,
}

#[derive(Debug)]
enum LinkState {
    Open(Endpoint),
    Leaving,
    Dropped,
}

/// What a link does.
#[derive(Debug)]
pub(super) enum Endpoint {
    Publisher(Box<Publisher>),
    Consumer(Box<Consumer>),
    Requests(Box<Requests>),
    Replies(Box<Replies>),
}

/// An error that ends the session, or the connection with it.
#[derive(Debug)]
pub(super) enum Fatal {
    Session(Refusal),
    Connection(Refusal),
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    channel: u16,
    window: Window,
    links: BTreeMap<u32, Link>,
    /// Links that wait for the peer to open its window.
    blocked: Vec<LinkKey>,
}

impl Session {
    pub(super) fn new(channel: u16, begin: &Begin) -> Self {
        Self { channel, window: Window::new(begin), links: BTreeMap::new(), blocked: Vec::new() }
    }

    fn endpoint(&mut self, key: LinkKey) -> Option<&mut Endpoint> {
        match self.links.get_mut(&key.handle) {
            Some(Link { serial, state: LinkState::Open(endpoint), .. })
                if *serial == key.serial =>
            {
                Some(endpoint)
            }
            _ => None,
        }
    }

    pub(super) fn has_link(&self, key: LinkKey) -> bool {
        self.links.get(&key.handle).is_some_and(|link| link.serial == key.serial)
    }

    pub(super) fn on_attach(&mut self, attach: Attach, context: &mut Context) -> Result<(), Fatal> {
        let handle = attach.handle.0;
        if handle > HANDLE_MAX {
            return Err(Fatal::Connection(Refusal::new(
                FRAMING_ERROR,
                format!("handle {handle}; this session's handle-max is {HANDLE_MAX}"),
            )));
        }
        match self.links.get(&handle).map(|link| &link.state) {
            None => {}
            // The handle is free for the peer once it sees our answer, which it did not wait for.
            Some(LinkState::Leaving) => self.answer_detach_now(handle, context),
            Some(_) => {
                return Err(Fatal::Session(Refusal::new(
                    HANDLE_IN_USE,
                    format!("handle {handle} is attached already"),
                )));
            }
        }
        let key = LinkKey { channel: self.channel, handle, serial: context.next_serial() };
        let most = context.budget.limits().links;
        let too_many = || {
            Refusal::new(
                RESOURCE_LIMIT_EXCEEDED,
                format!("this connection has {most} links already"),
            )
        };
        // Who goes on after a refusal fills the table of links as well.
        if context.links >= 2 * most {
            return Err(Fatal::Connection(too_many()));
        }
        let text_bytes = endpoint::text_bytes(&attach);
        let opened = if context.links < most {
            context.budget.hold(Kept::Texts, text_bytes).and_then(|()| {
                Endpoint::open(&attach, key, context)
                    .inspect_err(|_| context.budget.release(Kept::Texts, text_bytes))
            })
        } else {
            Err(too_many())
        };
        let text_bytes = opened.as_ref().map_or(0, |_| text_bytes);
        let termini = match &opened {
            Ok(_) => Termini::AsAsked,
            Err(_) => Termini::Refused,
        };
        frame::put_attach_answer(
            &mut context.out,
            self.channel,
            &attach,
            termini,
            context.broker.settings.max_message_bytes as u64,
        );
        context.links += 1;
        let state = match opened {
            Ok(endpoint) => LinkState::Open(endpoint),
            Err(refusal) => {
                tracing::debug!(link = attach.name, ?refusal, "attach refused");
                frame::put_detach(&mut context.out, self.channel, handle, true, Some(&refusal));
                LinkState::Dropped
            }
        };
        self.links.insert(handle, Link { serial: key.serial, text_bytes, state });
        self.refill(handle, context);
        Ok(())
    }

    pub(super) fn on_transfer(
        &mut self,
        transfer: Transfer,
        now: Instant,
        context: &mut Context,
    ) -> Result<(), Fatal> {
        self.window.on_transfer().map_err(Fatal::Session)?;
        if let Some(flow) = self.window.next_refill() {
            frame::put_flow(&mut context.out, self.channel, flow, None);
        }
        let handle = transfer.handle;
        let Some(link) = self.links.get_mut(&handle) else {
            return Err(Fatal::Session(Refusal::new(
                UNATTACHED_HANDLE,
                format!("a transfer on handle {handle}, which is not attached"),
            )));
        };
        let key = LinkKey { channel: self.channel, handle, serial: link.serial };
        // What was under way when a detach crossed it is lost on purpose.
        let LinkState::Open(endpoint) = &mut link.state else {
            return Ok(());
        };
        let result = match endpoint {
            Endpoint::Publisher(publisher) => publisher.on_transfer(transfer, key, now, context),
            Endpoint::Requests(requests) => {
                match requests.on_transfer(transfer, key, now, context) {
                    Ok(Some(reply)) => {
                        self.route_reply(reply, context);
                        Ok(())
                    }
                    Ok(None) => Ok(()),
                    Err(refusal) => Err(refusal),
                }
            }
            Endpoint::Consumer(_) | Endpoint::Replies(_) => Err(Refusal::new(
                super::refusal::NOT_ALLOWED,
                "a transfer on a link whose sender is the broker",
            )),
        };
        match result {
            Ok(()) => self.refill(handle, context),
            Err(refusal) => self.drop_link(key, &refusal, context),
        }
        Ok(())
    }

    fn refill(&mut self, handle: u32, context: &mut Context) {
        let Some(Link { state: LinkState::Open(endpoint), .. }) = self.links.get_mut(&handle)
        else {
            return;
        };
        if let Some(flow) = endpoint.grant().and_then(|grant| grant.next_refill(handle)) {
            frame::put_flow(&mut context.out, self.channel, self.window.state(), Some(flow));
        }
    }

    fn route_reply(&mut self, reply: super::request::Reply, context: &mut Context) {
        let best = self
            .links
            .iter()
            .filter_map(|(handle, link)| match &link.state {
                LinkState::Open(Endpoint::Replies(replies)) => {
                    let rank = replies.rank(&reply)?;
                    Some((rank, *handle, link.serial))
                }
                _ => None,
            })
            .max();
        let Some((_, handle, serial)) = best else {
            tracing::debug!(?reply, "a reply without a link to take it");
            return;
        };
        let key = LinkKey { channel: self.channel, handle, serial };
        let Some(Endpoint::Replies(replies)) = self.endpoint(key) else {
            return;
        };
        match replies.on_reply(reply, context) {
            Ok(queued) => self.queue(key, queued, context),
            Err(refusal) => self.drop_link(key, &refusal, context),
        }
    }

    pub(super) fn on_flow(&mut self, flow: &Flow, context: &mut Context) {
        self.window.on_flow(flow);
        for key in std::mem::take(&mut self.blocked) {
            let queued = match self.endpoint(key) {
                Some(Endpoint::Consumer(consumer)) => consumer.on_window(),
                Some(Endpoint::Replies(replies)) => replies.on_window(),
                _ => false,
            };
            self.queue(key, queued, context);
        }
        let Some(handle) = flow.handle.as_ref().map(|handle| handle.0) else {
            if flow.echo {
                frame::put_flow(&mut context.out, self.channel, self.window.state(), None);
            }
            return;
        };
        let Some(link) = self.links.get_mut(&handle) else {
            return;
        };
        let key = LinkKey { channel: self.channel, handle, serial: link.serial };
        let LinkState::Open(endpoint) = &mut link.state else {
            return;
        };
        let (queued, state) = match endpoint {
            Endpoint::Consumer(consumer) => {
                let queued = consumer.on_flow(flow);
                (queued, consumer.credit.state(handle))
            }
            Endpoint::Replies(replies) => {
                let queued = replies.on_flow(flow);
                (queued, replies.credit.state(handle))
            }
            Endpoint::Publisher(publisher) => (false, publisher.grant.state(handle)),
            Endpoint::Requests(requests) => (false, requests.grant.state(handle)),
        };
        if flow.echo {
            let session = self.window.state();
            frame::put_flow(&mut context.out, self.channel, session, Some(state));
        }
        self.queue(key, queued, context);
    }

    fn queue(&self, key: LinkKey, queued: bool, context: &mut Context) {
        if queued {
            context.ready.push_back(key);
        }
    }

    /// A receiver settles what the broker sent. Nothing is kept per delivery, so the only thing to
    /// do is to settle, too, what the peer left open.
    pub(super) fn on_disposition(&self, disposition: &Disposition, context: &mut Context) {
        if disposition.role == Role::Receiver && !disposition.settled && disposition.state.is_some()
        {
            let last = disposition.last.unwrap_or(disposition.first);
            frame::put_disposition(
                &mut context.out,
                self.channel,
                true,
                disposition.first,
                last,
                &Outcome::Accepted,
            );
        }
    }

    pub(super) fn on_detach(&mut self, detach: &Detach, now: Instant, context: &mut Context) {
        let handle = detach.handle.0;
        let Some(link) = self.links.get_mut(&handle) else {
            return;
        };
        let key = LinkKey { channel: self.channel, handle, serial: link.serial };
        match std::mem::replace(&mut link.state, LinkState::Leaving) {
            LinkState::Open(endpoint) => {
                // A receiver that detaches to attach another one waits for the answer. Who closes links
                // may close their session at once: see `detach_later`.
                let waits_for_answer = matches!(endpoint, Endpoint::Consumer(_)) && !detach.closed;
                endpoint.on_detach(key, context);
                if waits_for_answer {
                    self.on_detach_due(key, detach.closed, context);
                } else {
                    context.detach_later(now, key, detach.closed);
                }
            }
            LinkState::Leaving => {}
            LinkState::Dropped => self.forget_link(handle, context),
        }
    }

    /// The answer to the peer's detach is due.
    pub(super) fn on_detach_due(&mut self, key: LinkKey, closed: bool, context: &mut Context) {
        let leaving = self
            .links
            .get(&key.handle)
            .is_some_and(|link| matches!(link.state, LinkState::Leaving));
        if leaving {
            frame::put_detach(&mut context.out, self.channel, key.handle, closed, None);
            self.forget_link(key.handle, context);
        }
    }

    fn answer_detach_now(&mut self, handle: u32, context: &mut Context) {
        if let Some(due) = context.take_detach(self.channel, handle) {
            self.on_detach_due(due.link, due.closed, context);
        }
    }

    fn forget_link(&mut self, handle: u32, context: &mut Context) {
        if let Some(link) = self.links.remove(&handle) {
            context.budget.release(Kept::Texts, link.text_bytes);
        }
        context.links = context.links.saturating_sub(1);
    }

    /// Detaches a link with an error, unless it is gone or going.
    pub(super) fn drop_link(&mut self, key: LinkKey, refusal: &Refusal, context: &mut Context) {
        let Some(link) = self.links.get_mut(&key.handle) else {
            return;
        };
        let open = link.serial == key.serial && matches!(link.state, LinkState::Open(_));
        if !open {
            return;
        }
        if let LinkState::Open(endpoint) = std::mem::replace(&mut link.state, LinkState::Dropped) {
            endpoint.on_detach(key, context);
        }
        frame::put_detach(&mut context.out, self.channel, key.handle, true, Some(refusal));
    }

    pub(super) fn on_readable(&mut self, key: LinkKey, context: &mut Context) {
        if let Some(Endpoint::Consumer(consumer)) = self.endpoint(key) {
            let queued = consumer.on_readable();
            self.queue(key, queued, context);
        }
    }

    pub(super) fn on_read(
        &mut self,
        key: LinkKey,
        result: std::io::Result<Vec<StoredEvent>>,
        context: &mut Context,
    ) {
        let Some(Endpoint::Consumer(consumer)) = self.endpoint(key) else {
            return;
        };
        match consumer.on_read(result) {
            Ok(queued) => self.queue(key, queued, context),
            Err(refusal) => self.drop_link(key, &refusal, context),
        }
    }

    /// Lets a link of the ready list send.
    pub(super) fn on_turn(&mut self, key: LinkKey, context: &mut Context) {
        let Some(Link { serial, state: LinkState::Open(endpoint), .. }) =
            self.links.get_mut(&key.handle)
        else {
            return;
        };
        if *serial != key.serial {
            return;
        }
        let turn = match endpoint {
            Endpoint::Consumer(consumer) => consumer.on_turn(key, &mut self.window, context),
            Endpoint::Replies(replies) => replies.on_turn(key, &mut self.window, context),
            Endpoint::Publisher(_) | Endpoint::Requests(_) => Turn::Resting,
        };
        match turn {
            Turn::Again => context.ready.push_back(key),
            Turn::Blocked => self.blocked.push(key),
            Turn::Resting => {}
        }
    }

    /// Ends every link without a word: the session, or the connection under it, is going.
    pub(super) fn on_gone(self, context: &mut Context) {
        for (handle, link) in self.links {
            let key = LinkKey { channel: self.channel, handle, serial: link.serial };
            context.budget.release(Kept::Texts, link.text_bytes);
            if let LinkState::Open(endpoint) = link.state {
                endpoint.on_detach(key, context);
            }
            context.links = context.links.saturating_sub(1);
        }
        context.forget_channel(self.channel);
    }
}
