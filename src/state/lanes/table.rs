//! What the partitions of a consumer share of their lanes.
//!
//! ```text
//!             take              what was taken returns
//!   open ───────────> full ──────────────────────────> told to the first that waits
//!    ^                                                      │ takes, or passes:
//!    │ its time comes, or it is opened                      v the next one is told
//!   closed <─────────────── close ────────────────────── open again
//! ```
//!
//! A partition that finds a lane full or closed has a turn there. When the lane may take more, the
//! first turn is told. That is a promise and no reservation: the partition takes at its next step, or
//! passes (it has no slot), keeps its turn, and the next one is told. Who has passed takes when it comes
//! with a slot, whoever was told since. When all have passed, the lane is for whoever comes with a slot.
//! Whoever was not told cannot take what is promised to another.
//!
//! Time is constant for each step, but for the turns of one lane, of which each partition has at most
//! one, and the logarithm of the closed lanes where one is closed.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use slab::Slab;

use crate::lanes::{LaneSnapshot, MAX_CLOSED_LANES};
use crate::state::lanes::{Named, QueueId};

/// Names a lane of the table while somebody has events of it, or it is closed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LaneId(usize);

/// Names a partition that has events in lanes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Member(usize);

impl Member {
    /// Its number: small, and given to another one after it ended.
    pub fn index(self) -> usize {
        self.0
    }
}

/// How a lane stands for a partition that has an event for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// It may take so many.
    Open(usize),
    /// As much as may be is under way, or promised to others; the partition has a turn.
    Full,
    /// It is closed until then; the partition has a turn.
    Closed(Instant),
}

/// What a partition is told of a lane in which it has a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// It may take.
    Open,
    /// The lane is closed until then.
    Closed(Instant),
}

/// The lanes that have events or are closed.
#[derive(Debug)]
pub struct LaneTable {
    cap: usize,
    lanes: Slab<LaneState>,
    members: Slab<MemberState>,
    /// When lanes open: those that are used.
    openings: BTreeSet<(Instant, LaneId)>,
    /// When lanes open that nobody has events of.
    unused_openings: BTreeSet<(Instant, LaneId)>,
    in_flight: usize,
    wakes: Vec<Member>,
    forgotten: Vec<Named>,
}

#[derive(Debug)]
struct LaneState {
    name: Named,
    /// Partitions that have events of it.
    users: usize,
    in_flight: usize,
    /// Fewer may be under way than in other lanes.
    narrowed_to: Option<usize>,
    closed_until: Option<Instant>,
    turns: VecDeque<Turn>,
    /// Turns that are told.
    told: usize,
}

#[derive(Debug)]
struct Turn {
    member: Member,
    /// Where the partition keeps its events of the lane.
    queue: QueueId,
    state: TurnState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TurnState {
    Waiting,
    /// It is told that it may take.
    Told,
    /// It was told and took nothing.
    Passed,
}

#[derive(Debug, Default)]
struct MemberState {
    news: Vec<(QueueId, News)>,
    /// Lanes it was told of, which it has taken or not.
    told: Vec<LaneId>,
    is_woken: bool,
}

impl LaneState {
    /// How much of it may be under way, where `cap` is how much of any lane may.
    fn cap(&self, cap: usize) -> usize {
        self.narrowed_to.map_or(cap, |most| most.min(cap))
    }

    /// The turn of a partition: where it is in the line.
    fn turn(&self, member: Member) -> Option<usize> {
        self.turns.iter().position(|turn| turn.member == member)
    }

    /// How many more may be under way, what is promised to others left out. What was promised since
    /// it passed is no obstacle to one that was told before: else it would come with a slot, find the
    /// lane promised to one that waits for this slot, and so on, around and around.
    fn room(&self, cap: usize, turn: Option<usize>) -> usize {
        let others = match turn.and_then(|at| self.turns.get(at)).map(|turn| turn.state) {
            Some(TurnState::Passed) => 0,
            Some(TurnState::Told) => self.told - 1,
            Some(TurnState::Waiting) | None => self.told,
        };
        self.cap(cap).saturating_sub(self.in_flight + others)
    }

