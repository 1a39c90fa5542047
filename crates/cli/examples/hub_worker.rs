//! A worker over a hub: it fetches what the events of `tasks` name, and says so in `results`, until so many
//! files are there. `scripts/compare` measures it beside the worker in Python of docs/migration.md.
//!
//! `cargo run --release --example hub_worker -- CONNECTION-STRING ENDPOINT FOLDER FILES`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use longshore::BatchConsumer;
use longshore::blob_store::folder::FolderBlobStore;
use longshore::checkpoint_store::file::FileCheckpointStore;
use longshore::dead_letter::folder::FolderDeadLetterSink;
use longshore::producer::EntityProducer;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [secret, endpoint, folder, files] = arguments.as_slice() else {
        return Err("hub_worker CONNECTION-STRING ENDPOINT FOLDER FILES".into());
    };
    let files: u64 = files.parse()?;
    let namespace = Namespace::from_connection_string(secret)?.with_custom_endpoint(endpoint)?;
    let results =
        EntityProducer::new(Arc::new(EventHubsPublisher::new(namespace.clone(), "results")));
    let worker = DownloadWorker::new(
        Arc::new(FolderBlobStore::open(folder)?),
        Arc::new(results),
        UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow),
        DownloadLimits::default(),
    )?;
    let state = format!("{folder}.state");
    let checkpoints = FileCheckpointStore::open(format!("{state}/checkpoints"))?;
    let transport = EventHubsTransport::new(namespace, "tasks", "$Default");
    let mut handle = BatchConsumer::builder(transport, checkpoints)
        .dead_letters(FolderDeadLetterSink::open(format!("{state}/dead-letters"))?)
        .max_events_in_flight(10)
        .event_handler(worker)?
        .start();
    while handle.snapshot().counts.done < files {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.drain();
    handle.join().await.into_result()?;
    Ok(())
}
