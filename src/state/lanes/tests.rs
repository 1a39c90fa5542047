//! Partitions, lanes and slots against rules that are checked one event at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::queues::{Given, LaneQueues, Waits};
use super::table::{Entry, LaneId, LaneTable};
use super::{Named, QueueId};
use crate::lanes::{Lane, MAX_CLOSED_LANES};
use crate::state::batch_buffer::{BatchLimits, FlushReason};
use crate::state::watermark::Ticket;

const LIMITS: BatchLimits =
    BatchLimits { max_events: 3, max_bytes: 1_000, timeout: Duration::from_millis(10) };

type Event = (Ticket, Option<u8>);

/// What a slot works on.
#[derive(Debug)]
struct Call {
    part: usize,
    events: Vec<Event>,
}

struct Part {
    queues: LaneQueues<Option<u8>>,
    names: BTreeMap<Lane, QueueId>,
    next_ticket: Ticket,
    /// Unsettled, by lane.
    unsettled: BTreeMap<Option<u8>, BTreeSet<Ticket>>,
    /// Unsettled, and waiting here.
    waiting: BTreeSet<Event>,
    /// Settled by nobody yet, and under way in their lane.
    held: BTreeSet<Ticket>,
    /// Calls of others that passed an event that waited all the time, by lane.
    overtaken: BTreeMap<u8, usize>,
    is_away: bool,
    /// It got one in line, and has not stepped since.
    has_slot: bool,
}

struct World {
    table: LaneTable,
    names: BTreeMap<Lane, LaneId>,
    parts: Vec<Part>,
    is_ordered: bool,
    takes_batches: bool,
    cap: usize,
    slots: usize,
    /// Who waits for a slot.
    line: VecDeque<usize>,
    woken: Vec<usize>,
    luck: u64,
    calls: Vec<Call>,
    /// Under way, by lane: events, or for ordered lanes calls that hold them.
    in_flight: BTreeMap<u8, usize>,
    closed: BTreeMap<u8, Instant>,
    now: Instant,
    begun: usize,
    worst_overtaking: usize,
}

fn name(lane: u8) -> Lane {
    Lane::new([lane])
}

fn named_of(lane: u8) -> Named {
    named(name(lane))
}

fn named(lane: Lane) -> Named {
    Named { lane, hash: 0 }
}

impl World {
    fn new(parts: usize, is_ordered: bool, takes_batches: bool, cap: usize, slots: usize) -> Self {
        let mut table = LaneTable::new(cap);
        let parts = (0..parts).map(|_| Part {
            queues: LaneQueues::new(table.join(), is_ordered, takes_batches.then_some(LIMITS)),
            names: BTreeMap::new(),
            next_ticket: Ticket::FIRST,
            unsettled: BTreeMap::new(),
            waiting: BTreeSet::new(),
            held: BTreeSet::new(),
            overtaken: BTreeMap::new(),
            is_away: false,
            has_slot: false,
        });
        let parts = parts.collect();
        Self {
            table,
            names: BTreeMap::new(),
            parts,
            is_ordered,
            takes_batches,
            cap,
            slots,
            line: VecDeque::new(),
            woken: Vec::new(),
            luck: 0,
            calls: Vec::new(),
            in_flight: BTreeMap::new(),
            closed: BTreeMap::new(),
            now: Instant::now(),
            begun: 0,
            worst_overtaking: 0,
        }
    }

    fn queue(&mut self, part: usize, lane: Option<u8>) -> QueueId {
        let Some(lane) = lane.map(name) else { return QueueId::NO_LANE };
        let Self { table, names, parts, .. } = self;
        let part = &mut parts[part];
        *part.names.entry(lane.clone()).or_insert_with(|| {
            let id =
                *names.entry(lane.clone()).or_insert_with(|| table.on_new(named(lane.clone())));
            part.queues.on_lane(id, named(lane.clone()), table)
        })
    }

    fn event(&mut self, at: usize, lane: Option<u8>) {
        let queue = self.queue(at, lane);
        let now = self.now;
        let part = &mut self.parts[at];
        let ticket = part.next_ticket;
        part.next_ticket = ticket.after(1);
        part.unsettled.entry(lane).or_default().insert(ticket);
        part.waiting.insert((ticket, lane));
        part.queues.on_placed(queue);
        part.queues.on_event(queue, Given { ticket, item: lane }, 1, &mut self.table, now);
        self.step(at);
    }