    fn set_state(&mut self, at: usize, state: TurnState) {
        if let Some(turn) = self.turns.get_mut(at) {
            self.told -= usize::from(turn.state == TurnState::Told);
            self.told += usize::from(state == TurnState::Told);
            turn.state = state;
        }
    }

    fn remove_turn(&mut self, at: usize) {
        self.set_state(at, TurnState::Passed);
        self.turns.remove(at);
    }
}

impl LaneTable {
    /// Lanes of which `cap` events, or for ordered lanes calls, may be under way.
    pub fn new(cap: usize) -> Self {
        Self {
            cap,
            lanes: Slab::new(),
            members: Slab::new(),
            openings: BTreeSet::new(),
            unused_openings: BTreeSet::new(),
            in_flight: 0,
            wakes: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    /// A partition begins.
    pub fn join(&mut self) -> Member {
        Member(self.members.insert(MemberState::default()))
    }

    /// A partition ends. It has no turns, nothing under way and no events any more.
    pub fn leave(&mut self, member: Member) {
        self.members.try_remove(member.0);
        self.wakes.retain(|woken| *woken != member);
    }

    /// A lane that is not known gets a name.
    pub fn on_new(&mut self, name: Named) -> LaneId {
        LaneId(self.lanes.insert(LaneState {
            name,
            users: 0,
            in_flight: 0,
            narrowed_to: None,
            closed_until: None,
            turns: VecDeque::new(),
            told: 0,
        }))
    }

    /// A partition has its first event of a lane.
    pub fn on_used(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id.0) else { return };
        lane.users += 1;
        if let Some(until) = lane.closed_until
            && self.unused_openings.remove(&(until, id))
        {
            self.openings.insert((until, id));
        }
    }

    /// A partition has no event of a lane any more, and nothing under way there.
    pub fn on_unused(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id.0) else { return };
        lane.users = lane.users.saturating_sub(1);
        self.forget_unused(id);
    }

    /// Forgets a lane that nobody uses and that is open; or remembers when it opens.
    fn forget_unused(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get(id.0).filter(|lane| lane.users == 0) else { return };
        match lane.closed_until {
            None => self.forget(id),
            Some(until) => {
                self.openings.remove(&(until, id));
                self.unused_openings.insert((until, id));
                if self.unused_openings.len() > MAX_CLOSED_LANES
                    && let Some((_, first)) = self.unused_openings.pop_first()
                {
                    self.forget(first);
                }
            }
        }
    }

    fn forget(&mut self, id: LaneId) {
        if let Some(lane) = self.lanes.try_remove(id.0) {
            self.forgotten.push(lane.name);
        }
    }

    /// The name of a lane that was forgotten.
    pub fn take_forgotten(&mut self) -> Option<Named> {
        self.forgotten.pop()
    }

    /// A partition has an event for a lane. It gets a turn there where the event cannot begin; at the
    /// `front` of the line where it was under way before.
    pub fn enter(
        &mut self,
        id: LaneId,
        member: Member,
        queue: QueueId,
        front: bool,
        now: Instant,
    ) -> Entry {
        self.open_if_due(id, now);
        let cap = self.cap;
        let Some(lane) = self.lanes.get_mut(id.0) else { return Entry::Full };
        let turn = lane.turn(member);
        let entry = match lane.closed_until {
            Some(until) => Entry::Closed(until),
            None => match lane.room(cap, turn) {
                0 => Entry::Full,
                room => return Entry::Open(room),
            },
        };
        match turn {
            Some(at) => lane.set_state(at, TurnState::Waiting),
            None => {
                let turn = Turn { member, queue, state: TurnState::Waiting };
                if front {
                    lane.turns.push_front(turn);
                } else {
                    lane.turns.push_back(turn);
                }
            }
        }
        entry
    }

