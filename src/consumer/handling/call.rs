//! Runs handlers under slots and brings back what became of their events.
//!
//! A unit of work (one event, or one batch) holds a slot from before its handler is called
//! until it returns. Whatever the handler does — return, panic, hang — its unit comes back
//! with an outcome for each event; the handler's future is all that is lost.

use std::any::type_name;
use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{Span, debug_span};

use super::batch::{Ended, Outcomes};
use super::handler::{BatchContext, BatchHandler, EventContext, EventHandler};
use super::panics::panic_failure;
use super::scope::{CallId, Completion, Scope};
use super::slots::Slot;
use super::unit::Unit;
use crate::event::{Event, SequenceNumber};
use crate::outcome::{Failure, Outcome};

/// What a call is made of.
pub(crate) struct NewCall<'a> {
    pub(crate) id: CallId,
    pub(crate) unit: &'a Unit,
    pub(crate) scope: &'a Arc<Scope>,
    pub(crate) slot: Slot,
    pub(crate) deadline: Option<Instant>,
}

/// A handler as the engine knows it, whatever its type: the engine is compiled once, and not for each
/// handler.
pub(crate) trait StartCall: Send + Sync {
    /// Whether events wait to become batches.
    fn takes_batches(&self) -> bool;

    /// The handler's type, for the log.
    fn handler_name(&self) -> &'static str;

    /// Starts the task of one call.
    fn start(&self, call: NewCall<'_>, tasks: &TaskTracker) -> AbortHandle;
}

/// A handler of events.
pub(crate) fn of_events<H: EventHandler>(handler: Arc<H>) -> Arc<dyn StartCall> {
    Arc::new(EventCalls(handler))
}

/// A handler of batches.
pub(crate) fn of_batches<H: BatchHandler>(handler: Arc<H>) -> Arc<dyn StartCall> {
    Arc::new(BatchCalls(handler))
}

struct EventCalls<H>(Arc<H>);

struct BatchCalls<H>(Arc<H>);

impl<H: EventHandler> StartCall for EventCalls<H> {
    fn takes_batches(&self) -> bool {
        false
    }

    fn handler_name(&self) -> &'static str {
        type_name::<H>()
    }

    fn start(&self, call: NewCall<'_>, tasks: &TaskTracker) -> AbortHandle {
        let Unit::Event(tracked, attempt) = call.unit else {
            return call.spawn(tasks, ready(misfit("a batch came to a handler of events")));
        };
        let event = tracked.event.clone();
        let context = EventContext {
            scope: Arc::clone(call.scope),
            tracked: tracked.clone(),
            attempt: *attempt,
            serial: call.id.serial,
            deadline: call.deadline,
        };
        let handler = Arc::clone(&self.0);
        call.spawn(tasks, async move {
            match handler.handle(event, context).await {
                Outcome::Done => Outcomes::all_done(),
                outcome => Outcomes(Ended::One(outcome)),
            }
        })
    }
}

impl<H: BatchHandler> StartCall for BatchCalls<H> {
    fn takes_batches(&self) -> bool {
        true
    }

    fn handler_name(&self) -> &'static str {
        type_name::<H>()
    }

    fn start(&self, call: NewCall<'_>, tasks: &TaskTracker) -> AbortHandle {
        let Unit::Batch(tracked, reason) = call.unit else {
            return call.spawn(tasks, ready(misfit("an event came to a handler of batches")));
        };
        let batch = tracked.events.clone();
        let context = BatchContext {
            scope: Arc::clone(call.scope),
            tracked: tracked.clone(),
            serial: call.id.serial,
            deadline: call.deadline,
            reason: *reason,
        };
        let handler = Arc::clone(&self.0);
        call.spawn(tasks, async move { handler.handle(batch, context).await })
    }
}

/// No handler saw the unit, so nothing of it is done.
fn misfit(what: &'static str) -> Outcomes {
    Outcomes(Ended::One(Outcome::retry(Failure::transient(what))))
}

impl NewCall<'_> {
    fn spawn(
        self,
        tasks: &TaskTracker,
        handler: impl Future<Output = Outcomes> + Send + 'static,
    ) -> AbortHandle {
        let call = Call {
            handler,
            span: span(self.unit, self.scope),
            slot: Some(self.slot),
            scope: Arc::clone(self.scope),
            id: self.id,
            first: self.unit.first_event().map_or(SequenceNumber(0), Event::sequence_number),
        };
        tasks.spawn(call).abort_handle()
    }
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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::checkpoint_store::LeaseEpoch;
    use crate::consumer::handling::batch::Batch;
    use crate::consumer::handling::blocking::WatchedHandler;
    use crate::consumer::handling::renewals::Renewals;
    use crate::consumer::handling::unit::{Failures, Tracked, TrackedBatch};
    use crate::event::{EventParts, Partition};
    use crate::state::batch_buffer::FlushReason;
    use crate::state::watermark::Ticket;

    fn scope() -> (Arc<Scope>, UnboundedReceiver<Completion>) {
        let partition = Partition::new("orders", "0");
        let (completions, reports) = unbounded_channel();
        let scope = Scope {
            partition: partition.clone(),
            consumer_group: "$Default".into(),
            lease_epoch: LeaseEpoch(1),
            handing_off: CancellationToken::new(),
            cancelled: CancellationToken::new(),
            lost: CancellationToken::new(),
            completions,
            watched: Arc::new(WatchedHandler::new("none", partition, "$Default".into())),
            renewals: Arc::new(Renewals::new(None)),
        };
        (Arc::new(scope), reports)
    }

    /// What a call of `handler` for `unit` reports.
    async fn reported(handler: &dyn StartCall, unit: &Unit) -> Outcomes {
        let (scope, mut reports) = scope();
        let id = CallId { key: 0, serial: 0 };
        let slot = Slot::lent();
        let call = NewCall { id, unit, scope: &scope, slot, deadline: None };
        handler.start(call, &TaskTracker::new());
        match reports.recv().await {
            Some(Completion::Call(_, outcomes)) => outcomes,
            other => panic!("{other:?} instead of a report"),
        }
    }

    #[tokio::test]
    async fn a_unit_of_the_other_kind_is_not_taken_for_done() {
        let event: Event = EventParts::new(Arc::new(Partition::new("orders", "0")), 7, "").into();
        let tracked = Tracked { event, ticket: Ticket::FIRST };
        let failures = Failures::default();
        let attempt = failures.attempt(tracked.ticket);
        let batch = TrackedBatch::new(vec![tracked.clone()], 0, &failures);
        let events = of_events(Arc::new(async |_: Event, _: EventContext| {}));
        let outcomes = reported(&*events, &Unit::Batch(batch, FlushReason::Size)).await;
        assert_eq!(outcomes, misfit("a batch came to a handler of events"));
        let batches = of_batches(Arc::new(async |_: Batch, _: BatchContext| Ok::<(), Failure>(())));
        let outcomes = reported(&*batches, &Unit::Event(tracked, attempt)).await;
        assert_eq!(outcomes, misfit("an event came to a handler of batches"));
    }
}
