//! Publishing through the Azure SDK: clients that are let go of after any error.
//!
//! A client has a connection, and on it a session and a link for each partition and one for the hub.
//! A link is locked until a send is answered; sends on different links go at the same time. The SDK
//! opens at most 256 sessions on a connection, and its links one after the other, so partitions share
//! a client by [`PARTITIONS_PER_CLIENT`], in the order in which they are first sent to.
//!
//! The service detaches a link that nothing was sent on for ten minutes. The SDK's next send on it
//! fails, or waits for an answer until its time is over. So one that has been idle for
//! [`LINK_IDLE_LIMIT`] is not used again. When a connection or many of its links are lost, some of
//! the sends under way end with an error, and others are not answered: these are given up
//! [`ANSWER_GRACE`] after the first error.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use azure_messaging_eventhubs::{
    EventDataBatchOptions, EventHubsError, ProducerClient, SendMessageOptions,
};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    CLOSE_TIMEOUT, DEFAULT_READ_TIMEOUT, Namespace, classify, convert, within, within_classified,
};
use crate::error::{Error, ErrorClass, Result};
use crate::event::{EntityName, OutgoingEvent, PartitionId};
use crate::transport::{Publisher, SendReceipt, SendTarget};

/// How many partitions share a client; no hub of the standard tier has more.
const PARTITIONS_PER_CLIENT: usize = 32;

/// Publishes to one hub through the Azure SDK.
pub struct EventHubsPublisher {
    namespace: Namespace,
    entity: EntityName,
    slots: std::sync::Mutex<Slots>,
}

/// How long a link may have been idle for the next send.
const LINK_IDLE_LIMIT: Duration = Duration::from_secs(5 * 60);

/// How long others on the same client are still waited for, when a call failed as one does whose
/// connection or link is lost. Answers take a small part of that.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// A client, opened at the first send; let go of after an error, so that the next send starts clean.
type Slot = Mutex<Option<Opened>>;

struct Opened {
    client: Arc<Client>,
    /// When a call on each of its links was last begun.
    used: BTreeMap<Link, Instant>,
}

struct Client {
    sdk: ProducerClient,
    /// Cancelled when a call failed as one does whose connection or link is lost.
    lost: CancellationToken,
}

/// Waits for a call's answer, but not long after another call on the same client found that its
/// connection or link is lost.
async fn unless_lost<T>(
    lost: &CancellationToken,
    operation: &'static str,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let given_up = async {
        lost.cancelled().await;
        sleep(ANSWER_GRACE).await;
    };
    let result = tokio::select! {
        biased;
        result = call => result,
        () = given_up => {
            let message = "no answer came, and another send on the connection failed";
            Err(Error::new(ErrorClass::Transient, operation, message))
        }
    };
    if result.as_ref().is_err_and(|error| error.class() == ErrorClass::Transient) {
        lost.cancel();
    }
    result
}

/// A link of a client.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    /// The service chooses the partition.
    Hub,
    Management,
    Partition(PartitionId),
}

impl Link {
    fn to(partition: Option<&PartitionId>) -> Self {
        partition.cloned().map_or(Self::Hub, Self::Partition)
    }
}

/// Which client is whose. The first is that of the hub's own link, too.
#[derive(Default)]
struct Slots {
    first: Arc<Slot>,
    more: Vec<Arc<Slot>>,
    /// The partitions that were sent to, by when they were first.
    known: BTreeMap<PartitionId, usize>,
}

impl Slots {
    fn of(&mut self, partition: &PartitionId) -> &Arc<Slot> {
        let next = self.known.len();
        let number = match self.known.get(partition) {
            Some(number) => *number,
            None => *self.known.entry(partition.clone()).or_insert(next),
        };
        let Some(index) = (number / PARTITIONS_PER_CLIENT).checked_sub(1) else {
            return &self.first;
        };
        if index >= self.more.len() {
            self.more.push(Arc::default());
        }
        self.more.get(index).unwrap_or(&self.first)
    }
}

impl fmt::Debug for EventHubsPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventHubsPublisher")
            .field("namespace", &self.namespace)
            .field("entity", &self.entity)
            .finish_non_exhaustive()
    }
}

