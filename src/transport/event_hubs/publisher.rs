//! Publishing through the Azure SDK: one client, let go of after any error.
//!
//! The client has a session and a link for each partition, and one for the hub. A link is locked
//! until a send is answered; sends on different links go at the same time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use azure_messaging_eventhubs::{
    EventDataBatchOptions, EventHubsError, ProducerClient, SendMessageOptions,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{
    CLOSE_TIMEOUT, DEFAULT_READ_TIMEOUT, Namespace, classify, convert, within, within_classified,
};
use crate::error::{ErrorClass, Result};
use crate::event::{EntityName, OutgoingEvent, PartitionId};
use crate::transport::{Publisher, SendReceipt, SendTarget};

/// Publishes to one hub through the Azure SDK.
pub struct EventHubsPublisher {
    namespace: Namespace,
    entity: EntityName,
    /// Opened at the first send; let go of after an error, so that the next send starts clean.
    client: Mutex<Option<Arc<ProducerClient>>>,
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
        Self { namespace, entity: entity.into(), client: Mutex::new(None) }
    }

    async fn client(&self) -> Result<Arc<ProducerClient>> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(self.namespace.open_producer(&self.entity).await?);
        *slot = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Lets go of a client that failed, unless another call already replaced it.
    async fn retire(&self, failed: &Arc<ProducerClient>) {
        let mut slot = self.client.lock().await;
        if slot.as_ref().is_some_and(|client| Arc::ptr_eq(client, failed)) {
            *slot = None;
        }
    }

    async fn with_client<T>(
        &self,
        operation: &'static str,
        call: impl AsyncFnOnce(&ProducerClient) -> Result<T, EventHubsError>,
    ) -> Result<T> {
        let client = self.client().await?;
        let call = call(&client);
        let limit = self.namespace.call_timeout;
        let result = within_classified(limit, operation, classify::send_error, call).await;
        if result.is_err() {
            // Whatever it was: after a refused event, too, the next send of the client hangs.
            self.retire(&client).await;
        }
        result
    }

    async fn send_run(
        &self,
        options: impl Fn() -> EventDataBatchOptions,
        events: Vec<OutgoingEvent>,
    ) -> Result<()> {
        let keyed = |event: OutgoingEvent| (event.key.is_some(), convert::outgoing(event));
        let mut events = events.into_iter().map(keyed).peekable();
        while let Some(&(first_is_keyed, _)) = events.peek() {
            let alone = self
                .with_client("publish a batch", async |client| {
                    let batch = client.create_batch(Some(options())).await?;
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
                let options = SendMessageOptions { partition_id: options().partition_id };
                self.with_client("publish an event", async |client| {
                    client.send_message(event, Some(options)).await
                })
                .await?;
            }
        }
        Ok(())
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
            self.with_client("publish an event", async |client| {
                client.send_message(convert::outgoing(event), Some(options)).await
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
                let options = || EventDataBatchOptions {
                    partition_id: Some(id.as_str().to_owned()),
                    ..EventDataBatchOptions::default()
                };
                return self.send_run(options, events).await;
            }
            // A batch has one key: events of one key travel together, in order.
            let mut by_key: BTreeMap<Option<String>, Vec<OutgoingEvent>> = BTreeMap::new();
            for event in events {
                by_key.entry(event.key.clone()).or_default().push(event);
            }
            for (key, events) in by_key {
                let options = || EventDataBatchOptions {
                    partition_key: key.clone(),
                    ..EventDataBatchOptions::default()
                };
                self.send_run(options, events).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>>> {
        const OPERATION: &str = "read the partitions";
        async move {
            let client = self.client().await?;
            let limit = self.namespace.call_timeout.min(DEFAULT_READ_TIMEOUT);
            let read = within(limit, OPERATION, client.get_eventhub_properties()).await;
            // A missing right is no fault of the connection, on which others send.
            if read.as_ref().is_err_and(|error| error.class() != ErrorClass::Auth) {
                self.retire(&client).await;
            }
            Ok(read?.partition_ids.into_iter().map(PartitionId::from).collect())
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            let client = self.client.lock().await.take();
            if let Some(client) = client.and_then(Arc::into_inner) {
                let _said = timeout(CLOSE_TIMEOUT, client.close()).await;
            }
        }
        .boxed()
    }
}
