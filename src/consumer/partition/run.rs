//! The worker's loop: what is due is done, then it waits for the next input.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures::future::OptionFuture;
use futures::stream::StreamExt;
use tokio::sync::futures::Notified;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use super::PartitionWorker;
use super::checkpointer::Urgency;
use super::letter_listing::{LetterListing, Listed};
use super::outcomes::Over;
use super::parking::Parking;
use super::parking_store::Stored;
use crate::consumer::checkpoint_write::Written;
use crate::consumer::exit::{PartitionExit, StopReason};
use crate::consumer::handling::unit::Tracked;
use crate::consumer::orders::{Order, Told};
use crate::event::SequenceNumber;
use crate::transport::partition_stream::StreamEnd;

/// Most completions taken in before the worker looks at everything else again.
const MAX_COMPLETIONS: usize = 256;

/// What the worker waits for beside its events; what is not there is not waited for.
struct Waits<'a, 'budget> {
    room: Option<Pin<&'a mut Notified<'budget>>>,
    /// The breakers may say otherwise.
    breakers: Option<Pin<&'a mut Notified<'budget>>>,
    timer: Option<Pin<&'a mut Sleep>>,
    wants_slot: bool,
    /// Most events to receive.
    intake: usize,
}

/// What ended a wait.
enum Input {
    /// An order, room in the budget, or time: the next turn sees to it.
    Turn,
    /// Completions, which are in `completed`.
    Completions,
    /// A dead letter was acknowledged.
    Letter(Tracked),
    /// The failure store answered.
    Stored(Stored),
    /// So it did about letters of owners before.
    Letters(Listed),
    Written(Written),
    /// Our turn in the line for slots.
    Slot(Option<OwnedSemaphorePermit>),
    /// An event that waited for its trial may begin.
    Trial(Option<SequenceNumber>),
    /// Events, which are in `received`, or the end of the link.
    Received(Result<(), StreamEnd>),
}

impl PartitionWorker {
    /// Runs until the ownership ends.
    pub(in crate::consumer) async fn run(
        mut self,
        orders: &mut watch::Receiver<Told>,
    ) -> PartitionExit {
        let budget = Arc::clone(&self.shared.budget);
        let breakers = Arc::clone(&self.shared.breakers);
        let mut timer = Box::pin(sleep_until(Instant::now()));
        self.rechecks = orders.borrow().rechecks;
        loop {
            let now = Instant::now();
            let told = *orders.borrow_and_update();
            self.prepare(told, now);
            // Before anybody looks at them, so that no news is missed.
            let probed = pin!(breakers.is_open().then(|| breakers.changed()));
            let mut starved = !budget.may_take(self.account);
            // Asked for before the second look, so that no room is missed between the two.
            let room = pin!(starved.then(|| budget.room()));
            starved = starved && !budget.may_take(self.account);
            let running_before = self.running.len();
            let wants_slot = self.take_turn(starved, now);
            if self.step_end(now) {
                return self.finish().await;
            }
            let wake = self.next_deadline(wants_slot, starved, now);
            if let Some(wake) = wake
                && timer.deadline() != wake
            {
                timer.as_mut().reset(wake);
            }
            if self.running.len() > running_before {
                // The handlers first, while their events are still in the nearest cache.
                tokio::task::yield_now().await;
            }
            let may_receive = told.order == Order::Run && !starved;
            let waits = Waits {
                room: room.as_pin_mut().filter(|_| starved),
                breakers: probed.as_pin_mut(),
                timer: wake.map(|_| timer.as_mut()),
                wants_slot,
                intake: if may_receive { self.next_intake() } else { 0 },
            };
            let input = self.next_input(orders, waits).await;
            if matches!(input, Input::Completions | Input::Slot(_)) {
                self.take_more_completions().await;
            }
            self.on_input(input);
        }
    }

