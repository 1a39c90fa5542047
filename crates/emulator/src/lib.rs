//! An Event Hubs-compatible broker in the box, for tests, demos and work without an Azure account.
//!
//! The Azure SDKs talk to it over AMQP as they talk to the service: tokens, properties, publishing
//! to a hub, a partition or by key, batches, and receiving from any position, with owner levels.
//! Events live in memory, or durably in a folder.
//!
//! ```no_run
//! # async fn example() -> Result<(), longshore_emulator::EmulatorError> {
//! use longshore_emulator::Emulator;
//!
//! let emulator = Emulator::builder().hub("orders", 4).start().await?;
//! // The Rust SDK: `.with_custom_endpoint(emulator.endpoint())` on its builders.
//! println!("{}", emulator.connection_string(Some("orders")));
//! emulator.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Inside
//!
//! ```text
//!  listener ── accepts ──> socket ── bytes, times ──> connection ──> session ──> publish, consume,
//!     ^                    (I/O)                      (no I/O)                   request (cbs,
//!   faults                   |                            ^                      management)
//!                            | reads files                | notices                   |
//!                            v                            |                           v
//!                         segment                      mailbox <── log, hub <── broker, writer
//! ```
//!
//! 1. A connection is one task and a state machine without I/O. It takes bytes and notices and
//!    gives frames; nothing else touches its state.
//! 2. A publish becomes encoded events, goes into the log of a partition, and is
//!    answered after the log accepted it.
//! 3. A receiver reads from the log as far as its credit, its session's window and the connection's
//!    output allow, and otherwise waits at the partition for a notice. Events are sent as the bytes
//!    that were stored.
//!
//! # What it does not do
//!
//! Unless told to, it checks no tokens, keeps every event for ever (in memory up to
//! [a limit](DEFAULT_MAX_MEMORY_BYTES)), knows any consumer group by name
//! and takes in as much as it can. It listens on the loopback; other machines are let in by keys, or
//! by [an explicit word](EmulatorBuilder::allow_anyone). [`configuration`] has the keys of its file.

#[doc = include_str!("../docs/configuration.md")]
pub mod configuration {}

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod address;
mod broker;
mod budget;
mod builder;
mod cbs;
mod certificates;
mod config_file;
#[cfg_attr(not(test), expect(dead_code, reason = "a test writes the documentation with them"))]
mod config_keys;
mod connection;
mod consume;
mod context;
mod doorway;
mod endpoint;
mod error;
mod event;
mod exposure;
mod extents;
mod faults;
mod frame;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod hub;
mod hub_options;
mod injection;
mod intake;
mod listener;
mod log;
mod mailbox;
mod management;
mod memory;
mod message_sizes;
mod private;
mod publish;
mod record;
mod refusal;
mod request;
mod retention;
mod segment;
mod session;
mod settings;
mod socket;
mod store;
mod throughput;
mod tokens;
mod upgrade;
mod weather;
mod websocket;
mod wire;
mod writer;

use broker::Broker;
use exposure::Port;
use host::Host;

pub use broker::validate_hub;
pub use builder::EmulatorBuilder;
pub use error::EmulatorError;
pub use faults::Faults;
pub use hub_options::HubOptions;
pub use injection::FaultPoint;

/// How long after a delivery its disposition is sent, by default: 25 ms.
///
/// The SDKs lose a disposition that arrives before they registered the send that it answers, and then the send
/// never ends. That does not happen over a network. It does over loopback, and 10 ms were too few on a busy
/// machine.
pub const DEFAULT_DISPOSITION_DELAY: Duration = Duration::from_millis(25);
/// How long after a detach it is answered, by default: 20 ms.
///
/// A client that closes links and their session together can fail its whole connection when the
/// answers come at loopback speed.
pub const DEFAULT_DETACH_DELAY: Duration = Duration::from_millis(20);
/// The idle timeout that the broker announces by default: 240 s, like the service. A peer that is silent for twice
/// this time is disconnected.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(240);

/// How long a client may take from its connection to its AMQP `open`, by default: 30 s.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections may be open at once, by default: 5,000, the limit of the standard tier of the service.
/// Each costs some memory and a file descriptor.
pub const DEFAULT_MAX_CONNECTIONS: usize = 5000;

