//! `longshore checkpoints`: what the store says of each partition, and how an operator moves it.
//!
//! ```text
//!  settings ──> opened: stores, hub, scope
//!                 ├─> list    a row for each partition ──> table, JSON
//!                 ├─> change  set, reset: a place in the log ──┬─> place ──> guarded ──> outcomes
//!                 ├─> import  lines of a file ─────────────────┘
//!                 └─> export  lines
//! ```
//!
//! Whatever writes does so by compare-and-swap with a higher reset generation, and not while an
//! owner is alive, unless it is forced. The offset that goes with a number is looked up in the hub
//! (`place`), so that processors of other SDKs go on from what is written.

mod change;
mod export;
mod guarded;
mod import;
mod line;
mod list;
mod opened;
mod outcome;
mod place;
mod row;
mod table;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Args, Subcommand};

use self::opened::Purpose;
use super::configured::ConfigArgs;
use super::{CommandError, Ending, ReportFormat};
use crate::position::position;
use longshore::event::{PartitionId, StartPosition};

/// Shows how far a consumer group has come, and changes it.
///
/// These commands read the variables of a worker: the hub, the consumer group, and where the checkpoints
/// are, LONGSHORE_CHECKPOINT_CONTAINER or LONGSHORE_CHECKPOINT_FOLDER (default: longshore-state/checkpoints); see
/// docs/configuration.md. While a worker runs, the checkpoints in its folder can be listed and exported,
/// but not changed. With a container, workers may run: a partition that a live worker owns is not written
/// without --force.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct CheckpointsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    List(ListArgs),
    Set(SetArgs),
    Reset(ResetArgs),
    Export(ExportArgs),
    Import(ImportArgs),
}

/// Of what only reads the store.
const EXIT_CODES: &str = "\
Exit codes:
  0  all is done
  1  the store cannot be used
  2  the command line or the settings cannot be used
  3  partly done: a checkpoint cannot be read, or the hub cannot say how far its
     log goes";

/// Of what writes.
const EXIT_CODES_OF_WRITES: &str = "\
Exit codes:
  0  all is done
  1  the store or the hub cannot be used: nothing was written
  2  the command line, the settings or the file to import cannot be used
  3  partly done: some partitions were not written, and the output says why";

#[derive(Args, Debug)]
struct CommonArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Prints the result in this format. Default: text
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

/// Shows each partition: its checkpoint, its lag, the later events that are already settled, and its owner.
///
/// Partitions without a checkpoint are shown as well. A checkpoint that cannot be read is shown with the
/// reason. If the hub cannot be reached, the command shows what the store holds.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
struct ListArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Does not ask the hub. The lag stays unknown
    #[arg(long)]
    offline: bool,
}

/// Sets which event of a partition is the last one settled.
///
/// All events after it are handled next, also those that were settled before. An event that is a dead letter in
/// the failure store is not handled: `longshore dead-letters replay` does that.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES_OF_WRITES)]
struct SetArgs {
    /// The partition to set
    #[arg(long, value_name = "ID")]
    partition: String,
    /// The sequence number of the last settled event. -1 is before the first event
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i64).range(-1..))]
    sequence: i64,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    common: CommonArgs,
}

/// Sets where partitions go on: with the oldest event, with the next event that arrives, with the first
/// event since a time, or with a sequence number.
///
/// All events from there on are handled, also those that were settled before. An event that is a dead letter in
/// the failure store is not handled: `longshore dead-letters replay` does that.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES_OF_WRITES)]
#[command(group = ArgGroup::new("which").required(true).args(["partition", "all"]))]
struct ResetArgs {
    /// What is handled next: earliest, latest, a time such as 2026-01-31T12:00:00Z, how long ago such as 1h or
    /// 2d, or a sequence number. To find a time, the log is searched. That is not possible while a worker owns
    /// the partition, also with --force
    #[arg(long, value_name = "POSITION")]
    to: PositionArg,
    /// A partition to reset. May be given several times
    #[arg(long, value_name = "ID")]
    partition: Vec<String>,
    /// Resets every partition of the hub
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug, Clone, Copy)]
struct ForceArgs {
    /// Writes even if a live worker owns the partition, the position is beyond the end of the log, or the
    /// stored checkpoint cannot be read
    #[arg(long)]
    force: bool,
    /// Says what would be written, and writes nothing
    #[arg(long)]
    dry_run: bool,
}

/// Writes all checkpoints as lines of JSON.
///
/// A line has the fields version (1), namespace, entity, consumer_group, partition, sequence_number (the
/// last settled event, or null), its offset and enqueued_time, settled_above ([first, last] of each run of
/// later events that are settled), incarnation (when the hub was created), reset_generation, lease_epoch
/// and takeovers_without_progress. If an event is suspected of crashing its worker, the line also has
/// suspects_to and trial. Times are milliseconds since 1970. Fields may be added within a version.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
struct ExportArgs {
    /// A file to create. Default: stdout
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Prints the result in this format. Default: text
    #[arg(long, value_name = "FORMAT", requires = "to")]
    report: Option<ReportFormat>,
}

/// Writes the checkpoints of a file that `export` made.
///
/// The whole file is checked first. Its checkpoints replace those of the same partitions. To copy checkpoints
/// to another consumer group, change consumer_group in the lines.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES_OF_WRITES)]
struct ImportArgs {
    /// The file, of 64 MiB at most
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    common: CommonArgs,
}

/// A place in the log as people write it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct PositionArg(StartPosition);

impl FromStr for PositionArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        position(text).map(Self).ok_or(
            "it must be earliest, latest, a time such as 2026-01-31T12:00:00Z, how long ago such as \
             1h or 2d, or a sequence number",
        )
    }
}

/// What to do about an owner that is alive, and about a place beyond the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Force {
    Off,
    On,
}

/// Whether anything is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writes {
    Done,
    /// They are only said.
    Dry,
}

impl ForceArgs {
    fn force(self) -> Force {
        if self.force { Force::On } else { Force::Off }
    }

    fn writes(self) -> Writes {
        if self.dry_run { Writes::Dry } else { Writes::Done }
    }

    fn purpose(self) -> Purpose {
        Purpose::of_change(self.dry_run)
    }
}

/// Which partitions of the hub.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Which {
    All,
    These(Vec<PartitionId>),
}

pub(super) async fn run(args: CheckpointsArgs) -> Result<Ending, CommandError> {
    match args.command {
        Command::List(args) => list::run(args).await,
        Command::Set(args) => change::set(args).await,
        Command::Reset(args) => change::reset(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Import(args) => import::run(args).await,
    }
}
