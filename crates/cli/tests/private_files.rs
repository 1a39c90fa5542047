//! What the command makes is its owner's alone, whatever the umask; and nothing that is no file holds it
//! up.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code)]

#[path = "command/mod.rs"]
mod command;
#[path = "../../../tests/web/mod.rs"]
mod web;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use command::{Ended, Folder, LIMIT, Running, files_below, start};
use longshore::private_file;
use longshore::timestamp::rfc3339;
use longshore_emulator::Emulator;
use web::WebServer;

/// The command where everything that says no more is open to everyone.
fn open_to_all(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_longshore")]);
    command.args(arguments).current_dir(folder).env_remove("RUST_LOG");
    command
}

/// The files and folders from `path` down that others may use.
fn wide(path: &Path, found: &mut Vec<String>) {
    let mode = path.symlink_metadata().unwrap().permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        found.push(format!("{} {mode:o}", path.display()));
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            wide(&entry.unwrap().path(), found);
        }
    }
}

fn expect_private(path: &Path) {
    let mut found = Vec::new();
    wide(path, &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

const TRANSFER: [&str; 6] = ["transfer", "--urls", "list", "--to", "files", "--allow-private"];

#[test]
fn the_state_of_a_transfer_is_private() {
    let (web, folder) = (WebServer::start(), Folder::new());
    web.serve("a.bin", "a");
    folder.list([web.url("a.bin"), web.url("gone.bin?sig=hush")]);
    start(&mut open_to_all(&TRANSFER, folder.dir.path())).end().expect_code(3);
    assert!(!folder.dead_letters().is_empty());
    expect_private(&folder.state());
    // What was asked for is for whom the umask says.
    let mode = fs::metadata(folder.target().join("a.bin")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
}

#[test]
fn the_data_and_the_certificates_of_a_broker_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "emulator",
        "--hub",
        "orders:2",
        "--port",
        "0",
        "--tls-port",
        "0",
        "--data",
        "data",
        "--cert-dir",
        "certs",
    ];
    let running = start(&mut open_to_all(&arguments, dir.path()));
    running.wait_until_said("tokens are not checked");
    running.interrupt();
    running.end().expect_code(0);
    expect_private(&dir.path().join("data"));
    // A certificate is there to be handed out.
    fs::remove_file(dir.path().join("certs/ca.pem")).unwrap();
    expect_private(&dir.path().join("certs"));
    // Those that are not kept.
    let temporary = dir.path().join("temporary");
    private_file::create_folder(&temporary).unwrap();
    let arguments = ["emulator", "--hub", "orders:1", "--port", "0", "--tls-port", "0"];
    let running = start(open_to_all(&arguments, dir.path()).env("TMPDIR", &temporary));
    running.wait_until_said("tokens are not checked");
    let authority = files_below(&temporary).into_iter().find(|name| name.ends_with("ca.pem"));
    fs::remove_file(temporary.join(authority.unwrap())).unwrap();
    expect_private(&temporary);
    running.interrupt();
    running.end().expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_and_what_is_exported_of_them_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let emulator = Emulator::builder().hub("orders", 1).start().await.unwrap();
    let run = |arguments: &[&str]| {
        let mut command = open_to_all(arguments, dir.path());
        command.env("EVENTHUB_CONNECTION_STRING", emulator.connection_string(Some("orders")));
        command.env("LONGSHORE_CHECKPOINT_FOLDER", "checkpoints");
        let running = start(&mut command);
        tokio::task::block_in_place(|| running.end()).expect_code(0);
    };
    run(&["checkpoints", "set", "--partition", "0", "--sequence", "-1"]);
    run(&["checkpoints", "export", "--to", "kept.jsonl"]);
    expect_private(&dir.path().join("checkpoints"));
    expect_private(&dir.path().join("kept.jsonl"));
    emulator.shutdown().await.unwrap();
}

/// Commands that another test here holds to their modes, and which.
const HELD_ELSEWHERE: [(&str, &str); 2] = [
    ("transfer", "the_state_of_a_transfer_is_private"),
    ("emulator", "the_data_and_the_certificates_of_a_broker_are_private"),
];

/// The commands that a help names, those below others too: "dead-letters list".
fn commands_of(above: &[&str]) -> BTreeSet<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_longshore")).args(above).arg("--help").output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let Some((_, commands)) = help.split_once("\nCommands:\n") else {
        return BTreeSet::from([above.join(" ")]);
    };
    let names = commands.lines().take_while(|line| !line.is_empty());
    // What a description goes on with stands further right.
    let names = names.filter_map(|line| line.strip_prefix("  ").filter(|it| !it.starts_with(' ')));
    let names = names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help");
    names.flat_map(|name| commands_of(&[above, &[name]].concat())).collect()
}

