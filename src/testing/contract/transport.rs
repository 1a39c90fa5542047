//! What every transport must do.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, timeout};

use super::{Contract, cases};
use crate::error::{Error, ErrorClass};
use crate::event::{Event, OutgoingEvent, Partition, PartitionId, SequenceNumber};
use crate::transport::{Link, LinkStart, OpenLink, Publisher, SendTarget, Transport};

/// A hub that a transport is tested on: new, with three partitions, "0", "1" and "2", which are empty.
pub trait HubUnderTest: Send + Sync + 'static {
    /// Reads it as this group.
    fn transport(&self, consumer_group: &str) -> Arc<dyn Transport>;

    /// Publishes to it.
    fn publisher(&self) -> Arc<dyn Publisher>;

    /// Ends the links that are open on a partition, as a service does that is restarted; returns how many.
    fn end_links(&self, partition: u32) -> usize;
}

/// What every [`Transport`] must do, and the [`Publisher`] beside it as far as that shows.
///
/// A refused open may be told by [`Transport::open`] or by the link's first receive.
pub fn transports() -> Contract<dyn HubUnderTest> {
    cases!(
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
    )
}

impl Contract<dyn HubUnderTest> {
    /// Runs all cases, each on a hub that `fresh` makes.
    ///
    /// # Panics
    /// Where a case does not hold.
    pub async fn hold<H: HubUnderTest>(&self, mut fresh: impl AsyncFnMut() -> H) {
        for name in self.names() {
            self.hold_one(name, Arc::new(fresh().await)).await;
        }
    }
}

const GROUP: &str = "$Default";
const PREFETCH_EVENTS: u32 = 100;

/// Bounds what would hang for ever; it promises nothing.
const LIMIT: Duration = Duration::from_secs(180);

/// What the future gives, or a panic that says what did not come.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} took longer than {LIMIT:?}"))
}

/// The first partition of the hub.
fn zero(hub: &dyn HubUnderTest) -> Partition {
    Partition::new(hub.transport(GROUP).entity().clone(), "0")
}

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

fn after(partition: u32, number: i64) -> OpenLink {
    from(partition, LinkStart::After(SequenceNumber(number)))
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

async fn hub_properties_list_partitions_and_a_stable_incarnation(hub: Arc<dyn HubUnderTest>) {
    let transport = hub.transport(GROUP);
    assert_eq!(transport.consumer_group().as_str(), GROUP);
    let first = transport.hub_properties().await.unwrap();
    assert_eq!(first.partitions, [id(0), id(1), id(2)]);
    publish(&hub.publisher(), 0, &["a"]).await;
    for transport in [transport, hub.transport("another")] {
        assert_eq!(transport.hub_properties().await.unwrap(), first);
    }
}

async fn log_properties_tell_the_ends_of_an_empty_and_of_a_filled_log(hub: Arc<dyn HubUnderTest>) {
    let transport = hub.transport(GROUP);
    let empty = transport.log_properties(&id(1)).await.unwrap();
    assert_eq!((empty.begin, empty.last_enqueued), (SequenceNumber(0), None));

    publish(&hub.publisher(), 1, &["a", "b", "c"]).await;
    let filled = transport.log_properties(&id(1)).await.unwrap();
    assert_eq!((filled.begin, filled.last_enqueued), (SequenceNumber(0), Some(SequenceNumber(2))));
    let events = read(&transport, from_the_first(1), 3).await;
    assert_eq!(filled.last_enqueued_time, Some(events[2].enqueued_time()));
    assert_eq!(
        (filled.last_enqueued_offset.as_ref(), empty.last_enqueued_offset.as_ref()),
        (events[2].offset(), None)
    );
    assert_eq!(transport.log_properties(&id(2)).await.unwrap(), empty);
}

async fn a_link_begins_at_the_first_event(hub: Arc<dyn HubUnderTest>) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    publish(&publisher, 1, &["elsewhere"]).await;
    publish(&publisher, 0, &["a", "b", "c"]).await;
    let events = read(&transport, from_the_first(0), 3).await;
    assert_eq!(bodies(&events), ["a", "b", "c"]);
    assert_eq!(numbers(&events), [0, 1, 2]);
    assert!(events.iter().all(|event| *event.partition() == zero(&*hub)));
}