    /// A step of one partition, and of all that are woken or get a slot, in any order.
    fn step(&mut self, at: usize) {
        self.woken.push(at);
        for _ in 0..10_000 {
            self.tell();
            while self.slots > 0
                && let Some(next) = self.line.pop_front()
            {
                self.slots -= 1;
                self.parts[next].has_slot = true;
                self.woken.push(next);
            }
            if self.woken.is_empty() {
                return;
            }
            // Whatever is woken at the same time may run in any order.
            self.luck = self.luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let pick = usize::try_from(self.luck >> 33).expect("small") % self.woken.len();
            let next = self.woken.swap_remove(pick);
            self.step_alone(next);
        }
        panic!("partitions wake each other for ever, and nothing begins");
    }

    fn tell(&mut self) {
        while let Some(name) = self.table.take_forgotten() {
            assert!(self.names.remove(&name.lane).is_some());
        }
        while let Some(member) = self.table.take_woken() {
            self.woken.push(member.index());
        }
    }

    fn step_alone(&mut self, at: usize) {
        let now = self.now;
        let part = &mut self.parts[at];
        part.queues.on_step(&mut self.table, now);
        part.queues.set_away(part.is_away, &mut self.table, now);
        let mut wants_slot = false;
        while self.parts[at].queues.is_ready() {
            if !std::mem::take(&mut self.parts[at].has_slot) {
                if self.slots == 0 {
                    wants_slot = true;
                    break;
                }
                self.slots -= 1;
            }
            if !self.begin(at) {
                self.slots += 1;
            }
        }
        self.parts[at].queues.pass(&mut self.table);
        self.slots += usize::from(std::mem::take(&mut self.parts[at].has_slot));
        match self.line.iter().position(|other| *other == at) {
            None if wants_slot => self.line.push_back(at),
            Some(place) if !wants_slot => drop(self.line.remove(place)),
            _ => {}
        }
    }

    fn begin(&mut self, at: usize) -> bool {
        let now = self.now;
        let part = &mut self.parts[at];
        let events: Vec<Event> = if self.takes_batches {
            let Some(reason) = part.queues.ready_batch(true, now) else { return false };
            let mut given = Vec::new();
            let names: BTreeMap<QueueId, Lane> =
                part.names.iter().map(|(lane, id)| (*id, lane.clone())).collect();
            let on_given = |id, ticket| {
                given.push((ticket, names.get(&id).map(|lane| lane.as_bytes()[0])));
            };
            let Some(taken) = part.queues.take_batch(reason, on_given, &mut self.table, now) else {
                return false;
            };
            assert!((1..=LIMITS.max_events).contains(&taken.items.len()));
            assert_eq!(taken.items.len(), taken.bytes, "a byte each");
            given.sort();
            assert_eq!(taken.items, given.iter().map(|(_, lane)| *lane).collect::<Vec<_>>());
            given
        } else {
            let Some((_, given)) = part.queues.take(&mut self.table, now) else { return false };
            vec![(given.ticket, given.item)]
        };
        self.check_begun(at, &events);
        self.calls.push(Call { part: at, events });
        self.begun += 1;
        true
    }

    /// Caps, closings, order, and whom it overtook.
    fn check_begun(&mut self, at: usize, events: &[Event]) {
        assert!(!self.parts[at].is_away);
        let mut in_call: BTreeMap<u8, BTreeSet<Ticket>> = BTreeMap::new();
        for (ticket, lane) in events {
            assert!(self.parts[at].waiting.remove(&(*ticket, *lane)), "given out twice");
            let Some(lane) = *lane else { continue };
            assert!(self.closed.get(&lane).is_none_or(|until| *until <= self.now), "closed");
            let is_first = !in_call.contains_key(&lane);
            in_call.entry(lane).or_default().insert(*ticket);
            if is_first || !self.is_ordered {
                let in_flight = self.in_flight.entry(lane).or_default();
                *in_flight += 1;
                assert!(*in_flight <= self.cap, "more than the cap");
            }
            assert!(self.parts[at].held.insert(*ticket));
        }
        for (lane, tickets) in in_call {
            if self.is_ordered {
                let unsettled = &self.parts[at].unsettled[&Some(lane)];
                let oldest: BTreeSet<Ticket> =
                    unsettled.iter().copied().take(tickets.len()).collect();
                assert_eq!(tickets, oldest, "out of order");
            }
            self.parts[at].overtaken.remove(&lane);
            for (other, part) in self.parts.iter_mut().enumerate() {
                let waits = part.waiting.iter().any(|(_, of)| *of == Some(lane));
                if other != at && waits && !part.is_away {
                    let overtaken = part.overtaken.entry(lane).or_default();
                    *overtaken += tickets.len();
                    self.worst_overtaking = self.worst_overtaking.max(*overtaken);
                }
            }
        }
    }

