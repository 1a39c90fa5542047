//! Where a namespace is, how to get in, and what is on the way: checked when it is said, not when
//! it is used.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use rustls::pki_types::CertificateDer;
use tokio::sync::Mutex;
use url::Url;

use super::connection_string::ConnectionString;
use super::endpoint::{Endpoint, Host, Scheme, is_loopback};
use super::protocol::Protocol;
use crate::error::InvalidConfig;
use crate::transport::tunnel::{self, Proxy, Trust, Tunnel, TunnelOptions, Wire};

/// Default of [`Namespace::with_call_timeout`]: 30 s.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Default of [`Namespace::with_idle_timeout`]: 5 min.
pub const DEFAULT_IDLE_TIMEOUT: Duration = tunnel::DEFAULT_IDLE_TIMEOUT;

/// The port of AMQP with TLS.
const AMQPS_PORT: u16 = 5671;

/// Where a namespace is, and how to sign in. `Debug` shows no secret.
///
/// By default the connection is AMQP over WebSocket, to port 443 of the host in the connection string. You can choose
/// another protocol, port or endpoint. With a certificate authority of your own, a proxy, or without verification, the
/// connection goes through a tunnel in this process. The tunnel lives as long as the namespace, its clones, and what was
/// opened with them.
#[derive(Clone)]
pub struct Namespace {
    pub(super) access: Access,
    host: Host,
    /// See [`Namespace::name`].
    name: Arc<str>,
    port: Option<u16>,
    is_emulator: bool,
    entity_path: Option<String>,
    custom_endpoint: Option<Endpoint>,
    /// What was chosen; see [`Namespace::protocol`] for what it is.
    chosen_protocol: Option<Protocol>,
    authorities: Option<Arc<[CertificateDer<'static>]>>,
    proxy: Option<Proxy>,
    verification: Verification,
    idle_timeout: Duration,
    pub(super) call_timeout: Duration,
    /// Shared by the clones; a change of the route needs another.
    pub(super) tunnel: TunnelSlot,
}

/// The tunnel of a namespace, from the first connection that needs one.
pub(super) type TunnelSlot = Arc<Mutex<Option<Arc<Tunnel>>>>;

/// How a namespace lets us in. It holds a secret and so has no `Debug`.
#[derive(Clone)]
pub(super) enum Access {
    /// As the SDK reads it.
    ConnectionString(Arc<str>),
    /// Tokens of Microsoft Entra ID.
    Tokens(Arc<dyn TokenCredential>),
}

/// See [`Namespace::name`]. In the cloud a port says which protocol is spoken, and not where.
fn name(host: &Host, port: Option<u16>) -> Arc<str> {
    match port {
        Some(port) if is_loopback(host) => format!("{}:{port}", host.in_url()).into(),
        _ => host.as_str().into(),
    }
}

/// Whether the certificate of the other side must be one that is trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verification {
    On,
    Off,
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace")
            .field("host", &self.host.as_str())
            .field("port", &self.port)
            .field("entity_path", &self.entity_path)
            .field("custom_endpoint", &self.custom_endpoint)
            .field("protocol", &self.protocol())
            .field("authorities", &self.authorities.as_ref().map(|all| all.len()))
            .field("proxy", &self.proxy)
            .field("verification", &self.verification)
            .finish_non_exhaustive()
    }
}

/// How a connection comes about.
#[derive(Debug)]
pub(super) enum Route {
    /// The SDK dials: this address, or the namespace's host on the protocol's port.
    Sdk { protocol: Protocol, endpoint: Option<String> },
    /// A tunnel dials, and the SDK dials the tunnel.
    Tunnel(TunnelOptions),
}

impl Namespace {
    /// Reads a connection string, with or without `EntityPath`.
    ///
    /// - `Endpoint` is `sb://HOST/`, or the host alone. Its port, if it has one, is dialled. Port 5671 means
    ///   [`Protocol::Tcp`], unless you choose another protocol.
    /// - `UseDevelopmentEmulator=true` means a connection without TLS, to this machine only. It is over TCP
    ///   to port 5672, or, with [`Protocol::WebSocket`], to port 80, unless `Endpoint` names a port.
    /// - `TransportType=Amqp` and `TransportType=AmqpWebSockets` choose the protocol.
    /// - `OperationTimeout=00:01:00` is what [`with_call_timeout`](Self::with_call_timeout) sets.
    /// - `SharedAccessSignature` stands instead of a key. Nobody can renew it.
    ///
    /// # Errors
    /// If it is not a connection string. The error names the part that is missing or wrong, and repeats no
    /// value, because a part may be the key.
    pub fn from_connection_string(connection_string: &str) -> Result<Self, InvalidConfig> {
        let read = ConnectionString::parse(connection_string)?;
        Ok(Self {
            access: Access::ConnectionString(read.for_sdk.into()),
            name: name(&read.host, read.port),
            host: read.host,
            port: read.port,
            is_emulator: read.is_emulator,
            entity_path: read.entity_path,
            custom_endpoint: None,
            chosen_protocol: read.protocol,
            authorities: None,
            proxy: None,
            verification: Verification::On,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            call_timeout: read.operation_timeout.unwrap_or(DEFAULT_CALL_TIMEOUT),
            tunnel: TunnelSlot::default(),
        })
    }

