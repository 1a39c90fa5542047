//! When a destination that fails is left alone, and how it is tried again.
//!
//! ```text
//!            16 of the last 20 attempts fail                three probes succeed
//!   closed ──────────────────────────────────> open ─────────────────────────────> recovering
//!      ^                                        ^ │ a probe fails: the next one later   │  │
//!      │                                        └─┘                                     │  │
//!      │                                        └──── three failures in a row ──────────┘  │
//!      └───────── as much is under way as may be, doubled from one with each success ──────┘
//! ```
//!
//! A failure counts where trying again may help: what is wrong with one event says nothing of its
//! destination. A batch that ends as a whole counts once.
//!
//! Pure: time is an argument, and whoever asks says what is a probe.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

/// Attempts that are remembered, and for how long. Source: as many as one batch has by default.
pub const REMEMBERED_ATTEMPTS: usize = 20;

/// Failures among them that open the breaker: four of five.
pub const OPENS_AT: usize = 16;

/// How long an attempt is remembered.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);

/// When probes are sent: so long after the breaker opened, and after one another; the last one again
/// and again.
pub const PROBE_DELAYS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(5),
];

/// Most probes that run at once.
pub const MAX_PROBES: usize = 3;

/// Probes in a row that must succeed.
pub const CLOSES_AFTER: usize = 3;

/// Failures in a row that open a breaker which recovers.
pub const REOPENS_AFTER: usize = 3;

/// What may begin at a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// As much as slots allow.
    Free,
    /// So much at once.
    Limited(usize),
    /// Probes, and nothing else.
    Open,
}

/// What an attempt changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing that is worth a word.
    None,
    /// It opened.
    Opened,
    /// A probe failed: the next one is sent later.
    ProbeFailed,
    /// It closed, and begins with one at once.
    Closed,
    /// More may be under way.
    Grew,
    /// Nothing is held back any more.
    Recovered,
}

/// The breaker of one destination.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    /// When, and whether it failed.
    attempts: VecDeque<(Instant, bool)>,
    phase: Phase,
    last_success: Option<SystemTime>,
}

#[derive(Clone, Debug, Default)]
enum Phase {
    #[default]
    Closed,
    Open(Open),
    Recovering {
        limit: usize,
        /// Of the present limit.
        successes: usize,
        /// In a row.
        failures: usize,
    },
}

#[derive(Clone, Debug)]
struct Open {
    since: Instant,
    next_probe: Instant,
    /// Which delay comes next.
    delay: usize,
    probes: usize,
    /// In a row.
    successes: usize,
}

impl Open {
    fn new(now: Instant) -> Self {
        let mut open = Self { since: now, next_probe: now, delay: 0, probes: 0, successes: 0 };
        open.put_off(now);
        open
    }

    fn put_off(&mut self, now: Instant) {
        let last = PROBE_DELAYS.len() - 1;
        let delay = PROBE_DELAYS.get(self.delay.min(last)).copied().unwrap_or_default();
        self.next_probe = now + delay;
        self.delay += 1;
    }
}

impl Breaker {
    /// An attempt succeeded. `most` is how much may be under way where nothing is held back.
    pub fn on_success(
        &mut self,
        is_probe: bool,
        most: usize,
        now: Instant,
        time: SystemTime,
    ) -> Change {
        self.last_success = Some(time);
        match &mut self.phase {
            Phase::Closed => {
                self.remember(false, now);
                Change::None
            }
            // What began before it opened says nothing of what would begin now.
            Phase::Open(_) if !is_probe => Change::None,
            Phase::Open(open) => {
                open.probes = open.probes.saturating_sub(1);
                open.successes += 1;
                if open.successes < CLOSES_AFTER {
                    // It seems to be back: no reason to wait.
                    (open.next_probe, open.delay) = (now, 0);
                    return Change::None;
                }
                self.attempts.clear();
                self.phase = Phase::Recovering { limit: 1, successes: 0, failures: 0 };
                Change::Closed
            }
            Phase::Recovering { limit, successes, failures } => {
                *failures = 0;
                *successes += 1;
                if *successes < *limit {
                    return Change::None;
                }
                (*limit, *successes) = (limit.saturating_mul(2), 0);
                if *limit < most {
                    return Change::Grew;
                }
                self.phase = Phase::Closed;
                Change::Recovered
            }
        }
    }

