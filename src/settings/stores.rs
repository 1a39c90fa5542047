//! Where checkpoints and leases are kept, and the stores there.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(not(feature = "blob"))]
pub(super) use self::without_blob::Container;
#[cfg(feature = "blob")]
pub(super) use super::container::Container;
use crate::checkpoint_store::CheckpointStore;
use crate::checkpoint_store::file::FileCheckpointStore;
use crate::error::Error;
use crate::lease_store::LeaseStore;

/// Where checkpoints are kept. It shows no signature.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CheckpointPlace {
    /// A folder, which one process uses at a time.
    Folder(PathBuf),
    /// A container of Azure Blob Storage, by its address.
    Container(String),
}

impl fmt::Display for CheckpointPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointPlace::Folder(path) => path.display().fmt(f),
            CheckpointPlace::Container(url) => f.write_str(url),
        }
    }
}

/// The stores of a worker, opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stores {
    /// Its checkpoints.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// The leases that it shares with other workers; `None` if its checkpoints are in a
    /// folder, which it has for itself.
    pub leases: Option<Arc<dyn LeaseStore>>,
}

/// A place, with what opens it.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Folder(PathBuf),
    Container(Container),
}

impl Place {
    pub(super) fn shown(&self) -> CheckpointPlace {
        match self {
            Place::Folder(path) => CheckpointPlace::Folder(path.clone()),
            Place::Container(container) => CheckpointPlace::Container(container.url().to_owned()),
        }
    }

    pub(super) fn open(&self) -> Result<Stores, Error> {
        match self {
            Place::Folder(path) => {
                let checkpoints = Arc::new(FileCheckpointStore::open(path)?);
                Ok(Stores { checkpoints, leases: None })
            }
            Place::Container(container) => container.open(),
        }
    }
}

#[cfg(not(feature = "blob"))]
mod without_blob {
    use std::sync::Arc;

    use super::Stores;
    use crate::credential::Credential;
    use crate::error::Error;
    use crate::failure_store::FailureStore;
    use crate::settings::keys::Key;

    /// There is none without the feature `blob`.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub(in crate::settings) enum Container {}

    impl Container {
        pub(in crate::settings) fn read(
            _: &str,
            _: Option<Credential>,
            _: &Key,
        ) -> Result<Self, String> {
            Err("this was built without the feature blob".to_owned())
        }

        pub(in crate::settings) fn is_signed(&self) -> bool {
            match *self {}
        }

        pub(in crate::settings) fn url(&self) -> &str {
            match *self {}
        }

        pub(in crate::settings) fn open(&self) -> Result<Stores, Error> {
            match *self {}
        }

        pub(in crate::settings) fn open_failures(&self) -> Result<Arc<dyn FailureStore>, Error> {
            match *self {}
        }
    }
}
