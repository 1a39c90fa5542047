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
//! a slot is there. Of a ready queue one event is taken, and it goes to the end of the ring.
//!
//! A batch takes one event of each ready queue in turn, around and around: of an ordered lane as many
//! as are there, for they are one call; of a limited one as many as the table gives. It is in the
//! order of the log.
//!
//! While the partition is away (it hands off, ends, or has an event on trial) it has no turns, and
//! nothing is ready.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::lanes::Lane;
use crate::state::batch_buffer::{BatchLimits, FlushReason, Taken};
use crate::state::lanes::table::{Entry, LaneId, LaneTable, Member, News};
use crate::state::watermark::Ticket;

/// Names the queue of a lane while the partition has events of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId(pub(crate) u32);

impl QueueId {
    /// The queue of events without a lane.
    pub const NO_LANE: Self = Self(0);

    fn key(self) -> usize {
        self.0 as usize
    }
}

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
    nodes: Slab<Node<T>>,
    /// Whose turn is next; what is not ready any more is passed over.
    ring: VecDeque<QueueId>,
    /// Queues that are ready.
    ready: usize,
    /// When the lanes of blocked queues open.
    openings: BTreeSet<(Instant, QueueId)>,
    /// Since when the first event of each ready queue could begin, where batches wait for it.
    since: BTreeSet<(Instant, QueueId)>,
    /// What a batch would find, as far as known.
    batch: Share,
    blocked_events: usize,
    is_away: bool,
    news: Vec<(QueueId, News)>,
}

#[derive(Debug)]
struct Queue {
    /// None: events without a lane.
    lane: Option<(LaneId, Lane)>,
    /// Events of the window that are of this lane.
    unsettled: usize,
    /// Those of them that count as under way.
    held: usize,
    /// A failure closes the lane until then, when nothing of it is under way any more.
    closes_until: Option<Instant>,
    head: Option<usize>,
    tail: Option<usize>,
    len: usize,
    bytes: usize,
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

#[derive(Debug)]
struct Node<T> {
    ticket: Ticket,
    item: T,
    bytes: usize,
    came: Instant,
    next: Option<usize>,
}

impl Queue {
    fn new(lane: Option<(LaneId, Lane)>) -> Self {
        Self {
            lane,
            unsettled: 0,
            held: 0,
            closes_until: None,
            head: None,
            tail: None,
            len: 0,
            bytes: 0,
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
            nodes: Slab::new(),
            ring: VecDeque::new(),
            ready: 0,
            openings: BTreeSet::new(),
            since: BTreeSet::new(),
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
    pub fn on_lane(&mut self, id: LaneId, lane: Lane, table: &mut LaneTable) -> QueueId {
        table.on_used(id);
        let key = self.queues.insert(Queue::new(Some((id, lane))));
        QueueId(u32::try_from(key).unwrap_or(u32::MAX >> 1))
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
        let Given { ticket, item } = given;
        let node = self.nodes.insert(Node { ticket, item, bytes, came: now, next: None });
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        match queue.tail.replace(node).and_then(|tail| self.nodes.get_mut(tail)) {
            Some(tail) => tail.next = Some(node),
            None => queue.head = Some(node),
        }
        self.on_added(id, bytes, false, table, now);
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
        let Given { ticket, item } = given;
        let node = self.nodes.insert(Node { ticket, item, bytes, came: now, next: None });
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        // Of an ordered lane, only what failed together with it is before it.
        let mut before = None;
        let mut next = queue.head;
        while let Some(other) = next.filter(|_| self.is_ordered).and_then(|at| self.nodes.get(at))
            && other.ticket < ticket
        {
            before = next;
            next = other.next;
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.next = next;
        }
        match before.and_then(|before| self.nodes.get_mut(before)) {
            Some(before) => before.next = Some(node),
            None => queue.head = Some(node),
        }
        if next.is_none() {
            queue.tail = Some(node);
        }
        self.on_added(id, bytes, true, table, now);
    }

    fn on_added(
        &mut self,
        id: QueueId,
        bytes: usize,
        front: bool,
        table: &mut LaneTable,
        now: Instant,
    ) {
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        queue.len += 1;
        queue.bytes += bytes;
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
            _ if queue.len == 0 => State::Empty,
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
                    self.ring.push_back(id);
                }
            }
            State::Blocked(opens) => {
                opens.map(|opens| self.openings.insert((opens, id)));
            }
            State::Empty => {}
        }
        let len = queue.len;
        if matches!(before, State::Blocked(_)) != matches!(state, State::Blocked(_)) {
            match state {
                // An event that just came is in its length, and was not counted before.
                State::Blocked(_) => self.blocked_events += len,
                _ => self.blocked_events = self.blocked_events.saturating_sub(len),
            }
        }
        self.measure(id, table);
    }

