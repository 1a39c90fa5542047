//! A link begins with little credit, and anew with what the size of its events allows: over the
//! connection that it has, at the last event that it brought.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::event::{Incarnation, Partition, PartitionId};
use longshore::state::resume::{Continuity, ResumePosition};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};
use longshore::transport::memory::MemoryHub;
use longshore::transport::partition_stream::{PartitionStream, StreamEnd, StreamOptions};
use longshore::transport::{
    HubProperties, Link, LinkStart, OpenLink, Publisher, SendTarget, Transport,
};
use longshore::{Error, Event, OutgoingEvent};
use support::forward::{Over, OverTransport};
use support::within;

/// What of four partitions a link may hold with the default budget.
const LINK_BYTES: usize = 8 * 1024 * 1024;
const EVENTS: usize = 1_000;

/// What happened to the links of a transport.
#[derive(Debug, Default)]
struct Counts {
    opened: AtomicUsize,
    restarted: AtomicUsize,
    brought: AtomicUsize,
    hub_reads: AtomicUsize,
}

type Meddle = Box<dyn Fn() + Send + Sync>;

/// Counts, and meddles before a link begins anew.
struct Counting {
    inner: Arc<dyn Transport>,
    counts: Arc<Counts>,
    meddle: Arc<Mutex<Option<Meddle>>>,
}

impl std::fmt::Debug for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.counts.fmt(f)
    }
}

impl OverTransport for Counting {
    fn below(&self) -> &dyn Transport {
        &*self.inner
    }

    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties, Error>> {
        self.counts.hub_reads.fetch_add(1, Ordering::SeqCst);
        self.inner.hub_properties()
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        self.counts.opened.fetch_add(1, Ordering::SeqCst);
        let (counts, meddle) = (Arc::clone(&self.counts), Arc::clone(&self.meddle));
        let opening = self.inner.open(options);
        async move {
            let link: Box<dyn Link> =
                Box::new(CountedLink { inner: opening.await?, counts, meddle });
            Ok(link)
        }
        .boxed()
    }
}

struct CountedLink {
    inner: Box<dyn Link>,
    counts: Arc<Counts>,
    meddle: Arc<Mutex<Option<Meddle>>>,
}

impl Link for CountedLink {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Poll<Result<usize, Error>> {
        let before = into.len();
        let polled = self.inner.poll_receive(cx, max_events, into);
        self.counts.brought.fetch_add(into.len() - before, Ordering::SeqCst);
        polled
    }

    fn restart(
        self: Box<Self>,
        options: OpenLink,
    ) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        let Self { inner, counts, meddle } = *self;
        counts.restarted.fetch_add(1, Ordering::SeqCst);
        if let Some(meddle) = meddle.lock().expect("not poisoned").take() {
            meddle();
        }
        async move {
            let inner = inner.restart(options).await?;
            let link: Box<dyn Link> = Box::new(Self { inner, counts, meddle });
            Ok(link)
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.inner.close()
    }
}

/// A stream from the beginning of partition 0, and what becomes of its links.
async fn stream(
    transport: Arc<dyn Transport>,
    meddle: Option<Meddle>,
) -> (PartitionStream, Arc<Counts>) {
    let incarnation: Incarnation = transport.hub_properties().await.expect("answers").incarnation;
    let counts = Arc::new(Counts::default());
    let partition = Partition::new(transport.entity().clone(), PartitionId::from("0"));
    let counting = Counting {
        inner: transport,
        counts: Arc::clone(&counts),
        meddle: Arc::new(Mutex::new(meddle)),
    };
    let position = ResumePosition::new(incarnation, LinkStart::FirstEvent);
    let options = StreamOptions::new(300, 7).with_link_bytes(LINK_BYTES);
    let stream = PartitionStream::new(Arc::new(Over(counting)), partition, position, options);
    (stream, counts)
}

