//! AMQP frames: bytes to [`Frame`] and answers to bytes.
//!
//! ```text
//! 0        4    5    6         8            doff*4                size
//! | size   |doff|type| channel | extended   | performative, payload |
//! ```
//!
//! Invariants:
//! - A frame larger than what `open` announced is refused from its first four bytes, so the input
//!   buffer never grows past one frame.
//! - Every performative is written as a full list, nulls included: one common client indexes the
//!   fields by position and fails on a list that leaves out trailing nulls.
//! - The transfer performative is read and written by hand. It is the one on the hot path, and its
//!   payload is handed on as a slice of the input buffer.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fe2o3_amqp_types::definitions::{ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Source, Target};
use fe2o3_amqp_types::performatives::{Attach, Begin, Close, Detach, Disposition, End, Flow, Open};

use super::refusal::{DECODE_ERROR, FRAMING_ERROR, Refusal};
use super::wire;

/// The largest frame the broker accepts.
pub(super) const MAX_FRAME_BYTES: u32 = 1024 * 1024;
/// No peer may ask for smaller frames than this (AMQP 1.0, part 2.4.1).
pub(super) const MIN_MAX_FRAME_BYTES: u32 = 512;
/// The largest performative but a transfer's payload. What is decoded takes many times what arrived,
/// and clients send some hundred bytes.
const MAX_PERFORMATIVE_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 8;
const AMQP_FRAME: u8 = 0;
const SASL_FRAME: u8 = 1;

/// One frame from the peer.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) channel: u16,
    pub(super) body: Body,
}

/// What a frame carries.
#[derive(Debug)]
pub(super) enum Body {
    /// A heartbeat.
    Empty,
    SaslInit,
    Open(Box<Open>),
    Begin(Begin),
    Attach(Box<Attach>),
    Flow(Flow),
    Transfer(Transfer),
    Disposition(Disposition),
    Detach(Detach),
    End(End),
    Close(Close),
}

/// An incoming transfer with its payload.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) handle: u32,
    pub(super) delivery_id: Option<u32>,
    pub(super) message_format: Option<u32>,
    pub(super) settled: bool,
    pub(super) more: bool,
    pub(super) aborted: bool,
    pub(super) payload: Bytes,
}

/// Takes the next whole frame off `input`; `None` until there is one.
#[cfg(any(test, feature = "testing"))]
pub(super) fn take_frame(input: &mut BytesMut) -> Result<Option<Frame>, Refusal> {
    take_frame_within(input, MAX_FRAME_BYTES as usize)
}

/// The same of a peer whose frames may have `most` bytes.
pub(super) fn take_frame_within(
    input: &mut BytesMut,
    most: usize,
) -> Result<Option<Frame>, Refusal> {
    let [a, b, c, d, ..] = input[..] else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([a, b, c, d]);
    let size = size as usize;
    if size > most {
        return Err(Refusal::new(
            FRAMING_ERROR,
            format!("a frame of {size} bytes; this connection may send {most} at once"),
        ));
    }
    if size < HEADER_BYTES {
        return Err(Refusal::new(
            FRAMING_ERROR,
            format!("a frame of {size} bytes is smaller than its header"),
        ));
    }
    if input.len() < size {
        return Ok(None);
    }
    let mut frame = input.split_to(size).freeze();
    let (data_offset, kind) = (usize::from(frame[4]) * 4, frame[5]);
    let channel = u16::from_be_bytes([frame[6], frame[7]]);
    if data_offset < HEADER_BYTES || data_offset > size {
        return Err(Refusal::new(
            FRAMING_ERROR,
            format!("a frame of {size} bytes with its data at {data_offset}"),
        ));
    }
    frame.advance(data_offset);
    let body = match kind {
        AMQP_FRAME => decode_body(frame)?,
        SASL_FRAME => decode_sasl(&frame)?,
        other => {
            return Err(Refusal::new(
                FRAMING_ERROR,
                format!("frame type {other} is neither AMQP nor SASL"),
            ));
        }
    };
    Ok(Some(Frame { channel, body }))
}

fn decode_sasl(bytes: &[u8]) -> Result<Body, Refusal> {
    wire::check(bytes)?;
    match wire::descriptor(bytes)? {
        (0x41, _) => Ok(Body::SaslInit),
        (code, _) => Err(Refusal::new(
            DECODE_ERROR,
            format!("SASL performative {code:#x} where sasl-init was expected"),
        )),
    }
}

