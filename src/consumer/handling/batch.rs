//! Events that are handled together, and what became of them.

use std::ops::Deref;
use std::sync::Arc;

use crate::event::Event;
use crate::outcome::{Failure, Outcome};

/// Events of one partition, in order. Cloning is a reference count.
#[derive(Clone, Debug)]
pub struct Batch(Arc<[Event]>);

impl Batch {
    pub(crate) fn new(events: impl IntoIterator<Item = Event>) -> Self {
        Self(events.into_iter().collect())
    }
}

impl Deref for Batch {
    type Target = [Event];

    fn deref(&self) -> &[Event] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Event;
    type IntoIter = std::slice::Iter<'a, Event>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// One outcome for each event of a batch.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcomes(pub(crate) Ended);

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Ended {
    AllDone,
    /// Of the only event.
    One(Outcome),
    Each(Vec<Outcome>),
}

impl Outcomes {
    /// Every event of the batch is done.
    pub fn all_done() -> Self {
        Self(Ended::AllDone)
    }

    /// An outcome for each event, by position; as many as the batch has events.
    pub fn each(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        Self(Ended::Each(outcomes.into_iter().collect()))
    }
}

impl From<()> for Outcomes {
    fn from((): ()) -> Self {
        Outcomes::all_done()
    }
}

impl From<Vec<Outcome>> for Outcomes {
    fn from(outcomes: Vec<Outcome>) -> Self {
        Self(Ended::Each(outcomes))
    }
}

/// The whole batch failed. Its halves are handled again, each as a batch of its own, until the event at
/// fault is alone; no attempt counts until then. That one is retried, or becomes a dead letter where
/// its failure's class says that trying again is useless.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandlerError(pub Failure);

impl<F: Into<Failure>> From<F> for HandlerError {
    fn from(failure: F) -> Self {
        Self(failure.into())
    }
}
