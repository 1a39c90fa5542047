//! Downloads files that events name, verifies them, and says so with result events; all on this
//! machine: a hub in memory, and an HTTP server in a thread.
//!
//! `cargo run --example download_worker`

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
use longshore::transfer::url_policy::{PrivateAddresses, UrlPolicy};
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, Event, EventConsumer, EventContext, OutgoingEvent};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = serve()?;
    let folder = tempfile::tempdir()?;

    // One task an event: what to fetch, and where to put it.
    let tasks = MemoryHub::new("downloads-pending", 2);
    let names = ["photos/cat.txt", "photos/dog.txt", "letters/a.txt"];
    for (partition, name) in (0..2).cycle().zip(names) {
        let url = format!("http://{server}/{name}").parse()?;
        let task = DownloadTask::new(name, url, BlobName::parse(name)?);
        tasks.publish(partition, OutgoingEvent::new(task.to_json()));
    }

    // The worker streams each file into the folder and publishes a result.
    let results = MemoryHub::new("downloads-results", 1);
    let worker = DownloadWorker::new(
        Arc::new(FolderBlobStore::open(folder.path())?),
        Arc::new(EntityProducer::new(Arc::new(results.publisher()))),
        // Loopback is refused otherwise: tasks come from outside.
        UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow),
        DownloadLimits::default(),
    )?;
    let checkpoints = Arc::new(MemoryCheckpointStore::new());
    let mut downloads = BatchConsumer::builder(tasks.transport("$Default"), checkpoints.clone())
        .dead_letters(MemoryDeadLetterSink::new())
        .max_events_in_flight(10)
        .event_handler(worker)?
        .start();

    // Somebody downstream reads the results, one after the other.
    let (sender, mut printed) = mpsc::unbounded_channel();
    let reader = EventConsumer::builder(results.transport("$Default"), checkpoints).handler(
        move |event: Event, _: EventContext| {
            println!("{}", String::from_utf8_lossy(event.body()));
            let seen = sender.send(());
            async move { seen }
        },
    )?;
    let three = async {
        for _ in names {
            printed.recv().await;
        }
    };
    let read = reader.run_until(three).await;

    downloads.drain();
    let exit = downloads.join().await;
    for name in names {
        println!("{name}: {} bytes", std::fs::metadata(folder.path().join(name))?.len());
    }
    exit.into_result()?;
    read?;
    Ok(())
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
