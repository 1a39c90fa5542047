//! [`ConsumerSet`]: consumers of several entities with one handler, one set of slots, one memory
//! budget and one drain.
//!
//! ```text
//!  orders  ──> consumer ──┐                     ┌── each with checkpoints, dead letters and
//!  results ──> consumer ──┼──> slots ──> handler│   options of its own
//!  audit   ──> consumer ──┘                     └── drained together
//! ```
//!
//! A client of Event Hubs is bound to one entity, so a set has a consumer for each. If a consumer ends by itself (its
//! hub is gone, or its partitions were taken), the others go on, and the exit of the set says so. A handler that aborts
//! ends them all.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tracing::error;

use super::builder::{BatchConsumer, BatchConsumerBuilder};
use super::counts::ConsumerCounts;
use super::exit::{ConsumerExit, ExitCause, ExitReason, Unclean};
use super::handle::{ConsumerHandle, ConsumerSnapshot};
use super::handling::call::{self, StartCall};
use super::handling::handler::{BatchHandler, EventHandler};
use super::shared::Common;
use crate::config::{
    DEFAULT_MAX_BATCHES_IN_FLIGHT, DEFAULT_MAX_EVENTS_IN_FLIGHT, DEFAULT_MEMORY_BUDGET_BYTES,
};
use crate::error::{InvalidConfig, error_chain};
use crate::event::{ConsumerGroup, EntityName};
use crate::lanes::{Lane, LaneRule};
use crate::outcome::Failure;

/// Consumes several entities with one handler.
///
/// ```
/// use std::sync::Arc;
///
/// use longshore::checkpoint_store::memory::MemoryCheckpointStore;
/// use longshore::transport::memory::MemoryHub;
/// use longshore::{BatchConsumer, ConsumerSet, Event, EventContext};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let signal = tokio::time::sleep(std::time::Duration::from_millis(20));
/// let checkpoints = Arc::new(MemoryCheckpointStore::new());
/// let consumer = |entity: &str| {
///     let transport = MemoryHub::new(entity, 2).transport("$Default");
///     BatchConsumer::builder(transport, checkpoints.clone())
/// };
/// let set = ConsumerSet::builder()
///     .consumer(consumer("orders"))
///     .consumer(consumer("results"))
///     .max_events_in_flight(50)
///     .event_handler(|event: Event, _: EventContext| async move {
///         println!("{}: {} bytes", event.partition(), event.body().len());
///     })?;
/// set.run_until(signal).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ConsumerSet(Vec<BatchConsumer>);

impl ConsumerSet {
    /// Begins a set without consumers.
    pub fn builder() -> ConsumerSetBuilder {
        ConsumerSetBuilder {
            consumers: Vec::new(),
            max_events_in_flight: DEFAULT_MAX_EVENTS_IN_FLIGHT,
            max_batches_in_flight: DEFAULT_MAX_BATCHES_IN_FLIGHT,
            memory_budget_bytes: DEFAULT_MEMORY_BUDGET_BYTES,
            lanes: None,
        }
    }

    /// Starts all consumers on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> ConsumerSetHandle {
        let members = self.0.into_iter().map(|mut consumer| {
            let transport = &consumer.shared.transport;
            let entity = transport.entity().clone();
            let consumer_group = transport.consumer_group().clone();
            let name = entity.clone();
            consumer.run = consumer.run.inspect(move |exit| report(&name, exit)).boxed();
            EntityConsumer { entity, consumer_group, handle: consumer.start(), exit: None }
        });
        ConsumerSetHandle { members: members.collect() }
    }

    /// Consumes until `signal` comes, then drains; or until all consumers have ended by themselves.
    ///
    /// # Errors
    /// If an end was not clean; see [`ConsumerSetExit::is_clean`]. The error says in a line why, has the
    /// exits, and tells the causes apart: [`Unclean::cause`].
    ///
    /// # Cancel safety
    /// A dropped call drains the consumers in the background.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn run_until(
        self,
        signal: impl Future,
    ) -> Result<ConsumerSetExit, Unclean<ConsumerSetExit>> {
        let mut handle = self.start();
        tokio::select! {
            biased;
            () = handle.ended() => {}
            _ = signal => handle.drain(),
        }
        handle.join().await.into_result()
    }
}

/// The others go on, so nobody may be waiting for this exit.
fn report(entity: &EntityName, exit: &ConsumerExit) {
    match &exit.reason {
        // One that never connected has said so.
        ExitReason::Drained | ExitReason::Aborted(_) | ExitReason::NeverConnected(_) => {}
        ExitReason::Failed(error) => {
            error!(message_topic = %entity, causes = ?error_chain(error), "the entity's consumer ended");
        }
        ExitReason::PartitionsStopped => {
            error!(message_topic = %entity, "the entity's consumer ended: all its partitions stopped");
        }
    }
}

