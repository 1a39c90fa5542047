//! The command run again: what is complete is not fetched, what is not is.

use longshore::OutgoingEvent;
use longshore::transport::event_hubs::EventHubsPublisher;
use longshore::transport::{Publisher, SendTarget};
use longshore_emulator::Durability;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::broker::{self, namespace};
use crate::command::Folder;
use crate::web::{Answer, WebServer};

/// Files `0` to `count`, served and listed.
fn served(count: usize) -> (WebServer, Folder, Vec<String>) {
    let web = WebServer::start();
    let folder = Folder::new();
    let names: Vec<String> = (0..count).map(|number| format!("files/{number}.bin")).collect();
    for name in &names {
        web.serve(name, name.as_bytes());
    }
    folder.list(names.iter().map(|name| web.url(name)));
    (web, folder, names)
}

#[test]
fn a_finished_run_repeats_nothing() {
    let (web, folder, names) = served(30);
    let first = folder.run().expect_code(0);
    let bytes: usize = names.iter().map(String::len).sum();
    assert_eq!((first.figure("files"), first.figure("bytes")), (30, bytes as u64));
    assert!(first.figure("checkpoints") >= 1);
    let report = first.report();
    let seconds = report["seconds"].as_f64().unwrap();
    let rate = report["mib_per_second"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds < 60.0, "{report}");
    assert!((rate - bytes as f64 / (1024.0 * 1024.0) / seconds).abs() < 1e-6, "{report}");
    assert_eq!(report["interrupted"], false);
    let mut keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let documented = [
        "bytes",
        "checkpoints",
        "dead_letters",
        "failed",
        "files",
        "interrupted",
        "mib_per_second",
        "seconds",
        "skipped",
    ];
    assert_eq!(keys, documented);
    for _ in 0..2 {
        let again = folder.run().expect_code(0);
        assert_eq!((again.figure("files"), again.figure("bytes")), (0, 0));
        assert_eq!((again.figure("skipped"), again.figure("failed")), (30, 0));
        assert_eq!(again.stderr, "");
    }
    assert_eq!(web.all_requests(), 30);
    assert_eq!(folder.files().len(), 30);
    for name in &names {
        assert_eq!(folder.content(name), name.as_bytes());
    }
}

#[test]
fn a_line_that_was_added_is_fetched_alone() {
    let (web, folder, names) = served(4);
    folder.run().expect_code(0);
    web.serve("new.bin", b"new".to_vec());
    folder.list(names.iter().map(|name| web.url(name)).chain([web.url("new.bin")]));
    let again = folder.run().expect_code(0);
    assert_eq!((again.figure("files"), again.figure("skipped")), (1, 4));
    assert_eq!(folder.content("new.bin"), b"new");
    assert_eq!(web.all_requests(), 5);
}

#[test]
fn a_line_that_was_edited_is_a_new_task() {
    let (web, folder, _names) = served(0);
    for (version, body) in [("one", b"first!"), ("two", b"second")] {
        web.serve(version, body.to_vec());
    }
    let line = |version: &str| json!({ "url": web.url(version), "path": "x.bin" }).to_string();
    folder.list([line("one")]);
    folder.run().expect_code(0);
    folder.list([line("two")]);
    folder.run().expect_code(0);
    assert_eq!(folder.content("x.bin"), b"second");
    // Back to the first line, whose file was replaced by one of the same length.
    folder.list([line("one")]);
    folder.run().expect_code(0);
    assert_eq!(folder.content("x.bin"), b"first!");
    assert_eq!((web.requests("one"), web.requests("two")), (2, 1));
}

