//! What every transport must do, run against each: the hub in memory, and the Azure SDK against
//! the embedded broker. Then exact resume over each of them.
//!
//! A new transport joins with a [`Fixture`] and one `contract!` line.
//!
//! Where they may differ, the contract says so:
//! - a refused open may be told by [`Transport::open`] or by the link's first receive, because
//!   the SDK attaches at the first receive;
//! - a limit on the size of events, and hubs that do not exist, are the fixture's to declare.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/waiting.rs"]
mod waiting;

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use longshore::event::{Incarnation, Partition, PartitionId, Properties, SequenceNumber, Value};
use longshore::state::backoff::Backoff;
use longshore::state::key_placement::KeyPlacement;
use longshore::state::resume::ResumePosition;
use longshore::testing::contract::{HubUnderTest, transports};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};
use longshore::transport::memory::MemoryHub;
use longshore::transport::partition_stream::{PartitionStream, StreamEnd, StreamOptions};
use longshore::transport::{Link, LinkStart, OpenLink, Publisher, SendTarget, Transport, offsets};
use longshore::{Error, ErrorClass, Event, OutgoingEvent};
use longshore_emulator::Emulator;
use tokio::time::timeout;
use waiting::within;

const HUB: &str = "files";
const PARTITIONS: u32 = 3;
const GROUP: &str = "$Default";
const PREFETCH_EVENTS: u32 = 100;

/// A hub to test a transport on.
trait Fixture: Sized + Send + Sync + 'static {
    /// The largest body the hub takes; `None` where it takes any.
    const MAX_BODY_BYTES: Option<usize>;

    fn start(partitions: u32) -> impl Future<Output = Self> + Send;

    fn transport(&self, group: &str) -> Arc<dyn Transport>;

    fn publisher(&self) -> Arc<dyn Publisher>;

    /// A transport and a publisher of a hub that does not exist; `None` where that cannot be.
    fn of_unknown_hub(&self) -> Option<(Arc<dyn Transport>, Arc<dyn Publisher>)>;

    /// Ends the links of a partition with an error that may be retried; returns how many.
    fn end_links(&self, partition: u32) -> usize;

    /// Ends everything, and fails for a while. Returns when the hub is back.
    fn away(&self, pause: Duration) -> impl Future<Output = ()> + Send;
}

impl Fixture for MemoryHub {
    const MAX_BODY_BYTES: Option<usize> = None;

    async fn start(partitions: u32) -> Self {
        MemoryHub::new(HUB, partitions as usize)
    }

    fn transport(&self, group: &str) -> Arc<dyn Transport> {
        Arc::new(MemoryHub::transport(self, group))
    }

    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(MemoryHub::publisher(self))
    }

    fn of_unknown_hub(&self) -> Option<(Arc<dyn Transport>, Arc<dyn Publisher>)> {
        None
    }

    fn end_links(&self, partition: u32) -> usize {
        let ended = self.open_links(partition as usize);
        MemoryHub::end_links(self, partition as usize, ErrorClass::Transient);
        ended
    }

    async fn away(&self, pause: Duration) {
        self.fail_reads(usize::MAX, ErrorClass::Transient);
        self.fail_opens(usize::MAX, ErrorClass::Transient);
        self.fail_sends(usize::MAX, ErrorClass::Transient);
        (0..PARTITIONS).for_each(|partition| {
            Fixture::end_links(self, partition);
        });
        tokio::time::sleep(pause).await;
        self.fail_reads(0, ErrorClass::Transient);
        self.fail_opens(0, ErrorClass::Transient);
        self.fail_sends(0, ErrorClass::Transient);
    }
}

impl Fixture for Emulator {
    const MAX_BODY_BYTES: Option<usize> = Some(1024 * 1024);

    async fn start(partitions: u32) -> Self {
        broker::patient().hub(HUB, partitions).start().await.unwrap()
    }

