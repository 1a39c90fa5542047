//! `list`: every partition that the hub, the checkpoints or the leases know.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::json;

use super::opened::{Missing, Opened, WITHOUT_HUB};
use super::row::{Asked, Row};
use super::{ListArgs, table};
use crate::terminal::{as_json, give, tell};
use crate::{CommandError, Ending, ReportFormat, brief};
use longshore::checkpoint_store::StoredCheckpoint;
use longshore::error::Error;
use longshore::event::PartitionId;
use longshore::hub::HubProperties;
use longshore::lease_store::LeaseListing;
use longshore::state::lag::service_time;
use longshore::timestamp::unix_millis;
use longshore::transport::Transport;

pub(super) async fn run(args: ListArgs) -> Result<Ending, CommandError> {
    let ListArgs { common, offline } = args;
    let Some(configured) = common.config.read(common.report, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let opened = Opened::new(configured, Missing::Refused)?;
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
        None => give(table::draw(&opened.title(), &rows, opened.policy, leases.is_some())),
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
    let of_hub = hub.map(|hub| hub.partitions.clone()).unwrap_or_default();
    let owned = leases.iter().flat_map(|listing| &listing.ownerships).map(|(id, _)| id.clone());
    let mut others: Vec<PartitionId> =
        stored.keys().cloned().chain(owned).filter(|id| !of_hub.contains(id)).collect();
    // 2 before 10.
    others.sort_by(|one, other| {
        (one.as_str().len(), one.as_str()).cmp(&(other.as_str().len(), other.as_str()))
    });
    others.dedup();
    let mut lost = None;
    let mut rows = Vec::new();
    for partition in of_hub.iter().chain(&others) {
        let asked = match hub {
            None => Asked::Nothing,
            Some(hub) if hub.partitions.contains(partition) => {
                ask(opened, hub, partition, ahead, &mut lost).await
            }
            Some(_) => Asked::NotThere,
        };
        let owner = leases.and_then(|listing| opened.owner(listing, partition));
        rows.push(Row::new(opened.policy, partition, stored.remove(partition), owner, asked));
    }
    rows
}

/// Asks for a log, unless the hub went away at an earlier one.
async fn ask(
    opened: &Opened,
    hub: &HubProperties,
    partition: &PartitionId,
    ahead: i64,
    lost: &mut Option<String>,
) -> Asked {
    if let Some(why) = lost {
        return Asked::Failed(why.clone());
    }
    match opened.transport.log_properties(partition).await {
        Ok(log) => Asked::Log {
            log,
            incarnation: hub.incarnation,
            now: service_time(SystemTime::now(), ahead),
        },
        Err(error) => {
            let why = format!("its log is not known: {}", brief(&error));
            if error.class().is_retryable() {
                *lost = Some(why.clone());
            }
            Asked::Failed(why)
        }
    }
}
