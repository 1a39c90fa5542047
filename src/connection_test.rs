//! Whether a hub can be reached, how fast it answers, and what to do where it does not.
//!
//! Steps, each timed: connect; read the properties of the hub and its partitions; where a
//! publisher is given, send one event with an id of its own, and receive it. The first failure
//! ends the test. What to do follows from the step and the error's class.

use std::fmt;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::time::timeout;
use tracing::debug;

use crate::error::{Error, ErrorClass, Result, error_chain};
use crate::event::{Event, OutgoingEvent, PartitionId, SequenceNumber};
use crate::transport::{
    Link, LinkStart, LogProperties, OpenLink, Publisher, SendTarget, Transport,
};

/// How long the event that was sent may take to arrive.
pub const DEFAULT_RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Events asked for ahead: others may arrive before ours.
const PREFETCH_EVENTS: u32 = 10;

const BODY: &str = "longshore connection test";

/// A step of the test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// Dials and shakes hands; nobody asks for credentials yet.
    Connect,
    /// Shows the credentials and reads the properties of the hub and of each partition.
    Properties,
    /// Publishes an event, over a connection of its own, and waits until it is accepted.
    Send,
    /// Opens a link and waits for that event.
    Receive,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Step::Connect => "connect",
            Step::Properties => "properties",
            Step::Send => "send",
            Step::Receive => "receive",
        })
    }
}

/// A step that went well.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct StepTime {
    /// The step.
    pub step: Step,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What a failure comes from, as far as it decides what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The certificate of the other side is not trusted, or a proxy on the way lets nobody in.
    Trust,
    /// Nothing there, or nothing that answers.
    Network,
    /// The credentials were refused.
    Credentials,
    /// The service knows the namespace, but not what was asked of it.
    NotFound,
    /// The service is busy.
    Throttling,
    /// Another receiver has the partition for itself.
    PartitionTaken,
    /// Something else.
    Other,
}

/// A step that failed.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct StepFailure {
    /// The step.
    pub step: Step,
    /// What a worker would do about it.
    pub class: ErrorClass,
    /// What it comes from.
    pub cause: Cause,
    /// How long it took to fail, in seconds.
    pub seconds: f64,
    /// The error.
    pub message: String,
    /// The chain below it, outermost first.
    pub causes: Vec<String>,
    /// What a person can do about it.
    pub advice: String,
}

/// What a test found.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct ConnectionReport {
    /// What was dialled, `HOST:PORT`.
    pub address: String,
    /// The namespace.
    pub namespace: String,
    /// The hub.
    pub entity: String,
    /// The consumer group.
    pub consumer_group: String,
    /// The hub's partitions, where they were read.
    pub partitions: Vec<String>,
    /// The steps that went well, in order.
    pub steps: Vec<StepTime>,
    /// What ended the test early.
    pub failure: Option<StepFailure>,
}

/// Tests the way to a hub that is reached at `address` (`HOST:PORT`, for the report). With a
/// publisher, an event is sent that every consumer of the hub sees.
///
/// # Cancel safety
/// A call that is dropped may leave the event in the hub.
pub async fn test_connection(
    transport: &dyn Transport,
    publisher: Option<&dyn Publisher>,
    address: &str,
) -> ConnectionReport {
    let mut report = ConnectionReport {
        address: address.to_owned(),
        namespace: transport.namespace().to_owned(),
        entity: transport.entity().to_string(),
        consumer_group: transport.consumer_group().to_string(),
        partitions: Vec::new(),
        steps: Vec::new(),
        failure: None,
    };
    if let Err(Failed { step, seconds, error }) = run(transport, publisher, &mut report).await {
        let cause = cause_of(step, &error);
        report.failure = Some(StepFailure {
            step,
            class: error.class(),
            cause,
            seconds,
            message: error.to_string(),
            causes: error_chain(&error).split_off(1),
            advice: advice(cause, &report),
        });
    }
    transport.close().await;
    if let Some(publisher) = publisher {
        publisher.close().await;
    }
    report
}

struct Failed {
    step: Step,
    seconds: f64,
    error: Error,
}

async fn run(
    transport: &dyn Transport,
    publisher: Option<&dyn Publisher>,
    report: &mut ConnectionReport,
) -> Result<(), Failed> {
    timed(report, Step::Connect, transport.connect()).await?;
    let (partitions, target) = timed(report, Step::Properties, properties(transport)).await?;
    report.partitions = partitions.iter().map(ToString::to_string).collect();
    let (Some(publisher), Some((partition, log))) = (publisher, target) else { return Ok(()) };
    let id = format!("longshore-test-{:032x}", SmallRng::from_os_rng().random::<u128>());
    let event = OutgoingEvent::new(BODY).with_message_id(&id);
    let sending = publisher.send(SendTarget::Partition(partition.clone()), event);
    timed(report, Step::Send, sending).await?;
    timed(report, Step::Receive, receive(transport, partition, log.last_enqueued, &id)).await
}

