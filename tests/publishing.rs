//! Publishing through the Azure SDK to the embedded broker.
#![allow(missing_docs)]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/waiting.rs"]
mod waiting;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{join_all, poll_fn};
use longshore::event::{PartitionId, Value};
use longshore::producer::Producer;
use longshore::state::backoff::Backoff;
use longshore::state::key_placement::KeyPlacement;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{LinkStart, OpenLink, Publisher, SendTarget, Transport as _};
use longshore::{ErrorClass, Event, OutgoingEvent};
use longshore_emulator::{Emulator, FaultPoint};
use waiting::{LIMIT, until, within};

async fn start() -> (Emulator, Namespace) {
    start_with(1).await
}

async fn start_with(partitions: u32) -> (Emulator, Namespace) {
    let emulator = broker::patient().hub("files", partitions).start().await.expect("started");
    let namespace = broker::namespace(&emulator);
    (emulator, namespace)
}

/// All events of so many partitions.
async fn read(namespace: &Namespace, partitions: usize) -> Vec<Vec<Event>> {
    let transport = EventHubsTransport::new(namespace.clone(), "files", "$Default");
    let mut read = Vec::new();
    for partition in 0..partitions {
        let id = PartitionId::from(partition.to_string());
        let count = broker::log_end(&transport, id.as_str()).await;
        let open = OpenLink::new(id, LinkStart::FirstEvent, 300);
        let mut link = transport.open(open).await.expect("opened");
        let mut events = Vec::new();
        while events.len() < count {
            let receiving = poll_fn(|cx| link.poll_receive(cx, count, &mut events));
            within("events", receiving).await.expect("received");
        }
        link.close().await;
        read.push(events);
    }
    transport.close().await;
    read
}

/// The numbers of each key in one partition, in the order of its log.
fn numbers(events: &[Event]) -> BTreeMap<String, Vec<u32>> {
    let mut numbers: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for event in events {
        let number = std::str::from_utf8(event.body()).expect("text").parse().expect("a number");
        numbers.entry(event.key().expect("keyed").to_owned()).or_default().push(number);
    }
    numbers
}

/// Numbers from `from` on, of which some may be repeated, from any place back on; none is new out of
/// its turn. Returns the next one.
fn in_order(from: u32, numbers: &[u32]) -> u32 {
    let mut next = from;
    for number in numbers {
        assert!(*number <= next, "{number} where {next} was next: {numbers:?}");
        next = next.max(number + 1);
    }
    next
}

fn quick(namespace: &Namespace) -> Producer {
    // The SDK waits on for an answer that cannot come, where the link or the connection is gone.
    let namespace = namespace.clone().with_call_timeout(Duration::from_secs(5));
    let backoff = Backoff::doubling(Duration::from_millis(20), Duration::from_millis(200));
    Producer::new(namespace.publishers()).with_attempts(100).with_backoff(backoff)
}

