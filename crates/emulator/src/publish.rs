//! A link that publishes: deliveries in, events into the log, dispositions back.
//!
//! Credit is granted early and in large amounts, and refilled at half: a client whose credit runs
//! out between two frames of a burst pays a round trip, and one that attaches and sends at once may
//! miss a grant that comes late. Credit does not bound memory here, the append budget of the
//! connection does.

use std::sync::Arc;
use std::time::Instant;

use super::broker::Append;
use super::context::Context;
use super::event::{self, Publication};
use super::frame::{LinkFlow, Outcome, Transfer};
use super::hub::Hub;
use super::intake::{Delivered, Intake, Taken};
use super::mailbox::{AppendTicket, LinkKey};
use super::refusal::{Refusal, TRANSFER_LIMIT_EXCEEDED};

/// What a link that sends to the broker may have under way.
pub(super) const CREDIT: u32 = 500;
const REFILL_AT: u32 = CREDIT / 2;

/// The credit of a link that sends to the broker.
#[derive(Debug, Default)]
pub(super) struct Grant {
    delivery_count: u32,
    credit: u32,
}

impl Grant {
    /// Counts one delivery.
    pub(super) fn on_delivery(&mut self) -> Result<(), Refusal> {
        let Some(credit) = self.credit.checked_sub(1) else {
            return Err(Refusal::new(TRANSFER_LIMIT_EXCEEDED, "a transfer without link credit"));
        };
        self.credit = credit;
        self.delivery_count = self.delivery_count.wrapping_add(1);
        Ok(())
    }

    /// The flow to send when the credit has run low.
    pub(super) fn next_refill(&mut self, handle: u32) -> Option<LinkFlow> {
        (self.credit <= REFILL_AT).then(|| {
            self.credit = CREDIT;
            self.state(handle)
        })
    }

    pub(super) fn state(&self, handle: u32) -> LinkFlow {
        LinkFlow { handle, delivery_count: self.delivery_count, credit: self.credit, drain: false }
    }
}

/// A publishing link.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) hub: Arc<Hub>,
    /// The partition its address names.
    partition: Option<u32>,
    pub(super) grant: Grant,
    intake: Intake,
}

impl Publisher {
    pub(super) fn new(hub: Arc<Hub>, partition: Option<u32>) -> Result<Self, Refusal> {
        if let Some(id) = partition {
            hub.partition(id)?;
        }
        Ok(Self { hub, partition, grant: Grant::default(), intake: Intake::default() })
    }

    /// An error ends the link; what is wrong with one delivery rejects that delivery.
    pub(super) fn on_transfer(
        &mut self,
        transfer: Transfer,
        link: LinkKey,
        now: Instant,
        context: &mut Context,
    ) -> Result<(), Refusal> {
        let limit_bytes = context.broker.settings.max_message_bytes;
        match self.intake.on_transfer(transfer, limit_bytes, context)? {
            Taken::More => Ok(()),
            Taken::Aborted => self.grant.on_delivery(),
            Taken::TooLarge { id, settled, refusal } => {
                self.grant.on_delivery()?;
                let ticket =
                    AppendTicket { link, delivery_id: id, settled, received_at: now, bytes: 0 };
                context.settle_later(&ticket, Outcome::Rejected(refusal.clone()));
                context.drop_later(now, link, refusal);
                Ok(())
            }
            Taken::Whole(delivered) => {
                self.grant.on_delivery()?;
                let ticket = AppendTicket {
                    link,
                    delivery_id: delivered.id,
                    settled: delivered.settled,
                    received_at: now,
                    bytes: delivered.message.len(),
                };
                if let Err(refusal) = self.publish(delivered, ticket, context) {
                    context.settle_later(&ticket, Outcome::Rejected(refusal));
                }
                Ok(())
            }
        }
    }

    fn publish(
        &self,
        delivered: Delivered,
        mut ticket: AppendTicket,
        context: &mut Context,
    ) -> Result<(), Refusal> {
        let Publication { events, partition_key, kept_bytes } =
            event::prepare(delivered.message, delivered.format)?;
        // What the log has to take, which can be much more than what arrived.
        ticket.bytes = ticket.bytes.max(kept_bytes);
        let partition = match self.partition {
            Some(id) => self.hub.partition(id)?,
            None => self.hub.route(partition_key.as_deref())?,
        };
        match context.broker.append(partition, events, &context.mailbox, ticket) {
            Append::Done => context.settle_later(&ticket, Outcome::Accepted),
            Append::Pending => context.append_bytes += ticket.bytes,
            Append::Refused(refusal) => return Err(refusal),
        }
        Ok(())
    }

    pub(super) fn on_detach(&mut self, context: &mut Context) {
        self.intake.on_detach(context);
    }
}
