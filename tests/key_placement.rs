//! Where keys go, by the clients of other languages, by the broker and by our producers: a thousand
//! keys of every kind of text.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/waiting.rs"]
mod waiting;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use futures::future::{join_all, poll_fn};
use longshore::event::PartitionId;
use longshore::producer::Producer;
use longshore::state::key_placement::KeyPlacement;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport, Namespace};
use longshore::transport::{LinkStart, OpenLink, Publisher, SendTarget, Transport as _};
use longshore::{Event, OutgoingEvent};
use longshore_emulator::Emulator;
use waiting::within;

const HUB: &str = "files";
const TABLE: &str = "tests/placement/keys.tsv";

/// Numbers of partitions, of which some are no power of two.
const COUNTS: [usize; 7] = [1, 2, 3, 8, 31, 32, 1_024];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What `scripts/test` installs.
fn installed(path: &str) -> PathBuf {
    let path = root().join("target/foreign-clients").join(path);
    assert!(path.exists(), "{} is missing: scripts/test installs it", path.display());
    path
}

fn keys() -> Vec<String> {
    let table = std::fs::read_to_string(root().join(TABLE)).unwrap();
    let key = |line: &str| {
        let hex = line.split('\t').next().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        String::from_utf8((0..hex.len()).step_by(2).map(byte).collect()).unwrap()
    };
    let keys: Vec<_> = table.lines().map(key).collect();
    assert_eq!(keys.len(), 1_000);
    keys
}

fn run(command: &mut Command) -> String {
    let ended = command.stdin(Stdio::null()).output().unwrap();
    let complaints = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{command:?}\n{complaints}");
    String::from_utf8(ended.stdout).unwrap()
}

/// A line for each key, with its index among each of [`COUNTS`].
fn indices(placement: KeyPlacement) -> Vec<String> {
    let line = |key: &String| {
        COUNTS.map(|count| placement.index(key, count).unwrap().to_string()).join(" ")
    };
    keys().iter().map(line).collect()
}

#[test]
fn the_rule_of_python_is_that_of_its_resolver() {
    let script = format!(
        "import sys
from azure.eventhub._buffered_producer._partition_resolver import PartitionResolver
resolvers = [PartitionResolver([str(i) for i in range(n)]) for n in {COUNTS:?}]
for line in open(sys.argv[1]):
    key = bytes.fromhex(line.split('\\t')[0]).decode()
    print(*[resolver.get_partition_id_by_partition_key(key) for resolver in resolvers])
"
    );
    let said = run(Command::new(installed("python/bin/python"))
        .args(["-c", &script])
        .arg(root().join(TABLE)));
    let expected: Vec<_> = said.lines().collect();
    assert_eq!(indices(KeyPlacement::PythonBuffered), expected);
}

/// JavaScript's buffered producer follows the service, as those of .NET, Java and Rust do.
#[test]
fn the_rule_of_the_service_is_that_of_javascripts_resolver() {
    let mapper =
        "javascript/node_modules/@azure/event-hubs/dist/commonjs/impl/partitionKeyToIdMapper.js";
    let script = format!(
        "const {{ mapPartitionKeyToId }} = require(process.argv[1]);
for (const line of require('fs').readFileSync(process.argv[2], 'ascii').trimEnd().split('\\n')) {{
    const key = Buffer.from(line.split('\\t')[0], 'hex').toString('utf8');
    console.log({COUNTS:?}.map((count) => mapPartitionKeyToId(key, count)).join(' '));
}}"
    );
    let said = run(Command::new("node")
        .args(["-e", &script])
        .arg(installed(mapper))
        .arg(root().join(TABLE)));
    let expected: Vec<_> = said.lines().collect();
    assert_eq!(indices(KeyPlacement::Service), expected);
}

/// What differs, so that a reader of the two rules finds it said by a test: text that is not ASCII,
/// and the remainder of a negative hash.
#[test]
fn python_differs_from_the_service_only_where_it_is_said() {
    let mut differ = 0;
    for key in keys() {
        for count in COUNTS {
            let [service, python] = [KeyPlacement::Service, KeyPlacement::PythonBuffered]
                .map(|rule| rule.index(&key, count).unwrap());
            let mirrored = (count - python) % count;
            if key.is_ascii() {
                assert!(service == python || service == mirrored, "{key:?} of {count}");
            }
            differ += usize::from(count == 32 && service != python);
        }
    }
    assert!(differ > 300, "{differ} of 1,000");
}

