//! Which events of one partition are parked, and which of them comes back next.
//!
//! ```text
//!  parking ──put──> rests ──due──> out ──written again──> rests
//!                     ^             │
//!                 a listing         └──done, or given up──> gone
//! ```
//!
//! Each event is known by its number alone: its record is in the failure store until it is due. What
//! others change there (an operator, a replay) comes in by a listing, which says nothing of what changed
//! here since it began.
//!
//! Invariants: an event is out once; at most so many are out, of a lane and in all; nothing comes out before
//! it is due. Of an ordered lane one is out, the one with the lowest number, and not before everything up to
//! it was received: an owner before may have parked an event and not the one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use crate::event::SequenceNumber;

/// Names a lane among those that have parked events: what the text is that a record has of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LaneTag(u64);

impl LaneTag {
    /// The lane of this name. Lanes with one tag are taken for one, which costs turns and no order.
    pub fn of(name: &str) -> Self {
        // FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>: the same in every run.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash)
    }
}

/// How much may be known and out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParkedLimits {
    /// Most events that are known.
    pub known: usize,
    /// Most events that are out.
    pub out: usize,
    /// Most events of one lane that are out.
    pub out_of_lane: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Its record is being put for the first time.
    Parking,
    /// It waits in the store.
    Rests,
    /// It is here, or is being fetched or written again.
    Out,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    due: SystemTime,
    lane: Option<LaneTag>,
    phase: Phase,
}

#[derive(Debug, Default)]
struct Lane {
    /// All of an ordered lane.
    numbers: BTreeSet<SequenceNumber>,
    resting: BTreeSet<(SystemTime, SequenceNumber)>,
    out: usize,
    events: usize,
    /// Whether its destination has failed for so long that its events are parked.
    is_dead: bool,
    /// When its next event comes out, as `ready` has it.
    ready: Option<SystemTime>,
    /// Its first event, as `beyond` has it.
    beyond: Option<SequenceNumber>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct ParkedEvents {
    limits: ParkedLimits,
    is_ordered: bool,
    known: BTreeMap<SequenceNumber, Known>,
    lanes: BTreeMap<Option<LaneTag>, Lane>,
    /// The lanes of which one may come out, by when.
    ready: BTreeSet<(SystemTime, Option<LaneTag>)>,
    /// The ordered lanes whose first event is not known to be the first: it was not received yet, or is
    /// beyond where the listing is cut.
    beyond: BTreeSet<(SequenceNumber, Option<LaneTag>)>,
    received: Option<SequenceNumber>,
    out: usize,
    listing: Option<Listing>,
    is_listed: bool,
    /// The store has more than is known, all of it with greater numbers.
    cut_at: Option<SequenceNumber>,
}

#[derive(Debug, Default)]
struct Listing {
    seen: BTreeMap<SequenceNumber, (SystemTime, Option<LaneTag>)>,
    /// What changed here since it began.
    touched: BTreeSet<SequenceNumber>,
    is_cut: bool,
}

impl ParkedEvents {
    /// Nothing is known yet. `is_ordered`: events of a lane come out in order.
    pub fn new(limits: ParkedLimits, is_ordered: bool) -> Self {
        Self {
            limits,
            is_ordered,
            known: BTreeMap::new(),
            lanes: BTreeMap::new(),
            ready: BTreeSet::new(),
            beyond: BTreeSet::new(),
            received: None,
            out: 0,
            listing: None,
            is_listed: false,
            cut_at: None,
        }
    }

    /// Whether a listing has been read to its end.
    pub fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// Whether no more may be parked.
    pub fn is_full(&self) -> bool {
        self.cut_at.is_some() || self.known.len() >= self.limits.known
    }

    /// Where the store has more than is known: the number up to which all of it is.
    pub fn cut_at(&self) -> Option<SequenceNumber> {
        self.cut_at
    }

    /// Whether this event is parked, or about to be.
    pub fn contains(&self, number: SequenceNumber) -> bool {
        self.known.contains_key(&number)
    }

    /// Whether events of this lane are parked, or about to be.
    pub fn has_lane(&self, lane: LaneTag) -> bool {
        self.lanes.get(&Some(lane)).is_some_and(|lane| lane.events > 0)
    }

