//! What the settings of a worker name, opened: the hubs, the stores, the place of the files.

use std::fmt;
use std::sync::Arc;

use super::RunArgs;
use super::report::Report;
use super::tally::Tally;
use crate::configured::{refuse, warn};
use crate::little_memory;
use crate::place::unfit;
use crate::terminal::{as_json, give, tell};
use crate::{CommandError, ReportFormat, brief};
use longshore::blob_store::{BlobError, BlobSource, BlobStore};
use longshore::config::{CopyBy, GoesAlong, Ordering, RateLimits};
use longshore::dead_letter::DeadLetterSink;
use longshore::failure_store::FailureStore;
use longshore::producer::EntityProducer;
use longshore::settings::{DeadLetterPlace, FilesPlace, Settings, Stores, Topic, WorkerPlaces};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};

/// What is wrong with settings that have no hub.
const WITHOUT_HUB: &str = "has no tasks that others publish";

pub(super) struct Opened {
    /// What kind of worker it is.
    pub(super) kind: &'static str,
    pub(super) settings: Settings,
    pub(super) transport: Arc<EventHubsTransport>,
    pub(super) stores: Stores,
    pub(super) files: Arc<dyn BlobStore>,
    /// Where files come from, if that is no URL of a task.
    pub(super) source: Option<Arc<dyn BlobSource>>,
    /// What goes along with each file.
    pub(super) along: GoesAlong,
    /// Who copies them.
    pub(super) copy: CopyBy,
    pub(super) results: Arc<EntityProducer>,
    /// What was published to it.
    pub(super) tally: Arc<Tally>,
    pub(super) dead_letters: Arc<dyn DeadLetterSink>,
    /// Where events are parked.
    pub(super) failures: Arc<dyn FailureStore>,
    pub(super) report: Option<ReportFormat>,
}

/// Where a kind of worker has its files from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// The URLs of its tasks.
    Urls,
    /// A place of its own.
    Source,
}

impl Opened {
    /// Reads the settings and opens what they name; `None` if they cannot be used, which everybody
    /// was told.
    pub(super) async fn new(
        args: &RunArgs,
        kind: &'static str,
        needs: Needs,
    ) -> Result<Option<Self>, CommandError> {
        let refused = |problems: Vec<String>| -> Result<Option<Self>, CommandError> {
            refuse(&problems, args.report);
            Ok(None)
        };
        let settings = match args.config.load(WITHOUT_HUB) {
            Ok(settings) => settings,
            Err(problems) => return refused(problems),
        };
        let name = args.config.worker().unwrap_or(kind).to_owned();
        // What is in a vault may name the hub yet.
        if settings.secret_address().is_none()
            && let Err(problems) = places(&settings, &name, needs)
        {
            return refused(problems);
        }
        warn(&settings);
        let settings = settings.fetched().await?;
        let places = match places(&settings, &name, needs) {
            Ok(places) => places,
            Err(problems) => return refused(problems),
        };
        let opened = Self::of(settings, &places, kind, args.report).await;
        if let (Err(CommandError(why)), Some(ReportFormat::Json)) = (&opened, args.report) {
            give(as_json(&Report { error: Some(why.clone()), ..Report::default() })?);
        }
        opened.map(Some)
    }

    async fn of(
        settings: Settings,
        places: &WorkerPlaces,
        kind: &'static str,
        report: Option<ReportFormat>,
    ) -> Result<Self, CommandError> {
        let publisher = |topic: &Topic| -> Result<EventHubsPublisher, CommandError> {
            Ok(EventHubsPublisher::new(settings.namespace_of(topic)?, topic.entity().clone()))
        };
        let input = settings.namespace_of(&places.input)?;
        let group = settings.consumer_group().clone();
        let transport = EventHubsTransport::new(input, places.input.entity().clone(), group);
        let tally = Arc::new(Tally::new(publisher(&places.results)?));
        let (of_settings, of_places) = (settings.clone(), places.clone());
        // It handles files.
        let opening = tokio::task::spawn_blocking(move || {
            let failed = |error: longshore::Error| CommandError::new(brief(&error));
            let stores = of_settings.open_stores().map_err(failed)?;
            let letters = of_settings.open_dead_letters(&of_places.dead_letters).map_err(failed)?;
            let failures = of_settings.open_failures().map_err(failed)?;
            let (slots, limits) = (
                of_settings.consumer_options().max_events_in_flight,
                of_settings.download_limits(),
            );
            let streams = slots.max(limits.connections);
            little_memory::on_transfer_budget(limits.transfer_budget);
            let open = |place: FilesPlace| place.open(streams, limits.transfer_budget);
            let files = open(of_places.files)?.store;
            let source = of_places.source.map(open).transpose()?;
            let source = source.map(|opened| opened.source);
            Ok::<_, CommandError>((stores, files, source, letters, failures))
        });
        let opened = opening.await.map_err(|error| CommandError::new(error.to_string()))?;
        let (stores, files, source, dead_letters, failures) = opened?;
        say(&settings, places, &stores)?;
        check(&*files, source.as_deref()).await?;
        Ok(Self {
            kind,
            transport: Arc::new(transport),
            stores,
            files,
            source,
            along: places.along,
            copy: places.copy,
            results: Arc::new(EntityProducer::new(Arc::clone(&tally) as _)),
            tally,
            dead_letters,
            failures,
            report,
            settings,
        })
    }
}

