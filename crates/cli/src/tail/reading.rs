//! Reads partitions side by side, each over links that are opened again where they are lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::plan::{Plan, Reading};
use crate::brief;
use longshore::error::ErrorClass;
use longshore::event::{Event, Incarnation, Partition, PartitionId};
use longshore::state::resume::{Continuity, ResumePosition};
use longshore::transport::Transport;
use longshore::transport::event_hubs::EventHubsTransport;
use longshore::transport::partition_stream::{PartitionStream, StreamEnd, StreamOptions};

/// Events that a link may bring ahead.
const PREFETCH_EVENTS: u32 = 300;

/// Events that are taken at once.
const EVENTS_AT_ONCE: usize = 100;

/// Partitions that are read at once where they have an end: each is a connection.
const PARTITIONS_AT_ONCE: usize = 16;

/// Bytes that the links of all partitions may hold ahead, and the least of one.
const LINK_BYTES: usize = 64 << 20;
const LEAST_LINK_BYTES: usize = 1 << 20;

/// How long the next event of a log that has more may take.
const NEXT_EVENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What comes of a partition.
pub(super) enum Message {
    Events(Vec<Event>),
    /// It was read to its end.
    Over,
    /// It cannot be read any more; why, in words.
    Failed(PartitionId, String),
}

/// Reads all of a plan. What is dropped is read no more.
pub(super) fn start(
    plan: &Plan,
    transport: &Arc<EventHubsTransport>,
    incarnation: Incarnation,
) -> (JoinSet<()>, mpsc::Receiver<Message>) {
    let (messages, received) = mpsc::channel(4);
    let readings = plan.readings.len().max(1);
    let at_once = if plan.is_followed { readings } else { PARTITIONS_AT_ONCE };
    let link_bytes = (LINK_BYTES / readings.min(at_once)).max(LEAST_LINK_BYTES);
    let places = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    for reading in plan.readings.clone() {
        let (transport, places) = (Arc::clone(transport), Arc::clone(&places));
        let messages = messages.clone();
        tasks.spawn(async move {
            let Ok(_place) = places.acquire().await else { return };
            let message = match read(&reading, transport, incarnation, link_bytes, &messages).await
            {
                Ok(()) => Message::Over,
                Err(why) => Message::Failed(reading.partition, why),
            };
            let _gone = messages.send(message).await;
        });
    }
    (tasks, received)
}

/// Reads one, to its end where it has one.
async fn read(
    reading: &Reading,
    transport: Arc<EventHubsTransport>,
    incarnation: Incarnation,
    link_bytes: usize,
    messages: &mpsc::Sender<Message>,
) -> Result<(), String> {
    let partition = Partition::new(transport.entity().clone(), reading.partition.clone());
    let position = ResumePosition::new(incarnation, reading.start);
    let options = StreamOptions::new(PREFETCH_EVENTS, rand::random()).with_link_bytes(link_bytes);
    let hub: Arc<dyn Transport> = Arc::clone(&transport) as _;
    let mut stream = PartitionStream::new(hub, partition, position, options);
    loop {
        let mut events = Vec::new();
        let next = stream.next_events(EVENTS_AT_ONCE, &mut events);
        let received = match reading.end {
            None => next.await,
            Some(_) => match timeout(NEXT_EVENT_TIMEOUT, next).await {
                Ok(received) => received,
                Err(_elapsed) => return is_over(reading, &transport).await,
            },
        };
        received.map_err(|end| explained(end, &transport))?;
        let last = events.last().map(Event::sequence_number);
        events.retain(|event| reading.has(event));
        if !events.is_empty() && messages.send(Message::Events(events)).await.is_err() {
            return Ok(());
        }
        if last >= reading.end && reading.end.is_some() {
            stream.close().await;
            return Ok(());
        }
    }
}

/// Whether retention has taken what was to come.
async fn is_over(reading: &Reading, transport: &EventHubsTransport) -> Result<(), String> {
    let log = transport.log_properties(&reading.partition).await.map_err(|error| brief(&error))?;
    match reading.end {
        Some(end) if log.begin <= end => {
            Err(format!("it brought no event in {} s", NEXT_EVENT_TIMEOUT.as_secs()))
        }
        _ => Ok(()),
    }
}

fn explained(end: StreamEnd, transport: &EventHubsTransport) -> String {
    let error = match end {
        StreamEnd::Failed(error) => error,
        StreamEnd::Discontinuity(Continuity::Recreated { .. }) => {
            return "the hub was created anew".to_owned();
        }
        _ => return "its log does not go on where it was left; begin again".to_owned(),
    };
    match error.class() {
        ErrorClass::PartitionLost => format!(
            "a worker has it for itself in the consumer group {}; --group names another one",
            transport.consumer_group()
        ),
        _ => brief(&error),
    }
}
