//! The seeds of the package `longshore-fuzz` that are valid encodings of what this crate reads.
//!
//! `LONGSHORE_WRITE_SEEDS=1 cargo test -p longshore-emulator seeds` writes them anew.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Message};
use futures::SinkExt as _;
use hmac::Mac as _;
use serde_amqp::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol;

use super::connection_tests::{CONSUMER, Peer, WINDOW, broker, message, put_token};
use super::event::{self, BATCH_FORMAT};
use super::extents::{self, Extent, Extents, HubExtent};
use super::hostile_tests::conversation;
use super::log::{Next, encode_records};
use super::segment::{SEGMENT_HEADER_BYTES, Segment};
use super::store::HubFile;
use super::{frame, wire};

type Seeds = Vec<(&'static str, &'static str, Vec<u8>)>;

#[test]
fn seeds_are_what_this_version_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    for (target, name, bytes) in [connections(), messages(), files(), sockets()].concat() {
        let path = folder.join(target).join(name);
        if std::env::var_os("LONGSHORE_WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(folder.join(target)).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(kept == bytes, "{} is another one; write it anew", path.display());
    }
}

/// A token for `orders` that a key of these names signed, and that is valid for long.
fn token(key_name: &str, key: &str) -> String {
    let (resource, expiry) = ("sb%3A%2F%2Flocalhost%2Fhub", "4102444800");
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(format!("{resource}\n{expiry}").as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={key_name}")
}

/// With what a target wants to know before.
fn with(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind], bytes].concat()
}

fn connections() -> Seeds {
    let mut sasl = BytesMut::from(&b"AMQP\x03\x01\x00\x00"[..]);
    sasl.extend_from_slice(
        b"\0\0\0\x1b\x02\x01\0\0\0S\x41\xd0\0\0\0\x0b\0\0\0\x01\xa3\x05PLAIN"[..].as_ref(),
    );
    sasl.extend_from_slice(b"AMQP\x00\x01\x00\x00");
    frame::put_open(&mut sasl, "peer", 10, 5_000);
    frame::put_heartbeat(&mut sasl);
    frame::put_begin(&mut sasl, 0, 10, 10);
    frame::put_close(&mut sasl, None);

    let mut tokens = Peer::open(&broker());
    tokens.attach(0, Role::Sender, "$cbs");
    tokens.attach(1, Role::Receiver, "$cbs");
    tokens.flow(WINDOW, 1, 0, 10, false);
    let signed = token(super::KEY_NAME, super::KEY);
    tokens.transfer(0, 0, false, &put_token("amqp://localhost/hub", &signed));
    tokens.attach(2, Role::Receiver, CONSUMER);
    tokens.attach(3, Role::Sender, "$management");
    tokens.attach(4, Role::Receiver, "$management");
    tokens.flow(WINDOW, 4, 0, 10, false);
    tokens.transfer(3, 1, false, &properties_of("hub"));

    vec![
        ("amqp_connections", "handshake", with(0, &sasl)),
        ("amqp_connections", "conversation", with(2, &conversation())),
        ("amqp_connections", "token", with(3, &tokens.input)),
        ("amqp_frames", "conversation", conversation().to_vec()),
        ("amqp_frames", "token", tokens.input.to_vec()),
        ("addresses", "group", b"amqp://host/hub/ConsumerGroups/$Default/Partitions/0\n".to_vec()),
        ("addresses", "token", format!("hub/Partitions/1\n{}", token("name", "key")).into()),
        ("addresses", "publisher", b"hub/Publishers/x$management".to_vec()),
    ]
}

/// A request for the properties of a hub.
fn properties_of(hub: &str) -> Vec<u8> {
    let properties = [("operation", "READ"), ("type", "com.microsoft:eventhub"), ("name", hub)];
    let properties = properties.map(|(name, value)| (name.to_owned(), value.into()));
    let message = Message::builder()
        .application_properties(ApplicationProperties(properties.into_iter().collect()))
        .body(AmqpValue(Value::String(String::new())))
        .build();
    serde_amqp::to_vec(&Serializable(message)).unwrap()
}

/// A value of each kind that nests.
fn nested() -> BytesMut {
    let mut out = BytesMut::new();
    wire::put_list(&mut out, 5, |out| {
        wire::put_map(out, 4, |out| {
            wire::put_symbol(out, "key");
            wire::put_timestamp(out, 1_700_000_000_000);
            wire::put_string(out, &"long".repeat(80));
            wire::put_ulong(out, 7);
        });
        wire::put_descriptor(out, 0x28);
        wire::put_list(out, 1, wire::put_null);
        // Two symbols; a uuid; a boolean of one byte.
        out.extend_from_slice(b"\xe0\x06\x02\xa3\x01a\x01b");
        out.extend_from_slice(&[&[0x98][..], &[7; 16]].concat());
        out.extend_from_slice(&[0x56, 1]);
    });
    out
}

