//! The store of failures that the settings name, opened.

use std::path::Path;
use std::sync::Arc;

use crate::configured::{FileArgs, refuse, warn};
use crate::{CommandError, ReportFormat, brief};
use longshore::event::EntityName;
use longshore::failure_store::FailureStore;
use longshore::settings::{FailurePlace, Settings};
use longshore::transport::event_hubs::Namespace;

/// What is wrong with settings that have no hub.
pub(crate) const WITHOUT_HUB: &str = "has no dead letters that outlive a process";

pub(crate) struct Opened {
    pub(crate) store: Arc<dyn FailureStore>,
    /// Where it is, without a secret.
    pub(crate) place: String,
}

impl Opened {
    /// Opens it; `None` if the settings cannot be used, which everybody was told.
    pub(crate) fn new(
        config: &FileArgs,
        report: Option<ReportFormat>,
    ) -> Result<Option<Self>, CommandError> {
        Ok(Self::with_settings(config, report)?.map(|(opened, _)| opened))
    }

    /// The same, with the settings.
    pub(crate) fn with_settings(
        config: &FileArgs,
        report: Option<ReportFormat>,
    ) -> Result<Option<(Self, Settings)>, CommandError> {
        let settings = match config.load(WITHOUT_HUB) {
            Ok(settings) => settings,
            Err(problems) => {
                refuse(&problems, report);
                return Ok(None);
            }
        };
        warn(&settings);
        let opened = Self::of(&settings)?;
        Ok(Some((opened, settings)))
    }

    fn of(settings: &Settings) -> Result<Self, CommandError> {
        if let FailurePlace::Folder(path) = settings.failure_place() {
            let path = std::path::absolute(&path).unwrap_or(path);
            // Who reads from a folder that is not there is in the wrong place.
            if !path.exists() {
                return Err(no_folder(&path));
            }
        }
        Self::or_create(settings)
    }

    /// The same, if a folder that is not there is made.
    pub(crate) fn or_create(settings: &Settings) -> Result<Self, CommandError> {
        let store = settings.open_failures().map_err(|error| CommandError::new(brief(&error)))?;
        Ok(Self { place: store.place(), store })
    }
}

/// The hub of a topic, or the one of this name in the namespace that all share.
pub(crate) fn hub_named(
    settings: &Settings,
    hub: &str,
) -> Result<(Namespace, EntityName), CommandError> {
    Ok(match settings.topic(hub) {
        Ok(topic) => (settings.namespace_of(topic)?, topic.entity().clone()),
        Err(_no_topic) => (settings.namespace()?, hub.into()),
    })
}

fn no_folder(path: &Path) -> CommandError {
    CommandError::new(format!(
        "there is no folder {}: no worker with these settings has kept a failure here; \
         LONGSHORE_FAILURES, LONGSHORE_CHECKPOINT_FOLDER or LONGSHORE_CHECKPOINT_CONTAINER names another \
         place",
        path.display()
    ))
}
