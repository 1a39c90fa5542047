//! A whole connection: bytes of a client in, frames out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};

use crate::broker::{Broker, Storage};
use crate::connection::Connection;
use crate::frame;
use crate::mailbox::Mailbox;
use crate::settings::{Settings, TokenCheck};

/// Whatever a client sends, it is answered with whole frames, and never with more than the output may
/// hold. The first byte says whether tokens are asked for, and whether the connection is open already.
pub fn connections(bytes: &[u8]) {
    let Some((kind, sent)) = bytes.split_first() else { return };
    let tokens = if kind & 1 == 0 { TokenCheck::Ignored } else { TokenCheck::Required };
    let broker = Broker::new(Settings { tokens, ..Settings::default() }, Storage::Memory);
    assert!(broker.open_hub("hub", 2).is_ok());
    let mut now = Instant::now();
    let mut connection = Connection::new(Arc::new(broker), Arc::new(Mailbox::default()), now);
    let mut input = BytesMut::new();
    if kind & 2 != 0 {
        input.extend_from_slice(b"AMQP\x00\x01\x00\x00");
        frame::put_open(&mut input, "peer", 10, 0);
        frame::put_begin(&mut input, 0, 1000, 100);
    }
    input.extend_from_slice(sent);
    connection.on_input(&mut input, now);
    // Answers are due some time after they were asked for, and more is read once they are out.
    for _ in 0..4 {
        now += Duration::from_secs(1);
        connection.on_notices();
        connection.go_on(&mut input, now);
        connection.on_turn(now);
        assert!(connection.take_read_jobs().is_empty(), "nothing is in files");
        assert!(connection.output().len() <= MAX_OUTPUT_BYTES);
        check(connection.output().split());
        connection.on_wrote(now);
    }
}

/// What a connection holds for its peer, and what one more frame may add to it.
const MAX_OUTPUT_BYTES: usize = 4 * 1024 * 1024 + 2 * frame::MAX_FRAME_BYTES as usize;

/// Whether these are headers and frames.
fn check(mut out: BytesMut) {
    while let Some(size) = out.first_chunk::<4>().copied() {
        let size = match &size {
            b"AMQP" => 8,
            size => u32::from_be_bytes(*size) as usize,
        };
        assert!(
            (8..=out.len()).contains(&size),
            "a frame of {size} bytes, and {} are out",
            out.len()
        );
        out.advance(size);
    }
    assert!(out.is_empty());
}
