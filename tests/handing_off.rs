//! Handlers that stop when their partition is about to leave: a hand-off and a drain do not wait for
//! their ends, and nothing is used up.

mod support;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use longshore::clock::Clock;
use longshore::config::LeaseOptions;
use longshore::consumer::Settler;
use longshore::lease_store::memory::MemoryLeaseStore;
use longshore::{
    Batch, BatchContext, ConsumerHandle, ConsumerOptions, Event, EventContext, Failure, Outcome,
    Outcomes,
};
use support::{Harness, drained, settled, until, within};
use tokio::time::{Instant, sleep};

/// No handler lasts for so long.
const LONG: Duration = Duration::from_secs(3_600);

/// What a call of a handler saw when it began.
#[derive(Clone, Debug)]
struct Call {
    worker: usize,
    number: i64,
    attempt: u32,
    begun: Instant,
    /// Whether it was told to stop before it began.
    is_told: bool,
}

/// All calls, and when some of them were told to stop.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>, Arc<Mutex<Vec<Instant>>>);

impl Calls {
    fn begin(&self, worker: usize, event: &Event, context: &EventContext) {
        self.0.lock().expect("lock").push(Call {
            worker,
            number: event.sequence_number().0,
            attempt: context.attempt(),
            begun: Instant::now(),
            is_told: context.handing_off().is_cancelled(),
        });
    }

    /// Works for long, unless it is told to stop.
    async fn work(&self, context: EventContext) -> Outcome {
        tokio::select! {
            () = context.handing_off().cancelled() => {
                self.1.lock().expect("lock").push(Instant::now());
                Outcome::put_back("its partition leaves")
            }
            () = sleep(LONG) => Outcome::Done,
        }
    }

    fn of(&self, number: i64) -> Vec<Call> {
        let calls = self.0.lock().expect("lock");
        calls.iter().filter(|call| call.number == number).cloned().collect()
    }
}

/// The wall clock of a paused runtime.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + self.0.elapsed()
    }
}

fn leases() -> (Arc<MemoryLeaseStore>, Arc<Virtual>) {
    let clock = Arc::new(Virtual(Instant::now()));
    (Arc::new(MemoryLeaseStore::with_clock(clock.clone())), clock)
}

