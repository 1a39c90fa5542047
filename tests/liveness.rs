//! What time does to a consumer and a producer over the Azure SDK: connections that fall silent,
//! logs that are trimmed, hubs that are deleted and created again. Nothing hangs, and nothing is
//! passed over in silence.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use futures::future::join_all;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::PositionLost;
use longshore::consumer::StopReason;
use longshore::event::{PartitionId, Properties};
use longshore::producer::Producer;
use longshore::state::resume::Continuity;
use longshore::transport::event_hubs::{EventHubsTransport, Namespace};
use longshore::transport::{LinkStart, OpenLink, Transport};
use longshore::{BatchConsumer, ConsumerHandle, ConsumerOptions, Event, EventContext};
use longshore_emulator::{Emulator, FaultPoint};
use support::{drained, until, within};
use tokio::time::{Instant, sleep, timeout};

const HUB: &str = "files";
/// What the service's clients may take to notice a silence: a promise, which the name of its test
/// makes.
const NOTICED: Duration = Duration::from_secs(60);

struct Setup {
    emulator: Emulator,
    namespace: Namespace,
    producer: Producer,
    seen: Arc<Mutex<Vec<i64>>>,
}

impl Setup {
    async fn new() -> Self {
        Self::of(broker::patient().hub(HUB, 1).start().await.unwrap())
    }

    fn of(emulator: Emulator) -> Self {
        let namespace = broker::namespace(&emulator).with_call_timeout(Duration::from_secs(10));
        let producer = Producer::new(namespace.publishers());
        Self { emulator, namespace, producer, seen: Arc::default() }
    }

    async fn publish(&self, count: usize) {
        let send = |_| self.producer.send(HUB, None, "x", Properties::new());
        for sent in within("publishing", join_all((0..count).map(send))).await {
            sent.unwrap();
        }
    }

    fn start(&self, options: ConsumerOptions) -> ConsumerHandle {
        let transport = EventHubsTransport::new(self.namespace.clone(), HUB, "$Default");
        let seen = Arc::clone(&self.seen);
        BatchConsumer::builder(Arc::new(transport), Arc::new(MemoryCheckpointStore::new()))
            .options(options)
            .event_handler(move |event: Event, _: EventContext| {
                seen.lock().unwrap().push(event.sequence_number().0);
                async {}
            })
            .unwrap()
            .start()
    }