    /// An attempt failed in a way that may pass. `rest` is how long the destination wants to be left
    /// alone, where it said so.
    pub fn on_failure(&mut self, is_probe: bool, rest: Option<Duration>, now: Instant) -> Change {
        let opens = match &mut self.phase {
            Phase::Closed => {
                self.remember(true, now);
                self.attempts.iter().filter(|(_, failed)| *failed).count() >= OPENS_AT
            }
            Phase::Open(_) if !is_probe => false,
            Phase::Open(open) => {
                open.probes = open.probes.saturating_sub(1);
                if std::mem::take(&mut open.successes) > 0 {
                    open.put_off(now);
                }
                open.next_probe = open.next_probe.max(now + rest.unwrap_or_default());
                return Change::ProbeFailed;
            }
            Phase::Recovering { failures, successes, .. } => {
                (*failures, *successes) = (*failures + 1, 0);
                *failures >= REOPENS_AFTER
            }
        };
        if !opens {
            return Change::None;
        }
        let mut open = Open::new(now);
        open.next_probe = open.next_probe.max(now + rest.unwrap_or_default());
        self.attempts.clear();
        self.phase = Phase::Open(open);
        Change::Opened
    }

    /// A probe ended and says nothing of the destination: another one may go.
    pub fn on_probe_of_no_use(&mut self, now: Instant) {
        if let Phase::Open(open) = &mut self.phase {
            open.probes = open.probes.saturating_sub(1);
            open.next_probe = open.next_probe.min(now);
        }
    }

    /// Takes the right to send a probe, where one is due.
    pub fn take_probe(&mut self, now: Instant) -> bool {
        let Phase::Open(open) = &mut self.phase else { return false };
        if open.next_probe > now || open.probes >= MAX_PROBES {
            return false;
        }
        open.probes += 1;
        // Where one came back, the others follow at once.
        if open.successes == 0 {
            open.put_off(now);
        }
        true
    }

