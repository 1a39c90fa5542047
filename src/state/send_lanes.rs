//! Which send travels when: a lane for each partition, and in each one batch after the other.
//!
//! ```text
//!  keyed event, partitions not known yet   -> waits for the first look
//!  keyed event                             -> the lane of its key's partition
//!  event for a partition                   -> that partition's lane
//!  any other, or partitions cannot be known -> the lane in which the service chooses
//! ```
//!
//! Invariants: a lane gives out its events in the order they came in, and nothing more while a
//! batch is under way. All unanswered events of a key are in one lane, so they keep their order.
//! A key whose partition is another one after a look, because the hub has more partitions, moves
//! when its last event in the old lane is answered; what comes in meanwhile is held, so that no
//! stream of events can keep it where it was.
//!
//! What it does not do: send, wait, or retry. A batch is under way until its lane is asked for the
//! next one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::key_placement::KeyPlacement;
use crate::event::PartitionId;

/// Sends that fail make no more looks than this.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Where sends queue for their turn.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// The service chooses the partition.
    Service,
    /// This partition.
    Partition(PartitionId),
}

/// A send in its lane.
#[derive(Debug)]
pub struct Queued<T> {
    /// What is sent.
    pub item: T,
    /// The key that chose the lane; `None` where the sender did.
    pub key: Option<Arc<str>>,
    bytes: usize,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<Queued<T>>,
    under_way: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), under_way: false }
    }
}

/// A key with unanswered events.
#[derive(Debug)]
struct BusyKey<T> {
    lane: Lane,
    unanswered: usize,
    /// They wait for the answers to those before them, and go to another lane.
    held: Vec<Queued<T>>,
}

#[derive(Debug)]
enum Knowledge {
    NotYet,
    /// In the order of the service; empty where they cannot be known.
    Partitions(Vec<PartitionId>),
}

/// When the partitions were looked at, and when they are to be looked at again.
#[derive(Debug, Default)]
struct Looks {
    under_way: bool,
    last: Option<Instant>,
    /// None: at once.
    next: Option<Instant>,
}

/// All sends to one entity that are not answered.
#[derive(Debug)]
pub struct SendLanes<T> {
    placement: KeyPlacement,
    knowledge: Knowledge,
    lanes: BTreeMap<Lane, Queue<T>>,
    keys: BTreeMap<Arc<str>, BusyKey<T>>,
    /// Keyed events from before the first look.
    unplaced: Vec<Queued<T>>,
    looks: Looks,
}

impl<T> SendLanes<T> {
    /// Lanes without a send, before the first look at the partitions.
    pub fn new(placement: KeyPlacement) -> Self {
        Self {
            placement,
            knowledge: Knowledge::NotYet,
            lanes: BTreeMap::new(),
            keys: BTreeMap::new(),
            unplaced: Vec::new(),
            looks: Looks::default(),
        }
    }

    /// Takes a send for a lane of the sender's choice. Returns the lane if it was at rest: it is
    /// under way from now on, and somebody has to take its batches.
    #[must_use]
    pub fn on_addressed(&mut self, lane: Lane, item: T, bytes: usize) -> Option<Lane> {
        self.push(lane, Queued { item, key: None, bytes })
    }

