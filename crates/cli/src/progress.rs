//! How far a run is: a live bar on a terminal, a line now and then in a log.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::report::{blocks, size};
use super::terminal::{Bar, tell};
use super::transfer::WaitingTasks;
use longshore::transfer::progress::LargeFile;

/// How often a run is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How often a log gets a line.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The time that the rate is the mean of.
const RATE_WINDOW: Duration = Duration::from_secs(3);

/// An estimate from less says nothing.
const ETA_MIN_FILES: u64 = 10;
const ETA_MIN_ELAPSED: Duration = Duration::from_secs(2);

/// A bar that is shorter shows nothing.
const BAR_MIN_COLUMNS: usize = 12;
const BAR_MAX_COLUMNS: usize = 30;

/// Most large files that have a bar of their own.
const MAX_LARGE_BARS: usize = 6;

/// What a run goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Unit {
    #[default]
    Files,
    /// Their bytes say nothing: the rate is theirs.
    Letters,
    /// As well; of a hub whose logs are asked, or whose checkpoints are written.
    Partitions,
}

/// Where a run stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub(super) unit: Unit,
    pub(super) files: u64,
    /// Tasks that became dead letters.
    pub(super) failed: u64,
    pub(super) total_files: u64,
    /// Where the list is read to its end; there are more files else.
    pub(super) is_total_known: bool,
    /// Received, those of attempts that failed included.
    pub(super) bytes: u64,
    /// Where the size of every file is known.
    pub(super) total_bytes: Option<u64>,
    pub(super) running: usize,
    /// What waits for another attempt.
    pub(super) waiting: Option<WaitingTasks>,
    /// Large files that are under way.
    pub(super) large: Vec<LargeFile>,
}

impl Standing {
    /// So many partitions of so many.
    pub(super) fn of_partitions(done: u64, total: u64) -> Self {
        Self {
            unit: Unit::Partitions,
            files: done,
            total_files: total,
            is_total_known: true,
            ..Self::default()
        }
    }

    fn settled(&self) -> u64 {
        (self.files + self.failed).min(self.total_files)
    }

    /// What the rate is of.
    fn amount(&self) -> u64 {
        match self.unit {
            Unit::Files => self.bytes,
            Unit::Letters | Unit::Partitions => self.settled(),
        }
    }

    /// From 0 to 1.
    fn share(&self) -> f64 {
        let (done, total) = match self.total_bytes {
            Some(total) if self.settled() < self.total_files => (self.bytes.min(total), total),
            _ => (self.settled(), self.total_files),
        };
        if total == 0 {
            if self.is_total_known { 1.0 } else { 0.0 }
        } else {
            done as f64 / total as f64
        }
    }
}

/// What the standing is, with what its past says about it.
#[derive(Clone, Copy, Debug, Default)]
struct Outlook {
    /// Bytes or letters.
    per_second: Option<f64>,
    left: Option<Duration>,
}

/// The bytes or letters of the last seconds.
#[derive(Debug, Default)]
struct Past(VecDeque<(Duration, u64)>);

impl Past {
    /// Takes in a standing at a time since the start.
    fn on_standing(&mut self, elapsed: Duration, standing: &Standing) -> Outlook {
        let begin = elapsed.saturating_sub(RATE_WINDOW);
        // One older than the window stays: the window begins at it.
        while self.0.get(1).is_some_and(|(at, _bytes)| *at <= begin) {
            self.0.pop_front();
        }
        self.0.push_back((elapsed, standing.amount()));
        let per_second = self.0.front().and_then(|(at, amount)| {
            let window = elapsed.saturating_sub(*at).as_secs_f64();
            (window > 0.0).then(|| standing.amount().saturating_sub(*amount) as f64 / window)
        });
        Outlook { per_second, left: left(elapsed, standing, per_second) }
    }
}

