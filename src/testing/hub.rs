//! A hub in memory with all that a consumer needs beside it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::checkpoint_store::memory::MemoryCheckpointStore;
use crate::checkpoint_store::{Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore};
use crate::consumer::{
    BatchConsumer, BatchConsumerBuilder, ConsumerHandle, EventConsumer, EventConsumerBuilder,
    PartitionPhase, PartitionSnapshot,
};
use crate::dead_letter::DeadLetter;
use crate::dead_letter::memory::MemoryDeadLetterSink;
use crate::dead_letter::record::DeadLetterRecord;
use crate::error::Error;
use crate::event::{ConsumerGroup, EntityName, OutgoingEvent, PartitionId, SequenceNumber};
use crate::failure_store::memory::MemoryFailureStore;
use crate::failure_store::{FailureKind, FailurePrefix, FailureStore, MAX_PAGE_ENTRIES};
use crate::lease_store::memory::MemoryLeaseStore;
use crate::transport::memory::MemoryHub;

/// How often to look whether something is settled.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A hub in memory, and stores in memory beside it: a whole test of a worker, offline. In paused time
/// (`#[tokio::test(start_paused = true)]`) back-offs and deadlines take no time.
///
/// ```
/// use longshore::testing::TestHub;
/// use longshore::{Event, EventContext, Failure};
///
/// async fn store(event: Event, _: EventContext) -> Result<(), Failure> {
///     match event.body().is_empty() {
///         true => Err(Failure::permanent("it is empty")),
///         false => Ok(()),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = TestHub::new("orders", 2);
/// hub.publish(0, "an order");
/// hub.publish(1, "");
/// let mut consumer = hub.consumer().event_handler(store)?.start();
/// hub.until_settled(&consumer).await;
/// consumer.drain();
/// let exit = consumer.join().await.into_result()?;
/// assert_eq!((exit.counts.done, exit.counts.dead_letters), (1, 1));
/// assert_eq!(hub.dead_letters()[0].failure.message, "it is empty");
/// assert_eq!(hub.checkpointed_to("1").await, Some(0), "the dead letter is passed");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestHub {
    entity: EntityName,
    consumer_group: ConsumerGroup,
    partitions: usize,
    hub: MemoryHub,
    checkpoints: Arc<MemoryCheckpointStore>,
    leases: Arc<MemoryLeaseStore>,
    letters: Arc<MemoryDeadLetterSink>,
    failures: Arc<MemoryFailureStore>,
}

impl TestHub {
    /// A hub with empty partitions "0", "1", …, read as the group `$Default`.
    pub fn new(entity: impl Into<EntityName>, partitions: usize) -> Self {
        let entity = entity.into();
        Self {
            hub: MemoryHub::new(entity.clone(), partitions),
            entity,
            consumer_group: "$Default".into(),
            partitions,
            checkpoints: Arc::new(MemoryCheckpointStore::new()),
            leases: Arc::new(MemoryLeaseStore::new()),
            letters: Arc::new(MemoryDeadLetterSink::new()),
            failures: Arc::new(MemoryFailureStore::new()),
        }
    }

    /// The hub itself, with its faults on demand.
    pub fn hub(&self) -> &MemoryHub {
        &self.hub
    }

    /// The store of its checkpoints.
    pub fn checkpoints(&self) -> &Arc<MemoryCheckpointStore> {
        &self.checkpoints
    }

    /// The store of leases, for workers that share the partitions: `consumer().leases(hub.leases())`. See
    /// [`TestHub::until_shared`].
    pub fn leases(&self) -> Arc<MemoryLeaseStore> {
        Arc::clone(&self.leases)
    }

    /// The failure store of [`TestHub::consumer_with_failures`].
    pub fn failure_store(&self) -> &Arc<MemoryFailureStore> {
        &self.failures
    }

    /// The sink of dead letters, which can be told to fail.
    pub fn dead_letter_sink(&self) -> &Arc<MemoryDeadLetterSink> {
        &self.letters
    }

    /// Publishes an event; returns its sequence number.
    ///
    /// # Panics
    /// Where there is no such partition.
    pub fn publish(&self, partition: usize, event: impl IntoTestEvent) -> SequenceNumber {
        let published = self.hub.publish(partition, event.into_test_event());
        assert!(published.is_some(), "there is no partition {partition}");
        published.unwrap_or(SequenceNumber(0))
    }

    /// A consumer of the hub over its stores. Dead letters go to [`TestHub::dead_letters`], and nothing is parked.
    /// Whatever is set on the builder after that wins.
    ///
    /// To test what production sets, set it in a function that takes and returns the builder, and call the
    /// function with this builder and with that of `Settings::consumer`.
    pub fn consumer(&self) -> BatchConsumerBuilder {
        let transport = self.hub.transport(self.consumer_group.clone());
        BatchConsumer::builder(transport, Arc::clone(&self.checkpoints))
            .dead_letters(Arc::clone(&self.letters))
    }

