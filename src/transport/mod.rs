//! The port to a hub: read its properties, open a link on a partition, publish events.
//!
//! A [`Link`] is as fragile as the network below it. It ends with an error, and the class of the error decides what
//! its holder does next. The consumer opens a new link after the last event that it received, so a [`Transport`]
//! need not do that. [`event_hubs`] implements this port over the Azure SDK, [`memory`] in this process, with faults
//! on demand.

#[cfg(feature = "event-hubs")]
pub mod event_hubs;
pub mod memory;
pub mod offsets;
#[doc(hidden)]
pub mod partition_stream;
#[cfg(feature = "event-hubs")]
pub(crate) mod tunnel;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::error::{Error, ErrorClass, Result};
use crate::event::{
    ConsumerGroup, EntityName, Event, OutgoingEvent, PartitionId, Position, SequenceNumber,
};
pub use crate::hub::{HubProperties, LinkStart, LogProperties};

/// How to open a link.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OpenLink {
    /// The partition to read.
    pub partition: PartitionId,
    /// Where to begin.
    pub start: LinkStart,
    /// The owner level (AMQP epoch). A link of an equal or higher level takes the partition from this one. `None`
    /// shares the partition.
    pub owner_level: Option<i64>,
    /// How many events the service may send ahead.
    pub prefetch_events: u32,
}

impl OpenLink {
    /// A link without owner level on `partition`.
    pub fn new(partition: PartitionId, start: LinkStart, prefetch_events: u32) -> Self {
        Self { partition, start, owner_level: None, prefetch_events }
    }

    /// Sets the owner level.
    pub fn with_owner_level(mut self, owner_level: Option<i64>) -> Self {
        self.owner_level = owner_level;
        self
    }
}

/// Reads one entity as one consumer group.
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// The fully qualified namespace the entity is in, or the name of a local broker: what
    /// checkpoints are filed under.
    fn namespace(&self) -> &str;

    /// The entity it reads.
    fn entity(&self) -> &EntityName;

    /// The consumer group it reads as.
    fn consumer_group(&self) -> &ConsumerGroup;

    /// Where it connects, and with which identity, for a person who looks for a mistake: an address, and the name
    /// of the key. It holds no secret. Default: the namespace.
    fn place(&self) -> String {
        self.namespace().to_owned()
    }

    /// Connects. The other calls do so when they need to. This call is for code that wants to know whether it
    /// works, and how fast. If no connection is needed, nothing happens.
    ///
    /// # Errors
    /// Any class.
    fn connect(&self) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }

    /// Reads the hub's properties.
    ///
    /// # Errors
    /// Any class; `Permanent` if the hub does not exist.
    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties>>;

    /// Reads where a partition's log begins and ends.
    ///
    /// # Errors
    /// Any class; `Permanent` if the partition does not exist.
    fn log_properties<'a>(
        &'a self,
        partition: &'a PartitionId,
    ) -> BoxFuture<'a, Result<LogProperties>>;

    /// Opens a link. The future owns what it needs and may be dropped at any time.
    ///
    /// # Errors
    /// Any class; `PartitionLost` where a higher owner level has the partition.
    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>>>;

    /// Reads where the first event at or after a place is. Call it only if there is such an event, because it
    /// waits for one. By default it opens a link of its own and closes it at once. That link has no owner level,
    /// so it takes the partition from nobody.
    ///
    /// # Errors
    /// Any class; `PartitionLost` where somebody with an owner level has the partition.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    fn first_event<'a>(
        &'a self,
        partition: &'a PartitionId,
        from: LinkStart,
    ) -> BoxFuture<'a, Result<Position>> {
        async move {
            let mut link = self.open(OpenLink::new(partition.clone(), from, 1)).await?;
            let mut events: Vec<Event> = Vec::new();
            let received = poll_fn(|cx| link.poll_receive(cx, 1, &mut events)).await;
            link.close().await;
            if let Some(event) = events.first() {
                return Ok(event.position());
            }
            received?;
            Err(Error::new(ErrorClass::Unknown, "look at an event", "the link gave none"))
        }
        .boxed()
    }

    /// Lets go of connections. Links that are open end with an error.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What is shared is a transport as well.