#[test]
fn a_line_that_was_removed_while_it_waited_is_not_fetched() {
    let (web, folder, names) = served(3);
    for name in &names {
        web.answer(name, [Answer::Held(name.as_bytes().to_vec())]);
    }
    let mut command = folder.transfer();
    let run = crate::command::start(command.args(["--allow-private", "--concurrency", "1"]));
    web.wait_until_holding(1);
    run.interrupt();
    run.wait_until_said("finishing 1 file");
    web.release();
    run.end().expect_code(4);
    let removed = names.iter().rposition(|name| web.requests(name) == 0).unwrap();
    let kept = names.iter().enumerate().filter(|(number, _)| *number != removed);
    folder.list(kept.map(|(_, name)| web.url(name)));
    let again = folder.run().expect_code(0);
    assert_eq!(again.figure("files"), 1);
    assert_eq!(web.requests(&names[removed]), 0);
    assert_eq!(web.all_requests(), 2);
    // Listed once more, it is wanted once more.
    folder.list(names.iter().map(|name| web.url(name)));
    folder.run().expect_code(0);
    assert_eq!(web.requests(&names[removed]), 1);
    assert_eq!((web.all_requests(), folder.files().len()), (3, 3));
}

#[test]
fn a_file_that_was_deleted_is_fetched_again() {
    let (web, folder, names) = served(4);
    folder.run().expect_code(0);
    std::fs::remove_file(folder.target().join(&names[2])).unwrap();
    let again = folder.run().expect_code(0);
    assert_eq!((again.figure("files"), again.figure("skipped")), (1, 3));
    assert_eq!(folder.content(&names[2]), names[2].as_bytes());
    assert_eq!((web.requests(&names[2]), web.all_requests()), (2, 5));
}

#[test]
fn a_file_that_was_cut_is_fetched_again() {
    let (web, folder, names) = served(2);
    folder.run().expect_code(0);
    std::fs::write(folder.target().join(&names[1]), "cut").unwrap();
    folder.run().expect_code(0);
    assert_eq!(folder.content(&names[1]), names[1].as_bytes());
    assert_eq!(web.all_requests(), 3);
}

#[test]
fn a_task_that_failed_is_tried_again_by_the_next_run() {
    let (web, folder, names) = served(3);
    web.answer(&names[1], [Answer::Status(404)]);
    let first = folder.run().expect_code(3).expect_said("list:2: ");
    assert_eq!((first.figure("files"), first.figure("failed")), (2, 1));
    let still = folder.run().expect_code(3).expect_said("list:2: ");
    assert_eq!((still.figure("files"), still.figure("failed")), (0, 1));
    assert_eq!(still.figure("skipped"), 2);
    web.serve(&names[1], b"mended".to_vec());
    let mended = folder.run().expect_code(0);
    assert_eq!((mended.figure("files"), mended.figure("failed")), (1, 0));
    assert_eq!(folder.content(&names[1]), b"mended");
    let done = folder.run().expect_code(0);
    assert_eq!((done.figure("files"), done.figure("skipped")), (0, 3));
    assert_eq!((web.requests(&names[1]), web.all_requests()), (3, 5));
}

#[test]
fn lines_that_repeat_are_one_task() {
    let (web, folder, names) = served(2);
    let urls: Vec<String> = names.iter().map(|name| web.url(name)).collect();
    folder.list([&urls[0], &urls[1], &urls[0], &format!("  {}\r", urls[1])]);
    let ended = folder.run().expect_code(0);
    assert_eq!((ended.figure("files"), ended.figure("failed")), (2, 0));
    assert_eq!(web.all_requests(), 2);
}

#[test]
fn a_dead_letter_goes_when_its_task_is_done_and_when_its_line_is_edited() {
    let (web, folder, names) = served(2);
    web.answer(&names[0], [Answer::Status(404)]);
    let lines = |last: &str| {
        let urls = names.iter().map(|name| web.url(name));
        folder.list(urls.chain([last.to_owned()]));
    };
    lines("no url");
    folder.run().expect_code(3);
    let failed_lines = |folder: &Folder| -> Vec<String> {
        let letters = folder.dead_letters();
        letters.iter().map(|letter| letter.properties["line"].to_string()).collect()
    };
    assert_eq!(failed_lines(&folder), ["\"list:1\"", "\"list:3\""]);
    // Tried again, each has one letter and not two.
    folder.run().expect_code(3);
    assert_eq!(failed_lines(&folder), ["\"list:1\"", "\"list:3\""]);
    web.serve(&names[0], b"mended".to_vec());
    folder.run().expect_code(3);
    assert_eq!(failed_lines(&folder), ["\"list:3\""]);
    lines("# mended");
    folder.run().expect_code(0);
    assert!(folder.dead_letters().is_empty());
}

