//! What clients meet when a fault is set, at the protocol and at the socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, DeliveryState, Message};
use serde_amqp::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::Start;
use super::connection_tests::{
    CONSUMER, DISPOSITION_DELAY, Peer, WINDOW, broker, condition, detached_with, message, publish,
    transfers,
};
use super::consume::Consumer;
use super::event;
use super::frame::{self, Body};
use super::injection::FaultPoint;
use super::refusal::Refusal;
use super::{Emulator, Faults};

const LIMIT: Duration = Duration::from_secs(10);
/// Long enough to tell from an answer that comes at once, also on a busy machine.
const PAUSE: Duration = Duration::from_millis(300);

fn refusal() -> Refusal {
    Refusal::new("com.example:error".to_owned(), "on purpose")
}

#[test]
fn injected_errors_meet_links_deliveries_and_requests_as_often_as_told() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    broker.injections.arm(FaultPoint::Attach, refusal(), 2);
    peer.attach(0, Role::Sender, "hub/Partitions/0");
    peer.attach(1, Role::Receiver, CONSUMER);
    let frames = peer.frames();
    for handle in [0, 1] {
        assert_eq!(detached_with(&frames, handle), "com.example:error");
    }
    peer.attach(2, Role::Sender, "hub/Partitions/0");
    peer.attach(3, Role::Receiver, CONSUMER);
    peer.flow(WINDOW, 3, 0, 10, false);
    assert!(!peer.frames().iter().any(|frame| matches!(frame, Body::Detach(_))));

    broker.injections.arm(FaultPoint::Send, refusal(), 1);
    peer.transfer(2, 0, false, &message(b"lost"));
    peer.pass(DISPOSITION_DELAY);
    match &peer.frames()[..] {
        [Body::Disposition(answer)] => match &answer.state {
            Some(DeliveryState::Rejected(rejected)) => {
                assert_eq!(condition(&rejected.error), "com.example:error");
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }

    broker.injections.arm(FaultPoint::Receive, refusal(), 1);
    assert_eq!(broker.injections.left(FaultPoint::Receive), 1);
    publish(&broker, b"kept");
    let mut frames = peer.frames();
    frames.extend(peer.frames());
    assert_eq!((detached_with(&frames, 3).as_str(), transfers(&frames)), ("com.example:error", 0));
    peer.attach(4, Role::Receiver, CONSUMER);
    peer.flow(WINDOW, 4, 0, 10, false);
    assert_eq!(transfers(&peer.frames()), 1, "nothing was lost");
    assert_eq!(broker.injections.left(FaultPoint::Receive), 0);
}

#[test]
fn an_injected_error_of_management_has_its_status_and_condition() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Sender, "$management");
    peer.attach(1, Role::Receiver, "$management");
    peer.flow(WINDOW, 1, 0, 10, false);
    peer.frames();
    let read = [("operation", "READ"), ("name", "hub"), ("type", "com.microsoft:eventhub")];
    let request = Message::builder()
        .application_properties(ApplicationProperties(
            read.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
        ))
        .body(AmqpValue(Value::Null))
        .build();
    let request = serde_amqp::to_vec(&Serializable(request)).unwrap();
    broker.injections.arm(FaultPoint::Management, super::throughput::busy(), 1);
    let mut answer = |id| {
        peer.transfer(0, id, false, &request);
        let frames = peer.frames();
        let found = frames.iter().find_map(|frame| match frame {
            Body::Transfer(transfer) => Some(String::from_utf8_lossy(&transfer.payload).into()),
            _ => None,
        });
        let found: String = found.unwrap_or_else(|| panic!("{frames:?}"));
        found
    };
    let refused = answer(0);
    assert!(refused.contains("errorCondition") && refused.contains("server-busy"), "{refused}");
    let answered = answer(1);
    assert!(answered.contains("partition_count") && !answered.contains("errorCondition"));
}

#[test]
fn a_recreated_hub_is_empty_and_detaches_its_links() {
    let broker = broker();
    publish(&broker, b"old");
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Sender, "hub/Partitions/0");
    peer.attach(1, Role::Receiver, CONSUMER);
    peer.frames();
    let created_at_ms = broker.hub("hub").unwrap().created_at_ms;
    assert!(broker.recreate_hub("HUB").unwrap());
    assert!(!broker.recreate_hub("other").unwrap());
    let frames = peer.frames();
    for handle in [0, 1] {
        assert_eq!(detached_with(&frames, handle), "amqp:link:detach-forced");
    }
    let hub = broker.hub("hub").unwrap();
    assert!(hub.created_at_ms > created_at_ms && hub.partition(0).unwrap().log.ends().is_empty());
    peer.attach(2, Role::Sender, "hub/Partitions/0");
    peer.transfer(2, 0, false, &message(b"new"));
    peer.frames();
    assert_eq!(hub.partition(0).unwrap().log.ends().last_sequence, 0);
}

