//! From an attach to the endpoint it asks for.

use std::sync::Arc;

use fe2o3_amqp_types::definitions::{Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::Target;
use fe2o3_amqp_types::performatives::Attach;
use serde_amqp::Value;

use super::address::{self, Node};
use super::consume::Consumer;
use super::context::Context;
use super::injection::FaultPoint;
use super::mailbox::LinkKey;
use super::publish::{Grant, Publisher};
use super::refusal::{ARGUMENT_ERROR, NOT_ALLOWED, NOT_IMPLEMENTED, Refusal};
use super::request::{Replies, Requests, Service};
use super::session::Endpoint;
use super::settings::TokenCheck;

/// The link property that carries a receiver's owner level.
const EPOCH: &str = "com.microsoft:epoch";

impl Endpoint {
    /// Opens what `attach` asks for. A receiver is registered at its partition here.
    pub(super) fn open(
        attach: &Attach,
        key: LinkKey,
        context: &mut Context,
    ) -> Result<Self, Refusal> {
        authorize(attach, key, context)?;
        let opened = match attach.role {
            Role::Sender => Self::open_incoming(attach, key, context),
            Role::Receiver => Self::open_outgoing(attach, key, context),
        };
        if opened.is_err() {
            context.grants.on_detach(key);
        }
        opened
    }

    fn open_incoming(attach: &Attach, key: LinkKey, context: &Context) -> Result<Self, Refusal> {
        let target = attach.target.as_deref().cloned().map(Target::try_from);
        let address = match &target {
            Some(Ok(target)) => target.address.as_deref(),
            _ => None,
        };
        match address::parse_node(address.ok_or_else(|| no_address("target"))?)? {
            Node::Tokens => Ok(Self::Requests(Box::new(Requests::new(Service::Tokens)))),
            Node::Management => Ok(Self::Requests(Box::new(Requests::new(Service::Management)))),
            Node::Hub { hub, partition } => open_publisher(&hub, partition, key, context),
            Node::Publisher { hub, .. } => open_publisher(&hub, None, key, context),
            Node::ConsumerGroup { .. } => Err(Refusal::new(
                NOT_ALLOWED,
                "events are published to a hub or one of its partitions, not to a consumer group",
            )),
        }
    }

    fn open_outgoing(attach: &Attach, key: LinkKey, context: &Context) -> Result<Self, Refusal> {
        let source = attach.source.as_deref().ok_or_else(|| no_address("source"))?;
        let address = source.address.as_deref().ok_or_else(|| no_address("source"))?;
        let replies = |service| {
            let target = attach.target.as_deref().cloned().map(Target::try_from);
            let reply_address = match target {
                Some(Ok(target)) => target.address,
                _ => None,
            };
            Self::Replies(Box::new(Replies::new(service, attach.name.clone(), reply_address)))
        };
        let (hub, group, partition) = match address::parse_node(address)? {
            Node::Tokens => return Ok(replies(Service::Tokens)),
            Node::Management => return Ok(replies(Service::Management)),
            Node::Hub { .. } | Node::Publisher { .. } => {
                return Err(Refusal::new(
                    NOT_ALLOWED,
                    "events are received from hub/ConsumerGroups/group/Partitions/n",
                ));
            }
            Node::ConsumerGroup { hub, group, partition } => {
                inject(context)?;
                (context.broker.hub(&hub)?, group, partition)
            }
        };
        hub.admit_group(&group)?;
        let partition = Arc::clone(hub.partition(partition)?);
        let start = address::start_of(source.filter.as_ref())?;
        let cursor = partition.log.cursor_at(start)?;
        partition.on_attach(&group, owner_level(attach)?, &context.mailbox, key)?;
        let settled = attach.snd_settle_mode != SenderSettleMode::Unsettled;
        Ok(Self::Consumer(Box::new(Consumer::new(partition, group, cursor, settled))))
    }

    /// The credit the broker grants on this link, when the peer is its sender.
    pub(super) fn grant(&mut self) -> Option<&mut Grant> {
        match self {
            Self::Publisher(publisher) => Some(&mut publisher.grant),
            Self::Requests(requests) => Some(&mut requests.grant),
            Self::Consumer(_) | Self::Replies(_) => None,
        }
    }

    /// Gives up what the link holds elsewhere.
    pub(super) fn on_detach(self, key: LinkKey, context: &mut Context) {
        context.grants.on_detach(key);
        match self {
            Self::Publisher(mut publisher) => {
                publisher.hub.on_sender_gone(&context.mailbox, key);
                publisher.on_detach(context);
            }
            Self::Requests(mut requests) => requests.on_detach(context),
            Self::Consumer(mut consumer) => consumer.on_detach(key, context),
            Self::Replies(mut replies) => replies.on_detach(context),
        }
    }
}

fn open_publisher(
    hub: &str,
    partition: Option<u32>,
    key: LinkKey,
    context: &Context,
) -> Result<Endpoint, Refusal> {
    inject(context)?;
    let publisher = Publisher::new(context.broker.hub(hub)?, partition)?;
    publisher.hub.on_sender(&context.mailbox, key);
    Ok(Endpoint::Publisher(Box::new(publisher)))
}

/// Refuses a link when a fault wants that.
fn inject(context: &Context) -> Result<(), Refusal> {
    context.broker.injections.take(FaultPoint::Attach).map_or(Ok(()), Err)
}

/// What the names and addresses of a link take.
pub(super) fn text_bytes(attach: &Attach) -> usize {
    let source = attach.source.as_deref().and_then(|source| source.address.as_ref());
    let target = match attach.target.as_deref().cloned().map(Target::try_from) {
        Some(Ok(target)) => target.address.map_or(0, |address| address.len()),
        _ => 0,
    };
    attach.name.len() + source.map_or(0, |address| address.len()) + target
}

/// Whether a token of this connection opens what `attach` names, when that is asked for.
fn authorize(attach: &Attach, key: LinkKey, context: &mut Context) -> Result<(), Refusal> {
    if context.broker.settings.tokens == TokenCheck::Ignored {
        return Ok(());
    }
    let address = match attach.role {
        Role::Receiver => attach.source.as_deref().and_then(|source| source.address.clone()),
        Role::Sender => match attach.target.as_deref().cloned().map(Target::try_from) {
            Some(Ok(target)) => target.address,
            _ => None,
        },
    };
    // Without an address it is refused for that.
    let Some(address) = address else { return Ok(()) };
    match address::parse_node(&address)? {
        // Tokens come in there.
        Node::Tokens => Ok(()),
        node => context.grants.on_attach(key, node.resource()),
    }
}

fn no_address(which: &str) -> Refusal {
    Refusal::new(
        NOT_IMPLEMENTED,
        format!(
            "a link whose {which} has no address; dynamic nodes and transactions are not offered"
        ),
    )
}

fn owner_level(attach: &Attach) -> Result<Option<i64>, Refusal> {
    let properties = attach.properties.iter().flat_map(|all| all.iter());
    for (name, value) in properties {
        if name.as_str() == EPOCH {
            return match value {
                Value::Long(level) => Ok(Some(*level)),
                Value::Int(level) => Ok(Some(i64::from(*level))),
                Value::Ulong(level) => i64::try_from(*level).map(Some).map_err(|_| bad_level()),
                Value::Uint(level) => Ok(Some(i64::from(*level))),
                Value::Null => Ok(None),
                _ => Err(bad_level()),
            };
        }
    }
    Ok(None)
}

fn bad_level() -> Refusal {
    Refusal::new(ARGUMENT_ERROR, format!("the link property {EPOCH} is not a long"))
}