    /// Ends a call: `fails` says of each event whether it is tried again, and closes its lane.
    fn end(&mut self, call: usize, fails: impl Fn(usize) -> Option<Duration>) {
        let Call { part: at, events } = self.calls.swap_remove(call);
        let now = self.now;
        self.slots += 1;
        for (index, (ticket, lane)) in events.iter().enumerate() {
            let queue = self.queue(at, *lane);
            let part = &mut self.parts[at];
            let is_held = part.held.contains(ticket);
            if !self.is_ordered && is_held {
                part.held.remove(ticket);
                part.queues.on_returned(queue, &mut self.table);
            }
            match fails(index) {
                Some(wait) => {
                    let until = (!wait.is_zero()).then_some(now + wait);
                    let given = Given { ticket: *ticket, item: *lane };
                    part.waiting.insert((*ticket, *lane));
                    part.queues.on_back(queue, given, 1, &mut self.table, now);
                    let is_held = part.held.remove(ticket);
                    part.queues.on_failed(queue, is_held, until, &mut self.table);
                    if let Some((lane, until)) = lane.zip(until) {
                        let closed = self.closed.entry(lane).or_insert(until);
                        *closed = until.max(*closed);
                    }
                }
                None => {
                    part.unsettled.get_mut(lane).expect("known").remove(ticket);
                    let is_held = part.held.remove(ticket);
                    let forgotten = part.queues.on_settled(queue, is_held, &mut self.table);
                    forgotten.map(|lane| part.names.remove(&lane.lane));
                }
            }
        }
        let lanes: BTreeSet<u8> = events.iter().filter_map(|(_, lane)| *lane).collect();
        for lane in lanes {
            let of_it = events.iter().filter(|(_, of)| *of == Some(lane)).count();
            let in_flight = self.in_flight.get_mut(&lane).expect("begun");
            *in_flight -= if self.is_ordered { 1 } else { of_it };
        }
        self.step(at);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for at in 0..self.parts.len() {
            let due = self.parts[at].queues.next_deadline();
            if due.is_some_and(|due| due <= self.now) {
                self.step(at);
            }
        }
    }

    fn close(&mut self, lane: u8, time: Duration) {
        let until = self.now + time;
        let lane_name = name(lane);
        let Self { table, names, .. } = self;
        let id = *names
            .entry(lane_name.clone())
            .or_insert_with(|| table.on_new(named(lane_name.clone())));
        table.close(id, until);
        let closed = self.closed.entry(lane).or_insert(until);
        *closed = until.max(*closed);
        self.step(0);
    }

    fn open(&mut self, lane: u8) {
        if let Some(id) = self.names.get(&name(lane)) {
            self.table.open(*id);
        }
        self.closed.remove(&lane);
        self.step(0);
    }

    fn set_away(&mut self, at: usize, is_away: bool) {
        self.parts[at].is_away = is_away;
        self.step(at);
    }

    /// Nothing waits that could begin: there is no slot, or its lane is full or closed.
    fn check_work_conserving(&self) {
        if self.slots == 0 {
            return;
        }
        for part in self.parts.iter().filter(|part| !part.is_away) {
            for (ticket, lane) in &part.waiting {
                let lane = lane.unwrap_or_else(|| panic!("{ticket:?} without a lane waits"));
                let in_flight = self.in_flight.get(&lane).copied().unwrap_or(0);
                let is_closed = self.closed.get(&lane).is_some_and(|until| *until > self.now);
                // Of an ordered lane, what failed in a call is behind what of the same call runs.
                assert!(in_flight >= self.cap || is_closed, "{ticket:?} of lane {lane} waits");
            }
            let due = part.queues.next_deadline().filter(|_| !self.takes_batches);
            assert!(due.is_none_or(|due| due > self.now), "it would be woken over and over");
            let waiting: usize = part.waiting.len();
            assert_eq!(part.queues.blocked_events(), waiting);
        }
    }

