//! Which letter of a replay is handed out next, and when the job stops.
//!
//! ```text
//!  waiting ──> out ──┬─> done
//!     │              ├─> failed again
//!     │              └─> dropped: somebody took it away
//!     └──────> skipped: it cannot be replayed
//! ```
//!
//! - A canary of k: no more than k letters are out or done before k are done. One that fails again ends the
//!   job.
//! - A share: from [`MIN_RESULTS`] results on, the job ends when more than this share of them failed again.
//! - A rate: a letter is handed out when its turn has come. What is missed while the caller is late, or while
//!   nothing may be handed out, is made good for [`SLACK`] and no more.
//!
//! A job that ends lets what is out come back, and hands out nothing more.
//!
//! Pure: time is an argument.

use std::time::{Duration, Instant};

/// A share says nothing of fewer results.
pub const MIN_RESULTS: usize = 20;

/// How much of a pause is made good by handing out faster.
pub const SLACK: Duration = Duration::from_millis(100);

/// How a job goes about it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// How many letters must be done before the others are handed out; 0 for none.
    pub canary: usize,
    /// The job ends when more than this share of the results failed again.
    pub stop_at: Option<f64>,
    /// Letters a second.
    pub per_second: Option<f64>,
    /// Most letters that are out at once.
    pub at_once: usize,
}

impl Default for Limits {
    /// All at once, whatever becomes of them.
    fn default() -> Self {
        Self { canary: 0, stop_at: None, per_second: None, at_once: usize::MAX }
    }
}

/// What became of a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It was not handed out yet.
    Waiting,
    /// It was handed out, or is about to be.
    Out,
    /// The handler did it, or the hub has it.
    Done,
    /// It is a dead letter again.
    FailedAgain,
    /// Somebody took it away while it was out.
    Dropped,
    /// It cannot be replayed, or not by this job.
    Skipped,
    /// It is not known whether the hub has it.
    InDoubt,
}

/// How many letters have which fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counts {
    /// All of the job.
    pub letters: usize,
    /// Of [`Fate::Waiting`].
    pub waiting: usize,
    /// Of [`Fate::Out`].
    pub out: usize,
    /// Of [`Fate::Done`].
    pub done: usize,
    /// Of [`Fate::FailedAgain`].
    pub failed_again: usize,
    /// Of [`Fate::Dropped`].
    pub dropped: usize,
    /// Of [`Fate::Skipped`].
    pub skipped: usize,
    /// Of [`Fate::InDoubt`].
    pub in_doubt: usize,
}

impl Counts {
    fn of(&mut self, fate: Fate) -> &mut usize {
        match fate {
            Fate::Waiting => &mut self.waiting,
            Fate::Out => &mut self.out,
            Fate::Done => &mut self.done,
            Fate::FailedAgain => &mut self.failed_again,
            Fate::Dropped => &mut self.dropped,
            Fate::Skipped => &mut self.skipped,
            Fate::InDoubt => &mut self.in_doubt,
        }
    }
}

/// Why a job hands out nothing more, although letters wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// A letter of the canary failed again.
    Canary,
    /// Too large a share failed again.
    Share,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// This letter is handed out now: it counts as out.
    HandOut(usize),
    /// Ask again at this time, or after the next result.
    At(Instant),
    /// Ask again after the next result.
    Results,
    /// All letters have their fate, or the job stopped and none is out.
    Over,
}

/// The letters of a job, by their number in it.
#[derive(Clone, Debug)]
pub struct Replay {
    limits: Limits,
    fates: Vec<Fate>,
    counts: Counts,
    /// Nothing before it waits.
    cursor: usize,
    pace: Option<Pace>,
    stop: Option<Stop>,
}