#[test]
fn senders_can_be_detached_alone() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Sender, "hub/Partitions/0");
    peer.attach(1, Role::Receiver, CONSUMER);
    peer.frames();
    assert_eq!(broker.detach_senders("hub", &refusal()), 1);
    let frames = peer.frames();
    assert_eq!(detached_with(&frames, 0), "com.example:error");
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(broker.detach_senders("hub", &refusal()), 0);
}

#[test]
fn a_reader_behind_a_trimmed_log_goes_on_at_its_beginning() {
    let broker = broker();
    for _ in 0..5 {
        publish(&broker, b"x");
    }
    assert_eq!(broker.trim_log("hub", 0, 3), Some(3));
    assert_eq!(broker.trim_log("hub", 7, 3), None);
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Receiver, CONSUMER);
    peer.flow(WINDOW, 0, 0, 10, false);
    assert_eq!(transfers(&peer.frames()), 2);
}

#[test]
fn a_file_that_retention_removed_is_passed_over() {
    let broker = broker();
    publish(&broker, b"x");
    let hub = broker.hub("hub").unwrap();
    let partition = hub.partition(0).unwrap();
    let cursor = partition.log.cursor_at(Start::Earliest).unwrap();
    let mut consumer = Consumer::new(Arc::clone(partition), "group".to_owned(), cursor, true);
    let removed = || Err(std::io::ErrorKind::NotFound.into());
    assert!(consumer.on_read(removed()).is_err(), "nothing was removed by retention");
    partition.log.trim_before(1);
    assert!(consumer.on_read(removed()).is_ok());
}

async fn start() -> (Emulator, Faults) {
    let emulator = Emulator::builder().hub("hub", 1).start().await.unwrap();
    let faults = emulator.faults();
    (emulator, faults)
}

