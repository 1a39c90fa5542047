//! `set` and `reset`: a checkpoint at another place of the log.

use std::cell::Cell;

use super::guarded::{Change, Guarded, Written, forced_note};
use super::opened::{Opened, WITHOUT_HUB};
use super::outcome::{Outcome, Report, holes_note};
use super::place::located;
use super::{Force, ForceArgs, ResetArgs, SetArgs, Which};
use crate::progress::{Display, Standing};
use crate::{CommandError, Ending, brief};
use longshore::checkpoint_store::Checkpoint;
use longshore::error::ErrorClass;
use longshore::event::{Incarnation, PartitionId, SequenceNumber};
use longshore::hub::LogProperties;
use longshore::state::reset::{ResetPlace, ResetTo, before, reset as reset_to};
use longshore::transport::{Transport, offsets};

pub(super) async fn set(args: SetArgs) -> Result<Ending, CommandError> {
    let SetArgs { partition, sequence, force, common } = args;
    let Some(configured) = common.config.read(common.report, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let opened = Opened::new(configured, force.purpose())?;
    let which = Which::These(vec![PartitionId::from(partition)]);
    let to = ResetTo::Settled(SequenceNumber(sequence));
    let report = change(&opened, which, to, force).await?;
    report.give(&opened, common.report)
}

pub(super) async fn reset(args: ResetArgs) -> Result<Ending, CommandError> {
    let ResetArgs { to, partition, all, force, common } = args;
    let Some(configured) = common.config.read(common.report, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let opened = Opened::new(configured, force.purpose())?;
    let which = if all {
        Which::All
    } else {
        Which::These(partition.into_iter().map(PartitionId::from).collect())
    };
    let report = change(&opened, which, ResetTo::Next(to.0), force).await?;
    report.give(&opened, common.report)
}

async fn change(
    opened: &Opened,
    which: Which,
    to: ResetTo,
    args: ForceArgs,
) -> Result<Report, CommandError> {
    let hub = opened.hub().await?;
    let partitions = match which {
        Which::All => hub.partitions.clone(),
        Which::These(mut these) => {
            let mut seen = std::collections::BTreeSet::new();
            these.retain(|partition| seen.insert(partition.clone()));
            these
        }
    };
    let force = args.force();
    let guarded = Guarded::new(opened, force, args.writes()).await?;
    let mut report = Report::new(args.writes());
    let changed = Cell::new(0);
    let total = partitions.len() as u64;
    let changing = async {
        for partition in partitions {
            let outcome = if hub.partitions.contains(&partition) {
                change_one(&guarded, opened, &partition, to, hub.incarnation, force).await
            } else {
                Outcome::refused(format!("the hub has no partition {partition}"))
            };
            report.add(&partition, outcome);
            changed.set(changed.get() + 1);
        }
    };
    Display::new("").during(changing, || Standing::of_partitions(changed.get(), total)).await;
    opened.transport.close().await;
    Ok(report)
}

async fn change_one(
    guarded: &Guarded<'_>,
    opened: &Opened,
    partition: &PartitionId,
    to: ResetTo,
    incarnation: Incarnation,
    force: Force,
) -> Outcome {
    let log = match opened.transport.log_properties(partition).await {
        Ok(log) => log,
        Err(error) => return Outcome::failed(brief(&error)),
    };
    let settled = match to.place(&log) {
        ResetPlace::After(number) => number,
        ResetPlace::BeforeFirstSince(time) => {
            match offsets::first_since(&opened.transport, partition, time).await {
                Ok(first) => before(first),
                Err(error) if error.class() == ErrorClass::PartitionLost => {
                    return Outcome::refused(
                        "a worker has the log for itself, so it cannot be searched for a time; \
                         stop it, or name a sequence number",
                    );
                }
                Err(error) => return Outcome::failed(brief(&error)),
            }
        }
    };
    if force == Force::Off
        && let Some(refused) = beyond_end(settled, &log)
    {
        return refused;
    }
    let (position, unknown) = located(&opened.transport, partition, settled, &log).await;
    let write = guarded.write(partition, |stored, write_id| {
        reset_to(stored, position.clone(), incarnation, write_id)
    });
    match write.await {
        Written::Done(change) => {
            let mut notes = notes(&change, settled, &log);
            notes.extend(unknown);
            Outcome::written(*change, notes)
        }
        Written::Refused(why) => Outcome::refused(why),
        Written::Failed(why) => Outcome::failed(why),
    }
}

/// Refuses a place behind the end of the log.
pub(super) fn beyond_end(settled: SequenceNumber, log: &LogProperties) -> Option<Outcome> {
    (settled > log.end()).then(|| {
        Outcome::refused(format!(
            "the log ends at {}: a worker would take {settled} for lost; --force writes it all \
             the same",
            log.end()
        ))
    })
}

fn notes(change: &Change, settled: SequenceNumber, log: &LogProperties) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(change.owner.as_ref().map(forced_note));
    notes.extend(change.over_unreadable.clone());
    let next = settled.0.saturating_add(1);
    if settled > log.end() {
        notes.push(format!(
            "the log ends at {}: processors of other SDKs go on behind that",
            log.end()
        ));
    }
    if next < log.begin.0 {
        notes.push(format!("the log begins at {}: what is below is gone", log.begin));
    }
    notes.extend(holes_note(change.before.as_ref().map(|before: &Checkpoint| (before, settled))));
    notes
}