struct Stage {
    emulator: Emulator,
    namespace: Namespace,
    partitions: usize,
}

impl Stage {
    async fn start(partitions: usize) -> Self {
        let hub = u32::try_from(partitions).unwrap();
        let emulator = broker::patient().hub(HUB, hub).start().await.unwrap();
        let namespace = broker::namespace(&emulator);
        Self { emulator, namespace, partitions }
    }

    /// The partition and key of each event, by the number in its body.
    async fn places(&self, events: usize) -> Vec<(usize, String)> {
        let transport = EventHubsTransport::new(self.namespace.clone(), HUB, "$Default");
        let mut places = vec![None; events];
        for partition in 0..self.partitions {
            let id = PartitionId::from(partition.to_string());
            let count = broker::log_end(&transport, id.as_str()).await;
            let open = OpenLink::new(id, LinkStart::FirstEvent, 300);
            let mut link = transport.open(open).await.unwrap();
            let mut read: Vec<Event> = Vec::new();
            while read.len() < count {
                let receiving = poll_fn(|cx| link.poll_receive(cx, count, &mut read));
                within("events", receiving).await.unwrap();
            }
            link.close().await;
            for event in read {
                let number: usize = std::str::from_utf8(event.body()).unwrap().parse().unwrap();
                // Python sends none where the key is empty.
                places[number] = Some((partition, event.key().unwrap_or_default().to_owned()));
            }
        }
        transport.close().await;
        places.into_iter().map(|place| place.expect("all were sent")).collect()
    }

    async fn stop(self) {
        self.emulator.shutdown().await.unwrap();
    }
}

fn expected(placement: KeyPlacement, partitions: usize) -> Vec<(usize, String)> {
    let place = |key: String| (placement.index(&key, partitions).unwrap(), key);
    keys().into_iter().map(place).collect()
}

fn events() -> impl Iterator<Item = OutgoingEvent> {
    let event =
        |(number, key): (usize, String)| OutgoingEvent::new(number.to_string()).with_key(key);
    keys().into_iter().enumerate().map(event)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_buffered_producer_and_ours_place_a_thousand_keys_alike() {
    let stage = Stage::start(7).await;
    let connection_string = stage.emulator.connection_string(Some(HUB));
    let python = tokio::task::spawn_blocking(move || {
        run(Command::new(installed("python/bin/python"))
            .arg(root().join("tests/foreign_clients/python/buffered.py"))
            .args([&connection_string])
            .arg(root().join(TABLE)))
    });
    within("the Python client", python).await.unwrap();
    let theirs = stage.places(1_000).await;
    assert_eq!(theirs, expected(KeyPlacement::PythonBuffered, 7));
    stage.stop().await;

    let stage = Stage::start(7).await;
    let producer = Producer::new(stage.namespace.publishers())
        .with_key_placement(KeyPlacement::PythonBuffered);
    within("sends", producer.send_batch(HUB, events().collect())).await.unwrap();
    producer.close().await;
    assert_eq!(stage.places(1_000).await, theirs);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_and_our_producer_place_a_thousand_keys_alike() {
    let ours = Stage::start(7).await;
    let producer = Producer::new(ours.namespace.publishers());
    within("sends", producer.send_batch(HUB, events().collect())).await.unwrap();
    producer.close().await;
    let places = ours.places(1_000).await;
    assert_eq!(places, expected(KeyPlacement::Service, 7));
    ours.stop().await;

    // A transfer for each key, ten links.
    let brokers = Stage::start(7).await;
    let events: Vec<_> = events().collect();
    let sends = events.chunks(100).map(|chunk| {
        let publisher = EventHubsPublisher::new(brokers.namespace.clone(), HUB);
        let chunk = chunk.to_vec();
        async move {
            publisher.send_batch(SendTarget::Any, chunk).await.unwrap();
            publisher.close().await;
        }
    });
    within("sends", join_all(sends)).await;
    assert_eq!(brokers.places(1_000).await, places);
    brokers.stop().await;
}
