//! What must hold, judged from what handlers, sinks and the stores saw, never from the engine's own
//! counters.

mod checkpoints;
mod lanes;
mod letters;
mod owners;
mod parking;
mod replays;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore::checkpoint_store::Checkpoint;
use longshore::config::{OwnerLevel, PositionLost};

use super::plan::Plan;
use lanes::Lanes;
pub use owners::{Opened, worker_of};
use parking::Parked;
use replays::Replayed;
pub use replays::Told;

/// A window of this many events is not judged.
const WIDE_WINDOW: usize = 1_000;

/// So many processes an event may end where they follow each other at once.
const MOST_DEATHS: u64 = 2_000;

#[derive(Debug, Default)]
pub struct Oracle {
    policy: PositionLost,
    /// Most events of a partition that are in flight above its checkpoint.
    window_events: usize,
    /// Whether a live worker may lose its leases by the weather alone.
    rough: bool,
    stores_were_down: bool,
    /// Whether later owners have higher levels at the broker.
    has_levels: bool,
    events: Vec<Published>,
    /// By (partition, incarnation): all events by number, and those that are not settled.
    logs: BTreeMap<(usize, i64), Log>,
    partitions: Vec<Partition>,
    /// Workers that may have lost a lease, or a checkpoint, without a fault of ours.
    excused: BTreeSet<String>,
    /// Workers that were told to stop.
    leaving: BTreeSet<String>,
    ended: BTreeSet<String>,
    lanes: Lanes,
    /// Events whose work was done, by ownership: their results are on their way.
    worked: BTreeSet<(usize, u64)>,
    /// Whether events are parked, and what became of those that were, or were finished.
    parks: bool,
    parked: BTreeMap<usize, Parked>,
    /// Events whose letters the failure store has, and the last claim of their partition before.
    kept: BTreeMap<usize, u64>,
    /// Workers that asked for letters and were not told.
    untold: BTreeSet<String>,
    replayed: BTreeMap<usize, Replayed>,
    /// Jobs that are under way.
    pub replays: usize,
    /// How much two clocks of workers may differ.
    clock_error: Duration,
    pub incarnation: i64,
    pub violations: Vec<String>,
    /// How often what was seen, for the summary.
    pub seen: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Published {
    partition: usize,
    incarnation: i64,
    number: i64,
    /// Whether nobody can decode it.
    unreadable: bool,
    calls: u32,
    /// By which ownership.
    settled: Option<u64>,
}

#[derive(Debug, Default)]
struct Log {
    all: BTreeMap<i64, usize>,
    unsettled: BTreeMap<i64, usize>,
    /// Of those, what a settler said to be finished when its ownership had ended, or was about to:
    /// a checkpoint may have it, and the next owner may get it. By which ownership.
    maybe: BTreeMap<i64, u64>,
    /// Numbers below were trimmed.
    begin: i64,
}

#[derive(Debug, Default)]
struct Partition {
    stored: Option<Checkpoint>,
    /// Whether a writer without fences wrote last.
    overwritten: bool,
    was_overwritten: bool,
    /// Whether the service refused a position, or ended a link for another owner: then its
    /// ownership may end without a last checkpoint.
    refused: bool,
    /// Whether the service refused it for good.
    stopped: bool,
    /// What operators reset it to last.
    reset_generation: u64,
    /// Ownerships, by lease epoch.
    claims: BTreeMap<u64, Claim>,
    /// Epochs that two owners had, because a writer without fences wiped the first.
    reused: BTreeSet<u64>,
    /// The link that has it at the broker.
    link: Option<Opened>,
    /// Handler calls under way, by worker.
    running: BTreeMap<String, usize>,
    /// Who has its lease.
    holder: Option<String>,
    /// Since when whoever has its lease is about to give it to another one, and says so.
    handing_off: Option<Duration>,
    /// The last claim before its lease went to the holder it has.
    tenure_begins_after: u64,
    /// How often its lease went to another holder.
    moves: u64,
    /// Whether the last one gave it to a worker that was about to end, as only that one knew.
    given_in_vain: bool,
    /// Dead letters that name a range, by ownership and range.
    ranges: BTreeMap<(u64, i64, i64), usize>,
}

/// How an ownership began, and whether it ended with everything checkpointed.
#[derive(Debug)]
struct Claim {
    by: String,
    checkpoint: Checkpoint,
    ended_clean: bool,
}

fn watermark(checkpoint: &Checkpoint) -> i64 {
    checkpoint.watermark.as_ref().map_or(i64::MIN, |position| position.sequence_number.0)
}

fn covers(checkpoint: &Checkpoint, number: i64) -> bool {
    number <= watermark(checkpoint)
        || checkpoint.settled_above.iter().any(|run| (run.first.0..=run.last.0).contains(&number))
}

impl Oracle {
    pub fn new(plan: &Plan) -> Self {
        let mut this = Self {
            policy: plan.options.position_lost,
            window_events: plan.options.window_events,
            rough: plan.rates.may_cost_leases(),
            has_levels: plan.options.owner_level == OwnerLevel::LeaseEpoch,
            incarnation: 1,
            parks: plan.parks,
            clock_error: 2 * plan.max_skew,
            lanes: Lanes::new(plan),
            ..Self::default()
        };
        this.partitions.resize_with(plan.partitions, Partition::default);
        this
    }

