//! Events of a megabyte, slow handlers, default settings: the memory of a worker is what its budget
//! says, and every event is handled once.
//!
//! Broker and worker are processes of their own: this program, told by its environment which. The
//! numbers of the promise (2,000 events, two seconds each) are in `scripts/soak`:
//!
//!     LONGSHORE_LARGE_EVENTS=2000 LONGSHORE_LARGE_MS=2000
#![cfg(target_os = "linux")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/processes.rs"]
mod processes;
#[path = "support/waiting.rs"]
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longshore::checkpoint_store::memory::MemoryCheckpointStore;
use longshore::config::DEFAULT_MEMORY_BUDGET_BYTES;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{Publisher, SendTarget};
use longshore::{BatchConsumer, Event, EventContext, OutgoingEvent};
use processes::{line, number, process, role};
use waiting::within;

const ENDPOINT: &str = "LONGSHORE_LARGE_ENDPOINT";
const CONNECTION_STRING: &str = "LONGSHORE_LARGE_CONNECTION_STRING";
const PARTITIONS: &str = "LONGSHORE_LARGE_PARTITIONS";

const EVENT_BYTES: usize = 1_000_000;

/// Beside the budget: the program, its tasks, and the copies of an event on its way.
const BESIDE_KIB: u64 = 96 * 1024;

/// The most memory a process has had resident, so far.
fn peak_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[ignore = "no test: what the other processes are"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_the_tests() {
    match role().as_deref() {
        Some("broker") => be_the_broker().await,
        Some("worker") => be_the_worker().await,
        _ => {}
    }
}

async fn be_the_broker() {
    let partitions = u32::try_from(number(PARTITIONS, 4)).expect("few");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let hub = broker::patient().hub("large", partitions).data_dir(folder.path());
    let emulator = hub.start().await.expect("started");
    println!("\nconnection-string {}", emulator.connection_string(None));
    println!("endpoint {}", emulator.endpoint());
    // Until the test closes the pipe, or is gone.
    let _end = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
}

fn namespace(connection_string: &str, endpoint: &str) -> Namespace {
    let namespace = Namespace::from_connection_string(connection_string).expect("valid");
    namespace.with_custom_endpoint(endpoint).expect("valid")
}

async fn be_the_worker() {
    let said = |name: &str| std::env::var(name).expect("said");
    let namespace = namespace(&said(CONNECTION_STRING), &said(ENDPOINT));
    let transport = Arc::new(EventHubsTransport::new(namespace, "large", "$Default"));
    let work = Duration::from_millis(number("LONGSHORE_LARGE_MS", 200) as u64);
    let handle = BatchConsumer::builder(transport, Arc::new(MemoryCheckpointStore::new()))
        .event_handler(move |event: Event, _: EventContext| async move {
            assert_eq!(event.body().len(), EVENT_BYTES);
            tokio::time::sleep(work).await;
            println!("\nhandled {} {}", event.partition().id, event.sequence_number());
        })
        .expect("valid")
        .start();
    let _end = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
    drop(handle);
}

async fn memory_is_what_the_budget_says(partitions: usize) {
    let events = number("LONGSHORE_LARGE_EVENTS", 400);
    let (_broker, mut lines) = process("broker", &[(PARTITIONS, partitions.to_string())]);
    let connection_string = line(&mut lines, "connection-string ").await;
    let endpoint = line(&mut lines, "endpoint ").await;
    let publisher = EventHubsPublisher::new(namespace(&connection_string, &endpoint), "large");
    for event in 0..events {
        let to = SendTarget::Partition((event % partitions).to_string().into());
        let sent = publisher.send(to, OutgoingEvent::new(vec![7; EVENT_BYTES]));
        within("a send", sent).await.expect("published");
    }

    let (worker, mut lines) =
        process("worker", &[(CONNECTION_STRING, connection_string), (ENDPOINT, endpoint)]);
    let id = worker.id().expect("it runs");
    let mut handled: BTreeMap<String, usize> = BTreeMap::new();
    while handled.values().sum::<usize>() < events {
        *handled.entry(line(&mut lines, "handled ").await).or_default() += 1;
    }
    let peak = peak_kib(id);
    println!("{events} events over {partitions} partitions: peak {:.1} MiB", peak as f64 / 1024.0);
    assert_eq!(handled.len(), events, "each once");
    let limit = DEFAULT_MEMORY_BUDGET_BYTES as u64 / 1024 + BESIDE_KIB;
    assert!(peak <= limit, "{peak} KiB, and the budget allows {limit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_partitions_hold_what_the_budget_says() {
    memory_is_what_the_budget_says(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_partitions_hold_what_the_budget_says() {
    memory_is_what_the_budget_says(32).await;
}