async fn timed<T>(
    report: &mut ConnectionReport,
    step: Step,
    call: impl Future<Output = Result<T>>,
) -> Result<T, Failed> {
    let began = Instant::now();
    let done = call.await;
    let seconds = began.elapsed().as_secs_f64();
    let done = done.map_err(|error| Failed { step, seconds, error })?;
    debug!(?step, seconds, "the step went well");
    report.steps.push(StepTime { step, seconds });
    Ok(done)
}

/// All partitions, and the first with where its log ends.
async fn properties(
    transport: &dyn Transport,
) -> Result<(Vec<PartitionId>, Option<(PartitionId, LogProperties)>)> {
    let hub = transport.hub_properties().await?;
    let mut first = None;
    for partition in &hub.partitions {
        let log = transport.log_properties(partition).await?;
        first.get_or_insert((partition.clone(), log));
    }
    Ok((hub.partitions, first))
}

/// Receives what comes after `last`, up to the event with this message id.
async fn receive(
    transport: &dyn Transport,
    partition: PartitionId,
    last: Option<SequenceNumber>,
    id: &str,
) -> Result<()> {
    let start = last.map_or(LinkStart::FirstEvent, LinkStart::After);
    let open = transport.open(OpenLink::new(partition, start, PREFETCH_EVENTS));
    let search = async {
        let mut link = open.await?;
        let found = find(&mut *link, id).await;
        link.close().await;
        found
    };
    timeout(DEFAULT_RECEIVE_TIMEOUT, search).await.unwrap_or_else(|_elapsed| {
        let message = format!(
            "the event that was sent did not arrive within {} s",
            DEFAULT_RECEIVE_TIMEOUT.as_secs()
        );
        Err(Error::new(ErrorClass::Transient, "receive from the link", message))
    })
}

async fn find(link: &mut dyn Link, id: &str) -> Result<()> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        poll_fn(|cx| link.poll_receive(cx, PREFETCH_EVENTS as usize, &mut events)).await?;
        if events.drain(..).any(|event| event.message_id().as_deref() == Some(id)) {
            return Ok(());
        }
    }
}

fn cause_of(step: Step, error: &Error) -> Cause {
    match error.class() {
        // Nobody has asked for credentials yet.
        ErrorClass::Auth if step == Step::Connect => Cause::Trust,
        ErrorClass::Auth => Cause::Credentials,
        ErrorClass::Permanent => Cause::NotFound,
        ErrorClass::Throttling => Cause::Throttling,
        ErrorClass::Transient => Cause::Network,
        ErrorClass::PartitionLost => Cause::PartitionTaken,
        _ => Cause::Other,
    }
}

fn advice(cause: Cause, report: &ConnectionReport) -> String {
    let ConnectionReport { address, entity, consumer_group, .. } = report;
    match cause {
        Cause::Trust => format!(
            "where the certificate of {address} is at fault, put the certificate authority of your \
             broker or intercepting proxy into a PEM file and name it in EVENTHUB_CA_FILE; where a \
             proxy refuses, put USER:PASSWORD@ before its host in EVENTHUB_PROXY"
        ),
        Cause::Network => format!(
            "{address} does not answer as it should: check the name, the firewall and the private \
             endpoint; EVENTHUB_PROTOCOL chooses port 443 (websocket) or 5671 (tcp), and \
             EVENTHUB_PROXY a proxy"
        ),
        Cause::Credentials => "check the key and its rights (Listen to receive, Send to send), or \
             that the identity has a role such as Azure Event Hubs Data Receiver"
            .to_owned(),
        Cause::NotFound => format!(
            "check that the hub {entity} (EVENTHUB_ENTITY_NAME) and its consumer group \
             {consumer_group} (EVENTHUB_CONSUMER_GROUP) exist, and that the hub is active"
        ),
        Cause::Throttling => {
            "try again later; where it stays so, the namespace needs more throughput units"
                .to_owned()
        }
        Cause::PartitionTaken => format!(
            "a worker of the consumer group {consumer_group} has the partition for itself, so the \
             way is fine: receive with a group of its own (EVENTHUB_CONSUMER_GROUP)"
        ),
        Cause::Other => "see the message; with RUST_LOG=longshore=debug there is more".to_owned(),
    }
}
