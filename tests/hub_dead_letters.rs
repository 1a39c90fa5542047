//! Dead letters as events of a hub: on the memory transport, and through the Azure SDK.

#[cfg(feature = "event-hubs")]
#[path = "support/broker.rs"]
mod broker;
mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use longshore::dead_letter::hub::HubDeadLetterSink;
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::dead_letter::store::StoreDeadLetterSink;
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::event::{
    EventParts, Incarnation, MessageProperties, Partition, SequenceNumber, Value,
};
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore};
use longshore::transport::memory::MemoryHub;
use longshore::transport::{LinkStart, OpenLink, Transport};
use longshore::{ErrorClass, Event, EventContext, Failure};
use tokio::time::sleep;

use support::{Harness, drained, until};

/// Reads everything of a hub, in the order of partitions.
async fn events_of(hub: &MemoryHub) -> Vec<Event> {
    let transport = hub.transport("$Default");
    let mut events = Vec::new();
    for partition in transport.hub_properties().await.expect("properties").partitions {
        let mut link = transport
            .open(OpenLink::new(partition, LinkStart::FirstEvent, 100))
            .await
            .expect("opened");
        let receive = std::future::poll_fn(|cx| link.poll_receive(cx, 100, &mut events));
        receive.now_or_never().transpose().expect("received");
    }
    events
}

fn letter(event: Event, failure: Failure) -> DeadLetter {
    let failed_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    DeadLetter::new(event, "$Default".into(), "worker-1", failure, failed_at)
        .with_history(3, SystemTime::UNIX_EPOCH)
}

