//! What the service's errors mean for us, row by row: the embedded broker gives each AMQP error
//! at each place where a client can meet it, and the adapter over the Azure SDK names its class.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/waiting.rs"]
mod waiting;

use std::future::poll_fn;

use longshore::event::PartitionId;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{LinkStart, OpenLink, Publisher, SendTarget, Transport};
use longshore::{Error, ErrorClass, OutgoingEvent};
use longshore_emulator::{Emulator, FaultPoint};
use waiting::within;

const HUB: &str = "files";

/// The table of AMQP errors: what a link's end or refusal means.
const LINK_ERRORS: [(&str, ErrorClass); 22] = [
    ("amqp:link:stolen", ErrorClass::PartitionLost),
    ("com.microsoft:partition-not-owned", ErrorClass::PartitionLost),
    ("com.microsoft:server-busy", ErrorClass::Throttling),
    ("amqp:resource-limit-exceeded", ErrorClass::Throttling),
    ("amqp:connection:forced", ErrorClass::Transient),
    ("amqp:connection:framing-error", ErrorClass::Transient),
    ("amqp:link:detach-forced", ErrorClass::Transient),
    ("com.microsoft:timeout", ErrorClass::Transient),
    ("amqp:internal-error", ErrorClass::Transient),
    ("com.microsoft:operation-cancelled", ErrorClass::Transient),
    ("com.microsoft:entity-updated", ErrorClass::Transient),
    ("amqp:unauthorized-access", ErrorClass::Auth),
    ("amqp:not-found", ErrorClass::Permanent),
    ("amqp:not-allowed", ErrorClass::Permanent),
    ("amqp:not-implemented", ErrorClass::Permanent),
    ("amqp:resource-deleted", ErrorClass::Permanent),
    ("com.microsoft:entity-disabled", ErrorClass::Permanent),
    ("com.microsoft:argument-error", ErrorClass::BadPosition),
    ("com.microsoft:argument-out-of-range", ErrorClass::BadPosition),
    ("com.microsoft:georeplication:invalid-offset", ErrorClass::BadPosition),
    ("amqp:decode-error", ErrorClass::BadData),
    ("com.example:never-heard-of", ErrorClass::Unknown),
];

/// What a rejected send means: it has no position, so what is out of range is its partition.
fn of_a_send(condition: &str, class: ErrorClass) -> ErrorClass {
    match (condition, class) {
        (_, ErrorClass::BadPosition) => ErrorClass::Permanent,
        _ => class,
    }
}

async fn start() -> (Emulator, Namespace) {
    let emulator = broker::patient().hub(HUB, 1).start().await.unwrap();
    let namespace = broker::namespace(&emulator);
    (emulator, namespace)
}

/// The error that a link ends with, be it refused or ended later.
async fn link_error(transport: &EventHubsTransport) -> Error {
    let open = OpenLink::new(PartitionId::from("0"), LinkStart::FirstEvent, 100);
    let mut link = match transport.open(open).await {
        Ok(link) => link,
        Err(error) => return error,
    };
    let mut events = Vec::new();
    loop {
        if let Err(error) = poll_fn(|cx| link.poll_receive(cx, 100, &mut events)).await {
            link.close().await;
            return error;
        }
    }
}

async fn link_errors_at(point: FaultPoint) {
    let (emulator, namespace) = start().await;
    let transport = EventHubsTransport::new(namespace.clone(), HUB, "$Default");
    let publisher = EventHubsPublisher::new(namespace, HUB);
    publisher.send(SendTarget::Any, OutgoingEvent::new("x")).await.unwrap();
    let mut wrong = Vec::new();
    for (condition, class) in LINK_ERRORS {
        emulator.faults().fail(point, condition, "on demand", 1);
        let error = within(condition, link_error(&transport)).await;
        if error.class() != class {
            wrong.push(format!("{condition}: {} instead of {class}: {error:?}", error.class()));
        }
        assert_eq!(emulator.faults().pending_failures(point), 0, "{condition}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn of_a_refused_link() {
    link_errors_at(FaultPoint::Attach).await;
}

#[tokio::test]
async fn of_a_link_that_ends() {
    link_errors_at(FaultPoint::Receive).await;
}

#[tokio::test]
async fn of_a_rejected_send() {
    let (emulator, namespace) = start().await;
    let publisher = EventHubsPublisher::new(namespace, HUB);
    let too_large = ("amqp:link:message-size-exceeded", ErrorClass::TooLarge);
    let mut wrong = Vec::new();
    for (condition, class) in LINK_ERRORS.into_iter().chain([too_large]) {
        emulator.faults().fail(FaultPoint::Send, condition, "on demand", 1);
        let sent =
            within(condition, publisher.send(SendTarget::Any, OutgoingEvent::new("x"))).await;
        let (found, class) = (sent.unwrap_err(), of_a_send(condition, class));
        if found.class() != class {
            wrong.push(format!("{condition}: {} instead of {class}: {found:?}", found.class()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let accepted = within("a send", publisher.send(SendTarget::Any, OutgoingEvent::new("x"))).await;
    accepted.unwrap();
}

#[tokio::test]
async fn of_properties_that_cannot_be_read() {
    let (emulator, namespace) = start().await;
    let transport = EventHubsTransport::new(namespace, HUB, "$Default");
    for (condition, class) in [
        ("amqp:unauthorized-access", ErrorClass::Auth),
        ("amqp:not-found", ErrorClass::Permanent),
        ("com.microsoft:server-busy", ErrorClass::Throttling),
        ("amqp:internal-error", ErrorClass::Transient),
    ] {
        emulator.faults().fail(FaultPoint::Management, condition, "on demand", 1);
        let error = within(condition, transport.hub_properties()).await.unwrap_err();
        assert_eq!(error.class(), class, "{condition}: {error:?}");
    }
    within("the properties", transport.hub_properties()).await.unwrap();
}

#[tokio::test]
async fn of_a_connection_that_is_gone() {
    let (emulator, namespace) = start().await;
    let transport = EventHubsTransport::new(namespace.clone(), HUB, "$Default");
    let open = OpenLink::new(PartitionId::from("0"), LinkStart::FirstEvent, 100);
    let publisher = EventHubsPublisher::new(namespace, HUB);
    publisher.send(SendTarget::Any, OutgoingEvent::new("x")).await.unwrap();
    let mut link = transport.open(open).await.unwrap();
    let mut events = Vec::new();
    poll_fn(|cx| link.poll_receive(cx, 1, &mut events)).await.unwrap();
    emulator.faults().cut_connections();
    let cut = within("the cut", poll_fn(|cx| link.poll_receive(cx, 1, &mut events))).await;
    assert_eq!(cut.unwrap_err().class(), ErrorClass::Transient);
    emulator.shutdown().await.unwrap();
    let refused = within("the refusal", link_error(&transport)).await;
    assert_eq!(refused.class(), ErrorClass::Transient, "{refused:?}");
    let refused = publisher.send(SendTarget::Any, OutgoingEvent::new("x")).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Transient, "{refused:?}");
}
