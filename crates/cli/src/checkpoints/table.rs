//! The rows as people read them: a table, what does not fit below its row, the sum at the end.
//!
//! Columns that the terminal has no room for are told below each row, in words.

use std::time::Duration;

use super::opened::Policy;
use super::row::{Row, lost_text, start_text};
use crate::table::{Side, counted, cut_within, padded, width, wrapped};
use crate::terminal::in_one_line;
use longshore::state::owner::{Owner, OwnerKind};

const TITLES: [&str; 8] = [
    "partition",
    "checkpoint",
    "log end",
    "behind",
    "behind by",
    "settled above",
    "lease epoch",
    "owner",
];

/// The columns by their places in a row.
const PARTITION: usize = 0;
const BEHIND_BY: usize = 4;
const ABOVE: usize = 5;
const EPOCH: usize = 6;
const OWNER: usize = 7;

/// What goes below the row first where there is no room.
const BELOW_FIRST: [usize; 4] = [OWNER, EPOCH, ABOVE, BEHIND_BY];

/// Most columns of a partition's name: those of the service are numbers.
const MOST_PARTITION_COLUMNS: usize = 24;

const GAP: &str = "  ";

/// Stand for what is not known, what is not there, a partition without a checkpoint, and one of
/// which nothing is settled yet.
const UNKNOWN: &str = "?";
const NOTHING: &str = "-";
const NONE: &str = "none";
const BEGUN: &str = "begun";

/// The rows below a title, in so many columns; who has a partition is left out where no leases say so.
pub(super) fn draw(
    title: &str,
    rows: &[Row],
    policy: Policy,
    has_leases: bool,
    columns: usize,
) -> String {
    let cells: Vec<[String; 8]> = rows.iter().map(cells).collect();
    let mut widths = TITLES.map(width);
    for row in &cells {
        for (column, cell) in widths.iter_mut().zip(row) {
            *column = (*column).max(width(cell));
        }
    }
    let shown = shown(&widths, has_leases, columns);
    let line = |cells: &[String; 8]| {
        let cells = cells.iter().zip(widths).zip(shown).enumerate();
        let cells = cells.filter(|(_, (_, shown))| *shown).map(|(at, ((cell, width), _))| {
            // Owners, the last, are words.
            if at == OWNER { cell.clone() } else { padded(cell, Side::Right, width) }
        });
        cells.collect::<Vec<_>>().join(GAP)
    };
    let indent = widths[PARTITION] + GAP.len();
    let mut text = format!("{title}\n\n{}", line(&TITLES.map(str::to_owned)));
    for (row, cells) in rows.iter().zip(&cells) {
        text.push('\n');
        text.push_str(&line(cells));
        let below = below(row, cells, &shown, has_leases);
        if !below.is_empty() {
            text.push('\n');
            text.push_str(&wrapped(indent, "", &below, columns));
        }
        for note in row.error.iter().chain(&row.notes) {
            text.push('\n');
            text.push_str(&wrapped(indent, "! ", &in_one_line(note), columns));
        }
    }
    text.push('\n');
    let nobody = has_leases && !shown[OWNER] && rows.iter().any(|row| row.found_owner.is_none());
    let nobody = nobody.then(|| "partitions without an owner line have no owner".to_owned());
    for line in nobody.into_iter().chain(legend(rows, policy)).chain([sum(rows)]) {
        text.push('\n');
        text.push_str(&wrapped(0, "", &line, columns));
    }
    text
}

/// Which columns are in the lines of the table; the others are told below them.
fn shown(widths: &[usize; 8], has_leases: bool, columns: usize) -> [bool; 8] {
    let mut shown = [true; 8];
    shown[OWNER] = has_leases;
    let used = |shown: &[bool; 8]| {
        let widths = widths.iter().zip(shown).filter(|(_, shown)| **shown);
        widths.map(|(width, _)| width + GAP.len()).sum::<usize>() - GAP.len()
    };
    for column in BELOW_FIRST {
        if used(&shown) > columns {
            shown[column] = false;
        }
    }
    shown
}

/// What a row tells in words, for the columns that are not in its line.
fn below(row: &Row, cells: &[String; 8], shown: &[bool; 8], has_leases: bool) -> String {
    let mut parts = Vec::new();
    let is_below = |column: usize| !shown[column] && cells[column] != NOTHING;
    if is_below(BEHIND_BY) && cells[BEHIND_BY] != UNKNOWN {
        parts.push(format!("behind by {}", cells[BEHIND_BY]));
    }
    if is_below(OWNER) && has_leases && row.found_owner.is_some() {
        parts.push(cells[OWNER].clone());
    }
    if is_below(ABOVE) {
        parts.push(format!("settled above it: {}", cells[ABOVE]));
    }
    if is_below(EPOCH) {
        parts.push(format!("lease epoch {}", cells[EPOCH]));
    }
    parts.join("; ")
}