    /// Events that are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Events that are out.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Events that would be due at this time, and are not out; counts up to `most`.
    pub fn due_events(&self, now: SystemTime, most: usize) -> usize {
        let lanes = self.lanes.values();
        let due = lanes.flat_map(|lane| lane.resting.range(..=(now, SequenceNumber(i64::MAX))));
        due.take(most).count()
    }

    /// When the next one comes out; `None` while none may.
    pub fn next_due(&self) -> Option<SystemTime> {
        self.ready.first().map(|(due, _)| *due).filter(|_| self.out < self.limits.out)
    }

    /// An event is being parked.
    pub fn on_parking(&mut self, number: SequenceNumber, lane: Option<LaneTag>, due: SystemTime) {
        self.touch(number);
        self.remove(number);
        self.add(number, Known { due, lane, phase: Phase::Parking });
    }

    /// Its record is in the store.
    pub fn on_parked(&mut self, number: SequenceNumber) {
        self.touch(number);
        let Some(known) = self.known.get(&number).copied() else { return };
        if known.phase == Phase::Parking {
            self.remove(number);
            self.add(number, Known { phase: Phase::Rests, ..known });
        }
    }

    /// Takes the next one that is due: it is out until [`ParkedEvents::on_back`] or
    /// [`ParkedEvents::on_gone`].
    pub fn take_due(&mut self, now: SystemTime) -> Option<SequenceNumber> {
        if self.next_due()? > now {
            return None;
        }
        let (_, tag) = self.ready.first().copied()?;
        let lane = self.lanes.get(&tag)?;
        let number = match self.is_ordered && tag.is_some() {
            true => *lane.numbers.first()?,
            false => lane.resting.first()?.1,
        };
        let known = self.known.get(&number).copied()?;
        self.touch(number);
        self.remove(number);
        self.add(number, Known { phase: Phase::Out, ..known });
        Some(number)
    }

    /// An event that was out rests again until then.
    pub fn on_back(&mut self, number: SequenceNumber, due: SystemTime) {
        self.touch(number);
        let Some(known) = self.known.get(&number).copied() else { return };
        if known.phase == Phase::Out {
            self.remove(number);
            self.add(number, Known { due, phase: Phase::Rests, ..known });
        }
    }

    /// An event is in the store no more.
    pub fn on_gone(&mut self, number: SequenceNumber) {
        self.touch(number);
        self.remove(number);
    }

    /// The destination of a lane has failed for so long that its events are parked, or it works again.
    /// Meanwhile one of them is out at once, to try it.
    pub fn set_dead(&mut self, lane: LaneTag, is_dead: bool) {
        let tag = Some(lane);
        if is_dead {
            self.lanes.entry(tag).or_default().is_dead = true;
        } else if let Some(lane) = self.lanes.get_mut(&tag) {
            lane.is_dead = false;
        }
        self.refresh(tag);
    }

    /// Everything up to this number was received here or settled before.
    pub fn on_received_to(&mut self, number: SequenceNumber) {
        self.received = self.received.max(Some(number));
        let known_to = self.known_to();
        while let Some((first, tag)) = self.beyond.first().copied()
            && Some(first) <= known_to
        {
            self.beyond.pop_first();
            if let Some(lane) = self.lanes.get_mut(&tag) {
                lane.beyond = None;
            }
            self.refresh(tag);
        }
    }

    // Listings.

    /// The store is about to be listed.
    pub fn begin_listing(&mut self) {
        self.listing = Some(Listing::default());
    }

    /// The listing has this event.
    pub fn on_listed(&mut self, number: SequenceNumber, lane: Option<LaneTag>, due: SystemTime) {
        let Some(listing) = &mut self.listing else { return };
        listing.seen.insert(number, (due, lane));
        if listing.seen.len() > self.limits.known {
            listing.seen.pop_last();
            listing.is_cut = true;
        }
    }

    /// The listing could not be read to its end, and says nothing.
    pub fn abort_listing(&mut self) {
        self.listing = None;
    }