#[test]
fn a_list_from_stdin_is_a_list() {
    let (web, folder, names) = served(3);
    let list = names.iter().map(|name| web.url(name) + "\n").collect::<String>();
    for fetched in [3, 0] {
        let mut command = crate::command::longshore();
        command.arg("transfer").current_dir(folder.dir.path());
        command.args(["--urls", "-", "--to", "files", "--report", "json", "--allow-private"]);
        let ended = crate::command::start_with_input(&mut command, list.as_bytes()).end();
        let ended = ended.expect_code(0);
        assert_eq!((ended.figure("files"), ended.figure("skipped")), (fetched, 3 - fetched));
    }
    assert_eq!(web.all_requests(), 3);
}

#[test]
fn without_its_state_a_run_knows_the_files_that_a_run_put_there() {
    let (web, folder, names) = served(3);
    folder.run().expect_code(0);
    std::fs::remove_dir_all(folder.state()).unwrap();
    std::fs::write(folder.target().join(&names[1]), "files/X.bin").unwrap();
    let again = folder.run().expect_code(0);
    assert_eq!((again.figure("files"), again.figure("skipped")), (1, 2));
    assert_eq!(
        folder.content(&names[1]),
        names[1].as_bytes(),
        "it had the length, and not the hash"
    );
    assert_eq!(web.all_requests(), 4);
}

#[test]
fn a_file_of_somebody_else_is_what_the_choice_says() {
    for (choice, size, fetched, kept) in [
        ("skip", None, 0, true),
        ("skip", Some(12), 1, false),
        ("replace", None, 1, false),
        ("verify", None, 1, false),
    ] {
        let (web, folder, names) = served(1);
        std::fs::create_dir_all(folder.target().join("files")).unwrap();
        std::fs::write(folder.target().join(&names[0]), "another one").unwrap();
        let mut task = json!({ "url": web.url(&names[0]) });
        if let Some(size) = size {
            task["size"] = size.into();
            web.serve(&names[0], vec![b'x'; size]);
        }
        folder.list([task.to_string()]);
        let mut command = folder.transfer();
        let run = crate::command::start(command.args(["--allow-private", "--existing", choice]));
        let ended = run.end().expect_code(0);
        assert_eq!(ended.figure("files"), fetched, "{choice} {size:?}");
        let is_kept = folder.content(&names[0]) == b"another one";
        assert_eq!(is_kept, kept, "{choice} {size:?}");
    }
}

#[test]
fn a_file_with_the_hash_of_its_task_is_not_fetched() {
    let (web, folder, names) = served(1);
    std::fs::create_dir_all(folder.target().join("files")).unwrap();
    std::fs::write(folder.target().join(&names[0]), &names[0]).unwrap();
    let sha256: String =
        Sha256::digest(&names[0]).iter().map(|byte| format!("{byte:02x}")).collect();
    folder.list([json!({ "url": web.url(&names[0]), "sha256": sha256 }).to_string()]);
    for _ in 0..2 {
        let ended = folder.run().expect_code(0);
        assert_eq!((ended.figure("files"), ended.figure("skipped")), (0, 1));
    }
    assert_eq!(web.all_requests(), 0);
}

#[test]
fn a_state_of_the_first_form_is_gone_on_from() {
    let (web, folder, names) = served(2);
    let line = web.url(&names[0]);
    let key: String =
        Sha256::digest(&line).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let body = json!({
        "id": key, "path": names[0], "bytes": names[0].len(), "sha256": "00", "attempts": 1,
        "enqueued_at": "then", "finished_at": "then", "seconds": 1.0,
    });
    let result = OutgoingEvent::new(body.to_string()).with_message_id(key.as_str());
    let publishing = async {
        let hub = folder.state().join("hub");
        let broker = broker::patient().data_dir(hub).durability(Durability::Disk);
        let broker = broker.hub("tasks", 4).hub("results", 1).start().await.unwrap();
        let publisher = EventHubsPublisher::new(namespace(&broker), "results");
        publisher.send(SendTarget::Any, result).await.unwrap();
        publisher.close().await;
        broker.shutdown().await.unwrap();
    };
    tokio::runtime::Runtime::new().unwrap().block_on(publishing);
    std::fs::create_dir_all(folder.target().join("files")).unwrap();
    std::fs::write(folder.target().join(&names[0]), &names[0]).unwrap();
    for fetched in [1, 0] {
        let ended = folder.run().expect_code(0);
        assert_eq!((ended.figure("files"), ended.figure("skipped")), (fetched, 2 - fetched));
    }
    assert_eq!((web.requests(&names[0]), web.requests(&names[1])), (0, 1));
    assert!(!folder.state().join("hub").exists());
}

