//! `longshore worker`: a worker that runs until a signal ends it, made of settings alone.
//!
//! ```text
//!  hub of tasks ──> consumer ──> worker of its kind ──> files
//!                      │               └──> tally ──> hub of results
//!                      └──> dead letters
//! ```
//!
//! `opened` opens what the settings name, `download` and `upload` make the worker of that kind, `service` runs it in a
//! consumer until a signal or a failure ends it, `tally` counts what was published, `watch` shows it.
//! Another kind is a module like these, and an entry of [`Kind`].

mod download;
mod opened;
mod report;
mod service;
mod tally;
mod upload;
mod watch;

use clap::{Args, Subcommand};

use super::configured::ConfigArgs;
use super::{CommandError, Ending, ReportFormat};

/// Runs a worker that moves files, until a signal ends it.
///
/// It is made of settings alone: a TOML file and the environment, which wins. The table [worker.NAME]
/// says what it reads, where its results, dead letters and files go; see docs/configuration.md.
#[derive(Args, Debug)]
pub(super) struct WorkerArgs {
    #[command(subcommand)]
    kind: Kind,
}

/// The kinds of workers.
#[derive(Subcommand, Debug)]
enum Kind {
    /// Fetches the files that tasks name over HTTP, and tells of each in a result
    ///
    /// A task is the body of an event, such as {"id": "7", "url": "https://…", "path": "a/b.jpg",
    /// "sha256": "…", "size": 123}. Each task is settled when its result is acknowledged, or its dead
    /// letter.
    #[command(after_long_help = EXIT_CODES)]
    Download(RunArgs),
    /// Brings the files that tasks name from a folder or a container to another place, and tells of each
    ///
    /// A task is the body of an event, such as {"id": "7", "path": "a/b.jpg", "to": "2026/b.jpg",
    /// "crc64": "…", "size": 123}, of which only id and path must be there. The result of a download worker
    /// is such a task. Each task is settled when its result is acknowledged, or its dead letter.
    #[command(after_long_help = EXIT_CODES)]
    Upload(RunArgs),
}

/// What every kind takes.
#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// What stdout gets at the end, instead of a sentence
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0         a Ctrl-C or SIGTERM was drained: what was begun is done; the next start goes on
  1         stopped by the environment, such as a hub that is not there or a full disk
  2         the command line or the configuration cannot be used
  3         drained, but partitions had stopped before; it was said why
  4         the drain ran out of time: the next start does again what was cut
  130, 143  a second Ctrl-C or SIGTERM stopped it at once; the next start goes on";

pub(super) async fn run(args: WorkerArgs) -> Result<Ending, CommandError> {
    match args.kind {
        Kind::Download(args) => download::run(args).await,
        Kind::Upload(args) => upload::run(args).await,
    }
}
