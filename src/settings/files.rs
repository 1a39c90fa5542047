//! Where a worker puts files or takes them from, and the store there.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::keys;
use super::stores::Container;
use crate::blob_store::folder::FolderBlobStore;
use crate::blob_store::{BlobError, BlobSource, BlobStore};
use crate::credential::Credential;

/// Where files are. It shows no signature.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FilesPlace {
    /// A folder, which processes may share.
    Folder(PathBuf),
    /// A container of Azure Blob Storage.
    Container(FilesContainer),
}

/// A container of files, with what opens it. It shows no signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilesContainer(Container);

/// A place of files, opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenFiles {
    /// Takes files.
    pub store: Arc<dyn BlobStore>,
    /// Gives files.
    pub source: Arc<dyn BlobSource>,
}

impl OpenFiles {
    fn of<T: BlobStore + BlobSource>(place: Arc<T>) -> Self {
        Self { store: Arc::clone(&place) as _, source: place }
    }
}

impl fmt::Display for FilesPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Container(FilesContainer(container)) => container.url().fmt(f),
        }
    }
}

impl FilesPlace {
    /// Opens the place, for this many files or connections at once, which share this much memory for blocks on
    /// their way into a container. A missing folder is created. It blocks while it handles files.
    ///
    /// # Errors
    /// [`BlobError::Unusable`] if it cannot be used.
    pub fn open(&self, streams: usize, budget_bytes: u64) -> Result<OpenFiles, BlobError> {
        match self {
            Self::Folder(path) => Ok(OpenFiles::of(Arc::new(FolderBlobStore::open(path)?))),
            Self::Container(FilesContainer(container)) => {
                open_container(container, streams, budget_bytes)
            }
        }
    }

    /// Reads what a setting says; `credential` opens a container whose address has no signature.
    ///
    /// # Errors
    /// What it must be; nothing of it is repeated.
    pub(super) fn read(text: &str, credential: Option<&Credential>) -> Result<Self, String> {
        if is_address(text) {
            let container = Container::read(text, credential.cloned(), &keys::CREDENTIAL);
            return container.map(|container| Self::Container(FilesContainer(container)));
        }
        read_folder(text).map(Self::Folder)
    }
}

#[cfg(feature = "blob")]
fn open_container(
    container: &Container,
    streams: usize,
    budget_bytes: u64,
) -> Result<OpenFiles, BlobError> {
    let unusable = |error: crate::error::Error| BlobError::Unusable {
        reason: error.to_string(),
        source: Some(std::io::Error::other(error)),
    };
    let store = container.open_files().map_err(unusable)?;
    Ok(OpenFiles::of(Arc::new(store.with_budget(budget_bytes, streams))))
}

#[cfg(not(feature = "blob"))]
fn open_container(container: &Container, _: usize, _: u64) -> Result<OpenFiles, BlobError> {
    match *container {}
}

/// Reads the path of a folder.
///
/// # Errors
/// What it must be.
pub(super) fn read_folder(text: &str) -> Result<PathBuf, String> {
    if is_address(text) {
        return Err("it must be a folder".to_owned());
    }
    let path = PathBuf::from(text);
    match path.metadata() {
        Ok(found) if !found.is_dir() => Err("it must be a folder, and is a file".to_owned()),
        _ => Ok(path),
    }
}

/// Whether a text is an address, which may have a signature, and no path of a folder.
pub(super) fn is_address(text: &str) -> bool {
    text.contains("://") || text.to_ascii_lowercase().contains("sig=")
}