#[test]
fn lines_that_are_done_do_not_hold_up_new_ones_and_are_looked_at_all_the_same() {
    let (web, folder, names) = served(200);
    folder.run().expect_code(0);
    let lost: Vec<&String> = names.iter().step_by(50).collect();
    for name in &lost {
        std::fs::remove_file(folder.target().join(name)).unwrap();
    }
    web.serve("new.bin", b"new".to_vec());
    // Twice in the list, and a second line with the file of one that is done.
    let clash = format!("{}?again", web.url(&names[7]));
    let urls = names.iter().map(|name| web.url(name));
    folder.list(urls.chain([web.url(lost[0]), web.url("new.bin"), clash]));
    let again = folder.run().expect_code(3).expect_said("is that of line 8 already");
    assert_eq!((again.figure("files"), again.figure("failed")), (5, 1));
    assert_eq!(again.figure("skipped"), 196);
    for name in lost {
        assert_eq!((web.requests(name), folder.content(name)), (2, name.clone().into_bytes()));
    }
    assert_eq!(web.all_requests(), 205);
}

#[test]
fn lines_of_a_slow_list_are_fetched_as_they_come() {
    let (web, folder, names) = served(3);
    let mut command = crate::command::longshore();
    command.arg("transfer").current_dir(folder.dir.path());
    command.args(["--urls", "-", "--to", "files", "--report", "json", "--allow-private"]);
    let (run, mut stdin) = crate::command::start_to_write(&mut command);
    for name in &names {
        use std::io::Write;
        writeln!(stdin, "{}", web.url(name)).unwrap();
        web.wait_until_answered(name);
    }
    drop(stdin);
    assert_eq!(run.end().expect_code(0).figure("files"), 3);
}

#[test]
fn the_letters_of_one_list_are_not_settled_by_another() {
    let (web, folder, names) = served(1);
    let run = |list: &str, input: &str| {
        let mut command = crate::command::longshore();
        command.arg("transfer").current_dir(folder.dir.path());
        command.args(["--urls", list, "--to", "files", "--report", "json", "--allow-private"]);
        crate::command::start_with_input(&mut command, input.as_bytes()).end()
    };
    run("-", "no url\n").expect_code(3);
    std::fs::create_dir(folder.path("other")).unwrap();
    std::fs::write(folder.path("other/list"), "no url either\n").unwrap();
    run("other/list", "").expect_code(3);
    assert_eq!(folder.dead_letters().len(), 2);
    run("-", &web.url(&names[0])).expect_code(0);
    folder.list([web.url(&names[0])]);
    run("list", "").expect_code(0);
    assert_eq!(folder.dead_letters().len(), 2, "nobody settled them");
    std::fs::write(folder.path("other/list"), "# mended\n").unwrap();
    run("./other/../other/list", "").expect_code(0);
    assert_eq!(folder.dead_letters().len(), 1);
}

