//! `--release`: gives up on a job that nobody goes on with, so that other jobs can have its letters.

use serde_json::json;

use super::super::filter::FilterArgs;
use super::super::letters::{self, Next};
use super::super::opened::Opened;
use super::is_json;
use crate::table::counted;
use crate::terminal::{as_json, give, tell};
use crate::{CommandError, Ending, ReportFormat, brief};
use longshore::failure_store::FailureKind;
use longshore::replay::release;

pub(super) async fn run(
    opened: &Opened,
    job: &str,
    dry_run: bool,
    report: Option<ReportFormat>,
) -> Result<Ending, CommandError> {
    let filter = FilterArgs::default();
    let mut marked = Vec::new();
    letters::each(opened, &filter, FailureKind::Dead, |letter| {
        if letter.meta.replaying() == Some(job) {
            marked.push(letter.key.event);
        }
        Ok(Next::GoOn)
    })
    .await?;
    let failed = |error: longshore::Error| CommandError::new(brief(&error));
    let (mut released, mut out, mut unreadable) = (0_u64, 0_u64, 0_u64);
    for event in marked {
        let parked = event.clone().key(FailureKind::Parked);
        if opened.store.read(&parked).await.map_err(failed)?.is_some() {
            out += 1;
            continue;
        }
        if dry_run {
            released += 1;
            continue;
        }
        match release(&*opened.store, &event, job).await {
            Ok(is_released) => released += u64::from(is_released),
            Err(error) if error.class() == longshore::ErrorClass::BadData => {
                unreadable += 1;
                tell(brief(&error));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    if is_json(report) {
        give(as_json(&json!({
            "store": opened.place,
            "job": job,
            "released": released,
            "out": out,
            "unreadable": unreadable,
            "dry_run": dry_run,
        }))?);
    } else {
        let can = if dry_run { "could" } else { "can" };
        give(format_args!("{} of job {job} {can} be replayed again", counted(released, "letter")));
    }
    if out > 0 {
        tell(format_args!(
            "{} still with the workers: `longshore parked drop --job {job}` takes them away",
            counted(out, "letter") + if out == 1 { " is" } else { " are" }
        ));
    }
    Ok(if unreadable == 0 { Ending::Done } else { Ending::SomeFailed })
}
