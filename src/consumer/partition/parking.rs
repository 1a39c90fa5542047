//! What of a partition is parked, and what comes back.
//!
//! An event that is parked is settled, and its record waits in the failure store. The partition's owner
//! finds it there at its claim, and hands it out again when it is due: to the same handler, under the same
//! slots, in the same lane. It has a ticket that no watermark knows. Its record is deleted when it is done,
//! and written again when it failed; until then it is in the store whatever becomes of the owner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::parking_store::{ParkingStore, Stored};
use crate::consumer::handling::unit::Tracked;
use crate::consumer::shared::Shared;
use crate::dead_letter::record::DeadLetterRecord;
use crate::event::{Event, SequenceNumber};
use crate::failure_store::{
    FailureKind, FailurePrefix, ListedFailure, LogIdentity, PageToken, VersionToken, kept,
};
use crate::lanes::Lane;
use crate::outcome::Failure;
use crate::secret::redacted;
use crate::state::parked::{LaneTag, ParkedEvents, ParkedLimits};
use crate::state::watermark::Ticket;
use crate::timestamp::from_rfc3339;

/// Most parked events of a partition that are here at once.
pub(super) const MAX_RETURNED: usize = 256;

/// Most of them that are of one lane.
const MAX_RETURNED_OF_LANE: usize = 16;

/// How long it takes until it is seen what others changed.
pub(super) const LIST_EVERY: Duration = Duration::from_secs(30);

/// How long it may take from a claim until the event is here that is tried.
const TRIAL_COMES_WITHIN: Duration = Duration::from_secs(60);

/// How often it is counted which events are due, and most that are.
const COUNT_EVERY: Duration = Duration::from_secs(1);
const MOST_DUE: usize = 10_000;

/// How often a suspect asks whether it is its turn.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How soon the store is listed again after something new was found: a replay adds more and more.
const LIST_SOON: Duration = Duration::from_secs(1);

/// Why an event is parked, and until when.
#[derive(Clone, Debug)]
pub(super) struct ParkingOrder {
    pub(super) failure: Failure,
    pub(super) due: SystemTime,
    /// Whether the attempt that failed is counted.
    pub(super) is_attempt: bool,
    /// Whether it is one more of the times that an event may be parked.
    pub(super) is_step: bool,
}

/// An event that came back.
#[derive(Clone, Debug)]
pub(super) struct Returned {
    number: SequenceNumber,
    version: VersionToken,
    pub(super) first_failure: SystemTime,
    pub(super) parkings: u32,
    pub(super) job: Option<String>,
    pub(super) generation: u32,
    /// Attempts that are none of those it is given in place.
    pub(super) attempts_before: u32,
}

/// See the [module](self).
pub(super) struct Parking {
    pub(super) state: ParkedEvents,
    store: ParkingStore,
    log: LogIdentity,
    /// Writes, which a hand-off waits for.
    writes: FuturesUnordered<BoxFuture<'static, Stored>>,
    /// Reads, which are dropped.
    reads: FuturesUnordered<BoxFuture<'static, Stored>>,
    returned: HashMap<Ticket, Returned>,
    /// Tickets given so far.
    tickets: u64,
    pub(super) is_ordered: bool,
    is_listing: bool,
    next_listing: Instant,
    failed_listings: u32,
    /// Entries of this listing that say nothing of any event.
    unreadable: usize,
    /// When the partition was claimed.
    claimed: SystemTime,
    /// By then an event that is tried has come.
    trial_comes_by: Instant,
    /// How many events are due, as they were last counted.
    due_events: usize,
    next_count: Instant,
    /// What waits to be out by itself.
    suspect: Option<Found>,
    /// What is out by itself, and its turn among the suspects of all partitions.
    alone: Option<(Option<Ticket>, OwnedSemaphorePermit)>,
}

/// An event that is due, and its record.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) event: Event,
    pub(super) record: Box<DeadLetterRecord>,
    pub(super) version: VersionToken,
}

impl Parking {
    /// `None` where nothing is parked: without a store, without delays, and where a partition is one lane.
    pub(super) fn new(shared: &Arc<Shared>, log: LogIdentity, now: Instant) -> Option<Self> {
        let store = Arc::clone(shared.failures.as_ref()?);
        let rule = shared.lanes.as_ref().map(|lanes| lanes.rule());
        if shared.options.park_delays.is_empty() || rule.is_some_and(|rule| rule.is_of_partition())
        {
            return None;
        }
        let is_ordered = rule.is_some_and(|rule| rule.is_ordered());
        let limits = ParkedLimits {
            known: shared.options.max_parked_events,
            out: MAX_RETURNED,
            out_of_lane: MAX_RETURNED_OF_LANE,
        };
        Some(Self {
            state: ParkedEvents::new(limits, is_ordered),
            store: ParkingStore { shared: Arc::clone(shared), store },
            log,
            writes: FuturesUnordered::new(),
            reads: FuturesUnordered::new(),
            returned: HashMap::new(),
            tickets: 0,
            is_ordered,
            is_listing: false,
            next_listing: now,
            failed_listings: 0,
            unreadable: 0,
            claimed: shared.clock.now(),
            trial_comes_by: now + TRIAL_COMES_WITHIN,
            due_events: 0,
            next_count: now,
            suspect: None,
            alone: None,
        })
    }

