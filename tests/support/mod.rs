//! What tests of consumers on the memory transport share.
// Each test crate uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod forward;
pub mod waiting;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, StoreError, VersionToken,
};
use longshore::clock::Clock;
use longshore::consumer::{BatchConsumerBuilder, ConsumerExit};
use longshore::dead_letter::DeadLetterSink;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::event::{EntityName, PartitionId};
use longshore::transport::memory::MemoryHub;
use longshore::{
    BatchConsumer, ConsumerHandle, ConsumerOptions, Error, ErrorClass, Event, EventContext,
    OutgoingEvent,
};

use forward::{Over, OverCheckpoints};
pub use waiting::{LIMIT, until, within};

/// A hub, its stores, and what handlers saw.
pub struct Harness {
    entity: EntityName,
    pub hub: MemoryHub,
    pub checkpoints: Arc<MemoryCheckpointStore>,
    pub letters: Arc<MemoryDeadLetterSink>,
    pub seen: Seen,
}

/// (partition, sequence number) of each handler call, in order.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<(String, i64)>>>);

impl Seen {
    pub fn record(&self, event: &Event) {
        let id = event.partition().id.as_str().to_owned();
        self.0.lock().expect("lock").push((id, event.sequence_number().0));
    }

    pub fn counts(&self) -> BTreeMap<(String, i64), usize> {
        let mut counts = BTreeMap::new();
        for seen in self.0.lock().expect("lock").iter() {
            *counts.entry(seen.clone()).or_default() += 1;
        }
        counts
    }

    pub fn numbers(&self) -> Vec<i64> {
        self.0.lock().expect("lock").iter().map(|(_, number)| *number).collect()
    }

    pub fn len(&self) -> usize {
        self.0.lock().expect("lock").len()
    }
}

impl Harness {
    pub fn new(partitions: usize) -> Self {
        Self::of("files", partitions)
    }

    pub fn of(entity: &str, partitions: usize) -> Self {
        Self::over(entity, MemoryHub::new(entity, partitions))
    }

    /// Over a hub whose events have the times of this clock.
    pub fn with_clock(partitions: usize, clock: Arc<dyn Clock>) -> Self {
        Self::over("files", MemoryHub::with_clock("files", partitions, clock))
    }

    fn over(entity: &str, hub: MemoryHub) -> Self {
        Self {
            entity: entity.into(),
            hub,
            checkpoints: Arc::new(MemoryCheckpointStore::new()),
            letters: Arc::new(MemoryDeadLetterSink::new()),
            seen: Seen::default(),
        }
    }

    pub fn entity(&self) -> EntityName {
        self.entity.clone()
    }

    pub fn publish(&self, partition: usize, count: usize) {
        for number in 0..count {
            self.hub.publish(partition, OutgoingEvent::new(format!("body {number}")));
        }
    }

    pub fn publish_unreadable(&self, partition: usize, count: usize) {
        for _ in 0..count {
            self.hub.publish_unreadable(partition);
        }
    }

    pub fn builder(&self) -> BatchConsumerBuilder {
        let letters: Arc<dyn DeadLetterSink> = self.letters.clone();
        self.without_letters().dead_letters(letters)
    }

    pub fn without_letters(&self) -> BatchConsumerBuilder {
        BatchConsumer::builder(Arc::new(self.hub.transport("$Default")), self.checkpoints.clone())
            .seed(7)
    }

    /// Starts a consumer whose handler records each event and does nothing else.
    pub fn start_recording(&self, options: ConsumerOptions) -> ConsumerHandle {
        let seen = self.seen.clone();
        self.builder()
            .options(options)
            .event_handler(move |event: Event, _: EventContext| {
                seen.record(&event);
                async {}
            })
            .expect("valid")
            .start()
    }

    pub fn key(&self, partition: &str) -> CheckpointKey {
        CheckpointKey {
            scope: CheckpointScope {
                namespace: "memory".to_owned(),
                entity: self.entity.clone(),
                consumer_group: "$Default".into(),
            },
            partition: PartitionId::from(partition),
        }
    }

    pub async fn checkpoint(&self, partition: &str) -> Option<Checkpoint> {
        let stored = self.checkpoints.load(&self.key(partition)).await.expect("load");
        stored.map(|stored| stored.checkpoint)
    }

    pub async fn checkpointed_to(&self, partition: &str) -> Option<i64> {
        let checkpoint = self.checkpoint(partition).await?;
        checkpoint.watermark.map(|position| position.sequence_number.0)
    }
}

/// Waits until everything of the only partition is settled up to this number.
pub async fn settled(handle: &ConsumerHandle, number: i64) {
    until("everything settled", || {
        let settled = handle.snapshot().partitions.first().and_then(|one| one.settled_to);
        settled.is_some_and(|settled| settled.0 == number)
    })
    .await;
}

pub async fn drained(mut handle: ConsumerHandle) -> ConsumerExit {
    handle.drain();
    handle.join().await
}

pub fn unsettled(handle: &ConsumerHandle) -> usize {
    handle.snapshot().partitions.iter().map(|partition| partition.unsettled_events).sum()
}

/// A store that fails on demand; when it does, half of the writes were applied all the same.
#[derive(Debug)]
pub struct FlakyStore {
    inner: Arc<MemoryCheckpointStore>,
    failures: AtomicUsize,
}

impl FlakyStore {
    pub fn new(harness: &Harness, failures: usize) -> Over<Self> {
        Over(Self { inner: harness.checkpoints.clone(), failures: AtomicUsize::new(failures) })
    }

    pub fn fail_next(&self, writes: usize) {
        self.failures.store(writes, Ordering::SeqCst);
    }
}

impl OverCheckpoints for FlakyStore {
    fn below(&self) -> &dyn CheckpointStore {
        &*self.inner
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        async move {
            let left = self.failures.load(Ordering::SeqCst);
            if left == 0 {
                return self.inner.store(key, checkpoint, expected).await;
            }
            self.failures.store(left - 1, Ordering::SeqCst);
            if left.is_multiple_of(2) {
                let _applied = self.inner.store(key, checkpoint, expected).await;
            }
            Err(StoreError::Failed(Error::new(ErrorClass::Transient, "write", "lost the answer")))
        }
        .boxed()
    }
}
