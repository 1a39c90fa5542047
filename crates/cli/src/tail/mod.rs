//! `longshore tail`: prints events of a hub, and takes nothing from anybody: no lease, no checkpoint, no
//! owner level.
//!
//! ```text
//!  arguments, logs ──> plan: where to begin and to end, for each partition
//!                        └─> reading: a stream each ──> printing ──> lines: text, JSON
//! ```

mod line;
mod plan;
mod printing;
mod reading;

use std::str::FromStr;
use std::sync::Arc;

use clap::Args;

use self::plan::Plan;
use super::configured::{Configured, HubArgs, no_answer};
use super::terminal::tell;
use super::{CommandError, Ending, logs};
use longshore::event::{ConsumerGroup, PartitionId, StartPosition};
use longshore::transport::Transport;
use longshore::transport::event_hubs::EventHubsTransport;

/// What is wrong with settings that have no hub.
const WITHOUT_HUB: &str = "has no hub to read";

/// Events that are printed where nothing says how many.
const DEFAULT_LAST: usize = 10;

/// Prints the last ten events of a hub. --from prints events from a position on, --follow prints new events.
///
/// It reads the variables of a worker, such as EVENTHUB_CONNECTION_STRING; see docs/configuration.md. It
/// takes no lease and writes no checkpoint, so no worker notices. A worker with leases owns its partitions
/// exclusively in its consumer group. To read beside it, name another group with --group.
///
/// The text output has one line for each event: position, enqueued time (UTC), key and body. Lines are cut
/// to the width of the terminal. --json prints each event whole, as one line of JSON: topic, partition,
/// sequence_number, offset and enqueued_time, and the fields of the record of a dead letter
/// (docs/dead-letters.md). `longshore send --json` accepts these lines.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct TailArgs {
    #[command(flatten)]
    hub: HubArgs,
    /// The consumer group to read with. Default: the group in the settings
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only this partition. May be given several times. Default: all partitions
    #[arg(long, value_name = "ID")]
    partition: Vec<String>,
    /// Where to begin: earliest, latest (the end of the log), a time such as 2026-01-31T12:00:00Z, how long
    /// ago such as 1h or 2d, or a sequence number. PARTITION=POSITION is for one partition, and may be given several times. Default:
    /// with --follow latest, otherwise the last events
    #[arg(long, value_name = "POSITION")]
    from: Vec<FromArg>,
    /// The most events to print. Default: 10 without --from and --follow, otherwise no limit
    #[arg(short = 'n', long, value_name = "N", value_parser = crate::count(1_000_000_000))]
    count: Option<usize>,
    /// Prints new events until Ctrl-C. Earlier events are printed only with --from. Without --follow, the
    /// command stops at the last event that was there when it started
    #[arg(short, long)]
    follow: bool,
    /// Prints each event whole, as one line of JSON
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    all is printed, or a signal ended --follow, or nobody reads stdout any more
  1    the hub cannot be reached
  2    the command line or the settings cannot be used
  3    a partition could not be read, or an event could not be decoded
  130  a Ctrl-C ended it before the end of the logs";

/// A position as people write it, of all partitions or of one.
#[derive(Clone, PartialEq, Debug)]
struct FromArg {
    partition: Option<PartitionId>,
    position: StartPosition,
}

impl FromStr for FromArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (partition, position) = match text.split_once('=') {
            Some((partition, position)) => (Some(partition), position),
            None => (None, text),
        };
        let position = super::position::position(position).ok_or(
            "it must be earliest, latest, a time such as 2026-01-31T12:00:00Z, how long ago such as 1h or 2d, or \
             a sequence number; or PARTITION=POSITION for one partition",
        )?;
        if partition.is_some_and(str::is_empty) {
            return Err("the partition before = is missing");
        }
        Ok(Self { partition: partition.map(PartitionId::from), position })
    }
}

pub(super) async fn run(args: TailArgs) -> Result<Ending, CommandError> {
    let Some(configured) = args.hub.read(None, WITHOUT_HUB).await? else {
        return Ok(Ending::Unusable);
    };
    let Configured { settings, namespace, entity } = configured;
    let group = match &args.group {
        Some(group) => ConsumerGroup::from(group.as_str()),
        None => settings.consumer_group().clone(),
    };
    let transport = Arc::new(EventHubsTransport::new(namespace, entity, group));
    let ended = tail(&args, &transport).await;
    transport.close().await;
    ended
}

async fn tail(
    args: &TailArgs,
    transport: &Arc<EventHubsTransport>,
) -> Result<Ending, CommandError> {
    let hub = transport.hub_properties().await;
    let hub = hub.map_err(|error| no_answer(transport.entity(), &transport.place(), &error))?;
    let begins = match plan::begins(args, &hub.partitions) {
        Ok(begins) => begins,
        Err(fault) => {
            tell(fault);
            return Ok(Ending::Unusable);
        }
    };
    let partitions: Vec<PartitionId> = begins.iter().map(|(id, _)| id.clone()).collect();
    let answers = logs::ask(transport, &partitions).await;
    let mut plan = Plan::new(args.follow, args.count);
    let mut unknown = 0;
    for ((partition, begin), answer) in begins.into_iter().zip(answers) {
        match answer {
            Ok(answer) => plan.add(partition, begin, &answer.log),
            Err(why) => {
                unknown += 1;
                tell(format_args!("partition {partition} is left out: {why}"));
            }
        }
    }
    if unknown == partitions.len() && unknown > 0 {
        return Err(CommandError::new("no partition can be read"));
    }
    let ended = printing::run(plan, transport, hub.incarnation, args.json).await?;
    Ok(match ended {
        Ending::Done if unknown > 0 => Ending::SomeFailed,
        ended => ended,
    })
}
