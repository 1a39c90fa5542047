//! Owns one partition while it is ours: receives, hands out, settles, checkpoints, drains.
//!
//! One loop, one owner of all state, no lock: inputs come in through one `select!`, and
//! between inputs the worker carries out what its state machines say. Handlers run in tasks of
//! their own and report back through a channel that dies with the worker, so a late report of
//! an earlier ownership has nowhere to go.

mod deferrals;
mod ending;
mod intake;
mod outcomes;
mod tally;
mod trials;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, PollSemaphore};

use super::blocking::WatchedHandler;
use super::checkpointer::{Checkpointer, Urgency};
use super::claim::Claimed;
use super::dispatch::{self, Completion, Mode, Slot};
use super::exit::{PartitionExit, StopReason};
use super::handler::Scope;
use super::running::Running;
use super::shared::{Order, Shared, Told};
use super::status::PartitionStatus;
use super::trial::Trial;
use super::unit::{Failures, Tracked, Unit};
use super::waiting::Waiting;
use crate::checkpoint_store::CheckpointKey;
use crate::config::OwnerLevel;
use crate::event::Partition;
use crate::state::batch_buffer::BatchLimits;
use crate::state::byte_budget::Account;
use crate::state::delay_queue::DelayQueue;
use crate::state::watermark::Watermark;
use crate::transport::resume::{PartitionStream, StreamOptions};

use deferrals::Deferrals;
pub use ending::CANCEL_GRACE;
use ending::Phase;
use tally::Tally;

/// Most completions taken in before the worker looks at everything else again.
const MAX_COMPLETIONS: usize = 256;

pub(super) struct PartitionWorker<M> {
    shared: Arc<Shared>,
    mode: Arc<M>,
    partition: Partition,
    key: CheckpointKey,
    status: Arc<PartitionStatus>,
    scope: Arc<Scope>,
    completions: UnboundedReceiver<Completion>,
    /// `None` once intake stopped; the link is then in `closing`.
    stream: Option<PartitionStream>,
    closing: Option<PartitionStream>,
    watermark: Watermark,
    waiting: Waiting,
    retries: DelayQueue<Tracked>,
    failures: Failures,
    running: Running,
    deferrals: Deferrals,
    letters: FuturesUnordered<BoxFuture<'static, Tracked>>,
    checkpointer: Checkpointer,
    permits: PollSemaphore,
    /// Whether our place in the line for slots is taken.
    in_line: bool,
    slot: Option<Slot>,
    trial: Trial,
    account: Account,
    /// Settled since the budget was told.
    returned_bytes: usize,
    /// What settled since it was last counted.
    tally: Tally,
    largest_event_bytes: usize,
    links_seen: u64,
    lost_seen: u64,
    phase: Phase,
    cut_handlers: usize,
}

impl<M: Mode> PartitionWorker<M> {
    pub(super) fn new(
        shared: Arc<Shared>,
        mode: Arc<M>,
        partition: Partition,
        key: CheckpointKey,
        status: Arc<PartitionStatus>,
        claimed: Claimed,
    ) -> Self {
        let Claimed { fence, resume } = claimed;
        let checkpointer =
            Checkpointer::new(Arc::clone(&shared), key.clone(), Arc::clone(&status), fence);
        let lease_epoch = checkpointer.lease_epoch();
        let options = &shared.options;
        let owner_level = match options.owner_level {
            OwnerLevel::LeaseEpoch => Some(i64::try_from(lease_epoch.0).unwrap_or(i64::MAX)),
            OwnerLevel::Fixed(level) => Some(level),
            OwnerLevel::None => None,
        };
        let stream = PartitionStream::new(
            Arc::clone(&shared.transport),
            partition.clone(),
            resume,
            StreamOptions::new(options.prefetch_events, shared.seed())
                .with_owner_level(owner_level)
                .with_backoff(options.reopen_backoff),
        );
        let (sender, completions) = unbounded_channel();
        let scope = Arc::new(Scope {
            partition: partition.clone(),
            consumer_group: key.scope.consumer_group.clone(),
            lease_epoch,
            cancelled: CancellationToken::new(),
            lost: CancellationToken::new(),
            completions: sender,
            watched: WatchedHandler::new(
                M::handler_name(),
                partition.clone(),
                key.scope.consumer_group.clone(),
            ),
        });
        let watermark = checkpointer.resume();
        let limits = BatchLimits {
            max_events: options.max_batch_size,
            max_bytes: options.max_batch_bytes,
            timeout: options.batch_timeout,
        };
        let handler_timeout = options.handler_timeout;
        let permits = PollSemaphore::new(Arc::clone(shared.slots.semaphore()));
        let trial = Trial::new(Arc::clone(&shared.trials), Arc::clone(&shared.slots));
        let account = shared.budget.open();
        Self {
            mode,
            partition,
            key,
            status,
            scope,
            completions,
            stream: Some(stream),
            closing: None,
            watermark,
            waiting: Waiting::new(M::BATCHES, limits),
            retries: DelayQueue::default(),
            failures: Failures::default(),
            running: Running::new(handler_timeout),
            deferrals: Deferrals::default(),
            letters: FuturesUnordered::new(),
            checkpointer,
            permits,
            in_line: false,
            slot: None,
            trial,
            account,
            returned_bytes: 0,
            tally: Tally::default(),
            largest_event_bytes: 0,
            links_seen: 0,
            lost_seen: 0,
            phase: Phase::Running,
            cut_handlers: 0,
            shared,
        }
    }

