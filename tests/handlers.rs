//! Handlers as people write them, and what they may do while they run; on the memory transport, in paused
//! time.

mod support;

use std::error::Error as StdError;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, stream};
use longshore::consumer::ConsumerCounts;
use longshore::{
    Batch, BatchConsumer, BatchContext, BatchHandler, ErrorClass, Event, EventConsumer,
    EventContext, EventHandler, Failure, Outcome, Outcomes,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use support::{Harness, drained, until};

type Boxed = Box<dyn StdError + Send + Sync>;

const SECOND: Duration = Duration::from_secs(1);

fn number(event: &Event) -> i64 {
    event.sequence_number().0
}

/// 3 is refused for good, 5 is not a number.
async fn store(event: Event) -> Result<(), Failure> {
    match number(&event) {
        3 => Err(Failure::permanent("refused"))?,
        5 => drop("five".parse::<u32>()?),
        _ => {}
    }
    Ok(())
}

/// What a handler of batches makes of ten events: their counts, and the numbers of the dead letters.
async fn of_ten(handler: impl BatchHandler) -> (ConsumerCounts, Vec<i64>) {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let handle = harness
        .builder()
        .max_batch_size(10)
        .handler_timeout(Some(90 * SECOND))
        .max_attempts(1)
        .max_age(SECOND)
        .batch_handler(handler)
        .expect("valid")
        .start();
    until("all", || {
        let counts = handle.snapshot().counts;
        counts.done + counts.skipped + counts.dead_letters == 10
    })
    .await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    let letters = harness.letters.letters();
    (exit.counts, letters.iter().map(|letter| number(&letter.event)).collect())
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_handled_several_events_at_once_and_each_ends_by_itself() {
    let in_words = |batch: Batch, _: BatchContext| batch.for_each_concurrent(4, store);
    let as_a_stream = |batch: Batch, _: BatchContext| async move {
        stream::iter(batch).map(store).buffered(4).collect::<Outcomes>().await
    };
    let one_by_one = |batch: Batch, _: BatchContext| async move {
        let mut outcomes = Vec::new();
        for event in batch {
            outcomes.push(Outcome::from(store(event).await));
        }
        outcomes
    };
    let told = [of_ten(in_words).await, of_ten(as_a_stream).await, of_ten(one_by_one).await];
    for (counts, mut letters) in told {
        letters.sort_unstable();
        assert_eq!((counts.done, letters), (8, vec![3, 5]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_runs_as_many_events_at_once_as_it_is_told() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let peak = Arc::clone(&most);
    let (counts, _) = of_ten(move |batch: Batch, _: BatchContext| {
        let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
        batch.for_each_concurrent(4, move |_| {
            let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
            async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(SECOND).await;
                now.fetch_sub(1, Ordering::SeqCst);
            }
        })
    })
    .await;
    assert_eq!((counts.done, most.load(Ordering::SeqCst)), (10, 4));
}

#[tokio::test(start_paused = true)]
async fn errors_of_any_kind_fail_their_event_or_their_batch() {
    async fn boxed(event: Event, _: EventContext) -> Result<(), Boxed> {
        if number(&event) == 3 {
            Err("boxed")?;
        }
        Ok(())
    }
    async fn says_more(event: Event, _: EventContext) -> Result<Outcome, anyhow::Error> {
        anyhow::ensure!(number(&event) != 3, "anyhow");
        Ok(Outcome::skip("known"))
    }
    async fn whole(batch: Batch, _: BatchContext) -> Result<(), Boxed> {
        for event in batch {
            store(event).await.map_err(|failure| failure.to_string())?;
        }
        Ok(())
    }
    let message = |harness: &Harness| harness.letters.letters()[0].failure.message.clone();
    for (name, harness) in [("boxed", Harness::new(1)), ("anyhow", Harness::new(1))] {
        harness.publish(0, 5);
        let builder = harness.builder().max_attempts(1).max_age(SECOND);
        let consumer = match name {
            "boxed" => builder.event_handler(boxed),
            _ => builder.event_handler(says_more),
        };
        let handle = consumer.expect("valid").start();
        until("all", || {
            let counts = handle.snapshot().counts;
            counts.done + counts.skipped + counts.dead_letters == 5
        })
        .await;
        drained(handle).await;
        assert_eq!(message(&harness), name);
    }
    let (counts, mut letters) = of_ten(whole).await;
    letters.sort_unstable();
    assert_eq!((counts.done, letters), (8, vec![3, 5]), "halved until they were alone");
}

/// A handler that is a type, and is shared.
#[derive(Default)]
struct Count(AtomicUsize);

impl EventHandler for Count {
    async fn handle(&self, _: Event, _: EventContext) -> Outcome {
        self.0.fetch_add(1, Ordering::SeqCst);
        Outcome::Done
    }
}

impl BatchHandler for Count {
    async fn handle(&self, batch: Batch, _: BatchContext) -> Outcomes {
        self.0.fetch_add(batch.len(), Ordering::SeqCst);
        Outcomes::all_done()
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_in_an_arc_is_a_handler() {
    let count = Arc::new(Count::default());
    let harness = Harness::new(1);
    harness.publish(0, 5);
    let handle = harness.builder().event_handler(Arc::clone(&count)).expect("valid").start();
    until("all", || count.0.load(Ordering::SeqCst) == 5).await;
    assert!(drained(handle).await.is_clean());
    let (counts, _) = of_ten(Arc::clone(&count)).await;
    assert_eq!((counts.done, count.0.load(Ordering::SeqCst)), (10, 15));
}

#[tokio::test(start_paused = true)]
async fn progress_renews_the_time_limit_of_a_call() {
    let harness = Harness::new(1);
    harness.publish(0, 3);
    let ends = Arc::new(Mutex::new(Vec::new()));
    let (begun, record) = (Instant::now(), Arc::clone(&ends));
    let handle = harness
        .builder()
        .handler_timeout(Some(10 * SECOND))
        .event_handler(move |event: Event, context: EventContext| {
            let record = Arc::clone(&record);
            async move {
                let deadline = context.deadline().expect("there is one");
                match number(&event) {
                    // It says so, for a minute.
                    0 => {
                        for _ in 0..10 {
                            sleep(6 * SECOND).await;
                            context.progress();
                            assert_eq!(context.deadline(), Some(Instant::now() + 10 * SECOND));
                        }
                    }
                    // It says so once, and then hangs; the next attempt does not.
                    1 if context.attempt() == 1 => {
                        sleep(6 * SECOND).await;
                        context.clone().progress();
                        assert_eq!(context.deadline(), Some(deadline + 6 * SECOND));
                        pending::<()>().await;
                    }
                    _ => {}
                }
                let ended = (number(&event), context.attempt(), begun.elapsed().as_secs());
                record.lock().expect("lock").push(ended);
            }
        })
        .expect("valid")
        .start();
    until("all", || handle.snapshot().counts.done == 3).await;
    assert!(drained(handle).await.is_clean());
    let ends = ends.lock().expect("lock").clone();
    assert_eq!(ends[0], (2, 1, 0));
    let (event, attempt, at) = ends[1];
    assert!((event, attempt) == (1, 2) && at >= 16, "dropped 10 s after its last word: {at}");
    assert!(at < 30, "{at}");
    assert_eq!(ends[2], (0, 1, 60), "one attempt, six times as long as the limit");
}

#[tokio::test(start_paused = true)]
async fn a_batch_renews_its_time_limit_from_any_of_its_events() {
    let (counts, letters) = of_ten(|batch: Batch, context: BatchContext| {
        assert!(context.deadline().is_some());
        batch.for_each_concurrent(1, move |event| {
            let context = context.clone();
            async move {
                sleep(60 * SECOND).await;
                context.progress();
                drop(event);
            }
        })
    })
    .await;
    assert_eq!((counts.done, counts.retried, letters.len()), (10, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn hooks_are_awaited_before_the_first_event_and_before_the_exit() {
    let harness = Harness::new(2);
    (0..2).for_each(|partition| harness.publish(partition, 1));
    let journal = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let journal = Arc::clone(&journal);
        move |partition: String| journal.lock().expect("lock").push((partition, what))
    };
    let (assigned, handled, revoked) = (note("assigned"), note("handled"), note("revoked"));
    let (assigned, revoked) = (Arc::new(assigned), Arc::new(revoked));
    let transport = Arc::new(harness.hub.transport("$Default"));
    let handle = EventConsumer::builder(transport, harness.checkpoints.clone())
        .on_partition_assigned(move |partition| {
            let assigned = Arc::clone(&assigned);
            async move {
                sleep(SECOND).await;
                assigned(partition.id.to_string());
            }
        })
        .on_partition_revoked(move |partition| {
            let revoked = Arc::clone(&revoked);
            async move {
                sleep(SECOND).await;
                revoked(partition.id.to_string());
            }
        })
        .handler(move |event: Event, _: EventContext| {
            handled(event.partition().id.to_string());
            async {}
        })
        .expect("valid")
        .start();
    sleep(SECOND / 2).await;
    assert!(!handle.is_ready(), "the hooks have not ended");
    until("both", || handle.snapshot().counts.done == 2).await;
    assert!(drained(handle).await.is_clean());
    let journal = journal.lock().expect("lock").clone();
    for partition in ["0", "1"] {
        let of_it = journal.iter().filter(|(id, _)| id == partition).map(|(_, what)| *what);
        assert_eq!(of_it.collect::<Vec<_>>(), ["assigned", "handled", "revoked"]);
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_that_hang_hold_no_end_up() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    let builder = || {
        BatchConsumer::builder(
            Arc::new(harness.hub.transport("$Default")),
            harness.checkpoints.clone(),
        )
    };
    let handler = || async |_: Event, _: EventContext| {};
    let begun = Instant::now();
    let entered = Arc::new(Notify::new());
    let enter = Arc::clone(&entered);
    let consumer = builder()
        .on_partition_assigned(move |_| {
            enter.notify_one();
            pending()
        })
        .event_handler(handler())
        .expect("valid");
    let exit = consumer.run_until(entered.notified()).await.expect("clean");
    assert_eq!(exit.counts.received, 0);
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());

    let handle = builder()
        .drain_timeout(5 * SECOND)
        .on_partition_revoked(|_| pending())
        .event_handler(handler())
        .expect("valid")
        .start();
    until("all", || handle.snapshot().counts.done == 1).await;
    let begun = Instant::now();
    assert!(drained(handle).await.is_clean());
    assert!((5..7).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_class_of_our_own_errors_is_kept_in_a_box() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    let handle = harness
        .builder()
        .event_handler(async |_: Event, _: EventContext| {
            let error = longshore::Error::new(ErrorClass::BadData, "read the order", "it is cut");
            Err::<(), Boxed>(error.into())
        })
        .expect("valid")
        .start();
    until("a dead letter", || handle.snapshot().counts.dead_letters == 1).await;
    drained(handle).await;
    let letters = harness.letters.letters();
    assert_eq!(letters[0].failure.class, ErrorClass::BadData);
    assert_eq!(letters[0].attempts, 1, "trying again is useless");
}
