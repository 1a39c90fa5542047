//! The delivery contract of `BatchConsumer`, on the memory transport and stores, in paused time.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::config::{DEFAULT_REOPEN_BACKOFF, LostPartition, OwnerLevel, PositionLost};
use longshore::consumer::{ExitReason, Settler, StopReason};
use longshore::event::{SequenceNumber, StartPosition};
use longshore::state::batch_buffer::FlushReason;
use longshore::state::resume::Continuity;
use longshore::transport::LinkStart;
use longshore::{
    Batch, BatchConsumer, BatchContext, ConsumerHandle, ConsumerOptions, ErrorClass, Event,
    EventContext, Failure, Outcome, Outcomes, OutgoingEvent, decoded,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use support::{FlakyStore, Harness, Seen, drained, unsettled, until};

// Batches.

#[tokio::test(start_paused = true)]
async fn size_timeout_and_drain_flush_batches() {
    let harness = Harness::new(1);
    harness.publish(0, 47);
    let batches: Arc<Mutex<Vec<(usize, FlushReason)>>> = Arc::default();
    let record = batches.clone();
    let handle = harness
        .builder()
        .batch_handler(move |batch: Batch, context: BatchContext| {
            record.lock().expect("lock").push((batch.len(), context.flush_reason()));
            async { Ok::<(), Failure>(()) }
        })
        .expect("valid")
        .start();
    let started = Instant::now();
    until("the timeout's batch", || batches.lock().expect("lock").len() == 3).await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    harness.publish(0, 5);
    until("received", || unsettled(&handle) == 5).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(
        *batches.lock().expect("lock"),
        [
            (20, FlushReason::Size),
            (20, FlushReason::Size),
            (7, FlushReason::Timeout),
            (5, FlushReason::Drain)
        ]
    );
    assert_eq!(harness.checkpointed_to("0").await, Some(51));
}

#[tokio::test(start_paused = true)]
async fn bytes_flush_a_batch() {
    let harness = Harness::new(1);
    for _ in 0..4 {
        harness.hub.publish(0, OutgoingEvent::new(vec![0_u8; 40_000]));
    }
    let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let record = sizes.clone();
    let handle = harness
        .builder()
        .max_batch_bytes(100_000)
        .batch_handler(move |batch: Batch, _: BatchContext| {
            record.lock().expect("lock").push(batch.len());
            async { Ok::<(), Failure>(()) }
        })
        .expect("valid")
        .start();
    until("both batches", || sizes.lock().expect("lock").len() == 2).await;
    let exit = drained(handle).await;
    assert_eq!(*sizes.lock().expect("lock"), [2, 2]);
    assert_eq!(exit.counts.batches_by_bytes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_short_byte_budget_flushes_and_pauses_and_everything_is_handled() {
    let harness = Harness::new(2);
    for partition in 0..2 {
        for _ in 0..40 {
            harness.hub.publish(partition, OutgoingEvent::new(vec![0_u8; 10_000]));
        }
    }
    let mut options = ConsumerOptions::default();
    options.memory_budget_bytes = 64 * 1024;
    options.prefetch_events = 1;
    options.batch_timeout = Duration::from_secs(600);
    options.max_batch_size = 1_000;
    options.max_batch_bytes = 1 << 30;
    let seen = harness.seen.clone();
    let handle = harness
        .builder()
        .options(options)
        .batch_handler(move |batch: Batch, _: BatchContext| {
            batch.iter().for_each(|event| seen.record(event));
            async { Ok::<(), Failure>(()) }
        })
        .expect("valid")
        .start();
    until("all", || harness.seen.len() == 80).await;
    assert_eq!(handle.snapshot().memory_used_bytes, 2 * 10_512, "what the links may prefetch");
    let exit = drained(handle).await;
    assert!(exit.counts.batches_by_pressure > 0, "{:?}", exit.counts);
}

#[tokio::test(start_paused = true)]
async fn batches_in_flight_never_exceed_their_slots() {
    let harness = Harness::new(4);
    (0..4).for_each(|partition| harness.publish(partition, 100));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak, seen) = (running.clone(), most.clone(), harness.seen.clone());
    let handle = harness
        .builder()
        .max_batch_size(10)
        .max_batches_in_flight(3)
        .batch_handler(move |batch: Batch, _: BatchContext| {
            let (now, peak, seen) = (now.clone(), peak.clone(), seen.clone());
            async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(10)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                batch.iter().for_each(|event| seen.record(event));
                Ok::<(), Failure>(())
            }
        })
        .expect("valid")
        .start();
    until("all", || harness.seen.len() == 400).await;
    drained(handle).await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_whole_is_retried_and_a_wrong_number_of_outcomes_too() {
    let harness = Harness::new(1);
    harness.publish(0, 3);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let handle = harness
        .builder()
        .batch_handler(move |batch: Batch, _: BatchContext| {
            let call = count.fetch_add(1, Ordering::SeqCst);
            async move {
                match call {
                    0 => Err(Failure::transient("the database is away")),
                    1 => Ok(Outcomes::each([Outcome::Done])),
                    2 => panic!("a bug"),
                    _ => Ok(Outcomes::each(batch.iter().map(|_| Outcome::Done))),
                }
            }
        })
        .expect("valid")
        .start();
    until("settled", || handle.snapshot().counts.done == 3).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean());
    // Three, two and one, of the two one each, and the one that panicked once more.
    assert_eq!(exit.counts.batches_by_bisection, 5);
    assert_eq!(exit.counts.retried, 1, "that of the event that was alone");
    assert_eq!(harness.checkpointed_to("0").await, Some(2));
    assert_eq!(harness.letters.letters().len(), 0);
}

// Events one by one.

#[tokio::test(start_paused = true)]
async fn a_straggler_never_leaves_a_slot_idle() {
    let harness = Harness::new(2);
    (0..2).for_each(|partition| harness.publish(partition, 500));
    let seen = harness.seen.clone();
    let handle = harness
        .builder()
        .max_events_in_flight(10)
        .event_handler(move |event: Event, _: EventContext| {
            let seen = seen.clone();
            async move {
                let slow = event.sequence_number().0 == 0;
                sleep(Duration::from_millis(if slow { 900 } else { 10 })).await;
                seen.record(&event);
            }
        })
        .expect("valid")
        .start();
    let started = Instant::now();
    until("all", || harness.seen.len() == 1_000).await;
    // 998 x 10 ms and 2 x 900 ms over 10 slots are 1,178 ms of work.
    assert!(started.elapsed() < Duration::from_millis(1_260), "{:?}", started.elapsed());
    let exit = drained(handle).await;
    assert!(exit.is_clean());
    assert_eq!(exit.counts.batches(), 50, "counted as a batch handler would get them");
}

#[tokio::test(start_paused = true)]
async fn slots_go_round_the_partitions() {
    let harness = Harness::new(2);
    harness.publish(0, 1_000);
    harness.publish(1, 50);
    let seen = harness.seen.clone();
    let handle = harness
        .builder()
        .max_events_in_flight(2)
        .event_handler(move |event: Event, _: EventContext| {
            let seen = seen.clone();
            async move {
                sleep(Duration::from_millis(10)).await;
                seen.record(&event);
            }
        })
        .expect("valid")
        .start();
    let of = |id: &str| harness.seen.counts().keys().filter(|(seen, _)| seen == id).count();
    until("the small partition", || of("1") == 50).await;
    assert!(of("0") <= 60, "the large partition took {} slots meanwhile", of("0"));
    handle.stop();
}

#[tokio::test(start_paused = true)]
async fn each_outcome_settles_as_it_should() {
    let harness = Harness::new(1);
    harness.publish(0, 6);
    let seen = harness.seen.clone();
    let handle = harness
        .builder()
        .event_handler(move |event: Event, context: EventContext| {
            seen.record(&event);
            async move {
                match (event.sequence_number().0, context.attempt()) {
                    (0, _) => Outcome::Done,
                    (1, _) => Outcome::skip("not ours"),
                    (2, 1) => Outcome::retry_now(Failure::transient("once more")),
                    (3, 1) => {
                        Outcome::retry_after(Duration::from_secs(40), Failure::transient("later"))
                    }
                    (4, _) => Outcome::dead_letter(Failure::permanent("404")),
                    (5, _) => Outcome::retry(Failure::transient("always")),
                    _ => Outcome::Done,
                }
            }
        })
        .expect("valid")
        .start();
    until("settled", || {
        let counts = handle.snapshot().counts;
        counts.done == 3 && counts.skipped == 1 && counts.dead_letters == 2
    })
    .await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(harness.checkpointed_to("0").await, Some(5));
    let letters = harness.letters.letters();
    let of = |number| letters.iter().find(|letter| letter.event.sequence_number().0 == number);
    assert_eq!(of(4).map(|letter| letter.attempts), Some(1));
    let exhausted = of(5).expect("dead letter");
    assert_eq!(exhausted.attempts, 5);
    assert_eq!(exhausted.failure.message, "always");
    assert_eq!(harness.seen.counts().values().sum::<usize>(), 1 + 1 + 2 + 2 + 1 + 5);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_or_hangs_is_survived() {
    let harness = Harness::new(1);
    harness.publish(0, 3);
    let handle = harness
        .builder()
        .handler_timeout(Some(Duration::from_secs(5)))
        .event_handler(move |event: Event, context: EventContext| async move {
            match (event.sequence_number().0, context.attempt()) {
                (0, 1) => panic!("a bug"),
                (1, 1) => std::future::pending::<()>().await,
                _ => {}
            }
        })
        .expect("valid")
        .start();
    until("all done", || handle.snapshot().counts.done == 3).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(exit.counts.retried, 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_does_not_decode_becomes_a_dead_letter_with_its_bytes() {
    let harness = Harness::new(1);
    harness.hub.publish(0, OutgoingEvent::new(&b"17"[..]));
    harness.hub.publish(0, OutgoingEvent::new(&b"\xff\x00 no number"[..]));
    harness.hub.publish(0, OutgoingEvent::new(&b""[..]));
    let sum = Arc::new(AtomicUsize::new(0));
    let total = sum.clone();
    let handler = decoded(
        |event: &Event| serde_json::from_slice::<usize>(event.body()),
        move |number: usize, _: Event, _: EventContext| {
            total.fetch_add(number, Ordering::SeqCst);
            async {}
        },
    );
    let handle = harness.builder().event_handler(handler).expect("valid").start();
    until("letters", || handle.snapshot().counts.dead_letters == 2).await;
    drained(handle).await;
    assert_eq!(sum.load(Ordering::SeqCst), 17);
    let letters = harness.letters.letters();
    assert_eq!(letters[0].failure.class, ErrorClass::BadData);
    let bodies: Vec<&[u8]> = letters.iter().map(|letter| letter.event.body().as_ref()).collect();
    assert!(bodies.contains(&&b"\xff\x00 no number"[..]) && bodies.contains(&&b""[..]));
}

#[tokio::test(start_paused = true)]
async fn a_settler_ends_its_event_later_and_a_dropped_one_retries_it() {
    let harness = Harness::new(1);
    harness.publish(0, 2);
    let kept: Arc<Mutex<Vec<Settler>>> = Arc::default();
    let keep = kept.clone();
    let handle = harness
        .builder()
        .max_events_in_flight(1)
        .event_handler(move |_: Event, context: EventContext| {
            let (settler, outcome) = context.defer();
            keep.lock().expect("lock").push(settler);
            async { outcome }
        })
        .expect("valid")
        .start();
    until("both deferred on one slot", || kept.lock().expect("lock").len() == 2).await;
    assert_eq!(handle.snapshot().counts.done, 0);
    let first = kept.lock().expect("lock").remove(0);
    first.settle(Outcome::Done);
    drop(kept.lock().expect("lock").remove(0));
    until("the retry", || kept.lock().expect("lock").len() == 1).await;
    assert_eq!(handle.snapshot().counts.done, 1);
    kept.lock().expect("lock").remove(0).settle(());
    until("done", || handle.snapshot().counts.done == 2).await;
    assert!(drained(handle).await.is_clean());
}

// Dead letters.

#[tokio::test(start_paused = true)]
async fn the_watermark_waits_until_the_dead_letter_is_acknowledged() {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    harness.letters.fail_next(5);
    let handle = harness
        .builder()
        .event_handler(|event: Event, _: EventContext| async move {
            if event.sequence_number().0 == 3 {
                Outcome::dead_letter(Failure::permanent("404"))
            } else {
                Outcome::Done
            }
        })
        .expect("valid")
        .start();
    until("the others", || handle.snapshot().counts.done == 9).await;
    sleep(Duration::from_secs(3)).await;
    let checkpoint = harness.checkpoint("0").await.expect("written");
    assert_eq!(checkpoint.watermark.map(|position| position.sequence_number.0), Some(2));
    assert_eq!(checkpoint.settled_above.len(), 1, "4 to 9 travel beside it");
    until("the letter", || handle.snapshot().counts.dead_letters == 1).await;
    assert!(drained(handle).await.is_clean());
    assert_eq!(harness.checkpointed_to("0").await, Some(9));
}

#[tokio::test(start_paused = true)]
async fn without_a_sink_a_permanent_failure_stops_its_partition_alone() {
    let harness = Harness::new(2);
    (0..2).for_each(|partition| harness.publish(partition, 10));
    let mut handle = harness
        .without_letters()
        .event_handler(|event: Event, _: EventContext| async move {
            if event.partition().id.as_str() == "0" && event.sequence_number().0 == 4 {
                Outcome::dead_letter(Failure::permanent("404"))
            } else {
                Outcome::Done
            }
        })
        .expect("valid")
        .start();
    until("the other partition", || handle.snapshot().counts.done >= 14).await;
    sleep(Duration::from_secs(60)).await;
    harness.publish(1, 5);
    until("it goes on", || {
        handle.snapshot().partitions[1].settled_to.is_some_and(|number| number.0 == 14)
    })
    .await;
    handle.drain();
    let exit = handle.join().await;
    assert!(matches!(
        &exit.partitions[0].reason,
        StopReason::NoDeadLetterSink { sequence_number, .. } if sequence_number.0 == 4
    ));
    assert!(matches!(exit.partitions[1].reason, StopReason::Drained));
    assert_eq!(harness.checkpointed_to("0").await, Some(3), "never passed over");
    assert_eq!(harness.checkpointed_to("1").await, Some(14));
}

// Checkpoints and restarts.

#[tokio::test(start_paused = true)]
async fn a_restart_repeats_nothing_that_settled_beyond_an_unfinished_first_event() {
    for start in [StartPosition::Earliest, StartPosition::Latest] {
        let harness = Harness::new(1);
        let mut options = ConsumerOptions::default();
        options.start_position = start;
        options.drain_timeout = Duration::ZERO;
        let seen = harness.seen.clone();
        let builder = harness.builder().options(options.clone());
        let first = builder.event_handler(move |event: Event, _: EventContext| {
            let seen = seen.clone();
            async move {
                seen.record(&event);
                if event.sequence_number().0 == 0 {
                    std::future::pending::<()>().await;
                }
                Outcome::Done
            }
        });
        let first = first.expect("valid").start();
        until("the claim", || first.is_ready()).await;
        harness.publish(0, 5);
        until("the others", || first.snapshot().counts.done == 4).await;
        drained(first).await;
        assert_eq!(harness.checkpointed_to("0").await, None);
        let seen = harness.seen.clone();
        let builder = harness.builder().options(options);
        let second = builder.event_handler(move |event: Event, _: EventContext| {
            seen.record(&event);
            async { Outcome::Done }
        });
        let second = second.expect("valid").start();
        until("all", || {
            let partitions = second.snapshot().partitions;
            partitions.first().and_then(|first| first.settled_to).is_some_and(|to| to.0 == 4)
        })
        .await;
        assert!(drained(second).await.is_clean());
        assert_eq!(harness.seen.numbers(), [0, 1, 2, 3, 4, 0], "{start:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_repeats_only_what_was_unfinished() {
    let harness = Harness::new(1);
    harness.publish(0, 100);
    let seen = harness.seen.clone();
    let first = harness
        .builder()
        .max_events_in_flight(200)
        .drain_timeout(Duration::ZERO)
        .event_handler(move |event: Event, _: EventContext| {
            let seen = seen.clone();
            async move {
                if [10, 50, 51].contains(&event.sequence_number().0) {
                    std::future::pending::<()>().await;
                }
                seen.record(&event);
            }
        })
        .expect("valid")
        .start();
    until("97", || harness.seen.len() == 97).await;
    let exit = drained(first).await;
    assert_eq!(exit.partitions[0].cut_handlers, 3);
    assert!(!exit.is_clean());
    assert_eq!(harness.checkpointed_to("0").await, Some(9));

    harness.publish(0, 5);
    let again = Seen::default();
    let record = again.clone();
    let second = harness
        .builder()
        .event_handler(move |event: Event, _: EventContext| {
            record.record(&event);
            async {}
        })
        .expect("valid")
        .start();
    until("the rest", || again.len() == 8).await;
    assert!(drained(second).await.is_clean());
    let mut numbers = again.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, [10, 50, 51, 100, 101, 102, 103, 104]);
    assert_eq!(harness.checkpointed_to("0").await, Some(104));
}

#[tokio::test(start_paused = true)]
async fn checkpoints_are_coalesced_and_none_is_written_where_nothing_moved() {
    let harness = Harness::new(1);
    harness.publish(0, 1_000);
    let seen = harness.seen.clone();
    let handle = harness
        .builder()
        .event_handler(move |event: Event, _: EventContext| {
            let seen = seen.clone();
            async move {
                sleep(Duration::from_millis(20)).await;
                seen.record(&event);
            }
        })
        .expect("valid")
        .start();
    until("all", || harness.seen.len() == 1_000).await;
    sleep(Duration::from_secs(600)).await;
    let exit = drained(handle).await;
    // 1,000 x 20 ms over 10 slots are 2 s of work: the claim, at most one write a second, the last.
    assert!((3..=5).contains(&exit.counts.checkpoints), "{}", exit.counts.checkpoints);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_loses_answers_stops_nothing_and_catches_up() {
    let harness = Harness::new(1);
    let store = Arc::new(FlakyStore::new(&harness, 3));
    let seen = harness.seen.clone();
    let handle = BatchConsumer::builder(Arc::new(harness.hub.transport("$Default")), store.clone())
        .seed(3)
        .event_handler(move |event: Event, _: EventContext| {
            seen.record(&event);
            async {}
        })
        .expect("valid")
        .start();
    for round in 1..=6 {
        harness.publish(0, 50);
        if round == 2 {
            store.0.fail_next(9);
        }
        until("handled", || harness.seen.len() == round * 50).await;
        sleep(Duration::from_secs(20)).await;
    }
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert!(exit.counts.checkpoint_failures > 0);
    assert_eq!(harness.checkpointed_to("0").await, Some(299));
    assert!(harness.seen.counts().values().all(|count| *count == 1));
}

#[tokio::test(start_paused = true)]
async fn latest_is_remembered_from_the_claim_on() {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let mut options = ConsumerOptions::default();
    options.start_position = StartPosition::Latest;
    let idle = harness
        .builder()
        .options(options.clone())
        .event_handler(|_: Event, _: EventContext| async {})
        .expect("valid")
        .start();
    until("ready", || idle.is_ready()).await;
    drained(idle).await;
    harness.publish(0, 3);
    let handle = harness.start_recording(options);
    until("what came while nobody was there", || harness.seen.len() == 3).await;
    drained(handle).await;
    assert_eq!(harness.seen.numbers(), [10, 11, 12]);
}

// Links, owners, logs.

#[tokio::test(start_paused = true)]
async fn lost_links_repeat_and_skip_nothing() {
    let harness = Harness::new(2);
    let seen = harness.seen.clone();
    let handle = harness
        .builder()
        .event_handler(move |event: Event, _: EventContext| {
            let seen = seen.clone();
            async move {
                sleep(Duration::from_millis(3)).await;
                seen.record(&event);
            }
        })
        .expect("valid")
        .start();
    for round in 0..40 {
        for partition in 0..2 {
            harness.publish(partition, 25);
            harness.hub.skip_numbers(partition, round % 3);
        }
        sleep(Duration::from_millis(if round % 5 == 1 { 9_000 } else { 400 })).await;
        harness.hub.end_links(usize::from(round % 2 == 0), ErrorClass::Transient);
        if round % 5 == 0 {
            harness.hub.fail_opens(3, ErrorClass::Transient);
            harness.hub.fail_reads(2, ErrorClass::Throttling);
        }
        harness.publish(0, 1);
    }
    until("all", || harness.seen.len() == 40 * 51).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean());
    assert!(exit.counts.links_opened > 20, "{}", exit.counts.links_opened);
    assert!(harness.seen.counts().values().all(|count| *count == 1));
}

#[tokio::test(start_paused = true)]
async fn a_broker_away_for_ten_minutes_is_outlasted_with_capped_pauses() {
    let harness = Harness::new(1);
    harness.publish(0, 5);
    let handle = harness.start_recording(ConsumerOptions::default());
    until("the first events", || harness.seen.len() == 5).await;
    harness.hub.fail_reads(usize::MAX, ErrorClass::Transient);
    harness.hub.fail_opens(usize::MAX, ErrorClass::Transient);
    harness.hub.end_links(0, ErrorClass::Transient);
    sleep(Duration::from_secs(600)).await;
    harness.hub.fail_reads(0, ErrorClass::Transient);
    harness.hub.fail_opens(0, ErrorClass::Transient);
    harness.publish(0, 5);
    let back = Instant::now();
    until("the rest", || harness.seen.len() == 10).await;
    assert!(back.elapsed() <= DEFAULT_REOPEN_BACKOFF.max, "{:?}", back.elapsed());
    drained(handle).await;
    assert_eq!(harness.seen.numbers(), (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_busy_service_is_given_four_seconds_and_refused_credentials_thirty() {
    for (class, wait) in [(ErrorClass::Throttling, 4), (ErrorClass::Auth, 30)] {
        let harness = Harness::new(1);
        harness.publish(0, 1);
        let handle = harness.start_recording(ConsumerOptions::default());
        until("the first event", || harness.seen.len() == 1).await;
        harness.hub.end_links(0, class);
        harness.publish(0, 1);
        let refused = Instant::now();
        until("the next event", || harness.seen.len() == 2).await;
        let waited = refused.elapsed().as_secs_f64() / f64::from(wait);
        // A quarter of it is jitter.
        assert!((1.0..1.3).contains(&waited), "{class}: {waited} of {wait} s");
        drained(handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_link_of_an_idle_partition_is_counted() {
    let harness = Harness::new(2);
    let handle = harness.start_recording(ConsumerOptions::default());
    until("both links", || handle.snapshot().counts.links_opened == 2).await;
    assert_eq!(drained(handle).await.counts.links_opened, 2);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_hangs_is_given_up_and_nothing_is_lost() {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let handle = harness.start_recording(ConsumerOptions::default());
    until("the first ten", || harness.seen.len() == 10).await;
    // Silence alone is no reason.
    sleep(Duration::from_secs(600)).await;
    assert_eq!(handle.snapshot().counts.links_opened, 1);
    harness.hub.hang_links(0);
    harness.publish(0, 10);
    let hung = Instant::now();
    until("the others", || harness.seen.len() == 20).await;
    assert!(hung.elapsed() < Duration::from_secs(30), "{:?}", hung.elapsed());
    let exit = drained(handle).await;
    assert_eq!(exit.counts.links_opened, 2);
    assert!(harness.seen.counts().values().all(|count| *count == 1));
}

#[tokio::test(start_paused = true)]
async fn a_stolen_partition_writes_no_checkpoint_any_more() {
    let harness = Harness::new(1);
    harness.publish(0, 5);
    let gate = Arc::new(Semaphore::new(0));
    let (enter, lost) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let noticed = lost.clone();
    let mut old = harness
        .builder()
        .event_handler(move |_: Event, context: EventContext| {
            let (gate, lost) = (enter.clone(), noticed.clone());
            async move {
                tokio::select! {
                    permit = gate.acquire() => drop(permit),
                    () = context.partition_lost().cancelled() => {
                        lost.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        })
        .expect("valid")
        .start();
    until("in flight", || unsettled(&old) == 5).await;
    let new = harness.start_recording(ConsumerOptions::default());
    until("the new owner", || harness.seen.len() == 5).await;
    let exit = old.join().await;
    assert!(matches!(exit.partitions[0].reason, StopReason::Lost(_)), "{exit:?}");
    assert!(matches!(exit.reason, ExitReason::PartitionsStopped));
    assert_eq!(lost.load(Ordering::SeqCst), 5, "every handler was told");
    drained(new).await;
    assert_eq!(harness.checkpointed_to("0").await, Some(4));
}

#[tokio::test(start_paused = true)]
async fn handlers_of_a_stolen_partition_finish_where_they_are_let() {
    let harness = Harness::new(1);
    harness.publish(0, 5);
    let gate = Arc::new(Semaphore::new(0));
    let finished = Arc::new(AtomicUsize::new(0));
    let mut options = ConsumerOptions::default();
    options.lost_partition = LostPartition::Finish;
    let (enter, done) = (gate.clone(), finished.clone());
    let mut old = harness
        .builder()
        .options(options)
        .event_handler(move |_: Event, context: EventContext| {
            let (gate, done) = (enter.clone(), done.clone());
            async move {
                drop(gate.acquire().await);
                assert!(context.partition_lost().is_cancelled());
                assert!(!context.cancelled().is_cancelled());
                done.fetch_add(1, Ordering::SeqCst);
            }
        })
        .expect("valid")
        .start();
    until("in flight", || unsettled(&old) == 5).await;
    let new = harness.start_recording(ConsumerOptions::default());
    until("the new owner", || harness.seen.len() == 5).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(old.snapshot().slots_in_use, 5, "they are waited for");
    gate.add_permits(5);
    let exit = old.join().await;
    assert!(matches!(exit.partitions[0].reason, StopReason::Lost(_)), "{exit:?}");
    assert_eq!((exit.partitions[0].cut_handlers, finished.load(Ordering::SeqCst)), (0, 5));
    drained(new).await;
    assert_eq!(harness.checkpointed_to("0").await, Some(4));
}

#[tokio::test(start_paused = true)]
async fn a_later_claim_fences_the_earlier_owner_where_the_broker_does_not() {
    let harness = Harness::new(1);
    let mut options = ConsumerOptions::default();
    options.owner_level = OwnerLevel::None;
    let start = |seen: Seen| {
        harness
            .builder()
            .options(options.clone())
            .event_handler(move |event: Event, _: EventContext| {
                seen.record(&event);
                async {}
            })
            .expect("valid")
            .start()
    };
    let (one, other) = (Seen::default(), Seen::default());
    let mut old = start(one.clone());
    harness.publish(0, 10);
    until("the old owner", || one.len() == 10).await;
    let new = start(other.clone());
    until("the new owner", || new.is_ready()).await;
    harness.publish(0, 10);
    let exit = old.join().await;
    assert!(matches!(exit.partitions[0].reason, StopReason::Superseded(_)), "{exit:?}");
    until("the new one goes on", || other.numbers().contains(&19)).await;
    drained(new).await;
    assert_eq!(harness.checkpointed_to("0").await, Some(19));
}

#[tokio::test(start_paused = true)]
async fn a_hub_created_anew_is_read_from_its_beginning() {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let handle = harness.start_recording(ConsumerOptions::default());
    until("the old log", || harness.seen.len() == 10).await;
    harness.hub.recreate();
    harness.publish(0, 4);
    until("the new log", || harness.seen.len() == 14).await;
    drained(handle).await;
    assert_eq!(harness.checkpointed_to("0").await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_recreated_hub_stops_the_partition_where_the_policy_says_so() {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let mut options = ConsumerOptions::default();
    options.position_lost = PositionLost::Stop;
    let mut handle = harness
        .builder()
        .options(options)
        .event_handler(|_: Event, _: EventContext| async {})
        .expect("valid")
        .start();
    until("handled", || handle.snapshot().counts.done == 10).await;
    harness.hub.recreate();
    let exit = handle.join().await;
    assert!(matches!(exit.partitions[0].reason, StopReason::PositionLost(_)), "{exit:?}");
}

/// Ten events, then a link that is lost while the service refuses our position so many times.
async fn with_a_refused_position(times: usize, policy: PositionLost) -> (Harness, ConsumerHandle) {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let mut options = ConsumerOptions::default();
    options.position_lost = policy;
    let handle = harness.start_recording(options);
    until("the first ten", || harness.seen.len() == 10).await;
    harness.hub.fail_opens(times, ErrorClass::BadPosition);
    harness.hub.end_links(0, ErrorClass::Transient);
    harness.publish(0, 1);
    (harness, handle)
}

#[tokio::test(start_paused = true)]
async fn a_position_refused_once_is_asked_for_again() {
    let (harness, handle) = with_a_refused_position(1, PositionLost::Stop).await;
    until("the next event", || harness.seen.len() == 11).await;
    drained(handle).await;
    assert_eq!(harness.seen.numbers(), (0..11).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_position_refused_twice_goes_to_the_policy() {
    let (harness, handle) = with_a_refused_position(2, PositionLost::Earliest).await;
    until("the log again", || harness.seen.len() == 21).await;
    drained(handle).await;
    assert_eq!(harness.checkpointed_to("0").await, Some(10));

    let (_, mut handle) = with_a_refused_position(2, PositionLost::Stop).await;
    let exit = handle.join().await;
    let reason = &exit.partitions[0].reason;
    let refused = Continuity::Refused { start: LinkStart::After(SequenceNumber(9)) };
    assert!(matches!(reason, StopReason::PositionLost(lost) if *lost == refused), "{exit:?}");
}

#[tokio::test(start_paused = true)]
async fn what_retention_removed_is_counted_and_the_rest_is_read() {
    let harness = Harness::new(1);
    harness.publish(0, 10);
    let idle = harness
        .builder()
        .event_handler(|_: Event, _: EventContext| async {})
        .expect("valid")
        .start();
    until("ten", || idle.snapshot().counts.done == 10).await;
    drained(idle).await;
    harness.publish(0, 20);
    harness.hub.trim(0, 17);
    let handle = harness.start_recording(ConsumerOptions::default());
    until("the rest", || harness.seen.len() == 13).await;
    let exit = drained(handle).await;
    assert_eq!(exit.counts.lost_events, 7);
    assert_eq!(harness.checkpointed_to("0").await, Some(29));
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_does_not_exist_ends_the_consumer() {
    let harness = Harness::new(1);
    harness.hub.fail_reads(1, ErrorClass::Permanent);
    let mut handle = harness
        .builder()
        .event_handler(|_: Event, _: EventContext| async {})
        .expect("valid")
        .start();
    let exit = handle.join().await;
    assert!(matches!(exit.reason, ExitReason::NeverConnected(_)), "{exit:?}");
}

// Control.

#[tokio::test(start_paused = true)]
async fn a_stuck_event_pauses_intake_at_the_window() {
    let harness = Harness::new(1);
    harness.publish(0, 500);
    let gate = Arc::new(Semaphore::new(0));
    let wait = gate.clone();
    let mut options = ConsumerOptions::default();
    options.window_events = 100;
    let handle = harness
        .builder()
        .options(options)
        .event_handler(move |event: Event, _: EventContext| {
            let gate = wait.clone();
            async move {
                if event.sequence_number().0 == 0 {
                    drop(gate.acquire().await);
                }
            }
        })
        .expect("valid")
        .start();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(handle.snapshot().counts.received, 100);
    assert_eq!(handle.snapshot().counts.done, 99);
    gate.add_permits(1);
    until("all", || handle.snapshot().counts.done == 500).await;
    assert!(drained(handle).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn pause_stops_intake_and_concurrency_can_change() {
    let harness = Harness::new(1);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (running.clone(), most.clone());
    let handle = harness
        .builder()
        .max_events_in_flight(2)
        .event_handler(move |_: Event, _: EventContext| {
            let (now, peak) = (now.clone(), peak.clone());
            async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(10)).await;
                now.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .expect("valid")
        .start();
    until("ready", || handle.is_ready()).await;
    handle.pause();
    harness.publish(0, 100);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(handle.snapshot().counts.received, 0);
    handle.resume();
    until("all", || handle.snapshot().counts.done == 100).await;
    assert_eq!(most.swap(0, Ordering::SeqCst), 2);
    handle.set_concurrency(7).expect("valid");
    assert!(handle.set_concurrency(0).is_err());
    harness.publish(0, 100);
    until("all", || handle.snapshot().counts.done == 200).await;
    assert_eq!(most.swap(0, Ordering::SeqCst), 7);
    handle.set_concurrency(1).expect("valid");
    harness.publish(0, 20);
    until("all", || handle.snapshot().counts.done == 220).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
    drained(handle).await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_drains_everything_else_and_names_the_reason() {
    let harness = Harness::new(2);
    (0..2).for_each(|partition| harness.publish(partition, 10));
    let mut handle = harness
        .builder()
        .event_handler(|event: Event, _: EventContext| async move {
            if event.partition().id.as_str() == "1" && event.sequence_number().0 == 5 {
                sleep(Duration::from_millis(1)).await;
                Outcome::abort(Failure::permanent("the disk is full"))
            } else {
                sleep(Duration::from_millis(10)).await;
                Outcome::Done
            }
        })
        .expect("valid")
        .start();
    let exit = handle.join().await;
    let ExitReason::Aborted(failure) = &exit.reason else {
        panic!("{exit:?}");
    };
    assert_eq!(failure.message, "the disk is full");
    assert_eq!(exit.partitions.iter().map(|exit| exit.cut_handlers).sum::<usize>(), 0);
    assert!(harness.checkpointed_to("1").await < Some(5), "the event is delivered again");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_handlers_and_then_cuts_them() {
    let harness = Harness::new(1);
    harness.publish(0, 2);
    let asked = Arc::new(AtomicUsize::new(0));
    let noticed = asked.clone();
    let mut handle = harness
        .builder()
        .drain_timeout(Duration::from_secs(10))
        .event_handler(move |event: Event, context: EventContext| {
            let asked = noticed.clone();
            async move {
                if event.sequence_number().0 == 0 {
                    sleep(Duration::from_secs(9)).await;
                    return;
                }
                context.cancelled().cancelled().await;
                asked.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
        })
        .expect("valid")
        .start();
    until("in flight", || unsettled(&handle) == 2).await;
    let started = Instant::now();
    handle.drain();
    let exit = handle.join().await;
    assert!(
        started.elapsed() >= Duration::from_secs(11) && started.elapsed() < Duration::from_secs(12)
    );
    assert_eq!(asked.load(Ordering::SeqCst), 1, "asked to give up before it was dropped");
    assert_eq!(exit.partitions[0].cut_handlers, 1);
    assert_eq!(harness.checkpointed_to("0").await, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_second_join_says_so() {
    let harness = Harness::new(1);
    let mut handle = harness
        .builder()
        .event_handler(|_: Event, _: EventContext| async {})
        .expect("valid")
        .start();
    until("ready", || handle.is_ready()).await;
    handle.drain();
    assert!(handle.join().await.is_clean());
    let ExitReason::Failed(error) = handle.join().await.reason else {
        panic!("the exit was taken before");
    };
    assert!(error.to_string().contains("the exit was taken before"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_postponed_uses_up_no_attempt_and_holds_up_no_other() {
    let harness = Harness::new(1);
    harness.publish(0, 3);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let handle = harness
        .builder()
        .max_attempts(2)
        .event_handler(move |event: Event, context: EventContext| {
            let number = event.sequence_number().0;
            let mut seen = noted.lock().expect("lock");
            seen.push((number, context.attempt()));
            let calls = seen.iter().filter(|(other, _)| *other == number).count();
            let postponed = number == 0 && calls <= 10;
            async move {
                if postponed {
                    let failure = Failure::transient("not now");
                    Outcome::postpone(Duration::from_secs(5), failure)
                } else {
                    Outcome::Done
                }
            }
        })
        .expect("valid")
        .start();
    until("the others", || handle.snapshot().counts.done == 2).await;
    until("all", || handle.snapshot().counts.done == 3).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    let seen = seen.lock().expect("lock");
    assert!(seen.iter().all(|(_, attempt)| *attempt == 1), "{seen:?}");
    assert_eq!(seen.len(), 13);
}
