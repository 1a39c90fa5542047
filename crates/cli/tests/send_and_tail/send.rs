//! `send`: what goes where, and what does not go.

use std::fs;

use longshore::event::Value as Amqp;
use serde_json::json;

use crate::command::start_to_write;
use crate::stage::{Stage, ended};

async fn bodies(stage: &Stage, hub: &str, partition: &str) -> Vec<String> {
    let events = stage.events(hub, partition).await;
    events.iter().map(|event| String::from_utf8(event.body().to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_the_command_line_have_what_it_says_of_them() {
    let stage = Stage::new(1).await;
    let arguments = [
        "send",
        "--body",
        "one",
        "--body",
        "-two",
        "--key",
        "k",
        "--property",
        "kind=new",
        "--property",
        "note=a=b",
        "--content-type",
        "text/plain",
    ];
    let sent = stage.run(&arguments).await.expect_code(0);
    assert_eq!(sent.stdout, "2 events sent to hub orders: 2 to partition 0\n");
    let events = stage.events("orders", "0").await;
    for (event, body) in events.iter().zip(["one", "-two"]) {
        assert_eq!((&event.body()[..], event.key()), (body.as_bytes(), Some("k")));
        assert_eq!(event.content_type(), Some("text/plain"));
        assert_eq!(event.properties()["kind"], Amqp::from("new"));
        assert_eq!(event.properties()["note"], Amqp::from("a=b"));
    }
    assert_eq!(events.len(), 2);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_a_file_and_of_stdin_are_bodies_in_their_order() {
    let stage = Stage::new(2).await;
    let text = "first\r\n\nsecond\n{\"not\": \"read\"}\nlast";
    let expected = ["first", "second", "{\"not\": \"read\"}", "last"];
    fs::write(stage.dir.path().join("lines"), text).unwrap();
    let to = ["--partition", "1", "--report", "json"];
    let sent = stage.run(&[&["send", "--from", "lines"], &to[..]].concat()).await.expect_code(0);
    assert_eq!(sent.report()["partitions"], json!({"1": 4}));
    assert_eq!(bodies(&stage, "orders", "1").await, expected);
    for arguments in [&["send", "--hub", "copies"][..], &["send", "--hub", "copies", "--from", "-"]]
    {
        let sent = stage.run_with(&[arguments, &to].concat(), text).await.expect_code(0);
        assert_eq!((sent.figure("sent"), sent.figure("failed")), (4, 0));
    }
    assert_eq!(bodies(&stage, "copies", "1").await, [expected, expected].concat());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_key_are_in_one_partition_in_their_order_and_others_are_dealt_out() {
    const LINES: usize = 2_000;
    let stage = Stage::new(4).await;
    let line = |number: usize| match number % 5 {
        4 => format!("{{\"body_text\": \"{number}\"}}\n"),
        key => format!("{{\"key\": \"key {key}\", \"body_text\": \"{number}\"}}\n"),
    };
    let input: String = (0..LINES).map(line).collect();
    let arguments = ["send", "--json", "--report", "json"];
    let sent = stage.run_with(&arguments, input).await.expect_code(0);
    assert_eq!(sent.figure("sent"), LINES as u64);
    let report = sent.report();
    let mut keys = 0;
    for partition in ["0", "1", "2", "3"] {
        let events = stage.events("orders", partition).await;
        assert_eq!(report["partitions"][partition].as_u64().unwrap_or(0), events.len() as u64);
        for key in ["key 0", "key 1", "key 2", "key 3"] {
            let of_key = events.iter().filter(|event| event.key() == Some(key));
            let numbers: Vec<usize> = of_key
                .map(|event| std::str::from_utf8(event.body()).unwrap().parse().unwrap())
                .collect();
            assert!(numbers.is_sorted(), "{key}: {numbers:?}");
            keys += usize::from(!numbers.is_empty());
        }
        assert!(events.iter().any(|event| event.key().is_none()), "{partition}");
    }
    assert_eq!(keys, 4, "a key is in one partition");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_cannot_be_sent_is_named_and_stops_none_behind_it() {
    let stage = Stage::new(1).await;
    let too_large = format!("{{\"body_text\": \"{}\"}}", "x".repeat(1_200_000));
    let list = "{\"body_text\": \"x\", \"properties\": {\"p\": {\"list\": []}}}";
    let partition = "{\"body_text\": \"x\", \"partition\": \"0\"}";
    let lines = [
        "{\"body_text\": \"a\"}",
        "no JSON",
        "{\"body_text\": \"b\"}",
        "{}",
        &too_large,
        list,
        partition,
        "{\"body_text\": \"c\"}",
    ];
    let dry = ["send", "--json", "--dry-run", "--report", "json"];
    let checked = stage.run_with(&dry, lines.join("\n")).await.expect_code(3);
    assert_eq!((checked.figure("sent"), checked.figure("failed")), (4, 4));
    assert_eq!(
        bodies(&stage, "orders", "0").await,
        Vec::<String>::new(),
        "a dry run sends nothing"
    );
    let sent = stage.run_with(&["send", "--json"], lines.join("\n")).await.expect_code(3);
    assert_eq!(sent.stdout, "3 events sent to hub orders: 3 to partition 0\n");
    assert_eq!(bodies(&stage, "orders", "0").await, ["a", "b", "c"]);
    let sent = sent
        .expect_said("longshore: line 2 is not sent: it is no JSON")
        .expect_said("longshore: line 4 is not sent: it has no body: body_text")
        .expect_said("longshore: line 5 is not sent: ")
        .expect_said("longshore: line 6 is not sent: its property \"p\" is of the type list")
        .expect_said(
            "longshore: line 7 is not sent: its partition says where an event was received",
        );
    assert_eq!(sent.stderr.lines().count(), 5, "{sent:#?}");
    let report = stage.run_with(&["send", "--json", "--report", "json"], lines.join("\n")).await;
    let failed: Vec<u64> = report.report()["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| failure["line"].as_u64().unwrap())
        .collect();
    assert_eq!(failed, [2, 4, 5, 6, 7]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_named_before_anything_is_sent() {
    let mut stage = Stage::new(1).await;
    for (arguments, code, said) in [
        (&["send", "--from", "absent"][..], 1, "absent cannot be read: "),
        (&["send", "--from", "."], 1, ". cannot be read: it is a folder"),
        (&["send", "--body", "x", "--hub", "nowhere"], 1, "the hub nowhere at "),
        (&["send", "--body", "x", "--partition", "7"], 2, "the hub orders has no partition 7"),
        (&["send", "--body", "x", "--from", "y"], 2, "cannot be used with"),
        (&["send", "--body", "x", "--json"], 2, "cannot be used with"),
        (&["send", "--body", "x", "--property", "=v"], 2, "it must be NAME=VALUE"),
        (&["send", "--body", "x", "--hub", "a", "--worker", "b"], 2, "cannot be used with"),
    ] {
        let ended = stage.run(arguments).await.expect_code(code).expect_said(said);
        assert_eq!(ended.stdout, "", "{ended:#?}");
    }
    stage.environment.clear();
    stage
        .run(&["send", "--body", "x"])
        .await
        .expect_code(2)
        .expect_said("EVENTHUB_CONNECTION_STRING");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ctrl_c_sends_what_was_read_and_says_that_work_is_left() {
    let stage = Stage::new(1).await;
    let (running, mut stdin) = start_to_write(&mut stage.command(&["send"]));
    std::io::Write::write_all(&mut stdin, b"one\ntwo\n").unwrap();
    while bodies(&stage, "orders", "0").await.len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    running.interrupt();
    let ended = ended(running).await.expect_code(4);
    assert_eq!(ended.stdout, "2 events sent to hub orders: 2 to partition 0\n");
    ended.expect_said("stopped: lines behind were not read");
    drop(stdin);
    stage.stop().await;
}
