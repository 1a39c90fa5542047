//! A download worker and an upload worker in a chain: from a web server into a folder, from there into a
//! container, over the hubs of a broker; results of the first are tasks of the second as they stand.

use crate::azurite::{ALL, Container};
use crate::closed_port::ClosedPort;
use crate::command::{longshore, start};
use crate::stage::{Stage, publish};
use longshore::OutgoingEvent;

const FILES: usize = 40;

fn worker(stage: &Stage, kind: &str, container: &Container) -> std::process::Command {
    let mut command = longshore();
    command.args(["worker", kind, "--config", "worker.toml", "--report", "json"]);
    command
        .current_dir(stage.dir.path())
        .env("LONGSHORE_WORKER_UPLOAD_FILES", container.url(ALL))
        .env("LONGSHORE_CHECKPOINT_FOLDER", format!("{kind}-state/checkpoints"));
    command
}

/// An upload worker from a container to a container.
fn between(stage: &Stage, source: &str, files: &str) -> std::process::Command {
    let mut command = longshore();
    command.args(["worker", "upload", "--config", "worker.toml", "--report", "json"]);
    command
        .current_dir(stage.dir.path())
        .env("LONGSHORE_WORKER_UPLOAD_SOURCE", source)
        .env("LONGSHORE_WORKER_UPLOAD_FILES", files);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_used_ends_the_worker_at_its_start_with_what_to_do() {
    let stage = Stage::new().await;
    stage.configure("[worker.upload]\ninput = \"pending\"\nresults = \"done\"\n");
    let (here, absent) = (Container::create().await, Container::absent());
    let forged = |rights| here.url(rights).replace("sig=", "sig=canary");
    for (source, files, said) in [
        (here.url("r"), absent.url(ALL), "does not exist; create it"),
        (absent.url(ALL), here.url("cw"), "does not exist; create it"),
        (here.url("r"), forged("cw"), "refused (403 "),
        (forged("r"), here.url("cw"), "refused (403 "),
        (here.url("w"), here.url("cw"), "refused (403 AuthorizationPermissionMismatch)"),
        (here.url("r"), here.url("r"), "refused (403 AuthorizationPermissionMismatch)"),
    ] {
        let ended = start(&mut between(&stage, &source, &files)).end().expect_code(1);
        let error = ended.report()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(said) && ended.stderr.contains(&error), "{ended:#?}");
        let told = format!("{ended:?}");
        assert!(!told.contains("sig=") && !told.contains("canary"), "{ended:#?}");
    }
    // No more than the work needs.
    here.put("a", &[]).await;
    let task = OutgoingEvent::new(br#"{"id": "a", "path": "a", "to": "b"}"#.to_vec());
    publish(&stage.broker, "tasks", vec![task]).await;
    let worker = start(&mut between(&stage, &here.url("r"), &here.url("cw")));
    stage.until_results(1).await;
    worker.terminate();
    worker.end().expect_code(0);
    assert_eq!(here.names().await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_at_which_nobody_answers_is_told_at_the_start_and_waited_for() {
    let stage = Stage::new().await;
    stage.configure("[worker.upload]\ninput = \"pending\"\nresults = \"done\"\n");
    let closed = ClosedPort::take();
    let nowhere = format!("http://{}/account/files", closed.address());
    let (files, source) = (format!("{nowhere}?sig=canary"), Container::create().await.url("r"));
    let worker = start(&mut between(&stage, &source, &files));
    worker.wait_until_said("look at its address and at the network; files wait for it");
    worker.terminate();
    let ended = worker.end().expect_said(&nowhere);
    assert!(!format!("{ended:?}").contains("canary"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_worker_downloads_the_next_one_uploads() {
    let stage = Stage::new().await;
    stage.configure(
        "[worker.download]\n\
         input = \"pending\"\n\
         results = \"others\"\n\
         files = \"cache\"\n\
         [worker.upload]\n\
         input = \"others\"\n\
         results = \"done\"\n\
         source = \"cache\"\n",
    );
    let container = Container::create().await;
    let files = stage.serve(FILES);
    stage.publish("tasks", files.keys()).await;
    // A task of the second stage that no first one made, and whose file is nowhere.
    let alien = OutgoingEvent::new(br#"{"id": "alien", "path": "no/such.bin"}"#.to_vec());
    publish(&stage.broker, "others", vec![alien]).await;
    let downloads = start(&mut worker(&stage, "download", &container));
    let uploads = start(&mut worker(&stage, "upload", &container));
    stage.until_results(FILES).await;
    downloads.terminate();
    uploads.terminate();
    assert_eq!(downloads.end().expect_code(0).figure("files"), FILES as u64);
    let ended = uploads.end().expect_code(0);
    assert_eq!(ended.figure("files"), FILES as u64);
    let report = ended.report();
    let median = |of: &str| report[of]["median_seconds"].as_f64().unwrap();
    assert!(median("first_stage_to_file") > median("event_to_file"), "{report}");
    assert!(!format!("{ended:?}").contains("sig="), "no signature is told");

    for (name, result) in stage.results().await {
        let body = &files[&name];
        assert!(container.content(&result.path).await.as_ref() == Some(body), "{name}");
        assert_eq!((result.bytes, result.stages.len()), (body.len() as u64, 1), "{result:?}");
        assert!(result.crc64.is_some());
    }
    let letters = stage.letters("upload-state/failures").await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let why = format!("{letter:?}");
    assert!(why.contains("task alien: ") && why.contains("there is no such file"), "{why}");
}