    pub fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// `is_alone`: without leases, where a process is started again at once and no time passes
    /// that could run out.
    pub fn on_died_of_an_event(&mut self, is_alone: bool) {
        const WHAT: &str = "died of an event";
        self.count(WHAT);
        if is_alone && self.seen[WHAT] == MOST_DEATHS {
            self.violations.push(format!("an event ended {MOST_DEATHS} processes"));
        }
    }

    // The log.

    /// The identity that the next event published will have.
    pub fn next_id(&self) -> usize {
        self.events.len()
    }

    pub fn on_published(&mut self, partition: usize, number: i64) {
        self.publish(partition, number, false);
    }

    pub fn on_published_unreadable(&mut self, partition: usize, number: i64) {
        self.publish(partition, number, true);
    }

    fn publish(&mut self, partition: usize, number: i64, unreadable: bool) {
        let (id, incarnation) = (self.events.len(), self.incarnation);
        let (calls, settled) = (0, None);
        let event = Published { partition, incarnation, number, unreadable, calls, settled };
        self.lanes.on_published(id, &event);
        self.events.push(event);
        let log = self.logs.entry((partition, incarnation)).or_default();
        log.all.insert(number, id);
        log.unsettled.insert(number, id);
    }

    pub fn on_trimmed(&mut self, partition: usize, events: usize) {
        let Some(log) = self.logs.get_mut(&(partition, self.incarnation)) else { return };
        let held: Vec<i64> = log.all.range(log.begin..).map(|(number, _)| *number).collect();
        if let Some(last) = held.iter().take(events).next_back() {
            log.begin = last + 1;
            log.unsettled.retain(|number, _| number > last);
        }
    }

    pub fn on_recreated(&mut self) {
        self.incarnation += 1;
        self.partitions.iter_mut().for_each(|state| state.link = None);
    }

    /// The numbers of all events of a partition that can be read.
    pub fn numbers(&self, partition: usize) -> Vec<i64> {
        let log = self.logs.get(&(partition, self.incarnation));
        log.map_or_else(Vec::new, |log| log.all.range(log.begin..).map(|(n, _)| *n).collect())
    }

    // Events.

    /// A handler of a worker gets an event; returns which call it is, from 0.
    pub fn on_call(&mut self, worker: &str, id: usize, epoch: u64, now: Duration) -> u32 {
        let event = &mut self.events[id];
        let call = event.calls;
        event.calls += 1;
        let (partition, settled) = (event.partition, event.settled);
        if self.is_parked(id) {
            self.judge_return(worker, id, epoch, now);
        } else if let Some(by) = settled
            && !self.is_repeat_of_parked(id, epoch)
        {
            self.judge_repeat(id, by, epoch);
        }
        if self.worked.contains(&(id, epoch)) && !self.partitions[partition].reused.contains(&epoch)
        {
            self.violations.push(format!(
                "event {id} is handled again by epoch {epoch}, which has done its work: only its \
                 result was missing"
            ));
        }
        if !self.is_parked(id) {
            self.judge_letter(worker, id, epoch);
            self.judge_window(id, epoch);
        }
        self.on_attempt(id, epoch);
        self.on_running(worker, partition);
        call
    }

    /// Whoever handles an event has received all from the first that is not settled on.
    fn judge_window(&mut self, id: usize, epoch: u64) {
        let Published { partition, number, incarnation, .. } = self.events[id];
        let state = &self.partitions[partition];
        let claim = state.claims.get(&epoch).map(|claim| &claim.checkpoint);
        let is_of_now = incarnation == self.incarnation
            && claim.is_some_and(|claim| claim.reset_generation == state.reset_generation);
        // The widest window is wider than nearly all logs, and counting costs.
        if !is_of_now || state.was_overwritten || self.window_events >= WIDE_WINDOW {
            return;
        }
        let Some(log) = self.logs.get(&(partition, incarnation)) else { return };
        let first = log.unsettled.keys().next().copied().unwrap_or(i64::MAX);
        let most = self.window_events;
        if first <= number && log.all.range(first..=number).take(most + 1).count() > most {
            self.violations.push(format!(
                "{partition}/{number} (event {id}) is handled {most} events or more above {first}, \
                 which is not settled"
            ));
        }
    }

