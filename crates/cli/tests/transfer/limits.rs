//! Limits: what is asked of hosts and read from them, and that none holds up another.

use std::time::{Duration, Instant};

use crate::command::{Folder, start};
use crate::web::{Answer, WebServer};

/// At once, on a busy machine. What does not end at once here ends in minutes or never.
const PROMPT: Duration = Duration::from_secs(60);

#[test]
fn a_host_gets_its_connections_and_leaves_the_other_slots_to_others() {
    let (slow, quick) = (WebServer::start(), WebServer::start());
    let names: Vec<String> = (0..10).map(|number| format!("{number}.bin")).collect();
    for name in &names {
        slow.answer(&format!("slow/{name}"), [Answer::Held(b"slow".to_vec())]);
        quick.serve(&format!("quick/{name}"), b"quick".to_vec());
    }
    let folder = Folder::new();
    // All of the slow ones come first.
    let slow_ones = names.iter().map(|name| slow.url(&format!("slow/{name}")));
    let quick_ones = names.iter().map(|name| quick.url(&format!("quick/{name}")));
    folder.list(slow_ones.chain(quick_ones));
    let mut command = folder.transfer();
    command.args(["--allow-private", "--concurrency", "3", "--connections-per-host", "2"]);
    let run = start(&mut command);
    slow.wait_until_holding(2);
    for name in &names {
        quick.wait_until_answered(&format!("quick/{name}"));
    }
    assert_eq!(slow.all_requests(), 2);
    slow.release();
    assert_eq!(run.end_within(PROMPT).expect_code(0).figure("files"), 20);
}

#[test]
fn a_body_without_a_length_ends_at_the_most_bytes_a_file_may_have() {
    let web = WebServer::start();
    web.answer("endless.bin", [Answer::Endless]);
    web.serve("just.bin", vec![7; 1 << 20]);
    web.serve("beyond.bin", vec![7; (1 << 20) + 1]);
    let folder = Folder::new();
    folder.list(["endless.bin", "just.bin", "beyond.bin"].map(|name| web.url(name)));
    let mut command = folder.transfer();
    command.args(["--allow-private", "--max-bytes", "1MiB"]);
    let ended = start(&mut command).end_within(PROMPT).expect_code(3);
    assert_eq!((ended.figure("files"), ended.figure("dead_letters")), (1, 2));
    let letters = folder.dead_letters();
    let said = |name: &str| {
        let url = web.url(name);
        let mut messages = letters.iter().map(|letter| letter.error.message.clone());
        messages.find(|message| message.contains(&url)).unwrap_or_else(|| panic!("{letters:?}"))
    };
    let reason = said("endless.bin");
    let expected = ": the body is longer than the 1048576 bytes it may have";
    assert!(reason.ends_with(expected), "{reason}");
    let reason = said("beyond.bin");
    assert!(reason.contains("1048577") && reason.contains("1048576"), "{reason}");
    assert_eq!(folder.files().into_iter().collect::<Vec<_>>(), ["just.bin"]);
    // It broke off there, and did not ask again.
    assert_eq!(web.requests("endless.bin"), 1);
}

#[test]
fn bytes_and_requests_are_read_and_made_at_their_rates() {
    let web = WebServer::start();
    let names: Vec<String> = (0..6).map(|number| format!("{number}.bin")).collect();
    for name in &names {
        web.serve(name, vec![7; 100_000]);
    }
    for (limits, least) in [
        // A tenth of a second's worth is the burst.
        (["--bytes-per-second", "300kB"], 1.8),
        (["--bytes-per-second-per-host", "300kB+0"], 1.9),
        // The first goes at once.
        (["--requests-per-second", "3"], 1.6),
        (["--requests-per-second-per-host", "3"], 1.6),
    ] {
        let folder = Folder::new();
        folder.list(names.iter().map(|name| web.url(name)));
        let started = Instant::now();
        let mut command = folder.transfer();
        let ended = start(command.arg("--allow-private").args(limits)).end().expect_code(0);
        assert_eq!((ended.figure("files"), ended.figure("failed")), (6, 0), "{limits:?}");
        assert!(started.elapsed().as_secs_f64() >= least, "{limits:?}: {:?}", started.elapsed());
    }
    // No file was asked for twice, however often its turn had not come.
    assert_eq!(web.all_requests(), 4 * 6);
}