/// How long the rest takes: by its bytes where they are known, else by the files so far.
fn left(elapsed: Duration, standing: &Standing, bytes_per_second: Option<f64>) -> Option<Duration> {
    let settled = standing.settled();
    if elapsed < ETA_MIN_ELAPSED || settled >= standing.total_files || !standing.is_total_known {
        return None;
    }
    let seconds = match (standing.total_bytes, bytes_per_second) {
        (Some(total), Some(rate)) => total.checked_sub(standing.bytes)? as f64 / rate,
        _ if settled >= ETA_MIN_FILES => {
            let files_left = (standing.total_files - settled) as f64;
            elapsed.as_secs_f64() * files_left / settled as f64
        }
        _ => return None,
    };
    // A stalled run has no end in sight.
    let sensible = 1..100 * 3_600;
    Duration::try_from_secs_f64(seconds).ok().filter(|left| sensible.contains(&left.as_secs()))
}

/// The parts of a line, the most telling first.
fn parts(standing: &Standing, outlook: &Outlook) -> Vec<String> {
    let rate = outlook.per_second.map(|rate| match standing.unit {
        Unit::Files => format!("{}/s", size(rate as u64)),
        Unit::Letters | Unit::Partitions => format!("{rate:.0}/s"),
    });
    let left = outlook.left.map(|left| format!("ETA {}", clock(left)));
    let (unit, failed, running, bytes) = match standing.unit {
        Unit::Files => ("files", "failed", "running", Some(size(standing.bytes))),
        Unit::Letters => ("letters", "not done", "with the workers", None),
        Unit::Partitions => ("partitions", "not answered", "asked", None),
    };
    let failed = (standing.failed > 0).then(|| format!("{} {failed}", standing.failed));
    let running = (standing.running > 0).then(|| format!("{} {running}", standing.running));
    let more = if standing.is_total_known { "" } else { "+" };
    let files = format!("{} of {}{more} {unit}", standing.files, standing.total_files);
    let waiting = standing.waiting.as_ref().map(ToString::to_string);
    [Some(files), rate, left, failed, waiting, running, bytes].into_iter().flatten().collect()
}

/// A bar for a large file, its name cut where the columns do not hold it.
fn large_line(file: &LargeFile, columns: usize) -> String {
    let figures = format!("  {} of {}  ", size(file.bytes), size(file.total));
    let share = if file.total == 0 { 1.0 } else { file.bytes as f64 / file.total as f64 };
    let bar = BAR_MIN_COLUMNS.min(columns);
    let full = blocks(share, bar);
    let room = columns.saturating_sub(2 + bar + figures.chars().count());
    let letters = file.path.chars().count();
    // The end of a path tells files apart.
    let name: String = match letters.checked_sub(room) {
        Some(surplus) if surplus > 0 => {
            ['…'].into_iter().chain(file.path.chars().skip(surplus + 1)).take(room).collect()
        }
        _ => file.path.clone(),
    };
    format!("  {full:░<bar$}{figures}{name}").chars().take(columns).collect()
}

/// A line for a log.
fn log_line(standing: &Standing, outlook: &Outlook) -> String {
    parts(standing, outlook).join(", ")
}

/// A bar with as many parts as so many columns hold.
fn live_line(name: &str, standing: &Standing, outlook: &Outlook, columns: usize) -> String {
    let mut figures = String::new();
    let room = columns.saturating_sub(name.chars().count() + BAR_MIN_COLUMNS);
    for part in parts(standing, outlook) {
        if figures.chars().count() + 2 + part.chars().count() <= room {
            figures = figures + "  " + &part;
        }
    }
    let used = name.chars().count() + figures.chars().count();
    let bar = columns.saturating_sub(used).min(BAR_MAX_COLUMNS);
    let full = blocks(standing.share(), bar);
    let line = format!("{name}{full:░<bar$}{figures}");
    line.chars().take(columns).collect()
}

/// Minutes and seconds, and hours where there are any.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// Shows one run. Dropped, its bar is gone.
pub(super) struct Display {
    /// Before the bar, padded as the caller likes.
    name: String,
    bar: Option<Bar>,
    /// Of large files, below it.
    large: Vec<Bar>,
    past: Past,
    started: Instant,
    /// When the log got its last line.
    last_line: Instant,
}

impl Display {
    pub(super) fn new(name: impl Into<String>) -> Self {
        let now = Instant::now();
        let bar = Bar::new();
        Self {
            name: name.into(),
            bar,
            large: Vec::new(),
            past: Past::default(),
            started: now,
            last_line: now,
        }
    }