    /// Runs until the ownership ends.
    pub(super) async fn run(mut self, orders: &mut watch::Receiver<Told>) -> PartitionExit {
        let budget = Arc::clone(&self.shared.budget);
        let mut timer = Box::pin(sleep_until(Instant::now()));
        let mut received = Vec::new();
        let mut completed = Vec::new();
        let mut rechecks = orders.borrow().rechecks;
        loop {
            let now = Instant::now();
            let Told { order, rechecks: asked } = *orders.borrow_and_update();
            if std::mem::replace(&mut rechecks, asked) != asked {
                self.checkpointer.recheck(now);
            }
            let room = budget.room();
            self.on_order(order, now);
            self.end_overdue_calls(now);
            self.step_trial(now);
            self.start_due_retries(now);
            self.return_bytes();
            let starved = !self.shared.budget.may_take(self.account);
            let running_before = self.running.len();
            // A batch that cannot fill is not waited for.
            let full = self.checkpointer.window().is_some() && self.intake_events() == 0;
            let wants_slot = self.dispatch(now, starved || full);
            let has_begun_calls = self.running.len() > running_before;
            self.start_write(now);
            self.publish_progress();
            if self.step_end(now) {
                break;
            }
            let wake = self.next_deadline(wants_slot);
            if let Some(wake) = wake
                && timer.deadline() != wake
            {
                timer.as_mut().reset(wake);
            }
            if has_begun_calls {
                // The handlers first, while their events are still in the nearest cache.
                tokio::task::yield_now().await;
            }
            let intake = self.intake_events();
            let may_receive = order == Order::Run && intake > 0 && !starved;
            let receiving: OptionFuture<_> = match &mut self.stream {
                Some(stream) if may_receive => Some(stream.next_events(intake, &mut received)),
                _ => None,
            }
            .into();
            let writing = self.checkpointer.writing();
            let calls_ended = tokio::select! {
                biased;
                () = ordered(orders) => false,
                count = self.completions.recv_many(&mut completed, MAX_COMPLETIONS) => {
                    debug_assert!(count > 0, "the scope keeps the channel open");
                    true
                }
                Some(tracked) = self.letters.next() => {
                    self.shared.counters.dead_letters.add(1);
                    let now = Instant::now();
                    self.settle(&tracked, now);
                    self.checkpointer.on_batch_finished(now);
                    false
                }
                Some(written) = writing => {
                    let now = Instant::now();
                    if let Some(by) = self.checkpointer.on_written(written, now) {
                        self.lose(StopReason::Superseded(by), now);
                    }
                    false
                }
                permit = poll_fn(|cx| self.permits.poll_acquire(cx)), if wants_slot => {
                    self.in_line = false;
                    self.slot = permit.map(|permit| Slot::of(permit, &self.shared.slots));
                    true
                }
                tried = poll_fn(|cx| self.trial.poll_begin(cx)), if self.trial.is_waiting() => {
                    if let Some(event) = tried {
                        self.checkpointer.on_trial(event, Instant::now());
                    }
                    false
                }
                Some(result) = receiving => {
                    self.on_received(&mut received, Instant::now());
                    if let Err(end) = result {
                        self.on_stream_end(end, Instant::now());
                    }
                    false
                }
                () = room, if starved => false,
                () = &mut timer, if wake.is_some() => false,
            };
            if calls_ended && !self.running.is_empty() {
                // Where one call ended others often do, at the next turn of their threads:
                // one turn of ours for all of them.
                tokio::task::yield_now().await;
                while completed.len() < MAX_COMPLETIONS
                    && let Ok(completion) = self.completions.try_recv()
                {
                    completed.push(completion);
                }
            }
            if !completed.is_empty() {
                let now = Instant::now();
                for completion in completed.drain(..) {
                    self.on_completion(completion, now);
                }
            }
        }
        self.finish().await
    }

    // Inputs.

    fn on_order(&mut self, order: Order, now: Instant) {
        match (order, &mut self.phase) {
            (Order::Drain(deadline), Phase::Ending { deadline: later, .. }) => {
                *later = (*later).min(deadline);
            }
            (Order::Drain(deadline), _) => self.stop(StopReason::Drained, deadline, now),
            (Order::HandOff, Phase::Running) => self.begin_hand_off(),
            (Order::Run | Order::Pause, Phase::HandingOff) => self.call_back(),
            (Order::Lose, _) => self.lose(StopReason::LeaseLost, now),
            _ => {}
        }
    }