    /// The listing is read. Returns how many events it has that were not known.
    pub fn end_listing(&mut self) -> usize {
        let Some(Listing { mut seen, touched, is_cut }) = self.listing.take() else { return 0 };
        self.is_listed = true;
        self.cut_at = seen.keys().next_back().copied().filter(|_| is_cut);
        seen.retain(|number, _| !touched.contains(number));
        let gone: Vec<SequenceNumber> = self
            .known
            .iter()
            .filter(|(number, known)| {
                known.phase == Phase::Rests
                    && !touched.contains(number)
                    && !seen.contains_key(number)
            })
            .map(|(number, _)| *number)
            .collect();
        gone.into_iter().for_each(|number| self.remove(number));
        let mut new = 0;
        for (number, (due, lane)) in seen {
            let before = self.known.get(&number).copied();
            match before {
                // What is here is told when it ends.
                Some(known) if known.phase != Phase::Rests => continue,
                Some(_) => self.remove(number),
                None => new += 1,
            }
            self.add(number, Known { due, lane, phase: Phase::Rests });
        }
        if self.is_ordered {
            let lanes: Vec<Option<LaneTag>> = self.lanes.keys().copied().collect();
            lanes.into_iter().for_each(|tag| self.refresh(tag));
        }
        new
    }

    /// Up to where nothing is missing of what comes before.
    fn known_to(&self) -> Option<SequenceNumber> {
        match self.cut_at {
            None => self.received,
            Some(cut) => self.received.min(Some(cut)),
        }
    }

    fn touch(&mut self, number: SequenceNumber) {
        if let Some(listing) = &mut self.listing {
            listing.touched.insert(number);
        }
    }

    fn add(&mut self, number: SequenceNumber, known: Known) {
        let Known { due, lane: tag, phase } = known;
        let lane = self.lanes.entry(tag).or_default();
        lane.events += 1;
        match phase {
            Phase::Parking => {}
            Phase::Rests => {
                lane.resting.insert((due, number));
            }
            Phase::Out => {
                lane.out += 1;
                self.out += 1;
            }
        }
        if self.is_ordered && tag.is_some() {
            lane.numbers.insert(number);
        }
        self.known.insert(number, known);
        self.refresh(tag);
    }

    fn remove(&mut self, number: SequenceNumber) {
        let Some(Known { due, lane: tag, phase }) = self.known.remove(&number) else { return };
        let Some(lane) = self.lanes.get_mut(&tag) else { return };
        lane.events -= 1;
        match phase {
            Phase::Parking => {}
            Phase::Rests => {
                lane.resting.remove(&(due, number));
            }
            Phase::Out => {
                lane.out -= 1;
                self.out -= 1;
            }
        }
        lane.numbers.remove(&number);
        self.refresh(tag);
    }

    /// Sees when the next event of a lane may come out.
    fn refresh(&mut self, tag: Option<LaneTag>) {
        let known_to = self.known_to();
        let Some(lane) = self.lanes.get_mut(&tag) else { return };
        let most = match tag {
            None => self.limits.out,
            Some(_) if lane.is_dead || self.is_ordered => 1,
            Some(_) => self.limits.out_of_lane,
        };
        let first = lane.numbers.first().copied().filter(|_| self.is_ordered && tag.is_some());
        let beyond = first.filter(|first| Some(*first) > known_to);
        if lane.beyond != beyond {
            lane.beyond.take().map(|first| self.beyond.remove(&(first, tag)));
            lane.beyond = beyond;
            beyond.map(|first| self.beyond.insert((first, tag)));
        }
        let next = if lane.out >= most || beyond.is_some() {
            None
        } else if let Some(first) = first {
            let first = self.known.get(&first);
            first.filter(|first| first.phase == Phase::Rests).map(|first| first.due)
        } else {
            lane.resting.first().map(|(due, _)| *due)
        };
        if lane.ready != next {
            lane.ready.take().map(|due| self.ready.remove(&(due, tag)));
            lane.ready = next;
            next.map(|due| self.ready.insert((due, tag)));
        }
        if lane.events == 0 && !lane.is_dead {
            self.lanes.remove(&tag);
        }
    }
}

#[cfg(test)]
mod tests;
