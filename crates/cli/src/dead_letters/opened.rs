//! The failure store that the settings name, opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::configured::{FileArgs, refuse, warn};
use crate::{CommandError, ReportFormat, brief};
use longshore::failure_store::FailureStore;
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::settings::{FailurePlace, Settings};

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
        // Who reads from a folder that is not there is in the wrong place.
        match missing_folder(settings) {
            Some(path) => Err(no_folder(&path)),
            None => Self::or_create(settings),
        }
    }

    /// The same, where a folder that is not there holds nothing, and is not made.
    pub(crate) fn or_empty(settings: &Settings) -> Result<Self, CommandError> {
        match missing_folder(settings) {
            Some(path) => Ok(Self {
                store: Arc::new(MemoryFailureStore::new()),
                place: path.display().to_string(),
            }),
            None => Self::or_create(settings),
        }
    }

    /// The same, if a folder that is not there is made.
    pub(crate) fn or_create(settings: &Settings) -> Result<Self, CommandError> {
        let store = settings.open_failures().map_err(|error| CommandError::new(brief(&error)))?;
        Ok(Self { place: store.place(), store })
    }
}

/// The folder of the failures, where it is not there.
fn missing_folder(settings: &Settings) -> Option<PathBuf> {
    let FailurePlace::Folder(path) = settings.failure_place() else { return None };
    let path = std::path::absolute(&path).unwrap_or(path);
    (!path.exists()).then_some(path)
}

fn no_folder(path: &Path) -> CommandError {
    CommandError::new(format!(
        "there is no folder {}: no worker with these settings has kept a failure here; \
         LONGSHORE_FAILURES, LONGSHORE_CHECKPOINT_FOLDER or LONGSHORE_CHECKPOINT_CONTAINER names another \
         place",
        path.display()
    ))
}