    /// Takes one event of a lane, for a partition that has a slot for it. Where it cannot, the
    /// partition has a turn.
    pub fn take(&mut self, id: LaneId, member: Member, queue: QueueId, now: Instant) -> Entry {
        let entry = self.enter(id, member, queue, false, now);
        let Some(lane) = self.lanes.get_mut(id.0).filter(|_| matches!(entry, Entry::Open(_)))
        else {
            return entry;
        };
        lane.in_flight += 1;
        self.in_flight += 1;
        if let Some(at) = lane.turn(member) {
            lane.remove_turn(at);
        }
        entry
    }

    /// Takes one event of a lane, whatever that may hold.
    pub fn take_anyway(&mut self, id: LaneId) {
        if let Some(lane) = self.lanes.get_mut(id.0) {
            lane.in_flight += 1;
            self.in_flight += 1;
        }
    }

    /// What a partition took of a lane returns.
    pub fn on_returned(&mut self, id: LaneId, count: usize, member: Member) {
        let Some(lane) = self.lanes.get_mut(id.0) else { return };
        let count = count.min(lane.in_flight);
        lane.in_flight -= count;
        self.in_flight -= count;
        let is_alone = lane.turns.len() == 1
            && lane.closed_until.is_none()
            && lane.in_flight < lane.cap(self.cap)
            && lane
                .turns
                .front()
                .is_some_and(|turn| turn.member == member && turn.state == TurnState::Waiting);
        if !is_alone {
            return self.tell(id);
        }
        // It is in its step, and nobody else is there to be told: no promise is needed.
        if let Some(turn) = lane.turns.pop_front() {
            tell(&mut self.members, &mut self.wakes, member, turn.queue, News::Open);
        }
    }

    /// Closes a lane until then, or until the later time that it is closed for.
    pub fn close(&mut self, id: LaneId, until: Instant) {
        let Some(lane) = self.lanes.get_mut(id.0) else { return };
        if lane.closed_until.is_some_and(|before| before >= until) {
            return;
        }
        let openings = match lane.users {
            0 => &mut self.unused_openings,
            _ => &mut self.openings,
        };
        if let Some(before) = lane.closed_until.replace(until) {
            openings.remove(&(before, id));
        }
        openings.insert((until, id));
        lane.told = 0;
        for turn in &mut lane.turns {
            turn.state = TurnState::Waiting;
            let (member, queue) = (turn.member, turn.queue);
            tell(&mut self.members, &mut self.wakes, member, queue, News::Closed(until));
        }
        self.forget_unused(id);
    }

    /// Opens a lane that is closed.
    pub fn open(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id.0) else { return };
        if let Some(until) = lane.closed_until.take() {
            self.openings.remove(&(until, id));
            self.unused_openings.remove(&(until, id));
            self.tell(id);
            self.forget_unused(id);
        }
    }

    fn open_if_due(&mut self, id: LaneId, now: Instant) {
        let until = self.lanes.get(id.0).and_then(|lane| lane.closed_until);
        if until.is_some_and(|until| until <= now) {
            self.open(id);
        }
    }

    /// Opens the lanes whose time has come.
    pub fn on_time(&mut self, now: Instant) {
        while let Some((until, id)) = self.openings.first().copied()
            && until <= now
        {
            self.open(id);
        }
        while let Some((until, id)) = self.unused_openings.first().copied()
            && until <= now
        {
            self.open(id);
        }
    }

