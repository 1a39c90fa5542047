//! What waits in one partition, by lane, and the ring in which its lanes take turns.
//!
//! ```text
//!            an event comes              the lane may take more, or opens
//!   empty ──────────────────> ready <───────────────────────────────────── blocked
//!     ^                        │  the lane is full or closed                  ^
//!     └── its last is taken ───┴───────────────────────────────────────────────┘
//! ```
//!
//! Events without a lane are in a queue of their own, which is never blocked and takes turns as the
//! others do. A queue is ready as far as this partition knows: only the table decides, and only when
//! a slot is there. Of a ready queue one event is taken, and the next turn is another's: see
//! [`ring`](super::ring).
//!
//! A batch takes one event of each ready queue in turn, around and around: of an ordered lane as many
//! as are there, for they are one call; of a limited one as many as the table gives. It is in the
//! order of the log.
//!
//! While the partition is away (it hands off, ends, or has an event on trial) it has no turns, and
//! nothing is ready.

mod batches;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::lanes::Lane;
use crate::state::batch_buffer::BatchLimits;
use crate::state::lanes::lists::{List, Lists, Node};
use crate::state::lanes::ring::Ring;
use crate::state::lanes::since::Since;
use crate::state::lanes::table::{Entry, LaneId, LaneTable, Member, News};
use crate::state::lanes::{Named, QueueId};
use crate::state::watermark::Ticket;

/// An event that is given out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given<T> {
    /// Its ticket.
    pub ticket: Ticket,
    /// The event.
    pub item: T,
}

/// How a queue's lane stands, as far as the partition knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waits {
    /// Its next event may begin.
    Not,
    /// As much of the lane is under way as may be.
    Full,
    /// The lane is closed until then.
    ClosedUntil(Instant),
}

/// The events of one partition that wait for a slot and their lane.
#[derive(Debug)]
pub struct LaneQueues<T> {
    member: Member,
    is_ordered: bool,
    /// For a handler of batches: when a batch is ready.
    limits: Option<BatchLimits>,
    queues: Slab<Queue>,
    events: Lists<T>,
    /// Whose turn is next; what is not ready any more is passed over.
    ring: Ring,
    /// Queues that are ready.
    ready: usize,
    /// When the lanes of blocked queues open.
    openings: BTreeSet<(Instant, QueueId)>,
    /// Since when the first event of each ready queue could begin, where batches wait for it.
    since: Since,
    /// What a batch would find, as far as known.
    batch: Share,
    blocked_events: usize,
    is_away: bool,
    news: Vec<(QueueId, News)>,
}