    fn check_counts(&self) {
        for part in &self.parts {
            assert_eq!(part.queues.len(), part.waiting.len());
        }
        let in_flight: usize = self.in_flight.values().sum();
        assert_eq!(self.table.snapshot().in_flight, in_flight);
        let unsettled = self.parts.iter().flat_map(|part| &part.unsettled);
        let mut known: BTreeSet<u8> =
            unsettled.filter(|(_, of)| !of.is_empty()).filter_map(|(lane, _)| *lane).collect();
        known.extend(self.closed.iter().filter(|(_, until)| **until > self.now).map(|(l, _)| *l));
        // One whose time has come may be there until somebody looks.
        let closed_once = self.closed.keys().copied().collect::<BTreeSet<_>>();
        let names: BTreeSet<u8> = self.names.keys().map(|lane| lane.as_bytes()[0]).collect();
        assert!(known.is_subset(&names), "a lane that is used is forgotten");
        assert!(names.iter().all(|lane| known.contains(lane) || closed_once.contains(lane)));
    }

    /// Lets everything end.
    fn finish(&mut self) {
        for at in 0..self.parts.len() {
            self.set_away(at, false);
        }
        for _ in 0..10_000 {
            while !self.calls.is_empty() {
                self.end(0, |_| None);
            }
            if self.parts.iter().all(|part| part.waiting.is_empty()) {
                break;
            }
            self.wait(Duration::from_millis(50));
        }
        assert!(self.parts.iter().all(|part| part.unsettled.values().all(BTreeSet::is_empty)));
        self.now += Duration::from_secs(10);
        self.step(0);
        assert_eq!(self.table.snapshot().known, 0, "nothing is left");
        assert!(self.names.is_empty());
        assert!(self.parts.iter().all(|part| part.names.is_empty()));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Event { part: usize, lane: Option<u8> },
    End { pick: usize },
    Fail { pick: usize, mask: u8, wait: u64 },
    Wait { millis: u64 },
    Close { lane: u8, millis: u64 },
    Open { lane: u8 },
    Away { part: usize, is_away: bool },
    Cap { cap: usize },
    Clear { part: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0usize..3, prop::option::weighted(0.85, 0u8..5))
            .prop_map(|(part, lane)| Step::Event { part, lane }),
        8 => any::<usize>().prop_map(|pick| Step::End { pick }),
        3 => (any::<usize>(), any::<u8>(), 0u64..30)
            .prop_map(|(pick, mask, wait)| Step::Fail { pick, mask, wait }),
        3 => (1u64..40).prop_map(|millis| Step::Wait { millis }),
        1 => (0u8..6, 1u64..60).prop_map(|(lane, millis)| Step::Close { lane, millis }),
        1 => (0u8..6).prop_map(|lane| Step::Open { lane }),
        1 => (0usize..3, any::<bool>()).prop_map(|(part, is_away)| Step::Away { part, is_away }),
        1 => (1usize..4).prop_map(|cap| Step::Cap { cap }),
        1 => (0usize..3).prop_map(|part| Step::Clear { part }),
    ]
}

fn run(world: &mut World, step: &Step) {
    match *step {
        Step::Event { part, lane } => world.event(part, lane),
        Step::End { pick } | Step::Fail { pick, .. } if !world.calls.is_empty() => {
            let pick = pick % world.calls.len();
            match *step {
                Step::Fail { mask, wait, .. } => {
                    let wait = Duration::from_millis(wait);
                    world.end(pick, |index| (mask >> (index % 8) & 1 == 1).then_some(wait));
                }
                _ => world.end(pick, |_| None),
            }
        }
        Step::End { .. } | Step::Fail { .. } => {}
        Step::Wait { millis } => world.wait(Duration::from_millis(millis)),
        Step::Close { lane, millis } => world.close(lane, Duration::from_millis(millis)),
        Step::Open { lane } => world.open(lane),
        Step::Away { part, is_away } => world.set_away(part, is_away),
        Step::Cap { cap } if !world.is_ordered => {
            // What runs beyond a lowered cap is not cut.
            if world.in_flight.values().all(|in_flight| *in_flight <= cap) {
                world.cap = cap;
                world.table.set_cap(cap);
                world.step(0);
            }
        }
        Step::Cap { .. } => {}
        Step::Clear { part } => clear(world, part),
    }
}

