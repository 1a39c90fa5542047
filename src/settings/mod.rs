//! What the environment, a file and the program itself say. Everything is checked before anything is connected.
//!
//! ```text
//!  environment, file ──> source ── values with their places ──> resolve ──> Settings
//!                                   keys (names, ranges, help)     │
//!                                                                  └──> problems, all of them
//! ```
//!
//! Both have the same keys, and the environment wins. A program may set defaults of its own, again under the same keys
//! ([`Settings::from_process_with_defaults`]): they count where neither says anything. All problems are reported
//! together, each with key, value, place and range. A secret is shown nowhere.
//!
//! Most keys are about one namespace and one hub. Tables name more: `[namespaces.NAME]`; `[topics.NAME]`, a hub of
//! a namespace; and `[worker.NAME]`, which says what a worker reads and where it writes ([`Settings::worker`]).
//!
//! ```no_run
//! use longshore::settings::Settings;
//! use longshore::transport::event_hubs::EventHubsTransport;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::from_process(None)?;
//! let entity = settings.entity_of("enrich")?; // EVENTHUB_ENTITY_ENRICH, or the common one
//! let transport =
//!     EventHubsTransport::new(settings.namespace()?, entity, settings.consumer_group().clone());
//! let stores = settings.open_stores()?; // a container of Blob Storage, or a folder
//! # Ok(())
//! # }
//! ```

mod access;
#[cfg(feature = "blob")]
mod container;
mod entities;
mod failures;
mod files;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod hub;
#[doc(hidden)]
pub mod keys;
mod knob;
#[cfg(test)]
mod missing_features_tests;
mod problem;
mod proxy;
mod resolve;
mod source;
mod stores;
mod tables;
mod topics;
#[doc(hidden)]
pub mod value;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

pub use failures::FailurePlace;
pub use files::{FilesContainer, FilesPlace, OpenFiles};
pub use problem::{Origin, Problem, SettingsError};
pub use stores::{CheckpointPlace, InUse, Stores, StoresToRead};
pub use topics::Topic;
pub use worker::{DeadLetterPlace, WorkerPlaces};

use self::entities::Entities;
use self::failures::Failures;
use self::hub::{Namespace, Protocol};
use self::resolve::Resolved;
use self::stores::Place;
use self::topics::Topics;
use self::worker::Worker;
use crate::config::{
    ConsumerOptions, DownloadLimits, ExistingFiles, HttpOptions, LeaseOptions, PrivateAddresses,
    RateLimits, Schemes,
};
use crate::credential::{Credential, SecretAddress};
use crate::error::Error;
use crate::event::{ConsumerGroup, EntityName};

/// Events that a consumer of retry hubs publishes at once, unless something else is set: a send waits for an answer and
/// costs next to nothing.
pub const SCHEDULER_SLOTS: usize = 100;

/// A consumer of retry hubs parks what is due later than this, unless something else is set.
pub const SCHEDULER_PARK_AFTER: Duration = Duration::from_secs(5);

/// The program sets no defaults of its own.
const NO_DEFAULTS: [(&str, &str); 0] = [];

/// What carries events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum TransportKind {
    /// Azure Event Hubs.
    #[default]
    EventHubs,
    /// Queues in this process.
    Memory,
}

/// How the namespace lets us in.
#[derive(Clone, Debug)]
enum Access {
    /// The memory transport needs none.
    None,
    /// By a connection string.
    Namespace(Box<Namespace>),
    /// The connection string is in a vault, and not fetched yet.
    KeyVault {
        secret: SecretAddress,
        credential: Credential,
    },
    EntraId {
        host: String,
        credential: Credential,
    },
}

/// Whether the certificate of the other side is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verification {
    On,
    Off,
}

/// An HTTP proxy; it may hold a password.
#[derive(Clone)]
struct ProxyAddress(Url);

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.host_str().unwrap_or_default())
    }
}

