//! Ten files at once take little memory: of 500 MB into a folder; into a container as much as its blocks may.
//!
//! Into the container they have 32 MiB; `LONGSHORE_MEMORY_BYTES=2147483648` says another length.
#![cfg(target_os = "linux")]
#![allow(missing_docs, dead_code)]

mod command;
#[path = "../../../benches/web/mod.rs"]
mod discarding;
#[path = "../../../tests/web/mod.rs"]
mod web;

use std::fs;
use std::process::Command;
use std::time::Duration;

use command::{Ended, Folder, longshore, start};
use discarding::Web;
use web::{Answer, WebServer};

const FILES: u64 = 10;
const BYTES: u64 = 500_000_000;
const MAX_RSS_KIB: u64 = 100 * 1024;

/// Into a container, with the settings as they are.
const MAX_RSS_TO_CONTAINER_KIB: u64 = 150 * 1024;

/// A transfer budget that is small, and how long the blocks are that ten streams have of it.
const SMALL_BUDGET: u64 = 16 << 20;
const BLOCK_OF_SMALL: u64 = SMALL_BUDGET / (2 * FILES);

/// The files go to the disk of the build: what holds the temporary files may be memory.
fn scratch() -> Folder {
    let disk = env!("CARGO_TARGET_TMPDIR");
    let listed = Command::new("df").args(["--output=avail", "-B1", disk]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let free: u64 = listed.lines().nth(1).unwrap().trim().parse().unwrap();
    let needed = FILES * BYTES + 500_000_000;
    assert!(free >= needed, "this test writes {needed} bytes below {disk}, and {free} are free");
    Folder { dir: tempfile::tempdir_in(disk).unwrap() }
}

/// The most memory a process has had resident, so far.
fn peak_rss_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[test]
fn ten_files_of_500_mb_at_once_stay_under_100_mib() {
    let web = WebServer::start();
    let folder = scratch();
    let names: Vec<String> = (0..FILES).map(|number| format!("{number}.bin")).collect();
    for name in &names {
        web.answer(name, [Answer::Zeros(BYTES)]);
    }
    folder.list(names.iter().map(|name| web.url(name)));
    let mut run = start(folder.transfer().args(["--allow-private", "--concurrency", "10"]));
    let mut peak = 0;
    let status = run.wait(Duration::from_secs(240), |process| {
        peak = peak.max(peak_rss_kib(process).unwrap_or_default());
    });
    let ended = run.ended(status).expect_code(0);
    println!("peak RSS {:.1} MiB; {}", peak as f64 / 1024.0, ended.report());
    assert_eq!((ended.figure("files"), ended.figure("bytes")), (FILES, FILES * BYTES));
    assert_eq!((web.all_requests() as u64, web.most_at_once() as u64), (FILES, FILES));
    assert!(peak > 0 && peak < MAX_RSS_KIB, "{peak} KiB were resident");
}

/// Moves ten files of this length into a container that throws them away; the most memory that took.
fn peak_kib_into_container(web: &Web, bytes: u64, arguments: &[&str]) -> u64 {
    let folder = Folder::new();
    folder.list((0..FILES).map(|number| web.file(bytes, 0, number as usize)));
    let mut command = longshore();
    command.arg("transfer").current_dir(folder.path(""));
    command.args(["--urls", "list", "--report", "json", "--allow-private", "--concurrency", "10"]);
    command.args(arguments).env("LONGSHORE_TRANSFER_TO", web.container());
    let mut run = start(&mut command);
    let mut peak = 0;
    let status = run.wait(Duration::from_secs(900), |process| {
        peak = peak.max(peak_rss_kib(process).unwrap_or_default());
    });
    let ended: Ended = run.ended(status).expect_code(0);
    println!(
        "{FILES} files of {bytes} bytes into a container {arguments:?}: peak RSS {:.1} MiB; {}",
        peak as f64 / 1024.0,
        ended.report()
    );
    assert_eq!((ended.figure("files"), ended.figure("bytes")), (FILES, FILES * bytes));
    peak
}

#[test]
fn ten_files_at_once_into_a_container_stay_within_the_transfer_budget() {
    let bytes = std::env::var("LONGSHORE_MEMORY_BYTES").ok();
    let bytes = bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or(32 << 20);
    let web = Web::within();
    let peak = peak_kib_into_container(&web, bytes, &[]);
    assert!(peak > 0 && peak < MAX_RSS_TO_CONTAINER_KIB, "{peak} KiB were resident");
    // What the process and its connections take beside blocks: nearly nothing is left for those.
    let least = ["--transfer-budget", "1048576"];
    let base = peak_kib_into_container(&web, bytes, &least) - 1_024;
    let budget = SMALL_BUDGET.to_string();
    let peak = peak_kib_into_container(&web, bytes, &["--transfer-budget", &budget]);
    println!("{:.1} MiB more than with nearly no blocks", (peak - base) as f64 / 1_024.0);
    // What the allocator has of what was read and came and went is no more than a block a stream.
    let most = base + (SMALL_BUDGET + FILES * BLOCK_OF_SMALL) / 1_024;
    assert!(peak < most, "{peak} KiB were resident, {base} of them without blocks; {most} may be");
}
