//! The request and reply links of `$cbs` and `$management`.
//!
//! Clients disagree on how a reply finds its link: by the link's target address, by its name, or
//! simply by being in the same session. [`Replies::rank`] knows all three, best first.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use fe2o3_amqp_types::messaging::message::__private::{Deserializable, Serializable};
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties,
};
use fe2o3_amqp_types::performatives::Flow;
use fe2o3_amqp_types::primitives::{OrderedMap, SimpleValue};
use serde_amqp::Value;

use super::budget::Kept;
use super::cbs;
use super::consume::{Credit, Turn, Unsent};
use super::context::Context;
use super::frame::{self, Outcome, Transfer};
use super::intake::{Intake, Taken};
use super::mailbox::{AppendTicket, LinkKey};
use super::management;
use super::publish::Grant;
use super::refusal::{
    INTERNAL_ERROR, NOT_FOUND, RESOURCE_LIMIT_EXCEEDED, Refusal, SERVER_BUSY, UNAUTHORIZED_ACCESS,
};
use super::session::Window;
use super::wire;

/// The largest request: a token has some thousand bytes, and what is decoded takes many times what
/// arrived.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Replies a link may have waiting for credit.
const MAX_WAITING_REPLIES: usize = 256;

/// What answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Tokens,
    Management,
}

/// A request, decoded.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) properties: OrderedMap<String, SimpleValue>,
    /// The text of the body, if it is one.
    pub(super) body: Option<String>,
}

impl Request {
    /// A string among the application properties.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.properties.get(name) {
            Some(SimpleValue::String(text)) => Some(text),
            _ => None,
        }
    }
}

/// The answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) description: String,
    /// The AMQP error behind a failure, for clients that look for it.
    pub(super) condition: Option<String>,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn failed(status: u16, description: impl Into<String>) -> Self {
        Self { status, description: description.into(), condition: None, body: Value::Null }
    }

    /// A failure in terms of AMQP, with the status the service would give it.
    pub(super) fn refused(refusal: Refusal) -> Self {
        let status = match &*refusal.condition {
            NOT_FOUND => 404,
            UNAUTHORIZED_ACCESS => 401,
            SERVER_BUSY => 503,
            _ => 500,
        };
        let condition = Some(refusal.condition.into_owned());
        Self { condition, ..Self::failed(status, refusal.description) }
    }
}

/// An encoded answer and where it should go.
#[derive(Debug)]
pub(super) struct Reply {
    service: Service,
    to: Option<String>,
    message: Bytes,
}

/// A link that takes requests.
#[derive(Debug)]
pub(super) struct Requests {
    service: Service,
    pub(super) grant: Grant,
    intake: Intake,
}

impl Requests {
    pub(super) fn new(service: Service) -> Self {
        Self { service, grant: Grant::default(), intake: Intake::default() }
    }

    pub(super) fn on_transfer(
        &mut self,
        transfer: Transfer,
        link: LinkKey,
        now: Instant,
        context: &mut Context,
    ) -> Result<Option<Reply>, Refusal> {
        let delivered = match self.intake.on_transfer(transfer, MAX_REQUEST_BYTES, context)? {
            Taken::More => return Ok(None),
            Taken::Aborted => {
                self.grant.on_delivery()?;
                return Ok(None);
            }
            Taken::TooLarge { refusal, .. } => return Err(refusal),
            Taken::Whole(delivered) => delivered,
        };
        self.grant.on_delivery()?;
        let ticket = AppendTicket {
            link,
            delivery_id: delivered.id,
            settled: delivered.settled,
            received_at: now,
            bytes: delivered.message.len(),
        };
        match self.answer(&delivered.message, now, context) {
            Ok(reply) => {
                context.settle_later(&ticket, Outcome::Accepted);
                Ok(Some(reply))
            }
            Err(refusal) => {
                context.settle_later(&ticket, Outcome::Rejected(refusal));
                Ok(None)
            }
        }
    }

    fn answer(
        &self,
        message: &[u8],
        now: Instant,
        context: &mut Context,
    ) -> Result<Reply, Refusal> {
        let mut at = 0;
        while at < message.len() {
            at += wire::check(&message[at..])?;
        }
        let Deserializable(message): Deserializable<Message<Body<Value>>> =
            serde_amqp::from_slice(message)?;
        let Properties { message_id, correlation_id, reply_to, .. } =
            message.properties.unwrap_or_default();
        let request = Request {
            properties: message
                .application_properties
                .map(|properties| properties.0)
                .unwrap_or_default(),
            body: match message.body {
                Body::Value(AmqpValue(Value::String(text))) => Some(text),
                _ => None,
            },
        };
        let answer = match self.service {
            Service::Tokens => cbs::answer(&request, now, context),
            Service::Management => {
                context.broker.management_calls.fetch_add(1, Ordering::Relaxed);
                management::answer(&request, context)
            }
        };
        Ok(Reply {
            service: self.service,
            to: reply_to,
            message: encode(answer, message_id.or(correlation_id))?,
        })
    }

