//! What the command line and the settings name, opened: the hubs, the stores, the scheduler.

use std::sync::Arc;

use super::report::Report;
use super::tally::Tally;
use super::targets::Targets;
use super::{KIND, RetrySchedulerArgs, refused};
use crate::configured::{refuse, warn};
use crate::terminal::{as_json, give, tell};
use crate::{CommandError, ReportFormat, brief};
use longshore::config::{ConsumerOptions, Ordering};
use longshore::dead_letter::DeadLetterSink;
use longshore::failure_store::FailureStore;
use longshore::retry_scheduler::{RetryScheduler, RetrySchedulerOptions};
use longshore::settings::{DeadLetterPlace, Settings, Stores};
use longshore::transport::Transport;
use longshore::transport::event_hubs::EventHubsTransport;

/// What is wrong with settings that have no hub.
const WITHOUT_HUB: &str = "has no retries that others publish";

/// A hub that is read.
pub(super) struct Source {
    pub(super) transport: Arc<EventHubsTransport>,
    /// For people.
    place: String,
}

pub(super) struct Opened {
    pub(super) settings: Settings,
    pub(super) options: ConsumerOptions,
    pub(super) sources: Vec<Source>,
    pub(super) scheduler: Arc<RetryScheduler>,
    pub(super) tally: Tally,
    pub(super) stores: Stores,
    pub(super) dead_letters: Arc<dyn DeadLetterSink>,
    pub(super) failures: Arc<dyn FailureStore>,
    pub(super) report: Option<ReportFormat>,
}

/// The stores of a worker.
type OpenStores = (Stores, Arc<dyn DeadLetterSink>, Arc<dyn FailureStore>);

impl Opened {
    /// Reads the settings and opens what they name; `None` where they cannot be used, which everybody
    /// was told.
    pub(super) async fn new(args: &RetrySchedulerArgs) -> Result<Option<Self>, CommandError> {
        let settings = match args.config.load(WITHOUT_HUB) {
            Ok(settings) => settings,
            Err(problems) => {
                refuse(&problems, args.report);
                return Ok(None);
            }
        };
        warn(&settings);
        let settings = settings.fetched().await?;
        let targets = Arc::new(Targets::new(&settings)?);
        let (sources, options) = match checked(args, &settings, &targets) {
            Ok(checked) => checked,
            Err(problems) => {
                refuse(&problems, args.report);
                return Ok(None);
            }
        };
        let opened = Self::of(args, settings, targets, sources, options).await;
        if let (Err(CommandError(why)), Some(ReportFormat::Json)) = (&opened, args.report) {
            give(as_json(&Report { error: Some(why.clone()), ..Report::default() })?);
        }
        opened.map(Some)
    }

    async fn of(
        args: &RetrySchedulerArgs,
        settings: Settings,
        targets: Arc<Targets>,
        sources: Vec<Source>,
        options: RetrySchedulerOptions,
    ) -> Result<Self, CommandError> {
        let letters = settings.dead_letters_of(args.config.worker().unwrap_or(KIND));
        let (stores, dead_letters, failures) = open_stores(&settings, &letters).await?;
        let consumer_options = options.fit(settings.scheduler_options());
        say(&settings, &sources, &letters, &stores, &consumer_options);
        let tally = Tally::default();
        let told = tally.clone();
        let mut scheduler = RetryScheduler::new(options, move |name: &str| targets.target(name))?
            .on_published(move |published| told.on_published(published));
        for Source { transport, .. } in &sources {
            scheduler = scheduler.reading(transport.namespace(), transport.entity().clone());
        }
        Ok(Self {
            options: consumer_options,
            sources,
            scheduler: Arc::new(scheduler),
            tally,
            stores,
            dead_letters,
            failures,
            report: args.report,
            settings,
        })
    }
}

/// The hubs that are read, and what the scheduler goes by.
///
/// # Errors
/// All that is wrong.
fn checked(
    args: &RetrySchedulerArgs,
    settings: &Settings,
    targets: &Targets,
) -> Result<(Vec<Source>, RetrySchedulerOptions), Vec<String>> {
    let mut problems = Vec::new();
    let options = args.options();
    // It is asked nothing.
    let nothing = |_: &str| Err(String::new());
    if let Err(error) = RetryScheduler::new(options.clone(), nothing) {
        problems.push(refused(&error));
    }
    if settings.consumer_options().ordering != Ordering::Unordered {
        problems.push(
            "LONGSHORE_ORDERING must be unordered for retry-scheduler: each event is published when it is due"
                .to_owned(),
        );
    }
    let mut sources: Vec<Source> = Vec::new();
    for name in &args.from {
        match source(settings, targets, name) {
            Ok(source) if sources.iter().any(|other| is_same(other, &source)) => {
                problems.push(format!("--from {name}: the hub is named twice; name it once"));
            }
            Ok(source) => sources.push(source),
            Err(why) => problems.push(format!("--from {name} cannot be read: {why}")),
        }
    }
    if problems.is_empty() { Ok((sources, options)) } else { Err(problems) }
}

fn is_same(one: &Source, other: &Source) -> bool {
    let (one, other) = (&one.transport, &other.transport);
    one.namespace().eq_ignore_ascii_case(other.namespace()) && one.entity() == other.entity()
}

fn source(settings: &Settings, targets: &Targets, name: &str) -> Result<Source, String> {
    if let Some(worker) = settings.writer_of_dead_letters(name) {
        return Err(format!("the worker {worker} writes its dead letters there"));
    }
    let (namespace, entity) = targets.hub(name)?;
    let hub = format!("hub {entity} at {}", namespace.address());
    let is_named_so = name.eq_ignore_ascii_case(entity.as_str());
    let place = if is_named_so { hub } else { format!("topic {name} ({hub})") };
    let group = settings.consumer_group().clone();
    Ok(Source { transport: Arc::new(EventHubsTransport::new(namespace, entity, group)), place })
}

/// Opens the stores. They handle files.
async fn open_stores(
    settings: &Settings,
    letters: &DeadLetterPlace,
) -> Result<OpenStores, CommandError> {
    let (settings, letters) = (settings.clone(), letters.clone());
    let opening = tokio::task::spawn_blocking(move || {
        let failed = |error: longshore::Error| CommandError::new(brief(&error));
        let stores = settings.open_stores().map_err(failed)?;
        let dead_letters = settings.open_dead_letters(&letters).map_err(failed)?;
        Ok((stores, dead_letters, settings.open_failures().map_err(failed)?))
    });
    opening.await.map_err(|error| CommandError::new(error.to_string()))?
}

/// Tells what is read, and where everything goes.
fn say(
    settings: &Settings,
    sources: &[Source],
    letters: &DeadLetterPlace,
    stores: &Stores,
    options: &ConsumerOptions,
) {
    let group = settings.consumer_group();
    for Source { place, .. } in sources {
        tell(format_args!("reads {place}, consumer group {group}"));
    }
    tell(format_args!(
        "what is due later than {:?} waits in {}, dead letters go to {letters}",
        options.park_after,
        settings.failure_place()
    ));
    let shared = match stores.leases {
        Some(_) => "shared with other schedulers",
        None => "for this one alone",
    };
    tell(format_args!(
        "checkpoints are in {}, {shared}; {} events at once",
        settings.checkpoint_place(),
        options.max_events_in_flight
    ));
}
