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
use super::configured::{Configured, HubArgs};
use super::terminal::tell;
use super::{CommandError, Ending, ReportFormat, brief};
use longshore::error::ErrorClass;
use longshore::event::PartitionId;
use longshore::transport::Publisher;
use longshore::transport::event_hubs::EventHubsPublisher;

/// What is wrong with settings that have no hub.
const WITHOUT_HUB: &str = "has no hub to send to";

/// Sends events to a hub: a body for each --body, or one for each line of a file or of stdin.
///
/// Reads the same variables as a worker, EVENTHUB_CONNECTION_STRING before all; see
/// docs/configuration.md. Events of one key keep their order and share a partition.
///
/// Without --json, a line is a body, byte for byte without its end; empty lines are left out. With --json, a
/// line is an event, as `longshore tail --json` prints it: key, message_id, content_type and the like,
/// properties and annotations with their types, and body_text, body_base64 or body_amqp, which are the
/// fields of a dead letter's record (docs/dead-letters.md). Where such an event was received (topic,
/// partition, sequence_number, offset, enqueued_time) is left out. What --key, --property and --content-type
/// say goes for lines that do not say it themselves.
///
/// A line that cannot be sent is told with its number and stops none behind it. A send whose answer
/// got lost is made again, so an event may be there twice.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
#[command(group = ArgGroup::new("what").args(["body", "from"]))]
pub(super) struct SendArgs {
    #[command(flatten)]
    hub: HubArgs,
    /// A body; may be given several times
    #[arg(long, value_name = "TEXT", conflicts_with = "json", allow_hyphen_values = true)]
    body: Vec<String>,
    /// A file of lines; - reads stdin, which is the default without --body
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Lines are JSON, as `longshore tail --json` prints them
    #[arg(long)]
    json: bool,
    /// The partition of all events. Default: that of the key; events without one go to the partitions in turn
    #[arg(long, value_name = "ID")]
    partition: Option<String>,
    /// The key of events
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// A property of events, as text; may be given several times. Other types: --json
    #[arg(long, value_name = "NAME=VALUE", value_parser = made::property)]
    property: Vec<(String, String)>,
    /// The media type of bodies, for example application/json
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Reads and checks everything, and sends nothing
    #[arg(long)]
    dry_run: bool,
    /// What stdout gets, instead of text
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    all is sent
  1    the hub or the file cannot be used: nothing was sent
  2    the command line or the configuration cannot be used
  3    a part was not sent: lines that cannot be, or the hub took nothing any more
  4    a Ctrl-C stopped it: what was read by then is sent
  130  a second Ctrl-C stopped it at once: what was under way may be sent";

pub(super) async fn run(args: SendArgs) -> Result<Ending, CommandError> {
    let Some(configured) = args.hub.read(args.report, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let lines = match args.body.as_slice() {
        [] => Lines::open(args.from.as_deref())?,
        bodies => Lines::of(bodies),
    };
    let Configured { namespace, entity, .. } = configured;
    let publisher = EventHubsPublisher::new(namespace, entity);
    let partitions = partitions(&publisher, args.dry_run).await?;
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
        Err(error) => Err(CommandError::new(format!(
            "nothing is sent to hub {}: {}",
            publisher.entity(),
            brief(&error)
        ))),
    }
}
