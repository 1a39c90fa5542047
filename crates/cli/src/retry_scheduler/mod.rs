//! `longshore retry-scheduler`: serves hubs where others publish what is to be tried again later.
//!
//! ```text
//!  retry hubs ──> consumers ──> RetryScheduler ── due ──> the hub that each event names
//!                     │               └── not due ──> failure store
//!                     └──> dead letters
//! ```
//!
//! `opened` opens what the command line and the settings name, `targets` says which hub a name stands for, `service` runs
//! it until a signal or a failure ends it, `tally` counts what was published, `report` tells how it went.

mod opened;
mod report;
mod service;
mod tally;
mod targets;

use clap::Args;

use super::configured::ConfigArgs;
use super::{CommandError, DurationArg, Ending, ReportFormat, service as service_end};
use longshore::error::InvalidConfig;
use longshore::retry_scheduler::{
    DEFAULT_ATTEMPTS_PROPERTY, DEFAULT_DELAY_PROPERTY, DEFAULT_DUE_PROPERTY, DEFAULT_KEY_PROPERTY,
    DEFAULT_TARGET_PROPERTY, RetrySchedulerOptions,
};

/// What it is called, and the table of its settings unless another is asked for.
const KIND: &str = "retry-scheduler";

/// Reads retry hubs, and publishes each event, when it is due, to the hub that it names.
///
/// Workers publish failed events to a retry hub. Properties of an event name its target hub and the time at which it is
/// due. An event that is not due yet waits in the failure store, and delays no other event. It is published with its
/// body, its key and its properties, without those that name its target, time, delay and key. An event that cannot be
/// scheduled becomes a dead letter with the reason.
///
/// Settings come from a TOML file and the environment, as for `longshore worker`. The environment wins. A target is the
/// name of a table [topics.NAME], or a hub in the namespace of EVENTHUB_CONNECTION_STRING. Several schedulers can share
/// the hubs if their checkpoints are in a container. The command runs until a signal.
#[derive(Args, Debug)]
#[command(after_long_help = service_end::EXIT_CODES)]
pub(super) struct RetrySchedulerArgs {
    /// A hub to read: the name of a table [topics.NAME], or a hub in the namespace of EVENTHUB_CONNECTION_STRING. May be
    /// given several times
    #[arg(long = "from", value_name = "HUB", required = true)]
    from: Vec<String>,
    /// An allowed target. An event with another target becomes a dead letter. May be given several times. Default: every
    /// target is allowed
    #[arg(long, value_name = "HUB")]
    allow: Vec<String>,
    /// An event with this many attempts or more becomes a dead letter. Default: no limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: Option<u32>,
    /// How long an event may wait, for example 48h. An event that is due later becomes a dead letter. Default: 30 days
    #[arg(long, value_name = "TIME")]
    max_delay: Option<DurationArg>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Prints the result in this format. Default: text
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
    #[command(flatten)]
    properties: PropertyArgs,
}

/// What the properties of events are called.
#[derive(Args, Debug)]
#[command(next_help_heading = "Names of properties")]
struct PropertyArgs {
    /// The property that names the target hub
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TARGET_PROPERTY)]
    target_property: String,
    /// The property with the time at which the event is due: an AMQP timestamp, an RFC 3339 text, or seconds or
    /// milliseconds since 1970
    #[arg(long, value_name = "NAME", default_value = DEFAULT_DUE_PROPERTY)]
    due_property: String,
    /// The property with the delay in seconds, counted from the enqueued time. It is read if the event names no time. An
    /// event with neither is due at once
    #[arg(long, value_name = "NAME", default_value = DEFAULT_DELAY_PROPERTY)]
    delay_property: String,
    /// The property with the number of attempts, for --max-attempts. It stays with the event
    #[arg(long, value_name = "NAME", default_value = DEFAULT_ATTEMPTS_PROPERTY)]
    attempts_property: String,
    /// The property with the partition key to publish with. An event without it keeps its own key
    #[arg(long, value_name = "NAME", default_value = DEFAULT_KEY_PROPERTY)]
    key_property: String,
}

impl RetrySchedulerArgs {
    /// What the scheduler goes by.
    fn options(&self) -> RetrySchedulerOptions {
        let mut options = RetrySchedulerOptions::default();
        let properties = &mut options.properties;
        properties.target.clone_from(&self.properties.target_property);
        properties.due.clone_from(&self.properties.due_property);
        properties.delay.clone_from(&self.properties.delay_property);
        properties.attempts.clone_from(&self.properties.attempts_property);
        properties.key.clone_from(&self.properties.key_property);
        options.max_attempts = self.max_attempts;
        if let Some(DurationArg(limit)) = self.max_delay {
            options.max_delay = limit;
        }
        if !self.allow.is_empty() {
            options.allowed = Some(self.allow.iter().map(|name| name.as_str().into()).collect());
        }
        options
    }
}

/// What an option that cannot be used is called on the command line.
fn refused(error: &InvalidConfig) -> String {
    let flag = error.field.replace('_', "-");
    format!("--{flag} {} cannot be used: {}", error.value, error.bound)
}

pub(super) async fn run(args: RetrySchedulerArgs) -> Result<Ending, CommandError> {
    match opened::Opened::new(&args).await? {
        Some(opened) => service::serve(opened).await,
        None => Ok(Ending::Unusable),
    }
}
