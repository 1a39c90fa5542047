//! An Event Hubs-compatible broker in the box, for tests, demos and work without an Azure account.
//!
//! The Azure SDKs talk to it over AMQP as they talk to the service: tokens, properties, publishing
//! to a hub, a partition or by key, batches, and receiving from any position, with owner levels.
//! Events live in memory, or durably in a folder.
//!
//! ```no_run
//! # async fn example() -> Result<(), longshore::emulator::EmulatorError> {
//! use longshore::emulator::Emulator;
//!
//! let emulator = Emulator::builder().hub("orders", 4).start().await?;
//! // The Rust SDK: `.with_custom_endpoint(emulator.endpoint())` on its builders.
//! println!("{}", emulator.connection_string(Some("orders")));
//! emulator.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Inside
//!
//! ```text
//!  listener ── accepts ──> socket ── bytes, times ──> connection ──> session ──> publish, consume,
//!     ^                    (I/O)                      (no I/O)                   request (cbs,
//!   faults                   |                            ^                      management)
//!                            | reads files                | notices                   |
//!                            v                            |                           v
//!                         segment                      mailbox <── log, hub <── broker, writer
//! ```
//!
//! 1. A connection is one task and a state machine without I/O. It takes bytes and notices and
//!    gives frames; nothing else touches its state.
//! 2. A publish becomes encoded events, goes into the log of a partition, and is
//!    answered after the log accepted it.
//! 3. A receiver reads from the log as far as its credit, its session's window and the connection's
//!    output allow, and otherwise waits at the partition for a notice. Events are sent as the bytes
//!    that were stored.
//!
//! # What it does not do
//!
//! It checks no tokens, keeps every event for ever, and knows any consumer group by name.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod address;
mod broker;
mod cbs;
mod connection;
mod consume;
mod context;
mod endpoint;
mod event;
mod faults;
mod frame;
mod hub;
mod intake;
mod listener;
mod log;
mod mailbox;
mod management;
mod publish;
mod record;
mod refusal;
mod request;
mod segment;
mod session;
mod socket;
mod store;
mod wire;
mod writer;

use broker::{Broker, MAX_PARTITIONS, Settings, Storage};
use listener::Listener;
use store::Store;
use writer::Writer;

pub use faults::Faults;

/// How long after a delivery arrived its disposition is sent, unless set otherwise.
///
/// The SDKs lose a disposition that arrives before they registered the send it answers, and then
/// the send never ends. Over a network that does not happen; over loopback it does, and 10 ms were
/// too few on a busy machine.
pub const DEFAULT_DISPOSITION_DELAY: Duration = Duration::from_millis(25);
/// How long after a detach arrived it is answered, unless set otherwise.
///
/// A client that closes links and their session together can fail its whole connection when the
/// answers come at loopback speed.
pub const DEFAULT_DETACH_DELAY: Duration = Duration::from_millis(20);
/// The idle timeout the broker announces, unless set otherwise; the service announces the same. A
/// peer that is silent for twice this long is disconnected.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(240);

const KEY_NAME: &str = "RootManageSharedAccessKey";
const KEY: &str = "SAS_KEY_VALUE";

/// When an event of a durable log counts as accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// When the operating system has it. Survives a crash or a kill of this process, not a loss of
    /// power.
    #[default]
    Process,
    /// When it is on the disk. What arrives while a sync runs shares the next one.
    Disk,
}

