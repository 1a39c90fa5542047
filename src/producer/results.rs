//! Publishes the results of a worker behind its work, so that a slot ends with the work.
//!
//! A handler that waits for the answer of a hub holds its slot for a round trip and more. With a
//! [`ResultPublisher`] it does not:
//!
//! 1. It takes [`room`](ResultPublisher::room) for its result before it begins the work. So the work that is done
//!    and not yet published is bounded, and no work begins that could not be reported.
//! 2. It does the work.
//! 3. It hands the result over and returns. Its slot is free. If the answer is not there at once, its event is
//!    [deferred](crate::consumer::EventContext::defer) until then.
//! 4. Results that wait together travel together. The acknowledgement of a result settles its event, so the
//!    checkpoint waits for it.
//!
//! A hand-off waits for results as it waits for handlers. If a drain runs out of time, the results that are still
//! here count as cut. If the partition is lost, they are dropped. In both cases the event is delivered again.
//!
//! ```
//! use std::sync::Arc;
//!
//! use longshore::producer::results::ResultPublisher;
//! use longshore::{Event, EventContext, Outcome, OutgoingEvent};
//!
//! async fn handle(results: Arc<ResultPublisher>, event: Event, context: EventContext) -> Outcome {
//!     let room = results.room(4_096).await;
//!     let answer = OutgoingEvent::new(format!("{} bytes", event.body().len()));
//!     results.publish_for(context, room, answer, "the event is measured")
//! }
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tracing::warn;

use super::EntityProducer;
use super::entity::{Starts, Unsent};
use crate::consumer::{EventContext, Settler};
use crate::error::{Error, ErrorClass};
use crate::event::OutgoingEvent;
use crate::outcome::{Failure, Outcome};
use crate::transport::SendTarget;

/// The most results that were begun and are not acknowledged: 1,000; see [`ResultPublisher::with_room`].
pub const MAX_RESULTS: usize = 1_000;

/// The most bytes of such results: 8 MiB.
pub const MAX_RESULT_BYTES: usize = 8 << 20;

/// How long a result waits before the producer is asked again, after the producer gave up: 1 s.
pub const RESULT_WAIT: Duration = Duration::from_secs(1);

/// Publishes the results of events, and settles each event with the answer. Cloning shares it.
#[derive(Clone, Debug)]
pub struct ResultPublisher {
    producer: Arc<EntityProducer>,
    results: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_bytes: usize,
}

