//! What a worker did while it ran.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::tally::Told;
use crate::latencies::Share;
use crate::report::size;
use longshore::consumer::ConsumerCounts;

/// The figures of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// Files whose results were acknowledged.
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// From the start of the first file to its last result.
    pub(super) moving_seconds: f64,
    pub(super) files_per_minute: f64,
    /// In millions of bytes, within the time of moving.
    pub(super) mb_per_second: f64,
    /// From the event of a task to its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event_to_file: Option<Share>,
    /// From the event of the first stage to the file, if there were stages before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_stage_to_file: Option<Share>,
    /// Tasks there was nothing to do for.
    pub(super) skipped: u64,
    pub(super) dead_letters: u64,
    /// How often an event was parked for the first time.
    pub(super) parked: u64,
    pub(super) checkpoints: u64,
    /// How long the worker ran.
    pub(super) seconds: f64,
    /// Why it stopped, where no signal was the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Report {
    pub(super) fn new(
        told: &Told,
        counts: &ConsumerCounts,
        skipped: u64,
        elapsed: Duration,
    ) -> Self {
        let moving = told.span().as_secs_f64();
        let rate = |amount: f64| if moving > 0.0 { amount / moving } else { 0.0 };
        Self {
            files: told.files,
            bytes: told.bytes,
            moving_seconds: moving,
            files_per_minute: rate(told.files as f64 * 60.0),
            mb_per_second: rate(told.bytes as f64 / 1e6),
            event_to_file: Share::of(&told.since_enqueued),
            first_stage_to_file: Share::of(&told.since_first_stage),
            skipped,
            dead_letters: counts.dead_letters,
            parked: counts.parked,
            checkpoints: counts.checkpoints,
            seconds: elapsed.as_secs_f64(),
            error: None,
        }
    }
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} files, {}", self.files, size(self.bytes))?;
        if self.files > 0 {
            write!(
                f,
                " in {:.2} s ({:.1} files/minute, {:.2} MB/s)",
                self.moving_seconds, self.files_per_minute, self.mb_per_second
            )?;
        }
        write!(f, "; {} skipped, {} dead letters", self.skipped, self.dead_letters)?;
        if self.parked > 0 {
            write!(f, ", {} parked", self.parked)?;
        }
        if let Some(share) = &self.event_to_file {
            write!(f, "\nfrom event to stored file: {share}")?;
        }
        if let Some(share) = &self.first_stage_to_file {
            write!(f, "\nfrom the event of the first stage: {share}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_files_has_no_rates() {
        let counts = ConsumerCounts::default();
        let report = Report::new(&Told::default(), &counts, 2, Duration::from_secs(60));
        assert_eq!(report.to_string(), "0 files, 0 bytes; 2 skipped, 0 dead letters");
    }

    #[test]
    fn people_read_what_was_done_and_how_long_it_took() {
        let share = Some(Share { median_seconds: 0.42, p99_seconds: 1.307 });
        let report = Report {
            files: 200,
            bytes: 12_300_000,
            moving_seconds: 4.0,
            files_per_minute: 3_000.0,
            mb_per_second: 3.075,
            event_to_file: share,
            first_stage_to_file: share,
            dead_letters: 1,
            parked: 3,
            ..Report::default()
        };
        assert_eq!(
            report.to_string(),
            "200 files, 12.3 MB in 4.00 s (3000.0 files/minute, 3.08 MB/s); 0 skipped, \
             1 dead letters, 3 parked\n\
             from event to stored file: median 0.42 s, 99% within 1.31 s\n\
             from the event of the first stage: median 0.42 s, 99% within 1.31 s"
        );
    }
}