    /// The namespace `host`, such as `orders.servicebus.windows.net`, with tokens of Microsoft Entra ID.
    /// [`Credential::open`](crate::credential::Credential::open) makes a credential, and so does
    /// `azure_identity`.
    ///
    /// # Errors
    /// If `host` is not a host name.
    pub fn with_credential(
        host: &str,
        credential: Arc<dyn TokenCredential>,
    ) -> Result<Self, InvalidConfig> {
        let read = Host::parse(host).ok_or_else(|| {
            let bound = "it must be a host name such as NAME.servicebus.windows.net";
            InvalidConfig::new("host", host, bound)
        })?;
        Ok(Self {
            access: Access::Tokens(credential),
            name: name(&read, None),
            host: read,
            port: None,
            is_emulator: false,
            entity_path: None,
            custom_endpoint: None,
            chosen_protocol: None,
            authorities: None,
            proxy: None,
            verification: Verification::On,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            call_timeout: DEFAULT_CALL_TIMEOUT,
            tunnel: TunnelSlot::default(),
        })
    }

    /// Connects to this address, `SCHEME://HOST[:PORT]`, instead of the host of the namespace. The scheme is
    /// `amqps` (with the protocol of [`with_protocol`](Self::with_protocol)) or `wss`. For a broker on this
    /// machine it may also be `amqp` (`amqp://127.0.0.1:5672`) or `ws`, which have no TLS.
    ///
    /// The certificate must be for the host of this address.
    ///
    /// # Errors
    /// If it is not such an address, and if `amqp` or `ws` would lead to another machine, because tokens would
    /// travel in plain text.
    pub fn with_custom_endpoint(
        mut self,
        endpoint: impl AsRef<str>,
    ) -> Result<Self, InvalidConfig> {
        self.custom_endpoint = Some(Endpoint::parse(endpoint.as_ref())?);
        Ok(self.rerouted())
    }