/// Everything of a partition that waits is taken away, as at its end; then it goes on.
fn clear(world: &mut World, at: usize) {
    let now = world.now;
    let part = &mut world.parts[at];
    let mut cleared: Vec<Option<u8>> =
        part.queues.clear(&mut world.table, now).into_iter().map(|(_, lane)| lane).collect();
    let mut waiting: Vec<Option<u8>> = part.waiting.iter().map(|(_, lane)| *lane).collect();
    cleared.sort_unstable();
    waiting.sort_unstable();
    assert_eq!(cleared, waiting, "nothing is lost");
    for (ticket, lane) in std::mem::take(&mut part.waiting) {
        part.unsettled.get_mut(&lane).expect("known").remove(&ticket);
        let queue = lane.map_or(QueueId::NO_LANE, |lane| part.names[&name(lane)]);
        let forgotten = part.queues.on_settled(queue, false, &mut world.table);
        forgotten.map(|lane| part.names.remove(&lane.lane));
    }
    part.is_away = false;
    world.step(at);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, ..ProptestConfig::default() })]

    #[test]
    fn caps_order_and_turns_hold_and_nothing_is_lost(
        is_ordered in any::<bool>(),
        takes_batches in any::<bool>(),
        cap in 1usize..4,
        slots in 1usize..8,
        luck in any::<u64>(),
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let cap = if is_ordered { 1 } else { cap };
        let mut world = World::new(3, is_ordered, takes_batches, cap, slots);
        world.luck = luck;
        for step in &steps {
            run(&mut world, step);
            world.check_work_conserving();
            world.check_counts();
        }
        world.finish();
    }

    /// With slots for all, whoever waits for a lane is overtaken once by each of the others.
    #[test]
    fn partitions_take_turns_in_a_lane(
        cap in 1usize..4,
        steps in prop::collection::vec(
            prop_oneof![
                (0usize..4).prop_map(|part| Step::Event { part, lane: Some(0) }),
                any::<usize>().prop_map(|pick| Step::End { pick }),
            ],
            0..200,
        ),
    ) {
        let mut world = World::new(4, false, false, cap, 1_000);
        for step in &steps {
            run(&mut world, step);
            world.check_work_conserving();
        }
        prop_assert!(world.worst_overtaking <= 3, "overtaken {} times", world.worst_overtaking);
        world.finish();
    }
}

#[test]
fn lanes_of_a_partition_take_turns() {
    let mut world = World::new(1, false, false, 10, 0);
    for _ in 0..50 {
        world.event(0, Some(0));
        world.event(0, None);
    }
    (1..=3).for_each(|lane| world.event(0, Some(lane)));
    world.slots = 5;
    world.step(0);
    let lanes: BTreeSet<Option<u8>> =
        world.calls.iter().flat_map(|call| &call.events).map(|(_, lane)| *lane).collect();
    assert_eq!(lanes.len(), 5, "one of each: {lanes:?}");
    world.slots = 5;
    world.step(0);
    let hot = world.calls.iter().filter(|call| call.events[0].1 == Some(0)).count();
    assert_eq!(hot, 1 + 3, "and then the two that are left, in turn");
    world.finish();
}

