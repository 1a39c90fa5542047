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

/// Lists, groups, shows, exports, replays and purges the dead letters of the failure store.
///
/// These commands read the variables of a worker, its connection string included; see docs/configuration.md.
/// LONGSHORE_FAILURES names the failure store. Without it, the store is beside the checkpoints
/// (LONGSHORE_CHECKPOINT_CONTAINER or LONGSHORE_CHECKPOINT_FOLDER). Default: longshore-state/failures. Workers
/// may run meanwhile. docs/dead-letters.md describes a letter.
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

/// Of what reads letters.
const EXIT_CODES: &str = "\
Exit codes:
  0  all is done, or no letter matches
  1  the store cannot be used, or there is no such letter
  2  the command line or the settings cannot be used
  3  partly done: some letters cannot be read";

/// Of what changes the store.
const EXIT_CODES_OF_WRITES: &str = "\
Exit codes:
  0  all is done, or no letter matches
  1  the store or the hub cannot be used
  2  the command line or the settings cannot be used
  3  partly done: some letters could not be read or written";

#[derive(Args, Debug)]
pub(super) struct CommonArgs {
    #[command(flatten)]
    pub(super) config: FileArgs,
    /// Prints the result in this format. Default: text
    #[arg(long, value_name = "FORMAT")]
    pub(super) report: Option<ReportFormat>,
}

/// Lists letters: when each last failed, why, which job replays it, and its id.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct ListArgs {
    /// The most to show
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Shows only ids, one a line
    #[arg(long, conflicts_with = "report")]
    ids: bool,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Counts letters that have something in common, the largest group first.
///
/// Two letters have the same fingerprint if their class and message are equal without numbers, ids, paths
/// and quoted text.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
struct GroupArgs {
    /// What the letters of a group have in common
    #[arg(long, value_name = "FIELD", default_value = "fingerprint")]
    by: GroupBy,
    /// The most groups to show
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum GroupBy {
    /// Class and message, without the parts that differ from event to event
    Fingerprint,
    /// The message, without the parts that differ from event to event
    Reason,
    /// The worker that gave up
    Worker,
    /// The host, hub or container that failed
    Destination,
    /// The class of the failure
    Class,
    /// The hub
    Entity,
    /// The day of the last failure, in UTC
    Day,
}

/// Shows one letter: the event with its headers and its body, why it failed, and its history.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct ShowArgs {
    /// The id, as `list --ids` shows it, or HUB/PARTITION#NUMBER
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
    /// As JSON or text if it is that, otherwise the beginning in hexadecimal
    Auto,
    /// As text; bytes that are not UTF-8 are replaced
    Text,
    /// As JSON, one field a line
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
    /// A file to create. Default: stdout
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    config: FileArgs,
    /// Prints the result in this format. Default: text
    #[arg(long, value_name = "FORMAT", requires = "to")]
    report: Option<ReportFormat>,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Deletes letters for good. A letter that is written again meanwhile stays.
///
/// Name the letters with filters, or all of them with --all.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES_OF_WRITES)]
struct PurgeArgs {
    /// Shows what would be deleted, and deletes nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Deletes every letter of the store. Without filters only
    #[arg(long)]
    all: bool,
}

/// Reads a hub to which workers publish dead letters, and copies the letters into the failure store.
///
/// There they can be listed, shown and replayed. Letters that the store already has stay as they are, so the
/// command can be run again. The events stay in the hub.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES_OF_WRITES)]
struct ImportArgs {
    /// The hub: a topic of the settings, or a hub in the namespace of EVENTHUB_CONNECTION_STRING
    #[arg(long, value_name = "NAME")]
    hub: String,
    /// Shows what would be copied, and copies nothing
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
