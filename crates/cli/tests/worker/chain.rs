//! Two stages, each with its hub of tasks, over two namespaces: results of the first are tasks of the
//! second, or become such, and its results have the times of both.

use std::fs;

use longshore::OutgoingEvent;
use longshore::transfer::task::{DownloadTask, TransferResult};

use crate::azurite::{ALL, Container};
use crate::command::{files_below, longshore, start};
use crate::stage::{Stage, events, publish, start_broker};
use crate::waiting::within;

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_over_two_namespaces_hands_on_the_times_of_its_stages() {
    let stage = Stage::new().await;
    let second = start_broker().await;
    let string = second.connection_string(None);
    // What a topic is called says nothing of where it is.
    stage.configure(&format!(
        "cached = {{ namespace = \"far-away\", entity = \"results\" }}\n\
         again = {{ namespace = \"far-away\", entity = \"tasks\" }}\n\
         [namespaces.far-away]\n\
         connection_string = \"{string}\"\n\
         [worker.download]\n\
         input = \"pending\"\n\
         results = \"cached\"\n\
         files = \"first\"\n\
         [worker.copy]\n\
         input = \"again\"\n\
         results = \"done\"\n\
         files = \"files\"\n"
    ));
    let files = stage.serve(20);
    stage.publish("tasks", files.keys()).await;
    let first = stage.start();
    let mut command = stage.command();
    command.args(["--worker", "copy"]).env("LONGSHORE_CHECKPOINT_FOLDER", "copy-state/checkpoints");
    let other = start(&mut command);
    // Who makes the next stage's tasks copies the properties.
    let cached = within("the first stage", events(&second, "results", 20)).await;
    let tasks = cached.iter().map(|event| {
        let result: TransferResult = serde_json::from_slice(event.body()).unwrap();
        assert!(result.stages.is_empty() && !result.started_at.is_empty());
        let url = stage.web.url(&result.path).parse().unwrap();
        let path = longshore::blob_store::BlobName::parse(&result.path).unwrap();
        let task = DownloadTask::new(result.id, url, path);
        let mut outgoing = OutgoingEvent::new(task.to_json());
        outgoing.properties = event.properties().clone();
        outgoing
    });
    publish(&second, "tasks", tasks.collect()).await;
    stage.until_results(20).await;
    first.terminate();
    other.terminate();
    let ended = first.end().expect_code(0);
    assert!(ended.report()["first_stage_to_file"].is_null(), "{ended:#?}");
    let ended = other.end().expect_code(0);
    assert_eq!(ended.figure("files"), 20);
    let report = ended.report();
    let median = |of: &str| report[of]["median_seconds"].as_f64().unwrap();
    assert!(median("first_stage_to_file") > median("event_to_file"), "{report}");

    stage.expect_all(&files).await;
    assert_eq!(files_below(&stage.path("first")), files.keys().cloned().collect());
    for (id, result) in stage.results().await {
        let [earlier] = result.stages.as_slice() else { panic!("{result:?}") };
        assert_eq!(earlier.entity, "tasks", "{id}");
        let times = [
            &earlier.enqueued_at,
            &earlier.started_at,
            &earlier.finished_at,
            &result.enqueued_at,
            &result.started_at,
            &result.finished_at,
        ];
        // All are of this machine's clock.
        assert!(times.is_sorted(), "{result:?}");
        assert!(result.since_first_stage() > result.since_enqueued(), "{result:?}");
    }
    assert!(fs::metadata(stage.path("copy-state/failures")).unwrap().is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_through_hubs_of_one_name_in_two_namespaces_into_a_container() {
    let (stage, second, container) =
        (Stage::new().await, start_broker().await, Container::create().await);
    stage.configure(&format!(
        "cached = {{ namespace = \"storage\", entity = \"tasks\" }}\n\
         uploaded = {{ namespace = \"storage\", entity = \"results\" }}\n\
         [namespaces.storage]\n\
         connection_string = \"{}\"\n\
         [worker.download]\n\
         input = \"pending\"\n\
         results = \"cached\"\n\
         files = \"cache\"\n\
         [worker.upload]\n\
         input = \"cached\"\n\
         results = \"uploaded\"\n\
         source = \"cache\"\n\
         files = \"{}\"\n",
        second.connection_string(None),
        container.url(ALL)
    ));
    let files = stage.serve(30);
    stage.publish("tasks", files.keys()).await;
    let download = stage.start();
    let mut command = longshore();
    command.args(["worker", "upload", "--config", "worker.toml", "--report", "json"]);
    command.env("LONGSHORE_CHECKPOINT_FOLDER", "upload-state/checkpoints");
    let upload = start(command.current_dir(stage.dir.path()));
    let uploaded = within("the second stage", events(&second, "results", 30)).await;
    download.terminate();
    upload.terminate();
    download.end().expect_code(0);
    let ended = upload.end().expect_code(0);
    assert_eq!((ended.figure("files"), ended.figure("dead_letters")), (30, 0));
    assert!(ended.report()["first_stage_to_file"]["p99_seconds"].as_f64().unwrap() > 0.0);
    let ended = ended.expect_said("files come from cache\n");
    let ended = ended.expect_said("files go to http://127.0.0.1:");
    assert!(!format!("{ended:?}").contains("sig="), "{ended:#?}");
    for (name, body) in &files {
        assert!(container.content(name).await.as_deref() == Some(&body[..]), "{name}");
    }
    for event in &uploaded {
        let result: TransferResult = serde_json::from_slice(event.body()).unwrap();
        let [earlier] = result.stages.as_slice() else { panic!("{result:?}") };
        let times =
            [&earlier.enqueued_at, &earlier.finished_at, &result.enqueued_at, &result.finished_at];
        assert!(times.is_sorted(), "{result:?}");
        assert!(result.since_first_stage() > result.since_enqueued(), "{result:?}");
    }
}
