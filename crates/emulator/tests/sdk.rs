//! The embedded broker as the Rust SDK for Event Hubs sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../../tests/support/waiting.rs"]
mod waiting;

use std::time::{Duration, SystemTime};

use azure_messaging_eventhubs::error::ErrorKind;
use azure_messaging_eventhubs::models::{EventData, ReceivedEventData};
use azure_messaging_eventhubs::{
    ConsumerClient, EventDataBatchOptions, EventHubsError, OpenReceiverOptions, ProducerClient,
    RetryOptions, SendEventOptions, StartLocation, StartPosition,
};
use futures::{Stream, StreamExt};
use longshore_emulator::{Durability, Emulator, EmulatorError};
use waiting::within;

const HUB: &str = "orders";

async fn start(partitions: u32) -> Emulator {
    // The SDK loses an acknowledgement that comes before the send is registered, on a machine with
    // more work than cores.
    let builder = Emulator::builder().disposition_delay(Duration::from_millis(50));
    builder.hub(HUB, partitions).start().await.unwrap()
}

fn no_retries() -> RetryOptions {
    RetryOptions { max_retries: 0, ..RetryOptions::default() }
}

async fn producer(emulator: &Emulator) -> ProducerClient {
    within(
        "opening a producer",
        ProducerClient::builder()
            .with_custom_endpoint(emulator.endpoint())
            .with_retry_options(no_retries())
            .open_with_connection_string(&emulator.connection_string(Some(HUB)), None),
    )
    .await
    .unwrap()
}

async fn consumer(emulator: &Emulator) -> ConsumerClient {
    within(
        "opening a consumer",
        ConsumerClient::builder()
            .with_custom_endpoint(emulator.endpoint())
            .with_retry_options(no_retries())
            .open_with_connection_string(&emulator.connection_string(Some(HUB)), None),
    )
    .await
    .unwrap()
}

async fn send(producer: &ProducerClient, partition: u32, body: impl Into<Vec<u8>>) {
    send_event(producer, partition, EventData::builder().with_body(body.into()).build())
        .await
        .unwrap();
}

async fn send_event(
    producer: &ProducerClient,
    partition: u32,
    event: EventData,
) -> Result<(), EventHubsError> {
    let options = SendEventOptions { partition_id: Some(partition.to_string()) };
    within("a send", producer.send_event(event, Some(options))).await
}

fn at(location: StartLocation, inclusive: bool) -> OpenReceiverOptions {
    OpenReceiverOptions {
        start_position: Some(StartPosition { location, inclusive }),
        ..OpenReceiverOptions::default()
    }
}

fn earliest() -> OpenReceiverOptions {
    at(StartLocation::Earliest, false)
}

async fn next(
    events: &mut (impl Stream<Item = Result<ReceivedEventData, EventHubsError>> + Unpin),
) -> Result<ReceivedEventData, EventHubsError> {
    within("an event", events.next()).await.expect("the stream goes on")
}

async fn receive(
    consumer: &ConsumerClient,
    partition: u32,
    options: OpenReceiverOptions,
    count: usize,
) -> Vec<ReceivedEventData> {
    let receiver =
        consumer.open_receiver_on_partition(partition.to_string(), Some(options)).await.unwrap();
    let mut events = Vec::new();
    {
        let mut stream = receiver.stream_events();
        while events.len() < count {
            events.push(next(&mut stream).await.unwrap());
        }
    }
    within("closing a receiver", receiver.close()).await.unwrap();
    events
}

fn body(event: &ReceivedEventData) -> String {
    String::from_utf8(event.event_data().body().unwrap_or_default().to_vec()).unwrap()
}

fn bodies(events: &[ReceivedEventData]) -> Vec<String> {
    events.iter().map(body).collect()
}

