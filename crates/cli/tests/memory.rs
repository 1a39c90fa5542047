//! Ten files of 500 MB at once take little memory.
#![cfg(target_os = "linux")]
#![allow(missing_docs, dead_code)]

mod command;
#[path = "../../../tests/web/mod.rs"]
mod web;

use std::fs;
use std::process::Command;
use std::time::Duration;

use command::{Folder, start};
use web::{Answer, WebServer};

const FILES: u64 = 10;
const BYTES: u64 = 500_000_000;
const MAX_RSS_KIB: u64 = 100 * 1024;

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
