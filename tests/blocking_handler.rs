//! A handler that blocks its thread is named in the log while it does, and its partition waits
//! for it.

#[path = "support/log.rs"]
mod log;
#[path = "support/waiting.rs"]
mod waiting;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use log::Log;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::consumer::CANCEL_GRACE;
use longshore::transport::memory::MemoryHub;
use longshore::{BatchConsumer, Event, EventContext, OutgoingEvent};
use waiting::until;

/// Far longer than it takes to notice a handler that blocks.
const TOO_LONG: Duration = Duration::from_secs(60);

/// What was said of a handler of this entity that blocks.
fn named(log: &Log, entity: &str) -> Option<String> {
    let topic = format!("message_topic={entity} ");
    let text = log.text();
    let mut lines = text.lines();
    lines.find(|line| line.contains("blocks") && line.contains(&topic)).map(str::to_owned)
}

async fn blocks_at_one(event: Event, release: Arc<Mutex<()>>) {
    if event.sequence_number().0 == 1 {
        drop(release.lock());
    }
}

// One thread: while it is blocked, nothing of the runtime could notice.
#[tokio::test]
async fn a_handler_that_blocks_its_thread_is_named_while_it_does() {
    let log = Log::default();
    log.of_the_process();

    let hub = MemoryHub::new("orders", 1);
    for _ in 0..3 {
        hub.publish(0, OutgoingEvent::new("event"));
    }
    let gate = Arc::new(Mutex::new(()));
    let (held, release) = (Arc::clone(&gate), Arc::clone(&gate));
    let (told, closed) = std::sync::mpsc::channel();
    let seen = log.clone();
    // Holds the handler's lock until the log has named it, or far too long.
    let holder = thread::spawn(move || {
        let guard = held.lock().expect("not poisoned");
        told.send(()).expect("the test waits");
        let start = Instant::now();
        while named(&seen, "orders").is_none() && start.elapsed() < TOO_LONG {
            thread::sleep(Duration::from_millis(20));
        }
        drop(guard);
        start.elapsed()
    });
    closed.recv().expect("the holder lives");

    let transport = Arc::new(hub.transport("$Default"));
    let mut handle = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
        .event_handler(move |event: Event, _: EventContext| {
            blocks_at_one(event, Arc::clone(&release))
        })
        .expect("valid")
        .start();
    until("all are handled", || handle.snapshot().counts.done == 3).await;
    let noticed = holder.join().expect("no panic");
    assert!(noticed < TOO_LONG, "never named:\n{}", log.text());
    let line = named(&log, "orders").expect("named");
    for part in [
        "message_topic=orders",
        "message_partition=0",
        "message_offset=1",
        "message_consumer_group=$Default",
        "blocking_handler::",
        "thread=",
    ] {
        assert!(line.contains(part), "{part} is missing: {line}");
    }
    handle.drain();
    handle.join().await;
}

// An aborted task runs on until it yields: time enough for another owner to begin its event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_not_given_up_while_a_handler_that_was_cut_still_runs() {
    let hub = MemoryHub::new("payments", 1);
    hub.publish(0, OutgoingEvent::new("event"));
    let running = Arc::new(AtomicUsize::new(0));
    let (begins, at_end) = (Arc::clone(&running), Arc::clone(&running));
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let told = Arc::clone(&left);
    let transport = Arc::new(hub.transport("$Default"));
    let mut handle = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
        .on_partition_revoked(move |_| {
            told.store(at_end.load(Ordering::SeqCst), Ordering::SeqCst);
            async {}
        })
        .event_handler(move |_: Event, context: EventContext| {
            let running = Arc::clone(&begins);
            async move {
                running.fetch_add(1, Ordering::SeqCst);
                context.cancelled().cancelled().await;
                // Half of what a cut handler is waited for.
                thread::sleep(CANCEL_GRACE + CANCEL_GRACE / 2);
                running.fetch_sub(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
        })
        .expect("valid")
        .start();
    until("the handler runs", || running.load(Ordering::SeqCst) == 1).await;
    handle.stop();
    let exit = handle.join().await;
    assert_eq!(exit.partitions[0].cut_handlers, 1);
    assert_eq!(left.load(Ordering::SeqCst), 0);
}
