//! What comes in from the link, and how much of it may.

use tokio::time::Instant;
use tracing::warn;

use super::PartitionWorker;
use super::letter_listing::Listed;
use crate::checkpoint_store::Trial;
use crate::config::UncheckpointedEvents;
use crate::consumer::exit::StopReason;
use crate::consumer::handling::unit::Tracked;
use crate::error::{ErrorClass, error_chain};
use crate::event::{Event, SequenceNumber, Unreadable};
use crate::outcome::Failure;
use crate::state::watermark::Received;
use crate::transport::partition_stream::{PartitionStream, StreamEnd};

/// Most events taken from the link at once: what bounds an overrun of the byte budget.
const MAX_INTAKE_EVENTS: usize = 256;

impl PartitionWorker {
    /// How many events the next intake may have; 0 while intake rests. A row of events that cannot be
    /// read, of which only the range is known, comes whole.
    pub(super) fn intake_events(&self) -> usize {
        let last = self.watermark.last_received();
        let may_begin = self.parking.as_ref().is_none_or(|parking| parking.may_begin(last));
        let letters = self.letters_before.as_ref();
        let is_told = letters.is_none_or(|letters| letters.may_begin(MAX_INTAKE_EVENTS));
        if !self.tenure.is_running() || !may_begin || !is_told {
            return 0;
        }
        let window =
            self.shared.options.window_events.saturating_sub(self.watermark.window_events());
        let limit = match self.shared.options.uncheckpointed_events {
            UncheckpointedEvents::Unlimited => u64::MAX,
            UncheckpointedEvents::PauseAt(limit) => limit,
        };
        let limit = self.checkpointer.window().map_or(limit, |window| limit.min(window as u64));
        let received = self.watermark.passed_events() + self.watermark.window_events() as u64;
        let uncheckpointed = limit.saturating_sub(received - self.checkpointer.written_passed());
        let uncheckpointed = usize::try_from(uncheckpointed).unwrap_or(usize::MAX);
        window.min(uncheckpointed).min(MAX_INTAKE_EVENTS)
    }

    /// How many events to take next: what came together is taken together, as far as the budget holds it.
    pub(super) fn next_intake(&self) -> usize {
        let events = self.intake_events();
        let Some(stream) = self.stream.as_ref().filter(|_| events > 0) else { return events };
        events.min(stream.events_of(self.shared.budget.intake_bytes()))
    }

    pub(super) fn on_received(&mut self, now: Instant) {
        let mut events = std::mem::take(&mut self.received);
        let now_std = now.into_std();
        let (accused, trial_time) = (self.checkpointer.accused(), self.checkpointer.trial_time());
        // Of the accusation only its event is looked at for each: nearly always there is none.
        let accused_event = accused.map(|trial| trial.event);
        let mut bytes_taken = 0;
        let mut settled_before = 0_usize;
        self.shared.counters.received.add(events.len() as u64);
        self.ages.on_received(self.watermark.next_ticket(), &events);
        self.waiting.on_intake(&self.watermark);
        for event in events.drain(..) {
            let number = event.sequence_number();
            let is_dead = self.is_dead_already(&event);
            let received = match event.unreadable() {
                None => self.watermark.on_received(number, || (&event).into()),
                Some(Unreadable { first, last, .. }) => {
                    self.watermark.on_received_within(number, *first, *last, || (&event).into())
                }
            };
            match received {
                Received::New(ticket) => {
                    let bytes = event.budget_bytes();
                    bytes_taken += bytes;
                    let tracked = Tracked { event, ticket };
                    if let Some(unreadable) = tracked.event.unreadable() {
                        let failure = illegible(unreadable);
                        self.rows.on_received(&tracked.event);
                        self.dead_letter(tracked, failure, now);
                    } else if accused_event == Some(number)
                        && let Some(trial) = accused
                    {
                        self.dead_letter(tracked, accusation(trial), now);
                    } else if is_dead || self.is_parked(number) {
                        self.shared.counters.settled_before.add(1);
                        self.settle(&tracked, now);
                    } else if self.is_behind_parked(&tracked) {
                        self.park_behind(tracked);
                    } else {
                        if let Some(time) = trial_time {
                            self.trial.on_event(number, time);
                        }
                        self.waiting.on_event(tracked, bytes, now_std);
                    }
                }
                Received::SettledBefore => settled_before += 1,
                Received::Repeat => {}
            }
        }
        self.received = events;
        self.retry_unplaced(now);
        if settled_before > 0 {
            self.shared.counters.settled_before.add(settled_before as u64);
            self.checkpointer.on_settled(settled_before, now);
        }
        self.take_bytes(bytes_taken);
        self.count_stream();
    }