    fn seen(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_within_a_minute() {
    let setup = Setup::new().await;
    setup.publish(3).await;
    let handle = setup.start(ConsumerOptions::default());
    until("the first events", || setup.seen() == 3).await;
    assert!(setup.emulator.faults().half_open() > 0);
    let silent = Instant::now();
    // Over new connections: the producer gives its old one up when its call is overdue.
    setup.publish(2).await;
    until("the events behind the silence", || setup.seen() == 5).await;
    let noticed = silent.elapsed();
    println!("noticed after {noticed:?}");
    assert!(noticed < NOTICED, "{noticed:?}");
    within("the drain", drained(handle)).await;
    assert_eq!(*setup.seen.lock().unwrap(), [0, 1, 2, 3, 4]);
}

/// A day of links on which nothing happens has 360 idle limits of the service's four minutes;
/// here a limit is shorter, and `LONGSHORE_IDLE_LIMITS` says how many there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_idle_for_many_idle_limits_stays_and_brings_the_next_event() {
    // The broker gives a connection up after two, and both sides speak twice in one: what they do
    // late on a busy machine must fit between.
    const IDLE: Duration = Duration::from_secs(1);
    let limits = std::env::var("LONGSHORE_IDLE_LIMITS").map_or(20, |text| text.parse().unwrap());
    let emulator = broker::patient().hub(HUB, 1).idle_timeout(IDLE).start().await.unwrap();
    let setup = Setup::of(emulator);
    setup.publish(1).await;
    let transport = EventHubsTransport::new(setup.namespace.clone(), HUB, "$Default");
    let open = OpenLink::new(PartitionId::from("0"), LinkStart::FirstEvent, 100);
    let mut link = within("a link", transport.open(open)).await.unwrap();
    let mut events = Vec::new();
    let receiving = std::future::poll_fn(|cx| link.poll_receive(cx, 10, &mut events));
    within("the first event", receiving).await.unwrap();
    let connections = setup.emulator.faults().connections();
    let silence = std::future::poll_fn(|cx| link.poll_receive(cx, 10, &mut events));
    assert!(timeout(IDLE * limits, silence).await.is_err(), "the link says something");
    assert_eq!(setup.emulator.faults().connections(), connections, "none is given up");
    setup.publish(1).await;
    let receiving = std::future::poll_fn(|cx| link.poll_receive(cx, 10, &mut events));
    within("the next event, over the same link", receiving).await.unwrap();
    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn a_hub_created_anew_is_read_from_its_beginning_or_stops_the_partition() {
    for policy in [PositionLost::Earliest, PositionLost::Stop] {
        let setup = Setup::new().await;
        setup.publish(5).await;
        let mut options = ConsumerOptions::default();
        options.position_lost = policy;
        let mut handle = setup.start(options);
        until("the old log", || setup.seen() == 5).await;
        assert!(within("the new hub", setup.emulator.faults().recreate_hub(HUB)).await.unwrap());
        setup.publish(2).await;
        if policy == PositionLost::Stop {
            let exit = within("the end", handle.join()).await;
            let reason = &exit.partitions[0].reason;
            let recreated =
                matches!(reason, StopReason::PositionLost(Continuity::Recreated { .. }));
            assert!(recreated, "{exit:?}");
        } else {
            until("the new log", || setup.seen() == 7).await;
            within("the drain", drained(handle)).await;
            assert_eq!(*setup.seen.lock().unwrap(), [0, 1, 2, 3, 4, 0, 1]);
        }
    }
}

#[tokio::test]
async fn what_retention_removed_meanwhile_is_counted() {
    let setup = Setup::new().await;
    setup.publish(5).await;
    let handle = setup.start(ConsumerOptions::default());
    until("the first events", || setup.seen() == 5).await;
    handle.pause();
    let faults = setup.emulator.faults();
    faults.fail(FaultPoint::Attach, "amqp:internal-error", "on demand", 2);
    assert_eq!(faults.detach_receivers(HUB, None), 1);
    setup.publish(10).await;
    assert_eq!(faults.trim_log(HUB, 0, 12), Some(12));
    handle.resume();
    until("the rest", || setup.seen() == 8).await;
    let exit = within("the drain", drained(handle)).await;
    assert_eq!(*setup.seen.lock().unwrap(), [0, 1, 2, 3, 4, 12, 13, 14]);
    assert_eq!(exit.counts.lost_events, 7);
}

/// Lost answers may publish an event twice; none is lost, and each send says so truly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_loses_nothing_through_faults() {
    const SENDS: usize = 2_000;
    let setup = Setup::new().await;
    let producer = Arc::new(Producer::new(setup.namespace.publishers()).with_attempts(20));
    let sends: Vec<_> = (0..SENDS)
        .map(|number| {
            let producer = Arc::clone(&producer);
            tokio::spawn(async move {
                sleep(Duration::from_millis(number as u64)).await;
                producer.send(HUB, Some("key"), number.to_string(), Properties::new()).await
            })
        })
        .collect();
    let faults = setup.emulator.faults();
    for round in 0..4 {
        sleep(Duration::from_millis(200)).await;
        match round {
            0 => drop(faults.cut_connections()),
            1 => drop(faults.detach_senders(HUB)),
            2 => faults.server_busy(FaultPoint::Send, 2),
            _ => within("the absence", faults.away(Duration::from_secs(1))).await.unwrap(),
        }
    }
    for sent in within("the sends", join_all(sends)).await {
        sent.unwrap().unwrap();
    }
    within("the close", producer.close()).await;
    let transport = EventHubsTransport::new(setup.namespace.clone(), HUB, "$Default");
    let id = PartitionId::from("0");
    let log = within("the log", transport.log_properties(&id)).await.unwrap();
    let end = usize::try_from(log.last_enqueued.unwrap().0 + 1).unwrap();
    let open = OpenLink::new(id, LinkStart::FirstEvent, 300);
    let mut link = within("a link", transport.open(open)).await.unwrap();
    let mut events = Vec::new();
    while events.len() < end {
        let receiving = std::future::poll_fn(|cx| link.poll_receive(cx, 300, &mut events));
        within("the log", receiving).await.unwrap();
    }
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for event in &events {
        *times.entry(String::from_utf8_lossy(event.body()).into_owned()).or_default() += 1;
    }
    assert_eq!(times.len(), SENDS, "{} events in the log", end);
    println!("{} of {SENDS} published twice", end - SENDS);
}

/// Gives tokens that are about to expire: the SDK renews one six minutes before it does.
#[derive(Debug, Default)]
struct ShortLived(AtomicUsize);

#[async_trait]
impl TokenCredential for ShortLived {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        let lifetime = Duration::from_secs(6 * 60 + 8);
        Ok(AccessToken::new(format!("token {number}"), OffsetDateTime::now_utc() + lifetime))
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_the_link_stays() {
    let setup = Setup::new().await;
    setup.publish(1).await;
    let credential = Arc::new(ShortLived::default());
    let namespace = Namespace::with_credential("localhost", credential.clone())
        .unwrap()
        .with_custom_endpoint(setup.emulator.endpoint())
        .unwrap();
    let transport = EventHubsTransport::new(namespace, HUB, "$Default");
    let open = OpenLink::new(PartitionId::from("0"), LinkStart::FirstEvent, 100);
    let mut link = within("a link", transport.open(open)).await.unwrap();
    let mut events = Vec::new();
    let receiving = std::future::poll_fn(|cx| link.poll_receive(cx, 10, &mut events));
    within("the first event", receiving).await.unwrap();
    let first = credential.0.load(Ordering::SeqCst);
    until("another token", || credential.0.load(Ordering::SeqCst) > first).await;
    setup.publish(1).await;
    let receiving = std::future::poll_fn(|cx| link.poll_receive(cx, 10, &mut events));
    within("the next event, over the same link", receiving).await.unwrap();
    assert_eq!(events.len(), 2);
}
