//! `longshore send`: publishes events that are named on the command line, or in the lines of a file.
//!
//! ```text
//!  --body, a file, stdin ──> lines ──> made: events ──> sending, many at once ──> tally: text, JSON
//! ```
//!
//! A line that cannot be sent is told, and stops none behind it. A hub that takes nothing any more ends the
//! run.

mod lines;
mod made;
mod sending;
mod tally;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{ArgGroup, Args};

use self::lines::Lines;
use self::made::Made;
use self::sending::Sending;
use self::tally::Tally;
use super::configured::{Configured, HubArgs, no_answer};
use super::terminal::tell;
use super::{CommandError, Ending, ReportFormat, brief};
use longshore::error::ErrorClass;
use longshore::event::PartitionId;
use longshore::transport::Publisher;
use longshore::transport::event_hubs::EventHubsPublisher;

/// What is wrong with settings that have no hub.
const WITHOUT_HUB: &str = "has no hub to send to";

/// Sends one event to a hub for each --body, or for each line of a file or of stdin.
///
/// It reads the variables of a worker, such as EVENTHUB_CONNECTION_STRING; see docs/configuration.md. Events
/// of one key keep their order and share a partition.
///
/// Without --json, each line is a body, without the line break. Empty lines are skipped. With --json, each
/// line is an event in the form of `longshore tail --json`:
///
/// {"key": "a", "properties": {"tries": 2}, "body_text": "hello"}
///
/// Its fields are those of the record of a dead letter (docs/dead-letters.md). The fields topic, partition,
/// sequence_number, offset and enqueued_time are ignored. --key, --property and --content-type apply to
/// lines that do not set their own.
///
/// If a line cannot be sent, its number is reported, and the next lines are still sent. If the answer to a
/// send is lost, the event is sent again, and may then be in the hub twice.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
#[command(group = ArgGroup::new("what").args(["body", "from"]))]
pub(super) struct SendArgs {
    #[command(flatten)]
    hub: HubArgs,
    /// The body of an event. May be given several times
    #[arg(long, value_name = "TEXT", conflicts_with = "json", allow_hyphen_values = true)]
    body: Vec<String>,
    /// A file of lines; - is stdin. Default without --body: stdin
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Each line is an event as `longshore tail --json` prints it
    #[arg(long)]
    json: bool,
    /// Sends all events to this partition. Default: the key decides; events without a key go to the partitions
    /// in turn
    #[arg(long, value_name = "ID")]
    partition: Option<String>,
    /// The partition key of events. Default: none
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// A text property of events. May be given several times. For other types use --json
    #[arg(long, value_name = "NAME=VALUE", value_parser = made::property)]
    property: Vec<(String, String)>,
    /// The media type of bodies, for example application/json
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Reads and checks everything, and sends nothing
    #[arg(long)]
    dry_run: bool,
    /// Prints the result in this format. Default: text
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    all is sent
  1    the hub or the file cannot be used: nothing was sent
  2    the command line or the settings cannot be used
  3    some events were not sent: a line is invalid, or the hub stopped accepting
  4    a Ctrl-C stopped it: all lines read by then are sent
  130  a second Ctrl-C stopped it at once: the last events may be sent or not";

pub(super) async fn run(args: SendArgs) -> Result<Ending, CommandError> {
    let Some(configured) = args.hub.read(args.report, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let lines = match args.body.as_slice() {
        [] => Lines::open(args.from.as_deref())?,
        bodies => Lines::of(bodies),
    };
    let Configured { namespace, entity, .. } = configured;
    let place = namespace.address();
    let publisher = EventHubsPublisher::new(namespace, entity);
    let partitions = partitions(&publisher, &place, args.dry_run).await?;
    if let Some(absent) = args.partition.as_deref().map(PartitionId::from)
        && !partitions.is_empty()
        && !partitions.contains(&absent)
    {
        tell(format_args!("the hub {} has no partition {absent}", publisher.entity()));
        return Ok(Ending::Unusable);
    }
    let made = Made::new(&args);
    let entity = publisher.entity().clone();
    let mut tally = Tally::new(entity.clone(), lines.noun(), args.dry_run);
    if args.dry_run {
        sending::check(lines, &made, &mut tally).await;
        publisher.close().await;
        return tally.give(args.report);
    }
    let sending = Sending::new(Arc::new(publisher), args.partition.as_deref(), partitions);
    match sending.run(lines, &made, &mut tally).await? {
        None => tally.give(args.report),
        Some(code) => {
            tell(format_args!("what was under way to hub {entity} may be sent"));
            Ok(Ending::Stopped(code))
        }
    }
}

/// The partitions of the hub, which also says whether it can be reached; none where there is no right to ask.
async fn partitions(
    publisher: &EventHubsPublisher,
    place: &str,
    dry_run: bool,
) -> Result<Vec<PartitionId>, CommandError> {
    match publisher.partitions().await {
        Ok(partitions) => Ok(partitions),
        Err(error) if error.class() == ErrorClass::Auth => {
            if dry_run {
                tell(format_args!("whether the hub takes events is not known: {}", brief(&error)));
            }
            Ok(Vec::new())
        }
        Err(error) => Err(no_answer(publisher.entity(), place, &error)),
    }
}
