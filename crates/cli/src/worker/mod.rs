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
use super::{CommandError, Ending, ReportFormat, service as service_end};

/// Runs a worker that moves files, until a signal ends it.
///
/// Its settings come from a TOML file and the environment. The environment wins. The table [worker.NAME] says
/// what the worker reads, and where its results, dead letters and files go; see docs/configuration.md.
#[derive(Args, Debug)]
pub(super) struct WorkerArgs {
    #[command(subcommand)]
    kind: Kind,
}

/// The kinds of workers.
#[derive(Subcommand, Debug)]
enum Kind {
    /// Fetches files over HTTP. Tasks name the files, and each task gets a result.
    ///
    /// A task is the body of an event:
    ///
    /// {"id": "7", "url": "https://…", "path": "a/b.jpg", "sha256": "…", "size": 123}
    ///
    /// Only id and url are required. A task is settled when its result or its dead letter is acknowledged.
    #[command(after_long_help = service_end::EXIT_CODES)]
    Download(RunArgs),
    /// Copies files from a folder or a container to another place. Tasks name the files, and each task gets
    /// a result.
    ///
    /// A task is the body of an event:
    ///
    /// {"id": "7", "path": "a/b.jpg", "to": "2026/b.jpg", "crc64": "…", "size": 123}
    ///
    /// Only id and path are required. The result of a download worker is such a task. A task is settled when
    /// its result or its dead letter is acknowledged.
    #[command(after_long_help = service_end::EXIT_CODES)]
    Upload(RunArgs),
}

/// What every kind takes.
#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Prints the result in this format. Default: text
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

pub(super) async fn run(args: WorkerArgs) -> Result<Ending, CommandError> {
    match args.kind {
        Kind::Download(args) => download::run(args).await,
        Kind::Upload(args) => upload::run(args).await,
    }
}
