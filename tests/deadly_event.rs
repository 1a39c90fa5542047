//! An event that ends every process that handles it becomes a dead letter, and no other event does.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::config::DEFAULT_MAX_TAKEOVERS;
use longshore::consumer::{BatchConsumerBuilder, ExitReason, HandlerError, StopReason};
use longshore::state::takeovers::TRIAL_TIME;
use longshore::{Batch, BatchContext, Event, EventContext, Outcomes};
use support::Harness;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

const SLOW: (&str, i64) = ("0", 3);
const PARTITIONS: usize = 4;
const EVENTS: usize = 300;
/// Partition and sequence number.
const DEADLY: (&str, i64) = ("2", 117);

/// The first ones make progress before they die, and do not count.
const MOST_DEATHS: u64 = 3 * DEFAULT_MAX_TAKEOVERS as u64;

type Handled = Arc<Mutex<BTreeSet<(String, i64)>>>;

/// How much longer than the others some take.
#[derive(Clone, Copy, Default)]
struct Times {
    slow: Duration,
    /// Until the process dies.
    deadly: Duration,
}

fn name(event: &Event) -> (String, i64) {
    (event.partition().id.to_string(), event.sequence_number().0)
}

/// Runs a process until it dies, or has nothing more to do; returns whether it died. Nothing of it
/// is drained: its runtime is gone at once.
fn process(builder: BatchConsumerBuilder, handled: &Handled, times: Times) -> bool {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    let death = Arc::new(Notify::new());
    let (killed, handled) = (Arc::clone(&death), Arc::clone(handled));
    let has_died = runtime.block_on(async {
        let _handle = builder
            .batch_handler(move |batch: Batch, _: BatchContext| {
                let (killed, handled) = (Arc::clone(&killed), Arc::clone(&handled));
                async move {
                    let has = |event: (&str, i64)| {
                        let event = (event.0.to_owned(), event.1);
                        batch.iter().any(|one| name(one) == event)
                    };
                    // Others begin meanwhile.
                    sleep(Duration::from_millis(5)).await;
                    if has(SLOW) {
                        sleep(times.slow).await;
                    }
                    if has(DEADLY) {
                        sleep(times.deadly).await;
                        killed.notify_one();
                        std::future::pending::<()>().await;
                    }
                    handled.lock().expect("lock").extend(batch.iter().map(name));
                    Ok::<_, HandlerError>(Outcomes::all_done())
                }
            })
            .expect("valid")
            .start();
        timeout(Duration::from_secs(600), death.notified()).await.is_ok()
    });
    runtime.shutdown_background();
    has_died
}

/// Runs processes until the deadly event is found.
fn finds_it(times: Times) {
    let harness = Harness::new(PARTITIONS);
    (0..PARTITIONS).for_each(|partition| harness.publish(partition, EVENTS));
    let handled = Handled::default();
    let mut deaths = 0;
    while process(harness.builder().seed(deaths), &handled, times) {
        deaths += 1;
        assert!(deaths <= MOST_DEATHS, "it goes on");
    }
    let letters = harness.letters.letters();
    let accused: Vec<_> = letters.iter().map(|letter| name(&letter.event)).collect();
    assert_eq!(accused, [(DEADLY.0.to_owned(), DEADLY.1)]);
    assert!(letters[0].failure.message.contains("ends the process: 2 owners"), "{letters:?}");
    assert_eq!(handled.lock().expect("lock").len(), PARTITIONS * EVENTS - 1);
    println!("{deaths} processes died");
}

#[test]
fn it_becomes_a_dead_letter_and_everything_else_is_handled() {
    finds_it(Times::default());
}

#[test]
fn an_event_that_takes_longer_than_any_process_lives_is_not_blamed() {
    finds_it(Times { slow: Duration::from_secs(300), ..Times::default() });
}

#[test]
fn one_that_ends_its_process_late_is_found_too() {
    finds_it(Times { deadly: 3 * TRIAL_TIME, ..Times::default() });
}

#[test]
fn without_a_sink_its_partition_stops_and_names_it() {
    let harness = Harness::new(PARTITIONS);
    (0..PARTITIONS).for_each(|partition| harness.publish(partition, EVENTS));
    let handled = Handled::default();
    let mut deaths = 0;
    while process(harness.without_letters().seed(deaths), &handled, Times::default()) {
        deaths += 1;
        assert!(deaths <= MOST_DEATHS, "it goes on");
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    // Nothing is left but the deadly one, which no handler gets and nobody passes over.
    let called = Arc::new(AtomicBool::new(false));
    for seed in 100..103 {
        let exit = runtime.block_on(async {
            let builder = harness.without_letters().seed(seed);
            let called = Arc::clone(&called);
            let handler = move |_: Event, _: EventContext| {
                called.store(true, Ordering::Relaxed);
                async {}
            };
            let mut handle = builder.event_handler(handler).expect("valid").start();
            sleep(Duration::from_secs(60)).await;
            handle.drain();
            handle.join().await
        });
        assert!(!called.load(Ordering::Relaxed));
        assert!(matches!(exit.reason, ExitReason::Drained), "{exit:?}");
        let stopped = exit.partitions.iter().find(|one| one.partition.as_str() == DEADLY.0);
        let Some(StopReason::NoDeadLetterSink { sequence_number, failure }) =
            stopped.map(|one| &one.reason)
        else {
            panic!("{exit:?}");
        };
        assert_eq!(sequence_number.0, DEADLY.1);
        assert!(failure.message.contains("ends the process"), "{failure}");
    }
}

#[test]
fn with_no_limit_it_goes_on_for_ever() {
    let harness = Harness::new(PARTITIONS);
    (0..PARTITIONS).for_each(|partition| harness.publish(partition, EVENTS));
    let handled = Handled::default();
    for seed in 0..20 {
        assert!(process(
            harness.builder().max_takeovers(None).seed(seed),
            &handled,
            Times::default()
        ));
    }
    assert!(harness.letters.letters().is_empty());
}