/// Looks whether files can be had and put. Where nothing answers, the worker waits as it does later on:
/// that may pass, and is said.
///
/// # Errors
/// Every task would meet the same.
async fn check(files: &dyn BlobStore, source: Option<&dyn BlobSource>) -> Result<(), CommandError> {
    let readable = async {
        match source {
            Some(source) => source.check_readable().await,
            None => Ok(()),
        }
    };
    let (writable, readable) = futures::join!(files.check_writable(), readable);
    for checked in [readable, writable] {
        match checked {
            Ok(()) => {}
            Err(error @ BlobError::Unusable { .. }) => {
                return Err(CommandError::new(unfit(&error)));
            }
            Err(error) => tell(format_args!("{}; files wait for it", unfit(&error))),
        }
    }
    Ok(())
}

/// What two settings do not do together in a worker that moves files: its consumer has lanes of its own, and no
/// others.
pub(crate) fn unfit_pair(settings: &Settings) -> Option<String> {
    let ordering = settings.consumer_options().ordering;
    let is_unfit = ordering != Ordering::Unordered && settings.connections_per_host().is_some();
    is_unfit.then(|| {
        format!(
            "LONGSHORE_CONNECTIONS_PER_HOST must not be given beside LONGSHORE_ORDERING = {}",
            ordering.as_str()
        )
    })
}

/// What the worker reads, and where it writes; or all that is wrong with that.
fn places(settings: &Settings, name: &str, needs: Needs) -> Result<WorkerPlaces, Vec<String>> {
    let mut problems: Vec<String> = Vec::new();
    let mut add = |error: longshore::settings::SettingsError| {
        problems.extend(error.problems().iter().map(ToString::to_string));
        problems.extend(error.warnings().iter().cloned());
    };
    let places = match needs {
        Needs::Urls => settings.worker(name),
        Needs::Source => settings.worker_with_source(name),
    };
    let places = places.map_err(&mut add).ok();
    problems.extend(unfit_pair(settings));
    places.filter(|_| problems.is_empty()).ok_or(problems)
}

/// Tells what the worker reads, and where it writes.
fn say(settings: &Settings, places: &WorkerPlaces, stores: &Stores) -> Result<(), CommandError> {
    let hub = |topic: &Topic| -> Result<String, CommandError> {
        let (entity, address) = (topic.entity(), settings.namespace_of(topic)?.address());
        let hub = format!("hub {entity} at {address}");
        let is_named_so = topic.name().eq_ignore_ascii_case(entity.as_str());
        Ok(if is_named_so { hub } else { format!("topic {topic} ({hub})") })
    };
    tell(format_args!(
        "reads {}, consumer group {}",
        hub(&places.input)?,
        settings.consumer_group()
    ));
    let dead_letters = match &places.dead_letters {
        DeadLetterPlace::Topic(topic) => hub(topic)?,
        folder => folder.to_string(),
    };
    if let Some(source) = &places.source {
        tell(format_args!("files come from {source}"));
    }
    tell(format_args!(
        "files go to {}, results to {}, dead letters to {dead_letters}",
        places.files,
        hub(&places.results)?
    ));
    let shared = match stores.leases {
        Some(_) => "shared with other workers",
        None => "for this worker alone",
    };
    tell(format_args!(
        "checkpoints are in {}, {shared}; {}",
        settings.checkpoint_place(),
        Limits(settings)
    ));
    Ok(())
}

/// How many files at once, and how fast.
struct Limits<'a>(&'a Settings);

impl fmt::Display for Limits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(settings) = self;
        write!(f, "{} files at once", settings.consumer_options().max_events_in_flight)?;
        if let Some(most) = settings.connections_per_host() {
            write!(f, ", {most} of a host")?;
        }
        let RateLimits {
            requests_per_second,
            requests_per_second_per_host,
            bytes_per_second,
            bytes_per_second_per_host,
            ..
        } = settings.rate_limits();
        for (rate, of) in [
            (requests_per_second, "requests a second"),
            (requests_per_second_per_host, "requests a second to a host"),
            (bytes_per_second, "bytes a second"),
            (bytes_per_second_per_host, "bytes a second from a host"),
        ] {
            if let Some(rate) = rate {
                write!(f, ", {rate} {of}")?;
            }
        }
        Ok(())
    }
}
