//! A worker whose checkpoints are in SQLite and whose dead letters are in a file.
//!
//! `cargo run` in this folder; run it again, and it goes on where it was.

use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, Event, EventContext, Failure, OutgoingEvent};
use own_stores::{FileDeadLetterSink, SqliteCheckpointStore};

async fn handle(event: Event, _: EventContext) -> Result<(), Failure> {
    let text = std::str::from_utf8(event.body())?;
    let number: u64 = text.parse().map_err(|_| Failure::permanent("it is not a number"))?;
    println!("{}: {number}", event.sequence_number());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join("longshore-own-stores");
    std::fs::create_dir_all(&folder)?;
    let letters = folder.join("dead-letters.jsonl");
    let hub = MemoryHub::new("numbers", 1);
    for body in ["1", "2", "three", "4"] {
        hub.publish(0, OutgoingEvent::new(body));
    }
    let mut consumer = BatchConsumer::builder(
        hub.transport("$Default"),
        SqliteCheckpointStore::open(folder.join("checkpoints.sqlite"))?,
    )
    .dead_letters(FileDeadLetterSink::open(&letters)?)
    .event_handler(handle)?
    .start();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    consumer.drain();
    consumer.join().await.into_result()?;
    for letter in FileDeadLetterSink::read(&letters)? {
        println!("given up: {letter:?}");
    }
    Ok(())
}
