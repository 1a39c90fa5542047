//! What reaches the terminal: a moving bar where there is one, plain lines where there is none,
//! and nothing that a list or a server could steer it with.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{Folder, LIMIT, longshore, spawned, start};
use crate::web::{Answer, WebServer};

/// Clears a screen, sets a title, turns text around; as characters and encoded.
const HOSTILE: [&str; 3] = [
    r#"{"url":"https://h/x","path":"a\u001b[2J\u001b]0;owned\u0007\u009b31m\u202e"}"#,
    "https://h/a%1b[2J%c2%9b31m",
    "no url \u{1b}[2J\u{9b}31m\u{202e}\r",
];

/// The bar while the file that is held back is under way.
const BAR: &str = "░  0 of 5 files";

/// Tasks with such an id and path, which are tried and fail.
fn hostile_lines(web: &WebServer) -> Vec<String> {
    let url = web.url("gone\u{202e}");
    let tried = format!(r#"{{"id":"\u001b[2J\u009b31m","url":"{url}","path":"a\u202eb"}}"#);
    HOSTILE.iter().map(|line| (*line).to_owned()).chain([tried]).collect()
}

#[track_caller]
fn assert_harmless(text: &str) {
    let steers = |letter: char| letter.is_control() && letter != '\n' || letter == '\u{202e}';
    assert!(!text.contains(steers), "{text:?}");
}

#[test]
fn what_lists_say_cannot_steer_the_terminal() {
    let web = WebServer::start();
    let folder = Folder::new();
    folder.list(hostile_lines(&web));
    let mut command = folder.transfer();
    let run = start(command.arg("--allow-private").env("RUST_LOG", "longshore=debug"));
    let ended = run.end().expect_code(3);
    assert_eq!(ended.figure("failed"), 4);
    assert_eq!(ended.stderr.matches("longshore: failed: ").count(), 4, "{ended:#?}");
    assert!(ended.stderr.contains(r"\u{1b}[2J"), "{ended:#?}");
    assert!(ended.stderr.contains(" DEBUG longshore::"), "{ended:#?}");
    assert_harmless(&ended.stderr);
    assert_harmless(&ended.stdout);
}

#[test]
fn a_log_gets_a_plain_line_now_and_then_and_at_the_end() {
    let web = WebServer::start();
    let folder = Folder::new();
    web.serve("first.bin", vec![1; 1_000]);
    web.answer("held.bin", [Answer::Held(vec![2; 1_000])]);
    folder.list([web.url("first.bin"), web.url("held.bin")]);
    let run = folder.start();
    run.wait_until_said("longshore: 1 of 2 files, ");
    web.release();
    let ended = run.end().expect_code(0);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(lines[0].contains(", 1 running"), "{lines:?}");
    assert!(lines.last().unwrap().starts_with("longshore: 2 of 2 files, "), "{lines:?}");
    assert_harmless(&ended.stderr);
    assert_eq!(ended.figure("files"), 2);
}

/// What a command writes to a terminal of its own.
fn on_a_terminal(folder: &Folder, command: &str, term: &str) -> String {
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--flush", "--return", "--command", command, "screen"])
        .current_dir(folder.dir.path())
        .env("TERM", term)
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let ended = spawned(&mut script).wait_with_output().unwrap();
    let screen = fs::read(folder.path("screen")).unwrap();
    assert_eq!(ended.status.code(), Some(3), "{}", String::from_utf8_lossy(&screen));
    String::from_utf8(screen).unwrap()
}

#[test]
fn a_terminal_gets_a_bar_and_the_report_stays_clean() {
    let web = WebServer::start();
    let folder = Folder::new();
    web.answer("held.bin", [Answer::Held(vec![2; 1_000])]);
    let hostile = hostile_lines(&web);
    folder.list([web.url("held.bin")].into_iter().chain(hostile));
    let program = longshore().get_program().to_str().unwrap().to_owned();
    let command =
        format!("{program} transfer --urls list --to files --allow-private --report json > report");
    let screen = thread::scope(|scope| {
        scope.spawn(|| {
            web.wait_until_holding(1);
            let screen = folder.path("screen");
            let deadline = Instant::now() + LIMIT;
            while !fs::read_to_string(&screen).is_ok_and(|screen| screen.contains(BAR)) {
                assert!(Instant::now() < deadline, "no bar is drawn");
                thread::sleep(Duration::from_millis(5));
            }
            web.release();
        });
        on_a_terminal(&folder, &command, "xterm")
    });
    assert!(screen.contains(BAR), "{screen:?}");
    assert!(screen.contains("4 failed"), "{screen:?}");
    for hostile in ["\x1b[2J", "\x1b]0;", "\u{9b}", "\u{202e}", "\x07"] {
        assert!(!screen.contains(hostile), "{hostile:?} is in {screen:?}");
    }
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path("report")).unwrap()).unwrap();
    assert_eq!((&report["files"], &report["failed"]), (&1.into(), &4.into()));
    // One that cannot move its cursor gets lines, here those of the tasks that fail again.
    let screen = on_a_terminal(&folder, &command, "dumb");
    assert!(screen.contains("0 of 4 files, "), "{screen:?}");
    assert!(!screen.contains('\x1b') && !screen.contains('░'), "{screen:?}");
}