    /// Whether an owner before may have handled an event, and died of it: nothing tells, for what is parked
    /// is in no checkpoint. So it is written down before it is handled, and what is written down already
    /// is out by itself.
    pub(super) fn is_suspect(&self, record: &DeadLetterRecord, due: Option<SystemTime>) -> bool {
        record.takeovers > 0 || due <= Some(self.claimed)
    }

    /// A suspect waits until nothing else is out, where none does yet. Another one goes back.
    pub(super) fn hold(&mut self, found: Found, now: SystemTime) {
        let number = found.record.sequence_number;
        match self.suspect {
            None => self.suspect = Some(found),
            Some(_) => self.state.on_back(number, now),
        }
    }

    /// Takes the suspect that waits, where nothing else of the partition is out, and no suspect of others.
    pub(super) fn take_suspect(&mut self) -> Option<Found> {
        if self.suspect.is_none() || self.state.out() > 1 || self.alone.is_some() {
            return None;
        }
        let turn = Arc::clone(&self.store.shared.suspects).try_acquire_owned().ok()?;
        self.alone = Some((None, turn));
        self.suspect.take()
    }

    /// When a suspect that waits for its turn asks for it again.
    pub(super) fn next_turn(&self, now: Instant) -> Option<Instant> {
        self.suspect.as_ref().map(|_| now + ASK_EVERY)
    }

    /// Whether a suspect is out by itself, or is to be.
    pub(super) fn is_closed(&self) -> bool {
        self.suspect.is_some() || self.alone.is_some()
    }

    /// Writes down that an event is about to be handled.
    pub(super) fn mark(&mut self, tracked: Tracked, mut record: Box<DeadLetterRecord>) {
        let Some(returned) = self.returned(tracked.ticket) else { return };
        let version = returned.version.clone();
        if let Some((alone @ None, _)) = &mut self.alone {
            *alone = Some(tracked.ticket);
        }
        record.takeovers = record.takeovers.saturating_add(1);
        self.writes.push(self.store.clone().mark(tracked, record, version).boxed());
    }

    /// The record of an event that is here has another version.
    pub(super) fn on_marked(&mut self, ticket: Ticket, version: VersionToken) {
        if let Some(returned) = self.returned.get_mut(&ticket) {
            returned.version = version;
        }
    }

    /// Whether events may come in behind this one: what is parked is known, as far as it must be. Order
    /// is kept whatever the store does; without it, one that fails holds up nothing but repeats.
    pub(super) fn may_begin(&self, last_received: Option<SequenceNumber>) -> bool {
        match self.is_ordered {
            true => self.state.is_listed() && !self.is_unknown(last_received),
            false => self.state.is_listed() || self.failed_listings > 0,
        }
    }

    /// Whether events before the one behind this one may be parked and not be known.
    pub(super) fn is_unknown(&self, number: Option<SequenceNumber>) -> bool {
        self.state.cut_at().is_some_and(|cut| number >= Some(cut))
    }

    /// By when an event that is tried must have come, while that may be.
    pub(super) fn trial_comes_by(&self, now: Instant) -> Option<Instant> {
        (now < self.trial_comes_by).then_some(self.trial_comes_by)
    }

    /// Events that wait though they are due. Counting goes through them, so that it is done now and then.
    pub(super) fn due_events(&mut self) -> usize {
        if self.state.is_empty() {
            self.due_events = 0;
            return 0;
        }
        let now = Instant::now();
        if now >= self.next_count {
            self.next_count = now + COUNT_EVERY;
            self.due_events = self.state.due_events(self.store.shared.clock.now(), MOST_DUE);
        }
        self.due_events
    }