async fn a_link_begins_after_a_sequence_number(hub: Arc<dyn HubUnderTest>) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    publish(&publisher, 0, &["a", "b", "c", "d"]).await;
    // After -1 is the beginning: what a log that was trimmed to its first event leads to.
    for (number, count) in [(-1, 4), (0, 3), (2, 1)] {
        let events = read(&transport, after(0, number), count).await;
        assert_eq!(bodies(&events), ["a", "b", "c", "d"][4 - count..], "after {number}");
    }
    let mut at_the_end = transport.open(after(0, 3)).await.unwrap();
    let (events, ()) =
        tokio::join!(take(&mut at_the_end, 1), async { publish(&publisher, 0, &["e"]).await });
    assert_eq!(bodies(&events), ["e"]);
}

async fn a_link_begins_at_a_time(hub: Arc<dyn HubUnderTest>) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    publish(&publisher, 0, &["a"]).await;
    let first = read(&transport, from_the_first(0), 1).await[0].enqueued_time();
    // The service's times are in milliseconds: the next event must have a later one.
    while SystemTime::now() < first + Duration::from_millis(2) {
        tokio::task::yield_now().await;
    }
    publish(&publisher, 0, &["b", "c"]).await;
    let second = read(&transport, after(0, 0), 1).await[0].enqueued_time();
    assert!(first < second);
    for (time, expected) in [
        (first - Duration::from_secs(3_600), ["a", "b", "c"].as_slice()),
        (first, &["a", "b", "c"]),
        (second, &["b", "c"]),
    ] {
        let events = read(&transport, from(0, LinkStart::EnqueuedAt(time)), expected.len()).await;
        assert_eq!(bodies(&events), expected);
    }
}

async fn the_first_event_from_a_place_on_is_told_and_takes_the_partition_from_nobody(
    hub: Arc<dyn HubUnderTest>,
) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    publish(&publisher, 0, &["a", "b", "c"]).await;
    let mut shared = transport.open(from_the_first(0)).await.unwrap();
    let events = take(&mut shared, 3).await;
    for (start, index) in [
        (LinkStart::FirstEvent, 0),
        (LinkStart::After(SequenceNumber(0)), 1),
        (LinkStart::EnqueuedAt(UNIX_EPOCH - Duration::from_secs(1)), 0),
        (LinkStart::EnqueuedAt(UNIX_EPOCH), 0),
    ] {
        let first = transport.first_event(&id(0), start).await.unwrap();
        assert_eq!(first, events[index].position(), "{start:?}");
    }
    // Who reads goes on.
    publish(&publisher, 0, &["d"]).await;
    assert_eq!(bodies(&take(&mut shared, 1).await), ["d"]);
    shared.close().await;
    let mut owner = transport.open(from_the_first(0).with_owner_level(Some(1))).await.unwrap();
    take(&mut owner, 4).await;
    let refused = transport.first_event(&id(0), LinkStart::FirstEvent).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::PartitionLost);
    publish(&publisher, 0, &["e"]).await;
    assert_eq!(bodies(&take(&mut owner, 1).await), ["e"]);
    owner.close().await;
}

async fn a_read_that_is_not_polled_any_more_holds_up_no_other(hub: Arc<dyn HubUnderTest>) {
    let transport = hub.transport(GROUP);
    let mut begun = Vec::new();
    for _ in 0..3 {
        let mut read = transport.hub_properties();
        // Its caller has other things to do, and keeps it.
        let _first = futures::poll!(&mut read);
        begun.push(read);
    }
    for _ in 0..3 {
        within("another read", transport.hub_properties()).await.unwrap();
        within("a log", transport.log_properties(&"0".into())).await.unwrap();
    }
}