#[tokio::test]
async fn events_come_back_in_order_with_positions() {
    let emulator = start(2).await;
    let producer = producer(&emulator).await;
    for text in ["a", "b", "c"] {
        send(&producer, 1, text).await;
    }
    let consumer = consumer(&emulator).await;
    let events = receive(&consumer, 1, earliest(), 3).await;
    assert_eq!(bodies(&events), ["a", "b", "c"]);
    let sequences: Vec<_> = events.iter().map(|e| e.sequence_number()).collect();
    assert_eq!(sequences, [Some(0), Some(1), Some(2)]);
    let offsets: Vec<i64> =
        events.iter().map(|e| e.offset().as_ref().unwrap().parse().unwrap()).collect();
    assert!(offsets.is_sorted() && offsets[1] > 1, "{offsets:?}");
    assert!(events.iter().all(|e| e.enqueued_time().is_some()));
    emulator.shutdown().await.unwrap();
}

#[tokio::test]
async fn every_start_position_is_honoured() {
    let emulator = start(1).await;
    let producer = producer(&emulator).await;
    for text in ["0", "1", "2", "3", "4"] {
        send(&producer, 0, text).await;
    }
    let consumer = consumer(&emulator).await;
    let all = receive(&consumer, 0, earliest(), 5).await;
    let offset = all[2].offset().clone().unwrap();
    let time = all[2].enqueued_time().unwrap();
    for (location, inclusive, first) in [
        (StartLocation::Offset(offset.clone()), false, "3"),
        (StartLocation::Offset(offset), true, "2"),
        (StartLocation::SequenceNumber(2), false, "3"),
        (StartLocation::SequenceNumber(2), true, "2"),
        (StartLocation::EnqueuedTime(time), true, "2"),
        (StartLocation::EnqueuedTime(time), false, "3"),
        (StartLocation::EnqueuedTime(time - Duration::from_secs(60)), false, "0"),
    ] {
        let events = receive(&consumer, 0, at(location.clone(), inclusive), 1).await;
        assert_eq!(body(&events[0]), first, "{location:?} {inclusive}");
    }
}

#[tokio::test]
async fn latest_gets_only_what_comes_after() {
    let emulator = start(1).await;
    let producer = producer(&emulator).await;
    send(&producer, 0, "before").await;
    let consumer = consumer(&emulator).await;
    let receiver = consumer
        .open_receiver_on_partition("0".into(), Some(at(StartLocation::Latest, false)))
        .await
        .unwrap();
    let mut stream = receiver.stream_events();
    let mut first = Box::pin(next(&mut stream));
    // The attach happens at the first poll and takes a few round trips: send until one is seen.
    let event = loop {
        tokio::select! {
            event = &mut first => break event.unwrap(),
            () = async { send(&producer, 0, "after").await } => {}
        }
    };
    assert_eq!(body(&event), "after");
}

#[tokio::test]
async fn a_position_behind_the_end_is_refused() {
    let emulator = start(1).await;
    let consumer = consumer(&emulator).await;
    let receiver = consumer
        .open_receiver_on_partition("0".into(), Some(at(StartLocation::SequenceNumber(17), false)))
        .await
        .unwrap();
    let error = next(&mut receiver.stream_events()).await.unwrap_err();
    assert!(format!("{error:?}").contains("ArgumentError"), "{error:?}");
}

#[tokio::test]
async fn batches_arrive_whole_on_one_partition() {
    let emulator = start(2).await;
    let producer = producer(&emulator).await;
    let options = EventDataBatchOptions {
        partition_id: Some("1".into()),
        ..EventDataBatchOptions::default()
    };
    let batch = within("a batch", producer.create_batch(Some(options))).await.unwrap();
    for number in 0..500 {
        let event = EventData::builder().with_body(number.to_string().into_bytes()).build();
        assert!(batch.try_add_event_data(event, None).unwrap());
    }
    within("a send", producer.send_batch(batch, None)).await.unwrap();
    let consumer = consumer(&emulator).await;
    let events = receive(&consumer, 1, earliest(), 500).await;
    let expected: Vec<_> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(bodies(&events), expected);
}

