//! What became of the lines: how many went where, and which did not go.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::table::{counted, wrapped};
use crate::terminal::{as_json, give, in_one_line, result_columns, tell};
use crate::{CommandError, Ending, ReportFormat};
use longshore::event::{EntityName, PartitionId};

/// Most failures that are told one by one.
const MOST_TOLD: u64 = 100;

/// Most failures that a report lists.
const MOST_LISTED: u64 = 10_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Tally {
    hub: EntityName,
    /// What a line is called, and what lines are.
    noun: [&'static str; 2],
    dry_run: bool,
    sent: u64,
    /// By partition, ordered as numbers are; `None` where the service chose it.
    by_partition: BTreeMap<(usize, Option<PartitionId>), u64>,
    failed: u64,
    /// The first ones, with why.
    failures: Vec<(u64, String)>,
    /// Why no more was read.
    stopped: Option<String>,
    /// Whether a signal ended the reading.
    pub(super) is_interrupted: bool,
}

impl Tally {
    pub(super) fn new(hub: EntityName, noun: [&'static str; 2], dry_run: bool) -> Self {
        Self {
            hub,
            noun,
            dry_run,
            sent: 0,
            by_partition: BTreeMap::new(),
            failed: 0,
            failures: Vec::new(),
            stopped: None,
            is_interrupted: false,
        }
    }

    pub(super) fn on_sent(&mut self, partition: Option<PartitionId>) {
        self.sent += 1;
        let digits = partition.as_ref().map_or(usize::MAX, |id| id.as_str().len());
        *self.by_partition.entry((digits, partition)).or_default() += 1;
    }

    /// It would be sent.
    pub(super) fn on_checked(&mut self) {
        self.sent += 1;
    }

    pub(super) fn on_failed(&mut self, line: u64, why: String) {
        self.failed += 1;
        if self.failed <= MOST_TOLD {
            tell(format_args!("{} {line} is not sent: {why}", self.noun[0]));
        }
        if self.failed <= MOST_LISTED {
            self.failures.push((line, why));
        }
    }

    /// Why no more is read; the first one counts.
    pub(super) fn stop(&mut self, why: String) {
        self.stopped.get_or_insert(why);
    }

    /// How far it is.
    pub(super) fn standing(&self) -> String {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} not sent"),
        };
        format!("{} sent{failed}", counted(self.sent, "event"))
    }

    /// Says it, and how the command ends.
    pub(super) fn give(mut self, report: Option<ReportFormat>) -> Result<Ending, CommandError> {
        // Answers come in any order.
        self.failures.sort();
        match report {
            Some(ReportFormat::Json) => give(as_json(&self.as_value())?),
            None => give(wrapped(0, "", &in_one_line(&self.as_text()), result_columns())),
        }
        if self.failed > MOST_TOLD {
            let more = self.failed - MOST_TOLD;
            tell(format_args!("{more} more are not sent: --report json lists them"));
        }
        let nouns = self.noun[1];
        if let Some(why) = self.stopped.as_ref().filter(|_| self.sent > 0) {
            tell(format_args!("stopped, and {nouns} behind were not read: {why}"));
        }
        if self.is_interrupted {
            tell(format_args!("stopped: {nouns} behind were not read"));
        }
        Ok(match (self.failed, &self.stopped) {
            (0, None) if self.is_interrupted => Ending::WorkLeft,
            (0, None) => Ending::Done,
            (_, Some(why)) if self.sent == 0 => {
                return Err(CommandError::new(format!(
                    "nothing was sent to hub {}: {why}",
                    self.hub
                )));
            }
            _ => Ending::SomeFailed,
        })
    }

    fn as_value(&self) -> Value {
        let partitions: BTreeMap<&str, u64> = self
            .by_partition
            .iter()
            .filter_map(|((_, id), count)| Some((id.as_ref()?.as_str(), *count)))
            .collect();
        let unknown = self.by_partition.get(&(usize::MAX, None)).copied().unwrap_or(0);
        let failures =
            self.failures.iter().map(|(line, why)| json!({ "line": line, "reason": why }));
        json!({
            "hub": self.hub.as_str(),
            "sent": self.sent,
            "partitions": partitions,
            "partition_unknown": unknown,
            "failed": self.failed,
            "failures": failures.collect::<Value>(),
            "stopped": self.stopped,
            "interrupted": self.is_interrupted,
            "dry_run": self.dry_run,
        })
    }

    fn as_text(&self) -> String {
        let events = counted(self.sent, "event");
        if self.dry_run {
            return format!("{events} would be sent to hub {}", self.hub);
        }
        let each = self.by_partition.iter().map(|((_, id), count)| match id {
            Some(id) => format!("{count} to partition {id}"),
            None => format!("{count} where the service chose the partition"),
        });
        let places = each.collect::<Vec<_>>().join(", ");
        let colon = if places.is_empty() { "" } else { ": " };
        format!("{events} sent to hub {}{colon}{places}", self.hub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_told_in_their_order() {
        let mut tally = Tally::new("orders".into(), ["line", "lines"], false);
        for id in ["10", "9", "9"] {
            tally.on_sent(Some(id.into()));
        }
        tally.on_sent(None);
        assert_eq!(
            tally.as_text(),
            "4 events sent to hub orders: 2 to partition 9, 1 to partition 10, \
             1 where the service chose the partition"
        );
        assert_eq!(tally.as_value()["partition_unknown"], 1);
    }
}
