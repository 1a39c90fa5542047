//! Which URLs a download may fetch: an answer before the first packet.
//!
//! A task's URL comes from outside and may point into the network the worker runs in. The
//! policy checks the URL itself, then resolves its host once and refuses it if *any* address
//! is not public; the caller connects to the addresses it was given and to no others, so a
//! name that changes its answer in between gains nothing.
//!
//! What is left to the caller: connecting only to those addresses, without a proxy from the
//! environment; checking each redirect like a URL of its own; a deadline around
//! [`UrlPolicy::resolve`].
//!
//! No text that leaves this module holds user names, passwords, queries or fragments: they may
//! be secrets.

mod address;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use url::{Host, Url};

pub use self::address::AddressKind;
pub use crate::config::{PrivateAddresses, Schemes};
use crate::error::{ErrorClass, InvalidConfig};
use crate::secret::has_signature;

/// Turns a host name into addresses.
pub trait Resolver: Send + Sync + fmt::Debug + 'static {
    /// The addresses of `host`, each with `port`.
    ///
    /// # Errors
    /// If the name has no address, or nobody answers.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The resolver of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }.boxed()
    }
}

/// What URLs may be fetched. The default is the strictest: `https`, any public host, any port.
#[derive(Clone, Debug)]
pub struct UrlPolicy {
    schemes: Schemes,
    private_addresses: PrivateAddresses,
    /// `None`: any.
    hosts: Option<Vec<HostPattern>>,
    /// `None`: any.
    ports: Option<Vec<u16>>,
    resolver: Arc<dyn Resolver>,
}

impl Default for UrlPolicy {
    fn default() -> Self {
        Self {
            schemes: Schemes::default(),
            private_addresses: PrivateAddresses::default(),
            hosts: None,
            ports: None,
            resolver: Arc::new(SystemResolver),
        }
    }
}

impl UrlPolicy {
    /// The default policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the schemes.
    #[must_use]
    pub fn with_schemes(mut self, schemes: Schemes) -> Self {
        self.schemes = schemes;
        self
    }

    /// Sets whether local addresses may be reached.
    #[must_use]
    pub fn with_private_addresses(mut self, private_addresses: PrivateAddresses) -> Self {
        self.private_addresses = private_addresses;
        self
    }

    /// Allows only these hosts: names, IP addresses, or `*.suffix` for all names below a suffix, without the
    /// suffix itself.
    ///
    /// # Errors
    /// If a pattern cannot be understood, or none is given.
    pub fn with_hosts<P: AsRef<str>>(
        mut self,
        patterns: impl IntoIterator<Item = P>,
    ) -> Result<Self, InvalidConfig> {
        let patterns = patterns
            .into_iter()
            .map(|pattern| HostPattern::parse(pattern.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        if patterns.is_empty() {
            return Err(InvalidConfig::new(
                HOSTS_FIELD,
                "[]",
                "an empty list refuses every URL; name hosts, or leave the list away",
            ));
        }
        self.hosts = Some(patterns);
        Ok(self)
    }

    /// Allows only these ports.
    ///
    /// # Errors
    /// If the list is empty.
    pub fn with_ports(
        mut self,
        ports: impl IntoIterator<Item = u16>,
    ) -> Result<Self, InvalidConfig> {
        let ports: Vec<u16> = ports.into_iter().collect();
        if ports.is_empty() {
            return Err(InvalidConfig::new(
                "allowed_ports",
                "[]",
                "an empty list refuses every URL; name ports, or leave the list away",
            ));
        }
        self.ports = Some(ports);
        Ok(self)
    }

    /// Sets the resolver of host names. Default: [`SystemResolver`].
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// Checks all that the URL itself tells. Where its host is a name, its addresses are not
    /// checked yet: [`UrlPolicy::resolve`] does that, and nothing may be fetched before.
    ///
    /// # Errors
    /// Says what is refused.
    pub fn check_url(&self, url: &Url) -> Result<CheckedUrl, UrlRefused> {
        let (host, port) = self.check(url)?;
        Ok(CheckedUrl { url: url.clone(), host: host.to_owned(), port })
    }

    /// The same, and what to connect to: nothing is copied.
    pub(super) fn check<'a>(&self, url: &'a Url) -> Result<(Host<&'a str>, u16), UrlRefused> {
        let refused = |reason| Err(UrlRefused::new(url, reason));
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            other => return refused(Reason::Scheme(other.to_owned())),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return refused(Reason::UserInfo);
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return refused(Reason::NoHost);
        };
        if let Some(patterns) = &self.hosts
            && !patterns.iter().any(|pattern| pattern.matches(&host))
        {
            return refused(Reason::Host);
        }
        if port == 0 || self.ports.as_ref().is_some_and(|ports| !ports.contains(&port)) {
            return refused(Reason::Port(port));
        }
        match &host {
            Host::Domain(name) if is_localhost(name) => {
                self.check_kind(url, AddressKind::Loopback, None)?;
            }
            // Whether plain http may be used for a name depends on its addresses.
            Host::Domain(_) => {
                let may_be_local = self.private_addresses == PrivateAddresses::Allow;
                if !secure && self.schemes == Schemes::HttpsOnly && !may_be_local {
                    return refused(Reason::PlainHttp);
                }
            }
            Host::Ipv4(address) => self.check_address(url, (*address).into())?,
            Host::Ipv6(address) => self.check_address(url, (*address).into())?,
        }
        Ok((host, port))
    }

