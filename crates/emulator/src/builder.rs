//! Sets an emulator up and starts it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::broker::{self, Broker, Storage};
use super::certificates::Certificates;
use super::config_file;
use super::doorway::Protocol;
use super::exposure::{self, Strangers};
use super::faults::Faults;
use super::host::Host;
use super::hub_options::HubOptions;
use super::listener::Listener;
use super::retention;
use super::settings::{Settings, TokenCheck};
use super::store::Store;
use super::tokens::AccessKey;
use super::writer::Writer;
use super::{Authority, Durability, Emulator, EmulatorError, Ports};

/// Sets up an [`Emulator`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct EmulatorBuilder {
    address: SocketAddr,
    tls: Option<SocketAddr>,
    websocket: Option<SocketAddr>,
    secure_websocket: Option<SocketAddr>,
    /// In place of the addresses of all ports.
    listen: Option<IpAddr>,
    advertise: Option<String>,
    strangers: Strangers,
    cert_dir: Option<PathBuf>,
    host_names: Vec<String>,
    hubs: Vec<HubOptions>,
    data_dir: Option<PathBuf>,
    durability: Durability,
    settings: Settings,
}

impl EmulatorBuilder {
    pub(super) fn new() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            websocket: None,
            secure_websocket: None,
            listen: None,
            advertise: None,
            strangers: Strangers::default(),
            cert_dir: None,
            host_names: Vec::new(),
            hubs: Vec::new(),
            data_dir: None,
            durability: Durability::default(),
            settings: Settings::default(),
        }
    }

    /// Where to listen for AMQP over TCP. The default is a free port of 127.0.0.1.
    ///
    /// Unless [tokens are required](Self::require_tokens), anyone who reaches the port may use it. An address that
    /// other machines can reach, here and for every other port, needs [keys](Self::shared_access_keys) or
    /// [`allow_anyone`](Self::allow_anyone).
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Listens for AMQP over TLS as well.
    pub fn tls(mut self, address: SocketAddr) -> Self {
        self.tls = Some(address);
        self
    }

    /// Listens for AMQP over plain WebSocket as well, at `/$servicebus/websocket`.
    pub fn websocket(mut self, address: SocketAddr) -> Self {
        self.websocket = Some(address);
        self
    }

    /// Listens for AMQP over WebSocket with TLS as well, at `/$servicebus/websocket`.
    pub fn secure_websocket(mut self, address: SocketAddr) -> Self {
        self.secure_websocket = Some(address);
        self
    }

    /// Listens on this address with every port, instead of the addresses that the ports were given. `0.0.0.0` is
    /// every address of this machine.
    pub fn listen(mut self, address: IpAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Sets the name of this machine for clients, a host name or an IP address: the host in every connection
    /// string, and a name in the certificate of the ports with TLS. Default: `localhost`, or the address of
    /// [`listen`](Self::listen) if that is a single one.
    pub fn advertise(mut self, host: impl Into<String>) -> Self {
        self.advertise = Some(host.into());
        self
    }

    /// Starts although other machines can reach a port and no token is checked against a key of your own. Anyone
    /// who reaches it may then read and write everything. Default: such a broker does not start.
    pub fn allow_anyone(mut self) -> Self {
        self.strangers = Strangers::Allowed;
        self
    }

    /// Keeps the certificate authority of the ports with TLS in this folder, as `ca.pem` and `ca.key`. Missing
    /// files are created. Default: every start makes a new authority, which [`Emulator::certificate_authority`]
    /// gives.
    pub fn cert_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cert_dir = Some(dir.into());
        self
    }

    /// Adds a name or IP address to the certificate of the ports with TLS. `localhost`, `127.0.0.1`,
    /// `::1`, what is [advertised](Self::advertise) and what is listened on are in it.
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.host_names.push(name.into());
        self
    }

    /// Adds a hub. Names are case-insensitive; partitions are 1 to 1,024 (a chosen limit, the
    /// service's largest).
    pub fn hub(self, name: impl Into<String>, partitions: u32) -> Self {
        self.hub_with(HubOptions::new(name, partitions))
    }

    /// Adds a hub with consumer groups or a retention of its own.
    pub fn hub_with(mut self, options: HubOptions) -> Self {
        self.hubs.push(options);
        self
    }

    /// Refuses links whose connection has no valid shared access signature, with `amqp:unauthorized-access`, and
    /// detaches them when it expires. Tokens of Microsoft Entra ID cannot be checked here, so they are refused.
    /// Default: any token is accepted, or none.
    pub fn require_tokens(mut self) -> Self {
        self.settings.tokens = TokenCheck::Required;
        self
    }

    /// Replaces the shared access keys, and [requires tokens](Self::require_tokens) that they
    /// signed. The first is in the connection strings.
    pub fn shared_access_keys(
        mut self,
        keys: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        self.settings.keys = keys
            .into_iter()
            .map(|(name, key)| AccessKey { name: name.into(), key: key.into() })
            .collect();
        self.require_tokens()
    }

    /// Accepts any token, or none, even if there are keys.
    pub(super) fn ignore_tokens(mut self) -> Self {
        self.settings.tokens = TokenCheck::Ignored;
        self
    }

    /// Sets the largest event, or batch of events, in bytes: from 1,024 to 1,048,576. Default: 1,048,576
    /// ([`MAX_MESSAGE_BYTES`](super::MAX_MESSAGE_BYTES)).
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// Sets the throughput units, from 1 to 40. The broker refuses what exceeds 1 MiB or 1,000 events a second for
    /// each of them, with `com.microsoft:server-busy`. Default: no limit.
    pub fn throughput_units(mut self, units: u32) -> Self {
        self.settings.throughput_units = Some(units);
        self
    }

    /// Sets how much memory the events of a broker without a data folder may take, in bytes; at least 1 MiB.
    /// Events beyond that are refused with `amqp:resource-limit-exceeded`, until retention makes room. Default: 1
    /// GiB ([`DEFAULT_MAX_MEMORY_BYTES`](super::DEFAULT_MAX_MEMORY_BYTES)).
    pub fn max_memory_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_memory_bytes = bytes;
        self
    }

    /// Creates a hub with this many partitions when a client first names it. Default: a hub that was not added is
    /// answered with `amqp:not-found`.
    ///
    /// A hub that is in the data folder from an earlier run keeps the partitions it has.
    pub fn create_on_first_use(mut self, partitions: u32) -> Self {
        self.settings.create_on_first_use = Some(partitions);
        self
    }

    /// Keeps events in this folder, which is created if necessary. Default: events are in memory, up to
    /// [`max_memory_bytes`](Self::max_memory_bytes).
    ///
    /// A hub of an earlier run is served when it is added again, or named by a client with
    /// [`create_on_first_use`](Self::create_on_first_use). One emulator at a time may use a folder.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Sets when events in the data folder count as accepted. Default: [`Durability::Process`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long after a delivery its disposition is sent. Default: 25 ms
    /// ([`DEFAULT_DISPOSITION_DELAY`](super::DEFAULT_DISPOSITION_DELAY)).
    pub fn disposition_delay(mut self, delay: Duration) -> Self {
        self.settings.disposition_delay = delay;
        self
    }

    /// Sets how long after a detach it is answered. Default: 20 ms
    /// ([`DEFAULT_DETACH_DELAY`](super::DEFAULT_DETACH_DELAY)).
    pub fn detach_delay(mut self, delay: Duration) -> Self {
        self.settings.detach_delay = delay;
        self
    }

    /// Sets the idle timeout that the broker announces. A client that is silent for twice this time is
    /// disconnected. Default: 240 s ([`DEFAULT_IDLE_TIMEOUT`](super::DEFAULT_IDLE_TIMEOUT)).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// Sets how long a client may take from its connection to its AMQP `open`. Default: 30 s
    /// ([`DEFAULT_HANDSHAKE_TIMEOUT`](super::DEFAULT_HANDSHAKE_TIMEOUT)).
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = timeout;
        self
    }

    /// Sets how many connections may be open at once. Further connections are closed at once. Default: 5,000
    /// ([`DEFAULT_MAX_CONNECTIONS`](super::DEFAULT_MAX_CONNECTIONS)).
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = connections;
        self
    }

    /// Takes hubs, keys and limits from a TOML file; its hubs come beside those added otherwise.
    ///
    #[doc = concat!("```toml\n", include_str!("example.toml"), "```")]
    ///
    /// Reads the file at once.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::ConfigFile`], whose source says which key has which value, and what is
    /// allowed.
    pub fn config_file(self, path: impl AsRef<Path>) -> Result<Self, EmulatorError> {
        config_file::apply(path.as_ref(), self)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The hubs that were added so far.
    pub fn hubs(&self) -> &[HubOptions] {
        &self.hubs
    }

    /// Opens the data folder, recovers its hubs and starts listening.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::OpenToAnyone`] for an address that other machines reach, without keys and
    /// without [`allow_anyone`](Self::allow_anyone);
    /// [`Setting`](EmulatorError::Setting) for limits out of their range;
    /// [`HubName`](EmulatorError::HubName), [`PartitionLimit`](EmulatorError::PartitionLimit) and
    /// [`PartitionCount`](EmulatorError::PartitionCount) for hubs that cannot be;
    /// [`DataDirInUse`](EmulatorError::DataDirInUse), [`Storage`](EmulatorError::Storage) and
    /// [`DamagedLog`](EmulatorError::DamagedLog), [`LostEvents`](EmulatorError::LostEvents),
    /// [`LostBetween`](EmulatorError::LostBetween), [`LostHub`](EmulatorError::LostHub) and [`DamagedFile`](EmulatorError::DamagedFile) for a
    /// folder that cannot be used;
    /// [`Certificate`](EmulatorError::Certificate) and
    /// [`CertificateFile`](EmulatorError::CertificateFile) for host names and files that TLS cannot
    /// use; [`Bind`](EmulatorError::Bind) for an address that cannot be listened on.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, nothing keeps running; the folder stays locked until the recovery that was
    /// under way has ended.
    pub async fn start(self) -> Result<Emulator, EmulatorError> {
        config_file::validate(&self)?;
        let advertised = self.advertised()?;
        exposure::check(self.addresses(), &self.settings, self.strangers)?;
        let Self { hubs, data_dir, durability, mut settings, .. } = self.clone();
        settings.names = self.host_names.iter().chain(&self.advertise).cloned().collect();
        if let Some(partitions) = settings.create_on_first_use {
            broker::validate_hub("new", partitions)?;
        }
        let certificates = self.prepare_certificates(advertised.as_ref()).await?;
        let opening = tokio::task::spawn_blocking(move || {
            let storage = match data_dir {
                None => Storage::Memory,
                Some(dir) => {
                    let (store, lock) = Store::open(dir)?;
                    let store = Arc::new(store);
                    let writer = Writer::start(durability, Arc::clone(&store), lock)?;
                    Storage::Files { store, writer }
                }
            };
            let broker = Broker::new(settings, storage);
            let opened =
                hubs.iter().try_for_each(|options| broker.open_hub_with(options).map(drop));
            // What is there is found out now, and not when a client names it.
            let opened = opened.and_then(|()| match broker.settings.create_on_first_use {
                Some(_) => broker.open_stored_hubs(),
                None => Ok(()),
            });
            Ok((Arc::new(broker), opened))
        });
        let (broker, opened) = opening.await.map_err(|_| EmulatorError::Stopped)??;
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let bound = opened.and_then(|()| {
            let doors = self.doors(certificates.as_ref());
            Listener::bind(doors, Arc::clone(&broker), tasks.clone(), stop.clone())
        });
        let (listener, addresses) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                // Whoever corrects the mistake finds the folder unlocked.
                broker.close_log().await?;
                return Err(error);
            }
        };
        let mut addresses = addresses.into_iter();
        let ports = Ports {
            amqp: addresses.next().unwrap_or(self.address),
            amqp_tls: self.tls.and_then(|_| addresses.next()),
            websocket: self.websocket.and_then(|_| addresses.next()),
            websocket_tls: self.secure_websocket.and_then(|_| addresses.next()),
        };
        tasks.spawn(retention::run(Arc::clone(&broker), stop.clone()));
        let away = listener.start(&tasks);
        let emulator = Emulator {
            ports,
            advertised,
            authority: certificates.map(|certificates| Authority {
                pem: certificates.authority_pem,
                path: certificates.authority_path,
            }),
            faults: Faults::new(Arc::clone(&broker), away),
            notes: broker.take_notes(),
            broker,
            tasks,
            stop,
        };
        if emulator.is_open_to_anyone() {
            tracing::warn!("{}", emulator.exposure().replace('\n', "; "));
        }
        Ok(emulator)
    }

    /// The host that was chosen for connection strings.
    fn advertised(&self) -> Result<Option<Host>, EmulatorError> {
        let Some(text) = &self.advertise else { return Ok(None) };
        Host::parse(text).map(Some).ok_or_else(|| EmulatorError::Setting {
            key: "advertise".to_owned(),
            value: format!("{text:?}"),
            allowed: "a host name or an IP address, without a scheme and a port".to_owned(),
        })
    }

    /// Where a port listens.
    fn at(&self, address: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.listen.unwrap_or(address.ip()), address.port())
    }

    /// Where all ports listen.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let others = [self.tls, self.websocket, self.secure_websocket];
        std::iter::once(self.address).chain(others.into_iter().flatten()).map(|at| self.at(at))
    }

    /// What TLS needs; nothing without a port that has it.
    async fn prepare_certificates(
        &self,
        advertised: Option<&Host>,
    ) -> Result<Option<Certificates>, EmulatorError> {
        if self.tls.is_none() && self.secure_websocket.is_none() {
            return Ok(None);
        }
        let (folder, mut names) = (self.cert_dir.clone(), self.host_names.clone());
        names.extend(advertised.map(Host::in_certificate));
        names.extend(self.addresses().map(|address| Host::of(address).in_certificate()));
        let preparing =
            tokio::task::spawn_blocking(move || Certificates::prepare(folder.as_deref(), &names));
        preparing.await.map_err(|_| EmulatorError::Stopped)?.map(Some)
    }

    /// Every port to open, in the order of [`Ports`].
    fn doors(&self, certificates: Option<&Certificates>) -> Vec<(SocketAddr, Protocol)> {
        let server = || certificates.map(|certificates| Arc::clone(&certificates.server));
        let mut doors = vec![(self.address, Protocol::Amqp)];
        doors.extend(self.tls.zip(server().map(Protocol::AmqpTls)));
        doors.extend(self.websocket.map(|address| (address, Protocol::WebSocket)));
        doors.extend(self.secure_websocket.zip(server().map(Protocol::WebSocketTls)));
        doors.into_iter().map(|(address, protocol)| (self.at(address), protocol)).collect()
    }
}