fn decode_body(bytes: Bytes) -> Result<Body, Refusal> {
    if bytes.is_empty() {
        return Ok(Body::Empty);
    }
    let len = wire::check(&bytes)?;
    if len > MAX_PERFORMATIVE_BYTES {
        return Err(Refusal::new(
            FRAMING_ERROR,
            format!("a performative of {len} bytes; it may have {MAX_PERFORMATIVE_BYTES}"),
        ));
    }
    let (code, descriptor_len) = wire::descriptor(&bytes)?;
    let performative = &bytes[..len];
    Ok(match code {
        0x10 => Body::Open(Box::new(serde_amqp::from_slice(performative)?)),
        0x11 => Body::Begin(serde_amqp::from_slice(performative)?),
        0x12 => Body::Attach(Box::new(serde_amqp::from_slice(performative)?)),
        0x13 => Body::Flow(serde_amqp::from_slice(performative)?),
        0x14 => {
            let fields = wire::Items::new(&performative[descriptor_len..])?;
            Body::Transfer(decode_transfer(fields, bytes.slice(len..))?)
        }
        0x15 => Body::Disposition(serde_amqp::from_slice(performative)?),
        0x16 => Body::Detach(serde_amqp::from_slice(performative)?),
        0x17 => Body::End(serde_amqp::from_slice(performative)?),
        0x18 => Body::Close(serde_amqp::from_slice(performative)?),
        _ => {
            return Err(Refusal::new(DECODE_ERROR, format!("performative {code:#x} is not known")));
        }
    })
}

fn decode_transfer(mut fields: wire::Items<'_>, payload: Bytes) -> Result<Transfer, Refusal> {
    let handle = wire::as_uint(fields.next_item()?)?
        .ok_or_else(|| Refusal::new(DECODE_ERROR, "a transfer without a handle"))?;
    let delivery_id = wire::as_uint(fields.next_item()?)?;
    let _delivery_tag = fields.next_item()?;
    let message_format = wire::as_uint(fields.next_item()?)?;
    let settled = wire::as_bool(fields.next_item()?)?;
    let more = wire::as_bool(fields.next_item()?)?;
    let _rcv_settle_mode = fields.next_item()?;
    let _state = fields.next_item()?;
    let _resume = fields.next_item()?;
    let aborted = wire::as_bool(fields.next_item()?)?;
    Ok(Transfer { handle, delivery_id, message_format, settled, more, aborted, payload })
}

fn put_frame(out: &mut BytesMut, kind: u8, channel: u16, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_slice(&[2, kind]);
    out.put_u16(channel);
    fill(out);
    wire::patch_u32(out, start, out.len() - start);
}

fn put_performative(
    out: &mut BytesMut,
    channel: u16,
    code: u8,
    fields: u32,
    fill: impl FnOnce(&mut BytesMut),
) {
    put_frame(out, AMQP_FRAME, channel, |out| {
        wire::put_descriptor(out, code);
        wire::put_list(out, fields, fill);
    });
}

fn put_nulls(out: &mut BytesMut, count: usize) {
    for _ in 0..count {
        wire::put_null(out);
    }
}

/// Writes a value the types crate knows how to encode, or null when it cannot.
fn put_typed<T: serde::Serialize>(out: &mut BytesMut, value: &T) {
    match serde_amqp::to_vec(value) {
        Ok(bytes) => out.put_slice(&bytes),
        Err(error) => {
            tracing::debug!(%error, "a value of the peer cannot be echoed");
            wire::put_null(out);
        }
    }
}

pub(super) fn put_heartbeat(out: &mut BytesMut) {
    put_frame(out, AMQP_FRAME, 0, |_| {});
}

pub(super) fn put_sasl_mechanisms(out: &mut BytesMut, names: &[&str]) {
    put_frame(out, SASL_FRAME, 0, |out| {
        wire::put_descriptor(out, 0x40);
        wire::put_list(out, 1, |out| {
            let mut array = BytesMut::new();
            array.put_u32(names.len() as u32);
            array.put_u8(0xb3);
            for name in names {
                array.put_u32(name.len() as u32);
                array.put_slice(name.as_bytes());
            }
            out.put_u8(0xf0);
            out.put_u32(array.len() as u32);
            out.put_slice(&array);
        });
    });
}

/// Tells the peer that it is authenticated.
pub(super) fn put_sasl_outcome_ok(out: &mut BytesMut) {
    put_frame(out, SASL_FRAME, 0, |out| {
        wire::put_descriptor(out, 0x44);
        wire::put_list(out, 2, |out| {
            out.put_slice(&[0x50, 0]);
            wire::put_null(out);
        });
    });
}

