//! `longshore parked`.

use std::fs;
use std::time::{Duration, SystemTime};

use longshore::dead_letter::record::DeadLetterRecord;
use longshore::failure_store::{Expected, FailureEntry, FailureKind};
use longshore::timestamp::rfc3339;
use serde_json::json;

use crate::owner::Owner;
use crate::stage::{Stage, letter, parts};

const A_HUNDRED_YEARS: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Parks an event that failed, until so long from now.
async fn park(stage: &Stage, number: i64, until: Duration) {
    let mut record = DeadLetterRecord::new(&letter(parts("orders", number, "x"), "503"));
    record.due = Some(rfc3339(SystemTime::now() + until));
    record.parkings = 1;
    let key = record.identity().key(FailureKind::Parked);
    let entry = FailureEntry::of(&record).unwrap();
    stage.store().put(&key, &entry, &Expected::Absent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_events_are_listed_and_shown() {
    let stage = Stage::over_a_folder();
    stage.store();
    stage
        .run_of("parked", &["list"])
        .await
        .expect_code(0)
        .expect_said("there are no parked events");
    park(&stage, 1, Duration::ZERO).await;
    park(&stage, 2, A_HUNDRED_YEARS).await;
    let listed = stage.run_of("parked", &["list"]).await.expect_code(0);
    assert!(listed.stdout.starts_with("parked events in "), "{}", listed.stdout);
    assert!(listed.stdout.lines().all(|line| line.chars().count() <= 80), "{}", listed.stdout);
    let report =
        stage.run_of("parked", &["list", "--report", "json"]).await.expect_code(0).report();
    let due = report["events"][1]["due"].as_str().unwrap();
    let year: i32 = due[..4].parse().unwrap();
    assert!(year > 2100, "{due}");
    let shown = stage.run_of("parked", &["show", "orders/0#2"]).await.expect_code(0).stdout;
    assert!(shown.contains(&format!("tried again at: {due}")), "{shown}");
    let absent = stage.run_of("parked", &["show", "orders/0#3"]).await.expect_code(1);
    absent.expect_said("there is no event orders/0#3");
    let none = stage.run_of("parked", &["retry", "--worker", "nobody"]).await.expect_code(0);
    none.expect_said("no event matches, of 2 events in ");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_made_due_dropped_and_given_up() {
    for stage in [Stage::over_a_folder(), Stage::over_a_container().await] {
        for number in 0..4 {
            park(&stage, number, A_HUNDRED_YEARS).await;
        }
        for change in ["retry", "drop", "give-up"] {
            let refused = stage.run_of("parked", &[change]).await.expect_code(2);
            refused.expect_said("say which ones with a filter");
            let dry = stage.run_of("parked", &[change, "--all", "--dry-run"]).await.expect_code(0);
            assert!(dry.stdout.starts_with("4 events would be "), "{}", dry.stdout);
        }
        let one = |change: &'static str, id: &'static str| {
            let stage = &stage;
            async move {
                let arguments = [change, "--id", id, "--report", "json"];
                stage.run_of("parked", &arguments).await.expect_code(0)
            }
        };
        assert_eq!(one("retry", "orders/0#0").await.figure("due_now"), 1);
        assert_eq!(one("drop", "orders/0#1").await.figure("dropped"), 1);
        assert_eq!(one("give-up", "orders/0#2").await.figure("given_up"), 1);
        let dead = stage.report(&["list"]).await;
        assert_eq!(dead["letters"][0]["sequence_number"], 2);
        assert_eq!(
            (&dead["letters"][0]["due"], &dead["letters"][0]["parkings"]),
            (&json!(null), &json!(1))
        );
        let owner = Owner::failing([]);
        let task = owner.start(stage.store());
        while owner.times().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        task.abort();
        assert_eq!(owner.times(), [(0, 1)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_record_that_is_damaged_is_named_and_can_be_dropped() {
    let stage = Stage::over_a_folder();
    park(&stage, 1, Duration::ZERO).await;
    park(&stage, 2, Duration::ZERO).await;
    let file = stage.folder().join(
        "parked/ns.example/orders/1700000000123/%24default/0/0000000000000000000/0000000000000000001.json",
    );
    let content = fs::read(&file).unwrap();
    fs::write(&file, &content[..content.len() * 2 / 3]).unwrap();
    for change in ["retry", "give-up"] {
        let arguments = [change, "--id", "orders/0#1", "--report", "json"];
        let ended = stage.run_of("parked", &arguments).await.expect_code(3);
        assert_eq!(ended.figure("failed"), 1);
        ended.expect_said("its event is then not tried again");
    }
    stage.run_of("parked", &["drop", "--id", "orders/0#1"]).await.expect_code(0);
    stage.run_of("parked", &["retry", "--all"]).await.expect_code(0);
    stage.run(&["list"]).await.expect_code(0).expect_said("there are no dead letters");
}
