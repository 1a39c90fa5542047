//! `replay`: the job as a user sees it, beside an owner that hands out what it parks.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use longshore::dead_letter::hub::HubDeadLetterSink;
use longshore::dead_letter::store::{LetterBody, StoreDeadLetterSink};
use longshore::dead_letter::{DeadLetter, DeadLetterSink};
use longshore::event::{EventParts, Incarnation, Value as Amqp};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{LinkStart, OpenLink, Transport};
use longshore_emulator::{Emulator, HubOptions};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::broker;
use crate::owner::Owner;
use crate::stage::{Stage, ids, letter, parts, several};

/// Nobody asks the hub, which is none.
const OFFLINE: &[&str] = &["replay", "--offline"];

fn orders(numbers: impl IntoIterator<Item = i64>) -> Vec<DeadLetter> {
    numbers.into_iter().map(|number| letter(parts("orders", number, "x"), "404")).collect()
}

fn once(numbers: impl IntoIterator<Item = i64>) -> Vec<(i64, usize)> {
    numbers.into_iter().map(|number| (number, 1)).collect()
}

/// What somebody does to exported records.
type Edit<'a> = &'a dyn Fn(&mut Vec<Value>);

/// The name of the only job.
fn job_of(stage: &Stage) -> String {
    let jobs = fs::read_dir(stage.dir.path().join("longshore-state/replays")).unwrap();
    let names: Vec<_> = jobs.map(|job| job.unwrap().file_name().into_string().unwrap()).collect();
    let [name] = names.as_slice() else { panic!("{names:?}") };
    name.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_replayed_and_what_failed_again_is_listed() {
    for stage in [Stage::over_a_folder(), Stage::over_a_container().await] {
        stage.write(several()).await;
        let owner = Owner::failing([7]);
        let _owner = owner.start(stage.store());
        let dry = stage.run(&[OFFLINE, &["--all", "--dry-run"]].concat()).await.expect_code(0);
        assert!(dry.stdout.starts_with("7 letters of ") && dry.stdout.contains("to their group"));
        assert_eq!(owner.times(), []);
        let ended = stage.run(&[OFFLINE, &["--all"]].concat()).await.expect_code(3);
        assert!(
            ended.stdout.contains(": 6 of 7 letters done, 1 failed again\n"),
            "{}",
            ended.stdout
        );
        assert!(ended.stdout.contains("failed again\n\nevent"), "{}", ended.stdout);
        assert!(ended.stdout.contains("billing/0#7"), "{}", ended.stdout);
        assert!(ended.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ended.stdout);
        assert_eq!(owner.times(), once(1..=7));
        let left = stage.report(&["list"]).await;
        assert_eq!(ids(&left), [7]);
        let first = &left["letters"][0];
        let job = job_of(&stage);
        assert_eq!((&first["generation"], &first["is_replayed"]), (&json!(1), &json!(false)));
        assert_eq!(first["job"], job.as_str());
        assert_eq!(ids(&stage.report(&["list", "--job", &job]).await), [7]);
        // The journal tells it again.
        let again =
            stage.run(&["replay", "--resume", &job, "--report", "json"]).await.expect_code(3);
        assert_eq!((again.figure("done"), again.figure("failed_again")), (6, 1));
        assert_eq!(again.report()["failed"][0]["reason"], "it failed again");
        assert_eq!(owner.times(), once(1..=7));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_and_one_that_is_run_twice_hand_out_none_twice() {
    let stage = Stage::over_a_folder();
    stage.write(orders(0..60)).await;
    let owner = Owner::failing([]);
    let _owner = owner.start(stage.store());
    let arguments = [OFFLINE, &["--all", "--rate", "40/s"]].concat();
    let running = stage.start("dead-letters", &arguments);
    running.wait_until_said("its file is in");
    sleep(Duration::from_millis(400)).await;
    assert!(running.kill());
    let job = job_of(&stage);
    // The same again shares the letters with the first.
    let (one, two) = (["replay", "--resume", &job], [OFFLINE, &["--all"]].concat());
    let (first, second) = tokio::join!(stage.run(&one), stage.run(&two));
    for ended in [first, second] {
        assert!(matches!(ended.code, Some(0 | 3)), "{ended:#?}");
    }
    assert_eq!(owner.times(), once(0..60));
    stage.run(&["list"]).await.expect_code(0).expect_said("there are no dead letters");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_interrupted_says_how_to_go_on() {
    let stage = Stage::over_a_folder();
    stage.write(orders(0..3)).await;
    // Nobody hands out what it parks.
    let running = stage.start("dead-letters", &[OFFLINE, &["--all"]].concat());
    running.wait_until_said("its file is in");
    running.interrupt();
    let ended = tokio::task::spawn_blocking(move || running.end()).await.unwrap().expect_code(4);
    let job = job_of(&stage);
    let ended = ended.expect_said("stopping: what is being handed out is finished first");
    ended.expect_said(&format!("go on with it: longshore dead-letters replay --resume {job}"));
    let owner = Owner::failing([]);
    let _owner = owner.start(stage.store());
    stage.run(&["replay", "--resume", &job]).await.expect_code(0);
    assert_eq!(owner.times(), once(0..3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_of_ten_that_fails_again_stops_after_ten() {
    let stage = Stage::over_a_folder();
    stage.write(orders(0..100)).await;
    let owner = Owner::failing(0..100);
    let _owner = owner.start(stage.store());
    let arguments = [OFFLINE, &["--all", "--canary", "10", "--report", "json"]].concat();
    let ended = stage.run(&arguments).await.expect_code(3);
    let ended = ended.expect_said("a letter of the canary failed again");
    assert_eq!((ended.figure("failed_again"), ended.figure("waiting")), (10, 90));
    assert_eq!(ended.report()["ended"], "stopped by the canary");
    assert_eq!(owner.times(), once(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_fails_again_stops_the_job() {
    let stage = Stage::over_a_folder();
    stage.write(orders(0..100)).await;
    let owner = Owner::failing(0..100);
    let _owner = owner.start(stage.store());
    let limits = ["--all", "--stop-at", "50%", "--at-once", "20", "--report", "json"];
    let ended = stage.run(&[OFFLINE, &limits].concat()).await.expect_code(3);
    assert_eq!(ended.report()["ended"], "stopped by the share");
    assert!((20..=40).contains(&ended.figure("failed_again")), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_has_is_said_and_left_alone_by_others() {
    let stage = Stage::over_a_folder();
    stage.write(orders(0..2)).await;
    let handed = stage.run(&[OFFLINE, &["--all", "--no-wait"]].concat()).await.expect_code(0);
    handed.expect_said("see what became of them: longshore dead-letters replay --resume");
    let job = job_of(&stage);
    let listed = stage.run(&["list"]).await.expect_code(0).stdout;
    assert!(listed.contains(&format!("replay {job}")), "{listed}");
    let shown = stage.run(&["show", "orders/0#1"]).await.expect_code(0).stdout;
    assert!(shown.contains(&format!("job that replays it: {job}")), "{shown}");
    assert!(shown.contains("replayed since: "), "{shown}");
    let again = stage.run(&[OFFLINE, &["--all", "--report", "json"]].concat()).await.expect_code(3);
    assert_eq!(again.report()["refused"][0]["letters"], 2);
    let again = again.expect_said(&format!("the job {job} replays it; --resume {job} goes on"));
    again.expect_said("nothing is left to replay");
    // Given up on: what no worker has is free again.
    let released = stage.run(&["replay", "--release", &job]).await.expect_code(0);
    released.expect_said("2 letters are still with the workers");
    let dropped = stage.run_of("parked", &["drop", "--job", &job]).await.expect_code(0);
    assert!(dropped.stdout.starts_with("2 events dropped from "), "{}", dropped.stdout);
    let owner = Owner::failing([]);
    let _owner = owner.start(stage.store());
    let resumed = stage.run(&["replay", "--resume", &job, "--report", "json"]).await.expect_code(3);
    assert_eq!((resumed.figure("dropped"), resumed.figure("done")), (2, 0));
    stage.run(&[OFFLINE, &["--all"]].concat()).await.expect_code(0);
    assert_eq!(owner.times(), once(0..2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_file_that_was_edited_is_replayed_in_place_of_its_letters() {
    let stage = Stage::over_a_folder();
    stage.write(orders(0..3)).await;
    let file = stage.dir.path().join("letters.jsonl");
    let shown = file.display().to_string();
    stage.run(&["export", "--to", &shown]).await.expect_code(0);
    let exported = fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> =
        exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let from = [OFFLINE, &["--from", &shown]].concat();
    let with = |edit: Edit<'_>| {
        let mut records = lines.clone();
        edit(&mut records);
        // As an editor lays it out.
        let text: Vec<_> =
            records.iter().map(|it| serde_json::to_string_pretty(it).unwrap()).collect();
        fs::write(&file, text.join("\n")).unwrap();
    };
    let refused: [(&str, Edit<'_>); 5] = [
        ("names no letter: it has no record", &|it| it.clear()),
        ("record 2 of", &|it| it[1]["sequence_number"] = json!(99)),
        ("it names no letter: there is none of", &|it| it[2]["topic"] = json!("elsewhere")),
        ("of the same event as record 1", &|it| it[2] = it[0].clone()),
        ("use a later release", &|it| it[0]["version"] = json!(4)),
    ];
    for (said, edit) in refused {
        with(edit);
        stage.run(&from).await.expect_code(1).expect_said(said);
    }
    fs::write(&file, &exported[..exported.len() - 20]).unwrap();
    stage.run(&from).await.expect_code(1).expect_said("it is cut, or no JSON");
    fs::remove_file(&file).unwrap();
    stage.run(&from).await.expect_code(1).expect_said("letters.jsonl cannot be read");
    assert!(!stage.dir.path().join("longshore-state/replays").exists());

    with(&|it| {
        it.remove(1);
        for record in it {
            record["body_text"] = json!("mended");
        }
    });
    let owner = Owner::failing([2]);
    let _owner = owner.start(stage.store());
    stage.run(&from).await.expect_code(3);
    assert_eq!(owner.times(), once([0, 2]));
    let handed = owner.handed.lock().unwrap().clone();
    assert!(handed.values().flatten().all(|body| body == "mended"), "{handed:?}");
    let originals = stage.dir.path().join("longshore-state/replays").join(job_of(&stage));
    let originals = fs::read_to_string(originals.join("originals.jsonl")).unwrap();
    assert_eq!(originals.matches("\"body_text\":\"x\"").count(), 2, "{originals}");
    assert_eq!(ids(&stage.report(&["list"]).await), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_named_and_stops_no_other() {
    let stage = Stage::over_a_folder();
    stage.write(orders(0..5)).await;
    let sink = StoreDeadLetterSink::new(stage.store()).with_body(LetterBody::Omit);
    sink.write(&letter(parts("orders", 5, "x"), "404")).await.unwrap();
    let file = |number: i64| {
        stage.folder().join(format!(
            "dead/ns.example/orders/1700000000123/%24default/0/0000000000000000000/{number:019}.json"
        ))
    };
    // As an earlier release wrote it, or somebody who edits it leaves it: without checksums.
    let read = |number: i64| {
        let content = fs::read_to_string(file(number)).unwrap();
        let (begin, rest) = content.split_once(",\"record\":").unwrap();
        format!("{begin}{}", &rest[rest.find('}').unwrap()..])
    };
    let content = read(0);
    fs::write(file(0), &content[..content.len() * 2 / 3]).unwrap();
    let later = read(1).replace("\"version\": 3", "\"version\": 4");
    fs::write(file(1), later).unwrap();
    // Its first line is its own, and its record that of another.
    let (own, other) = (read(2), read(3));
    let head = own.lines().next().unwrap();
    let (_, record) = other.split_once('\n').unwrap();
    fs::write(file(2), format!("{head}\n{record}")).unwrap();
    let owner = Owner::failing([]);
    let _owner = owner.start(stage.store());
    let ended = stage.run(&[OFFLINE, &["--all", "--report", "json"]].concat()).await.expect_code(3);
    assert_eq!((ended.figure("done"), ended.figure("skipped")), (2, 3));
    let reasons: Vec<_> = ended.report()["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["reason"].as_str().unwrap().to_owned())
        .collect();
    for (reason, expected) in
        reasons.iter().zip(["cannot be read", "use a later release", "is a copy of"])
    {
        assert!(reason.contains(expected), "{reasons:?}");
    }
    ended.expect_said("its body was left out by the setting of its worker");
    assert_eq!(owner.times(), once([3, 4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_that_says_too_little_or_too_much_is_refused() {
    let stage = Stage::over_a_folder();
    stage.write(orders(0..2)).await;
    for (arguments, said) in [
        (&["replay"][..], "say which ones with a filter"),
        (&["replay", "--all", "--worker", "w"], "leave the other filters out"),
        (&["replay", "--from", "x", "--all"], "--from says which letters"),
        (&["replay", "--resume", "x", "--all"], "say nothing but its name"),
        (&["replay", "--all", "--stop-at", "2"], "it must be a share"),
        (&["replay", "--all", "--rate", "0"], "it must be a number of letters a second"),
        (&["replay", "--all", "--no-wait", "--canary", "1"], "cannot be used with"),
    ] {
        stage.run(arguments).await.expect_code(2).expect_said(said);
    }
    let none = stage.run(&["replay", "--worker", "nobody"]).await.expect_code(0);
    none.expect_said("no letter matches, of 2 letters in ");
    stage
        .run(&["replay", "--resume", "nothing"])
        .await
        .expect_code(1)
        .expect_said("there is no job");
    assert!(!stage.dir.path().join("longshore-state/replays").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_no_worker_of_the_group_would_take_are_not_replayed_to_it() {
    for (name, value) in
        [("LONGSHORE_ORDERING", "per-partition"), ("LONGSHORE_PARK_DELAYS", "none")]
    {
        let mut stage = Stage::over_a_folder();
        stage.write(orders(0..2)).await;
        stage.environment.push((name.to_owned(), value.to_owned()));
        let ended = stage.run(&["replay", "--all", "--offline"]).await.expect_code(1);
        ended.expect_said(&format!("{name} is {value}: such workers take nothing"));
        assert_eq!(ids(&stage.report(&["list"]).await), [0, 1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forbids_to_write_ends_the_run_and_the_job_can_be_gone_on_with() {
    let mut stage = Stage::over_a_container().await;
    stage.write(orders(0..3)).await;
    let is_container = |(key, _): &&mut (String, String)| key == "LONGSHORE_CHECKPOINT_CONTAINER";
    let reads = stage.container.as_ref().unwrap().url("rl");
    let place = &mut stage.environment.iter_mut().find(is_container).unwrap().1;
    let writes = std::mem::replace(place, reads);
    let ended = stage.run(&[OFFLINE, &["--all"]].concat()).await.expect_code(1);
    let job = job_of(&stage);
    ended.expect_said(&format!("go on with it: longshore dead-letters replay --resume {job}"));
    stage.environment.iter_mut().find(is_container).unwrap().1 = writes;
    let owner = Owner::failing([]);
    let _owner = owner.start(stage.store());
    stage.run(&["replay", "--resume", &job]).await.expect_code(0);
    assert_eq!(owner.times(), once(0..3));
    let other = Stage::over_a_folder();
    other.store();
    let jobs = stage.dir.path().join("longshore-state/replays").display().to_string();
    let elsewhere = other.run(&["replay", "--resume", &job, "--jobs", &jobs]).await.expect_code(1);
    elsewhere.expect_said("and the settings name ");
    let absent = other.run(&["replay", "--resume", "none", "--jobs", &jobs]).await.expect_code(1);
    absent.expect_said(&format!("and the latest there are {job}; --jobs"));
}

/// A broker with hubs, and a stage whose settings name it.
async fn with_hubs(hubs: &[&str]) -> (Emulator, Stage, Incarnation) {
    let mut builder = broker::patient();
    for hub in hubs {
        builder = builder.hub_with(HubOptions::new(*hub, 1));
    }
    let broker = builder.start().await.unwrap();
    let string = broker.connection_string(None);
    let mut stage = Stage::over_a_folder();
    stage.environment = vec![("EVENTHUB_CONNECTION_STRING".to_owned(), string.clone())];
    let namespace = Namespace::from_connection_string(&string).unwrap();
    let transport = EventHubsTransport::new(namespace, "orders", "$Default");
    let properties = transport.hub_properties().await.unwrap();
    (broker, stage, properties.incarnation)
}

fn of_hub(number: i64, string: &str, incarnation: Incarnation) -> DeadLetter {
    let namespace = Namespace::from_connection_string(string).unwrap();
    let mut event = parts("orders", number, &format!("body {number}"));
    event.key = Some("k".to_owned());
    event.properties.insert("tries".to_owned(), Amqp::Int(3));
    letter(event, "404").with_origin(namespace.name(), incarnation)
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_hub_that_was_created_anew_are_refused() {
    let (broker, stage, incarnation) = with_hubs(&["orders"]).await;
    let string = broker.connection_string(None);
    stage.write([of_hub(1, &string, incarnation), of_hub(2, &string, Incarnation(1_000))]).await;
    let owner = Owner::failing([]);
    let _owner = owner.start(stage.store());
    let ended = stage.run(&["replay", "--all"]).await.expect_code(3);
    ended.expect_said("the hub orders that was created at 1970-01-01T00:00:01");
    assert_eq!(owner.times(), once([1]));
    let rest = stage.run(&["replay", "--all"]).await.expect_code(3);
    rest.expect_said("nothing is left to replay");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_published_to_another_hub_and_never_into_one_of_dead_letters() {
    let (broker, stage, incarnation) = with_hubs(&["orders", "mended", "failed"]).await;
    let string = broker.connection_string(None);
    stage.write((0..5).map(|number| of_hub(number, &string, incarnation))).await;
    let namespace = || Namespace::from_connection_string(&string).unwrap();
    let sink = HubDeadLetterSink::new(Arc::new(EventHubsPublisher::new(namespace(), "failed")));
    sink.write(&of_hub(9, &string, incarnation)).await.unwrap();
    let refused = stage.run(&["replay", "--all", "--to", "failed"]).await.expect_code(1);
    refused.expect_said("the hub failed holds dead letters");
    stage.run(&["replay", "--all", "--to", "nowhere"]).await.expect_code(1).expect_said("nowhere");
    let ended =
        stage.run(&["replay", "--all", "--to", "mended", "--report", "json"]).await.expect_code(0);
    assert_eq!((ended.figure("done"), ended.report()["to"].clone()), (5, json!("mended")));
    stage.run(&["list"]).await.expect_code(0).expect_said("there are no dead letters");
    let events = received(&namespace(), "mended", 5).await;
    let mut bodies: Vec<_> =
        events.iter().map(|event| String::from_utf8(event.body.to_vec()).unwrap()).collect();
    bodies.sort();
    assert_eq!(bodies, ["body 0", "body 1", "body 2", "body 3", "body 4"]);
    assert!(events.iter().all(|event| event.key.as_deref() == Some("k")));
    assert!(events.iter().all(|event| event.properties["tries"] == Amqp::Int(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_to_hold_dead_letters_is_refused_while_it_is_empty() {
    let (broker, mut stage, incarnation) = with_hubs(&["orders", "failed"]).await;
    let string = broker.connection_string(None);
    stage.write([of_hub(1, &string, incarnation)]).await;
    for (key, value) in [
        ("LONGSHORE_TOPICS_LETTERS_ENTITY", "failed"),
        ("LONGSHORE_WORKER_DOWNLOAD_DEAD_LETTERS", "letters"),
    ] {
        stage.environment.push((key.to_owned(), value.to_owned()));
    }
    for to in ["failed", "FAILED", "letters"] {
        for more in [&[][..], &["--offline"], &["--dry-run"]] {
            let arguments = [&["replay", "--all", "--to", to], more].concat();
            let refused = stage.run(&arguments).await.expect_code(1);
            let refused =
                refused.expect_said(&format!("the hub {to} is where the settings have the worker"));
            assert!(
                refused.stderr.to_ascii_lowercase().contains("the worker download"),
                "{refused:#?}"
            );
        }
    }
    assert!(!stage.dir.path().join("longshore-state/replays").exists(), "no job was made");
    stage.run(&["replay", "--all", "--to", "orders"]).await.expect_code(0);
}

/// The first events of a hub.
async fn received(namespace: &Namespace, hub: &str, count: usize) -> Vec<EventParts> {
    let transport = EventHubsTransport::new(namespace.clone(), hub, "$Default");
    let open = OpenLink::new("0".into(), LinkStart::FirstEvent, 100);
    let mut link = transport.open(open).await.unwrap();
    let mut events = Vec::new();
    while events.len() < count {
        std::future::poll_fn(|cx| link.poll_receive(cx, 100, &mut events)).await.unwrap();
    }
    events
        .into_iter()
        .map(|event| {
            let mut parts = parts(hub, event.sequence_number().0, "");
            parts.body = event.body().clone();
            parts.key = event.key().map(str::to_owned);
            parts.properties = event.properties().clone();
            parts
        })
        .collect()
}