    pub(super) fn on_detach(&mut self, context: &mut Context) {
        self.intake.on_detach(context);
    }
}

fn encode(answer: Answer, correlation_id: Option<MessageId>) -> Result<Bytes, Refusal> {
    let status = SimpleValue::Int(i32::from(answer.status));
    let description = SimpleValue::String(answer.description);
    // Both spellings are in use: the first by clients of tokens, the second by management clients.
    let properties = [
        ("statusCode", status.clone()),
        ("statusDescription", description.clone()),
        ("status-code", status),
        ("status-description", description),
    ];
    let condition = answer.condition.map(SimpleValue::String);
    let condition = condition.map(|condition| ("errorCondition", condition));
    let message = Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(Properties { correlation_id, ..Properties::default() }),
        application_properties: Some(ApplicationProperties(
            properties
                .into_iter()
                .chain(condition)
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )),
        body: AmqpValue(answer.body),
        footer: None,
    };
    serde_amqp::to_vec(&Serializable(message)).map(Bytes::from).map_err(|error| {
        Refusal::new(INTERNAL_ERROR, format!("the reply does not encode: {error}"))
    })
}

/// A link that carries replies.
#[derive(Debug)]
pub(super) struct Replies {
    service: Service,
    link_name: String,
    address: Option<String>,
    pub(super) credit: Credit,
    waiting: VecDeque<Bytes>,
    /// Of what waits, and of what is being sent.
    held_bytes: usize,
    unsent: Option<Unsent>,
    queued: bool,
}

impl Replies {
    pub(super) fn new(service: Service, link_name: String, address: Option<String>) -> Self {
        Self {
            service,
            link_name,
            address,
            credit: Credit::default(),
            waiting: VecDeque::new(),
            held_bytes: 0,
            unsent: None,
            queued: false,
        }
    }

    /// How well this link fits a reply; `None` when not at all.
    pub(super) fn rank(&self, reply: &Reply) -> Option<u8> {
        if self.service != reply.service {
            return None;
        }
        let named = reply.to.is_some()
            && (reply.to == self.address || reply.to.as_deref() == Some(&self.link_name));
        Some(u8::from(named))
    }

    /// Takes a reply to send; true when the link is to be queued.
    pub(super) fn on_reply(
        &mut self,
        reply: Reply,
        context: &mut Context,
    ) -> Result<bool, Refusal> {
        if self.waiting.len() >= MAX_WAITING_REPLIES {
            return Err(Refusal::new(
                RESOURCE_LIMIT_EXCEEDED,
                format!("{MAX_WAITING_REPLIES} replies wait for credit on this link"),
            ));
        }
        context.budget.hold(Kept::Replies, reply.message.len())?;
        self.held_bytes += reply.message.len();
        self.waiting.push_back(reply.message);
        Ok(self.queue())
    }

    pub(super) fn on_flow(&mut self, flow: &Flow) -> bool {
        self.credit.on_flow(flow);
        self.queue()
    }

    pub(super) fn on_window(&mut self) -> bool {
        self.queue()
    }

    fn queue(&mut self) -> bool {
        !std::mem::replace(&mut self.queued, true)
    }

    pub(super) fn on_turn(
        &mut self,
        link: LinkKey,
        window: &mut Window,
        context: &mut Context,
    ) -> Turn {
        self.queued = false;
        loop {
            if self.unsent.is_none() {
                if self.waiting.is_empty() {
                    self.release(context);
                }
                self.unsent = self.next_reply(window);
            }
            let Some(mut unsent) = self.unsent.take() else {
                if let Some(flow) = self.credit.take_drain(link.handle) {
                    frame::put_flow(&mut context.out, link.channel, window.state(), Some(flow));
                }
                return Turn::Resting;
            };
            if !window.send(link, &mut unsent, true, context) {
                self.unsent = Some(unsent);
                return Turn::Blocked;
            }
        }
    }

    /// Nothing is held any more.
    fn release(&mut self, context: &mut Context) {
        context.budget.release(Kept::Replies, std::mem::take(&mut self.held_bytes));
    }

    pub(super) fn on_detach(&mut self, context: &mut Context) {
        self.release(context);
    }

    fn next_reply(&mut self, window: &mut Window) -> Option<Unsent> {
        if self.credit.left == 0 {
            return None;
        }
        let message = self.waiting.pop_front()?;
        self.credit.on_sent();
        Some(Unsent { id: window.next_delivery_id(), rest: message })
    }
}
