//! Arguments and folders that cannot be used: said at once, by name, and nothing is fetched.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{Folder, LIMIT, longshore, spawned, start};
use crate::web::WebServer;

/// A list of one file that would be fetched.
fn ready() -> (WebServer, Folder) {
    let web = WebServer::start();
    web.serve("a.bin", b"a".to_vec());
    let folder = Folder::new();
    folder.list([web.url("a.bin")]);
    (web, folder)
}

#[test]
fn arguments_out_of_range_are_refused_by_name() {
    for arguments in [
        ["--concurrency", "0"],
        ["--concurrency", "-1"],
        ["--concurrency", "ten"],
        ["--concurrency", "1000001"],
        ["--batch-size", "0"],
        ["--batch-size", "32769"],
        ["--batch-timeout", "0s"],
        ["--batch-timeout", "0"],
        ["--batch-timeout", "0.1ms"],
        ["--requests-per-second", "0"],
        ["--requests-per-second", "-5"],
        ["--requests-per-second-per-host", "50+51"],
        ["--bytes-per-second", "NaN"],
        ["--bytes-per-second", "0MB"],
        ["--bytes-per-second-per-host", "2PB"],
        ["--connections-per-host", "0"],
        ["--report", "xml"],
    ] {
        let (web, folder) = ready();
        let mut command = folder.transfer();
        if arguments[0] == "--report" {
            command = longshore();
            command.args(["transfer", "--urls", "list", "--to", "files"]);
            command.current_dir(folder.dir.path());
        }
        let ended = start(command.arg("--allow-private").args(arguments)).end().expect_code(2);
        let ended = ended.expect_said(arguments[0]).expect_said(arguments[1]);
        assert_eq!(ended.stdout, "");
        assert_eq!(web.all_requests(), 0);
        assert!(!folder.target().exists() && !folder.state().exists(), "{arguments:?}");
    }
}

#[test]
fn what_is_missing_is_asked_for() {
    let folder = Folder::new();
    let mut command = longshore();
    command.current_dir(folder.dir.path()).args(["transfer", "--urls", "list"]);
    start(&mut command).end().expect_code(2).expect_said("--to <PLACE>");
}

#[test]
fn a_list_that_is_not_there_stops_the_command() {
    let folder = Folder::new();
    let ended = folder.run().expect_code(1);
    ended.expect_said("the list list cannot be read").expect_said("No such file");
    assert!(!folder.target().exists() && !folder.state().exists());
}

#[test]
fn a_list_that_cannot_be_read_stops_the_command() {
    let folder = Folder::new();
    // Not for root either.
    fs::create_dir(folder.path("list")).unwrap();
    let ended = folder.run().expect_code(1);
    ended.expect_said("the list list cannot be read").expect_said("Is a directory");
}

#[test]
fn a_target_that_is_a_file_stops_the_command() {
    let (web, folder) = ready();
    fs::write(folder.target(), "precious").unwrap();
    let ended = folder.run().expect_code(1);
    ended.expect_said("files is a file; choose a folder, or move the file away");
    assert_eq!(fs::read_to_string(folder.target()).unwrap(), "precious");
    assert_eq!(web.all_requests(), 0);
}

#[test]
fn a_state_that_is_a_file_stops_the_command() {
    let (web, folder) = ready();
    fs::write(folder.state(), "precious").unwrap();
    let ended = folder.run().expect_code(1);
    ended.expect_said("files.longshore").expect_said("is a file");
    assert_eq!(fs::read_to_string(folder.state()).unwrap(), "precious");
    assert_eq!(web.all_requests(), 0);
}

#[test]
fn a_state_in_the_target_is_refused() {
    let (web, folder) = ready();
    fs::create_dir(folder.target()).unwrap();
    std::os::unix::fs::symlink("files", folder.path("link")).unwrap();
    for state in ["files", "files/state/deep", "link/state", "./files/../files/state"] {
        let ended = start(folder.transfer().args(["--allow-private", "--state", state])).end();
        let ended =
            ended.expect_code(1).expect_said(state).expect_said("name another with --state");
        // Whoever reads it is told as well.
        let told = ended.report()["error"].as_str().unwrap().to_owned();
        assert!(told.contains("name another with --state"), "{told}");
    }
    assert!(folder.files().is_empty() && web.all_requests() == 0);
}

#[test]
fn the_current_folder_can_be_the_target() {
    let (_web, folder) = ready();
    fs::create_dir(folder.target()).unwrap();
    let mut command = longshore();
    command.args(["transfer", "--urls", "../list", "--to", ".", "--allow-private"]);
    start(command.current_dir(folder.target())).end().expect_code(0);
    assert_eq!(folder.files().into_iter().collect::<Vec<_>>(), ["a.bin"]);
    assert!(folder.state().join("results").is_file());
}