    /// What the worker is told, and what became due while it waited.
    fn prepare(&mut self, told: Told, now: Instant) {
        if std::mem::replace(&mut self.rechecks, told.rechecks) != told.rechecks {
            self.checkpointer.recheck(now);
        }
        self.on_order(told.order, now);
        self.end_overdue_calls(now);
        self.step_trial(now);
        self.start_due_retries(now);
        self.return_bytes();
    }

    /// Hands out, checkpoints and counts. Returns whether a slot is wanted that is not free.
    fn take_turn(&mut self, starved: bool, now: Instant) -> bool {
        // A batch that cannot fill is not waited for.
        let full = self.checkpointer.window().is_some() && self.intake_events() == 0;
        let wants_slot = self.hand_out(now, starved || full);
        self.watch_lanes(starved, now);
        self.step_parking(starved, now);
        self.letters_before.iter_mut().for_each(|letters| letters.ask(now));
        self.start_write(now);
        self.publish_progress();
        wants_slot
    }

    async fn next_input(
        &mut self,
        orders: &mut watch::Receiver<Told>,
        waits: Waits<'_, '_>,
    ) -> Input {
        let Waits { room, breakers, timer, wants_slot, intake } = waits;
        let (received, links_seen) = (&mut self.received, self.links_seen);
        let receiving: OptionFuture<_> = match &mut self.stream {
            // A link that opens is counted at once, also where nothing comes.
            Some(stream) if intake > 0 => {
                Some(poll_fn(move |cx| match stream.poll_events(cx, intake, received) {
                    Poll::Pending if stream.links_opened() != links_seen => Poll::Ready(Ok(0)),
                    polled => polled,
                }))
            }
            _ => None,
        }
        .into();
        let answers: OptionFuture<_> = self.parking.as_mut().map(Parking::next).into();
        let letters: OptionFuture<_> = self.letters_before.as_mut().map(LetterListing::next).into();
        let news: OptionFuture<_> = self.lane_news.as_ref().map(|news| news.told()).into();
        tokio::select! {
            biased;
            () = ordered(orders) => Input::Turn,
            count = self.completions.recv_many(&mut self.completed, MAX_COMPLETIONS) => {
                debug_assert!(count > 0, "the scope keeps the channel open");
                Input::Completions
            }
            Some(tracked) = self.letters.next() => Input::Letter(tracked),
            Some(Some(stored)) = answers => Input::Stored(stored),
            Some(Some(listed)) = letters => Input::Letters(listed),
            Some(written) = self.checkpointer.writing() => Input::Written(written),
            permit = poll_fn(|cx| self.line.poll_turn(cx)), if wants_slot => {
                Input::Slot(permit)
            }
            event = poll_fn(|cx| self.trial.poll_begin(cx)), if self.trial.is_waiting() => {
                Input::Trial(event)
            }
            Some(()) = news => Input::Turn,
            Some(result) = receiving => Input::Received(result.map(drop)),
            Some(()) = OptionFuture::from(room) => Input::Turn,
            Some(()) = OptionFuture::from(breakers) => Input::Turn,
            Some(()) = OptionFuture::from(timer) => Input::Turn,
        }
    }

    /// Where one call ended others often do, at the next turn of their threads: one turn of ours for
    /// all of them.
    async fn take_more_completions(&mut self) {
        if self.running.is_empty() {
            return;
        }
        tokio::task::yield_now().await;
        while self.completed.len() < MAX_COMPLETIONS
            && let Ok(completion) = self.completions.try_recv()
        {
            self.completed.push(completion);
        }
    }