#[tokio::test]
async fn a_partition_key_goes_to_one_partition_and_comes_back() {
    let emulator = start(4).await;
    let producer = producer(&emulator).await;
    for _ in 0..3 {
        let options = EventDataBatchOptions {
            partition_key: Some("customer-7".into()),
            ..EventDataBatchOptions::default()
        };
        let batch = within("a batch", producer.create_batch(Some(options))).await.unwrap();
        batch.try_add_event_data(EventData::from("keyed".to_owned()), None).unwrap();
        within("a send", producer.send_batch(batch, None)).await.unwrap();
    }
    let mut filled = Vec::new();
    for id in 0..4 {
        let properties =
            within("properties", producer.get_partition_properties(&id.to_string())).await.unwrap();
        if !properties.is_empty {
            filled.push((id, properties.last_enqueued_sequence_number));
        }
    }
    assert_eq!(filled.len(), 1, "{filled:?}");
    assert_eq!(filled[0].1, 2);
    let consumer = consumer(&emulator).await;
    let events = receive(&consumer, filled[0].0, earliest(), 1).await;
    assert_eq!(events[0].partition_key().as_deref(), Some("customer-7"));
}

#[tokio::test]
async fn events_without_a_partition_are_spread() {
    let emulator = start(3).await;
    let producer = producer(&emulator).await;
    for _ in 0..6 {
        within("a send", producer.send_event(EventData::from("x".to_owned()), None)).await.unwrap();
    }
    for id in ["0", "1", "2"] {
        let properties = within("properties", producer.get_partition_properties(id)).await.unwrap();
        assert_eq!(properties.last_enqueued_sequence_number, 1);
    }
}

#[tokio::test]
async fn properties_describe_hub_and_partition() {
    let before = SystemTime::now() - Duration::from_secs(1);
    let emulator = start(3).await;
    let producer = producer(&emulator).await;
    let hub = within("properties", producer.get_eventhub_properties()).await.unwrap();
    assert_eq!(hub.name, HUB);
    assert_eq!(hub.partition_ids, ["0", "1", "2"]);
    assert!(hub.created_on.unwrap() >= before);
    let empty = within("properties", producer.get_partition_properties("2")).await.unwrap();
    assert!(empty.is_empty);
    assert_eq!(empty.last_enqueued_sequence_number, -1);
    send(&producer, 2, "x").await;
    let filled = within("properties", producer.get_partition_properties("2")).await.unwrap();
    assert!(!filled.is_empty);
    assert_eq!(filled.beginning_sequence_number, 0);
    assert_eq!(filled.last_enqueued_sequence_number, 0);
    assert_eq!(filled.last_enqueued_offset, "0");
    within("properties", producer.get_partition_properties("9")).await.unwrap_err();
}