/// Collects what a [`ConsumerSet`] is made of.
#[derive(Debug)]
#[must_use]
pub struct ConsumerSetBuilder {
    consumers: Vec<BatchConsumerBuilder>,
    max_events_in_flight: usize,
    max_batches_in_flight: usize,
    memory_budget_bytes: usize,
    lanes: Option<LaneRule>,
}

impl ConsumerSetBuilder {
    /// Adds the consumer of an entity, with its own checkpoints, dead letters, options and hooks. The set has the
    /// slots and the memory budget of all. The longest `drain_timeout` of its consumers applies to all.
    pub fn consumer(mut self, consumer: BatchConsumerBuilder) -> Self {
        self.consumers.push(consumer);
        self
    }

    /// How many events are handled at once by an event handler, over all partitions of all entities. Default: 10
    /// ([`DEFAULT_MAX_EVENTS_IN_FLIGHT`]).
    pub fn max_events_in_flight(mut self, max_events_in_flight: usize) -> Self {
        self.max_events_in_flight = max_events_in_flight;
        self
    }

    /// How many batches are handled at once by a batch handler, over all partitions of all entities. Default: 4
    /// ([`DEFAULT_MAX_BATCHES_IN_FLIGHT`]).
    pub fn max_batches_in_flight(mut self, max_batches_in_flight: usize) -> Self {
        self.max_batches_in_flight = max_batches_in_flight;
        self
    }

    /// Memory for events that are received and not settled, and for what links hold ahead, over all entities.
    /// Default: 256 MiB ([`DEFAULT_MEMORY_BUDGET_BYTES`]).
    pub fn memory_budget_bytes(mut self, memory_budget_bytes: usize) -> Self {
        self.memory_budget_bytes = memory_budget_bytes;
        self
    }

    /// Lanes that all consumers of the set share: events of different entities can have the same lane. Without
    /// this, each consumer may have its own lanes.
    pub fn lanes(mut self, rule: LaneRule) -> Self {
        self.lanes = Some(rule);
        self
    }

    /// Builds a set that calls `handler` with each event of every entity.
    ///
    /// # Errors
    /// If there is no consumer, if two have the same entity and group, or if a value of the options cannot be
    /// used.
    pub fn event_handler(
        mut self,
        handler: impl EventHandler,
    ) -> Result<ConsumerSet, InvalidConfig> {
        self.settle_options()?;
        let common =
            Common::new(self.max_events_in_flight, self.memory_budget_bytes, self.lanes.clone());
        Ok(self.assemble(call::of_events(Arc::new(handler)), common))
    }

    /// Builds a set that calls `handler` with batches. A batch holds events of one partition of one entity.
    ///
    /// # Errors
    /// If there is no consumer, if two have the same entity and group, or if a value of the options cannot be
    /// used, alone or together with another.
    pub fn batch_handler(
        mut self,
        handler: impl BatchHandler,
    ) -> Result<ConsumerSet, InvalidConfig> {
        self.settle_options()?;
        for consumer in &self.consumers {
            consumer.options.validate_batches()?;
        }
        let common =
            Common::new(self.max_batches_in_flight, self.memory_budget_bytes, self.lanes.clone());
        Ok(self.assemble(call::of_batches(Arc::new(handler)), common))
    }

    fn assemble(self, handler: Arc<dyn StartCall>, common: Common) -> ConsumerSet {
        let assemble = |one: BatchConsumerBuilder| {
            let common = common.clone().or_lanes(one.lane_rule());
            one.assemble(Arc::clone(&handler), common)
        };
        ConsumerSet(self.consumers.into_iter().map(assemble).collect())
    }

    fn settle_options(&mut self) -> Result<(), InvalidConfig> {
        let longest_drain = self.consumers.iter().map(|one| one.options.drain_timeout).max();
        let Some(drain_timeout) = longest_drain else {
            return Err(InvalidConfig::new("consumers", 0, "there must be at least 1"));
        };
        self.lanes.as_ref().map_or(Ok(()), LaneRule::validate)?;
        let mut seen = BTreeSet::new();
        for consumer in &mut self.consumers {
            let options = &mut consumer.options;
            options.max_events_in_flight = self.max_events_in_flight;
            options.max_batches_in_flight = self.max_batches_in_flight;
            options.memory_budget_bytes = self.memory_budget_bytes;
            options.drain_timeout = drain_timeout;
            options.validate()?;
            consumer.validate_lanes()?;
            if self.lanes.is_some() && consumer.lane_rule().is_some() {
                return Err(InvalidConfig::new(
                    "lanes",
                    format!("a rule of {} and one of the set", consumer.transport.entity()),
                    "where a set has lanes, its consumers must have no lanes and no ordering",
                ));
            }
            let transport = &consumer.transport;
            let (entity, group) = (transport.entity(), transport.consumer_group());
            if !seen.insert((transport.namespace().to_owned(), entity.clone(), group.clone())) {
                return Err(InvalidConfig::new(
                    "consumers",
                    format!("{entity} as {group}, twice"),
                    "each entity may be there once as each group: two would take its partitions \
                     from each other",
                ));
            }
        }
        Ok(())
    }
}

