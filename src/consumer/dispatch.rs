//! Runs handlers under slots and brings back what became of their events.
//!
//! A unit of work (one event, or one batch) holds a slot from before its handler is called
//! until it returns. Whatever the handler does — return, panic, hang — its unit comes back
//! with an outcome for each event; the handler's future is all that is lost.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, debug_span};

use super::handler::{
    Batch, BatchContext, BatchHandler, Ended, EventContext, EventHandler, HandlerError, Outcomes,
    Scope,
};
use crate::error::ErrorClass;
use crate::event::Event;
use crate::outcome::{Failure, Outcome};
use crate::state::batch_buffer::FlushReason;
use crate::state::watermark::Ticket;

/// An event on its way through a handler.
#[derive(Clone, Debug)]
pub(crate) struct Tracked {
    pub(crate) event: Event,
    pub(crate) ticket: Ticket,
    /// Attempts begun.
    pub(crate) attempts: u32,
    pub(crate) first_failure: Option<SystemTime>,
}

/// What a handler is called with at once.
#[derive(Debug)]
pub(crate) enum Unit {
    Event(Tracked),
    Batch(Vec<Tracked>, FlushReason),
}

/// What comes back to the partition's worker.
#[derive(Debug)]
pub(crate) enum Completion {
    Event(TaskKey, Tracked, Outcome),
    Batch(TaskKey, Vec<Tracked>, Outcomes),
    /// From a settler.
    Deferred(Tracked, Outcome),
}

/// Where the worker keeps the handle of a running task.
pub(crate) type TaskKey = usize;

/// Calls the user's handler, one kind or the other.
pub(crate) trait Mode: Send + Sync + 'static {
    /// Whether events wait to become batches.
    const BATCHES: bool;

    /// Calls the handler for a unit of this mode's kind.
    fn run(
        self: Arc<Self>,
        key: TaskKey,
        unit: Unit,
        scope: Arc<Scope>,
    ) -> impl Future<Output = Completion> + Send;
}

pub(crate) struct EventMode<H> {
    pub(crate) handler: H,
    pub(crate) timeout: Option<Duration>,
}

pub(crate) struct BatchMode<H> {
    pub(crate) handler: H,
    pub(crate) timeout: Option<Duration>,
}

impl<H: EventHandler> EventMode<H> {
    async fn call(&self, tracked: &Tracked, scope: Arc<Scope>) -> Outcome {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let context = EventContext { scope, tracked: tracked.clone(), deadline };
        let span = debug_span!(
            "handle",
            message_topic = %context.scope.partition.entity,
            message_partition = %context.scope.partition.id,
            message_offset = tracked.event.sequence_number().0,
            message_consumer_group = %context.scope.consumer_group,
            attempt = tracked.attempts,
        );
        let call = async { self.handler.handle(tracked.event.clone(), context).await };
        match guarded(call.instrument(span), deadline).await {
            Ok(outcome) => outcome,
            Err(interrupted) => Outcome::retry(interrupted),
        }
    }
}

impl<H: EventHandler> Mode for EventMode<H> {
    const BATCHES: bool = false;

    async fn run(self: Arc<Self>, key: TaskKey, unit: Unit, scope: Arc<Scope>) -> Completion {
        match unit {
            Unit::Event(tracked) => {
                let outcome = self.call(&tracked, scope).await;
                Completion::Event(key, tracked, outcome)
            }
            Unit::Batch(batch, _) => {
                let mut outcomes = Vec::with_capacity(batch.len());
                for tracked in &batch {
                    outcomes.push(self.call(tracked, Arc::clone(&scope)).await);
                }
                Completion::Batch(key, batch, outcomes.into())
            }
        }
    }
}

impl<H: BatchHandler> Mode for BatchMode<H> {
    const BATCHES: bool = true;

