//! Tests whether a hub and the checkpoint store can be reached, how fast they answer, and says what to do if not.
//!
//! Each step is timed: connect; read the properties of the hub and of its partitions; open a link of the consumer
//! group, or, with a publisher, send one event and receive it; with a checkpoint store, read the checkpoints and
//! ask whether they may be written. The first failure ends the test. The advice follows from the step and the
//! class of the error.

use std::fmt;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::time::timeout;
use tracing::debug;

use crate::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, StoreError, VersionToken,
};
use crate::error::{Error, ErrorClass, Result, error_chain};
use crate::event::{Event, OutgoingEvent, PartitionId, SequenceNumber};
use crate::transport::{
    Link, LinkStart, LogProperties, OpenLink, Publisher, SendTarget, Transport,
};

/// How long the event that was sent may take to arrive: 30 s.
pub const DEFAULT_RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a link without events is watched for a refusal: 2 s.
const WATCHED: Duration = Duration::from_secs(2);

/// The partition whose checkpoint is asked to be written. No hub has it.
const NO_PARTITION: &str = "longshore-test";
/// A version that no store gives, as Blob Storage spells one.
const NO_VERSION: &str = "\"0x0\"";

/// Events asked for ahead: others may arrive before ours.
const PREFETCH_EVENTS: u32 = 10;

const BODY: &str = "longshore connection test";

/// A step of the test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// Dials and shakes hands. Credentials are not asked for yet.
    Connect,
    /// Shows the credentials, and reads the properties of the hub and of each partition.
    Properties,
    /// Publishes an event over a connection of its own, and waits until it is accepted.
    Send,
    /// Opens a link and waits for that event.
    Receive,
    /// Opens a link of the consumer group, without an owner level, so that no worker is disturbed.
    Group,
    /// Reads the checkpoints, and asks to write one in a way that changes nothing.
    Checkpoints,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Step::Connect => "connect",
            Step::Properties => "properties",
            Step::Send => "send",
            Step::Receive => "receive",
            Step::Group => "group",
            Step::Checkpoints => "checkpoints",
        })
    }
}

/// A step that succeeded.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct StepTime {
    /// The step.
    pub step: Step,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What a failure comes from. It decides the advice; docs/troubleshooting.md explains each word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The certificate of the other side is not trusted, or a proxy on the way refuses the connection.
    Trust,
    /// Nothing answers at the address.
    Network,
    /// The credentials were refused.
    Credentials,
    /// The hub, the consumer group or the container does not exist.
    NotFound,
    /// The service is busy.
    Throttling,
    /// Another receiver has the partition for itself.
    PartitionTaken,
    /// Something else.
    Other,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Cause::Trust => "trust",
            Cause::Network => "network",
            Cause::Credentials => "credentials",
            Cause::NotFound => "not_found",
            Cause::Throttling => "throttling",
            Cause::PartitionTaken => "partition_taken",
            Cause::Other => "other",
        })
    }
}

/// A step that failed.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[non_exhaustive]
pub struct StepFailure {
    /// The step.
    pub step: Step,
    /// What a worker would do about the error.
    pub class: ErrorClass,
    /// What the failure comes from.
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
    /// The partitions of the hub, if they were read.
    pub partitions: Vec<String>,
    /// The steps that succeeded, in order.
    pub steps: Vec<StepTime>,
    /// The step that failed and ended the test. `None` if all is well.
    pub failure: Option<StepFailure>,
}

/// A test of the way to a hub, and to what a worker needs beside it.
///
/// ```
/// use longshore::checkpoint_store::memory::MemoryCheckpointStore;
/// use longshore::connection_test::ConnectionTest;
/// use longshore::transport::memory::MemoryHub;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
/// let transport = MemoryHub::new("orders", 1).transport("$Default");
/// let checkpoints = MemoryCheckpointStore::new();
/// let test = ConnectionTest::new(&transport, "localhost:5672").with_checkpoints(&checkpoints);
/// assert_eq!(test.run().await.failure, None);
/// # });
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ConnectionTest<'a> {
    transport: &'a dyn Transport,
    address: String,
    publisher: Option<&'a dyn Publisher>,
    checkpoints: Option<&'a dyn CheckpointStore>,
}

