//! A hub that is created anew while a link is being opened: after the comparison of hub and
//! position, before the link is there.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use longshore::transport::memory::{MemoryHub, MemoryTransport};
use longshore::transport::{Link, OpenLink, Transport};
use longshore::{BatchConsumer, Error, ErrorClass, Event, EventContext, OutgoingEvent};
use support::forward::{Over, OverTransport};
use support::{Harness, drained, until};

#[derive(Debug)]
struct RecreatedAtOpen {
    inner: MemoryTransport,
    hub: MemoryHub,
    armed: Arc<AtomicBool>,
}

impl OverTransport for RecreatedAtOpen {
    fn below(&self) -> &dyn Transport {
        &self.inner
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>, Error>> {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.hub.recreate();
            for _ in 0..5 {
                self.hub.publish(0, OutgoingEvent::new("new"));
            }
        }
        self.inner.open(options)
    }
}

#[tokio::test(start_paused = true)]
async fn a_hub_created_anew_while_a_link_is_opened_loses_no_event() {
    let harness = Harness::new(1);
    harness.publish(0, 3);
    let armed = Arc::new(AtomicBool::new(false));
    let transport = Over(RecreatedAtOpen {
        inner: harness.hub.transport("$Default"),
        hub: harness.hub.clone(),
        armed: Arc::clone(&armed),
    });
    let seen = harness.seen.clone();
    let handle = BatchConsumer::builder(Arc::new(transport), harness.checkpoints.clone())
        .seed(7)
        .event_handler(move |event: Event, _: EventContext| {
            seen.record(&event);
            async {}
        })
        .expect("valid")
        .start();
    until("the old hub's events", || harness.seen.len() == 3).await;
    armed.store(true, Ordering::SeqCst);
    harness.hub.end_links(0, ErrorClass::Transient);
    until("the new hub's events", || harness.seen.numbers().ends_with(&[4])).await;
    drained(handle).await;
    assert_eq!(harness.seen.numbers(), [0, 1, 2, 0, 1, 2, 3, 4]);
}
