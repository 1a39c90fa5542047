//! `longshore dead-letters`: what a store of failures holds below `dead/`, and how an operator reads it.
//!
//! ```text
//!  settings ──> opened: the store
//!                 └─> letters: page by page, filtered ──┬─> list, group ──> table, JSON
//!                                                       ├─> show    one record
//!                                                       ├─> export  records, a line each
//!                                                       ├─> purge   deletes by version
//!                                                       └─> replay  a job, see longshore::replay
//!  hub ──> import ──> the store
//! ```
//!
//! Listings open no record and keep no page but the one at hand, so a store of any size can be read.

pub(super) mod acts;
mod export;
pub(super) mod filter;
mod group;
mod import;
pub(super) mod letters;
pub(super) mod list;
pub(super) mod opened;
mod purge;
mod replay;
pub(super) mod show;
pub(super) mod table;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use self::filter::FilterArgs;
use super::configured::FileArgs;
use super::{CommandError, Ending, ReportFormat};
use longshore::failure_store::FailureKind;

/// Reads the dead letters of a store of failures: lists, groups, shows, exports, replays and purges them.
///
/// Reads the same variables as a worker: LONGSHORE_FAILURES, or else LONGSHORE_CHECKPOINT_CONTAINER or
/// LONGSHORE_CHECKPOINT_FOLDER, beside which they are; see docs/configuration.md. Workers may run
/// meanwhile. What letters hold is in docs/dead-letters.md.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    List(ListArgs),
    Group(GroupArgs),
    Show(ShowArgs),
    Export(ExportArgs),
    Replay(replay::ReplayArgs),
    Purge(PurgeArgs),
    Import(ImportArgs),
}

const EXIT_CODES: &str = "\
Exit codes:
  0    all is done, also where no letter matches
  1    the store cannot be used, or there is no such letter
  2    the command line or the configuration cannot be used
  3    a part is missing: letters that cannot be read, or that could not be deleted";

#[derive(Args, Debug)]
pub(super) struct CommonArgs {
    #[command(flatten)]
    pub(super) config: FileArgs,
    /// What stdout gets, instead of text
    #[arg(long, value_name = "FORMAT")]
    pub(super) report: Option<ReportFormat>,
}

/// Lists letters: when each failed last, why, which job replays it, and its id.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Most that are shown
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Shows nothing but ids, a line each
    #[arg(long, conflicts_with = "report")]
    ids: bool,
    #[command(flatten)]
    common: CommonArgs,
}

/// Counts letters that have something in common, the most first.
///
/// Letters have one fingerprint where class and message are the same but for numbers, ids, paths and what is
/// in quotes.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
struct GroupArgs {
    /// What letters of a group have in common
    #[arg(long, value_name = "FIELD", default_value = "fingerprint")]
    by: GroupBy,
    #[command(flatten)]
    filter: FilterArgs,
    /// Most groups that are shown
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum GroupBy {
    /// Class and message, but for what is of one event alone
    Fingerprint,
    /// The message, but for what is of one event alone
    Reason,
    /// The worker that gave up
    Worker,
    /// What the failure blames
    Destination,
    /// The class of the failure
    Class,
    /// The hub
    Entity,
    /// The day of the last failure, in UTC
    Day,
}

/// Shows one letter: the event with its headers and its body, why it failed, and its life.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct ShowArgs {
    /// Which one: an id as `list --ids` shows it, or HUB/PARTITION#NUMBER
    #[arg(value_name = "ID")]
    id: String,
    /// How the body is shown
    #[arg(long, value_name = "FORM", default_value = "auto")]
    body: BodyForm,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum BodyForm {
    /// As JSON where it is, else as text where it is, else the beginning in hexadecimal
    Auto,
    /// As text; what is no UTF-8 is replaced
    Text,
    /// As JSON, a field in a line
    Json,
    /// All bytes in hexadecimal
    Hex,
    /// Not at all
    None,
}

/// Writes the records of letters as lines of JSON, bodies included.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
struct ExportArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// A file to create. Default: stdout
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    config: FileArgs,
    /// What stdout gets beside the file, instead of text
    #[arg(long, value_name = "FORMAT", requires = "to")]
    report: Option<ReportFormat>,
}

/// Deletes letters for good. What is written anew meanwhile stays.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
struct PurgeArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Every letter of the store
    #[arg(long)]
    all: bool,
    /// Says what would be deleted, and deletes nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: CommonArgs,
}

/// Brings the letters of a hub into the store, where they can be listed and shown.
///
/// Letters that the store has are left as they are, so it can be run again. Events of the hub stay there.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
struct ImportArgs {
    /// A topic of the settings, or a hub of the namespace that all share
    #[arg(long, value_name = "NAME")]
    hub: String,
    /// Says what would be brought, and brings nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) async fn run(args: DeadLettersArgs) -> Result<Ending, CommandError> {
    match args.command {
        Command::List(args) => list::run(args, FailureKind::Dead).await,
        Command::Group(args) => group::run(args).await,
        Command::Show(args) => show::run(args, FailureKind::Dead).await,
        Command::Export(args) => export::run(args).await,
        Command::Replay(args) => replay::run(args).await,
        Command::Purge(args) => purge::run(args).await,
        Command::Import(args) => import::run(args).await,
    }
}
