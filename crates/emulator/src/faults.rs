//! Faults on purpose: what a network and a service do to a client, on demand.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::EmulatorError;
use super::broker::Broker;
use super::injection::FaultPoint;
use super::listener::Away;
use super::refusal::{DETACH_FORCED, Refusal};
use super::throughput;

/// Makes things go wrong in a running emulator. Clones act on the same one.
#[derive(Debug, Clone)]
pub struct Faults {
    broker: Arc<Broker>,
    away: mpsc::Sender<Away>,
}

/// # Links
impl Faults {
    pub(super) fn new(broker: Arc<Broker>, away: mpsc::Sender<Away>) -> Self {
        Self { broker, away }
    }

    /// Detaches the receiving links of a hub, of all its partitions if none is given, with an error
    /// that clients retry (`amqp:link:detach-forced`). Returns how many.
    pub fn detach_receivers(&self, hub: &str, partition: Option<u32>) -> usize {
        self.broker.detach_receivers(hub, partition, &forced())
    }

    /// Detaches the sending links of a hub in the same way. Returns how many.
    pub fn detach_senders(&self, hub: &str) -> usize {
        self.broker.detach_senders(hub, &forced())
    }

    /// Answers with an AMQP error at the next `times` occasions, for example with
    /// `amqp:internal-error` or `com.microsoft:timeout`.
    pub fn fail(
        &self,
        at: FaultPoint,
        condition: impl Into<Cow<'static, str>>,
        description: impl Into<Cow<'static, str>>,
        times: usize,
    ) {
        self.broker.injections.arm(at, Refusal::new(condition, description), times);
    }

    /// Answers the next `times` occasions with `com.microsoft:server-busy`, in the words of the
    /// service.
    pub fn server_busy(&self, at: FaultPoint, times: usize) {
        self.broker.injections.arm(at, throughput::busy(), times);
    }

    /// How many errors still wait for their occasion.
    pub fn pending_failures(&self, at: FaultPoint) -> usize {
        self.broker.injections.left(at)
    }

    /// Forgets the errors that still wait for their occasion.
    pub fn clear_failures(&self) {
        self.broker.injections.clear();
    }
}

/// # Network
impl Faults {
    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.broker.connections()
    }

    /// Cuts every TCP connection without a goodbye. Returns how many.
    pub fn cut_connections(&self) -> usize {
        self.broker.cut_connections()
    }

    /// Makes every connection half open: the broker reads and writes nothing on it any more and
    /// does not close it, as when the way to it is gone. New connections work. Returns how many
    /// there were.
    pub fn half_open(&self) -> usize {
        self.broker.silence_connections()
    }

    /// Makes the next `connections` half open from the first: accepted, and then nothing.
    pub fn half_open_next(&self, connections: usize) {
        self.broker.weather.silence_next(connections);
    }

    /// Stops all traffic, of new connections too, for this long. Nothing is lost.
    pub fn stall(&self, pause: Duration) {
        self.broker.weather.stall_until(Instant::now() + pause);
    }

    /// Lets whatever clients send arrive later by this much, until it is set again. Zero is the
    /// beginning.
    pub fn delay(&self, delay: Duration) {
        self.broker.weather.delay(delay);
    }

    /// Stops listening, cuts every connection, and listens again on the same ports after `pause`;
    /// meanwhile connections are refused. Events are kept. Returns when it listens again.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Bind`] when a port is not free again within ten seconds (the attempts go
    /// on), [`EmulatorError::Stopped`] when the emulator is shut down.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the broker still goes away and comes back.
    pub async fn away(&self, pause: Duration) -> Result<(), EmulatorError> {
        let (done, back) = oneshot::channel();
        self.away.send(Away { pause, done }).await.map_err(|_| EmulatorError::Stopped)?;
        back.await.map_err(|_| EmulatorError::Stopped)?
    }
}

/// # Logs
impl Faults {
    /// Deletes a hub with its events and creates it again, empty, with a new time of creation. Its
    /// links are detached. Returns whether there is such a hub.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Storage`] when its files cannot be removed or made.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the hub is recreated all the same.
    pub async fn recreate_hub(&self, hub: &str) -> Result<bool, EmulatorError> {
        let (broker, hub) = (Arc::clone(&self.broker), hub.to_owned());
        let recreating = tokio::task::spawn_blocking(move || broker.recreate_hub(&hub));
        recreating.await.map_err(|_| EmulatorError::Stopped)?
    }

    /// Gives a hub more partitions, empty ones behind those it has. Its sending links are detached
    /// with an error that clients retry (`com.microsoft:entity-updated`), as in the service; where a
    /// key belongs changes with the number of partitions. Returns whether there is such a hub.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::PartitionLimit`] for more than a hub may have, [`EmulatorError::Storage`]
    /// when its files cannot be made.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the partitions are added all the same.
    pub async fn add_partitions(&self, hub: &str, more: u32) -> Result<bool, EmulatorError> {
        let (broker, hub) = (Arc::clone(&self.broker), hub.to_owned());
        let adding = tokio::task::spawn_blocking(move || broker.add_partitions(&hub, more));
        adding.await.map_err(|_| EmulatorError::Stopped)?
    }

    /// Forgets the events of a partition before `sequence_number`, as retention would. Returns the
    /// sequence number it begins with now, which can be a lower one in a data folder, or `None` when
    /// there is no such partition.
    pub fn trim_log(&self, hub: &str, partition: u32, sequence_number: i64) -> Option<i64> {
        self.broker.trim_log(hub, partition, sequence_number)
    }
}

fn forced() -> Refusal {
    Refusal::new(DETACH_FORCED, "The link was force detached by a fault of the emulator")
}
