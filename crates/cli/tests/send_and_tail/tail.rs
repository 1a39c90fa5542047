//! `tail`: where it begins, where it ends, and that nobody notices.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use longshore::hub::LinkStart;
use longshore::transport::event_hubs::EventHubsTransport;
use longshore::transport::{OpenLink, Transport};
use serde_json::json;

use crate::command::{LIMIT, spawned};
use crate::stage::{Stage, bodies, ended, lines};

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn publish(stage: &Stage, partition: &str, range: std::ops::Range<u32>) {
    let bodies = numbers(range);
    stage.bodies(partition, bodies.iter().map(String::as_str)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_ten_are_printed_in_the_order_of_their_time_and_nothing_is_left_behind() {
    let stage = Stage::new(3).await;
    let none = stage.run(&["tail", "--json"]).await.expect_code(0);
    assert_eq!(none.stdout, "");
    none.expect_said("hub orders has no event there");
    publish(&stage, "0", 0..20).await;
    publish(&stage, "1", 20..24).await;
    publish(&stage, "0", 24..27).await;
    let printed = stage.run(&["tail", "--json"]).await.expect_code(0);
    assert_eq!(bodies(&printed), numbers(17..27));
    let line = &lines(&printed)[9];
    assert_eq!(
        (&line["topic"], &line["partition"], &line["sequence_number"]),
        (&json!("orders"), &json!("0"), &json!(22))
    );
    let printed = stage.run(&["tail", "--json", "-n", "5"]).await.expect_code(0);
    assert_eq!(bodies(&printed), numbers(22..27));
    let printed = stage.run(&["tail", "--json", "--partition", "1"]).await.expect_code(0);
    assert_eq!(bodies(&printed), numbers(20..24));
    let text = stage.run(&["tail", "-n", "1"]).await.expect_code(0).stdout;
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["event", "enqueued", "(UTC)", "key", "body"]);
    assert_eq!((rows[1][0], rows[1][3], rows[1][4]), ("0#22", "-", "26"));
    // No folder of checkpoints was made.
    assert_eq!(std::fs::read_dir(stage.dir.path()).unwrap().count(), 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_where_it_begins_in_all_partitions_or_in_one() {
    let stage = Stage::new(2).await;
    publish(&stage, "0", 0..5).await;
    publish(&stage, "1", 10..15).await;
    let time = stage.events("orders", "1").await[4].enqueued_time();
    let later = longshore::timestamp::rfc3339(time + Duration::from_secs(60));
    for (arguments, expected) in [
        (&["--from", "earliest", "--partition", "0"][..], numbers(0..5)),
        (&["--from", "3", "--partition", "0"], numbers(3..5)),
        (&["--from", "1=2"], numbers(12..15)),
        (&["--from", "0=4", "--from", "1=4"], vec!["14".to_owned(), "4".to_owned()]),
        (&["--from", "1=earliest", "-n", "2"], numbers(10..12)),
        (&["--from", "1970-01-02T00:00:00Z", "--partition", "1"], numbers(10..15)),
        (&["--from", &later], vec![]),
        (&["--from", "9"], vec![]),
    ] {
        let printed = stage.run(&[&["tail", "--json"], arguments].concat()).await.expect_code(0);
        let mut found = bodies(&printed);
        // Partitions come in any order.
        if arguments.len() == 4 {
            found.sort();
        }
        let mut expected = expected;
        expected.sort();
        assert_eq!(found, expected, "{arguments:?}");
    }
    for (arguments, code, said) in [
        (&["tail", "--partition", "2"][..], 2, "the hub has no partition 2: it has 2 partitions"),
        (&["tail", "--from", "soon"], 2, "it must be earliest, latest, a time"),
        (&["tail", "-n", "0"], 2, "0"),
        (&["tail", "--hub", "nowhere"], 1, "nowhere"),
    ] {
        stage.run(arguments).await.expect_code(code).expect_said(said);
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_followed_begins_with_what_comes_and_goes_on_through_lost_links() {
    let stage = Stage::new(2).await;
    publish(&stage, "0", 0..5).await;
    let following = stage.start(&["tail", "--follow", "--json", "--count", "6"]);
    following.wait_until_said("following hub orders, 2 partitions, consumer group $Default");
    publish(&stage, "0", 5..7).await;
    publish(&stage, "1", 7..8).await;
    for partition in [0, 1] {
        stage.broker.faults().detach_receivers("orders", Some(partition));
    }
    publish(&stage, "0", 8..11).await;
    let printed = ended(following).await.expect_code(0);
    let mut found: Vec<u32> = bodies(&printed).iter().map(|body| body.parse().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, (5..11).collect::<Vec<u32>>());

    let following = stage.start(&["tail", "--follow", "--json", "--from", "0=3"]);
    following.wait_until_said("following hub orders, 1 partition,");
    following.interrupt();
    ended(following).await.expect_code(0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_a_worker_has_is_named_and_another_group_reads_it() {
    let stage = Stage::new(2).await;
    publish(&stage, "0", 0..3).await;
    publish(&stage, "1", 3..6).await;
    let worker = EventHubsTransport::new(stage.namespace(), "orders", "$Default");
    let open = OpenLink::new("0".into(), LinkStart::FirstEvent, 10).with_owner_level(Some(7));
    let mut link = worker.open(open).await.unwrap();
    let mut events = Vec::new();
    std::future::poll_fn(|cx| link.poll_receive(cx, 10, &mut events)).await.unwrap();
    let printed = stage.run(&["tail", "--json"]).await.expect_code(3);
    assert_eq!(bodies(&printed), numbers(3..6));
    printed.expect_said(
        "partition 0: a worker has it for itself in the consumer group $Default; --group names another",
    );
    let printed = stage.run(&["tail", "--json", "--group", "billing"]).await.expect_code(0);
    assert_eq!(bodies(&printed), numbers(0..6));
    // The worker has it still.
    publish(&stage, "0", 6..7).await;
    while events.last().is_none_or(|event| event.body() != "6") {
        std::future::poll_fn(|cx| link.poll_receive(cx, 10, &mut events)).await.unwrap();
    }
    link.close().await;
    worker.close().await;
    stage.stop().await;
}

/// Reads one line, goes away, and waits until the command has noticed.
async fn read_one_line(stage: &Stage, arguments: &[&str]) {
    let mut command = stage.command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawned(&mut command);
    let mut line = String::new();
    let mut stdout = BufReader::with_capacity(64, child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    drop(stdout);
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            panic!("{arguments:?} does not end");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(0), "{arguments:?}: {said}");
    let said: Vec<&str> = said.lines().filter(|line| !line.contains("following hub")).collect();
    assert_eq!(said, Vec::<&str>::new(), "{arguments:?}");
}

/// Nobody waits for the next event to find out that its reader is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_enough_ends_it_quietly() {
    let stage = Stage::new(1).await;
    publish(&stage, "0", 0..1).await;
    // There is no next event.
    read_one_line(&stage, &["tail", "--from", "earliest", "--follow", "--json"]).await;
    read_one_line(&stage, &["tail", "--from", "earliest", "--follow"]).await;
    // More than a pipe holds.
    let body = "x".repeat(4_000);
    stage.bodies("0", std::iter::repeat_n(body.as_str(), 100)).await;
    read_one_line(&stage, &["tail", "--from", "earliest", "--json"]).await;
    stage.stop().await;
}
