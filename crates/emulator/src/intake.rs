//! Deliveries from a peer, put together from their transfer frames.

use bytes::{Bytes, BytesMut};

use super::budget::Kept;
use super::context::Context;
use super::frame::Transfer;
use super::refusal::{DECODE_ERROR, MESSAGE_SIZE_EXCEEDED, Refusal};

/// A whole delivery.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) id: u32,
    pub(super) settled: bool,
    pub(super) format: Option<u32>,
    pub(super) message: Bytes,
}

/// What a link has of the delivery that is arriving.
#[derive(Debug, Default)]
pub(super) enum Intake {
    #[default]
    Between,
    Within {
        id: u32,
        settled: bool,
        format: Option<u32>,
        message: BytesMut,
    },
    /// It is too large. The rest is let go by, and the delivery refused at its end: a client told
    /// earlier would not be listening yet.
    Discarding {
        id: u32,
        settled: bool,
        bytes: usize,
    },
}

/// What a transfer did to the link.
#[derive(Debug)]
pub(super) enum Taken {
    Whole(Delivered),
    More,
    /// The peer gave the delivery up; its credit is used all the same.
    Aborted,
    TooLarge {
        id: u32,
        settled: bool,
        refusal: Refusal,
    },
}

impl Intake {
    /// Takes a frame of a delivery that may have `limit_bytes`.
    pub(super) fn on_transfer(
        &mut self,
        transfer: Transfer,
        limit_bytes: usize,
        context: &mut Context,
    ) -> Result<Taken, Refusal> {
        let (id, settled, format, mut message) = match std::mem::take(self) {
            Self::Between => {
                let id = transfer
                    .delivery_id
                    .ok_or_else(|| Refusal::new(DECODE_ERROR, "a delivery without an id"))?;
                (id, false, transfer.message_format, None)
            }
            Self::Within { id, settled, format, message } => {
                context.budget.release(Kept::Unfinished, message.capacity());
                (id, settled, format, Some(message))
            }
            Self::Discarding { id, settled, bytes } => {
                return Ok(self.discard(id, settled, bytes, limit_bytes, &transfer));
            }
        };
        if transfer.aborted {
            return Ok(Taken::Aborted);
        }
        let settled = settled || transfer.settled;
        let held = message.as_ref().map_or(0, BytesMut::len);
        if held + transfer.payload.len() > limit_bytes {
            return Ok(self.discard(id, settled, held, limit_bytes, &transfer));
        }
        if !transfer.more {
            let message = match message {
                // The usual case: one frame, whose bytes are used where they are.
                None => transfer.payload,
                Some(mut message) => {
                    message.extend_from_slice(&transfer.payload);
                    message.freeze()
                }
            };
            return Ok(Taken::Whole(Delivered { id, settled, format, message }));
        }
        let message = match message.take() {
            None => BytesMut::from(&transfer.payload[..]),
            Some(mut message) => {
                message.extend_from_slice(&transfer.payload);
                message
            }
        };
        context.budget.hold(Kept::Unfinished, message.capacity())?;
        *self = Self::Within { id, settled, format, message };
        Ok(Taken::More)
    }

    fn discard(
        &mut self,
        id: u32,
        settled: bool,
        bytes: usize,
        limit_bytes: usize,
        transfer: &Transfer,
    ) -> Taken {
        let bytes = bytes.saturating_add(transfer.payload.len());
        let settled = settled || transfer.settled;
        if transfer.aborted {
            return Taken::Aborted;
        }
        if transfer.more {
            *self = Self::Discarding { id, settled, bytes };
            return Taken::More;
        }
        Taken::TooLarge {
            id,
            settled,
            refusal: Refusal::new(
                MESSAGE_SIZE_EXCEEDED,
                format!(
                    "The received message (delivery-id: {id}, size: {bytes} bytes) exceeds the \
                     limit ({limit_bytes} bytes) currently allowed on the link"
                ),
            ),
        }
    }

    /// Gives back what the link held.
    pub(super) fn on_detach(&mut self, context: &mut Context) {
        if let Self::Within { message, .. } = std::mem::take(self) {
            context.budget.release(Kept::Unfinished, message.capacity());
        }
    }
}
