//! A checkpoint as a line of JSON: what `export` writes and `import` reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::as_json;
use longshore::checkpoint::host_of;
use longshore::checkpoint_store::{Checkpoint, CheckpointScope, LeaseEpoch, SettledRun, Trial};
use longshore::event::{Incarnation, Offset, PartitionId, Position, SequenceNumber};
use longshore::timestamp::{from_unix_millis, unix_millis};

/// The version of the fields; those that are added later do not change it.
const VERSION: u32 = 1;

/// Faults that are said of a file.
const MOST_FAULTS: usize = 100;

/// The longest of them, in characters: a line can be one long word, and a fault quotes it.
const MOST_FAULT_CHARS: usize = 400;

#[derive(Serialize, Deserialize)]
struct Line {
    version: u32,
    namespace: String,
    entity: String,
    consumer_group: String,
    partition: PartitionId,
    sequence_number: Option<i64>,
    offset: Option<Offset>,
    #[serde(default)]
    enqueued_time: Option<i64>,
    settled_above: Vec<(i64, i64)>,
    incarnation: Option<Incarnation>,
    reset_generation: u64,
    lease_epoch: LeaseEpoch,
    takeovers_without_progress: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suspects_to: Option<SequenceNumber>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trial: Option<Trial>,
}

/// The line of a checkpoint, in ASCII.
pub(super) fn write(
    scope: &CheckpointScope,
    partition: &PartitionId,
    checkpoint: &Checkpoint,
) -> serde_json::Result<String> {
    let watermark = checkpoint.watermark.as_ref();
    let line = Line {
        version: VERSION,
        namespace: scope.namespace.clone(),
        entity: scope.entity.to_string(),
        consumer_group: scope.consumer_group.to_string(),
        partition: partition.clone(),
        sequence_number: watermark.map(|position| position.sequence_number.0),
        offset: watermark.and_then(|position| position.offset.clone()),
        enqueued_time: watermark.and_then(|position| position.enqueued_time).map(unix_millis),
        settled_above: checkpoint
            .settled_above
            .iter()
            .map(|run| (run.first.0, run.last.0))
            .collect(),
        incarnation: checkpoint.incarnation,
        reset_generation: checkpoint.reset_generation,
        lease_epoch: checkpoint.lease_epoch,
        takeovers_without_progress: checkpoint.takeovers_without_progress,
        suspects_to: checkpoint.suspects_to,
        trial: checkpoint.trial,
    };
    as_json(&line)
}

/// The checkpoints in the lines of a file, by partition. Empty lines are left out.
///
/// # Errors
/// What is wrong: a text for each line that is, with its number, of the first hundred of them.
pub(super) fn read(
    text: &str,
    scope: &CheckpointScope,
) -> Result<Vec<(PartitionId, Checkpoint)>, Vec<String>> {
    let mut found: Vec<(PartitionId, Checkpoint)> = Vec::new();
    let mut lines_of: BTreeMap<PartitionId, usize> = BTreeMap::new();
    let (mut wrong, mut more) = (Vec::new(), 0);
    let mut refuse = |fault: String| match wrong.len() < MOST_FAULTS {
        true => wrong.push(shortened(fault)),
        false => more += 1,
    };
    for (number, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        match read_one(text, scope) {
            Ok((partition, checkpoint)) => match lines_of.insert(partition.clone(), number) {
                None => found.push((partition, checkpoint)),
                Some(first) => {
                    refuse(format!(
                        "line {number}: partition {partition} is on line {first} as well"
                    ));
                }
            },
            Err(fault) => refuse(format!("line {number}: {fault}")),
        }
    }
    if more > 0 {
        wrong.push(format!("{more} more are wrong"));
    }
    if wrong.is_empty() { Ok(found) } else { Err(wrong) }
}

fn shortened(mut fault: String) -> String {
    if let Some((at, _)) = fault.char_indices().nth(MOST_FAULT_CHARS) {
        fault.truncate(at);
        fault.push('…');
    }
    fault
}

fn read_one(text: &str, scope: &CheckpointScope) -> Result<(PartitionId, Checkpoint), String> {
    // The version first: a later one may not have the other fields.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("its version is {version}, and this release reads {VERSION}"));
    }
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let ours = [&scope.namespace, scope.entity.as_str(), scope.consumer_group.as_str()];
    let fields = [
        ("namespace", &line.namespace),
        ("entity", &line.entity),
        ("consumer_group", &line.consumer_group),
    ];
    for ((field, its), ours) in fields.into_iter().zip(ours) {
        // The service's names do not differ by case, and a broker on this machine may come back on
        // another port.
        if !host_of(its).eq_ignore_ascii_case(host_of(ours)) {
            return Err(format!("its {field} is {its}, and the settings say {ours}"));
        }
    }
    if line.partition.as_str().is_empty() {
        return Err("its partition is empty".to_owned());
    }
    let runs: Vec<SettledRun> = line
        .settled_above
        .iter()
        .map(|(first, last)| SettledRun {
            first: SequenceNumber(*first),
            last: SequenceNumber(*last),
        })
        .collect();
    let mut end = line.sequence_number.unwrap_or(-1);
    if end < -1 {
        return Err(format!("its sequence_number is {end}, and the first event's is 0"));
    }
    for SettledRun { first, last } in &runs {
        if first.0 <= end || last < first {
            return Err("its settled_above must be [first, last] pairs in ascending order above \
                 sequence_number"
                .to_owned());
        }
        end = last.0;
    }
    if line.sequence_number.is_none() && line.offset.is_some() {
        return Err("it has an offset and no sequence_number".to_owned());
    }
    let watermark = line.sequence_number.map(|number| Position {
        sequence_number: SequenceNumber(number),
        offset: line.offset,
        enqueued_time: line.enqueued_time.map(from_unix_millis),
    });
    let checkpoint = Checkpoint {
        watermark,
        settled_above: runs,
        incarnation: line.incarnation,
        reset_generation: line.reset_generation,
        lease_epoch: line.lease_epoch,
        takeovers_without_progress: line.takeovers_without_progress,
        suspects_to: line.suspects_to,
        trial: line.trial,
        ..Checkpoint::default()
    };
    Ok((line.partition, checkpoint))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_file_that_is_all_wrong_is_bounded() {
        let scope = CheckpointScope {
            namespace: "ns.example".to_owned(),
            entity: "orders".into(),
            consumer_group: "$Default".into(),
        };
        let long = format!("{{\"version\": \"{}\"}}\n", "ü".repeat(5_000));
        let wrong = read(&long.repeat(1_000), &scope).unwrap_err();
        assert_eq!((wrong.len(), wrong[100].as_str()), (101, "900 more are wrong"));
        assert!(wrong.iter().all(|fault| fault.chars().count() <= MOST_FAULT_CHARS + 1));
    }
}