    /// Whether no record is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.writes.is_empty()
    }

    /// Gives up on all records that are on their way.
    pub(super) fn cut(&mut self) {
        self.writes = FuturesUnordered::new();
    }

    /// The store's next answer.
    pub(super) async fn next(&mut self) -> Option<Stored> {
        let Self { writes, reads, .. } = self;
        tokio::select! {
            biased;
            Some(stored) = writes.next() => Some(stored),
            Some(stored) = reads.next() => Some(stored),
            else => None,
        }
    }

    /// What is known of an event that came back.
    pub(super) fn returned(&self, ticket: Ticket) -> Option<&Returned> {
        // Nearly always nothing came back, and nothing need be looked up.
        if !ticket.is_returned() { None } else { self.returned.get(&ticket) }
    }

    /// An event came back.
    pub(super) fn on_returned(
        &mut self,
        event: Event,
        record: &DeadLetterRecord,
        version: VersionToken,
    ) -> Tracked {
        let ticket = Ticket::returned(self.tickets);
        self.tickets += 1;
        let returned = Returned {
            number: record.sequence_number,
            version,
            first_failure: from_rfc3339(&record.first_failure)
                .unwrap_or_else(|| self.store.shared.clock.now()),
            parkings: record.parkings,
            job: record.job.clone(),
            generation: record.generation,
            attempts_before: if record.job.is_some() { record.attempts } else { 0 },
        };
        self.returned.insert(ticket, returned);
        Tracked { event, ticket }
    }

    /// Takes out what is known of an event that is over here.
    pub(super) fn take_returned(&mut self, ticket: Ticket) -> Option<Returned> {
        self.alone.take_if(|(alone, _)| *alone == Some(ticket) || alone.is_none());
        self.returned.remove(&ticket)
    }

    /// Puts the record of an event, for the first time or in the place of the one it came from.
    pub(super) fn park(
        &mut self,
        tracked: Tracked,
        record: DeadLetterRecord,
        lane: Option<LaneTag>,
        due: SystemTime,
    ) {
        let store = self.store.clone();
        let number = tracked.event.sequence_number();
        match self.returned(tracked.ticket).map(|returned| returned.version.clone()) {
            Some(version) => {
                self.writes.push(store.park_again(tracked, record, version, due).boxed());
            }
            None => {
                self.state.on_parking(number, lane, due);
                self.writes.push(store.park(tracked, record).boxed());
            }
        }
    }

    /// Deletes the record of an event that is over. `is_done`: it was handled.
    pub(super) fn remove(&mut self, tracked: Tracked, is_done: bool) {
        let Some(returned) = self.returned(tracked.ticket) else { return };
        let ends_letter = is_done && returned.job.is_some();
        let key = self.log.event(returned.number).key(FailureKind::Parked);
        let version = returned.version.clone();
        let store = self.store.clone();
        self.writes.push(store.remove(tracked, key, version, ends_letter).boxed());
    }

    /// Begins to read an event that is due.
    pub(super) fn read(&mut self, number: SequenceNumber) {
        let key = self.log.event(number).key(FailureKind::Parked);
        self.reads.push(self.store.clone().read(key).boxed());
    }

    /// The partition ends: what is being read is its next owner's.
    pub(super) fn on_end(&mut self) {
        self.reads = FuturesUnordered::new();
        self.suspect = None;
        self.alone = None;
        self.state.abort_listing();
        self.is_listing = true;
    }

    // Listings.

    /// When the store is listed next.
    pub(super) fn next_listing(&self) -> Option<Instant> {
        (!self.is_listing).then_some(self.next_listing)
    }

    /// Lists the store where that is due.
    pub(super) fn list_if_due(&mut self, now: Instant) {
        if self.next_listing().is_some_and(|next| next <= now) {
            self.is_listing = true;
            self.unreadable = 0;
            self.state.begin_listing();
            self.list(None);
        }
    }

    fn list(&mut self, after: Option<PageToken>) {
        let prefix = FailurePrefix::of_log(FailureKind::Parked, &self.log);
        self.reads.push(self.store.clone().list(prefix, after).boxed());
    }

    /// An entry of the listing.
    pub(super) fn on_entry(&mut self, entry: &ListedFailure) {
        let lane = entry.meta.lane.as_deref().map(LaneTag::of);
        let due = entry.meta.due.unwrap_or(SystemTime::UNIX_EPOCH);
        self.state.on_listed(entry.key.event.sequence_number, lane, due);
    }

    /// An entry of the listing says nothing. Returns whether it is the first one.
    pub(super) fn on_unreadable(&mut self) -> bool {
        self.unreadable += 1;
        self.unreadable == 1
    }

    /// A page is read. Returns how many such entries there were, when it was the last one.
    pub(super) fn on_page(&mut self, next: Option<PageToken>, now: Instant) -> Option<usize> {
        if let Some(next) = next {
            self.list(Some(next));
            return None;
        }
        let was_listed = self.state.is_listed();
        let is_new = self.state.end_listing() > 0 && was_listed;
        self.is_listing = false;
        self.failed_listings = 0;
        let is_soon = is_new || self.state.cut_at().is_some();
        self.next_listing = now + if is_soon { LIST_SOON } else { LIST_EVERY };
        Some(self.unreadable)
    }

    /// The listing failed: it is made again after this. Returns how often in a row.
    pub(super) fn on_listing_failed(
        &mut self,
        now: Instant,
        delay: impl Fn(u32) -> Duration,
    ) -> u32 {
        self.state.abort_listing();
        self.is_listing = false;
        self.failed_listings = self.failed_listings.saturating_add(1);
        self.next_listing = now + delay(self.failed_listings);
        self.failed_listings
    }
}

/// The tag of a lane, as a listing has its name.
pub(super) fn tag(lane: &Lane) -> LaneTag {
    LaneTag::of(kept(&redacted(&lane.to_string())))
}
