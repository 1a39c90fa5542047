//! Parked events: settled when their record is there, handled again when they are due, and over when they
//! are done or given up. Until then nothing of their ordered lane passes them.

use std::time::Duration;

use super::{Oracle, covers};

/// What became of an event that was parked.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// Whether its record is in the store.
    is_there: bool,
    /// Whether it ever was.
    was_there: bool,
    due: Duration,
    /// The ownership that put it last.
    put_by: u64,
    /// The ownership that finished it.
    finished: Option<u64>,
    /// A record was put when it was finished: by an owner that was late, or by a call that was.
    is_late: bool,
    /// A job put it: its lane has gone on since it was given up.
    is_replayed: bool,
    /// Somebody finished it since its record was put last, an owner before included.
    is_done_since: bool,
}

impl Parked {
    /// A job put its record: whoever has its partition gets it, and nothing of its lane waits for it.
    pub(super) fn on_handed_out(&mut self) {
        (self.is_there, self.was_there) = (true, true);
        (self.finished, self.is_late, self.put_by) = (None, false, 0);
        (self.is_replayed, self.is_done_since, self.due) = (true, false, Duration::ZERO);
    }

    /// Whether its record is in the store.
    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    /// Whether it waits in the store and is not finished, as this owner knows: what a later one put is
    /// nothing to it.
    pub(super) fn is_open_for(&self, epoch: u64) -> bool {
        let is_open = self.is_there && self.finished.is_none();
        is_open && !self.is_replayed && epoch >= self.put_by
    }
}

impl Oracle {
    /// The store took the record of an event.
    pub fn on_parked(&mut self, by: &str, partition: usize, id: usize, due: Duration) {
        let epoch = self.last_epoch(by, partition);
        let parked = self.parked.entry(id).or_default();
        if parked.finished.is_some_and(|finished| finished < epoch) {
            parked.finished = None;
        }
        parked.is_late |= parked.finished.is_some();
        (parked.is_there, parked.was_there) = (true, true);
        (parked.due, parked.put_by, parked.is_done_since) = (due, epoch, false);
        self.count("parked");
        self.lanes.on_settled(id, epoch);
        // Whoever put it, after a reset too: every owner finds it there.
        self.settle(id, epoch);
    }

    /// The record of an event is gone.
    pub fn on_unparked(&mut self, by: &str, id: usize) {
        let Some(parked) = self.parked.get_mut(&id) else { return };
        parked.is_there = false;
        // Who removes a record has read it as it was put last.
        if parked.finished.is_none() && !parked.is_done_since {
            self.violations.push(format!("{by} removes event {id}, which is not finished"));
        }
    }

    /// An event is done, skipped, or given up.
    pub(super) fn on_finished(&mut self, id: usize, epoch: u64) {
        if self.parks {
            let parked = self.parked.entry(id).or_default();
            parked.is_done_since = true;
            // What an owner before says late is nothing to the one that parked it since.
            if !parked.is_there || epoch >= parked.put_by {
                parked.finished = Some(epoch);
            }
        }
    }

    /// Whether an owner that read the record of an event handles it though another one, which was
    /// replaced, finished it and took the record away meanwhile.
    pub(super) fn is_repeat_of_parked(&mut self, id: usize, epoch: u64) -> bool {
        let Some(parked) = self.parked.get(&id).filter(|parked| parked.was_there) else {
            return false;
        };
        let Some(by) = parked.finished.filter(|by| *by != epoch) else { return false };
        let state = &self.partitions[self.events[id].partition];
        let is_excused = state.claims.get(&by).is_none_or(|claim| self.is_excused(&claim.by));
        if is_excused {
            self.count("repeat: its record was left");
        }
        is_excused
    }

    /// Whether an event waits in the store.
    pub fn is_parked(&self, id: usize) -> bool {
        self.parked.get(&id).is_some_and(Parked::is_there)
    }

    /// An event that is in the store is handled.
    pub(super) fn judge_return(&mut self, worker: &str, id: usize, epoch: u64, now: Duration) {
        let Some(parked) = self.parked.get(&id) else { return };
        let (due, is_late, put_by) = (parked.due, parked.is_late, parked.put_by);
        let Some(by) = parked.finished else {
            self.count("came back from the store");
            // Others have it from the log, or go on with what they have.
            let number = self.events[id].number;
            let state = &self.partitions[self.events[id].partition];
            let claim = state.claims.get(&epoch).filter(|_| epoch >= put_by);
            let has_it_from_there =
                epoch == put_by || claim.is_some_and(|claim| covers(&claim.checkpoint, number));
            if now + self.clock_error < due && has_it_from_there {
                self.violations.push(format!("{worker} handles event {id}, due at {due:?}"));
            }
            return;
        };
        let state = &self.partitions[self.events[id].partition];
        let excused = |claim: &super::Claim| self.is_excused(&claim.by);
        // An owner that was replaced put it, and this one knew of it only when it had handled the event.
        let is_excused = is_late
            || put_by != epoch
            || state.was_overwritten
            || by != epoch && state.claims.get(&by).is_none_or(excused);
        if is_excused {
            return self.count("repeat: its record was left");
        }
        self.violations.push(format!(
            "{worker} handles event {id} as epoch {epoch}, which epoch {by} finished: its record was left"
        ));
    }
}