impl Replay {
    /// A job of so many letters, none of which was handed out.
    pub fn new(letters: usize, limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            fates: vec![Fate::Waiting; letters],
            counts: Counts { letters, waiting: letters, ..Counts::default() },
            cursor: 0,
            pace: limits.per_second.map(|per_second| Pace::new(per_second, now)),
            stop: None,
        }
    }

    /// What comes next.
    pub fn next(&mut self, now: Instant) -> Next {
        let idle = if self.counts.out == 0 { Next::Over } else { Next::Results };
        if self.stop.is_some() || self.counts.waiting == 0 {
            return idle;
        }
        if self.counts.out >= self.most_out() {
            return Next::Results;
        }
        if let Some(pace) = &mut self.pace {
            let at = pace.next(now);
            if at > now {
                return Next::At(at);
            }
            pace.take();
        }
        while self.fate(self.cursor) != Fate::Waiting {
            self.cursor += 1;
        }
        let letter = self.cursor;
        self.set(letter, Fate::Out);
        Next::HandOut(letter)
    }

    /// How many may be out.
    fn most_out(&self) -> usize {
        let most = self.limits.at_once.max(1);
        match self.limits.canary.checked_sub(self.counts.done) {
            None | Some(0) => most,
            Some(left) => most.min(left),
        }
    }

    /// Takes in what an earlier run left, before anything is handed out.
    pub fn restore(&mut self, fates: impl IntoIterator<Item = (usize, Fate)>) {
        for (letter, fate) in fates {
            self.set(letter, fate);
        }
        // Not one by one: a failure behind the canary is none of the canary.
        self.judge();
    }

    /// A letter has this fate: a result, or [`Fate::Waiting`] where it was not handed out after all.
    pub fn on_fate(&mut self, letter: usize, fate: Fate) {
        let before = (self.counts.done, self.counts.failed_again);
        self.set(letter, fate);
        if before != (self.counts.done, self.counts.failed_again) {
            self.judge();
        }
    }

    fn judge(&mut self) {
        let Counts { done, failed_again, .. } = self.counts;
        let results = done + failed_again;
        // While it lasts no more than the canary is out or done: who has so many done has passed it.
        let is_canary = done < self.limits.canary;
        self.stop = if failed_again > 0 && is_canary {
            Some(Stop::Canary)
        } else if results >= MIN_RESULTS
            && self.limits.stop_at.is_some_and(|share| failed_again as f64 > share * results as f64)
        {
            Some(Stop::Share)
        } else {
            self.stop
        };
    }

    fn set(&mut self, letter: usize, fate: Fate) {
        let Some(was) = self.fates.get_mut(letter) else { return };
        let was = std::mem::replace(was, fate);
        *self.counts.of(was) -= 1;
        *self.counts.of(fate) += 1;
        if fate == Fate::Waiting {
            self.cursor = self.cursor.min(letter);
        }
    }

    /// What became of a letter.
    pub fn fate(&self, letter: usize) -> Fate {
        // One that is not of the job waits for nothing; the search for the next ends at the last.
        self.fates.get(letter).copied().unwrap_or(Fate::Waiting)
    }

    /// The letters that are out, in their order.
    pub fn out(&self) -> impl Iterator<Item = usize> {
        self.fates.iter().enumerate().filter(|(_, fate)| **fate == Fate::Out).map(|(at, _)| at)
    }

    /// How many have which fate.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Why nothing more is handed out.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }
}

/// When the next letter may go.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: Duration,
    turn: Instant,
}