fn failed_event(body: impl Into<bytes::Bytes>) -> EventParts {
    let mut parts = EventParts::new(Arc::new(Partition::new("orders", "3")), 17, body);
    parts.offset = Some("4096".into());
    parts.key = Some("customer 7".to_owned());
    let mut message = MessageProperties::default();
    message.message_id = Some("m-1".into());
    message.correlation_id = Some("c-1".into());
    message.content_type = Some("image/jpeg".to_owned());
    parts.set_message(message);
    parts.properties.insert("tries".to_owned(), 3.into());
    parts.properties.insert("raw".to_owned(), Value::Binary((&b"\xff\0"[..]).into()));
    parts
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_the_event_as_it_came_with_its_record_in_properties() {
    let hub = MemoryHub::new("orders-dead", 4);
    let sink = HubDeadLetterSink::new(Arc::new(hub.publisher()));
    let event: Event = failed_event(&b"\xff\xd8 no text"[..]).into();
    let mut failure = Failure::permanent("404");
    failure.causes = vec!["not \"found\"".to_owned(), "gone".to_owned()];
    let letter = letter(event.clone(), failure);
    sink.write(&letter).await.expect("written");
    let events = events_of(&hub).await;
    let [published] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(published.body(), event.body());
    assert_eq!(published.key(), Some("customer 7"));
    assert_eq!(published.content_type(), Some("image/jpeg"));
    assert_eq!(published.message_id().as_deref(), Some("orders/3/17"));
    for (name, value) in event.properties() {
        assert_eq!(published.properties().get(name), Some(value));
    }
    let property = |name: &str| published.properties().get(name).cloned();
    assert_eq!(property("dl_error_causes"), Some(r#"["not \"found\"","gone"]"#.into()));
    assert_eq!(property("dl_last_failure"), Some("2023-11-14T22:13:20.250Z".into()));
    assert_eq!(property("dl_sequence_number"), Some(17_i64.into()));
    assert_eq!(property("dl_shortened"), None);
    let record = DeadLetterRecord::from_event(published).expect("a record");
    assert_eq!(record, DeadLetterRecord::new(&letter));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_fails_again_keeps_its_first_record() {
    let hub = MemoryHub::new("dead", 1);
    let sink = HubDeadLetterSink::new(Arc::new(hub.publisher()));
    let first = letter(failed_event("x").into(), Failure::permanent("first"));
    sink.write(&first).await.expect("written");
    let again = letter(events_of(&hub).await.remove(0), Failure::permanent("second"));
    sink.write(&again).await.expect("written");
    let events = events_of(&hub).await;
    let outer = DeadLetterRecord::from_event(&events[1]).expect("a record");
    assert_eq!(outer, DeadLetterRecord::new(&again));
    assert_eq!(outer.error.message, "second");
    assert_eq!(outer.event_properties().expect("properties"), *events[0].properties());
}

#[tokio::test(start_paused = true)]
async fn a_record_is_shortened_until_the_event_fits_and_a_body_is_never_cut() {
    let hub = MemoryHub::new("dead", 1);
    let sink = HubDeadLetterSink::new(Arc::new(hub.publisher()));
    let mut failure = Failure::new(ErrorClass::Unknown, "ä".repeat(2_000));
    failure.causes = vec!["c".repeat(5_000)];
    hub.limit_event_bytes(12_000);
    for body_bytes in [1_000, 4_000, 10_500, 11_900, 12_001] {
        let letter = letter(failed_event(vec![7; body_bytes]).into(), failure.clone());
        let written = sink.write(&letter).await;
        if body_bytes <= 12_000 {
            written.expect("written");
            continue;
        }
        let error = written.expect_err("too large");
        assert_eq!(error.class(), ErrorClass::Permanent);
        let message = error.to_string();
        assert!(message.contains("of orders/3 at 17: the event alone"), "{message}");
        assert!(message.contains("12001 bytes, is larger than dead takes"), "{message}");
    }
    let events = events_of(&hub).await;
    let lengths: Vec<usize> = events.iter().map(|event| event.body().len()).collect();
    assert_eq!(lengths, [1_000, 4_000, 10_500, 11_900]);
    let records: Vec<_> = events.iter().map(DeadLetterRecord::from_event).collect();
    let shown = |index: usize| {
        let record = records[index].as_ref().expect("a record");
        (record.error.message.len(), record.error.causes.len())
    };
    assert_eq!([shown(0), shown(1), shown(2)], [(4_000, 1), (4_000, 0), (256, 0)]);
    assert!(events[2].properties().contains_key("dl_shortened"));
    let error = records[3].as_ref().expect_err("the event alone");
    assert_eq!(error.class(), ErrorClass::BadData);
    assert_eq!(events[3].message_id().as_deref(), Some("orders/3/17"));
    assert_eq!(events[3].properties().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_watermark_waits_for_the_hub_of_dead_letters_and_each_entity_has_its_own() {
    let harness = Harness::new(1);
    let (dead, others) = (MemoryHub::new("files-dead", 1), MemoryHub::new("dead", 1));
    let sink = HubDeadLetterSink::new(Arc::new(others.publisher()))
        .with_route("files", Arc::new(dead.publisher()));
    let sink: Arc<dyn DeadLetterSink> = Arc::new(sink);
    dead.fail_sends(3, ErrorClass::Transient);
    harness.publish(0, 3);
    let handle = harness
        .without_letters()
        .dead_letters(sink.clone())
        .event_handler(|event: Event, _: EventContext| async move {
            if event.sequence_number().0 == 1 { Err(Failure::permanent("404")) } else { Ok(()) }
        })
        .expect("valid")
        .start();
    until("the others", || handle.snapshot().counts.done == 2).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(harness.checkpointed_to("0").await, Some(0));
    until("the letter", || handle.snapshot().counts.dead_letters == 1).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(harness.checkpointed_to("0").await, Some(2));
    sink.write(&letter(failed_event("x").into(), Failure::permanent("no"))).await.expect("written");
    assert_eq!(events_of(&dead).await.len(), 1);
    assert_eq!(events_of(&others).await.len(), 1);
}

#[test]
fn an_event_that_is_no_dead_letter_is_bad_data() {
    let mut damaged = failed_event("x");
    for event in [failed_event("x"), {
        damaged.properties.insert("dl_version".to_owned(), 99.into());
        damaged
    }] {
        let error = DeadLetterRecord::from_event(&event.into()).expect_err("no record");
        assert_eq!(error.class(), ErrorClass::BadData);
    }
}

/// The same through the SDK and the embedded broker, in real time.
#[cfg(feature = "event-hubs")]
mod over_the_sdk {
    use longshore::EventConsumer;
    use longshore::checkpoint_store::memory::MemoryCheckpointStore;
    use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};
    use longshore::transport::{Link, Publisher, SendTarget};

    use super::*;
    use crate::support::within;

    async fn next(link: &mut Box<dyn Link>) -> Event {
        let mut events = Vec::new();
        let receive = std::future::poll_fn(|cx| link.poll_receive(cx, 1, &mut events));
        within("a dead letter", receive).await.expect("received");
        events.remove(0)
    }

    #[tokio::test]
    async fn a_failed_event_arrives_in_the_hub_of_dead_letters_with_its_record() {
        let emulator =
            broker::patient().hub("files", 1).hub("files-dead", 1).start().await.expect("started");
        let namespace = broker::namespace(&emulator);
        let publisher = EventHubsPublisher::new(namespace.clone(), "files");
        let small = longshore::OutgoingEvent::new(&b"\xff\0"[..])
            .with_key("k")
            .with_property("tries", 3)
            .with_property("raw", Value::Binary((&b"\xff\0"[..]).into()))
            .with_message_id("m-1")
            .with_content_type("image/jpeg");
        // So large that the causes do not fit beside it.
        let large = longshore::OutgoingEvent::new(vec![7; (1 << 20) - 4_000]);
        for event in [small, large] {
            publisher.send(SendTarget::Any, event).await.expect("published");
        }
        let dead = Arc::new(EventHubsPublisher::new(namespace.clone(), "files-dead"));
        let transport = Arc::new(EventHubsTransport::new(namespace.clone(), "files", "$Default"));
        let handle = EventConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
            .dead_letters(Arc::new(HubDeadLetterSink::new(dead.clone())))
            .worker("worker-1")
            .handler(|_: Event, _: EventContext| async {
                let cause = std::io::Error::other("c".repeat(5_000));
                Err::<(), Failure>(Failure::permanent("404").caused_by(&cause))
            })
            .expect("valid")
            .start();
        let reader = EventHubsTransport::new(namespace, "files-dead", "$Default");
        let open = OpenLink::new("0".into(), LinkStart::FirstEvent, 10);
        let mut link = reader.open(open).await.expect("opened");
        let published = next(&mut link).await;
        assert_eq!(published.key(), Some("k"));
        let id = published.message_id().expect("an id").into_owned();
        assert!(id.starts_with("localhost/files/") && id.ends_with("/%24default/0/0"), "{id}");
        assert_eq!(published.content_type(), Some("image/jpeg"));
        let record = DeadLetterRecord::from_event(&published).expect("a record");
        assert_eq!(record.body().expect("a body"), &b"\xff\0"[..]);
        assert_eq!(record.message.message_id, Some("m-1".into()));
        assert_eq!((record.worker.as_str(), record.attempts), ("worker-1", 1));
        assert_eq!((record.error.message.as_str(), record.error.causes.len()), ("404", 1));
        let properties = record.event_properties().expect("properties");
        assert_eq!(properties.get("tries"), Some(&3.into()));
        assert_eq!(properties.len(), 2);
        let published = next(&mut link).await;
        assert_eq!(published.body().len(), (1 << 20) - 4_000);
        let record = DeadLetterRecord::from_event(&published).expect("a record");
        assert_eq!((record.error.message.as_str(), record.error.causes.len()), ("404", 0));
        link.close().await;
        until("settled", || handle.snapshot().counts.dead_letters == 2).await;
        assert!(drained(handle).await.is_clean());
        publisher.close().await;
        dead.close().await;
        emulator.shutdown().await.expect("stopped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_carries_the_whole_identity_and_what_is_too_large_goes_to_the_store() {
    let hub = MemoryHub::new("dead", 1);
    let store = Arc::new(MemoryFailureStore::new());
    let sink = HubDeadLetterSink::new(Arc::new(hub.publisher()))
        .with_store(StoreDeadLetterSink::new(store.clone()));
    hub.limit_event_bytes(12_000);
    let failure = || Failure::permanent("https://u:canary@h/a?sig=canary: 404");
    for body_bytes in [1_000, 12_001] {
        let mut parts = failed_event(vec![7; body_bytes]);
        parts.sequence_number = SequenceNumber(i64::try_from(body_bytes).expect("small"));
        let mut letter = letter(parts.into(), failure()).with_origin("ns.example", Incarnation(7));
        letter.destination = Some("h".to_owned());
        sink.write(&letter).await.expect("written");
    }
    let events = events_of(&hub).await;
    let [published] = events.as_slice() else { panic!("{events:?}") };
    let id = "ns.example/orders/0000000000007/%24default/3/1000";
    assert_eq!(published.message_id().as_deref(), Some(id));
    assert!(!format!("{:?}", published.properties()).contains("canary"));
    let record = DeadLetterRecord::from_event(published).expect("a record");
    assert_eq!(record.identity().to_string(), id);
    assert_eq!(record.destination.as_deref(), Some("h"));
    let all = FailurePrefix::all(FailureKind::Dead);
    let page = store.list(&all, None, 10).await.expect("listed");
    let sizes: Vec<_> = page
        .entries
        .iter()
        .map(|entry| entry.as_ref().expect("readable").meta.body_bytes)
        .collect();
    assert_eq!(sizes, [12_001]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_published_goes_to_the_store_and_without_one_it_is_an_error() {
    let hub = MemoryHub::new("dead", 1);
    let store = Arc::new(MemoryFailureStore::new());
    let sink = || HubDeadLetterSink::new(Arc::new(hub.publisher()));
    let letter = letter(failed_event(vec![7; 10]).into(), Failure::permanent("404"));
    hub.fail_sends(2, ErrorClass::BadData);
    let error = sink().write(&letter).await.expect_err("without a store");
    assert_eq!(error.class(), ErrorClass::BadData);
    let with_store = sink().with_store(StoreDeadLetterSink::new(store.clone()));
    with_store.write(&letter).await.expect("written");
    assert!(events_of(&hub).await.is_empty());
    let all = FailurePrefix::all(FailureKind::Dead);
    assert_eq!(store.list(&all, None, 10).await.expect("listed").entries.len(), 1);
    // What may pass is tried again, and not put elsewhere.
    hub.fail_sends(1, ErrorClass::Transient);
    with_store.write(&letter).await.expect_err("tried again by who has it");
}
