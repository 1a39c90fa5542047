//! Events that are settled elsewhere: before their handler returned, after, by nobody, and against
//! what their handler says; and by the answer to their result. In paused time.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::consumer::Settler;
use longshore::producer::EntityProducer;
use longshore::producer::results::ResultPublisher;
use longshore::transport::memory::MemoryHub;
use longshore::{
    Batch, BatchContext, ConsumerHandle, ErrorClass, Event, EventContext, Failure, Outcome,
    Outcomes, OutgoingEvent,
};
use tokio::time::{Instant, sleep};

use support::{Harness, drained, unsettled, until};

type Kept = Arc<Mutex<Vec<Settler>>>;

fn take(kept: &Kept) -> Settler {
    kept.lock().expect("lock").remove(0)
}

fn kept_settlers(kept: &Kept) -> usize {
    kept.lock().expect("lock").len()
}

fn settled(handle: &ConsumerHandle) -> u64 {
    let counts = handle.snapshot().counts;
    counts.done + counts.skipped + counts.dead_letters
}

/// Everything is settled, and the drain waits for nothing that never comes.
async fn ends_at_once(harness: &Harness, handle: ConsumerHandle, checkpoint: i64) {
    assert_eq!(unsettled(&handle), 0);
    let begun = Instant::now();
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(exit.partitions[0].cut_handlers, 0);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(harness.checkpointed_to("0").await, Some(checkpoint));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_settled_before_its_handler_returns_is_waited_for_no_longer() {
    let harness = Harness::new(1);
    harness.publish(0, 3);
    let handle = harness
        .builder()
        .event_handler(async |_: Event, context: EventContext| {
            let (settler, outcome) = context.defer();
            settler.settle(Outcome::Done);
            sleep(Duration::from_millis(10)).await;
            outcome
        })
        .expect("valid")
        .start();
    until("all", || handle.snapshot().counts.done == 3).await;
    ends_at_once(&harness, handle, 2).await;
}

#[tokio::test(start_paused = true)]
async fn events_of_a_batch_are_settled_before_it_ends_and_after() {
    let harness = Harness::new(1);
    harness.publish(0, 3);
    let kept = Kept::default();
    let keep = kept.clone();
    let handle = harness
        .builder()
        .max_batch_size(3)
        .batch_handler(move |_: Batch, context: BatchContext| {
            let (early, first) = context.defer(0).expect("three events");
            let (late, last) = context.defer(2).expect("three events");
            keep.lock().expect("lock").push(late);
            async move {
                early.settle(Outcome::skip("early"));
                sleep(Duration::from_millis(10)).await;
                Ok::<_, Failure>(Outcomes::each([first, Outcome::Done, last]))
            }
        })
        .expect("valid")
        .start();
    until("the first two", || settled(&handle) == 2).await;
    assert_eq!((handle.snapshot().counts.skipped, handle.snapshot().counts.done), (1, 1));
    take(&kept).settle(Outcome::Done);
    until("the last", || settled(&handle) == 3).await;
    ends_at_once(&harness, handle, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_returns_another_outcome_is_believed_and_not_its_settler() {
    let harness = Harness::new(1);
    harness.publish(0, 2);
    let kept = Kept::default();
    let keep = kept.clone();
    let handle = harness
        .builder()
        .event_handler(move |event: Event, context: EventContext| {
            let keep = keep.clone();
            async move {
                let (settler, _deferred) = context.defer();
                if event.sequence_number().0 == 0 {
                    keep.lock().expect("lock").push(settler);
                }
                // That of the other one is dropped here.
                Outcome::Done
            }
        })
        .expect("valid")
        .start();
    until("both", || settled(&handle) == 2).await;
    take(&kept).settle(Outcome::dead_letter(Failure::permanent("too late")));
    sleep(Duration::from_secs(1)).await;
    let counts = handle.snapshot().counts;
    assert_eq!((counts.done, counts.retried, counts.dead_letters), (2, 0, 0));
    ends_at_once(&harness, handle, 1).await;
}

/// How the first attempt ends after it took its settler.
#[derive(Clone, Copy, Debug)]
enum GivesUp {
    Panics,
    Hangs,
    Fails,
}

#[tokio::test(start_paused = true)]
async fn a_settler_of_an_earlier_attempt_settles_nothing() {
    for gives_up in [GivesUp::Panics, GivesUp::Hangs, GivesUp::Fails] {
        let harness = Harness::new(1);
        harness.publish(0, 1);
        let kept = Kept::default();
        let keep = kept.clone();
        let handle = harness
            .builder()
            .handler_timeout(Some(Duration::from_secs(1)))
            .event_handler(move |_: Event, context: EventContext| {
                let attempt = context.attempt();
                let (settler, outcome) = context.defer();
                keep.lock().expect("lock").push(settler);
                async move {
                    match gives_up {
                        _ if attempt > 1 => outcome,
                        GivesUp::Panics => panic!("after it took the settler"),
                        GivesUp::Hangs => std::future::pending().await,
                        GivesUp::Fails => Outcome::retry(Failure::transient("gave up")),
                    }
                }
            })
            .expect("valid")
            .start();
        until("the second attempt", || kept_settlers(&kept) == 2).await;
        sleep(Duration::from_millis(1)).await;
        take(&kept).settle(Outcome::Done);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(unsettled(&handle), 1, "{gives_up:?}: it settled the second attempt");
        take(&kept).settle(Outcome::Done);
        until("the event", || settled(&handle) == 1).await;
        let counts = handle.snapshot().counts;
        assert_eq!((counts.done, counts.retried), (1, 1), "{gives_up:?}");
        ends_at_once(&harness, handle, 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_word_that_came_early_is_forgotten_where_the_handler_gives_up() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = attempts.clone();
    let handle = harness
        .builder()
        .event_handler(move |_: Event, context: EventContext| {
            let attempt = count.fetch_add(1, Ordering::SeqCst);
            async move {
                let (settler, outcome) = context.defer();
                settler.settle(Outcome::dead_letter(Failure::permanent("of the first attempt")));
                sleep(Duration::from_millis(10)).await;
                if attempt == 0 { panic!("after its settler spoke") } else { outcome }
            }
        })
        .expect("valid")
        .start();
    until("the second attempt", || settled(&handle) == 1).await;
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert_eq!(harness.letters.letters().len(), 1, "of the second attempt");
    assert_eq!(harness.letters.letters()[0].attempts, 2);
    ends_at_once(&harness, handle, 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_defers_another_event_defers_nothing() {
    let harness = Harness::new(1);
    harness.publish(0, 2);
    let kept = Kept::default();
    let keep = kept.clone();
    let handle = harness
        .builder()
        .max_batch_size(2)
        .batch_handler(move |batch: Batch, context: BatchContext| {
            let (settler, outcome) = context.defer(0).expect("an event");
            let is_first = batch.len() == 2;
            keep.lock().expect("lock").push(settler);
            async move {
                let misplaced = [Outcome::Done, outcome];
                Ok::<_, Failure>(if is_first { misplaced.into() } else { vec![Outcome::Done] })
            }
        })
        .expect("valid")
        .start();
    until("the retry", || settled(&handle) == 2).await;
    assert_eq!(handle.snapshot().counts.retried, 1);
    ends_at_once(&harness, handle, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_settler_that_is_given_what_defers_its_event_asks_for_a_retry() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    let handle = harness
        .builder()
        .event_handler(async |_: Event, context: EventContext| {
            if context.attempt() > 1 {
                return Outcome::Done;
            }
            let (settler, outcome) = context.defer();
            settler.settle(outcome.clone());
            outcome
        })
        .expect("valid")
        .start();
    until("the second attempt", || settled(&handle) == 1).await;
    ends_at_once(&harness, handle, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_answered_at_once_ends_its_event_and_one_that_is_not_defers_it() {
    let (harness, hub) = (Harness::new(1), MemoryHub::new("results", 1));
    harness.publish(0, 3);
    // The first send and its retries; then the hub is well again.
    hub.fail_sends(3, ErrorClass::Transient);
    let results = ResultPublisher::new(Arc::new(EntityProducer::new(Arc::new(hub.publisher()))));
    let said: Arc<Mutex<Vec<bool>>> = Arc::default();
    let saying = said.clone();
    let handle = harness
        .builder()
        .max_events_in_flight(1)
        .event_handler(move |event: Event, context: EventContext| {
            let (results, saying, hub) = (results.clone(), saying.clone(), hub.clone());
            async move {
                if event.sequence_number().0 > 0 {
                    // The lane of the first one's retries holds up what comes behind it.
                    until("the first is published", || !hub.events(0).is_empty()).await;
                }
                let room = results.room(100).await;
                let result = OutgoingEvent::new(event.sequence_number().to_string());
                let outcome = results.publish_for(context, room, result, "it is handled");
                saying.lock().expect("lock").push(outcome == Outcome::Done);
                outcome
            }
        })
        .expect("valid")
        .start();
    until("all", || handle.snapshot().counts.done == 3).await;
    assert_eq!(*said.lock().expect("lock"), [false, true, true]);
    ends_at_once(&harness, handle, 2).await;
}
