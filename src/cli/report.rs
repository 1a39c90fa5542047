//! What a run came to, as JSON and as a table.

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
    #[serde(skip)]
    pub(super) events: u64,
    #[serde(skip)]
    pub(super) batches: u64,
}

impl Report {
    /// Fills in the time and the rate.
    pub(super) fn timed(mut self, elapsed: Duration) -> Self {
        self.seconds = elapsed.as_secs_f64();
        let mib = mib(self.bytes);
        self.mib_per_second = if self.seconds > 0.0 { mib / self.seconds } else { 0.0 };
        self
    }
}

/// Bytes in MiB, for people.
pub(super) fn mib(bytes: u64) -> f64 {
    // Exact up to 2^53 bytes, which is more than anyone prints.
    bytes as f64 / (1024.0 * 1024.0)
}

/// Two runs side by side.
pub(super) fn comparison(
    name: &str,
    run: &Report,
    baseline_name: &str,
    baseline: &Report,
) -> String {
    let rows: [(&str, String, String); 8] = [
        ("files", run.files.to_string(), baseline.files.to_string()),
        ("MiB", format!("{:.2}", mib(run.bytes)), format!("{:.2}", mib(baseline.bytes))),
        ("seconds", format!("{:.2}", run.seconds), format!("{:.2}", baseline.seconds)),
        ("MiB/s", format!("{:.2}", run.mib_per_second), format!("{:.2}", baseline.mib_per_second)),
        ("events", run.events.to_string(), baseline.events.to_string()),
        ("batches", run.batches.to_string(), baseline.batches.to_string()),
        ("checkpoints", run.checkpoints.to_string(), baseline.checkpoints.to_string()),
        ("dead letters", run.dead_letters.to_string(), baseline.dead_letters.to_string()),
    ];
    let mut table = format!("{:<14}{name:>16}{baseline_name:>16}\n", "");
    for (label, left, right) in rows {
        table.push_str(&format!("{label:<14}{left:>16}{right:>16}\n"));
    }
    table
}
