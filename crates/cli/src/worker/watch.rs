//! How a worker does while it runs: a live line on a terminal, a line now and then in a log.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::report::size;
use crate::terminal::{Bar, tell};

/// How often a worker is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The time that a live rate is the mean of.
const LIVE_WINDOW: Duration = Duration::from_secs(10);

/// A log gets a line soon, and then less and less often.
const FIRST_LINE: Duration = Duration::from_secs(5);
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Where a worker stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Look {
    /// Whether everything that is its own is read.
    pub(super) is_ready: bool,
    pub(super) partitions: usize,
    /// Files whose results were acknowledged.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    pub(super) running: usize,
    pub(super) dead_letters: u64,
    /// Events that are parked.
    pub(super) parked: usize,
    /// Events of its partitions that wait, if that is known.
    pub(super) waiting: Option<u64>,
}

impl Look {
    /// The figures, the most telling first. `before` is an earlier look, and how long ago it was.
    fn parts(&self, before: Option<(Duration, Self)>) -> Vec<String> {
        let mut parts = vec![format!("{} files", self.files)];
        if let Some((time, before)) = before.filter(|(time, _)| !time.is_zero()) {
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / time.as_secs_f64();
            parts.push(format!("{}/s", size(rate(self.bytes, before.bytes) as u64)));
            let per_minute = 60.0 * rate(self.files, before.files);
            parts.push(format!("{per_minute:.0} files/minute"));
        }
        parts.push(format!("{} running", self.running));
        parts.extend(self.waiting.map(|waiting| format!("{waiting} waiting")));
        parts.extend((self.parked > 0).then(|| format!("{} parked", self.parked)));
        let letters = self.dead_letters;
        parts.extend((letters > 0).then(|| format!("{letters} dead letters")));
        parts.push(size(self.bytes));
        parts.push(partitions(self.partitions));
        parts
    }

    /// As many of the figures as so many columns hold.
    fn live_line(&self, before: Option<(Duration, Self)>, columns: usize) -> String {
        let mut line = String::new();
        for part in self.parts(before) {
            let gap = if line.is_empty() { "" } else { "  " };
            if line.chars().count() + gap.len() + part.chars().count() <= columns {
                line = line + gap + &part;
            }
        }
        line
    }
}

fn partitions(count: usize) -> String {
    format!("{count} partition{}", if count == 1 { "" } else { "s" })
}

/// Shows one worker. Dropped, its line is gone.
pub(super) struct Watch {
    bar: Option<Bar>,
    /// The looks of the live window, and one before it.
    looks: VecDeque<(Instant, Look)>,
    was_ready: bool,
    last_line: (Instant, Look),
    next_line: Duration,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            bar: Bar::new(),
            looks: VecDeque::new(),
            was_ready: false,
            last_line: (Instant::now(), Look::default()),
            next_line: FIRST_LINE,
        }
    }

    /// Shows where the worker stands until `work` is done.
    pub(super) async fn during<T>(
        &mut self,
        work: impl Future<Output = T>,
        look: impl Fn() -> Look,
    ) -> T {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                now = looks.tick() => self.on_look(now, look()),
            }
        }
    }

    fn on_look(&mut self, now: Instant, look: Look) {
        if look.is_ready && !self.was_ready {
            self.was_ready = true;
            tell(format_args!("ready, with {}", partitions(look.partitions)));
        }
        if self.bar.is_some() {
            self.show(now, look);
        } else if now - self.last_line.0 >= self.next_line {
            let (at, before) = self.last_line;
            tell(look.parts(Some((now - at, before))).join(", "));
            self.last_line = (now, look);
            self.next_line = (self.next_line * 2).min(LINE_INTERVAL);
        }
    }

    fn show(&mut self, now: Instant, look: Look) {
        while self.looks.get(1).is_some_and(|(at, _)| now - *at >= LIVE_WINDOW) {
            self.looks.pop_front();
        }
        let before = self.looks.front().map(|(at, before)| (now - *at, *before));
        self.looks.push_back((now, look));
        if let Some(bar) = &self.bar {
            bar.show(|columns| look.live_line(before, columns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look = Look {
        is_ready: true,
        partitions: 4,
        files: 1_200,
        bytes: 340_000_000,
        running: 10,
        dead_letters: 2,
        parked: 7,
        waiting: Some(5_000),
    };

    #[test]
    fn rates_are_those_since_the_look_before() {
        let before = Look { files: 1_000, bytes: 240_000_000, ..LOOK };
        assert_eq!(
            LOOK.parts(Some((Duration::from_secs(10), before))).join(", "),
            "1200 files, 10.0 MB/s, 1200 files/minute, 10 running, 5000 waiting, 7 parked, 2 dead letters, \
             340.0 MB, 4 partitions"
        );
        let begun = Look { partitions: 1, ..Look::default() };
        assert_eq!(begun.parts(None).join(", "), "0 files, 0 running, 0 bytes, 1 partition");
    }

    #[test]
    fn a_terminal_gets_what_its_columns_hold() {
        let before = Some((Duration::from_secs(1), LOOK));
        assert_eq!(LOOK.live_line(before, 40), "1200 files  0 bytes/s  0 files/minute");
        for columns in 0..120 {
            assert!(LOOK.live_line(before, columns).chars().count() <= columns, "{columns}");
        }
    }
}
