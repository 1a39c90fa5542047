//! `longshore transfer`: a list of URLs becomes files. A run after a crash fetches only what is missing.
//!
//! The list is the log: a thread reads it line by line, and the consumer does what is not done. What is
//! done is in the results of the state folder, beside the dead letters. So a run after a crash goes on, a
//! run after an edit does what is new, and a run after a finished one does nothing.

mod along;
mod dry_run;
mod files;
mod full_disk;
mod ledger;
mod letters;
mod line;
mod lines;
mod queue;
mod reader;
mod results;
mod state;
mod target;

use std::sync::Arc;

pub(super) use self::along::AlongArgs;
use self::files::Files;
pub(super) use self::files::To;
pub(super) use self::lines::WaitingTasks;
use self::lines::{Lines, Waiting};
use self::queue::{ListQueue, cannot_be_read};
use self::reader::{ListPlace, ListReader};
use self::state::{DEAD_LETTERS, State};
use self::target::Target;
use super::failing::{Failing, Stop};
use super::job::{Job, fault};
use super::progress::{Display, Standing};
use super::report::{Report, size};
use super::signals::Signals;
use super::terminal::{give, give_all, leave, tell};
use super::{CommandError, Ending, ReportFormat, TransferArgs, little_memory};
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::producer::EntityProducer;
use longshore::producer::results::{MAX_RESULT_BYTES, MAX_RESULTS};
use longshore::transfer::download::{DownloadWorker, FullDisk};
use longshore::transfer::progress::Progress;
use longshore::transfer::rates::Rates;
use longshore::transfer::url_policy::{PrivateAddresses, Schemes, UrlPolicy};

pub(super) async fn run(args: TransferArgs) -> Result<Ending, CommandError> {
    if args.dry_run {
        return dry_run(&args).await;
    }
    let format = args.report;
    let mut report = Report::default();
    let ended = transfer(args, &mut report).await;
    if let Err(CommandError(why)) = &ended {
        report.error = Some(why.clone());
    }
    let written = print(&report, format);
    match (ended, written) {
        (Ok(_), Err(why)) => Err(why),
        (ended, _) => ended,
    }
}

async fn dry_run(args: &TransferArgs) -> Result<Ending, CommandError> {
    let mut signals = Signals::listen()?;
    let place = ListPlace::of(&args.urls);
    let planned = async {
        let opened = place.clone();
        let opening = tokio::task::spawn_blocking(move || ListReader::open(&opened));
        let reader = opening.await.unwrap_or_else(|gone| Err(std::io::Error::other(gone)));
        let reader =
            reader.map_err(|error| CommandError::new(cannot_be_read(&place.name(), &error)))?;
        dry_run::run(args, place.clone(), reader, policy(args)).await
    };
    tokio::select! {
        ended = planned => ended,
        code = signals.next() => Ok(Ending::Stopped(code)),
    }
}

