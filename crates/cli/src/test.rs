//! `longshore test`: whether the configured hub can be reached, and what to do where it cannot.

use clap::Args;
use serde_json::json;

use super::configured::{ConfigArgs, Configured};
use super::terminal::give;
use super::{CommandError, Ending, ReportFormat};
use longshore::connection_test::{ConnectionReport, Step, StepFailure, test_connection};
use longshore::error::ErrorClass;
use longshore::transport::Publisher;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};

/// Connects to the hub that the environment names, and says how long each step took.
///
/// Reads the same variables as a worker, EVENTHUB_CONNECTION_STRING before all; see
/// docs/configuration.md. Where a step fails it says why, and what to do about it.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct TestArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Sends one event and receives it; every consumer of the hub sees it
    #[arg(long)]
    send: bool,
    /// What stdout gets, instead of text
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    all is well
  1    a step failed
  2    the command line or the configuration cannot be used";

pub(super) async fn run(args: TestArgs) -> Result<Ending, CommandError> {
    let configured = args.config.read(args.report, "has no connection to test").await?;
    let Some(Configured { settings, namespace, entity }) = configured else {
        return Ok(Ending::Unusable);
    };
    let address = namespace.address();
    let publisher = EventHubsPublisher::new(namespace.clone(), entity.clone());
    let publisher = args.send.then_some(&publisher as &dyn Publisher);
    let transport = EventHubsTransport::new(namespace, entity, settings.consumer_group().clone());
    let report = test_connection(&transport, publisher, &address).await;
    give(match args.report {
        Some(ReportFormat::Json) => json!(report).to_string(),
        None => as_text(&report),
    });
    match report.failure {
        None => Ok(Ending::Done),
        Some(failure) => Err(CommandError::new(explained(&failure))),
    }
}

/// The failure in a sentence or two: the innermost cause says what the classes of errors that
/// come from far below leave open.
fn explained(failure: &StepFailure) -> String {
    let mut text = failure.message.clone();
    if let (ErrorClass::Transient | ErrorClass::Unknown, Some(cause)) =
        (failure.class, failure.causes.last())
    {
        text.push_str(&format!(": {cause}"));
    }
    format!("{text}. What to do: {}", failure.advice)
}

fn as_text(report: &ConnectionReport) -> String {
    let mut text = format!(
        "hub {} at {}, consumer group {}\n",
        report.entity, report.address, report.consumer_group
    );
    for step in &report.steps {
        let milliseconds = step.seconds * 1_000.0;
        text.push_str(&format!("  {:<11} {milliseconds:>9.1} ms", step.step));
        if step.step == Step::Properties {
            let partitions = report.partitions.len();
            let plural = if partitions == 1 { "" } else { "s" };
            text.push_str(&format!("  {partitions} partition{plural}"));
        }
        text.push('\n');
    }
    match &report.failure {
        None => text.push_str("all is well"),
        Some(failure) => {
            let (milliseconds, class) = (failure.seconds * 1_000.0, failure.class);
            let step = failure.step;
            text.push_str(&format!("  {step:<11} {milliseconds:>9.1} ms  failed: {class}"));
        }
    }
    text
}
