//! A hub in process: the contract of [`super::Transport`] without a network, with faults on
//! demand. For tests of handlers, for benches of the engine, and for the simulator.
//!
//! Partitions are logs behind a lock each. A link holds its place in the log and is woken when
//! something is published; a fault ends links as the service would end them.

mod credit;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use futures::FutureExt;
use futures::future::BoxFuture;

use credit::Credit;

use super::{
    HubProperties, Link, LinkStart, LogProperties, OpenLink, Publisher, SendReceipt, SendTarget,
    Transport,
};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorClass, Result};
use crate::event::{
    ConsumerGroup, EntityName, Event, EventParts, Incarnation, Offset, OutgoingEvent, Partition,
    PartitionId, SequenceNumber, Unreadable,
};
use crate::state::key_placement::KeyPlacement;

/// A hub whose partitions are in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryHub(Arc<Hub>);

struct Hub {
    entity: EntityName,
    /// Stamps events.
    clock: Arc<dyn Clock>,
    partitions: Vec<Mutex<Log>>,
    ids: Vec<PartitionId>,
    incarnation: AtomicU64,
    next_round_robin: AtomicUsize,
    next_link: AtomicU64,
    faults: Mutex<Faults>,
}

#[derive(Default)]
struct Faults {
    /// The next this many calls to open a link fail with the class.
    failing_opens: Option<(usize, ErrorClass)>,
    /// The next this many reads of properties fail with the class.
    failing_reads: Option<(usize, ErrorClass)>,
    /// The next this many sends fail with the class.
    failing_sends: Option<(usize, ErrorClass)>,
    /// Larger events are refused.
    max_event_bytes: Option<usize>,
}

struct Log {
    partition: Arc<Partition>,
    /// Events before the first one of `events` that were trimmed, by count.
    trimmed: usize,
    events: VecDeque<Event>,
    next_number: i64,
    /// The newest event's number and offset, be it trimmed or not.
    last: Option<(SequenceNumber, Offset)>,
    links: BTreeMap<u64, OpenedLink>,
}

struct OpenedLink {
    consumer_group: ConsumerGroup,
    owner_level: Option<i64>,
    waker: Option<Waker>,
    /// Why the link ends at its next poll.
    ended: Option<ErrorClass>,
    /// Whether the link says nothing any more, as on a half-open connection.
    hung: bool,
}

impl fmt::Debug for MemoryHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryHub")
            .field("entity", &self.0.entity)
            .field("partitions", &self.0.ids.len())
            .finish()
    }
}

const OPEN_LINK: &str = "open the link";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_fault(fault: &mut Option<(usize, ErrorClass)>) -> Option<ErrorClass> {
    let (times, class) = fault.as_mut()?;
    *times = times.checked_sub(1)?;
    Some(*class)
}

impl MemoryHub {
    /// A hub with empty partitions "0", "1", ….
    pub fn new(entity: impl Into<EntityName>, partitions: usize) -> Self {
        Self::with_clock(entity, partitions, Arc::new(SystemClock))
    }

    /// The same, with events stamped by this clock.
    pub fn with_clock(
        entity: impl Into<EntityName>,
        partitions: usize,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let entity = entity.into();
        let ids: Vec<PartitionId> =
            (0..partitions).map(|index| PartitionId::from(index.to_string())).collect();
        let logs = ids
            .iter()
            .map(|id| {
                Mutex::new(Log {
                    partition: Arc::new(Partition::new(entity.clone(), id.clone())),
                    trimmed: 0,
                    events: VecDeque::new(),
                    next_number: 0,
                    last: None,
                    links: BTreeMap::new(),
                })
            })
            .collect();
        Self(Arc::new(Hub {
            entity,
            clock,
            partitions: logs,
            ids,
            incarnation: AtomicU64::new(1),
            next_round_robin: AtomicUsize::new(0),
            next_link: AtomicU64::new(0),
            faults: Mutex::new(Faults::default()),
        }))
    }

    /// Reads the hub as a consumer group.
    pub fn transport(&self, consumer_group: impl Into<ConsumerGroup>) -> MemoryTransport {
        MemoryTransport { hub: self.clone(), consumer_group: consumer_group.into() }
    }

    /// Publishes to the hub.
    pub fn publisher(&self) -> MemoryPublisher {
        MemoryPublisher { hub: self.clone() }
    }

    /// Appends an event now; returns its sequence number. `None`: there is no such partition.
    pub fn publish(&self, partition: usize, event: OutgoingEvent) -> Option<SequenceNumber> {
        let mut log = lock(self.0.partitions.get(partition)?);
        Some(log.append(event, self.0.clock.now(), None))
    }

    /// The events that a partition has, oldest first, as a link gives them: what a handler published, for example.
    /// Empty where there is no such partition.
    pub fn events(&self, partition: usize) -> Vec<Event> {
        let log = self.0.partitions.get(partition);
        log.map(|log| lock(log).events.iter().cloned().collect()).unwrap_or_default()
    }