    fn transport(&self, group: &str) -> Arc<dyn Transport> {
        Arc::new(EventHubsTransport::new(broker::namespace(self), HUB, group))
    }

    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(EventHubsPublisher::new(broker::namespace(self), HUB))
    }

    fn of_unknown_hub(&self) -> Option<(Arc<dyn Transport>, Arc<dyn Publisher>)> {
        let hub = "nowhere";
        Some((
            Arc::new(EventHubsTransport::new(broker::namespace(self), hub, GROUP)),
            Arc::new(EventHubsPublisher::new(broker::namespace(self), hub)),
        ))
    }

    fn end_links(&self, partition: u32) -> usize {
        self.faults().detach_receivers(HUB, Some(partition))
    }

    async fn away(&self, pause: Duration) {
        self.faults().away(pause).await.unwrap();
    }
}

macro_rules! contract {
    ($name:ident, $fixture:ty) => {
        contract!(@ $name, $fixture,
            the_offset_of_a_number_leads_behind_it,
            every_field_of_an_event_survives,
            empty_bodies_and_bodies_of_a_megabyte_survive,
            events_of_one_key_go_to_one_partition,
            a_publisher_tells_the_partitions_and_keys_are_placed_among_them,
            events_without_a_key_are_spread_over_the_partitions,
            a_batch_larger_than_a_transfer_arrives_whole_and_in_order,
            a_batch_of_many_keys_keeps_them_and_their_order,
            an_event_above_the_limit_is_refused_and_the_next_send_works,
            an_unknown_hub_is_permanent,
            a_stream_gives_each_event_once_across_lost_links,
            a_stream_gives_each_event_once_across_an_absence,
            a_stream_loses_nothing_when_calls_are_dropped,
            a_stream_ends_when_the_partition_is_taken,
        );
    };
    (@ $name:ident, $fixture:ty, $($case:ident,)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    within("the whole test", super::$case(<$fixture>::start(PARTITIONS).await)).await;
                }
            )*
        }
    };
}

contract!(memory, MemoryHub);
contract!(event_hubs, Emulator);

/// A hub as the public contract has it.
struct UnderTest<F>(F);

impl<F: Fixture> HubUnderTest for UnderTest<F> {
    fn transport(&self, consumer_group: &str) -> Arc<dyn Transport> {
        self.0.transport(consumer_group)
    }

    fn publisher(&self) -> Arc<dyn Publisher> {
        self.0.publisher()
    }

    fn end_links(&self, partition: u32) -> usize {
        self.0.end_links(partition)
    }
}

/// Each case of the public contract as a test of its own.
macro_rules! public_contract {
    ($($case:ident,)*) => {
        mod public {
            use super::*;

            mod memory {
                use super::*;
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        let hub = Arc::new(UnderTest(<MemoryHub as Fixture>::start(PARTITIONS).await));
                        transports().hold_one(stringify!($case), hub).await;
                    }
                )*
            }

            mod event_hubs {
                use super::*;
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        let hub = Arc::new(UnderTest(<Emulator as Fixture>::start(PARTITIONS).await));
                        transports().hold_one(stringify!($case), hub).await;
                    }
                )*
            }

            #[test]
            fn the_whole_contract_is_run() {
                let run = [$(stringify!($case)),*];
                assert_eq!(transports().names().collect::<Vec<_>>(), run);
            }
        }
    };
}

public_contract!(
    hub_properties_list_partitions_and_a_stable_incarnation,
    log_properties_tell_the_ends_of_an_empty_and_of_a_filled_log,
    a_link_begins_at_the_first_event,
    a_link_begins_after_a_sequence_number,
    a_link_begins_at_a_time,
    the_first_event_from_a_place_on_is_told_and_takes_the_partition_from_nobody,
    a_read_that_is_not_polled_any_more_holds_up_no_other,
    a_receive_takes_no_more_than_it_was_asked_for,
    a_link_that_has_caught_up_waits_for_the_next_event,
    a_higher_owner_level_takes_the_partition,
    an_equal_owner_level_takes_the_partition,
    a_lower_owner_level_or_none_is_refused,
    groups_read_independently,
    an_unknown_partition_is_permanent,
    a_link_that_was_ended_gives_a_retryable_error_and_another_opens,
    a_link_that_was_closed_lets_a_lower_owner_level_in,
    a_link_that_was_dropped_lets_a_lower_owner_level_in,
    a_closed_transport_can_be_used_again,
);