#[test]
fn an_empty_list_is_done_at_once() {
    let folder = Folder::new();
    folder.list(["# nothing", ""]);
    let ended = folder.run().expect_code(0);
    assert_eq!((ended.figure("files"), ended.figure("failed")), (0, 0));
}

#[test]
fn without_a_report_the_summary_is_one_line() {
    let (web, folder) = ready();
    folder.list([web.url("a.bin"), web.url("none.bin")]);
    let mut command = longshore();
    command.args(["transfer", "--urls", "list", "--to", "files", "--allow-private"]);
    let ended = start(command.current_dir(folder.dir.path())).end().expect_code(3);
    assert_eq!(ended.stdout.lines().count(), 1, "{ended:#?}");
    assert!(ended.stdout.starts_with("1 files, "), "{ended:#?}");
    // Where to look, and what to do.
    ended.expect_said("files.longshore/dead-letters").expect_said("run the command again");
}

#[test]
fn a_state_in_use_is_refused_and_its_owner_goes_on() {
    let (web, folder) = ready();
    web.answer("a.bin", [crate::web::Answer::Held(b"held".to_vec())]);
    let first = folder.start();
    web.wait_until_holding(1);
    let second = folder.run().expect_code(1);
    let owner = format!("is in use by process {}", first.id());
    second.expect_said("files.longshore").expect_said(&owner);
    web.release();
    first.end().expect_code(0);
    assert_eq!(folder.content("a.bin"), b"held");
    assert_eq!(web.requests("a.bin"), 1);
}

#[test]
fn nobody_who_listens_is_no_reason_to_stop() {
    // A report that was asked for and cannot be given is said by the exit code.
    for (report, expected) in [(&[][..], 3), (&["--report", "json"][..], 1)] {
        let (web, folder) = ready();
        let faults = (0..200).map(|number| format!("no url {number}"));
        folder.list(faults.chain([web.url("a.bin")]));
        let mut run = longshore();
        run.current_dir(folder.dir.path());
        run.args(["transfer", "--urls", "list", "--to", "files", "--allow-private"]).args(report);
        let mut run = spawned(run.stdout(Stdio::piped()).stderr(Stdio::piped()));
        drop((run.stdout.take(), run.stderr.take()));
        let deadline = Instant::now() + LIMIT;
        let code = loop {
            if let Some(status) = run.try_wait().unwrap() {
                break status.code();
            }
            assert!(Instant::now() < deadline, "the command does not end");
            thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(code, Some(expected), "{report:?}");
        assert_eq!(folder.dead_letters().len(), 200);
        assert_eq!(folder.content("a.bin"), b"a");
    }
}

#[test]
fn a_proxy_and_credentials_that_cannot_be_used_are_refused_before_anything_begins() {
    for (argument, value, said) in [
        ("--proxy", "socks5://me:hush@h:1", "http://host:port"),
        ("--credentials", "nowhere.toml", "nowhere.toml cannot be read"),
        ("--credentials", "odd.toml", "odd.toml cannot be used"),
    ] {
        let (web, folder) = ready();
        fs::write(folder.path("odd.toml"), "[\"https://h\"]\ntoken = \"hush\"\n").unwrap();
        let mut command = folder.transfer();
        let ended = start(command.args(["--allow-private", argument, value])).end().expect_code(2);
        let ended = ended.expect_said(said);
        assert!(!ended.stderr.contains("hush") && !ended.stdout.contains("hush"), "{ended:?}");
        assert_eq!(web.all_requests(), 0);
        assert!(!folder.target().exists() && !folder.state().exists(), "{argument}");
    }
}

#[test]
fn a_target_in_the_state_is_refused() {
    let (web, folder) = ready();
    let mut command = longshore();
    command.args(["transfer", "--urls", "list", "--to", "st/dead-letters", "--state", "st"]);
    let ended = start(command.arg("--allow-private").current_dir(folder.dir.path())).end();
    ended.expect_code(1).expect_said("is in the state folder st");
    assert_eq!(web.all_requests(), 0);
}

#[test]
fn what_is_for_containers_is_refused_for_a_folder() {
    for (arguments, said) in [
        (["--tier", "cool"], "are for a container in --to"),
        (["--metadata", "task"], "are for a container in --to"),
        (["--copy", "service"], "are for a container in --to"),
        (["--tier", "cooler"], "cooler"),
        (["--time", "then"], "then"),
    ] {
        let (web, folder) = ready();
        let mut command = folder.transfer();
        let ended = start(command.arg("--allow-private").args(arguments)).end().expect_code(2);
        ended.expect_said(arguments[0]).expect_said(said);
        assert_eq!(web.all_requests(), 0);
        assert!(!folder.target().exists() && !folder.state().exists(), "{arguments:?}");
    }
}
