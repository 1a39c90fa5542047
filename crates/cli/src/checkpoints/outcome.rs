//! What became of each partition that was to be written.

use serde::Serialize;
use serde_json::json;

use super::guarded::Change;
use super::opened::Opened;
use super::table::counted;
use crate::terminal::{as_json, give, tell};
use crate::{CommandError, Ending, ReportFormat};
use longshore::checkpoint_store::Checkpoint;
use longshore::event::{PartitionId, SequenceNumber};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Written,
    Refused,
    Failed,
}

/// What became of one.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    outcome: Kind,
    /// The last settled event before.
    before: Option<i64>,
    /// The last settled event now.
    sequence_number: Option<i64>,
    /// Why it was not written.
    reason: Option<String>,
    /// What else there is to know.
    notes: Vec<String>,
}

impl Outcome {
    pub(super) fn written(change: Change, notes: Vec<String>) -> Self {
        Self {
            outcome: Kind::Written,
            before: change.before.as_ref().and_then(number),
            sequence_number: number(&change.after),
            reason: None,
            notes,
        }
    }

    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::not_written(Kind::Refused, why.into())
    }

    pub(super) fn failed(why: impl Into<String>) -> Self {
        Self::not_written(Kind::Failed, why.into())
    }

    fn not_written(outcome: Kind, why: String) -> Self {
        Self { outcome, before: None, sequence_number: None, reason: Some(why), notes: Vec::new() }
    }

    fn as_text(&self) -> String {
        match (self.outcome, &self.reason) {
            (Kind::Written, _) => {
                let was = match self.before {
                    Some(before) => format!("was {before}"),
                    None => "there was none".to_owned(),
                };
                match self.sequence_number {
                    Some(number) => format!(
                        "settled to {number}, the next event is {} ({was})",
                        number.saturating_add(1)
                    ),
                    None => format!("nothing is settled ({was})"),
                }
            }
            (Kind::Refused, why) => format!("REFUSED: {}", why.as_deref().unwrap_or_default()),
            (Kind::Failed, why) => format!("FAILED: {}", why.as_deref().unwrap_or_default()),
        }
    }
}

fn number(checkpoint: &Checkpoint) -> Option<i64> {
    checkpoint.watermark.as_ref().map(|position| position.sequence_number.0)
}

/// That events which were settled above a checkpoint are handled again, if it was left behind
/// for one that does not know them.
pub(super) fn holes_note(left: Option<(&Checkpoint, SequenceNumber)>) -> Option<String> {
    let (before, settled) = left?;
    let next = settled.0.saturating_add(1);
    let runs = before.settled_above.iter().filter(|run| run.last > settled);
    let events = runs.fold(0, |events: u64, run| {
        events.saturating_add(run.last.0.abs_diff(run.first.0.max(next))).saturating_add(1)
    });
    (events > 0).then(|| {
        format!("{} above it that had settled are handled again", counted(events, "event"))
    })
}

/// What became of all.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    partitions: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    partition: String,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Report {
    pub(super) fn add(&mut self, partition: &PartitionId, outcome: Outcome) {
        self.partitions.push(Row { partition: partition.to_string(), outcome });
    }

    /// Says it, and how the command ends.
    pub(super) fn give(
        &self,
        opened: &Opened,
        format: Option<ReportFormat>,
    ) -> Result<Ending, CommandError> {
        let total = self.partitions.len();
        let written =
            self.partitions.iter().filter(|row| row.outcome.outcome == Kind::Written).count();
        match format {
            Some(ReportFormat::Json) => {
                let mut report = opened.head();
                report.insert("partitions".to_owned(), json!(self.partitions));
                give(as_json(&report)?);
            }
            None => give(self.as_text(opened)),
        }
        if written == total {
            return Ok(Ending::Done);
        }
        tell(format_args!("{written} of {total} checkpoints written"));
        Ok(Ending::SomeFailed)
    }

    fn as_text(&self, opened: &Opened) -> String {
        let width =
            self.partitions.iter().map(|row| row.partition.chars().count()).max().unwrap_or(0);
        let mut text = opened.title();
        for Row { partition, outcome } in &self.partitions {
            text.push_str(&format!("\n  {partition:>width$}  {}", outcome.as_text()));
            for note in &outcome.notes {
                text.push_str(&format!("\n  {:>width$}  ! {note}", ""));
            }
        }
        text
    }
}
