//! `longshore transfer`: a list of URLs becomes files, each once, whatever happens in between.
//!
//! The state is a hub of tasks, a hub of results, the consumer's checkpoints, and the dead
//! letters, all in one folder. A run compares the list with it and publishes what is neither
//! complete nor waiting; then the consumer does what is waiting. So a run after a crash goes
//! on, a run after an edit does what is new, and a run after a finished one does nothing.

mod lines;
mod state;

use std::collections::HashSet;
use std::sync::Arc;

use self::lines::{Announcing, Lines};
use self::state::{Plan, State};
use super::failing::{Failing, FailingPublisher, Stop};
use super::job::{Job, RESULTS, SEND_ATTEMPTS, fault, worker};
use super::progress::{Display, Standing};
use super::report::{Report, size};
use super::signals::Signals;
use super::terminal::{give, leave, tell};
use super::urls::{self, Line};
use super::{CommandError, Ending, ReportFormat, TransferArgs};
use longshore::blob_store::folder::FolderBlobStore;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::rates::Rates;
use longshore::transfer::url_policy::{PrivateAddresses, Schemes, UrlPolicy};

/// Where the dead letters are in the state folder.
const DEAD_LETTERS: &str = "dead-letters";

pub(super) async fn run(args: TransferArgs) -> Result<Ending, CommandError> {
    let mut signals = Signals::listen()?;
    let mut display = Display::new("");
    display.prepare("comparing the list with what is done…");
    let Prepared { store, state, lines, plan } = tokio::select! {
        prepared = Prepared::new(&args) => prepared?,
        // Nothing is under way yet.
        _code = signals.next() => {
            print(&Report { interrupted: true, ..Report::default() }, args.report);
            return Ok(Ending::Done);
        }
    };
    let stop = Stop::new();
    let State { folder, broker, checkpoints, letters } = state;
    let wanted: HashSet<String> = lines.into_iter().map(|line| line.key).collect();
    let complete = plan.complete;
    let already = complete.len() as u64;
    let begin =
        Standing { total_files: plan.files, total_bytes: plan.bytes, ..Standing::default() };
    let results = FailingPublisher::new(
        broker.publisher(RESULTS),
        stop.clone(),
        format!("the state folder {} cannot take the results", folder.display()),
        SEND_ATTEMPTS,
    );
    let rates = Arc::new(Rates::new(args.limits.rates())?);
    let download = worker(results, store.clone(), policy(&args))?.with_rates(rates).skip_if(
        move |event, _| {
            let key = event.message_id().unwrap_or_default();
            if complete.contains(&*key) {
                Some("its file is complete".to_owned())
            } else if !wanted.contains(&*key) {
                Some("it is not on the list any more".to_owned())
            } else {
                None
            }
        },
    );
    let progress = download.progress();
    let announcing = Announcing { letters, policy: policy(&args) };
    let job = Job::start(
        &broker,
        Lines::new(download),
        Arc::clone(&progress),
        Arc::new(Failing::new(checkpoints, stop.clone())),
        Arc::new(Failing::new(announcing, stop.clone())),
        &args.pace,
        // Also without a limit: a host that is slow, or asks to be left alone, holds up no other.
        Some(DownloadWorker::lane_rule(args.limits.connections_per_host)),
    )?;
    let supervised = supervise(&job, &stop, &mut signals);
    let ended = display.during(supervised, || job.standing(begin)).await?;
    let elapsed = job.elapsed();
    display.end(&job.standing(begin), elapsed);
    let (mut report, fault) = match ended.stopped {
        Some(reason) => (job.give_up(elapsed).await, Some(reason)),
        None => {
            let (report, exit) = job.finish(elapsed).await;
            (report, fault(&exit))
        }
    };
    report.skipped = already + progress.skipped().saturating_sub(plan.waiting_complete);
    report.interrupted = ended.interrupted;
    store.close().await;
    broker.shutdown().await?;
    drop(display);
    print(&report, args.report);
    if report.failed > 0 {
        tell(format_args!(
            "{} tasks failed; their records are in {}. Mend what is wrong and run the command \
             again: it tries them again",
            report.failed,
            folder.join(DEAD_LETTERS).display()
        ));
    }
    if let Some(reason) = fault {
        return Err(CommandError::new(format!(
            "stopped: {reason}. What is complete is kept; mend this and run the command again"
        )));
    }
    Ok(if report.failed > 0 { Ending::SomeFailed } else { Ending::Done })
}

/// What a run has before its consumer starts.
struct Prepared {
    store: Arc<FolderBlobStore>,
    state: State,
    lines: Vec<Line>,
    plan: Plan,
}

impl Prepared {
    /// Reads the list and the state, and publishes what is missing.
    async fn new(args: &TransferArgs) -> Result<Self, CommandError> {
        let lines = urls::read(&args.urls)?;
        let store = Arc::new(FolderBlobStore::open(&args.to)?);
        let state = State::open(args, store.root()).await?;
        let plan = state.plan(&lines, &*store).await?;
        if !plan.missing.is_empty() {
            let list = args.urls.display().to_string();
            let tasks = plan.missing.iter().map(|line| line.event(&list)).collect();
            // Without its sources: they say the same in the words of the protocol.
            state.broker.publish(tasks).await.map_err(|error| {
                let folder = state.folder.display();
                CommandError::new(format!(
                    "the state folder {folder} cannot take the tasks: {error}"
                ))
            })?;
        }
        Ok(Self { store, state, lines, plan })
    }
}

fn policy(args: &TransferArgs) -> UrlPolicy {
    let private =
        if args.allow_private { PrivateAddresses::Allow } else { PrivateAddresses::Refuse };
    let schemes = if args.allow_http { Schemes::HttpAndHttps } else { Schemes::HttpsOnly };
    UrlPolicy::new().with_private_addresses(private).with_schemes(schemes)
}

fn print(report: &Report, format: Option<ReportFormat>) {
    if format == Some(ReportFormat::Json) {
        match serde_json::to_string(report) {
            Ok(json) => give(json),
            Err(error) => tell(format_args!("the report cannot be written: {error}")),
        }
        return;
    }
    give(format_args!(
        "{} files, {} in {:.2} s ({}/s); {} complete before, {} failed{}",
        report.files,
        size(report.bytes),
        report.seconds,
        size(report.bytes_per_second() as u64),
        report.skipped,
        report.failed,
        if report.interrupted { "; interrupted" } else { "" }
    ));
}

/// How the waiting ended.
#[derive(Default)]
struct Ended {
    interrupted: bool,
    stopped: Option<String>,
}

/// Waits until all is settled, the consumer ends by itself, the environment fails, or a signal
/// comes; a second signal ends the process.
async fn supervise(job: &Job, stop: &Stop, signals: &mut Signals) -> Result<Ended, CommandError> {
    tokio::select! {
        settled = job.until_settled() => {
            settled?;
            return Ok(Ended::default());
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
        code = signals.next() => {
            leave();
            std::process::exit(code.into())
        }
    })
}
