//! A hub, a container, and the worker processes that share them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use longshore::event::PartitionId;
use longshore::transport::Transport as _;
use longshore::transport::event_hubs::{EventHubsTransport, Namespace};
use longshore_emulator::Emulator;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom as _;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, MutexGuard};

use super::azurite::{self, Container};
use super::broker;
use super::failing::Fate;
use super::journal::{Follower, Handled};
use super::support::waiting::found;
use super::support::{LIMIT, within};
use super::worker::{DRAIN, ORDERS, Orders, Pace, Work};

pub const HUB: &str = "files";

/// The tests of this crate measure times and load the machine: one after the other.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

pub struct Fleet {
    pub emulator: Emulator,
    container: Container,
    /// Where the container is for workers.
    pub container_url: String,
    pub partitions: usize,
    pub pace: Option<Pace>,
    pub work: Work,
    folder: Folder,
    /// The names of all workers there were.
    pub names: Vec<String>,
    handled: Progress,
}

/// What was handled so far, as far as it was looked for.
#[derive(Default)]
struct Progress {
    journals: Vec<Follower>,
    seen: Vec<Vec<bool>>,
    distinct: usize,
}

impl Progress {
    fn look(&mut self) {
        for journal in &mut self.journals {
            for line in journal.next_lines::<Handled>() {
                let partition: usize = line.partition.as_str().parse().unwrap();
                let number = usize::try_from(line.number).unwrap();
                let seen = &mut self.seen[partition];
                if seen.len() <= number {
                    seen.resize(number + 1, false);
                }
                self.distinct += usize::from(!std::mem::replace(&mut seen[number], true));
            }
        }
    }
}

pub struct Worker {
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Fleet {
    pub async fn start(partitions: usize, pace: Option<Pace>, work: Work) -> Self {
        let emulator = Emulator::builder().hub(HUB, partitions as u32).start().await.unwrap();
        let container = Container::create().await;
        Self {
            container_url: container.url(azurite::ALL),
            emulator,
            container,
            partitions,
            pace,
            work,
            folder: Folder(Some(tempfile::tempdir().unwrap())),
            names: Vec::new(),
            handled: Progress { seen: vec![Vec::new(); partitions], ..Progress::default() },
        }
    }

    pub fn namespace(&self) -> Namespace {
        broker::namespace(&self.emulator)
    }

    pub fn path(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.{kind}"))
    }

    /// Adds a worker.
    pub fn add(&mut self) -> Worker {
        let name = format!("worker-{}", self.names.len() + 1);
        let orders = Orders {
            name: name.clone(),
            folder: self.folder.path().to_owned(),
            connection_string: self.emulator.connection_string(None),
            endpoint: self.emulator.endpoint(),
            hub: HUB.to_owned(),
            container_url: self.container_url.clone(),
            pace: self.pace,
            work: self.work,
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "worker::worker_process", "--ignored", "--nocapture"])
            .env(ORDERS, serde_json::to_string(&orders).unwrap());
        self.spawn(name, command)
    }

    /// Adds a processor of the Python SDK, which `scripts/test` installs.
    pub fn add_python(&mut self) -> Worker {
        let name = format!("python-{}", self.names.len() + 1);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("target/foreign-clients/python/bin/python");
        assert!(python.exists(), "{} is missing: scripts/test installs it", python.display());
        let mut command = Command::new(python);
        command
            .arg(root.join("tests/foreign_clients/python/processor.py"))
            .arg(self.emulator.connection_string(Some(HUB)))
            .arg(azurite::connection_string())
            .arg(self.container.name())
            .arg(self.folder.path().join(&name));
        self.spawn(name, command)
    }

    fn spawn(&mut self, name: String, mut command: Command) -> Worker {
        let log = self.path(&name, "log");
        let file = std::fs::File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.handled.journals.push(Follower::new(self.path(&name, "handled")));
        self.names.push(name.clone());
        Worker { name, child, log }
    }

    /// How many events were handled so far, each counted once.
    pub fn handled(&mut self) -> usize {
        self.handled.look();
        self.handled.distinct
    }

    /// Waits until so many events were handled.
    pub async fn handles(&mut self, events: usize) {
        let look = || match self.handled() {
            handled if handled < events => Err(handled),
            _ => Ok(()),
        };
        found(&format!("{events} are handled"), Duration::from_millis(50), LIMIT, look).await;
    }

    /// One of these workers that has handled events, by its place, as soon as there is one: who only begins
    /// owns nothing that others could take.
    pub async fn one_at_work(&self, workers: &[Worker], random: &mut SmallRng) -> usize {
        let look = || {
            let has_handled = |worker: &Worker| {
                let journal = std::fs::metadata(self.path(&worker.name, "handled"));
                journal.is_ok_and(|journal| journal.len() > 0)
            };
            let at_work = (0..workers.len()).filter(|at| has_handled(&workers[*at]));
            at_work.choose(random).ok_or("nobody did yet")
        };
        found("a worker that handled events", Duration::from_millis(50), LIMIT, look).await
    }

    /// How many events each partition's log holds.
    pub async fn log_ends(&self) -> Vec<i64> {
        let transport = EventHubsTransport::new(self.namespace(), HUB, "$Default");
        let mut ends = Vec::new();
        for partition in 0..self.partitions {
            ends.push(broker::log_end(&transport, &partition.to_string()).await as i64);
        }
        transport.close().await;
        ends
    }

    /// Stops the broker.
    pub async fn stop(self) {
        self.emulator.shutdown().await.unwrap();
    }

    /// Waits until every event of the logs was handled that is not to be given up, and returns how many
    /// there are.
    pub async fn handles_all(&mut self) -> usize {
        let ends = self.log_ends().await;
        let events = usize::try_from(ends.iter().sum::<i64>()).unwrap();
        let mut given_up = 0;
        for (partition, end) in ends.into_iter().enumerate() {
            let partition = PartitionId::from(partition.to_string());
            let is_one = |number: &i64| self.work.fate(&partition, *number) == Fate::GivenUp;
            given_up += (0..end).filter(is_one).count();
        }
        self.handles(events - given_up).await;
        events
    }

    /// Reads a journal of every worker there was.
    pub fn journals<T: serde::de::DeserializeOwned>(&self, kind: &str) -> Vec<(String, Vec<T>)> {
        let read = |name: &String| (name.clone(), super::journal::read(self.path(name, kind)));
        self.names.iter().map(read).collect()
    }
}

/// The folder of the journals; kept where a test fails.
struct Folder(Option<TempDir>);

impl Folder {
    fn path(&self) -> &Path {
        self.0.as_ref().expect("it is there until it is dropped").path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.0.take()
        {
            eprintln!("the journals are in {}", folder.keep().display());
        }
    }
}

impl Worker {
    /// Drains it, and waits for its end, which must be clean.
    pub async fn drain(mut self) {
        let mut stdin = self.child.stdin.take().unwrap();
        stdin.write_all(format!("{DRAIN}\n").as_bytes()).await.unwrap();
        let status = within("the end of a worker", self.child.wait()).await.unwrap();
        let log = std::fs::read_to_string(&self.log).unwrap();
        assert!(status.success(), "{} ended with {status}\n{log}", self.name);
    }

    /// Stops it where it is: none of its threads runs until it is resumed.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        // Built into every shell; a program of that name is not everywhere.
        let command = format!("kill {signal} {}", self.child.id().unwrap());
        let status = std::process::Command::new("sh").args(["-c", &command]).status();
        assert!(status.unwrap().success());
    }

    /// Ends it without a word.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// A number from the environment.
pub fn chosen(name: &str, otherwise: usize) -> usize {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}