    /// Changes how many of a lane may be under way.
    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
        let lanes: Vec<LaneId> = self.lanes.iter().map(|(key, _)| LaneId(key)).collect();
        lanes.into_iter().for_each(|id| self.tell(id));
    }

    /// Lets fewer of one lane be under way than of others, or as many again. It is forgotten with the
    /// lane, when nobody has events of it.
    pub fn narrow(&mut self, id: LaneId, most: Option<usize>) {
        if let Some(lane) = self.lanes.get_mut(id.0) {
            lane.narrowed_to = most;
            self.tell(id);
        }
    }

    /// Tells as many of those that wait as the lane may take.
    fn tell(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id.0) else { return };
        if lane.closed_until.is_some() {
            return;
        }
        while lane.in_flight + lane.told < lane.cap(self.cap) {
            let waiting = lane.turns.iter().position(|turn| turn.state == TurnState::Waiting);
            let Some(at) = waiting else { return };
            lane.set_state(at, TurnState::Told);
            let Some(turn) = lane.turns.get(at) else { return };
            if let Some(member) = self.members.get_mut(turn.member.0) {
                member.told.push(id);
            }
            tell(&mut self.members, &mut self.wakes, turn.member, turn.queue, News::Open);
        }
    }

    /// A partition's step is over: what it was told of and did not take is for others, and it keeps
    /// its turns.
    pub fn pass(&mut self, member: Member) {
        loop {
            let told = self.members.get_mut(member.0).and_then(|member| member.told.pop());
            let Some(id) = told else { return };
            let Some(lane) = self.lanes.get_mut(id.0) else { continue };
            if let Some(at) = lane.turn(member)
                && lane.turns.get(at).is_some_and(|turn| turn.state == TurnState::Told)
            {
                lane.set_state(at, TurnState::Passed);
                self.tell(id);
            }
        }
    }

    /// A partition leaves its turn in a lane; what it was told goes to the next.
    pub fn leave_turn(&mut self, id: LaneId, member: Member) {
        let Some(lane) = self.lanes.get_mut(id.0) else { return };
        if let Some(at) = lane.turn(member) {
            lane.remove_turn(at);
            self.tell(id);
        }
    }

    /// Takes what a partition was told since it asked last.
    pub fn take_news(&mut self, member: Member, news: &mut Vec<(QueueId, News)>) {
        if let Some(member) = self.members.get_mut(member.0) {
            member.is_woken = false;
            news.append(&mut member.news);
        }
    }

    /// A partition that was told something and has not asked since.
    pub fn take_woken(&mut self) -> Option<Member> {
        let members = &self.members;
        let asks = |woken: &Member| members.get(woken.0).is_some_and(|member| member.is_woken);
        loop {
            let woken = self.wakes.pop()?;
            if asks(&woken) {
                return Some(woken);
            }
        }
    }

    /// How many more of a lane may begin, what is promised left out.
    pub fn room(&self, id: LaneId) -> usize {
        self.lanes.get(id.0).map_or(0, |lane| match lane.closed_until {
            Some(_) => 0,
            None => lane.room(self.cap, None),
        })
    }

    /// Whether a lane is closed.
    pub fn is_closed(&self, id: LaneId, now: Instant) -> bool {
        let until = self.lanes.get(id.0).and_then(|lane| lane.closed_until);
        until.is_some_and(|until| until > now)
    }

    /// Whether more of a lane is under way than may be, because its cap was lowered.
    pub fn is_over(&self, id: LaneId) -> bool {
        self.lanes.get(id.0).is_some_and(|lane| lane.in_flight > lane.cap(self.cap))
    }

    /// What of a lane is under way.
    pub fn in_flight(&self, id: LaneId) -> usize {
        self.lanes.get(id.0).map_or(0, |lane| lane.in_flight)
    }

    /// How many of a lane may be under way.
    pub fn cap(&self) -> usize {
        self.cap
    }

    /// Where the lanes stand.
    pub fn snapshot(&self) -> LaneSnapshot {
        LaneSnapshot {
            known: self.lanes.len(),
            closed: self.openings.len() + self.unused_openings.len(),
            in_flight: self.in_flight,
            cap: self.cap,
            // They are with the partitions.
            waiting_events: 0,
        }
    }
}

fn tell(
    members: &mut Slab<MemberState>,
    wakes: &mut Vec<Member>,
    member: Member,
    queue: QueueId,
    news: News,
) {
    if let Some(state) = members.get_mut(member.0) {
        state.news.push((queue, news));
        if !std::mem::replace(&mut state.is_woken, true) {
            wakes.push(member);
        }
    }
}