impl EventHubsPublisher {
    /// Publishes to `entity` of `namespace`. Connects at the first send.
    pub fn new(namespace: Namespace, entity: impl Into<EntityName>) -> Self {
        Self { namespace, entity: entity.into(), slots: std::sync::Mutex::default() }
    }

    /// Where the client with this link is.
    fn slot(&self, link: &Link) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(match link {
            Link::Partition(id) => slots.of(id),
            Link::Hub | Link::Management => &slots.first,
        })
    }

    /// The client for a call on this link.
    async fn client(&self, slot: &Slot, link: Link) -> Result<Arc<Client>> {
        let mut slot = slot.lock().await;
        let now = Instant::now();
        if let Some(opened) = slot.as_mut() {
            let used = opened.used.insert(link.clone(), now);
            if used.is_none_or(|used| now.duration_since(used) < LINK_IDLE_LIMIT) {
                return Ok(Arc::clone(&opened.client));
            }
            // Sends that are under way on other links go on.
            *slot = None;
        }
        let sdk = self.namespace.open_producer(&self.entity).await?;
        let client = Arc::new(Client { sdk, lost: CancellationToken::new() });
        *slot = Some(Opened { client: Arc::clone(&client), used: BTreeMap::from([(link, now)]) });
        Ok(client)
    }

    async fn with_client<T>(
        &self,
        partition: Option<&PartitionId>,
        operation: &'static str,
        call: impl AsyncFnOnce(&ProducerClient) -> Result<T, EventHubsError>,
    ) -> Result<T> {
        let link = Link::to(partition);
        let slot = self.slot(&link);
        let client = self.client(&slot, link).await?;
        let call = call(&client.sdk);
        let limit = self.namespace.call_timeout;
        let call = within_classified(limit, operation, classify::send_error, call);
        let result = unless_lost(&client.lost, operation, call).await;
        if result.is_err() {
            // Whatever it was: after a refused event, too, the next send of the client hangs.
            retire(&slot, &client).await;
        }
        result
    }

    /// Sends to one link, in as few transfers as it allows. Of a key, all events have it.
    async fn send_run(
        &self,
        partition: Option<&PartitionId>,
        partition_key: Option<&str>,
        events: Vec<OutgoingEvent>,
    ) -> Result<()> {
        let partition_id = || partition.map(|id| id.as_str().to_owned());
        let keyed = |event: OutgoingEvent| Ok((event.key.is_some(), convert::outgoing(event)?));
        let events = events.into_iter().map(keyed).collect::<Result<Vec<_>>>()?;
        let mut events = events.into_iter().peekable();
        while let Some(&(first_is_keyed, _)) = events.peek() {
            let alone = self
                .with_client(partition, "publish a batch", async |client| {
                    let options = EventDataBatchOptions {
                        partition_id: partition_id(),
                        partition_key: partition_key.map(str::to_owned),
                        ..EventDataBatchOptions::default()
                    };
                    let batch = client.create_batch(Some(options)).await?;
                    let mut added = 0_usize;
                    while let Some((is_keyed, event)) = events.peek() {
                        // The SDK gives a batch the annotations of its first event, and an event
                        // without a key would get its key.
                        let takes_key = first_is_keyed && !is_keyed;
                        if takes_key || !batch.try_add_amqp_message(event.clone(), None)? {
                            break;
                        }
                        events.next();
                        added += 1;
                    }
                    if added == 0 {
                        // The SDK counts the first event of a batch twice, so it may fit yet.
                        return Ok(events.next().map(|(_, event)| event));
                    }
                    client.send_batch(batch, None).await?;
                    Ok(None)
                })
                .await?;
            if let Some(event) = alone {
                let options = SendMessageOptions { partition_id: partition_id() };
                self.with_client(partition, "publish an event", async |client| {
                    client.send_message(event, Some(options)).await
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// Lets go of a client that failed, unless another call already replaced it.
async fn retire(slot: &Slot, failed: &Arc<Client>) {
    let mut slot = slot.lock().await;
    if slot.as_ref().is_some_and(|opened| Arc::ptr_eq(&opened.client, failed)) {
        *slot = None;
    }
}

impl Namespace {
    /// What makes a publisher for each of its hubs, for
    /// [`Producer::new`](crate::producer::Producer::new).
    pub fn publishers(&self) -> impl Fn(&EntityName) -> Arc<dyn Publisher> + Send + Sync + 'static {
        let namespace = self.clone();
        move |entity| Arc::new(EventHubsPublisher::new(namespace.clone(), entity.clone()))
    }
}

impl Publisher for EventHubsPublisher {
    fn entity(&self) -> &EntityName {
        &self.entity
    }

    fn send(&self, target: SendTarget, event: OutgoingEvent) -> BoxFuture<'_, Result<SendReceipt>> {
        async move {
            let partition = match target {
                SendTarget::Any => None,
                SendTarget::Partition(id) => Some(id),
            };
            let options = SendMessageOptions {
                partition_id: partition.as_ref().map(|id| id.as_str().to_owned()),
            };
            let event = convert::outgoing(event)?;
            self.with_client(partition.as_ref(), "publish an event", async |client| {
                client.send_message(event, Some(options)).await
            })
            .await?;
            Ok(SendReceipt::new(partition, None))
        }
        .boxed()
    }

    fn send_batch(
        &self,
        target: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> BoxFuture<'_, Result<()>> {
        async move {
            if let SendTarget::Partition(id) = target {
                return self.send_run(Some(&id), None, events).await;
            }
            // A batch has one key: events of one key travel together, in order.
            let mut by_key: BTreeMap<Option<String>, Vec<OutgoingEvent>> = BTreeMap::new();
            for event in events {
                by_key.entry(event.key.clone()).or_default().push(event);
            }
            for (key, events) in by_key {
                self.send_run(None, key.as_deref(), events).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>>> {
        const OPERATION: &str = "read the partitions";
        async move {
            let slot = self.slot(&Link::Management);
            let client = self.client(&slot, Link::Management).await?;
            let limit = self.namespace.call_timeout.min(DEFAULT_READ_TIMEOUT);
            let read = within(limit, OPERATION, client.sdk.get_eventhub_properties()).await;
            // A missing right is no fault of the connection, on which others send.
            if read.as_ref().is_err_and(|error| error.class() != ErrorClass::Auth) {
                retire(&slot, &client).await;
            }
            Ok(read?.partition_ids.into_iter().map(PartitionId::from).collect())
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            let slots = {
                let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
                [&slots.first].into_iter().chain(&slots.more).cloned().collect::<Vec<_>>()
            };
            let closing = slots.iter().map(async |slot| {
                let opened = slot.lock().await.take();
                if let Some(client) = opened.and_then(|opened| Arc::into_inner(opened.client)) {
                    let _said = timeout(CLOSE_TIMEOUT, client.sdk.close()).await;
                }
            });
            join_all(closing).await;
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures::future::pending;
    use tokio::join;

    use super::*;

    async fn fails_after(wait: Duration, class: ErrorClass) -> Result<()> {
        sleep(wait).await;
        Err(Error::new(class, "publish", "told to fail"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_answered_is_given_up_behind_a_call_that_lost_its_connection() {
        let lost = CancellationToken::new();
        let begun = Instant::now();
        let call = |wait| {
            unless_lost(&lost, "publish", async move {
                sleep(wait).await;
                Ok(())
            })
        };
        let second = Duration::from_secs(1);
        let failing = unless_lost(&lost, "publish", fails_after(second, ErrorClass::Transient));
        let (quick, slow, hung, failed) = join!(
            call(second / 2),
            call(second + ANSWER_GRACE / 2),
            unless_lost(&lost, "publish", pending::<Result<()>>()),
            failing,
        );
        assert!(quick.is_ok() && slow.is_ok() && failed.is_err());
        assert_eq!(hung.expect_err("given up").class(), ErrorClass::Transient);
        assert_eq!(begun.elapsed(), second + ANSWER_GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_says_nothing_about_the_connection() {
        let lost = CancellationToken::new();
        for class in [ErrorClass::TooLarge, ErrorClass::Permanent, ErrorClass::Throttling] {
            let refused = unless_lost(&lost, "publish", fails_after(ANSWER_GRACE, class)).await;
            assert_eq!(refused.expect_err("refused").class(), class);
        }
        assert!(!lost.is_cancelled());
    }
}
