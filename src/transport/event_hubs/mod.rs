//! The adapter over the Azure SDK for Event Hubs. Only this module and its children name the
//! SDK's types.
//!
//! The SDK's own recovery re-attaches a lost link at the position it was first opened with, so
//! it is switched off: every error surfaces, and [`super::partition_stream`] opens a new link in the
//! right place. A link has a client, and so a connection, of its own: the SDK caches receivers
//! by address, and a second one on the same client may pick up the first one's stale link. A link
//! that begins anew detaches first, which takes its receiver out of that cache, and then attaches
//! another one on its connection and its session, with the token that it has.
//! Runtime information goes through one client that all partitions share.

mod classify;
mod connect;
mod connection_string;
mod convert;
mod endpoint;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod namespace;
mod protocol;
mod publisher;
mod shared_answer;
mod values;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

pub use connect::DEFAULT_OPEN_TIMEOUT;
pub use namespace::{DEFAULT_CALL_TIMEOUT, DEFAULT_IDLE_TIMEOUT, Namespace};
pub use protocol::Protocol;
pub use publisher::EventHubsPublisher;

use azure_messaging_eventhubs::{
    ConsumerClient, EventHubsError, EventReceiver, OpenReceiverOptions, StartLocation,
    StartPosition,
};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use shared_answer::SharedAnswer;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{HubProperties, Link, LinkStart, LogProperties, OpenLink, Panicked, Transport};
use crate::error::{Error, ErrorClass, Result};
use crate::event::{
    ConsumerGroup, EntityName, Event, Incarnation, Offset, Partition, PartitionId, SequenceNumber,
};
use crate::state::call_pace::CallPace;
use crate::timestamp::{from_unix_millis, unix_millis};

/// How long a read of properties may take: 10 s. It is short, because an answer can get lost and links wait for
/// it.
pub const DEFAULT_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The most reads of properties that one transport makes in a second: 45. The [service] allows a namespace 50. If
/// there are so many partitions that they need more, they wait. Nothing is refused.
///
/// [service]: https://learn.microsoft.com/azure/event-hubs/event-hubs-quotas
pub const MANAGEMENT_CALLS_A_SECOND: usize = 45;

/// How long closing may take: 5 s. The close of the SDK can hang.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

const OPEN_LINK: &str = "open the link";

async fn within<T>(
    limit: Duration,
    operation: &'static str,
    call: impl Future<Output = Result<T, EventHubsError>>,
) -> Result<T> {
    within_classified(limit, operation, classify::error, call).await
}

async fn within_classified<T>(
    limit: Duration,
    operation: &'static str,
    classify: fn(&'static str, EventHubsError) -> Error,
    call: impl Future<Output = Result<T, EventHubsError>>,
) -> Result<T> {
    match timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(classify(operation, error)),
        Err(_elapsed) => Err(Error::new(
            ErrorClass::Transient,
            operation,
            format!("no answer within {} s", limit.as_secs()),
        )),
    }
}

/// Reads one hub through the Azure SDK.
#[derive(Debug)]
pub struct EventHubsTransport(Arc<Hub>);

/// One hub, as one consumer group.
#[derive(Debug)]
struct Hub {
    namespace: Namespace,
    entity: EntityName,
    consumer_group: ConsumerGroup,
    /// The client for runtime information; replaced after an error.
    management: Mutex<Option<Management>>,
    /// Held together with the client.
    pace: std::sync::Mutex<CallPace>,
    properties: SharedAnswer<HubProperties>,
}

struct Management(ConsumerClient);

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Management")
    }
}

impl EventHubsTransport {
    /// Reads `entity` of `namespace` as `consumer_group`. Connects at the first use.
    pub fn new(
        namespace: Namespace,
        entity: impl Into<EntityName>,
        consumer_group: impl Into<ConsumerGroup>,
    ) -> Self {
        Self(Arc::new(Hub {
            namespace,
            entity: entity.into(),
            consumer_group: consumer_group.into(),
            management: Mutex::new(None),
            pace: std::sync::Mutex::new(CallPace::new(MANAGEMENT_CALLS_A_SECOND)),
            properties: SharedAnswer::default(),
        }))
    }