async fn a_receive_takes_no_more_than_it_was_asked_for(hub: Arc<dyn HubUnderTest>) {
    let publisher = hub.publisher();
    publish(&publisher, 0, &["a", "b", "c", "d", "e", "f", "g"]).await;
    let mut link = hub.transport(GROUP).open(from_the_first(0)).await.unwrap();
    let mut events = take(&mut link, 1).await;
    while events.len() < 7 {
        let before = events.len();
        let count = within("a receive", receive(&mut link, 2, &mut events)).await.unwrap();
        assert!((1..=2).contains(&count), "{count}");
        assert_eq!(events.len(), before + count, "appended, and told so");
    }
    assert_eq!(bodies(&events), ["a", "b", "c", "d", "e", "f", "g"]);
}

async fn a_link_that_has_caught_up_waits_for_the_next_event(hub: Arc<dyn HubUnderTest>) {
    let publisher = hub.publisher();
    let mut link = hub.transport(GROUP).open(from_the_first(0)).await.unwrap();
    publish(&publisher, 0, &["a"]).await;
    take(&mut link, 1).await;
    let mut events = Vec::new();
    let waited = timeout(Duration::from_millis(50), receive(&mut link, 10, &mut events)).await;
    assert!(waited.is_err(), "{waited:?}");
    let (events, ()) =
        tokio::join!(take(&mut link, 1), async { publish(&publisher, 0, &["b"]).await });
    assert_eq!(bodies(&events), ["b"]);
}

async fn takes_the_partition(hub: Arc<dyn HubUnderTest>, old_level: i64, new_level: i64) {
    let publisher = hub.publisher();
    publish(&publisher, 0, &["a"]).await;
    let open = |level| from_the_first(0).with_owner_level(Some(level));
    let mut old = hub.transport(GROUP).open(open(old_level)).await.unwrap();
    take(&mut old, 1).await;
    let mut new = hub.transport(GROUP).open(open(new_level)).await.unwrap();
    assert_eq!(bodies(&take(&mut new, 1).await), ["a"]);
    let error = error_of(&mut old).await;
    assert_eq!(error.class(), ErrorClass::PartitionLost, "{error:?}");
    assert_eq!(error.partition(), Some(&zero(&*hub)));
    old.close().await;
    publish(&publisher, 0, &["b"]).await;
    assert_eq!(bodies(&take(&mut new, 1).await), ["b"], "the old one's goodbye disturbs nobody");
}

async fn a_higher_owner_level_takes_the_partition(hub: Arc<dyn HubUnderTest>) {
    takes_the_partition(hub, 1, 2).await;
}

async fn an_equal_owner_level_takes_the_partition(hub: Arc<dyn HubUnderTest>) {
    takes_the_partition(hub, 1, 1).await;
}

async fn a_lower_owner_level_or_none_is_refused(hub: Arc<dyn HubUnderTest>) {
    let publisher = hub.publisher();
    publish(&publisher, 0, &["a"]).await;
    let mut holder =
        hub.transport(GROUP).open(from_the_first(0).with_owner_level(Some(5))).await.unwrap();
    take(&mut holder, 1).await;
    for level in [Some(4), None] {
        let open = from_the_first(0).with_owner_level(level);
        let error = refusal(&hub.transport(GROUP), open).await;
        assert_eq!(error.class(), ErrorClass::PartitionLost, "{level:?}: {error:?}");
        assert_eq!(error.partition(), Some(&zero(&*hub)));
    }
    publish(&publisher, 0, &["b"]).await;
    assert_eq!(bodies(&take(&mut holder, 1).await), ["b"]);
}

async fn groups_read_independently(hub: Arc<dyn HubUnderTest>) {
    let publisher = hub.publisher();
    publish(&publisher, 0, &["a", "b"]).await;
    let (one, other) = (hub.transport("one"), hub.transport("other"));
    let mut high = one.open(from_the_first(0).with_owner_level(Some(9))).await.unwrap();
    assert_eq!(bodies(&take(&mut high, 1).await), ["a"]);
    let mut low = other.open(from_the_first(0).with_owner_level(Some(1))).await.unwrap();
    assert_eq!(bodies(&take(&mut low, 2).await), ["a", "b"]);
    assert_eq!(bodies(&take(&mut high, 1).await), ["b"]);
}

