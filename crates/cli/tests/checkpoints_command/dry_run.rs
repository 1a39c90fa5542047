//! What a change would do, said and not done.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use crate::command::files_below;
use crate::stage::{Place, Stage, at, row, worker};

/// All that the store holds.
async fn contents(stage: &Stage) -> BTreeMap<String, String> {
    match &stage.place {
        Place::Folder => {
            let content = |name: &String| fs::read_to_string(stage.folder().join(name)).unwrap();
            let names = files_below(&stage.folder());
            let names = names.into_iter().filter(|name| !name.ends_with(".lock"));
            names.map(|name| (name.clone(), content(&name))).collect()
        }
        Place::Container(container) => {
            let mut contents = BTreeMap::new();
            for name in container.names().await {
                let metadata = container.metadata(&name).await;
                let etag = container.header(&name, "etag").await;
                contents.insert(name, format!("{metadata:?} {etag:?}"));
            }
            contents
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_the_change_does_and_changes_nothing() {
    let commands = [
        &["set", "--partition", "0", "--sequence", "7"][..],
        &["reset", "--to", "earliest", "--all"],
        &["reset", "--to", "latest", "--partition", "1"],
        &["reset", "--to", "99", "--partition", "1"],
        &["set", "--partition", "7", "--sequence", "1"],
        &["set", "--partition", "2", "--sequence", "1"],
        &["set", "--partition", "2", "--sequence", "1", "--force"],
        &["import", "--from", "kept.jsonl"],
    ];
    for stage in [Stage::over_a_folder(3).await, Stage::over_a_container(3).await] {
        for partition in ["0", "1", "2"] {
            stage.publish(partition, 10).await;
        }
        stage.write("0", &at(2)).await;
        stage.run(&["export", "--to", "kept.jsonl"]).await.expect_code(0);
        stage.write("0", &at(5)).await;
        stage.spoil("2").await;
        let before = contents(&stage).await;
        for arguments in commands {
            let (dry, code) = stage.report(&[arguments, &["--dry-run"]].concat()).await;
            assert_eq!(dry["dry_run"], true, "{dry}");
            let shown = stage.run(&[arguments, &["--dry-run"]].concat()).await.expect_code(code);
            assert!(shown.stdout.contains("a dry run: nothing is written"), "{shown:#?}");
            let says = shown.stdout.contains("would be settled");
            assert!(says || code == 3, "{shown:#?}");
            assert_eq!(contents(&stage).await, before, "{arguments:?}");
            assert_eq!(dry.to_string().contains("would_be_written"), says, "{dry}");
        }
        // What it said is what is done.
        for arguments in commands {
            let (dry, code) = stage.report(&[arguments, &["--dry-run"]].concat()).await;
            let (done, done_code) = stage.report(arguments).await;
            assert_eq!((done_code, &done["dry_run"]), (code, &json!(false)), "{arguments:?}");
            let would = dry["partitions"].to_string().replace("would_be_written", "written");
            let would = would.replace("the old value would be gone", "the old value is gone");
            assert_eq!(done["partitions"].to_string(), would, "{arguments:?}");
        }
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_makes_no_folder_and_refuses_what_a_live_owner_has() {
    let stage = Stage::over_a_folder(1).await;
    stage.publish("0", 3).await;
    let (report, code) = stage.report(&["reset", "--all", "--to", "latest", "--dry-run"]).await;
    assert_eq!((code, &row(&report, "0")["sequence_number"]), (0, &json!(2)));
    assert!(!stage.folder().exists());
    stage.stop().await;

    let stage = Stage::over_a_container(1).await;
    stage.publish("0", 3).await;
    stage.own("0", worker("loader-1")).await;
    stage.beat("loader-1").await;
    let arguments = ["reset", "--all", "--to", "latest", "--dry-run"];
    let ended = stage.run(&arguments).await.expect_code(3);
    assert!(ended.stdout.contains("REFUSED: worker loader-1"), "{ended:#?}");
    ended.expect_said("0 of 1 checkpoints would be written");
    stage.stop().await;
}
