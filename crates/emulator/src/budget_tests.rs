//! What one connection can make the broker keep: less before a token, never without an end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Message, Properties};
use serde_amqp::Value;

use super::Durability;
use super::broker::{Broker, Storage};
use super::connection_tests::{
    CONSUMER, Peer, WINDOW, answer_to_token, broker, closed_with, detached_with, message, token,
    with_token_links,
};
use super::damage_tests::write_folder_of;
use super::frame::{self, Body, LinkFlow, SessionFlow};
use super::settings::Settings;
use super::store::Store;
use super::writer::Writer;

const TOO_MUCH: &str = "amqp:resource-limit-exceeded";
const MINUTE: Duration = Duration::from_secs(60);

fn with_token() -> Peer {
    let mut peer = with_token_links();
    let answer =
        answer_to_token(&mut peer, 0, "sb://localhost/hub", &token("sb://localhost/hub", MINUTE));
    assert!(answer.contains("Accepted"), "{answer}");
    peer
}

#[test]
fn names_of_links_are_counted_and_given_back() {
    let long = "n".repeat(9_000);
    let mut peer = with_token_links();
    peer.attach_as(&long, 2, Role::Receiver, "$cbs");
    assert!(peer.frames().iter().all(|frame| !matches!(frame, Body::Detach(_))));
    for handle in 3..5 {
        peer.attach_as(&long, handle, Role::Receiver, "$cbs");
        assert_eq!(detached_with(&peer.frames(), handle), TOO_MUCH);
    }
    // What is gone makes room.
    peer.detach(2);
    peer.pass(MINUTE / 60);
    peer.frames();
    peer.attach_as(&long, 2, Role::Receiver, "$cbs");
    assert!(peer.frames().iter().all(|frame| !matches!(frame, Body::Detach(_))));
    // A token makes room as well.
    let mut peer = with_token();
    for handle in 2..300 {
        peer.attach_as(&long, handle, Role::Receiver, "$cbs");
        assert!(peer.frames().iter().all(|frame| !matches!(frame, Body::Detach(_))), "{handle}");
    }
}

#[test]
fn a_stranger_has_few_links_and_is_closed_when_it_goes_on() {
    let mut peer = with_token_links();
    for handle in 2..16 {
        peer.attach(handle, Role::Receiver, "$cbs");
    }
    assert!(peer.frames().iter().all(|frame| !matches!(frame, Body::Detach(_))));
    for handle in 16..32 {
        peer.attach(handle, Role::Receiver, "$cbs");
        assert_eq!(detached_with(&peer.frames(), handle), TOO_MUCH);
    }
    peer.attach(32, Role::Receiver, "$cbs");
    assert_eq!(closed_with(&peer.frames()), TOO_MUCH);
}

#[test]
fn a_frame_is_smaller_before_a_token_and_refused_by_its_length() {
    let header = |bytes: u32| BytesMut::from(&bytes.to_be_bytes()[..]);
    let mut peer = with_token_links();
    peer.input = header(64 * 1024 + 1);
    assert_eq!(closed_with(&peer.frames()), "amqp:connection:framing-error");
    for mut peer in [with_token_links(), with_token()] {
        let most = peer.connection.limits().frame_bytes as u32;
        peer.input = header(most);
        assert!(peer.frames().is_empty(), "the rest is waited for");
    }
    assert_eq!(with_token().connection.limits().frame_bytes, frame::MAX_FRAME_BYTES as usize);
}

#[test]
fn unfinished_messages_are_counted() {
    let mut peer = with_token_links();
    peer.transfer(0, 0, true, &[7; 40_000]);
    assert!(peer.frames().iter().all(|frame| !matches!(frame, Body::Detach(_))));
    peer.attach(2, Role::Sender, "$cbs");
    peer.transfer(2, 1, true, &[7; 40_000]);
    assert_eq!(detached_with(&peer.frames(), 2), TOO_MUCH);
    // A request is no event: it has a bound of its own.
    let mut peer = with_token();
    peer.transfer(0, 1, true, &[7; 60_000]);
    peer.transfer(0, 1, false, &[7; 60_000]);
    assert_eq!(detached_with(&peer.frames(), 0), "amqp:link:message-size-exceeded");
}

