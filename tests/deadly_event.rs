//! An event that ends every process that handles it becomes a dead letter, and no other event does.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::checkpoint_store::{Checkpoint, CheckpointStore};
use longshore::config::DEFAULT_MAX_TAKEOVERS;
use longshore::consumer::{BatchConsumerBuilder, ExitReason, StopReason};
use longshore::state::takeovers::TRIAL_TIME;
use longshore::{Batch, BatchConsumer, BatchContext, Error, Event, EventContext, Lane, LaneRule};
use support::Harness;
use support::forward::{Over, OverCheckpoints};
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

const WORK: Duration = Duration::from_millis(5);

/// How long some events take.
#[derive(Clone, Copy)]
struct Times {
    slow: Duration,
    /// Until the process dies.
    deadly: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { slow: WORK, deadly: WORK }
    }
}

/// A store as far away as one in the same region.
#[derive(Debug)]
struct Away(Arc<MemoryCheckpointStore>);

const DISTANCE: Duration = Duration::from_millis(20);

impl OverCheckpoints for Away {
    fn below(&self) -> &dyn CheckpointStore {
        &*self.0
    }

    fn before(&self) -> BoxFuture<'_, Result<(), Error>> {
        sleep(DISTANCE).map(Ok).boxed()
    }
}

/// A consumer of the harness, one of each process.
fn builder(harness: &Harness, process: u64) -> BatchConsumerBuilder {
    let store = Arc::new(Over(Away(Arc::clone(&harness.checkpoints))));
    let transport = Arc::new(harness.hub.transport("$Default"));
    BatchConsumer::builder(transport, store).seed(process)
}

fn name(event: &Event) -> (String, i64) {
    (event.partition().id.to_string(), event.sequence_number().0)
}

/// The event that the process which has this partition has on trial, as the store knows.
fn on_trial(harness: &Harness, partition: &str) -> Option<(String, i64)> {
    let checkpoint = |name: &str| harness.checkpoint(name).now_or_never().expect("at once");
    let run = |checkpoint: &Checkpoint| checkpoint.write_id.0 >> 32;
    let ours = checkpoint(partition).map(|checkpoint| run(&checkpoint));
    (0..PARTITIONS).map(|number| number.to_string()).find_map(|name| {
        let its = checkpoint(&name).filter(|checkpoint| Some(run(checkpoint)) == ours)?;
        its.trial.filter(|trial| trial.is_on).map(|trial| (name, trial.event.0))
    })
}

/// Runs a process until it dies, or has nothing more to do; returns whether it died. Nothing of it
/// is drained: its runtime is gone at once.
fn process(
    harness: &Arc<Harness>,
    builder: BatchConsumerBuilder,
    handled: &Handled,
    times: Times,
) -> bool {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    let death = Arc::new(Notify::new());
    let (killed, handled) = (Arc::clone(&death), Arc::clone(handled));
    let harness = Arc::clone(harness);
    let was_unfair = Arc::new(AtomicBool::new(false));
    let unfair = Arc::clone(&was_unfair);
    let has_died = runtime.block_on(async {
        let _handle = builder
            .batch_handler(move |batch: Batch, context: BatchContext| {
                let (killed, handled) = (Arc::clone(&killed), Arc::clone(&handled));
                let tried = on_trial(&harness, context.partition().id.as_str());
                let is_fair = tried.is_none_or(|tried| batch.iter().all(|one| name(one) == tried));
                unfair.fetch_or(!is_fair, Ordering::Relaxed);
                async move {
                    let has = |event: (&str, i64)| {
                        let event = (event.0.to_owned(), event.1);
                        batch.iter().any(|one| name(one) == event)
                    };
                    if has(DEADLY) {
                        sleep(times.deadly).await;
                        killed.notify_one();
                        std::future::pending::<()>().await;
                    }
                    sleep(if has(SLOW) { times.slow } else { WORK }).await;
                    handled.lock().expect("lock").extend(batch.iter().map(name));
                }
            })
            .expect("valid")
            .start();
        timeout(Duration::from_secs(600), death.notified()).await.is_ok()
    });
    runtime.shutdown_background();
    assert!(!was_unfair.load(Ordering::Relaxed), "something was handled beside one on trial");
    has_died
}

/// Runs processes until the deadly event is found.
fn finds_it(times: Times) {
    finds_it_with(times, None);
}

/// The same where events have lanes.
fn finds_it_with(times: Times, lanes: Option<LaneRule>) {
    let harness = Arc::new(Harness::new(PARTITIONS));
    (0..PARTITIONS).for_each(|partition| harness.publish(partition, EVENTS));
    let handled = Handled::default();
    let mut deaths = 0;
    let consumer = |deaths| {
        let builder = builder(&harness, deaths).dead_letters(harness.letters.clone());
        match &lanes {
            Some(rule) => builder.lanes(rule.clone()),
            None => builder,
        }
    };
    while process(&harness, consumer(deaths), &handled, times) {
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
fn lanes_do_not_hide_it_and_a_trial_does_not_wait_for_them() {
    let third = |event: &Event| {
        let third = event.sequence_number().0 % 3;
        (third > 0).then(|| Lane::new(third.to_string()))
    };
    for rule in [LaneRule::ordered(third), LaneRule::limited(2, third), LaneRule::per_partition()] {
        finds_it_with(Times::default(), Some(rule));
    }
}

#[test]
fn an_event_that_takes_longer_than_any_process_lives_is_not_blamed() {
    finds_it(Times { slow: Duration::from_secs(300), deadly: Duration::ZERO });
}

#[test]
fn one_that_ends_its_process_late_is_found_too() {
    finds_it(Times { deadly: 3 * TRIAL_TIME, ..Times::default() });
}

#[test]
fn without_a_sink_its_partition_stops_and_names_it() {
    let harness = Arc::new(Harness::new(PARTITIONS));
    (0..PARTITIONS).for_each(|partition| harness.publish(partition, EVENTS));
    let handled = Handled::default();
    let mut deaths = 0;
    while process(&harness, builder(&harness, deaths), &handled, Times::default()) {
        deaths += 1;
        assert!(deaths <= MOST_DEATHS, "it goes on");
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    // Nothing is left but the deadly one, which no handler gets and nobody passes over.
    let called = Arc::new(AtomicBool::new(false));
    for seed in 100..103 {
        let exit = runtime.block_on(async {
            let builder = builder(&harness, seed);
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
    let harness = Arc::new(Harness::new(PARTITIONS));
    (0..PARTITIONS).for_each(|partition| harness.publish(partition, EVENTS));
    let handled = Handled::default();
    for seed in 0..20 {
        assert!(process(
            &harness,
            builder(&harness, seed).max_takeovers(None),
            &handled,
            Times::default()
        ));
    }
    assert!(harness.letters.letters().is_empty());
}