/// The consumer of one entity.
struct EntityConsumer {
    entity: EntityName,
    consumer_group: ConsumerGroup,
    handle: ConsumerHandle,
    /// Kept while a join waits for the others, so that a dropped join loses nothing.
    exit: Option<ConsumerExit>,
}

/// Controls a running set. Dropping it drains the consumers in the background.
pub struct ConsumerSetHandle {
    /// At least one; all of them share slots, budget and directive.
    members: Vec<EntityConsumer>,
}

impl fmt::Debug for ConsumerSetHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entities = self.members.iter().map(|member| &member.entity);
        f.debug_list().entries(entities).finish()
    }
}

impl ConsumerSetHandle {
    /// Any of the handles: what they share can be reached through each of them.
    fn any(&self) -> Option<&ConsumerHandle> {
        self.members.first().map(|member| &member.handle)
    }

    /// Takes no new events of any entity until [`ConsumerSetHandle::resume`].
    pub fn pause(&self) {
        self.any().into_iter().for_each(ConsumerHandle::pause);
    }

    /// Takes new events again.
    pub fn resume(&self) {
        self.any().into_iter().for_each(ConsumerHandle::resume);
    }

    /// Changes how many handler calls run at once over all entities; those that run are not cut.
    ///
    /// # Errors
    /// 0, or more than [`crate::config::MAX_SLOTS`].
    pub fn set_concurrency(&self, slots: usize) -> Result<(), InvalidConfig> {
        self.any().map_or(Ok(()), |handle| handle.set_concurrency(slots))
    }

    /// Closes a lane of every consumer that has lanes; see [`ConsumerHandle::close_lane`].
    ///
    /// # Errors
    /// No consumer has lanes, or the time is longer than
    /// [`MAX_LANE_CLOSING`](crate::lanes::MAX_LANE_CLOSING).
    pub fn close_lane(&self, lane: &Lane, time: Duration) -> Result<(), InvalidConfig> {
        self.with_lanes(|handle| handle.close_lane(lane, time))
    }

    /// Opens a lane of every consumer that has lanes; see [`ConsumerHandle::open_lane`].
    pub fn open_lane(&self, lane: &Lane) {
        self.members.iter().for_each(|member| member.handle.open_lane(lane));
    }

    /// Changes how many events of a lane are handled at once, for every consumer that has lanes; see
    /// [`ConsumerHandle::set_lane_cap`].
    ///
    /// # Errors
    /// No consumer has lanes, one has lanes that are ordered, or the cap is 0.
    pub fn set_lane_cap(&self, cap: usize) -> Result<(), InvalidConfig> {
        self.with_lanes(|handle| handle.set_lane_cap(cap))
    }

    /// Does this with each consumer that has lanes, and with any where none has: it says so.
    fn with_lanes(
        &self,
        act: impl Fn(&ConsumerHandle) -> Result<(), InvalidConfig>,
    ) -> Result<(), InvalidConfig> {
        let mut laned = self.members.iter().map(|one| &one.handle).filter(|one| one.has_lanes());
        match laned.next() {
            None => self.any().map_or(Ok(()), &act),
            Some(first) => act(first).and_then(|()| laned.try_for_each(act)),
        }
    }

    /// Begins to stop all consumers: no new events; what runs is ended within the longest
    /// `drain_timeout` of them; last checkpoints are written.
    pub fn drain(&self) {
        self.any().into_iter().for_each(ConsumerHandle::drain);
    }

    /// Stops all consumers within [`CANCEL_GRACE`](crate::consumer::CANCEL_GRACE); see [`ConsumerHandle::stop`].
    pub fn stop(&self) {
        self.any().into_iter().for_each(ConsumerHandle::stop);
    }

    /// Whether every partition of every entity is ours and running.
    pub fn is_ready(&self) -> bool {
        self.members.iter().all(|member| member.handle.is_ready())
    }

