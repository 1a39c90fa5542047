//! Publishing through the Azure SDK to the embedded broker.
#![allow(missing_docs)]

#[path = "support/broker.rs"]
mod broker;

use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{Publisher, SendTarget, Transport as _};
use longshore::{ErrorClass, OutgoingEvent};
use longshore_emulator::Emulator;

async fn start() -> (Emulator, Namespace) {
    let emulator = broker::patient().hub("files", 1).start().await.expect("started");
    let namespace = broker::namespace(&emulator);
    (emulator, namespace)
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