/// The numbers of so many events.
async fn numbers(stream: &mut PartitionStream, count: usize) -> Result<Vec<i64>, StreamEnd> {
    let mut events = Vec::new();
    while events.len() < count {
        let most = (count - events.len()).min(100);
        within("events", stream.next_events(most, &mut events)).await?;
    }
    Ok(events.iter().map(|event| event.sequence_number().0).collect())
}

fn all() -> Vec<i64> {
    (0..EVENTS as i64).collect()
}

fn publish(hub: &MemoryHub, events: usize) {
    for _ in 0..events {
        hub.publish(0, OutgoingEvent::new("small"));
    }
}

fn hub() -> MemoryHub {
    let hub = MemoryHub::new("hub", 1);
    publish(&hub, EVENTS);
    hub
}

fn count(of: &AtomicUsize) -> usize {
    of.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn small_events_cost_one_restart_one_repeat_and_no_question() {
    let (mut stream, counts) = stream(Arc::new(hub().transport("$Default")), None).await;
    assert_eq!(numbers(&mut stream, EVENTS).await.expect("goes on"), all());
    assert_eq!((count(&counts.opened), count(&counts.restarted)), (1, 1));
    assert_eq!(count(&counts.brought), EVENTS + 1, "the last event of the first eight, once more");
    assert_eq!(count(&counts.hub_reads), 2, "before and after the first link was opened");
    assert_eq!(stream.links_opened(), 1, "it is the same link");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_attaches_anew_on_the_connection_it_has() {
    let emulator = broker::patient().hub("hub", 1).start().await.expect("starts");
    let namespace = broker::namespace(&emulator);
    let publisher = EventHubsPublisher::new(namespace.clone(), "hub");
    let events = vec![OutgoingEvent::new("small"); EVENTS];
    let to = SendTarget::Partition(PartitionId::from("0"));
    within("a batch", publisher.send_batch(to, events)).await.expect("published");
    let transport = Arc::new(EventHubsTransport::new(namespace, "hub", "$Default"));
    let (mut stream, counts) = stream(transport, None).await;
    assert_eq!(numbers(&mut stream, EVENTS).await.expect("goes on"), all());
    assert_eq!((count(&counts.opened), count(&counts.restarted)), (1, 1));
    assert_eq!(count(&counts.brought), EVENTS + 1);
    within("the goodbye", stream.close()).await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_is_another_one_when_its_link_begins_anew_is_noticed() {
    // Its log is longer than what was received, or so short that nothing of it comes.
    for events in [20, 3, 0] {
        let hub = hub();
        let meddle: Meddle = {
            let hub = hub.clone();
            Box::new(move || {
                hub.recreate();
                publish(&hub, events);
            })
        };
        let (mut stream, _) = stream(Arc::new(hub.transport("$Default")), Some(meddle)).await;
        match numbers(&mut stream, EVENTS).await {
            Err(StreamEnd::Discontinuity(Continuity::Recreated { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_retention_removed_before_a_link_begins_anew_is_counted() {
    let hub = hub();
    let meddle: Meddle = {
        let hub = hub.clone();
        Box::new(move || hub.trim(0, 20))
    };
    let (mut stream, _) = stream(Arc::new(hub.transport("$Default")), Some(meddle)).await;
    let received = numbers(&mut stream, EVENTS - 12).await.expect("goes on");
    assert_eq!(received, [(0..8).collect::<Vec<i64>>(), all().split_off(20)].concat());
    assert_eq!(stream.lost_events(), 12);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_does_not_begin_anew_is_opened_behind_what_it_brought() {
    let hub = hub();
    let meddle: Meddle = {
        let hub = hub.clone();
        Box::new(move || hub.fail_opens(1, longshore::ErrorClass::Transient))
    };
    let (mut stream, counts) = stream(Arc::new(hub.transport("$Default")), Some(meddle)).await;
    assert_eq!(numbers(&mut stream, EVENTS).await.expect("goes on"), all());
    assert_eq!((count(&counts.opened), count(&counts.restarted)), (2, 1));
    assert_eq!(count(&counts.brought), EVENTS, "no event came twice");
}