async fn an_unknown_partition_is_permanent(hub: Arc<dyn HubUnderTest>) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    let error = transport.log_properties(&id(3)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");
    // The service calls it an argument out of range, which may also be a bad position.
    let error = refusal(&transport, from_the_first(3)).await;
    assert!(!error.class().is_retryable(), "{error:?}");
    let error = publisher.send(to(3), OutgoingEvent::new("x")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");
    let error = publisher.send_batch(to(3), vec![OutgoingEvent::new("x")]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");

    publish(&publisher, 0, &["a"]).await;
    assert_eq!(bodies(&read(&transport, from_the_first(0), 1).await), ["a"]);
}

async fn a_link_that_was_ended_gives_a_retryable_error_and_another_opens(
    hub: Arc<dyn HubUnderTest>,
) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    publish(&publisher, 0, &["a", "b"]).await;
    publish(&publisher, 1, &["elsewhere", "too"]).await;
    let open = |partition| from_the_first(partition).with_owner_level(Some(1));
    let mut link = transport.open(open(0)).await.unwrap();
    let mut neighbour = transport.open(open(1)).await.unwrap();
    take(&mut link, 1).await;
    take(&mut neighbour, 1).await;
    assert_eq!(hub.end_links(0), 1);
    let error = error_of(&mut link).await;
    assert!(error.class().is_retryable(), "{error:?}");
    assert_eq!(error.partition(), Some(&zero(&*hub)));
    link.close().await;
    assert_eq!(bodies(&read(&transport, open(0), 2).await), ["a", "b"]);
    assert_eq!(bodies(&take(&mut neighbour, 1).await), ["too"], "other links stay");
    assert_eq!(hub.end_links(1), 1);
}

/// Takes the first event with a lower owner level than one that has just let go, which the hub
/// may learn a moment later.
async fn a_lower_one_gets_in(transport: Arc<dyn Transport>) {
    let give_up = Instant::now() + LIMIT;
    loop {
        let open = from_the_first(0).with_owner_level(Some(1));
        let mut events = Vec::new();
        let result = match transport.open(open).await {
            Ok(mut link) => within("a receive", receive(&mut link, 1, &mut events)).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(_) => return assert_eq!(bodies(&events), ["a"]),
            Err(error) => {
                assert_eq!(error.class(), ErrorClass::PartitionLost, "{error:?}");
                assert!(Instant::now() < give_up, "{error:?}");
            }
        }
    }
}

async fn a_link_that_was_closed_lets_a_lower_owner_level_in(hub: Arc<dyn HubUnderTest>) {
    publish(&hub.publisher(), 0, &["a"]).await;
    let mut link =
        hub.transport(GROUP).open(from_the_first(0).with_owner_level(Some(2))).await.unwrap();
    take(&mut link, 1).await;
    link.close().await;
    a_lower_one_gets_in(hub.transport(GROUP)).await;
}

async fn a_link_that_was_dropped_lets_a_lower_owner_level_in(hub: Arc<dyn HubUnderTest>) {
    publish(&hub.publisher(), 0, &["a"]).await;
    let mut link =
        hub.transport(GROUP).open(from_the_first(0).with_owner_level(Some(2))).await.unwrap();
    take(&mut link, 1).await;
    drop(link);
    a_lower_one_gets_in(hub.transport(GROUP)).await;
}

async fn a_closed_transport_can_be_used_again(hub: Arc<dyn HubUnderTest>) {
    let (transport, publisher) = (hub.transport(GROUP), hub.publisher());
    publish(&publisher, 0, &["a"]).await;
    let before = transport.hub_properties().await.unwrap();
    transport.close().await;
    publisher.close().await;
    assert_eq!(transport.hub_properties().await.unwrap(), before);
    publish(&publisher, 0, &["b"]).await;
    assert_eq!(bodies(&read(&transport, from_the_first(0), 2).await), ["a", "b"]);
}
