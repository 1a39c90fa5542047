//! How long a partition is ours, and what it may do meanwhile.
//!
//! ```text
//!              handed off              all is settled and stored
//!  Running ──────────────> HandingOff ───────────────────────────┐
//!   ^   │                    │     │                             v
//!   │   └─────── ends ───────│─────┴────── ends ──────────────> Ending ──> over
//!   └────── called back ─────┘                                   asks at the deadline,
//!                                                                cuts a grace later
//! ```
//!
//! - [`Tenure`] holds the phase and its deadlines. A hand-off cuts nothing and can be called back;
//!   an end cannot, and a later word about it can only bring its deadline forward.
//! - [`TrialState`] holds the event that may end its process: one waits, then is tried, then its
//!   trial is over, and the others go on once the store knows that, or a deadline later.
//!
//! Neither knows a handler, a link or a store: the partition's worker says what is left to do, and is
//! told the next step.

use std::time::{Duration, Instant};

use crate::event::SequenceNumber;

/// How long handlers have to give up after they were asked to.
pub const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// One ownership of a partition. `W` says why it ends.
#[derive(Debug)]
pub struct Tenure<W> {
    phase: Phase<W>,
    is_lost: bool,
    /// How long the last write may take once nothing runs any more.
    store_timeout: Duration,
}

#[derive(Debug)]
enum Phase<W> {
    Running,
    HandingOff,
    Ending(End<W>),
}

#[derive(Debug)]
struct End<W> {
    why: W,
    deadline: Instant,
    /// Whether handlers were asked to give up.
    is_asked: bool,
}

/// What is left to do, as the worker sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// Nothing waits, runs, or is on its way to the dead letters.
    pub is_idle: bool,
    /// All that was handed to handlers is settled, and nothing is to be handed out.
    pub is_handed_out: bool,
    /// All that is settled is stored.
    pub is_stored: bool,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The hand-off is ready: end the ownership, with nothing left to wait for.
    HandOver,
    /// The time is over: ask handlers to give up.
    AskToGiveUp,
    /// Drop what runs still. What is left must be idle afterwards.
    Cut,
    /// The ownership is over.
    Over,
}

/// What the news that a partition is lost came upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// A partition that was ours: its end begins.
    Begins,
    /// An end that was under way.
    Joins,
    /// A loss that was known.
    Known,
}

impl<W> Tenure<W> {
    /// A partition that was just claimed.
    pub fn new(store_timeout: Duration) -> Self {
        Self { phase: Phase::Running, is_lost: false, store_timeout }
    }

    /// It is to be handed to another worker. Returns whether that is news.
    pub fn on_hand_off(&mut self) -> bool {
        let is_news = self.is_running();
        if is_news {
            self.phase = Phase::HandingOff;
        }
        is_news
    }

    /// The hand-off is called back. Returns whether there was one.
    pub fn on_called_back(&mut self) -> bool {
        let is_news = self.is_handing_off();
        if is_news {
            self.phase = Phase::Running;
        }
        is_news
    }

    /// It ends for this reason, and what runs may run until `deadline`. Returns whether that is news.
    pub fn on_end(&mut self, why: W, deadline: Instant) -> bool {
        let is_news = !self.is_ending();
        if is_news {
            self.phase = Phase::Ending(End { why, deadline, is_asked: false });
        }
        is_news
    }

    /// An end under way has less time than was thought.
    pub fn on_deadline(&mut self, deadline: Instant) {
        if let Phase::Ending(end) = &mut self.phase {
            end.deadline = end.deadline.min(deadline);
        }
    }

    /// It is another owner's, and what runs may run until `until`. An end that was under way takes
    /// this reason, unless its own is `more_important`.
    pub fn on_lost(
        &mut self,
        why: W,
        until: Instant,
        more_important: impl FnOnce(&W) -> bool,
    ) -> Loss {
        if std::mem::replace(&mut self.is_lost, true) {
            return Loss::Known;
        }
        match &mut self.phase {
            Phase::Running | Phase::HandingOff => {
                self.phase = Phase::Ending(End { why, deadline: until, is_asked: false });
                Loss::Begins
            }
            Phase::Ending(end) => {
                end.deadline = end.deadline.min(until);
                if !more_important(&end.why) {
                    end.why = why;
                }
                Loss::Joins
            }
        }
    }