    /// Checks a URL, resolves its host once, and checks every address: the ones to connect to,
    /// and no others. At least one.
    ///
    /// # Errors
    /// As [`UrlPolicy::check_url`]; [`Reason::Address`] where any address is refused;
    /// [`Reason::Unresolved`] where the name has none or nobody answers.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, UrlRefused> {
        let (host, port) = self.check(url)?;
        let name = match host {
            Host::Ipv4(address) => return Ok(vec![(address, port).into()]),
            Host::Ipv6(address) => return Ok(vec![(address, port).into()]),
            Host::Domain(name) => name,
        };
        let unresolved = |source| UrlRefused {
            source: Some(source),
            ..UrlRefused::new(url, Reason::Unresolved)
        };
        let mut addresses = self.resolver.resolve(name, port).await.map_err(unresolved)?;
        if addresses.is_empty() {
            return Err(unresolved(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            )));
        }
        for address in &mut addresses {
            self.check_address(url, address.ip())?;
            address.set_port(port);
        }
        Ok(addresses)
    }

    fn check_address(&self, url: &Url, address: IpAddr) -> Result<(), UrlRefused> {
        self.check_kind(url, AddressKind::of(address), Some(address))
    }

    fn check_kind(
        &self,
        url: &Url,
        kind: AddressKind,
        address: Option<IpAddr>,
    ) -> Result<(), UrlRefused> {
        let local = kind.is_local() && self.private_addresses == PrivateAddresses::Allow;
        let reason = if kind != AddressKind::Public && !local {
            Reason::Address { address, kind }
        } else if url.scheme() == "http" && self.schemes == Schemes::HttpsOnly && !local {
            Reason::PlainHttp
        } else {
            return Ok(());
        };
        Err(UrlRefused::new(url, reason))
    }
}

/// A URL whose own text passed the policy. `Debug` is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckedUrl {
    url: Url,
    host: Host,
    port: u16,
}

impl CheckedUrl {
    /// The URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its port, or that of its scheme.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Debug for CheckedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckedUrl({})", redacted(&self.url))
    }
}

/// A URL that may not be fetched. Neither `Display` nor `Debug` shows user name, password,
/// query or fragment.
#[derive(Debug, thiserror::Error)]
#[error("{url} is refused: {reason}")]
pub struct UrlRefused {
    /// The URL, redacted.
    url: String,
    reason: Reason,
    source: Option<io::Error>,
}

impl UrlRefused {
    fn new(url: &Url, reason: Reason) -> Self {
        Self { url: redacted(url), reason, source: None }
    }

    /// The URL, redacted.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Why.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// What to do about it: a name that did not resolve may do so later, all else stays
    /// refused.
    pub fn class(&self) -> ErrorClass {
        match self.reason {
            Reason::Unresolved => ErrorClass::Transient,
            _ => ErrorClass::Permanent,
        }
    }
}

/// Why a URL is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Neither `https` nor `http`.
    #[error("its scheme is {0:?}, and only https is fetched")]
    Scheme(String),
    /// `http` where it may not be used.
    #[error("it is plain http; use https, or allow http in the policy")]
    PlainHttp,
    /// A user name or password in the URL.
    #[error("it holds a user name or a password; give credentials in another way")]
    UserInfo,
    /// Nothing to connect to.
    #[error("it names no host")]
    NoHost,
    /// Not on the list.
    #[error("its host is not one of the allowed hosts")]
    Host,
    /// Not on the list, or zero.
    #[error("its port {0} is not one of the allowed ports")]
    Port(u16),
    /// Its host is, or has among its addresses, one that may not be reached.
    #[error("its host {} {kind}", OrName(.address))]
    Address {
        /// The address; `None` if the name alone says it (`localhost`).
        address: Option<IpAddr>,
        /// What is wrong with it.
        kind: AddressKind,
    },
    /// The name could not be resolved; it may be later.
    #[error("its host could not be resolved")]
    Unresolved,
}

