//! Files of lines of JSON that outlive the process that writes them, and the clock of their times.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use longshore::event::PartitionId;
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Nanoseconds on the clock that all processes of the machine share.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// Appends lines.
#[derive(Debug)]
pub struct Journal(File);

impl Journal {
    pub fn open(path: &Path) -> Self {
        Self(OpenOptions::new().append(true).create(true).open(path).unwrap())
    }

    /// Appends a line with one write, so that lines of several threads do not mix, and whoever is
    /// killed leaves all that it appended.
    pub fn append(&self, line: &impl Serialize) {
        let mut bytes = serde_json::to_vec(line).unwrap();
        bytes.push(b'\n');
        (&self.0).write_all(&bytes).unwrap();
    }
}

/// Reads a journal that may still grow.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    read_bytes: u64,
}

impl Follower {
    pub fn new(path: PathBuf) -> Self {
        Self { path, read_bytes: 0 }
    }

    /// The lines that have come since the last call. The beginning of a line is none: its writer
    /// was killed within the write, and so before what the line tells of was over.
    pub fn next_lines<T: DeserializeOwned>(&mut self) -> Vec<T> {
        let Ok(mut file) = File::open(&self.path) else {
            return Vec::new();
        };
        file.seek(SeekFrom::Start(self.read_bytes)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        self.read_bytes += whole.len() as u64;
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// All lines of a journal.
pub fn read<T: DeserializeOwned>(path: PathBuf) -> Vec<T> {
    Follower::new(path).next_lines()
}

/// That a handler has begun with an event of a key.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct Begun {
    #[serde(rename = "p")]
    pub partition: PartitionId,
    #[serde(rename = "n")]
    pub number: i64,
    #[serde(rename = "k")]
    pub key: String,
    /// The lease epoch of the ownership that handles it.
    #[serde(rename = "e")]
    pub epoch: u64,
    #[serde(rename = "t")]
    pub at: u64,
}

/// That a handler has finished an event: written before the engine is told.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct Handled {
    #[serde(rename = "p")]
    pub partition: PartitionId,
    #[serde(rename = "n")]
    pub number: i64,
    /// The lease epoch of the ownership that handled it.
    #[serde(rename = "e")]
    pub epoch: u64,
    #[serde(rename = "t")]
    pub at: u64,
}
