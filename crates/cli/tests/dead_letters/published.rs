//! `replay --to`: what is published is the event that was received, with every type of AMQP.

use std::future::poll_fn;

use longshore::Event;
use longshore::OutgoingEvent;
use longshore::dead_letter::DeadLetter;
use longshore::event::Incarnation;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{LinkStart, OpenLink, Publisher, SendTarget, Transport};
use longshore_emulator::HubOptions;

use crate::every_type::{content, events, failure, unwritable};
use crate::stage::{Stage, at, ids, letter, parts};
use crate::{broker, waiting};

async fn received(namespace: &Namespace, hub: &str, count: usize) -> Vec<Event> {
    let transport = EventHubsTransport::new(namespace.clone(), hub, "$Default");
    let open = OpenLink::new("0".into(), LinkStart::FirstEvent, 100);
    let mut link = transport.open(open).await.unwrap();
    let mut events = Vec::new();
    while events.len() < count {
        let polled = poll_fn(|cx| link.poll_receive(cx, 100, &mut events));
        waiting::within("the events of the hub", polled).await.unwrap();
    }
    assert_eq!(events.len(), count, "each once");
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_to_another_hub_is_the_event_that_was_received() {
    let hubs = broker::patient().hub_with(HubOptions::new("orders", 1));
    let broker = hubs.hub_with(HubOptions::new("mended", 1)).start().await.unwrap();
    let string = broker.connection_string(None);
    let namespace = Namespace::from_connection_string(&string).unwrap();
    let published = events();
    let orders = EventHubsPublisher::new(namespace.clone(), "orders");
    let target = SendTarget::Partition("0".into());
    orders.send_batch(target, published.clone()).await.unwrap();

    let originals = received(&namespace, "orders", published.len()).await;
    for (original, sent) in originals.iter().zip(&published) {
        assert_eq!(
            content(&OutgoingEvent::copy_of(original)),
            content(sent),
            "as it was published"
        );
    }
    let transport = EventHubsTransport::new(namespace.clone(), "orders", "$Default");
    let incarnation = transport.hub_properties().await.unwrap().incarnation;
    let mut stage = Stage::over_a_folder();
    stage.environment = vec![("EVENTHUB_CONNECTION_STRING".to_owned(), string)];
    let letter = |event: &Event| {
        DeadLetter::new(event.clone(), "$Default".into(), "worker-1", failure(), at(1))
            .with_origin(namespace.name(), incarnation)
    };
    stage.write(originals.iter().map(letter)).await;
    let ended = stage.run(&["replay", "--all", "--to", "mended", "--report", "json"]).await;
    let ended = ended.expect_code(0);
    assert_eq!(ended.figure("done"), published.len() as u64);

    let sorted = |events: &[Event]| {
        let mut contents: Vec<String> = events
            .iter()
            .map(|event| content(&OutgoingEvent::copy_of(event)).to_string())
            .collect();
        contents.sort();
        contents
    };
    let replayed = received(&namespace, "mended", published.len()).await;
    for (replayed, original) in sorted(&replayed).iter().zip(&sorted(&originals)) {
        assert_eq!(replayed, original);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_would_write_wrongly_is_not_published_and_stops_no_other() {
    let broker = broker::patient().hub_with(HubOptions::new("mended", 1)).start().await.unwrap();
    let string = broker.connection_string(None);
    let namespace = Namespace::from_connection_string(&string).unwrap();
    let mut stage = Stage::over_a_folder();
    stage.environment = vec![("EVENTHUB_CONNECTION_STRING".to_owned(), string)];
    let odd = unwritable();
    let mut letters = Vec::new();
    for (number, outgoing) in (0_i64..).zip(odd.iter().cloned().chain([OutgoingEvent::new("fine")]))
    {
        let mut parts = parts("orders", number, "");
        parts.body = outgoing.body;
        parts.annotations = outgoing.annotations;
        if let Some(body) = outgoing.structured_body {
            parts.set_structured_body(body);
        }
        letters.push(letter(parts, "404").with_origin(namespace.name(), Incarnation(7)));
    }
    stage.write(letters).await;
    let ended = stage.run(&["replay", "--all", "--to", "mended", "--report", "json"]).await;
    let ended = ended.expect_code(3);
    assert_eq!((ended.figure("done"), ended.figure("failed_again")), (1, odd.len() as u64));
    let why = ended.report()["failed"][0]["reason"].to_string();
    assert!(why.contains("an array of lists, maps, arrays"), "{why}");
    assert_eq!(ids(&stage.report(&["list"]).await), [0, 1, 2, 3]);
    assert_eq!(&received(&namespace, "mended", 1).await[0].body()[..], b"fine");
}
