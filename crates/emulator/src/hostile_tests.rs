//! Clients that are broken or mean no good: what they send, what they do not read, how many they are.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use fe2o3_amqp_types::definitions::Role;
use futures::{SinkExt, StreamExt};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::Emulator;
use super::connection_tests::{
    CONSUMER, Peer, WINDOW, broker, closed_with, message, publish, put_token,
};
use super::frame::{self, Body, LinkFlow};
use super::websocket_tests::{ANY, PATH, connect, greet, start};

const LIMIT: Duration = Duration::from_secs(20);
/// Above this a connection reads nothing more; what one read adds comes on top.
const OUTPUT_BYTES: usize = 4 * 1024 * 1024 + 512 * 1024;

/// What a client of every kind of link would send, after its `begin`.
pub(super) fn conversation() -> BytesMut {
    let mut peer = Peer::open(&broker());
    peer.attach(0, Role::Sender, "hub/Partitions/0");
    peer.attach(1, Role::Receiver, CONSUMER);
    peer.attach(2, Role::Sender, "$cbs");
    peer.attach(3, Role::Receiver, "$cbs");
    peer.flow(WINDOW, 1, 0, 10, false);
    peer.flow(WINDOW, 3, 0, 10, true);
    peer.transfer(0, 0, false, &message(b"whole"));
    peer.transfer(0, 1, true, &message(&[7; 50])[..30]);
    peer.transfer(0, 1, false, &message(&[7; 50])[30..]);
    peer.transfer(2, 2, false, &put_token("sb://localhost/hub", "token"));
    peer.detach(1);
    frame::put_disposition(&mut peer.input, 0, true, 0, 3, &frame::Outcome::Accepted);
    frame::put_end(&mut peer.input, 0, None);
    frame::put_begin(&mut peer.input, 0, 10, 10);
    frame::put_close(&mut peer.input, None);
    peer.input
}

/// Feeds `bytes` in pieces and gives the condition the connection was closed with, if it was.
fn outcome(bytes: &[u8], pieces: &[usize]) -> Option<String> {
    let broker = broker();
    publish(&broker, b"event");
    let mut peer = Peer::open(&broker);
    let mut frames = Vec::new();
    let mut rest = bytes;
    let mut pieces = pieces.iter().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
        peer.input.extend_from_slice(piece);
        rest = after;
        // Whatever came in, what goes out is whole frames.
        frames.extend(peer.frames());
    }
    match frames.pop() {
        Some(Body::Close(close)) if close.error.is_some() => {
            Some(closed_with(&[Body::Close(close)]))
        }
        Some(Body::Close(_)) => Some(String::new()),
        _ => None,
    }
}

#[test]
fn the_conversation_itself_is_in_order() {
    assert_eq!(outcome(&conversation(), &[usize::MAX]).as_deref(), Some(""));
}

/// The errors that fit a broken stream.
const FITTING: [&str; 4] = [
    "amqp:decode-error",
    "amqp:connection:framing-error",
    "amqp:not-allowed",
    "amqp:resource-limit-exceeded",
];

