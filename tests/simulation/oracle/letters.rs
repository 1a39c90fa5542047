//! Dead letters: whoever claims a partition handles none of its events that are dead letters in the store.
//!
//! Those of events that nobody can decode: each names its event, or a range that holds it.
//!
//! A letter that names a range does not say which event of it is meant. So nothing of a range counts
//! as settled before one ownership wrote as many letters of it as it has events that cannot be read.

use longshore::state::unreadable::Place;

use super::{Oracle, Published, watermark};

impl Oracle {
    /// The failure store has the letter of an event: whoever claims its partition from now on finds it there.
    pub fn on_letter_kept(&mut self, by: &str, partition: usize, id: usize, is_of_replay: bool) {
        let last = self.partitions[partition].claims.last_key_value();
        let is_owner = last.is_none_or(|(_, claim)| claim.by == by);
        let last = last.map_or(0, |(epoch, _)| *epoch);
        self.on_letter_again(id, is_of_replay, is_owner);
        self.kept.entry(id).or_insert(last);
        let event = &self.events[id];
        if let Some(log) = self.logs.get_mut(&(partition, event.incarnation)) {
            log.unsettled.remove(&event.number);
            log.maybe.remove(&event.number);
        }
    }

    /// A worker asked which events are dead letters and was not told.
    pub fn on_letters_untold(&mut self, worker: &str) {
        self.untold.insert(worker.to_owned());
    }

    /// An event is handled that no replay brought back.
    pub(super) fn judge_letter(&mut self, worker: &str, id: usize, epoch: u64) {
        let Some(since) = self.kept.get(&id).copied() else { return };
        if since >= epoch || self.was_replayed(id) {
            return;
        }
        let was_overwritten = self.partitions[self.events[id].partition].was_overwritten;
        if self.untold.contains(worker) || was_overwritten {
            return self.count("dead letter handled again");
        }
        self.violations.push(format!(
            "{worker} handles event {id} as epoch {epoch}, which is a dead letter since epoch {since}"
        ));
    }

    /// The sink took a letter of an event that cannot be read.
    pub fn on_unreadable_letter(&mut self, worker: &str, partition: usize, place: Place) {
        let (number, first, last) = (place.number.0, place.first.0, place.last.0);
        let epoch = self.last_epoch(worker, partition);
        let claim = self.partitions[partition].claims.get(&epoch);
        let incarnation = claim.and_then(|claim| claim.checkpoint.incarnation);
        let incarnation = incarnation.map_or(self.incarnation, |is| is.0);
        // (number, identity) of what it may mean.
        let within: Vec<(i64, usize)> = self
            .logs
            .get(&(partition, incarnation))
            .into_iter()
            .flat_map(|log| log.all.range(first.min(last)..=last))
            .filter(|(_, id)| self.events[**id].unreadable)
            .map(|(number, id)| (*number, *id))
            .collect();
        let wrong =
            |why: &str| format!("{worker} writes {partition}/{number} off: {why}, {place:?}");
        if !(first..=last).contains(&number) {
            self.violations.push(wrong("its number is not in its range"));
        }
        if within.is_empty() {
            return self.violations.push(wrong("all there is can be read"));
        }
        if first == last {
            self.count("dead letter of an event that cannot be read");
            let (_, id) = within[0];
            if let Some(by) = self.events[id].settled {
                self.judge_repeat(id, by, epoch);
            }
            self.judge_window(id, epoch);
            return self.on_settled(id, epoch);
        }
        self.count("dead letter that names a range");
        let written = self.partitions[partition].ranges.entry((epoch, first, last)).or_default();
        *written += 1;
        let written = *written;
        if written > within.len() {
            let why = format!("{written} letters for {} events", within.len());
            self.violations.push(wrong(&why));
        }
        if written == 1 {
            within.iter().for_each(|(_, id)| self.judge_repeat_of_range(*id, epoch));
        }
        // What was trimmed may never have been received.
        let begin = self.logs.get(&(partition, incarnation)).map_or(0, |log| log.begin);
        let there = within.iter().filter(|(number, _)| *number >= begin);
        if written >= there.count() {
            within.iter().for_each(|(_, id)| self.on_settled(*id, epoch));
        }
    }

    /// Whoever knows only a range cannot tell what of it was settled above the checkpoint.
    fn judge_repeat_of_range(&mut self, id: usize, epoch: u64) {
        let Published { partition, number, settled, .. } = self.events[id];
        let Some(by) = settled else { return };
        let claim = self.partitions[partition].claims.get(&epoch).map(|claim| &claim.checkpoint);
        let is_vague =
            claim.is_some_and(|claim| watermark(claim) < number && !claim.settled_above.is_empty());
        if by != epoch && is_vague {
            // It is this one's now.
            self.events[id].settled = None;
            return self.count("repeat: within a range above the checkpoint");
        }
        self.judge_repeat(id, by, epoch);
    }

    /// A foreign processor went on to this number. What cannot be read is nothing to it.
    pub fn on_foreign_passed(&mut self, partition: usize, last: i64) {
        let Some(log) = self.logs.get(&(partition, self.incarnation)) else { return };
        let passed = log.unsettled.range(..=last).map(|(_, id)| *id);
        let passed: Vec<usize> = passed.filter(|id| self.events[*id].unreadable).collect();
        passed.into_iter().for_each(|id| self.on_foreign_settled(id));
    }
}
