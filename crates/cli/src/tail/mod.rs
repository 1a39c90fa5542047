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
use super::configured::{Configured, HubArgs};
use super::terminal::tell;
use super::{CommandError, Ending, brief, logs};
use longshore::event::{ConsumerGroup, PartitionId, StartPosition};
use longshore::settings::value;
use longshore::transport::Transport;
use longshore::transport::event_hubs::EventHubsTransport;

/// What is wrong with settings that have no hub.
const WITHOUT_HUB: &str = "has no hub to read";

/// Events that are printed where nothing says how many.
const DEFAULT_LAST: usize = 10;

/// Prints events of a hub: the last ten, those from a place on (--from), or what comes (--follow).
///
/// Reads the same variables as a worker, EVENTHUB_CONNECTION_STRING before all; see
/// docs/configuration.md. It takes no lease and writes no checkpoint, so no worker notices. A worker that
/// has a partition for itself in a consumer group lets nobody else read it there: then --group names
/// another consumer group.
///
/// Text is a line for each event, cut to the terminal: its place, when it was enqueued (UTC), its key, and
/// its body. --json prints all of it, a line of JSON for each event, which `longshore send --json` takes:
/// topic, partition, sequence_number, offset and enqueued_time, then the fields of a dead letter's record
/// (docs/dead-letters.md): key, message_id and the like, properties, annotations, and body_text,
/// body_base64 or body_amqp.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct TailArgs {
    #[command(flatten)]
    hub: HubArgs,
    /// Reads as this consumer group. Default: that of the settings
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only this partition; may be given several times
    #[arg(long, value_name = "ID")]
    partition: Vec<String>,
    /// Where to begin: latest, earliest, a time such as 2026-01-31T12:00:00Z, or a sequence number; or
    /// ID=POSITION for one partition, which may be given several times. Default: latest
    #[arg(long, value_name = "POSITION")]
    from: Vec<FromArg>,
    /// Most events that are printed. From latest, without --follow: the last ones, 10 by default
    #[arg(short = 'n', long, value_name = "N", value_parser = crate::count(1_000_000_000))]
    count: Option<usize>,
    /// Goes on with what comes, until a Ctrl-C. Default: ends where the logs ended at its start
    #[arg(short, long)]
    follow: bool,
    /// Prints lines of JSON, with all that an event holds
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    all is printed, or a signal ended --follow, or nobody reads stdout any more
  1    the hub cannot be reached
  2    the command line or the configuration cannot be used
  3    a part is missing: a partition that could not be read, or an event that could not be decoded
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
        let position = value::start_position(position).ok_or(
            "it must be latest, earliest, a time such as 2026-01-31T12:00:00Z, or a sequence number; or \
             ID=POSITION for one partition",
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
    let hub = transport.hub_properties().await.map_err(|error| {
        let hub = transport.entity();
        CommandError::new(format!("hub {hub} cannot be read: {}", brief(&error)))
    })?;
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