#[tokio::test]
async fn large_and_empty_events_and_properties_survive() {
    let emulator = start(1).await;
    let producer = producer(&emulator).await;
    let large: Vec<u8> = (0..1_000_000u32).map(|byte| (byte % 251) as u8).collect();
    send(&producer, 0, large.clone()).await;
    send(&producer, 0, Vec::new()).await;
    send_event(&producer, 0, EventData::builder().build()).await.unwrap();
    let event = EventData::builder()
        .with_body(b"body".to_vec())
        .with_content_type("text/plain".into())
        .add_property("attempt".into(), 3)
        .add_property("source".into(), "tests")
        .build();
    send_event(&producer, 0, event).await.unwrap();
    let consumer = consumer(&emulator).await;
    let events = receive(&consumer, 0, earliest(), 4).await;
    assert_eq!(events[0].event_data().body(), Some(&large[..]));
    assert_eq!(events[1].event_data().body().unwrap_or_default(), b"");
    assert_eq!(events[2].event_data().body().unwrap_or_default(), b"");
    let last = events[3].event_data();
    assert_eq!(last.content_type(), Some("text/plain"));
    let properties = last.properties().unwrap();
    assert_eq!(properties.len(), 2);
    assert!(properties.contains_key("attempt") && properties.contains_key("source"));
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_and_the_next_one_works() {
    let emulator = start(1).await;
    let producer_a = producer(&emulator).await;
    let event = EventData::builder().with_body(vec![7; 1024 * 1024 + 1]).build();
    let error = send_event(&producer_a, 0, event).await.unwrap_err();
    assert!(format!("{error:?}").to_lowercase().contains("size"), "{error:?}");
    let producer_b = producer(&emulator).await;
    send(&producer_b, 0, "fits").await;
}

#[tokio::test]
async fn a_higher_owner_level_takes_the_partition() {
    let emulator = start(1).await;
    let producer = producer(&emulator).await;
    send(&producer, 0, "x").await;
    let with_level = |level| OpenReceiverOptions { owner_level: Some(level), ..earliest() };
    let (old, new) = (consumer(&emulator).await, consumer(&emulator).await);
    let old_receiver =
        old.open_receiver_on_partition("0".into(), Some(with_level(1))).await.unwrap();
    let mut old_events = old_receiver.stream_events();
    next(&mut old_events).await.unwrap();
    let taken = receive(&new, 0, with_level(2), 1).await;
    assert_eq!(body(&taken[0]), "x");
    let error = next(&mut old_events).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::ConsumerDisconnected(_)), "{error:?}");
}

#[tokio::test]
async fn a_lower_owner_level_or_none_is_refused_while_a_higher_one_receives() {
    let emulator = start(1).await;
    let producer = producer(&emulator).await;
    send(&producer, 0, "x").await;
    let holder = consumer(&emulator).await;
    let receiver = holder
        .open_receiver_on_partition(
            "0".into(),
            Some(OpenReceiverOptions { owner_level: Some(5), ..earliest() }),
        )
        .await
        .unwrap();
    let mut events = receiver.stream_events();
    next(&mut events).await.unwrap();
    for owner_level in [Some(4), None] {
        let late = consumer(&emulator).await;
        let receiver = late
            .open_receiver_on_partition(
                "0".into(),
                Some(OpenReceiverOptions { owner_level, ..earliest() }),
            )
            .await
            .unwrap();
        let error = next(&mut receiver.stream_events()).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::ConsumerDisconnected(_)), "{error:?}");
    }
    send(&producer, 0, "y").await;
    assert_eq!(body(&next(&mut events).await.unwrap()), "y");
}

#[tokio::test]
async fn an_unknown_hub_is_not_found_unless_hubs_are_created_on_first_use() {
    let emulator = Emulator::builder().start().await.unwrap();
    let client = producer(&emulator).await;
    let options = Some(SendEventOptions::default());
    let error = within("a send", client.send_event("x".to_owned(), options)).await.unwrap_err();
    assert!(
        format!("{error:?}").contains("not-found") || format!("{error:?}").contains("NotFound"),
        "{error:?}"
    );
    let emulator = Emulator::builder().create_on_first_use(2).start().await.unwrap();
    let client = producer(&emulator).await;
    send(&client, 1, "x").await;
    let hub = within("properties", client.get_eventhub_properties()).await.unwrap();
    assert_eq!(hub.partition_ids, ["0", "1"]);
}