    // What the state machines say.

    fn start_due_retries(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        while let Some(tracked) = self.retries.take_due(now.into_std()) {
            let bytes = tracked.event.budget_bytes();
            self.waiting.on_retry(tracked, bytes, now.into_std());
        }
    }

    /// Gives slots to what is ready. Returns whether a slot is wanted that is not free.
    fn dispatch(&mut self, now: Instant, pressed: bool) -> bool {
        let now_std = now.into_std();
        while let Some(reason) = self.waiting.take_ledger(now_std) {
            self.shared.counters.on_batch(reason);
        }
        while self.may_begin(now_std, pressed) {
            let Some(slot) = self.take_slot() else {
                return true;
            };
            match self.waiting.take(now_std, pressed, &self.failures) {
                Some(unit) => self.begin(unit, slot, now),
                None => drop(slot),
            }
        }
        self.slot = None;
        if self.in_line {
            // A place in line that nobody needs would be given a slot that nobody uses.
            self.permits = PollSemaphore::new(Arc::clone(self.shared.slots.semaphore()));
            self.in_line = false;
        }
        false
    }

    /// Whether something is ready for a handler.
    fn may_begin(&self, now: std::time::Instant, pressed: bool) -> bool {
        if self.awaits_trial() {
            return false;
        }
        match self.phase {
            Phase::HandingOff => self.waiting.is_flushed(),
            Phase::Running | Phase::Ending { .. } => self.waiting.is_ready(now, pressed),
        }
    }

    fn take_slot(&mut self) -> Option<Slot> {
        if let Some(slot) = self.slot.take() {
            return Some(slot);
        }
        if self.trial.tried().is_some_and(|tried| !tried.is_over) {
            return Some(Slot::lent());
        }
        // Past our own place in line there is nothing to be had.
        let free = if self.in_line {
            // Only a look: the loop polls it again with its own waker.
            match self.permits.poll_acquire(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(permit) => permit.map(|permit| Slot::of(permit, &self.shared.slots)),
                Poll::Pending => None,
            }
        } else {
            self.shared.slots.try_take()
        };
        self.in_line = free.is_none();
        free
    }

    fn begin(&mut self, unit: Unit, slot: Slot, now: Instant) {
        if let Unit::Batch(_, reason) = &unit {
            self.shared.counters.on_batch(*reason);
        }
        self.running.begin(unit, now, |unit, id, deadline| {
            let call = dispatch::call(&self.mode, unit, &self.scope, slot, id, deadline);
            self.shared.tasks.spawn(call).abort_handle()
        });
    }

    fn start_write(&mut self, now: Instant) {
        if self.may_checkpoint() {
            let last = match self.phase {
                // What is next waits for it.
                Phase::Running => {
                    self.awaits_trial()
                        || self.trial.tried().is_some()
                        || self.checkpointer.window().is_some() && self.is_idle()
                }
                Phase::HandingOff => self.is_handed_out(),
                Phase::Ending { .. } => self.is_idle(),
            };
            let urgency = if last { Urgency::Last } else { Urgency::WhenDue };
            self.checkpointer.start(&self.watermark, urgency, now);
        }
    }

    fn return_bytes(&mut self) {
        if self.returned_bytes > 0 {
            self.shared.budget.on_returned(self.account, self.returned_bytes);
            self.returned_bytes = 0;
        }
    }

    fn next_deadline(&mut self, wants_slot: bool) -> Option<Instant> {
        let ending = match &self.phase {
            Phase::Running | Phase::HandingOff => None,
            Phase::Ending { deadline, cancelled, .. } => Some(if *cancelled {
                // The next step after the request to give up, or after the cut.
                let cut = *deadline + CANCEL_GRACE;
                if self.is_idle() { cut + self.shared.options.store_timeout } else { cut }
            } else {
                *deadline
            }),
        };
        let running = matches!(self.phase, Phase::Running);
        // What is ready and lacks only a slot waits for the slot.
        let waits = wants_slot || self.awaits_trial();
        let batch = self.waiting.next_deadline().filter(|_| !waits && running);
        let retry = self.retries.next_deadline().filter(|_| running);
        let write = self.checkpointer.next_deadline().filter(|_| self.may_checkpoint());
        let state = [batch, retry].into_iter().flatten().map(Instant::from_std);
        let trial = self.trial.tried().map(|tried| tried.until);
        state.chain(write).chain(self.running.next_deadline()).chain(ending).chain(trial).min()
    }
}

/// Waits for an order; one whose giver is gone never comes.
async fn ordered(orders: &mut watch::Receiver<Told>) {
    if orders.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