/// How much memory the events of a broker without a data folder may take by default: 1 GiB. Beyond that it refuses
/// events.
pub const DEFAULT_MAX_MEMORY_BYTES: usize = 1024 * 1024 * 1024;

/// The largest delivery by default, an event or a batch of events: 1 MiB, as in the standard tier of the service.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

const KEY_NAME: &str = "RootManageSharedAccessKey";
const KEY: &str = "SAS_KEY_VALUE";

/// When an event of a durable log counts as accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// When the operating system has it. Survives a crash or a kill of this process, not a loss of
    /// power.
    #[default]
    Process,
    /// When it is on the disk. What arrives while a sync runs shares the next one.
    Disk,
}

/// Where each protocol is spoken.
#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: SocketAddr,
    amqp_tls: Option<SocketAddr>,
    websocket: Option<SocketAddr>,
    websocket_tls: Option<SocketAddr>,
}

/// The certificate authority that clients are to trust.
#[derive(Debug, Clone)]
struct Authority {
    pem: String,
    path: Option<PathBuf>,
}

/// A running broker. Dropping it stops its tasks; [`shutdown`](Self::shutdown) also waits for them
/// and syncs the log. A data folder stays locked until the tasks have ended and the last
/// [`Faults`] is gone.
#[derive(Debug)]
pub struct Emulator {
    ports: Ports,
    /// The host in connection strings, if one was chosen.
    advertised: Option<Host>,
    authority: Option<Authority>,
    broker: Arc<Broker>,
    faults: Faults,
    notes: Vec<String>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Emulator {
    /// Starts to set up an emulator.
    pub fn builder() -> EmulatorBuilder {
        EmulatorBuilder::new()
    }

    /// Where it listens for AMQP over TCP.
    pub fn local_addr(&self) -> SocketAddr {
        self.ports.amqp
    }

    /// Where it listens for AMQP over TLS, if it does.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.ports.amqp_tls
    }

    /// Where it listens for AMQP over plain WebSocket, if it does.
    pub fn websocket_addr(&self) -> Option<SocketAddr> {
        self.ports.websocket
    }

    /// Where it listens for AMQP over WebSocket with TLS, if it does.
    pub fn secure_websocket_addr(&self) -> Option<SocketAddr> {
        self.ports.websocket_tls
    }

    /// The certificate, in PEM, of the authority that signed the certificate of the ports with TLS;
    /// none without such ports.
    pub fn certificate_authority(&self) -> Option<&str> {
        self.authority.as_ref().map(|authority| authority.pem.as_str())
    }

    /// The file that holds [`certificate_authority`](Self::certificate_authority), when there is a
    /// [`cert_dir`](EmulatorBuilder::cert_dir).
    pub fn certificate_authority_path(&self) -> Option<&Path> {
        self.authority.as_ref()?.path.as_deref()
    }

    /// `amqp://127.0.0.1:PORT`, for the Rust SDK's `with_custom_endpoint`; with the host that is
    /// [advertised](EmulatorBuilder::advertise), if one is.
    pub fn endpoint(&self) -> String {
        match &self.advertised {
            Some(host) => format!("amqp://{}:{}", host.in_url(), self.ports.amqp.port()),
            None => format!("amqp://{}", reachable(self.ports.amqp)),
        }
    }

    /// `amqps://HOST:PORT` of AMQP over TLS, if it is offered, for the Rust SDK's
    /// `with_custom_endpoint`.
    pub fn tls_endpoint(&self) -> Option<String> {
        self.ports.amqp_tls.map(|address| format!("amqps://{}", self.authority_part(address)))
    }

    /// The same of AMQP over WebSocket with TLS, beside `AmqpTransport::WebSocket`.
    pub fn secure_websocket_endpoint(&self) -> Option<String> {
        self.ports.websocket_tls.map(|address| format!("amqps://{}", self.authority_part(address)))
    }

    /// A connection string for the SDKs that know `UseDevelopmentEmulator`, with the hub in it if
    /// one is given. The Rust SDK ignores the port in it; use [`endpoint`](Self::endpoint) there.
    pub fn connection_string(&self, hub: Option<&str>) -> String {
        self.connection_string_to(self.ports.amqp, ";UseDevelopmentEmulator=true", hub)
    }