/// Why an emulator cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; choose another address, or port 0 for any free port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The name of a hub is not valid.
    #[error(
        "'{name}' is not a valid event hub name; use 1 to 256 letters, digits, '.', '-' and '_', \
         with a letter or digit at both ends"
    )]
    HubName {
        /// The name.
        name: String,
    },
    /// A hub was asked for with too few or too many partitions.
    #[error(
        "event hub '{hub}' with {asked} partitions: the count must be from 1 to {MAX_PARTITIONS}"
    )]
    PartitionLimit {
        /// The hub.
        hub: String,
        /// The count.
        asked: u32,
    },
    /// The hub exists with another partition count.
    #[error(
        "event hub '{hub}' exists with {present} partitions, not {asked}; ask for {present}, or use \
         another data folder"
    )]
    PartitionCount {
        /// The hub.
        hub: String,
        /// The count asked for.
        asked: u32,
        /// The count it has.
        present: u32,
    },
    /// Another broker runs on the data folder.
    #[error("the data folder {} is in use by another emulator; stop that one or use another folder", path.display())]
    DataDirInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A file operation on the data folder failed.
    #[error("cannot {action} {}; check that the folder exists and is writable", path.display())]
    Storage {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A log file is damaged in a place that no crash can explain.
    #[error(
        "the log file {} is damaged at byte {at}; restore it, or move its folder away to start empty",
        path.display()
    )]
    DamagedLog {
        /// The file.
        path: PathBuf,
        /// The first byte that is not right.
        at: u64,
    },
    /// The thread that writes the log cannot be started.
    #[error("cannot start the thread that writes the log")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The end of the log could not be synced at shutdown.
    #[error(
        "the log could not be synced to the disk; events of the last moments may be lost if the machine fails now"
    )]
    Sync {
        /// What the system said.
        source: io::Error,
    },
    /// The emulator was shut down.
    #[error("the emulator is shut down")]
    Stopped,
}

impl EmulatorError {
    fn storage(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Storage { action, path: path.to_owned(), source }
    }
}

/// Sets up an [`Emulator`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct EmulatorBuilder {
    address: SocketAddr,
    hubs: Vec<(String, u32)>,
    data_dir: Option<PathBuf>,
    durability: Durability,
    settings: Settings,
}

impl EmulatorBuilder {
    fn new() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            hubs: Vec::new(),
            data_dir: None,
            durability: Durability::default(),
            settings: Settings {
                disposition_delay: DEFAULT_DISPOSITION_DELAY,
                detach_delay: DEFAULT_DETACH_DELAY,
                idle_timeout: DEFAULT_IDLE_TIMEOUT,
                create_on_first_use: None,
            },
        }
    }

    /// Where to listen. The default is a free port of 127.0.0.1.
    ///
    /// The broker checks no tokens: on any other address, whoever reaches the port may use it.
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Adds a hub. Names are case-insensitive; partitions are 1 to 1,024 (a chosen limit, the
    /// service's largest).
    pub fn hub(mut self, name: impl Into<String>, partitions: u32) -> Self {
        self.hubs.push((name.into(), partitions));
        self
    }

    /// Creates hubs, with this many partitions, when a client first names them. Without it a hub
    /// that was not added is answered with `amqp:not-found`.
    ///
    /// A hub that is in the data folder from an earlier run keeps the partitions it has.
    pub fn create_on_first_use(mut self, partitions: u32) -> Self {
        self.settings.create_on_first_use = Some(partitions);
        self
    }

    /// Keeps events in this folder, which is created if need be. Without it they are in memory.
    ///
    /// A hub of an earlier run is served when it is added again, or named by a client with
    /// [`create_on_first_use`](Self::create_on_first_use). One emulator at a time may use a folder.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// When events in the data folder count as accepted. The default is [`Durability::Process`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// See [`DEFAULT_DISPOSITION_DELAY`].
    pub fn disposition_delay(mut self, delay: Duration) -> Self {
        self.settings.disposition_delay = delay;
        self
    }

    /// See [`DEFAULT_DETACH_DELAY`].
    pub fn detach_delay(mut self, delay: Duration) -> Self {
        self.settings.detach_delay = delay;
        self
    }

    /// See [`DEFAULT_IDLE_TIMEOUT`].
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// Opens the data folder, recovers its hubs and starts listening.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::HubName`], [`PartitionLimit`](EmulatorError::PartitionLimit) and
    /// [`PartitionCount`](EmulatorError::PartitionCount) for hubs that cannot be;
    /// [`DataDirInUse`](EmulatorError::DataDirInUse), [`Storage`](EmulatorError::Storage) and
    /// [`DamagedLog`](EmulatorError::DamagedLog) for a folder that cannot be used;
    /// [`Bind`](EmulatorError::Bind) for an address that cannot be listened on.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, nothing keeps running; the folder stays locked until the recovery that was
    /// under way has ended.
    pub async fn start(self) -> Result<Emulator, EmulatorError> {
        let Self { address, hubs, data_dir, durability, settings } = self;
        if let Some(partitions) = settings.create_on_first_use {
            broker::validate_hub("new", partitions)?;
        }
        let opening = tokio::task::spawn_blocking(move || {
            let storage = match data_dir {
                None => Storage::Memory,
                Some(dir) => {
                    let (store, lock) = Store::open(dir)?;
                    let writer = Writer::start(durability, lock)?;
                    Storage::Files { store, writer }
                }
            };
            let broker = Broker::new(settings, storage);
            let opened = hubs
                .iter()
                .try_for_each(|(name, partitions)| broker.open_hub(name, *partitions).map(drop));
            Ok((Arc::new(broker), opened))
        });
        let (broker, opened) = opening.await.map_err(|_| EmulatorError::Stopped)??;
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let bound = opened.and_then(|()| {
            Listener::bind(address, Arc::clone(&broker), tasks.clone(), stop.clone())
        });
        let (listener, local_addr) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                // Whoever corrects the mistake finds the folder unlocked.
                broker.close_log().await?;
                return Err(error);
            }
        };
        let away = listener.start(&tasks);
        Ok(Emulator {
            local_addr,
            faults: Faults::new(Arc::clone(&broker), away),
            broker,
            tasks,
            stop,
        })
    }
}