    /// Takes a send whose key chooses the lane. Returns as [`SendLanes::on_addressed`].
    #[must_use]
    pub fn on_keyed(&mut self, key: &str, item: T, bytes: usize) -> Option<Lane> {
        let key = match self.keys.get_key_value(key) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(key),
        };
        let send = Queued { item, key: Some(Arc::clone(&key)), bytes };
        if matches!(self.knowledge, Knowledge::NotYet) {
            self.unplaced.push(send);
            return None;
        }
        self.place(key, send)
    }

    /// Takes the next batch of a lane: the oldest sends, at most so many, and no more than so many
    /// bytes unless the first alone has more. Empty: the lane is at rest.
    pub fn take_batch(
        &mut self,
        lane: &Lane,
        max_events: usize,
        max_bytes: usize,
    ) -> Vec<Queued<T>> {
        let mut batch = Vec::new();
        if let Some(queue) = self.lanes.get_mut(lane) {
            let mut bytes = 0_usize;
            while let Some(send) = queue.waiting.pop_front_if(|send| {
                let fits = bytes.saturating_add(send.bytes) <= max_bytes;
                batch.is_empty() || (fits && batch.len() < max_events)
            }) {
                bytes = bytes.saturating_add(send.bytes);
                batch.push(send);
            }
        }
        if batch.is_empty() {
            self.lanes.remove(lane);
        }
        batch
    }

    /// One event of this key was answered. Returns the lane of those that waited for it, if it was
    /// at rest, as [`SendLanes::on_addressed`].
    #[must_use]
    pub fn on_answered(&mut self, key: &Arc<str>) -> Option<Lane> {
        let busy = self.keys.get_mut(key)?;
        busy.unanswered = busy.unanswered.saturating_sub(1);
        if busy.unanswered > 0 {
            return None;
        }
        let held = self.keys.remove(key)?.held;
        let mut started = None;
        for send in held {
            // All go to one lane, and only the first can wake it.
            started = self.place(Arc::clone(key), send).or(started);
        }
        started
    }

    /// Whether to look at the partitions now: for the first time, or again.
    pub fn take_look(&mut self, now: Instant) -> bool {
        let due = self.looks.next.is_none_or(|next| next <= now);
        if self.looks.under_way || !due {
            return false;
        }
        self.on_look(now);
        true
    }

    /// Whether a look was begun after this time: it knows why something was refused since.
    pub fn looked_since(&self, time: Instant) -> bool {
        self.looks.last.is_some_and(|last| last > time)
    }

    /// A send failed, which may be how the service says that the hub has more partitions: the next
    /// look is due now, or a second after the last one. Where they cannot be known it is not.
    pub fn on_failed(&mut self, now: Instant) {
        if matches!(&self.knowledge, Knowledge::Partitions(known) if !known.is_empty()) {
            let soon = self.looks.last.map_or(now, |last| now.max(last + LOOK_PAUSE));
            self.looks.next = self.looks.next.map(|next| next.min(soon));
        }
    }

    /// Whether no look has ended yet.
    pub fn is_new(&self) -> bool {
        matches!(self.knowledge, Knowledge::NotYet)
    }

    /// A look begins.
    pub fn on_look(&mut self, now: Instant) {
        self.looks.under_way = true;
        self.looks.last = Some(now);
    }

    /// A look found these partitions; the next one is due after `interval`. Returns the lanes that
    /// were at rest and have sends now, as [`SendLanes::on_addressed`]. Empty: they cannot be
    /// known, which changes nothing where they were known before.
    #[must_use]
    pub fn on_partitions(
        &mut self,
        partitions: Vec<PartitionId>,
        now: Instant,
        interval: Duration,
    ) -> Vec<Lane> {
        self.looks.under_way = false;
        self.looks.next = Some(now + interval);
        if partitions.is_empty() && !matches!(self.knowledge, Knowledge::NotYet) {
            return Vec::new();
        }
        self.knowledge = Knowledge::Partitions(partitions);
        let unplaced = std::mem::take(&mut self.unplaced);
        unplaced
            .into_iter()
            .filter_map(|send| {
                let key = send.key.clone()?;
                self.place(key, send)
            })
            .collect()
    }

    /// Whether the hub does not have this lane's partition, as far as is known.
    pub fn is_gone(&self, lane: &Lane) -> bool {
        match (lane, &self.knowledge) {
            (Lane::Partition(id), Knowledge::Partitions(known)) => {
                !known.is_empty() && !known.contains(id)
            }
            _ => false,
        }
    }

    /// The lane's partition is gone, and these are the sends it refused, the oldest first. Those
    /// that their key sent there, and all that wait behind them for the same reason, go where their
    /// key belongs now. Returns the others, and the lanes that were at rest.
    #[must_use]
    pub fn on_gone(&mut self, lane: &Lane, refused: Vec<Queued<T>>) -> (Vec<Queued<T>>, Vec<Lane>) {
        let waiting = self.lanes.get_mut(lane).map(|queue| std::mem::take(&mut queue.waiting));
        let (keyed, addressed): (Vec<_>, Vec<_>) =
            refused.into_iter().partition(|send| send.key.is_some());
        let (behind, stays): (Vec<_>, Vec<_>) =
            waiting.into_iter().flatten().partition(|send| send.key.is_some());
        if let Some(queue) = self.lanes.get_mut(lane) {
            queue.waiting = stays.into();
        }
        let mut started = Vec::new();
        for send in keyed.into_iter().chain(behind) {
            let Some(key) = send.key.clone() else { continue };
            let to = self.lane_of(&key);
            if let Some(busy) = self.keys.get_mut(&key) {
                busy.lane = to.clone();
            }
            started.extend(self.push(to, send));
        }
        (addressed, started)
    }

    fn lane_of(&self, key: &str) -> Lane {
        let Knowledge::Partitions(known) = &self.knowledge else { return Lane::Service };
        let index = self.placement.index(key, known.len());
        index.and_then(|index| known.get(index)).cloned().map_or(Lane::Service, Lane::Partition)
    }

    fn place(&mut self, key: Arc<str>, send: Queued<T>) -> Option<Lane> {
        let lane = self.lane_of(&key);
        match self.keys.get_mut(&key) {
            Some(busy) if busy.lane != lane || !busy.held.is_empty() => {
                busy.held.push(send);
                return None;
            }
            Some(busy) => busy.unanswered += 1,
            None => {
                let busy = BusyKey { lane: lane.clone(), unanswered: 1, held: Vec::new() };
                self.keys.insert(key, busy);
            }
        }
        self.push(lane, send)
    }

    fn push(&mut self, lane: Lane, send: Queued<T>) -> Option<Lane> {
        let queue = self.lanes.entry(lane.clone()).or_default();
        queue.waiting.push_back(send);
        let was_under_way = std::mem::replace(&mut queue.under_way, true);
        (!was_under_way).then_some(lane)
    }
}

#[cfg(test)]
mod tests;
