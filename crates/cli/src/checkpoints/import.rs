//! `import`: checkpoints from lines, after all of them were checked. Where a line has a number and
//! no offset, the hub is asked for it.

use std::collections::BTreeMap;

use super::guarded::{Guarded, Written, forced_note};
use super::opened::{Missing, Opened, WITHOUT_HUB};
use super::outcome::{Outcome, Report};
use super::place::{located, without_offset};
use super::{ImportArgs, line};
use crate::configured::refuse;
use crate::{CommandError, Ending};
use longshore::checkpoint_store::Checkpoint;
use longshore::event::PartitionId;
use longshore::state::reset::restore;
use longshore::transport::Transport;

pub(super) async fn run(args: ImportArgs) -> Result<Ending, CommandError> {
    let ImportArgs { from, force, common } = args;
    let Some(configured) = common.config.read(common.report, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let shown = from.display();
    let text = match std::fs::read_to_string(&from) {
        Ok(text) => text,
        Err(error) => {
            refuse(&[format!("{shown} cannot be read: {error}")], common.report);
            return Ok(Ending::Unusable);
        }
    };
    let opened = Opened::new(configured, Missing::Created)?;
    let mut kept = match line::read(&text, &opened.scope) {
        Ok(kept) => kept,
        Err(mut wrong) => {
            wrong.iter_mut().for_each(|wrong| *wrong = format!("{shown}, {wrong}"));
            wrong.push("nothing was written".to_owned());
            refuse(&wrong, common.report);
            return Ok(Ending::Unusable);
        }
    };
    let guarded = Guarded::new(&opened, force.into()).await?;
    let mut unknown = look_up(&opened, &mut kept).await;
    let mut report = Report::default();
    for (partition, kept) in kept {
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
