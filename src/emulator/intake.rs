//! Deliveries from a peer, put together from their transfer frames.

use bytes::{Bytes, BytesMut};

use super::context::Context;
use super::frame::Transfer;
use super::refusal::{DECODE_ERROR, MESSAGE_SIZE_EXCEEDED, Refusal};

/// The largest message the broker takes, as the service's standard tier.
pub(super) const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

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
}

/// What a transfer did to the link.
#[derive(Debug)]
pub(super) enum Taken {
    Whole(Delivered),
    More,
    /// The peer gave the delivery up; its credit is used all the same.
    Aborted,
}

impl Intake {
    pub(super) fn on_transfer(
        &mut self,
        transfer: Transfer,
        context: &mut Context,
    ) -> Result<Taken, Refusal> {
        match std::mem::take(self) {
            Self::Between => {
                let id = transfer
                    .delivery_id
                    .ok_or_else(|| Refusal::new(DECODE_ERROR, "a delivery without an id"))?;
                check_size(transfer.payload.len())?;
                if transfer.aborted {
                    return Ok(Taken::Aborted);
                }
                if !transfer.more {
                    return Ok(Taken::Whole(Delivered {
                        id,
                        settled: transfer.settled,
                        format: transfer.message_format,
                        message: transfer.payload,
                    }));
                }
                context.hold_partial(transfer.payload.len())?;
                *self = Self::Within {
                    id,
                    settled: transfer.settled,
                    format: transfer.message_format,
                    message: BytesMut::from(&transfer.payload[..]),
                };
                Ok(Taken::More)
            }
            Self::Within {
                id,
                settled,
                format,
                mut message,
            } => {
                context.release_partial(message.len());
                if transfer.aborted {
                    return Ok(Taken::Aborted);
                }
                check_size(message.len() + transfer.payload.len())?;
                message.extend_from_slice(&transfer.payload);
                let settled = settled || transfer.settled;
                if !transfer.more {
                    return Ok(Taken::Whole(Delivered {
                        id,
                        settled,
                        format,
                        message: message.freeze(),
                    }));
                }
                context.hold_partial(message.len())?;
                *self = Self::Within {
                    id,
                    settled,
                    format,
                    message,
                };
                Ok(Taken::More)
            }
        }
    }

    /// Gives back what the link held.
    pub(super) fn on_detach(&mut self, context: &mut Context) {
        if let Self::Within { message, .. } = std::mem::take(self) {
            context.release_partial(message.len());
        }
    }
}

fn check_size(bytes: usize) -> Result<(), Refusal> {
    if bytes <= MAX_MESSAGE_BYTES {
        return Ok(());
    }
    Err(Refusal::new(
        MESSAGE_SIZE_EXCEEDED,
        format!(
            "The received message (delivery size: {bytes} bytes or more) exceeds the limit \
             ({MAX_MESSAGE_BYTES} bytes) currently allowed on the link"
        ),
    ))
}
