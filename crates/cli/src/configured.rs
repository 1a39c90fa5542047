//! The hub that the environment and a file name, for the commands that a worker's settings steer.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::terminal::{give, tell};
use super::{CommandError, ReportFormat};
use longshore::event::EntityName;
use longshore::settings::{Settings, TransportKind};
use longshore::transport::event_hubs::Namespace;

/// Where the settings come from.
#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    /// Takes keys from this TOML file as well; the environment wins
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Takes the hub of this worker
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
}

/// A hub to connect to.
pub(super) struct Configured {
    pub(super) settings: Settings,
    pub(super) namespace: Namespace,
    pub(super) entity: EntityName,
}

impl ConfigArgs {
    /// Reads the settings, and the connection string where it is in a vault; `None` where they
    /// cannot be used, which everybody was told. `without_hub` is what is wrong with a transport
    /// that has no hub.
    pub(super) async fn read(
        &self,
        report: Option<ReportFormat>,
        without_hub: &str,
    ) -> Result<Option<Configured>, CommandError> {
        let settings = match self.settings(without_hub) {
            Ok(settings) => settings,
            Err(problems) => {
                refuse(&problems, report);
                return Ok(None);
            }
        };
        for warning in settings.warnings() {
            tell(warning);
        }
        let settings = settings.fetched().await?;
        let namespace = settings.namespace()?;
        let entity = match &self.worker {
            Some(worker) => settings.entity_of(worker)?,
            None => settings.entity()?,
        };
        Ok(Some(Configured { settings, namespace, entity }))
    }

    fn settings(&self, without_hub: &str) -> Result<Settings, Vec<String>> {
        let settings = Settings::from_process(self.config.as_deref()).map_err(|error| {
            let problems = error.problems().iter().map(ToString::to_string);
            problems.chain(error.warnings().iter().cloned()).collect::<Vec<_>>()
        })?;
        if settings.transport() == TransportKind::Memory {
            return Err(vec![format!("PIPELINE_TRANSPORT = memory {without_hub}")]);
        }
        // What is in a vault may name the hub yet.
        if settings.secret_address().is_none() {
            let entity = match &self.worker {
                Some(worker) => settings.entity_of(worker),
                None => settings.entity(),
            };
            entity.map_err(|error| vec![error.to_string()])?;
        }
        Ok(settings)
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
