//! What a replay or an import would do, said and not done; and tables that fit a terminal.

use std::fs;
use std::sync::Arc;

use longshore::dead_letter::DeadLetterSink;
use longshore::dead_letter::hub::HubDeadLetterSink;
use longshore::failure_store::{FailureKind, FailurePrefix};
use longshore::transport::event_hubs::{EventHubsPublisher, Namespace};
use longshore_emulator::HubOptions;
use serde_json::json;

use crate::broker;
use crate::stage::{Stage, letter, parts, several};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_looked_at_without_going_on_and_released_without_being_given_up() {
    for stage in [Stage::over_a_folder(), Stage::over_a_container().await] {
        stage.write((0..3).map(|number| letter(parts("orders", number, "x"), "404"))).await;
        let replay = ["replay", "--offline", "--all", "--no-wait"];
        let handed = stage.run(&[&replay[..], &["--report", "json"]].concat()).await.expect_code(0);
        let job = handed.report()["job"].as_str().unwrap().to_owned();

        let resume = ["replay", "--resume", &job, "--dry-run"];
        let shown = stage.run(&resume).await.expect_code(0).stdout;
        let left = "3 letters without a result would be handed out";
        assert!(shown.contains("0 of 3 letters done") && shown.contains(left), "{shown}");
        let report = stage.report(&resume).await;
        assert_eq!((&report["without_result"], &report["dry_run"]), (&json!(3), &json!(true)));
        assert_eq!(report["is_over"], false);

        // One of them is with no worker any more.
        let store = stage.store();
        let parked = FailurePrefix::all(FailureKind::Parked);
        let page = store.list(&parked, None, 10).await.unwrap();
        let event = page.entries[0].as_ref().unwrap();
        store.delete(&event.key, &event.version).await.unwrap();
        let release = ["replay", "--release", &job];
        let dry_run = [&release[..], &["--dry-run"]].concat();
        for _ in 0..2 {
            let ended = stage.run(&dry_run).await.expect_code(0);
            let said = format!("1 letter of job {job} could be replayed again");
            assert!(ended.stdout.contains(&said), "{ended:#?}");
            ended.expect_said("2 letters are still with the workers");
        }
        let report = stage.report(&dry_run).await;
        assert_eq!((&report["released"], &report["dry_run"]), (&json!(1), &json!(true)));
        let report = stage.report(&release).await;
        assert_eq!((&report["released"], &report["dry_run"]), (&json!(1), &json!(false)));
        assert_eq!(stage.report(&release).await["released"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_tried_makes_no_folder() {
    let hub = HubOptions::new("letters", 1);
    let broker = broker::patient().hub_with(hub).start().await.unwrap();
    let string = broker.connection_string(None);
    let namespace = Namespace::from_connection_string(&string).unwrap();
    let sink = HubDeadLetterSink::new(Arc::new(EventHubsPublisher::new(namespace, "letters")));
    sink.write(&letter(parts("orders", 1, "x"), "404")).await.unwrap();
    let mut stage = Stage::over_a_folder();
    stage.environment = vec![("EVENTHUB_CONNECTION_STRING".to_owned(), string)];
    let import = ["import", "--hub", "letters"];
    let dry = stage.run(&[&import[..], &["--dry-run"]].concat()).await.expect_code(0);
    assert!(dry.stdout.contains("1 letter of hub letters would be brought into "), "{dry:#?}");
    assert!(dry.stdout.contains(&stage.folder().display().to_string()), "{dry:#?}");
    assert_eq!(fs::read_dir(stage.dir.path()).unwrap().count(), 0);
    let done = stage.run(&import).await.expect_code(0);
    assert!(done.stdout.contains("1 letter of hub letters brought into "), "{done:#?}");
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_fits_eighty_columns() {
    let stage = Stage::over_a_folder();
    let entity = "a-hub-with-a-name-that-is-as-long-as-the-names-of-hubs-may-be-at-all";
    let mut long =
        letter(parts(entity, 3_000_000_000, "x"), &"日本 the reason is long ".repeat(20));
    long.worker = "worker".repeat(20);
    long.destination = Some("https://files.example/".repeat(9));
    stage.write(several().into_iter().chain([long])).await;
    for arguments in [
        &["list"][..],
        &["group"],
        &["group", "--by", "entity"],
        &["group", "--by", "worker"],
        &["group", "--by", "destination"],
        &["group", "--by", "reason"],
    ] {
        let ended = stage.run(arguments).await.expect_code(0);
        // The first line names the place, which can be copied.
        for line in ended.stdout.lines().skip(1) {
            // Two columns each.
            let wide = line.chars().filter(|letter| "日本".contains(*letter)).count();
            assert!(line.chars().count() + wide <= 80, "{arguments:?}: {line}");
        }
    }
    let listed = stage.run(&["list"]).await.expect_code(0).stdout;
    assert!(listed.contains("…"), "{listed}");
}