    /// Another transport of the same hub and consumer group, with connections and a
    /// [pace](MANAGEMENT_CALLS_A_SECOND) of its own: for who reads many properties over slow networks,
    /// and keeps to the pace of the service for all of its transports.
    pub fn another(&self) -> Self {
        let Hub { namespace, entity, consumer_group, .. } = &*self.0;
        Self::new(namespace.clone(), entity.clone(), consumer_group.clone())
    }
}

/// Makes a call in a task of its own, which ends when nobody waits for it any more. Callers share
/// clients and answers: one that is not polled for a while, because its partition rests, must not hold
/// up the others.
async fn in_a_task<T: Send + 'static>(
    operation: &'static str,
    call: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    AbortOnDropHandle::new(tokio::spawn(call)).await.unwrap_or_else(|error| {
        let message = "the client panicked, or the runtime shuts down";
        Err(Error::new(ErrorClass::Transient, operation, message).with_source(error))
    })
}

impl Hub {
    async fn read_hub(&self) -> Result<HubProperties> {
        let properties = self
            .manage("read the hub's properties", async |client| {
                client.get_eventhub_properties().await
            })
            .await?;
        let created_on = properties.created_on.ok_or_else(|| {
            Error::new(
                ErrorClass::BadData,
                "read the hub's properties",
                "the service did not say when the hub was created",
            )
        })?;
        Ok(HubProperties::new(
            Incarnation::from_created_at(created_on),
            properties.partition_ids.into_iter().map(PartitionId::from).collect(),
        ))
    }

    async fn read_log(&self, partition: &PartitionId) -> Result<LogProperties> {
        let properties = self
            .manage("read the partition's properties", async |client| {
                client.get_partition_properties(partition.as_str()).await
            })
            .await?;
        let last = properties.last_enqueued_sequence_number;
        let log = LogProperties::new(
            SequenceNumber(properties.beginning_sequence_number),
            (last >= 0).then_some(SequenceNumber(last)),
            properties.last_enqueued_time_utc,
        );
        let offset = Some(properties.last_enqueued_offset).filter(|_| last >= 0);
        Ok(log.with_last_enqueued_offset(offset.map(Offset::from)))
    }

    /// Makes a call on the management client, opening it first where there is none and letting
    /// go of it where the call fails.
    async fn manage<T>(
        &self,
        operation: &'static str,
        call: impl AsyncFnOnce(&ConsumerClient) -> Result<T, EventHubsError>,
    ) -> Result<T> {
        let mut slot = self.management.lock().await;
        let place = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.take_place(Instant::now().into_std())
        };
        // Before the client is taken: a call that is dropped here leaves it to the next one.
        sleep_until(Instant::from_std(place)).await;
        let client = match slot.take() {
            Some(Management(client)) => client,
            None => self.namespace.open_consumer(&self.entity, &self.consumer_group).await?,
        };
        let limit = self.namespace.call_timeout.min(DEFAULT_READ_TIMEOUT);
        let result = within(limit, operation, call(&client)).await;
        match result {
            Ok(_) => *slot = Some(Management(client)),
            Err(_) => close_consumer(client).await,
        }
        result
    }
}

impl Hub {
    async fn open(&self, options: OpenLink) -> Result<Box<dyn Link>> {
        let client = self.namespace.open_consumer(&self.entity, &self.consumer_group).await?;
        let partition = Arc::new(Partition::new(self.entity.clone(), options.partition.clone()));
        EventHubsLink::on_client(client, partition, options, self.namespace.clone()).await
    }
}

