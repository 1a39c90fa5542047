//! The store of failures that the settings name, opened.

use std::path::Path;
use std::sync::Arc;

use crate::configured::{FileArgs, refuse, warn};
use crate::{CommandError, ReportFormat, brief};
use longshore::failure_store::FailureStore;
use longshore::settings::{FailurePlace, Settings};

/// What is wrong with settings that have no hub.
pub(super) const WITHOUT_HUB: &str = "has no dead letters that outlive a process";

pub(super) struct Opened {
    pub(super) store: Arc<dyn FailureStore>,
    /// Where it is, without a secret.
    pub(super) place: String,
}

impl Opened {
    /// Opens it; `None` where the settings cannot be used, which everybody was told.
    pub(super) fn new(
        config: &FileArgs,
        report: Option<ReportFormat>,
    ) -> Result<Option<Self>, CommandError> {
        let settings = match config.load(WITHOUT_HUB) {
            Ok(settings) => settings,
            Err(problems) => {
                refuse(&problems, report);
                return Ok(None);
            }
        };
        warn(&settings);
        Self::of(&settings).map(Some)
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

    /// The same, where a folder that is not there is made.
    pub(super) fn or_create(settings: &Settings) -> Result<Self, CommandError> {
        let store = settings.open_failures().map_err(|error| CommandError::new(brief(&error)))?;
        Ok(Self { place: store.place(), store })
    }
}

fn no_folder(path: &Path) -> CommandError {
    CommandError::new(format!(
        "there is no folder {}: no worker with these settings has kept a failure here; \
         LONGSHORE_FAILURES, LONGSHORE_CHECKPOINT_FOLDER or LONGSHORE_CHECKPOINT_CONTAINER names another \
         place",
        path.display()
    ))
}