proptest! {
    #[test]
    fn damage_ends_in_an_error_that_fits_however_it_arrives(
        damage in vec((0usize..1500, any::<u8>()), 0..6),
        cut in proptest::option::of(0usize..1500),
        pieces in vec(1usize..200, 1..5),
    ) {
        let mut bytes = conversation();
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        let whole = outcome(&bytes, &[usize::MAX]);
        let fits = |condition: &str| condition.is_empty() || FITTING.contains(&condition);
        prop_assert!(whole.as_deref().is_none_or(fits), "{whole:?}");
        prop_assert_eq!(outcome(&bytes, &pieces), whole);
    }

    #[test]
    fn frames_cut_short_are_refused_or_taken_never_more(
        frame in any::<prop::sample::Index>(),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut all = conversation();
        let mut frames = Vec::new();
        while all.has_remaining() {
            let size = u32::from_be_bytes(*all.first_chunk().unwrap()) as usize;
            frames.push(all.split_to(size));
        }
        let frame = frame.get(&frames);
        let keep = 8 + keep.index(frame.len() - 7);
        let mut cut = BytesMut::from(&(keep as u32).to_be_bytes()[..]);
        cut.extend_from_slice(&frame[4..keep]);
        let taken = frame::take_frame(&mut cut.clone());
        if let Err(refusal) = taken {
            prop_assert!(FITTING.contains(&&*refusal.condition), "{refusal:?}");
            let closed = outcome(&cut, &[usize::MAX]);
            prop_assert_eq!(closed.as_deref(), Some(&*refusal.condition));
        }
    }

    #[test]
    fn any_frame_header_is_taken_refused_or_waited_for(
        header in any::<[u8; 8]>(),
        body in vec(any::<u8>(), 0..64),
    ) {
        let mut input = BytesMut::from(&header[..]);
        input.extend_from_slice(&body);
        let before = input.len();
        match frame::take_frame(&mut input) {
            Ok(Some(_)) => prop_assert!(before - input.len() >= 8),
            Ok(None) => prop_assert_eq!(input.len(), before),
            Err(refusal) => prop_assert!(FITTING.contains(&&*refusal.condition), "{refusal:?}"),
        }
    }

    #[test]
    fn before_the_open_nothing_is_taken_for_a_frame(bytes in vec(any::<u8>(), 8..300)) {
        let mut peer = Peer::new(&broker());
        peer.input.extend_from_slice(b"AMQP\x03\x01\x00\x00");
        peer.input.extend_from_slice(&bytes);
        peer.turn();
        prop_assert!(peer.input.len() <= bytes.len());
    }
}

/// Feeds what `ask` writes for as long as the connection reads, and takes nothing from it.
fn ask_until_it_stops_reading(mut peer: Peer, mut ask: impl FnMut(&mut Peer)) {
    let flood = (0..100_000).try_for_each(|_| {
        if !peer.connection.wants_input() {
            return ControlFlow::Break(());
        }
        ask(&mut peer);
        let Peer { connection, input, now, .. } = &mut peer;
        connection.on_input(input, *now);
        connection.on_turn(*now);
        assert!(connection.output().len() <= OUTPUT_BYTES);
        ControlFlow::Continue(())
    });
    assert!(flood.is_break(), "it reads for ever");
    assert!(!peer.connection.is_closed());
}

#[test]
fn who_asks_and_never_reads_is_not_read_from_either() {
    ask_until_it_stops_reading(Peer::open(&broker()), |peer| {
        for _ in 0..1000 {
            frame::put_flow(&mut peer.input, 0, WINDOW, None);
            // The flag that asks for an answer is the last but one field.
            let echo = peer.input.len() - 2;
            peer.input[echo] = 0x41;
        }
    });
    let mut attaching = Peer::open(&broker());
    attaching.attach(0, Role::Sender, "nowhere");
    ask_until_it_stops_reading(attaching, |peer| {
        for _ in 0..100 {
            peer.detach(0);
            peer.attach(0, Role::Sender, "nowhere");
        }
    });
}

#[test]
fn credit_without_reading_costs_one_output_buffer() {
    let broker = broker();
    for _ in 0..1000 {
        publish(&broker, &[1; 1000]);
    }
    let mut peer = Peer::open(&broker);
    for handle in 0..5 {
        peer.attach(handle, Role::Receiver, CONSUMER);
        let link = LinkFlow { handle, delivery_count: 0, credit: u32::MAX, drain: false };
        frame::put_flow(&mut peer.input, 0, WINDOW, Some(link));
    }
    let Peer { connection, input, now, .. } = &mut peer;
    connection.on_input(input, *now);
    for _ in 0..100 {
        connection.on_turn(*now);
    }
    assert!((100_000..OUTPUT_BYTES).contains(&connection.output().len()));
}

/// Whether the broker still serves.
async fn serves(emulator: &Emulator) {
    let stream = TcpStream::connect(emulator.websocket_addr().unwrap()).await.unwrap();
    greet(&mut connect(stream, PATH, "amqp").await, 100).await;
}

