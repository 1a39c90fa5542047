//! One call of a handler without a consumer, for tests of handlers.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handling::batch::{Batch, Ended, Outcomes};
use super::handling::blocking::WatchedHandler;
use super::handling::handler::{BatchContext, BatchHandler, EventContext, EventHandler};
use super::handling::renewals::Renewals;
use super::handling::scope::{Completion, Scope};
use super::handling::unit::{Failures, Tracked, TrackedBatch};
use crate::checkpoint_store::LeaseEpoch;
use crate::event::{EntityName, Event, Partition, PartitionId};
use crate::outcome::Outcome;
use crate::state::batch_buffer::FlushReason;
use crate::state::watermark::Ticket;

/// The only call there is.
const SERIAL: u64 = 0;

/// One call of a handler, without a hub and a consumer: it gives the handler its context, and says what the
/// handler made of each event.
///
/// ```
/// use longshore::testing::{TestCall, event};
/// use longshore::{Event, EventContext, Failure, Outcome};
///
/// async fn store(event: Event, _: EventContext) -> Result<(), Failure> {
///     let _number: u64 = std::str::from_utf8(event.body())?.parse()?;
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let call = TestCall::new("orders", "0");
/// assert_eq!(call.of_event(&store, event("orders", "0", 7, "42")).await, Outcome::Done);
/// let outcome = call.of_event(&store, event("orders", "0", 8, "no number")).await;
/// assert!(matches!(outcome, Outcome::Retry(_)), "an error of an unknown class is retried");
/// # }
/// ```
pub struct TestCall {
    scope: Arc<Scope>,
    /// What settlers say.
    said: Mutex<UnboundedReceiver<Completion>>,
    attempt: u32,
    first_failure: Option<SystemTime>,
    timeout: Option<Duration>,
    reason: FlushReason,
}

impl fmt::Debug for TestCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCall")
            .field("partition", &self.scope.partition)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

impl TestCall {
    /// A first attempt, without a deadline, of a call for events of this partition.
    pub fn new(entity: impl Into<EntityName>, partition: impl Into<PartitionId>) -> Self {
        Self::of(Partition::new(entity, partition), None)
    }

    fn of(partition: Partition, timeout: Option<Duration>) -> Self {
        let (completions, said) = unbounded_channel();
        let group = "$Default";
        let scope = Scope {
            watched: Arc::new(WatchedHandler::new("a test", partition.clone(), group.into())),
            partition,
            consumer_group: group.into(),
            lease_epoch: LeaseEpoch(1),
            handing_off: CancellationToken::new(),
            cancelled: CancellationToken::new(),
            lost: CancellationToken::new(),
            completions,
            renewals: Arc::new(Renewals::new(timeout)),
        };
        Self {
            scope: Arc::new(scope),
            said: Mutex::new(said),
            attempt: 1,
            first_failure: None,
            timeout,
            reason: FlushReason::Size,
        }
    }