#[deny(clippy::missing_trait_methods)]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn namespace(&self) -> &str {
        T::namespace(self)
    }

    fn entity(&self) -> &EntityName {
        T::entity(self)
    }

    fn consumer_group(&self) -> &ConsumerGroup {
        T::consumer_group(self)
    }

    fn place(&self) -> String {
        T::place(self)
    }

    fn connect(&self) -> BoxFuture<'_, Result<()>> {
        T::connect(self)
    }

    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties>> {
        T::hub_properties(self)
    }

    fn log_properties<'a>(
        &'a self,
        partition: &'a PartitionId,
    ) -> BoxFuture<'a, Result<LogProperties>> {
        T::log_properties(self, partition)
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>>> {
        T::open(self, options)
    }

    fn first_event<'a>(
        &'a self,
        partition: &'a PartitionId,
        from: LinkStart,
    ) -> BoxFuture<'a, Result<Position>> {
        T::first_event(self, partition, from)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        T::close(self)
    }
}

/// The client panicked while it read an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the client panicked while it read an event")]
pub struct Panicked;

/// An open link on one partition. After an error it is spent, but for one event that cannot be read:
/// drop it or close it.
pub trait Link: Send {
    /// Appends the events that have arrived, at most `max_events`, and returns their number. It waits if there are
    /// none. It never returns `Ready(Ok(0))` for a `max_events` above zero.
    ///
    /// # Errors
    /// Any class. Events that were appended before the error count. After an error of the class
    /// [`ErrorClass::Unreadable`] the link goes on: it brought one event that cannot be decoded, after the
    /// appended events and before the next ones. If the source of that error is [`Panicked`], it is not known
    /// whether it brought one.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Poll<Result<usize>>;

    /// Begins anew at the place and with the prefetch of `options`, over the same connection. Events that this
    /// link holds are dropped, and come again if they are behind the new start. The future owns what it needs; if
    /// it is dropped, the link is gone.
    ///
    /// # Errors
    /// Any class; the link is gone. An adapter that attaches at the first receive reports later errors there.
    fn restart(self: Box<Self>, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>>>;

    /// Detaches, within a time the adapter bounds.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Which partition gets an event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum SendTarget {
    /// The service chooses; or the event's key does, if it has one.
    #[default]
    Any,
    /// This partition.
    Partition(PartitionId),
}

/// What is known of events that the service accepted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SendReceipt {
    /// The partition, if the sender chose it or the transport tells.
    pub partition: Option<PartitionId>,
    /// The sequence number of the last event, if the transport tells; Event Hubs does not.
    pub sequence_number: Option<SequenceNumber>,
}

impl SendReceipt {
    /// What an adapter knows of an accepted send.
    pub fn new(partition: Option<PartitionId>, sequence_number: Option<SequenceNumber>) -> Self {
        Self { partition, sequence_number }
    }
}

/// Publishes to one entity. `Ok` means that the service accepted every event.
pub trait Publisher: Send + Sync + fmt::Debug + 'static {
    /// The entity it publishes to.
    fn entity(&self) -> &EntityName;

    /// Publishes one event.
    ///
    /// # Errors
    /// Any class; `TooLarge` if the event is larger than the service takes.
    fn send(&self, target: SendTarget, event: OutgoingEvent) -> BoxFuture<'_, Result<SendReceipt>>;

    /// The partitions of the entity, in the order in which the service numbers them. Empty if the transport does
    /// not tell them; then events with a key are left to the service.
    ///
    /// # Errors
    /// Any class; `Auth` if there is no right to ask.
    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>>> {
        async { Ok(Vec::new()) }.boxed()
    }

    /// Publishes events in as few transfers as the size limit of the link allows, in order.
    /// Without a partition, events of different keys may travel apart.
    ///
    /// # Errors
    /// As [`Publisher::send`]; some of the events may have been accepted.
    fn send_batch(
        &self,
        target: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> BoxFuture<'_, Result<()>>;

    /// Lets go of the connection.
    fn close(&self) -> BoxFuture<'_, ()>;
}