#[test]
fn whoever_passes_lets_the_next_one_go_and_keeps_its_turn() {
    let now = Instant::now();
    let mut table = LaneTable::new(1);
    let members = [table.join(), table.join(), table.join()];
    let id = table.on_new(named_of(1));
    members.iter().for_each(|_| table.on_used(id));
    let queue = QueueId(1);
    assert_eq!(table.take(id, members[0], queue, now), Entry::Open(1));
    for member in members {
        assert_eq!(table.enter(id, member, queue, false, now), Entry::Full);
    }
    let heard = |table: &mut LaneTable, member| {
        let mut news = Vec::new();
        table.take_news(member, &mut news);
        news.len()
    };
    table.on_returned(id, 1, members[0]);
    assert_eq!(members.map(|member| heard(&mut table, member)), [1, 0, 0]);
    assert_eq!(table.take(id, members[1], queue, now), Entry::Full, "it is promised");
    table.pass(members[0]);
    assert_eq!(members.map(|member| heard(&mut table, member)), [0, 1, 0]);
    table.pass(members[1]);
    table.pass(members[2]);
    assert_eq!(table.take(id, members[2], queue, now), Entry::Open(1), "all have passed");
    // Those who passed found it full since, and are first again.
    assert_eq!(table.take(id, members[1], queue, now), Entry::Full);
    assert_eq!(table.take(id, members[0], queue, now), Entry::Full);
    assert_eq!(table.enter(id, members[2], queue, false, now), Entry::Full);
    for member in members {
        heard(&mut table, member);
    }
    table.on_returned(id, 1, members[0]);
    assert_eq!(members.map(|member| heard(&mut table, member)), [1, 0, 0]);
    table.leave_turn(id, members[0]);
    assert_eq!(members.map(|member| heard(&mut table, member)), [0, 1, 0], "it left its turn");
}

#[test]
fn who_waits_for_a_full_lane_hears_when_it_is_closed_and_when_it_opens() {
    let mut world = World::new(2, false, false, 1, 10);
    world.event(0, Some(1));
    world.event(1, Some(1));
    assert_eq!(world.calls.len(), 1);
    world.close(1, Duration::from_millis(100));
    assert_eq!(world.parts[1].queues.next_deadline(), Some(world.now + Duration::from_millis(100)));
    world.end(0, |_| None);
    assert_eq!(world.calls.len(), 0, "it is closed");
    world.close(1, Duration::from_millis(50));
    world.wait(Duration::from_millis(99));
    assert_eq!(world.calls.len(), 0, "the longer time counts");
    world.wait(Duration::from_millis(1));
    assert_eq!(world.calls.len(), 1);
    world.event(0, Some(1));
    world.close(1, Duration::from_secs(3_600));
    world.end(0, |_| None);
    world.open(1);
    assert_eq!(world.calls.len(), 1, "opened at once");
    world.finish();
}

#[test]
fn closed_lanes_without_events_are_remembered_up_to_a_bound() {
    let now = Instant::now();
    let mut table = LaneTable::new(1);
    let count = MAX_CLOSED_LANES + 10;
    for index in 0..count {
        let id = table.on_new(named(Lane::new(index.to_le_bytes())));
        table.close(id, now + Duration::from_millis(1 + index as u64));
    }
    assert_eq!(table.snapshot().known, MAX_CLOSED_LANES);
    let mut forgotten = Vec::new();
    while let Some(lane) = table.take_forgotten() {
        forgotten.push(lane.lane);
    }
    forgotten.sort();
    let first: Vec<Lane> = (0..10_usize).map(|index| Lane::new(index.to_le_bytes())).collect();
    assert_eq!(forgotten, first, "the first to open go");
    table.on_time(now + Duration::from_secs(3_600));
    assert_eq!((table.snapshot().known, table.snapshot().closed), (0, 0));
}

#[test]
fn a_million_lanes_are_forgotten_when_they_are_empty() {
    let mut world = World::new(1, true, false, 1, 10);
    let mut most = 0;
    for index in 0..1_000_000_u32 {
        let lane = Lane::new(index.to_le_bytes());
        let World { table, parts, now, .. } = &mut world;
        let id = table.on_new(named(lane.clone()));
        let queues = &mut parts[0].queues;
        let queue = queues.on_lane(id, named(lane), table);
        let given = Given { ticket: Ticket::FIRST.after(index as usize), item: None };
        queues.on_placed(queue);
        queues.on_event(queue, given, 1, table, *now);
        let (queue, _) = queues.take(table, *now).expect("open");
        most = most.max(table.snapshot().known);
        queues.on_settled(queue, true, table);
        while table.take_forgotten().is_some() {}
        queues.pass(table);
    }
    assert_eq!((most, world.table.snapshot().known), (1, 0));
}

fn laned(is_ordered: bool) -> World {
    World::new(1, is_ordered, true, if is_ordered { 1 } else { 2 }, 0)
}

