//! Eighteen of twenty succeed, one may succeed later, one never does: nineteen are done, one is a dead
//! letter, the eighteen wait for neither, and the log tells the life of both. In paused time.

#[path = "support/log.rs"]
mod log;
mod support;

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::consumer::BatchConsumerBuilder;
use longshore::failure_store::memory::MemoryFailureStore;
use longshore::failure_store::{FailureKind, FailurePrefix, FailureStore as _};
use longshore::state::backoff::Backoff;
use longshore::{
    Batch, BatchContext, ConsumerHandle, ErrorClass, Event, EventContext, Failure, Outcome,
    OutgoingEvent,
};
use tokio::time::Instant;

use log::Log;
use support::{Harness, drained, until};

/// The event that succeeds at its third try, and the one that never does.
const SLOW: i64 = 13;
const BAD: i64 = 4;
const BACKOFF: Duration = Duration::from_secs(10);

/// When each event was done, counted from the start.
#[derive(Clone)]
struct Done(Arc<Mutex<BTreeMap<i64, Duration>>>, Instant);

impl Done {
    fn record(&self, number: i64) {
        let before = self.0.lock().expect("lock").insert(number, self.1.elapsed());
        assert_eq!(before, None, "{number} is done twice");
    }
}

fn slow() -> Failure {
    Failure::transient("503")
}

fn bad() -> Failure {
    Failure::permanent("404")
}

/// Handles twenty events, and returns what the log said of the two that fail.
async fn told(
    start: impl FnOnce(BatchConsumerBuilder, Done) -> ConsumerHandle,
) -> [Vec<String>; 2] {
    let log = Log::default();
    let _listening = log.of_this_thread_in_detail();
    let harness = Harness::new(2);
    // Another partition has the same numbers.
    harness.hub.publish(0, OutgoingEvent::new("another one"));
    harness.publish(1, 20);
    let store = Arc::<MemoryFailureStore>::default();
    let mut options = longshore::ConsumerOptions::default();
    options.retry_backoff = Backoff::doubling(BACKOFF, BACKOFF);
    let done = Done(Arc::default(), Instant::now());
    let builder = harness.without_letters().options(options).failure_store(store.clone());
    let handle = start(builder, done.clone());
    until("the fast ones", || handle.snapshot().counts.done == 19).await;
    assert!(done.1.elapsed() < BACKOFF / 2, "they wait for no back-off");
    assert!(!done.0.lock().expect("lock").contains_key(&SLOW));
    until("the slow one", || handle.snapshot().counts.done == 20).await;
    let exit = drained(handle).await;
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!((exit.counts.dead_letters, exit.counts.parked, exit.counts.retried), (1, 0, 2));
    let done = done.0.lock().expect("lock").clone();
    let numbers: Vec<i64> = done.keys().copied().collect();
    assert_eq!(numbers, (0..20).filter(|number| *number != BAD).collect::<Vec<_>>());
    assert!(done[&SLOW] >= BACKOFF, "{done:?}");
    assert_eq!(harness.checkpointed_to("1").await, Some(19));
    let page = store.list(&FailurePrefix::all(FailureKind::Dead), None, 10).await.expect("lists");
    assert_eq!(page.entries.len(), 1);
    let letter = page.entries[0].as_ref().expect("readable");
    assert_eq!((letter.key.event.sequence_number.0, letter.meta.attempts), (BAD, 1));
    assert_eq!(letter.meta.class, ErrorClass::Permanent);
    let text = log.text();
    let (told, text): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.contains("attempts fail and are made again"));
    // What goes wrong is said also where nobody debugs: once a minute, with its number and the newest failure.
    let [told] = told[..] else { panic!("{told:?}") };
    assert!(told.contains(" WARN ") && told.contains("failed_attempts=1 "), "{told}");
    assert!(told.contains("message_offset=") && told.contains("503"), "{told}");
    let text = text.join("\n");
    [SLOW, BAD].map(|number| life(&text, number))
}