impl<'a> ConnectionTest<'a> {
    /// A test of the hub behind `transport`. `address` (`HOST:PORT`) is for the report and the advice.
    pub fn new(transport: &'a dyn Transport, address: impl Into<String>) -> Self {
        Self { transport, address: address.into(), publisher: None, checkpoints: None }
    }

    /// Sends one event, which every consumer of the hub sees, and receives it.
    pub fn with_publisher(mut self, publisher: &'a dyn Publisher) -> Self {
        self.publisher = Some(publisher);
        self
    }

    /// Asks the checkpoint store as well. No checkpoint is changed.
    pub fn with_checkpoints(mut self, checkpoints: &'a dyn CheckpointStore) -> Self {
        self.checkpoints = Some(checkpoints);
        self
    }

    /// Runs the test. At its end it closes the transport and the publisher.
    ///
    /// # Cancel safety
    /// A call that is dropped may leave the event in the hub.
    pub async fn run(self) -> ConnectionReport {
        let transport = self.transport;
        let mut report = ConnectionReport {
            address: self.address.clone(),
            namespace: transport.namespace().to_owned(),
            entity: transport.entity().to_string(),
            consumer_group: transport.consumer_group().to_string(),
            partitions: Vec::new(),
            steps: Vec::new(),
            failure: None,
        };
        if let Err(Failed { step, seconds, error }) = self.ask(&mut report).await {
            let cause = cause_of(step, &error);
            report.failure = Some(StepFailure {
                step,
                class: error.class(),
                cause,
                seconds,
                message: error.to_string(),
                causes: error_chain(&error).split_off(1),
                advice: match step {
                    Step::Checkpoints => advice_of_store(cause),
                    _ => advice(cause, &report),
                },
            });
        }
        transport.close().await;
        if let Some(publisher) = self.publisher {
            publisher.close().await;
        }
        report
    }

    async fn ask(&self, report: &mut ConnectionReport) -> Result<(), Failed> {
        let transport = self.transport;
        timed(report, Step::Connect, transport.connect()).await?;
        let (partitions, first) = timed(report, Step::Properties, properties(transport)).await?;
        report.partitions = partitions.iter().map(ToString::to_string).collect();
        match (self.publisher, first) {
            (Some(publisher), Some((partition, log))) => {
                let id =
                    format!("longshore-test-{:032x}", SmallRng::from_os_rng().random::<u128>());
                let event = OutgoingEvent::new(BODY).with_message_id(&id);
                let sending = publisher.send(SendTarget::Partition(partition.clone()), event);
                timed(report, Step::Send, sending).await?;
                let received = receive(transport, partition, log.last_enqueued, &id);
                timed(report, Step::Receive, received).await?;
            }
            (None, Some((partition, log))) => {
                timed(report, Step::Group, group(transport, partition, log)).await?;
            }
            (_, None) => {}
        }
        let Some(store) = self.checkpoints else { return Ok(()) };
        let scope = CheckpointScope {
            namespace: transport.namespace().to_owned(),
            entity: transport.entity().clone(),
            consumer_group: transport.consumer_group().clone(),
        };
        timed(report, Step::Checkpoints, checkpoints(store, scope)).await
    }
}

/// Tests the way to a hub; see [`ConnectionTest`].
///
/// # Cancel safety
/// A call that is dropped may leave the event in the hub.
pub async fn test_connection(
    transport: &dyn Transport,
    publisher: Option<&dyn Publisher>,
    address: &str,
) -> ConnectionReport {
    let test = ConnectionTest { publisher, ..ConnectionTest::new(transport, address) };
    test.run().await
}

