//! What must hold, judged from what handlers, sinks and the store saw, never from the engine's
//! own counters.

use std::collections::BTreeMap;

use longshore::checkpoint_store::Checkpoint;
use longshore::config::PositionLost;

#[derive(Debug, Default)]
pub struct Oracle {
    pub policy: PositionLost,
    events: Vec<Published>,
    /// By (partition, incarnation): all events by number, and those that are not settled.
    logs: BTreeMap<(usize, i64), Log>,
    partitions: Vec<Partition>,
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
    calls: u32,
    /// By which ownership.
    settled: Option<u64>,
}

#[derive(Debug, Default)]
struct Log {
    all: BTreeMap<i64, usize>,
    unsettled: BTreeMap<i64, usize>,
    /// Numbers below were trimmed.
    begin: i64,
}

#[derive(Debug, Default)]
struct Partition {
    stored: Option<Checkpoint>,
    /// Whether a writer without fences wrote last.
    overwritten: bool,
    was_overwritten: bool,
    /// Whether the service refused a position: it may begin again.
    refused: bool,
    /// What each ownership began with, by lease epoch.
    claims: BTreeMap<u64, Checkpoint>,
    /// By worker, the epoch of its last ownership.
    last_claims: BTreeMap<String, u64>,
    /// Ownerships that ended with everything settled and checkpointed.
    clean: Vec<u64>,
}

fn watermark(checkpoint: &Checkpoint) -> i64 {
    checkpoint.watermark.as_ref().map_or(i64::MIN, |position| position.sequence_number.0)
}

fn covers(checkpoint: &Checkpoint, number: i64) -> bool {
    number <= watermark(checkpoint)
        || checkpoint.settled_above.iter().any(|run| (run.first.0..=run.last.0).contains(&number))
}

impl Oracle {
    pub fn new(partitions: usize, policy: PositionLost) -> Self {
        let mut this = Self { policy, incarnation: 1, ..Self::default() };
        this.partitions.resize_with(partitions, Partition::default);
        this
    }

    pub fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// The identity that the next event published will have.
    pub fn next_id(&self) -> usize {
        self.events.len()
    }

