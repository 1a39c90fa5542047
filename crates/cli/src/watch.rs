//! How a worker does while it runs: a live line on a terminal, a line now and then in a log.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::terminal::{Bar, tell};

/// How often a worker is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The time that a live rate is the mean of.
const LIVE_WINDOW: Duration = Duration::from_secs(10);

/// A log gets a line soon, and then less and less often.
const FIRST_LINE: Duration = Duration::from_secs(5);
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Where a worker stands.
pub(super) trait Standing: Copy + Default {
    /// Whether everything that is its own is read.
    fn is_ready(&self) -> bool;

    /// How many partitions it has.
    fn partitions(&self) -> usize;

    /// The figures, the most telling first. `before` is an earlier look, and how long ago it was.
    fn parts(&self, before: Option<(Duration, Self)>) -> Vec<String>;

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

pub(super) fn partitions(count: usize) -> String {
    format!("{count} partition{}", if count == 1 { "" } else { "s" })
}

/// Shows one worker. Dropped, its line is gone.
pub(super) struct Watch<L> {
    bar: Option<Bar>,
    /// The looks of the live window, and one before it.
    looks: VecDeque<(Instant, L)>,
    was_ready: bool,
    last_line: (Instant, L),
    next_line: Duration,
}

impl<L: Standing> Watch<L> {
    pub(super) fn new() -> Self {
        Self {
            bar: Bar::new(),
            looks: VecDeque::new(),
            was_ready: false,
            last_line: (Instant::now(), L::default()),
            next_line: FIRST_LINE,
        }
    }

    /// Shows where the worker stands until `work` is done.
    pub(super) async fn during<T>(
        &mut self,
        work: impl Future<Output = T>,
        look: impl Fn() -> L,
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

    fn on_look(&mut self, now: Instant, look: L) {
        if look.is_ready() && !self.was_ready {
            self.was_ready = true;
            tell(format_args!("ready, with {}", partitions(look.partitions())));
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

    fn show(&mut self, now: Instant, look: L) {
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