/// Sends so many more events of each key, together and in turns.
async fn send_round(
    producer: &Producer,
    keys: usize,
    numbers: std::ops::Range<u32>,
    sent: &AtomicUsize,
) {
    let sends = numbers.flat_map(|number| (0..keys).map(move |key| (format!("key {key}"), number)));
    let sends = sends.map(|(key, number)| async move {
        let event = OutgoingEvent::new(number.to_string()).with_key(key);
        producer.send_to("files", SendTarget::Any, event).await.expect("sent");
        sent.fetch_add(1, Ordering::SeqCst);
    });
    join_all(sends).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_within_a_key_holds_while_links_and_connections_are_lost() {
    const KEYS: usize = 1_000;
    const EACH: u32 = 3;
    let (emulator, namespace) = start_with(4).await;
    let producer = quick(&namespace);
    let sent = AtomicUsize::new(0);
    for round in 0..6_u32 {
        let before = sent.load(Ordering::SeqCst);
        let fault = async {
            // The first answers are there, and most sends are under way.
            until("answers", || sent.load(Ordering::SeqCst) > before).await;
            let faults = emulator.faults();
            match round % 3 {
                0 => until("links", || faults.detach_senders("files") > 0).await,
                1 => until("connections", || faults.cut_connections() > 0).await,
                _ => faults.fail(FaultPoint::Send, "com.microsoft:timeout", "a fault", 3),
            }
        };
        let sends = send_round(&producer, KEYS, round * EACH..(round + 1) * EACH, &sent);
        within("a round", async { tokio::join!(sends, fault) }).await;
    }
    producer.close().await;
    let read = read(&namespace, 4).await;
    let mut keys = 0;
    for (partition, events) in read.iter().enumerate() {
        for (key, numbers) in numbers(events) {
            assert_eq!(KeyPlacement::Service.index(&key, 4), Some(partition), "{key}");
            assert_eq!(in_order(0, &numbers), 6 * EACH, "{key}");
            keys += 1;
        }
    }
    assert_eq!(keys, KEYS);
    emulator.shutdown().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_hub_that_grows_move_in_order() {
    const KEYS: usize = 40;
    let (emulator, namespace) = start_with(4).await;
    let producer = quick(&namespace);
    let sent = AtomicUsize::new(0);
    send_round(&producer, KEYS, 0..20, &sent).await;
    assert!(emulator.faults().add_partitions("files", 4).await.expect("added"));
    // Far earlier than the next look that is due: the detached links were the reason for one.
    let begun = std::time::Instant::now();
    let mut end = 20;
    loop {
        send_round(&producer, KEYS, end..end + 5, &sent).await;
        end += 5;
        producer.flush().await;
        // It is of partition 3 of four, and of 7 of eight.
        let probe = OutgoingEvent::new("0").with_key("7");
        let receipt = producer.send_to("files", SendTarget::Any, probe).await.expect("sent");
        if receipt.partition.expect("known").as_str() == "7" {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "never moved");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    send_round(&producer, KEYS, end..end + 5, &sent).await;
    producer.close().await;
    let read: Vec<_> = read(&namespace, 8).await.iter().map(|events| numbers(events)).collect();
    for key in (0..KEYS).map(|key| format!("key {key}")) {
        let place = |partitions| KeyPlacement::Service.index(&key, partitions).expect("a place");
        let (old, new) = (place(4), place(8));
        let mut next = in_order(0, &read[old][&key]);
        if new != old {
            // Everything in the old partition is from before anything in the new one.
            next = in_order(next, &read[new][&key]);
            assert_eq!(read[new][&key].iter().min(), Some(&read[new][&key][0]));
        }
        assert_eq!(next, end + 5, "{key}");
        let places = read.iter().filter(|numbers| numbers.contains_key(&key)).count();
        assert_eq!(places, 1 + usize::from(new != old), "{key}");
    }
    emulator.shutdown().await.expect("stopped");
}

#[tokio::test]
async fn events_of_many_keys_and_of_none_keep_them_in_one_batch_to_a_partition() {
    let (emulator, namespace) = start_with(2).await;
    let publisher = EventHubsPublisher::new(namespace.clone(), "files");
    let keys = [Some("a"), Some("b"), None, Some("ü"), None, None, Some("a")];
    let events = keys.iter().enumerate().map(|(number, key)| {
        let mut event = OutgoingEvent::new(number.to_string());
        event.key = key.map(str::to_owned);
        event
    });
    let target = SendTarget::Partition("1".into());
    publisher.send_batch(target, events.collect()).await.expect("published");
    publisher.close().await;
    let read = read(&namespace, 2).await;
    assert_eq!(read[1].iter().map(Event::key).collect::<Vec<_>>(), keys);
    let bodies: Vec<_> = read[1].iter().map(|event| event.body().to_vec()).collect();
    assert_eq!(bodies, (b'0'..=b'6').map(|digit| vec![digit]).collect::<Vec<_>>());
    emulator.shutdown().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_that_is_refused_fails_alone() {
    let (emulator, namespace) = start_with(2).await;
    let producer = quick(&namespace);
    // The client writes an array of nulls so that nobody can read it.
    let nulls = Value::Array(vec![Value::Null, Value::Null]);
    let sends = (0..60).map(|number: u32| {
        let event = OutgoingEvent::new(number.to_string()).with_key("7");
        let event = match number {
            33 => event.with_property("large", "x".repeat(2 << 20)),
            44 => event.with_annotation("nulls", nulls.clone()),
            _ => event,
        };
        producer.send_to("files", SendTarget::Any, event)
    });
    let sent = within("sends", join_all(sends)).await;
    for (number, sent) in sent.iter().enumerate() {
        let class = sent.as_ref().err().map(longshore::Error::class);
        let expected = match number {
            33 => Some(ErrorClass::TooLarge),
            44 => Some(ErrorClass::BadData),
            _ => None,
        };
        assert_eq!(class, expected, "{number}");
    }
    producer.close().await;
    let read = read(&namespace, 2).await;
    let numbers = &numbers(&read[KeyPlacement::Service.index("7", 2).expect("a place")])["7"];
    let expected: Vec<_> = (0..60).filter(|number| ![33, 44].contains(number)).collect();
    assert_eq!(*numbers, expected);
    emulator.shutdown().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_sends_go_on_where_the_partitions_cannot_be_read() {
    let (emulator, namespace) = start_with(4).await;
    emulator.faults().fail(FaultPoint::Management, "amqp:unauthorized-access", "no right", 100);
    let producer = quick(&namespace);
    let sent = AtomicUsize::new(0);
    within("sends", send_round(&producer, 5, 0..4, &sent)).await;
    producer.close().await;
    assert_eq!(emulator.faults().pending_failures(FaultPoint::Management), 99);
    emulator.faults().clear_failures();
    let read = read(&namespace, 4).await;
    let mut keys = 0;
    for (partition, events) in read.iter().enumerate() {
        for (key, numbers) in numbers(events) {
            assert_eq!(KeyPlacement::Service.index(&key, 4), Some(partition), "{key}");
            assert_eq!(numbers, [0, 1, 2, 3], "{key}");
            keys += 1;
        }
    }
    assert_eq!(keys, 5);
    emulator.shutdown().await.expect("stopped");
}

#[tokio::test]
async fn a_batch_takes_every_event_that_a_single_send_takes() {
    let (emulator, namespace) = start().await;
    let publisher = EventHubsPublisher::new(namespace.clone(), "files");
    // The SDK counts the first event of a batch twice.
    let events = [700 * 1024, 10, 900 * 1024, 600 * 1024, 10];
    let events = events.map(|bytes| OutgoingEvent::new(vec![b'x'; bytes]).with_key("k")).to_vec();
    publisher.send_batch(SendTarget::Any, events).await.expect("published");
    let transport = EventHubsTransport::new(namespace, "files", "$Default");
    assert_eq!(broker::log_end(&transport, "0").await, 5);
    transport.close().await;
    publisher.close().await;
    emulator.shutdown().await.expect("stopped");
}

#[tokio::test]
async fn an_event_larger_than_the_hub_takes_says_so_and_the_next_one_is_sent() {
    let (emulator, namespace) = start().await;
    let publisher = EventHubsPublisher::new(namespace, "files");
    for _ in 0..2 {
        let large = OutgoingEvent::new(vec![b'x'; 2 << 20]);
        let error = publisher.send(SendTarget::Any, large.clone()).await.expect_err("too large");
        assert_eq!(error.class(), ErrorClass::TooLarge, "{error:?}");
        let error =
            publisher.send_batch(SendTarget::Any, vec![large]).await.expect_err("too large");
        assert_eq!(error.class(), ErrorClass::TooLarge, "{error:?}");
        publisher.send(SendTarget::Any, OutgoingEvent::new("small")).await.expect("published");
    }
    publisher.close().await;
    emulator.shutdown().await.expect("stopped");
}

/// The SDK opens at most 256 sessions on a connection, and each link needs one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_partitions_than_a_connection_has_sessions_are_sent_to() {
    const PARTITIONS: usize = 300;
    let (emulator, namespace) = start_with(300).await;
    let producer = quick(&namespace);
    for _ in 0..2 {
        let sends = (0..PARTITIONS).map(|partition| {
            let target = SendTarget::Partition(partition.to_string().as_str().into());
            producer.send_to("files", target, OutgoingEvent::new("x"))
        });
        let sent = within("sends", join_all(sends)).await;
        assert!(sent.iter().all(Result::is_ok), "{sent:?}");
        // At most 32 share one.
        assert!(emulator.faults().connections() >= 10, "{}", emulator.faults().connections());
    }
    producer.close().await;
    emulator.shutdown().await.expect("stopped");
}

/// The service detaches a link on which nothing is sent for ten minutes, and the SDK's next send on it
/// fails or is never answered. The broker is in a runtime of its own, for which no time passes.
#[test]
fn a_link_that_was_idle_is_not_sent_on_again() {
    let broker = tokio::runtime::Runtime::new().expect("runtime");
    let (emulator, namespace) = broker.block_on(start_with(2));
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build();
    client.expect("runtime").block_on(async {
        let publisher = EventHubsPublisher::new(namespace, "files");
        for minutes in [0, 11, 4, 11] {
            if minutes > 5 {
                assert!(emulator.faults().detach_senders("files") > 0);
            }
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(minutes * 60)).await;
            tokio::time::resume();
            for target in [SendTarget::Any, SendTarget::Partition("1".into())] {
                let sent = publisher.send(target, OutgoingEvent::new("x"));
                within("a send", sent).await.expect("at the first attempt");
            }
            assert_eq!(publisher.partitions().await.expect("told").len(), 2);
        }
        publisher.close().await;
    });
    broker.block_on(emulator.shutdown()).expect("stopped");
}
