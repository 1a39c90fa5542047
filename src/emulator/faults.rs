//! Faults on purpose: what a network and a service do to a client, on demand.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::EmulatorError;
use super::broker::Broker;
use super::listener::Away;
use super::refusal::{DETACH_FORCED, Refusal};

/// Makes things go wrong in a running emulator. Clones act on the same one.
#[derive(Debug, Clone)]
pub struct Faults {
    broker: Arc<Broker>,
    away: mpsc::Sender<Away>,
}

impl Faults {
    pub(super) fn new(broker: Arc<Broker>, away: mpsc::Sender<Away>) -> Self {
        Self { broker, away }
    }

    /// Detaches the receiving links of a hub, of all its partitions if none is given, with an error
    /// that clients retry (`amqp:link:detach-forced`). Returns how many.
    pub fn detach_receivers(&self, hub: &str, partition: Option<u32>) -> usize {
        let refusal =
            Refusal::new(DETACH_FORCED, "The link was force detached by a fault of the emulator");
        self.broker.detach_receivers(hub, partition, &refusal)
    }

    /// Cuts every TCP connection without a goodbye. Returns how many.
    pub fn cut_connections(&self) -> usize {
        self.broker.cut_connections()
    }

    /// Stops listening, cuts every connection, and listens again on the same port after `pause`;
    /// meanwhile connections are refused. Events are kept. Returns when it listens again.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Bind`] when the port is not free again within ten seconds (the attempts go
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

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.broker.connections()
    }
}
