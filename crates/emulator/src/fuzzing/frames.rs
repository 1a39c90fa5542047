//! Frames of clients.

use bytes::BytesMut;

use crate::MAX_MESSAGE_BYTES;
use crate::frame::{self, Body, Delivery, Frame, Termini};

/// Frames are taken off, one after the other, or refused with a frame that a peer can read. What
/// answers an attach is an attach of the same link, and a delivery comes out as it came in.
pub fn frames(bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    loop {
        let before = input.len();
        match frame::take_frame(&mut input) {
            Ok(Some(frame)) => {
                assert!(input.len() < before);
                answered(frame);
            }
            Ok(None) => return assert_eq!(input.len(), before),
            Err(refusal) => {
                let mut out = BytesMut::new();
                frame::put_close(&mut out, Some(&refusal));
                return assert!(
                    matches!(read(out).body, Body::Close(close) if close.error.is_some())
                );
            }
        }
    }
}

fn answered(Frame { channel, body }: Frame) {
    match body {
        Body::Attach(asked) => {
            for termini in [Termini::AsAsked, Termini::Refused] {
                let mut out = BytesMut::new();
                let most = MAX_MESSAGE_BYTES as u64;
                frame::put_attach_answer(&mut out, channel, &asked, termini, most);
                let Frame { channel: answered_on, body: Body::Attach(answer) } = read(out) else {
                    unreachable!("an attach is answered by another frame");
                };
                assert_eq!((answered_on, &answer.name), (channel, &asked.name));
                assert!(answer.handle == asked.handle && answer.role != asked.role);
            }
        }
        Body::Transfer(transfer) => {
            let id = transfer.delivery_id.unwrap_or_default();
            let delivery = Delivery { handle: transfer.handle, id, settled: transfer.settled };
            let (mut rest, mut parts) = (&transfer.payload[..], BytesMut::new());
            let mut more = true;
            while more {
                let mut out = BytesMut::new();
                let part = frame::put_transfer(&mut out, channel, delivery, rest, 0);
                assert!(out.len() <= frame::MIN_MAX_FRAME_BYTES as usize);
                let Frame { body: Body::Transfer(read), .. } = read(out) else {
                    unreachable!("a transfer is another frame");
                };
                assert_eq!((read.handle, read.delivery_id), (transfer.handle, Some(id)));
                parts.extend_from_slice(&read.payload);
                (rest, more) = (&rest[part..], read.more);
            }
            assert_eq!(parts, transfer.payload);
        }
        _ => {}
    }
}

/// The one frame in `out`.
fn read(mut out: BytesMut) -> Frame {
    let frame = frame::take_frame(&mut out);
    assert!(matches!(frame, Ok(Some(_))) && out.is_empty(), "{frame:?}");
    match frame {
        Ok(Some(frame)) => frame,
        _ => unreachable!("looked at above"),
    }
}