pub(super) fn put_open(
    out: &mut BytesMut,
    container_id: &str,
    channel_max: u16,
    idle_timeout_millis: u32,
) {
    put_performative(out, 0, 0x10, 10, |out| {
        wire::put_string(out, container_id);
        wire::put_null(out);
        wire::put_uint(out, MAX_FRAME_BYTES);
        wire::put_ushort(out, channel_max);
        wire::put_uint(out, idle_timeout_millis);
        put_nulls(out, 5);
    });
}

pub(super) fn put_begin(out: &mut BytesMut, channel: u16, window: u32, handle_max: u32) {
    put_performative(out, channel, 0x11, 8, |out| {
        wire::put_ushort(out, channel);
        // Our first transfer has the number 0.
        wire::put_uint(out, 0);
        wire::put_uint(out, window);
        wire::put_uint(out, window);
        wire::put_uint(out, handle_max);
        put_nulls(out, 3);
    });
}

/// Which termini an attach answer names.
pub(super) enum Termini {
    /// The ones the peer asked for.
    AsAsked,
    /// None for our end: the link is refused and a detach with the reason follows.
    Refused,
}

/// Answers `asked`, with the roles exchanged.
pub(super) fn put_attach_answer(
    out: &mut BytesMut,
    channel: u16,
    asked: &Attach,
    termini: Termini,
    max_message_bytes: u64,
) {
    let we_send = asked.role == Role::Receiver;
    let refused = matches!(termini, Termini::Refused);
    put_performative(out, channel, 0x12, 14, |out| {
        wire::put_string(out, &asked.name);
        wire::put_uint(out, asked.handle.0);
        wire::put_bool(out, !we_send);
        out.put_slice(&[
            0x50,
            match asked.snd_settle_mode {
                SenderSettleMode::Unsettled => 0,
                SenderSettleMode::Settled => 1,
                SenderSettleMode::Mixed => 2,
            },
        ]);
        out.put_slice(&[
            0x50,
            match asked.rcv_settle_mode {
                ReceiverSettleMode::First => 0,
                ReceiverSettleMode::Second => 1,
            },
        ]);
        match asked.source.as_deref() {
            Some(source) if !(refused && we_send) => put_source(out, source),
            _ => wire::put_null(out),
        }
        let target = asked.target.as_deref().cloned().map(Target::try_from);
        match target {
            Some(Ok(target)) if !refused || we_send => put_target(out, &target),
            _ => wire::put_null(out),
        }
        wire::put_null(out);
        wire::put_bool(out, false);
        wire::put_optional_uint(out, we_send.then_some(0));
        wire::put_ulong(out, max_message_bytes);
        put_nulls(out, 3);
    });
}

fn put_source(out: &mut BytesMut, source: &Source) {
    wire::put_descriptor(out, 0x28);
    wire::put_list(out, 11, |out| {
        put_typed(out, &source.address);
        put_typed(out, &source.durable);
        put_typed(out, &source.expiry_policy);
        wire::put_uint(out, source.timeout);
        wire::put_bool(out, source.dynamic);
        put_typed(out, &source.dynamic_node_properties);
        put_typed(out, &source.distribution_mode);
        put_typed(out, &source.filter);
        put_typed(out, &source.default_outcome);
        put_typed(out, &source.outcomes);
        put_typed(out, &source.capabilities);
    });
}

fn put_target(out: &mut BytesMut, target: &Target) {
    wire::put_descriptor(out, 0x29);
    wire::put_list(out, 7, |out| {
        put_typed(out, &target.address);
        put_typed(out, &target.durable);
        put_typed(out, &target.expiry_policy);
        wire::put_uint(out, target.timeout);
        wire::put_bool(out, target.dynamic);
        put_typed(out, &target.dynamic_node_properties);
        put_typed(out, &target.capabilities);
    });
}

/// The state of a session as a flow frame reports it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionFlow {
    pub(super) next_incoming_id: u32,
    pub(super) incoming_window: u32,
    pub(super) next_outgoing_id: u32,
    pub(super) outgoing_window: u32,
}

/// The state of a link as a flow frame reports it.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkFlow {
    pub(super) handle: u32,
    pub(super) delivery_count: u32,
    pub(super) credit: u32,
    pub(super) drain: bool,
}

