//! Where a worker puts files, and the store there.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::blob_store::folder::FolderBlobStore;
use crate::blob_store::{BlobError, BlobStore};

/// Where a worker puts files. It shows no signature.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FilesPlace {
    /// A folder, which processes may share.
    Folder(PathBuf),
}

impl fmt::Display for FilesPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
        }
    }
}

impl FilesPlace {
    /// Opens it. A folder is created where it is missing. Blocks while it handles files.
    ///
    /// # Errors
    /// [`BlobError::Unusable`] where it cannot be used.
    pub fn open(&self) -> Result<Arc<dyn BlobStore>, BlobError> {
        match self {
            Self::Folder(path) => Ok(Arc::new(FolderBlobStore::open(path)?)),
        }
    }

    /// Reads what a setting says.
    ///
    /// # Errors
    /// What it must be; nothing of it is repeated.
    pub(super) fn read(text: &str) -> Result<Self, &'static str> {
        if is_address(text) {
            return Err("it must be a folder");
        }
        let path = PathBuf::from(text);
        match path.metadata() {
            Ok(found) if !found.is_dir() => Err("it must be a folder, and is a file"),
            _ => Ok(Self::Folder(path)),
        }
    }
}

/// Whether a text is an address, which may have a signature, and no path of a folder.
pub(super) fn is_address(text: &str) -> bool {
    text.contains("://") || text.to_ascii_lowercase().contains("sig=")
}