    /// Appends an event that no link can decode; returns its sequence number. `None`: there is no such
    /// partition.
    pub fn publish_unreadable(&self, partition: usize) -> Option<SequenceNumber> {
        let mut log = lock(self.0.partitions.get(partition)?);
        let number = SequenceNumber(log.next_number);
        let reason = "a fault on demand".to_owned();
        let unreadable = Unreadable { reason, first: number, last: number };
        Some(log.append(OutgoingEvent::default(), self.0.clock.now(), Some(unreadable)))
    }

    /// Skips sequence numbers, as a service does; the next event is that much later.
    pub fn skip_numbers(&self, partition: usize, count: i64) {
        if let Some(log) = self.0.partitions.get(partition) {
            lock(log).next_number += count;
        }
    }

    /// Ends all links of a partition with an error of this class.
    pub fn end_links(&self, partition: usize, class: ErrorClass) {
        if let Some(log) = self.0.partitions.get(partition) {
            lock(log).end_links(|_| Some(class));
        }
    }

    /// The links of a partition that are open say nothing any more, as on a half-open connection.
    pub fn hang_links(&self, partition: usize) {
        if let Some(log) = self.0.partitions.get(partition) {
            lock(log).links.values_mut().for_each(|link| link.hung = true);
        }
    }

    /// The next `times` calls to open a link fail.
    pub fn fail_opens(&self, times: usize, class: ErrorClass) {
        lock(&self.0.faults).failing_opens = Some((times, class));
    }

    /// The next `times` reads of properties fail.
    pub fn fail_reads(&self, times: usize, class: ErrorClass) {
        lock(&self.0.faults).failing_reads = Some((times, class));
    }

    /// The next `times` sends fail.
    pub fn fail_sends(&self, times: usize, class: ErrorClass) {
        lock(&self.0.faults).failing_sends = Some((times, class));
    }

    /// Refuses to publish larger events, as a service does; bodies, names and values count.
    pub fn limit_event_bytes(&self, max_event_bytes: usize) {
        lock(&self.0.faults).max_event_bytes = Some(max_event_bytes);
    }

    /// Removes the oldest `count` events of a partition, as retention does.
    pub fn trim(&self, partition: usize, count: usize) {
        if let Some(log) = self.0.partitions.get(partition) {
            let mut log = lock(log);
            let count = count.min(log.events.len());
            log.events.drain(..count);
            log.trimmed += count;
        }
    }

    /// Deletes the hub and creates it again: empty logs, numbers from 0, links ended.
    pub fn recreate(&self) {
        self.0.incarnation.fetch_add(1, Ordering::SeqCst);
        for log in &self.0.partitions {
            let mut log = lock(log);
            log.events.clear();
            log.trimmed = 0;
            log.next_number = 0;
            log.last = None;
            log.end_links(|_| Some(ErrorClass::Transient));
        }
    }

    /// The number of the newest event of a partition that it still has.
    #[cfg(feature = "testing")]
    pub(crate) fn last_number(&self, partition: usize) -> Option<i64> {
        let log = lock(self.0.partitions.get(partition)?);
        log.events.back().map(|event| event.sequence_number().0)
    }

    /// How many links are open on a partition.
    pub fn open_links(&self, partition: usize) -> usize {
        self.0
            .partitions
            .get(partition)
            .map_or(0, |log| lock(log).links.values().filter(|link| link.ended.is_none()).count())
    }

    fn log(&self, id: &PartitionId, operation: &'static str) -> Result<&Mutex<Log>> {
        let index = self.0.ids.iter().position(|known| known == id);
        index.and_then(|index| self.0.partitions.get(index)).ok_or_else(|| {
            Error::new(ErrorClass::Permanent, operation, "there is no such partition")
                .with_partition(&Partition::new(self.0.entity.clone(), id.clone()))
        })
    }

    fn fault(
        &self,
        operation: &'static str,
        pick: impl FnOnce(&mut Faults) -> &mut Option<(usize, ErrorClass)>,
    ) -> Result<()> {
        match take_fault(pick(&mut lock(&self.0.faults))) {
            Some(class) => Err(Error::new(class, operation, "a fault on demand")),
            None => Ok(()),
        }
    }
}