pub(super) fn put_flow(
    out: &mut BytesMut,
    channel: u16,
    session: SessionFlow,
    link: Option<LinkFlow>,
) {
    put_performative(out, channel, 0x13, 11, |out| {
        wire::put_uint(out, session.next_incoming_id);
        wire::put_uint(out, session.incoming_window);
        wire::put_uint(out, session.next_outgoing_id);
        wire::put_uint(out, session.outgoing_window);
        wire::put_optional_uint(out, link.map(|link| link.handle));
        wire::put_optional_uint(out, link.map(|link| link.delivery_count));
        wire::put_optional_uint(out, link.map(|link| link.credit));
        wire::put_null(out);
        wire::put_bool(out, link.is_some_and(|link| link.drain));
        wire::put_bool(out, false);
        wire::put_null(out);
    });
}

/// One delivery to a receiver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivery {
    pub(super) handle: u32,
    pub(super) id: u32,
    pub(super) settled: bool,
}

/// Writes one transfer frame with as much of `payload` as the frame size allows, and returns how
/// many bytes that was.
pub(super) fn put_transfer(
    out: &mut BytesMut,
    channel: u16,
    delivery: Delivery,
    payload: &[u8],
    max_frame_bytes: u32,
) -> usize {
    // An upper bound of the frame header and the performative below.
    const OVERHEAD_BYTES: usize = 64;
    let room = (max_frame_bytes.max(MIN_MAX_FRAME_BYTES) as usize) - OVERHEAD_BYTES;
    let part = &payload[..payload.len().min(room)];
    put_performative_with(out, channel, part, |out| {
        wire::put_uint(out, delivery.handle);
        wire::put_uint(out, delivery.id);
        wire::put_binary(out, &delivery.id.to_be_bytes());
        wire::put_uint(out, 0);
        wire::put_bool(out, delivery.settled);
        wire::put_bool(out, part.len() < payload.len());
        put_nulls(out, 2);
        wire::put_bool(out, false);
        wire::put_bool(out, false);
        wire::put_bool(out, false);
    });
    part.len()
}

fn put_performative_with(
    out: &mut BytesMut,
    channel: u16,
    payload: &[u8],
    fill: impl FnOnce(&mut BytesMut),
) {
    put_frame(out, AMQP_FRAME, channel, |out| {
        wire::put_descriptor(out, 0x14);
        wire::put_list(out, 11, fill);
        out.put_slice(payload);
    });
}

/// How a delivery of the peer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted,
    Rejected(Refusal),
}

/// Settles the deliveries `first..=last` of this session; `as_sender` says in which role.
pub(super) fn put_disposition(
    out: &mut BytesMut,
    channel: u16,
    as_sender: bool,
    first: u32,
    last: u32,
    outcome: &Outcome,
) {
    put_performative(out, channel, 0x15, 6, |out| {
        wire::put_bool(out, !as_sender);
        wire::put_uint(out, first);
        wire::put_uint(out, last);
        wire::put_bool(out, true);
        match outcome {
            Outcome::Accepted => {
                wire::put_descriptor(out, 0x24);
                wire::put_list(out, 0, |_| {});
            }
            Outcome::Rejected(refusal) => {
                wire::put_descriptor(out, 0x25);
                wire::put_list(out, 1, |out| put_error(out, Some(refusal)));
            }
        }
        wire::put_bool(out, false);
    });
}

fn put_error(out: &mut BytesMut, refusal: Option<&Refusal>) {
    let Some(refusal) = refusal else {
        return wire::put_null(out);
    };
    wire::put_descriptor(out, 0x1d);
    wire::put_list(out, 3, |out| {
        wire::put_symbol(out, &refusal.condition);
        wire::put_string(out, &refusal.description);
        wire::put_null(out);
    });
}

pub(super) fn put_detach(
    out: &mut BytesMut,
    channel: u16,
    handle: u32,
    closed: bool,
    refusal: Option<&Refusal>,
) {
    put_performative(out, channel, 0x16, 3, |out| {
        wire::put_uint(out, handle);
        wire::put_bool(out, closed);
        put_error(out, refusal);
    });
}

pub(super) fn put_end(out: &mut BytesMut, channel: u16, refusal: Option<&Refusal>) {
    put_performative(out, channel, 0x17, 1, |out| put_error(out, refusal));
}

pub(super) fn put_close(out: &mut BytesMut, refusal: Option<&Refusal>) {
    put_performative(out, 0, 0x18, 1, |out| put_error(out, refusal));
}
