//! A folder while its worker runs: it can be read, and not changed.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longshore::checkpoint_store::file::FileCheckpointStore;
use longshore::checkpoint_store::{CheckpointKey, CheckpointStore, Expected};
use serde_json::json;

use crate::command::let_go;
use crate::stage::{Stage, at, row};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_has_can_be_read_and_says_so_and_cannot_be_changed() {
    let stage = Stage::over_a_folder(2).await;
    stage.publish("0", 10).await;
    stage.write("0", &at(4)).await;
    let (report, _) = stage.report(&["list"]).await;
    assert_eq!(report["in_use_by"], json!(null));
    let exported = stage.run(&["export"]).await.expect_code(0).stdout;

    let running = stage.store();
    let user = format!("process {}", std::process::id());
    let (report, code) = stage.report(&["list"]).await;
    assert_eq!((code, &report["in_use_by"]), (0, &json!(user)));
    assert_eq!(row(&report, "0")["sequence_number"], 4);
    assert_eq!(row(&report, "0")["lag_events"], 5);
    let ended = stage.run(&["list"]).await.expect_code(0);
    assert!(ended.stdout.contains(&format!("\nin use by {user}: ")), "{ended:#?}");
    let ended = stage.run(&["export"]).await.expect_code(0);
    assert_eq!(ended.stdout, exported);
    ended.expect_said(&format!("is in use by {user}: it may be further than what is exported"));
    stage.file("kept.jsonl", &exported);
    for arguments in [
        &["reset", "--all", "--to", "latest", "--force"][..],
        &["reset", "--all", "--to", "latest", "--dry-run"],
        &["set", "--partition", "0", "--sequence", "1", "--force"],
        &["import", "--from", "kept.jsonl", "--force"],
        &["import", "--from", "kept.jsonl", "--dry-run"],
    ] {
        let ended = stage.run(arguments).await.expect_code(1);
        ended.expect_said(&format!("is in use by {user}; stop it first: a folder"));
    }
    let_go(running);
    assert_eq!(stage.settled_to("0").await, Some(4));
    let (report, _) = stage.report(&["list"]).await;
    assert_eq!(report["in_use_by"], json!(null));
    stage.stop().await;
}

/// Every value that is read is one that was written, while they are written and while those of an earlier
/// release move to the spelling of this one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_beside_a_worker_is_whole_and_never_goes_back() {
    const ROUNDS: i64 = 60;
    let stage = Stage::over_a_folder(1).await;
    let partitions = ["0", "1", "2", "3"];
    for partition in partitions {
        stage.write(partition, &at(0)).await;
    }
    let worker = stage.store();
    let is_over = AtomicBool::new(false);
    let key = |partition: &str| CheckpointKey { scope: stage.scope(), partition: partition.into() };
    let (spelled, ours) = ("localhost/%4Frders/%24default", "localhost/orders/%24default");
    let path = |folder: &str, partition: &str| {
        stage.folder().join(folder).join(format!("{partition}.json"))
    };
    let writing = async {
        for round in 1..=ROUNDS {
            for partition in partitions {
                // As an earlier release filed it.
                fs::create_dir_all(stage.folder().join(spelled)).unwrap();
                fs::rename(path(ours, partition), path(spelled, partition)).unwrap();
                let key = key(partition);
                let version = worker.load(&key).await.unwrap().unwrap().version;
                let expected = Expected::Version(version);
                worker.store(&key, &at(round), &expected).await.unwrap();
            }
        }
        is_over.store(true, Ordering::SeqCst);
    };
    let reading = async {
        let reader = FileCheckpointStore::open_read_only(stage.folder()).unwrap();
        let mut last = [0; 4];
        let mut looks = 0;
        while !is_over.load(Ordering::SeqCst) {
            let listed = reader.list(&stage.scope()).await.unwrap();
            // What is moved by hand is nowhere for a moment; what a worker moves never is.
            for (id, stored) in listed {
                let index: usize = id.as_str().parse().unwrap();
                let position = stored.unwrap().checkpoint.watermark.unwrap();
                let number = position.sequence_number.0;
                assert!(number >= last[index], "{number} after {}", last[index]);
                last[index] = number;
            }
            looks += 1;
        }
        looks
    };
    let ((), looks) = tokio::join!(writing, reading);
    assert!(looks > 1, "{looks}");
    let_go(worker);
    stage.stop().await;
}

/// Who looks at the lock has it for a moment, which keeps no worker from its folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_while_somebody_looks_gets_its_folder() {
    let stage = Stage::over_a_folder(1).await;
    stage.write("0", &at(1)).await;
    let folder = stage.folder();
    let lock = fs::File::open(folder.join(".longshore.lock")).unwrap();
    lock.lock_shared().unwrap();
    // Two who look do not take each other for a worker.
    let reader = FileCheckpointStore::open_read_only(&folder).unwrap();
    assert_eq!(reader.user().unwrap(), None);
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| FileCheckpointStore::open(&folder));
        std::thread::sleep(Duration::from_millis(10));
        lock.unlock().unwrap();
        let_go(starting.join().unwrap().unwrap());
    });
    // Who has it for good is not waited for any longer.
    lock.lock().unwrap();
    let refused = FileCheckpointStore::open(&folder).unwrap_err();
    assert!(refused.to_string().contains("is in use by process "), "{refused}");
    lock.unlock().unwrap();
    stage.stop().await;
}
