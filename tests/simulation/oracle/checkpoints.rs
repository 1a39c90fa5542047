//! What a stored checkpoint may say: nothing that is not settled, and nothing less than before.

use longshore::checkpoint_store::Checkpoint;
use longshore::config::PositionLost;

use super::parking::Parked;
use super::{Claim, Oracle, covers, watermark};

impl Oracle {
    /// The store took a checkpoint of one of our workers.
    pub fn on_stored(&mut self, by: &str, partition: usize, checkpoint: &Checkpoint) {
        let state = &mut self.partitions[partition];
        let epoch = checkpoint.lease_epoch.0;
        if !state.was_overwritten
            && let Some(claim) = state.claims.get(&epoch)
            && claim.by != by
        {
            self.violations.push(format!("{by} writes {partition} as epoch {epoch} of {claim:?}"));
        }
        let is_claim = state.claims.keys().next_back().is_none_or(|last| epoch > *last)
            || (state.overwritten && !state.claims.contains_key(&epoch));
        if state.was_overwritten && state.claims.get(&epoch).is_some_and(|claim| claim.by != by) {
            state.reused.insert(epoch);
        }
        let incarnation = checkpoint.incarnation.map_or(0, |is| is.0);
        let before = state.stored.replace(checkpoint.clone());
        let overwritten = std::mem::take(&mut state.overwritten);
        if is_claim
            && !state.was_overwritten
            && let Some(holder) = state.holder.as_ref().filter(|holder| *holder != by)
            && let Some((later, _)) = state
                .claims
                .range(state.tenure_begins_after + 1..)
                .find(|(_, claim)| claim.by == *holder)
        {
            self.violations.push(format!(
                "{by} claims {partition} over epoch {later} of {holder}, which has the lease"
            ));
        }
        if is_claim {
            let (by, checkpoint) = (by.to_owned(), checkpoint.clone());
            state.claims.insert(epoch, Claim { by, checkpoint, ended_clean: false });
        }
        let refused = state.refused;
        let (mut broken, mut settled) = (Vec::new(), Vec::new());
        let place = |one: &Checkpoint| (one.incarnation.map_or(0, |is| is.0), one.reset_generation);
        if checkpoint.incarnation.is_none() {
            broken.push("it does not say of which log".to_owned());
        }
        if overwritten && checkpoint.reset_generation < state.reset_generation {
            broken.push(format!("it forgets reset {}", state.reset_generation));
        }
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
                    let range = log?.all.range(run.first.0..=run.last.0);
                    // Whoever knows only a range cannot tell what of it was settled.
                    let mut range = range.filter(|(_, id)| !self.events[**id].unreadable);
                    range.find(|(number, _)| !covers(checkpoint, **number)).map(|(n, _)| *n)
                });
                if let Some(number) = lost.filter(|_| !refused) {
                    broken.push(format!("it forgets that {number} is settled, over {before:?}"));
                }
            }
        }
        if let Some(log) = self.logs.get_mut(&(partition, incarnation)) {
            let mark = watermark(checkpoint);
            let begins_anew = restarted || refused;
            if is_claim && begins_anew && self.policy == PositionLost::Latest {
                log.unsettled.retain(|number, _| *number > mark);
            }
            let runs = checkpoint.settled_above.iter().map(|run| run.first.0..=run.last.0);
            let places = [("below", i64::MIN..=mark)].into_iter();
            for (place, range) in places.chain(runs.map(|run| ("above", run))) {
                let unsettled = log.unsettled.range(range);
                for (number, id) in unsettled {
                    match log.maybe.get(number) {
                        Some(epoch) => settled.push((*id, *epoch)),
                        None => {
                            broken.push(format!("{number} {place} it is not settled"));
                            break;
                        }
                    }
                }
            }
        }
        settled.into_iter().for_each(|(id, epoch)| self.settle(id, epoch));
        self.count(if is_claim { "claim" } else { "checkpoint" });
        for broken in broken {
            self.violations.push(format!("checkpoint of {partition}: {broken}; {checkpoint:?}"));
        }
    }

    /// The store refused a checkpoint of one of our workers: another one is there.
    pub fn on_not_stored(&mut self, by: &str, partition: usize, checkpoint: &Checkpoint) {
        let claim = self.partitions[partition].claims.get(&checkpoint.lease_epoch.0);
        let is_anothers = claim.is_some_and(|claim| claim.by != by);
        self.count(if is_anothers { "conflict of claims with one epoch" } else { "conflict" });
    }

    /// A writer without fences replaced what was there.
    pub fn on_overwritten(&mut self, partition: usize, checkpoint: &Checkpoint) {
        let state = &mut self.partitions[partition];
        state.stored = Some(checkpoint.clone());
        state.overwritten = true;
        state.was_overwritten = true;
    }

    /// An operator replaced what was there: what is above is to be handled again, what is below
    /// is not to be handled any more.
    pub fn on_reset(&mut self, partition: usize, checkpoint: &Checkpoint) {
        let state = &mut self.partitions[partition];
        state.stored = Some(checkpoint.clone());
        state.reset_generation = checkpoint.reset_generation;
        let mark = watermark(checkpoint);
        let Some(log) = self.logs.get_mut(&(partition, self.incarnation)) else { return };
        let begin = log.begin.max(mark.saturating_add(1));
        log.unsettled = log.all.range(begin..).map(|(number, id)| (*number, *id)).collect();
        log.maybe.clear();
        for id in log.unsettled.values() {
            self.events[*id].settled = None;
        }
        // What the failure store has is settled there.
        let (parked, kept) = (&self.parked, &self.kept);
        let is_there =
            |id: &usize| kept.contains_key(id) || parked.get(id).is_some_and(Parked::is_there);
        log.unsettled.retain(|_, id| !is_there(id));
    }

    /// The service refused a position, or gave the partition to another link: an ownership may
    /// end without a last checkpoint.
    pub fn on_refused(&mut self, partition: usize) {
        self.partitions[partition].refused = true;
    }

    /// The service refused the partition for good. Where the stores were away as well, the last
    /// checkpoint may have come too late.
    pub fn on_stopped(&mut self, partition: usize) {
        self.partitions[partition].stopped = true;
    }

    /// Partitions whose checkpoint is not at the end of what can be read.
    pub fn behind(&self) -> Vec<usize> {
        let ends = self.logs.iter().filter(|((_, incarnation), log)| {
            *incarnation == self.incarnation && log.all.range(log.begin..).next().is_some()
        });
        ends.filter(|((partition, _), log)| {
            let last = log.all.keys().next_back().copied().unwrap_or(i64::MIN);
            let state = &self.partitions[*partition];
            // Where the fence was overwritten an older owner may write.
            !state.was_overwritten
                && state.stored.as_ref().is_none_or(|stored| {
                    watermark(stored) < last
                        || stored.incarnation.is_some_and(|is| is.0 != self.incarnation)
                })
        })
        .map(|((partition, _), _)| *partition)
        .collect()
    }
}
