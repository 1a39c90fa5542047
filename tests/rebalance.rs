//! Workers that share the partitions of a hub by leases, on the memory transport in virtual time.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::checkpoint_store::CheckpointStore;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::clock::Clock;
use longshore::config::{DEFAULT_LEASE_EXPIRY, LeaseOptions};
use longshore::consumer::{HAND_OFF_POLL, PartitionPhase};
use longshore::event::PartitionId;
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::lease_store::{
    CheckpointKey, CheckpointScope, Expected, Holder, LeaseStore, Ownership,
};
use longshore::{
    BatchConsumer, ConsumerHandle, Error, ErrorClass, Event, EventContext, OutgoingEvent,
};
use support::forward::{Over, OverCheckpoints, OverLeases};
use support::waiting::found;
use support::{Harness, until};
use tokio::time::{Instant, sleep};

/// The wall clock of a paused runtime.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + self.0.elapsed()
    }
}

/// How a worker's stores are for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weather {
    Fine,
    /// No call ends.
    Hangs,
    /// Every call fails.
    Fails,
}

/// A store that one worker may be cut off from.
#[derive(Debug)]
struct Cuttable<S>(Arc<S>, Arc<Mutex<Weather>>);

impl<S> Cuttable<S> {
    async fn pass(&self) -> Result<(), Error> {
        let weather = *self.1.lock().expect("lock");
        match weather {
            Weather::Fine => Ok(()),
            Weather::Hangs => std::future::pending().await,
            Weather::Fails => Err(Error::new(ErrorClass::Transient, "call", "the store is away")),
        }
    }
}

impl OverCheckpoints for Cuttable<MemoryCheckpointStore> {
    fn below(&self) -> &dyn CheckpointStore {
        &*self.0
    }

    fn before(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.pass().boxed()
    }
}

impl OverLeases for Cuttable<MemoryLeaseStore> {
    fn below(&self) -> &dyn LeaseStore {
        &*self.0
    }

    fn before(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.pass().boxed()
    }
}

/// A hub whose workers share a lease store, and when which worker handled what.
struct Fleet {
    harness: Harness,
    clock: Arc<Virtual>,
    leases: Arc<MemoryLeaseStore>,
    handled: Arc<Mutex<Vec<(Instant, usize, String)>>>,
    partitions: usize,
}

struct Worker {
    handle: ConsumerHandle,
    /// How its stores are for it: that of the leases, and that of the checkpoints.
    leases: Arc<Mutex<Weather>>,
    checkpoints: Arc<Mutex<Weather>>,
}

impl Fleet {
    fn new(partitions: usize) -> Self {
        let clock = Arc::new(Virtual(Instant::now()));
        Self {
            harness: Harness::new(partitions),
            leases: Arc::new(MemoryLeaseStore::with_clock(clock.clone())),
            clock,
            handled: Arc::default(),
            partitions,
        }
    }

    /// Starts a worker whose handler takes `work`.
    fn start(&self, number: usize, work: Duration) -> Worker {
        self.start_with(number, work, LeaseOptions::default())
    }

    fn start_with(&self, number: usize, work: Duration, options: LeaseOptions) -> Worker {
        let fine = || Arc::new(Mutex::new(Weather::Fine));
        let weather = (fine(), fine());
        let (seen, handled) = (self.harness.seen.clone(), self.handled.clone());
        let leases = Arc::new(Over(Cuttable(self.leases.clone(), weather.0.clone())));
        let checkpoints = Over(Cuttable(self.harness.checkpoints.clone(), weather.1.clone()));
        let transport = Arc::new(self.harness.hub.transport("$Default"));
        let handle = BatchConsumer::builder(transport, Arc::new(checkpoints))
            .worker(format!("worker-{number}"))
            .seed(number as u64)
            .clock(self.clock.clone())
            .leases_with(leases, options)
            .event_handler(move |event: Event, _: EventContext| {
                seen.record(&event);
                let partition = event.partition().id.as_str().to_owned();
                handled.lock().expect("lock").push((Instant::now(), number, partition));
                sleep(work)
            })
            .expect("valid")
            .start();
        Worker { handle, leases: weather.0, checkpoints: weather.1 }
    }

