//! `longshore retry-scheduler`: serves hubs where others publish what is to be tried again later.
//!
//! ```text
//!  retry hubs ──> consumers ──> RetryScheduler ── due ──> the hub that each event names
//!                     │               └── not due ──> store of failures
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
use super::{CommandError, DurationArg, Ending, ReportFormat};
use longshore::error::InvalidConfig;
use longshore::retry_scheduler::{
    DEFAULT_ATTEMPTS_PROPERTY, DEFAULT_DELAY_PROPERTY, DEFAULT_DUE_PROPERTY, DEFAULT_KEY_PROPERTY,
    DEFAULT_TARGET_PROPERTY, RetrySchedulerOptions,
};

/// What it is called, and the table of its settings unless another is asked for.
const KIND: &str = "retry-scheduler";

/// Publishes the events of retry hubs, each to the hub that it names and when it is due, until a signal ends it.
///
/// It serves hubs where workers publish what failed, with properties that say where it belongs and when it is due. An
/// event goes out with its body, key and properties; those that are the scheduler's own are taken off. What is not due
/// waits in the store of failures, beside the checkpoints, and holds nothing up. What cannot be scheduled is a dead
/// letter that says why.
///
/// It is made of settings as `longshore worker` is: a TOML file and the environment, which wins. A target is the name of
/// a table [topics.NAME], or a hub of the namespace that all share. Several may share the hubs, with checkpoints in a
/// container.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct RetrySchedulerArgs {
    /// A hub to read: the name of a table [topics.NAME], or a hub of the namespace that all share. Give it once for each
    #[arg(long = "from", value_name = "HUB", required = true)]
    from: Vec<String>,
    /// A target that events may name; others are dead letters. Give it once for each. Default: all
    #[arg(long, value_name = "HUB")]
    allow: Vec<String>,
    /// An event that says that it was tried so often is a dead letter. Default: no limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: Option<u32>,
    /// How long an event may wait, for example 48h: one that is due later is a dead letter. Default: 30 days
    #[arg(long, value_name = "TIME")]
    max_delay: Option<DurationArg>,
    #[command(flatten)]
    properties: PropertyArgs,
    #[command(flatten)]
    config: ConfigArgs,
    /// What stdout gets at the end, instead of a sentence
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

/// What the properties of events are called.
#[derive(Args, Debug)]
#[command(next_help_heading = "Names of properties")]
struct PropertyArgs {
    /// The hub that an event goes to
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TARGET_PROPERTY)]
    target_property: String,
    /// When it is due: a time of AMQP, RFC 3339, or seconds or milliseconds since 1970
    #[arg(long, value_name = "NAME", default_value = DEFAULT_DUE_PROPERTY)]
    due_property: String,
    /// After how many seconds it is due, counted from when it was enqueued; where there is no time. Without both it is
    /// due at once
    #[arg(long, value_name = "NAME", default_value = DEFAULT_DELAY_PROPERTY)]
    delay_property: String,
    /// How often it was tried; it is read for --max-attempts, and stays with the event
    #[arg(long, value_name = "NAME", default_value = DEFAULT_ATTEMPTS_PROPERTY)]
    attempts_property: String,
    /// The partition key that it is published with. Default where it is missing: the key that it came with
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

const EXIT_CODES: &str = "\
Exit codes:
  0         a Ctrl-C or SIGTERM was drained: what was begun is done; the next start goes on
  1         stopped by the environment, such as a hub that is not there or a store that refuses
  2         the command line or the configuration cannot be used
  3         drained, but partitions had stopped before; it was said why
  4         the drain ran out of time: the next start does again what was cut
  130, 143  a second Ctrl-C or SIGTERM stopped it at once; the next start goes on";

pub(super) async fn run(args: RetrySchedulerArgs) -> Result<Ending, CommandError> {
    match opened::Opened::new(&args).await? {
        Some(opened) => service::serve(opened).await,
        None => Ok(Ending::Unusable),
    }
}