/// A request whose answer repeats a long id.
fn request(id: &str) -> Vec<u8> {
    let message = Message::builder()
        .properties(Properties { message_id: Some(id.to_owned().into()), ..Properties::default() })
        .application_properties(ApplicationProperties(
            [("operation".to_owned(), "READ".to_owned().into())].into_iter().collect(),
        ))
        .body(AmqpValue(Value::Null))
        .build();
    serde_amqp::to_vec(&Serializable(message)).unwrap()
}

#[test]
fn replies_that_nobody_takes_are_counted() {
    for (mut peer, most) in [(with_token_links(), 1), (with_token(), 80)] {
        // One that gives no credit.
        peer.attach(2, Role::Receiver, "$cbs");
        peer.detach(1);
        peer.pass(MINUTE / 60);
        peer.frames();
        let id = "i".repeat(50_000);
        let refused = (0..most + 20).position(|number| {
            peer.transfer(0, 10 + number, false, &request(&id));
            peer.frames().iter().any(|frame| matches!(frame, Body::Detach(_)))
        });
        assert!(refused.is_some_and(|refused| refused <= most as usize + 4), "{refused:?}");
    }
}

#[test]
fn a_frame_that_is_no_event_is_small() {
    let mut peer = Peer::open(&broker());
    peer.attach_as(&"n".repeat(70_000), 0, Role::Receiver, CONSUMER);
    assert_eq!(closed_with(&peer.frames()), "amqp:connection:framing-error");
}

/// A broker whose events are all in files, and not in memory.
fn broker_on_files(root: &std::path::Path) -> Arc<Broker> {
    write_folder_of(root, "hub", &[&[400]]);
    let (store, lock) = Store::open(root.to_owned()).unwrap();
    let store = Arc::new(store);
    let writer = Writer::start(Durability::Process, Arc::clone(&store), lock).unwrap();
    let broker = Broker::new(Settings::default(), Storage::Files { store, writer });
    broker.open_hub("hub", 1).unwrap();
    Arc::new(broker)
}

#[test]
fn nothing_is_read_for_a_window_that_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mut peer = Peer::open(&broker_on_files(dir.path()));
    for handle in 0..5 {
        peer.attach(handle, Role::Receiver, CONSUMER);
        let closed = SessionFlow { incoming_window: 0, ..WINDOW };
        let link = LinkFlow { handle, delivery_count: 0, credit: 100, drain: false };
        frame::put_flow(&mut peer.input, 0, closed, Some(link));
    }
    peer.turn();
    assert!(peer.connection.take_read_jobs().is_empty());
    frame::put_flow(&mut peer.input, 0, WINDOW, None);
    peer.turn();
    let jobs = peer.connection.take_read_jobs();
    assert_eq!(jobs.len(), 5);
    for (link, job) in jobs {
        peer.connection.on_read(link, job.run());
    }
    assert!(super::connection_tests::transfers(&peer.frames()) >= 100);
}

#[test]
fn what_a_batch_becomes_is_what_counts_and_the_rest_of_a_read_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut peer = Peer::open(&broker_on_files(dir.path()));
    peer.attach(0, Role::Sender, "hub/Partitions/0");
    peer.frames();
    let mut batch = BytesMut::new();
    for _ in 0..20_000 {
        batch.extend_from_slice(&message(b""));
    }
    for id in 0..20 {
        peer.batch(0, id, &batch);
    }
    // All of it in one read.
    peer.turn();
    assert!(peer.input.len() > 10 * batch.len(), "{}", peer.input.len());
    let given_up = Instant::now() + MINUTE;
    while !peer.input.is_empty() {
        assert!(Instant::now() < given_up, "{} bytes are left", peer.input.len());
        std::thread::sleep(Duration::from_millis(1));
        peer.turn();
    }
}