    /// Publishes an event to each partition every 20 ms, for this long.
    async fn publish_for(&self, time: Duration) -> usize {
        self.publish_every(Duration::from_millis(20), time).await
    }

    async fn publish_every(&self, pause: Duration, time: Duration) -> usize {
        let rounds = (time.as_millis() / pause.as_millis()) as usize;
        for _ in 0..rounds {
            for partition in 0..self.partitions {
                self.harness.hub.publish(partition, OutgoingEvent::new("body"));
            }
            sleep(pause).await;
        }
        rounds * self.partitions
    }

    /// Waits until each of these workers runs this many partitions.
    async fn settles(&self, workers: &[(&Worker, usize)]) {
        let is_settled = || {
            let running: Vec<_> = workers.iter().map(|(worker, _)| worker.running()).collect();
            let is_settled = workers.iter().zip(&running).all(|((_, count), is)| count == is);
            if is_settled { Ok(()) } else { Err(running) }
        };
        found("each runs its share", LOOK_EVERY, SETTLED, is_settled).await;
    }

    async fn handles(&self, events: usize) {
        let all_are_handled = || match self.harness.seen.counts().len() {
            handled if handled < events => Err(handled),
            _ => Ok(()),
        };
        found("all are handled", LOOK_EVERY, SETTLED, all_are_handled).await;
    }

    fn repeats(&self) -> usize {
        self.harness.seen.len() - self.harness.seen.counts().len()
    }

    /// The longest time in which no event of a partition was handled, where its worker changed.
    fn longest_gap(&self) -> Duration {
        let mut last: BTreeMap<String, (Instant, usize)> = BTreeMap::new();
        let mut longest = Duration::ZERO;
        for (at, worker, partition) in self.handled.lock().expect("lock").iter() {
            if let Some((before, by)) = last.insert(partition.clone(), (*at, *worker))
                && by != *worker
            {
                longest = longest.max(*at - before);
            }
        }
        longest
    }

    async fn holders(&self) -> BTreeMap<PartitionId, Holder> {
        let scope = CheckpointScope {
            namespace: "memory".to_owned(),
            entity: self.harness.entity(),
            consumer_group: "$Default".into(),
        };
        let listing = self.leases.list(&scope).await.expect("listed");
        listing
            .ownerships
            .into_iter()
            .map(|(partition, stored)| (partition, stored.ownership.holder))
            .collect()
    }
}

impl Worker {
    fn running(&self) -> usize {
        let partitions = self.handle.snapshot().partitions;
        partitions.iter().filter(|one| one.phase == PartitionPhase::Running).count()
    }

    fn has_leases(&self, weather: Weather) {
        *self.leases.lock().expect("lock") = weather;
    }

    fn has_stores(&self, weather: Weather) {
        self.has_leases(weather);
        *self.checkpoints.lock().expect("lock") = weather;
    }

    async fn stop(mut self) {
        self.handle.drain();
        let exit = self.handle.join().await;
        assert!(exit.is_clean(), "{exit:?}");
    }
}

