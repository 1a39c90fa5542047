//! Serves retry hubs: reads events that others published there to be tried again later, and publishes each to the hub
//! that it names when its time has come.
//!
//! ```text
//!  retry hub ──> consumer ──> RetryScheduler ── due ──> the hub that the event names
//!                   ^               │
//!                   └── parked <────┴── not due
//! ```
//!
//! This is for systems whose workers publish what failed to a hub of its own, with properties that say where it belongs
//! and when it is due. Workers of this library need no such hub: their consumer parks what fails.
//!
//! What holds, beside what [guarantees](crate::guarantees) says of a consumer:
//!
//! - An event is settled when its target has acknowledged it. A crash in between publishes it twice, with the same
//!   message id where it has one.
//! - An event that is not due waits without a slot, and uses up no attempt. Where it is due later than
//!   [`ConsumerOptions::park_after`], it waits in the failure store, and the watermark goes on: it survives a restart, and the
//!   removal of the event from its hub.
//! - What cannot be scheduled is a dead letter that says why, and stops nothing else.
//! - A target that fails holds up its own events alone, where the consumer has the [`lanes`](RetryScheduler::lanes) of the
//!   scheduler.
//! - There is no order: not between events of a key, and not between those that are due at one time.
//!
//! ```
//! use std::sync::Arc;
//!
//! use longshore::ConsumerOptions;
//! use longshore::checkpoint_store::memory::MemoryCheckpointStore;
//! use longshore::consumer::BatchConsumer;
//! use longshore::failure_store::memory::MemoryFailureStore;
//! use longshore::retry_scheduler::{RetryScheduler, RetrySchedulerOptions, Target};
//! use longshore::transport::memory::MemoryHub;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let signal = tokio::time::sleep(std::time::Duration::from_millis(20));
//! let (retries, pending) = (MemoryHub::new("xact-retry", 4), MemoryHub::new("pending", 4));
//! let options = RetrySchedulerOptions::default();
//! let consumer_options = options.fit(ConsumerOptions::default());
//! let scheduler = RetryScheduler::new(options, move |name: &str| match name {
//!     "pending" => Ok(Target::new("memory", Arc::new(pending.publisher()))),
//!     _ => Err("there is no such hub".to_owned()),
//! })?
//! .reading("memory", "xact-retry");
//!
//! let checkpoints = Arc::new(MemoryCheckpointStore::new());
//! BatchConsumer::builder(retries.transport("$Default"), checkpoints)
//!     .failure_store(Arc::new(MemoryFailureStore::default()))
//!     .options(consumer_options)
//!     .lanes(scheduler.lanes(10))
//!     .event_handler(scheduler)?
//!     .run_until(signal)
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`ConsumerOptions::park_after`]: crate::ConsumerOptions::park_after

mod options;
mod order;
mod refusal;
mod targets;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::{Clock, SystemClock};
use crate::consumer::{EventContext, EventHandler};
use crate::error::{Error, ErrorClass, InvalidConfig};
use crate::event::{EntityName, Event, OutgoingEvent, Partition};
use crate::lanes::{Lane, LaneRule};
use crate::outcome::{Failure, Outcome};
use crate::producer::EntityProducer;
use crate::telemetry::metrics::RetryMetrics;
use crate::timestamp::{from_unix_millis, rfc3339};
use crate::transport::SendTarget;

pub use options::{
    DEFAULT_ATTEMPTS_PROPERTY, DEFAULT_DELAY_PROPERTY, DEFAULT_DUE_PROPERTY, DEFAULT_KEY_PROPERTY,
    DEFAULT_MAX_DELAY, DEFAULT_TARGET_PROPERTY, RetryProperties, RetrySchedulerOptions,
};
use order::Order;
use refusal::Refusal;
pub use targets::Target;
use targets::Targets;

/// An event that its target has acknowledged.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Published<'a> {
    /// Where it came from.
    pub source: &'a Partition,
    /// The hub that it went to.
    pub target: &'a EntityName,
    /// From the time when it was due to the acknowledgement; from when it was enqueued, where nothing said when it was due,
    /// or where it was due before that.
    pub late: Duration,
}

type OnPublished = dyn Fn(&Published<'_>) + Send + Sync;

/// Publishes events to the hubs that they name, each when it is due. See the [module](self).
pub struct RetryScheduler {
    options: RetrySchedulerOptions,
    targets: Targets,
    clock: Arc<dyn Clock>,
    metrics: RetryMetrics,
    on_published: Option<Box<OnPublished>>,
}

impl fmt::Debug for RetryScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryScheduler")
            .field("options", &self.options)
            .field("targets", &self.targets)
            .finish_non_exhaustive()
    }
}

