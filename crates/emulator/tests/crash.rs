//! A durable broker that is killed while it accepts events.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../../tests/support/waiting.rs"]
mod waiting;

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
use longshore_emulator::Emulator;
use tokio::sync::oneshot;
use waiting::{LIMIT, within};

const HUB: &str = "orders";
const FOLDER: &str = "LONGSHORE_TEST_DATA_DIR";

/// The broker that gets killed: this test binary, started again by the test below.
#[tokio::test]
#[ignore = "started by the other test"]
async fn broker_process() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    // The SDK loses an acknowledgement that comes before the send is registered, on a machine with
    // more work than cores.
    let builder = Emulator::builder().disposition_delay(Duration::from_millis(50));
    let emulator = builder.hub(HUB, 1).data_dir(folder).start().await.unwrap();
    println!("\nlistening {}", emulator.endpoint());
    std::future::pending::<()>().await;
}

/// A broker that does not outlive a test that fails.
struct Broker(Child);

impl Broker {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start_broker(folder: &Path) -> (Broker, String) {
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
    (Broker(child), endpoint)
}

fn no_retries() -> RetryOptions {
    RetryOptions { max_retries: 0, ..RetryOptions::default() }
}

fn connection_string() -> String {
    format!("Endpoint=sb://localhost;SharedAccessKeyName=k;SharedAccessKey=v;EntityPath={HUB}")
}

/// Publishes batches until the broker is gone; gives every name that was acknowledged. Says through
/// `first` that the first batch was.
///
/// The SDK may wait for ever for a broker that is gone, so everything has a limit.
async fn publish_until_killed(
    producer: ProducerClient,
    round: u32,
    first: oneshot::Sender<()>,
) -> Vec<String> {
    let mut first = Some(first);
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
                batch.try_add_event_data(EventData::from(name.clone()), None).ok()?;
            }
            producer.send_batch(batch, None).await.ok()?;
            Some(names)
        };
        let limit = if first.is_some() { LIMIT } else { Duration::from_millis(500) };
        match tokio::time::timeout(limit, sent).await {
            Ok(Some(names)) => acknowledged.extend(names),
            _ => break,
        }
        if let Some(first) = first.take() {
            first.send(()).unwrap();
        }
    }
    acknowledged
}

async fn open_producer(endpoint: String) -> (ProducerClient, Option<SystemTime>) {
    let opened = within("a producer", async {
        let producer = ProducerClient::builder()
            .with_custom_endpoint(endpoint)
            .with_retry_options(no_retries())
            .open_with_connection_string(&connection_string(), None)
            .await
            .unwrap();
        let created = producer.get_eventhub_properties().await.unwrap().created_on;
        (producer, created)
    });
    opened.await
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_events_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    let mut created = HashSet::new();
    for round in 0..4u32 {
        let (mut broker, endpoint) = start_broker(dir.path());
        let (producer, created_on) = open_producer(endpoint).await;
        created.insert(created_on);
        let (first, first_acknowledged) = oneshot::channel();
        let publishing = tokio::spawn(publish_until_killed(producer, round, first));
        first_acknowledged.await.unwrap();
        // As other batches come, somewhere in one.
        tokio::time::sleep(Duration::from_millis(200 + 137 * u64::from(round))).await;
        broker.kill();
        acknowledged.extend(publishing.await.unwrap());
    }
    assert_eq!(created.len(), 1, "{created:?}");
    assert!(acknowledged.len() >= 800, "{}", acknowledged.len());

    let emulator = Emulator::builder().hub(HUB, 1).data_dir(dir.path()).start().await.unwrap();
    let opened = within("a consumer", async {
        let consumer = ConsumerClient::builder()
            .with_custom_endpoint(emulator.endpoint())
            .open_with_connection_string(&connection_string(), None)
            .await
            .unwrap();
        let properties = consumer.get_partition_properties("0").await.unwrap();
        (consumer, properties)
    });
    let (consumer, properties) = opened.await;
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
        let event = within("an event", events.next()).await.unwrap().unwrap();
        assert_eq!(event.sequence_number(), Some(sequence));
        let body = event.event_data().body().unwrap().to_vec();
        stored.insert(String::from_utf8(body).unwrap());
    }
    let lost: Vec<_> = acknowledged.iter().filter(|name| !stored.contains(*name)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    emulator.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_log_file_is_missed_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut broker, endpoint) = start_broker(dir.path());
    let (producer, _) = open_producer(endpoint).await;
    let (first, first_acknowledged) = oneshot::channel();
    let publishing = tokio::spawn(publish_until_killed(producer, 0, first));
    first_acknowledged.await.unwrap();
    broker.kill();
    assert!(!publishing.await.unwrap().is_empty());
    let folder = dir.path().join("hubs").join(HUB).join("0");
    let logs: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    std::fs::remove_dir_all(&folder).unwrap();

    let started = Emulator::builder().hub(HUB, 1).data_dir(dir.path()).start().await;
    let refused = started.unwrap_err().to_string();
    let expected = format!("{} holds events 0 to 0, and held 0 to ", folder.display());
    assert!(refused.starts_with(&expected), "{refused}");
}
