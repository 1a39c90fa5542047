//! `list`, `group`, `show`, `export`, `purge` and `import`.

use std::fs;
use std::sync::Arc;

use longshore::OutgoingEvent;
use longshore::dead_letter::DeadLetterSink;
use longshore::dead_letter::hub::HubDeadLetterSink;
use longshore::dead_letter::store::{LetterBody, StoreDeadLetterSink};
use longshore::event::{EventParts, MessageProperties, Value as Amqp};
use longshore::transport::event_hubs::{EventHubsPublisher, Namespace};
use longshore::transport::{Publisher, SendTarget};
use longshore_emulator::HubOptions;
use serde_json::{Value, json};

use crate::azurite::{ALL, Container};
use crate::broker;
use crate::stage::{Stage, ids, letter, parts, several};

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_filtered_and_grouped_over_a_folder() {
    listed_filtered_and_grouped(Stage::over_a_folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_filtered_and_grouped_over_a_container() {
    listed_filtered_and_grouped(Stage::over_a_container().await).await;
}

async fn listed_filtered_and_grouped(stage: Stage) {
    stage.write(several()).await;
    let all = stage.report(&["list"]).await;
    assert_eq!(ids(&all), [6, 7, 1, 2, 3, 4, 5]);
    assert_eq!((&all["has_more"], &all["unreadable"]), (&json!(false), &json!(0)));
    let first = &all["letters"][2];
    assert_eq!(first["id"], "ns.example/orders/1700000000123/%24default/0/1");
    assert_eq!(first["reason"], "https://files.example/…: …");
    assert_eq!((&first["attempts"], &first["class"]), (&json!(3), &json!("permanent")));
    let fingerprint = first["fingerprint"].as_str().unwrap();
    for (filter, found) in [
        (&["--fingerprint", fingerprint][..], &[1, 2, 3, 4, 5][..]),
        (&["--reason", "DISK IS"], &[6, 7]),
        (&["--worker", "worker-2"], &[6, 7]),
        (&["--destination", "disk"], &[6, 7]),
        (&["--class", "unknown", "--id", "billing/0#7"], &[7]),
        (&["--entity", "Orders", "--limit", "2"], &[1, 2]),
        (&["--day", "2025-11-24"], &[6, 7, 1, 2, 3, 4, 5]),
        (&["--day", "2025-11-25"], &[]),
        (&["--older-than", "36500d"], &[]),
        (&["--id", "ns.example/orders/1700000000123/%24default/0/3"], &[3]),
    ] {
        let report = stage.report(&[&["list"], filter].concat()).await;
        assert_eq!(ids(&report), found, "{filter:?}");
    }
    let groups = stage.report(&["group"]).await;
    assert_eq!((&groups["letters"], &groups["groups_in_all"]), (&json!(7), &json!(2)));
    assert_eq!(groups["groups"][0]["fingerprint"], fingerprint);
    assert_eq!(
        (&groups["groups"][0]["letters"], &groups["groups"][1]["letters"]),
        (&json!(5), &json!(2))
    );
    for by in ["reason", "worker", "destination", "class", "entity"] {
        let groups = stage.report(&["group", "--by", by]).await;
        let counts: Vec<_> =
            groups["groups"].as_array().unwrap().iter().map(|group| &group["letters"]).collect();
        assert_eq!(counts, [5, 2], "{by}");
    }
    let days = stage.report(&["group", "--by", "day"]).await;
    assert_eq!(days["groups"][0]["day"], "2025-11-24");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_fit_eighty_columns_and_nothing_that_matches_is_said() {
    let stage = Stage::over_a_folder();
    let long = format!("\u{1b}[2J{}", "a long story, ".repeat(40));
    stage.write(several()).await;
    stage.write([letter(parts("orders", 9, ""), &long)]).await;
    for arguments in [&["list"][..], &["group"], &["group", "--by", "reason"]] {
        let shown = stage.run(arguments).await.expect_code(0);
        assert!(shown.stdout.lines().all(|line| line.chars().count() <= 80), "{}", shown.stdout);
        assert!(shown.stdout.contains("\\u{1b}[…J"), "{}", shown.stdout);
    }
    let limited = stage.run(&["list", "--limit", "3"]).await.expect_code(0);
    limited.expect_said("there are more than these 3 letters");
    let ids = stage.run(&["list", "--ids", "--worker", "worker-2"]).await.expect_code(0);
    assert_eq!(
        ids.stdout,
        "ns.example/billing/1700000000123/%24default/0/6\n\
         ns.example/billing/1700000000123/%24default/0/7\n"
    );
    for command in [&["list"][..], &["group"], &["export"], &["purge"]] {
        let none = stage.run(&[command, &["--worker", "nobody"]].concat()).await.expect_code(0);
        assert_eq!(none.stdout, "", "{command:?}");
        none.expect_said("no letter matches, of 8 letters in ");
    }
    let empty = Stage::over_a_folder();
    empty.run(&["list"]).await.expect_code(1).expect_said("there is no folder ");
    empty.store();
    empty.run(&["list"]).await.expect_code(0).expect_said("there are no dead letters in ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_shown_with_headers_body_chain_and_life() {
    let stage = Stage::over_a_folder();
    let mut event = parts("orders", 17, "{\"url\":\"https://h/a?kept=1\",\n\"n\":[1]}");
    event.key = Some("k\u{1b}[2J".to_owned());
    event.properties.insert("Authorization".to_owned(), Amqp::from("Bearer x.c4nary.Y"));
    event.properties.insert("tries".to_owned(), Amqp::Int(3));
    let mut message = MessageProperties::default();
    message.message_id = Some("m-1".into());
    event.set_message(message);
    let mut first = letter(event, "could not fetch");
    first.failure.causes = vec!["https://h/a?sig=c4nary: 404".to_owned(), "not found".to_owned()];
    first.destination = Some("h".to_owned());
    let binary =
        letter(EventParts { body: vec![0, 0xff, b'a'].into(), ..parts("orders", 18, "") }, "bad");
    stage.write([first, binary]).await;
    let shown = stage.run(&["show", "orders/0#17"]).await.expect_code(0).stdout;
    for line in [
        "id: ns.example/orders/1700000000123/%24default/0/17",
        "hub: orders at ns.example",
        "partition key: k\\u{1b}[2J",
        "message id: m-1",
        "property Authorization: Bearer (hidden)",
        "property tries: {\"int\":3}",
        "class: permanent",
        "failure: could not fetch",
        "  caused by: https://h/a…: 404",
        "  caused by: not found",
        "destination: h",
        "life: 3 attempts",
        "given up by: worker-1",
        "    \"url\": \"https://h/a?kept=1\"",
    ] {
        assert!(
            shown.lines().any(|shown| shown.trim_end_matches(',') == line),
            "{line} in\n{shown}"
        );
    }
    let id = "ns.example/orders/1700000000123/%24default/0/18";
    for (form, expected) in [
        ("auto", "  00000000  00 ff 61                                         ..a"),
        ("hex", "  00000000  00 ff 61                                         ..a"),
        ("text", "  \\u{0}\u{fffd}a"),
    ] {
        let shown = stage.run(&["show", id, "--body", form]).await.expect_code(0).stdout;
        assert!(shown.contains(expected), "{expected} in\n{shown}");
    }
    let record = stage.run(&["show", id, "--report", "json"]).await.expect_code(0).report();
    assert_eq!((&record["version"], &record["body_base64"]), (&json!(3), &json!("AP9h")));
    stage.run(&["show", "orders/0#99"]).await.expect_code(1).expect_said("there is no letter");
    stage.run(&["show", "17"]).await.expect_code(1).expect_said("an id reads NAMESPACE/HUB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_damaged_is_named_and_can_be_purged() {
    let stage = Stage::over_a_folder();
    stage.write(several()).await;
    let file = stage.folder().join(
        "dead/ns.example/orders/1700000000123/%24default/0/0000000000000000000/0000000000000000003.json",
    );
    let content = fs::read(&file).unwrap();
    fs::write(&file, &content[..content.len() * 2 / 3]).unwrap();
    assert_eq!(ids(&stage.report(&["list"]).await).len(), 7);
    let shown = stage.run(&["show", "orders/0#3"]).await.expect_code(1);
    shown.expect_said("/3 is damaged: it is not what was written; repair it, or delete it");
    let exported = stage.run(&["export"]).await.expect_code(3);
    assert_eq!(exported.stdout.lines().count(), 6);
    let purged = stage.report(&["purge", "--id", "orders/0#3"]).await;
    assert_eq!(purged["deleted"], 1);
    stage.run(&["export"]).await.expect_code(0);
    // One bit of the body: it is still a record.
    let mut flipped = content;
    let body = flipped.windows(11).position(|part| part == b"\"body_text\"").unwrap();
    flipped[body + 14] ^= 1;
    fs::write(&file, &flipped).unwrap();
    for command in [&["show", "orders/0#3"][..], &["export"]] {
        let said = stage.run(command).await;
        assert!(said.code != Some(0), "{said:?}");
        assert!(!said.stdout.contains("/0/3"), "{said:?}");
        said.expect_said("/3 is damaged: it is not what was written");
    }
    let replay = ["replay", "--offline", "--id", "orders/0#3", "--report", "json"];
    let replayed = stage.run(&replay).await.expect_code(3);
    assert_eq!((replayed.figure("done"), replayed.figure("skipped")), (0, 1));
    assert!(replayed.words().contains("is damaged: it is not what was written"), "{replayed:?}");
    fs::write(&file, "not ours").unwrap();
    let listed = stage.run(&["list"]).await.expect_code(3);
    listed.expect_said("0000000000000000003.json is no failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_exported_and_purged() {
    for stage in [Stage::over_a_folder(), Stage::over_a_container().await] {
        stage.write(several()).await;
        let to = stage.dir.path().join("letters.jsonl");
        let shown = to.display().to_string();
        let arguments = ["export", "--entity", "billing", "--to", &shown];
        let ended = stage.run(&arguments).await.expect_code(0);
        assert_eq!(ended.stdout, format!("2 letters written to {shown}\n"));
        let lines = fs::read_to_string(&to).unwrap();
        let bodies: Vec<_> = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["body_text"].clone())
            .collect();
        assert_eq!(bodies, ["{\"a\":1}", "{\"a\":1}"]);
        stage.run(&arguments).await.expect_code(1).expect_said("letters.jsonl cannot be written");

        stage.run(&["purge"]).await.expect_code(2).expect_said("say which ones with a filter");
        stage.run(&["purge", "--all", "--day", "2025-11-24"]).await.expect_code(2);
        let dry = stage.report(&["purge", "--all", "--dry-run"]).await;
        assert_eq!((&dry["matching"], &dry["deleted"]), (&json!(7), &json!(0)));
        let purged = stage.report(&["purge", "--older-than", "1d", "--worker", "worker-2"]).await;
        assert_eq!((&purged["matching"], &purged["deleted"]), (&json!(2), &json!(2)));
        assert_eq!(ids(&stage.report(&["list"]).await), [1, 2, 3, 4, 5]);
        assert_eq!(stage.report(&["purge", "--all"]).await["deleted"], 5);
        assert_eq!(ids(&stage.report(&["list"]).await), [0; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_without_its_body_says_so() {
    let stage = Stage::over_a_folder();
    let sink = StoreDeadLetterSink::new(stage.store()).with_body(LetterBody::Omit);
    sink.write(&letter(parts("orders", 1, "c4nary"), "404")).await.unwrap();
    let listed = stage.report(&["list"]).await;
    assert_eq!(listed["letters"][0]["body_omitted"], true);
    let shown = stage.run(&["show", "orders/0#1"]).await.expect_code(0).stdout;
    assert!(shown.contains("its body was left out by the setting of its worker"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_used_is_named_without_its_secret() {
    let mut stage = Stage::over_a_container().await;
    let url = Container::absent().url(ALL);
    stage.environment.retain(|(key, _)| key != "LONGSHORE_CHECKPOINT_CONTAINER");
    stage.environment.push(("LONGSHORE_FAILURES".to_owned(), url));
    stage.run(&["list"]).await.expect_code(1).expect_said("does not exist; create it");
    stage.environment.pop();
    let file = stage.dir.path().join("taken");
    fs::write(&file, "").unwrap();
    stage.environment.push(("LONGSHORE_FAILURES".to_owned(), file.display().to_string()));
    stage.run(&["list"]).await.expect_code(2).expect_said("it must be a folder, and is a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_hub_are_brought_into_the_store_once() {
    let hub = HubOptions::new("letters", 2);
    let broker = broker::patient().hub_with(hub).start().await.unwrap();
    let string = broker.connection_string(None);
    let namespace = Namespace::from_connection_string(&string).unwrap();
    let publisher = EventHubsPublisher::new(namespace, "letters");
    let sink = HubDeadLetterSink::new(Arc::new(publisher));
    for letter in several() {
        sink.write(&letter).await.unwrap();
    }
    let alien = OutgoingEvent::new("not a letter");
    let publisher =
        EventHubsPublisher::new(Namespace::from_connection_string(&string).unwrap(), "letters");
    publisher.send(SendTarget::Any, alien).await.unwrap();

    let mut stage = Stage::over_a_folder();
    stage.environment = vec![("EVENTHUB_CONNECTION_STRING".to_owned(), string)];
    let import = ["import", "--hub", "letters", "--report", "json"];
    let dry = stage.run(&[&import[..], &["--dry-run"]].concat()).await.expect_code(3);
    assert_eq!((dry.figure("imported"), dry.figure("unreadable")), (7, 1));
    let first = stage.run(&import).await.expect_code(3).expect_said("1 event could not be read");
    assert_eq!((first.figure("imported"), first.figure("there_already")), (7, 0));
    let again = stage.run(&import).await.expect_code(3);
    assert_eq!((again.figure("imported"), again.figure("there_already")), (0, 7));
    let mut listed = ids(&stage.report(&["list"]).await);
    listed.sort_unstable();
    assert_eq!(listed, [1, 2, 3, 4, 5, 6, 7]);
    let id = "ns.example/orders/1700000000123/%24default/0/1";
    stage.run(&["show", id]).await.expect_code(0);
    stage.run(&["import", "--hub", "nowhere"]).await.expect_code(1);
}
