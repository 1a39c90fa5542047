//! Into a container: what it lacks is said before anything is fetched, and what it lacks on the way stops
//! the run, after which the next one goes on.

use crate::azurite::{ALL, Container};
use crate::closed_port::ClosedPort;
use crate::command::{Ended, Folder, Running, longshore, start};
use crate::storage_double::refusal::{
    AUTHENTICATION_FAILED, CONTAINER_BEING_DELETED, INSUFFICIENT_ACCOUNT_PERMISSIONS,
};
use crate::storage_double::{Operation, Play, Script, StorageDouble};
use crate::web::{Answer, WebServer};

/// A transfer of the list to this address.
fn begin(folder: &Folder, url: &str) -> Running {
    let mut command = longshore();
    command.arg("transfer").current_dir(folder.path(""));
    command.args(["--urls", "list", "--state", "state", "--allow-private", "--report", "json"]);
    start(command.env("LONGSHORE_TRANSFER_TO", url))
}

fn run(folder: &Folder, url: &str) -> Ended {
    begin(folder, url).end()
}

#[tokio::test]
async fn a_container_that_cannot_be_used_is_told_in_a_line_before_anything_is_fetched() {
    let container = Container::create().await;
    let (web, folder) = (WebServer::start(), Folder::new());
    web.serve("a", "a file");
    folder.list([web.url("a")]);
    let url = |container: &Container, rights: &str| container.url(rights);
    let bare = container.url(ALL).split('?').next().unwrap().to_owned();
    let closed = ClosedPort::take();
    let nowhere = format!("http://{}/account/container?sig=canary", closed.address());
    for (url, said) in [
        (url(&Container::absent(), ALL), "does not exist; create it"),
        (url(&container, ALL).replace("sig=", "sig=canary"), "refused (403 "),
        (url(&container, "r"), "refused (403 AuthorizationPermissionMismatch)"),
        (nowhere, "look at its address and at the network"),
        (format!("{bare}/?sig=canary"), "it must read https://ACCOUNT"),
        ("http://acc.example/files?sig=canary".to_owned(), "http is for addresses of this machine"),
    ] {
        let ended = run(&folder, &url).expect_code(1).expect_said(said);
        let lines: Vec<&str> = ended.stderr.lines().collect();
        let shown = url.split('?').next().unwrap();
        assert!(lines.len() == 1 && lines[0].contains(shown), "{ended:#?}");
        let told = format!("{ended:?}");
        assert!(!told.contains("sig=") && !told.contains("canary"), "{ended:#?}");
        assert_eq!(ended.report()["error"].as_str().map(|error| error.contains(said)), Some(true));
        assert_eq!(web.all_requests(), 0, "nothing is fetched");
        assert!(!folder.path("state").exists(), "nothing is begun");
    }
    // The right to write is enough.
    let ended = run(&folder, &container.url("cw")).expect_code(0);
    assert_eq!(ended.figure("files"), 1);
    assert_eq!(container.content("a").await.as_deref(), Some(&b"a file"[..]));
    assert_eq!(container.names().await, ["a"], "nothing else is put");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_is_over_or_an_account_that_is_full_midway_stops_the_run_and_the_next_goes_on()
 {
    // What the service says of a signature that is over is what it says of one that never was.
    for refusal in
        [AUTHENTICATION_FAILED, INSUFFICIENT_ACCOUNT_PERMISSIONS, CONTAINER_BEING_DELETED]
    {
        let container = Container::create().await;
        let double = StorageDouble::before(&container.url(ALL));
        let url = double.url(&container.url("cw"));
        let (web, folder) = (WebServer::start(), Folder::new());
        let names: Vec<String> = (0..8).map(|number| format!("{number}.bin")).collect();
        let body = |name: &str| name.repeat(10_000).into_bytes();
        for name in &names[..4] {
            web.serve(name, body(name));
        }
        for name in &names[4..] {
            web.answer(name, [Answer::Held(body(name))]);
        }
        folder.list(names.iter().map(|name| web.url(name)));
        let running = begin(&folder, &url);
        web.wait_until_holding(4);
        while container.names().await.len() < 4 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let writes = [Operation::PutBlob, Operation::PutBlock, Operation::PutBlockList];
        double.play(Script::on_any(writes), Play::Refuse(refusal.clone()));
        web.release();
        let ended = running.end().expect_code(1).expect_said(refusal.code);
        assert!(ended.stderr.contains(container.name()), "{ended:#?}");
        assert!(!format!("{ended:?}").contains("sig="), "{ended:#?}");
        assert_eq!((ended.figure("files"), ended.figure("failed")), (4, 0));
        assert_eq!(container.names().await, names[..4]);

        // The signature is a new one, and the container another time there.
        double.be_kind();
        let ended = run(&folder, &url).expect_code(0);
        assert_eq!((ended.figure("files"), ended.figure("skipped")), (4, 4));
        for name in &names {
            assert!(container.content(name).await == Some(body(name)), "{name}");
            let asked = if names[..4].contains(name) { 1..=1 } else { 2..=2 };
            assert!(asked.contains(&web.requests(name)), "{name}: {}", web.requests(name));
        }
    }
}