impl Log {
    fn append(
        &mut self,
        event: OutgoingEvent,
        now: SystemTime,
        unreadable: Option<Unreadable>,
    ) -> SequenceNumber {
        let number = self.next_number;
        self.next_number += 1;
        let offset = Offset::new(format!("{number}"));
        self.last = Some((SequenceNumber(number), offset.clone()));
        let mut parts = EventParts {
            offset: Some(offset),
            enqueued_time: now,
            key: event.key,
            properties: event.properties,
            annotations: event.annotations,
            unreadable: unreadable.map(Box::new),
            ..EventParts::new(Arc::clone(&self.partition), number, event.body)
        };
        parts.set_message(event.message);
        if let Some(body) = event.structured_body {
            parts.set_structured_body(body);
        }
        self.events.push_back(parts.into());
        for link in self.links.values_mut() {
            if let Some(waker) = link.waker.take() {
                waker.wake();
            }
        }
        SequenceNumber(number)
    }

    /// Attaches a link, or once more: a higher owner level keeps it away, and lower ones are ended.
    fn attach(&mut self, id: u64, group: &ConsumerGroup, options: &OpenLink) -> Result<()> {
        self.links.remove(&id);
        let highest = self
            .links
            .values()
            .filter(|link| link.ended.is_none() && link.consumer_group == *group)
            .filter_map(|link| link.owner_level)
            .max();
        if highest.is_some() && options.owner_level < highest {
            let message = "a receiver of a higher owner level has the partition";
            let error = Error::new(ErrorClass::PartitionLost, OPEN_LINK, message);
            return Err(error.with_partition(&self.partition));
        }
        if options.owner_level.is_some() {
            self.end_links(|link| {
                (link.consumer_group == *group).then_some(ErrorClass::PartitionLost)
            });
        }
        let link = OpenedLink {
            consumer_group: group.clone(),
            owner_level: options.owner_level,
            waker: None,
            ended: None,
            hung: false,
        };
        self.links.insert(id, link);
        Ok(())
    }

    /// Ends the links for which `why` gives a class.
    fn end_links(&mut self, why: impl Fn(&OpenedLink) -> Option<ErrorClass>) {
        for link in self.links.values_mut().filter(|link| link.ended.is_none()) {
            link.ended = why(link);
            if link.ended.is_some()
                && let Some(waker) = link.waker.take()
            {
                waker.wake();
            }
        }
    }

    /// The index, counted from the first event ever, where a link begins.
    fn index_of(&self, start: LinkStart) -> usize {
        let offset = match start {
            LinkStart::FirstEvent => 0,
            LinkStart::After(number) => {
                self.events.partition_point(|event| event.sequence_number() <= number)
            }
            LinkStart::EnqueuedAt(time) => {
                self.events.partition_point(|event| event.enqueued_time() < time)
            }
        };
        self.trimmed + offset
    }
}

/// Reads a [`MemoryHub`].
#[derive(Clone, Debug)]
pub struct MemoryTransport {
    hub: MemoryHub,
    consumer_group: ConsumerGroup,
}

impl Transport for MemoryTransport {
    fn namespace(&self) -> &str {
        "memory"
    }

    fn entity(&self) -> &EntityName {
        &self.hub.0.entity
    }

    fn consumer_group(&self) -> &ConsumerGroup {
        &self.consumer_group
    }

    fn hub_properties(&self) -> BoxFuture<'_, Result<HubProperties>> {
        async move {
            self.hub.fault("read the hub's properties", |faults| &mut faults.failing_reads)?;
            let incarnation = self.hub.0.incarnation.load(Ordering::SeqCst);
            Ok(HubProperties::new(
                Incarnation(i64::try_from(incarnation).unwrap_or(i64::MAX)),
                self.hub.0.ids.clone(),
            ))
        }
        .boxed()
    }

    fn log_properties<'a>(
        &'a self,
        partition: &'a PartitionId,
    ) -> BoxFuture<'a, Result<LogProperties>> {
        const OPERATION: &str = "read the partition's properties";
        async move {
            self.hub.fault(OPERATION, |faults| &mut faults.failing_reads)?;
            let log = lock(self.hub.log(partition, OPERATION)?);
            let begin =
                log.events.front().map_or(SequenceNumber(log.next_number), Event::sequence_number);
            let (number, offset) = log.last.clone().unzip();
            let time = log.events.back().map(Event::enqueued_time);
            Ok(LogProperties::new(begin, number, time).with_last_enqueued_offset(offset))
        }
        .boxed()
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>>> {
        let this = self.clone();
        async move {
            this.hub.fault(OPEN_LINK, |faults| &mut faults.failing_opens)?;
            let hub = this.hub.clone();
            let mut log = lock(hub.log(&options.partition, OPEN_LINK)?);
            let id = this.hub.0.next_link.fetch_add(1, Ordering::Relaxed);
            log.attach(id, &this.consumer_group, &options)?;
            let next = log.index_of(options.start);
            let index = this.hub.0.ids.iter().position(|known| *known == options.partition);
            drop(log);
            let link: Box<dyn Link> = Box::new(MemoryLink {
                hub: this.hub,
                partition: index.unwrap_or_default(),
                id,
                next,
                credit: Credit::new(options.prefetch_events),
            });
            Ok(link)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }
}