impl Pace {
    fn new(per_second: f64, now: Instant) -> Self {
        let interval = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::ZERO);
        Self { interval, turn: now }
    }

    fn next(&mut self, now: Instant) -> Instant {
        if let Some(earliest) = now.checked_sub(SLACK) {
            self.turn = self.turn.max(earliest);
        }
        self.turn
    }

    fn take(&mut self) {
        self.turn += self.interval;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hands out and brings back with what `fate` says, `delay` after it was handed out; the times of the
    /// hand-outs.
    fn run(
        replay: &mut Replay,
        start: Instant,
        delay: Duration,
        mut fate: impl FnMut(usize) -> Fate,
    ) -> Vec<(usize, Instant)> {
        let mut now = start;
        let mut given = Vec::new();
        let mut under_way: std::collections::VecDeque<(Instant, usize)> = [].into();
        loop {
            let wait = match replay.next(now) {
                Next::HandOut(letter) => {
                    given.push((letter, now));
                    under_way.push_back((now + delay, letter));
                    continue;
                }
                Next::Over => return given,
                Next::At(at) => Some(at),
                Next::Results => None,
            };
            let result = under_way.front().copied();
            match (wait, result) {
                (Some(at), Some((due, _))) if at < due => now = at,
                (_, Some((due, letter))) => {
                    now = now.max(due);
                    under_way.pop_front();
                    replay.on_fate(letter, fate(letter));
                }
                (Some(at), None) => now = at,
                (None, None) => unreachable!("it waits for a result of nothing"),
            }
        }
    }

    #[test]
    fn ten_thousand_letters_at_five_hundred_a_second_take_twenty_seconds() {
        let start = Instant::now();
        let limits = Limits { per_second: Some(500.0), ..Limits::default() };
        let mut replay = Replay::new(10_000, limits, start);
        let given = run(&mut replay, start, Duration::from_secs(1), |_| Fate::Done);
        assert_eq!(given.len(), 10_000);
        let took = given.last().map(|(_, at)| *at - start);
        assert_eq!(took, Some(Duration::from_millis(19_998)));
        assert_eq!(replay.counts().done, 10_000);
    }

    #[test]
    fn a_canary_that_fails_again_stops_the_job() {
        let start = Instant::now();
        let limits = Limits { canary: 10, ..Limits::default() };
        let mut replay = Replay::new(1_000, limits, start);
        let given = run(&mut replay, start, Duration::from_secs(1), |letter| match letter {
            3 => Fate::FailedAgain,
            _ => Fate::Done,
        });
        assert_eq!(given.len(), 10);
        assert_eq!(replay.stop(), Some(Stop::Canary));
        let Counts { done, failed_again, waiting, out, .. } = replay.counts();
        assert_eq!((done, failed_again, waiting, out), (9, 1, 990, 0));
    }

    #[test]
    fn a_failure_behind_the_canary_of_an_earlier_run_stops_nothing() {
        let start = Instant::now();
        let limits = Limits { canary: 3, ..Limits::default() };
        for (done, stop) in [(3, None), (2, Some(Stop::Canary))] {
            let mut replay = Replay::new(10, limits, start);
            let earlier = (1..=done).map(|letter| (letter, Fate::Done));
            replay.restore([(0, Fate::FailedAgain)].into_iter().chain(earlier));
            assert_eq!(replay.stop(), stop, "{done} done");
        }
    }

    #[test]
    fn what_is_skipped_or_dropped_is_no_canary() {
        let start = Instant::now();
        let limits = Limits { canary: 2, ..Limits::default() };
        let mut replay = Replay::new(100, limits, start);
        let mut in_order = Vec::new();
        run(&mut replay, start, Duration::from_secs(1), |letter| {
            in_order.push(letter);
            match letter {
                0 => Fate::Skipped,
                1 => Fate::Dropped,
                _ => Fate::Done,
            }
        });
        assert_eq!(replay.counts().done, 98);
        assert_eq!(in_order.len(), 100);
    }

    #[test]
    fn a_share_that_fails_again_stops_the_job_from_twenty_results_on() {
        let start = Instant::now();
        let limits = Limits { stop_at: Some(0.5), at_once: 1, ..Limits::default() };
        for (failing, stops_after) in [(12, Some(20)), (10, None)] {
            let mut replay = Replay::new(40, limits, start);
            let given = run(&mut replay, start, Duration::from_secs(1), |letter| {
                if letter < failing { Fate::FailedAgain } else { Fate::Done }
            });
            assert_eq!(replay.stop().map(|_| given.len()), stops_after, "{failing}");
        }
    }

    #[test]
    fn a_pause_is_made_good_for_a_moment_only() {
        let start = Instant::now();
        let limits = Limits { per_second: Some(100.0), ..Limits::default() };
        let mut replay = Replay::new(1_000, limits, start);
        let later = start + Duration::from_secs(5);
        let mut at_once = 0;
        while let Next::HandOut(_) = replay.next(later) {
            at_once += 1;
        }
        assert_eq!(at_once, 11);
    }

    proptest! {
        #[test]
        fn each_letter_goes_once_and_the_limits_hold(
            fates in proptest::collection::vec(0_u8..10, 1..200),
            canary in 0_usize..12,
            stop_at in proptest::option::of(0.0_f64..1.0),
            at_once in 1_usize..40,
            per_second in proptest::option::of(1.0_f64..2_000.0),
            delay in 0_u64..3_000,
            restored in proptest::collection::vec((any::<proptest::sample::Index>(), 0_u8..10), 0..20),
        ) {
            let start = Instant::now();
            let limits = Limits { canary, stop_at, per_second, at_once };
            let mut replay = Replay::new(fates.len(), limits, start);
            let fate = |letter: usize| match fates[letter] {
                0 => Fate::FailedAgain,
                1 => Fate::Dropped,
                2 => Fate::Skipped,
                _ => Fate::Done,
            };
            let mut before = std::collections::BTreeMap::new();
            for (letter, what) in &restored {
                let fate = if *what == 0 { Fate::Skipped } else { Fate::Done };
                before.insert(letter.index(fates.len()), fate);
            }
            replay.restore(before.clone());
            let (mut out, mut done) = (0_usize, replay.counts().done);
            let mut most = 0;
            let mut results = (done, 0_usize);
            let mut stopped = false;
            let mut past_stop = false;
            let mut given = Vec::new();
            let mut now = start;
            let mut under_way: std::collections::VecDeque<(Instant, usize)> = [].into();
            loop {
                match replay.next(now) {
                    Next::HandOut(letter) => {
                        past_stop |= stopped;
                        given.push((letter, now));
                        under_way.push_back((now + Duration::from_millis(delay), letter));
                        out += 1;
                        most = most.max(out);
                        if done < canary {
                            prop_assert!(out + done <= canary);
                        }
                    }
                    Next::Over => break,
                    next => {
                        let at = if let Next::At(at) = next { Some(at) } else { None };
                        match (at, under_way.front().copied()) {
                            (Some(at), Some((due, _))) if at < due => now = at,
                            (Some(at), None) => now = at,
                            (_, Some((due, letter))) => {
                                now = now.max(due);
                                under_way.pop_front();
                                out -= 1;
                                replay.on_fate(letter, fate(letter));
                                match fate(letter) {
                                    Fate::Done => { results.0 += 1; done += 1; }
                                    Fate::FailedAgain => {
                                        results.1 += 1;
                                        stopped |= done < canary;
                                    }
                                    _ => {}
                                }
                                let all = results.0 + results.1;
                                stopped |= all >= MIN_RESULTS && stop_at
                                    .is_some_and(|share| results.1 as f64 > share * all as f64);
                            }
                            (None, None) => prop_assert!(false, "it waits for nothing"),
                        }
                    }
                }
            }
            prop_assert!(!past_stop, "a letter was handed out after the stop");
            prop_assert!(most <= at_once);
            prop_assert_eq!(replay.stop().is_some(), stopped);
            let once: std::collections::BTreeSet<usize> = given.iter().map(|(letter, _)| *letter).collect();
            prop_assert_eq!(once.len(), given.len());
            prop_assert!(once.iter().all(|letter| !before.contains_key(letter)));
            let counts = replay.counts();
            prop_assert_eq!(counts.out, 0);
            prop_assert!(stopped || counts.waiting == 0);
            prop_assert_eq!(given.len() + before.len() + counts.waiting, fates.len());
            if let Some(per_second) = per_second {
                for (first, (_, from)) in given.iter().enumerate() {
                    let second = *from + Duration::from_secs(1);
                    let within = given[first..].iter().take_while(|(_, at)| *at < second).count();
                    let slack = per_second * SLACK.as_secs_f64();
                    prop_assert!(within as f64 <= per_second + slack + 2.0, "{within} at {per_second}/s");
                }
            }
        }
    }
}