    /// Chooses how the connection reaches the service. Default: [`Protocol::WebSocket`], unless the connection string
    /// says otherwise. The scheme of a custom endpoint wins over this choice.
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.chosen_protocol = Some(protocol);
        self.rerouted()
    }

    /// Trusts the certificate authorities in this PEM file, in addition to those of the system. It reads the file at
    /// once and blocks meanwhile. Default: those of the system only.
    ///
    /// # Errors
    /// If the file cannot be read, holds no certificate, or holds a damaged one.
    pub fn with_certificate_authority_file(
        mut self,
        path: impl AsRef<Path>,
    ) -> Result<Self, InvalidConfig> {
        self.authorities = Some(tunnel::read_authorities(path.as_ref())?);
        Ok(self.rerouted())
    }

    /// Connects through an HTTP proxy, with `CONNECT`: `http://HOST:PORT`, or `http://USER:PASSWORD@HOST:PORT` for
    /// Basic authentication. A connection without TLS, to a broker on this machine, does not use it. Default: no
    /// proxy.
    ///
    /// # Errors
    /// If it is not such an address. The error shows no password.
    pub fn with_proxy(mut self, proxy: Url) -> Result<Self, InvalidConfig> {
        self.proxy = Some(Proxy::from_url(&proxy)?);
        Ok(self.rerouted())
    }

    /// Accepts any certificate. For local development only: anyone on the way can then read and change everything,
    /// tokens included. A warning is logged at the first connection. Default: certificates are verified.
    pub fn without_certificate_verification(mut self) -> Self {
        self.verification = Verification::Off;
        self.rerouted()
    }

    /// Sets how long a tunnel may be silent, in both directions, before it ends a connection. It must be longer than
    /// the pause between two heartbeats of AMQP, 2 minutes with Event Hubs. Connections that the SDK dials itself
    /// have no such limit. Default: 5 min ([`DEFAULT_IDLE_TIMEOUT`]).
    pub fn with_idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = idle_timeout;
        self.rerouted()
    }

    /// Sets how long one call may take: a send, or a read of properties. Default: 30 s
    /// ([`DEFAULT_CALL_TIMEOUT`]).
    pub fn with_call_timeout(mut self, call_timeout: Duration) -> Self {
        self.call_timeout = call_timeout;
        self
    }

    /// The tunnel of a clone that goes another way is not ours.
    fn rerouted(mut self) -> Self {
        self.tunnel = TunnelSlot::default();
        self
    }

    /// The fully qualified host name, in lower case.
    pub fn host(&self) -> &str {
        self.host.as_str()
    }

    /// The name under which checkpoints are kept. It is [`Namespace::host`]; for a broker on this machine it includes
    /// the port of the connection string, `localhost:5673`, as in the clients of Python and Go. So brokers on
    /// several ports have checkpoints of their own.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The entity of the connection string, if it names one.
    pub fn entity_path(&self) -> Option<&str> {
        self.entity_path.as_deref()
    }

    /// How the connection reaches the service.
    pub fn protocol(&self) -> Protocol {
        if let Some(implied) = self.custom_endpoint.as_ref().and_then(|at| at.scheme.protocol()) {
            return implied;
        }
        self.chosen_protocol.unwrap_or_else(|| {
            let is_tcp = self.custom_endpoint.is_none()
                && (self.is_emulator || self.port == Some(AMQPS_PORT));
            if is_tcp { Protocol::Tcp } else { Protocol::default() }
        })
    }

    /// The identity that it shows, in words, without the secret.
    pub fn identity(&self) -> String {
        match &self.access {
            Access::ConnectionString(text) => {
                let key =
                    text.split(';').find_map(|part| part.strip_prefix("SharedAccessKeyName="));
                key.map_or_else(
                    || "a shared access signature".to_owned(),
                    |key| format!("the key {key}"),
                )
            }
            Access::Tokens(_) => "Microsoft Entra ID".to_owned(),
        }
    }

    /// The address that is dialled in the end, `HOST:PORT`, behind a tunnel and a proxy.
    pub fn address(&self) -> String {
        match self.route() {
            Route::Tunnel(options) => format!("{}:{}", options.host, options.port),
            Route::Sdk { endpoint: Some(endpoint), .. } => {
                endpoint.split_once("://").map_or(endpoint.as_str(), |(_, at)| at).to_owned()
            }
            Route::Sdk { protocol: Protocol::Tcp, .. } => format!("{}:{AMQPS_PORT}", self.host()),
            Route::Sdk { .. } => format!("{}:443", self.host()),
        }
    }

    pub(super) fn route(&self) -> Route {
        let protocol = self.protocol();
        let (scheme, host, port) = match &self.custom_endpoint {
            Some(at) => (at.scheme, &at.host, at.port),
            None if self.is_emulator => (Scheme::Amqp, &self.host, self.port),
            None => (Scheme::Amqps, &self.host, self.port),
        };
        let is_plain = scheme.is_plain();
        let port_or_default = port.unwrap_or(match (protocol, is_plain) {
            (Protocol::Tcp, true) => 5672,
            (Protocol::Tcp, false) => AMQPS_PORT,
            (Protocol::WebSocket, true) => 80,
            (Protocol::WebSocket, false) => 443,
        });
        let trust = match (self.verification, &self.authorities) {
            (Verification::Off, _) => Trust::Anything,
            (Verification::On, Some(authorities)) => Trust::SystemAnd(Arc::clone(authorities)),
            (Verification::On, None) => Trust::System,
        };
        // What the SDK cannot be told. It speaks WebSocket with TLS only.
        let needs_tunnel = match is_plain {
            true => protocol == Protocol::WebSocket,
            false => self.proxy.is_some() || !matches!(trust, Trust::System),
        };
        if needs_tunnel {
            let wire = match protocol {
                Protocol::Tcp => Wire::Amqp,
                Protocol::WebSocket => Wire::WebSocket,
            };
            let mut options = TunnelOptions::new(host.as_str(), port_or_default, wire);
            options.trust = (!is_plain).then_some(trust);
            options.proxy = self.proxy.clone().filter(|_| !is_plain);
            options.idle_timeout = self.idle_timeout;
            return Route::Tunnel(options);
        }
        let is_default = self.custom_endpoint.is_none() && port.is_none() && !is_plain;
        let scheme = if is_plain { "amqp" } else { "amqps" };
        let endpoint = format!("{scheme}://{}:{port_or_default}", host.in_url());
        Route::Sdk { protocol, endpoint: (!is_default).then_some(endpoint) }
    }
}

#[cfg(test)]
#[path = "namespace_tests.rs"]
mod tests;
