//! A hub that gains partitions while its workers run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use longshore::consumer::PARTITIONS_INTERVAL;
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::transport::memory::MemoryTransport;
use longshore::transport::{HubProperties, Transport};
use longshore::{BatchConsumer, ConsumerHandle, Error, Event, EventContext};
use support::forward::{Over, OverTransport};
use support::{Harness, drained, until};
use tokio::time::Instant;

/// A hub of which only so many partitions are there yet.
#[derive(Debug)]
struct Growing {
    inner: MemoryTransport,
    partitions: Arc<AtomicUsize>,
}

impl OverTransport for Growing {
    fn below(&self) -> &dyn Transport {
        &self.inner
    }

    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties, Error>> {
        async {
            let mut properties = self.inner.hub_properties().await?;
            properties.partitions.truncate(self.partitions.load(Ordering::Relaxed));
            Ok(properties)
        }
        .boxed()
    }
}

fn start(
    harness: &Harness,
    partitions: &Arc<AtomicUsize>,
    leases: Option<&Arc<MemoryLeaseStore>>,
) -> ConsumerHandle {
    let inner = harness.hub.transport("$Default");
    let transport = Over(Growing { inner, partitions: Arc::clone(partitions) });
    let mut builder = BatchConsumer::builder(Arc::new(transport), harness.checkpoints.clone());
    if let Some(leases) = leases {
        builder = builder.leases(Arc::clone(leases));
    }
    let seen = harness.seen.clone();
    let handler = move |event: Event, _: EventContext| {
        seen.record(&event);
        async {}
    };
    builder.event_handler(handler).expect("valid").start()
}

fn running(handle: &ConsumerHandle) -> usize {
    handle.snapshot().partitions.len()
}

#[tokio::test(start_paused = true)]
async fn a_worker_takes_partitions_that_appear_and_the_others_go_on() {
    let (harness, partitions) = (Harness::new(4), Arc::new(AtomicUsize::new(2)));
    let handle = start(&harness, &partitions, None);
    until("two run", || running(&handle) == 2).await;
    let appeared = Instant::now();
    partitions.store(4, Ordering::Relaxed);
    (0..4).for_each(|partition| harness.publish(partition, 10));
    until("four run", || running(&handle) == 4).await;
    assert!(appeared.elapsed() < PARTITIONS_INTERVAL.mul_f64(1.3), "{:?}", appeared.elapsed());
    until("all are handled", || harness.seen.len() == 40).await;
    assert!(drained(handle).await.is_clean());
}

/// A worker whose hook panics the first time it is called.
fn start_with_a_bad_hook(harness: &Harness, leases: bool) -> ConsumerHandle {
    let calls = AtomicUsize::new(0);
    let mut builder = harness.builder().on_partition_assigned(move |_| {
        assert!(calls.fetch_add(1, Ordering::Relaxed) > 0, "the hook is bad");
        async {}
    });
    if leases {
        builder = builder.leases(Arc::new(MemoryLeaseStore::new()));
    }
    let seen = harness.seen.clone();
    let handler = move |event: Event, _: EventContext| {
        seen.record(&event);
        async {}
    };
    builder.event_handler(handler).expect("valid").start()
}

#[tokio::test(start_paused = true)]
async fn a_partition_whose_hook_panicked_begins_again() {
    for leases in [false, true] {
        let harness = Harness::new(2);
        (0..2).for_each(|partition| harness.publish(partition, 10));
        let handle = start_with_a_bad_hook(&harness, leases);
        until("all are handled", || harness.seen.len() == 20).await;
        assert!(harness.seen.counts().values().all(|count| *count == 1));
        assert!(drained(handle).await.is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn workers_share_partitions_that_appear() {
    let (harness, partitions) = (Harness::new(6), Arc::new(AtomicUsize::new(2)));
    let leases = Arc::new(MemoryLeaseStore::new());
    let workers = [0, 1].map(|_| start(&harness, &partitions, Some(&leases)));
    until("each has one", || workers.iter().all(|worker| running(worker) == 1)).await;
    partitions.store(6, Ordering::Relaxed);
    (0..6).for_each(|partition| harness.publish(partition, 10));
    until("each has three", || workers.iter().all(|worker| running(worker) == 3)).await;
    until("all are handled", || harness.seen.len() == 60).await;
    assert!(harness.seen.counts().values().all(|count| *count == 1));
    for worker in workers {
        assert!(drained(worker).await.is_clean());
    }
}