    /// Counts what a batch would find in a queue, and since when.
    fn measure(&mut self, id: QueueId, table: &LaneTable) {
        if self.limits.is_none() {
            return;
        }
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        let is_ready = queue.state == State::Ready;
        let room = match queue.id() {
            Some(lane) if !self.is_ordered => table.room(lane),
            _ => usize::MAX,
        };
        let events = if is_ready { queue.len.min(room) } else { 0 };
        let bytes = match queue.len {
            0 => 0,
            len if events == len => queue.bytes,
            len => queue.bytes / len * events,
        };
        let share = Share { events, bytes };
        let before = std::mem::replace(&mut queue.share, share);
        self.batch.events = self.batch.events - before.events + share.events;
        self.batch.bytes = self.batch.bytes - before.bytes + share.bytes;
        let came = queue.head.and_then(|head| self.nodes.get(head)).map(|head| head.came);
        let since = came.filter(|_| is_ready).max(queue.ready_since.filter(|_| is_ready));
        if queue.since != since {
            if let Some(before) = std::mem::replace(&mut queue.since, since) {
                self.since.remove(&(before, id));
            }
            since.map(|since| self.since.insert((since, id)));
        }
    }

    /// Opens what has come due, and hears what the table has to tell.
    pub fn on_step(&mut self, table: &mut LaneTable, now: Instant) {
        table.on_time(now);
        let mut news = std::mem::take(&mut self.news);
        table.take_news(self.member, &mut news);
        for (id, news) in news.drain(..) {
            let has_events = self.queues.get(id.key()).is_some_and(|queue| queue.len > 0);
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
    ) -> Option<Lane> {
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
            table.on_returned(lane, 1);
        } else if queue.held == 0 {
            self.close_behind(id, table);
            table.on_returned(lane, 1);
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
        while let Some(id) = self.ring.pop_front() {
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
        let Node { ticket, item, bytes, next, .. } = self.nodes.try_remove(queue.head?)?;
        queue.head = next;
        if next.is_none() {
            queue.tail = None;
        }
        queue.len -= 1;
        queue.bytes -= bytes;
        if matches!(queue.state, State::Blocked(_)) {
            self.blocked_events = self.blocked_events.saturating_sub(1);
        }
        Some((Given { ticket, item }, bytes))
    }

    /// What becomes of a queue of which one was taken: the end of the ring, or a turn in its lane.
    fn go_on(&mut self, id: QueueId, table: &mut LaneTable, now: Instant) {
        let is_empty = self.queues.get(id.key()).is_none_or(|queue| queue.len == 0);
        if is_empty {
            self.set(id, Entry::Full, table, now);
        } else {
            self.enter(id, false, table, now);
        }
    }

    /// Why a batch is ready, if one is; `pressed`: it need not fill.
    pub fn ready_batch(&self, pressed: bool, now: Instant) -> Option<FlushReason> {
        let limits = self.limits.filter(|_| self.ready > 0)?;
        let oldest = self.since.first().map(|(since, _)| *since);
        if self.batch.events >= limits.max_events {
            Some(FlushReason::Size)
        } else if self.batch.bytes >= limits.max_bytes {
            Some(FlushReason::Bytes)
        } else if oldest.is_some_and(|oldest| oldest + limits.timeout <= now) {
            Some(FlushReason::Timeout)
        } else {
            pressed.then_some(FlushReason::Pressure)
        }
    }

    /// Takes the events that may begin together, for a slot that is there; `None` where none may.
    /// `on_given` is told the queue of each.
    pub fn take_batch(
        &mut self,
        reason: FlushReason,
        mut on_given: impl FnMut(QueueId, Ticket),
        table: &mut LaneTable,
        now: Instant,
    ) -> Option<Taken<T>> {
        let limits = self.limits?;
        let mut given: Vec<Given<T>> = Vec::new();
        let mut taken_bytes = 0;
        let mut in_batch = Vec::new();
        while given.len() < limits.max_events
            && let Some(id) = self.next_ready()
        {
            let Some(bytes) = self.next_bytes(id) else { continue };
            if !given.is_empty() && taken_bytes + bytes > limits.max_bytes {
                // Its turn is the first one of the next batch.
                self.to_front(id);
                break;
            }
            if self.acquire(id, table, now).is_none() {
                continue;
            }
            let Some((one, bytes)) = self.pop(id) else { continue };
            on_given(id, one.ticket);
            taken_bytes += bytes;
            given.push(one);
            if self.is_ordered && id != QueueId::NO_LANE {
                self.stay_in_batch(id, &mut in_batch, table, now);
            } else {
                self.go_on(id, table, now);
            }
        }
        for id in in_batch {
            if let Some(queue) = self.queues.get_mut(id.key()) {
                queue.is_in_batch = false;
            }
            self.go_on(id, table, now);
        }
        if given.is_empty() {
            return None;
        }
        given.sort_by_key(|one| one.ticket);
        let items = given.into_iter().map(|one| one.item).collect();
        Some(Taken { items, bytes: taken_bytes, reason })
    }

    /// A queue of an ordered lane of which the batch has an event: the next ones may join it.
    fn stay_in_batch(
        &mut self,
        id: QueueId,
        in_batch: &mut Vec<QueueId>,
        table: &LaneTable,
        now: Instant,
    ) {
        let Some(queue) = self.queues.get_mut(id.key()) else { return };
        if !std::mem::replace(&mut queue.is_in_batch, true) {
            in_batch.push(id);
        }
        self.set(id, Entry::Open(1), table, now);
    }

    fn next_bytes(&self, id: QueueId) -> Option<usize> {
        let head = self.queues.get(id.key())?.head?;
        self.nodes.get(head).map(|head| head.bytes)
    }

    fn to_front(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(id.key())
            && !std::mem::replace(&mut queue.is_in_ring, true)
        {
            self.ring.push_front(id);
        }
    }

    /// Takes the oldest event, whatever its lane says: nothing else is handled. It is not under way
    /// in its lane.
    pub fn take_oldest(&mut self) -> Option<(QueueId, Given<T>)> {
        let mut oldest: Option<(Ticket, QueueId, Option<usize>, usize)> = None;
        for (key, queue) in &self.queues {
            let mut before = None;
            let mut next = queue.head;
            while let Some(at) = next
                && let Some(node) = self.nodes.get(at)
            {
                if oldest.is_none_or(|(ticket, ..)| node.ticket < ticket) {
                    let id = QueueId(u32::try_from(key).unwrap_or(u32::MAX >> 1));
                    oldest = Some((node.ticket, id, before, at));
                }
                before = next;
                next = node.next;
            }
        }
        let (_, id, before, at) = oldest?;
        let Node { ticket, item, bytes, next, .. } = self.nodes.try_remove(at)?;
        let queue = self.queues.get_mut(id.key())?;
        match before.and_then(|before| self.nodes.get_mut(before)) {
            Some(before) => before.next = next,
            None => queue.head = next,
        }
        if next.is_none() {
            queue.tail = before;
        }
        queue.len -= 1;
        queue.bytes -= bytes;
        if matches!(queue.state, State::Blocked(_)) {
            self.blocked_events = self.blocked_events.saturating_sub(1);
        }
        if queue.len == 0 {
            queue.state = State::Empty;
        }
        Some((id, Given { ticket, item }))
    }

    /// Leaves all turns, or takes them again. While it is away nothing is ready.
    pub fn set_away(&mut self, is_away: bool, table: &mut LaneTable, now: Instant) {
        if std::mem::replace(&mut self.is_away, is_away) == is_away {
            return;
        }
        let ids: Vec<QueueId> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.len > 0)
            .filter_map(|(key, _)| u32::try_from(key).ok().map(QueueId))
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
        for id in self.ring.drain(..) {
            if let Some(queue) = self.queues.get_mut(id.key()) {
                queue.is_in_ring = false;
            }
        }
    }

    /// Takes everything that waits, oldest first of each lane, and leaves all turns.
    pub fn clear(&mut self, table: &mut LaneTable, now: Instant) -> Vec<(QueueId, T)> {
        self.set_away(true, table, now);
        let mut all = Vec::with_capacity(self.nodes.len());
        for (key, queue) in &mut self.queues {
            let id = QueueId(u32::try_from(key).unwrap_or(u32::MAX >> 1));
            while let Some(node) = queue.head.and_then(|head| self.nodes.try_remove(head)) {
                queue.head = node.next;
                all.push((id, node.item));
            }
            (queue.tail, queue.len, queue.bytes, queue.state) = (None, 0, 0, State::Empty);
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
                match self.is_ordered {
                    true => table.on_returned(lane, queue.held.min(1)),
                    false => table.on_returned(lane, queue.held),
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
        let batch = self.since.first().map(|(since, _)| *since + timeout);
        opening.into_iter().chain(batch).min()
    }

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it has left its turns.
    pub fn is_away(&self) -> bool {
        self.is_away
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
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
        (queue.len, waits)
    }

    /// The lane of a queue.
    pub fn lane(&self, id: QueueId) -> Option<&Lane> {
        self.queues.get(id.key()).and_then(|queue| queue.lane.as_ref()).map(|(_, lane)| lane)
    }

    /// The id of a queue's lane in the table.
    pub fn lane_id(&self, id: QueueId) -> Option<LaneId> {
        self.queues.get(id.key()).and_then(Queue::id)
    }
}
