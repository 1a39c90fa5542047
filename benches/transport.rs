//! Our transport beside the bare stream of the Azure SDK, and what the embedded broker costs.
//!
//! The broker is a process of its own: this program again, told so by an environment variable.
//! Events of 1 KiB over four partitions and TCP, a connection for each partition on both
//! sides, the same prefetch: all of it from the first event on, or, as with default settings, once the
//! size of events is known. Pairs of passes take turns in who goes first. Figures go to
//! `target/bench/transport.json`, which `scripts/bench-check` reads.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use azure_messaging_eventhubs::models::AmqpTransport;
use azure_messaging_eventhubs::{
    ConsumerClient, OpenReceiverOptions, RetryOptions, StartLocation, StartPosition,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use longshore::OutgoingEvent;
use longshore::config::{DEFAULT_MEMORY_BUDGET_BYTES, DEFAULT_PREFETCH_EVENTS};
use longshore::event::{Incarnation, Partition, PartitionId};
use longshore::state::resume::ResumePosition;
use longshore::transport::event_hubs::{EventHubsPublisher, EventHubsTransport};
use longshore::transport::partition_stream::{PartitionStream, StreamOptions};
use longshore::transport::{LinkStart, Publisher, SendTarget, Transport};
use longshore_emulator::Emulator;
use tokio::sync::Barrier;

mod broker;
mod measure;

use broker::{Broker, runtime};
use measure::{cpu_now, is_trial};

const HUB: &str = "bench";
const PARTITIONS: usize = 4;
const EVENT_BYTES: usize = 1_024;
/// Events of one published batch.
const BATCH: usize = 500;
/// The log of a broker that keeps none on disk.
const MEMORY: &str = "memory";
/// What a link may hold ahead with the default settings, where a consumer has all partitions.
const LINK_BYTES: usize = DEFAULT_MEMORY_BUDGET_BYTES / 8 / PARTITIONS;

/// The broker's side: a log in memory, or in this folder.
fn serve(log: &str) {
    let builder = Emulator::builder().hub(HUB, PARTITIONS as u32).max_memory_bytes(usize::MAX);
    broker::serve(if log == MEMORY { builder } else { builder.data_dir(log) });
}

/// Where the readers of a pass meet: when all links have brought their first event, and when
/// all have brought their last. What is between is measured; links are opened and closed
/// outside.
#[derive(Clone)]
struct Meet(Arc<[Barrier; 2]>);

impl Meet {
    fn new() -> Self {
        Self(Arc::new([Barrier::new(PARTITIONS + 1), Barrier::new(PARTITIONS + 1)]))
    }

    async fn begin(&self) {
        self.0[0].wait().await;
    }

    async fn end(&self) {
        self.0[1].wait().await;
    }
}

/// Receives so many events of each partition with the SDK alone.
///
/// `read`: looks at what a consumer needs of an event: its number and offset for the
/// checkpoint, its body for the work.
async fn bare(broker: &Broker, each: usize, meet: Meet, read: bool) {
    let reading = (0..PARTITIONS).map(|partition| {
        let meet = meet.clone();
        let (endpoint, connection) = (broker.endpoint.clone(), broker.connection_string.clone());
        tokio::spawn(async move {
            let client = ConsumerClient::builder()
                .with_retry_options(RetryOptions { max_retries: 0, ..RetryOptions::default() })
                .with_transport(AmqpTransport::Tcp)
                .with_custom_endpoint(endpoint)
                .open_with_connection_string(&connection, Some(HUB))
                .await
                .expect("connects");
            let start =
                StartPosition { location: StartLocation::Earliest, ..StartPosition::default() };
            let options = OpenReceiverOptions {
                prefetch: Some(DEFAULT_PREFETCH_EVENTS),
                start_position: Some(start),
                ..OpenReceiverOptions::default()
            };
            let receiver = client
                .open_receiver_on_partition(partition.to_string(), Some(options))
                .await
                .expect("opens");
            {
                let mut events = receiver.stream_events();
                for number in 0..each {
                    let event = events.next().await.expect("goes on").expect("an event");
                    if read {
                        let place = (event.sequence_number(), event.offset());
                        std::hint::black_box((place, event.event_data().body()));
                    }
                    std::hint::black_box(event);
                    if number == 0 {
                        meet.begin().await;
                    }
                }
                meet.end().await;
            }
            drop(receiver);
            let _said = client.close().await;
        })
    });
    join_all(reading).await.into_iter().for_each(|read| read.expect("no panic"));
}

/// Receives so many events of each partition with our transport, which is connected for
/// management already, as it is when a consumer opens its links.
async fn ours(
    transport: &Arc<EventHubsTransport>,
    incarnation: Incarnation,
    each: usize,
    meet: Meet,
    link_bytes: usize,
) {
    let reading = (0..PARTITIONS).map(|partition| {
        let (transport, meet) = (Arc::clone(transport), meet.clone());
        tokio::spawn(async move {
            let partition = Partition::new(HUB, PartitionId::from(partition.to_string()));
            let position = ResumePosition::new(incarnation, LinkStart::FirstEvent);
            let options = StreamOptions::new(DEFAULT_PREFETCH_EVENTS, 7);
            let options = options.with_link_bytes(link_bytes);
            let mut stream = PartitionStream::new(transport, partition, position, options);
            let mut events = Vec::new();
            let first = stream.next_events(1, &mut events).await.expect("goes on");
            meet.begin().await;
            let mut left = each - first;
            while left > 0 {
                left -= stream.next_events(left.min(256), &mut events).await.expect("goes on");
                std::hint::black_box(&events);
                events.clear();
            }
            meet.end().await;
            stream.close().await;
        })
    });
    join_all(reading).await.into_iter().for_each(|read| read.expect("no panic"));
}

/// Publishes so many events to each partition, in batches.
async fn publish(broker: &Broker, each: usize) {
    let publisher = Arc::new(EventHubsPublisher::new(broker.namespace.clone(), HUB));
    let body = Bytes::from(vec![b'x'; EVENT_BYTES]);
    let sending = (0..PARTITIONS).map(|partition| {
        let (publisher, body) = (Arc::clone(&publisher), body.clone());
        tokio::spawn(async move {
            let id = PartitionId::from(partition.to_string());
            let mut left = each;
            while left > 0 {
                let count = left.min(BATCH);
                let events = vec![OutgoingEvent::new(body.clone()); count];
                let target = SendTarget::Partition(id.clone());
                publisher.send_batch(target, events).await.expect("taken");
                left -= count;
            }
        })
    });
    join_all(sending).await.into_iter().for_each(|sent| sent.expect("no panic"));
    publisher.close().await;
}

/// Publishes so many events to each partition, one by one.
async fn publish_singly(broker: &Broker, each: usize) {
    let publisher = Arc::new(EventHubsPublisher::new(broker.namespace.clone(), HUB));
    let body = Bytes::from(vec![b'x'; EVENT_BYTES]);
    let sending = (0..PARTITIONS).map(|partition| {
        let (publisher, body) = (Arc::clone(&publisher), body.clone());
        tokio::spawn(async move {
            let id = PartitionId::from(partition.to_string());
            for _ in 0..each {
                let target = SendTarget::Partition(id.clone());
                publisher.send(target, OutgoingEvent::new(body.clone())).await.expect("taken");
            }
        })
    });
    join_all(sending).await.into_iter().for_each(|sent| sent.expect("no panic"));
    publisher.close().await;
}

/// Wall time, our CPU time and the broker's, of one pass.
struct Pass {
    wall: f64,
    cpu: f64,
    broker_cpu: f64,
}

fn pass(
    runtime: &tokio::runtime::Runtime,
    broker: &Broker,
    meet: Option<Meet>,
    run: impl Future<Output = ()>,
) -> Pass {
    let begin = || (broker.cpu(), cpu_now(), Instant::now());
    let end = |(broker_cpu, cpu, wall): (Duration, Duration, Instant)| Pass {
        wall: wall.elapsed().as_secs_f64(),
        cpu: (cpu_now() - cpu).as_secs_f64(),
        broker_cpu: (broker.cpu() - broker_cpu).as_secs_f64(),
    };
    let before = begin();
    runtime.block_on(async {
        let Some(meet) = meet else {
            run.await;
            return end(before);
        };
        let measure = async {
            meet.begin().await;
            let from = begin();
            meet.end().await;
            end(from)
        };
        tokio::join!(measure, run).0
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn main() {
    if let Some(log) = broker::kind() {
        return serve(&log);
    }
    let (each, pairs, singly) = if is_trial() { (2_000, 1, 5) } else { (50_000, 11, 100) };
    let events = each * PARTITIONS;
    let runtime = runtime();
    let folder = tempfile::tempdir().expect("writable");
    let mut lines = Vec::new();
    let folder = folder.path().to_str().expect("plain");
    for (kind, log, read, link_bytes) in [
        ("memory", MEMORY, true, LINK_BYTES),
        ("memory-unread", MEMORY, false, LINK_BYTES),
        ("memory-all-credit", MEMORY, true, usize::MAX),
        ("durable", folder, true, LINK_BYTES),
    ] {
        let broker = Broker::start(log);
        let batched = pass(&runtime, &broker, None, publish(&broker, each));
        let transport =
            Arc::new(EventHubsTransport::new(broker.namespace.clone(), HUB, "$Default"));
        let hub = runtime.block_on(transport.hub_properties()).expect("answers");
        let (mut bare_passes, mut our_passes) = (Vec::new(), Vec::new());
        let pairs = if log == MEMORY { pairs } else { 1 };
        for pair in 0..pairs {
            for ours_now in [pair % 2 == 0, pair % 2 == 1] {
                let meet = Meet::new();
                if ours_now {
                    let run = ours(&transport, hub.incarnation, each, meet.clone(), link_bytes);
                    our_passes.push(pass(&runtime, &broker, Some(meet), run));
                } else {
                    let run = bare(&broker, each, meet.clone(), read);
                    bare_passes.push(pass(&runtime, &broker, Some(meet), run));
                }
            }
        }
        let single = pass(&runtime, &broker, None, publish_singly(&broker, singly));
        let micros = |seconds: f64, events: usize| seconds * 1e6 / events as f64;
        let ratios = |of: fn(&Pass) -> f64| -> Vec<f64> {
            our_passes.iter().zip(&bare_passes).map(|(ours, bare)| of(ours) / of(bare)).collect()
        };
        // More events a second is a shorter time.
        let rates: Vec<f64> =
            ratios(|pass| pass.wall).into_iter().map(|ratio| 1.0 / ratio).collect();
        let (slowest, fastest) = rates
            .iter()
            .fold((f64::MAX, f64::MIN), |(low, high), ratio| (low.min(*ratio), high.max(*ratio)));
        let of =
            |passes: &[Pass], value: fn(&Pass) -> f64| median(passes.iter().map(value).collect());
        let all = bare_passes.iter().chain(&our_passes).map(|pass| pass.broker_cpu).collect();
        let line = format!(
            concat!(
                r#"{{"log":"{}","pairs":{},"events":{},"rate":{:.0},"bare_rate":{:.0},"#,
                r#""rate_ratio":{:.4},"rate_ratio_min":{:.4},"rate_ratio_max":{:.4},"#,
                r#""cpu_us":{:.3},"bare_cpu_us":{:.3},"cpu_ratio":{:.4},"#,
                r#""broker_sent_us":{:.3},"broker_published_us":{:.3},"broker_single_us":{:.1}}}"#
            ),
            kind,
            pairs,
            events,
            events as f64 / of(&our_passes, |pass| pass.wall),
            events as f64 / of(&bare_passes, |pass| pass.wall),
            median(rates),
            slowest,
            fastest,
            micros(of(&our_passes, |pass| pass.cpu), events),
            micros(of(&bare_passes, |pass| pass.cpu), events),
            median(ratios(|pass| pass.cpu)),
            micros(median(all), events),
            micros(batched.broker_cpu, events),
            micros(single.broker_cpu, singly * PARTITIONS),
        );
        println!("{line}");
        lines.push(line);
    }
    fs::create_dir_all("target/bench").expect("writable");
    fs::write("target/bench/transport.json", format!("[{}]\n", lines.join(",\n")))
        .expect("writable");
}
