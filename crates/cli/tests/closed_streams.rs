//! A stdout that nobody reads, a disk behind it that is full, a stderr that takes nothing: no command panics,
//! and each says by its exit code what came of it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code)]

#[path = "../../../tests/support/broker.rs"]
mod broker;
#[path = "command/mod.rs"]
mod command;

use std::fs::{self, File, OpenOptions};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use command::{LIMIT, let_go, longshore, spawned};
use longshore::checkpoint_store::file::FileCheckpointStore;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected,
};
use longshore::dead_letter::store::StoreDeadLetterSink;
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::event::{EventParts, Incarnation, Partition};
use longshore::failure_store::folder::FolderFailureStore;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{Publisher, SendTarget, Transport};
use longshore::{Failure, OutgoingEvent};
use longshore_emulator::Emulator;

/// What a panic ends with.
const PANICKED: i32 = 101;

struct Stage {
    broker: Emulator,
    dir: tempfile::TempDir,
    string: String,
}

impl Stage {
    /// A hub with events, a folder with checkpoints and letters, and files that commands read.
    async fn new() -> Self {
        let broker = broker::patient().hub("orders", 2).start().await.unwrap();
        let string = broker.connection_string(Some("orders"));
        let namespace = Namespace::from_connection_string(&string).unwrap();
        let publisher = EventHubsPublisher::new(namespace.clone(), "orders");
        let events = (0..5).map(|_| OutgoingEvent::new("x")).collect();
        publisher.send_batch(SendTarget::Partition("0".into()), events).await.unwrap();
        publisher.close().await;
        let dir = tempfile::tempdir().unwrap();
        let transport = EventHubsTransport::new(namespace, "orders", "$Default");
        let scope = CheckpointScope {
            namespace: transport.namespace().to_owned(),
            entity: "orders".into(),
            consumer_group: "$Default".into(),
        };
        let store =
            FileCheckpointStore::open(dir.path().join("longshore-state/checkpoints")).unwrap();
        let key = CheckpointKey { scope, partition: "0".into() };
        store.store(&key, &Checkpoint::default(), &Expected::Absent).await.unwrap();
        let_go(store);
        let letters =
            FolderFailureStore::open(dir.path().join("longshore-state/failures")).unwrap();
        let parts = EventParts::new(Arc::new(Partition::new("orders", "0")), 1, "x");
        let now = SystemTime::now();
        let failure = Failure::permanent("404");
        let letter = DeadLetter::new(parts.into(), "$Default".into(), "worker-1", failure, now)
            .with_origin("ns.example", Incarnation(1));
        StoreDeadLetterSink::new(Arc::new(letters)).write(&letter).await.unwrap();
        fs::write(dir.path().join("list"), "no URL\n").unwrap();
        fs::create_dir(dir.path().join("few")).unwrap();
        fs::write(dir.path().join("few/file"), "x").unwrap();
        Self { broker, dir, string }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = longshore();
        command.env_clear().env("EVENTHUB_CONNECTION_STRING", &self.string);
        command.current_dir(self.dir.path()).args(arguments).stdin(Stdio::null());
        command
    }
}

/// Each command, with how it ends where everything is written.
const COMMANDS: [(&[&str], i32); 18] = [
    (&["--help"], 0),
    (&["checkpoints", "list"], 0),
    (&["checkpoints", "list", "--report", "json"], 0),
    (&["checkpoints", "reset", "--all", "--to", "latest"], 0),
    (&["dead-letters", "list"], 0),
    (&["dead-letters", "group"], 0),
    (&["dead-letters", "show", "orders/0#1"], 0),
    (&["dead-letters", "show", "orders/0#9"], 1),
    (&["dead-letters", "purge", "--all", "--dry-run"], 0),
    (&["dead-letters", "replay", "--offline", "--all", "--dry-run"], 0),
    (&["parked", "list", "--report", "json"], 0),
    (&["send", "--body", "x"], 0),
    (&["send", "--body", "x", "--report", "json"], 0),
    (&["tail", "--from", "earliest", "-n", "5"], 0),
    (&["test"], 0),
    (&["demo", "--dir", "few"], 0),
    (&["transfer", "--urls", "list", "--to", "files"], 3),
    (&["worker", "download"], 2),
];

