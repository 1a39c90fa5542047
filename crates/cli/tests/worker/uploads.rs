//! A download worker and an upload worker in a chain: from a web server into a folder, from there into a
//! container, over the hubs of a broker; results of the first are tasks of the second as they stand.

use crate::azurite::{ALL, Container};
use crate::command::{longshore, start};
use crate::stage::{Stage, publish};
use longshore::OutgoingEvent;

const FILES: usize = 40;

fn worker(stage: &Stage, kind: &str, container: &Container) -> std::process::Command {
    let mut command = longshore();
    command.args(["worker", kind, "--config", "worker.toml", "--report", "json"]);
    command
        .current_dir(stage.dir.path())
        .env("LONGSHORE_WORKER_UPLOAD_FILES", container.url(ALL))
        .env("LONGSHORE_CHECKPOINT_FOLDER", format!("{kind}-state/checkpoints"));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_worker_downloads_the_next_one_uploads() {
    let stage = Stage::new().await;
    stage.configure(
        "[worker.download]\n\
         input = \"pending\"\n\
         results = \"others\"\n\
         files = \"cache\"\n\
         [worker.upload]\n\
         input = \"others\"\n\
         results = \"done\"\n\
         source = \"cache\"\n",
    );
    let container = Container::create().await;
    let files = stage.serve(FILES);
    stage.publish("tasks", files.keys()).await;
    // A task of the second stage that no first one made, and whose file is nowhere.
    let alien = OutgoingEvent::new(br#"{"id": "alien", "path": "no/such.bin"}"#.to_vec());
    publish(&stage.broker, "others", vec![alien]).await;
    let downloads = start(&mut worker(&stage, "download", &container));
    let uploads = start(&mut worker(&stage, "upload", &container));
    stage.until_results(FILES).await;
    downloads.terminate();
    uploads.terminate();
    assert_eq!(downloads.end().expect_code(0).figure("files"), FILES as u64);
    let ended = uploads.end().expect_code(0);
    assert_eq!(ended.figure("files"), FILES as u64);
    let report = ended.report();
    let median = |of: &str| report[of]["median_seconds"].as_f64().unwrap();
    assert!(median("first_stage_to_file") > median("event_to_file"), "{report}");
    assert!(!format!("{ended:?}").contains("sig="), "no signature is told");

    for (name, result) in stage.results().await {
        let body = &files[&name];
        assert!(container.content(&result.path).await.as_ref() == Some(body), "{name}");
        assert_eq!((result.bytes, result.stages.len()), (body.len() as u64, 1), "{result:?}");
        assert!(result.crc64.is_some());
    }
    let letters = stage.letters("upload-state/failures").await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let why = format!("{letter:?}");
    assert!(why.contains("task alien: ") && why.contains("there is no such file"), "{why}");
}