/// Starts a worker whose handlers stop when they are told to; where it `works`, they are done at once.
fn start(
    harness: &Harness,
    (leases, clock): &(Arc<MemoryLeaseStore>, Arc<Virtual>),
    worker: usize,
    calls: &Calls,
    works: bool,
) -> ConsumerHandle {
    let calls = calls.clone();
    let mut options = ConsumerOptions::default();
    options.max_takeovers = Some(6);
    options.max_attempts = 1;
    harness
        .builder()
        .options(options)
        .worker(format!("worker-{worker}"))
        .clock(clock.clone())
        .leases_with(leases.clone(), LeaseOptions::default())
        .event_handler(move |event: Event, context: EventContext| {
            calls.begin(worker, &event, &context);
            let calls = calls.clone();
            async move { if works { Outcome::Done } else { calls.work(context).await } }
        })
        .expect("valid")
        .start()
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_stops_holds_up_no_hand_off_and_its_event_is_never_blamed() {
    let harness = Harness::new(1);
    let (leases, calls) = (leases(), Calls::default());
    harness.publish(0, 2);
    let mut workers = VecDeque::from([start(&harness, &leases, 0, &calls, false)]);
    // More owners than takeovers make an event suspect.
    for worker in 1..=12 {
        until("the event is begun", || calls.of(0).len() == worker).await;
        sleep(Duration::from_secs(60)).await;
        workers.push_back(start(&harness, &leases, worker, &calls, worker == 12));
        sleep(Duration::from_secs(30)).await;
        let before = workers.pop_front().expect("two of them");
        let exit = within("it leaves", drained(before)).await;
        assert!(exit.is_clean(), "{exit}");
        assert_eq!((exit.counts.put_back, exit.counts.retried), (2, 0));
        until("the next owner has it", || calls.of(0).len() > worker).await;
        let stopped = *calls.1.lock().expect("lock").last().expect("it stopped");
        let rested = calls.of(0)[worker].begun - stopped;
        assert!(rested < Duration::from_secs(2), "it rested for {rested:?}");
    }
    let last = workers.pop_front().expect("one");
    settled(&last, 1).await;
    assert!(within("the drain", drained(last)).await.is_clean());
    for number in [0, 1] {
        let calls = calls.of(number);
        assert_eq!(calls.len(), 13);
        assert!(calls.iter().all(|call| call.attempt == 1 && !call.is_told), "{calls:?}");
    }
    assert!(harness.letters.letters().is_empty(), "nobody is suspected");
}

#[tokio::test(start_paused = true)]
async fn a_hand_off_that_is_called_back_leaves_no_sign() {
    let harness = Harness::new(2);
    let (leases, calls) = (leases(), Calls::default());
    // One handler of each partition stops, and the other one holds the hand-off up.
    (0..2).for_each(|partition| harness.publish(partition, 2));
    let mut options = LeaseOptions::default();
    options.hand_off_timeout = Duration::from_secs(5);
    let seen = calls.clone();
    let first = harness
        .builder()
        .leases_with(leases.0.clone(), options)
        .clock(leases.1.clone())
        .event_handler(move |event: Event, context: EventContext| {
            seen.begin(0, &event, &context);
            let seen = seen.clone();
            async move {
                if event.sequence_number().0 == 0 {
                    sleep(Duration::from_secs(120)).await;
                    return Outcome::Done;
                }
                seen.work(context).await
            }
        })
        .expect("valid")
        .start();
    until("all are begun", || calls.of(0).len() + calls.of(1).len() == 4).await;
    let second = start(&harness, &leases, 1, &calls, false);
    until("a hand-off begins", || first.snapshot().counts.put_back == 1).await;
    assert_eq!(calls.of(1).len(), 2, "nothing begins in a hand-off");
    // It is called back five seconds later, and the event waits out its back-off.
    until("the event is begun again", || calls.of(1).len() == 3).await;
    let again = calls.of(1).pop().expect("three");
    assert!(!again.is_told && again.attempt == 1 && again.worker == 0, "{again:?}");
    sleep(Duration::from_secs(60)).await;
    let again = calls.of(1);
    // Who asked for the partition asks again, a few times.
    assert!(again.len() < 20, "{} calls", again.len());
    assert!(again.iter().all(|call| !call.is_told), "{again:?}");
    for worker in [first, second] {
        worker.stop();
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_what_stops() {
    let harness = Harness::new(1);
    harness.publish(0, 3);
    let calls = Calls::default();
    let run = |works: bool| {
        let seen = calls.clone();
        let handler = move |event: Event, context: EventContext| {
            seen.begin(0, &event, &context);
            let seen = seen.clone();
            async move { if works { Outcome::Done } else { seen.work(context).await } }
        };
        harness.builder().drain_timeout(LONG).event_handler(handler).expect("valid").start()
    };
    let first = run(false);
    until("all are begun", || calls.0.lock().expect("lock").len() == 3).await;
    let begun = Instant::now();
    let exit = within("the drain", drained(first)).await;
    assert!(exit.is_clean() && begun.elapsed() < Duration::from_secs(1), "{exit}");
    assert_eq!((exit.counts.put_back, exit.counts.done), (3, 0));
    assert_eq!(harness.checkpointed_to("0").await, None);

    let second = run(true);
    settled(&second, 2).await;
    let exit = within("the drain", drained(second)).await;
    assert_eq!((exit.counts.done, exit.counts.put_back), (3, 0));
    assert!((0..3).all(|number| calls.of(number).iter().all(|call| call.attempt == 1)));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_put_back_in_part() {
    let harness = Harness::new(1);
    harness.publish(0, 4);
    let handed: Arc<Mutex<Vec<Vec<i64>>>> = Arc::default();
    let run = || {
        let handed = handed.clone();
        let handler = move |batch: Batch, context: BatchContext| {
            let numbers = batch.iter().map(|event| event.sequence_number().0).collect();
            handed.lock().expect("lock").push(numbers);
            async move {
                if batch.len() < 4 {
                    return Ok::<_, Failure>(Outcomes::all_done());
                }
                context.handing_off().cancelled().await;
                let even = |event: &Event| event.sequence_number().0 % 2 == 0;
                Ok(Outcomes::each(batch.iter().map(|event| match even(event) {
                    true => Outcome::Done,
                    false => Outcome::put_back("half of it"),
                })))
            }
        };
        harness.builder().max_batch_size(4).batch_handler(handler).expect("valid").start()
    };
    let first = run();
    until("a batch", || handed.lock().expect("lock").len() == 1).await;
    assert!(within("the drain", drained(first)).await.is_clean());
    let second = run();
    settled(&second, 3).await;
    assert!(within("the drain", drained(second)).await.is_clean());
    assert_eq!(*handed.lock().expect("lock"), [vec![0, 1, 2, 3], vec![1, 3]]);
}

#[tokio::test(start_paused = true)]
async fn work_that_is_left_to_a_settler_is_told_as_well() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    let works = |settler: Settler| async move {
        settler.handing_off().cancelled().await;
        settler.settle(Outcome::put_back("its partition leaves"));
    };
    let handler = move |_: Event, context: EventContext| {
        let (settler, deferred) = context.defer();
        tokio::spawn(works(settler));
        async { deferred }
    };
    let handle =
        harness.builder().drain_timeout(LONG).event_handler(handler).expect("valid").start();
    until("it is deferred", || {
        let snapshot = handle.snapshot();
        snapshot.partitions.first().is_some_and(|one| one.unsettled_events == 1)
            && snapshot.slots_in_use == 0
    })
    .await;
    let exit = within("the drain", drained(handle)).await;
    assert!(exit.is_clean());
    assert_eq!((exit.counts.put_back, exit.counts.retried, exit.counts.done), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_puts_back_without_being_told_waits_out_the_back_off() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    let calls = Calls::default();
    let seen = calls.clone();
    let handler = move |event: Event, context: EventContext| {
        seen.begin(0, &event, &context);
        async { Outcome::put_back("for no reason") }
    };
    let handle = harness.builder().max_attempts(1).event_handler(handler).expect("valid").start();
    sleep(Duration::from_secs(60)).await;
    let calls = calls.of(0);
    assert!((2..=300).contains(&calls.len()), "{} calls", calls.len());
    assert!(calls.iter().all(|call| call.attempt == 1));
    assert!(within("the drain", drained(handle)).await.is_clean());
    assert!(harness.letters.letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_partition_tells_its_handlers() {
    let harness = Harness::new(1);
    harness.publish(0, 1);
    let told: Arc<Mutex<bool>> = Arc::default();
    let tells = told.clone();
    let handler = move |_: Event, context: EventContext| {
        let tells = tells.clone();
        async move {
            context.handing_off().cancelled().await;
            *tells.lock().expect("lock") = context.partition_lost().is_cancelled();
            pending::<()>().await;
        }
    };
    let handle = harness.builder().event_handler(handler).expect("valid").start();
    until("it is begun", || handle.snapshot().slots_in_use == 1).await;
    harness.hub.end_links(0, longshore::ErrorClass::PartitionLost);
    until("it is told", || *told.lock().expect("lock")).await;
    handle.stop();
}