    fn judge_repeat(&mut self, id: usize, by: u64, epoch: u64) {
        let Published { partition, number, incarnation, .. } = self.events[id];
        match self.why_repeated(partition, incarnation, number, by, epoch) {
            Ok(cause) => self.count(cause),
            Err(broken) => self.violations.push(format!(
                "{partition}/{number} (event {id}) was settled by epoch {by} and is handled again \
                 by epoch {epoch}: {broken}"
            )),
        }
    }

    fn why_repeated(
        &self,
        partition: usize,
        incarnation: i64,
        number: i64,
        by: u64,
        epoch: u64,
    ) -> Result<&'static str, String> {
        let state = &self.partitions[partition];
        if by == epoch && !state.reused.contains(&epoch) {
            return Err("by the same ownership".to_owned());
        }
        if state.was_overwritten {
            return Ok("repeat: checkpoint overwritten");
        }
        if state.refused || state.stopped && self.stores_were_down {
            return Ok("repeat: position refused, or link stolen");
        }
        let (Some(first), Some(second)) = (state.claims.get(&by), state.claims.get(&epoch)) else {
            return Err("its ownership claimed nothing".to_owned());
        };
        if epoch < by {
            return if self.is_excused(&second.by) {
                Ok("repeat: by an owner that is cut off")
            } else {
                Err(format!("{} goes on though it was replaced", second.by))
            };
        }
        let claim = &second.checkpoint;
        if claim.incarnation.map(|is| is.0) == Some(incarnation) && covers(claim, number) {
            return Err("its claim has it as settled".to_owned());
        }
        if first.ended_clean {
            return Err("the ownership before ended with everything checkpointed".to_owned());
        }
        if !self.is_excused(&first.by) {
            return Err(format!("nothing happened to {} that would explain it", first.by));
        }
        Ok("repeat: crash or steal")
    }

    /// The work of an event is done, and its result handed over.
    pub fn on_worked(&mut self, id: usize, epoch: u64) {
        self.worked.insert((id, epoch));
    }

    /// An event is finished, skipped, or its dead letter acknowledged.
    pub fn on_settled(&mut self, id: usize, epoch: u64) {
        self.on_finished(id, epoch);
        self.lanes.on_settled(id, epoch);
        let event = &self.events[id];
        let state = &self.partitions[event.partition];
        let claim = state.claims.get(&epoch);
        let knows = claim.map_or(0, |claim| claim.checkpoint.reset_generation);
        let is_of_now = event.incarnation == self.incarnation;
        if is_of_now && knows < state.reset_generation {
            return self.count("settled by an owner from before a reset");
        }
        self.settle(id, epoch);
    }

    /// A settler said so when its ownership had ended, or was about to.
    pub fn on_settled_late(&mut self, id: usize, epoch: u64) {
        self.count("settled when the ownership had ended");
        self.on_finished(id, epoch);
        self.lanes.on_settled(id, epoch);
        let Published { partition, incarnation, number, .. } = self.events[id];
        let state = &self.partitions[partition];
        let knows = state.claims.get(&epoch).map(|claim| claim.checkpoint.reset_generation);
        if knows.unwrap_or(0) < state.reset_generation {
            return;
        }
        if let Some(log) = self.logs.get_mut(&(partition, incarnation))
            && log.unsettled.contains_key(&number)
        {
            log.maybe.insert(number, epoch);
        }
    }

    /// A foreign processor handled it.
    pub fn on_foreign_settled(&mut self, id: usize) {
        self.count("handled by a foreign owner");
        let partition = self.events[id].partition;
        self.partitions[partition].was_overwritten = true;
        self.settle(id, 0);
    }

    fn settle(&mut self, id: usize, epoch: u64) {
        let event = &mut self.events[id];
        event.settled.get_or_insert(epoch);
        if let Some(log) = self.logs.get_mut(&(event.partition, event.incarnation)) {
            log.unsettled.remove(&event.number);
            log.maybe.remove(&event.number);
        }
    }

    // The end.

    /// Everything is settled, checkpointed and placed, and nothing happens any more that would
    /// excuse anything.
    pub fn on_all_well(&mut self) {
        self.rough = false;
        self.stores_were_down = false;
        self.excused.clear();
        for state in &mut self.partitions {
            state.refused = false;
        }
    }

    /// (partition, number) of events that nobody settled though they are in the log.
    pub fn unsettled(&self) -> Vec<(usize, i64)> {
        self.logs
            .iter()
            .filter(|((_, incarnation), _)| *incarnation == self.incarnation)
            .flat_map(|((partition, _), log)| log.unsettled.keys().map(|n| (*partition, *n)))
            .collect()
    }

    /// Whether a writer without fences ever wrote.
    pub fn was_overwritten(&self) -> bool {
        self.partitions.iter().any(|state| state.was_overwritten)
    }

    pub fn events(&self) -> usize {
        self.events.len()
    }

    pub fn calls(&self) -> u64 {
        self.events.iter().map(|event| u64::from(event.calls)).sum()
    }
}
