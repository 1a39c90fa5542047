//! A batch handler on the in-memory hub: an outcome for each event, by position.
//!
//! `cargo run --example batch_handler`

use std::sync::Arc;
use std::time::Duration;

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::dead_letter::memory::MemoryDeadLetterSink;
use longshore::transport::memory::MemoryHub;
use longshore::{
    Batch, BatchConsumer, BatchContext, Failure, HandlerError, Outcome, Outcomes, OutgoingEvent,
};

/// Adds up the numbers of a batch; what is no number goes to the dead letters.
async fn add_up(batch: Batch, context: BatchContext) -> Result<Outcomes, HandlerError> {
    let mut sum = 0;
    let outcomes: Vec<Outcome> = batch
        .iter()
        .map(|event| match std::str::from_utf8(event.body()).map(str::parse::<u64>) {
            Ok(Ok(number)) => {
                sum += number;
                Outcome::Done
            }
            _ => Outcome::dead_letter(Failure::permanent("it is not a number")),
        })
        .collect();
    println!("{} events ({:?}): {sum}", batch.len(), context.flush_reason());
    Ok(Outcomes::from(outcomes))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let hub = MemoryHub::new("numbers", 2);
    for number in 0..45 {
        hub.publish(number % 2, OutgoingEvent::new(number.to_string()));
    }
    hub.publish(0, OutgoingEvent::new("no number"));

    let letters = Arc::new(MemoryDeadLetterSink::new());
    let mut consumer = BatchConsumer::builder(
        Arc::new(hub.transport("$Default")),
        Arc::new(MemoryCheckpointStore::new()),
    )
    .dead_letters(letters.clone())
    .max_batch_size(20)
    .batch_timeout(Duration::from_millis(200))
    .batch_handler(add_up)?
    .start();

    while consumer.snapshot().counts.done < 45 || letters.letters().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    consumer.drain();
    let exit = consumer.join().await;
    println!("{} batches, {} dead letters", exit.counts.batches(), exit.counts.dead_letters);
    Ok(())
}
