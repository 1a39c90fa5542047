//! Runs handlers under slots and brings back what became of their events.
//!
//! A unit of work (one event, or one batch) holds a slot from before its handler is called
//! until it returns. Whatever the handler does — return, panic, hang — its unit comes back
//! with an outcome for each event; the handler's future is all that is lost.

use std::any::{Any, type_name};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tracing::{Span, debug_span};

use super::handler::{
    BatchContext, BatchHandler, Ended, EventContext, EventHandler, HandlerError, Outcomes, Scope,
};
use super::running::CallId;
use super::unit::{Tracked, Unit};
use crate::error::ErrorClass;
use crate::event::{Event, SequenceNumber};
use crate::outcome::{Failure, Outcome};

/// What comes back to the partition's worker.
#[derive(Debug)]
pub(crate) enum Completion {
    /// A call ended, with an outcome for each of its events.
    Call(CallId, Outcomes),
    /// From a settler of this attempt.
    Deferred { tracked: Tracked, attempt: u32, outcome: Outcome },
}

/// Calls the user's handler, one kind or the other.
pub(crate) trait Mode: Send + Sync + 'static {
    /// Whether events wait to become batches.
    const BATCHES: bool;

    /// The handler's type, for the log.
    fn handler_name() -> &'static str;

    /// Calls the handler for a unit of this mode's kind.
    fn call(
        self: Arc<Self>,
        unit: Unit,
        scope: Arc<Scope>,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Outcomes> + Send + 'static;
}

pub(crate) struct EventMode<H>(pub(crate) H);

pub(crate) struct BatchMode<H>(pub(crate) H);

impl<H: EventHandler> Mode for EventMode<H> {
    const BATCHES: bool = false;

    fn handler_name() -> &'static str {
        type_name::<H>()
    }

    fn call(
        self: Arc<Self>,
        unit: Unit,
        scope: Arc<Scope>,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Outcomes> + Send + 'static {
        let call = match unit {
            Unit::Event(tracked, attempt) => {
                let event = tracked.event.clone();
                Some((event, EventContext { scope, tracked, attempt, deadline }))
            }
            Unit::Batch(..) => None,
        };
        async move {
            let Some((event, context)) = call else {
                return misfit("a batch came to a handler of events");
            };
            match self.0.handle(event, context).await {
                Outcome::Done => Outcomes::all_done(),
                outcome => Outcomes(Ended::One(outcome)),
            }
        }
    }
}

impl<H: BatchHandler> Mode for BatchMode<H> {
    const BATCHES: bool = true;

    fn handler_name() -> &'static str {
        type_name::<H>()
    }

    async fn call(
        self: Arc<Self>,
        unit: Unit,
        scope: Arc<Scope>,
        deadline: Option<Instant>,
    ) -> Outcomes {
        let Unit::Batch(tracked, reason) = unit else {
            return misfit("an event came to a handler of batches");
        };
        let batch = tracked.events.clone();
        let context = BatchContext { scope, tracked, deadline, reason };
        match self.0.handle(batch, context).await {
            Ok(outcomes) => outcomes,
            Err(HandlerError(failure)) => Outcomes(Ended::One(Outcome::from(Err(failure)))),
        }
    }
}

/// No handler saw the unit, so nothing of it is done.
fn misfit(what: &'static str) -> Outcomes {
    Outcomes(Ended::One(Outcome::retry(Failure::transient(what))))
}

/// The span handlers of a unit run in; nothing where it is filtered out.
fn span(unit: &Unit, scope: &Scope) -> Span {
    let number = |event: Option<&Event>| event.map(|event| event.sequence_number().0);
    match unit {
        Unit::Event(tracked, attempt) => debug_span!(
            "handle",
            message_topic = %scope.partition.entity,
            message_partition = %scope.partition.id,
            message_offset = tracked.event.sequence_number().0,
            message_consumer_group = %scope.consumer_group,
            attempt = attempt.number,
        ),
        Unit::Batch(batch, _) => debug_span!(
            "handle_batch",
            message_topic = %scope.partition.entity,
            message_partition = %scope.partition.id,
            message_offset = number(batch.events.first()),
            last_message_offset = number(batch.events.last()),
            message_consumer_group = %scope.consumer_group,
            events = batch.events.len(),
        ),
    }
}

