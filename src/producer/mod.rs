//! Publishing to topics: one [`Producer::send`] whatever the transport and the entity.
//!
//! A topic is an entity of the transport, an event hub of the namespace. Each has an
//! [`EntityProducer`] behind it, made at the first send to it.

pub mod entity;
pub mod results;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::join_all;

pub use entity::{
    DEFAULT_SEND_ATTEMPTS, DEFAULT_SEND_BACKOFF, EntityProducer, MAX_TOGETHER, MAX_TOGETHER_BYTES,
    PARTITIONS_LOOK_INTERVAL,
};

use crate::error::{Error, ErrorClass, Result};
use crate::event::{EntityName, OutgoingEvent, Properties};
use crate::state::backoff::Backoff;
pub use crate::state::key_placement::KeyPlacement;
use crate::transport::{Publisher, SendReceipt, SendTarget};

type Publishers = dyn Fn(&EntityName) -> Arc<dyn Publisher> + Send + Sync;

/// Publishes to the topics of one namespace. `Ok` means that the service accepted the event.
///
/// ```
/// use std::sync::Arc;
///
/// use longshore::event::{EntityName, Properties};
/// use longshore::producer::Producer;
/// use longshore::transport::Publisher;
/// use longshore::transport::memory::MemoryHub;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), longshore::Error> {
/// let orders = MemoryHub::new("orders", 4);
/// let producer = Producer::new(move |_: &EntityName| {
///     Arc::new(orders.publisher()) as Arc<dyn Publisher>
/// });
/// let headers = Properties::from([("kind".to_owned(), "new".into())]);
/// let receipt = producer.send("orders", Some("customer 7"), "{}", headers).await?;
/// println!("{receipt:?}");
/// producer.close().await;
/// # Ok(())
/// # }
/// ```
///
/// Over Event Hubs: `Producer::new(namespace.publishers())`, with
/// [`Namespace::publishers`](crate::transport::event_hubs::Namespace::publishers).
pub struct Producer {
    publishers: Box<Publishers>,
    attempts: u32,
    backoff: Backoff,
    placement: KeyPlacement,
    topics: Mutex<Topics>,
}