async fn close_consumer(client: ConsumerClient) {
    // Whether the goodbye arrives does not matter: the connection is dropped either way.
    let _said = timeout(CLOSE_TIMEOUT, client.close()).await;
}

impl Transport for EventHubsTransport {
    fn namespace(&self) -> &str {
        self.0.namespace.name()
    }

    fn entity(&self) -> &EntityName {
        &self.0.entity
    }

    fn consumer_group(&self) -> &ConsumerGroup {
        &self.0.consumer_group
    }

    fn place(&self) -> String {
        format!("{} with {}", self.0.namespace.address(), self.0.namespace.identity())
    }

    fn connect(&self) -> BoxFuture<'_, Result<()>> {
        let hub = Arc::clone(&self.0);
        let connecting =
            async move { hub.manage("connect to the service", async |_connected| Ok(())).await };
        in_a_task("connect to the service", connecting).boxed()
    }

    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties>> {
        let hub = Arc::clone(&self.0);
        let reading = async move { hub.properties.ask(hub.read_hub()).await };
        in_a_task("read the hub's properties", reading).boxed()
    }

    fn log_properties<'a>(
        &'a self,
        partition: &'a PartitionId,
    ) -> BoxFuture<'a, Result<LogProperties>> {
        let (hub, partition) = (Arc::clone(&self.0), partition.clone());
        let reading = async move { hub.read_log(&partition).await };
        in_a_task("read the partition's properties", reading).boxed()
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>>> {
        let hub = Arc::clone(&self.0);
        in_a_task(OPEN_LINK, async move { hub.open(options).await }).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            if let Some(Management(client)) = self.0.management.lock().await.take() {
                close_consumer(client).await;
            }
        }
        .boxed()
    }
}

/// Always exclusive, for `>` is understood for every kind of position, but for a time, which the
/// service knows to the millisecond. The SDK cuts the rest off, and panics at a time before 1970.
fn start_position(start: LinkStart) -> StartPosition {
    let (location, inclusive) = match start {
        LinkStart::EnqueuedAt(time) if time > SystemTime::UNIX_EPOCH => {
            let almost = Duration::from_nanos(999_999);
            let millis = time.checked_add(almost).map(unix_millis).map(from_unix_millis);
            (StartLocation::EnqueuedTime(millis.unwrap_or(time)), true)
        }
        LinkStart::FirstEvent | LinkStart::EnqueuedAt(_) => (StartLocation::Earliest, false),
        LinkStart::After(number) => (StartLocation::SequenceNumber(number.0), false),
    };
    StartPosition { location, inclusive }
}

type EventStream = Pin<Box<dyn Stream<Item = Result<Event>> + Send>>;

/// The events of a receiver, of ours: the SDK's are large, and each hand-over copies them.
fn events_of(receiver: Arc<EventReceiver>, partition: Arc<Partition>) -> EventStream {
    Box::pin(async_stream::stream! {
        loop {
            // A stream of the SDK ends with its first error. After an event that could not be decoded
            // another one of the same receiver goes on behind it.
            let mut events = receiver.stream_events();
            let mut goes_on = false;
            while let Some(received) = events.next().await {
                yield match received {
                    Ok(received) => convert::received(&partition, &received),
                    Err(error) => {
                        let error = classify::error("receive from the link", error);
                        goes_on = error.class() == ErrorClass::Unreadable;
                        Err(error.with_partition(&partition))
                    }
                };
            }
            if !goes_on {
                break;
            }
        }
    })
}

/// A receiver with the client it alone uses.
struct EventHubsLink {
    client: ConsumerClient,
    receiver: Arc<EventReceiver>,
    partition: Arc<Partition>,
    events: EventStream,
    /// The connection may go through its tunnel.
    _namespace: Namespace,
}

