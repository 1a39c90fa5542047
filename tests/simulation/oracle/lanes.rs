//! Lanes: the order of events within one, how many are in one at a time, and until when it is closed.
//!
//! Order is judged for each ownership: whoever begins an event of an ordered lane has settled every
//! earlier one that it received, or begins it with this call. What its claim covers was settled before.
//! By induction the order of first handling holds over all owners.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::lanes::{LaneId, LanePlan};
use super::super::plan::Plan;
use super::{Oracle, Published, covers};

#[derive(Debug, Default)]
pub(super) struct Lanes {
    plan: Option<LanePlan>,
    seed: u64,
    /// By (partition, incarnation, lane), what the log has, as (number, identity).
    logs: BTreeMap<(usize, i64, LaneId), Vec<(i64, usize)>>,
    /// By (partition, ownership, lane), how much of that is behind it.
    behind: BTreeMap<(usize, u64, LaneId), usize>,
    /// (identity, ownership) that said so.
    settled: BTreeSet<(usize, u64)>,
    calls: u64,
    /// By worker and lane, the calls that are in it, and with how many events.
    inside: BTreeMap<(String, LaneId), BTreeMap<u64, usize>>,
    /// By worker and lane: since when and until when.
    closed: BTreeMap<(String, LaneId), (Duration, Duration)>,
    /// By worker: the cap, the one before, and when it changed.
    caps: BTreeMap<String, (usize, usize, Duration)>,
    /// By worker and event: for how many claims its lane was asked for.
    asked: BTreeMap<(String, usize), usize>,
    /// By event and ownership: calls, and those of them that were no attempts.
    attempts: BTreeMap<(usize, u64), (u32, u32)>,
}

impl Lanes {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { plan: plan.lanes, seed: plan.seed, ..Self::default() }
    }

    pub(super) fn on_published(&mut self, id: usize, event: &Published) {
        let Published { partition, incarnation, number, .. } = *event;
        if let Some(lane) = self.lane(id, event) {
            self.logs.entry((partition, incarnation, lane)).or_default().push((number, id));
        }
    }

    pub(super) fn on_settled(&mut self, id: usize, epoch: u64) {
        if self.plan.is_some() {
            self.settled.insert((id, epoch));
        }
    }

    fn lane(&self, id: usize, event: &Published) -> Option<LaneId> {
        let plan = self.plan.as_ref().filter(|_| !event.unreadable)?;
        plan.lane(self.seed, event.partition, id)
    }

    /// The most events in a lane that the worker knows of, at this time.
    fn cap(&self, worker: &str, now: Duration) -> usize {
        let first = self.plan.as_ref().map_or(usize::MAX, LanePlan::cap);
        match self.caps.get(worker) {
            // What was begun under the one before may start now.
            Some((cap, before, changed)) if *changed == now => *cap.max(before),
            Some((cap, _, _)) => *cap,
            None => first,
        }
    }
}

impl Oracle {
    /// A worker begins a call: the lanes of its events, and the number of the call.
    pub fn on_lanes_begin(
        &mut self,
        worker: &str,
        ids: &[usize],
        epoch: u64,
        now: Duration,
    ) -> (Vec<Option<LaneId>>, u64) {
        let call = self.lanes.calls;
        self.lanes.calls += 1;
        let lanes: Vec<Option<LaneId>> =
            ids.iter().map(|id| self.lanes.lane(*id, &self.events[*id])).collect();
        for (id, lane) in ids.iter().zip(&lanes) {
            let Some(lane) = *lane else { continue };
            let trial = self.is_on_trial(*id);
            if !trial {
                self.judge_closing(worker, *id, lane, now);
            }
            self.judge_order(worker, *id, lane, epoch, ids);
            let inside = self.lanes.inside.entry((worker.to_owned(), lane)).or_default();
            *inside.entry(call).or_default() += 1;
            if !trial {
                self.judge_cap(worker, *id, lane, now);
            }
        }
        (lanes, call)
    }

    /// A call has left the lane of one of its events.
    pub fn on_lane_left(&mut self, worker: &str, lane: LaneId, call: u64) {
        let key = (worker.to_owned(), lane);
        let Some(inside) = self.lanes.inside.get_mut(&key) else { return };
        if let Some(events) = inside.get_mut(&call) {
            *events -= 1;
            if *events == 0 {
                inside.remove(&call);
            }
        }
        if inside.is_empty() {
            self.lanes.inside.remove(&key);
        }
    }

    /// The checkpoint says that this event is tried: it is handled alone, whatever its lane.
    fn is_on_trial(&self, id: usize) -> bool {
        let Published { partition, number, .. } = self.events[id];
        let stored = self.partitions[partition].stored.as_ref();
        let trial = stored.and_then(|stored| stored.trial.as_ref());
        trial.is_some_and(|trial| trial.is_on && trial.event.0 == number)
    }

    fn judge_closing(&mut self, worker: &str, id: usize, lane: LaneId, now: Duration) {
        let Some((since, until)) = self.lanes.closed.get(&(worker.to_owned(), lane)) else {
            return;
        };
        // What was begun before may start in the same moment.
        if *since < now && now < *until {
            self.violations.push(format!(
                "{worker} begins event {id} at {now:?}, and closed its lane {lane:?} until {until:?}"
            ));
        }
    }

    fn judge_cap(&mut self, worker: &str, id: usize, lane: LaneId, now: Duration) {
        let key = (worker.to_owned(), lane);
        let Some(inside) = self.lanes.inside.get(&key) else { return };
        let is_ordered = self.lanes.plan.as_ref().is_some_and(LanePlan::is_ordered);
        let cap = self.lanes.cap(worker, now);
        // A batch takes what an ordered lane has.
        let there = if is_ordered { inside.len() } else { inside.values().sum() };
        if there > cap {
            self.violations.push(format!(
                "{worker} begins event {id} as number {there} in {lane:?}, which holds {cap}"
            ));
        }
        if there == cap && inside.len() > 1 {
            self.count("lane full");
        }
    }

