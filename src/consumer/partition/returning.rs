//! Parks events, and hands out those that are due again.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::PartitionWorker;
use super::parking::{Found, Parking, ParkingOrder, tag};
use super::parking_store::{Stored, event_of};
use crate::consumer::handling::unit::{Attempt, Tracked};
use crate::dead_letter::DeadLetter;
use crate::dead_letter::record::DeadLetterRecord;
use crate::error::{Error, error_chain};
use crate::event::SequenceNumber;
use crate::failure_store::{FailurePage, StoredFailure};
use crate::lanes::Lane;
use crate::outcome::Failure;
use crate::state::watermark::Ticket;
use crate::timestamp::{from_rfc3339, rfc3339};

/// How long an event is left alone whose record cannot be used: somebody may repair it.
const UNUSABLE_FOR: Duration = Duration::from_secs(5 * 60);

impl PartitionWorker {
    /// Whether this event may be parked now.
    pub(super) fn may_park(&self, tracked: &Tracked) -> bool {
        let has_room = |parking: &Parking| {
            parking.returned(tracked.ticket).is_some() || !parking.state.is_full()
        };
        self.tenure.may_checkpoint() && self.parking.as_ref().is_some_and(has_room)
    }

    /// Whether this event came back and is not over.
    pub(super) fn is_back(&self, ticket: Ticket) -> bool {
        self.parking.as_ref().is_some_and(|parking| parking.returned(ticket).is_some())
    }

    /// Whether an event must wait in the store, since one before it in its ordered lane does.
    pub(super) fn is_behind_parked(&self, tracked: &Tracked) -> bool {
        let Some(parking) = self.parking.as_ref().filter(|parking| parking.is_ordered) else {
            return false;
        };
        if parking.state.is_empty() || tracked.ticket.is_returned() {
            return false;
        }
        let lane = self.lane_of(tracked);
        let before = SequenceNumber(tracked.event.sequence_number().0.saturating_sub(1));
        lane.is_some_and(|lane| {
            parking.is_unknown(Some(before)) || parking.state.has_lane(tag(&lane))
        })
    }

    /// The lane of an event, be it in already or about to come in.
    fn lane_of(&self, tracked: &Tracked) -> Option<Lane> {
        let lane = self.waiting.lane(tracked.ticket).cloned();
        lane.or_else(|| self.waiting.lane_of(&tracked.event))
    }

