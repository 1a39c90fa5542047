//! Events that the link brings and nobody can decode: the shell around
//! [`crate::state::unreadable`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tracing::debug;

use super::unread::RUN_PROBE_AFTER;
use super::watch::Silence;
use super::{PartitionStream, State, StreamEnd};
use crate::error::{Error, ErrorClass, error_chain};
use crate::event::{Event, EventParts, SequenceNumber, Unreadable};
use crate::hub::{LinkStart, LogProperties};
use crate::state::unreadable::{AtEnd, Place, credit_for_run};
use crate::transport::Panicked;

impl PartitionStream {
    /// Takes in an event that cannot be read. The link goes on, or is opened again before its credit
    /// is used up.
    pub(super) fn on_unreadable(&mut self, error: &Error) -> Result<(), StreamEnd> {
        self.failures = 0;
        self.unread.run.on_unreadable();
        self.unread.credit.on_unreadable();
        self.unread.panicked |= std::error::Error::source(error)
            .is_some_and(|source| source.downcast_ref::<Panicked>().is_some());
        self.unread.reason = error_chain(error).join(": ");
        if let State::Open(watched) = &mut self.state {
            watched.on_heard();
            watched.look_after(RUN_PROBE_AFTER);
        }
        if self.unread.credit.is_used_up() {
            if credit_for_run(self.unread.run.len(), self.prefetch.next_credit()).is_none() {
                self.cut_run(error)?;
            }
            self.open_again();
        }
        Ok(())
    }

    /// Opens another link behind the last event received, at once and without a word: nothing is
    /// wrong with this one.
    pub(super) fn open_again(&mut self) {
        self.unread.looks_at = None;
        if let State::Open(watched) = std::mem::replace(&mut self.state, State::Ended) {
            debug!(
                message_topic = %self.partition.entity,
                message_partition = %self.partition.id,
                unreadable = self.unread.run.len(),
                "the link is opened again with other credit"
            );
            self.state = self.opening(Some((watched.link, Duration::ZERO)));
        }
    }

    /// Ends a run before the events `into[first..]`, the first that could be read after it. Where
    /// there was one, everything goes out through `ready`.
    pub(super) fn end_run(&mut self, after: SequenceNumber, first: usize, into: &mut Vec<Event>) {
        let events = into.get(first..).unwrap_or_default();
        self.unread.credit.on_read(events.len());
        let next = events.first().map(Event::sequence_number);
        if let Some(next) = next.filter(|_| !self.unread.run.is_empty()) {
            let places = self.unread.run.end_before(next, after);
            self.give_out(places);
            self.ready.extend(into.drain(first..));
        }
    }

    /// The log, when the link was silent within a run.
    pub(super) fn on_silence_in_run(&mut self, log: &LogProperties) -> Option<Silence> {
        let after = self.unread.after(self.position.next_start());
        self.unread.log_end = log.end();
        if self.unread.looks_at.is_some() {
            return Some(Silence::Lost(self.silent_link()));
        }
        match self.unread.run.on_silence(log.end(), after) {
            AtEnd::Places(places) => {
                self.receive(&places);
                self.give_out(places);
                Some(Silence::RunEnded)
            }
            AtEnd::Wait => {
                if let State::Open(watched) = &mut self.state {
                    watched.look_after(2 * RUN_PROBE_AFTER);
                }
                None
            }
            AtEnd::OpenAgain => Some(Silence::OpenAgain),
            AtEnd::LookAtLast => Some(Silence::LookAtLast(log.end())),
        }
    }

    /// Opens a link at the last event of the log. Only whether that can be read counts.
    pub(super) fn look_at_last(&mut self, last: SequenceNumber) {
        if let State::Open(watched) = std::mem::replace(&mut self.state, State::Ended) {
            self.unread.looks_at = Some(last);
            let mut opening = self.link_of(self.unread.prefetch(self.prefetch.next_credit()));
            opening.position = self.position.at(LinkStart::After(SequenceNumber(last.0 - 1)));
            self.state = State::Opening(opening.open(Some((watched.link, Duration::ZERO))).boxed());
        }
    }

    /// What the link at the last event of the log said, if there is one. Returns whether that was
    /// all: what it brought is not given out, or it goes on behind the run.
    pub(super) fn on_looked(&mut self, error: Option<&Error>) -> Result<bool, StreamEnd> {
        let Some(last) = self.unread.looks_at else { return Ok(false) };
        match error {
            Some(error) if error.class() == ErrorClass::Unreadable => {
                self.unread.looks_at = None;
                self.unread.credit.on_unreadable();
                let after = self.unread.after(self.position.next_start());
                let places = self.unread.run.end_at(last, after);
                self.receive(&places);
                self.give_out(places);
                if let State::Open(watched) = &mut self.state {
                    watched.on_heard();
                }
            }
            Some(_) => return Ok(false),
            None => {
                let error = self.silent_link();
                let state = std::mem::replace(&mut self.state, State::Ended);
                if let State::Open(watched) = state {
                    self.on_error(error, Some(watched.link))?;
                }
            }
        }
        Ok(true)
    }

    /// Gives out a run that is longer than a link can be made for.
    fn cut_run(&mut self, error: &Error) -> Result<(), StreamEnd> {
        let start = self.position.next_start();
        if self.unread.panicked || matches!(start, LinkStart::EnqueuedAt(_)) {
            let run = self.unread.run.len();
            let message = format!(
                "{run} events in a row cannot be read, and where they end is not known: \
                 `longshore checkpoints set` passes them"
            );
            let failed = Error::new(ErrorClass::BadData, "receive from the link", message)
                .with_partition(&self.partition)
                .with_source(error.repeated());
            self.state = State::Ended;
            return Err(StreamEnd::Failed(failed));
        }
        let after = self.unread.after(start);
        let run = i64::try_from(self.unread.run.len()).unwrap_or(i64::MAX);
        let end = self.unread.log_end.0.max(after.0.saturating_add(run));
        let places = self.unread.run.cut(SequenceNumber(end), after);
        self.receive(&places);
        self.give_out(places);
        Ok(())
    }

    /// Moves the position behind events that cannot be read.
    fn receive(&mut self, places: &[Place]) {
        if let Some(last) = places.last() {
            self.position.on_received(last.number);
        }
    }

    /// How many of `ready` to give out: no fewer than the last one's row, if its place is a range.
    pub(super) fn whole_rows(&self, max_events: usize) -> usize {
        let count = max_events.min(self.ready.len());
        let range = |event: &Event| {
            let unreadable = event.unreadable().filter(|unreadable| !unreadable.is_exact());
            unreadable.map(|Unreadable { first, last, .. }| (*first, *last))
        };
        let last = count.checked_sub(1).and_then(|last| self.ready.get(last)).and_then(range);
        let more = self.ready.iter().skip(count);
        count + more.take_while(|event| last.is_some() && range(event) == last).count()
    }

    fn give_out(&mut self, places: Vec<Place>) {
        self.unread.panicked = false;
        let partition = Arc::new(self.partition.clone());
        for Place { number, first, last } in places {
            let mut parts = EventParts::new(Arc::clone(&partition), number.0, Bytes::new());
            let reason = self.unread.reason.clone();
            parts.unreadable = Some(Box::new(Unreadable { reason, first, last }));
            self.ready.push_back(parts.into());
        }
    }
}