/// A running broker. Dropping it stops its tasks; [`shutdown`](Self::shutdown) also waits for them
/// and syncs the log. A data folder stays locked until the tasks have ended and the last
/// [`Faults`] is gone.
#[derive(Debug)]
pub struct Emulator {
    local_addr: SocketAddr,
    broker: Arc<Broker>,
    faults: Faults,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Emulator {
    /// Starts to set up an emulator.
    pub fn builder() -> EmulatorBuilder {
        EmulatorBuilder::new()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// `amqp://127.0.0.1:PORT`, for the Rust SDK's `with_custom_endpoint`.
    pub fn endpoint(&self) -> String {
        format!("amqp://{}", self.reachable_addr())
    }

    /// A connection string for the SDKs that know `UseDevelopmentEmulator`, with the hub in it if
    /// one is given. The Rust SDK ignores the port in it; use [`endpoint`](Self::endpoint) there.
    pub fn connection_string(&self, hub: Option<&str>) -> String {
        let entity = hub.map_or(String::new(), |hub| format!(";EntityPath={hub}"));
        let port = self.local_addr.port();
        format!(
            "Endpoint=sb://localhost:{port};SharedAccessKeyName={KEY_NAME};SharedAccessKey={KEY};\
             UseDevelopmentEmulator=true{entity}"
        )
    }

    /// An address a client can connect to, when the broker listens on all of them.
    fn reachable_addr(&self) -> SocketAddr {
        match self.local_addr.ip().is_unspecified() {
            true => SocketAddr::from((Ipv4Addr::LOCALHOST, self.local_addr.port())),
            false => self.local_addr,
        }
    }

    /// Makes things go wrong on purpose.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Stops listening, closes every connection, and writes and syncs the log. Afterwards the data
    /// folder can be opened again.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Sync`] when the end of the log could not be synced.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, everything still stops, but nobody waits for it, and the data folder may stay
    /// locked for a moment.
    pub async fn shutdown(self) -> Result<(), EmulatorError> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.broker.close_log().await
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod connection_tests;
