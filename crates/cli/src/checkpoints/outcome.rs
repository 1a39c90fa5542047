//! What became of each partition that was to be written.

use serde::Serialize;
use serde_json::json;

use super::Writes;
use super::guarded::Change;
use super::opened::Opened;
use crate::table::{Side, counted, padded, width, wrapped};
use crate::terminal::{as_json, give, in_one_line, result_columns, tell};
use crate::{CommandError, Ending, ReportFormat};
use longshore::checkpoint_store::Checkpoint;
use longshore::event::{PartitionId, SequenceNumber};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Written,
    /// It would be, but for the dry run.
    WouldBeWritten,
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
            (Kind::Written | Kind::WouldBeWritten, _) => {
                let is = if self.outcome == Kind::Written { "" } else { "would be " };
                let was = match self.before {
                    Some(before) => format!("was {before}"),
                    None => "there was none".to_owned(),
                };
                match self.sequence_number {
                    Some(number) => format!(
                        "{is}settled to {number}, the next event is {} ({was})",
                        number.saturating_add(1)
                    ),
                    None if is.is_empty() => format!("nothing is settled ({was})"),
                    None => format!("nothing would be settled ({was})"),
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
#[derive(Debug)]
pub(super) struct Report {
    writes: Writes,
    partitions: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    partition: String,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Report {
    pub(super) fn new(writes: Writes) -> Self {
        Self { writes, partitions: Vec::new() }
    }

    pub(super) fn add(&mut self, partition: &PartitionId, mut outcome: Outcome) {
        if outcome.outcome == Kind::Written && self.writes == Writes::Dry {
            outcome.outcome = Kind::WouldBeWritten;
        }
        self.partitions.push(Row { partition: partition.to_string(), outcome });
    }

    /// Says it, and how the command ends.
    pub(super) fn give(
        &self,
        opened: &Opened,
        format: Option<ReportFormat>,
    ) -> Result<Ending, CommandError> {
        let total = self.partitions.len();
        let is_written =
            |row: &&Row| matches!(row.outcome.outcome, Kind::Written | Kind::WouldBeWritten);
        let written = self.partitions.iter().filter(is_written).count();
        let is_dry = self.writes == Writes::Dry;
        match format {
            Some(ReportFormat::Json) => {
                let mut report = opened.head();
                report.insert("partitions".to_owned(), json!(self.partitions));
                report.insert("dry_run".to_owned(), json!(is_dry));
                give(as_json(&report)?);
            }
            None => give(self.as_text(opened)),
        }
        if written == total {
            return Ok(Ending::Done);
        }
        let verb = if is_dry { "would be written" } else { "written" };
        tell(format_args!("{written} of {total} checkpoints {verb}"));
        Ok(Ending::SomeFailed)
    }

    fn as_text(&self, opened: &Opened) -> String {
        let names: Vec<String> =
            self.partitions.iter().map(|row| in_one_line(&row.partition)).collect();
        let columns = result_columns();
        let most = names.iter().map(|name| width(name)).max().unwrap_or(0);
        let indent = most + 4;
        let mut text = opened.title();
        if self.writes == Writes::Dry {
            text.push_str("\na dry run: nothing is written");
        }
        for (name, Row { outcome, .. }) in names.iter().zip(&self.partitions) {
            let shown = in_one_line(&outcome.as_text());
            let shown = wrapped(indent, "", &shown, columns);
            let name = padded(name, Side::Right, most);
            text.push_str(&format!("\n  {name}  {}", shown.trim_start()));
            for note in &outcome.notes {
                text.push('\n');
                text.push_str(&wrapped(indent, "! ", &in_one_line(note), columns));
            }
        }
        text
    }
}