#[test]
fn a_batch_is_ready_by_what_could_begin_now() {
    let mut world = laned(false);
    world.slots = 0;
    let first = world.now;
    world.event(0, Some(1));
    let ready = |world: &World| world.parts[0].queues.ready_batch(false, world.now);
    assert_eq!(ready(&world), None);
    assert_eq!(world.parts[0].queues.next_deadline(), Some(first + LIMITS.timeout));
    world.now += Duration::from_millis(4);
    (0..5).for_each(|_| world.event(0, Some(1)));
    assert_eq!(ready(&world), None, "the lane takes two, a batch has three");
    world.event(0, None);
    assert_eq!(ready(&world), Some(FlushReason::Size));
    world.slots = 1;
    world.step(0);
    assert_eq!(world.calls[0].events.len(), 3);
    assert_eq!(world.parts[0].queues.next_deadline(), None, "the rest waits for its lane");
    world.event(0, None);
    assert_eq!(ready(&world), None);
    assert_eq!(
        world.parts[0].queues.next_deadline(),
        Some(world.now + LIMITS.timeout),
        "since it came"
    );
    world.now += LIMITS.timeout;
    assert_eq!(ready(&world), Some(FlushReason::Timeout));
    world.finish();
}

#[test]
fn a_batch_of_an_ordered_lane_holds_it_until_all_of_it_is_settled() {
    let mut world = laned(true);
    (0..5).for_each(|_| world.event(0, Some(1)));
    world.slots = 2;
    world.step(0);
    assert_eq!(world.calls.len(), 1, "as many as fit, and no other call");
    assert_eq!(world.parts[0].queues.waiting(QueueId(1)), (2, Waits::Full));
    // The first and the last fail: they come again before those that came after them.
    world.end(0, |index| (index != 1).then_some(Duration::from_millis(20)));
    assert_eq!(world.calls.len(), 0, "the lane is closed for the back-off");
    world.wait(Duration::from_millis(20));
    let tickets: Vec<Ticket> = world.calls[0].events.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(tickets, [0, 2, 3].map(|index| Ticket::FIRST.after(index)));
    world.finish();
}

#[test]
fn an_uncontended_batch_is_in_the_order_of_the_log() {
    let mut world = laned(true);
    let keys = [Some(3), Some(1), None];
    keys.into_iter().for_each(|key| world.event(0, key));
    world.slots = 1;
    world.step(0);
    let tickets: Vec<Ticket> = world.calls[0].events.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(tickets, [0, 1, 2].map(|index| Ticket::FIRST.after(index)));
    world.finish();
}

#[test]
fn a_large_event_ends_a_batch_and_is_first_in_the_next() {
    let now = Instant::now();
    let mut table = LaneTable::new(1);
    let mut queues: LaneQueues<u8> = LaneQueues::new(table.join(), true, Some(LIMITS));
    for (index, bytes) in [600, 600, 5_000].into_iter().enumerate() {
        let id = table.on_new(named_of(index as u8));
        let queue = queues.on_lane(id, named_of(index as u8), &mut table);
        queues.on_placed(queue);
        let given = Given { ticket: Ticket::FIRST.after(index), item: index as u8 };
        queues.on_event(queue, given, bytes, &mut table, now);
    }
    assert_eq!(queues.ready_batch(false, now), Some(FlushReason::Size));
    let mut batches = Vec::new();
    while let Some(reason) = queues.ready_batch(true, now) {
        batches.extend(queues.take_batch(reason, |_, _| {}, &mut table, now));
    }
    let items: Vec<Vec<u8>> = batches.iter().map(|batch| batch.items.clone()).collect();
    assert_eq!(items, [[0], [1], [2]]);
    assert_eq!(batches[0].reason, FlushReason::Size);
    assert_eq!(batches[1].reason, FlushReason::Bytes, "what is left is too much for one");
    assert_eq!(batches[2].bytes, 5_000, "a larger event travels alone");
}

