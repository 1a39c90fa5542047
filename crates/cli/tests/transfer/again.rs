//! The command run again: what is complete is not fetched, what is not is.

use longshore::OutgoingEvent;
use longshore::event::PartitionId;
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
    run.end().expect_code(0);
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
fn a_task_that_was_published_twice_is_fetched_once() {
    let (web, folder, names) = served(1);
    folder.list(["# nothing yet"]);
    folder.run().expect_code(0);
    let line = web.url(&names[0]);
    let key: String =
        Sha256::digest(&line).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let body = json!({ "id": key, "url": line, "path": names[0] }).to_string();
    let task = OutgoingEvent::new(body).with_message_id(key.as_str());
    // As by a run whose broker took the tasks and was killed before it answered, and another.
    let publishing = async {
        let hub = folder.state().join("hub");
        let broker = broker::patient().data_dir(hub).durability(Durability::Disk);
        let broker = broker.hub("tasks", 4).start().await.unwrap();
        let publisher = EventHubsPublisher::new(namespace(&broker), "tasks");
        for partition in ["1", "1", "3"] {
            let target = SendTarget::Partition(PartitionId::from(partition));
            publisher.send(target, task.clone()).await.unwrap();
        }
        publisher.close().await;
        broker.shutdown().await.unwrap();
    };
    tokio::runtime::Runtime::new().unwrap().block_on(publishing);
    folder.list([&line]);
    let ended = folder.run().expect_code(0);
    assert_eq!((ended.figure("files"), ended.figure("skipped")), (1, 0));
    assert_eq!(web.all_requests(), 1);
    let again = folder.run().expect_code(0);
    assert_eq!((again.figure("files"), again.figure("skipped")), (0, 1));
}
