//! The gauge of dead letters in the failure store: what is known and no more, and nothing of a partition that is gone.
//! In paused time.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use longshore::consumer::LETTERS_INTERVAL;
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore, MAX_PAGE_ENTRIES};
use longshore::testing::{Intercepted, PortCall};
use longshore::{ConsumerHandle, Event, EventContext, Failure, Outcome};
use metrics_exporter_prometheus::PrometheusBuilder;
use support::{Harness, drained, settled, until};
use tokio::time::sleep;

const GAUGE: &str = "longshore_dead_letters";

/// Everything whose number is below this one fails for good.
fn start(
    harness: &Harness,
    store: &Arc<impl FailureStore + 'static>,
    failing: i64,
) -> ConsumerHandle {
    harness
        .without_letters()
        .failure_store(Arc::clone(store))
        .event_handler(move |event: Event, _: EventContext| async move {
            match event.sequence_number().0 < failing {
                true => Outcome::dead_letter(Failure::permanent("404")),
                false => Outcome::Done,
            }
        })
        .unwrap()
        .start()
}

fn count(handle: &ConsumerHandle) -> Option<u64> {
    handle.snapshot().partitions.first()?.dead_letters
}

#[tokio::test(start_paused = true)]
async fn letters_are_counted_while_the_partition_is_ours_and_said_only_where_they_are_known() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _here = metrics::set_default_local_recorder(&recorder);
    let gauge = || -> Option<f64> {
        let text = shown.render();
        let line = text.lines().find(|line| line.starts_with(&format!("{GAUGE}{{")))?;
        line.rsplit_once(' ')?.1.parse().ok()
    };
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    harness.publish(0, 8);
    let handle = start(&harness, &store, 5);
    settled(&handle, 7).await;
    assert_eq!(count(&handle), None);
    assert!(gauge().unwrap().is_nan(), "before the first count");
    sleep(Duration::from_secs(11)).await;
    assert_eq!((count(&handle), gauge()), (Some(5), Some(5.0)));

    // What an operator deletes is seen at the next count.
    let all = FailurePrefix::all(FailureKind::Dead);
    let listed = store.list(&all, None, MAX_PAGE_ENTRIES).await.unwrap().entries;
    for letter in listed.into_iter().take(2) {
        let letter = letter.unwrap();
        store.delete(&letter.key, &letter.version).await.unwrap();
    }
    assert_eq!(count(&handle), Some(5), "as it was last counted");
    sleep(LETTERS_INTERVAL.mul_f64(1.3)).await;
    assert_eq!((count(&handle), gauge()), (Some(3), Some(3.0)));

    // Three failures in a row: nobody knows.
    store.fail_next(u32::MAX);
    sleep(LETTERS_INTERVAL * 2).await;
    assert_eq!(count(&handle), None);
    assert!(gauge().unwrap().is_nan());
    store.fail_next(0);
    sleep(Duration::from_secs(31)).await;
    assert_eq!((count(&handle), gauge()), (Some(3), Some(3.0)));

    assert!(drained(handle).await.is_clean());
    assert_eq!(gauge(), Some(0.0), "the partition is not ours any more");

    // The next owner finds what the one before left.
    let handle = start(&harness, &store, 0);
    settled(&handle, 7).await;
    sleep(Duration::from_secs(11)).await;
    assert_eq!((count(&handle), gauge()), (Some(3), Some(3.0)));
    drained(handle).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_failure_store_nothing_is_said() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _here = metrics::set_default_local_recorder(&recorder);
    let harness = Harness::new(1);
    harness.publish(0, 1);
    let handle = harness.start_recording(longshore::ConsumerOptions::default());
    settled(&handle, 0).await;
    sleep(LETTERS_INTERVAL).await;
    assert_eq!(count(&handle), None);
    drained(handle).await;
    assert!(!shown.render().lines().any(|line| line.starts_with(&format!("{GAUGE}{{"))));
}

/// What a store was asked.
#[derive(Default)]
struct Asked {
    lists: AtomicU64,
    reads: AtomicU64,
}

impl Asked {
    /// A store in memory that counts here.
    fn store(self: &Arc<Self>) -> Arc<Intercepted<MemoryFailureStore>> {
        let asked = Arc::clone(self);
        Arc::new(Intercepted::new(MemoryFailureStore::new()).before(move |call: PortCall| {
            match call.method {
                "list" => asked.lists.fetch_add(1, Ordering::SeqCst),
                "read" => asked.reads.fetch_add(1, Ordering::SeqCst),
                _ => 0,
            };
            ready(Ok(()))
        }))
    }

    /// Lists and reads since the last call.
    fn take(&self) -> (u64, u64) {
        (self.lists.swap(0, Ordering::SeqCst), self.reads.swap(0, Ordering::SeqCst))
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_letters_are_listed_and_counted_in_a_page_for_five_thousand_and_none_is_read() {
    const LETTERS: u64 = 12_001;
    let (harness, asked) = (Harness::new(1), Arc::<Asked>::default());
    let store = asked.store();
    harness.publish(0, LETTERS as usize);
    let handle = start(&harness, &store, LETTERS as i64);
    settled(&handle, LETTERS as i64 - 1).await;
    assert!(drained(handle).await.is_clean());
    asked.take();

    let (mut listed, mut after) = (0, None);
    loop {
        let all = FailurePrefix::all(FailureKind::Dead);
        let page = store.list(&all, after.as_ref(), MAX_PAGE_ENTRIES).await.unwrap();
        listed += page.entries.iter().filter(|entry| entry.is_ok()).count() as u64;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((listed, asked.take()), (LETTERS, (3, 0)));

    // The next owner: what is parked, what was given up before, and the count of it.
    let handle = start(&harness, &store, 0);
    until("the letters are counted", || count(&handle) == Some(LETTERS)).await;
    let (lists, reads) = asked.take();
    assert!(lists <= LETTERS / 5_000 + 10, "{lists} requests");
    assert_eq!(reads, 0);
    drained(handle).await;
}
