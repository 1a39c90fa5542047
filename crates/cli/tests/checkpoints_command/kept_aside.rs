//! `export` and `import`.

use std::fs;

use longshore::checkpoint_store::Checkpoint;
use longshore::event::SequenceNumber;
use serde_json::{Value, json};

use crate::azurite::{ALL, Container};
use crate::stage::{Stage, at, row, with_holes, worker};

async fn exported(stage: &Stage) -> Vec<Value> {
    let ended = stage.run(&["export"]).await.expect_code(0);
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_the_same_in_an_empty_container() {
    let mut stage = Stage::over_a_container(3).await;
    let hub = stage.hub().await.incarnation;
    for partition in ["0", "1"] {
        stage.publish(partition, 30).await;
    }
    let mut first = with_holes(9, hub);
    first.reset_generation = 6;
    first.takeovers_without_progress = 2;
    first.suspects_to = Some(SequenceNumber(25));
    stage.write("0", &first).await;
    stage.write("1", &at(3)).await;
    let claimed = Checkpoint { incarnation: Some(hub), ..Checkpoint::default() };
    stage.write("2", &claimed).await;
    let lines = exported(&stage).await;
    assert_eq!(
        lines[0],
        json!({
            "version": 1, "namespace": stage.scope().namespace, "entity": "orders",
            "consumer_group": "$Default", "partition": "0", "sequence_number": 9,
            "offset": "4096", "enqueued_time": 1_764_080_000_123_i64, "settled_above": [[11, 15], [17, 17]], "incarnation": hub.0,
            "reset_generation": 6, "lease_epoch": 1_764_080_000_123_i64,
            "takeovers_without_progress": 2, "suspects_to": 25,
        })
    );
    assert_eq!(lines[2]["sequence_number"], Value::Null);
    let ended = stage.run(&["export", "--to", "kept.jsonl"]).await.expect_code(0);
    assert!(ended.stdout.contains("3 checkpoints written to kept.jsonl"), "{ended:#?}");
    stage.run(&["export", "--to", "kept.jsonl"]).await.expect_code(1).expect_said("kept.jsonl");
    let (before, _) = stage.report(&["list"]).await;

    let empty = Container::create().await;
    stage.set("LONGSHORE_CHECKPOINT_CONTAINER", &empty.url(ALL));
    stage.place = crate::stage::Place::Container(empty);
    let (report, code) = stage.report(&["import", "--from", "kept.jsonl"]).await;
    assert_eq!(code, 0, "{report}");
    assert_eq!(row(&report, "0")["outcome"], "written");
    let (mut after, _) = stage.report(&["list"]).await;
    // What was exported without an offset and a time was looked up in the hub.
    let located = stage.read("1").await.unwrap().watermark.unwrap();
    assert_eq!(located, stage.event("1", 3).await);
    after["partitions"][1] = before["partitions"][1].clone();
    assert_eq!(timeless(before), timeless(after));
    assert_eq!(stage.read("0").await.unwrap().reset_generation, 7);

    // Over what went on: it wins, and never gives the fence back.
    let mut later = at(25);
    (later.reset_generation, later.lease_epoch.0) = (11, 1_764_080_000_999);
    stage.write("0", &later).await;
    let ended = stage.run(&["import", "--from", "kept.jsonl"]).await.expect_code(0);
    assert!(ended.stdout.contains("settled to 9, the next event is 10 (was 25)"), "{ended:#?}");
    let stored = stage.read("0").await.unwrap();
    assert_eq!((stored.reset_generation, stored.lease_epoch.0), (12, 1_764_080_000_999));
    assert_eq!(stored.settled_above, with_holes(9, hub).settled_above);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_bad_line_writes_nothing_and_names_each() {
    let stage = Stage::over_a_folder(2).await;
    stage.publish("0", 10).await;
    stage.publish("1", 10).await;
    stage.write("0", &at(3)).await;
    stage.write("1", &at(3)).await;
    let lines = exported(&stage).await;
    let good = lines[0].to_string();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut line = lines[1].clone();
        change(&mut line);
        line.to_string()
    };
    let bad = [
        (good.clone(), "line 3: partition 0 is on line 1 as well"),
        ("{\"version\":1".to_owned(), "line 4: EOF"),
        ("nonsense".to_owned(), "line 5: expected"),
        (with(&|line| line["version"] = json!(2)), "line 6: its version is 2"),
        (
            with(&|line| line["consumer_group"] = json!("billing")),
            "line 7: its consumer_group is billing",
        ),
        (with(&|line| line["settled_above"] = json!([[3, 4]])), "line 8: its settled_above"),
        (with(&|line| line["settled_above"] = json!([[7, 6]])), "line 9: its settled_above"),
        (with(&|line| line["sequence_number"] = json!("3")), "line 10: invalid type"),
        (with(&|line| line["sequence_number"] = json!(-7)), "line 11: its sequence_number is -7"),
        (with(&|line| line["partition"] = json!("")), "line 12: its partition is empty"),
    ];
    let text: Vec<&str> = bad.iter().map(|(line, _)| line.as_str()).collect();
    stage.file("bad.jsonl", &format!("{good}\n\n{}\n", text.join("\n")));
    stage.run(&["set", "--partition", "0", "--sequence", "-1"]).await.expect_code(0);
    let mut ended = stage.run(&["import", "--from", "bad.jsonl"]).await.expect_code(2);
    for (_, said) in &bad {
        ended = ended.expect_said(said);
    }
    let ended = ended.expect_said("nothing was written");
    assert_eq!(ended.stderr.lines().count(), bad.len() + 1, "{ended:#?}");
    assert_eq!(stage.settled_to("0").await, Some(-1));
    stage.run(&["import", "--from", "absent"]).await.expect_code(2).expect_said("absent cannot be");

    // Fields that are not known yet are no fault.
    stage.file("later.jsonl", &with(&|line| line["since"] = json!("later")));
    stage.run(&["import", "--from", "later.jsonl"]).await.expect_code(0);
    assert_eq!(stage.settled_to("1").await, Some(3));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_leaves_a_live_owner_alone() {
    let stage = Stage::over_a_container(2).await;
    stage.publish("0", 10).await;
    stage.publish("1", 10).await;
    stage.write("0", &at(3)).await;
    stage.write("1", &at(3)).await;
    stage.run(&["export", "--to", "kept.jsonl"]).await.expect_code(0);
    stage.write("0", &at(8)).await;
    stage.own("0", worker("loader-1")).await;
    stage.beat("loader-1").await;
    let (report, code) = stage.report(&["import", "--from", "kept.jsonl"]).await;
    assert_eq!(code, 3, "{report}");
    assert_eq!(row(&report, "0")["outcome"], "refused");
    assert_eq!(
        (row(&report, "1")["outcome"].as_str(), stage.settled_to("0").await),
        (Some("written"), Some(8))
    );
    stage.run(&["import", "--from", "kept.jsonl", "--force"]).await.expect_code(0);
    assert_eq!(stage.settled_to("0").await, Some(3));
    let text = fs::read_to_string(stage.dir.path().join("kept.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 2);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_refuses_what_set_refuses() {
    let stage = Stage::over_a_folder(2).await;
    stage.publish("0", 10).await;
    stage.write("0", &at(3)).await;
    let line = exported(&stage).await.remove(0);
    let with = |partition: &str, number: i64, above: Value| {
        let mut line = line.clone();
        line["partition"] = json!(partition);
        (line["sequence_number"], line["settled_above"]) = (json!(number), above);
        line.to_string()
    };
    let lines = [with("0", 10, json!([])), with("1", 0, json!([])), with("7", -1, json!([]))];
    stage.file("wrong.jsonl", &lines.join("\n"));
    let (report, code) = stage.report(&["import", "--from", "wrong.jsonl"]).await;
    assert_eq!(code, 3, "{report}");
    for (partition, why) in [("0", "ends at 9"), ("1", "ends at -1"), ("7", "no partition 7")] {
        assert_eq!(row(&report, partition)["outcome"], "refused");
        let reason = row(&report, partition)["reason"].as_str().unwrap();
        assert!(reason.contains(why), "{reason}");
    }
    assert_eq!(stage.settled_to("0").await, Some(3));
    stage.file("above.jsonl", &with("0", 3, json!([[5, 12]])));
    stage.run(&["import", "--from", "above.jsonl"]).await.expect_code(3);
    stage.file("right.jsonl", &with("0", 9, json!([])));
    stage.run(&["import", "--from", "right.jsonl"]).await.expect_code(0);
    stage.run(&["import", "--from", "wrong.jsonl", "--force"]).await.expect_code(0);
    assert_eq!(stage.settled_to("0").await, Some(10));
    stage.stop().await;
}

/// The rows of a report without the ages of events, which grow.
fn timeless(mut report: Value) -> Value {
    for row in report["partitions"].as_array_mut().unwrap() {
        row.as_object_mut().unwrap().retain(|field, _| !field.starts_with("lag_seconds"));
    }
    report["partitions"].take()
}