/// Room for one result. Dropped, it is another one's.
#[derive(Debug)]
#[must_use]
pub struct Room {
    _result: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl ResultPublisher {
    /// Publishes to what the producer publishes to, with room for [`MAX_RESULTS`] and
    /// [`MAX_RESULT_BYTES`].
    pub fn new(producer: Arc<EntityProducer>) -> Self {
        Self::with_room(producer, MAX_RESULTS, MAX_RESULT_BYTES)
    }

    /// Sets the room: how many results, and how many bytes of them, may be begun and not acknowledged; at least
    /// one of each. Defaults: 1,000 ([`MAX_RESULTS`]) and 8 MiB ([`MAX_RESULT_BYTES`]). A result that is larger
    /// than the whole room takes all of it.
    pub fn with_room(producer: Arc<EntityProducer>, results: usize, bytes: usize) -> Self {
        let max_bytes = bytes.clamp(1, u32::MAX as usize);
        Self {
            producer,
            results: Arc::new(Semaphore::new(results.clamp(1, Semaphore::MAX_PERMITS))),
            bytes: Arc::new(Semaphore::new(max_bytes)),
            max_bytes,
        }
    }

    /// The same publisher with other room, which is its own.
    #[must_use]
    pub fn resized(self, results: usize, bytes: usize) -> Self {
        Self::with_room(self.producer, results, bytes)
    }

    /// Takes room for a result of at most this many bytes, as soon as there is some. Calls get room in the order
    /// in which they asked.
    ///
    /// # Cancel safety
    /// A dropped call takes nothing.
    pub async fn room(&self, bytes: usize) -> Room {
        let bytes = u32::try_from(bytes.clamp(1, self.max_bytes)).unwrap_or(u32::MAX);
        loop {
            let result = Arc::clone(&self.results).acquire_owned().await;
            let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await;
            // Nobody closes them.
            if let (Ok(_result), Ok(_bytes)) = (result, bytes) {
                return Room { _result, _bytes };
            }
        }
    }

    /// Publishes the result of an event, for as long as it takes. Returns what the handler is to return: how the
    /// event ends, if the answer is there at once, or else that it is deferred until then. `what` says what is done,
    /// for messages that go on with ", but not its result".
    ///
    /// A hub that is away is waited for. A result that is too large for it makes a dead letter of its
    /// event; a refusal for good stops the consumer, for every other result would be refused alike.
    pub fn publish_for(
        &self,
        context: EventContext,
        room: Room,
        result: OutgoingEvent,
        what: impl Into<String>,
    ) -> Outcome {
        if context.partition_lost().is_cancelled() {
            return lost_outcome();
        }
        self.begin(result, what.into()).unwrap_or_else(|publishing| {
            let (settler, deferred) = context.defer();
            tokio::spawn(settled(publishing, settler, room));
            deferred
        })
    }

    /// Publishes a result as [`publish_for`](Self::publish_for) does, and settles its event by a settler.
    pub fn publish(
        &self,
        room: Room,
        settler: Settler,
        result: OutgoingEvent,
        what: impl Into<String>,
    ) {
        if settler.partition_lost().is_cancelled() {
            return settler.settle(lost_outcome());
        }
        match self.begin(result, what.into()) {
            Ok(outcome) => settler.settle(outcome),
            Err(publishing) => drop(tokio::spawn(settled(publishing, settler, room))),
        }
    }

    /// How the event of this result ends, if that is known at once.
    fn begin(
        &self,
        result: OutgoingEvent,
        what: String,
    ) -> Result<Outcome, BoxFuture<'static, Outcome>> {
        let producer = Arc::clone(&self.producer);
        let mut publishing = async move { published(&producer, result, &what).await }.boxed();
        (&mut publishing).now_or_never().ok_or(publishing)
    }
}

/// Waits for the end of an event, unless its partition leaves before.
async fn settled(publishing: BoxFuture<'static, Outcome>, settler: Settler, room: Room) {
    let lost = settler.partition_lost().clone();
    let outcome = tokio::select! {
        biased;
        () = lost.cancelled() => lost_outcome(),
        // Until then it counts as what a drain waits for, and then as cut.
        () = settler.abandoned() => return,
        outcome = publishing => outcome,
    };
    settler.settle(outcome);
    drop(room);
}

/// Whoever has the partition now gets the event again. That is no failure of it.
fn lost_outcome() -> Outcome {
    let failure = Failure::new(ErrorClass::PartitionLost, "its partition was lost");
    Outcome::close_lane(Duration::ZERO, failure)
}

/// How the event of this result ends.
async fn published(producer: &EntityProducer, mut result: OutgoingEvent, what: &str) -> Outcome {
    let failure = |error: &Error| {
        Failure::new(error.class(), format!("{what}, but not its result")).caused_by(error)
    };
    loop {
        let sent = producer.send_or_return(SendTarget::Any, result, Starts::Here);
        let Unsent { error, event } = match sent.await {
            Ok(_receipt) => return Outcome::Done,
            Err(unsent) => unsent,
        };
        match event {
            Some(event) if error.class().is_retryable() => {
                warn!(failure = %failure(&error), "a result waits to be published");
                sleep(RESULT_WAIT).await;
                result = *event;
            }
            // What the task brought along made it so.
            Some(_) if error.class() == ErrorClass::TooLarge => {
                return Outcome::DeadLetter(failure(&error));
            }
            _ => return Outcome::abort(failure(&error)),
        }
    }
}