#[test]
fn the_oldest_event_is_tried_whatever_its_lane_says() {
    let mut world = World::new(1, true, false, 1, 1);
    world.event(0, Some(1));
    world.event(0, Some(1));
    world.event(0, Some(2));
    world.close(2, Duration::from_secs(60));
    world.set_away(0, true);
    let World { table, parts, names, now, .. } = &mut world;
    let queues = &mut parts[0].queues;
    let (queue, given) = queues.take_oldest(table).expect("some wait");
    assert_eq!(given.ticket, Ticket::FIRST.after(1), "the first one runs");
    assert_eq!(queues.lane(queue), Some(&name(1)));
    let (other, given) = queues.take_oldest(table).expect("some wait");
    assert_eq!(given.item, Some(2));
    assert!(queues.take_oldest(table).is_none());
    let (first, second) = (names[&name(1)], names[&name(2)]);
    assert_eq!(
        (table.in_flight(first), table.in_flight(second)),
        (1, 1),
        "trials may be over before"
    );
    table.open(second);
    assert_eq!(table.room(second), 0, "it is under way in its lane");
    queues.on_settled(queue, true, table);
    assert_eq!(table.in_flight(first), 1, "the first one runs yet");
    queues.on_settled(other, true, table);
    queues.end(table, *now);
    assert_eq!(table.snapshot().in_flight, 0);
}

#[test]
fn a_partition_that_ends_closes_the_lanes_that_its_failures_were_to_close() {
    // A batch of an ordered lane of which one event failed, and another one is not settled.
    let limits = BatchLimits { max_events: 2, max_bytes: 1_000, timeout: Duration::ZERO };
    let now = Instant::now();
    let mut table = LaneTable::new(1);
    let mut queues = LaneQueues::new(table.join(), true, Some(limits));
    let id = table.on_new(named_of(1));
    let queue = queues.on_lane(id, named_of(1), &mut table);
    for item in 0..2 {
        queues.on_placed(queue);
        let given = Given { ticket: Ticket::FIRST.after(item), item };
        queues.on_event(queue, given, 10, &mut table, now);
    }
    let batch = queues.take_batch(FlushReason::Size, |_, _| {}, &mut table, now);
    assert_eq!(batch.map(|batch| batch.items.len()), Some(2));
    let until = now + Duration::from_secs(9);
    let failed = Given { ticket: Ticket::FIRST, item: 0 };
    queues.on_back(queue, failed, 10, &mut table, now);
    queues.on_failed(queue, true, Some(until), &mut table);
    assert_eq!(table.snapshot().closed, 0, "something of it is under way");
    queues.end(&mut table, now);
    assert_eq!((table.snapshot().closed, table.snapshot().known), (1, 1));
    assert!(table.take_forgotten().is_none());
    table.on_time(until);
    assert_eq!(table.snapshot().known, 0);
}

#[test]
fn a_partition_that_ends_gives_back_what_it_has() {
    let mut world = World::new(2, false, false, 1, 10);
    world.event(0, Some(1));
    world.event(0, Some(1));
    world.event(1, Some(1));
    assert_eq!(world.calls.len(), 1);
    let World { table, parts, now, .. } = &mut world;
    parts[0].queues.end(table, *now);
    let mut news = Vec::new();
    table.take_news(parts[1].queues.member(), &mut news);
    assert_eq!(news.len(), 1, "the other one is told");
    parts[1].queues.end(table, *now);
    assert_eq!(table.snapshot().known, 0);
    assert_eq!(table.snapshot().in_flight, 0);
}

/// One slot and three partitions with one lane: the slot is where the promise is not, over and over.
#[test]
fn whoever_passed_takes_when_it_has_a_slot_though_the_next_one_was_told() {
    let now = Instant::now();
    let mut table = LaneTable::new(1);
    let members = [table.join(), table.join(), table.join()];
    let id = table.on_new(named_of(1));
    members.iter().for_each(|_| table.on_used(id));
    let queue = QueueId(1);
    assert_eq!(table.take(id, members[2], queue, now), Entry::Open(1));
    for member in members {
        assert_eq!(table.enter(id, member, queue, false, now), Entry::Full);
    }
    table.on_returned(id, 1, members[0]);
    table.pass(members[0]);
    assert_eq!(table.take(id, members[2], queue, now), Entry::Full, "it was not told");
    assert_eq!(table.take(id, members[0], queue, now), Entry::Open(1));
    assert_eq!(table.take(id, members[1], queue, now), Entry::Full, "it comes too late");
    let mut news = Vec::new();
    table.take_news(members[1], &mut news);
    table.on_returned(id, 1, members[0]);
    news.clear();
    table.take_news(members[1], &mut news);
    assert_eq!(news.len(), 1, "and is the next");
}
