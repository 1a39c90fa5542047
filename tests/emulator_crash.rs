//! A durable broker that is killed while it accepts events.
#![cfg(all(feature = "emulator", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use azure_messaging_eventhubs::models::EventData;
use azure_messaging_eventhubs::{
    ConsumerClient, EventDataBatchOptions, OpenReceiverOptions, ProducerClient, RetryOptions,
    StartLocation, StartPosition,
};
use futures::StreamExt;
use longshore::emulator::Emulator;

const HUB: &str = "orders";
const FOLDER: &str = "LONGSHORE_TEST_DATA_DIR";
const LIMIT: Duration = Duration::from_secs(10);

/// The broker that gets killed: this test binary, started again by the test below.
#[tokio::test]
#[ignore = "started by the other test"]
async fn broker_process() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let emulator = Emulator::builder().hub(HUB, 1).data_dir(folder).start().await.unwrap();
    println!("\nlistening {}", emulator.endpoint());
    std::future::pending::<()>().await;
}

fn start_broker(folder: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "broker_process", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let endpoint = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("listening ").map(str::to_owned))
        .expect("the broker says where it listens");
    (child, endpoint)
}

fn no_retries() -> RetryOptions {
    RetryOptions { max_retries: 0, ..RetryOptions::default() }
}

fn connection_string() -> String {
    format!("Endpoint=sb://localhost;SharedAccessKeyName=k;SharedAccessKey=v;EntityPath={HUB}")
}

/// Publishes batches until the broker is gone; gives every name that was acknowledged.
async fn publish_until_killed(endpoint: String, round: u32) -> (Vec<String>, Option<SystemTime>) {
    let producer = ProducerClient::builder()
        .with_custom_endpoint(endpoint)
        .with_retry_options(no_retries())
        .open_with_connection_string(&connection_string(), None)
        .await
        .unwrap();
    let created = producer.get_eventhub_properties().await.unwrap().created_on;
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let sent = async {
            let options = EventDataBatchOptions {
                partition_id: Some("0".into()),
                ..EventDataBatchOptions::default()
            };
            let batch = producer.create_batch(Some(options)).await.ok()?;
            let names: Vec<_> = (0..200).map(|event| format!("{round}/{number}/{event}")).collect();
            for name in &names {
                let event = EventData::from(name.clone());
                batch.try_add_event_data(event, None).ok()?;
            }
            producer.send_batch(batch, None).await.ok()?;
            Some(names)
        };
        match tokio::time::timeout(Duration::from_millis(500), sent).await {
            Ok(Some(names)) => acknowledged.extend(names),
            _ => break,
        }
    }
    (acknowledged, created)
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    let mut created = HashSet::new();
    for round in 0..4u32 {
        let (mut child, endpoint) = start_broker(dir.path());
        let publishing = tokio::spawn(publish_until_killed(endpoint, round));
        tokio::time::sleep(Duration::from_millis(150 + 37 * u64::from(round))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let (names, created_on) = publishing.await.unwrap();
        acknowledged.extend(names);
        created.insert(created_on);
    }
    assert_eq!(created.len(), 1, "{created:?}");
    assert!(acknowledged.len() >= 400, "{}", acknowledged.len());

    let emulator = Emulator::builder().hub(HUB, 1).data_dir(dir.path()).start().await.unwrap();
    let consumer = ConsumerClient::builder()
        .with_custom_endpoint(emulator.endpoint())
        .open_with_connection_string(&connection_string(), None)
        .await
        .unwrap();
    let properties = consumer.get_partition_properties("0").await.unwrap();
    let receiver = consumer
        .open_receiver_on_partition(
            "0".into(),
            Some(OpenReceiverOptions {
                start_position: Some(StartPosition {
                    location: StartLocation::Earliest,
                    inclusive: false,
                }),
                ..OpenReceiverOptions::default()
            }),
        )
        .await
        .unwrap();
    let mut events = receiver.stream_events();
    let mut stored = HashSet::new();
    for sequence in 0..=properties.last_enqueued_sequence_number {
        let event = tokio::time::timeout(LIMIT, events.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(event.sequence_number(), Some(sequence));
        let body = event.event_data().body().unwrap().to_vec();
        stored.insert(String::from_utf8(body).unwrap());
    }
    let lost: Vec<_> = acknowledged.iter().filter(|name| !stored.contains(*name)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    emulator.shutdown().await.unwrap();
}
