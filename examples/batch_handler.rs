//! A batch handler on the in-memory hub: ten events of each batch at once, an outcome for each.
//!
//! `cargo run --example batch_handler`

use std::sync::Arc;
use std::time::Duration;

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::transport::memory::MemoryHub;
use longshore::{Batch, BatchConsumer, BatchContext, Event, Failure, OutgoingEvent};

/// What is no number goes to the dead letters; any other error would be tried again.
async fn double(event: Event) -> Result<(), Failure> {
    let text = std::str::from_utf8(event.body())?;
    let number: u64 = text.parse().map_err(|_| Failure::permanent("it is not a number"))?;
    // In place of a request that takes its time.
    tokio::time::sleep(Duration::from_millis(20)).await;
    println!("{} {}: {}", event.partition(), event.sequence_number(), 2 * number);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let hub = MemoryHub::new("numbers", 2);
    for number in 0..45 {
        hub.publish(number % 2, OutgoingEvent::new(number.to_string()));
    }
    hub.publish(0, OutgoingEvent::new("no number"));

    let letters = Arc::new(MemoryDeadLetterSink::new());
    let consumer = BatchConsumer::builder(hub.transport("$Default"), MemoryCheckpointStore::new())
        .dead_letters(letters.clone())
        .max_batch_size(20)
        .batch_timeout(Duration::from_millis(200))
        .batch_handler(|batch: Batch, context: BatchContext| {
            println!("a batch of {} events ({:?})", batch.len(), context.flush_reason());
            batch.for_each_concurrent(10, double)
        })?;

    // A worker waits for `longshore::shutdown_signal()`.
    let all_done = async {
        while letters.letters().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let exit = consumer.run_until(all_done).await?;
    let counts = exit.counts;
    println!(
        "{} done, {} batches, {} dead letters",
        counts.done,
        counts.batches(),
        counts.dead_letters
    );
    Ok(())
}