    /// The same for AMQP over plain WebSocket, if it is offered.
    pub fn websocket_connection_string(&self, hub: Option<&str>) -> Option<String> {
        let address = self.ports.websocket?;
        Some(self.connection_string_to(address, ";UseDevelopmentEmulator=true", hub))
    }

    /// A connection string for AMQP over TLS, if it is offered, for clients that trust
    /// [`certificate_authority`](Self::certificate_authority).
    pub fn tls_connection_string(&self, hub: Option<&str>) -> Option<String> {
        Some(self.connection_string_to(self.ports.amqp_tls?, "", hub))
    }

    /// The same for AMQP over WebSocket with TLS, if it is offered.
    pub fn secure_websocket_connection_string(&self, hub: Option<&str>) -> Option<String> {
        Some(self.connection_string_to(self.ports.websocket_tls?, "", hub))
    }

    fn connection_string_to(&self, address: SocketAddr, flag: &str, hub: Option<&str>) -> String {
        let entity = hub.map_or(String::new(), |hub| format!(";EntityPath={hub}"));
        let first = self.broker.settings.keys.first();
        let (name, key) = first.map_or((KEY_NAME, KEY), |first| (&first.name, &first.key));
        let at = self.authority_part(address);
        format!("Endpoint=sb://{at};SharedAccessKeyName={name};SharedAccessKey={key}{flag}{entity}")
    }

    /// `HOST:PORT` by which clients reach a port.
    fn authority_part(&self, address: SocketAddr) -> String {
        let host = self.advertised.clone().unwrap_or_else(|| Host::of(address));
        format!("{}:{}", host.in_url(), address.port())
    }

    /// Whether the connection strings lead to this machine only: what is advertised is `localhost`
    /// or a loopback address.
    pub fn is_advertised_here_only(&self) -> bool {
        let host = self.advertised.clone().unwrap_or_else(|| Host::of(self.ports.amqp));
        host.is_loopback()
    }

    /// What is open to whom, in two lines for people: the addresses, whether other machines reach
    /// them, what is plain text, and whether tokens are checked.
    pub fn exposure(&self) -> String {
        exposure::said(&self.open_ports(), &self.broker.settings)
    }

    /// What was found in the data folder that people should know, a sentence each: what was cut off
    /// because its write had not finished, and which hubs the last run did not close. Empty where
    /// the last run ended in order.
    pub fn recovery(&self) -> &[String] {
        &self.notes
    }

    /// Whether other machines may connect without a key of this broker's own.
    pub fn is_open_to_anyone(&self) -> bool {
        exposure::is_open_to_anyone(&self.open_ports(), &self.broker.settings)
    }

    /// Whether a link needs a token that one of the keys signed.
    pub fn checks_tokens(&self) -> bool {
        self.broker.settings.tokens == settings::TokenCheck::Required
    }

    fn open_ports(&self) -> Vec<Port> {
        let Ports { amqp, amqp_tls, websocket, websocket_tls } = self.ports;
        let plain = [Some(amqp), websocket].into_iter().flatten();
        let secure = [amqp_tls, websocket_tls].into_iter().flatten();
        plain
            .map(|address| Port { address, is_plain: true })
            .chain(secure.map(|address| Port { address, is_plain: false }))
            .collect()
    }

    /// Makes things go wrong on purpose.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Requests for runtime information so far, of hubs and of partitions. The service allows 50 a
    /// second; this broker answers all of them.
    pub fn management_calls(&self) -> u64 {
        self.broker.management_calls.load(Ordering::Relaxed)
    }

    /// Stops listening, closes every connection, and writes and syncs the log. Afterwards the data
    /// folder can be opened again.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Sync`] when the end of the log could not be synced.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, everything still stops, but nobody waits for it, and the data folder may stay
    /// locked for a moment.
    pub async fn shutdown(self) -> Result<(), EmulatorError> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.broker.close_log().await
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An address a client can connect to, also when the broker listens on all of them.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The README's example is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod budget_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod connection_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod damage_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod fault_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod hostile_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod seed_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod websocket_tests;