impl EventHubsLink {
    /// The link attaches at its first receive.
    async fn on_client(
        client: ConsumerClient,
        partition: Arc<Partition>,
        options: OpenLink,
        namespace: Namespace,
    ) -> Result<Box<dyn Link>> {
        let receiver_options = OpenReceiverOptions {
            owner_level: options.owner_level,
            prefetch: Some(options.prefetch_events),
            start_position: Some(start_position(options.start)),
            receive_timeout: None,
        };
        let id = options.partition.as_str().to_owned();
        match client.open_receiver_on_partition(id, Some(receiver_options)).await {
            Ok(receiver) => {
                let receiver = Arc::new(receiver);
                let events = events_of(Arc::clone(&receiver), Arc::clone(&partition));
                Ok(Box::new(Self { client, receiver, partition, events, _namespace: namespace }))
            }
            Err(error) => {
                close_consumer(client).await;
                Err(classify::error(OPEN_LINK, error).with_partition(&partition))
            }
        }
    }

    /// Detaches the receiver and waits for the answer: until then its frames need somebody to take
    /// them, and the SDK attaches it once more where the service closes it meanwhile. That must not
    /// take the partition from the next one.
    async fn restarted(self, options: OpenLink) -> Result<Box<dyn Link>> {
        let Self { client, receiver, partition, events, _namespace: namespace } = self;
        // It holds the receiver, and has taken the client's own one while it waits.
        drop(events);
        if let Some(receiver) = Arc::into_inner(receiver)
            && timeout(CLOSE_TIMEOUT, receiver.close()).await.is_err()
        {
            close_consumer(client).await;
            let message = "the link that was open before is not let go of";
            let error = Error::new(ErrorClass::Transient, OPEN_LINK, message);
            return Err(error.with_partition(&partition));
        }
        Self::on_client(client, partition, options, namespace).await
    }
}

impl Link for EventHubsLink {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Poll<Result<usize>> {
        let mut count = 0;
        while count < max_events {
            let events = self.events.as_mut();
            // Whatever the SDK panics over is one event, and no reason to lose the partition.
            let polled = catch_unwind(AssertUnwindSafe(|| events.poll_next(cx)));
            let Ok(polled) = polled else {
                self.events = events_of(Arc::clone(&self.receiver), Arc::clone(&self.partition));
                let message = "the client panicked over an event";
                let error = Error::new(ErrorClass::Unreadable, "receive from the link", message);
                let error = error.with_source(Panicked).with_partition(&self.partition);
                return Poll::Ready(Err(error));
            };
            match polled {
                Poll::Ready(Some(Ok(event))) => {
                    into.push(event);
                    count += 1;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => {
                    return Poll::Ready(Err(Error::new(
                        ErrorClass::Transient,
                        "receive from the link",
                        "the link ended",
                    )
                    .with_partition(&self.partition)));
                }
                Poll::Pending => break,
            }
        }
        if count > 0 { Poll::Ready(Ok(count)) } else { Poll::Pending }
    }

    fn restart(self: Box<Self>, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>>> {
        in_a_task(OPEN_LINK, self.restarted(options)).boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        let Self { client, receiver, events, .. } = *self;
        async move {
            drop((events, receiver));
            close_consumer(client).await;
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rounded_up_to_what_the_service_knows_and_one_before_1970_is_the_beginning() {
        let at = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        for (time, asked) in [
            (at(1_000_000), Some(at(1_000_000))),
            (at(1_000_001), Some(at(2_000_000))),
            (at(1_999_999), Some(at(2_000_000))),
            (at(0), None),
            (SystemTime::UNIX_EPOCH - Duration::from_secs(1), None),
        ] {
            let StartPosition { location, inclusive } = start_position(LinkStart::EnqueuedAt(time));
            match (location, asked) {
                (StartLocation::EnqueuedTime(location), Some(asked)) => {
                    assert_eq!((location, inclusive), (asked, true), "{time:?}");
                }
                (StartLocation::Earliest, None) => assert!(!inclusive),
                (location, _) => panic!("{time:?}: {location:?}"),
            }
        }
    }
}
