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

/// The stores of a worker, opened to be looked at.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoresToRead {
    /// The checkpoints. What would write them fails with `Permanent` in a folder.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// The leases; `None` where the checkpoints are in a folder.
    pub leases: Option<Arc<dyn LeaseStore>>,
    /// Who has the folder for itself; `None` where nobody has, and of a container, which is shared.
    pub in_use: Option<InUse>,
}

/// That a folder of checkpoints is in use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InUse {
    /// By whom: "process 4711".
    pub user: String,
    /// What [`Settings::open_stores`](super::Settings::open_stores) fails with meanwhile.
    pub refusal: Arc<Error>,
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

    pub(super) fn open_to_read(&self) -> Result<StoresToRead, Error> {
        match self {
            Place::Folder(path) => {
                let store = FileCheckpointStore::open_read_only(path)?;
                let in_use = store.user()?.map(|user| {
                    let refusal = Arc::new(store.in_use(&user));
                    InUse { user, refusal }
                });
                Ok(StoresToRead { checkpoints: Arc::new(store), leases: None, in_use })
            }
            Place::Container(container) => {
                let Stores { checkpoints, leases } = container.open()?;
                Ok(StoresToRead { checkpoints, leases, in_use: None })
            }
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
