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

use super::dispatch::{Slot, Slots};
use crate::event::SequenceNumber;

/// The trials of one partition.
pub(super) struct Trial {
    turns: Arc<Semaphore>,
    slots: Arc<Slots>,
    state: State,
}

enum State {
    None,
    Waits { event: SequenceNumber, time: Duration, alone: BoxFuture<'static, Option<Alone>> },
    Tried(Tried, #[expect(dead_code, reason = "it is there")] Alone),
}

/// An event on trial, or whose trial is over, which the store may not know yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tried {
    pub(super) event: SequenceNumber,
    /// When the trial has taken long enough, or the store to be told of its end.
    pub(super) until: Instant,
    pub(super) is_over: bool,
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

impl Trial {
    pub(super) fn new(turns: Arc<Semaphore>, slots: Arc<Slots>) -> Self {
        Self { turns, slots, state: State::None }
    }

    /// An event is to be tried, for so long. What runs is waited for as long.
    pub(super) fn on_event(&mut self, event: SequenceNumber, time: Duration) {
        let alone = alone(Arc::clone(&self.turns), Arc::clone(&self.slots), time).boxed();
        self.state = State::Waits { event, time, alone };
    }

    /// Whether an event waits to be tried.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waits { .. })
    }

    /// Ready once an event that waited may begin; it is named where it is on trial.
    pub(super) fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Option<SequenceNumber>> {
        let State::Waits { event, time, alone } = &mut self.state else {
            return Poll::Pending;
        };
        let (event, time) = (*event, *time);
        let alone = ready!(Pin::new(alone).poll(cx));
        let until = Instant::now() + time;
        self.state = alone.map_or(State::None, |alone| {
            State::Tried(Tried { event, until, is_over: false }, alone)
        });
        Poll::Ready(self.tried().map(|tried| tried.event))
    }

    /// The event that is tried, or was just now. Nothing else is handled.
    pub(super) fn tried(&self) -> Option<Tried> {
        match &self.state {
            State::Tried(tried, _) => Some(*tried),
            State::None | State::Waits { .. } => None,
        }
    }

    /// The trial is over; names its event if that is news. The others go on once the store knows,
    /// or at this time.
    pub(super) fn end(&mut self, latest: Instant) -> Option<SequenceNumber> {
        match &mut self.state {
            State::Tried(tried, _) if !tried.is_over => {
                *tried = Tried { until: latest, is_over: true, ..*tried };
                Some(tried.event)
            }
            State::Tried(..) => None,
            State::None | State::Waits { .. } => {
                self.state = State::None;
                None
            }
        }
    }

    /// Lets the others go on.
    pub(super) fn release(&mut self) {
        self.state = State::None;
    }
}
