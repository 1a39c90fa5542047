//! Events that flow at a steady pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use longshore::OutgoingEvent;
use longshore::event::PartitionId;
use longshore::transport::event_hubs::EventHubsPublisher;
use longshore::transport::{Publisher as _, SendTarget};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::processes::{Fleet, HUB};
use super::schedule::Zipf;
use super::worker::Work;

/// Publishes to all partitions in turn until it is stopped or done.
pub struct Publishing {
    published: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Publishing {
    /// Publishes `batch` events to each partition in every `round`, `total` in all.
    pub fn start(fleet: &Fleet, total: usize, batch: usize, round: Duration) -> Self {
        let (published, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        // A send takes some twenty-five milliseconds with this broker: a few go beside each other.
        let senders = fleet.partitions.min(8);
        let tasks = (0..senders).map(|sender| {
            let publisher = EventHubsPublisher::new(fleet.namespace(), HUB);
            let mine: Vec<PartitionId> = (0..fleet.partitions)
                .filter(|partition| partition % senders == sender)
                .map(|partition| PartitionId::from(partition.to_string()))
                .collect();
            let mut left = total / fleet.partitions * mine.len();
            let (published, stop) = (Arc::clone(&published), Arc::clone(&stop));
            let mut keys = (fleet.work == Work::Keyed).then(|| Keys::new(sender as u64));
            tokio::spawn(async move {
                let mut rounds = interval(round);
                rounds.set_missed_tick_behavior(MissedTickBehavior::Burst);
                while left > 0 && !stop.load(Ordering::Relaxed) {
                    rounds.tick().await;
                    for partition in &mine {
                        let count = batch.min(left);
                        let events = (0..count).map(|_| Keys::next(&mut keys, partition));
                        send(&publisher, partition, events.collect()).await;
                        published.fetch_add(count, Ordering::Relaxed);
                        left -= count;
                    }
                }
                publisher.close().await;
            })
        });
        let tasks = tasks.collect();
        Self { published, stop, tasks }
    }

    /// Waits until so many events are published.
    pub async fn reaches(&self, events: usize) {
        while self.published.load(Ordering::Relaxed) < events {
            assert!(!self.tasks.iter().all(JoinHandle::is_finished), "publishing has ended");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all are published.
    pub async fn finish(self) {
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    /// Publishes no more.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.finish().await;
    }
}

/// Of the keys of a partition.
const KEYS: usize = 200;

/// Keys by Zipf, which each partition has of its own.
struct Keys {
    zipf: Zipf,
    random: SmallRng,
}

impl Keys {
    fn new(seed: u64) -> Self {
        Self { zipf: Zipf::new(KEYS, 0.8), random: SmallRng::seed_from_u64(seed) }
    }

    /// The next event, with a key where there are keys.
    fn next(keys: &mut Option<Self>, partition: &PartitionId) -> OutgoingEvent {
        let event = OutgoingEvent::new("body");
        match keys {
            Some(Self { zipf, random }) => {
                event.with_key(format!("{partition}-{}", zipf.draw(random)))
            }
            None => event,
        }
    }
}

/// What fails is sent again: the log may then hold more than was to be published.
async fn send(publisher: &EventHubsPublisher, partition: &PartitionId, events: Vec<OutgoingEvent>) {
    loop {
        let target = SendTarget::Partition(partition.clone());
        match publisher.send_batch(target, events.clone()).await {
            Ok(()) => return,
            Err(error) => assert!(error.class().is_retryable(), "{error:?}"),
        }
    }
}