fn id(partition: u32) -> PartitionId {
    PartitionId::from(partition.to_string())
}

fn to(partition: u32) -> SendTarget {
    SendTarget::Partition(id(partition))
}

fn from(partition: u32, start: LinkStart) -> OpenLink {
    OpenLink::new(id(partition), start, PREFETCH_EVENTS)
}

fn from_the_first(partition: u32) -> OpenLink {
    from(partition, LinkStart::FirstEvent)
}

async fn publish(publisher: &Arc<dyn Publisher>, partition: u32, bodies: &[&'static str]) {
    let events = bodies.iter().map(|body| OutgoingEvent::new(*body)).collect();
    publisher.send_batch(to(partition), events).await.unwrap();
}

async fn receive(
    link: &mut Box<dyn Link>,
    max_events: usize,
    into: &mut Vec<Event>,
) -> Result<usize, Error> {
    poll_fn(|cx| link.poll_receive(cx, max_events, into)).await
}

async fn take(link: &mut Box<dyn Link>, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let missing = count - events.len();
        within("a receive", receive(link, missing, &mut events)).await.unwrap();
    }
    events
}

/// Opens a link and takes its first events.
async fn read(transport: &Arc<dyn Transport>, open: OpenLink, count: usize) -> Vec<Event> {
    let mut link = transport.open(open).await.unwrap();
    let events = take(&mut link, count).await;
    link.close().await;
    events
}

/// The error a link ends with, whatever it gives before.
async fn error_of(link: &mut Box<dyn Link>) -> Error {
    let mut events = Vec::new();
    loop {
        if let Err(error) = within("an error", receive(link, 100, &mut events)).await {
            return error;
        }
    }
}

/// The error of an open that is refused, at once or at the first receive.
async fn refusal(transport: &Arc<dyn Transport>, open: OpenLink) -> Error {
    match transport.open(open).await {
        Ok(mut link) => {
            let error = error_of(&mut link).await;
            link.close().await;
            error
        }
        Err(error) => error,
    }
}

fn bodies(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| std::str::from_utf8(event.body()).unwrap()).collect()
}

fn numbers(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.sequence_number().0).collect()
}

// Where a link begins.

async fn the_offset_of_a_number_leads_behind_it(hub: impl Fixture) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    publish(&publisher, 0, &["a", "b", "c", "d"]).await;
    let events = read(&transport, from_the_first(0), 4).await;
    let log = transport.log_properties(&id(0)).await.unwrap();
    for (number, event) in [(0, &events[0]), (1, &events[1]), (3, &events[3])] {
        let settled = SequenceNumber(number);
        let located = offsets::locate(&*transport, &id(0), settled, &log).await.unwrap();
        assert_eq!(located, event.position());
    }
    let located = offsets::locate(&*transport, &id(0), SequenceNumber(-1), &log).await.unwrap();
    assert_eq!(located.offset, Some("-1".into()));
    let beyond = offsets::locate(&*transport, &id(0), SequenceNumber(99), &log).await.unwrap();
    assert_eq!(beyond.offset.as_ref(), events[3].offset());
    assert_eq!((beyond.sequence_number.0, beyond.enqueued_time), (99, None));
    let since = offsets::first_since(&*transport, &id(0), events[0].enqueued_time()).await;
    assert_eq!(since.unwrap(), SequenceNumber(0));
}

// What an event carries.

