//! Where `set` and `reset` lead, and what a worker makes of it.

use std::time::{Duration, SystemTime};

use azure_core::time::{OffsetDateTime, to_rfc3339};
use longshore::checkpoint_store::Checkpoint;
use longshore::event::Position;
use serde_json::json;
use tokio::time::sleep;

use crate::stage::{Stage, row, with_holes};

fn rfc3339(time: SystemTime) -> String {
    to_rfc3339(&OffsetDateTime::from(time))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_leads_to_each_target() {
    let stage = Stage::over_a_folder(3).await;
    let hub = stage.hub().await.incarnation;
    stage.publish("0", 10).await;
    sleep(Duration::from_millis(30)).await;
    let between = SystemTime::now();
    sleep(Duration::from_millis(30)).await;
    stage.publish("0", 10).await;
    stage.broker.faults().trim_log("orders", 0, 4).unwrap();
    let future = SystemTime::now() + Duration::from_secs(3_600);
    stage.write("0", &with_holes(7, hub)).await;

    let targets = [
        ("earliest", 3),
        ("latest", 19),
        (&*rfc3339(between), 9),
        (&*rfc3339(future), 19),
        ("2020-01-01T00:00:00+01:00", 3),
        ("12", 11),
        ("20", 19),
        ("0", -1),
    ];
    for (generation, (to, settled)) in (1..).zip(targets) {
        let (report, code) = stage.report(&["reset", "--partition", "0", "--to", to]).await;
        assert_eq!(code, 0, "{to}: {report}");
        assert_eq!(row(&report, "0")["sequence_number"], settled, "{to}");
        let stored = stage.read("0").await.unwrap();
        // Below what retention left the oldest event is the next one, whatever it is by then.
        let position = match settled {
            4.. => stage.event("0", settled).await,
            _ => Position { offset: Some("-1".into()), ..Position::at(settled) },
        };
        let expected = Checkpoint {
            watermark: Some(position),
            reset_generation: generation,
            incarnation: Some(hub),
            lease_epoch: with_holes(7, hub).lease_epoch,
            write_id: stored.write_id,
            ..Checkpoint::default()
        };
        assert_eq!(stored, expected, "{to}");
    }

    // An empty log has a place before its first event.
    let (report, code) = stage.report(&["reset", "--all", "--to", "earliest"]).await;
    assert_eq!(code, 0, "{report}");
    assert_eq!([row(&report, "1"), row(&report, "2")].map(|row| &row["sequence_number"]), [-1, -1]);
    assert_eq!(stage.settled_to("1").await, Some(-1));
    for to in ["latest", "2020-01-01T00:00:00Z"] {
        let (report, _) = stage.report(&["reset", "--partition", "2", "--to", to]).await;
        assert_eq!(row(&report, "2")["sequence_number"], -1, "{to}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_is_the_last_settled_event() {
    let stage = Stage::over_a_folder(1).await;
    stage.publish("0", 10).await;
    let hub = stage.hub().await.incarnation;
    stage.write("0", &with_holes(2, hub)).await;
    let ended = stage.run(&["set", "--partition", "0", "--sequence", "5"]).await.expect_code(0);
    assert!(ended.stdout.contains("0  settled to 5, the next event is 6 (was 2)"), "{ended:#?}");
    let note = "! 4 events above it that had settled are handled again";
    assert!(ended.stdout.contains(note), "{ended:#?}");
    assert_eq!(stage.settled_to("0").await, Some(5));
    stage.run(&["set", "--partition", "0", "--sequence", "-1"]).await.expect_code(0);
    assert_eq!(stage.settled_to("0").await, Some(-1));

    for beyond in [["set", "--sequence", "10"], ["reset", "--to", "11"]] {
        let arguments = [&beyond[..], &["--partition", "0"]].concat();
        let ended = stage.run(&arguments).await.expect_code(3);
        assert!(ended.stdout.contains("REFUSED: the log ends at 9"), "{ended:#?}");
        assert_eq!(stage.settled_to("0").await, Some(-1));
        let ended = stage.run(&[&arguments[..], &["--force"]].concat()).await.expect_code(0);
        assert!(ended.stdout.contains("settled to 10"), "{ended:#?}");
        stage.run(&["set", "--partition", "0", "--sequence", "-1"]).await.expect_code(0);
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_not_there_is_refused_and_the_others_are_written() {
    let stage = Stage::over_a_folder(2).await;
    let arguments = ["reset", "--to", "latest", "--partition", "0", "--partition", "7"];
    let (report, code) = stage.report(&[&arguments[..], &["--partition", "0"]].concat()).await;
    assert_eq!(code, 3);
    assert_eq!(report["partitions"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(row(&report, "0")["outcome"], "written");
    assert_eq!(row(&report, "7")["outcome"], "refused");
    assert_eq!(row(&report, "7")["reason"], json!("the hub has no partition 7"));
    let ended = stage.run(&arguments).await.expect_code(3);
    ended.expect_said("1 of 2 checkpoints written");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_cannot_be_used_are_refused_by_name() {
    let mut stage = Stage::over_a_folder(1).await;
    for arguments in [
        &["reset", "--to", "yesterday", "--all"][..],
        &["reset", "--to", "-5", "--all"],
        &["reset", "--to", "latest"],
        &["reset", "--to", "latest", "--all", "--partition", "0"],
        &["set", "--partition", "0", "--sequence", "-2"],
        &["set", "--partition", "0"],
        &["import"],
        &["export", "--report", "json"],
    ] {
        let ended = stage.run(arguments).await.expect_code(2);
        assert_eq!(ended.stdout, "");
    }
    stage.set("LONGSHORE_LEASE_EXPIRY", "1s");
    stage.set("LONGSHORE_CHECKPOINT_CREDENTIAL", "developer");
    let (report, code) = stage.report(&["list"]).await;
    assert_eq!((code, report["problems"].as_array().unwrap().len()), (2, 3), "{report}");
    assert!(!stage.folder().exists());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_where_it_was_set() {
    let stage = Stage::over_a_folder(1).await;
    stage.publish("0", 10).await;
    stage.run(&["set", "--partition", "0", "--sequence", "3"]).await.expect_code(0);
    assert_eq!(stage.work(6).await, [4, 5, 6, 7, 8, 9]);
    stage.run(&["reset", "--all", "--to", "8"]).await.expect_code(0);
    assert_eq!(stage.work(2).await, [8, 9]);
    stage.run(&["reset", "--all", "--to", "earliest"]).await.expect_code(0);
    assert_eq!(stage.work(10).await, (0..10).collect::<Vec<_>>());
    stage.stop().await;
}
