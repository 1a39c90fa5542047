//! What a test does with a broker of its own: it starts one, lets a fault happen to the client, and
//! looks at what arrived.
//!
//! `cargo run -p longshore-emulator --example fault`

use std::error::Error;
use std::time::Duration;

use azure_messaging_eventhubs::models::EventData;
use azure_messaging_eventhubs::{
    ConsumerClient, OpenReceiverOptions, ProducerClient, RetryOptions, SendEventOptions,
    StartLocation, StartPosition,
};
use futures::StreamExt;
use longshore_emulator::{Emulator, FaultPoint};

/// Nothing here takes as long.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tokio::time::timeout(LIMIT, run()).await?
}

async fn run() -> Result<(), Box<dyn Error>> {
    // A free port of the loopback; events are in memory.
    let emulator = Emulator::builder().hub("orders", 1).start().await?;

    // The next two sends are refused as by a service that has too much to do.
    emulator.faults().server_busy(FaultPoint::Send, 2);
    let mut refused = 0;
    // A client that was refused is let go: its next send may hang.
    while let Err(error) = send(&emulator, "an order").await {
        refused += 1;
        println!("refused: {error}");
    }
    assert_eq!((refused, emulator.faults().pending_failures(FaultPoint::Send)), (2, 0));

    // It arrived once, though it was sent three times.
    let consumer = ConsumerClient::builder()
        .with_custom_endpoint(emulator.endpoint())
        .open_with_connection_string(&emulator.connection_string(Some("orders")), None)
        .await?;
    let properties = consumer.get_partition_properties("0").await?;
    assert_eq!(properties.last_enqueued_sequence_number, 0);
    let earliest = StartPosition { location: StartLocation::Earliest, ..StartPosition::default() };
    let options =
        OpenReceiverOptions { start_position: Some(earliest), ..OpenReceiverOptions::default() };
    let receiver = consumer.open_receiver_on_partition("0".to_owned(), Some(options)).await?;
    let event = receiver.stream_events().next().await.ok_or("the stream ended")??;
    let body = event.event_data().body().unwrap_or_default();
    println!("received: {}", String::from_utf8_lossy(body));
    assert_eq!(body, b"an order");

    emulator.shutdown().await?;
    Ok(())
}

/// Sends one event with a client of its own, which tries once.
async fn send(emulator: &Emulator, text: &str) -> Result<(), Box<dyn Error>> {
    let producer = ProducerClient::builder()
        .with_custom_endpoint(emulator.endpoint())
        .with_retry_options(RetryOptions { max_retries: 0, ..RetryOptions::default() })
        .open_with_connection_string(&emulator.connection_string(Some("orders")), None)
        .await?;
    let event = EventData::builder().with_body(text.as_bytes().to_vec()).build();
    let options = SendEventOptions { partition_id: Some("0".to_owned()) };
    Ok(producer.send_event(event, Some(options)).await?)
}