async fn every_field_of_an_event_survives(hub: impl Fixture) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    let before = SystemTime::now() - Duration::from_secs(1);
    let properties: Properties = [
        ("null", Value::Null),
        ("true", Value::Bool(true)),
        ("false", Value::Bool(false)),
        ("least", Value::Long(i64::MIN)),
        ("zero", Value::Long(0)),
        ("greatest", Value::Long(i64::MAX)),
        ("int", Value::Int(5)),
        ("beyond", Value::ULong(u64::MAX)),
        ("double", Value::Double(-0.125)),
        ("before 1970", Value::Timestamp(-1)),
        ("text", Value::from("grüße, 世界")),
        ("no text", Value::from("")),
        ("binary", Value::Binary(Bytes::from_static(&[0, 255, 7]))),
        ("no binary", Value::Binary(Bytes::new())),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let mut full = OutgoingEvent::new(&b"\x00\xffbody"[..])
        .with_key("customer 7")
        .with_message_id("3f0c")
        .with_correlation_id("c")
        .with_content_type("application/json")
        .with_content_encoding("gzip")
        .with_subject("s")
        .with_annotation("iothub-connection-device-id", "dev-7");
    full.properties = properties.clone();

    // Alone and in a batch: the two travel differently.
    publisher.send(SendTarget::Any, full.clone()).await.unwrap();
    let partition = filled_partitions(&transport).await[0];
    publisher.send(to(partition), OutgoingEvent::new("bare")).await.unwrap();
    publisher.send_batch(SendTarget::Any, vec![full]).await.unwrap();

    let events = read(&transport, from_the_first(partition), 3).await;
    assert_eq!(numbers(&events), [0, 1, 2]);
    for event in [&events[0], &events[2]] {
        assert_eq!(&event.body()[..], b"\x00\xffbody");
        assert_eq!(event.key(), Some("customer 7"));
        assert_eq!(event.message_id().as_deref(), Some("3f0c"));
        assert_eq!(event.correlation_id().as_deref(), Some("c"));
        assert_eq!(event.content_type(), Some("application/json"));
        assert_eq!(event.content_encoding(), Some("gzip"));
        assert_eq!(event.subject(), Some("s"));
        assert_eq!(event.annotation("iothub-connection-device-id"), Some(&"dev-7".into()));
        assert_eq!(*event.properties(), properties);
    }
    let bare = &events[1];
    assert_eq!(bodies(&events[1..2]), ["bare"]);
    assert_eq!((bare.key(), bare.message_id(), bare.content_type()), (None, None, None));
    assert!(bare.annotations().is_empty() && bare.message_properties().is_none());
    assert!(bare.properties().is_empty(), "{:?}", bare.properties());
    for event in &events {
        assert!(event.offset().is_some_and(|offset| !offset.as_str().is_empty()));
        assert!((before..=SystemTime::now()).contains(&event.enqueued_time()));
    }
    assert!(events.iter().map(Event::enqueued_time).is_sorted());
}

async fn empty_bodies_and_bodies_of_a_megabyte_survive(hub: impl Fixture) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    let large: Bytes = (0..1_000_000_u32).map(|index| (index % 251) as u8).collect();
    publisher.send(to(0), OutgoingEvent::new(Bytes::new())).await.unwrap();
    publisher.send(to(0), OutgoingEvent::new(large.clone())).await.unwrap();
    let batch = [Bytes::new(), large.clone()].map(OutgoingEvent::new);
    publisher.send_batch(to(0), batch.into()).await.unwrap();
    let events = read(&transport, from_the_first(0), 4).await;
    for (event, expected) in events.iter().zip([&Bytes::new(), &large, &Bytes::new(), &large]) {
        assert!(event.body() == expected, "{} bytes", event.body().len());
    }
}

// Publishing.

/// The partitions that hold events.
async fn filled_partitions(transport: &Arc<dyn Transport>) -> Vec<u32> {
    let mut filled = Vec::new();
    for partition in 0..PARTITIONS {
        if transport.log_properties(&id(partition)).await.unwrap().last_enqueued.is_some() {
            filled.push(partition);
        }
    }
    filled
}

