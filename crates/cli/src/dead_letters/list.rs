//! `list`: letters in the order of the store, at most so many.

use serde_json::json;

use super::ListArgs;
use super::letters::{self, Next};
use super::opened::Opened;
use super::table::{Side, as_value, counted, draw, minute};
use crate::terminal::{as_json, give, give_all, result_columns, tell};
use crate::{CommandError, Ending, ReportFormat};
use longshore::failure_store::ListedFailure;

const TITLES: [(&str, Side); 5] = [
    ("failed last", Side::Left),
    ("event", Side::Left),
    ("class", Side::Left),
    ("tries", Side::Right),
    ("reason", Side::Left),
];

pub(super) async fn run(args: ListArgs) -> Result<Ending, CommandError> {
    let ListArgs { filter, limit, ids, common } = args;
    let Some(opened) = Opened::new(&common.config, common.report)? else {
        return Ok(Ending::Unusable);
    };
    let mut shown = Vec::new();
    let mut has_more = false;
    let looked = letters::each(&opened, &filter, |letter| {
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
            give(as_json(&json!({
                "store": opened.place,
                "letters": letters,
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
                "dead letters in {}\n\n{}",
                opened.place,
                draw(TITLES, &rows, result_columns())
            ));
        }
    }
    looked.tell(&opened.place);
    if has_more {
        let shown = counted(shown.len() as u64, "letter");
        tell(format_args!(
            "there are more than these {shown}: --limit shows more, `group` counts them"
        ));
    }
    Ok(if looked.unreadable == 0 { Ending::Done } else { Ending::SomeFailed })
}

fn row(letter: &ListedFailure) -> [String; 5] {
    let ListedFailure { key, meta, .. } = letter;
    let log = &key.event.log;
    [
        minute(meta.last_failure),
        format!("{}/{}#{}", log.entity, log.partition, key.event.sequence_number),
        meta.class.to_string(),
        meta.attempts.to_string(),
        meta.reason.clone(),
    ]
}
