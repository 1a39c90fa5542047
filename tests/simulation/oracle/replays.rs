//! Replays of dead letters: a job hands each out once, its letter stays until a handler finishes the event,
//! and what the job says of it is what became of it.

use std::collections::BTreeSet;

use super::Oracle;

/// What a job says of a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Done,
    FailedAgain,
    Dropped,
}

/// What became of an event since it was handed out last.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// The jobs that handed it out.
    jobs: BTreeSet<String>,
    last: String,
    is_done: bool,
    failed_again: bool,
    /// A worker that is not the owner any more wrote the letter once more when the event was done.
    is_back: bool,
}

impl Oracle {
    /// A job put the record of a letter's event among the parked ones.
    pub fn on_handed_out(&mut self, job: &str, id: usize) {
        self.count("letter replayed");
        let replayed = self.replayed.entry(id).or_default();
        if !replayed.jobs.insert(job.to_owned()) {
            self.violations.push(format!("a job hands event {id} out twice"));
        }
        job.clone_into(&mut replayed.last);
        (replayed.is_done, replayed.failed_again, replayed.is_back) = (false, false, false);
        self.parked.entry(id).or_default().on_handed_out();
    }

    /// A handler finished an event, or skipped it.
    pub fn on_done(&mut self, id: usize) {
        if let Some(replayed) = self.replayed.get_mut(&id) {
            replayed.is_done = true;
        }
    }

    /// A letter was written of an event: by an owner that had it from a replay, or not.
    pub(super) fn on_letter_again(&mut self, id: usize, is_of_replay: bool, by_owner: bool) {
        if let Some(replayed) = self.replayed.get_mut(&id) {
            replayed.failed_again |= is_of_replay;
            replayed.is_back |= !is_of_replay && !by_owner && replayed.is_done;
        }
    }

    /// A letter is gone.
    pub fn on_letter_gone(&mut self, by: &str, id: usize) {
        self.kept.remove(&id);
        let is_done = self.replayed.get(&id).is_some_and(|replayed| replayed.is_done);
        if !is_done {
            self.violations
                .push(format!("{by} deletes the letter of event {id}, which is not done"));
        }
    }

    /// Whether a job ever handed it out.
    pub fn was_replayed(&self, id: usize) -> bool {
        self.replayed.contains_key(&id)
    }

    /// A job that is over says what became of a letter.
    pub fn on_fate(&mut self, job: &str, partition: usize, number: i64, told: Told) {
        let log = self.logs.get(&(partition, self.incarnation));
        let Some(id) = log.and_then(|log| log.all.get(&number)).copied() else { return };
        let Some(replayed) = self.replayed.get(&id).filter(|replayed| replayed.last == job) else {
            return;
        };
        let is_right = match told {
            Told::Done => replayed.is_done,
            Told::FailedAgain => replayed.failed_again,
            // The letter is there, and nobody has its event: that is so also of one that came back.
            Told::Dropped => replayed.is_back || !replayed.is_done && !replayed.failed_again,
        };
        if !is_right {
            self.violations.push(format!("a job says {told:?} of event {id}: {replayed:?}"));
        }
        self.count(match told {
            Told::Done => "replay: done",
            Told::FailedAgain => "replay: failed again",
            Told::Dropped => "replay: dropped",
        });
    }
}
