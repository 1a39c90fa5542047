//! Disks that run full under the target and under the state: a clean stop that says so, and a
//! run on the grown disk that finishes.
//!
//! The disk is a file system in memory, mounted in a mount namespace of the test's own, so that
//! it is as full for root as for anybody.

use std::fs;
use std::time::{Duration, Instant};

use crate::command::{Ended, Folder, files_below, longshore, start};
use crate::namespaces::unshare;
use crate::web::{Answer, WebServer};

/// A stop is not a matter of patience.
const PROMPT: Duration = Duration::from_secs(15);

/// Runs on the full disk and on the grown one; `arguments` name the disk.
fn run_twice(folder: &Folder, arguments: &[&str]) -> (Ended, Ended, Duration) {
    run_twice_on("1m", folder, arguments)
}

/// The same on a disk of this size.
fn run_twice_on(size: &str, folder: &Folder, arguments: &[&str]) -> (Ended, Ended, Duration) {
    let mut command = unshare();
    command.env("SMALL_DISK", size);
    command.arg("sh").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transfer/small_disk.sh"));
    command.arg(folder.path("disk")).arg(folder.path("out"));
    command.arg(longshore().get_program()).args(["transfer", "--urls", "list", "--allow-private"]);
    command.args(["--report", "json"]).args(arguments).current_dir(folder.dir.path());
    command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "0");
    let started = Instant::now();
    start(&mut command).end_within(Duration::from_secs(90)).expect_code(0);
    let read = |name: &str| fs::read_to_string(folder.path("out").join(name)).unwrap();
    let ended = |run: &str| Ended {
        code: Some(read(&format!("{run}.code")).trim().parse().unwrap()),
        stdout: read(&format!("{run}.stdout")),
        stderr: read(&format!("{run}.stderr")),
    };
    (ended("full"), ended("grown"), started.elapsed())
}

#[test]
fn a_full_target_stops_the_run_and_a_grown_one_finishes_it() {
    let web = WebServer::start();
    let folder = Folder::new();
    let names: Vec<String> = (0..6).map(|number| format!("{number}.bin")).collect();
    let body = |name: &str| name.repeat(60_000).into_bytes();
    for name in &names {
        web.serve(name, body(name));
    }
    folder.list(names.iter().map(|name| web.url(name)));
    let (full, grown, took) = run_twice(&folder, &["--to", "disk", "--state", "state"]);
    assert!(took < PROMPT, "{took:?}");
    let full = full.expect_code(1).expect_said("stopped: list:").expect_said(": task ");
    let full = full.expect_said("the disk that holds ").expect_said("is full; free space");
    assert_eq!((full.figure("failed"), full.figure("dead_letters")), (0, 0));
    let done = files_below(&folder.path("out/full.disk"));
    assert_eq!(full.figure("files"), done.len() as u64);
    assert!(done.len() < 4 && done.iter().all(|name| names.contains(name)), "{done:?}");
    let grown = grown.expect_code(0);
    assert_eq!(grown.figure("files") + grown.figure("skipped"), 6, "{full:?} {grown:?}");
    assert_eq!(grown.figure("skipped"), full.figure("files"));
    let files = files_below(&folder.path("out/grown.disk"));
    assert_eq!(files.into_iter().collect::<Vec<_>>(), names);
    for name in &names {
        let arrived = fs::read(folder.path("out/grown.disk").join(name)).unwrap();
        assert_eq!(arrived, body(name), "{name}");
        let again = usize::from(!done.contains(name));
        assert!(web.requests(name) <= 1 + again, "{name}: {}", web.requests(name));
    }
    assert!(
        files_below(&folder.path("state/dead-letters")).iter().all(|name| !name.ends_with(".json"))
    );
}

#[test]
fn a_body_that_fills_the_disk_is_passed_over_and_what_fits_arrives() {
    // The state is on that disk, or is not.
    for state in [None, Some("state")] {
        let web = WebServer::start();
        let folder = Folder::new();
        web.answer("endless.bin", [Answer::Endless]);
        let names: Vec<String> = (0..30).map(|number| format!("{number:02}.txt")).collect();
        for name in &names {
            web.serve(name, b"abc");
        }
        let endless = std::iter::once("endless.bin").map(|name| web.url(name));
        folder.list(endless.chain(names.iter().map(|name| web.url(name))));
        let state = state.map(|state| ["--state", state]);
        let arguments = [&["--to", "disk/files"][..], state.as_ref().map_or(&[], |it| it)].concat();
        let (full, grown, took) = run_twice_on("8m", &folder, &arguments);
        assert!(took < 2 * PROMPT, "{took:?}");
        let full = full.expect_code(3).expect_said("failed: list:1: task ");
        let full = full.expect_said("the disk that holds ").expect_said("is full; free space");
        let counts = |ended: &Ended| ["files", "failed", "dead_letters"].map(|of| ended.figure(of));
        assert_eq!(counts(&full), [30, 1, 1], "{full:?}");
        let there = files_below(&folder.path("out/full.disk/files"));
        assert_eq!(
            there.into_iter().collect::<Vec<_>>(),
            names,
            "nothing is left of the endless one"
        );
        // It is tried again, as every task that failed.
        let grown = grown.expect_code(3);
        assert_eq!((grown.figure("skipped"), counts(&grown)), (30, [0, 1, 1]), "{grown:?}");
        assert_eq!(web.requests("endless.bin"), 2);
        for name in &names {
            let arrived = fs::read(folder.path("out/grown.disk/files").join(name)).unwrap();
            assert_eq!(arrived, b"abc", "{name}");
        }
    }
}

#[test]
fn a_state_that_fills_up_while_files_move_stops_the_run() {
    let web = WebServer::start();
    let folder = Folder::new();
    // So long that the results of some thousand fill a mebibyte.
    let names: Vec<String> =
        (0..1_500).map(|number| format!("{:x>240}/{:x>240}/{number:0>240}", "", "")).collect();
    for name in &names {
        web.serve(name, b"x");
    }
    folder.list(names.iter().map(|name| web.url(name)));
    let (full, grown, took) = run_twice(&folder, &["--to", "files", "--state", "disk"]);
    assert!(took < PROMPT, "{took:?}");
    let full = full.expect_code(1).expect_said("longshore: stopped: the state").expect_said("disk");
    assert!(["is full", "No space left"].iter().any(|said| full.stderr.contains(said)), "{full:?}");
    assert_eq!(full.figure("failed"), 0);
    assert!(full.figure("files") > 0);
    let grown = grown.expect_code(0);
    assert_eq!(grown.figure("files") + grown.figure("skipped"), 1_500);
    assert_eq!(folder.files().into_iter().collect::<Vec<_>>(), names);
    // What had no place for its result is known by its note, but for what was under way.
    let twice = names.iter().filter(|name| web.requests(name) > 1).count();
    assert!(twice <= 10, "{twice} files were fetched again");
    assert_eq!(web.all_requests(), 1_500 + twice);
}
