//! `purge`: deletes letters by the version that was listed.

use futures::StreamExt as _;
use futures::stream;
use serde_json::json;

use super::PurgeArgs;
use super::letters::{Next, Scan};
use super::opened::Opened;
use super::table::counted;
use crate::terminal::{as_json, give, tell};
use crate::{CommandError, Ending, ReportFormat, brief};
use longshore::failure_store::{ListedFailure, StoreError};

/// Letters that are kept at a time, between a listing and the deletes.
const LETTERS_AT_A_TIME: usize = 5_000;

/// Deletes that are under way at once.
const DELETES_AT_ONCE: usize = 16;

#[derive(Default)]
struct Purged {
    deleted: u64,
    changed: u64,
    failed: u64,
}

pub(super) async fn run(args: PurgeArgs) -> Result<Ending, CommandError> {
    let PurgeArgs { filter, all, dry_run, common } = args;
    if filter.is_empty() != all {
        tell(match all {
            true => "--all is every letter: leave the other filters out",
            false => "say which letters with a filter, or --all for every one",
        });
        return Ok(Ending::Unusable);
    }
    let Some(opened) = Opened::new(&common.config, common.report)? else {
        return Ok(Ending::Unusable);
    };
    let mut purged = Purged::default();
    let mut scan = Scan::new(&opened, &filter);
    loop {
        let mut letters = Vec::new();
        let is_over = scan
            .run(|letter| {
                // Of a million that only would be deleted none is kept.
                if dry_run {
                    return Ok(Next::GoOn);
                }
                letters.push(letter);
                Ok(if letters.len() < LETTERS_AT_A_TIME { Next::GoOn } else { Next::Enough })
            })
            .await?;
        delete(&opened, letters, &mut purged).await;
        if is_over {
            break;
        }
    }
    let looked = scan.looked;
    match common.report {
        Some(ReportFormat::Json) => give(as_json(&json!({
            "store": opened.place,
            "matching": looked.matching,
            "deleted": purged.deleted,
            "changed": purged.changed,
            "failed": purged.failed,
            "unreadable": looked.unreadable,
            "dry_run": dry_run,
        }))?),
        None if looked.matching == 0 => {}
        None if dry_run => give(format_args!(
            "{} would be deleted from {}",
            counted(looked.matching, "letter"),
            opened.place
        )),
        None => give(format_args!(
            "{} deleted from {}",
            counted(purged.deleted, "letter"),
            opened.place
        )),
    }
    looked.tell(&opened.place);
    if purged.changed > 0 {
        let letters = counted(purged.changed, "letter");
        tell(format_args!("{letters} changed meanwhile and stay"));
    }
    let is_whole = purged.failed == 0 && looked.unreadable == 0;
    Ok(if is_whole { Ending::Done } else { Ending::SomeFailed })
}

async fn delete(opened: &Opened, letters: Vec<ListedFailure>, purged: &mut Purged) {
    let delete = |letter: ListedFailure| async move {
        let deleted = opened.store.delete(&letter.key, &letter.version).await;
        (letter, deleted)
    };
    let mut deletes = stream::iter(letters).map(delete).buffer_unordered(DELETES_AT_ONCE);
    while let Some((letter, deleted)) = deletes.next().await {
        match deleted {
            Ok(()) => purged.deleted += 1,
            Err(StoreError::Conflict) => purged.changed += 1,
            Err(StoreError::Failed(error)) => {
                purged.failed += 1;
                tell(format_args!("{} is not deleted: {}", letter.key.event, brief(&error)));
            }
        }
    }
}
