//! Letters and groups as people read them, within the columns that there are.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::terminal::in_one_line;
use longshore::failure_store::{EventIdentity, FailureKind, ListedFailure};
use longshore::timestamp::rfc3339;

/// The last column is not made narrower.
const MIN_TEXT_COLUMNS: usize = 16;

const GAP: &str = "  ";

/// Which side the cells of a column are on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Lines of cells below titles. The last column takes what is left of a line, and is cut.
pub(crate) fn draw<const N: usize>(
    titles: [(&str, Side); N],
    rows: &[[String; N]],
    columns: usize,
) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| in_one_line(cell))).collect();
    let mut widths = titles.map(|(title, _)| title.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let before: usize =
        widths.iter().take(N.saturating_sub(1)).map(|width| width + GAP.len()).sum();
    let last = columns.saturating_sub(before).max(MIN_TEXT_COLUMNS);
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (at, ((cell, width), (_, side))) in cells.iter().zip(widths).zip(titles).enumerate() {
            let is_last = at + 1 == N;
            match side {
                _ if is_last => line.push_str(&cut(cell, last)),
                Side::Left => line.push_str(&format!("{cell:<width$}{GAP}")),
                Side::Right => line.push_str(&format!("{cell:>width$}{GAP}")),
            }
        }
        line.trim_end().to_owned()
    };
    let titles = line(titles.map(|(title, _)| title));
    let rows = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    [titles].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

/// A text of at most so many characters.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A time to the minute, in UTC.
pub(crate) fn minute(time: SystemTime) -> String {
    let text = rfc3339(time).replace('T', " ");
    text.get(..16).unwrap_or_default().to_owned()
}

/// A number of things.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// Whether a job replays it now.
pub(crate) fn is_replayed(letter: &ListedFailure) -> bool {
    match letter.key.kind {
        FailureKind::Dead => letter.meta.replaying().is_some(),
        FailureKind::Parked => letter.meta.job.is_some(),
    }
}

/// As people name its event, if they know which namespace and group they mean.
pub(crate) fn short(event: &EventIdentity) -> String {
    format!("{}/{}#{}", event.log.entity, event.log.partition, event.sequence_number)
}

/// A letter for scripts.
pub(crate) fn as_value(letter: &ListedFailure) -> Value {
    let ListedFailure { key, meta, .. } = letter;
    let log = &key.event.log;
    json!({
        "id": key.event.to_string(),
        "namespace": log.namespace,
        "entity": log.entity.as_str(),
        "incarnation": log.incarnation.0,
        "consumer_group": log.consumer_group.as_str(),
        "partition": log.partition.as_str(),
        "sequence_number": key.event.sequence_number.0,
        "class": meta.class.as_str(),
        "fingerprint": meta.fingerprint.to_string(),
        "reason": meta.reason,
        "destination": meta.destination,
        "lane": meta.lane,
        "worker": meta.worker,
        "attempts": meta.attempts,
        "parkings": meta.parkings,
        "enqueued_time": rfc3339(meta.enqueued_time),
        "first_failure": rfc3339(meta.first_failure),
        "last_failure": rfc3339(meta.last_failure),
        "body_bytes": meta.body_bytes,
        "body_omitted": meta.is_body_omitted,
        "due": meta.due.map(rfc3339),
        "job": meta.job,
        "is_replayed": is_replayed(letter),
        "generation": meta.generation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_its_columns() {
        let titles = [("letters", Side::Right), ("class", Side::Left), ("reason", Side::Left)];
        let row = |count: &str, reason: &str| [count, "permanent", reason].map(str::to_owned);
        let rows =
            [row("7", "short"), row("1000000", &"long ".repeat(50)), row("1", "a\nb\u{1b}[2J")];
        let drawn = draw(titles, &rows, 40);
        assert_eq!(
            drawn,
            "letters  class      reason\n      \
                   7  permanent  short\n\
             1000000  permanent  long long long long…\n      \
                   1  permanent  a\\nb\\u{1b}[2J"
        );
        assert!(drawn.lines().all(|line| line.chars().count() <= 40));
    }
}
