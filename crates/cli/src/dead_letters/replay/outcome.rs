//! What a job came to, for people and for scripts.

use serde_json::{Value, json};

use super::super::table::short;
use super::freeze::Refused;
use super::is_json;
use crate::table::{Side, counted, draw};
use crate::terminal::{as_json, give, result_columns, tell as say};
use crate::{CommandError, Ending, ReportFormat, brief};
use longshore::Error;
use longshore::failure_store::EventIdentity;
use longshore::replay::{Counts, End, Ended, Fate, Job, Note};

/// Most letters that a person is shown; `list --job` shows all that failed again.
const MAX_ROWS: usize = 50;

type Row<'a> = (EventIdentity, Option<&'a Note>);

/// Gives the report, or the sentence and the lists of what is not done.
pub(super) fn tell(
    job: &Job,
    ended: &Result<Ended, Error>,
    counts: Counts,
    refused: &Refused,
    report: Option<ReportFormat>,
) -> Result<(), CommandError> {
    let lists = [Fate::FailedAgain, Fate::Skipped, Fate::InDoubt, Fate::Dropped]
        .map(|fate| job.letters_of(fate).collect::<Vec<Row<'_>>>());
    let [failed, skipped, in_doubt, dropped] = &lists;
    if is_json(report) {
        let plan = job.plan();
        give(as_json(&json!({
            "store": plan.store,
            "job": job.to_string(),
            "folder": job.folder().display().to_string(),
            "to": plan.to.as_ref().map(|to| to.as_str()),
            "ended": word(ended),
            "error": ended.as_ref().err().map(brief),
            "letters": counts.letters,
            "done": counts.done,
            "failed_again": counts.failed_again,
            "skipped": counts.skipped,
            "dropped": counts.dropped,
            "in_doubt": counts.in_doubt,
            "out": counts.out,
            "waiting": counts.waiting,
            "refused": refused.as_value(),
            "failed": values(failed),
            "left_out": values(skipped),
            "doubtful": values(in_doubt),
            "taken_away": values(dropped),
            "dry_run": false,
        }))?);
        return Ok(());
    }
    give(sentence(job, counts));
    for (title, rows) in [
        ("failed again", failed),
        ("cannot be replayed by this job", skipped),
        (
            "perhaps published, perhaps not: look into the hub before you replay them again",
            in_doubt,
        ),
        ("taken away while they were with the workers", dropped),
    ] {
        if !rows.is_empty() {
            give(format_args!("\n{title}\n\n{}", table(rows)));
        }
        if rows.len() > MAX_ROWS {
            let more = counted((rows.len() - MAX_ROWS) as u64, "letter");
            say(format_args!("{more} more: --resume {job} --report json lists all of them"));
        }
    }
    Ok(())
}

fn word(ended: &Result<Ended, Error>) -> &'static str {
    match ended {
        Ok(Ended::Over(End::Finished)) => "finished",
        Ok(Ended::Over(End::Canary)) => "stopped by the canary",
        Ok(Ended::Over(_)) => "stopped by the share",
        Ok(Ended::HandedOut) => "handed out",
        Ok(Ended::Interrupted) => "interrupted",
        Err(_) => "failed",
    }
}

fn values(rows: &[Row<'_>]) -> Vec<Value> {
    let value = |(event, note): &Row<'_>| {
        json!({
            "id": event.to_string(),
            "class": note.and_then(|note| note.class).map(|class| class.as_str()),
            "reason": note.map(|note| note.why.as_str()),
        })
    };
    rows.iter().map(value).collect()
}

fn sentence(job: &Job, counts: Counts) -> String {
    let Counts { letters, done, .. } = counts;
    let mut text = format!("job {job}: {done} of {} done", counted(letters as u64, "letter"));
    for (count, what) in [
        (counts.failed_again, "failed again"),
        (counts.skipped, "could not be replayed"),
        (counts.in_doubt, "perhaps published"),
        (counts.dropped, "taken away"),
        (counts.out, "with the workers"),
        (counts.waiting, "not handed out"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

fn table(rows: &[Row<'_>]) -> String {
    let titles = [("event", Side::Left), ("class", Side::Left), ("reason", Side::Left)];
    let row = |(event, note): &Row<'_>| {
        let class = note.and_then(|note| note.class);
        [
            short(event),
            class.map_or("-", |class| class.as_str()).to_owned(),
            note.map(|note| note.why.clone()).unwrap_or_default(),
        ]
    };
    draw(titles, &rows.iter().take(MAX_ROWS).map(row).collect::<Vec<_>>(), result_columns())
}

/// Says how far a job is that would be gone on with.
pub(super) fn dry(job: &Job, report: Option<ReportFormat>) -> Result<Ending, CommandError> {
    let mut counts = job.counts();
    let without_result = std::mem::take(&mut counts.waiting);
    let plan = job.plan();
    if is_json(report) {
        give(as_json(&json!({
            "store": plan.store,
            "job": job.to_string(),
            "folder": job.folder().display().to_string(),
            "to": plan.to.as_ref().map(|to| to.as_str()),
            "letters": counts.letters,
            "done": counts.done,
            "failed_again": counts.failed_again,
            "skipped": counts.skipped,
            "dropped": counts.dropped,
            "in_doubt": counts.in_doubt,
            "without_result": without_result,
            "is_over": job.end().is_some(),
            "dry_run": true,
        }))?);
        return Ok(Ending::Done);
    }
    let next = match (job.end(), without_result) {
        (Some(_), _) => "it is over, and nothing would be handed out".to_owned(),
        (None, 0) => "no letter is left to be handed out".to_owned(),
        (None, left) => format!(
            "{} without a result would be handed out, but for those that the workers have",
            counted(left as u64, "letter")
        ),
    };
    give(format_args!("{}; {next}", sentence(job, counts)));
    Ok(Ending::Done)
}

/// How the command ends, and why nothing more is handed out.
pub(super) fn ending(
    job: &Job,
    ended: Result<Ended, Error>,
    counts: Counts,
    refused: &Refused,
) -> Result<Ending, CommandError> {
    let resume = format!("longshore dead-letters replay --resume {job}");
    let is_whole = counts.done + counts.out == counts.letters && refused.letters() == 0;
    let ending = if is_whole { Ending::Done } else { Ending::SomeFailed };
    match ended {
        Err(error) => Err(CommandError::new(format!("{}; go on with it: {resume}", brief(&error)))),
        Ok(Ended::Interrupted) => {
            say(format_args!("go on with it: {resume}"));
            Ok(Ending::WorkLeft)
        }
        Ok(Ended::HandedOut) => {
            say(format_args!("see what became of them: {resume}"));
            Ok(ending)
        }
        Ok(Ended::Over(End::Finished)) => Ok(ending),
        Ok(Ended::Over(end)) => {
            let why = match end {
                End::Canary => "a letter of the canary failed again",
                _ => "too large a share failed again",
            };
            say(format_args!(
                "the job stopped: {why}. What was not handed out is as it was; mend the cause, and make another job"
            ));
            Ok(Ending::SomeFailed)
        }
    }
}
