//! A worker with 1,024 partitions and default settings asks the service for runtime information less
//! often than it allows.
//!
//! The broker is a process of its own, which counts: this program, told so by its environment.

#[path = "support/processes.rs"]
mod processes;
#[path = "support/waiting.rs"]
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{Publisher, SendTarget};
use longshore::{BatchConsumer, Event, EventContext, OutgoingEvent};
use longshore_emulator::Emulator;
use processes::{line, process, role};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::{Instant, interval, sleep_until};
use waiting::{until, within};

const PARTITIONS: usize = 1_024;

/// Of each partition: enough that its link begins anew with all of its credit.
const EVENTS: usize = 10;

/// What the service allows a namespace.
const CALLS_A_SECOND: u64 = 50;

const RUN: Duration = Duration::from_secs(60);

#[ignore = "no test: what the other processes are"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_the_tests() {
    if role().is_some() {
        be_the_broker().await;
    }
}

/// Says where it is; when it is asked, how many calls it had, and how many at most in a second.
async fn be_the_broker() {
    let partitions = u32::try_from(PARTITIONS).expect("few");
    // Quick to answer: the more calls a client can make, the more this says.
    let emulator = Emulator::builder().hub("wide", partitions).start().await.expect("started");
    println!("\nconnection-string {}", emulator.connection_string(None));
    println!("endpoint {}", emulator.endpoint());
    let mut questions = BufReader::new(tokio::io::stdin()).lines();
    let most = most_in_a_second(&emulator, async {
        questions.next_line().await.ok();
    });
    println!("\ncalls {} {}", most.await, emulator.management_calls());
    questions.next_line().await.ok();
}

/// Looks each twentieth of a second. A look that comes late counts for the seconds that it may be of.
async fn most_in_a_second(emulator: &Emulator, end: impl Future<Output = ()>) -> u64 {
    const LOOK: Duration = Duration::from_millis(50);
    let mut looks = interval(LOOK);
    let mut seen = VecDeque::new();
    let mut most = 0;
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return most,
            now = looks.tick() => {
                let calls = emulator.management_calls();
                seen.push_back((now, calls));
                // The oldest look from which less than a second has passed.
                while seen.front().is_some_and(|(at, _)| now - *at >= Duration::from_secs(1)) {
                    seen.pop_front();
                }
                let first = seen.front().map_or(calls, |(_, calls)| *calls);
                most = most.max(calls - first);
            }
        }
    }
}

#[ignore = "a minute with 1,024 connections: scripts/soak"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_a_thousand_partitions_asks_no_more_than_the_service_allows() {
    let (mut broker, mut lines) = process("broker", &[]);
    let connection_string = line(&mut lines, "connection-string ").await;
    let endpoint = line(&mut lines, "endpoint ").await;
    let namespace = Namespace::from_connection_string(&connection_string).expect("valid");
    let namespace = namespace.with_custom_endpoint(&endpoint).expect("valid");

    let handled = Arc::new(AtomicUsize::new(0));
    let transport = Arc::new(EventHubsTransport::new(namespace.clone(), "wide", "$Default"));
    let handle = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
        .event_handler({
            let handled = Arc::clone(&handled);
            move |_: Event, _: EventContext| {
                handled.fetch_add(1, Ordering::Relaxed);
                async {}
            }
        })
        .expect("valid")
        .start();
    let began = Instant::now();
    let publisher = EventHubsPublisher::new(namespace, "wide");
    for partition in 0..PARTITIONS {
        let to = SendTarget::Partition(partition.to_string().into());
        let events = vec![OutgoingEvent::new("small"); EVENTS];
        within("a batch", publisher.send_batch(to, events)).await.expect("published");
    }
    until("every event", || handled.load(Ordering::Relaxed) == EVENTS * PARTITIONS).await;
    let all = began.elapsed();
    sleep_until(began + RUN.max(all + Duration::from_secs(20))).await;

    let question = broker.stdin.as_mut().expect("piped");
    question.write_all(b"calls\n").await.expect("it listens");
    let calls = line(&mut lines, "calls ").await;
    let (most, total) = calls.split_once(' ').expect("two numbers");
    println!(
        "{PARTITIONS} partitions for {} s, {EVENTS} events of each handled after {} s: {total} calls, \
         at most {most} in a second",
        began.elapsed().as_secs(),
        all.as_secs(),
    );
    let most: u64 = most.parse().expect("a number");
    assert!(most <= CALLS_A_SECOND, "{most} calls in a second");
    drop(handle);
}