impl RetryScheduler {
    /// A scheduler that publishes to the hubs that `targets` says names stand for; or it says why a name stands for none,
    /// and the events for it are dead letters. It is asked when an event names a target that is not known yet, and
    /// must be quick. At most 1,000 targets are known at once.
    ///
    /// # Errors
    /// An option that cannot be used.
    pub fn new(
        options: RetrySchedulerOptions,
        targets: impl Fn(&str) -> Result<Target, String> + Send + Sync + 'static,
    ) -> Result<Self, InvalidConfig> {
        options.validate()?;
        Ok(Self {
            options,
            targets: Targets::new(Box::new(targets)),
            clock: Arc::new(SystemClock),
            metrics: RetryMetrics::new(),
            on_published: None,
        })
    }

    /// Names a hub that is read, by its namespace ([`Transport::namespace`](crate::transport::Transport::namespace)) and its
    /// name. Events whose target it is are dead letters: they would come back for ever.
    #[must_use]
    pub fn reading(mut self, namespace: impl Into<String>, entity: impl Into<EntityName>) -> Self {
        self.targets.add_source(namespace.into(), entity.into());
        self
    }

    /// Tells the time by this clock, which must be that of the consumer.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Calls this for each event that was acknowledged, before it is settled. It must be quick.
    #[must_use]
    pub fn on_published(mut self, call: impl Fn(&Published<'_>) + Send + Sync + 'static) -> Self {
        self.on_published = Some(Box::new(call));
        self
    }

    /// Lanes for the consumer: at most so many events of a target are published at once, and a target that fails
    /// holds up no other. Smaller than the slots of the consumer, or one target may take all of them.
    pub fn lanes(&self, cap: usize) -> LaneRule {
        let properties = self.options.properties.clone();
        LaneRule::limited(cap, move |event| {
            let target = order::target(event, &properties).ok()?;
            Some(Lane::new(target.to_ascii_lowercase()))
        })
    }

    /// Refuses further events, waits for those under way, and lets go of the connections. Called when the consumer has
    /// ended.
    ///
    /// # Cancel safety
    /// A dropped call leaves connections to the end of the process.
    pub async fn close(&self) {
        self.targets.close().await;
    }

    async fn scheduled(&self, event: &Event) -> Result<Outcome, Refusal> {
        let order = Order::read(event, &self.options, self.clock.now())?;
        let allowed = self.options.allowed.as_ref();
        if allowed
            .is_some_and(|allowed| !allowed.contains(&EntityName::from(order.target.as_str())))
        {
            return Err(Refusal::NotAllowed { target: order.target });
        }
        // Before it waits, so that what is wrong is known today and not in a month.
        let producer = self.targets.producer(&order.target)?;
        if !order.wait.is_zero() {
            return Ok(waiting(&order));
        }
        let sent = producer.send(SendTarget::Any, self.outgoing(event)).await;
        match sent {
            Ok(_receipt) => {
                self.tell(event, &order, producer.entity());
                Ok(Outcome::Done)
            }
            Err(error) => self.unsent(&order, &producer, &error),
        }
    }

    /// The event without what is the scheduler's.
    fn outgoing(&self, event: &Event) -> OutgoingEvent {
        let RetryProperties { target, due, delay, key, .. } = &self.options.properties;
        let mut outgoing = OutgoingEvent::copy_of(event);
        outgoing.key = order::key(event, &self.options.properties).map(str::to_owned);
        for own in [target, due, delay, key] {
            outgoing.properties.remove(own);
        }
        outgoing
    }

    fn tell(&self, event: &Event, order: &Order, target: &EntityName) {
        let since = order.due.map_or(SystemTime::UNIX_EPOCH, from_unix_millis);
        let late = self.clock.now().duration_since(since.max(event.enqueued_time()));
        let late = late.unwrap_or_default();
        self.metrics.on_published(&event.partition().entity, target, late);
        if let Some(on_published) = &self.on_published {
            on_published(&Published { source: event.partition(), target, late });
        }
    }

    /// What becomes of an event that its target did not take.
    fn unsent(
        &self,
        order: &Order,
        producer: &Arc<EntityProducer>,
        error: &Error,
    ) -> Result<Outcome, Refusal> {
        let target = order.target.clone();
        if error.class() == ErrorClass::Permanent {
            self.targets.forget(&target, producer);
            return Err(Refusal::Unknown { target, why: said(error) });
        }
        let failure = Failure::from_error(error.class(), error).at(target);
        Ok(Outcome::failed(failure))
    }
}

/// An event waits for its time.
fn waiting(order: &Order) -> Outcome {
    let due = order.due.map(from_unix_millis).map(rfc3339).unwrap_or_default();
    let why = Failure::transient(format!("it is published to {} at {due}", order.target));
    Outcome::postpone(order.wait, why.at(order.target.as_str()))
}

/// An error with its innermost cause.
fn said(error: &Error) -> String {
    crate::error::error_chain(error).join(": ")
}

impl EventHandler for RetryScheduler {
    async fn handle(&self, event: Event, _: EventContext) -> Outcome {
        match self.scheduled(&event).await {
            Ok(outcome) => outcome,
            Err(refusal) => {
                self.metrics.on_refused(&event.partition().entity, refusal.reason());
                Outcome::dead_letter(refusal.failure())
            }
        }
    }
}
