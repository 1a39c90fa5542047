//! Owner levels end to end: two consumers over the Azure SDK and the embedded broker, each with a
//! checkpoint store of its own, so that nothing but the broker decides between them.

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::sync::Arc;
use std::time::Duration;

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::OwnerLevel;
use longshore::consumer::{ConsumerExit, PartitionPhase, StopReason};
use longshore::state::backoff::Backoff;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{Publisher, SendTarget};
use longshore::{
    BatchConsumer, ConsumerHandle, ConsumerOptions, ErrorClass, Event, EventContext, OutgoingEvent,
};
use longshore_emulator::Emulator;

use support::{Seen, drained, until, within};

struct Hub {
    emulator: Emulator,
    namespace: Namespace,
    publisher: EventHubsPublisher,
}

impl Hub {
    async fn start() -> Self {
        let emulator = broker::patient().hub("files", 1).start().await.expect("started");
        let namespace = broker::namespace(&emulator);
        let publisher = EventHubsPublisher::new(namespace.clone(), "files");
        Self { emulator, namespace, publisher }
    }

    async fn publish(&self) {
        let event = OutgoingEvent::new("x");
        self.publisher.send(SendTarget::Any, event).await.expect("published");
    }

    fn consumer(&self, owner_level: OwnerLevel) -> Consumer {
        let transport = EventHubsTransport::new(self.namespace.clone(), "files", "$Default");
        let mut options = ConsumerOptions::default();
        options.owner_level = owner_level;
        options.reopen_backoff =
            Backoff::doubling(Duration::from_millis(10), Duration::from_millis(100));
        let seen = Seen::default();
        let record = seen.clone();
        let handle =
            BatchConsumer::builder(Arc::new(transport), Arc::new(MemoryCheckpointStore::new()))
                .options(options)
                .event_handler(move |event: Event, _: EventContext| {
                    record.record(&event);
                    async {}
                })
                .expect("valid")
                .start();
        Consumer { handle, seen }
    }

    async fn stop(self) {
        self.publisher.close().await;
        self.emulator.shutdown().await.expect("stopped");
    }
}

struct Consumer {
    handle: ConsumerHandle,
    seen: Seen,
}

impl Consumer {
    async fn has(&self, events: usize) {
        let what = format!("{events} events of one consumer");
        until(&what, || self.seen.len() >= events).await;
        assert_eq!(self.seen.len(), events);
    }

    async fn exit(mut self) -> ConsumerExit {
        within("the end by itself", self.handle.join()).await
    }

    async fn loses(self) {
        let exit = self.exit().await;
        let StopReason::Lost(error) = &exit.partitions[0].reason else {
            panic!("{exit:?}");
        };
        assert_eq!(error.class(), ErrorClass::PartitionLost, "{error:?}");
    }

    async fn ends_well(self) {
        let partitions = self.handle.snapshot().partitions;
        assert_eq!(partitions[0].phase, PartitionPhase::Running);
        let exit = drained(self.handle).await;
        assert!(exit.is_clean(), "{exit:?}");
    }
}

#[tokio::test]
async fn a_lower_owner_level_is_refused_and_the_owner_goes_on() {
    let hub = Hub::start().await;
    hub.publish().await;
    let owner = hub.consumer(OwnerLevel::Fixed(5));
    owner.has(1).await;
    let lower = hub.consumer(OwnerLevel::Fixed(4));
    lower.loses().await;
    let none = hub.consumer(OwnerLevel::None);
    none.loses().await;
    hub.publish().await;
    owner.has(2).await;
    owner.ends_well().await;
    hub.stop().await;
}

#[tokio::test]
async fn a_higher_and_an_equal_owner_level_take_over() {
    let hub = Hub::start().await;
    hub.publish().await;
    let first = hub.consumer(OwnerLevel::Fixed(5));
    first.has(1).await;
    let higher = hub.consumer(OwnerLevel::Fixed(6));
    higher.has(1).await;
    first.loses().await;
    let equal = hub.consumer(OwnerLevel::Fixed(6));
    equal.has(1).await;
    higher.loses().await;
    hub.publish().await;
    equal.has(2).await;
    equal.ends_well().await;
    hub.stop().await;
}

#[tokio::test]
async fn an_owner_level_takes_the_partition_from_readers_without_one() {
    let hub = Hub::start().await;
    hub.publish().await;
    let none = hub.consumer(OwnerLevel::None);
    none.has(1).await;
    let owner = hub.consumer(OwnerLevel::Fixed(0));
    owner.has(1).await;
    none.loses().await;
    owner.ends_well().await;
    hub.stop().await;
}

#[tokio::test]
async fn without_owner_levels_readers_share_the_partition() {
    let hub = Hub::start().await;
    hub.publish().await;
    let one = hub.consumer(OwnerLevel::None);
    one.has(1).await;
    let other = hub.consumer(OwnerLevel::None);
    other.has(1).await;
    hub.publish().await;
    one.has(2).await;
    other.has(2).await;
    one.ends_well().await;
    other.ends_well().await;
    hub.stop().await;
}