    async fn run(self: Arc<Self>, key: TaskKey, unit: Unit, scope: Arc<Scope>) -> Completion {
        let (tracked, reason) = match unit {
            Unit::Batch(tracked, reason) => (tracked, reason),
            Unit::Event(tracked) => (vec![tracked], FlushReason::Size),
        };
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let batch = Batch::new(tracked.iter().map(|tracked| tracked.event.clone()));
        let context = BatchContext { scope, tracked: tracked.clone().into(), deadline, reason };
        let offset = |tracked: Option<&Tracked>| tracked.map(|one| one.event.sequence_number().0);
        let span = debug_span!(
            "handle_batch",
            message_topic = %context.scope.partition.entity,
            message_partition = %context.scope.partition.id,
            message_offset = offset(tracked.first()),
            last_message_offset = offset(tracked.last()),
            message_consumer_group = %context.scope.consumer_group,
            events = tracked.len(),
        );
        let call = async { self.handler.handle(batch, context).await };
        let failure = match guarded(call.instrument(span), deadline).await {
            Ok(Ok(outcomes)) => match &outcomes.0 {
                Ended::Each(each) if each.len() != tracked.len() => Failure::transient(format!(
                    "the handler returned {} outcomes for {} events",
                    each.len(),
                    tracked.len()
                )),
                _ => return Completion::Batch(key, tracked, outcomes),
            },
            Ok(Err(HandlerError(failure))) => failure,
            Err(interrupted) => interrupted,
        };
        let outcome = if failure.class.is_retryable() {
            Outcome::retry(failure)
        } else {
            Outcome::DeadLetter(failure)
        };
        let outcomes = vec![outcome; tracked.len()];
        Completion::Batch(key, tracked, outcomes.into())
    }
}

/// Awaits a handler's future; a panic or a missed deadline becomes a failure.
async fn guarded<T>(
    call: impl Future<Output = T>,
    deadline: Option<Instant>,
) -> Result<T, Failure> {
    let call = AssertUnwindSafe(call).catch_unwind();
    let returned = match deadline {
        Some(deadline) => match timeout_at(deadline, call).await {
            Ok(returned) => returned,
            Err(_elapsed) => {
                return Err(Failure::transient("the handler did not end by its deadline"));
            }
        },
        None => call.await,
    };
    returned.map_err(|panic| {
        let said = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "without a message".to_owned());
        Failure::new(ErrorClass::Unknown, format!("the handler panicked: {said}"))
    })
}

/// The slots all partitions of a consumer share. A waiting partition keeps its place in line,
/// so slots go round the partitions that have work.
#[derive(Debug)]
pub(crate) struct Slots {
    semaphore: Arc<Semaphore>,
    limit: Mutex<usize>,
    /// Permits to withhold as they come back, after the limit was lowered.
    surplus: AtomicUsize,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(limit)),
            limit: Mutex::new(limit),
            surplus: AtomicUsize::new(0),
        }
    }

    pub(crate) fn semaphore(&self) -> &Arc<Semaphore> {
        &self.semaphore
    }

    pub(crate) fn limit(&self) -> usize {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the number of slots; running handlers are not cut.
    pub(crate) fn set_limit(&self, limit: usize) {
        let mut current = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if limit > *current {
            let more = limit - *current;
            let mut withheld = 0;
            // What is still owed from a lowering is forgiven first.
            let _previous =
                self.surplus.fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| {
                    withheld = surplus.min(more);
                    Some(surplus - withheld)
                });
            self.semaphore.add_permits(more - withheld);
        } else {
            let fewer = *current - limit;
            let forgotten = self.semaphore.forget_permits(fewer);
            self.surplus.fetch_add(fewer - forgotten, Ordering::AcqRel);
        }
        *current = limit;
    }

    /// Gives a slot back.
    pub(crate) fn release(&self, permit: OwnedSemaphorePermit) {
        let owed = self
            .surplus
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| surplus.checked_sub(1));
        if owed.is_ok() {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowering_the_limit_withholds_slots_as_they_come_back() {
        let slots = Slots::new(3);
        let take = || Arc::clone(slots.semaphore()).try_acquire_owned();
        let (first, second) = (take().expect("free"), take().expect("free"));
        slots.set_limit(1);
        assert!(take().is_err(), "the free one is gone, and one more is owed");
        slots.release(first);
        assert!(take().is_err());
        slots.release(second);
        let third = take().expect("one slot is left");
        slots.set_limit(2);
        assert!(take().is_ok());
        drop(third);
    }

    #[tokio::test]
    async fn a_panic_becomes_a_failure_with_its_message() {
        let call = async {
            if true {
                panic!("boom {}", 7)
            }
        };
        let failure = guarded(call, None).await.expect_err("panicked");
        assert_eq!(failure.message, "the handler panicked: boom 7");
    }
}