    /// Parks an event that failed.
    pub(super) fn park(&mut self, tracked: Tracked, order: ParkingOrder, now: Instant) {
        let attempt = self.failures.attempt(tracked.ticket);
        let is_returned = tracked.ticket.is_returned();
        info!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_offset = %tracked.event.sequence_number(),
            message_consumer_group = %self.key.scope.consumer_group,
            attempts = attempt.number,
            due = rfc3339(order.due),
            failure = %order.failure,
            "the event is parked"
        );
        let lane = self.waiting.lane(tracked.ticket).cloned();
        let mut letter = self.letter(&tracked, order.failure, attempt);
        if !order.is_attempt {
            letter.attempts = attempt.number - 1;
        }
        letter.parkings += u32::from(order.is_step);
        self.put_parked(tracked, &letter, lane.as_ref(), order.due);
        if !is_returned {
            self.park_waiting_behind(lane, now);
        }
    }

    fn put_parked(
        &mut self,
        tracked: Tracked,
        letter: &DeadLetter,
        lane: Option<&Lane>,
        due: SystemTime,
    ) {
        let mut record = DeadLetterRecord::new(letter);
        record.due = Some(rfc3339(due));
        if let Some(parking) = &mut self.parking {
            parking.park(tracked, record, lane.map(tag), due);
        }
    }

    /// Nothing that waits in an ordered lane may pass an event of it that is parked.
    pub(super) fn park_waiting_behind(&mut self, lane: Option<Lane>, now: Instant) {
        let is_ordered = self.parking.as_ref().is_some_and(|parking| parking.is_ordered);
        let Some(lane) = lane.filter(|_| is_ordered) else { return };
        for tracked in self.waiting.take_behind(&lane, 0, now.into_std()) {
            self.park_behind(tracked);
        }
    }

    /// Parks an event behind one of its lane that is parked.
    pub(super) fn park_behind(&mut self, tracked: Tracked) {
        let attempt = self.failures.attempt(tracked.ticket);
        debug!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_offset = %tracked.event.sequence_number(),
            message_consumer_group = %self.key.scope.consumer_group,
            "the event is parked behind another one of its lane"
        );
        let lane = self.lane_of(&tracked);
        let why = "an event before it in its lane is parked: it waits for that one";
        let mut letter = self.letter(&tracked, Failure::transient(why), attempt);
        letter.attempts = attempt.number - 1;
        letter.lane = lane.as_ref().map(ToString::to_string);
        self.put_parked(tracked, &letter, lane.as_ref(), self.shared.clock.now());
    }

    /// What is written down of an event that failed.
    pub(super) fn letter(
        &self,
        tracked: &Tracked,
        failure: Failure,
        attempt: Attempt,
    ) -> DeadLetter {
        let shared = &self.shared;
        let now = shared.clock.now();
        let group = shared.transport.consumer_group().clone();
        let event = tracked.event.clone();
        let first = attempt.first_failure.unwrap_or(now);
        let mut letter = DeadLetter::new(event, group, shared.worker.clone(), failure, now)
            .with_history(attempt.number, first)
            .with_origin(shared.transport.namespace(), self.checkpointer.incarnation());
        letter.lane = self.waiting.lane(tracked.ticket).map(ToString::to_string);
        let returned = self.parking.as_ref().and_then(|parking| parking.returned(tracked.ticket));
        if let Some(returned) = returned {
            letter.parkings = returned.parkings;
            letter.job.clone_from(&returned.job);
            letter.generation = returned.generation;
            letter.first_failure = letter.first_failure.min(returned.first_failure);
        }
        letter
    }

    /// What the failure store did.
    pub(super) fn on_stored(&mut self, stored: Stored, now: Instant) {
        match stored {
            Stored::Parked(tracked) => {
                self.shared.counters.parked.add(1);
                if let Some(parking) = &mut self.parking {
                    parking.state.on_parked(tracked.event.sequence_number());
                }
                self.settle(&tracked, now);
                self.checkpointer.on_batch_finished(now);
            }
            Stored::ParkedAgain(tracked, due) => self.on_back(&tracked, due),
            // A listing tells what it says now.
            Stored::Changed(tracked) => {
                self.on_back(&tracked, self.shared.clock.now() + super::parking::LIST_EVERY);
            }
            Stored::Removed(tracked) => {
                let number = tracked.event.sequence_number();
                if let Some(parking) = &mut self.parking {
                    parking.take_returned(tracked.ticket);
                    parking.state.on_gone(number);
                }
            }
            Stored::Marked(tracked, record, version) => {
                if let Some(parking) = &mut self.parking {
                    parking.on_marked(tracked.ticket, version);
                }
                match self.tenure.is_ending() {
                    true => self.on_back(&tracked, self.shared.clock.now()),
                    false => self.take_back(tracked, &record, now),
                }
            }
            Stored::Read(number, read) => self.on_read(number, read, now),
            Stored::Listed(listed) => self.on_listed(listed, now),
        }
    }

    /// An event that came back rests in the store again.
    fn on_back(&mut self, tracked: &Tracked, due: SystemTime) {
        self.leave(tracked);
        self.returned_bytes += tracked.event.budget_bytes();
        if let Some(parking) = &mut self.parking
            && parking.take_returned(tracked.ticket).is_some()
        {
            parking.state.on_back(tracked.event.sequence_number(), due);
        }
    }

    /// An event that came back is over here: its record goes.
    pub(super) fn remove_returned(&mut self, tracked: &Tracked, is_done: bool) {
        self.returned_bytes += tracked.event.budget_bytes();
        if let Some(parking) = &mut self.parking {
            parking.remove(tracked.clone(), is_done);
        }
    }

    fn on_read(
        &mut self,
        number: SequenceNumber,
        read: Result<Option<StoredFailure>, Error>,
        now: Instant,
    ) {
        let time = self.shared.clock.now();
        let found = match read {
            Ok(Some(found)) => event_of(&found).map(|(record, event)| (record, event, found)),
            Ok(None) => {
                let parking = self.parking.as_mut();
                parking.into_iter().for_each(|parking| parking.state.on_gone(number));
                return;
            }
            Err(error) => {
                let delay = self.shared.options.retry_backoff.delay(3, self.shared.random());
                self.log_unusable(number, &error, delay);
                return self.rest(number, time + delay);
            }
        };
        match found {
            Ok((record, event, stored)) => {
                let record = Box::new(record);
                self.on_found(Found { event, record, version: stored.version }, now);
            }
            Err(error) => {
                self.log_unusable(number, &error, UNUSABLE_FOR);
                self.rest(number, time + UNUSABLE_FOR);
            }
        }
    }

    /// An event is here whose time has come, as far as known.
    fn on_found(&mut self, found: Found, now: Instant) {
        let time = self.shared.clock.now();
        let due = due_of(&found.record);
        let Some(parking) = &mut self.parking else { return };
        let number = found.record.sequence_number;
        if self.tenure.is_ending() || due.is_some_and(|due| due > time) {
            return parking.state.on_back(number, due.unwrap_or(time));
        }
        if !self.checkpointer.has_settled(number) {
            // Where it ended the process, it would be received again, and nothing would be known of that.
            return parking.state.on_back(number, time + UNTIL_CHECKPOINT);
        }
        let most = self.shared.options.max_takeovers;
        let Some(most) = most.filter(|_| parking.is_suspect(&found.record, due)) else {
            return self.take_found(found, now);
        };
        if found.record.takeovers >= most {
            return self.accuse(found, most, now);
        }
        if found.record.takeovers > 0 {
            return parking.hold(found, time);
        }
        self.hand_out_marked(found);
    }

    /// A parked event that may end the process is handled once that is written down.
    fn hand_out_marked(&mut self, found: Found) {
        let Some(parking) = &mut self.parking else { return };
        if self.tenure.is_ending() {
            let number = found.record.sequence_number;
            return parking.state.on_back(number, self.shared.clock.now());
        }
        let Found { event, record, version } = found;
        let tracked = parking.on_returned(event, &record, version);
        let bytes = tracked.event.budget_bytes();
        parking.mark(tracked, record);
        self.take_bytes(bytes);
    }

    fn accuse(&mut self, found: Found, owners: u32, now: Instant) {
        let Some(parking) = &mut self.parking else { return };
        let Found { event, record, version } = found;
        let tracked = parking.on_returned(event, &record, version);
        let failure = Failure::permanent(format!(
            "its handler ends the process: {owners} owners of its partition ended while it was handled"
        ));
        self.failures.on_returned(tracked.ticket, record.attempts, None);
        self.take_bytes(tracked.event.budget_bytes());
        self.dead_letter(tracked, failure, now);
    }

    fn take_found(&mut self, found: Found, now: Instant) {
        let Some(parking) = &mut self.parking else { return };
        let Found { event, record, version } = found;
        let tracked = parking.on_returned(event, &record, version);
        self.take_bytes(tracked.event.budget_bytes());
        self.take_back(tracked, &record, now);
    }

    fn rest(&mut self, number: SequenceNumber, due: SystemTime) {
        if let Some(parking) = &mut self.parking {
            parking.state.on_back(number, due);
        }
    }

    fn log_unusable(&self, number: SequenceNumber, error: &Error, again_in: Duration) {
        error!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_offset = %number,
            message_consumer_group = %self.key.scope.consumer_group,
            retry_in_ms = again_in.as_millis(),
            causes = ?error_chain(error),
            "a parked event cannot be read; it stays parked"
        );
    }

    /// An event waits here again as others do.
    fn take_back(&mut self, tracked: Tracked, record: &DeadLetterRecord, now: Instant) {
        debug!(
            message_topic = %self.partition.entity,
            message_partition = %self.partition.id,
            message_offset = %tracked.event.sequence_number(),
            message_consumer_group = %self.key.scope.consumer_group,
            attempts = record.attempts,
            job = record.job,
            "the event comes back from the failure store"
        );
        // Of a replay it is the first failure that counts from now on.
        let first = from_rfc3339(&record.first_failure).filter(|_| record.job.is_none());
        self.failures.on_returned(tracked.ticket, record.attempts, first);
        self.shared.counters.returned.add(1);
        let bytes = tracked.event.budget_bytes();
        self.waiting.on_retry(tracked, bytes, now.into_std());
        self.retry_unplaced(now);
    }

    fn on_listed(&mut self, listed: Result<FailurePage, Error>, now: Instant) {
        let Self { parking: Some(parking), partition, key, shared, watermark, .. } = self else {
            return;
        };
        match listed {
            Ok(page) => {
                for entry in page.entries {
                    match entry {
                        Ok(entry) => parking.on_entry(&entry),
                        Err(error) => {
                            if parking.on_unreadable() {
                                warn!(
                                    message_topic = %partition.entity,
                                    message_partition = %partition.id,
                                    message_consumer_group = %key.scope.consumer_group,
                                    causes = ?error_chain(&error),
                                    "a parked event cannot be told: it is not tried again"
                                );
                            }
                        }
                    }
                }
                parking.on_page(page.next, now);
            }
            Err(error) => {
                let random = shared.random();
                let backoff = shared.options.retry_backoff;
                let failures = parking.on_listing_failed(now, |n| backoff.delay(n, random));
                warn!(
                    message_topic = %partition.entity,
                    message_partition = %partition.id,
                    message_consumer_group = %key.scope.consumer_group,
                    failures,
                    causes = ?error_chain(&error),
                    "the parked events cannot be listed; {}",
                    if parking.may_begin(watermark.last_received()) { "none is tried again before they are" }
                    else { "nothing of the partition is handled before they are, for order is kept" }
                );
            }
        }
    }

    /// Lists, parks and takes back what is due. `starved`: the budget lets nothing in.
    pub(super) fn step_parking(&mut self, starved: bool, now: Instant) {
        let received = self.watermark.last_received();
        let Some(parking) = &mut self.parking else { return };
        if self.tenure.is_ending() {
            return;
        }
        parking.list_if_due(now);
        if parking.is_ordered
            && let Some(received) = received
        {
            parking.state.on_received_to(received);
        }
        if let Some(found) = parking.take_suspect() {
            self.hand_out_marked(found);
        }
        self.park_dead_lanes(now);
        let has_next = |parking: &Parking| parking.state.next_due().is_some();
        if !self.parking.as_ref().is_some_and(has_next) {
            return;
        }
        let time = self.shared.clock.now();
        while self.may_take_back(starved, now)
            && let Some(parking) = &mut self.parking
            && let Some(number) = parking.state.take_due(time)
        {
            parking.read(number);
        }
    }

    /// Whether an event may come back now.
    fn may_take_back(&self, starved: bool, now: Instant) -> bool {
        let Some(parking) = &self.parking else { return false };
        // While single events are tried, one of them at once may be such.
        let is_probed_by_others = self.is_probed() && parking.state.out() > 0;
        // What is tried is handled alone, or it would be accused for another one.
        let may_come = || parking.trial_comes_by(now).is_some();
        let is_next_tried = self.checkpointer.trial_time().is_some()
            && (self.watermark.unsettled_events() > 0 || may_come());
        let is_tried = is_next_tried || self.trial.tried().is_some();
        let is_closed = is_probed_by_others || parking.is_closed() || is_tried;
        !starved && self.tenure.is_running() && !self.awaits_trial() && !is_closed
    }

    /// When something of this is due.
    pub(super) fn next_parking(&self, starved: bool, now: Instant) -> Option<Instant> {
        let parking = self.parking.as_ref().filter(|_| !self.tenure.is_ending())?;
        let due = parking.state.next_due().filter(|_| self.may_take_back(starved, now));
        let due = due.map(|due| {
            let wait = due.duration_since(self.shared.clock.now()).unwrap_or_default();
            now + wait.min(MAX_WAIT)
        });
        let look = self.dead_lanes.next_look(&self.shared);
        let is_tried = self.checkpointer.trial_time().is_some();
        let tried = parking.trial_comes_by(now).filter(|_| is_tried);
        let turn = parking.next_turn(now).or(tried);
        due.into_iter().chain(parking.next_listing()).chain(look).chain(turn).min()
    }
}

/// How long an event waits for the checkpoint to have it as settled.
const UNTIL_CHECKPOINT: Duration = Duration::from_millis(500);

/// Longest wait that is asked of a timer.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

fn due_of(record: &DeadLetterRecord) -> Option<SystemTime> {
    record.due.as_deref().and_then(from_rfc3339)
}