#[derive(Debug, Default)]
struct Topics {
    producers: BTreeMap<EntityName, Arc<EntityProducer>>,
    closed: bool,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl Producer {
    /// A producer. `publishers` makes the publisher of each topic. Each send is tried 8 times
    /// ([`DEFAULT_SEND_ATTEMPTS`]), with delays from 200 ms to 10 s ([`DEFAULT_SEND_BACKOFF`]).
    pub fn new(
        publishers: impl Fn(&EntityName) -> Arc<dyn Publisher> + Send + Sync + 'static,
    ) -> Self {
        Self {
            publishers: Box::new(publishers),
            attempts: DEFAULT_SEND_ATTEMPTS,
            backoff: DEFAULT_SEND_BACKOFF,
            placement: KeyPlacement::default(),
            topics: Mutex::default(),
        }
    }

    /// Sets how many times a send is tried, at least once. Default: 8 ([`DEFAULT_SEND_ATTEMPTS`]). Each attempt has
    /// the time limit of the transport.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the delays between attempts. Default: 200 ms, doubled up to 10 s ([`DEFAULT_SEND_BACKOFF`]).
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets the rule that gives keys to partitions; see [`EntityProducer::with_key_placement`]. Default:
    /// [`KeyPlacement::Service`].
    #[must_use]
    pub fn with_key_placement(mut self, placement: KeyPlacement) -> Self {
        self.placement = placement;
        self
    }

    /// Publishes a value. Events of one key keep their order and share a partition. The receipt says where the
    /// event is, as far as that is known.
    ///
    /// # Errors
    /// The last error, if another attempt is useless or no attempt helped; `TooLarge` if the topic does not take
    /// an event of that size; `Permanent` after [`Producer::close`], and if the topic does not exist. In a handler, use
    /// [`Outcome::of_publish`](crate::Outcome::of_publish): with `?`, a topic that does not exist makes a dead letter of
    /// every event.
    ///
    /// # Cancel safety
    /// A dropped call may have published the event, or may still publish it; [`Producer::flush`] waits for it.
    pub async fn send(
        &self,
        topic: impl Into<EntityName>,
        key: Option<&str>,
        value: impl Into<Bytes>,
        headers: Properties,
    ) -> Result<SendReceipt> {
        let mut event = OutgoingEvent::new(value);
        event.key = key.map(str::to_owned);
        event.properties = headers;
        self.send_to(topic, SendTarget::Any, event).await
    }

    /// Publishes a whole event to a target: a partition of your choice, or any, as [`Producer::send`] does. An event
    /// for a partition keeps its key, but the key does not choose the partition. Order within a key holds among
    /// sends with the same target.
    ///
    /// # Errors
    /// As [`Producer::send`]; `Permanent` if there is no such partition.
    ///
    /// # Cancel safety
    /// As [`Producer::send`].
    pub async fn send_to(
        &self,
        topic: impl Into<EntityName>,
        target: SendTarget,
        event: OutgoingEvent,
    ) -> Result<SendReceipt> {
        self.topic(topic.into())?.send(target, event).await
    }

    /// Publishes events to one topic in as few transfers as the link's size limit allows; those
    /// of one key in order.
    ///
    /// # Errors
    /// As [`Producer::send`], of the first event that failed; others may have been published.
    ///
    /// # Cancel safety
    /// A dropped call may have published them, or may still; [`Producer::flush`] waits for it.
    pub async fn send_batch(
        &self,
        topic: impl Into<EntityName>,
        events: Vec<OutgoingEvent>,
    ) -> Result<()> {
        self.send_batch_to(topic, SendTarget::Any, events).await
    }

    /// The same to a partition of the caller's choice: all in order.
    ///
    /// # Errors
    /// As [`Producer::send_batch`]; `Permanent` if there is no such partition.
    ///
    /// # Cancel safety
    /// As [`Producer::send_batch`].
    pub async fn send_batch_to(
        &self,
        topic: impl Into<EntityName>,
        target: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> Result<()> {
        self.topic(topic.into())?.send_batch(target, events).await
    }

    /// Waits until every send under way, to any topic, was answered.
    ///
    /// # Cancel safety
    /// A dropped call changes nothing.
    pub async fn flush(&self) {
        let producers = self.producers();
        join_all(producers.iter().map(|producer| producer.flush())).await;
    }

    /// Refuses further sends, waits for those under way, and lets go of the connections.
    ///
    /// # Cancel safety
    /// A dropped call leaves the producer closed for sends; call it again.
    pub async fn close(&self) {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        let producers = self.producers();
        join_all(producers.iter().map(|producer| producer.close())).await;
    }

    fn producers(&self) -> Vec<Arc<EntityProducer>> {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.producers.values().cloned().collect()
    }

    fn topic(&self, topic: EntityName) -> Result<Arc<EntityProducer>> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if topics.closed {
            let message = "the producer is closed";
            return Err(Error::new(ErrorClass::Permanent, "publish an event", message));
        }
        let producer = topics.producers.entry(topic).or_insert_with_key(|topic| {
            let producer = EntityProducer::new((self.publishers)(topic));
            let producer = producer.with_attempts(self.attempts).with_backoff(self.backoff);
            Arc::new(producer.with_key_placement(self.placement))
        });
        Ok(Arc::clone(producer))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::transport::memory::MemoryHub;

    fn of(hubs: &[MemoryHub]) -> Producer {
        let hubs: BTreeMap<EntityName, MemoryHub> =
            hubs.iter().map(|hub| (hub.publisher().entity().clone(), hub.clone())).collect();
        Producer::new(move |topic: &EntityName| {
            Arc::new(hubs.get(topic).expect("known").publisher()) as Arc<dyn Publisher>
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_arrives_in_its_topic_with_key_and_headers() {
        let (orders, parcels) = (MemoryHub::new("orders", 1), MemoryHub::new("parcels", 1));
        let producer = of(&[orders.clone(), parcels.clone()]);
        let headers = Properties::from([("kind".to_owned(), "new".into())]);
        let before = SystemTime::now();
        let receipt =
            producer.send("orders", Some("7"), "first", headers.clone()).await.expect("sent");
        assert_eq!(receipt.sequence_number.map(|number| number.0), Some(0));
        let batch = vec![OutgoingEvent::new("a"), OutgoingEvent::new("b")];
        producer.send_batch("parcels", batch).await.expect("sent");

        let events = orders.events(0);
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].key(), events[0].properties()), (Some("7"), &headers));
        assert_eq!(&events[0].body()[..], b"first");
        assert!(events[0].enqueued_time() >= before);
        let bodies: Vec<_> = parcels.events(0).iter().map(|event| event.body().clone()).collect();
        assert_eq!(bodies, ["a", "b"]);
        assert!(parcels.events(1).is_empty(), "there is no partition 1");
    }

    #[tokio::test(start_paused = true)]
    async fn each_event_is_counted_once_however_often_it_is_tried() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let hub = MemoryHub::new("results", 1);
        // Handles are taken here, and used wherever the sends run.
        let producer = metrics::with_local_recorder(&recorder, || {
            EntityProducer::new(Arc::new(hub.publisher()))
        });
        let send = |body: &'static str| producer.send(SendTarget::Any, OutgoingEvent::new(body));
        hub.fail_sends(2, ErrorClass::Transient);
        send("at the third attempt").await.expect("sent");
        hub.fail_sends(1, ErrorClass::Permanent);
        send("never").await.expect_err("refused");
        let text = recorder.handle().render();
        for line in [
            "longshore_events_published_total{entity=\"results\",result=\"ok\"} 1",
            "longshore_events_published_total{entity=\"results\",result=\"failed\"} 1",
            "longshore_publish_retries_total{entity=\"results\"} 2",
            "longshore_publish_seconds_count{entity=\"results\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in:\n{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closed_is_closed_for_topics_old_and_new() {
        let (orders, parcels) = (MemoryHub::new("orders", 1), MemoryHub::new("parcels", 1));
        let producer = of(&[orders.clone(), parcels]);
        orders.fail_sends(3, ErrorClass::Transient);
        let (sent, ()) =
            tokio::join!(producer.send("orders", None, "x", Properties::new()), producer.close());
        sent.expect("the send that was under way");
        for topic in ["orders", "parcels"] {
            let error = producer.send(topic, None, "x", Properties::new()).await;
            assert_eq!(error.expect_err(topic).class(), ErrorClass::Permanent);
        }
    }
}
