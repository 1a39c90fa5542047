//! Many letters in a folder: they are grouped in little memory. `LONGSHORE_LETTERS=1000000` says how many. From
//! a million on, the first page and one letter must come within two seconds, which `scripts/soak` asks for: a test
//! of every build has no time to keep.
#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use longshore::dead_letter::DeadLetterSink as _;
use longshore::dead_letter::store::StoreDeadLetterSink;
use serde_json::json;

use crate::command::Ended;
use crate::stage::{Stage, letter, parts};

const MAX_RSS_KIB: u64 = 200 * 1024;
/// From so many letters on, times are held as well.
const MANY_LETTERS: i64 = 1_000_000;
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The most memory a process has had resident, so far.
fn peak_rss_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Runs the command; what it printed, the most memory it took, and its time.
fn measured(stage: &Stage, arguments: &[&str]) -> (Ended, u64, Duration) {
    let begun = Instant::now();
    let mut running = stage.start("dead-letters", arguments);
    let mut peak = 0;
    let status = running.wait(Duration::from_secs(1_800), |process| {
        peak = peak.max(peak_rss_kib(process).unwrap_or_default());
    });
    (running.ended(status).expect_code(0), peak, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_letters_are_grouped_in_little_memory() {
    let chosen = std::env::var("LONGSHORE_LETTERS").ok();
    let count: i64 = chosen.map_or(3_000, |count| count.parse().unwrap());
    let stage = Stage::over_a_folder();
    let sink = StoreDeadLetterSink::new(stage.store());
    let (sink, body) = (&sink, &"x".repeat(200));
    let written = (0..count).map(|number| async move {
        let reason = format!("the host files-{}.example is away", number % 7);
        let letter = letter(parts("orders", number, body), &reason);
        sink.write(&letter).await.unwrap();
    });
    futures::stream::iter(written).buffer_unordered(64).collect::<Vec<()>>().await;
    let (group, peak, grouped) = measured(&stage, &["group", "--report", "json"]);
    let (_, _, listed) = measured(&stage, &["list", "--limit", "100"]);
    let (_, _, shown) = measured(&stage, &["show", &format!("orders/0#{}", count / 2)]);
    println!(
        "{count} letters in a folder: grouped in {grouped:.1?} and {:.1} MiB; a page of 100 in {listed:.2?}, one \
         shown in {shown:.2?}",
        peak as f64 / 1024.0
    );
    assert_eq!(group.report()["letters"], json!(count));
    assert!(peak > 0 && peak < MAX_RSS_KIB, "{peak} KiB were resident");
    if count >= MANY_LETTERS {
        assert!(listed <= MAX_WAIT, "a page took {listed:?}");
        assert!(shown <= MAX_WAIT, "one letter took {shown:?}");
    }
}
