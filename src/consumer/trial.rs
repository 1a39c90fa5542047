//! The trial of an event that may end its process: nothing else of the process is handled.
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
    Waits {
        event: SequenceNumber,
        time: Duration,
        alone: BoxFuture<'static, Option<Alone>>,
    },
    On {
        event: SequenceNumber,
        until: Instant,
        _alone: Alone,
    },
    /// The store may not know yet.
    Over {
        event: SequenceNumber,
        until: Instant,
        _alone: Alone,
    },
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
        self.state = match alone {
            Some(alone) => State::On { event, until: Instant::now() + time, _alone: alone },
            None => State::None,
        };
        Poll::Ready(matches!(self.state, State::On { .. }).then_some(event))
    }

    /// Whether an event is on trial.
    pub(super) fn is_on(&self) -> bool {
        matches!(self.state, State::On { .. })
    }

    /// When the trial has taken long enough, or the store to be told of its end.
    pub(super) fn until(&self) -> Option<Instant> {
        match &self.state {
            State::On { until, .. } | State::Over { until, .. } => Some(*until),
            State::None | State::Waits { .. } => None,
        }
    }

    /// The event that is or was on trial, and whether that is over. Nothing else is handled.
    pub(super) fn event(&self) -> Option<(SequenceNumber, bool)> {
        match &self.state {
            State::On { event, .. } => Some((*event, false)),
            State::Over { event, .. } => Some((*event, true)),
            State::None | State::Waits { .. } => None,
        }
    }

    /// The trial is over; names its event if that is news. The others go on once the store knows,
    /// or at this time.
    pub(super) fn end(&mut self, latest: Instant) -> Option<SequenceNumber> {
        match std::mem::replace(&mut self.state, State::None) {
            State::None | State::Waits { .. } => None,
            over @ State::Over { .. } => {
                self.state = over;
                None
            }
            State::On { event, _alone, .. } => {
                self.state = State::Over { event, until: latest, _alone };
                Some(event)
            }
        }
    }

    /// Lets the others go on.
    pub(super) fn release(&mut self) {
        self.state = State::None;
    }
}