    pub fn on_published(&mut self, partition: usize, number: i64) {
        let (id, incarnation) = (self.events.len(), self.incarnation);
        self.events.push(Published { partition, incarnation, number, calls: 0, settled: None });
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

    pub fn on_refused(&mut self, partition: usize) {
        self.partitions[partition].refused = true;
    }

    /// A handler gets an event; returns which call it is, from 0.
    pub fn on_call(&mut self, id: usize, epoch: u64) -> u32 {
        let event = &mut self.events[id];
        let call = event.calls;
        event.calls += 1;
        if let Some(by) = event.settled {
            let (partition, number, incarnation) =
                (event.partition, event.number, event.incarnation);
            match self.why_repeated(partition, incarnation, number, by, epoch) {
                Ok(cause) => self.count(cause),
                Err(broken) => self.violations.push(format!(
                    "{partition}/{number} (event {id}) was settled by epoch {by} and is called \
                     again by epoch {epoch}: {broken}"
                )),
            }
        }
        call
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
        if state.was_overwritten {
            return Ok("repeat: checkpoint overwritten");
        }
        if by == epoch {
            return Err("by the same ownership".to_owned());
        }
        if state.refused {
            return Ok("repeat: position refused");
        }
        if epoch < by {
            return Ok("repeat: by an owner that is cut off");
        }
        let Some(claim) = state.claims.get(&epoch) else {
            return Err("its ownership claimed nothing".to_owned());
        };
        if claim.incarnation.map(|is| is.0) == Some(incarnation) && covers(claim, number) {
            return Err("its claim has it as settled".to_owned());
        }
        if state.clean.contains(&by) {
            return Err("the ownership before ended with everything checkpointed".to_owned());
        }
        Ok("repeat: crash or steal")
    }

    /// An event is finished, skipped, or its dead letter acknowledged.
    pub fn on_settled(&mut self, id: usize, epoch: u64) {
        let event = &mut self.events[id];
        event.settled.get_or_insert(epoch);
        if let Some(log) = self.logs.get_mut(&(event.partition, event.incarnation)) {
            log.unsettled.remove(&event.number);
        }
    }

    /// An ownership ended, with everything settled checkpointed.
    pub fn on_ended_clean(&mut self, partition: usize, worker: &str) {
        let state = &mut self.partitions[partition];
        state.clean.extend(state.last_claims.get(worker));
    }

    pub fn on_overwritten(&mut self, partition: usize, checkpoint: &Checkpoint) {
        let state = &mut self.partitions[partition];
        state.stored = Some(checkpoint.clone());
        state.overwritten = true;
        state.was_overwritten = true;
    }

    /// The store took a checkpoint of one of our workers.
    pub fn on_stored(&mut self, by: &str, partition: usize, checkpoint: &Checkpoint) {
        let state = &mut self.partitions[partition];
        let epoch = checkpoint.lease_epoch.0;
        let is_claim = state.claims.keys().next_back().is_none_or(|last| epoch > *last)
            || (state.overwritten && !state.claims.contains_key(&epoch));
        let incarnation = checkpoint.incarnation.map_or(0, |is| is.0);
        let before = state.stored.replace(checkpoint.clone());
        let overwritten = std::mem::take(&mut state.overwritten);
        if is_claim {
            state.claims.insert(epoch, checkpoint.clone());
            state.last_claims.insert(by.to_owned(), epoch);
        }
        let refused = state.refused;
        let mut broken = Vec::new();
        let place = |one: &Checkpoint| (one.incarnation.map_or(0, |is| is.0), one.reset_generation);
        let mut restarted = before.is_none();
        if let Some(before) = before.as_ref().filter(|_| !overwritten) {
            restarted = place(checkpoint) != place(before);
            if place(checkpoint) < place(before) {
                broken.push(format!("it goes back in (incarnation, reset) from {before:?}"));
            } else if !restarted {
                if watermark(checkpoint) < watermark(before) {
                    broken.push(format!("it moves back from {before:?}"));
                }
                if checkpoint.lease_epoch < before.lease_epoch {
                    broken.push(format!("an older owner replaces {before:?}"));
                }
                let log = self.logs.get(&(partition, incarnation));
                let lost = before.settled_above.iter().find_map(|run| {
                    let mut range = log?.all.range(run.first.0..=run.last.0);
                    range.find(|(number, _)| !covers(checkpoint, **number)).map(|(n, _)| *n)
                });
                if let Some(number) = lost.filter(|_| !refused) {
                    broken.push(format!("it forgets that {number} is settled, over {before:?}"));
                }
            }
        }
        if let Some(log) = self.logs.get_mut(&(partition, incarnation)) {
            let mark = watermark(checkpoint);
            if is_claim && restarted && self.policy == PositionLost::Latest {
                log.unsettled.retain(|number, _| *number > mark);
            }
            if let Some((number, _)) = log.unsettled.range(..=mark).next() {
                broken.push(format!("{number} below it is not settled"));
            }
            for run in &checkpoint.settled_above {
                if let Some((number, _)) = log.unsettled.range(run.first.0..=run.last.0).next() {
                    broken.push(format!("{number} above it is not settled"));
                }
            }
        }
        self.count(if is_claim { "claim" } else { "checkpoint" });
        for broken in broken {
            self.violations.push(format!("checkpoint of {partition}: {broken}; {checkpoint:?}"));
        }
    }

    pub fn on_recreated(&mut self) {
        self.incarnation += 1;
    }

    /// (partition, number) of events that nobody settled though they are in the log.
    pub fn unsettled(&self) -> Vec<(usize, i64)> {
        self.logs
            .iter()
            .filter(|((_, incarnation), _)| *incarnation == self.incarnation)
            .flat_map(|((partition, _), log)| log.unsettled.keys().map(|n| (*partition, *n)))
            .collect()
    }

    /// Partitions whose checkpoint is not at the end of what can be read.
    pub fn behind(&self) -> Vec<usize> {
        let ends = self.logs.iter().filter(|((_, incarnation), log)| {
            *incarnation == self.incarnation && log.all.range(log.begin..).next().is_some()
        });
        ends.filter(|((partition, _), log)| {
            let last = log.all.keys().next_back().copied().unwrap_or(i64::MIN);
            let state = &self.partitions[*partition];
            // An owner with nothing new to write does not see that it was overwritten, and where
            // the fence was overwritten an older owner may write.
            !state.was_overwritten
                && state.stored.as_ref().is_none_or(|stored| {
                    watermark(stored) < last
                        || stored.incarnation.is_some_and(|is| is.0 != self.incarnation)
                })
        })
        .map(|((partition, _), _)| *partition)
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
