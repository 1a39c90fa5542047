//! `list`: letters, or what is parked, in the order of the store, at most so many.

use serde_json::json;

use super::ListArgs;
use super::letters::{self, Next, noun, titled};
use super::opened::Opened;
use super::table::{as_value, is_replayed, minute, short};
use crate::table::{Side, counted, draw};
use crate::terminal::{as_json, give, give_all, result_columns, tell};
use crate::{CommandError, Ending, ReportFormat};
use longshore::failure_store::{FailureKind, ListedFailure};

fn titles(kind: FailureKind) -> [(&'static str, Side); 5] {
    let time = match kind {
        FailureKind::Dead => "failed last",
        FailureKind::Parked => "due",
    };
    [
        (time, Side::Left),
        ("event", Side::Left),
        ("class", Side::Left),
        ("tries", Side::Right),
        ("reason", Side::Left),
    ]
}

pub(crate) async fn run(args: ListArgs, kind: FailureKind) -> Result<Ending, CommandError> {
    let ListArgs { filter, limit, ids, common } = args;
    let Some(opened) = Opened::new(&common.config, common.report)? else {
        return Ok(Ending::Unusable);
    };
    let mut shown = Vec::new();
    let mut has_more = false;
    let looked = letters::each(&opened, &filter, kind, |letter| {
        has_more = shown.len() >= limit;
        if has_more {
            return Ok(Next::Enough);
        }
        shown.push(letter);
        Ok(Next::GoOn)
    })
    .await?;
    match common.report {
        Some(ReportFormat::Json) => {
            let letters: Vec<_> = shown.iter().map(as_value).collect();
            let name = match kind {
                FailureKind::Dead => "letters",
                FailureKind::Parked => "events",
            };
            give(as_json(&json!({
                "store": opened.place,
                name: letters,
                "has_more": has_more,
                "unreadable": looked.unreadable,
            }))?);
        }
        None if ids => {
            let lines: String =
                shown.iter().map(|letter| format!("{}\n", letter.key.event)).collect();
            give_all(&lines)
                .map_err(|error| CommandError::caused("the ids cannot be written", &error))?;
        }
        None if shown.is_empty() => {}
        None => {
            let rows: Vec<_> = shown.iter().map(row).collect();
            give(format_args!(
                "{} in {}\n\n{}",
                titled(kind),
                opened.place,
                draw(titles(kind), &rows, result_columns())
            ));
        }
    }
    looked.tell(&opened.place, kind);
    if has_more {
        let shown = counted(shown.len() as u64, noun(kind));
        let counts = match kind {
            FailureKind::Dead => ", `group` counts them",
            FailureKind::Parked => "",
        };
        tell(format_args!("there are more than these {shown}: --limit shows more{counts}"));
    }
    Ok(if looked.unreadable == 0 { Ending::Done } else { Ending::SomeFailed })
}

fn row(letter: &ListedFailure) -> [String; 5] {
    let ListedFailure { key, meta, .. } = letter;
    let time = match key.kind {
        FailureKind::Dead => Some(meta.last_failure),
        FailureKind::Parked => meta.due,
    };
    let reason = match meta.job.as_ref().filter(|_| is_replayed(letter)) {
        Some(job) => format!("replay {job}: {}", meta.reason),
        None => meta.reason.clone(),
    };
    [
        time.map_or_else(|| "-".to_owned(), minute),
        short(&key.event),
        meta.class.to_string(),
        meta.attempts.to_string(),
        reason,
    ]
}