struct OrName<'a>(&'a Option<IpAddr>);

impl fmt::Display for OrName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, "has the address {address}, which"),
            None => f.write_str("(by its name)"),
        }
    }
}

/// A URL as it may be logged: scheme, host, port and path; no user name, password, query or
/// fragment, which may be secrets.
pub fn redacted(url: &Url) -> String {
    use fmt::Write as _;

    let Some(host) = url.host_str() else {
        // What follows the scheme can be anything, a file's whole content in `data:`.
        return format!("{}:(hidden)", url.scheme());
    };
    // A piece behind the other, for each file has its URL shown: `format!` takes several times as long.
    let mut text = String::with_capacity(url.as_str().len());
    text.extend([url.scheme(), "://", host]);
    if let Some(port) = url.port() {
        let _ = write!(text, ":{port}");
    }
    text.push_str(url.path());
    text
}

/// A text that should be a URL and may not be one, for a message: what [`redacted`] leaves out of one is
/// left out of it.
pub fn redacted_text(text: &str) -> String {
    let end = text.find(['?', '#']).unwrap_or(text.len());
    let shown = text.get(..end).unwrap_or_default();
    let (before, rest) = match shown.split_once(':') {
        Some((scheme, rest)) => (format!("{scheme}:"), rest),
        None => (String::new(), shown),
    };
    let slashes = rest.len() - rest.trim_start_matches(['/', '\\']).len();
    let (slashes, rest) = rest.split_at(slashes);
    let authority = rest.find(['/', '\\']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority);
    let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
    let hidden = if end < text.len() { "…" } else { "" };
    // What ends here may be the first half of a password, whose other half is behind.
    let is_cut_user = !slashes.is_empty() && text.contains('@') && !is_host_and_port(host);
    if is_cut_user {
        return format!("{before}{slashes}…");
    }
    if has_signature(&before) {
        return "…".to_owned();
    }
    if has_signature(host) {
        return format!("{before}{slashes}…");
    }
    if has_signature(path) {
        return format!("{before}{slashes}{host}/…");
    }
    match path.rsplit_once('@') {
        // A user and a password where the path is, of a text that is mangled before them.
        Some((user, behind)) if slashes != "//" || user.contains(':') => {
            format!("{before}{slashes}…{behind}{hidden}")
        }
        _ => format!("{before}{slashes}{host}{path}{hidden}"),
    }
}

/// Whether it is a host, with a number behind the colon where there is one.
fn is_host_and_port(text: &str) -> bool {
    let behind_brackets = text.rsplit_once(']').map_or(text, |(_, rest)| rest);
    behind_brackets
        .split_once(':')
        .is_none_or(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

const HOSTS_FIELD: &str = "allowed_hosts";

#[derive(Clone, PartialEq, Eq, Debug)]
enum HostPattern {
    Exactly(Host),
    /// Names that end in this text, which begins with a dot.
    Below(String),
}

impl HostPattern {
    fn parse(pattern: &str) -> Result<Self, InvalidConfig> {
        let invalid = |bound: &str| Err(InvalidConfig::new(HOSTS_FIELD, pattern, bound));
        let (suffix, below) = match pattern.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (pattern, false),
        };
        if suffix.contains('*') {
            return invalid("a star stands alone before a suffix: *.example.com");
        }
        match (Host::parse(suffix), below) {
            (Ok(Host::Domain(name)), true) => Ok(Self::Below(format!(".{}", without_root(&name)))),
            (Ok(_), true) => invalid("a star goes with a name, not with an address"),
            (Ok(Host::Domain(name)), false) => {
                Ok(Self::Exactly(Host::Domain(without_root(&name).to_owned())))
            }
            (Ok(address), false) => Ok(Self::Exactly(address)),
            (Err(_), _) => invalid(
                "it must be a host name, an address or *.suffix, without scheme, port or path",
            ),
        }
    }

    fn matches(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::Exactly(Host::Domain(allowed)), Host::Domain(name)) => {
                allowed == without_root(name)
            }
            (Self::Exactly(Host::Ipv4(allowed)), Host::Ipv4(address)) => allowed == address,
            (Self::Exactly(Host::Ipv6(allowed)), Host::Ipv6(address)) => allowed == address,
            (Self::Below(suffix), Host::Domain(name)) => {
                let name = without_root(name);
                name.len() > suffix.len() && name.ends_with(suffix.as_str())
            }
            _ => false,
        }
    }
}

/// `example.com.` and `example.com` are one host.
fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Names that are the worker itself whatever a resolver says (RFC 6761).
fn is_localhost(name: &str) -> bool {
    let name = without_root(name);
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests;