struct MemoryLink {
    hub: MemoryHub,
    partition: usize,
    id: u64,
    /// The next event's index, counted from the first event ever.
    next: usize,
    credit: Credit,
}

impl Link for MemoryLink {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Poll<Result<usize>> {
        let Some(log) = self.hub.0.partitions.get(self.partition) else {
            return Poll::Pending;
        };
        let mut log = lock(log);
        let ended = log.links.get(&self.id).and_then(|link| link.ended);
        if let Some(class) = ended {
            let error = Error::new(class, "receive from the link", "the link was ended");
            return Poll::Ready(Err(error.with_partition(&log.partition)));
        }
        if log.links.get(&self.id).is_some_and(|link| link.hung) {
            return Poll::Pending;
        }
        let from = self.next.saturating_sub(log.trimmed).min(log.events.len());
        let most = max_events.min(self.credit.left);
        let until = (from + most).min(log.events.len());
        if from < until {
            let readable = log.events.range(from..until).take_while(|e| e.unreadable().is_none());
            let before = into.len();
            into.extend(readable.cloned());
            let count = into.len() - before;
            self.next = log.trimmed + from + count;
            self.credit.on_accepted(count);
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            self.next += 1;
            self.credit.left -= 1;
            let message = "an event cannot be decoded: a fault on demand";
            let error = Error::new(ErrorClass::Unreadable, "receive from the link", message);
            return Poll::Ready(Err(error.with_partition(&log.partition)));
        }
        if let Some(link) = log.links.get_mut(&self.id) {
            link.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn restart(
        mut self: Box<Self>,
        options: OpenLink,
    ) -> BoxFuture<'static, Result<Box<dyn Link>>> {
        async move {
            self.hub.fault(OPEN_LINK, |faults| &mut faults.failing_opens)?;
            let hub = self.hub.clone();
            let mut log = lock(hub.log(&options.partition, OPEN_LINK)?);
            let link = log.links.get(&self.id).filter(|link| !link.hung);
            let Some(group) = link.map(|link| link.consumer_group.clone()) else {
                let message = "the link gives no answer";
                let error = Error::new(ErrorClass::Transient, OPEN_LINK, message);
                return Err(error.with_partition(&log.partition));
            };
            log.attach(self.id, &group, &options)?;
            self.next = log.index_of(options.start);
            drop(log);
            self.credit = Credit::new(options.prefetch_events);
            let link: Box<dyn Link> = self;
            Ok(link)
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        drop(self);
        futures::future::ready(()).boxed()
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        if let Some(log) = self.hub.0.partitions.get(self.partition) {
            lock(log).links.remove(&self.id);
        }
    }
}

/// Publishes to a [`MemoryHub`].
#[derive(Clone, Debug)]
pub struct MemoryPublisher {
    hub: MemoryHub,
}

impl MemoryPublisher {
    fn append(&self, target: &SendTarget, event: OutgoingEvent) -> Result<SendReceipt> {
        const OPERATION: &str = "publish an event";
        self.hub.fault(OPERATION, |faults| &mut faults.failing_sends)?;
        let limit = lock(&self.hub.0.faults).max_event_bytes;
        if limit.is_some_and(|limit| event.content_bytes() > limit) {
            let message = "an event is larger than the hub takes";
            return Err(Error::new(ErrorClass::TooLarge, OPERATION, message));
        }
        let hub = &self.hub.0;
        let index = match (target, &event.key) {
            (SendTarget::Partition(id), _) => {
                self.hub.log(id, OPERATION)?;
                hub.ids.iter().position(|known| known == id).unwrap_or_default()
            }
            (SendTarget::Any, Some(key)) => {
                KeyPlacement::Service.index(key, hub.ids.len()).unwrap_or_default()
            }
            (SendTarget::Any, None) => {
                hub.next_round_robin.fetch_add(1, Ordering::Relaxed) % hub.ids.len().max(1)
            }
        };
        let number = self.hub.publish(index, event);
        Ok(SendReceipt::new(hub.ids.get(index).cloned(), number))
    }
}

impl Publisher for MemoryPublisher {
    fn entity(&self) -> &EntityName {
        &self.hub.0.entity
    }

    fn send(&self, target: SendTarget, event: OutgoingEvent) -> BoxFuture<'_, Result<SendReceipt>> {
        async move { self.append(&target, event) }.boxed()
    }

    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>>> {
        async move {
            self.hub.fault("read the partitions", |faults| &mut faults.failing_reads)?;
            Ok(self.hub.0.ids.clone())
        }
        .boxed()
    }

    fn send_batch(
        &self,
        target: SendTarget,
        events: Vec<OutgoingEvent>,
    ) -> BoxFuture<'_, Result<()>> {
        async move {
            for event in events {
                self.append(&target, event)?;
            }
            Ok(())
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }
}
