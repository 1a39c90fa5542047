//! `longshore parked`: events that wait in the failure store for another attempt, and what an operator does about
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

/// Lists and shows parked events, and changes when they are tried again.
///
/// An event that failed and may still succeed is parked: it is kept in the failure store. When it is due, the
/// worker that then owns its partition handles it again. A replay parks dead letters as well. Workers may run
/// meanwhile: they look for changes every half minute.
///
/// These commands read the same variables as `longshore dead-letters`.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct ParkedArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    #[command(after_long_help = EXIT_CODES)]
    /// Lists parked events: when each is due, why it failed, which job replays it, and its id
    List(ListArgs),
    #[command(after_long_help = EXIT_CODES)]
    /// Shows one parked event: its headers and its body, why it failed, and its history
    Show(ShowArgs),
    /// Makes events due now. Name them with filters, or all of them with --all
    Retry(ChangeArgs),
    /// Deletes parked events for good: they are not handled again. If an event is a replayed letter, the
    /// letter stays. Name the events with filters, or all of them with --all
    Drop(ChangeArgs),
    /// Turns parked events into dead letters, without another attempt. Name the events with filters, or all of
    /// them with --all
    GiveUp(ChangeArgs),
}

const EXIT_CODES: &str = "\
Exit codes:
  0  all is done, or no event matches
  1  the store cannot be used, or there is no such event
  2  the command line or the settings cannot be used
  3  partly done: some events could not be read or changed";

#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
struct ChangeArgs {
    /// Shows what would be changed, and changes nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Changes every parked event of the store. Without filters only
    #[arg(long)]
    all: bool,
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
