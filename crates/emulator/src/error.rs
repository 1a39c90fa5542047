//! Why an emulator cannot start, or cannot go on.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::broker::MAX_PARTITIONS;

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
    /// A port would be open to other machines, and nobody said that it may be.
    #[error(
        "other machines reach {address}, and no token is checked against a key of your own: give \
         keys (`[[keys]]` in a file, `shared_access_keys` in Rust), or say `allow_anyone` to let \
         anyone who connects read and write everything"
    )]
    OpenToAnyone {
        /// The address.
        address: SocketAddr,
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
        "the log file {} is damaged at byte {at}, and nothing was changed; restore it, or, to start \
         empty, move its folder away and remove extents.json from the data folder",
        path.display()
    )]
    DamagedLog {
        /// The file.
        path: PathBuf,
        /// The first byte that is not right.
        at: u64,
    },
    /// A log does not hold all that it is known to have held.
    #[error(
        "{} holds events {} to {}, and held {} to {}: a file of it is cut or gone; restore it, or, to \
         go on with what is left, remove extents.json from the data folder",
        path.display(), found.start, found.end, noted.start, noted.end
    )]
    LostEvents {
        /// The folder of the partition.
        path: PathBuf,
        /// The sequence numbers that must be there; the second is the next event's.
        noted: Range<i64>,
        /// Those that are.
        found: Range<i64>,
    },
    /// A log goes on behind events that are not there.
    #[error(
        "{} holds no events {} to {}, and later ones: a file of it is cut or gone, and nothing was \
         changed; restore it, or, to start empty, move its folder away and remove extents.json from \
         the data folder",
        path.display(), missing.start, missing.end
    )]
    LostBetween {
        /// The folder of the partition.
        path: PathBuf,
        /// The sequence numbers that are missing; the second is that of the first event behind them.
        missing: Range<i64>,
    },
    /// A hub that the data folder is known to have held is not there as it was.
    #[error(
        "the data folder held the event hub '{hub}', and {} is not what belongs to it; restore it, \
         or, to go on without it, remove extents.json from the data folder",
        path.display()
    )]
    LostHub {
        /// The hub.
        hub: String,
        /// The file that is missing or another one.
        path: PathBuf,
    },
    /// A small file of the data folder is damaged.
    #[error("{} is damaged; restore it", path.display())]
    DamagedFile {
        /// The file.
        path: PathBuf,
    },
    /// A configuration file cannot be used.
    #[error("cannot use the configuration {}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A setting is out of its range.
    #[error("{key} = {value}: it must be {allowed}")]
    Setting {
        /// The setting, as a configuration file has it.
        key: String,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// A certificate cannot be made, for example for a name that is none.
    #[error("cannot make the certificates for TLS; check the host names")]
    Certificate {
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the certificate folder does not hold what it should.
    #[error(
        "{} does not hold a private key in PEM; restore it, or remove it to get a new authority, \
         which clients must then trust",
        path.display()
    )]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
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
    pub(super) fn storage(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Storage { action, path: path.to_owned(), source }
    }
}