const WORK: Duration = Duration::from_millis(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Virtual time in which workers settle, however they came and went.
const SETTLED: Duration = Duration::from_secs(300);

#[tokio::test(start_paused = true)]
async fn workers_that_come_and_go_share_evenly_and_repeat_nothing() {
    let fleet = Fleet::new(8);
    let mut published = 0;
    let first = fleet.start(1, WORK);
    published += fleet.publish_for(Duration::from_secs(5)).await;
    fleet.settles(&[(&first, 8)]).await;
    let second = fleet.start(2, WORK);
    published += fleet.publish_for(Duration::from_secs(60)).await;
    fleet.settles(&[(&first, 4), (&second, 4)]).await;
    let third = fleet.start(3, WORK);
    published += fleet.publish_for(Duration::from_secs(60)).await;
    assert_eq!(first.running() + second.running() + third.running(), 8);
    assert!((2..=3).contains(&third.running()));
    let before: Vec<_> = [&first, &second, &third].map(Worker::running).into();
    published += fleet.publish_for(Duration::from_secs(120)).await;
    let after: Vec<_> = [&first, &second, &third].map(Worker::running).into();
    assert_eq!(before, after, "what is even stays");
    let (_, more) = tokio::join!(first.stop(), fleet.publish_for(Duration::from_secs(60)));
    published += more;
    fleet.settles(&[(&second, 4), (&third, 4)]).await;
    fleet.handles(published).await;
    second.stop().await;
    third.stop().await;
    assert_eq!(fleet.harness.seen.counts().len(), published);
    assert_eq!(fleet.repeats(), 0, "a planned change repeats nothing");
    let gap = fleet.longest_gap();
    // Whoever asked reads the record again after that long; the next event follows in 20 ms.
    let bar = HAND_OFF_POLL + Duration::from_millis(100);
    assert!(gap < bar, "a partition rested for {gap:?}");
    let holders: BTreeSet<_> =
        fleet.holders().await.into_values().map(|holder| holder == Holder::Nobody).collect();
    assert_eq!(holders, BTreeSet::from([true]), "all released");
}

#[tokio::test(start_paused = true)]
async fn a_worker_cut_off_from_the_store_goes_on_until_it_is_replaced() {
    let fleet = Fleet::new(4);
    let first = fleet.start(1, WORK);
    fleet.settles(&[(&first, 4)]).await;
    first.has_leases(Weather::Hangs);
    // Nobody else is there: ten minutes change nothing.
    let mut published = fleet.publish_for(Duration::from_secs(600)).await;
    assert_eq!(first.running(), 4);
    assert_eq!(fleet.repeats(), 0);
    let begun = Instant::now();
    let second = fleet.start(2, WORK);
    published += fleet.publish_for(Duration::from_secs(60)).await;
    fleet.settles(&[(&first, 0), (&second, 4)]).await;
    fleet.handles(published).await;
    let took = fleet
        .handled
        .lock()
        .expect("lock")
        .iter()
        .find(|(_, worker, _)| *worker == 2)
        .map(|(at, _, _)| *at - begun)
        .expect("the second worker handled something");
    // Its heartbeat had expired long ago, but whoever comes new looks for a while first.
    assert!(took < DEFAULT_LEASE_EXPIRY / 2 + Duration::from_secs(2), "{took:?}");
    // The first may come back, and asks like any other.
    first.has_leases(Weather::Fine);
    published += fleet.publish_for(Duration::from_secs(60)).await;
    fleet.settles(&[(&first, 2), (&second, 2)]).await;
    fleet.handles(published).await;
    first.stop().await;
    second.stop().await;
}

/// Both stores are away for ten minutes, for everybody.
async fn stores_are_away(weather: Weather) {
    let fleet = Fleet::new(4);
    let (first, second) = (fleet.start(1, WORK), fleet.start(2, WORK));
    let mut published = fleet.publish_for(Duration::from_secs(30)).await;
    fleet.settles(&[(&first, 2), (&second, 2)]).await;
    fleet.handles(published).await;
    first.has_stores(weather);
    second.has_stores(weather);
    let away = Duration::from_secs(600);
    published += fleet.publish_every(Duration::from_millis(200), away).await;
    assert_eq!((first.running(), second.running()), (2, 2));
    fleet.handles(published).await;
    let handled = fleet.handled.lock().expect("lock").clone();
    let mut last = BTreeMap::new();
    for (at, _, partition) in handled {
        if let Some(before) = last.insert(partition, at) {
            assert!(at - before < Duration::from_secs(1), "it rested for {:?}", at - before);
        }
    }
    assert_eq!(fleet.repeats(), 0);
    // They are back, for one a little sooner than for the other, whose heartbeat is ten minutes
    // old.
    first.has_stores(Weather::Fine);
    published += fleet.publish_for(Duration::from_secs(3)).await;
    second.has_stores(Weather::Fine);
    published += fleet.publish_for(Duration::from_secs(60)).await;
    fleet.settles(&[(&first, 2), (&second, 2)]).await;
    fleet.handles(published).await;
    first.stop().await;
    second.stop().await;
    assert_eq!(fleet.harness.seen.counts().len(), published);
    assert_eq!(fleet.repeats(), 0);
}

#[tokio::test(start_paused = true)]
async fn stores_that_hang_for_ten_minutes_stop_nothing() {
    stores_are_away(Weather::Hangs).await;
}

#[tokio::test(start_paused = true)]
async fn stores_that_fail_for_ten_minutes_stop_nothing() {
    stores_are_away(Weather::Fails).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_leaves_without_a_word_is_taken_when_its_lease_expires() {
    let fleet = Fleet::new(4);
    let (first, second) = (fleet.start(1, WORK), fleet.start(2, WORK));
    fleet.publish_for(Duration::from_secs(30)).await;
    fleet.settles(&[(&first, 2), (&second, 2)]).await;
    first.has_leases(Weather::Hangs);
    let cut = Instant::now();
    fleet.publish_for(Duration::from_secs(60)).await;
    fleet.settles(&[(&first, 0), (&second, 4)]).await;
    let handled = fleet.handled.lock().expect("lock").clone();
    let mut taken: BTreeMap<String, Instant> = BTreeMap::new();
    for (at, worker, partition) in handled.iter().filter(|(at, _, _)| *at > cut) {
        if *worker == 2 {
            taken.entry(partition.clone()).or_insert(*at);
        }
    }
    let last = taken.values().max().expect("taken");
    let took = *last - cut;
    assert!(took < Duration::from_secs(40), "{took:?}");
    assert!(took > DEFAULT_LEASE_EXPIRY - Duration::from_secs(6), "{took:?}");
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_hand_off_that_does_not_drain_in_time_is_put_off_and_cuts_nothing() {
    let fleet = Fleet::new(2);
    let mut options = LeaseOptions::default();
    options.hand_off_timeout = Duration::from_secs(5);
    let slow = Duration::from_secs(90);
    let first = fleet.start_with(1, slow, options);
    fleet.harness.publish(0, 3);
    fleet.harness.publish(1, 3);
    fleet.settles(&[(&first, 2)]).await;
    let second = fleet.start(2, WORK);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(first.running() + second.running(), 2, "nothing rests for long");
    fleet.settles(&[(&first, 1), (&second, 1)]).await;
    fleet.handles(6).await;
    assert_eq!(fleet.repeats(), 0);
    assert_eq!(first.handle.snapshot().counts.retried, 0);
    tokio::join!(first.stop(), second.stop());
}

#[tokio::test(start_paused = true)]
async fn a_hand_off_whose_store_hangs_is_put_off_in_time() {
    let fleet = Fleet::new(2);
    let mut options = LeaseOptions::default();
    options.hand_off_timeout = Duration::from_secs(5);
    let first = fleet.start_with(1, Duration::from_secs(3_600), options);
    (0..2).for_each(|partition| fleet.harness.publish(partition, 1));
    fleet.settles(&[(&first, 2)]).await;
    let second = fleet.start(2, WORK);
    until("a hand-off begins", || first.running() < 2).await;
    first.has_stores(Weather::Hangs);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(first.running(), 2, "nothing rests while the store is away");
    for worker in [first, second] {
        worker.handle.stop();
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_owner_is_given_way_to_and_keeps_its_share() {
    let fleet = Fleet::new(4);
    let first = fleet.start(1, WORK);
    fleet.settles(&[(&first, 4)]).await;
    let key = |partition: &str| CheckpointKey {
        scope: CheckpointScope {
            namespace: "memory".to_owned(),
            entity: fleet.harness.entity(),
            consumer_group: "$Default".into(),
        },
        partition: partition.into(),
    };
    let foreign = Ownership { holder: Holder::Foreign("python".into()), target: None };
    let take = async |partition: &str| {
        let stored = fleet.leases.load(&key(partition)).await.expect("read").expect("there");
        let expected = Expected::Version(stored.version);
        fleet.leases.store(&key(partition), &foreign, &expected).await
    };
    take("0").await.expect("taken");
    take("1").await.expect("taken");
    fleet.settles(&[(&first, 2)]).await;
    // It renews, and so do we: neither takes more than its half.
    for _ in 0..12 {
        sleep(Duration::from_secs(10)).await;
        take("0").await.expect("renewed");
        take("1").await.expect("renewed");
        assert_eq!(first.running(), 2);
        let ours = fleet.leases.load(&key("2")).await.expect("read").expect("there");
        let age = fleet.clock.now().duration_since(ours.modified).expect("past");
        assert!(age <= Duration::from_secs(11), "not renewed for {age:?}");
    }
    // It dies.
    fleet.settles(&[(&first, 4)]).await;
    first.stop().await;
}
