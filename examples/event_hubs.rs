//! Prints the events of an entity of Azure Event Hubs until SIGTERM or Ctrl-C, and remembers its place.
//!
//! ```text
//! EVENTHUB_CONNECTION_STRING='Endpoint=sb://…;EntityPath=orders' cargo run --example event_hubs
//! ```
//!
//! `docs/configuration.md` has all it reads. With `longshore emulator --hub orders:4 --wss-port 8443`
//! set EVENTHUB_CA_FILE as well. Checkpoints and dead letters are in `./longshore-state`, unless
//! LONGSHORE_CHECKPOINT_CONTAINER names a container of Blob Storage: then any number of these share
//! the partitions. `longshore checkpoints list` shows how far they are.

use longshore::settings::Settings;
use longshore::{Event, EventContext, Failure, shutdown_signal};

async fn print(event: Event, _: EventContext) -> Result<(), Failure> {
    let body = String::from_utf8_lossy(event.body());
    println!("{} {}: {body}", event.partition(), event.sequence_number());
    Ok(()) // an Err is retried, then becomes a dead letter
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The connection string may be in Azure Key Vault.
    let settings = Settings::from_process(None)?.fetched().await?;
    for warning in settings.warnings() {
        eprintln!("{warning}");
    }
    // EVENTHUB_ENTITY_PRINT, or EVENTHUB_ENTITY_NAME, or the EntityPath of the connection string.
    let consumer = settings.consumer_of("print")?.event_handler(print)?;
    // It ends by itself where it cannot connect; the error says to what, and what to do.
    consumer.run_until(shutdown_signal()).await?;
    Ok(())
}
