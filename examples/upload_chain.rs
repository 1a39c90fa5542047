//! Two workers, one behind the other: files from a web server into a cache, and from there into a store.
//! The results of the first are the tasks of the second. Here both are folders, and everything is in this
//! process; with `ContainerBlobStore` the second one is a container of Azure Blob Storage.
//!
//! `cargo run --example upload_chain --features transfer`

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use longshore::blob_store::BlobName;
use longshore::blob_store::folder::FolderBlobStore;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::producer::EntityProducer;
use longshore::transfer::download::DownloadWorker;
use longshore::transfer::limits::DownloadLimits;
use longshore::transfer::task::DownloadTask;
use longshore::transfer::upload::UploadWorker;
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, ConsumerHandle, Event, EventContext, EventHandler, OutgoingEvent};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = serve()?;
    let (cache, archive) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let [pending, cached, uploaded] =
        ["downloads-pending", "downloads-cached", "uploaded"].map(|name| MemoryHub::new(name, 2));
    let producer = |hub: &MemoryHub| Arc::new(EntityProducer::new(Arc::new(hub.publisher())));

    let names = ["photos/cat.txt", "photos/dog.txt", "letters/a.txt"];
    for (partition, name) in (0..2).cycle().zip(names) {
        let url = format!("http://{server}/{name}").parse()?;
        let task = DownloadTask::new(name, url, BlobName::parse(name)?);
        pending.publish(partition, OutgoingEvent::new(task.to_json()));
    }

    let files = Arc::new(FolderBlobStore::open(cache.path())?);
    let download = DownloadWorker::new(
        files.clone(),
        producer(&cached),
        // Loopback is refused otherwise: tasks come from outside.
        UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow),
        DownloadLimits::default(),
    )?;
    let store = Arc::new(FolderBlobStore::open(archive.path())?);
    let upload = UploadWorker::new(files, store, producer(&uploaded), DownloadLimits::default());

    let (sender, mut results) = mpsc::unbounded_channel();
    let stages = [
        start(&pending, download)?,
        start(&cached, upload)?,
        start(&uploaded, move |event: Event, _: EventContext| {
            let seen = sender.send(event);
            async move { seen.map_err(|gone| longshore::Failure::permanent(gone.to_string())) }
        })?,
    ];
    for _ in names {
        if let Some(result) = results.recv().await {
            println!("{}", String::from_utf8_lossy(result.body()));
        }
    }
    for mut stage in stages {
        stage.drain();
        stage.join().await.into_result()?;
    }
    for name in names {
        println!("{name}: {} bytes", std::fs::metadata(archive.path().join(name))?.len());
    }
    Ok(())
}

/// Handles the events of a hub, ten at once.
fn start(
    hub: &MemoryHub,
    handler: impl EventHandler,
) -> Result<ConsumerHandle, Box<dyn std::error::Error>> {
    let consumer = BatchConsumer::builder(hub.transport("$Default"), MemoryCheckpointStore::new())
        .dead_letters(MemoryDeadLetterSink::new())
        .max_events_in_flight(10)
        .event_handler(handler)?;
    Ok(consumer.start())
}

/// Answers every request with a few lines of text, in a thread of its own.
fn serve() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut request = BufReader::new(&connection).lines().map_while(Result::ok);
            let path = request.next().unwrap_or_default();
            request.find(String::is_empty); // the end of the headers
            let body = format!("you asked: {path}\n").repeat(1_000);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", body.len());
            // A client that went away is nothing to worry about.
            let _sent = write!(connection, "{head}connection: close\r\n\r\n{body}");
        }
    });
    Ok(address)
}
