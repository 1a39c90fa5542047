//! What users write: a handler of events or of batches, and the context it gets.
//!
//! Both kinds may be plain async closures. The consumer survives a handler that panics, hangs past its deadline or
//! fails: its event is retried, and becomes a dead letter at the limit. A batch that fails in this way is halved
//! until the event at fault is alone.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Outcomes};
use super::scope::{Completion, Scope};
use super::unit::{Attempt, Tracked, TrackedBatch};
use crate::checkpoint_store::LeaseEpoch;
use crate::event::{Event, Partition};
use crate::outcome::{Deferred, Failure, Outcome};
use crate::state::batch_buffer::FlushReason;

/// Handles single events. Many calls run at once.
///
/// A handler is a function, a closure, a type of your own, or an `Arc` of a handler. It returns `()`, an
/// [`Outcome`], or a `Result` of one of them. The error may be any that `?` takes; it becomes a [`Failure`].
///
/// # Functions and closures
///
/// ```
/// use longshore::{Event, EventContext, EventHandler, Failure, Outcome};
///
/// async fn store(event: Event, _: EventContext) -> Result<(), Failure> {
///     let number: u64 = std::str::from_utf8(event.body())?.parse()?;
///     println!("{number}");
///     Ok(())
/// }
///
/// # fn check(_: impl EventHandler) {}
/// # check(store);
/// // An async closure that captures nothing. Closures name the types of both arguments.
/// # check(
/// async |event: Event, _: EventContext| {
///     println!("{} bytes", event.body().len());
/// }
/// # );
/// # ;
/// ```
///
/// A closure that captures something cannot be an async closure. Many calls run at once, so it clones what each
/// call needs.
///
/// ```
/// # use longshore::{Event, EventContext, EventHandler, Failure};
/// # #[derive(Clone)] struct Client;
/// # impl Client { async fn put(&self, _: &[u8]) -> std::io::Result<()> { Ok(()) } }
/// # let client = Client;
/// let handler = move |event: Event, _: EventContext| {
///     let client = client.clone();
///     async move {
///         client.put(event.body()).await?;
///         Ok::<(), Failure>(())
///     }
/// };
/// # fn check(_: impl EventHandler) {}
/// # check(handler);
/// ```
///
/// # A type of your own
///
/// ```
/// use longshore::{Event, EventContext, EventHandler, Outcome};
///
/// # struct Client;
/// # impl Client { async fn put(&self, _: &[u8]) -> std::io::Result<()> { Ok(()) } }
/// struct Store {
///     client: Client, // shared by all calls, and not cloned
/// }
///
/// impl EventHandler for Store {
///     async fn handle(&self, event: Event, _: EventContext) -> Outcome {
///         if event.body().is_empty() {
///             return Outcome::skip("it is empty");
///         }
///         self.client.put(event.body()).await.into()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle events",
    note = "a closure names both types: `|event: Event, context: EventContext| async move {{ … }}`",
    note = "one that captures clones first: `move |event: Event, _: EventContext| {{ let client = \
            client.clone(); async move {{ … }} }}`"
)]
pub trait EventHandler: Send + Sync + 'static {
    /// Handles an event.
    ///
    /// # Cancel safety
    /// The future is dropped at its deadline
    /// ([`ConsumerOptions::handler_timeout`](crate::ConsumerOptions::handler_timeout)), when a drain runs out of
    /// time, and when the partition is lost. The event is then delivered again.
    fn handle(&self, event: Event, context: EventContext) -> impl Future<Output = Outcome> + Send;
}

