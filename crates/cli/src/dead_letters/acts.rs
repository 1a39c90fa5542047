//! Does something to all letters that are meant, or to all that is parked, some thousand at a time.

use futures::StreamExt as _;
use futures::stream;
use serde_json::json;

use super::filter::FilterArgs;
use super::letters::{Looked, Next, Scan, noun};
use super::opened::Opened;
use crate::table::counted;
use crate::terminal::{as_json, give, tell};
use crate::{CommandError, Ending, ReportFormat};
use longshore::failure_store::{FailureKind, ListedFailure};

/// Entries that are kept at a time, between a listing and what is done to them.
const ENTRIES_AT_A_TIME: usize = 5_000;

/// So many are under way at once.
const AT_ONCE: usize = 16;

/// What came of one.
pub(crate) enum Acted {
    Done,
    /// It is not any more what was listed.
    Changed,
    /// Why not, in words.
    Failed(String),
}

/// What is done, in words.
#[derive(Clone, Copy)]
pub(crate) struct Deed {
    /// The name of the figure in a report.
    pub(crate) figure: &'static str,
    /// As in "3 letters deleted from" a place.
    pub(crate) words: &'static str,
}

/// What came of all.
#[derive(Default)]
pub(crate) struct Acts {
    done: u64,
    changed: u64,
    failed: u64,
    looked: Looked,
}

/// Does it to each; to none where it is tried dry.
pub(crate) async fn each<F: Future<Output = Acted>>(
    opened: &Opened,
    filter: &FilterArgs,
    kind: FailureKind,
    dry_run: bool,
    act: impl Fn(ListedFailure) -> F,
) -> Result<Acts, CommandError> {
    let mut acts = Acts::default();
    let mut scan = Scan::new(opened, filter, kind);
    loop {
        let mut entries = Vec::new();
        let is_over = scan
            .run(|entry| {
                // Of a million that only would be changed none is kept.
                if dry_run {
                    return Ok(Next::GoOn);
                }
                entries.push(entry);
                Ok(if entries.len() < ENTRIES_AT_A_TIME { Next::GoOn } else { Next::Enough })
            })
            .await?;
        let with_key = |entry: ListedFailure| {
            let event = entry.key.event.clone();
            let acting = act(entry);
            async move { (event, acting.await) }
        };
        let mut under_way = stream::iter(entries).map(with_key).buffer_unordered(AT_ONCE);
        while let Some((event, acted)) = under_way.next().await {
            match acted {
                Acted::Done => acts.done += 1,
                Acted::Changed => acts.changed += 1,
                Acted::Failed(why) => {
                    acts.failed += 1;
                    tell(format_args!("{event} is as it was: {why}"));
                }
            }
        }
        drop(under_way);
        if is_over {
            acts.looked = scan.looked;
            return Ok(acts);
        }
    }
}

impl Acts {
    /// Gives what came of it.
    pub(crate) fn give(
        self,
        opened: &Opened,
        kind: FailureKind,
        deed: Deed,
        dry_run: bool,
        report: Option<ReportFormat>,
    ) -> Result<Ending, CommandError> {
        let Self { done, changed, failed, looked } = self;
        let Deed { figure, words } = deed;
        let (one, place) = (noun(kind), &opened.place);
        match report {
            Some(ReportFormat::Json) => give(as_json(&json!({
                "store": place,
                "matching": looked.matching,
                figure: done,
                "changed": changed,
                "failed": failed,
                "unreadable": looked.unreadable,
                "dry_run": dry_run,
            }))?),
            None if looked.matching == 0 => {}
            None if dry_run => {
                give(format_args!("{} would be {words} {place}", counted(looked.matching, one)))
            }
            None => give(format_args!("{} {words} {place}", counted(done, one))),
        }
        looked.tell(place, kind);
        if changed > 0 {
            tell(format_args!("{} changed meanwhile and stay", counted(changed, one)));
        }
        let is_whole = failed == 0 && looked.unreadable == 0;
        Ok(if is_whole { Ending::Done } else { Ending::SomeFailed })
    }
}
