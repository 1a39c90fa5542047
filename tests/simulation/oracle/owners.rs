//! Who may have a partition: one live worker at a time, unless something happened to it.

use std::time::Duration;

use longshore::lease_store::{Holder, OwnerId, Ownership};

use super::Oracle;

/// How long it takes, in good weather, until the handlers of a partition know that it is handed off.
const TOLD_WITHIN: Duration = Duration::from_millis(1_500);

/// The worker of an owner id, which ends with a number of its own.
pub fn worker_of(owner: &OwnerId) -> String {
    let name = owner.as_str();
    name.rsplit_once('-').map_or(name, |(worker, _)| worker).to_owned()
}

/// A link, and whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    partition: usize,
    worker: String,
    /// Of the ownership that its worker claimed last.
    epoch: u64,
}

impl Oracle {
    /// What the worker claimed last of a partition; 0: nothing.
    pub fn last_epoch(&self, worker: &str, partition: usize) -> u64 {
        let mut claims = self.partitions[partition].claims.iter().rev();
        claims.find(|(_, claim)| claim.by == worker).map_or(0, |(epoch, _)| *epoch)
    }

    /// The broker opened a link: it ends that of an earlier owner, never that of a later one.
    pub fn on_opened(&mut self, worker: &str, partition: usize) -> Opened {
        let epoch = self.last_epoch(worker, partition);
        let state = &mut self.partitions[partition];
        let opened = Opened { partition, worker: worker.to_owned(), epoch };
        if let Some(before) = state.link.replace(opened.clone())
            && before.epoch > epoch
            && self.has_levels
            && !state.was_overwritten
        {
            self.violations.push(format!("{worker} of epoch {epoch} ends the link of {before:?}"));
        }
        opened
    }

    pub fn on_link_closed(&mut self, opened: &Opened) {
        let link = &mut self.partitions[opened.partition].link;
        link.take_if(|link| link == opened);
    }

    /// The broker ended all links of a partition.
    pub fn on_links_ended(&mut self, partition: usize) {
        self.partitions[partition].link = None;
    }

    /// The worker was hurt: it may lose its leases, and what it did not checkpoint.
    pub fn on_excused(&mut self, worker: &str) {
        self.excused.insert(worker.to_owned());
    }

    /// From now on anybody may lose a lease.
    pub fn on_rough(&mut self) {
        self.rough = true;
    }

    /// Nobody can write anything for a while. That excuses nothing but what is left behind.
    pub fn on_stores_down(&mut self) {
        self.stores_were_down = true;
    }

    fn may_leave_records(&self, worker: &str) -> bool {
        self.stores_were_down || self.is_excused(worker)
    }

    pub fn is_excused(&self, worker: &str) -> bool {
        self.rough || self.excused.contains(worker)
    }

    pub fn on_died(&mut self, worker: &str) {
        self.on_excused(worker);
        for state in &mut self.partitions {
            state.running.remove(worker);
        }
    }

    /// The process ended by itself, or took its member record away, as the last thing it does.
    pub fn on_ended(&mut self, worker: &str, checkpoints_are_behind: bool) {
        self.ended.insert(worker.to_owned());
        // Its exit, which says so, comes after its last word to the store.
        if checkpoints_are_behind || self.stores_were_down {
            self.on_excused(worker);
        }
    }

    /// A drain ended without its last checkpoint: there must be a reason why it was not written.
    pub fn on_drained_behind(&mut self, worker: &str, partition: usize) {
        let state = &self.partitions[partition];
        let is_shared = state.was_overwritten || state.refused;
        if !is_shared && !self.stores_were_down && !self.is_excused(worker) {
            self.violations.push(format!("{worker} drained {partition} and did not write it down"));
        }
    }

    pub fn on_leaving(&mut self, worker: &str) {
        self.leaving.insert(worker.to_owned());
    }

    pub(super) fn on_running(&mut self, worker: &str, partition: usize) {
        let state = &mut self.partitions[partition];
        *state.running.entry(worker.to_owned()).or_default() += 1;
        if state.running.len() == 1 || state.was_overwritten || state.refused {
            return;
        }
        let others = state.running.keys().filter(|other| *other != worker);
        let others: Vec<String> = others.cloned().collect();
        for other in others {
            if !self.is_excused(&other) && !self.is_excused(worker) {
                self.violations.push(format!("{worker} and {other} both run {partition}"));
            }
        }
    }