/// Those whose lines are useless where a part of them is lost.
const LINES: [&[&str]; 2] = [&["checkpoints", "export"], &["dead-letters", "export"]];

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

fn end(mut child: Child, what: &str) -> i32 {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let code = status.code().unwrap_or_else(|| panic!("{what}: {status}"));
            assert_ne!(code, PANICKED, "{what}");
            return code;
        }
        assert!(Instant::now() < deadline, "{what} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs it, and returns its exit code and what it said.
fn run(command: &mut Command, what: &str) -> (i32, String) {
    let mut child = spawned(command.stderr(Stdio::piped()));
    // Whoever would read stdout has gone away.
    drop(child.stdout.take());
    let stderr = child.stderr.take().unwrap();
    let said = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap());
    let code = end(child, what);
    let said = said.join().unwrap();
    assert!(!said.contains("panicked"), "{what}: {said}");
    (code, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_panics_and_each_ends_with_its_code() {
    let stage = Stage::new().await;
    tokio::task::spawn_blocking(move || {
        for (arguments, code) in COMMANDS {
            let what = format!("{arguments:?} > a pipe that nobody reads");
            let (found, said) = run(stage.command(arguments).stdout(Stdio::piped()), &what);
            assert_eq!(found, code, "{what}: {said}");
            assert!(!said.contains("cannot be written"), "{what}: {said}");

            let what = format!("{arguments:?} > a full disk");
            let (found, said) = run(stage.command(arguments).stdout(full()), &what);
            // Help is the parser's own business; of what has no result on stdout nothing is lost.
            let is_lost = code == 0 && arguments != ["--help"];
            assert_eq!(found, if is_lost { 1 } else { code }, "{what}: {said}");
            let is_told = said.contains("No space left on device");
            assert!(is_told || !is_lost, "{what}: {said}");

            let what = format!("{arguments:?} 2> a full disk");
            let mut command = stage.command(arguments);
            let child = spawned(command.stdout(Stdio::null()).stderr(full()));
            assert_eq!(end(child, &what), code, "{what}");

            let what = format!("{arguments:?} >&- 2>&-");
            let closed = stage.command(arguments);
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec \"$0\" \"$@\" >&- 2>&-"]).arg(closed.get_program());
            shell.args(closed.get_args()).current_dir(stage.dir.path()).stdin(Stdio::null());
            shell
                .env_clear()
                .envs(closed.get_envs().filter_map(|(key, value)| Some((key, value?))));
            assert_eq!(end(spawned(&mut shell), &what), code, "{what}");
        }
        for arguments in LINES {
            let what = format!("{arguments:?}");
            for stdout in [Stdio::piped(), full().into()] {
                let (code, said) = run(stage.command(arguments).stdout(stdout), &what);
                assert_eq!(code, 1, "{what}: {said}");
                assert!(said.contains("cannot be written: "), "{what}: {said}");
            }
        }
    })
    .await
    .unwrap();
}

/// What runs until a signal goes on without anybody who reads what it says.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_on_ends_with_its_signal() {
    let stage = Stage::new().await;
    for arguments in [&["emulator", "--hub", "a:1", "--port", "0"][..], &["tail", "--follow"]] {
        let what = format!("{arguments:?}");
        let mut command = stage.command(arguments);
        let child = spawned(command.stdout(full()).stderr(full()));
        // Until it listens for signals.
        let caught = |id: u32| {
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            let caught = u64::from_str_radix(line.trim(), 16).unwrap();
            // SIGTERM is the fifteenth.
            caught & (1 << 14) != 0
        };
        let deadline = Instant::now() + LIMIT;
        while !caught(child.id()) {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let kill = format!("kill -TERM {}", child.id());
        assert!(spawned(Command::new("sh").args(["-c", &kill])).wait().unwrap().success());
        let code = tokio::task::spawn_blocking(move || end(child, &what)).await.unwrap();
        assert_eq!(code, 0, "{arguments:?}");
    }
    stage.broker.shutdown().await.unwrap();
}