impl<F, Fut, O> EventHandler for F
where
    F: Fn(Event, EventContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send,
    O: Into<Outcome>,
{
    fn handle(&self, event: Event, context: EventContext) -> impl Future<Output = Outcome> + Send {
        let call = self(event, context);
        async move { call.await.into() }
    }
}

impl<H: EventHandler> EventHandler for Arc<H> {
    fn handle(&self, event: Event, context: EventContext) -> impl Future<Output = Outcome> + Send {
        H::handle(self, event, context)
    }
}

/// Handles a batch of events of one partition.
///
/// A handler is a function, a closure, a type of your own, or an `Arc` of a handler. It returns `()`, [`Outcomes`],
/// a `Vec<Outcome>`, or a `Result` of one of them. An `Err` fails the batch as a whole.
///
/// Most handlers do several events of the batch at once, with [`Batch::for_each_concurrent`].
///
/// ```
/// use longshore::{Batch, BatchContext, BatchHandler, Event, Failure, Outcomes};
///
/// async fn store(event: Event) -> Result<(), Failure> {
///     println!("{} bytes", event.body().len());
///     Ok(())
/// }
///
/// # fn check(_: impl BatchHandler) {}
/// // Ten at once; each event succeeds or fails by itself.
/// let ten_at_once = |batch: Batch, _: BatchContext| batch.for_each_concurrent(10, store);
/// # check(ten_at_once);
///
/// // All in one request: it succeeds or fails as a whole.
/// async fn insert(batch: Batch, _: BatchContext) -> Result<(), Failure> {
///     let rows: Vec<&[u8]> = batch.iter().map(|event| event.body().as_ref()).collect();
///     println!("{} rows", rows.len());
///     Ok(())
/// }
/// # check(insert);
/// ```
///
/// A closure that captures something clones what each call needs, like a handler of events:
///
/// ```
/// # use longshore::{Batch, BatchContext, BatchHandler, Failure};
/// # #[derive(Clone)] struct Client;
/// # impl Client { async fn put(&self, _: &[u8]) -> std::io::Result<()> { Ok(()) } }
/// # let client = Client;
/// let handler = move |batch: Batch, _: BatchContext| {
///     let client = client.clone();
///     async move {
///         for event in &batch {
///             client.put(event.body()).await?;
///         }
///         Ok::<(), Failure>(())
///     }
/// };
/// # fn check(_: impl BatchHandler) {}
/// # check(handler);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle batches",
    note = "a closure names both types: `|batch: Batch, context: BatchContext| async move {{ … }}`",
    note = "one that captures clones first: `move |batch: Batch, _: BatchContext| {{ let client = \
            client.clone(); async move {{ … }} }}`"
)]
pub trait BatchHandler: Send + Sync + 'static {
    /// Handles a batch and returns one outcome for each event, by position.
    ///
    /// # Cancel safety
    /// The future is dropped at its deadline
    /// ([`ConsumerOptions::handler_timeout`](crate::ConsumerOptions::handler_timeout)), when a drain runs out of
    /// time, and when the partition is lost. The events are then delivered again.
    fn handle(&self, batch: Batch, context: BatchContext) -> impl Future<Output = Outcomes> + Send;
}