    /// Makes it this attempt of each event, from 1 on; one that is not the first failed first at the
    /// beginning of 1970, or when [`first_failure`](Self::first_failure) says.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        if attempt > 1 {
            self.first_failure.get_or_insert(SystemTime::UNIX_EPOCH);
        }
        self
    }

    /// When each event failed first.
    #[must_use]
    pub fn first_failure(mut self, time: SystemTime) -> Self {
        self.first_failure = Some(time);
        self
    }

    /// Gives the handler a deadline, as [`handler_timeout`](crate::ConsumerOptions::handler_timeout) does.
    /// Nothing is dropped when it comes.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        let Self { attempt, first_failure, reason, scope, .. } = self;
        let new = Self::of(scope.partition.clone(), Some(timeout));
        Self { attempt, first_failure, reason, ..new }
    }

    /// Why the batch is handed out. Without it, because it is full.
    #[must_use]
    pub fn flush_reason(mut self, reason: FlushReason) -> Self {
        self.reason = reason;
        self
    }

    /// Fires [`EventContext::handing_off`], as a hand-off and a drain do.
    pub fn hand_off(&self) {
        self.scope.handing_off.cancel();
    }

    /// Fires [`EventContext::cancelled`], as the end of a drain does.
    pub fn cancel(&self) {
        self.hand_off();
        self.scope.cancelled.cancel();
    }

    /// Fires [`EventContext::partition_lost`], as another owner does.
    pub fn lose_partition(&self) {
        self.cancel();
        self.scope.lost.cancel();
    }

    /// Calls a handler with an event, and says what became of it. Where the handler defers it, that is
    /// what its settler says.
    pub async fn of_event(&self, handler: &impl EventHandler, event: Event) -> Outcome {
        let context = self.event_context(event.clone());
        match handler.handle(event, context).await {
            Outcome::Deferred(_) => self.next_said().await.1,
            outcome => outcome,
        }
    }

    /// Calls a handler with a batch of these events, and says what became of each, by position. Where the
    /// batch fails as a whole, that is what each of them says; a consumer would halve it, until the event
    /// at fault is alone. Where the handler defers an event, it is what its settler says.
    ///
    /// # Panics
    /// Where the handler returns more or fewer outcomes than there are events.
    pub async fn of_batch(
        &self,
        handler: &impl BatchHandler,
        events: impl IntoIterator<Item = Event>,
    ) -> Vec<Outcome> {
        let (batch, context) = self.batch_context(events);
        let count = batch.len();
        let Outcomes(ended) = handler.handle(batch.clone(), context).await;
        let mut outcomes = match ended {
            Ended::AllDone => vec![Outcome::Done; count],
            Ended::One(outcome) => vec![outcome; count],
            Ended::Each(outcomes) => outcomes,
        };
        let returned = outcomes.len();
        assert!(returned == count, "the handler returned {returned} outcomes for {count} events");
        let is_deferred = |outcome: &Outcome| matches!(outcome, Outcome::Deferred(_));
        while outcomes.iter().any(is_deferred) {
            let (event, said) = self.next_said().await;
            let index =
                batch.iter().position(|one| one.sequence_number() == event.sequence_number());
            if let Some(outcome) = index.and_then(|index| outcomes.get_mut(index))
                && is_deferred(outcome)
            {
                *outcome = said;
            }
        }
        outcomes
    }

    /// The event and the context of a call, for tests that call the handler themselves.
    pub fn event_context(&self, event: Event) -> EventContext {
        let tracked = Tracked { event, ticket: Ticket::FIRST };
        EventContext {
            attempt: self.failures(1).attempt(Ticket::FIRST),
            scope: Arc::clone(&self.scope),
            tracked,
            serial: SERIAL,
            deadline: self.deadline(),
        }
    }

    /// A batch of these events and the context of a call, for tests that call the handler themselves.
    pub fn batch_context(&self, events: impl IntoIterator<Item = Event>) -> (Batch, BatchContext) {
        let tracked = events.into_iter().enumerate();
        let tracked: Vec<Tracked> = tracked
            .map(|(index, event)| Tracked { event, ticket: Ticket::FIRST.after(index) })
            .collect();
        let failures = self.failures(tracked.len());
        let tracked = TrackedBatch::new(tracked, 0, &failures);
        let context = BatchContext {
            scope: Arc::clone(&self.scope),
            serial: SERIAL,
            deadline: self.deadline(),
            reason: self.reason,
            tracked,
        };
        (context.tracked.events.clone(), context)
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout.map(|timeout| Instant::now() + timeout)
    }

    /// What is known of events that failed before.
    fn failures(&self, events: usize) -> Failures {
        let mut failures = Failures::default();
        let first = self.first_failure.unwrap_or(SystemTime::UNIX_EPOCH);
        for ticket in (0..events).map(|index| Ticket::FIRST.after(index)) {
            (1..self.attempt).for_each(|_| failures.on_failed(ticket, first));
        }
        failures
    }

    async fn next_said(&self) -> (Event, Outcome) {
        let mut said = self.said.lock().await;
        loop {
            // The scope holds a sender.
            if let Some(Completion::Deferred { tracked, outcome, .. }) = said.recv().await {
                return (tracked.event, outcome);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::EventParts;
    use crate::outcome::Failure;

    fn events(count: i64) -> Vec<Event> {
        let partition = Arc::new(Partition::new("orders", "0"));
        (0..count)
            .map(|number| EventParts::new(Arc::clone(&partition), number, "").into())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_sees_what_the_call_was_given() {
        let call = TestCall::new("orders", "0").attempt(3).timeout(Duration::from_secs(60));
        let seen = |event: Event, context: EventContext| async move {
            assert_eq!((event.sequence_number().0, context.attempt()), (0, 3));
            assert_eq!(context.first_failure(), Some(SystemTime::UNIX_EPOCH));
            assert_eq!(context.deadline(), Some(Instant::now() + Duration::from_secs(60)));
            tokio::time::advance(Duration::from_secs(1)).await;
            context.progress();
            assert_eq!(context.deadline(), Some(Instant::now() + Duration::from_secs(60)));
            context.handing_off().cancelled().await;
            assert!(!context.cancelled().is_cancelled());
            Outcome::put_back("handing off")
        };
        call.hand_off();
        let outcome = call.of_event(&seen, events(1).remove(0)).await;
        assert_eq!(outcome, Outcome::put_back("handing off"));
        call.lose_partition();
        let lost =
            async |_: Event, context: EventContext| context.partition_lost().cancelled().await;
        assert_eq!(call.of_event(&lost, events(1).remove(0)).await, Outcome::Done);
    }

    #[tokio::test]
    async fn what_settlers_say_is_what_became_of_their_events() {
        let call = TestCall::new("orders", "0").attempt(2);
        let handler = |batch: Batch, context: BatchContext| async move {
            assert_eq!(context.attempt(1), Some(2));
            let deferred: Vec<_> = (0..batch.len()).filter_map(|at| context.defer(at)).collect();
            let (settlers, outcomes): (Vec<_>, Vec<_>) = deferred.into_iter().unzip();
            tokio::spawn(async move {
                for settler in settlers.into_iter().rev() {
                    match settler.event().map(|event| event.sequence_number().0) {
                        Some(1) => settler.settle(Outcome::skip("known")),
                        Some(2) => drop(settler),
                        _ => settler.settle(()),
                    }
                }
            });
            outcomes
        };
        let outcomes = call.of_batch(&handler, events(4)).await;
        let dropped = Outcome::retry(Failure::transient("its settler was dropped"));
        let expected = [Outcome::Done, Outcome::skip("known"), dropped, Outcome::Done];
        assert_eq!(outcomes, expected);

        let later = |_: Event, context: EventContext| async move {
            let (settler, outcome) = context.defer();
            tokio::spawn(async move { settler.settle(Outcome::skip("known")) });
            outcome
        };
        assert_eq!(call.of_event(&later, events(1).remove(0)).await, Outcome::skip("known"));
    }

    #[tokio::test]
    async fn a_batch_that_fails_whole_says_so_for_each_event() {
        let call = TestCall::new("orders", "0");
        let handler = async |_: Batch, _: BatchContext| Err::<(), _>(Failure::transient("away"));
        let outcomes = call.of_batch(&handler, events(2)).await;
        assert_eq!(outcomes, vec![Outcome::retry(Failure::transient("away")); 2]);
    }
}