/// Does it, and fills in what there is to report, however it ends.
async fn transfer(args: TransferArgs, report: &mut Report) -> Result<Ending, CommandError> {
    let mut signals = Signals::listen()?;
    let stop = Stop::new();
    // The file with credentials may be on a disk that does not answer.
    let named = args.http.clone();
    let reading = tokio::task::spawn_blocking(move || named.options());
    let read = tokio::select! {
        read = reading => read.unwrap_or_else(|gone| Err(CommandError::new(gone.to_string()))),
        _code = signals.next() => {
            report.interrupted = true;
            return Ok(Ending::WorkLeft);
        }
    };
    let along = args.along.choice(&args.to);
    let (http, (along, copy)) = match read.and_then(|http| Ok((http, along?))) {
        Ok(both) => both,
        Err(CommandError(why)) => {
            tell(&why);
            report.error = Some(why);
            return Ok(Ending::Unusable);
        }
    };
    let place = ListPlace::of(&args.urls);
    // Nothing is created for a list that is not there. Who is to write it may take a while.
    let opened = place.clone();
    let opening = tokio::task::spawn_blocking(move || ListReader::open(&opened));
    let reader = tokio::select! {
        opened = opening => opened.unwrap_or_else(|gone| Err(std::io::Error::other(gone))),
        _code = signals.next() => {
            report.interrupted = true;
            return Ok(Ending::WorkLeft);
        }
    };
    let reader =
        reader.map_err(|error| CommandError::new(cannot_be_read(&place.name(), &error)))?;
    let connections = args.limits.connections.unwrap_or(args.pace.concurrency);
    let streams = connections.max(args.pace.concurrency);
    little_memory::on_transfer_budget(args.limits.transfer_budget.0);
    let files = Files::open(&args.to, streams, args.limits.transfer_budget.0)?;
    tokio::select! {
        checked = files.check() => checked?,
        _code = signals.next() => {
            report.interrupted = true;
            return Ok(Ending::WorkLeft);
        }
    }
    let opening = State::open(&args, &files, policy(&args), stop.clone());
    let State { folder, results, done, letters } = tokio::select! {
        opened = opening => opened?,
        _code = signals.next() => {
            report.interrupted = true;
            return Ok(Ending::WorkLeft);
        }
    };
    let kept = place.identity().into_iter().chain(args.http.credentials.clone());
    let (results, target) = (Arc::new(results), Target::new(files.clone(), kept));
    let stamp = reader.stamp();
    let queue = ListQueue::start(reader, place.clone(), done, target.clone(), letters.clone())?;
    let producer = Arc::new(EntityProducer::new(results.clone()).with_attempts(1));
    let mut limits = args.http.limits();
    limits.connections = connections;
    limits.block_bytes = args.limits.block_bytes.0;
    let download = DownloadWorker::new(Arc::new(target), producer, policy(&args), limits)?
        .with_http(http)
        .with_connections_per_host(args.limits.connections_per_host)
        .with_result_room(MAX_RESULTS.max(args.pace.concurrency), MAX_RESULT_BYTES)
        .with_rates(Arc::new(Rates::new(args.limits.rates())?))
        .with_existing(args.existing.into())
        .with_full_disk(FullDisk::PassOver)
        .with_along(along)
        .with_copy(copy);
    let (progress, waiting) = (download.progress(), Arc::new(Waiting::default()));
    let job = Job::start(
        Arc::new(queue.clone()),
        Lines::new(download, letters.clone(), waiting.clone()),
        Arc::clone(&progress),
        Arc::new(MemoryCheckpointStore::new()),
        Arc::new(Failing::new(
            lines::Ending { letters: letters.clone(), waiting: Arc::clone(&waiting) },
            stop.clone(),
        )),
        &args.pace,
        // Also without a limit: a host that is slow, or asks to be left alone, holds up no other.
        Some(DownloadWorker::lane_rule(args.limits.connections_per_host)),
    )?;
    let mut display = Display::new("");
    let standing = || standing(&job, &queue, &progress, &waiting);
    let supervised = supervise(&job, &queue, &stop, &mut signals);
    let ended = display.during(supervised, standing).await?;
    let elapsed = job.elapsed();
    display.end(&standing(), elapsed);
    let list = queue.listed();
    if let Some(code) = ended.at_once {
        leave();
        *report = job.report_now(elapsed);
        report.skipped = list.complete + progress.skipped() + progress.verified();
        report.interrupted = true;
        return Ok(Ending::Stopped(code));
    }
    let (counted, why) = match ended.stopped {
        Some(reason) => (job.give_up(elapsed).await, Some(reason)),
        None => {
            let (counted, exit) = job.finish(elapsed).await;
            (counted, fault(&exit))
        }
    };
    *report = counted;
    report.skipped = list.complete + progress.skipped() + progress.verified();
    report.interrupted = ended.interrupted;
    files.close().await;
    drop(display);
    if report.failed > 0 {
        tell(format_args!(
            "{} tasks failed; their records are in {}. Mend what is wrong and run the command \
             again: it tries them again",
            report.failed,
            folder.join(DEAD_LETTERS).display()
        ));
    }
    let why = why.or_else(|| results.check().err().map(|CommandError(why)| why));
    if let Some(reason) = why {
        return Err(CommandError::new(format!(
            "stopped: {reason}. What is complete is kept; mend this and run the command again"
        )));
    }
    match ended.is_all_settled {
        true => {
            let found = progress.skipped() + progress.verified();
            if let Some(why) = unanswered(list.tasks, report, found) {
                return Err(CommandError::new(why));
            }
            if stamp.has_changed() {
                tell(format_args!(
                    "the list {} was written to while its files moved; run the command again for \
                     what was added or changed",
                    place.name()
                ));
                return Ok(Ending::WorkLeft);
            }
            if let Some(list) = place.identity() {
                letters.on_list_ended(&list.display().to_string());
            }
            Ok(if report.failed > 0 { Ending::SomeFailed } else { Ending::Done })
        }
        false => Ok(Ending::WorkLeft),
    }
}