    /// Says on a terminal what is done before the run; a log has no use for it.
    pub(super) fn prepare(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.show(|columns| format!("{}{what}", self.name).chars().take(columns).collect());
        }
    }

    /// Shows where the run stands until `work` is done.
    pub(super) async fn during<T>(
        &mut self,
        work: impl Future<Output = T>,
        standing: impl Fn() -> Standing,
    ) -> T {
        self.started = Instant::now();
        self.last_line = self.started;
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                now = looks.tick() => self.look(now, &standing()),
            }
        }
    }

    fn look(&mut self, now: Instant, standing: &Standing) {
        let outlook = self.past.on_standing(now - self.started, standing);
        if let Some(bar) = &self.bar {
            bar.show(|columns| live_line(&self.name, standing, &outlook, columns));
            let shown = standing.large.len().min(MAX_LARGE_BARS);
            self.large.truncate(shown);
            while self.large.len() < shown {
                let Some(bar) = Bar::new() else { break };
                self.large.push(bar);
            }
            for (bar, file) in self.large.iter().zip(&standing.large) {
                bar.show(|columns| large_line(file, columns));
            }
        } else if now - self.last_line >= LINE_INTERVAL {
            self.last_line = now;
            self.log(standing, &outlook);
        }
    }

    /// Shows how the run ended: nothing runs any more, and the rate is that of the whole.
    pub(super) fn end(&mut self, standing: &Standing, elapsed: Duration) {
        self.large.clear();
        let standing =
            Standing { running: 0, waiting: None, large: Vec::new(), ..standing.clone() };
        let seconds = elapsed.as_secs_f64();
        let rate = (seconds > 0.0).then(|| standing.amount() as f64 / seconds);
        let outlook = Outlook { per_second: rate, left: None };
        match &self.bar {
            Some(bar) => bar.show(|columns| live_line(&self.name, &standing, &outlook, columns)),
            None if standing.total_files > 0 => self.log(&standing, &outlook),
            None => {}
        }
    }

    fn log(&self, standing: &Standing, outlook: &Outlook) {
        let name = self.name.trim_end();
        let colon = if name.is_empty() { "" } else { ": " };
        tell(format_args!("{name}{colon}{}", log_line(standing, outlook)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Standing = Standing {
        unit: Unit::Files,
        files: 2_050,
        failed: 2,
        total_files: 5_000,
        is_total_known: true,
        bytes: 12_300_000,
        total_bytes: None,
        running: 10,
        waiting: None,
        large: Vec::new(),
    };

    fn outlook() -> Outlook {
        Outlook { per_second: Some(5.1e6), left: Some(Duration::from_secs(83)) }
    }

    #[test]
    fn a_log_gets_everything_on_one_line() {
        assert_eq!(
            log_line(&RUN, &outlook()),
            "2050 of 5000 files, 5.1 MB/s, ETA 1:23, 2 failed, 10 running, 12.3 MB"
        );
        let begun = Standing { total_files: 3, is_total_known: true, ..Standing::default() };
        assert_eq!(log_line(&begun, &Outlook::default()), "0 of 3 files, 0 bytes");
        let read = Standing { is_total_known: false, ..begun };
        assert_eq!(log_line(&read, &Outlook::default()), "0 of 3+ files, 0 bytes");
        let left = Some(Duration::from_millis(37_200));
        let waiting = Some(WaitingTasks { count: 1, left, why: "503".to_owned() });
        let waits = Standing { waiting, is_total_known: true, ..read };
        let said = log_line(&waits, &Outlook::default());
        assert_eq!(said, "0 of 3 files, 1 waits 38 s: 503, 0 bytes");
    }

    #[test]
    fn letters_are_counted_without_bytes() {
        let replay = Standing { unit: Unit::Letters, running: 500, bytes: 0, ..RUN };
        let outlook = Outlook { per_second: Some(498.7), left: Some(Duration::from_secs(6)) };
        assert_eq!(
            log_line(&replay, &outlook),
            "2050 of 5000 letters, 499/s, ETA 0:06, 2 not done, 500 with the workers"
        );
    }

    #[test]
    fn a_terminal_gets_what_its_columns_hold() {
        let line = |columns| live_line("", &RUN, &outlook(), columns);
        assert_eq!(
            line(100),
            "███████████▉░░░░░░░░░░░░░░░░░  2050 of 5000 files  5.1 MB/s  ETA 1:23  2 failed  \
             10 running  12.3 MB"
        );
        assert_eq!(
            line(79),
            "███████░░░░░░░░░░  2050 of 5000 files  5.1 MB/s  ETA 1:23  2 failed  10 running"
        );
        assert_eq!(
            live_line("longshore  ", &RUN, &Outlook::default(), 50),
            "longshore  ███████▊░░░░░░░░░░░  2050 of 5000 files"
        );
        for columns in 0..200 {
            assert!(line(columns).chars().count() <= columns, "{columns}");
        }
    }

    #[test]
    fn a_large_file_has_a_bar_and_the_end_of_its_name() {
        let file = |bytes| {
            let mut file = LargeFile::default();
            file.path = "archive/2026/november/disk.img".to_owned();
            (file.bytes, file.total) = (bytes, 4_000_000_000);
            file
        };
        assert_eq!(
            large_line(&file(1_000_000_000), 80),
            "  ███░░░░░░░░░  1.0 GB of 4.0 GB  archive/2026/november/disk.img"
        );
        assert_eq!(large_line(&file(0), 45), "  ░░░░░░░░░░░░  0 bytes of 4.0 GB  …/disk.img");
        for columns in 0..100 {
            assert!(large_line(&file(7), columns).chars().count() <= columns, "{columns}");
        }
    }

    #[test]
    fn the_share_is_that_of_the_bytes_where_they_are_known() {
        let half =
            || Standing { total_files: 2, is_total_known: true, bytes: 50, ..Standing::default() };
        assert_eq!(half().share(), 0.0);
        assert_eq!(Standing { total_bytes: Some(100), ..half() }.share(), 0.5);
        // Repeated attempts receive more than there is.
        assert_eq!(Standing { total_bytes: Some(40), ..half() }.share(), 1.0);
        let ended = Standing { total_bytes: Some(100), files: 1, failed: 1, ..half() };
        assert_eq!(ended.share(), 1.0);
        assert_eq!(Standing { is_total_known: true, ..Standing::default() }.share(), 1.0);
        assert_eq!(Standing::default().share(), 0.0, "nobody knows yet");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut past = Past::default();
        let at = |second, bytes| (Duration::from_secs(second), Standing { bytes, ..RUN });
        let rates: Vec<Option<f64>> = [at(0, 0), at(1, 100), at(2, 300), at(5, 600), at(8, 600)]
            .iter()
            .map(|(elapsed, standing)| past.on_standing(*elapsed, standing).per_second)
            .collect();
        assert_eq!(rates, [None, Some(100.0), Some(150.0), Some(100.0), Some(0.0)]);
    }

    #[test]
    fn the_end_is_estimated_where_that_makes_sense() {
        let seconds = |elapsed, standing: &Standing, rate| {
            left(Duration::from_secs(elapsed), standing, rate).map(|left| left.as_secs())
        };
        let run = || Standing {
            files: 20,
            total_files: 100,
            is_total_known: true,
            ..Standing::default()
        };
        assert_eq!(seconds(10, &run(), Some(1.0)), Some(40));
        assert_eq!(seconds(1, &run(), Some(1.0)), None);
        assert_eq!(seconds(10, &Standing { files: 9, ..run() }, Some(1.0)), None);
        assert_eq!(seconds(10, &Standing { files: 90, failed: 10, ..run() }, Some(1.0)), None);
        assert_eq!(seconds(10, &Standing { is_total_known: false, ..run() }, Some(1.0)), None);
        let sized = Standing { files: 0, bytes: 400, total_bytes: Some(1_000), ..run() };
        assert_eq!(seconds(10, &sized, Some(60.0)), Some(10));
        assert_eq!(seconds(10, &sized, Some(0.0)), None);
        assert_eq!(seconds(10, &Standing { bytes: 1_001, ..sized }, Some(60.0)), None);
    }

    #[test]
    fn times_are_written_as_clocks_show_them() {
        let shown = |seconds| clock(Duration::from_secs(seconds));
        assert_eq!([shown(7), shown(83), shown(3_723)], ["0:07", "1:23", "1:02:03"]);
    }
}
