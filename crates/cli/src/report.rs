//! What a run came to, and how figures are written for people.

use std::time::Duration;

use serde::Serialize;

/// The figures of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// Files fetched by this run.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) mib_per_second: f64,
    /// Tasks that became dead letters in this run.
    pub(super) failed: u64,
    /// Lines whose file was complete before, or that were not wanted any more.
    pub(super) skipped: u64,
    /// Dead letters written by this run.
    pub(super) dead_letters: u64,
    pub(super) checkpoints: u64,
    /// Whether a Ctrl-C ended the run before all was done.
    pub(super) interrupted: bool,
    /// Why the run stopped, where something stopped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Report {
    /// Fills in the time and the rate.
    pub(super) fn timed(mut self, elapsed: Duration) -> Self {
        self.seconds = elapsed.as_secs_f64();
        let mib = self.bytes as f64 / (1024.0 * 1024.0);
        self.mib_per_second = if self.seconds > 0.0 { mib / self.seconds } else { 0.0 };
        self
    }

    pub(super) fn bytes_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 / self.seconds } else { 0.0 }
    }
}

/// Bytes as people write them: decimal units, as links and disks are sold.
pub(super) fn size(bytes: u64) -> String {
    // Exact up to 2^53 bytes, which is more than anyone prints.
    let mut value = bytes as f64 / 1_000.0;
    if bytes < 1_000 {
        return format!("{bytes} bytes");
    }
    for unit in ["kB", "MB", "GB"] {
        // What is rounded up to 1000.0 belongs to the next.
        if value < 999.95 {
            return format!("{value:.1} {unit}");
        }
        value /= 1_000.0;
    }
    format!("{value:.1} TB")
}

/// A bar of this share of so many columns, to the eighth of a column.
pub(super) fn blocks(share: f64, columns: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * 8.0 * columns as f64).round() as usize;
    let part = EIGHTHS.get(eighths % 8).copied().unwrap_or_default();
    "█".repeat(eighths / 8) + part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_keeps_them_short() {
        let shown: Vec<String> =
            [0, 999, 1_000, 999_949, 999_950, 12_300_000, 5_000_000_000_000].map(size).into();
        assert_eq!(
            shown,
            ["0 bytes", "999 bytes", "1.0 kB", "999.9 kB", "1.0 MB", "12.3 MB", "5.0 TB"]
        );
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        let shown = [0.0, 0.5, 0.53, 0.99, 1.0, 7.0].map(|share| blocks(share, 4));
        assert_eq!(shown, ["", "██", "██▏", "████", "████", "████"]);
    }
}
