//! How workers move files that take a batch, do it, and only then take the next: the way that
//! the demo compares with.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use longshore::consumer::{EventContext, EventHandler};
use longshore::event::Event;
use longshore::outcome::Outcome;

/// Begins no event of a batch before every event of the batches before has ended. Without a size, there
/// are no batches.
pub(super) struct Barrier<H> {
    handler: H,
    batch_events: Option<usize>,
    begun: AtomicUsize,
    ended: watch::Sender<usize>,
}

impl<H> Barrier<H> {
    pub(super) fn new(handler: H, batch_events: Option<usize>) -> Self {
        Self { handler, batch_events, begun: AtomicUsize::new(0), ended: watch::Sender::new(0) }
    }
}

/// Counts the end of an event, however it ends.
struct End<'a>(&'a watch::Sender<usize>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|ended| *ended += 1);
    }
}

impl<H: EventHandler> EventHandler for Barrier<H> {
    async fn handle(&self, event: Event, context: EventContext) -> Outcome {
        let Some(batch_events) = self.batch_events else {
            return self.handler.handle(event, context).await;
        };
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let before = number - number % batch_events;
        let _end = End(&self.ended);
        let mut ended = self.ended.subscribe();
        // The sender is in `self`: it does not go away.
        let _is_open = ended.wait_for(|ended| *ended >= before).await.is_ok();
        self.handler.handle(event, context).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use longshore::checkpoint_store::memory::MemoryCheckpointStore;
    use longshore::consumer::BatchConsumer;
    use longshore::event::OutgoingEvent;
    use longshore::transport::memory::MemoryHub;

    #[tokio::test(start_paused = true)]
    async fn no_event_begins_before_the_batch_before_it_has_ended() {
        const EVENTS: usize = 30;
        let hub = MemoryHub::new("tasks", 1);
        for number in 0..EVENTS {
            hub.publish(0, OutgoingEvent::new(number.to_string()));
        }
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        let handler = move |_event: Event, _context: EventContext| {
            let log = Arc::clone(&written);
            async move {
                log.lock().unwrap().push("begin");
                tokio::time::sleep(Duration::from_secs(1)).await;
                log.lock().unwrap().push("end");
            }
        };
        let transport = Arc::new(hub.transport("$Default"));
        let mut consumer =
            BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
                .max_events_in_flight(4)
                .event_handler(Barrier::new(handler, Some(10)))
                .unwrap()
                .start();
        while consumer.snapshot().counts.done < EVENTS as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        consumer.drain();
        consumer.join().await;
        let log = log.lock().unwrap();
        let (mut begun, mut ended, mut most) = (0, 0, 0);
        for what in log.iter() {
            match *what {
                "begin" => {
                    assert!(ended >= begun / 10 * 10, "event {begun} began after {ended} ends");
                    begun += 1;
                }
                _ => ended += 1,
            }
            most = most.max(begun - ended);
        }
        assert_eq!((begun, ended, most), (EVENTS, EVENTS, 4));
    }
}