    fn judge_order(&mut self, worker: &str, id: usize, lane: LaneId, epoch: u64, call: &[usize]) {
        let Published { partition, incarnation, number, .. } = self.events[id];
        let state = &self.partitions[partition];
        let is_ordered = self.lanes.plan.as_ref().is_some_and(LanePlan::is_ordered);
        let Some(claim) = state.claims.get(&epoch).filter(|_| is_ordered) else { return };
        let claim = &claim.checkpoint;
        let is_of_its_log = claim.incarnation.is_some_and(|is| is.0 == incarnation);
        // Who wipes an epoch has it given to two ownerships.
        if state.was_overwritten || !is_of_its_log {
            return;
        }
        let begin = self.logs.get(&(partition, incarnation)).map_or(0, |log| log.begin);
        let Some(log) = self.lanes.logs.get(&(partition, incarnation, lane)) else { return };
        // For good: it is settled, or was never received.
        // What is parked is settled, and nothing passes it all the same.
        let parked = &self.parked;
        let is_open = |id: &usize| parked.get(id).is_some_and(|parked| parked.is_open_for(epoch));
        // A letter that the owner found, replayed since or not; it may have been written after the claim.
        let (kept, replayed) = (&self.kept, &self.replayed);
        let was_given_up = |id: &usize| {
            kept.get(id).is_some_and(|since| *since <= epoch) || replayed.contains_key(id)
        };
        let is_over = |(number, id): (i64, usize)| {
            let is_settled = covers(claim, number)
                || self.lanes.settled.contains(&(id, epoch))
                || was_given_up(&id);
            number < begin || is_settled && !is_open(&id)
        };
        let behind = self.lanes.behind.entry((partition, epoch, lane)).or_default();
        let at = log.partition_point(|(other, _)| *other < number);
        while *behind < at && is_over(log[*behind]) {
            *behind += 1;
        }
        // Those of this call come in order.
        let place = call.iter().position(|other| *other == id).unwrap_or_default();
        let earlier = (*behind..at).map(|earlier| log[earlier]);
        let passed =
            earlier.filter(|(_, id)| !call[..place].contains(id)).find(|one| !is_over(*one));
        if let Some((other, earlier)) = passed {
            self.violations.push(format!(
                "{worker} begins {partition}/{number} (event {id}) before {other} (event {earlier}) \
                 of its lane {lane:?} is settled"
            ));
        }
        self.count("order within a lane judged");
    }

    /// A worker closes a lane for so long: its handler asked for it, or somebody did.
    pub fn on_lane_closed(&mut self, worker: &str, lane: LaneId, now: Duration, lasts: Duration) {
        let closed = self.lanes.closed.entry((worker.to_owned(), lane)).or_default();
        let still = if closed.1 > now { closed.1 } else { now };
        *closed = (if closed.1 > now { closed.0 } else { now }, still.max(now + lasts));
    }

    /// Somebody opened the lane.
    pub fn on_lane_opened(&mut self, worker: &str, lane: LaneId) {
        self.lanes.closed.remove(&(worker.to_owned(), lane));
    }

    /// The cap of a worker's lanes changed.
    pub fn on_lanes_capped(&mut self, worker: &str, cap: usize, now: Duration) {
        let before = self.lanes.cap(worker, now);
        self.lanes.caps.insert(worker.to_owned(), (cap, before, now));
    }

    /// The engine asks for the lane of an event: once for an ownership.
    pub fn on_lane_asked(&mut self, worker: &str, id: usize) {
        let asked = self.lanes.asked.entry((worker.to_owned(), id)).or_default();
        *asked += 1;
        let state = &self.partitions[self.events[id].partition];
        let claims = state.claims.values().filter(|claim| claim.by == worker).count();
        if *asked > claims && !self.parks && !state.was_overwritten {
            let asked = *asked;
            self.violations.push(format!(
                "{worker} asks {asked} times for the lane of event {id}, and had it {claims} times"
            ));
        }
    }

    // Attempts.

    pub(super) fn on_attempt(&mut self, id: usize, epoch: u64) {
        self.lanes.attempts.entry((id, epoch)).or_default().0 += 1;
    }

    /// A handler, or a settler, asked for a closing: that is no attempt.
    pub fn on_closing(&mut self, id: usize, epoch: u64) {
        self.count("closing of a lane asked for");
        self.lanes.attempts.entry((id, epoch)).or_default().1 += 1;
    }

    /// A handler stopped because the partition is about to leave: that is no attempt.
    pub fn on_put_back(&mut self, id: usize, epoch: u64) {
        self.count("put back");
        self.lanes.attempts.entry((id, epoch)).or_default().1 += 1;
    }

    /// A dead letter says so.
    pub fn judge_attempts(&mut self, id: usize, epoch: u64, attempts: u32) {
        let Some((mut calls, mut others)) = self.lanes.attempts.get(&(id, epoch)).copied() else {
            return;
        };
        if self.parks {
            // Its record says of earlier ownerships how often they tried.
            let all = self.lanes.attempts.range((id, 0)..=(id, u64::MAX)).map(|(_, one)| *one);
            (calls, others) = all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        }
        if others > 0 {
            self.count("dead letter after a call that was no attempt");
        }
        if attempts > calls.saturating_sub(others).max(1) {
            self.violations.push(format!(
                "event {id} is given up after {attempts} attempts: it had {calls} calls, \
                 {others} of which were no attempts"
            ));
        }
    }
}
