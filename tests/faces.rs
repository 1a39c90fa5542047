//! The other faces of the consumer, on the memory transport, in paused time.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::consumer::{ConsumerSetBuilder, EventConsumerBuilder, ExitReason, StopReason};
use longshore::dead_letter::DeadLetterSink;
use longshore::{
    Batch, BatchContext, ConsumerSet, ErrorClass, Event, EventConsumer, EventContext, Failure,
    Outcome, OutgoingEvent,
};
use tokio::time::sleep;

use support::{FlakyStore, Harness, drained, until};

fn event_consumer(harness: &Harness) -> EventConsumerBuilder {
    let transport = Arc::new(harness.hub.transport("$Default"));
    EventConsumer::builder(transport, harness.checkpoints.clone()).seed(7)
}

// One event after the other.

#[tokio::test(start_paused = true)]
async fn events_of_a_partition_run_one_by_one_each_checkpointed_before_the_next() {
    let harness = Harness::new(2);
    (0..2).for_each(|partition| harness.publish(partition, 20));
    let behind = Arc::new(Mutex::new(Vec::new()));
    let (record, seen) = (behind.clone(), harness.seen.clone());
    let harness = Arc::new(harness);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak, store) = (running.clone(), most.clone(), harness.clone());
    let handle = event_consumer(&harness)
        .handler(move |event: Event, _: EventContext| {
            let (record, seen, store) = (record.clone(), seen.clone(), store.clone());
            let (now, peak) = (now.clone(), peak.clone());
            async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let stored = store.checkpointed_to(event.partition().id.as_str()).await;
                record.lock().expect("lock").push((event.sequence_number().0, stored));
                sleep(Duration::from_millis(10)).await;
                seen.record(&event);
                now.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .expect("valid")
        .start();
    until("all", || harness.seen.len() == 40).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(most.load(Ordering::SeqCst), 2, "partitions do not wait for each other");
    for (number, stored) in behind.lock().expect("lock").iter() {
        let stored: Option<i64> = *stored;
        assert_eq!(stored.unwrap_or(-1), number - 1, "{number}");
    }
    assert_eq!(harness.checkpointed_to("0").await, Some(19));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_may_pass_holds_the_partition_and_its_checkpoint() {
    let harness = Harness::new(1);
    harness.publish(0, 3);
    let seen = harness.seen.clone();
    let handle = event_consumer(&harness)
        .handler(move |event: Event, context: EventContext| {
            seen.record(&event);
            let fails = event.sequence_number().0 == 1 && context.attempt() < 4;
            async move { if fails { Err(Failure::transient("not yet")) } else { Ok(()) } }
        })
        .expect("valid")
        .start();
    until("the second attempt", || harness.seen.len() == 3).await;
    assert_eq!(harness.checkpointed_to("0").await, Some(0));
    until("all", || handle.snapshot().counts.done == 3).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(harness.seen.numbers(), [0, 1, 1, 1, 1, 2]);
    assert_eq!(harness.checkpointed_to("0").await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn without_a_sink_a_failed_event_stops_its_partition_and_leaves_nothing_behind() {
    let harness = Harness::new(1);
    harness.publish(0, 5);
    let seen = harness.seen.clone();
    let alive = Arc::new(());
    let held = alive.clone();
    let mut handle = event_consumer(&harness)
        .max_attempts(1)
        .handler(move |event: Event, _: EventContext| {
            seen.record(&event);
            let (held, fails) = (held.clone(), event.sequence_number().0 == 2);
            async move {
                sleep(Duration::from_millis(10)).await;
                drop(held);
                if fails { Err(Failure::transient("away")) } else { Ok(()) }
            }
        })
        .expect("valid")
        .start();
    let exit = handle.join().await;
    assert!(matches!(exit.reason, ExitReason::PartitionsStopped), "{exit:?}");
    let StopReason::NoDeadLetterSink { sequence_number, failure } = &exit.partitions[0].reason
    else {
        panic!("{exit:?}");
    };
    assert_eq!((sequence_number.0, failure.message.as_str()), (2, "away"));
    assert_eq!(harness.checkpointed_to("0").await, Some(1), "no checkpoint of the failed event");
    assert_eq!(harness.seen.numbers(), [0, 1, 2], "nothing after it was begun");
    assert_eq!(Arc::strong_count(&alive), 1, "the handler and its calls are gone");
    assert_eq!(harness.hub.open_links(0), 0);
}

#[tokio::test(start_paused = true)]
async fn the_next_event_waits_for_the_dead_letter_of_the_last() {
    let harness = Harness::new(1);
    harness.publish(0, 3);
    harness.letters.fail_next(3);
    let letters: Arc<dyn DeadLetterSink> = harness.letters.clone();
    let seen = harness.seen.clone();
    let handle = event_consumer(&harness)
        .dead_letters(letters)
        .handler(move |event: Event, _: EventContext| {
            seen.record(&event);
            let fails = event.sequence_number().0 == 0;
            async move { if fails { Err(Failure::permanent("404")) } else { Ok(()) } }
        })
        .expect("valid")
        .start();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(harness.seen.numbers(), [0]);
    assert_eq!(harness.checkpointed_to("0").await, None);
    until("all", || handle.snapshot().counts.done == 2).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(harness.letters.letters().len(), 1);
    assert_eq!(harness.checkpointed_to("0").await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_pauses_the_partition_one_event_ahead() {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let store = Arc::new(FlakyStore::new(&harness, 0));
    let (seen, fail) = (harness.seen.clone(), store.clone());
    let transport = Arc::new(harness.hub.transport("$Default"));
    let handle = EventConsumer::builder(transport, store.clone())
        .handler(move |event: Event, _: EventContext| {
            seen.record(&event);
            if event.sequence_number().0 == 4 {
                fail.0.fail_next(1_001);
            }
            async {}
        })
        .expect("valid")
        .start();
    until("half", || harness.seen.len() == 5).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(harness.seen.len(), 5, "nothing is begun above what a crash repeats");
    store.0.fail_next(0);
    until("all", || harness.seen.len() == 10).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(harness.seen.numbers(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn what_a_consumer_of_batches_settled_out_of_order_is_passed() {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let seen = harness.seen.clone();
    let batches = harness
        .builder()
        .drain_timeout(Duration::ZERO)
        .event_handler(move |event: Event, _: EventContext| {
            let seen = seen.clone();
            async move {
                if [3, 7].contains(&event.sequence_number().0) {
                    std::future::pending::<()>().await;
                }
                seen.record(&event);
            }
        })
        .expect("valid")
        .start();
    until("the others", || harness.seen.len() == 8).await;
    drained(batches).await;
    let again = support::Seen::default();
    let record = again.clone();
    let handle = event_consumer(&harness)
        .handler(move |event: Event, _: EventContext| {
            record.record(&event);
            async {}
        })
        .expect("valid")
        .start();
    harness.publish(0, 2);
    until("the rest", || handle.snapshot().counts.done == 4).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(again.numbers(), [3, 7, 10, 11]);
}

#[tokio::test(start_paused = true)]
async fn run_until_drains_at_the_signal_and_a_dropped_call_leaves_nothing_behind() {
    let harness = Harness::new(2);
    (0..2).for_each(|partition| harness.publish(partition, 1));
    let seen = harness.seen.clone();
    let consumer = event_consumer(&harness)
        .handler(move |event: Event, _: EventContext| {
            let seen = seen.clone();
            async move {
                sleep(Duration::from_secs(2)).await;
                seen.record(&event);
            }
        })
        .expect("valid");
    let exit = consumer.run_until(sleep(Duration::from_secs(1))).await.expect("clean");
    assert_eq!(exit.counts.done, 2);
    assert_eq!(harness.seen.len(), 2, "the drain waited for the handlers");

    (0..2).for_each(|partition| harness.publish(partition, 1));
    let calls = Arc::new(());
    let held = calls.clone();
    let consumer = event_consumer(&harness)
        .handler(move |_: Event, _: EventContext| {
            let held = held.clone();
            async move {
                std::future::pending::<()>().await;
                drop(held);
            }
        })
        .expect("valid");
    let mut run = Box::pin(consumer.run_until(std::future::pending::<()>()));
    let begun = async {
        while Arc::strong_count(&calls) < 4 {
            sleep(Duration::from_millis(5)).await
        }
    };
    tokio::select! {
        exit = &mut run => panic!("{exit:?}"),
        () = begun => {}
    }
    drop(run);
    until("nothing is left", || Arc::strong_count(&calls) == 1).await;
    assert_eq!(harness.checkpointed_to("0").await, Some(0));
    assert_eq!(harness.hub.open_links(0), 0);
}

// Several entities.

/// Consumers of these entities, two partitions each.
fn set(harnesses: &[Harness]) -> ConsumerSetBuilder {
    harnesses.iter().fold(ConsumerSet::builder(), |set, one| set.consumer(one.builder()))
}

#[tokio::test(start_paused = true)]
async fn entities_share_a_handler_the_slots_and_the_drain() {
    let harnesses = ["orders", "results", "audit"].map(|entity| Harness::of(entity, 2));
    for harness in &harnesses {
        (0..2).for_each(|partition| harness.publish(partition, 50));
    }
    let seens: Vec<_> = harnesses.iter().map(|one| (one.entity(), one.seen.clone())).collect();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (running.clone(), most.clone());
    let mut handle = set(&harnesses)
        .max_events_in_flight(4)
        .event_handler(move |event: Event, _: EventContext| {
            let (now, peak) = (now.clone(), peak.clone());
            let of = seens.iter().find(|(entity, _)| *entity == event.partition().entity);
            let seen = of.map(|(_, seen)| seen.clone()).expect("one of the entities");
            async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(10)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                seen.record(&event);
            }
        })
        .expect("valid")
        .start();
    until("all", || harnesses.iter().all(|harness| harness.seen.len() == 100)).await;
    assert_eq!(most.load(Ordering::SeqCst), 4, "one set of slots for all entities");
    assert!(handle.is_ready());
    handle.set_concurrency(2).expect("valid");
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.counts.done, snapshot.slots, snapshot.entities.len()), (300, 2, 3));
    handle.pause();
    harnesses[2].publish(0, 5);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(handle.snapshot().counts.received, 300, "paused, all of them");
    handle.resume();
    until("the rest", || handle.snapshot().counts.done == 305).await;
    handle.drain();
    let exit = handle.join().await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(exit.counts().done, 305);
    for harness in &harnesses {
        assert_eq!(harness.checkpointed_to("1").await, Some(49));
    }
}

#[tokio::test(start_paused = true)]
async fn entities_share_batch_slots_and_the_memory_budget() {
    let harnesses = ["orders", "results"].map(|entity| Harness::of(entity, 2));
    for partition in 0..2 {
        harnesses[0].publish(partition, 40);
        for _ in 0..40 {
            harnesses[1].hub.publish(partition, OutgoingEvent::new(vec![0; 1_000]));
        }
    }
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (running.clone(), most.clone());
    let mut handle = set(&harnesses)
        .max_batches_in_flight(2)
        .memory_budget_bytes(1 << 20)
        .batch_handler(move |_: Batch, _: BatchContext| {
            let (now, peak) = (now.clone(), peak.clone());
            async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(10)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok::<(), Failure>(())
            }
        })
        .expect("valid")
        .start();
    until("all", || handle.snapshot().counts.done == 160).await;
    assert_eq!(most.load(Ordering::SeqCst), 2);
    let used = handle.snapshot().entities.into_iter().map(|one| one.consumer.memory_used_bytes);
    let used: Vec<usize> = used.collect();
    assert!(used[0] > 0 && used[0] == used[1], "what four links may prefetch, in one budget");
    handle.drain();
    assert!(handle.join().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn an_entity_that_ends_by_itself_leaves_the_others_alone() {
    let harnesses = ["orders", "gone"].map(|entity| Harness::of(entity, 1));
    harnesses[0].publish(0, 5);
    harnesses[1].hub.fail_reads(1, ErrorClass::Permanent);
    let mut handle =
        set(&harnesses).event_handler(|_: Event, _: EventContext| async {}).expect("valid").start();
    until("the other", || handle.snapshot().counts.done == 5).await;
    let ended: Vec<bool> = handle.snapshot().entities.iter().map(|entity| entity.ended).collect();
    assert_eq!(ended, [false, true]);
    // A join that is given up keeps what it has.
    let given_up = tokio::time::timeout(Duration::from_secs(60), handle.join()).await;
    assert!(given_up.is_err(), "the other goes on");
    harnesses[0].publish(0, 5);
    until("it goes on", || handle.snapshot().counts.done == 10).await;
    handle.drain();
    let exit = handle.join().await;
    assert!(!exit.is_clean());
    assert_eq!(exit.entities[1].entity.as_str(), "gone");
    assert!(matches!(exit.entities[1].exit.reason, ExitReason::NeverConnected(_)), "{exit:?}");
    assert!(exit.entities[0].exit.is_clean(), "{exit:?}");
}

#[tokio::test(start_paused = true)]
async fn an_abort_drains_all_entities() {
    let harnesses = ["orders", "results"].map(|entity| Harness::of(entity, 1));
    harnesses.iter().for_each(|harness| harness.publish(0, 5));
    let mut handle = set(&harnesses)
        .event_handler(|event: Event, _: EventContext| async move {
            let results = event.partition().entity.as_str() == "results";
            if results && event.sequence_number().0 == 2 {
                sleep(Duration::from_millis(1)).await;
                return Outcome::abort(Failure::permanent("the disk is full"));
            }
            sleep(Duration::from_millis(100)).await;
            Outcome::Done
        })
        .expect("valid")
        .start();
    let joined = tokio::time::timeout(Duration::from_secs(600), handle.join()).await;
    let exit = joined.expect("the others are drained too");
    let (entity, failure) = exit.aborted().expect("aborted");
    assert_eq!((entity.as_str(), failure.message.as_str()), ("results", "the disk is full"));
    assert!(exit.entities[0].exit.is_clean(), "{exit:?}");
    assert_eq!(harnesses[0].checkpointed_to("0").await, Some(4), "drained, not cut");
    assert_eq!(harnesses[1].checkpointed_to("0").await, Some(1));
}

#[tokio::test]
async fn a_set_that_cannot_work_is_refused() {
    let refused = |set: ConsumerSetBuilder| {
        let handler = |_: Batch, _: BatchContext| async { Ok::<(), Failure>(()) };
        set.batch_handler(handler).expect_err("refused").to_string()
    };
    let (harness, spelled) = (Harness::of("orders", 1), Harness::of("Orders", 1));
    let one = || harness.builder();
    for (set, message) in [
        (ConsumerSet::builder(), "consumers = 0 cannot be used: there must be at least 1"),
        (
            ConsumerSet::builder().consumer(one()).consumer(one()),
            "consumers = orders as $Default, twice cannot be used",
        ),
        (
            ConsumerSet::builder().consumer(one()).consumer(spelled.builder()),
            "consumers = Orders as $Default, twice cannot be used",
        ),
        (
            ConsumerSet::builder().consumer(one()).max_events_in_flight(0),
            "max_events_in_flight = 0",
        ),
        (ConsumerSet::builder().consumer(one()).memory_budget_bytes(0), "memory_budget_bytes = 0"),
        (
            ConsumerSet::builder().consumer(one()).max_batches_in_flight(300),
            "max_batch_size x max_batches_in_flight = 20 x 300",
        ),
    ] {
        let error = refused(set);
        assert!(error.contains(message), "{error}");
    }
}