    /// The budget is told of events that are here from now on.
    pub(super) fn take_bytes(&mut self, bytes: usize) {
        self.event_bytes += bytes;
        let held = self.stream.as_ref().map_or(0, PartitionStream::link_holds_bytes);
        let share = self.shared.budget.on_taken(self.account, bytes, held);
        if let Some(stream) = &mut self.stream {
            stream.set_link_bytes(share);
        }
    }

    /// Whether this event, which is received again, is among the parked ones.
    fn is_parked(&self, number: SequenceNumber) -> bool {
        self.parking.as_ref().is_some_and(|parking| parking.state.contains(number))
    }

    /// Whether this event, which is received again, was given up by an owner before.
    fn is_dead_already(&mut self, event: &Event) -> bool {
        let Some(letters) = &mut self.letters_before else { return false };
        let is_dead = letters.on_received(event);
        if letters.is_over_at(event) {
            self.letters_before = None;
        }
        is_dead
    }

    pub(super) fn on_letters_listed(&mut self, listed: Listed, now: Instant) {
        let Some(letters) = &mut self.letters_before else { return };
        let error = match listed {
            Ok(page) => return letters.on_page(page),
            Err(error) => error,
        };
        let failures = letters.on_failed(now);
        warn!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_consumer_group = %self.key.scope.consumer_group,
            failures,
            causes = ?error_chain(&error),
            "the dead letters of the partition cannot be listed: events that are among them may be handled \
             again"
        );
    }

    fn count_stream(&mut self) {
        if let Some(stream) = &self.stream {
            let (links, lost) = (stream.links_opened(), stream.lost_events());
            self.shared.counters.links_opened.add(links - self.links_seen);
            self.shared.counters.lost_events.add(lost - self.lost_seen);
            (self.links_seen, self.lost_seen) = (links, lost);
        }
    }

    pub(super) fn on_stream_end(&mut self, end: StreamEnd, now: Instant) {
        self.count_stream();
        let deadline = now + self.shared.options.drain_timeout;
        match end {
            StreamEnd::Failed(error) if error.class() == ErrorClass::PartitionLost => {
                self.lose(StopReason::Lost(error), now);
            }
            StreamEnd::Failed(error) => self.stop(StopReason::Failed(error), deadline, now),
            // What we settled belongs to a log that is gone.
            StreamEnd::Discontinuity(continuity) => {
                self.lose(StopReason::PositionLost(continuity), now);
            }
        }
    }
}

/// Why an event is a dead letter that no handler gets: the client cannot decode it.
fn illegible(unreadable: &Unreadable) -> Failure {
    let Unreadable { reason, first, last } = unreadable;
    let place = match unreadable.is_exact() {
        true => String::new(),
        false => format!("; its sequence number is one of {first} to {last}"),
    };
    Failure::new(
        ErrorClass::Unreadable,
        format!(
            "it cannot be decoded, and its content is in the hub alone, until retention removes it: \
             {reason}{place}"
        ),
    )
}

/// Why an event is a dead letter that no handler gets any more.
pub(super) fn accusation(trial: Trial) -> Failure {
    Failure::permanent(format!(
        "its handler ends the process: {} owners of its partition ended while nothing else was \
         handled",
        trial.deaths
    ))
}