#[tokio::test]
async fn a_restart_on_the_same_folder_keeps_events_and_identity() {
    let dir = tempfile::tempdir().unwrap();
    let durable =
        |durability| Emulator::builder().hub(HUB, 2).data_dir(dir.path()).durability(durability);
    let emulator = durable(Durability::Disk).start().await.unwrap();
    let error = durable(Durability::Process).start().await.unwrap_err();
    assert!(matches!(error, EmulatorError::DataDirInUse { .. }), "{error:?}");
    let client = producer(&emulator).await;
    for text in ["a", "b", "c"] {
        send(&client, 1, text).await;
    }
    let created = within("properties", client.get_eventhub_properties()).await.unwrap().created_on;
    emulator.shutdown().await.unwrap();

    let error = Emulator::builder().hub(HUB, 3).data_dir(dir.path()).start().await.unwrap_err();
    assert!(matches!(error, EmulatorError::PartitionCount { present: 2, .. }), "{error:?}");

    let emulator = durable(Durability::Process).start().await.unwrap();
    let client = producer(&emulator).await;
    let again = within("properties", client.get_eventhub_properties()).await.unwrap().created_on;
    assert_eq!(created, again);
    send(&client, 1, "d").await;
    let consumer = consumer(&emulator).await;
    let events = receive(&consumer, 1, earliest(), 4).await;
    assert_eq!(bodies(&events), ["a", "b", "c", "d"]);
    assert_eq!(events[3].sequence_number(), Some(3));
    let offset = events[1].offset().clone().unwrap();
    let events = receive(&consumer, 1, at(StartLocation::Offset(offset), false), 2).await;
    assert_eq!(bodies(&events), ["c", "d"]);
    let events = receive(&consumer, 1, at(StartLocation::SequenceNumber(2), true), 2).await;
    assert_eq!(bodies(&events), ["c", "d"]);
    emulator.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_forced_detach_is_seen_by_the_receiver_and_it_can_come_back() {
    let emulator = start(2).await;
    let producer = producer(&emulator).await;
    send(&producer, 0, "x").await;
    let client = consumer(&emulator).await;
    let receiver = client.open_receiver_on_partition("0".into(), Some(earliest())).await.unwrap();
    {
        let mut events = receiver.stream_events();
        next(&mut events).await.unwrap();
        assert_eq!(emulator.faults().detach_receivers(HUB, Some(1)), 0);
        assert_eq!(emulator.faults().detach_receivers("ORDERS", Some(0)), 1);
        assert_eq!(emulator.faults().detach_receivers(HUB, None), 0);
        let error = next(&mut events).await.unwrap_err();
        assert!(
            format!("{error:?}").contains("detach-forced")
                || format!("{error:?}").contains("DetachForced"),
            "{error:?}"
        );
    }
    let other = consumer(&emulator).await;
    let events = receive(&other, 0, earliest(), 1).await;
    assert_eq!(bodies(&events), ["x"]);
}

#[tokio::test]
async fn cut_connections_end_streams_and_leave_the_broker_usable() {
    let emulator = start(1).await;
    let sender = producer(&emulator).await;
    send(&sender, 0, "x").await;
    let client = consumer(&emulator).await;
    let receiver = client.open_receiver_on_partition("0".into(), Some(earliest())).await.unwrap();
    let mut events = receiver.stream_events();
    next(&mut events).await.unwrap();
    assert_eq!(emulator.faults().connections(), 2);
    assert_eq!(emulator.faults().cut_connections(), 2);
    next(&mut events).await.unwrap_err();
    let fresh = consumer(&emulator).await;
    assert_eq!(bodies(&receive(&fresh, 0, earliest(), 1).await), ["x"]);
}

#[tokio::test]
async fn a_broker_that_is_away_refuses_connections_and_keeps_its_events() {
    let emulator = start(1).await;
    let sender = producer(&emulator).await;
    send(&sender, 0, "x").await;
    let faults = emulator.faults();
    let away = tokio::spawn(async move { faults.away(Duration::from_millis(300)).await });
    let address = emulator.local_addr();
    within("the broker to be away", async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(emulator.faults().connections(), 0);
    within("the broker to be back", away).await.unwrap().unwrap();
    let client = consumer(&emulator).await;
    assert_eq!(bodies(&receive(&client, 0, earliest(), 1).await), ["x"]);
    emulator.shutdown().await.unwrap();
}
