//! `longshore parked`: events that wait in the store of failures for another attempt, and what an operator does about
//! them.
//!
//! ```text
//!  settings ──> the store ──> page by page, filtered ──┬─> list ──> table, JSON
//!   (all of it dead_letters)                           ├─> show   one record
//!                                                      └─> change  retry, drop, give-up, each by its version
//! ```

mod change;

use clap::{Args, Subcommand};

use super::dead_letters::filter::FilterArgs;
use super::dead_letters::{CommonArgs, ListArgs, ShowArgs, list, show};
use super::{CommandError, Ending};
use longshore::failure_store::FailureKind;

/// Shows events that are parked, and changes what becomes of them.
///
/// An event whose failure may pass is parked: kept in the store of failures, and handled again when it is due, by the
/// worker that owns its partition then. A replay of dead letters parks them as well. Workers may run meanwhile: they
/// look for what was changed here every half minute.
///
/// Reads the same variables as `longshore dead-letters`.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct ParkedArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Lists parked events: when each is due, why it failed, which job replays it, and its id
    List(ListArgs),
    /// Shows one parked event with its headers and its body, why it failed, and its life
    Show(ShowArgs),
    /// Makes events due now, however far away their time is
    Retry(ChangeArgs),
    /// Deletes events for good: nobody handles them again. Of a letter that is replayed, the letter stays
    Drop(ChangeArgs),
    /// Makes dead letters of events, without another attempt
    GiveUp(ChangeArgs),
}

const EXIT_CODES: &str = "\
Exit codes:
  0    all is done, also where no event matches
  1    the store cannot be used, or there is no such event
  2    the command line or the configuration cannot be used
  3    a part is missing: events that cannot be read, or that could not be changed";

#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
struct ChangeArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Every parked event of the store
    #[arg(long)]
    all: bool,
    /// Says what would be changed, and changes nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) async fn run(args: ParkedArgs) -> Result<Ending, CommandError> {
    match args.command {
        Command::List(args) => list::run(args, FailureKind::Parked).await,
        Command::Show(args) => show::run(args, FailureKind::Parked).await,
        Command::Retry(args) => change::run(args, change::Change::Retry).await,
        Command::Drop(args) => change::run(args, change::Change::Drop).await,
        Command::GiveUp(args) => change::run(args, change::Change::GiveUp).await,
    }
}
