//! Prints the events of an entity of Azure Event Hubs until Ctrl-C, and remembers its place.
//!
//! ```text
//! EVENTHUB_CONNECTION_STRING='Endpoint=sb://…' EVENTHUB_ENTITY_NAME=orders \
//!     cargo run --example event_hubs
//! ```
//!
//! `EVENTHUB_CONSUMER_GROUP` is `$Default` unless set. Checkpoints are in `./longshore-state`.

use std::env;
use std::sync::Arc;

use longshore::checkpoint_store::file::FileCheckpointStore;
use longshore::dead_letter::folder::FolderDeadLetterSink;
use longshore::transport::event_hubs::{EventHubsTransport, Namespace};
use longshore::{BatchConsumer, Event, EventContext, Failure};

async fn print(event: Event, _: EventContext) -> Result<(), Failure> {
    let body = String::from_utf8_lossy(event.body());
    println!("{} {}: {body}", event.partition(), event.sequence_number());
    Ok(()) // an Err is retried, then becomes a dead letter
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secret = env::var("EVENTHUB_CONNECTION_STRING")
        .map_err(|_| "set EVENTHUB_CONNECTION_STRING to that of your namespace or entity")?;
    // Over WebSocket, port 443: what firewalls and private endpoints let through.
    let namespace = Namespace::from_connection_string(&secret)?;
    let entity = env::var("EVENTHUB_ENTITY_NAME")
        .ok()
        .or_else(|| namespace.entity_path().map(str::to_owned))
        .ok_or("set EVENTHUB_ENTITY_NAME, or use a connection string with an EntityPath")?;
    let group = env::var("EVENTHUB_CONSUMER_GROUP").unwrap_or_else(|_| "$Default".to_owned());

    let transport = EventHubsTransport::new(namespace, entity, group);
    let checkpoints = FileCheckpointStore::open("longshore-state/checkpoints")?;
    let mut consumer = BatchConsumer::builder(Arc::new(transport), Arc::new(checkpoints))
        .dead_letters(Arc::new(FolderDeadLetterSink::open("longshore-state/dead-letters")?))
        .max_events_in_flight(50)
        .event_handler(print)?
        .start();

    tokio::select! {
        signal = tokio::signal::ctrl_c() => signal?,
        () = consumer.ended() => {} // by itself: the exit says why
    }
    consumer.drain();
    let exit = consumer.join().await;
    if exit.is_clean() { Ok(()) } else { Err(format!("{exit:#?}").into()) }
}
