//! Where the files of a run go: a folder, or a container of Azure Blob Storage.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore::blob_store::container::ContainerBlobStore;
use longshore::blob_store::folder::{FolderBlobStore, SyncFiles};
use longshore::blob_store::{BlobError, BlobName, BlobStore};
use longshore::credential::Credential;
use longshore::secret::Secret;

use crate::CommandError;
use crate::place::unfit;

/// Where files go, as the command line says it. Shows no signature.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum To {
    Folder(PathBuf),
    /// The whole address.
    Container(Secret),
}

impl From<String> for To {
    fn from(text: String) -> Self {
        let begins = |scheme: &str| {
            text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
        };
        if begins("https://") || begins("http://") {
            Self::Container(Secret::new(text))
        } else {
            Self::Folder(text.into())
        }
    }
}

impl To {
    /// The folder that a state goes to where nobody says another one: beside a folder of files, also of
    /// one without a name of its own, like `.`; of a container, in the folder that we are in.
    pub(super) fn state(&self) -> PathBuf {
        let named = match self {
            Self::Folder(given) if given.file_name().is_none() => {
                given.canonicalize().unwrap_or_else(|_| given.clone())
            }
            Self::Folder(given) => given.clone(),
            Self::Container(url) => {
                let url = url.reveal().split('?').next().unwrap_or_default();
                PathBuf::from(url.trim_end_matches('/').rsplit('/').next().unwrap_or_default())
            }
        };
        let mut name = named.file_name().unwrap_or_default().to_owned();
        name.push(".longshore");
        named.with_file_name(name)
    }
}

impl fmt::Debug for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.fmt(f),
            Self::Container(_) => f.write_str("a container"),
        }
    }
}

/// The place, opened.
#[derive(Clone, Debug)]
pub(super) enum Files {
    Folder(Arc<FolderBlobStore>),
    Container(Arc<ContainerBlobStore>),
}

impl Files {
    /// Opens it for so many streams. Blocks for a file operation or two.
    pub(super) fn open(to: &To, streams: usize, budget_bytes: u64) -> Result<Self, CommandError> {
        match to {
            To::Folder(folder) => {
                let store = FolderBlobStore::open(folder)?.with_sync(SyncFiles::AtFlush);
                Ok(Self::Folder(Arc::new(store)))
            }
            To::Container(url) => {
                // An address without a signature is opened by whoever is signed in here.
                let store = match url.reveal().split_once('?') {
                    Some(_) => ContainerBlobStore::with_signature(url)?,
                    None => {
                        let developer = Credential::Developer.open()?;
                        ContainerBlobStore::with_credential(url.reveal(), developer)?
                    }
                };
                Ok(Self::Container(Arc::new(store.with_budget(budget_bytes, streams))))
            }
        }
    }

    /// Looks whether files can be put there, before any is fetched.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub(super) async fn check(&self) -> Result<(), CommandError> {
        self.store().check_writable().await.map_err(|error| CommandError::new(unfit(&error)))
    }

    pub(super) fn store(&self) -> &dyn BlobStore {
        match self {
            Self::Folder(store) => &**store,
            Self::Container(store) => &**store,
        }
    }

    /// The folder, if it is one.
    pub(super) fn root(&self) -> Option<&Path> {
        match self {
            Self::Folder(store) => Some(store.root()),
            Self::Container(_) => None,
        }
    }

    /// The length of a file that is to have this one; `None` if it is not there. Files in a container
    /// are taken to be there, for to look for each would take a request. Blocks.
    pub(super) fn length(
        &self,
        name: &BlobName,
        expected: Option<u64>,
    ) -> Result<Option<u64>, BlobError> {
        match self {
            Self::Folder(store) => store.length(name),
            Self::Container(_) => Ok(expected),
        }
    }

    /// Brings the names of all files that are committed to the disk. Blocks.
    pub(super) fn flush(&self) -> Result<(), BlobError> {
        match self {
            Self::Folder(store) => store.flush(),
            Self::Container(_) => Ok(()),
        }
    }

    pub(super) async fn close(&self) {
        if let Self::Folder(store) = self {
            store.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_container_and_all_else_a_folder() {
        for folder in ["files", "./https:", "/a/b", "", "c:\\files"] {
            assert_eq!(To::from(folder.to_owned()), To::Folder(folder.into()));
        }
        for url in
            ["https://a.blob.core.windows.net/c?sig=canary", "HTTP://127.0.0.1/a/c?sig=canary"]
        {
            let to = To::from(url.to_owned());
            assert!(matches!(&to, To::Container(_)), "{to:?}");
            assert!(!format!("{to:?}").contains("canary"));
        }
    }
}
