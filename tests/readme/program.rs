use std::sync::Arc;
use longshore::checkpoint_store::file::FileCheckpointStore;
use longshore::dead_letter::folder::FolderDeadLetterSink;
use longshore::transport::event_hubs::{EventHubsTransport, Namespace};
use longshore::{BatchConsumer, Event, EventContext, Failure};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secret = std::env::var("EVENTHUB_CONNECTION_STRING")?;
    let namespace = Namespace::from_connection_string(&secret)?;
    let transport = EventHubsTransport::new(namespace, "orders", "$Default");
    let checkpoints = FileCheckpointStore::open("state/checkpoints")?;
    let exit = BatchConsumer::builder(Arc::new(transport), Arc::new(checkpoints))
        .dead_letters(Arc::new(FolderDeadLetterSink::open("state/dead-letters")?))
        .max_events_in_flight(50)
        .event_handler(|event: Event, _: EventContext| async move {
            println!("{} bytes", event.body().len());
            Ok::<(), Failure>(()) // an Err is retried, then becomes a dead letter
        })?
        .run_until(tokio::signal::ctrl_c())
        .await
        .into_result()?; // an Err says what it could not connect to, or what it left undone
    println!("{:?}", exit.counts);
    Ok(())
}
