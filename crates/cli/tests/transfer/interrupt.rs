//! Ctrl-C: the first drains, the second stops at once, and nothing is lost or done twice.

use std::time::Duration;

use crate::command::{Folder, Running, start};
use crate::web::{Answer, WebServer};

/// At once, on a busy machine. What does not end at once here ends in minutes or never.
const PROMPT: Duration = Duration::from_secs(60);

/// Eight files of which three are under way, held back by the server.
fn under_way() -> (WebServer, Folder, Vec<String>, Running) {
    let web = WebServer::start();
    let folder = Folder::new();
    let names: Vec<String> = (0..8).map(|number| format!("{number}.bin")).collect();
    for name in &names {
        web.answer(name, [Answer::Held(name.repeat(10_000).into_bytes())]);
    }
    folder.list(names.iter().map(|name| web.url(name)));
    let mut command = folder.transfer();
    let run = start(command.args(["--allow-private", "--concurrency", "3"]));
    web.wait_until_holding(3);
    (web, folder, names, run)
}

fn assert_complete(folder: &Folder, names: &[String]) {
    assert_eq!(folder.files().into_iter().collect::<Vec<_>>(), names);
    for name in names {
        assert_eq!(folder.content(name), name.repeat(10_000).into_bytes());
    }
}

#[test]
fn an_interrupt_drains_and_the_next_run_finishes() {
    let (web, folder, names, run) = under_way();
    run.interrupt();
    run.wait_until_said("finishing 3 files in flight; Ctrl-C again stops at once");
    web.release();
    let ended = run.end_within(PROMPT).expect_code(4);
    assert_eq!(ended.report()["interrupted"], true);
    assert_eq!((ended.figure("files"), ended.figure("failed")), (3, 0));
    assert_eq!((folder.files().len(), web.all_requests()), (3, 3));
    let again = folder.run().expect_code(0);
    assert_eq!((again.figure("files"), again.figure("skipped")), (5, 3));
    assert_eq!(again.report()["interrupted"], false);
    assert_complete(&folder, &names);
    for name in &names {
        assert_eq!(web.requests(name), 1, "{name}");
    }
}

#[test]
fn a_second_interrupt_stops_at_once_and_the_next_run_finishes() {
    let (web, folder, names, run) = under_way();
    run.interrupt();
    run.wait_until_said("Ctrl-C again stops at once");
    run.interrupt();
    let stopped = run.end_within(PROMPT).expect_code(130);
    assert_eq!(stopped.report()["interrupted"], true);
    assert_eq!(web.all_requests(), 3);
    web.release();
    let again = folder.run().expect_code(0);
    assert_eq!(again.figure("files"), 8);
    assert_complete(&folder, &names);
    // Those under way are the only ones fetched again.
    assert_eq!(web.all_requests(), 8 + 3);
}

#[test]
fn an_interrupt_does_not_wait_for_tasks_that_are_to_be_tried_again() {
    // Two hosts: while one asks to be left alone, the other is not held up.
    let (busy, web) = (WebServer::start(), WebServer::start());
    let folder = Folder::new();
    // It asks for five minutes.
    busy.answer("busy.bin", [Answer::Busy(300), Answer::File(b"now".to_vec())]);
    web.answer("held.bin", [Answer::Held(b"held".to_vec())]);
    folder.list([busy.url("busy.bin"), web.url("held.bin")]);
    let run = folder.start();
    web.wait_until_holding(1);
    // One of the two is in flight once the other has been told to wait.
    busy.wait_until_answered("busy.bin");
    run.interrupt();
    run.wait_until_said("Ctrl-C again stops at once");
    web.release();
    let ended = run.end_within(PROMPT).expect_code(4);
    assert_eq!(ended.report()["interrupted"], true);
    folder.run().expect_code(0);
    assert_eq!(
        (folder.content("busy.bin"), folder.content("held.bin")),
        (b"now".into(), b"held".into())
    );
    assert_eq!((busy.requests("busy.bin"), web.requests("held.bin")), (2, 1));
}

#[test]
fn an_interrupt_is_heard_while_nobody_writes_the_list() {
    let folder = Folder::new();
    let mut command = crate::command::longshore();
    command.arg("transfer").current_dir(folder.dir.path());
    command.args(["--urls", "-", "--to", "files", "--report", "json"]);
    let (run, stdin) = crate::command::start_to_write(&mut command);
    // It listens for signals before anything else, which shows nowhere.
    std::thread::sleep(Duration::from_millis(500));
    run.interrupt();
    let ended = run.end_within(PROMPT).expect_code(4);
    assert_eq!(ended.report()["interrupted"], true);
    drop(stdin);
    assert!(!folder.target().exists() && !folder.state().exists());
}
