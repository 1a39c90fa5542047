//! Runs handlers under slots and brings back what became of their events.
//!
//! A unit of work (one event, or one batch) holds a slot from before its handler is called
//! until it returns. Whatever the handler does — return, panic, hang — its unit comes back
//! with an outcome for each event; the handler's future is all that is lost.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::{Instrument, debug_span};

use super::handler::{
    Batch, BatchContext, BatchHandler, Ended, EventContext, EventHandler, HandlerError, Outcomes,
    Scope,
};
use super::running::CallId;
use super::shared::Shared;
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

impl Unit {
    pub(crate) fn events(&self) -> &[Tracked] {
        match self {
            Unit::Event(tracked) => std::slice::from_ref(tracked),
            Unit::Batch(batch, _) => batch,
        }
    }

    /// Why it was handed out; an event by itself is a batch of one.
    fn reason(&self) -> FlushReason {
        match self {
            Unit::Event(_) => FlushReason::Size,
            Unit::Batch(_, reason) => *reason,
        }
    }

    pub(crate) fn into_events(self) -> impl Iterator<Item = Tracked> {
        let (one, many) = match self {
            Unit::Event(tracked) => (Some(tracked), Vec::new()),
            Unit::Batch(batch, _) => (None, batch),
        };
        one.into_iter().chain(many)
    }
}

/// What comes back to the partition's worker.
#[derive(Debug)]
pub(crate) enum Completion {
    /// A call ended, with an outcome for each of its events.
    Call(CallId, Outcomes),
    /// From a settler.
    Deferred(Tracked, Outcome),
}

/// Calls the user's handler, one kind or the other.
pub(crate) trait Mode: Send + Sync + 'static {
    /// Whether events wait to become batches.
    const BATCHES: bool;

    /// Calls the handler for a unit of this mode's kind. Whatever the handler does, the future
    /// ends with an outcome for each event, unless it is dropped.
    fn call(
        self: Arc<Self>,
        unit: &Unit,
        scope: Arc<Scope>,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Outcomes> + Send + 'static;
}

pub(crate) struct EventMode<H>(pub(crate) H);

pub(crate) struct BatchMode<H>(pub(crate) H);

impl<H: EventHandler> Mode for EventMode<H> {
    const BATCHES: bool = false;

    fn call(
        self: Arc<Self>,
        unit: &Unit,
        scope: Arc<Scope>,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Outcomes> + Send + 'static {
        let tracked = unit.events().first().cloned();
        async move {
            let Some(tracked) = tracked else {
                return Outcomes::all_done();
            };
            let event = tracked.event.clone();
            let span = debug_span!(
                "handle",
                message_topic = %scope.partition.entity,
                message_partition = %scope.partition.id,
                message_offset = event.sequence_number().0,
                message_consumer_group = %scope.consumer_group,
                attempt = tracked.attempts,
            );
            let context = EventContext { scope, tracked, deadline };
            let call = async { self.0.handle(event, context).await };
            match survived(call.instrument(span)).await {
                Ok(Outcome::Done) => Outcomes::all_done(),
                Ok(outcome) => Outcomes(Ended::One(outcome)),
                Err(failure) => Outcomes(Ended::One(Outcome::retry(failure))),
            }
        }
    }
}

impl<H: BatchHandler> Mode for BatchMode<H> {
    const BATCHES: bool = true;

    fn call(
        self: Arc<Self>,
        unit: &Unit,
        scope: Arc<Scope>,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Outcomes> + Send + 'static {
        let reason = unit.reason();
        let tracked: Arc<[Tracked]> = unit.events().into();
        async move {
            let count = tracked.len();
            let batch = Batch::new(tracked.iter().map(|tracked| tracked.event.clone()));
            let offset = |one: Option<&Tracked>| one.map(|one| one.event.sequence_number().0);
            let span = debug_span!(
                "handle_batch",
                message_topic = %scope.partition.entity,
                message_partition = %scope.partition.id,
                message_offset = offset(tracked.first()),
                last_message_offset = offset(tracked.last()),
                message_consumer_group = %scope.consumer_group,
                events = count,
            );
            let context = BatchContext { scope, tracked, deadline, reason };
            let call = async { self.0.handle(batch, context).await };
            let failure = match survived(call.instrument(span)).await {
                Ok(Ok(outcomes)) => match outcomes.0 {
                    Ended::Each(each) if each.len() != count => Failure::transient(format!(
                        "the handler returned {} outcomes for {count} events",
                        each.len()
                    )),
                    ended => return Outcomes(ended),
                },
                Ok(Err(HandlerError(failure))) => failure,
                Err(failure) => failure,
            };
            Outcomes(Ended::Each(vec![Outcome::from(Err(failure)); count]))
        }
    }
}

/// Awaits a handler's future; a panic becomes a failure.
async fn survived<T>(call: impl Future<Output = T>) -> Result<T, Failure> {
    AssertUnwindSafe(call).catch_unwind().await.map_err(|panic| {
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
    fn release(&self, permit: OwnedSemaphorePermit) {
        let owed = self
            .surplus
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| surplus.checked_sub(1));
        if owed.is_ok() {
            permit.forget();
        }
    }
}

/// A slot that is taken. Dropped, it is given back.
pub(crate) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    shared: Arc<Shared>,
}

impl Slot {
    pub(crate) fn new(permit: OwnedSemaphorePermit, shared: Arc<Shared>) -> Self {
        Self { permit: Some(permit), shared }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.shared.slots.release(permit);
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
        let failure = survived(call).await.expect_err("panicked");
        assert_eq!(failure.message, "the handler panicked: boom 7");
    }
}
