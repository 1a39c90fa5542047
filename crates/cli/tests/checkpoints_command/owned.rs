//! A partition whose owner is alive is left alone, unless it is forced.

use std::future::poll_fn;

use longshore::transport::event_hubs::{EventHubsTransport, Namespace};
use longshore::transport::{LinkStart, OpenLink, Transport};
use tokio::time::sleep;

use crate::stage::{EXPIRED, Stage, at, foreign, row, worker};

#[tokio::test(flavor = "multi_thread")]
async fn a_live_owner_is_named_and_its_partition_refused() {
    let mut stage = Stage::over_a_container(5).await;
    for partition in ["0", "1", "2", "3", "4"] {
        stage.publish(partition, 10).await;
        stage.write(partition, &at(9)).await;
    }
    stage.own("0", worker("loader-1")).await;
    stage.own("1", worker("loader-2")).await;
    stage.own("2", foreign("python-1")).await;
    for owner in ["loader-1", "loader-2"] {
        stage.beat(owner).await;
    }
    let (report, code) = stage.report(&["reset", "--all", "--to", "earliest"]).await;
    assert_eq!(code, 3, "{report}");
    let outcome = |partition| row(&report, partition)["outcome"].as_str().unwrap().to_owned();
    let outcomes = ["0", "1", "2", "3", "4"].map(outcome);
    assert_eq!(outcomes, ["refused", "refused", "refused", "written", "written"], "{report}");
    for (partition, name) in
        [("0", "worker loader-1 (heartbeat "), ("2", "foreign python-1 (renewed ")]
    {
        let reason = row(&report, partition)["reason"].as_str().unwrap();
        assert!(reason.contains(name) && reason.contains("--force"), "{reason}");
        assert_eq!(stage.settled_to(partition).await, Some(9));
    }
    assert_eq!(stage.settled_to("4").await, Some(-1));

    // Nobody lives for ever.
    sleep(EXPIRED).await;
    stage.set("LONGSHORE_HEARTBEAT_INTERVAL", "100ms");
    stage.set("LONGSHORE_LOOK_INTERVAL", "100ms");
    stage.set("LONGSHORE_LEASE_EXPIRY", "1s");
    let set = ["set", "--sequence", "2", "--partition"];
    stage.run(&[&set[..], &["1"]].concat()).await.expect_code(0);
    stage.run(&[&set[..], &["2"]].concat()).await.expect_code(3);
    stage.set("LONGSHORE_FOREIGN_LEASE_EXPIRY", "1s");
    stage.run(&[&set[..], &["2"]].concat()).await.expect_code(0);
    let ended = stage.run(&["list"]).await.expect_code(0);
    assert_eq!(ended.stdout.matches("EXPIRED").count(), 3, "{ended:#?}");

    for key in ["LONGSHORE_LEASE_EXPIRY", "LONGSHORE_FOREIGN_LEASE_EXPIRY"] {
        stage.set(key, "1h");
    }
    let arguments = ["reset", "--partition", "0", "--partition", "2", "--to", "5", "--force"];
    let ended = stage.run(&arguments).await.expect_code(0);
    assert!(ended.stdout.contains("! worker loader-1") && ended.stdout.contains("! foreign"));
    for partition in ["0", "2"] {
        let stored = stage.read(partition).await.unwrap();
        assert!(stored.reset_generation > 0);
        assert_eq!(stage.settled_to(partition).await, Some(4));
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_cannot_be_looked_for_behind_a_worker_that_has_the_log() {
    let stage = Stage::over_a_container(1).await;
    stage.publish("0", 10).await;
    let namespace =
        Namespace::from_connection_string(&stage.broker.connection_string(None)).unwrap();
    let transport = EventHubsTransport::new(namespace, "orders", "$Default");
    let open = OpenLink::new("0".into(), LinkStart::FirstEvent, 1).with_owner_level(Some(1));
    let mut link = transport.open(open).await.unwrap();
    // Once it has an event, it is attached.
    let mut events = Vec::new();
    poll_fn(|cx| link.poll_receive(cx, 1, &mut events)).await.unwrap();
    let time = "2020-01-01T00:00:00Z";
    let ended = stage.run(&["reset", "--all", "--force", "--to", time]).await.expect_code(3);
    assert!(ended.stdout.contains("REFUSED: a worker has the log for itself"), "{ended:#?}");
    // A number needs no search, only its offset does; the log tells that of its ends.
    for (sequence, offset) in
        [("3", None), ("-1", Some("-1")), ("9", Some(&*stage.last_offset("0").await))]
    {
        let ended = stage.run(&["set", "--partition", "0", "--sequence", sequence]).await;
        let ended = ended.expect_code(0);
        let is_told =
            ended.stdout.contains("its offset is not known (a worker has the log for itself)");
        assert_eq!(is_told, offset.is_none(), "{ended:#?}");
        let position = stage.read("0").await.unwrap().watermark.unwrap();
        assert_eq!(position.offset.as_ref().map(|offset| offset.as_str()), offset);
    }
    link.close().await;
    stage.run(&["reset", "--all", "--to", time]).await.expect_code(0);
    assert_eq!(stage.settled_to("0").await, Some(-1));
    stage.stop().await;
}
