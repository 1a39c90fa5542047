//! Batches that fail whole are halved until the event at fault is alone. In paused time.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::config::Ordering;
use longshore::{Batch, BatchContext, Failure, OutgoingEvent};
use tokio::time::{Instant, sleep};

use support::{Harness, drained, until};

/// The numbers of the events of each call.
type Calls = Arc<Mutex<Vec<Vec<i64>>>>;

fn numbers(batch: &Batch) -> Vec<i64> {
    batch.iter().map(|event| event.sequence_number().0).collect()
}

/// What a handler says that knows of no event by itself: the first one that fails, fails the batch.
/// `fails` is told how often the event was alone, this call included.
fn said(
    calls: &Calls,
    batch: &Batch,
    fails: impl Fn(i64, usize) -> Option<Failure>,
) -> Result<(), Failure> {
    let mut calls = calls.lock().expect("lock");
    calls.push(numbers(batch));
    let alone = |number: i64| calls.iter().filter(|call| **call == [number]).count();
    let failure = numbers(batch).into_iter().find_map(|number| fails(number, alone(number)));
    failure.map_or(Ok(()), Err)
}

#[tokio::test(start_paused = true)]
async fn of_twenty_events_the_slow_one_waits_and_the_bad_one_is_the_only_letter() {
    let harness = Harness::new(1);
    harness.publish(0, 20);
    let calls = Calls::default();
    let seen = calls.clone();
    let handler = move |batch: Batch, _: BatchContext| {
        ready(said(&seen, &batch, |number, alone| match (number, alone) {
            (4, _) => Some(Failure::permanent("404")),
            (13, 0..=2) => Some(Failure::transient("503")),
            _ => None,
        }))
    };
    let handle = harness.builder().batch_handler(handler).expect("valid").start();
    let begun = Instant::now();
    until("the others", || handle.snapshot().counts.done == 18).await;
    assert!(begun.elapsed() < Duration::from_millis(100), "no back-off stands before them");
    until("the slow one", || handle.snapshot().counts.done == 19).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    let letters = harness.letters.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].event.sequence_number().0, letters[0].attempts), (4, 1));
    assert_eq!(letters[0].failure.message, "404");
    assert_eq!(exit.counts.retried, 2, "attempts count where the event was alone");
    assert_eq!(harness.checkpointed_to("0").await, Some(19));
    let calls = calls.lock().expect("lock");
    assert_eq!(calls.iter().filter(|call| call.contains(&13) && call.len() > 1).count(), 4);
    assert!(calls.len() <= 1 + 2 * 2 * 5 + 2, "{calls:?}");
    assert_eq!(exit.counts.batches_by_bisection, calls.len() as u64 - 1);
}

#[tokio::test(start_paused = true)]
async fn where_everything_fails_each_event_has_its_own_failure() {
    let harness = Harness::new(1);
    harness.publish(0, 7);
    let calls = Calls::default();
    let seen = calls.clone();
    let handler = move |batch: Batch, _: BatchContext| {
        let failure = |number| Failure::permanent(format!("no room for {number}"));
        ready(said(&seen, &batch, |number, _| Some(failure(number))))
    };
    let handle = harness.builder().batch_handler(handler).expect("valid").start();
    until("letters", || handle.snapshot().counts.dead_letters == 7).await;
    drained(handle).await;
    for letter in harness.letters.letters() {
        let said = format!("no room for {}", letter.event.sequence_number().0);
        assert_eq!((letter.failure.message, letter.attempts), (said, 1));
    }
    assert_eq!(calls.lock().expect("lock").len(), 2 * 7 - 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_a_deadline_are_found_in_the_same_way() {
    let harness = Harness::new(1);
    harness.publish(0, 16);
    let handle = harness
        .builder()
        .handler_timeout(Some(Duration::from_secs(5)))
        .max_attempts(1)
        .batch_handler(async |batch: Batch, _: BatchContext| {
            let numbers = numbers(&batch);
            assert!(!numbers.contains(&3), "a bug");
            if numbers.contains(&9) {
                std::future::pending::<()>().await;
            }
            Ok::<(), Failure>(())
        })
        .expect("valid")
        .start();
    until("all", || handle.snapshot().counts.done == 14).await;
    until("letters", || handle.snapshot().counts.dead_letters == 2).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    let letters: BTreeMap<i64, String> = harness
        .letters
        .letters()
        .into_iter()
        .map(|letter| (letter.event.sequence_number().0, letter.failure.message))
        .collect();
    assert_eq!(letters[&3], "the handler panicked: a bug");
    assert_eq!(letters[&9], "the handler did not end by its deadline");
}

#[tokio::test(start_paused = true)]
async fn keys_keep_their_order_in_halves() {
    let harness = Harness::new(1);
    for event in 0..60 {
        let key = ["a", "b", "c"][event % 3];
        harness.hub.publish(0, OutgoingEvent::new("body").with_key(key));
    }
    let calls = Calls::default();
    let done: Arc<Mutex<BTreeMap<String, Vec<i64>>>> = Arc::default();
    let at = done.clone();
    let handler = move |batch: Batch, _: BatchContext| {
        let at = at.clone();
        let said = said(&calls, &batch, |number, alone| match (number, alone) {
            (12 | 31, _) => Some(Failure::permanent("404")),
            (7, 0..=2) => Some(Failure::transient("503")),
            _ => None,
        });
        async move {
            said?;
            sleep(Duration::from_millis(5)).await;
            let mut done = at.lock().expect("lock");
            for event in &batch {
                let key = event.key().unwrap_or_default().to_owned();
                done.entry(key).or_default().push(event.sequence_number().0);
            }
            Ok::<(), Failure>(())
        }
    };
    let builder = harness.builder().ordering(Ordering::PerKey);
    let handle = builder.batch_handler(handler).expect("valid").start();
    until("all", || handle.snapshot().counts.done == 58).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(harness.letters.letters().len(), 2);
    for (key, numbers) in &*done.lock().expect("lock") {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
    let seen: BTreeSet<i64> = done.lock().expect("lock").values().flatten().copied().collect();
    assert_eq!(seen.len(), 58);
}

#[tokio::test(start_paused = true)]
async fn halves_that_wait_at_the_end_go_to_the_next_owner() {
    let harness = Harness::new(1);
    harness.publish(0, 8);
    let calls = Calls::default();
    let seen = calls.clone();
    let handle = harness
        .builder()
        .max_batches_in_flight(1)
        .batch_handler(move |batch: Batch, context: BatchContext| {
            let said =
                said(&seen, &batch, |_, _| (batch.len() == 8).then(|| Failure::transient("503")));
            async move {
                said?;
                context.handing_off().cancelled().await;
                Ok::<(), Failure>(())
            }
        })
        .expect("valid")
        .start();
    until("a half", || calls.lock().expect("lock").len() == 2).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(*calls.lock().expect("lock"), [vec![0, 1, 2, 3, 4, 5, 6, 7], vec![0, 1, 2, 3]]);
    assert_eq!(exit.counts.done, 4);
    assert_eq!(harness.checkpointed_to("0").await, Some(3));
}