#[test]
fn a_folder_of_somebody_else_is_no_state() {
    let (web, folder, names) = served(1);
    std::fs::create_dir(folder.path("mine")).unwrap();
    std::fs::write(folder.path("mine/results"), "precious").unwrap();
    std::fs::create_dir_all(folder.path("mine/hub/deep")).unwrap();
    std::fs::create_dir_all(folder.path("mine/checkpoints")).unwrap();
    let mut command = folder.transfer();
    command.args(["--allow-private", "--state", "mine"]);
    let ended = crate::command::start(&mut command).end().expect_code(1);
    ended.expect_said("mine/results is no file of this command");
    assert_eq!(std::fs::read_to_string(folder.path("mine/results")).unwrap(), "precious");
    std::fs::remove_file(folder.path("mine/results")).unwrap();
    let mut command = folder.transfer();
    command.args(["--allow-private", "--state", "mine"]);
    crate::command::start(&mut command).end().expect_code(0);
    assert!(folder.path("mine/hub/deep").is_dir() && folder.path("mine/checkpoints").is_dir());
    assert_eq!(web.requests(&names[0]), 1);
}

#[test]
fn a_list_from_a_pipe_is_read_once() {
    let (web, folder, names) = served(2);
    let pipe = folder.path("list");
    std::fs::remove_file(&pipe).unwrap();
    let made = crate::command::spawned(std::process::Command::new("mkfifo").arg(&pipe)).wait();
    assert!(made.unwrap().success());
    let list = names.iter().map(|name| web.url(name) + "\n").collect::<String>();
    for fetched in [2, 1] {
        let (pipe, list) = (pipe.clone(), list.clone());
        let writer = std::thread::spawn(move || std::fs::write(pipe, list));
        let ended = folder.run().expect_code(0);
        writer.join().unwrap().unwrap();
        assert_eq!((ended.figure("files"), ended.figure("skipped")), (fetched, 2 - fetched));
        std::fs::remove_file(folder.target().join(&names[0])).unwrap();
    }
}

#[test]
fn what_a_run_put_there_is_no_file_of_somebody_else() {
    let (web, folder, names) = served(1);
    let skip = || {
        let mut command = folder.transfer();
        command.args(["--allow-private", "--existing", "skip"]);
        crate::command::start(&mut command).end().expect_code(0)
    };
    skip();
    // Cut, it has the note of the run.
    let file = std::fs::File::options().write(true).open(folder.target().join(&names[0]));
    file.unwrap().set_len(3).unwrap();
    assert_eq!(skip().figure("files"), 1);
    assert_eq!(folder.content(&names[0]), names[0].as_bytes());
    // Another line has its place.
    web.serve("other", b"other");
    folder.list([json!({ "url": web.url("other"), "path": names[0] }).to_string()]);
    assert_eq!(skip().figure("files"), 1);
    assert_eq!(folder.content(&names[0]), b"other");
}

#[test]
fn no_task_replaces_the_list_or_the_credentials() {
    let (web, folder, _names) = served(0);
    std::fs::create_dir(folder.target()).unwrap();
    for name in ["list.txt", "secrets.toml", "z"] {
        web.serve(name, b"new");
    }
    let lines = ["list.txt", "secrets.toml", "z"].map(|name| web.url(name));
    std::fs::write(folder.target().join("list.txt"), lines.join("\n")).unwrap();
    std::fs::write(folder.target().join("secrets.toml"), "").unwrap();
    let mut command = crate::command::longshore();
    command.arg("transfer").current_dir(folder.target());
    command.args(["--urls", "list.txt", "--to", ".", "--report", "json", "--allow-private"]);
    command.args(["--credentials", "secrets.toml"]);
    let ended = crate::command::start(&mut command).end().expect_code(3);
    assert_eq!((ended.figure("files"), ended.figure("failed")), (1, 2));
    assert_eq!(folder.content("list.txt"), lines.join("\n").into_bytes());
    assert_eq!(folder.content("secrets.toml"), b"");
    ended.expect_said("\"list.txt\" is the list, or the file with the credentials");
}

#[test]
fn a_list_that_grows_while_its_files_move_leaves_work() {
    let (web, folder, names) = served(1);
    web.answer(&names[0], [Answer::Held(names[0].as_bytes().to_vec())]);
    let run = folder.start();
    web.wait_until_holding(1);
    web.serve("late.bin", b"late");
    folder.list([web.url(&names[0]), web.url("late.bin")]);
    web.release();
    run.end().expect_code(4).expect_said("was written to while its files moved");
    assert_eq!(folder.run().expect_code(0).figure("files"), 1);
}