/// Makes the task of one handler call.
pub(crate) fn call<M: Mode>(
    mode: &Arc<M>,
    unit: &Unit,
    scope: &Arc<Scope>,
    slot: Slot,
    id: CallId,
    deadline: Option<Instant>,
) -> impl Future<Output = ()> + Send + 'static {
    Call {
        span: span(unit, scope),
        handler: Arc::clone(mode).call(unit.clone(), Arc::clone(scope), deadline),
        slot: Some(slot),
        scope: Arc::clone(scope),
        id,
        first: unit.first_event().map_or(SequenceNumber(0), Event::sequence_number),
    }
}

pin_project! {
    /// A handler call: runs under its slot and inside its span, survives the handler's panics,
    /// is watched while it is polled, and reports. Written by hand: each `async` block around a
    /// future doubles its size, and futures are copied on their way into a task.
    struct Call<F> {
        #[pin]
        handler: F,
        span: Span,
        slot: Option<Slot>,
        scope: Arc<Scope>,
        id: CallId,
        first: SequenceNumber,
    }
}

impl<F: Future<Output = Outcomes>> Future for Call<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let entered = this.span.enter();
        let poll = AssertUnwindSafe(|| this.handler.poll(cx));
        let polled = this.scope.watched.poll(*this.first, || catch_unwind(poll));
        drop(entered);
        let outcomes = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcomes)) => outcomes,
            Err(panic) => Outcomes(Ended::One(Outcome::retry(panic_failure(&*panic)))),
        };
        // The slot first: the next event need not wait for our bookkeeping.
        drop(this.slot.take());
        let _ended = this.scope.completions.send(Completion::Call(*this.id, outcomes));
        Poll::Ready(())
    }
}

/// What a panic said.
fn panic_failure(panic: &(dyn Any + Send)) -> Failure {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message");
    Failure::new(ErrorClass::Unknown, format!("the handler panicked: {said}"))
}

/// The slots all partitions of a consumer share. A waiting partition keeps its place in line,
/// so slots go round the partitions that have work.
#[derive(Debug)]
pub(crate) struct Slots {
    semaphore: Arc<Semaphore>,
    limit: Mutex<usize>,
    /// Permits to withhold as they come back, after the limit was lowered.
    surplus: AtomicUsize,
    number_changed: Notify,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(limit)),
            limit: Mutex::new(limit),
            surplus: AtomicUsize::new(0),
            number_changed: Notify::new(),
        }
    }

    /// For whoever waits in line; a permit obtained there becomes a [`Slot`].
    pub(crate) fn semaphore(&self) -> &Arc<Semaphore> {
        &self.semaphore
    }

    /// Takes a slot, if one is free.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Slot> {
        self.semaphore.try_acquire().ok()?.forget();
        Some(Slot::one_of(self))
    }

    /// Takes all slots, once all are free; whoever asks later waits behind. Begins anew when
    /// their number changes.
    pub(crate) async fn take_all(self: Arc<Self>) -> Vec<Slot> {
        loop {
            let changed = self.number_changed.notified();
            let number = self.limit() + self.surplus.load(Ordering::Acquire);
            let all = u32::try_from(number).unwrap_or(u32::MAX);
            tokio::select! {
                biased;
                () = changed => {}
                // It is never closed.
                permits = self.semaphore.acquire_many(all) => {
                    permits.into_iter().for_each(SemaphorePermit::forget);
                    return (0..number).map(|_| Slot::one_of(&self)).collect();
                }
            }
        }
    }

    pub(crate) fn limit(&self) -> usize {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots that are taken, those beyond a lowered limit included.
    pub(crate) fn in_use(&self) -> usize {
        let limit = self.limit() + self.surplus.load(Ordering::Acquire);
        limit.saturating_sub(self.semaphore.available_permits())
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
        drop(current);
        self.number_changed.notify_waiters();
    }

    /// Gives a slot back.
    fn release(&self) {
        let owed = self
            .surplus
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |surplus| surplus.checked_sub(1));
        match owed {
            Ok(_paid) => self.number_changed.notify_waiters(),
            Err(_) => self.semaphore.add_permits(1),
        }
    }
}