/// A connection that is open.
async fn open(emulator: &Emulator) -> TcpStream {
    let mut stream = TcpStream::connect(emulator.local_addr()).await.unwrap();
    let mut greeting = BytesMut::from(&b"AMQP\x00\x01\x00\x00"[..]);
    frame::put_open(&mut greeting, "peer", 10, 0);
    stream.write_all(&greeting).await.unwrap();
    let mut answer = BytesMut::new();
    timeout(LIMIT, async {
        let opened = |answer: &BytesMut| {
            let frames = answer.get(8..).map(BytesMut::from);
            frames.is_some_and(|mut frames| frame::take_frame(&mut frames).unwrap().is_some())
        };
        while !opened(&answer) {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    })
    .await
    .unwrap();
    stream
}

/// Asks for a session and tells how long the answer took.
async fn ask(stream: &mut TcpStream, channel: u16) -> Duration {
    let mut begin = BytesMut::new();
    frame::put_begin(&mut begin, channel, 10, 10);
    let asked = Instant::now();
    stream.write_all(&begin).await.unwrap();
    assert_ne!(timeout(LIMIT, stream.read(&mut [0; 64])).await.unwrap().unwrap(), 0);
    asked.elapsed()
}

#[tokio::test]
async fn a_half_open_connection_hears_nothing_until_it_is_cut() {
    let (emulator, faults) = start().await;
    let mut silent = open(&emulator).await;
    assert_eq!(faults.half_open(), 1);
    let mut begin = BytesMut::new();
    frame::put_begin(&mut begin, 0, 10, 10);
    silent.write_all(&begin).await.unwrap();
    assert!(timeout(PAUSE, silent.read(&mut [0; 64])).await.is_err());
    let mut other = open(&emulator).await;
    ask(&mut other, 0).await;
    assert_eq!(faults.connections(), 2);
    faults.cut_connections();
    let read = timeout(LIMIT, silent.read(&mut [0; 64])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    timeout(LIMIT, emulator.shutdown()).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_next_connections_can_be_accepted_in_silence() {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let emulator = Emulator::builder().hub("hub", 1).websocket(any).tls(any).start().await.unwrap();
    emulator.faults().half_open_next(3);
    let addresses = [Some(emulator.local_addr()), emulator.websocket_addr(), emulator.tls_addr()];
    let mut silent = Vec::new();
    for address in addresses {
        let mut stream = TcpStream::connect(address.unwrap()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(timeout(PAUSE, stream.read(&mut [0; 64])).await.is_err());
        silent.push(stream);
    }
    let _open = open(&emulator).await;
    assert_eq!(emulator.faults().cut_connections(), 3 + 1);
    timeout(LIMIT, emulator.shutdown()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stall_holds_everything_and_loses_nothing() {
    let (emulator, faults) = start().await;
    let mut stream = open(&emulator).await;
    faults.stall(PAUSE);
    let took = ask(&mut stream, 0).await;
    assert!(took >= PAUSE.mul_f64(0.9), "{took:?}");
    faults.stall(Duration::from_secs(3600));
    timeout(LIMIT, emulator.shutdown()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_delay_lasts_until_it_is_taken_back() {
    let (emulator, faults) = start().await;
    let mut stream = open(&emulator).await;
    faults.delay(PAUSE);
    for channel in 0..2 {
        let took = ask(&mut stream, channel).await;
        assert!(took >= PAUSE, "{took:?}");
    }
    faults.delay(Duration::ZERO);
    let took = ask(&mut stream, 2).await;
    assert!(took < PAUSE, "{took:?}");
}

#[tokio::test]
async fn a_durable_hub_is_recreated_without_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let start =
        async || Emulator::builder().hub("hub", 1).data_dir(dir.path()).start().await.unwrap();
    let publish = async |emulator: &Emulator| {
        let hub = emulator.broker.hub("hub").unwrap();
        let mailbox = std::sync::Arc::default();
        let ticket = super::mailbox::AppendTicket {
            link: super::mailbox::LinkKey { channel: 0, handle: 0, serial: 1 },
            delivery_id: 0,
            settled: false,
            received_at: Instant::now(),
            bytes: 1,
        };
        let events = event::prepare(message(b"x"), None).unwrap().events;
        let partition = hub.partition(0).unwrap();
        emulator.broker.append(partition, events, &mailbox, ticket);
        timeout(LIMIT, mailbox.posted()).await.unwrap();
        partition.log.ends()
    };
    let emulator = start().await;
    assert_eq!(publish(&emulator).await.last_sequence, 0);
    assert_eq!(publish(&emulator).await.last_sequence, 1);
    assert!(emulator.faults().recreate_hub("hub").await.unwrap());
    assert_eq!(publish(&emulator).await.last_sequence, 0);
    emulator.shutdown().await.unwrap();
    let emulator = start().await;
    assert_eq!(publish(&emulator).await.last_sequence, 1);
    assert!(!dir.path().join("removed").exists());
    emulator.shutdown().await.unwrap();
}

#[test]
fn a_hub_that_grows_keeps_its_events_and_detaches_who_sends() {
    let broker = broker();
    publish(&broker, b"old");
    let present = broker.hub("hub").unwrap().partition_count();
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Sender, "hub");
    peer.attach(1, Role::Receiver, CONSUMER);
    peer.flow(WINDOW, 1, 0, 10, false);
    assert_eq!(transfers(&peer.frames()), 1);
    let created_at_ms = broker.hub("hub").unwrap().created_at_ms;
    assert!(broker.add_partitions("HUB", 2).unwrap());
    assert!(!broker.add_partitions("other", 2).unwrap());
    assert!(broker.add_partitions("hub", 1_024).is_err());
    let frames = peer.frames();
    assert_eq!(detached_with(&frames, 0), "com.microsoft:entity-updated");
    let hub = broker.hub("hub").unwrap();
    assert_eq!((hub.partition_count(), hub.created_at_ms), (present + 2, created_at_ms));
    assert_eq!(hub.partition(0).unwrap().log.ends().last_sequence, 0);
    // The receiver goes on.
    publish(&broker, b"new");
    assert_eq!(transfers(&peer.frames()), 1);
    peer.attach(2, Role::Sender, &format!("hub/Partitions/{}", present + 1));
    peer.transfer(2, 0, false, &message(b"there"));
    peer.frames();
    assert_eq!(hub.partition(present + 1).unwrap().log.ends().last_sequence, 0);
}

#[tokio::test]
async fn a_durable_hub_has_grown_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = async |partitions| {
        Emulator::builder().hub("hub", partitions).data_dir(dir.path()).start().await
    };
    let emulator = start(1).await.unwrap();
    assert!(emulator.faults().add_partitions("hub", 2).await.unwrap());
    assert_eq!(emulator.broker.hub("hub").unwrap().partition_count(), 3);
    emulator.shutdown().await.unwrap();
    assert!(start(1).await.is_err());
    let emulator = start(3).await.unwrap();
    emulator.shutdown().await.unwrap();
}
