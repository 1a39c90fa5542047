//! `group`: how many letters have something in common.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::json;

use super::filter::day_of;
use super::letters::{self, Next};
use super::opened::Opened;
use super::table::minute;
use super::{GroupArgs, GroupBy};
use crate::table::{Side, counted, draw};
use crate::terminal::{as_json, give, result_columns, tell};
use crate::{CommandError, Ending, ReportFormat};
use longshore::failure_store::{FailureKind, ListedFailure};
use longshore::timestamp::rfc3339;

/// Most groups that are counted apart; letters of others are counted together.
const MAX_GROUPS: usize = 100_000;

/// Stands for what is not there.
const NONE: &str = "-";

/// Letters that have something in common.
struct Group {
    letters: u64,
    body_bytes: u64,
    first_failure: SystemTime,
    last_failure: SystemTime,
    /// The words of its fingerprint.
    reason: String,
}

pub(super) async fn run(args: GroupArgs) -> Result<Ending, CommandError> {
    let GroupArgs { by, filter, limit, common } = args;
    let Some(opened) = Opened::new(&common.config, common.report)? else {
        return Ok(Ending::Unusable);
    };
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut in_no_group = 0_u64;
    let looked = letters::each(&opened, &filter, FailureKind::Dead, |letter| {
        let key = key_of(by, &letter);
        if groups.len() < MAX_GROUPS || groups.contains_key(&key) {
            add(groups.entry(key), &letter, by);
        } else {
            in_no_group += 1;
        }
        Ok(Next::GoOn)
    })
    .await?;
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, group)| Reverse(group.letters));
    let all = groups.len();
    groups.truncate(limit);
    match common.report {
        Some(ReportFormat::Json) => {
            let groups: Vec<_> =
                groups.iter().map(|(key, group)| as_value(by, key, group)).collect();
            give(as_json(&json!({
                "store": opened.place,
                "letters": looked.matching,
                "groups": groups,
                "groups_in_all": all,
                "letters_in_no_group": in_no_group,
                "unreadable": looked.unreadable,
            }))?);
        }
        None if groups.is_empty() => {}
        None => give(drawn(&opened, by, &groups, looked.matching, all)),
    }
    looked.tell(&opened.place, FailureKind::Dead);
    if in_no_group > 0 {
        let letters = counted(in_no_group, "letter");
        tell(format_args!("{letters} of still other groups are not shown: use a filter"));
    }
    Ok(if looked.unreadable == 0 { Ending::Done } else { Ending::SomeFailed })
}

fn add(
    entry: std::collections::btree_map::Entry<'_, String, Group>,
    letter: &ListedFailure,
    by: GroupBy,
) {
    let meta = &letter.meta;
    let group = entry.or_insert_with(|| Group {
        letters: 0,
        body_bytes: 0,
        first_failure: meta.first_failure,
        last_failure: meta.last_failure,
        reason: if by == GroupBy::Fingerprint { meta.reason.clone() } else { String::new() },
    });
    group.letters += 1;
    group.body_bytes = group.body_bytes.saturating_add(meta.body_bytes);
    group.first_failure = group.first_failure.min(meta.first_failure);
    group.last_failure = group.last_failure.max(meta.last_failure);
}

fn key_of(by: GroupBy, letter: &ListedFailure) -> String {
    let ListedFailure { key, meta, .. } = letter;
    match by {
        GroupBy::Fingerprint => meta.fingerprint.to_string(),
        GroupBy::Reason => meta.reason.clone(),
        GroupBy::Worker => meta.worker.clone(),
        GroupBy::Destination => meta.destination.clone().unwrap_or_else(|| NONE.to_owned()),
        GroupBy::Class => meta.class.to_string(),
        // Names of hubs are one whatever their case.
        GroupBy::Entity => key.event.log.entity.as_str().to_ascii_lowercase(),
        GroupBy::Day => day_of(meta.last_failure),
    }
}

fn title(by: GroupBy) -> &'static str {
    match by {
        GroupBy::Fingerprint => "fingerprint",
        GroupBy::Reason => "reason",
        GroupBy::Worker => "worker",
        GroupBy::Destination => "destination",
        GroupBy::Class => "class",
        GroupBy::Entity => "entity",
        GroupBy::Day => "day",
    }
}

fn as_value(by: GroupBy, key: &str, group: &Group) -> serde_json::Value {
    let mut value = json!({
        title(by): key,
        "letters": group.letters,
        "body_bytes": group.body_bytes,
        "first_failure": rfc3339(group.first_failure),
        "last_failure": rfc3339(group.last_failure),
    });
    if by == GroupBy::Fingerprint {
        value["reason"] = json!(group.reason);
    }
    value
}

fn drawn(
    opened: &Opened,
    by: GroupBy,
    groups: &[(String, Group)],
    letters: u64,
    all: usize,
) -> String {
    let columns = result_columns();
    let table = match by {
        GroupBy::Fingerprint => {
            let row = |(key, group): &(String, Group)| {
                let letters = group.letters.to_string();
                [letters, minute(group.last_failure), key.clone(), group.reason.clone()]
            };
            let titles = [
                ("letters", Side::Right),
                ("last failure", Side::Left),
                ("fingerprint", Side::Left),
                ("reason", Side::Left),
            ];
            draw(titles, &groups.iter().map(row).collect::<Vec<_>>(), columns)
        }
        _ => {
            let row = |(key, group): &(String, Group)| {
                let times = [group.first_failure, group.last_failure].map(minute);
                let [first, last] = times;
                [group.letters.to_string(), first, last, key.clone()]
            };
            let titles = [
                ("letters", Side::Right),
                ("first failure", Side::Left),
                ("last failure", Side::Left),
                (title(by), Side::Left),
            ];
            draw(titles, &groups.iter().map(row).collect::<Vec<_>>(), columns)
        }
    };
    let more = match all - groups.len() {
        0 => String::new(),
        more => format!("; {more} more with --limit"),
    };
    format!(
        "dead letters in {}\n\n{table}\n\n{} in {}{more}",
        opened.place,
        counted(letters, "letter"),
        counted(all as u64, "group")
    )
}
