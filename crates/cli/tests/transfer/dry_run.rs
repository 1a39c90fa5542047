//! `--dry-run`: what a run would do is said, and is what the run then does.

use serde_json::json;

use crate::command::{Folder, longshore, start};
use crate::web::WebServer;

#[test]
fn a_dry_run_says_what_a_run_then_does_and_does_nothing() {
    let (web, folder) = (WebServer::start(), Folder::new());
    for name in ["one", "two", "three"] {
        web.serve(name, name.as_bytes());
    }
    let sized = json!({ "url": web.url("two"), "size": 3 }).to_string();
    let clash = json!({ "url": web.url("three"), "path": "one" }).to_string();
    let lines = [web.url("one"), sized, "# a comment".to_owned(), clash, "no url".to_owned()];
    folder.list(lines.iter().chain([&web.url("one")]));
    let dry = |more: &[&str]| {
        start(folder.transfer().args(["--dry-run", "--allow-private"]).args(more)).end()
    };
    let first = dry(&[]).expect_code(3);
    assert_eq!(
        (first.figure("files"), first.figure("complete"), first.figure("cannot")),
        (2, 0, 2)
    );
    assert_eq!((first.figure("bytes"), first.figure("without_size")), (3, 1));
    assert_eq!(first.report()["faults"][0]["line"], 4);
    first.expect_said("list:4: its file \"one\" is that of line 1 already").expect_said("list:5: ");
    assert_eq!(web.all_requests(), 0);
    assert!(!folder.target().exists() && !folder.state().exists());

    let ended = folder.run().expect_code(3);
    assert_eq!((ended.figure("files"), ended.figure("failed")), (2, 2));
    let requests = web.all_requests();
    let again = dry(&[]).expect_code(3);
    assert_eq!(
        (again.figure("files"), again.figure("complete"), again.figure("cannot")),
        (0, 2, 2)
    );
    // One that is gone would be fetched; so would one of which another state knows nothing.
    std::fs::remove_file(folder.target().join("one")).unwrap();
    assert_eq!(dry(&[]).figure("files"), 1);
    assert_eq!(dry(&["--state", "other"]).figure("files"), 2);
    assert_eq!(web.all_requests(), requests);
    assert!(!folder.path("other").exists());
}

#[test]
fn a_dry_run_names_addresses_that_are_refused() {
    let folder = Folder::new();
    folder.list(["https://127.0.0.1/a", "http://files.example/b", "https://files.example/c"]);
    let mut command = longshore();
    command.current_dir(folder.dir.path());
    command.args(["transfer", "--urls", "list", "--to", "files", "--dry-run"]);
    let ended = start(&mut command).end().expect_code(3);
    assert_eq!(
        ended.stdout,
        "1 file would be fetched, 0 are complete, 2 lines cannot be done; nothing was fetched\n"
    );
    ended.expect_said("list:1: ").expect_said("list:2: ");
}