fn cells(row: &Row) -> [String; 8] {
    let number = |number: Option<i64>, none: &str| {
        number.map_or_else(|| none.to_owned(), |number| number.to_string())
    };
    let checkpoint = match (row.has_checkpoint, row.lease_epoch) {
        (true, None) => "ERROR".to_owned(),
        (true, Some(_)) => number(row.sequence_number, BEGUN),
        (false, _) => NONE.to_owned(),
    };
    let above = match (row.settled_events_above, row.settled_runs_above) {
        (0, _) => NOTHING.to_owned(),
        (events, 1) => format!("{events} in 1 run"),
        (events, runs) => format!("{events} in {runs} runs"),
    };
    let epoch = row.lease_epoch.filter(|epoch| *epoch > 0);
    [
        cut_within(&in_one_line(&row.partition), MOST_PARTITION_COLUMNS),
        checkpoint,
        number(row.log_end, UNKNOWN),
        row.lag_events.map_or_else(|| UNKNOWN.to_owned(), |events| events.to_string()),
        behind_by(row),
        above,
        epoch.map_or_else(|| NOTHING.to_owned(), |epoch| epoch.to_string()),
        row.found_owner
            .as_ref()
            .map_or_else(|| "nobody".to_owned(), |owner| in_one_line(&owner_text(owner))),
    ]
}

/// The age of the oldest event that waits, or what is known of it.
fn behind_by(row: &Row) -> String {
    let time = |seconds: f64| time(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    match (row.lag_seconds, row.lag_seconds_at_least, row.lag_seconds_at_most) {
        (Some(exact), _, _) => time(exact),
        (None, Some(least), Some(most)) => format!("{} to {}", time(least), time(most)),
        (None, Some(least), None) => format!("{} or more", time(least)),
        (None, None, _) => UNKNOWN.to_owned(),
    }
}

/// An owner by name, and how long ago it was heard of.
pub(super) fn owner_text(owner: &Owner) -> String {
    let silent = owner.silent_for.map(time);
    let (kind, heard) = match (owner.kind, silent) {
        (OwnerKind::Worker, Some(silent)) => ("worker", format!("heartbeat {silent} ago")),
        (OwnerKind::Worker, None) => ("worker", "it has no heartbeat".to_owned()),
        (OwnerKind::Foreign, silent) => {
            ("foreign", format!("renewed {} ago", silent.unwrap_or_default()))
        }
    };
    let expired = if owner.is_alive { "" } else { "EXPIRED, " };
    let hands_to = owner.hands_to.as_ref();
    let hands_to = hands_to.map(|target| format!(", handing it to {target}")).unwrap_or_default();
    format!("{kind} {} ({expired}{heard}{hands_to})", owner.id)
}

/// A time in the two units that matter.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} m {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} m", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// What words and marks of the table mean, if they are there.
fn legend(rows: &[Row], policy: Policy) -> Vec<String> {
    let mut lines = Vec::new();
    if rows.iter().any(|row| !row.has_checkpoint) {
        let begins = start_text(policy);
        lines.push(format!("{NONE}: there is no checkpoint, a worker begins {begins}"));
    }
    let is_begun = |row: &Row| row.lease_epoch.is_some() && row.sequence_number.is_none();
    if rows.iter().any(is_begun) {
        lines.push(format!("{BEGUN}: nothing is settled yet"));
    }
    if rows.iter().any(|row| row.incarnation_mismatch || row.is_beyond_log) {
        let does = lost_text(policy);
        lines.push(format!("a worker that finds a place which is not in its log {does}"));
    }
    lines
}

fn sum(rows: &[Row]) -> String {
    let partitions = counted(rows.len() as u64, "partition");
    let known: Vec<u64> = rows.iter().filter_map(|row| row.lag_events).collect();
    let events: u64 = known.iter().sum();
    let behind = match known.len() {
        0 => "the lag is not known".to_owned(),
        count if count < rows.len() => {
            format!("{} behind in {count} of them", counted(events, "event"))
        }
        _ => format!("{} behind", counted(events, "event")),
    };
    let unreadable = rows.iter().filter(|row| row.error.is_some()).count();
    let unreadable = match unreadable {
        0 => String::new(),
        count => format!(", {count} with an error"),
    };
    format!("{partitions}, {behind}{unreadable}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_units_that_matter() {
        let shown = [0, 59, 60, 3_599, 3_600, 86_399, 90_000].map(|s| time(Duration::from_secs(s)));
        let expected = ["0 s", "59 s", "1 m 0 s", "59 m 59 s", "1 h 0 m", "23 h 59 m", "1 d 1 h"];
        assert_eq!(shown, expected);
    }
}