/// A folder in which one command runs after the other, where everything that says no more is open to everyone.
struct Stage {
    dir: tempfile::TempDir,
    connection_string: String,
    /// The commands that ran.
    ran: BTreeSet<String>,
}

impl Stage {
    fn command(&mut self, name: &str, arguments: &[&str]) -> Command {
        self.ran.insert(name.to_owned());
        let words: Vec<&str> = name.split(' ').chain(arguments.iter().copied()).collect();
        let mut command = open_to_all(&words, self.dir.path());
        command.env("EVENTHUB_CONNECTION_STRING", &self.connection_string);
        command.env("LONGSHORE_DOWNLOAD_PRIVATE_ADDRESSES", "allow");
        for (key, value) in [
            ("LONGSHORE_TOPICS_RESULTS_ENTITY", "results"),
            ("LONGSHORE_TOPICS_OTHERS_ENTITY", "others"),
            ("EVENTHUB_ENTITY_DOWNLOAD", "tasks"),
            ("LONGSHORE_WORKER_DOWNLOAD_RESULTS", "results"),
            ("LONGSHORE_WORKER_DOWNLOAD_FILES", "files"),
            ("EVENTHUB_ENTITY_UPLOAD", "results"),
            ("LONGSHORE_WORKER_UPLOAD_RESULTS", "others"),
            ("LONGSHORE_WORKER_UPLOAD_SOURCE", "files"),
            ("LONGSHORE_WORKER_UPLOAD_FILES", "uploaded"),
        ] {
            command.env(key, value);
        }
        command
    }

    /// Runs a command to its end.
    fn run(&mut self, name: &str, arguments: &[&str]) -> Ended {
        let running = start(&mut self.command(name, arguments));
        let ended = tokio::task::block_in_place(|| running.end()).expect_code(0);
        self.expect_private(name);
        ended
    }

    /// Runs one that goes on until a signal, until `is_there`.
    fn run_until(&mut self, name: &str, arguments: &[&str], is_there: impl Fn(&Self) -> bool) {
        let running = start(&mut self.command(name, arguments));
        tokio::task::block_in_place(|| {
            let give_up = Instant::now() + LIMIT;
            while !is_there(self) {
                assert!(Instant::now() < give_up, "{name}: it does not come");
                std::thread::sleep(Duration::from_millis(20));
            }
            // While it runs, too.
            self.expect_private(name);
            running.terminate();
            running.end()
        });
        self.expect_private(name);
    }