    /// Takes the next step, if one is due.
    pub fn take_step(&mut self, work: Work, now: Instant) -> Option<Step> {
        match &mut self.phase {
            Phase::Running => None,
            Phase::HandingOff => (work.is_handed_out && work.is_stored).then_some(Step::HandOver),
            Phase::Ending(end) => {
                let cut = end.deadline + CANCEL_GRACE;
                if now >= end.deadline && !std::mem::replace(&mut end.is_asked, true) {
                    return Some(Step::AskToGiveUp);
                }
                if !work.is_idle {
                    return (now >= cut).then_some(Step::Cut);
                }
                let is_over = self.is_lost || work.is_stored || now >= cut + self.store_timeout;
                is_over.then_some(Step::Over)
            }
        }
    }

    /// When the next step is due though nothing else happens.
    pub fn next_deadline(&self, is_idle: bool) -> Option<Instant> {
        match &self.phase {
            Phase::Running | Phase::HandingOff => None,
            Phase::Ending(end) if !end.is_asked => Some(end.deadline),
            Phase::Ending(end) if is_idle => Some(end.deadline + CANCEL_GRACE + self.store_timeout),
            Phase::Ending(end) => Some(end.deadline + CANCEL_GRACE),
        }
    }

    /// Whether new events may come in.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Whether it is being handed to another worker.
    pub fn is_handing_off(&self) -> bool {
        matches!(self.phase, Phase::HandingOff)
    }

    /// Whether its end has begun.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending(_))
    }

    /// Whether what is settled may be written down: not where another owner has it.
    pub fn may_checkpoint(&self) -> bool {
        !self.is_lost
    }

    /// Why it ends.
    pub fn into_reason(self) -> Option<W> {
        match self.phase {
            Phase::Running | Phase::HandingOff => None,
            Phase::Ending(end) => Some(end.why),
        }
    }
}

/// An event on trial, or whose trial is over, which the store may not know yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tried {
    /// The event.
    pub event: SequenceNumber,
    /// When the trial has taken long enough, or the store to be told of its end.
    pub until: Instant,
    /// Whether the trial is over.
    pub is_over: bool,
}

/// What the store knows of the event on trial.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// The event is below the stored watermark.
    pub is_settled: bool,
    /// The store says, or may say, that the event is on trial.
    pub is_on_trial: bool,
}

/// What to do about the event on trial.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrialStep {
    /// The store knows how the trial ended, or takes too long to: the others go on.
    Release,
    /// It has taken long enough: the event goes on as any other.
    End,
}

/// The trial of an event that may end its process: while one is tried, nothing else of its consumer
/// is handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TrialState {
    /// No event is on trial.
    #[default]
    None,
    /// An event waits until it is alone.
    Waits {
        /// The event.
        event: SequenceNumber,
        /// How long it is tried.
        time: Duration,
    },
    /// An event is tried, or was just now.
    Tried(Tried),
}

impl TrialState {
    /// An event is to be tried, for so long.
    pub fn on_event(&mut self, event: SequenceNumber, time: Duration) {
        *self = Self::Waits { event, time };
    }

    /// The event that waited may begin. Returns it where it is `alone`, and so on trial.
    pub fn on_begin(&mut self, alone: bool, now: Instant) -> Option<SequenceNumber> {
        let Self::Waits { event, time } = *self else { return None };
        if !alone {
            *self = Self::None;
            return None;
        }
        *self = Self::Tried(Tried { event, until: now + time, is_over: false });
        Some(event)
    }

    /// The trial is over, if there is one; names its event where that is news. The others go on once
    /// the store knows, or at `latest`. An event that waits is not tried.
    pub fn on_end(&mut self, latest: Instant) -> Option<SequenceNumber> {
        match self {
            Self::Tried(tried) if !tried.is_over => {
                *tried = Tried { until: latest, is_over: true, ..*tried };
                Some(tried.event)
            }
            Self::Tried(_) => None,
            Self::None | Self::Waits { .. } => {
                *self = Self::None;
                None
            }
        }
    }

    /// Whether an event waits to be tried.
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Waits { .. })
    }

    /// The event that is tried, or was just now. Nothing else is handled.
    pub fn tried(&self) -> Option<Tried> {
        match self {
            Self::Tried(tried) => Some(*tried),
            Self::None | Self::Waits { .. } => None,
        }
    }

    /// What is due about the event on trial, with what the store knows of it.
    pub fn next_step(&self, known: Known, now: Instant) -> Option<TrialStep> {
        let Tried { until, is_over, .. } = self.tried()?;
        let is_late = until <= now;
        if known.is_settled || is_over && (!known.is_on_trial || is_late) {
            Some(TrialStep::Release)
        } else {
            is_late.then_some(TrialStep::End)
        }
    }
}

#[cfg(test)]
mod tests;
