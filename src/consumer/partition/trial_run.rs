//! The trial of an event that may end its process: nothing else of its consumer is handled.
//!
//! Everything in flight is a suspect alike when a process ends. So an event on trial has all
//! slots: what runs ends first, and nothing begins before the store knows that the trial is over.
//! None of it is waited for without end, and an event that is handled beside others is not on
//! trial.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::consumer::handling::slots::{Slot, Slots};
use crate::event::SequenceNumber;
use crate::state::tenure::{Known, TrialState, TrialStep, Tried};

/// Runs the trials of one partition.
pub(super) struct TrialRun {
    turns: Arc<Semaphore>,
    slots: Arc<Slots>,
    state: TrialState,
    hold: Hold,
}

/// What keeps everything else of the consumer from being handled.
enum Hold {
    Nothing,
    /// It is waited for.
    Asked(BoxFuture<'static, Option<Alone>>),
    Has(#[expect(dead_code, reason = "it is there")] Alone),
}

/// Nothing else is handled while it is there.
struct Alone {
    _slots: Vec<Slot>,
    _turn: OwnedSemaphorePermit,
}

async fn alone(turns: Arc<Semaphore>, slots: Arc<Slots>, patience: Duration) -> Option<Alone> {
    // Each trial has its time, so the turn comes.
    let turn = turns.acquire_owned().await.ok()?;
    let slots = timeout(patience, slots.take_all()).await.ok()?;
    Some(Alone { _slots: slots, _turn: turn })
}

impl TrialRun {
    pub(super) fn new(turns: Arc<Semaphore>, slots: Arc<Slots>) -> Self {
        Self { turns, slots, state: TrialState::None, hold: Hold::Nothing }
    }

    /// An event is to be tried, for so long. What runs is waited for as long.
    pub(super) fn on_event(&mut self, event: SequenceNumber, time: Duration) {
        let alone = alone(Arc::clone(&self.turns), Arc::clone(&self.slots), time).boxed();
        self.hold = Hold::Asked(alone);
        self.state.on_event(event, time);
    }

    /// Whether an event waits to be tried.
    pub(super) fn is_waiting(&self) -> bool {
        self.state.is_waiting()
    }

    /// Ready once an event that waited may begin; it is named where it is on trial.
    pub(super) fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Option<SequenceNumber>> {
        let Hold::Asked(asked) = &mut self.hold else {
            return Poll::Pending;
        };
        let alone = ready!(Pin::new(asked).poll(cx));
        let event = self.state.on_begin(alone.is_some(), Instant::now().into_std());
        self.hold = alone.map_or(Hold::Nothing, Hold::Has);
        Poll::Ready(event)
    }

    /// The event that is tried, or was just now. Nothing else is handled.
    pub(super) fn tried(&self) -> Option<Tried> {
        self.state.tried()
    }

    /// What is due about the event on trial, with what the store knows of it.
    pub(super) fn next_step(&self, known: Known, now: Instant) -> Option<TrialStep> {
        self.state.next_step(known, now.into_std())
    }

    /// The trial is over; names its event if that is news. The others go on once the store knows,
    /// or at this time.
    pub(super) fn end(&mut self, latest: Instant) -> Option<SequenceNumber> {
        if self.is_waiting() {
            self.hold = Hold::Nothing;
        }
        self.state.on_end(latest.into_std())
    }

    /// Lets the others go on.
    pub(super) fn release(&mut self) {
        self.state = TrialState::None;
        self.hold = Hold::Nothing;
    }
}
