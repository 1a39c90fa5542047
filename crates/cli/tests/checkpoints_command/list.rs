//! What `list` shows, and what it does where a part cannot be read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::event::Incarnation;
use longshore::{Event, EventContext};
use longshore_emulator::FaultPoint;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::azurite::{ALL, Container};
use crate::stage::{Place, Stage, at, foreign, row, with_holes, worker};
use crate::support::{drained, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn every_partition_is_a_row_with_checkpoint_owner_and_lag() {
    let stage = Stage::over_a_container(4).await;
    let hub = stage.hub().await.incarnation;
    for partition in ["0", "1", "3"] {
        stage.publish(partition, 20).await;
    }
    stage.write("0", &with_holes(9, hub)).await;
    stage.own("0", worker("loader-1")).await;
    stage.beat("loader-1").await;
    stage.own("1", foreign("python-1")).await;
    let mut stale = at(19);
    stale.incarnation = Some(Incarnation(hub.0 - 1));
    stale.takeovers_without_progress = 3;
    stage.write("3", &stale).await;
    stage.own("3", worker("loader-2")).await;

    let (report, code) = stage.report(&["list"]).await;
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["entity"], "orders");
    assert_eq!((&report["hub_error"], &report["leases_error"]), (&Value::Null, &Value::Null));
    let first = row(&report, "0");
    assert_eq!(first["sequence_number"], 9);
    assert_eq!((&first["log_begin"], &first["log_end"]), (&json!(0), &json!(19)));
    assert_eq!((&first["lag_events"], &first["settled_runs_above"]), (&json!(4), &json!(2)));
    assert_eq!(first["settled_events_above"], 6);
    assert_eq!(first["lease_epoch"], 1_764_080_000_123_i64);
    assert_eq!(
        (&first["owner"]["id"], &first["owner"]["alive"]),
        (&json!("loader-1"), &json!(true))
    );
    assert!(first["owner"]["silent_seconds"].as_f64().unwrap() < 30.0);
    let second = row(&report, "1");
    assert_eq!((&second["has_checkpoint"], &second["lag_events"]), (&json!(false), &json!(20)));
    assert_eq!(
        (&second["owner"]["kind"], &second["owner"]["alive"]),
        (&json!("foreign"), &json!(true))
    );
    let third = row(&report, "2");
    assert_eq!((&third["lag_events"], &third["lag_seconds"]), (&json!(0), &json!(0.0)));
    assert_eq!(third["owner"], Value::Null);
    let fourth = row(&report, "3");
    assert_eq!(
        (&fourth["incarnation_mismatch"], &fourth["lag_events"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(fourth["takeovers_without_progress"], 3);
    assert_eq!(
        (&fourth["owner"]["alive"], &fourth["owner"]["silent_seconds"]),
        (&json!(false), &Value::Null)
    );

    let ended = stage.run(&["list"]).await.expect_code(0);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let namespace = stage.scope().namespace;
    assert_eq!(lines[0], format!("hub orders at {namespace}, consumer group $Default"));
    assert!(lines[1].starts_with("checkpoints in http://127.0.0.1:"), "{ended:#?}");
    let shown = |text: &str| ended.stdout.contains(text);
    assert!(shown("6 in 2 runs") && shown("worker loader-1 (heartbeat "), "{ended:#?}");
    assert!(shown("foreign python-1 (renewed ") && shown("have no owner"), "{ended:#?}");
    assert!(shown("worker loader-2 (EXPIRED, it has no heartbeat)"), "{ended:#?}");
    assert!(shown("! THE HUB WAS CREATED ANEW since") && shown("taken over 3 times"), "{ended:#?}");
    assert!(
        shown("none: there is no checkpoint, a worker begins with the oldest event"),
        "{ended:#?}"
    );
    assert_eq!(lines.last(), Some(&"4 partitions, 24 events behind in 3 of them"));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_blob_is_a_row_with_an_error_and_hides_nobody() {
    let stage = Stage::over_a_container(6).await;
    stage.publish("0", 3).await;
    let Place::Container(container) = &stage.place else { unreachable!() };
    let huge = "9".repeat(4_000);
    for (partition, metadata) in [
        ("0", &[("offset", "1"), ("sequencenumber", "1")][..]),
        ("1", &[("offset", ""), ("sequencenumber", "")]),
        ("2", &[("offset", "4096")]),
        ("3", &[("offset", "1"), ("sequencenumber", "soon")]),
        ("4", &[("offset", "1"), ("sequencenumber", &huge)]),
        ("5/copy", &[("sequencenumber", "1")]),
    ] {
        container.put(&format!("{}/{partition}", stage.blobs()), metadata).await;
    }
    let (report, code) = stage.report(&["list"]).await;
    assert_eq!(code, 3, "{report}");
    assert_eq!(
        (&row(&report, "0")["sequence_number"], &row(&report, "0")["lag_events"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        (&row(&report, "1")["sequence_number"], &row(&report, "1")["error"]),
        (&Value::Null, &Value::Null)
    );
    for (partition, said) in [
        ("2", "no sequence number"),
        ("3", "\"soon\", which is no 64-bit number"),
        ("4", "999…\", which is no 64-bit number"),
        ("5/copy", "delete it"),
    ] {
        let error = row(&report, partition)["error"].as_str().unwrap();
        assert!(error.contains(said) && error.len() < 500, "{error}");
    }
    assert_eq!(row(&report, "5")["has_checkpoint"], false);

    let ended = stage.run(&["list"]).await.expect_code(3);
    assert_eq!(ended.stdout.matches("ERROR").count(), 4, "{ended:#?}");
    assert!(ended.stdout.trim_end().ends_with(", 4 with an error"), "{ended:#?}");
    // What cannot be read cannot be compared: the blob stays as it is.
    let ended = stage.run(&["reset", "--to", "earliest", "--partition", "3"]).await.expect_code(3);
    assert!(ended.stdout.contains("FAILED") && ended.stdout.contains("delete it"), "{ended:#?}");
    let ended = stage.run(&["export"]).await.expect_code(3);
    assert_eq!(ended.stdout.lines().count(), 2, "{ended:#?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_read_is_named_and_written_over_where_that_is_forced() {
    let commands = [
        &["set", "--sequence", "4"][..],
        &["reset", "--to", "5"],
        &["reset", "--to", "latest"],
        &["import", "--from", "kept.jsonl"],
    ];
    for stage in [Stage::over_a_container(4).await, Stage::over_a_folder(4).await] {
        for partition in ["0", "1", "2", "3"] {
            stage.publish(partition, 10).await;
        }
        stage.write("3", &at(4)).await;
        let ended = stage.run(&["export", "--to", "kept.jsonl"]).await;
        ended.expect_code(0);
        for partition in ["0", "1", "2", "3"] {
            stage.spoil(partition).await;
        }
        let (report, code) = stage.report(&["list"]).await;
        assert_eq!(code, 3, "{report}");
        for (partition, arguments) in ["0", "1", "2", "3"].into_iter().zip(commands) {
            let named = stage.named(partition);
            let mut arguments = arguments.to_vec();
            if arguments[0] != "import" {
                arguments.extend(["--partition", partition]);
            }
            let (report, code) = stage.report(&arguments).await;
            assert_eq!(code, 3, "{report}");
            let reason = row(&report, partition)["reason"].as_str().unwrap();
            assert!(reason.contains(&named), "{reason}");
            assert!(reason.contains("--force writes over it"), "{reason}");

            let (report, code) = stage.report(&[&arguments[..], &["--force"]].concat()).await;
            assert_eq!(code, 0, "{report}");
            let notes = row(&report, partition)["notes"].to_string();
            assert!(notes.contains("the old value is gone"), "{notes}");
            let settled = if arguments.contains(&"latest") { 9 } else { 4 };
            assert_eq!(stage.settled_to(partition).await, Some(settled));
        }
        let (report, code) = stage.report(&["list"]).await;
        assert_eq!(code, 0, "{report}");
        // It is above any reset that an owner may know of.
        let generation = stage.read("0").await.unwrap().reset_generation;
        assert!(generation > 1_764_000_000_000, "{generation}");
        stage.run(&["set", "--partition", "0", "--sequence", "5"]).await.expect_code(0);
        assert_eq!(stage.read("0").await.unwrap().reset_generation, generation + 1);
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_used_is_named_without_its_signature() {
    let mut stage = Stage::new(1, Place::Container(Container::absent())).await;
    for arguments in [&["list"][..], &["export"], &["reset", "--all", "--to", "earliest"]] {
        let ended = stage.run(arguments).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:#?}");
        let ended = ended.expect_said("does not exist; create it");
        assert_eq!(ended.stderr.lines().count(), 1, "no markup of an answer: {ended:#?}");
    }
    let container = Container::create().await;
    let forged = container.url("rl").replace("sp=rl", "sp=rwdlac");
    stage.set("LONGSHORE_CHECKPOINT_CONTAINER", &forged);
    let ended = stage.run(&["list"]).await.expect_code(1);
    ended.expect_said("its signature or role must be valid");
    // May read, and not write.
    stage.set("LONGSHORE_CHECKPOINT_CONTAINER", &container.url("rl"));
    stage.run(&["list"]).await.expect_code(0);
    let ended = stage.run(&["reset", "--all", "--to", "earliest"]).await.expect_code(3);
    assert!(ended.stdout.contains("FAILED") && ended.stdout.contains("refused (403"), "{ended:#?}");
    for wrong in ["state?sig=canary", "https://a.example/state", "http://a.example/s?sig=canary"] {
        stage.set("LONGSHORE_CHECKPOINT_CONTAINER", wrong);
        let ended = stage.run(&["list"]).await.expect_code(2);
        let ended = ended.expect_said("LONGSHORE_CHECKPOINT_CONTAINER = (hidden) (environment): ");
        assert!(!ended.stderr.contains("canary"), "{ended:#?}");
    }
    stage.set("LONGSHORE_CHECKPOINT_CONTAINER", &container.url(ALL));
    stage.run(&["list"]).await.expect_code(0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_hub_the_store_is_shown_and_the_lag_is_unknown() {
    let stage = Stage::over_a_folder(2).await;
    let hub = stage.hub().await.incarnation;
    stage.write("10", &with_holes(7, hub)).await;
    stage.write("2", &at(5)).await;
    let (report, code) = stage.report(&["list", "--offline"]).await;
    assert_eq!((code, &report["hub_error"]), (0, &Value::Null));
    let partitions = report["partitions"].as_array().unwrap();
    let ids: Vec<_> = partitions.iter().map(|row| row["partition"].as_str().unwrap()).collect();
    assert_eq!(ids, ["2", "10"]);
    assert_eq!(
        (&partitions[1]["sequence_number"], &partitions[1]["lag_events"]),
        (&json!(7), &Value::Null)
    );

    let faults = stage.broker.faults();
    faults.server_busy(FaultPoint::Management, 100);
    let ended = stage.run(&["list"]).await.expect_code(3);
    assert!(ended.stdout.contains("the lag is not known"), "{ended:#?}");
    let ended = ended.expect_said("the hub cannot be reached, so the lag is not known: ");
    assert_eq!(ended.stdout.lines().filter(|line| line.contains('?')).count(), 2, "{ended:#?}");
    faults.clear_failures();
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_is_named_and_not_made() {
    let stage = Stage::over_a_folder(1).await;
    let folder = stage.folder();
    for arguments in [&["list"][..], &["export"]] {
        let ended = stage.run(arguments).await.expect_code(1);
        let said = format!("there is no folder {}: no worker", folder.display());
        ended.expect_said(&said).expect_said("LONGSHORE_CHECKPOINT_FOLDER");
    }
    assert!(!folder.exists());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_beyond_the_log_or_behind_retention_is_said_loudly() {
    let stage = Stage::over_a_folder(2).await;
    for partition in ["0", "1"] {
        stage.publish(partition, 10).await;
    }
    stage.broker.faults().trim_log("orders", 1, 6).unwrap();
    stage.write("0", &at(50)).await;
    stage.write("1", &at(2)).await;
    let ended = stage.run(&["list"]).await.expect_code(0);
    assert!(ended.stdout.contains("! BEYOND THE END OF THE LOG, which is 9"), "{ended:#?}");
    let removed = "! retention has removed events that were not settled: the log begins at 6, 3";
    assert!(ended.words().contains(removed), "{ended:#?}");
    let (report, _) = stage.report(&["list"]).await;
    assert_eq!(row(&report, "1")["lag_events"], 4);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_in_seconds_is_the_age_of_the_oldest_event_that_waits_or_what_is_known_of_it() {
    const PAUSE: Duration = Duration::from_millis(1_200);
    for stage in [Stage::over_a_container(1).await, Stage::over_a_folder(1).await] {
        stage.publish("0", 5).await;
        assert_eq!(stage.work(5).await.len(), 5);
        let lag = async || {
            let (report, _) = stage.report(&["list"]).await;
            let seconds = |field: &str| row(&report, "0")[field].as_f64();
            (
                seconds("lag_seconds"),
                seconds("lag_seconds_at_least"),
                seconds("lag_seconds_at_most"),
            )
        };
        sleep(PAUSE).await;
        assert_eq!(lag().await, (Some(0.0), None, None), "caught up, however long ago");

        // The last event is the oldest that waits: its age is known, and grows.
        let published = Instant::now();
        stage.publish("0", 1).await;
        let (young, ..) = lag().await;
        assert!(young.unwrap() <= published.elapsed().as_secs_f64(), "{young:?}");
        sleep(PAUSE).await;
        let (older, ..) = lag().await;
        assert!(older.unwrap() >= PAUSE.as_secs_f64(), "{older:?}");

        // Of the first of several, checkpoint and log tell between what it was enqueued.
        stage.publish("0", 2).await;
        let (exact, least, most) = lag().await;
        assert_eq!(exact, None);
        assert!(least.unwrap() < most.unwrap() && most.unwrap() >= 2.0 * PAUSE.as_secs_f64());
        let ended = stage.run(&["list"]).await.expect_code(0);
        assert!(ended.stdout.contains(" s to "), "{ended:#?}");

        // Another SDK keeps no time.
        if let Place::Container(container) = &stage.place {
            let python = [("offset", "4096"), ("sequencenumber", "5")];
            container.put(&format!("{}/0", stage.blobs()), &python).await;
            let (exact, least, most) = lag().await;
            assert!(exact.is_none() && least.is_some() && most.is_none());
            let ended = stage.run(&["list"]).await.expect_code(0);
            assert!(ended.stdout.contains(" s or more"), "{ended:#?}");
        }
        stage.stop().await;
    }
}

/// Events 3 and 6 of ten are held, and what is around them is settled and checkpointed.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_and_the_command_say_the_same_of_what_waits() {
    let stage = Stage::over_a_container(1).await;
    stage.publish("0", 10).await;
    let gate = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&gate);
    let handle = stage
        .worker()
        .event_handler(move |event: Event, _: EventContext| {
            let gate = matches!(event.sequence_number().0, 3 | 6).then(|| Arc::clone(&wait));
            async move {
                if let Some(gate) = gate {
                    gate.acquire().await.unwrap().forget();
                }
            }
        })
        .unwrap()
        .start();
    let runs = async || {
        let stored = stage.read("0").await;
        stored.map_or(0, |stored| stored.settled_above.len())
    };
    while runs().await < 2 {
        sleep(Duration::from_millis(50)).await;
    }
    let snapshot = handle.snapshot().partitions.remove(0);
    let (report, code) = stage.report(&["list"]).await;
    let later = handle.snapshot().partitions.remove(0);
    assert_eq!(code, 0, "{report}");
    let listed = row(&report, "0");
    assert_eq!((snapshot.lag_events, &listed["lag_events"]), (Some(2), &json!(2)), "{report}");
    assert_eq!(listed["settled_events_above"], 5);
    // The command knows the age of the first that waits where all were enqueued in one moment, and
    // else what it lies between.
    let seconds = |field: &str| listed["lag_seconds"].as_f64().or(listed[field].as_f64()).unwrap();
    let (begun, ended) = (snapshot.lag_time.unwrap(), later.lag_time.unwrap());
    assert!(seconds("lag_seconds_at_least") <= ended.as_secs_f64(), "{ended:?} {report}");
    assert!(seconds("lag_seconds_at_most") >= begun.as_secs_f64() - 0.1, "{begun:?} {report}");
    gate.add_permits(2);
    until("all", || handle.snapshot().counts.done == 10).await;
    assert!(within("the drain", drained(handle)).await.is_clean());
    let (report, _) = stage.report(&["list"]).await;
    assert_eq!(
        (&row(&report, "0")["lag_events"], &row(&report, "0")["lag_seconds"]),
        (&json!(0), &json!(0.0))
    );
    stage.stop().await;
}
