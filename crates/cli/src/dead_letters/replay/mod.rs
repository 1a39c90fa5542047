//! `replay`: hands letters out again, as a job.
//!
//! ```text
//!  filter, ids ──> freeze ──┐
//!  a file ──> edited ───────┼─> job ──> drive: signals, progress ──> outcome: text, JSON
//!  --resume ────────────────┘    ^
//!  hubs: may they be handed out? ┘
//! ```
//!
//! What a job is, and why none is handed out twice, is in `longshore::replay`.

mod drive;
mod edited;
mod freeze;
mod hubs;
mod outcome;
mod release;

use std::path::{Path, PathBuf};

use clap::Args;

use super::CommonArgs;
use super::filter::FilterArgs;
use super::opened::Opened;
use crate::terminal::tell;
use crate::{CommandError, Ending, ReportFormat, brief};
use longshore::replay::{Job, JobError, Limits, Wait};
use longshore::settings::value::requests_per_second;
use longshore::settings::{FailurePlace, Settings};

/// The folder of jobs.
const JOBS: &str = "replays";

/// Where it is for letters that are in a container.
const JOBS_HERE: &str = "longshore-state/replays";

/// Most letters that are with the workers at once where a share stops the job: what is out already would be
/// handled all the same.
const AT_ONCE_WITH_SHARE: usize = 1_000;

/// Jobs that are named where the one that is asked for is not there.
const MAX_JOBS: usize = 5;

const EXIT_CODES: &str = "\
Exit codes:
  0    all letters are done, or handed out with --no-wait, or no letter matches
  1    the store, the hub or the job cannot be used; go on with --resume
  2    the command line or the settings cannot be used
  3    some letters are not done: they failed again, cannot be replayed, or the
       job stopped before them
  4    a Ctrl-C stopped it: go on with --resume
  130  a second Ctrl-C stopped it at once: go on with --resume";

/// Hands letters out again, to the consumer group in which they failed or to another hub.
///
/// Fix the cause first. Then name the letters with filters, or all of them with --all. Try a few first
/// (--canary 10), and watch the rest (--stop-at 10%).
///
/// Without --to, each letter is parked, and the worker that owns its partition handles it within half a
/// minute. No other consumer group sees it, and no right to send is needed. A letter that is done is deleted
/// from the store. A letter that fails again stays, with its new reason. With --to, letters are published to
/// another hub, and deleted when that hub has them. Every consumer group of that hub gets them.
///
/// A replay is a job with a file of its own. You can stop it with Ctrl-C, or kill it: --resume goes on, and
/// hands out no letter twice. If two replays name the same letter, one of them hands it out. A letter that is
/// written after the job was made is not part of it.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct ReplayArgs {
    /// Goes on with this job. Its file holds all that it needs
    #[arg(long, value_name = "JOB")]
    resume: Option<String>,
    /// Ends this job for good, also one of another machine. Its letters that no worker has taken become free
    /// for other jobs
    #[arg(long, value_name = "JOB", conflicts_with = "resume")]
    release: Option<String>,
    /// Waits until every letter has its result, and shows progress. This is the default
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Ends as soon as all letters are handed out. --resume waits for the results later
    #[arg(long, conflicts_with_all = ["canary", "stop_at", "at_once"])]
    no_wait: bool,
    /// Shows what would be replayed or released, and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// Does not check whether a hub was deleted and created again, for example because it cannot be reached.
    /// No worker takes letters of a hub that is gone, so they stay in the store
    #[arg(long)]
    offline: bool,
    /// The folder that keeps jobs. Default: replays beside the folder of the letters, or
    /// longshore-state/replays if the letters are in a container
    #[arg(long, value_name = "DIR")]
    jobs: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Replays every letter of the store. Without filters only
    #[arg(long)]
    all: bool,
    /// Replays the records of this file instead of the stored letters. Make the file with `export`, then
    /// edit it. It decides body, key, properties and annotations. The stored letters do not change until
    /// their replay is done. Without filters only
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// What a job is made with.
#[derive(Args, Debug)]
#[command(next_help_heading = "How")]
struct HowArgs {
    /// Publishes to this hub: a topic of the settings, or a hub in the namespace of
    /// EVENTHUB_CONNECTION_STRING. The order of the letters is not kept
    #[arg(long, value_name = "HUB")]
    to: Option<String>,
    /// Hands out this many letters first. If one of them fails again, the job stops. If all are done, the
    /// others follow. Default: no canary
    #[arg(long, value_name = "N")]
    canary: Option<usize>,
    /// Stops the job when more than this share failed again, such as 10% or 0.1. It is checked from 20
    /// results on. Default: the job goes on whatever fails
    #[arg(long, value_name = "SHARE", value_parser = share)]
    stop_at: Option<f64>,
    /// The most letters to hand out a second, such as 500 or 0.5. Default: no limit
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// The most letters that are handed out and have no result yet. Default: 1000 with --stop-at, otherwise
    /// no limit
    #[arg(long, value_name = "N", value_parser = crate::count(1_000_000))]
    at_once: Option<usize>,
}

