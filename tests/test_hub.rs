//! What `longshore::testing` offers for tests of whole workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longshore::testing::TestHub;
use longshore::{Event, EventContext, Failure};

#[tokio::test(start_paused = true)]
async fn workers_that_share_partitions_are_tested_with_what_production_has() {
    let hub = TestHub::new("orders", 4);
    let handled = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let [mut one, mut two] = handled.clone().map(|count| {
        let handler = move |event: Event, _: EventContext| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                match event.body().as_ref() {
                    b"bad" => Err(Failure::permanent("it is bad")),
                    _ => Ok(()),
                }
            }
        };
        let consumer = hub.consumer_with_failures().leases(hub.leases());
        consumer.event_handler(handler).expect("valid").start()
    });
    hub.until_shared(&[&one, &two]).await;
    assert_eq!(one.snapshot().partitions.len(), 2, "what others have is not listed");
    for partition in 0..4 {
        hub.publish(partition, "good");
        hub.publish(partition, "bad");
    }
    hub.until_settled(&one).await;
    for consumer in [&mut one, &mut two] {
        consumer.drain();
        assert_eq!(consumer.join().await.counts.dead_letters, 2);
    }
    assert_eq!(handled.map(|count| count.load(Ordering::Relaxed)), [4, 4]);
    let records = hub.dead_letter_records().await.expect("readable");
    assert_eq!(records.len(), 4);
    assert!(records.iter().all(|record| record.error.message == "it is bad"));
    assert!(hub.dead_letters().is_empty(), "they are in the store");
}
