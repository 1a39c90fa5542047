//! Producers over the memory transport: lanes, hubs whose partitions change, refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/log.rs"]
mod log;
#[path = "support/waiting.rs"]
mod waiting;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::{BoxFuture, join_all, poll_fn};
use log::Log;
use longshore::event::{EntityName, PartitionId, Properties};
use longshore::producer::{
    EntityProducer, MAX_TOGETHER, MAX_TOGETHER_BYTES, PARTITIONS_LOOK_INTERVAL, Producer,
};
use longshore::state::key_placement::KeyPlacement;
use longshore::transport::memory::{MemoryHub, MemoryPublisher};
use longshore::transport::{
    LinkStart, OpenLink, Publisher, SendReceipt, SendTarget, Transport as _,
};
use longshore::{Error, ErrorClass, OutgoingEvent};
use tokio::sync::Semaphore;
use waiting::until;

/// A publisher that says how many partitions there are, lets as many transfers begin as it has
/// permits, and notes each.
#[derive(Debug)]
struct Told {
    inner: MemoryPublisher,
    partitions: AtomicUsize,
    /// Of the answers about partitions.
    refusal: Mutex<Option<ErrorClass>>,
    looks: AtomicUsize,
    permits: Semaphore,
    begun: Mutex<Vec<(SendTarget, usize)>>,
    /// What the next transfers to a partition end with.
    failures: Mutex<BTreeMap<String, Vec<ErrorClass>>>,
}

impl Told {
    fn new(hub: &MemoryHub, partitions: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: hub.publisher(),
            partitions: AtomicUsize::new(partitions),
            refusal: Mutex::default(),
            looks: AtomicUsize::new(0),
            permits: Semaphore::new(0),
            begun: Mutex::default(),
            failures: Mutex::default(),
        })
    }

    fn open(&self) {
        self.permits.add_permits(100_000);
    }

    fn fail(&self, partition: &str, classes: &[ErrorClass]) {
        self.failures.lock().unwrap().insert(partition.to_owned(), classes.to_vec());
    }

    /// How many transfers began.
    fn begun(&self) -> usize {
        self.begun.lock().unwrap().len()
    }

    /// How many events each transfer had.
    fn sizes(&self) -> Vec<usize> {
        self.begun.lock().unwrap().iter().map(|(_, events)| *events).collect()
    }

    async fn transfer(&self, target: &SendTarget, events: usize) -> Result<(), Error> {
        self.begun.lock().unwrap().push((target.clone(), events));
        self.permits.acquire().await.expect("open").forget();
        let SendTarget::Partition(id) = target else { return Ok(()) };
        let failure = self.failures.lock().unwrap().get_mut(id.as_str()).and_then(Vec::pop);
        failure.map_or(Ok(()), |class| Err(Error::new(class, "publish", "told to fail")))
    }
}

impl Publisher for Told {
    fn entity(&self) -> &EntityName {
        self.inner.entity()
    }

    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>, Error>> {
        async {
            self.looks.fetch_add(1, Ordering::SeqCst);
            if let Some(class) = *self.refusal.lock().unwrap() {
                return Err(Error::new(class, "read the partitions", "told to fail"));
            }
            let count = self.partitions.load(Ordering::SeqCst);
            Ok((0..count).map(|id| PartitionId::from(id.to_string())).collect())
        }
        .boxed()
    }