/// A slot that is taken. Dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Slot(Option<Arc<Slots>>);

impl Slot {
    /// The slot of a permit that was waited for.
    pub(crate) fn of(permit: OwnedSemaphorePermit, slots: &Arc<Slots>) -> Self {
        permit.forget();
        Self::one_of(slots)
    }

    fn one_of(slots: &Arc<Slots>) -> Self {
        Self(Some(Arc::clone(slots)))
    }

    /// A slot whose owner lends it, and keeps it.
    pub(crate) fn lent() -> Self {
        Self(None)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = &self.0 {
            slots.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::checkpoint_store::LeaseEpoch;
    use crate::consumer::blocking::WatchedHandler;
    use crate::consumer::handler::Batch;
    use crate::consumer::unit::{Failures, TrackedBatch};
    use crate::event::{EventParts, Partition};
    use crate::state::batch_buffer::FlushReason;
    use crate::state::watermark::Ticket;

    #[test]
    fn lowering_the_limit_withholds_slots_as_they_come_back() {
        let slots = Arc::new(Slots::new(3));
        let (first, second) = (slots.try_take().expect("free"), slots.try_take().expect("free"));
        slots.set_limit(1);
        assert!(slots.try_take().is_none(), "the free one is gone, and one more is owed");
        drop(first);
        assert!(slots.try_take().is_none());
        drop(second);
        let third = slots.try_take().expect("one slot is left");
        slots.set_limit(2);
        assert!(slots.try_take().is_some());
        drop(third);
    }

    #[tokio::test]
    async fn whoever_takes_all_slots_has_as_many_as_there_are_by_then() {
        let slots = Arc::new(Slots::new(3));
        let held = slots.try_take().expect("free");
        let mut all = Box::pin(Arc::clone(&slots).take_all());
        assert!(futures::poll!(all.as_mut()).is_pending());
        assert!(slots.try_take().is_none(), "who asks later waits behind");
        slots.set_limit(2);
        assert!(futures::poll!(all.as_mut()).is_pending());
        drop(held);
        let all = all.await;
        assert_eq!((all.len(), slots.in_use()), (2, 2));
        drop(Slot::lent());
        assert_eq!(slots.in_use(), 2);
        drop(all);
        assert_eq!(slots.in_use(), 0);
        assert_eq!(Arc::clone(&slots).take_all().await.len(), 2);
    }

    /// The scope of calls that report to nobody.
    fn scope() -> Arc<Scope> {
        let partition = Partition::new("orders", "0");
        Arc::new(Scope {
            partition: partition.clone(),
            consumer_group: "$Default".into(),
            lease_epoch: LeaseEpoch(1),
            cancelled: CancellationToken::new(),
            lost: CancellationToken::new(),
            completions: unbounded_channel().0,
            watched: WatchedHandler::new("none", partition, "$Default".into()),
        })
    }

    #[tokio::test]
    async fn a_unit_of_the_other_kind_is_not_taken_for_done() {
        let event: Event = EventParts::new(Arc::new(Partition::new("orders", "0")), 7, "").into();
        let tracked = Tracked { event, ticket: Ticket::FIRST };
        let failures = Failures::default();
        let attempt = failures.attempt(tracked.ticket);
        let batch = TrackedBatch::new(vec![tracked.clone()], 0, &failures);
        let of_events = Arc::new(EventMode(async |_: Event, _: EventContext| {}));
        let outcomes = of_events.call(Unit::Batch(batch, FlushReason::Size), scope(), None).await;
        assert_eq!(outcomes, misfit("a batch came to a handler of events"));
        let of_batches =
            Arc::new(BatchMode(async |_: Batch, _: BatchContext| Ok::<(), Failure>(())));
        let outcomes = of_batches.call(Unit::Event(tracked, attempt), scope(), None).await;
        assert_eq!(outcomes, misfit("an event came to a handler of batches"));
    }

    #[test]
    fn a_panic_becomes_a_failure_with_its_message() {
        for panic in [Box::new("boom 7") as Box<dyn Any + Send>, Box::new("boom 7".to_owned())] {
            assert_eq!(panic_failure(&*panic).message, "the handler panicked: boom 7");
        }
        assert_eq!(panic_failure(&7).message, "the handler panicked: without a message");
    }
}