    /// When the next probe may be sent.
    pub fn next_probe(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Open(open) if open.probes < MAX_PROBES => Some(open.next_probe),
            _ => None,
        }
    }

    /// What may begin.
    pub fn gate(&self) -> Gate {
        match &self.phase {
            Phase::Closed => Gate::Free,
            Phase::Open(_) => Gate::Open,
            Phase::Recovering { limit, .. } => Gate::Limited(*limit),
        }
    }

    /// Since when it is open.
    pub fn open_since(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Open(open) => Some(open.since),
            Phase::Closed | Phase::Recovering { .. } => None,
        }
    }

    /// When an attempt succeeded last.
    pub fn last_success(&self) -> Option<SystemTime> {
        self.last_success
    }

    fn remember(&mut self, failed: bool, now: Instant) {
        let is_old = |at: Instant| now.saturating_duration_since(at) > REMEMBERED_FOR;
        while self.attempts.front().is_some_and(|(at, _)| is_old(*at))
            || self.attempts.len() >= REMEMBERED_ATTEMPTS
        {
            self.attempts.pop_front();
        }
        self.attempts.push_back((now, failed));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MOST: usize = 10;

    fn open_at(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 1..OPENS_AT {
            assert_eq!(breaker.on_failure(false, None, now), Change::None);
        }
        assert_eq!(breaker.on_failure(false, None, now), Change::Opened);
        breaker
    }

    fn succeed(breaker: &mut Breaker, is_probe: bool, now: Instant) -> Change {
        breaker.on_success(is_probe, MOST, now, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn sixteen_of_twenty_open_it_and_fifteen_do_not() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for attempt in 0..200 {
            match attempt % 4 {
                0 => assert_eq!(succeed(&mut breaker, false, now), Change::None),
                _ => assert_eq!(breaker.on_failure(false, None, now), Change::None),
            }
        }
        assert_eq!(breaker.gate(), Gate::Free, "fifteen of any twenty");
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            succeed(&mut breaker, false, now);
        }
        for _ in 0..15 {
            assert_eq!(breaker.on_failure(false, None, now), Change::None);
        }
        assert_eq!(breaker.on_failure(false, None, now), Change::Opened);
        assert_eq!(breaker.gate(), Gate::Open);
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..15 {
            breaker.on_failure(false, None, now);
        }
        let later = now + REMEMBERED_FOR + SECOND;
        assert_eq!(breaker.on_failure(false, None, later), Change::None);
        assert_eq!(breaker.gate(), Gate::Free);
    }

    #[test]
    fn probes_go_after_one_two_four_and_every_five_seconds() {
        let now = Instant::now();
        let mut breaker = open_at(now);
        let mut at = now;
        for wait in [1, 2, 4, 5, 5, 5] {
            let due = at + SECOND * wait;
            assert_eq!(breaker.next_probe(), Some(due));
            assert!(!breaker.take_probe(due - Duration::from_millis(1)));
            assert!(breaker.take_probe(due));
            assert!(!breaker.take_probe(due), "one at a time");
            assert_eq!(breaker.on_failure(true, None, due), Change::ProbeFailed);
            at = due;
        }
    }

    #[test]
    fn three_probes_run_at_once_at_most_and_one_of_no_use_makes_room() {
        let now = Instant::now();
        let mut breaker = open_at(now);
        let late = now + SECOND * 100;
        for probe in 1..=3 {
            assert!(breaker.take_probe(late + SECOND * 5 * probe));
        }
        let later = late + SECOND * 60;
        assert!(!breaker.take_probe(later));
        assert_eq!(breaker.next_probe(), None);
        breaker.on_probe_of_no_use(later);
        assert!(breaker.take_probe(later));
    }

    #[test]
    fn three_successes_close_it_and_what_is_under_way_doubles_from_one() {
        let now = Instant::now();
        let mut breaker = open_at(now);
        let back = now + SECOND;
        assert!(breaker.take_probe(back));
        assert_eq!(succeed(&mut breaker, true, back), Change::None);
        assert!(breaker.take_probe(back) && breaker.take_probe(back), "no reason to wait");
        assert_eq!(succeed(&mut breaker, true, back), Change::None);
        assert_eq!(succeed(&mut breaker, true, back), Change::Closed);
        let mut limits = Vec::new();
        while let Gate::Limited(limit) = breaker.gate() {
            limits.push(limit);
            for left in (0..limit).rev() {
                let change = succeed(&mut breaker, false, back);
                assert_eq!(change == Change::None, left > 0, "{change:?}");
            }
        }
        assert_eq!(limits, [1, 2, 4, 8]);
    }

    #[test]
    fn a_probe_that_fails_begins_the_count_anew_and_a_rest_is_kept() {
        let now = Instant::now();
        let mut breaker = open_at(now);
        let at = now + SECOND;
        assert!(breaker.take_probe(at));
        succeed(&mut breaker, true, at);
        assert!(breaker.take_probe(at));
        assert_eq!(breaker.on_failure(true, Some(SECOND * 30), at), Change::ProbeFailed);
        assert_eq!(breaker.next_probe(), Some(at + SECOND * 30));
        for _ in 0..2 {
            breaker.take_probe(at + SECOND * 30);
            assert_eq!(succeed(&mut breaker, true, at + SECOND * 30), Change::None);
        }
        assert_eq!(breaker.gate(), Gate::Open);
    }

    #[test]
    fn three_failures_in_a_row_open_it_again_while_it_recovers() {
        let now = Instant::now();
        let mut breaker = open_at(now);
        for _ in 0..3 {
            breaker.take_probe(now + SECOND);
            succeed(&mut breaker, true, now + SECOND);
        }
        let now = now + SECOND;
        breaker.on_failure(false, None, now);
        breaker.on_failure(false, None, now);
        succeed(&mut breaker, false, now);
        breaker.on_failure(false, None, now);
        breaker.on_failure(false, None, now);
        assert_ne!(breaker.gate(), Gate::Open);
        assert_eq!(breaker.on_failure(false, None, now), Change::Opened);
        assert_eq!(breaker.next_probe(), Some(now + SECOND));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Success,
        Failure,
        Probe,
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Success),
            4 => Just(Step::Failure),
            2 => Just(Step::Probe),
            2 => (0u64..8_000).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 0..400)
    }

    proptest! {
        /// However attempts end, it always lets something begin again, and never more probes than it may.
        #[test]
        fn it_is_never_stuck(steps in steps()) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            let mut probes = 0usize;
            for step in steps {
                let is_probe = probes > 0;
                match step {
                    Step::Success => drop(succeed(&mut breaker, is_probe, now)),
                    Step::Failure => drop(breaker.on_failure(is_probe, None, now)),
                    Step::Probe => {
                        probes += usize::from(breaker.take_probe(now));
                        prop_assert!(probes <= MAX_PROBES);
                        continue;
                    }
                    Step::Pass(millis) => {
                        now += Duration::from_millis(millis);
                        continue;
                    }
                }
                probes = match breaker.gate() {
                    Gate::Open => probes.saturating_sub(1),
                    Gate::Free | Gate::Limited(_) => 0,
                };
                match breaker.gate() {
                    Gate::Free => {}
                    Gate::Limited(limit) => prop_assert!((1..MOST).contains(&limit)),
                    Gate::Open if probes < MAX_PROBES => {
                        let next = breaker.next_probe();
                        prop_assert!(next.is_some_and(|next| next <= now + SECOND * 5));
                    }
                    Gate::Open => prop_assert_eq!(breaker.next_probe(), None),
                }
            }
        }
    }
}