impl<F, Fut, O> BatchHandler for F
where
    F: Fn(Batch, BatchContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send,
    O: Into<Outcomes>,
{
    fn handle(&self, batch: Batch, context: BatchContext) -> impl Future<Output = Outcomes> + Send {
        let call = self(batch, context);
        async move { call.await.into() }
    }
}

impl<H: BatchHandler> BatchHandler for Arc<H> {
    fn handle(&self, batch: Batch, context: BatchContext) -> impl Future<Output = Outcomes> + Send {
        H::handle(self, batch, context)
    }
}

macro_rules! shared_context {
    ($name:ident) => {
        impl $name {
            /// The partition that the work came from.
            pub fn partition(&self) -> &Partition {
                &self.scope.partition
            }

            /// The lease epoch of this ownership. It is greater than that of every earlier owner, so you can
            /// fence your own writes with it.
            pub fn lease_epoch(&self) -> LeaseEpoch {
                self.scope.lease_epoch
            }

            /// Fires when the partition is about to leave this worker: it is handed to another worker, drained,
            /// or lost. The token cuts nothing. It is for a handler that takes long and whose work the next
            /// owner can continue. Such a handler stops and returns [`Outcome::put_back`], and the partition
            /// does not wait for it any longer.
            ///
            /// A hand-off may be called back. Calls that begin after that have a new token, which has not
            /// fired. The token of a running call stays fired.
            pub fn handing_off(&self) -> &CancellationToken {
                &self.scope.handing_off
            }

            /// Fires when the handler must give up: a drain ran out of time, or the partition is lost. The
            /// future is dropped 1 s later ([`CANCEL_GRACE`](crate::consumer::CANCEL_GRACE)).
            pub fn cancelled(&self) -> &CancellationToken {
                &self.scope.cancelled
            }

            /// Fires when another owner has the partition. From then on, what the handler does may be done
            /// twice.
            pub fn partition_lost(&self) -> &CancellationToken {
                &self.scope.lost
            }

            /// When the future will be dropped. `None`: the handler may take as long as it likes. Each
            /// [`progress`](Self::progress) moves the deadline.
            pub fn deadline(&self) -> Option<Instant> {
                let deadline = self.deadline?;
                let renewed = self.scope.renewals.deadline(self.serial);
                Some(renewed.map_or(deadline, |renewed| renewed.max(deadline)))
            }

            /// Reports progress: the [`handler_timeout`](crate::ConsumerOptions::handler_timeout) of this call
            /// begins anew. Use it for long work that can tell that it does not hang. Call it as often as you
            /// like; every few seconds is enough. It does not prolong a drain.
            ///
            /// ```
            /// # use longshore::{Event, EventContext, Failure};
            /// # async fn next_block() -> std::io::Result<Option<Vec<u8>>> { Ok(None) }
            /// async fn copy(event: Event, context: EventContext) -> Result<(), Failure> {
            ///     while let Some(block) = next_block().await? {
            ///         println!("{} bytes", block.len());
            ///         context.progress();
            ///     }
            ///     Ok(())
            /// }
            /// ```
            pub fn progress(&self) {
                self.scope.renewals.renew(self.serial, Instant::now());
            }
        }
    };
}

/// What a handler of events knows beside the event.
#[derive(Clone, Debug)]
pub struct EventContext {
    pub(crate) scope: Arc<Scope>,
    pub(crate) tracked: Tracked,
    pub(crate) attempt: Attempt,
    /// Names the call.
    pub(crate) serial: u64,
    pub(crate) deadline: Option<Instant>,
}

shared_context!(EventContext);

impl EventContext {
    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// When the event first failed. `None` at the first attempt.
    pub fn first_failure(&self) -> Option<SystemTime> {
        self.attempt.first_failure
    }

    /// Lets the event be settled elsewhere, later. Give the [`Settler`] to the work, and return the [`Outcome`]
    /// from the handler. The slot is free when the handler returns.
    ///
    /// The end of the call counts. If the handler returns another outcome, panics or misses its deadline, the
    /// settler changes nothing, whether it speaks before that or after it.
    pub fn defer(self) -> (Settler, Outcome) {
        Settler::new(self.tracked, self.attempt, self.scope)
    }
}

/// What a handler of batches knows beside the batch.
#[derive(Clone, Debug)]
pub struct BatchContext {
    pub(crate) scope: Arc<Scope>,
    pub(crate) tracked: TrackedBatch,
    /// Names the call.
    pub(crate) serial: u64,
    pub(crate) deadline: Option<Instant>,
    pub(crate) reason: FlushReason,
}

shared_context!(BatchContext);

impl BatchContext {
    /// Why the batch was handed out.
    pub fn flush_reason(&self) -> FlushReason {
        self.reason
    }

    /// The number of this attempt for the event at `index`, from 1. `None` if the batch has no such event.
    pub fn attempt(&self, index: usize) -> Option<u32> {
        self.tracked.attempt(index).map(|attempt| attempt.number)
    }

    /// When the event at `index` first failed. `None` at its first attempt.
    pub fn first_failure(&self, index: usize) -> Option<SystemTime> {
        self.tracked.attempt(index).and_then(|attempt| attempt.first_failure)
    }

    /// Lets the event at `index` be settled elsewhere, later; see [`EventContext::defer`]. `None` if the batch has
    /// no such event.
    pub fn defer(&self, index: usize) -> Option<(Settler, Outcome)> {
        let (tracked, attempt) = (self.tracked.get(index)?, self.tracked.attempt(index)?);
        Some(Settler::new(tracked, attempt, Arc::clone(&self.scope)))
    }
}

/// Ends one event whose handler deferred it. Dropping it asks for a retry.
///
/// A settler is for one attempt: the one whose handler returned the outcome that came with it. If it settles the
/// event before the handler returns, that takes effect when the handler returns. If an attempt has several
/// settlers, the first one counts.
#[must_use = "dropping a settler asks for a retry"]
pub struct Settler {
    tracked: Option<Tracked>,
    attempt: u32,
    scope: Arc<Scope>,
}

impl Settler {
    fn new(tracked: Tracked, attempt: Attempt, scope: Arc<Scope>) -> (Self, Outcome) {
        let attempt = attempt.call;
        let deferred = Deferred::new(tracked.event.sequence_number(), attempt);
        (Self { tracked: Some(tracked), attempt, scope }, Outcome::Deferred(deferred))
    }

    /// Ends the event. It changes nothing after the partition has left, or after the attempt was given up: the
    /// event is then delivered again.
    pub fn settle(mut self, outcome: impl Into<Outcome>) {
        self.complete(outcome.into());
    }

    /// The event.
    pub fn event(&self) -> Option<&Event> {
        self.tracked.as_ref().map(|tracked| &tracked.event)
    }

    /// Fires when the partition is about to leave this worker; see [`EventContext::handing_off`].
    pub fn handing_off(&self) -> &CancellationToken {
        &self.scope.handing_off
    }

    /// Fires when the work must give up: a drain ran out of time, or the partition is lost. After 1 s
    /// ([`CANCEL_GRACE`](crate::consumer::CANCEL_GRACE)) the event is given up and counts as cut ([`PartitionExit::cut_handlers`](crate::consumer::PartitionExit::cut_handlers)).
    pub fn cancelled(&self) -> &CancellationToken {
        &self.scope.cancelled
    }

    /// Fires when another owner has the partition. That owner gets the event again, so what is done from now on
    /// may be done twice.
    pub fn partition_lost(&self) -> &CancellationToken {
        &self.scope.lost
    }

    /// Waits until the ownership of the partition has ended. The settler changes nothing after that.
    ///
    /// # Cancel safety
    /// A dropped call changes nothing.
    pub async fn abandoned(&self) {
        self.scope.completions.closed().await;
    }

    fn complete(&mut self, outcome: Outcome) {
        if let Some(tracked) = self.tracked.take() {
            // A closed channel means that the ownership ended.
            let completion = Completion::Deferred { tracked, attempt: self.attempt, outcome };
            let _ended = self.scope.completions.send(completion);
        }
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.complete(Outcome::retry(Failure::transient("its settler was dropped")));
    }
}

impl fmt::Debug for Settler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settler").field("event", &self.event()).finish()
    }
}