/// The lines of partition 1 that name this event, as its only one or within a batch: what they say, with
/// the attempt.
fn life(text: &str, number: i64) -> Vec<String> {
    let field = |line: &str, name: &str| {
        let of = format!(" {name}=");
        let at = line.find(&of).map(|at| at + of.len()).or_else(|| {
            // The first field of a span.
            let of = format!("{{{name}=");
            line.find(&of).map(|at| at + of.len())
        })?;
        Some(line[at..].split([' ', '}']).next().unwrap_or_default().to_owned())
    };
    let named = |line: &&str| {
        let first: i64 = field(line, "message_offset")?.parse().ok()?;
        let last = field(line, "last_message_offset").map_or(Some(first), |last| last.parse().ok());
        let is_here = field(line, "message_partition")? == "1";
        (is_here && (first..=last?).contains(&number)).then_some(())
    };
    let steps = [
        ("handle{", "handled"),
        ("handle_batch{", "handled"),
        ("a batch failed whole: it is tried again in halves", "halved"),
        ("the event is tried again", "tried again"),
        ("the event is parked", "parked"),
        ("the event failed for good", "failed for good"),
        ("the dead letter is written", "written"),
        ("the event is done", "done"),
    ];
    let step = |line: &str| {
        let (_, step) = steps.iter().find(|(said, _)| line.contains(said))?;
        let events = field(line, "events").filter(|events| events != "1");
        let attempt = field(line, "attempts").or_else(|| field(line, "attempt"));
        let of =
            events.map(|events| format!(" in {events}")).or_else(|| Some(format!(" {}", attempt?)));
        Some(format!("{step}{}", of.unwrap_or_default()))
    };
    let lines = text.lines().filter(|line| named(line).is_some());
    lines.map(|line| step(line).unwrap_or_else(|| panic!("of {number}: {line}"))).collect()
}

#[tokio::test(start_paused = true)]
async fn one_by_one_the_fast_wait_for_neither_and_the_log_tells_the_life_of_both() {
    let [slow_one, bad_one] = told(|builder, done| {
        let handler = move |event: Event, context: EventContext| {
            let number = event.sequence_number().0;
            let is_here = event.partition().id.as_str() == "1";
            ready(match (number, context.attempt()) {
                (BAD, _) if is_here => Outcome::dead_letter(bad()),
                (SLOW, 1 | 2) if is_here => Outcome::retry(slow()),
                _ => {
                    if is_here {
                        done.record(number);
                    }
                    Outcome::Done
                }
            })
        };
        builder.event_handler(handler).expect("valid").start()
    })
    .await;
    let expected =
        ["handled 1", "tried again 1", "handled 2", "tried again 2", "handled 3", "done 3"];
    assert_eq!(slow_one, expected);
    assert_eq!(bad_one, ["handled 1", "failed for good 1", "written"]);
}

#[tokio::test(start_paused = true)]
async fn in_a_batch_that_fails_whole_it_is_the_same() {
    let [slow_one, bad_one] = told(|builder, done| {
        // It says nothing of single events: the first one that fails, fails all.
        let handler = move |batch: Batch, context: BatchContext| {
            let numbers: Vec<i64> = batch.iter().map(|event| event.sequence_number().0).collect();
            if batch.iter().any(|event| event.partition().id.as_str() != "1") {
                return ready(Ok(()));
            }
            let fails = numbers.iter().enumerate().find_map(|(index, number)| {
                match (*number, context.attempt(index).expect("of the batch")) {
                    (BAD, _) => Some(bad()),
                    (SLOW, 1 | 2) => Some(slow()),
                    _ => None,
                }
            });
            ready(match fails {
                Some(failure) => Err(failure),
                None => {
                    numbers.into_iter().for_each(|number| done.record(number));
                    Ok(())
                }
            })
        };
        builder.batch_handler(handler).expect("valid").start()
    })
    .await;
    // It is alone after five halvings at most, and then each attempt is its own.
    let alone = |life: &[String]| life.iter().position(|step| !step.contains(" in "));
    let at = alone(&slow_one).expect("alone");
    assert_eq!(slow_one[..4], ["handled in 20", "halved in 20", "handled in 10", "halved in 10"]);
    assert!((4..=10).contains(&at), "{slow_one:?}");
    let expected = ["handled", "tried again 1", "handled", "tried again 2", "handled", "done 3"];
    assert_eq!(slow_one[at..], expected);
    let at = alone(&bad_one).expect("alone");
    assert_eq!(bad_one[..2], ["handled in 20", "halved in 20"]);
    assert_eq!(bad_one[at..], ["handled", "failed for good 1", "written"]);
}