async fn events_of_one_key_go_to_one_partition(hub: impl Fixture) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    let keyed = |body: &'static str| OutgoingEvent::new(body).with_key("customer 7");
    publisher.send(SendTarget::Any, keyed("a")).await.unwrap();
    publisher.send_batch(SendTarget::Any, vec![keyed("b"), keyed("c")]).await.unwrap();
    publisher.send(SendTarget::Any, keyed("d")).await.unwrap();
    let filled = filled_partitions(&transport).await;
    assert_eq!(filled.len(), 1, "{filled:?}");
    let events = read(&transport, from_the_first(filled[0]), 4).await;
    assert_eq!(bodies(&events), ["a", "b", "c", "d"]);
}

async fn a_publisher_tells_the_partitions_and_keys_are_placed_among_them(hub: impl Fixture) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    let partitions = publisher.partitions().await.unwrap();
    assert_eq!(partitions, transport.hub_properties().await.unwrap().partitions);
    let keys = ["", "7", "FWfAT", "Grün", "日本", "customer 7", "customer 8", "😀"];
    let mut expected = BTreeSet::new();
    for key in keys {
        let place = KeyPlacement::Service.index(key, partitions.len()).unwrap();
        expected.insert(place as u32);
        publisher.send(SendTarget::Any, OutgoingEvent::new("x").with_key(key)).await.unwrap();
        assert_eq!(filled_partitions(&transport).await, Vec::from_iter(expected.clone()), "{key}");
    }
}

async fn events_without_a_key_are_spread_over_the_partitions(hub: impl Fixture) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    for _ in 0..6 {
        publisher.send(SendTarget::Any, OutgoingEvent::new("x")).await.unwrap();
    }
    assert_eq!(filled_partitions(&transport).await, [0, 1, 2]);
}

async fn a_batch_larger_than_a_transfer_arrives_whole_and_in_order(hub: impl Fixture) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    let body = |number: usize| Bytes::from(vec![(number % 251) as u8; 100_000]);
    let sent = (0..50).map(|number| OutgoingEvent::new(body(number))).collect();
    publisher.send_batch(to(0), sent).await.unwrap();
    let log = transport.log_properties(&id(0)).await.unwrap();
    assert_eq!(log.last_enqueued, Some(SequenceNumber(49)));
    let events = read(&transport, from_the_first(0), 50).await;
    for (number, event) in events.iter().enumerate() {
        assert!(event.body() == &body(number), "event {number}");
    }
    publisher.send_batch(to(0), Vec::new()).await.unwrap();
    assert_eq!(transport.log_properties(&id(0)).await.unwrap(), log, "an empty batch is nothing");
}

async fn a_batch_of_many_keys_keeps_them_and_their_order(hub: impl Fixture) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    let keys = ["a", "b", "c", "d", "e"];
    let sent: Vec<_> = (0..50)
        .map(|number| OutgoingEvent::new(number.to_string()).with_key(keys[number % 5]))
        .collect();
    publisher.send_batch(SendTarget::Any, sent).await.unwrap();
    let mut by_key: Vec<Vec<usize>> = vec![Vec::new(); 5];
    for partition in filled_partitions(&transport).await {
        let log = transport.log_properties(&id(partition)).await.unwrap();
        let count = log.last_enqueued.unwrap().0 + 1;
        for event in read(&transport, from_the_first(partition), count as usize).await {
            let key = keys.iter().position(|key| event.key() == Some(*key)).unwrap();
            by_key[key].push(bodies(&[event])[0].parse().unwrap());
        }
    }
    for (key, numbers) in by_key.iter().enumerate() {
        let expected: Vec<_> = (0..50).filter(|number| number % 5 == key).collect();
        assert_eq!(*numbers, expected, "of key {}", keys[key]);
    }
}

