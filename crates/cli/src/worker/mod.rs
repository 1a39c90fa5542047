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
pub(super) mod opened;
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
/// says what it reads, and where its results, dead letters and files go; see docs/configuration.md.
#[derive(Args, Debug)]
pub(super) struct WorkerArgs {
    #[command(subcommand)]
    kind: Kind,
}

/// The kinds of workers.
#[derive(Subcommand, Debug)]
enum Kind {
    /// Fetches the files that tasks name over HTTP, and publishes a result for each
    ///
    /// A task is the body of an event, such as {"id": "7", "url": "https://…", "path": "a/b.jpg",
    /// "sha256": "…", "size": 123}. A task is settled when its result is acknowledged, or its dead letter.
    #[command(after_long_help = EXIT_CODES)]
    Download(RunArgs),
    /// Copies the files that tasks name from a folder or a container to another place, and publishes a
    /// result for each
    ///
    /// A task is the body of an event, such as {"id": "7", "path": "a/b.jpg", "to": "2026/b.jpg",
    /// "crc64": "…", "size": 123}. Only id and path are required. The result of a download worker is such a
    /// task. A task is settled when its result is acknowledged, or its dead letter.
    #[command(after_long_help = EXIT_CODES)]
    Upload(RunArgs),
}

/// What every kind takes.
#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// What is printed to stdout at the end, instead of a sentence
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0         a Ctrl-C or SIGTERM was drained: all that was begun is done, and the next start goes on
  1         the environment stopped it, such as a hub that does not exist or a full disk
  2         the command line or the settings cannot be used
  3         it was drained, but some partitions had stopped before; the log says why
  4         the drain ran out of time: the next start repeats what was cut
  130, 143  a second Ctrl-C or SIGTERM stopped it at once; the next start goes on";

pub(super) async fn run(args: WorkerArgs) -> Result<Ending, CommandError> {
    match args.kind {
        Kind::Download(args) => download::run(args).await,
        Kind::Upload(args) => upload::run(args).await,
    }
}
