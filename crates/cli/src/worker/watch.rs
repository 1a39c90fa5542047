//! Where a worker that moves files stands, as it is shown while it runs.

use std::time::Duration;

use crate::report::size;
use crate::watch::{Standing, partitions};

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

impl Standing for Look {
    fn is_ready(&self) -> bool {
        self.is_ready
    }

    fn partitions(&self) -> usize {
        self.partitions
    }

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
