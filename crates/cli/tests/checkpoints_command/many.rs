//! As many partitions as the service has for anybody, and tables that fit a terminal.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use longshore::checkpoint_store::{CheckpointKey, CheckpointStore, Expected};
use serde_json::json;

use crate::command::let_go;
use crate::stage::{Stage, at, foreign, row, with_holes, worker};

/// Of a hub of the dedicated tier.
const MANY: u32 = 1_024;

/// Without what hubs say.
const SOON: Duration = Duration::from_secs(3);

/// How often it is tried whether a list comes soon: the machine may be busy with something else.
const TRIES: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_partitions_are_listed_in_three_seconds_without_the_hub() {
    for stage in [Stage::over_a_folder(1).await, Stage::over_a_container(1).await] {
        let hub = stage.hub().await.incarnation;
        let store: std::sync::Arc<dyn CheckpointStore> = std::sync::Arc::from(stage.store());
        let write = |partition: u32| {
            let (store, scope) = (&store, stage.scope());
            async move {
                let key = CheckpointKey { scope, partition: partition.to_string().into() };
                let checkpoint = with_holes(i64::from(partition), hub);
                store.store(&key, &checkpoint, &Expected::Absent).await.unwrap();
            }
        };
        stream::iter(0..MANY).map(write).buffer_unordered(16).collect::<Vec<()>>().await;
        let_go(store);
        let mut took = Vec::new();
        while took.last().is_none_or(|last| *last >= SOON) && took.len() < TRIES {
            let begun = Instant::now();
            let (report, code) = stage.report(&["list", "--offline"]).await;
            took.push(begun.elapsed());
            assert_eq!((code, report["partitions"].as_array().unwrap().len()), (0, MANY as usize));
            assert_eq!(row(&report, "1023")["sequence_number"], 1_023);
            assert_eq!(row(&report, "1023")["settled_events_above"], 6);
        }
        assert!(took.last().is_some_and(|last| *last < SOON), "{took:?}");
        stage.stop().await;
    }
}

/// An answer that takes long holds up one of several connections.
#[tokio::test(flavor = "multi_thread")]
async fn logs_are_asked_side_by_side_and_no_faster_than_the_service_allows() {
    const PARTITIONS: u32 = 100;
    // One after the other they would take 20 s: far more than a busy machine makes of two rounds.
    const DELAY: Duration = Duration::from_millis(200);
    let stage = Stage::over_a_folder(PARTITIONS).await;
    stage.publish("99", 3).await;
    stage.write("99", &at(0)).await;
    stage.broker.faults().delay(DELAY);
    let begun = Instant::now();
    let (report, code) = stage.report(&["list"]).await;
    let took = begun.elapsed();
    stage.broker.faults().delay(Duration::ZERO);
    assert_eq!((code, &report["hub_error"]), (0, &json!(null)), "{report}");
    let rows = report["partitions"].as_array().unwrap();
    let numbers: Vec<String> =
        rows.iter().map(|row| row["partition"].as_str().unwrap().to_owned()).collect();
    assert_eq!(numbers, (0..PARTITIONS).map(|id| id.to_string()).collect::<Vec<_>>());
    assert_eq!(row(&report, "99")["lag_events"], 2);
    assert_eq!(row(&report, "98")["log_end"], -1);
    // 45 at once, and 45 a second later.
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(took < DELAY * PARTITIONS, "one after the other: {took:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_sees_how_far_the_questions_are_and_then_the_table() {
    let stage = Stage::over_a_folder(60).await;
    stage.write("0", &at(0)).await;
    // Some fifteen of them wait for the next second.
    let screen = stage.on_a_terminal("list").await;
    assert!(screen.contains(" of 60 partitions"), "{screen:?}");
    let table = screen.rsplit("partition  checkpoint").next().unwrap();
    assert!(table.contains("60 partitions, "), "{screen:?}");
    assert!(!table.contains(" of 60 partitions"), "the bar is gone: {screen:?}");
    for line in table.lines().skip(1).filter(|line| !line.starts_with("Script done")) {
        assert!(line.chars().count() <= 80, "{line:?}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_fits_eighty_columns_and_says_all_that_there_is() {
    let stage = Stage::over_a_container(4).await;
    let hub = stage.hub().await.incarnation;
    for partition in ["0", "1", "3"] {
        stage.publish(partition, 20).await;
    }
    let mut first = with_holes(9, hub);
    first.takeovers_without_progress = 5;
    stage.write("0", &first).await;
    stage.own("0", worker("loader-with-a-long-name-7c9f8d6b5-x2x4q")).await;
    stage.beat("loader-with-a-long-name-7c9f8d6b5-x2x4q").await;
    stage.own("1", foreign("python-1")).await;
    let mut huge = at(i64::MAX - 1);
    huge.incarnation = Some(longshore::event::Incarnation(hub.0 - 1));
    huge.lease_epoch.0 = u64::MAX;
    stage.write("3", &huge).await;
    stage.write("a-partition-that-no-hub-has\n0  forged", &at(1)).await;
    let ended = stage.run(&["list"]).await.expect_code(0);
    let table: Vec<&str> = ended.stdout.lines().skip(2).collect();
    for line in &table {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for said in [
        "worker loader-with-a-long-name-7c9f8d6b5-x2x4q (heartbeat ",
        "6 in 2 runs",
        "lease epoch 1764080000123",
        "foreign python-1 (renewed ",
        "9223372036854775806",
        "lease epoch 18446744073709551615",
        "partitions without an owner line have no owner",
        "! THE HUB WAS CREATED ANEW since",
    ] {
        assert!(ended.words().contains(said), "{said}: {ended:#?}");
    }
    assert!(!table.iter().any(|line| line.starts_with("0  forged")), "{ended:#?}");

    for arguments in [
        &["reset", "--all", "--to", "latest"][..],
        &["set", "--partition", "0", "--sequence", "12", "--force"],
    ] {
        let ended = stage.run(arguments).await;
        for line in ended.stdout.lines().skip(2) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
    stage.stop().await;
}