    /// A consumer with a failure store, as `Settings::consumer` makes it: events that fail are parked, and then
    /// become dead letters in [`TestHub::failure_store`]. Workers that share partitions share the store as well.
    ///
    /// ```
    /// use longshore::testing::TestHub;
    /// use longshore::{Event, EventContext, Failure};
    ///
    /// async fn refuse(_: Event, _: EventContext) -> Result<(), Failure> {
    ///     Err(Failure::permanent("it is empty"))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hub = TestHub::new("orders", 1);
    /// hub.publish(0, "");
    /// let mut consumer = hub.consumer_with_failures().event_handler(refuse)?.start();
    /// hub.until_settled(&consumer).await;
    /// consumer.drain();
    /// consumer.join().await.into_result()?;
    /// let records = hub.dead_letter_records().await?;
    /// assert_eq!(records[0].error.message, "it is empty");
    /// # Ok(())
    /// # }
    /// ```
    pub fn consumer_with_failures(&self) -> BatchConsumerBuilder {
        let transport = self.hub.transport(self.consumer_group.clone());
        BatchConsumer::builder(transport, Arc::clone(&self.checkpoints))
            .failure_store(Arc::clone(&self.failures))
    }

    /// A consumer of one event after the other.
    pub fn event_consumer(&self) -> EventConsumerBuilder {
        let transport = self.hub.transport(self.consumer_group.clone());
        EventConsumer::builder(transport, Arc::clone(&self.checkpoints))
            .dead_letters(Arc::clone(&self.letters))
    }

    /// Waits until everything that was published is settled and checkpointed, or the consumer has ended.
    pub async fn until_settled(&self, consumer: &ConsumerHandle) {
        while !self.is_settled().await && !consumer.has_ended() {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until each of these consumers, which have leases, runs its share of the partitions: together all of
    /// them, and no one more than one more than another.
    ///
    /// The first worker takes every partition, and gives some away when it sees the others. So a test of several
    /// workers publishes after this.
    pub async fn until_shared(&self, consumers: &[&ConsumerHandle]) {
        loop {
            let counts = consumers.iter().map(|consumer| {
                let partitions = consumer.snapshot().partitions;
                let runs = |one: &&PartitionSnapshot| one.phase == PartitionPhase::Running;
                partitions.iter().filter(runs).count()
            });
            let counts: Vec<usize> = counts.collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            let is_even = most.zip(least).is_none_or(|(most, least)| most - least <= 1);
            if is_even && counts.iter().sum::<usize>() == self.partitions {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn is_settled(&self) -> bool {
        for partition in 0..self.partitions {
            let last = self.hub.last_number(partition);
            if last.is_some() && self.checkpointed_to(partition.to_string()).await < last {
                return false;
            }
        }
        true
    }

    /// What was given up, oldest first.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.letters.letters()
    }

    /// The records of the dead letters in the failure store, those of a partition in their order.
    ///
    /// # Errors
    /// If the store was told to fail, or the test put something else there.
    pub async fn dead_letter_records(&self) -> Result<Vec<DeadLetterRecord>, Error> {
        let (mut records, mut page) = (Vec::new(), None);
        loop {
            let all = FailurePrefix::all(FailureKind::Dead);
            let found = self.failures.list(&all, page.as_ref(), MAX_PAGE_ENTRIES).await?;
            for listed in found.entries {
                let stored = self.failures.read(&listed?.key).await?;
                records.extend(stored.map(|stored| stored.record()).transpose()?);
            }
            page = found.next;
            if page.is_none() {
                return Ok(records);
            }
        }
    }

    /// The checkpoint of a partition.
    pub async fn checkpoint(&self, partition: impl Into<PartitionId>) -> Option<Checkpoint> {
        let scope = CheckpointScope {
            namespace: "memory".to_owned(),
            entity: self.entity.clone(),
            consumer_group: self.consumer_group.clone(),
        };
        let key = CheckpointKey { scope, partition: partition.into() };
        // A store in memory does not fail.
        let stored = self.checkpoints.load(&key).await.ok().flatten();
        stored.map(|stored| stored.checkpoint)
    }

    /// The sequence number up to which everything of a partition is settled, by its checkpoint.
    pub async fn checkpointed_to(&self, partition: impl Into<PartitionId>) -> Option<i64> {
        let watermark = self.checkpoint(partition).await?.watermark;
        watermark.map(|position| position.sequence_number.0)
    }
}

/// What can be published in a test: a body, or a whole event.
pub trait IntoTestEvent {
    /// The event.
    fn into_test_event(self) -> OutgoingEvent;
}

impl IntoTestEvent for OutgoingEvent {
    fn into_test_event(self) -> OutgoingEvent {
        self
    }
}

macro_rules! bodies {
    ($($body:ty),*) => {
        $(impl IntoTestEvent for $body {
            fn into_test_event(self) -> OutgoingEvent {
                OutgoingEvent::new(self)
            }
        })*
    };
}

bodies!(&'static str, String, Vec<u8>, bytes::Bytes);