async fn until_connections(emulator: &Emulator, count: usize) {
    let given_up = Instant::now() + LIMIT;
    while emulator.faults().connections() > count {
        assert!(Instant::now() < given_up, "{} are left", emulator.faults().connections());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_let_go() {
    let idle = Duration::from_millis(200);
    let emulator = start(|builder| builder.websocket(ANY).idle_timeout(idle)).await;
    let mut stream = TcpStream::connect(emulator.local_addr()).await.unwrap();
    let mut flood = BytesMut::from(&b"AMQP\x00\x01\x00\x00"[..]);
    frame::put_open(&mut flood, "peer", 10, 0);
    for channel in 0..10 {
        frame::put_begin(&mut flood, channel, 10, 10);
    }
    stream.write_all(&flood).await.unwrap();
    let mut ended = BytesMut::new();
    for channel in 0..10 {
        frame::put_end(&mut ended, channel, None);
        frame::put_begin(&mut ended, channel, 10, 10);
    }
    let flood = ended.repeat(1000);
    // It asks as long as it gets rid of it, and reads nothing.
    while let Ok(Ok(())) = timeout(Duration::from_millis(100), stream.write_all(&flood)).await {}
    serves(&emulator).await;
    until_connections(&emulator, 1).await;
}

#[tokio::test]
async fn ten_thousand_silent_connections_are_bounded_and_pass() {
    const MOST: usize = 200;
    let emulator = start(|builder| {
        builder.websocket(ANY).max_connections(MOST).handshake_timeout(Duration::from_millis(500))
    })
    .await;
    let addresses: [SocketAddr; 2] = [emulator.local_addr(), emulator.websocket_addr().unwrap()];
    for _ in 0..20 {
        let mut silent = Vec::new();
        for number in 0..500 {
            silent.push(TcpStream::connect(addresses[number % 2]).await.unwrap());
            assert!(emulator.faults().connections() <= MOST);
        }
    }
    until_connections(&emulator, 0).await;
    serves(&emulator).await;
}

#[tokio::test]
async fn a_websocket_message_that_is_too_large_says_so() {
    let emulator = start(|builder| builder.websocket(ANY)).await;
    let stream = TcpStream::connect(emulator.websocket_addr().unwrap()).await.unwrap();
    let mut socket = connect(stream, PATH, "amqp").await;
    // Only the header of a masked binary message of 1 GiB.
    let header = [0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4];
    socket.get_mut().write_all(&header).await.unwrap();
    match timeout(LIMIT, socket.next()).await.unwrap() {
        Some(Ok(Message::Close(Some(close)))) => assert_eq!(close.code, CloseCode::Size),
        other => panic!("{other:?}"),
    }
    until_connections(&emulator, 0).await;
}

#[tokio::test]
async fn noise_at_every_layer_leaves_the_broker_up() {
    let emulator = start(|builder| builder.websocket(ANY).secure_websocket(ANY).tls(ANY)).await;
    let noise = |seed: u64| -> Vec<u8> {
        (0..400u64).map(|at| (seed.wrapping_mul(at * at + 77) >> 13) as u8).collect()
    };
    let raw = [
        emulator.local_addr(),
        emulator.websocket_addr().unwrap(),
        emulator.secure_websocket_addr().unwrap(),
        emulator.tls_addr().unwrap(),
    ];
    for seed in 1..50u64 {
        let noise = noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut stream = TcpStream::connect(raw[seed as usize % 4]).await.unwrap();
        stream.write_all(&noise).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is an answer, too.
        let _ended = timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();

        let stream = TcpStream::connect(raw[1]).await.unwrap();
        let mut socket = connect(stream, PATH, "amqp").await;
        if seed % 2 == 0 {
            socket.get_mut().write_all(&noise).await.unwrap();
        } else {
            socket.send(Message::Binary(Bytes::from(noise))).await.unwrap();
        }
        let ends = async { while let Some(Ok(_)) = socket.next().await {} };
        // Noise may also be the beginning of something longer.
        let _waits = timeout(Duration::from_millis(20), ends).await;
    }
    serves(&emulator).await;
    until_connections(&emulator, 0).await;
}