    fn on_input(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Turn | Input::Completions => {}
            Input::Letter(tracked) => {
                self.shared.counters.dead_letters.add(1);
                for tracked in self.rows.on_written(tracked) {
                    self.settle_as(&tracked, Over::GivenUp, now);
                }
                self.checkpointer.on_batch_finished(now);
            }
            Input::Stored(stored) => self.on_stored(stored, now),
            Input::Letters(listed) => self.on_letters_listed(listed, now),
            Input::Written(written) => {
                if let Some(by) = self.checkpointer.on_written(written, now) {
                    self.lose(StopReason::Superseded(by), now);
                }
            }
            Input::Slot(permit) => {
                self.line.on_turn(permit);
            }
            Input::Trial(event) => {
                if let Some(event) = event {
                    self.checkpointer.on_trial(event, now);
                }
            }
            Input::Received(result) => {
                self.on_received(now);
                if let Err(end) = result {
                    self.on_stream_end(end, now);
                }
            }
        }
        let mut completed = std::mem::take(&mut self.completed);
        for completion in completed.drain(..) {
            self.on_completion(completion, now);
        }
        self.completed = completed;
    }

    fn on_order(&mut self, order: Order, now: Instant) {
        match order {
            Order::Run | Order::Pause => self.call_back(),
            Order::HandOff => self.begin_hand_off(now),
            Order::Drain(deadline) => {
                self.tenure.on_deadline(deadline.into_std());
                self.stop(StopReason::Drained, deadline, now);
            }
            Order::Lose => self.lose(StopReason::LeaseLost, now),
        }
    }

    fn start_due_retries(&mut self, now: Instant) {
        if !self.tenure.is_running() {
            return;
        }
        let rests = self.retries_rest();
        while !rests && let Some(tracked) = self.retries.take_due(now.into_std()) {
            let Some(tracked) = self.halves.on_retry(tracked) else { continue };
            let bytes = tracked.event.budget_bytes();
            self.waiting.on_retry(tracked, bytes, now.into_std());
        }
        self.retry_unplaced(now);
    }

    pub(super) fn start_write(&mut self, now: Instant) {
        if !self.tenure.may_checkpoint() {
            return;
        }
        let last = if self.tenure.is_running() {
            // What is next waits for it.
            self.awaits_trial()
                || self.trial.tried().is_some()
                || self.checkpointer.window().is_some() && self.is_idle()
        } else if self.tenure.is_ending() {
            self.is_idle()
        } else {
            self.is_handed_out()
        };
        let urgency = if last { Urgency::Last } else { Urgency::WhenDue };
        self.checkpointer.start(&self.watermark, urgency, now);
    }

    pub(super) fn return_bytes(&mut self) {
        if self.returned_bytes > 0 {
            self.shared.budget.on_returned(self.account, self.returned_bytes);
            self.event_bytes = self.event_bytes.saturating_sub(self.returned_bytes);
            self.returned_bytes = 0;
        }
    }

    fn next_deadline(&mut self, wants_slot: bool, starved: bool, now: Instant) -> Option<Instant> {
        let running = self.tenure.is_running();
        // What is ready and lacks only a slot waits for the slot.
        let waits = wants_slot || self.awaits_trial();
        // Single events are tried, and no batch is made of them.
        let batch = match self.is_probed() {
            true => self.waiting.next_opening(),
            false => self.waiting.next_deadline(),
        };
        let batch = batch.filter(|_| !waits && running);
        let rests = self.retries_rest();
        let retry = self.retries.next_deadline().filter(|_| running && !rests);
        let probe = self.next_probe().filter(|_| !wants_slot).map(Instant::into_std);
        let ending = self.tenure.next_deadline(self.is_idle());
        let trial = self.trial.tried().map(|tried| tried.until);
        let state =
            [batch, retry, probe, ending, trial].into_iter().flatten().map(Instant::from_std);
        let write = self.checkpointer.next_deadline().filter(|_| self.tenure.may_checkpoint());
        let parking = self.next_parking(starved, now);
        let letters = self.letters_before.as_ref().and_then(|letters| letters.next_try(now));
        state.chain(write).chain(parking).chain(letters).chain(self.running.next_deadline()).min()
    }
}

/// Waits for an order; one whose giver is gone never comes.
async fn ordered(orders: &mut watch::Receiver<Told>) {
    if orders.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
