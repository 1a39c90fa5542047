//! Dead letters go back to the consumer that gave them up, by a job. In paused time.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use longshore::clock::Clock;
use longshore::event::Value;
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore, ListedFailure};
use longshore::replay::{Counts, End, Ended, Fate, Job, Limits, Plan, Wait, Way, run};
use longshore::timestamp::unix_millis;
use longshore::{Event, EventContext, Failure, Outcome, OutgoingEvent};
use tokio::sync::watch;
use tokio::time::Instant;

use support::{Harness, drained, settled};

/// Follows the clock of the runtime, which is paused.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.0.elapsed()
    }
}

async fn listed(store: &MemoryFailureStore, kind: FailureKind) -> Vec<ListedFailure> {
    let page = store.list(&FailurePrefix::all(kind), None, usize::MAX).await.expect("lists");
    page.entries.into_iter().map(|entry| entry.expect("readable")).collect()
}

/// All that a handler can see of an event.
fn seen(event: &Event) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        event.partition(),
        event.sequence_number(),
        event.offset(),
        // What the service has, and a record keeps.
        unix_millis(event.enqueued_time()),
        event.key(),
        event.body(),
        event.properties(),
        event.message_properties(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_replay_gives_letters_back_as_they_came_and_knows_what_failed_again() {
    let (harness, store) = (Harness::new(1), Arc::<MemoryFailureStore>::default());
    let clock = Arc::new(Virtual(Instant::now()));
    for number in 0..40_u8 {
        let mut event = OutgoingEvent::new(vec![0xff, 0, number]).with_key("k");
        event.properties.insert("tries".to_owned(), Value::Int(number.into()));
        harness.hub.publish(0, event).expect("there");
    }
    let is_broken = Arc::new(AtomicBool::new(true));
    let calls: Arc<Mutex<BTreeMap<i64, Vec<String>>>> = Arc::default();
    let (broken, handled) = (is_broken.clone(), calls.clone());
    let handle = harness
        .without_letters()
        .failure_store(store.clone())
        .clock(clock.clone())
        .event_handler(move |event: Event, _: EventContext| {
            let number = event.sequence_number().0;
            handled.lock().expect("lock").entry(number).or_default().push(seen(&event));
            let fails = number % 2 == 0 && (broken.load(Ordering::SeqCst) || number == 10);
            async move {
                if fails { Outcome::dead_letter(Failure::permanent("404")) } else { Outcome::Done }
            }
        })
        .expect("valid")
        .start();
    settled(&handle, 39).await;
    let letters = listed(&store, FailureKind::Dead).await;
    assert_eq!(letters.len(), 20);

    is_broken.store(false, Ordering::SeqCst);
    let jobs = tempfile::tempdir().expect("a folder");
    let mut plan = Plan::new(clock.now(), store.place(), Limits { canary: 3, ..Limits::default() });
    for letter in &letters {
        plan.add(&letter.key.event, letter.meta.generation);
    }
    let mut job = Job::create(jobs.path(), plan).expect("created");
    let (progress, counts) = watch::channel(Counts::default());
    let stop = std::future::pending();
    let ended = run(&mut job, &*store, &Way::Group, Wait::ForResults, &*clock, &progress, stop);
    assert_eq!(ended.await.expect("runs"), Ended::Over(End::Finished));
    let counts = *counts.borrow();
    assert_eq!((counts.done, counts.failed_again), (19, 1));
    let failed: Vec<_> = job.letters_of(Fate::FailedAgain).collect();
    assert_eq!(failed[0].0.sequence_number.0, 10);
    let left = listed(&store, FailureKind::Dead).await;
    assert_eq!((left.len(), left[0].meta.generation), (1, 1));
    assert_eq!((left[0].meta.job.clone(), left[0].meta.replaying()), (Some(job.to_string()), None));
    assert!(listed(&store, FailureKind::Parked).await.is_empty());
    for (number, calls) in calls.lock().expect("lock").iter() {
        let expected = if number % 2 == 0 { 2 } else { 1 };
        assert_eq!(calls.len(), expected, "{number}");
        assert!(calls.iter().all(|call| call == &calls[0]), "{number}: {calls:?}");
    }
    assert!(drained(handle).await.is_clean());
}