    fn send(
        &self,
        target: SendTarget,
        event: OutgoingEvent,
    ) -> BoxFuture<'_, Result<SendReceipt, Error>> {
        async move {
            self.transfer(&target, 1).await?;
            self.inner.send(target, event).await
        }
        .boxed()
    }

    fn send_batch(
        &self,
        target: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            self.transfer(&target, events.len()).await?;
            self.inner.send_batch(target, events).await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

/// The bodies of a partition.
async fn bodies(hub: &MemoryHub, partition: usize) -> Vec<String> {
    let id = PartitionId::from(partition.to_string());
    let transport = hub.transport("$Default");
    let log = transport.log_properties(&id).await.unwrap();
    let count = log.last_enqueued.map_or(0, |last| usize::try_from(last.0 + 1).unwrap());
    let mut link = transport.open(OpenLink::new(id, LinkStart::FirstEvent, 10)).await.unwrap();
    let mut events = Vec::new();
    while events.len() < count {
        poll_fn(|cx| link.poll_receive(cx, count, &mut events)).await.unwrap();
    }
    events.iter().map(|event| String::from_utf8(event.body().to_vec()).unwrap()).collect()
}

fn keyed(key: &str, body: impl ToString) -> OutgoingEvent {
    OutgoingEvent::new(body.to_string()).with_key(key)
}

fn partition(id: usize) -> SendTarget {
    SendTarget::Partition(id.to_string().as_str().into())
}

#[tokio::test(start_paused = true)]
async fn keys_of_one_partition_travel_together_and_partitions_beside_each_other() {
    let hub = MemoryHub::new("orders", 4);
    let told = Told::new(&hub, 4);
    let producer = Arc::new(EntityProducer::new(told.clone()));
    let sends: Vec<_> = (0..1_000)
        .map(|number| {
            let producer = Arc::clone(&producer);
            let event = keyed(&format!("customer {}", number % 100), number);
            tokio::spawn(async move { producer.send(SendTarget::Any, event).await })
        })
        .collect();
    // Nothing is answered, and all four are under way.
    until("each partition has a transfer", || told.begun() == 4).await;
    told.open();
    let mut receipts = Vec::new();
    for sent in sends {
        receipts.push(sent.await.unwrap().unwrap().partition.unwrap());
    }
    assert!(told.begun() <= 8, "{:?}", told.sizes());
    for (number, receipt) in receipts.iter().enumerate() {
        let key = format!("customer {}", number % 100);
        let index = KeyPlacement::Service.index(&key, 4).unwrap();
        assert_eq!(receipt.as_str(), index.to_string(), "{key}");
    }
    let mut sum = 0;
    for index in 0..4 {
        sum += bodies(&hub, index).await.len();
    }
    assert_eq!(sum, 1_000);
}

#[tokio::test(start_paused = true)]
async fn the_memory_hub_places_keys_as_a_producer_does() {
    let hub = MemoryHub::new("orders", 32);
    let producer = EntityProducer::new(Arc::new(hub.publisher()));
    for number in 0..200 {
        let event = keyed(&format!("Kunde-{number}-ü"), number);
        let placed = hub.publisher().send(SendTarget::Any, event.clone()).await.unwrap();
        let sent = producer.send(SendTarget::Any, event).await.unwrap();
        assert_eq!(placed.partition, sent.partition);
    }
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_a_large_event_travels_alone() {
    let hub = MemoryHub::new("orders", 1);
    let told = Told::new(&hub, 1);
    told.open();
    let producer = EntityProducer::new(told.clone());
    let small = vec![OutgoingEvent::new("x"); 2 * MAX_TOGETHER + 1];
    producer.send_batch(partition(0), small).await.unwrap();
    assert_eq!(told.sizes(), [MAX_TOGETHER, MAX_TOGETHER, 1]);
    told.begun.lock().unwrap().clear();
    let sizes =
        [10, MAX_TOGETHER_BYTES + 1, 10, MAX_TOGETHER_BYTES / 2, 10, MAX_TOGETHER_BYTES / 2];
    let mixed = sizes.map(|bytes| OutgoingEvent::new(vec![b'x'; bytes])).to_vec();
    producer.send_batch(partition(0), mixed).await.unwrap();
    assert_eq!(told.sizes(), [1, 1, 3, 1]);
}

/// "7" is of partition 3 of four and 7 of eight, "131" of partition 2 of either.
#[tokio::test(start_paused = true)]
async fn a_key_moves_to_a_partition_that_appeared_behind_what_is_under_way() {
    let hub = MemoryHub::new("orders", 8);
    let told = Told::new(&hub, 4);
    let producer = EntityProducer::new(told.clone());
    let send = |key: &str, body: &str| producer.send(SendTarget::Any, keyed(key, body));
    let first = async {
        let sends = ["a", "b", "c"].map(|body| send("7", body));
        join_all(sends).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    };
    let second = async {
        until("the first is under way", || told.begun() == 1).await;
        told.partitions.store(8, Ordering::SeqCst);
        tokio::time::sleep(PARTITIONS_LOOK_INTERVAL).await;
        // Each is of a time after the look is due; the first makes it.
        let looking = send("131", "x");
        let moves = async {
            until("a look", || told.looks.load(Ordering::SeqCst) == 2).await;
            let moved = [send("7", "d"), send("7", "e")];
            let moved = async { join_all(moved).await };
            let opened = async {
                // The old partition's transfer is still unanswered, and nothing went to the new one.
                until("the other key's is under way", || told.begun() == 2).await;
                assert_eq!(bodies(&hub, 7).await, [""; 0]);
                told.open();
            };
            let (moved, ()) = tokio::join!(moved, opened);
            for sent in moved {
                assert_eq!(sent.unwrap().partition.unwrap().as_str(), "7");
            }
        };
        let (looked, ()) = tokio::join!(looking, moves);
        looked.unwrap();
    };
    tokio::join!(first, second);
    assert_eq!(bodies(&hub, 3).await, ["a", "b", "c"]);
    assert_eq!(bodies(&hub, 7).await, ["d", "e"]);
    let begun = told.begun.lock().unwrap().clone();
    let order: Vec<_> = begun.iter().map(|(target, _)| target.clone()).collect();
    // "a" to "c" waited for the first look, so they travelled together.
    assert_eq!(order, [3, 2, 7].map(partition));
}

#[tokio::test(start_paused = true)]
async fn what_a_partition_refuses_that_is_gone_goes_to_the_one_its_key_has_now() {
    let hub = MemoryHub::new("orders", 4);
    let told = Told::new(&hub, 8);
    let producer = EntityProducer::new(told.clone());
    let sends = async {
        let sends = (0..20).map(|body| producer.send(SendTarget::Any, keyed("7", body)));
        join_all(sends).await
    };
    let shrunk = async {
        until("the first is under way", || told.begun() == 1).await;
        told.partitions.store(4, Ordering::SeqCst);
        told.open();
    };
    let (sent, ()) = tokio::join!(sends, shrunk);
    for sent in sent {
        assert_eq!(sent.unwrap().partition.unwrap().as_str(), "3");
    }
    let expected: Vec<_> = (0..20).map(|body| body.to_string()).collect();
    assert_eq!(bodies(&hub, 3).await, expected);
    // Who names a partition that is not there is told so.
    let error = producer.send(partition(7), keyed("7", "x")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent);
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_fails_alone_and_those_of_its_key_keep_their_order() {
    let hub = MemoryHub::new("orders", 4);
    hub.limit_event_bytes(1_000);
    let told = Told::new(&hub, 4);
    told.open();
    let producer = EntityProducer::new(told.clone());
    let events = (0..200).map(|number| {
        let event = keyed("7", number);
        if number == 77 { event.with_property("large", "x".repeat(1_000)) } else { event }
    });
    let sends: Vec<_> = events.map(|event| producer.send(SendTarget::Any, event)).collect();
    let sent = join_all(sends).await;
    for (number, sent) in sent.iter().enumerate() {
        let class = sent.as_ref().err().map(Error::class);
        assert_eq!(class, (number == 77).then_some(ErrorClass::TooLarge), "{number}");
    }
    // This hub takes a batch as far as it can, so some are there more than once; a halved batch
    // takes seven steps or so, not two hundred.
    let mut seen: Vec<u32> = Vec::new();
    for body in bodies(&hub, 3).await {
        let number = body.parse().unwrap();
        if !seen.contains(&number) {
            seen.push(number);
        }
    }
    let expected: Vec<u32> = (0..200).filter(|number| *number != 77).collect();
    assert_eq!(seen, expected);
    assert!(told.begun() < 25, "{:?}", told.sizes());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_tried_again_is_before_what_came_after_it() {
    let hub = MemoryHub::new("orders", 4);
    let told = Told::new(&hub, 4);
    told.fail("3", &[ErrorClass::Transient, ErrorClass::Throttling, ErrorClass::Transient]);
    told.open();
    let producer = EntityProducer::new(told.clone());
    let sends = (0..50).map(|number| producer.send(SendTarget::Any, keyed("7", number)));
    join_all(sends).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    let expected: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(bodies(&hub, 3).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_away_holds_nothing_else_up() {
    let hub = MemoryHub::new("orders", 4);
    let told = Told::new(&hub, 4);
    told.fail("3", &[ErrorClass::Transient; 8]);
    told.open();
    let producer = EntityProducer::new(told.clone());
    let begun = tokio::time::Instant::now();
    let timed = async |event| {
        let sent = producer.send(SendTarget::Any, event).await;
        (sent.is_ok(), begun.elapsed().as_secs())
    };
    let (away, (other, other_took), (none, none_took)) = tokio::join!(
        timed(keyed("7", "away")),
        timed(keyed("131", "other")),
        timed(OutgoingEvent::new("without a key")),
    );
    assert!(!away.0 && other && none);
    assert!(away.1 >= 5 && other_took == 0 && none_took == 0, "{away:?} {other_took} {none_took}");
}

#[tokio::test(start_paused = true)]
async fn where_partitions_cannot_be_read_the_service_places_keys_and_one_line_says_so() {
    let log = Log::default();
    let _listening = log.of_this_thread();
    let hub = MemoryHub::new("orders", 4);
    let told = Told::new(&hub, 4);
    *told.refusal.lock().unwrap() = Some(ErrorClass::Auth);
    told.open();
    let producer = EntityProducer::new(told.clone());
    for number in 0..20 {
        producer.send(SendTarget::Any, keyed("7", number)).await.unwrap();
        tokio::time::sleep(PARTITIONS_LOOK_INTERVAL).await;
    }
    let expected: Vec<_> = (0..20).map(|body| body.to_string()).collect();
    assert_eq!(bodies(&hub, 3).await, expected);
    assert!(told.begun.lock().unwrap().iter().all(|(target, _)| *target == SendTarget::Any));
    assert_eq!(log.text().matches("the partitions cannot be read").count(), 1, "{}", log.text());
    let looks = told.looks.load(Ordering::SeqCst);
    assert!((2..=3).contains(&looks), "20 minutes, {looks} looks");

    // The right was given.
    *told.refusal.lock().unwrap() = None;
    tokio::time::sleep(10 * PARTITIONS_LOOK_INTERVAL).await;
    producer.send(SendTarget::Any, keyed("7", 20)).await.unwrap();
    producer.flush().await;
    producer.send(SendTarget::Any, keyed("7", 21)).await.unwrap();
    let (last, _) = told.begun.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, partition(3));
    assert_eq!(bodies(&hub, 3).await.len(), 22);
}

#[tokio::test(start_paused = true)]
async fn a_producer_sends_to_a_partition_of_the_callers_choice() {
    let hub = MemoryHub::new("orders", 4);
    let of = hub.clone();
    let producer =
        Producer::new(move |_: &EntityName| Arc::new(of.publisher()) as Arc<dyn Publisher>);
    let event = keyed("7", "a").with_property("kind", "new");
    let receipt = producer.send_to("orders", partition(1), event).await.unwrap();
    assert_eq!(receipt.partition.unwrap().as_str(), "1");
    let batch = vec![keyed("7", "b"), OutgoingEvent::new("c")];
    producer.send_batch_to("orders", partition(1), batch).await.unwrap();
    assert_eq!(bodies(&hub, 1).await, ["a", "b", "c"]);
    let receipt = producer.send("orders", Some("7"), "d", Properties::new()).await.unwrap();
    assert_eq!(receipt.partition.unwrap().as_str(), "3");
    let error = producer.send_to("orders", partition(4), keyed("7", "x")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent);
    let error = producer.send_batch_to("orders", partition(4), vec![keyed("7", "x")]).await;
    assert_eq!(error.unwrap_err().class(), ErrorClass::Permanent);
    producer.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_batch_is_sent_and_flushed() {
    let hub = MemoryHub::new("orders", 4);
    let told = Told::new(&hub, 4);
    let producer = EntityProducer::new(told.clone());
    let events = (0..10).map(|number| keyed("7", number)).collect();
    let mut dropped = Box::pin(producer.send_batch(SendTarget::Any, events));
    assert!(futures::poll!(&mut dropped).is_pending());
    drop(dropped);
    let mut flushing = Box::pin(producer.flush());
    assert!(futures::poll!(&mut flushing).is_pending());
    told.open();
    flushing.await;
    assert_eq!(bodies(&hub, 3).await.len(), 10);
}
