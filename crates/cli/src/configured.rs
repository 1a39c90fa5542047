//! The hub that the environment and a file name, for the commands that a worker's settings steer.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::terminal::{give, tell};
use super::{CommandError, ReportFormat, brief};
use longshore::error::Error;
use longshore::event::EntityName;
use longshore::settings::{Settings, SettingsError, Topic, TransportKind};
use longshore::transport::event_hubs::Namespace;

/// Which file the settings come from, beside the environment.
#[derive(Args, Debug)]
pub(super) struct FileArgs {
    /// Also reads settings from this TOML file. The environment wins. Default: no file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where the settings come from.
#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The worker whose settings are used: the table [worker.NAME]. Without such a table, the variable
    /// EVENTHUB_ENTITY_<NAME> names its hub. Default: `worker` and `retry-scheduler` use the kind of worker
    /// that they run as NAME, other commands the settings that all workers share
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
}

/// Which hub, and where its settings come from.
#[derive(Args, Debug)]
pub(super) struct HubArgs {
    /// The hub: a topic of the settings, or a hub in the namespace of EVENTHUB_CONNECTION_STRING. Default:
    /// EVENTHUB_ENTITY_NAME, or the EntityPath of the connection string
    #[arg(long, value_name = "NAME", conflicts_with = "worker")]
    hub: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl HubArgs {
    /// As [`ConfigArgs::read`], of the hub that is asked for.
    pub(super) async fn read(
        &self,
        report: Option<ReportFormat>,
        without_hub: &str,
    ) -> Result<Option<Configured>, CommandError> {
        let Some(hub) = &self.hub else {
            return self.config.read_hub(report, without_hub, "; or give --hub").await;
        };
        let settings = match self.config.load(without_hub) {
            Ok(settings) => settings,
            Err(problems) => {
                refuse(&problems, report);
                return Ok(None);
            }
        };
        warn(&settings);
        let settings = settings.fetched().await?;
        let (namespace, entity) = hub_named(&settings, hub)?;
        Ok(Some(Configured { settings, namespace, entity }))
    }
}

/// What ends a command whose hub does not answer. `place` is where it was looked for.
pub(super) fn no_answer(hub: &EntityName, place: &str, error: &Error) -> CommandError {
    CommandError::new(format!(
        "the hub {hub} at {place} cannot be used: {}. `longshore test` says what to check",
        brief(error)
    ))
}

/// The hub of a topic, or the one of this name in the namespace that all share.
pub(super) fn hub_named(
    settings: &Settings,
    hub: &str,
) -> Result<(Namespace, EntityName), CommandError> {
    Ok(match settings.topic(hub) {
        Ok(topic) => (settings.namespace_of(topic)?, topic.entity().clone()),
        Err(_no_topic) => (settings.namespace()?, hub.into()),
    })
}

/// A hub to connect to.
pub(super) struct Configured {
    pub(super) settings: Settings,
    pub(super) namespace: Namespace,
    pub(super) entity: EntityName,
}

impl ConfigArgs {
    /// The name of the worker that is asked for.
    pub(super) fn worker(&self) -> Option<&str> {
        self.worker.as_deref()
    }

    /// Reads the settings, and the connection string where it is in a vault; `None` if they
    /// cannot be used, which everybody was told. `without_hub` is what is wrong with a transport
    /// that has no hub.
    pub(super) async fn read(
        &self,
        report: Option<ReportFormat>,
        without_hub: &str,
    ) -> Result<Option<Configured>, CommandError> {
        self.read_hub(report, without_hub, "").await
    }

    /// The same; `way_out` is said where no hub is named.
    async fn read_hub(
        &self,
        report: Option<ReportFormat>,
        without_hub: &str,
        way_out: &str,
    ) -> Result<Option<Configured>, CommandError> {
        let loaded = self.load(without_hub).and_then(|settings| {
            // What is in a vault may name the hub yet.
            if settings.secret_address().is_none() {
                self.input(&settings).map_err(|error| {
                    let problems = error.problems().iter();
                    problems.map(|problem| format!("{problem}{way_out}")).collect::<Vec<_>>()
                })?;
            }
            Ok(settings)
        });
        let settings = match loaded {
            Ok(settings) => settings,
            Err(problems) => {
                refuse(&problems, report);
                return Ok(None);
            }
        };
        warn(&settings);
        let settings = settings.fetched().await?;
        let input = self.input(&settings)?;
        let namespace = settings.namespace_of(&input)?;
        let entity = input.entity().clone();
        Ok(Some(Configured { settings, namespace, entity }))
    }

    /// What the worker reads that is asked for, or the hub of all.
    fn input(&self, settings: &Settings) -> Result<Topic, SettingsError> {
        match &self.worker {
            Some(worker) => settings.input_of(worker),
            None => settings.input(),
        }
    }

    /// Reads the settings, without the hub; or says all that is wrong with them.
    pub(super) fn load(&self, without_hub: &str) -> Result<Settings, Vec<String>> {
        self.file.load(without_hub)
    }
}

impl FileArgs {
    /// Reads the settings; or says all that is wrong with them. `without_hub` is what is wrong with a
    /// transport that has no hub.
    pub(super) fn load(&self, without_hub: &str) -> Result<Settings, Vec<String>> {
        let environment = std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        });
        let settings = Settings::load(environment, self.config.as_deref()).map_err(|error| {
            let problems = error.problems().iter().map(ToString::to_string);
            let warnings = error.warnings().iter().map(|warning| format!("beside that: {warning}"));
            problems.chain(warnings).collect::<Vec<_>>()
        })?;
        if settings.transport() == TransportKind::Memory {
            return Err(vec![format!("PIPELINE_TRANSPORT = memory {without_hub}")]);
        }
        Ok(settings)
    }
}

/// Tells what is odd with the configuration.
pub(super) fn warn(settings: &Settings) {
    for warning in settings.warnings() {
        tell(warning);
    }
}

/// Says all that is wrong with the configuration.
pub(super) fn refuse(problems: &[String], report: Option<ReportFormat>) {
    if report == Some(ReportFormat::Json) {
        give(json!({ "problems": problems }));
    }
    for problem in problems {
        tell(problem);
    }
}
