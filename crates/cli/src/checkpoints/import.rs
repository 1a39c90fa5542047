//! `import`: checkpoints from lines, after all of them were checked. Where a line has a number and
//! no offset, the hub is asked for it. What `set` refuses is refused here as well.

use std::collections::BTreeMap;

use super::change::beyond_end;
use super::guarded::{Guarded, Written, forced_note};
use super::opened::{Opened, WITHOUT_HUB};
use super::outcome::{Outcome, Report};
use super::place::{located, without_offset};
use super::{Force, ImportArgs, line};
use crate::configured::refuse;
use crate::{CommandError, Ending, brief};
use longshore::checkpoint_store::Checkpoint;
use longshore::event::PartitionId;
use longshore::named_file;
use longshore::state::reset::restore;
use longshore::transport::Transport;

/// The most bytes of a file, 64 MiB: it is checked as a whole before anything is written. Two thousand
/// partitions take about 1 MiB, and each run that is settled above a checkpoint some 20 bytes.
const MOST_BYTES: u64 = 64 << 20;

pub(super) async fn run(args: ImportArgs) -> Result<Ending, CommandError> {
    let ImportArgs { from, force: args, common } = args;
    let Some(configured) = common.config.read(common.report, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let shown = from.display();
    let text = match named_file::read_text(&from, MOST_BYTES) {
        Ok(text) => text,
        Err(error) => {
            refuse(&[format!("{shown} cannot be read: {error}")], common.report);
            return Ok(Ending::Unusable);
        }
    };
    let opened = Opened::new(configured, args.purpose())?;
    let mut kept = match line::read(&text, &opened.scope) {
        Ok(kept) => kept,
        Err(mut wrong) => {
            wrong.iter_mut().for_each(|wrong| *wrong = format!("{shown}, {wrong}"));
            wrong.push("nothing was written".to_owned());
            refuse(&wrong, common.report);
            return Ok(Ending::Unusable);
        }
    };
    let force = args.force();
    let mut wrong = match force {
        Force::Off => compare(&opened, &kept).await?,
        Force::On => BTreeMap::new(),
    };
    let guarded = Guarded::new(&opened, force, args.writes()).await?;
    let mut unknown = look_up(&opened, &mut kept).await;
    let mut report = Report::new(args.writes());
    for (partition, kept) in kept {
        if let Some(outcome) = wrong.remove(&partition) {
            report.add(&partition, outcome);
            continue;
        }
        let write = guarded.write(&partition, |stored, write_id| restore(stored, &kept, write_id));
        let outcome = match write.await {
            Written::Done(change) => {
                let mut notes: Vec<String> = change.owner.iter().map(forced_note).collect();
                notes.extend(change.over_unreadable.clone());
                notes.extend(unknown.remove(&partition));
                Outcome::written(*change, notes)
            }
            Written::Refused(why) => Outcome::refused(why),
            Written::Failed(why) => Outcome::failed(why),
        };
        report.add(&partition, outcome);
    }
    report.give(&opened, common.report)
}

/// What does not go with the hub: partitions that it does not have, and places behind the end of
/// their log. Of another creation of the hub only the worker knows what it means.
///
/// # Errors
/// The hub does not answer.
async fn compare(
    opened: &Opened,
    kept: &[(PartitionId, Checkpoint)],
) -> Result<BTreeMap<PartitionId, Outcome>, CommandError> {
    let hub = opened.hub().await?;
    let mut wrong = BTreeMap::new();
    for (partition, checkpoint) in kept {
        if !hub.partitions.contains(partition) {
            let why = format!("the hub has no partition {partition}");
            wrong.insert(partition.clone(), Outcome::refused(why));
            continue;
        }
        let watermark = checkpoint.watermark.as_ref().map(|position| position.sequence_number);
        let settled = checkpoint.settled_above.iter().map(|run| run.last).chain(watermark).max();
        let is_of_this_hub = checkpoint.incarnation.is_none_or(|it| it == hub.incarnation);
        let Some(settled) = settled.filter(|_| is_of_this_hub) else { continue };
        let outcome = match opened.transport.log_properties(partition).await {
            Ok(log) => beyond_end(settled, &log),
            Err(error) => Some(Outcome::failed(brief(&error))),
        };
        wrong.extend(outcome.map(|outcome| (partition.clone(), outcome)));
    }
    Ok(wrong)
}

/// Adds the offsets that are missing; returns a note for each that is not known. A position of
/// another creation of the hub has none here.
async fn look_up(
    opened: &Opened,
    kept: &mut [(PartitionId, Checkpoint)],
) -> BTreeMap<PartitionId, String> {
    let mut unknown = BTreeMap::new();
    let is_missing = |checkpoint: &Checkpoint| {
        checkpoint.watermark.as_ref().is_some_and(|position| position.offset.is_none())
    };
    if !kept.iter().any(|(_, checkpoint)| is_missing(checkpoint)) {
        return unknown;
    }
    let hub = opened.transport.hub_properties().await;
    for (partition, checkpoint) in kept.iter_mut().filter(|(_, kept)| is_missing(kept)) {
        let Some(position) = &mut checkpoint.watermark else { continue };
        let log = match &hub {
            Ok(hub) if checkpoint.incarnation.is_some_and(|it| it != hub.incarnation) => continue,
            Ok(hub) if !hub.partitions.contains(partition) => continue,
            Ok(_) => opened.transport.log_properties(partition).await,
            Err(error) => {
                unknown.insert(partition.clone(), without_offset(error));
                continue;
            }
        };
        let log = match log {
            Ok(log) => log,
            Err(error) => {
                unknown.insert(partition.clone(), without_offset(&error));
                continue;
            }
        };
        let settled = position.sequence_number;
        let (located, note) = located(&opened.transport, partition, settled, &log).await;
        position.offset = located.offset;
        position.enqueued_time = position.enqueued_time.or(located.enqueued_time);
        unknown.extend(note.map(|note| (partition.clone(), note)));
    }
    opened.transport.close().await;
    unknown
}