#[derive(Debug)]
struct Queue {
    /// None: events without a lane.
    lane: Option<(LaneId, Named)>,
    /// Events of the window that are of this lane.
    unsettled: usize,
    /// Those of them that count as under way.
    held: usize,
    /// A failure closes the lane until then, when nothing of it is under way any more.
    closes_until: Option<Instant>,
    list: List,
    state: State,
    is_in_ring: bool,
    /// Whether the batch that is being put together has events of it.
    is_in_batch: bool,
    /// What it adds to `batch`, and where it stands in `since`.
    share: Share,
    since: Option<Instant>,
    /// Since when it is ready.
    ready_since: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Empty,
    Ready,
    Blocked(Option<Instant>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Share {
    events: usize,
    bytes: usize,
}

impl Queue {
    fn new(lane: Option<(LaneId, Named)>) -> Self {
        Self {
            lane,
            unsettled: 0,
            held: 0,
            closes_until: None,
            list: List::default(),
            state: State::Empty,
            is_in_ring: false,
            is_in_batch: false,
            share: Share::default(),
            since: None,
            ready_since: None,
        }
    }

    fn id(&self) -> Option<LaneId> {
        self.lane.as_ref().map(|(id, _)| *id)
    }
}

impl<T> LaneQueues<T> {
    /// Nothing waits. `limits` are for a handler of batches.
    pub fn new(member: Member, is_ordered: bool, limits: Option<BatchLimits>) -> Self {
        let mut queues = Slab::new();
        queues.insert(Queue::new(None));
        Self {
            member,
            is_ordered,
            limits,
            queues,
            events: Lists::default(),
            ring: Ring::new(is_ordered),
            ready: 0,
            openings: BTreeSet::new(),
            since: Since::default(),
            batch: Share::default(),
            blocked_events: 0,
            is_away: false,
            news: Vec::new(),
        }
    }

    /// The partition's name in the table.
    pub fn member(&self) -> Member {
        self.member
    }

    /// The first event of a lane is about to come.
    pub fn on_lane(&mut self, id: LaneId, lane: Named, table: &mut LaneTable) -> QueueId {
        table.on_used(id);
        let key = self.queues.insert(Queue::new(Some((id, lane))));
        QueueId::new(key)
    }

    /// An event of the window is of this lane. It is until [`LaneQueues::on_settled`].
    pub fn on_placed(&mut self, queue: QueueId) {
        if let Some(queue) = self.queues.get_mut(queue.key()) {
            queue.unsettled += 1;
        }
    }

    /// An event waits, behind those of its lane.
    pub fn on_event(
        &mut self,
        id: QueueId,
        given: Given<T>,
        bytes: usize,
        table: &mut LaneTable,
        now: Instant,
    ) {
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        let node = Node::new(given.ticket, given.item, bytes, now);
        self.events.push_back(&mut queue.list, node);
        self.on_added(id, false, table, now);
    }

    /// An event that was given out waits again: of an ordered lane before those that came after it, of
    /// others before all.
    pub fn on_back(
        &mut self,
        id: QueueId,
        given: Given<T>,
        bytes: usize,
        table: &mut LaneTable,
        now: Instant,
    ) {
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        let node = Node::new(given.ticket, given.item, bytes, now);
        // Of an ordered lane, only what failed together with it is before it.
        self.events.push_front(&mut queue.list, node, self.is_ordered);
        self.on_added(id, true, table, now);
    }

    fn on_added(&mut self, id: QueueId, front: bool, table: &mut LaneTable, now: Instant) {
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        match queue.state {
            State::Empty => self.enter(id, front, table, now),
            State::Blocked(_) => self.blocked_events += 1,
            State::Ready => self.measure(id, table),
        }
    }

    /// Asks the table how the lane of a queue stands that has events and no turn.
    fn enter(&mut self, id: QueueId, front: bool, table: &mut LaneTable, now: Instant) {
        let Some(queue) = self.queues.get(id.key()) else { return };
        let entry = match queue.id() {
            _ if self.is_away => Entry::Full,
            None => Entry::Open(usize::MAX),
            Some(lane) => table.enter(lane, self.member, id, front, now),
        };
        self.set(id, entry, table, now);
    }

    fn set(&mut self, id: QueueId, entry: Entry, table: &LaneTable, now: Instant) {
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        let state = match entry {
            _ if queue.list.len == 0 => State::Empty,
            Entry::Open(_) => State::Ready,
            Entry::Full => State::Blocked(None),
            Entry::Closed(until) => State::Blocked(Some(until)),
        };
        let before = std::mem::replace(&mut queue.state, state);
        match before {
            State::Ready => self.ready -= 1,
            State::Blocked(opens) => {
                opens.map(|opens| self.openings.remove(&(opens, id)));
            }
            State::Empty => {}
        }
        match state {
            State::Ready => {
                self.ready += 1;
                if before != State::Ready {
                    queue.ready_since = Some(now);
                }
                if !std::mem::replace(&mut queue.is_in_ring, true) {
                    let next = self.events.first(&queue.list).map(|first| first.ticket);
                    self.ring.push(next.unwrap_or(Ticket::FIRST), id);
                }
            }
            State::Blocked(opens) => {
                opens.map(|opens| self.openings.insert((opens, id)));
            }
            State::Empty => {}
        }
        let len = queue.list.len;
        if matches!(before, State::Blocked(_)) != matches!(state, State::Blocked(_)) {
            match state {
                // An event that just came is in its length, and was not counted before.
                State::Blocked(_) => self.blocked_events += len,
                _ => self.blocked_events = self.blocked_events.saturating_sub(len),
            }
        }
        self.measure(id, table);
    }

    /// Opens what has come due, and hears what the table has to tell.
    pub fn on_step(&mut self, table: &mut LaneTable, now: Instant) {
        table.on_time(now);
        let mut news = std::mem::take(&mut self.news);
        table.take_news(self.member, &mut news);
        for (id, news) in news.drain(..) {
            let has_events = self.queues.get(id.key()).is_some_and(|queue| queue.list.len > 0);
            if has_events && !self.is_away {
                let entry = match news {
                    News::Open => Entry::Open(1),
                    News::Closed(until) => Entry::Closed(until),
                };
                self.set(id, entry, table, now);
            }
        }
        self.news = news;
        // Opened, and it is another partition's turn: it will be told of its own.
        while let Some((opens, id)) = self.openings.first().copied()
            && opens <= now
        {
            self.set(id, Entry::Full, table, now);
        }
    }

    /// The step is over: what it was told of and did not take is for other partitions.
    pub fn pass(&mut self, table: &mut LaneTable) {
        table.pass(self.member);
    }

    /// An event of a limited lane is not under way any more; it may wait elsewhere, or be settled.
    /// For one that was under way.
    pub fn on_returned(&mut self, id: QueueId, table: &mut LaneTable) {
        self.release(id, table);
    }

    /// An event of a lane is settled; `is_held`: it was under way. Returns the lane where that was the
    /// last of its events here: it is forgotten.
    pub fn on_settled(
        &mut self,
        id: QueueId,
        is_held: bool,
        table: &mut LaneTable,
    ) -> Option<Named> {
        if is_held {
            self.release(id, table);
        }
        let queue = self.queues.get_mut(id.key())?;
        queue.unsettled = queue.unsettled.saturating_sub(1);
        if queue.unsettled > 0 || queue.lane.is_none() {
            return None;
        }
        let (lane, name) = self.queues.try_remove(id.key())?.lane?;
        table.on_unused(lane);
        Some(name)
    }

    /// An event failed that waits again, by [`LaneQueues::on_back`] before this. It is not under way
    /// any more, `is_held` where it was, and its lane is closed until `until`: an ordered one once
    /// nothing of it is under way.
    pub fn on_failed(
        &mut self,
        id: QueueId,
        is_held: bool,
        until: Option<Instant>,
        table: &mut LaneTable,
    ) {
        if let Some(queue) = self.queues.get_mut(id.key()) {
            queue.closes_until = queue.closes_until.max(until);
        }
        if is_held {
            self.release(id, table);
        } else {
            self.close_behind(id, table);
        }
    }

    fn release(&mut self, id: QueueId, table: &mut LaneTable) {
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        queue.held = queue.held.saturating_sub(1);
        let Some(lane) = queue.id() else { return };
        if !self.is_ordered {
            table.on_returned(lane, 1, self.member);
        } else if queue.held == 0 {
            self.close_behind(id, table);
            table.on_returned(lane, 1, self.member);
        }
    }

    /// Closes the lane where a failure wants that; an ordered one when nothing of it is under way here.
    fn close_behind(&mut self, id: QueueId, table: &mut LaneTable) {
        let is_ordered = self.is_ordered;
        let queue = self.queues.get_mut(id.key());
        let Some(queue) = queue.filter(|queue| !is_ordered || queue.held == 0) else { return };
        if let Some(until) = queue.closes_until.take()
            && let Some(lane) = queue.id()
        {
            table.close(lane, until);
        }
    }

    /// Whether something may begin, as far as known, when a slot is there.
    pub fn is_ready(&self) -> bool {
        self.ready > 0
    }

    /// Takes the next event that may begin, for a slot that is there.
    pub fn take(&mut self, table: &mut LaneTable, now: Instant) -> Option<(QueueId, Given<T>)> {
        while let Some(id) = self.next_ready() {
            if self.acquire(id, table, now).is_some()
                && let Some((given, _)) = self.pop(id)
            {
                self.go_on(id, table, now);
                return Some((id, given));
            }
        }
        None
    }

    /// The next queue of the ring that is ready; it is in the ring no more.
    fn next_ready(&mut self) -> Option<QueueId> {
        while let Some(id) = self.ring.pop() {
            if let Some(queue) = self.queues.get_mut(id.key()) {
                queue.is_in_ring = false;
                if queue.state == State::Ready {
                    return Some(id);
                }
            }
        }
        None
    }

    /// Takes one of a ready queue's lane; blocks the queue where there is none to be had.
    fn acquire(&mut self, id: QueueId, table: &mut LaneTable, now: Instant) -> Option<()> {
        let queue = self.queues.get_mut(id.key())?;
        if queue.is_in_batch && self.is_ordered {
            queue.held += 1;
            return Some(());
        }
        if let Some(lane) = queue.id() {
            match table.take(lane, self.member, id, now) {
                Entry::Open(_) => queue.held += 1,
                entry => {
                    self.set(id, entry, table, now);
                    return None;
                }
            }
        }
        Some(())
    }

    fn pop(&mut self, id: QueueId) -> Option<(Given<T>, usize)> {
        let queue = self.queues.get_mut(id.key())?;
        let Node { ticket, item, bytes, .. } = self.events.pop(&mut queue.list)?;
        Some((Given { ticket, item }, bytes))
    }

    /// What becomes of a queue of which one was taken: the ring again, or a turn in its lane.
    fn go_on(&mut self, id: QueueId, table: &mut LaneTable, now: Instant) {
        let is_empty = self.queues.get(id.key()).is_none_or(|queue| queue.list.len == 0);
        if is_empty {
            self.set(id, Entry::Full, table, now);
        } else {
            self.enter(id, false, table, now);
        }
    }

    /// Takes the oldest event, whatever its lane says: nothing else is handled. It is under way in its
    /// lane, for its call may outlast its trial.
    pub fn take_oldest(&mut self, table: &mut LaneTable) -> Option<(QueueId, Given<T>)> {
        let spots = self.queues.iter().filter_map(|(key, queue)| {
            self.events.earliest(&queue.list).map(|spot| (spot, QueueId::new(key)))
        });
        let (spot, id) = spots.min_by_key(|(spot, _)| spot.ticket)?;
        let queue = self.queues.get_mut(id.key())?;
        let Node { ticket, item, .. } = self.events.remove(&mut queue.list, spot)?;
        if matches!(queue.state, State::Blocked(_)) {
            self.blocked_events = self.blocked_events.saturating_sub(1);
        }
        if queue.list.len == 0 {
            queue.state = State::Empty;
        }
        if let Some(lane) = queue.id() {
            if !self.is_ordered || queue.held == 0 {
                table.take_anyway(lane);
            }
            queue.held += 1;
        }
        Some((id, Given { ticket, item }))
    }

    /// Takes what waits of a lane, behind the first `kept` events, oldest first. It is of the lane still,
    /// until [`LaneQueues::on_settled`].
    pub fn take_behind(
        &mut self,
        id: QueueId,
        kept: usize,
        table: &mut LaneTable,
        now: Instant,
    ) -> Vec<T> {
        let Some(queue) = self.queues.get_mut(id.key()) else { return Vec::new() };
        let mut nodes: Vec<Node<T>> =
            std::iter::from_fn(|| self.events.pop(&mut queue.list)).collect();
        let taken = nodes.split_off(kept.min(nodes.len()));
        let is_blocked = matches!(queue.state, State::Blocked(_));
        for node in nodes {
            self.events.push_back(&mut queue.list, node);
        }
        if is_blocked {
            self.blocked_events = self.blocked_events.saturating_sub(taken.len());
        }
        if queue.list.len == 0 {
            if let Some(lane) = queue.id() {
                table.leave_turn(lane, self.member);
            }
            self.set(id, Entry::Full, table, now);
        } else {
            self.measure(id, table);
        }
        taken.into_iter().map(|node| node.item).collect()
    }

    /// Leaves all turns, or takes them again. While it is away nothing is ready.
    pub fn set_away(&mut self, is_away: bool, table: &mut LaneTable, now: Instant) {
        if std::mem::replace(&mut self.is_away, is_away) == is_away {
            return;
        }
        let ids: Vec<QueueId> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.list.len > 0)
            .map(|(key, _)| QueueId::new(key))
            .collect();
        for id in ids {
            if is_away && let Some(lane) = self.queues.get(id.key()).and_then(Queue::id) {
                table.leave_turn(lane, self.member);
            }
            self.enter(id, false, table, now);
        }
        if is_away {
            self.forget_ring();
            table.take_news(self.member, &mut self.news);
            self.news.clear();
        }
    }

    fn forget_ring(&mut self) {
        while let Some(id) = self.ring.pop() {
            if let Some(queue) = self.queues.get_mut(id.key()) {
                queue.is_in_ring = false;
            }
        }
    }

    /// Takes everything that waits, oldest first of each lane, and leaves all turns.
    pub fn clear(&mut self, table: &mut LaneTable, now: Instant) -> Vec<(QueueId, T)> {
        self.set_away(true, table, now);
        let mut all = Vec::with_capacity(self.events.len());
        for (key, queue) in &mut self.queues {
            let id = QueueId::new(key);
            while let Some(node) = self.events.pop(&mut queue.list) {
                all.push((id, node.item));
            }
            queue.state = State::Empty;
        }
        self.blocked_events = 0;
        self.openings.clear();
        all
    }

    /// The ownership ends: gives back what is under way, and forgets all lanes.
    pub fn end(&mut self, table: &mut LaneTable, now: Instant) {
        self.clear(table, now);
        for queue in self.queues.drain() {
            if let Some(lane) = queue.id() {
                // What was to close it once all of a batch was settled closes it all the same.
                if let Some(until) = queue.closes_until {
                    table.close(lane, until);
                }
                match self.is_ordered {
                    true => table.on_returned(lane, queue.held.min(1), self.member),
                    false => table.on_returned(lane, queue.held, self.member),
                }
                table.on_unused(lane);
            }
        }
        table.leave(self.member);
    }

    /// When something becomes ready by time alone.
    pub fn next_deadline(&self) -> Option<Instant> {
        let opening = self.openings.first().map(|(opens, _)| *opens);
        let timeout = self.limits.map_or(Duration::ZERO, |limits| limits.timeout);
        let batch = self.since.first().map(|since| since + timeout);
        opening.into_iter().chain(batch).min()
    }

    /// When a lane opens that has events here, be there a batch or not.
    pub fn next_opening(&self) -> Option<Instant> {
        self.openings.first().map(|(opens, _)| *opens)
    }

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether it has left its turns.
    pub fn is_away(&self) -> bool {
        self.is_away
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Events whose lane is full or closed.
    pub fn blocked_events(&self) -> usize {
        if self.is_away { 0 } else { self.blocked_events }
    }

    /// Events that wait in a queue, and for what.
    pub fn waiting(&self, id: QueueId) -> (usize, Waits) {
        let Some(queue) = self.queues.get(id.key()) else { return (0, Waits::Not) };
        let waits = match queue.state {
            State::Blocked(Some(until)) => Waits::ClosedUntil(until),
            State::Blocked(None) => Waits::Full,
            State::Empty if queue.held > 0 => Waits::Full,
            State::Empty | State::Ready => Waits::Not,
        };
        (queue.list.len, waits)
    }

    /// The lane of a queue.
    pub fn lane(&self, id: QueueId) -> Option<&Lane> {
        let queue = self.queues.get(id.key())?;
        queue.lane.as_ref().map(|(_, name)| &name.lane)
    }

    /// The id of a queue's lane in the table.
    pub fn lane_id(&self, id: QueueId) -> Option<LaneId> {
        self.queues.get(id.key()).and_then(Queue::id)
    }
}