    /// Where the consumers stand now.
    pub fn snapshot(&self) -> ConsumerSetSnapshot {
        let entities: Vec<EntitySnapshot> = self
            .members
            .iter()
            .map(|member| EntitySnapshot {
                entity: member.entity.clone(),
                consumer_group: member.consumer_group.clone(),
                ended: member.handle.has_ended(),
                consumer: member.handle.snapshot(),
            })
            .collect();
        ConsumerSetSnapshot {
            counts: entities.iter().map(|entity| entity.consumer.counts).sum(),
            slots: entities.first().map_or(0, |entity| entity.consumer.slots),
            memory_used_bytes: entities
                .first()
                .map_or(0, |entity| entity.consumer.memory_used_bytes),
            entities,
        }
    }

    /// Waits until every consumer has ended, without taking the exits.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&self) {
        join_all(self.members.iter().map(|member| member.handle.ended())).await;
    }

    /// Waits until every consumer has ended and takes their exits.
    ///
    /// # Cancel safety
    /// A dropped call loses nothing; call again.
    pub async fn join(&mut self) -> ConsumerSetExit {
        for member in &mut self.members {
            if member.exit.is_none() {
                member.exit = Some(member.handle.join().await);
            }
        }
        let exits = self.members.iter_mut().filter_map(|member| {
            let (entity, consumer_group) = (member.entity.clone(), member.consumer_group.clone());
            member.exit.take().map(|exit| EntityExit { entity, consumer_group, exit })
        });
        ConsumerSetExit { entities: exits.collect() }
    }
}

/// Where a set of consumers stands.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConsumerSetSnapshot {
    /// What was done so far, over all entities.
    pub counts: ConsumerCounts,
    /// How many handler calls may run at once, over all entities.
    pub slots: usize,
    /// Bytes of the memory budget in use, over all entities.
    pub memory_used_bytes: usize,
    /// The entities, in the order they were added.
    pub entities: Vec<EntitySnapshot>,
}

/// Where the consumer of one entity stands.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EntitySnapshot {
    /// The entity.
    pub entity: EntityName,
    /// The group it is read as.
    pub consumer_group: ConsumerGroup,
    /// Whether the consumer has ended.
    pub ended: bool,
    /// Its own snapshot; slots and memory are those of the set.
    pub consumer: ConsumerSnapshot,
}

/// How a set of consumers ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct ConsumerSetExit {
    /// How each entity's consumer ended, in the order they were added.
    pub entities: Vec<EntityExit>,
}

/// How the consumer of one entity ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct EntityExit {
    /// The entity.
    pub entity: EntityName,
    /// The group it was read as.
    pub consumer_group: ConsumerGroup,
    /// How its consumer ended.
    pub exit: ConsumerExit,
}

/// How the first exit that is not clean is told in one line.
impl fmt::Display for ConsumerSetExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unclean = self.entities.iter().filter(|entity| !entity.exit.is_clean());
        match unclean.next() {
            None => f.write_str("every consumer was drained"),
            Some(EntityExit { entity, exit, .. }) => write!(f, "{entity}: {exit}"),
        }
    }
}

impl Unclean<ConsumerSetExit> {
    /// Why they ended; see [`ConsumerSetExit::cause`].
    pub fn cause(&self) -> ExitCause {
        self.exit().cause()
    }
}

impl ConsumerSetExit {
    /// Turns an exit that is not clean into an error, for a `main` that has nothing more to say about it.
    ///
    /// # Errors
    /// If the exit is not clean; see [`ConsumerSetExit::is_clean`].
    pub fn into_result(self) -> Result<Self, Unclean<Self>> {
        if self.is_clean() { Ok(self) } else { Err(Unclean::new(self)) }
    }

    /// Whether all that was begun was ended and checkpointed, for every entity.
    pub fn is_clean(&self) -> bool {
        self.cause() == ExitCause::Drained
    }

    /// Why they ended: the gravest cause of all.
    pub fn cause(&self) -> ExitCause {
        let causes = self.entities.iter().map(|entity| entity.exit.cause());
        causes.max().unwrap_or(ExitCause::Drained)
    }

    /// The entity whose handler call said that the environment is broken, and why.
    pub fn aborted(&self) -> Option<(&EntityName, &Failure)> {
        self.entities.iter().find_map(|entity| match &entity.exit.reason {
            ExitReason::Aborted(failure) => Some((&entity.entity, failure)),
            _ => None,
        })
    }

    /// What was done, over all entities.
    pub fn counts(&self) -> ConsumerCounts {
        self.entities.iter().map(|entity| entity.exit.counts).sum()
    }
}
