//! Runs `longshore transfer` as a user does, and looks at what it left.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use longshore::dead_letter::folder::FolderDeadLetterSink;
use longshore::dead_letter::record::DeadLetterRecord;
use serde_json::Value;

/// Bounds a run that would hang for ever, on a machine with ten times more work than cores.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// A process that is started has copies of the locks of this one until it runs its program. Held
/// while one is started, and by whoever lets go of a lock that somebody else then takes, so that
/// tests beside each other in one process do not keep one another's folders.
static STARTS: Mutex<()> = Mutex::new(());

/// Lets go of what has a folder for itself.
pub(crate) fn let_go<T>(of: T) {
    let _nobody_starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
    drop(of);
}

/// A list, a target and a state of their own.
pub(crate) struct Folder {
    pub(crate) dir: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.path("files")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("files.longshore")
    }

    pub(crate) fn list<S: AsRef<str>>(&self, lines: impl IntoIterator<Item = S>) {
        let lines = lines.into_iter().map(|line| format!("{}\n", line.as_ref()));
        fs::write(self.path("list"), lines.collect::<String>()).unwrap();
    }

    /// `longshore transfer`, with the list and the target of this folder.
    pub(crate) fn transfer(&self) -> Command {
        let mut command = longshore();
        command.arg("transfer").current_dir(self.dir.path());
        command.args(["--urls", "list", "--to", "files", "--report", "json"]);
        command
    }

    /// Runs it with loopback allowed, to its end.
    pub(crate) fn run(&self) -> Ended {
        self.start().end()
    }

    /// Starts it with loopback allowed.
    pub(crate) fn start(&self) -> Running {
        start(self.transfer().arg("--allow-private"))
    }

    /// All files below the target, temporary ones too.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        files_below(&self.target())
    }

    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        fs::read(self.target().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The records of all runs, by partition and number.
    pub(crate) fn dead_letters(&self) -> Vec<DeadLetterRecord> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sink = FolderDeadLetterSink::open(self.state().join("dead-letters")).unwrap();
        let letters = runtime.block_on(sink.read_all()).unwrap();
        let_go(sink);
        letters.into_iter().map(|letter| letter.record.unwrap()).collect()
    }
}

/// The command, without the settings of whoever runs the tests. `LONGSHORE_COMMAND` is another build of it.
pub(crate) fn longshore() -> Command {
    let other = std::env::var_os("LONGSHORE_COMMAND");
    let mut command = Command::new(other.unwrap_or(env!("CARGO_BIN_EXE_longshore").into()));
    command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "0");
    command
}

pub(crate) fn files_below(folder: &Path) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap();
                files.insert(name.to_str().unwrap().to_owned());
            }
        }
    }
    files
}

/// Starts a program.
pub(crate) fn spawned(command: &mut Command) -> Child {
    let _nobody_lets_go = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

pub(crate) fn start(command: &mut Command) -> Running {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawned(command);
    let stdout = Stream::read(child.stdout.take().unwrap());
    let stderr = Stream::read(child.stderr.take().unwrap());
    Running { child, stdout, stderr }
}

/// The same, with something to read on stdin.
pub(crate) fn start_with_input(command: &mut Command, input: &[u8]) -> Running {
    let (running, mut stdin) = start_to_write(command);
    let input = input.to_vec();
    thread::spawn(move || drop(stdin.write_all(&input)));
    running
}

/// The same, with its stdin.
pub(crate) fn start_to_write(command: &mut Command) -> (Running, ChildStdin) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawned(command);
    let stdin = child.stdin.take().unwrap();
    let stdout = Stream::read(child.stdout.take().unwrap());
    let stderr = Stream::read(child.stderr.take().unwrap());
    (Running { child, stdout, stderr }, stdin)
}

/// What a command writes, read while it runs.
struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    fn read(mut stream: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let read = text.clone();
        let reader = thread::spawn(move || {
            let mut part = [0; 4_096];
            while let Ok(bytes @ 1..) = stream.read(&mut part) {
                read.lock().unwrap().extend_from_slice(&part[..bytes]);
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}

/// A command under way. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    stdout: Stream,
    stderr: Stream,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn interrupt(&self) {
        self.signal("INT");
    }

    /// What a service manager sends first.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        let sent = spawned(Command::new("sh").args(["-c", &kill])).wait().unwrap();
        assert!(sent.success());
    }

    /// Waits until it has told something on stderr.
    pub(crate) fn wait_until_said(&self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.stderr.so_far().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not in {}", self.stderr.so_far());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it with SIGKILL; false where it had ended before.
    pub(crate) fn kill(mut self) -> bool {
        let running = self.child.try_wait().unwrap().is_none();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        running
    }

    pub(crate) fn end(self) -> Ended {
        self.end_within(LIMIT)
    }

    pub(crate) fn end_within(mut self, limit: Duration) -> Ended {
        let status = self.wait(limit, |_id| {});
        self.ended(status)
    }

    /// Waits for the end, and calls `look` now and then meanwhile.
    pub(crate) fn wait(&mut self, limit: Duration, mut look: impl FnMut(u32)) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            look(self.child.id());
            if Instant::now() >= deadline {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                let said = self.stderr.all();
                panic!("the command did not end within {limit:?}; it said:\n{said}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn ended(mut self, status: ExitStatus) -> Ended {
        Ended { code: status.code(), stdout: self.stdout.all(), stderr: self.stderr.all() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where it has ended there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that came to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Something it told on stderr.
    #[track_caller]
    pub(crate) fn expect_said(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} is not in {self:#?}");
        self
    }

    /// The words on stdout, however its lines are wrapped.
    pub(crate) fn words(&self) -> String {
        self.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The report: one JSON object, and nothing else on stdout.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:#?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// A figure of the report.
    #[track_caller]
    pub(crate) fn figure(&self, name: &str) -> u64 {
        self.report()[name].as_u64().unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }
}
