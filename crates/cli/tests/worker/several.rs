//! Several workers beside each other: with a state each, or with one that they share.

use std::time::Duration;

use crate::azurite::{ALL, Container};
use crate::command::start;
use crate::stage::Stage;

const PROMPT: Duration = Duration::from_secs(60);

const TWO: &str = "[worker.download]\n\
                   input = \"pending\"\n\
                   results = \"done\"\n\
                   files = \"files\"\n\
                   [worker.second]\n\
                   input = \"others\"\n\
                   results = \"done\"\n\
                   files = \"files\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_of_one_file_have_a_state_each() {
    let stage = Stage::new().await;
    stage.configure(TWO);
    let files = stage.serve(60);
    let (first, second): (Vec<_>, Vec<_>) = files.keys().partition(|name| name.starts_with('0'));
    stage.publish("tasks", first).await;
    stage.publish("others", second).await;
    let one = stage.start();
    one.wait_until_said("ready, with 4 partitions");
    let mut command = stage.command();
    command.args(["--worker", "second"]);
    // Its state is the first one's.
    let refused = start(&mut command).end_within(PROMPT).expect_code(1);
    assert!(refused.stderr.contains("stop it first"), "{refused:#?}");
    let other = start(command.env("LONGSHORE_CHECKPOINT_FOLDER", "second-state/checkpoints"));
    other.wait_until_said("reads hub others at");
    stage.until_results(60).await;
    one.terminate();
    other.terminate();
    let moved: u64 = [one, other]
        .map(|worker| worker.end_within(PROMPT).expect_code(0).figure("files"))
        .iter()
        .sum();
    assert_eq!(moved, 60);
    stage.expect_all(&files).await;
    assert!(stage.path("second-state/failures").is_dir(), "beside its checkpoints");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_the_partitions_where_their_checkpoints_are_in_a_container() {
    let container = Container::create().await;
    let stage = Stage::new().await;
    let files = stage.serve(80);
    let config = "[worker.download]\n\
                  input = \"pending\"\n\
                  results = \"done\"\n\
                  dead_letters = \"letters\"\n\
                  files = \"files\"\n";
    stage.configure(config);
    let started = || {
        let mut command = stage.command();
        for (key, value) in [
            ("LONGSHORE_CHECKPOINT_CONTAINER", container.url(ALL).as_str()),
            ("LONGSHORE_HEARTBEAT_INTERVAL", "200ms"),
            ("LONGSHORE_LOOK_INTERVAL", "200ms"),
        ] {
            command.env(key, value);
        }
        start(&mut command)
    };
    let (one, other) = (started(), started());
    one.wait_until_said("shared with other workers");
    for worker in [&one, &other] {
        worker.wait_until_said("ready, with");
    }
    let (first, second): (Vec<_>, Vec<_>) = files.keys().partition(|name| name.starts_with('0'));
    stage.publish("tasks", first).await;
    one.terminate();
    one.end_within(PROMPT).expect_code(0);
    // The other has all of them now.
    stage.publish("tasks", second).await;
    stage.until_results(80).await;
    other.terminate();
    let ended = other.end_within(PROMPT).expect_code(0);
    assert!(!ended.stderr.contains("sig="), "{ended:#?}");
    stage.expect_all(&files).await;
    assert_eq!(stage.web.all_requests(), 80, "none was fetched twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoints_of_a_worker_are_found_by_its_name() {
    let stage = Stage::new().await;
    stage.configure(TWO);
    let files = stage.serve(4);
    stage.publish("tasks", files.keys()).await;
    let worker = stage.start();
    stage.until_results(4).await;
    worker.terminate();
    worker.end_within(PROMPT).expect_code(0);
    let mut command = crate::command::longshore();
    command.args(["checkpoints", "list", "--config", "worker.toml", "--worker", "download"]);
    let listed = start(command.args(["--report", "json"]).current_dir(stage.dir.path()));
    let listed = listed.end_within(PROMPT).expect_code(0).report();
    assert_eq!(listed["entity"], "tasks");
    let rows = listed["partitions"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["lag_events"] == 0), "{listed}");
    let mut command = crate::command::longshore();
    command.args(["test", "--config", "worker.toml", "--worker", "second"]);
    let tested = start(command.current_dir(stage.dir.path())).end_within(PROMPT).expect_code(0);
    assert!(tested.stdout.starts_with("hub others at "), "{tested:#?}");
}