struct Failed {
    step: Step,
    seconds: f64,
    error: Error,
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
    debug!(?step, seconds, "the step succeeded");
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

/// Opens a link that begins with the last event of a log, whose arrival proves that the group exists. In an empty
/// log a refusal has some time to arrive. A worker that has the partition for itself proves it as well.
async fn group(
    transport: &dyn Transport,
    partition: PartitionId,
    log: LogProperties,
) -> Result<()> {
    let before = |last: SequenceNumber| LinkStart::After(SequenceNumber(last.0.saturating_sub(1)));
    let start = log.last_enqueued.map_or(LinkStart::FirstEvent, before);
    let asked = async {
        let mut link = transport.open(OpenLink::new(partition, start, 1)).await?;
        let mut events: Vec<Event> = Vec::new();
        let receiving = poll_fn(|cx| link.poll_receive(cx, 1, &mut events));
        let received = timeout(WATCHED, receiving).await;
        link.close().await;
        received.map_or(Ok(()), |received| received.map(|_| ()))
    };
    match asked.await {
        Err(error)
            if matches!(error.class(), ErrorClass::PartitionLost | ErrorClass::Unreadable) =>
        {
            debug!(%error, "the consumer group exists");
            Ok(())
        }
        asked => asked,
    }
}

/// Reads the checkpoints of a scope, and asks to write one over a version that no store has given: the answer tells
/// whether writing is allowed, and nothing is written.
async fn checkpoints(store: &dyn CheckpointStore, scope: CheckpointScope) -> Result<()> {
    for (_, checkpoint) in store.list(&scope).await? {
        checkpoint?;
    }
    let key = CheckpointKey { scope, partition: PartitionId::from(NO_PARTITION) };
    let no_version = Expected::Version(VersionToken(NO_VERSION.to_owned()));
    match store.store(&key, &Checkpoint::default(), &no_version).await {
        Err(StoreError::Conflict) => Ok(()),
        Err(StoreError::Failed(error)) => Err(error),
        Ok(_) => {
            let message = "the store wrote over a version that it does not have: it cannot be used";
            Err(Error::new(ErrorClass::Permanent, "write a checkpoint", message))
        }
    }
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
        // Credentials are not asked for yet.
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
            "if the certificate of {address} is not trusted, put the certificate authority of your \
             broker or intercepting proxy into a PEM file and name the file in EVENTHUB_CA_FILE; if \
             a proxy asks who you are, put USER:PASSWORD@ before its host in EVENTHUB_PROXY"
        ),
        Cause::Network => format!(
            "check that {address} is right and can be reached (name, firewall, private endpoint; a broker \
             on this machine must run); EVENTHUB_PROTOCOL chooses port 443 (websocket) or 5671 \
             (tcp), and EVENTHUB_PROXY a proxy"
        ),
        Cause::Credentials => "check the key and its rights (Listen to receive, Send to send), or \
             that the identity has a role such as Azure Event Hubs Data Receiver"
            .to_owned(),
        Cause::NotFound => format!(
            "check that the hub {entity} (EVENTHUB_ENTITY_NAME) and its consumer group \
             {consumer_group} (EVENTHUB_CONSUMER_GROUP) exist, and that the hub is active"
        ),
        Cause::Throttling => {
            "try again later; if it stays so, the namespace needs more throughput units".to_owned()
        }
        Cause::PartitionTaken => format!(
            "a worker of the consumer group {consumer_group} has the partition for itself, so the \
             way is fine: leave out --send, or receive with another group (EVENTHUB_CONSUMER_GROUP)"
        ),
        Cause::Other => SEE_THE_LOG.to_owned(),
    }
}

const SEE_THE_LOG: &str = "read the message; RUST_LOG=longshore=debug shows more";

/// What to do about the store.
fn advice_of_store(cause: Cause) -> String {
    match cause {
        Cause::Network | Cause::Trust => {
            "nothing answers for the checkpoints: check the address in \
             LONGSHORE_CHECKPOINT_CONTAINER, the firewall and the private endpoint"
        }
        Cause::Credentials => {
            "a shared access signature must allow to read, list, create, write and delete, and must \
             not have ended; a credential needs the role Storage Blob Data Contributor"
        }
        Cause::NotFound => {
            "check that the container of LONGSHORE_CHECKPOINT_CONTAINER exists, or that the folder of \
             LONGSHORE_CHECKPOINT_FOLDER can be used; longshore creates no container"
        }
        Cause::Throttling => "try again later; the storage account is busy",
        Cause::PartitionTaken | Cause::Other => SEE_THE_LOG,
    }
    .to_owned()
}