/// Makes a handler of decoded events. `decode` turns a body into a value. If a body does not decode, its event
/// becomes a dead letter that holds the bytes.
///
/// ```
/// use longshore::{Outcome, decoded};
///
/// #[derive(serde::Deserialize)]
/// struct Order { id: u64 }
///
/// let handler = decoded(
///     |event| serde_json::from_slice::<Order>(event.body()),
///     |order: Order, _event, _context| async move {
///         println!("order {}", order.id);
///         Outcome::Done
///     },
/// );
/// # fn check(_: impl longshore::EventHandler) {}
/// # check(handler);
/// ```
pub fn decoded<T, E, D, H, Fut>(decode: D, handle: H) -> impl EventHandler
where
    T: Send + 'static,
    E: std::error::Error + 'static,
    D: Fn(&Event) -> Result<T, E> + Send + Sync + 'static,
    H: Fn(T, Event, EventContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<Outcome>> + Send,
{
    Decoded { decode, handle }
}

struct Decoded<D, H> {
    decode: D,
    handle: H,
}

impl<T, E, D, H, Fut> EventHandler for Decoded<D, H>
where
    T: Send + 'static,
    E: std::error::Error + 'static,
    D: Fn(&Event) -> Result<T, E> + Send + Sync + 'static,
    H: Fn(T, Event, EventContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<Outcome>> + Send,
{
    fn handle(&self, event: Event, context: EventContext) -> impl Future<Output = Outcome> + Send {
        let call = match (self.decode)(&event) {
            Ok(value) => Ok((self.handle)(value, event, context)),
            Err(error) => Err(Outcome::dead_letter(
                Failure::new(crate::ErrorClass::BadData, "the body does not decode")
                    .caused_by(&error),
            )),
        };
        async move {
            match call {
                Ok(call) => call.await.into(),
                Err(outcome) => outcome,
            }
        }
    }
}