    pub fn on_call_ended(&mut self, worker: &str, partition: usize) {
        let running = &mut self.partitions[partition].running;
        if let Some(count) = running.get_mut(worker) {
            *count -= 1;
            if *count == 0 {
                running.remove(worker);
            }
        }
    }

    /// A call that stops when its partition is handed off came to its end: nobody told it to stop.
    pub fn on_not_told_to_stop(&mut self, worker: &str, id: usize, begun: Duration, now: Duration) {
        let partition = self.events[id].partition;
        let state = &self.partitions[partition];
        let Some(since) = state.handing_off.filter(|_| state.holder.as_deref() == Some(worker))
        else {
            return;
        };
        if begun < since && since + TOLD_WITHIN < now && !self.may_leave_records(worker) {
            self.violations.push(format!(
                "{worker} works on event {id} until {now:?}, and hands {partition} off since {since:?}"
            ));
        }
    }

    /// The handler of an event was told to stop before it began: that tells of a hand-off that is over,
    /// for none begins while one is under way.
    pub fn on_told_before_it_began(&mut self, worker: &str, id: usize) {
        let partition = self.events[id].partition;
        let is_leaving = self.partitions[partition].handing_off.is_some()
            || self.leaving.contains(worker)
            || self.is_excused(worker);
        if !is_leaving {
            self.violations.push(format!(
                "{worker} begins event {id} and tells it to stop, and {partition} is not about to leave"
            ));
        }
    }

    /// The lease store took an ownership record.
    pub fn on_ownership(
        &mut self,
        by: &str,
        partition: usize,
        before: &Ownership,
        after: &Ownership,
        now: Duration,
    ) {
        let since = self.partitions[partition].handing_off.take();
        if before.holder == after.holder && after.target.is_some() {
            let since = since.filter(|_| before.target.is_some());
            self.partitions[partition].handing_off = Some(since.unwrap_or(now));
        }
        if before.holder == after.holder {
            if before.target.is_some() && after.target.is_none() {
                self.count("hand-off called back");
            }
            return;
        }
        let state = &mut self.partitions[partition];
        state.moves += 1;
        state.holder = after.holder.worker().map(worker_of);
        let had_claims = state.tenure_begins_after;
        state.tenure_begins_after = state.claims.keys().next_back().copied().unwrap_or(0);
        let had = before.holder.worker().map(worker_of);
        let has = after.holder.worker().map(worker_of).filter(|has| has != by);
        state.given_in_vain = has.is_some_and(|has| self.leaving.contains(&has));
        self.count(match (&before.holder, &after.holder) {
            (Holder::Worker(_), Holder::Worker(_)) if had.as_deref() == Some(by) => "lease given",
            (Holder::Worker(_), Holder::Nobody) => "lease released",
            (Holder::Worker(_), Holder::Worker(_)) => "lease taken",
            (Holder::Worker(_), Holder::Foreign(_)) => "lease taken by a foreign owner",
            (Holder::Foreign(_), Holder::Worker(_)) => "lease taken from a foreign owner",
            _ => "lease claimed",
        });
        let Some(had) = had else { return };
        if had == by {
            let running = self.partitions[partition].running.get(by).copied().unwrap_or(0);
            if running > 0 {
                self.violations.push(format!("{by} gives {partition} away and runs {running}"));
            }
            // What a worker that stops could not checkpoint in time goes all the same.
            if !(self.leaving.contains(by) && self.may_leave_records(by)) {
                self.on_ended_clean(partition, by, had_claims);
            }
        } else if after.holder.worker().is_some()
            && !self.is_excused(&had)
            && !self.ended.contains(&had)
        {
            self.violations.push(format!("{by} takes {partition} from {had}, which lives"));
        } else if after.holder.worker().is_none() {
            // A foreign owner: what was not checkpointed is repeated, by it or after it.
            self.partitions[partition].refused = true;
        }
    }

    /// The last ownership of a worker, of those after this epoch, ended with everything settled
    /// checkpointed.
    pub fn on_ended_clean(&mut self, partition: usize, worker: &str, after: u64) {
        let claims = self.partitions[partition].claims.range_mut(after + 1..);
        if let Some((_, last)) = claims.rev().find(|(_, claim)| claim.by == worker) {
            last.ended_clean = true;
        }
    }

    /// Whether a lease was given to a worker that was about to end.
    pub fn was_given_in_vain(&self, partition: usize) -> bool {
        self.partitions[partition].given_in_vain
    }

    /// How often leases went to another holder so far.
    pub fn moves(&self) -> u64 {
        self.partitions.iter().map(|state| state.moves).sum()
    }
}
