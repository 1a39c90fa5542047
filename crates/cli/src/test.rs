//! `longshore test`: whether a worker with these settings can work, and what to do if not.

use clap::Args;
use serde_json::json;

use super::configured::{ConfigArgs, Configured, refuse};
use super::terminal::give;
use super::worker::opened::unfit_pair;
use super::{CommandError, Ending, ReportFormat, brief};
use longshore::connection_test::{ConnectionReport, ConnectionTest, Step, StepFailure};
use longshore::error::ErrorClass;
use longshore::settings::{CheckpointPlace, Settings, Stores};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};

/// Tests whether a worker with these settings can work.
///
/// It checks the settings as a worker does, connects to the hub, checks that the consumer group exists, and
/// that checkpoints can be read and written. It changes nothing, disturbs no worker, and prints how long
/// each step took. If a step fails, it says why and what to do. It reads the variables of a worker, such as
/// EVENTHUB_CONNECTION_STRING; docs/configuration.md lists them.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(super) struct TestArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Also sends one event and receives it. Every consumer of the hub sees that event
    #[arg(long)]
    send: bool,
    /// Prints the result in this format. Default: text
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    all is well
  1    a step failed
  2    the command line or the settings cannot be used";

/// A checkpoint store that was opened, or why it is not asked.
enum Checkpoints {
    Opened(Stores),
    NotAsked(String),
}

pub(super) async fn run(args: TestArgs) -> Result<Ending, CommandError> {
    let configured = args.config.read(args.report, "has no connection to test").await?;
    let Some(Configured { settings, namespace, entity }) = configured else {
        return Ok(Ending::Unusable);
    };
    let problems = problems(&settings, args.config.worker());
    if !problems.is_empty() {
        refuse(&problems, args.report);
        return Ok(Ending::Unusable);
    }
    let checkpoints = open_checkpoints(&settings)?;
    let address = namespace.address();
    let publisher = EventHubsPublisher::new(namespace.clone(), entity.clone());
    let transport = EventHubsTransport::new(namespace, entity, settings.consumer_group().clone());
    let mut test = ConnectionTest::new(&transport, address);
    if args.send {
        test = test.with_publisher(&publisher);
    }
    let not_asked = match &checkpoints {
        Checkpoints::Opened(stores) => {
            test = test.with_checkpoints(&stores.checkpoints);
            None
        }
        Checkpoints::NotAsked(why) => Some(why.as_str()),
    };
    let report = test.run().await;
    give(match args.report {
        Some(ReportFormat::Json) => {
            let mut shown = json!(report);
            shown["checkpoints"] = json!(settings.checkpoint_place().to_string());
            shown["checkpoints_not_asked"] = json!(not_asked);
            shown.to_string()
        }
        None => as_text(&report, &settings.checkpoint_place(), not_asked),
    });
    match report.failure {
        None => Ok(Ending::Done),
        Some(failure) => Err(CommandError::new(explained(&failure))),
    }
}

/// What a worker with these settings would refuse at its start, although each value is allowed.
fn problems(settings: &Settings, worker: Option<&str>) -> Vec<String> {
    // A worker that moves files handles no batches.
    if let Some(worker) = worker.filter(|worker| settings.has_worker(worker)) {
        let refused = settings.worker(worker).err();
        let problems = refused.iter().flat_map(|error| error.problems());
        return problems.map(ToString::to_string).chain(unfit_pair(settings)).collect();
    }
    let options = settings.consumer_options();
    let refused = options.validate_batches().err();
    let said = refused.map(|_| {
        format!(
            "LONGSHORE_MAX_BATCH_SIZE x LONGSHORE_MAX_BATCHES_IN_FLIGHT = {} x {}: the product must \
             be at most LONGSHORE_WINDOW_EVENTS, which is {}",
            options.max_batch_size, options.max_batches_in_flight, options.window_events
        )
    });
    said.into_iter().collect()
}

/// Opens the checkpoint store. A folder is not created here, and one that a worker uses is left alone.
fn open_checkpoints(settings: &Settings) -> Result<Checkpoints, CommandError> {
    let place = settings.checkpoint_place();
    if let CheckpointPlace::Folder(path) = &place
        && !path.exists()
    {
        let why = format!("{place} does not exist yet; the first worker creates it");
        return Ok(Checkpoints::NotAsked(why));
    }
    match settings.open_stores() {
        Ok(stores) => Ok(Checkpoints::Opened(stores)),
        // As the lock of the folder says it.
        Err(error) if error.to_string().contains(" is in use by ") => {
            Ok(Checkpoints::NotAsked(format!("{place} is in use by a worker that runs")))
        }
        Err(error) => Err(CommandError::new(brief(&error))),
    }
}

/// The failure in a sentence or two. The innermost cause says what the classes of errors that come from
/// far below leave open.
fn explained(failure: &StepFailure) -> String {
    let mut text = failure.message.clone();
    if let (ErrorClass::Transient | ErrorClass::Unknown, Some(cause)) =
        (failure.class, failure.causes.last())
    {
        text.push_str(&format!(": {cause}"));
    }
    format!("{text}. What to do: {}", failure.advice)
}

fn as_text(report: &ConnectionReport, place: &CheckpointPlace, not_asked: Option<&str>) -> String {
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
        if step.step == Step::Checkpoints {
            text.push_str(&format!("  {place}"));
        }
        text.push('\n');
    }
    match &report.failure {
        None => {
            if let Some(why) = not_asked {
                text.push_str(&format!("  {:<11} {:>12}  {why}\n", Step::Checkpoints, "not asked"));
            }
            text.push_str("all is well");
        }
        Some(failure) => {
            let (milliseconds, cause) = (failure.seconds * 1_000.0, failure.cause);
            let step = failure.step;
            text.push_str(&format!("  {step:<11} {milliseconds:>9.1} ms  failed: {cause}"));
        }
    }
    text
}