impl ReplayArgs {
    /// What is wrong with the command line.
    fn fault(&self) -> Option<&'static str> {
        let Self { filter, all, from, resume, release, .. } = self;
        let is_filtered = *all || !filter.is_empty();
        let HowArgs { to, canary, stop_at, rate, at_once } = &self.how;
        let is_limited =
            canary.is_some() || stop_at.is_some() || rate.is_some() || at_once.is_some();
        if resume.is_some() || release.is_some() {
            let is_more = is_filtered || from.is_some() || to.is_some() || is_limited;
            return is_more.then_some(
                "a job has its letters and its limits: say nothing but its name, and --dry-run",
            );
        }
        if from.is_some() {
            return is_filtered
                .then_some("--from says which letters: leave --all and the filters out");
        }
        filter.fault(*all)
    }

    fn limits(&self) -> Limits {
        let HowArgs { canary, stop_at, rate, at_once, .. } = self.how;
        let most = match stop_at {
            Some(_) => AT_ONCE_WITH_SHARE,
            None => usize::MAX,
        };
        let mut limits = Limits::default();
        limits.canary = canary.unwrap_or(0);
        limits.stop_at = stop_at;
        limits.per_second = rate;
        limits.at_once = at_once.unwrap_or(most);
        limits
    }
}

/// A job, or how the command ends without one.
enum Made {
    Job(Box<Job>, freeze::Refused),
    Nothing(Ending),
}

pub(super) async fn run(args: ReplayArgs) -> Result<Ending, CommandError> {
    if let Some(fault) = args.fault() {
        tell(fault);
        return Ok(Ending::Unusable);
    }
    let report = args.common.report;
    let Some((opened, settings)) = Opened::with_settings(&args.common.config, report)? else {
        return Ok(Ending::Unusable);
    };
    // What is in a vault is needed for hubs alone.
    let settings = match args.offline && args.how.to.is_none() {
        true => settings,
        false => settings.fetched().await?,
    };
    let jobs = args.jobs.clone().unwrap_or_else(|| jobs_of(&settings));
    let jobs = std::path::absolute(&jobs).unwrap_or(jobs);
    if let Some(job) = &args.release {
        return release::run(&opened, job, args.dry_run, report).await;
    }
    if let Some(job) = args.resume.as_ref().filter(|_| args.dry_run) {
        return outcome::dry(&resumed(&opened, &jobs, job)?, report);
    }
    let made = match (&args.resume, &args.from) {
        (Some(job), _) => {
            Made::Job(resumed(&opened, &jobs, job)?.into(), freeze::Refused::default())
        }
        (None, Some(from)) => edited::make(&args, from, &opened, &settings, &jobs).await?,
        (None, None) => freeze::make(&args, &opened, &settings, &jobs).await?,
    };
    match made {
        Made::Nothing(ending) => Ok(ending),
        Made::Job(job, refused) => {
            let wait = if args.no_wait { Wait::No } else { Wait::ForResults };
            drive::run(*job, &refused, &opened, &settings, wait, report).await
        }
    }
}

fn jobs_of(settings: &Settings) -> PathBuf {
    match settings.failure_place() {
        FailurePlace::Folder(path) => path.with_file_name(JOBS),
        _ => JOBS_HERE.into(),
    }
}

fn resumed(opened: &Opened, jobs: &Path, name: &str) -> Result<Job, CommandError> {
    let job = Job::open(jobs, name).map_err(|error| match error {
        JobError::Failed(error) => {
            CommandError::new(format!("the job {name} cannot be gone on with: {}", brief(&error)))
        }
        _ => CommandError::new(format!(
            "there is no job {name} in {}{}; --jobs names another folder of jobs",
            jobs.display(),
            latest(jobs)
        )),
    })?;
    let of = &job.plan().store;
    if *of != opened.place {
        return Err(CommandError::new(format!(
            "the job {name} is of letters in {of}, and the settings name {}",
            opened.place
        )));
    }
    Ok(job)
}

/// The latest jobs, for who has no name at hand.
fn latest(jobs: &Path) -> String {
    let entries = std::fs::read_dir(jobs).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let modified = entry.metadata().ok()?.modified().ok()?;
            Some((modified, entry.file_name().to_string_lossy().into_owned()))
        })
        .collect();
    found.sort_by(|one, other| other.cmp(one));
    match found.into_iter().take(MAX_JOBS).map(|(_, name)| name).collect::<Vec<_>>() {
        names if names.is_empty() => String::new(),
        names => format!(", and the latest there are {}", names.join(", ")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let (number, of) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let share = number.trim().parse::<f64>().ok().map(|number| number / of);
    share
        .filter(|share| (0.0..1.0).contains(share))
        .ok_or_else(|| "it must be a share such as 10% or 0.1, and less than all".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = requests_per_second(text.strip_suffix("/s").unwrap_or(text)).ok();
    rate.filter(|rate| rate.burst.is_none())
        .map(|rate| rate.per_second)
        .ok_or_else(|| "it must be a number of letters a second, such as 500 or 0.5".to_owned())
}

/// Whether a report goes to stdout.
fn is_json(report: Option<ReportFormat>) -> bool {
    report == Some(ReportFormat::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_rates_are_read_as_people_write_them() {
        assert_eq!([share("10%"), share("0.1"), share("0")], [Ok(0.1), Ok(0.1), Ok(0.0)]);
        for wrong in ["", "%", "100%", "1", "-1%", "half", "NaN"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        assert_eq!([rate("500"), rate("500/s"), rate("0.5")], [Ok(500.0), Ok(500.0), Ok(0.5)]);
        for wrong in ["", "0", "-1", "5+1", "5/m", "fast"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