/// A configuration that can be used. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Settings {
    transport: TransportKind,
    access: Access,
    entities: Entities,
    consumer_group: ConsumerGroup,
    /// As it was asked; what applies otherwise depends on the connection string.
    #[cfg_attr(not(feature = "event-hubs"), expect(dead_code, reason = "for a namespace only"))]
    protocol: Option<Protocol>,
    ca_file: Option<PathBuf>,
    proxy: Option<ProxyAddress>,
    topics: Topics,
    /// By what their names are compared by.
    workers: BTreeMap<String, Worker>,
    verification: Verification,
    consumer_options: ConsumerOptions,
    place: Place,
    failures: Failures,
    lease_options: LeaseOptions,
    rate_limits: RateLimits,
    connections_per_host: Option<usize>,
    download_limits: DownloadLimits,
    http_options: HttpOptions,
    schemes: Schemes,
    private_addresses: PrivateAddresses,
    existing_files: ExistingFiles,
    /// Whether somebody chose how long a handler may take, how many run at once, and what is parked.
    has_handler_timeout: bool,
    has_slots: bool,
    has_park_after: bool,
    warnings: Vec<String>,
}

impl Settings {
    /// Reads environment variables and, if `file` is given, a TOML file with the same keys. It blocks while it
    /// reads files.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn load<N: Into<String>, V: Into<String>>(
        environment: impl IntoIterator<Item = (N, V)>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        Self::load_with_defaults(NO_DEFAULTS, environment, file)
    }

    /// Does [`load`](Self::load), with the program's own defaults, under the same keys: what neither the environment nor
    /// the file sets.
    ///
    /// # Errors
    /// Everything that is wrong, together; also a default whose name is no key.
    pub fn load_with_defaults<
        K: Into<String>,
        D: Into<String>,
        N: Into<String>,
        V: Into<String>,
    >(
        defaults: impl IntoIterator<Item = (K, D)>,
        environment: impl IntoIterator<Item = (N, V)>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let defaults = defaults.into_iter().map(|(name, value)| (name.into(), value.into()));
        let environment = environment.into_iter().map(|(name, value)| (name.into(), value.into()));
        Resolved::new(source::Values::read(defaults, environment, file)).into_settings()
    }

    /// Does [`load`](Self::load) with the environment of this process, and logs the [`warnings`](Self::warnings).
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn from_process(file: Option<&Path>) -> Result<Self, SettingsError> {
        Self::from_process_with_defaults(NO_DEFAULTS, file)
    }

    /// Does [`load_with_defaults`](Self::load_with_defaults) with the environment of this process, and logs the
    /// [`warnings`](Self::warnings).
    ///
    /// ```
    /// use longshore::settings::Settings;
    ///
    /// let defaults = [("PIPELINE_TRANSPORT", "memory"), ("LONGSHORE_MAX_BATCH_SIZE", "20")];
    /// let settings = Settings::from_process_with_defaults(defaults, None)?;
    /// assert_eq!(settings.consumer_options().max_batch_size, 20);
    /// # Ok::<(), longshore::settings::SettingsError>(())
    /// ```
    ///
    /// # Errors
    /// Everything that is wrong, together; also a default whose name is no key.
    pub fn from_process_with_defaults<K: Into<String>, D: Into<String>>(
        defaults: impl IntoIterator<Item = (K, D)>,
        file: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let environment = std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        });
        let settings = Self::load_with_defaults(defaults, environment, file)?;
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        Ok(settings)
    }

    /// Warnings, which stop nothing: variables that are probably misspelt, certificates that are not checked.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What carries events.
    pub fn transport(&self) -> TransportKind {
        self.transport
    }

    /// The hub: `EVENTHUB_ENTITY_NAME`, or the `EntityPath` of the connection string.
    ///
    /// # Errors
    /// If neither is given.
    pub fn entity(&self) -> Result<EntityName, SettingsError> {
        self.entities.common(self.entity_path())
    }

    /// The hub of the worker of this name: `EVENTHUB_ENTITY_<WORKER>`, or the common one.
    ///
    /// # Errors
    /// If neither is given.
    pub fn entity_of(&self, worker: &str) -> Result<EntityName, SettingsError> {
        self.entities.of(worker, self.entity_path())
    }

    /// The consumer group.
    pub fn consumer_group(&self) -> &ConsumerGroup {
        &self.consumer_group
    }

    /// The options of a consumer.
    pub fn consumer_options(&self) -> &ConsumerOptions {
        &self.consumer_options
    }

    /// The options of a consumer of transfer tasks: [`consumer_options`](Self::consumer_options), without a
    /// `handler_timeout` unless one is set. A file may take as long as it needs, and one that stalls is found by
    /// its rate.
    pub fn transfer_options(&self) -> ConsumerOptions {
        let mut options = self.consumer_options.clone();
        if !self.has_handler_timeout {
            options.handler_timeout = None;
        }
        options
    }

    /// The options of a consumer of retry hubs: those of [`consumer_options`](Self::consumer_options). If the settings
    /// do not say otherwise, [`SCHEDULER_SLOTS`] events are published at once, and an event that is due later than
    /// [`SCHEDULER_PARK_AFTER`] is parked, because it would hold the watermark.
    pub fn scheduler_options(&self) -> ConsumerOptions {
        let mut options = self.consumer_options.clone();
        if !self.has_slots {
            options.max_events_in_flight = SCHEDULER_SLOTS;
        }
        if !self.has_park_after {
            options.park_after = SCHEDULER_PARK_AFTER;
        }
        options
    }

    /// The options of leases; see [`open_stores`](Self::open_stores).
    pub fn lease_options(&self) -> &LeaseOptions {
        &self.lease_options
    }

    /// How fast a transfer worker may ask and read.
    pub fn rate_limits(&self) -> &RateLimits {
        &self.rate_limits
    }

    /// How many files a transfer worker fetches at once from each host. `None` if it is not set.
    pub fn connections_per_host(&self) -> Option<usize> {
        self.connections_per_host
    }

    /// What one download of a transfer worker may cost.
    pub fn download_limits(&self) -> DownloadLimits {
        self.download_limits
    }

    /// How a transfer worker asks: redirects, proxy, credentials.
    pub fn http_options(&self) -> &HttpOptions {
        &self.http_options
    }

    /// The schemes that URLs may have.
    pub fn schemes(&self) -> Schemes {
        self.schemes
    }

    /// Whether URLs may lead into the worker's own network.
    pub fn private_addresses(&self) -> PrivateAddresses {
        self.private_addresses
    }

    /// What happens to a task whose file is already there.
    pub fn existing_files(&self) -> ExistingFiles {
        self.existing_files
    }

    /// Where checkpoints are kept.
    pub fn checkpoint_place(&self) -> CheckpointPlace {
        self.place.shown()
    }

    /// Opens the stores: those of the container, or else that of the folder. A folder is created, and then belongs
    /// to this process until the stores are gone. A container is not asked yet. It blocks while it handles files.
    ///
    /// # Errors
    /// `Permanent` if another process has the folder, or if it cannot be used; `Auth` if the credential cannot be
    /// opened.
    pub fn open_stores(&self) -> Result<Stores, Error> {
        self.place.open()
    }

    /// Opens the stores to look at them: nothing is made or locked in a folder, and a worker may have
    /// it meanwhile. Blocks while it handles files.
    ///
    /// # Errors
    /// `Permanent` if there is no such folder, or if it may not be read; `Auth` if the credential
    /// of a container cannot be opened.
    pub fn open_stores_to_read(&self) -> Result<StoresToRead, Error> {
        self.place.open_to_read()
    }

    /// The certificate authorities to trust in addition to the public ones.
    pub fn certificate_authority_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// Whether the certificate of the other side is checked. False is for local development only.
    pub fn verifies_certificates(&self) -> bool {
        self.verification == Verification::On
    }

    /// The identity for Microsoft Entra ID, if a namespace or a vault needs one.
    pub fn credential(&self) -> Option<&Credential> {
        match &self.access {
            Access::KeyVault { credential, .. } | Access::EntraId { credential, .. } => {
                Some(credential)
            }
            Access::None | Access::Namespace(_) => None,
        }
    }

    /// The address of the secret that holds the connection string, if it is not fetched yet.
    pub fn secret_address(&self) -> Option<&SecretAddress> {
        match &self.access {
            Access::KeyVault { secret, .. } => Some(secret),
            _ => None,
        }
    }

    fn entity_path(&self) -> Option<&str> {
        self.access.entity_path()
    }

    /// Whether there is a namespace that every topic without one of its own is of: not where only
    /// tables name some.
    fn has_common_namespace(&self) -> bool {
        !matches!(self.access, Access::None) || self.topics.namespaces.is_empty()
    }
}
