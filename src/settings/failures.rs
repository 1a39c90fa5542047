//! Where events that failed are kept, and the store there.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::Settings;
use super::files::{is_address, read_folder};
use super::keys;
use super::stores::{Container, Place};
use crate::credential::Credential;
use crate::dead_letter::store::LetterBody;
use crate::error::Error;
use crate::failure_store::FailureStore;
use crate::failure_store::folder::FolderFailureStore;

/// The folder of failures, beside that of checkpoints.
const FAILURES: &str = "failures";

/// Where the failure store is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FailurePlace {
    /// A folder, which processes may share.
    Folder(PathBuf),
    /// A container of Azure Blob Storage, by its address.
    Container(String),
}

impl fmt::Display for FailurePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Container(url) => f.write_str(url),
        }
    }
}

/// The place, with what opens it, and what becomes of bodies.
#[derive(Clone, Debug)]
pub(super) struct Failures {
    place: Place,
    body: LetterBody,
}

impl Failures {
    /// What a text says: a folder, or the address of a container that the credential may open.
    ///
    /// # Errors
    /// What it must be; nothing of it is repeated.
    pub(super) fn read_place(text: &str, credential: Option<&Credential>) -> Result<Place, String> {
        if is_address(text) {
            let container = Container::read(text, credential.cloned(), &keys::CREDENTIAL);
            return container.map(Place::Container);
        }
        read_folder(text).map(Place::Folder)
    }

    /// Beside the checkpoints where nothing says otherwise.
    pub(super) fn new(asked: Option<Place>, checkpoints: &Place, body: LetterBody) -> Self {
        let beside = || match checkpoints {
            Place::Folder(path) => Place::Folder(path.with_file_name(FAILURES)),
            Place::Container(container) => Place::Container(container.clone()),
        };
        Self { place: asked.unwrap_or_else(beside), body }
    }

    fn shown(&self) -> FailurePlace {
        match &self.place {
            Place::Folder(path) => FailurePlace::Folder(path.clone()),
            Place::Container(container) => FailurePlace::Container(container.url().to_owned()),
        }
    }
}

impl Settings {
    /// Where the failure store is.
    pub fn failure_place(&self) -> FailurePlace {
        self.failures.shown()
    }

    /// Whether the failure store keeps the bodies of dead letters.
    pub fn letter_body(&self) -> LetterBody {
        self.failures.body
    }

    /// Opens the failure store. A missing folder is created, and processes may share it. A container is not asked
    /// yet. It blocks while it handles files.
    ///
    /// # Errors
    /// `Permanent` if the folder cannot be used, or if the credential of the container cannot be set up.
    pub fn open_failures(&self) -> Result<Arc<dyn FailureStore>, Error> {
        match &self.failures.place {
            Place::Folder(path) => Ok(Arc::new(FolderFailureStore::open(path)?)),
            Place::Container(container) => container.open_failures(),
        }
    }
}