fn annotated(pairs: &[(&str, &str)]) -> BytesMut {
    let mut out = BytesMut::new();
    wire::put_descriptor(&mut out, 0x72);
    wire::put_map(&mut out, pairs.len() as u32 * 2, |out| {
        for (name, value) in pairs {
            wire::put_symbol(out, name);
            wire::put_string(out, value);
        }
    });
    out
}

fn messages() -> Seeds {
    let mut event = BytesMut::new();
    wire::put_descriptor(&mut event, 0x70);
    wire::put_list(&mut event, 1, |out| wire::put_bool(out, true));
    event.extend_from_slice(&annotated(&[("x-opt-offset", "7"), ("x-opt-partition-key", "k")]));
    event.extend_from_slice(&message(b"body"));
    let mut batch = annotated(&[("x-opt-partition-key", "key")]);
    for inner in [message(b"one"), event.clone().freeze(), Bytes::new()] {
        batch.extend_from_slice(&message(&inner));
    }
    let mut own = annotated(&[("mine", "kept")]);
    wire::put_descriptor(&mut own, 0x77);
    own.extend_from_slice(&nested());
    vec![
        ("amqp_values", "nested", nested().to_vec()),
        ("amqp_values", "described", own.to_vec()),
        ("event_batches", "event", with(0, &event)),
        ("event_batches", "batch", with(1, &batch)),
        ("event_batches", "value", with(0, &own)),
    ]
}

fn files() -> Seeds {
    let events = [&b"first"[..], b"second", &[7; 300]].map(|body| {
        let events = event::prepare(message(body), None).unwrap().events;
        events.into_iter().next().unwrap()
    });
    let records = encode_records(events.iter(), Next::FIRST, 1_700_000_000_000).records;
    let segment = Segment::starting_at(Path::new(""), Next::FIRST);
    let file = [&segment.header()[..], &records].concat();
    let batch = [&[1][..], &message(b"x")].concat();
    assert!(event::prepare(Bytes::from(batch), Some(BATCH_FORMAT)).is_err());

    let partitions = vec![Extent { begin: 0, end: 31, end_offset: 977 }, Extent::default()];
    let hub = HubExtent { created_at_ms: 1_700_000_000_000, is_open: true, partitions };
    let extents = Extents { hubs: [("orders".to_owned(), hub)].into() };
    let hub = HubFile { name: "orders".to_owned(), partitions: 2, created_at_ms: 1 };
    vec![
        ("log_records", "first", records.to_vec()),
        ("log_segments", "whole", with(0, &file)),
        ("log_segments", "sealed", with(3, &records)),
        ("log_segments", "torn", with(0, &file[..file.len() - 5])),
        ("log_segments", "begun", with(0, &file[..SEGMENT_HEADER_BYTES])),
        ("broker_files", "configuration", include_bytes!("example.toml").to_vec()),
        ("broker_files", "extents", extents::sealed(&extents).unwrap()),
        ("broker_files", "hub", extents::sealed(&hub).unwrap()),
    ]
}

fn sockets() -> Seeds {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let messages = runtime.block_on(async {
        let (client, mut server) = tokio::io::duplex(1 << 16);
        let role = protocol::Role::Server;
        // A client masks what it sends at random: a server's frames, masked below, are the same each time.
        let mut socket = WebSocketStream::from_raw_socket(client, role, None).await;
        for message in [
            tungstenite::Message::Binary(Bytes::from_static(b"AMQP\0\x01\0\0")),
            tungstenite::Message::Ping(Bytes::from_static(b"ping")),
            tungstenite::Message::Binary(Bytes::from(vec![7; 200])),
            tungstenite::Message::Close(None),
        ] {
            socket.send(message).await.unwrap();
        }
        drop(socket);
        let mut sent = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut server, &mut sent).await.unwrap();
        sent
    });
    let request = b"GET /$servicebus/websocket?x HTTP/1.1\r\nHost: localhost:80\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n\
        Origin: http://localhost:80\r\nSec-WebSocket-Protocol: amqp, AMQPWSB10\r\n\r\n";
    vec![
        ("websockets", "messages", with(1, &masked(&messages))),
        ("websockets", "request", with(0, &[&request[..], &masked(&messages)].concat())),
        ("websockets", "bytewise", with(3, &masked(&messages))),
    ]
}

/// Frames of a server as those of a client, with a mask of zeros.
fn masked(mut frames: &[u8]) -> Vec<u8> {
    let mut masked = Vec::new();
    while let [first, len, rest @ ..] = frames {
        let (head, len) = match len {
            126 => (2, usize::from(u16::from_be_bytes([rest[0], rest[1]]))),
            short => (0, usize::from(*short)),
        };
        masked.extend_from_slice(&[*first, frames[1] | 0x80]);
        masked.extend_from_slice(&rest[..head]);
        masked.extend_from_slice(&[0; 4]);
        masked.extend_from_slice(&rest[head..head + len]);
        frames = &rest[head + len..];
    }
    masked
}
