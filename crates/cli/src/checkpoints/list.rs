//! `list`: every partition that the hub, the checkpoints or the leases know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::json;

use super::opened::{Opened, Purpose, WITHOUT_HUB};
use super::row::{Asked, Row};
use super::{ListArgs, table};
use crate::logs::{self, Answer};
use crate::terminal::{as_json, give, result_columns, tell};
use crate::{CommandError, Ending, ReportFormat, brief};
use longshore::checkpoint_store::StoredCheckpoint;
use longshore::error::Error;
use longshore::event::PartitionId;
use longshore::hub::HubProperties;
use longshore::lease_store::{LeaseListing, StoredOwnership};
use longshore::state::lag::service_time;
use longshore::timestamp::unix_millis;
use longshore::transport::Transport;

pub(super) async fn run(args: ListArgs) -> Result<Ending, CommandError> {
    let ListArgs { common, offline } = args;
    let Some(configured) = common.config.read(common.report, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let opened = Opened::new(configured, Purpose::Look)?;
    let listed = opened.list().await?;
    let (leases, leases_error) = match opened.look().await {
        Ok(leases) => (leases, None),
        Err(error) => (None, Some(error)),
    };
    // How far the store's clock is ahead of ours.
    let ahead = leases.as_ref().map_or(0, |listing: &LeaseListing| {
        unix_millis(listing.now).saturating_sub(unix_millis(SystemTime::now()))
    });
    let hub = if offline { None } else { Some(opened.transport.hub_properties().await) };
    let (hub, hub_error) = match hub.transpose() {
        Ok(hub) => (hub, None),
        Err(error) => (None, Some(brief(&error))),
    };
    let stored = listed.into_iter().collect();
    let rows = rows(&opened, stored, leases.as_ref(), ahead, hub.as_ref()).await;
    opened.transport.close().await;
    match common.report {
        Some(ReportFormat::Json) => {
            let mut report = opened.head();
            report.insert("hub_error".to_owned(), json!(hub_error));
            report.insert("leases_error".to_owned(), json!(leases_error));
            report.insert("partitions".to_owned(), json!(rows));
            give(as_json(&report)?);
        }
        None => give(table::draw(
            &opened.title(),
            &rows,
            opened.policy,
            leases.is_some(),
            result_columns(),
        )),
    }
    let mut is_whole = !rows.iter().any(Row::is_incomplete);
    for (what, error) in [
        ("the hub cannot be reached, so the lag is not known", hub_error),
        ("the owners of the partitions are not known", leases_error),
    ] {
        if let Some(error) = error {
            tell(format_args!("{what}: {error}"));
            is_whole = false;
        }
    }
    Ok(if is_whole { Ending::Done } else { Ending::SomeFailed })
}

async fn rows(
    opened: &Opened,
    mut stored: BTreeMap<PartitionId, Result<StoredCheckpoint, Error>>,
    leases: Option<&LeaseListing>,
    ahead: i64,
    hub: Option<&HubProperties>,
) -> Vec<Row> {
    let of_hub: &[PartitionId] = hub.map_or(&[], |hub| &hub.partitions);
    let ownerships = leases.iter().flat_map(|listing| &listing.ownerships);
    let owned: BTreeMap<&PartitionId, &StoredOwnership> =
        ownerships.map(|(id, stored)| (id, stored)).collect();
    let known: BTreeSet<&PartitionId> = of_hub.iter().collect();
    let others: BTreeSet<&PartitionId> = stored.keys().chain(owned.keys().copied()).collect();
    let mut others: Vec<PartitionId> = others.difference(&known).copied().cloned().collect();
    // 2 before 10.
    others.sort_by(|one, other| {
        (one.as_str().len(), one.as_str()).cmp(&(other.as_str().len(), other.as_str()))
    });
    let asked = match hub {
        Some(hub) => ask(opened, hub, ahead).await,
        None => Vec::new(),
    };
    let others = others.into_iter().map(|id| match hub {
        Some(_) => (id, Asked::NotThere),
        None => (id, Asked::Nothing),
    });
    let mut rows = Vec::new();
    for (partition, asked) in of_hub.iter().cloned().zip(asked).chain(others) {
        let owner = leases
            .zip(owned.get(&partition))
            .and_then(|(listing, stored)| opened.owner_by(stored, listing));
        rows.push(Row::new(opened.policy, &partition, stored.remove(&partition), owner, asked));
    }
    rows
}

/// What the logs of the hub say, in its order.
async fn ask(opened: &Opened, hub: &HubProperties, ahead: i64) -> Vec<Asked> {
    let answers = logs::ask(&opened.transport, &hub.partitions).await;
    let asked = answers.into_iter().map(|answer| match answer {
        Ok(Answer { log, at }) => {
            Asked::Log { log, incarnation: hub.incarnation, now: service_time(at, ahead) }
        }
        Err(why) => Asked::Failed(format!("its log is not known: {why}")),
    });
    asked.collect()
}
