//! Files come, results tell of them, and a signal ends the worker in good order.

use std::time::Duration;

use crate::command::start;
use crate::stage::{KEY, Stage, events};
use crate::web::Answer;

/// At once, on a busy machine. What does not end at once here ends in minutes or never.
const PROMPT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_a_hub_comes_and_has_a_result() {
    let stage = Stage::new().await;
    let files = stage.serve(200);
    stage.publish("tasks", files.keys()).await;
    let worker = stage.start();
    worker.wait_until_said("ready, with 4 partitions");
    stage.until_results(200).await;
    worker.terminate();
    let ended = worker.end_within(PROMPT).expect_code(0);
    stage.expect_all(&files).await;

    let port = stage.broker.local_addr().port();
    for said in [
        format!("longshore: reads topic pending (hub tasks at localhost:{port}), consumer group $Default\n"),
        format!("longshore: files go to files, results to topic done (hub results at localhost:{port}), \
                 dead letters to longshore-state/failures\n"),
        "longshore: checkpoints are in longshore-state/checkpoints, for this worker alone; 10 files at \
         once\n".to_owned(),
    ] {
        assert!(ended.stderr.contains(&said), "{said} is not in {ended:#?}");
    }
    assert!(!format!("{ended:?}").contains(KEY), "{ended:#?}");

    let report = ended.report();
    let bytes: usize = files.values().map(Vec::len).sum();
    assert_eq!((ended.figure("files"), ended.figure("bytes")), (200, bytes as u64));
    assert_eq!((ended.figure("dead_letters"), ended.figure("skipped")), (0, 0));
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or_else(|| panic!("{report}"));
    let (moving, all) = (number(&report["moving_seconds"]), number(&report["seconds"]));
    assert!(moving > 0.0 && moving <= all, "{report}");
    let per_minute = number(&report["files_per_minute"]);
    assert!((per_minute * moving / 60.0 - 200.0).abs() < 1e-6, "{report}");
    let megabytes = number(&report["mb_per_second"]) * moving;
    assert!((megabytes - bytes as f64 / 1e6).abs() < 1e-6, "{report}");
    let times = &report["event_to_file"];
    let (median, p99) = (number(&times["median_seconds"]), number(&times["p99_seconds"]));
    assert!(median > 0.0 && median <= p99, "{report}");
    // The same figures, from the results.
    let mut waited: Vec<f64> = stage
        .results()
        .await
        .values()
        .map(|result| result.since_enqueued().unwrap().as_secs_f64())
        .collect();
    waited.sort_by(f64::total_cmp);
    for (said, exact) in [(median, waited[99]), (p99, waited[197])] {
        assert!(said >= exact * 0.999 && said <= exact.max(0.001) * 1.06, "{said}, not {exact}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_drains_and_the_next_start_goes_on() {
    let stage = Stage::new().await;
    let files = stage.serve(40);
    for (name, body) in &files {
        stage.web.answer(name, [Answer::Held(body.clone())]);
    }
    stage.publish("tasks", files.keys()).await;
    let mut command = stage.command();
    let worker = start(command.env("LONGSHORE_MAX_EVENTS_IN_FLIGHT", "3"));
    stage.web.wait_until_holding(3);
    worker.terminate();
    worker.wait_until_said("finishing 3 files in flight; Ctrl-C again stops at once");
    stage.web.release();
    let ended = worker.end_within(PROMPT).expect_code(0);
    eprintln!("{ended:?}");
    // One whose answer has not arrived yet has not begun, and is put back.
    let finished = ended.figure("files");
    assert!((1..=3).contains(&finished), "{ended:?}");
    assert_eq!(u64::try_from(stage.count("results").await).unwrap(), finished);

    let worker = stage.start();
    stage.until_results(40).await;
    worker.interrupt();
    let ended = worker.end_within(PROMPT).expect_code(0);
    assert_eq!(ended.figure("files"), 40 - finished);
    stage.expect_all(&files).await;
    let put_back = usize::try_from(3 - finished).unwrap();
    assert_eq!(stage.web.all_requests(), 40 + put_back, "none was fetched twice that had begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once_and_the_next_start_goes_on() {
    let stage = Stage::new().await;
    let files = stage.serve(6);
    for (name, body) in &files {
        stage.web.answer(name, [Answer::Held(body.clone())]);
    }
    stage.publish("tasks", files.keys()).await;
    let worker = stage.start();
    stage.web.wait_until_holding(6);
    worker.interrupt();
    worker.wait_until_said("Ctrl-C again stops at once");
    worker.terminate();
    let ended = worker.end_within(PROMPT).expect_code(143);
    assert_eq!(ended.figure("files"), 0);
    stage.web.release();
    let worker = stage.start();
    stage.until_results(6).await;
    worker.terminate();
    worker.end_within(PROMPT).expect_code(0);
    stage.expect_all(&files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_runs_out_of_time_says_so_and_nothing_is_lost() {
    let stage = Stage::new().await;
    let files = stage.serve(2);
    for (name, body) in &files {
        stage.web.answer(name, [Answer::Held(body.clone())]);
    }
    stage.publish("tasks", files.keys()).await;
    let mut command = stage.command();
    let worker = start(command.env("LONGSHORE_DRAIN_TIMEOUT", "200ms"));
    stage.web.wait_until_holding(2);
    worker.terminate();
    let ended = worker.end_within(PROMPT).expect_code(4);
    let ended = ended.expect_said(" handler call").expect_said(" cut");
    let ended = ended.expect_said("the next start does it again");
    assert_eq!(ended.figure("files"), 0);
    stage.web.release();
    let worker = stage.start();
    stage.until_results(2).await;
    worker.terminate();
    worker.end_within(PROMPT).expect_code(0);
    stage.expect_all(&files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_a_dead_letter_where_the_settings_say() {
    let stage = Stage::new().await;
    let files = stage.serve(1);
    let publish = async || {
        let gone = "gone.bin".to_owned();
        stage.publish("tasks", files.keys().chain([&gone])).await;
    };
    // By default in a store beside the checkpoints.
    publish().await;
    let worker = stage.start();
    let written = || {
        let letters = stage.path("longshore-state/failures/dead");
        letters.exists()
            && crate::command::files_below(&letters).iter().any(|it| it.ends_with("json"))
    };
    crate::waiting::until("the dead letter", written).await;
    stage.until_results(1).await;
    worker.terminate();
    let ended = worker.end_within(PROMPT).expect_code(0);
    assert_eq!((ended.figure("files"), ended.figure("dead_letters")), (1, 1));
    let letters = stage.letters("longshore-state/failures").await;
    let record = &letters[0];
    assert_eq!((letters.len(), record.worker.as_str()), (1, "longshore-download"));
    assert_eq!(record.namespace, format!("localhost:{}", stage.broker.local_addr().port()));
    assert!(record.incarnation.0 > 1_700_000_000_000, "{record:?}");
    assert!(record.error.message.contains("task gone.bin"), "{record:?}");

    // Or in a hub.
    stage.configure(
        "[worker.download]\n\
         input = \"pending\"\n\
         results = \"done\"\n\
         dead_letters = \"letters\"\n\
         files = \"files\"\n",
    );
    publish().await;
    let worker = stage.start();
    let letters = events(&stage.broker, "dead-letters", 1).await;
    let message = letters[0].properties()["dl_error_message"].as_text().unwrap();
    assert!(message.contains("task gone.bin"), "{message}");
    stage.until_results(2).await;
    worker.terminate();
    worker
        .end_within(PROMPT)
        .expect_code(0)
        .expect_said("dead letters to topic letters (hub dead-letters");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_not_there_ends_the_worker_with_what_to_do() {
    let stage = Stage::new().await;
    let config = std::fs::read_to_string(stage.path("worker.toml")).unwrap();
    let config = config.replace("entity = \"tasks\"", "entity = \"taskz\"");
    std::fs::write(stage.path("worker.toml"), config).unwrap();
    let ended = stage.start().end_within(PROMPT).expect_code(1);
    let error = ended.report()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("taskz"), "{error}");
    assert!(ended.stderr.contains(&error), "{ended:#?}");
}