/// Why a list that was read to its end is not done all the same: each of its tasks became a file or a
/// dead letter, or its file was found.
fn unanswered(asked: u64, report: &Report, found: u64) -> Option<String> {
    let answered = report.files + report.failed + found;
    (answered < asked).then(|| {
        format!(
            "of {asked} tasks {} came to nothing, which is a fault of this program; run the command \
             again: it tries them again",
            asked - answered
        )
    })
}

fn standing(job: &Job, queue: &ListQueue, progress: &Progress, waiting: &Waiting) -> Standing {
    let listed = queue.listed();
    let found = progress.skipped() + progress.verified();
    job.standing(Standing {
        total_files: listed.tasks.saturating_sub(found),
        total_bytes: listed.bytes.filter(|_| listed.end.is_some() && found == 0),
        is_total_known: listed.end.is_some(),
        waiting: waiting.now(),
        large: progress.large_files(),
        ..Standing::default()
    })
}

fn policy(args: &TransferArgs) -> UrlPolicy {
    let private =
        if args.allow_private { PrivateAddresses::Allow } else { PrivateAddresses::Refuse };
    let schemes = if args.allow_http { Schemes::HttpAndHttps } else { Schemes::HttpsOnly };
    UrlPolicy::new().with_private_addresses(private).with_schemes(schemes)
}

/// # Errors
/// If JSON was asked for and could not be written.
fn print(report: &Report, format: Option<ReportFormat>) -> Result<(), CommandError> {
    if format == Some(ReportFormat::Json) {
        let json = crate::terminal::as_json(report)?;
        return give_all(&(json + "\n")).map_err(|error| {
            CommandError::new(format!("the report could not be written: {error}"))
        });
    }
    if report.error.is_none() || report.files > 0 {
        give(format_args!(
            "{} files, {} in {:.2} s ({}/s); {} complete before, {} failed{}",
            report.files,
            size(report.bytes),
            report.seconds,
            size(report.bytes_per_second() as u64),
            report.skipped,
            report.failed,
            if report.interrupted { "; interrupted, work is left" } else { "" }
        ));
    }
    Ok(())
}

/// How the waiting ended.
#[derive(Default)]
struct Ended {
    interrupted: bool,
    /// By a second signal, with this exit code.
    at_once: Option<u8>,
    stopped: Option<String>,
    /// All of the list is settled.
    is_all_settled: bool,
}

/// Waits until all is settled, the consumer ends by itself, the environment fails, or a signal
/// comes. A second signal is not waited for anything.
async fn supervise(
    job: &Job,
    queue: &ListQueue,
    stop: &Stop,
    signals: &mut Signals,
) -> Result<Ended, CommandError> {
    let settled = async {
        queue.ended().await?;
        job.until_settled_to(&[("0".into(), queue.last())]).await;
        Ok::<_, String>(())
    };
    tokio::select! {
        settled = settled => {
            return Ok(match settled {
                Ok(()) => Ended { is_all_settled: true, ..Ended::default() },
                Err(why) => Ended { stopped: Some(why), ..Ended::default() },
            });
        }
        reason = stop.reason() => {
            return Ok(Ended { stopped: Some(reason), ..Ended::default() });
        }
        _code = signals.next() => {}
        () = job.ended() => return Ok(Ended::default()),
    }
    let in_flight = job.in_flight();
    tell(format_args!("finishing {in_flight} files in flight; Ctrl-C again stops at once"));
    job.handle().drain();
    let interrupted = Ended { interrupted: true, ..Ended::default() };
    Ok(tokio::select! {
        () = job.ended() => interrupted,
        reason = stop.reason() => Ended { stopped: Some(reason), ..interrupted },
        code = signals.next() => Ended { at_once: Some(code), ..interrupted },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_and_is_not_accounted_for_is_said() {
        let report = Report { files: 3, failed: 2, ..Report::default() };
        assert_eq!(unanswered(6, &report, 1), None);
        assert_eq!(unanswered(5, &report, 1), None, "a file may be fetched twice");
        let said = unanswered(9, &report, 1).expect("three are missing");
        assert!(said.starts_with("of 9 tasks 3 came to nothing"), "{said}");
    }
}