    /// All that was made, but for what was asked for: the files.
    fn expect_private(&self, name: &str) {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if !["files", "uploaded"].iter().any(|asked_for| path.ends_with(asked_for)) {
                wide(&path, &mut found);
            }
        }
        assert!(found.is_empty(), "longshore {name}: {found:#?}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How many records there are of a kind.
    fn records(&self, kind: &str) -> usize {
        let below = files_below(&self.path("longshore-state/failures").join(kind));
        below.iter().filter(|name| name.ends_with(".json")).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_command_makes_is_private() {
    let mut builder = Emulator::builder();
    for hub in ["tasks", "results", "others", "retries", "letters"] {
        builder = builder.hub(hub, 1);
    }
    let (emulator, web) = (builder.start().await.unwrap(), WebServer::start());
    web.serve("a.bin", "a");
    let mut stage = Stage {
        dir: tempfile::tempdir().unwrap(),
        connection_string: emulator.connection_string(None),
        ran: BTreeSet::new(),
    };
    let task = |name: &str| {
        serde_json::json!({ "id": name, "url": web.url(name), "path": name }).to_string()
    };
    let tasks = [task("a.bin"), task("gone.bin?sig=hush")];

    stage.run("test", &["--worker", "download"]);
    stage.run("send", &["--hub", "tasks", "--body", &tasks[0], "--body", &tasks[1]]);
    stage.run("tail", &["--hub", "tasks"]);
    stage.run_until("worker download", &[], |stage| {
        stage.path("files/a.bin").exists() && stage.records("dead") == 1
    });
    stage.run_until("worker upload", &[], |stage| stage.path("uploaded/a.bin").exists());
    assert!(stage.path("longshore-state").exists(), "there is a state to be private");

    for command in ["list", "group"] {
        stage.run(&format!("dead-letters {command}"), &[]);
    }
    stage.run("dead-letters show", &["tasks/0#1"]);
    stage.run("dead-letters export", &["--to", "letters.jsonl"]);
    stage.run("dead-letters import", &["--hub", "letters"]);
    // Nobody takes the letters: they stay parked.
    let replay = |stage: &mut Stage| {
        stage.run("dead-letters replay", &["--all", "--offline", "--no-wait"]);
        assert_eq!(stage.records("parked"), 1);
    };
    replay(&mut stage);
    assert!(!files_below(&stage.path("longshore-state/replays")).is_empty(), "a job has a file");
    stage.run("parked list", &[]);
    stage.run("parked show", &["tasks/0#1"]);
    stage.run("parked retry", &["--all"]);
    stage.run("parked give-up", &["--all"]);
    replay(&mut stage);
    stage.run("parked drop", &["--all"]);
    stage.run("dead-letters purge", &["--all"]);

    let of_tasks = ["--worker", "download"];
    let with = |arguments: &[&'static str]| [&of_tasks[..], arguments].concat();
    stage.run("checkpoints set", &with(&["--partition", "0", "--sequence", "-1"]));
    stage.run("checkpoints reset", &with(&["--all", "--to", "earliest"]));
    stage.run("checkpoints list", &of_tasks);
    stage.run("checkpoints export", &with(&["--to", "kept.jsonl"]));
    stage.run("checkpoints import", &with(&["--from", "kept.jsonl"]));

    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 60 * 60);
    let event = serde_json::json!({
        "properties": { "target_topic": "others", "scheduled_retry_time": rfc3339(tomorrow) },
        "body_text": "later",
    });
    fs::create_dir(stage.path("given")).unwrap();
    fs::set_permissions(stage.path("given"), fs::Permissions::from_mode(0o700)).unwrap();
    let lines = stage.path("given/lines");
    private_file::open(OpenOptions::new().write(true).create_new(true), &lines)
        .and_then(|mut file| writeln!(file, "{event}"))
        .unwrap();
    stage.run("send", &["--hub", "retries", "--json", "--from", "given/lines"]);
    stage
        .run_until("retry-scheduler", &["--from", "retries"], |stage| stage.records("parked") == 1);

    // What it makes is gone at its end: it is looked at meanwhile.
    private_file::create_folder(&stage.path("temporary")).unwrap();
    let mut demo = stage.command("demo", &["--dir", "files"]);
    let mut running = start(demo.env("TMPDIR", stage.path("temporary")));
    let (mut was_seen, limit) = (false, LIMIT);
    let status = tokio::task::block_in_place(|| {
        running.wait(limit, |_| {
            for entry in fs::read_dir(stage.path("temporary")).unwrap() {
                // It may be gone by now.
                let Ok(found) = entry.unwrap().metadata() else { continue };
                was_seen = true;
                assert_eq!(found.permissions().mode() & 0o777, 0o700, "nobody gets below it");
            }
        })
    });
    running.ended(status).expect_code(0);
    assert!(was_seen, "the demo has a folder of its own for as long as it runs");

    let mut held = stage.ran.clone();
    held.extend(HELD_ELSEWHERE.map(|(command, _)| command.to_owned()));
    assert_eq!(held, commands_of(&[]), "a command that is new is to be run here");
    emulator.shutdown().await.unwrap();
}

fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
fn a_pipe_or_a_link_where_the_state_has_a_file_is_said_at_once() {
    let (web, folder) = (WebServer::start(), Folder::new());
    web.serve("a.bin", "a");
    folder.list([web.url("a.bin")]);
    folder.run().expect_code(0);
    let aside = folder.path("aside");
    for name in ["results", ".longshore.lock"] {
        let path = folder.state().join(name);
        fs::rename(&path, &aside).unwrap();
        make_pipe(&path);
        let ended = folder.start().end_within(Duration::from_secs(20));
        ended.expect_code(1).expect_said("not a regular file");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&aside, &path).unwrap();
        let ended = folder.start().end_within(Duration::from_secs(20));
        ended.expect_code(1).expect_said("not a regular file");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    folder.run().expect_code(0);
}

/// What may stand in the place of a file.
const IN_THE_WAY: [&str; 3] = ["pipe", "link", "folder"];

/// Puts it there.
fn put_in_the_way(kind: &str, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match kind {
        "pipe" => make_pipe(path),
        "link" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        _ => fs::create_dir(path).unwrap(),
    }
}

#[test]
fn what_is_no_file_in_the_place_of_a_record_is_listed_as_unreadable() {
    const BUCKET: &str = "ns.example/orders/1700000000123/%24default/0/0000000000000000000";
    for kind in IN_THE_WAY {
        let dir = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| {
            let mut command = open_to_all(arguments, dir.path());
            command.env("LONGSHORE_CHECKPOINT_FOLDER", "checkpoints");
            command.env("LONGSHORE_FAILURES", "failures");
            let string = "Endpoint=sb://ns.example/;SharedAccessKeyName=k;SharedAccessKey=YQ==;\
                          EntityPath=orders";
            command.env("EVENTHUB_CONNECTION_STRING", string);
            start(&mut command).end_within(Duration::from_secs(20))
        };
        let root = dir.path().canonicalize().unwrap();
        let expect_said = |arguments: &[&str], path: &Path| {
            let ended = run(arguments).expect_code(3);
            let said = format!("{} {}", ended.words(), ended.stderr);
            let path = path.display().to_string();
            assert!(said.contains(&path), "{kind}: {arguments:?}: {said}");
            assert!(said.contains("not a regular file"), "{kind}: {arguments:?}: {said}");
            for wrong in ["there are no", "the oldest event"] {
                assert!(!said.contains(wrong), "{kind}: {arguments:?}: {said}");
            }
        };
        for (place, command) in [("dead", "dead-letters"), ("parked", "parked")] {
            let path = root.join("failures").join(place).join(BUCKET);
            let path = path.join("0000000000000000007.json");
            put_in_the_way(kind, &path);
            // Not ours.
            put_in_the_way(kind, &path.with_extension("txt"));
            expect_said(&[command, "list"], &path);
            if command == "dead-letters" {
                expect_said(&[command, "group"], &path);
                expect_said(&[command, "export"], &path);
            }
        }
        let path = root.join("checkpoints/ns.example/orders/%24default/0.json");
        put_in_the_way(kind, &path);
        put_in_the_way(kind, &path.with_extension("txt"));
        expect_said(&["checkpoints", "list", "--offline", "--report", "json"], &path);
        expect_said(&["checkpoints", "export"], &path);
        let listed = run(&["checkpoints", "list", "--offline"]).expect_code(3).words();
        assert!(!listed.contains("oldest event"), "{listed}");
    }
}

#[test]
fn who_waits_for_a_pipe_is_stopped_by_a_signal() {
    let folder = Folder::new();
    // A list may come over one.
    make_pipe(&folder.path("list"));
    for signal in [Running::interrupt, Running::terminate] {
        let running = start(&mut open_to_all(&TRANSFER, folder.dir.path()));
        std::thread::sleep(Duration::from_millis(500));
        signal(&running);
        running.end_within(Duration::from_secs(20)).expect_code(4);
    }
}

#[test]
fn a_pipe_and_a_file_without_end_are_refused_where_a_file_is_named() {
    let folder = Folder::new();
    folder.list(["https://example.com/a"]);
    fs::create_dir(folder.path("certs")).unwrap();
    let named = folder.path("certs/ca.key");
    let refused = |arguments: &[&str], ca_file: Option<&str>, code: i32, said: &str| {
        let mut command = open_to_all(arguments, folder.dir.path());
        command.env("LONGSHORE_CHECKPOINT_FOLDER", "checkpoints");
        command.env(
            "EVENTHUB_CONNECTION_STRING",
            "Endpoint=sb://localhost;SharedAccessKeyName=a;SharedAccessKey=YQ==;EntityPath=orders;\
             UseDevelopmentEmulator=true",
        );
        command.envs(ca_file.map(|file| ("EVENTHUB_CA_FILE", file)));
        let ended = start(&mut command).end_within(Duration::from_secs(20)).expect_code(code);
        ended.expect_said(said);
    };
    for said in ["not a regular file", "longer than the 4194304 bytes"] {
        let _none_at_first = fs::remove_file(&named);
        match said.starts_with("not") {
            true => make_pipe(&named),
            false => fs::File::create(&named).unwrap().set_len(1 << 40).unwrap(),
        }
        let named = named.to_str().unwrap();
        refused(&[&TRANSFER[..], &["--credentials", named]].concat(), None, 2, said);
        refused(&["emulator", "--config", named], None, 2, said);
        let tls = ["emulator", "--hub", "orders:1", "--port", "0", "--tls-port", "0"];
        refused(&[&tls[..], &["--cert-dir", "certs"]].concat(), None, 1, said);
        refused(&["checkpoints", "list", "--config", named], None, 2, said);
        refused(&["checkpoints", "list"], Some(named), 2, said);
        let said = said.replace("4194304", "67108864");
        refused(&["checkpoints", "import", "--from", named], None, 2, &said);
    }
    assert!(!folder.path("checkpoints").exists(), "nothing was opened");
}

#[test]
fn a_pipe_where_a_broker_has_a_file_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    for name in ["lock", "extents.json"] {
        let path = dir.path().join("data").join(name);
        let _may_be_gone = fs::remove_file(&path);
        make_pipe(&path);
        let arguments = ["emulator", "--hub", "orders:1", "--port", "0", "--data", "data"];
        let ended = start(&mut open_to_all(&arguments, dir.path()));
        ended.end_within(Duration::from_secs(20)).expect_code(1).expect_said("not a regular file");
        fs::remove_file(&path).unwrap();
    }
}