async fn an_event_above_the_limit_is_refused_and_the_next_send_works<F: Fixture>(hub: F) {
    let Some(limit) = F::MAX_BODY_BYTES else {
        return;
    };
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    let too_large = || OutgoingEvent::new(vec![7; limit + 1]);
    publisher.send(to(0), OutgoingEvent::new("a")).await.unwrap();
    let error = publisher.send(to(0), too_large()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::TooLarge, "{error:?}");
    publisher.send(to(0), OutgoingEvent::new("b")).await.unwrap();
    let error = publisher.send_batch(to(0), vec![too_large()]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::TooLarge, "{error:?}");
    publisher.send_batch(to(0), vec![OutgoingEvent::new("c")]).await.unwrap();
    publisher.send(to(0), OutgoingEvent::new("d")).await.unwrap();
    assert_eq!(bodies(&read(&transport, from_the_first(0), 4).await), ["a", "b", "c", "d"]);
    let log = transport.log_properties(&id(0)).await.unwrap();
    assert_eq!(log.last_enqueued, Some(SequenceNumber(3)));
}

// What is not there.

async fn an_unknown_hub_is_permanent(hub: impl Fixture) {
    let Some((transport, publisher)) = hub.of_unknown_hub() else {
        return;
    };
    let error = transport.hub_properties().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");
    let error = transport.log_properties(&id(0)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");
    let error = refusal(&transport, from_the_first(0)).await;
    assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");
    let error = publisher.partitions().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");
    let error = publisher.send(SendTarget::Any, OutgoingEvent::new("x")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");
    let error = publisher.send_batch(to(0), vec![OutgoingEvent::new("x")]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");
}

// Exact resume.

async fn incarnation(transport: &Arc<dyn Transport>) -> Incarnation {
    transport.hub_properties().await.unwrap().incarnation
}

/// Comes back after a few milliseconds.
fn stream_options() -> StreamOptions {
    let backoff = Backoff::doubling(Duration::from_millis(1), Duration::from_millis(50));
    StreamOptions::new(PREFETCH_EVENTS, 7).with_backoff(backoff)
}

async fn stream(transport: &Arc<dyn Transport>, options: StreamOptions) -> PartitionStream {
    let position = ResumePosition::new(incarnation(transport).await, LinkStart::FirstEvent);
    PartitionStream::new(Arc::clone(transport), Partition::new(HUB, "0"), position, options)
}

/// Publishes this many events to partition 0, in batches, while something else goes on.
fn publish_in_the_background(
    hub: &impl Fixture,
    events: usize,
) -> tokio::task::JoinHandle<Result<(), Error>> {
    const BATCH: usize = 20;
    let publisher = hub.publisher();
    tokio::spawn(async move {
        for first in (0..events).step_by(BATCH) {
            let batch = (first..first + BATCH).map(|number| OutgoingEvent::new(number.to_string()));
            publisher.send_batch(to(0), batch.collect()).await?;
        }
        Ok(())
    })
}

fn assert_each_once_in_order(events: &[Event], count: usize) {
    let expected: Vec<_> = (0..count as i64).collect();
    assert_eq!(numbers(events), expected);
    let bodies_match = events
        .iter()
        .all(|event| bodies(std::slice::from_ref(event)) == [event.sequence_number().to_string()]);
    assert!(bodies_match);
}

async fn a_stream_gives_each_event_once_across_lost_links(hub: impl Fixture) {
    const EVENTS: usize = 2_000;
    const FAULTS: usize = 10;
    let transport = hub.transport(GROUP);
    let publishing = publish_in_the_background(&hub, EVENTS);
    let options = stream_options().with_owner_level(Some(1));
    let mut stream = stream(&transport, options).await;
    let mut events = Vec::new();
    let (mut faults, mut links) = (0, 0);
    while events.len() < EVENTS {
        stream.next_events(16, &mut events).await.unwrap();
        let due = events.len() >= faults * (EVENTS - 100) / FAULTS;
        if faults < FAULTS && due && stream.links_opened() > links {
            links = stream.links_opened();
            assert_eq!(hub.end_links(0), 1, "fault {faults} hits an open link");
            faults += 1;
        }
    }
    publishing.await.unwrap().unwrap();
    assert_each_once_in_order(&events, EVENTS);
    assert_eq!(stream.links_opened(), FAULTS as u64 + 1);
    assert_eq!(stream.lost_events(), 0);
    stream.close().await;
}

async fn a_stream_gives_each_event_once_across_an_absence(hub: impl Fixture) {
    let transport = hub.transport(GROUP);
    publish_in_the_background(&hub, 400).await.unwrap().unwrap();
    let mut stream = stream(&transport, stream_options()).await;
    let mut events = Vec::new();
    while events.len() < 50 {
        stream.next_events(50, &mut events).await.unwrap();
    }
    let (away, events) = tokio::join!(hub.away(Duration::from_millis(500)), async {
        while events.len() < 400 {
            stream.next_events(50, &mut events).await.unwrap();
        }
        events
    });
    let () = away;
    assert_each_once_in_order(&events, 400);
    assert!(stream.links_opened() >= 2, "{}", stream.links_opened());
}

async fn a_stream_loses_nothing_when_calls_are_dropped(hub: impl Fixture) {
    const EVENTS: usize = 1_000;
    let transport = hub.transport(GROUP);
    let publishing = publish_in_the_background(&hub, EVENTS);
    let longer = Backoff::doubling(Duration::from_millis(20), Duration::from_millis(100));
    let mut stream = stream(&transport, stream_options().with_backoff(longer)).await;
    let mut events = Vec::new();
    let (mut dropped, mut faults) = (0, 0);
    while events.len() < EVENTS {
        tokio::select! {
            biased;
            received = stream.next_events(16, &mut events) => {
                received.unwrap();
                // Calls are to be dropped while a link is waited for and opened, too.
                if faults < 5 && events.len() > faults * EVENTS / 5 {
                    faults += 1;
                    hub.end_links(0);
                }
            }
            () = tokio::time::sleep(Duration::from_millis(1)) => dropped += 1,
        }
    }
    publishing.await.unwrap().unwrap();
    assert_each_once_in_order(&events, EVENTS);
    assert!(dropped >= 5, "only {dropped} calls were dropped");
}

async fn a_stream_ends_when_the_partition_is_taken(hub: impl Fixture) {
    let publisher = hub.publisher();
    publish(&publisher, 0, &["a"]).await;
    let transport = hub.transport(GROUP);
    let options = stream_options().with_owner_level(Some(1));
    let mut stream = stream(&transport, options).await;
    let mut events = Vec::new();
    stream.next_events(10, &mut events).await.unwrap();
    let mut new =
        hub.transport(GROUP).open(from_the_first(0).with_owner_level(Some(2))).await.unwrap();
    take(&mut new, 1).await;
    let end = stream.next_events(10, &mut events).await.unwrap_err();
    assert!(
        matches!(&end, StreamEnd::Failed(error) if error.class() == ErrorClass::PartitionLost),
        "{end:?}"
    );
    let still_ended = timeout(Duration::from_millis(50), stream.next_events(10, &mut events)).await;
    assert!(still_ended.is_err(), "an ended stream steals nothing back");
    publish(&publisher, 0, &["b"]).await;
    assert_eq!(bodies(&take(&mut new, 1).await), ["b"]);
    assert_eq!(bodies(&events), ["a"]);
}

// The faults themselves.

#[tokio::test]
async fn the_memory_hub_fails_as_often_as_it_was_told_and_no_more() {
    let hub = <MemoryHub as Fixture>::start(1).await;
    let transport = Fixture::transport(&hub, GROUP);
    hub.fail_reads(2, ErrorClass::Throttling);
    for _ in 0..2 {
        let error = transport.hub_properties().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Throttling);
    }
    transport.hub_properties().await.unwrap();
    hub.fail_reads(usize::MAX, ErrorClass::Transient);
    transport.hub_properties().await.unwrap_err();
    hub.fail_reads(0, ErrorClass::Transient);
    transport.hub_properties().await.unwrap();
}
