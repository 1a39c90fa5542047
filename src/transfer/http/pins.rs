//! Clients that connect to the addresses that the policy allowed, and to no others.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, Proxy, redirect};
use tokio::time::Instant;

use crate::config::{DownloadLimits, HttpOptions};
use crate::error::{Error, ErrorClass};

/// How long an answer of the resolver is used for further files of the same host.
const RESOLVED_FOR: Duration = Duration::from_secs(30);

/// Most hosts remembered at once; beyond that, those whose time is up are forgotten, then all.
const MAX_PINNED_HOSTS: usize = 4_096;

/// Whether there is TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Security {
    Plain,
    Tls,
}

/// The clients of one scheme, and what they may connect to. Plain and TLS are apart: an address that
/// is good for one scheme may be refused for the other.
pub(super) struct Pinned {
    security: Security,
    limits: DownloadLimits,
    options: HttpOptions,
    pins: Arc<Pins>,
    /// Keeps connections for the next request.
    reusing: OnceLock<Client>,
    /// Opens a connection for each request.
    fresh: OnceLock<Client>,
    /// Has a connection for each request that is under way.
    apart: OnceLock<Client>,
}

/// The addresses each host may be reached at.
#[derive(Debug, Default)]
struct Pins(Mutex<HashMap<String, Pin>>);

#[derive(Debug)]
struct Pin {
    addresses: Vec<SocketAddr>,
    until: Instant,
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct PinnedResolver(Arc<Pins>);

impl Resolve for PinnedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let addresses = self.0.lock().get(name.as_str()).map(|pin| pin.addresses.clone());
        Box::pin(async move {
            match addresses {
                Some(addresses) => Ok(Box::new(addresses.into_iter()) as Addrs),
                None => Err("the host was not resolved under the policy".into()),
            }
        })
    }
}

impl Pinned {
    pub(super) fn new(security: Security, limits: &DownloadLimits, options: &HttpOptions) -> Self {
        Self {
            security,
            limits: *limits,
            options: options.clone(),
            pins: Arc::default(),
            reusing: OnceLock::new(),
            fresh: OnceLock::new(),
            apart: OnceLock::new(),
        }
    }

    /// The client that keeps connections for the next request. It is made when it is asked for first:
    /// reading the certificates that the system trusts takes tens of milliseconds.
    ///
    /// # Errors
    /// If it cannot be set up.
    pub(super) fn reusing(&self) -> Result<&Client, Error> {
        self.client(&self.reusing, |builder| builder)
    }

    /// The client that opens a connection for each request.
    ///
    /// # Errors
    /// If it cannot be set up.
    pub(super) fn fresh(&self) -> Result<&Client, Error> {
        self.client(&self.fresh, |builder| builder.pool_max_idle_per_host(0))
    }

    /// The client for parts of one file: over one connection, as HTTP/2 would have them, they would come
    /// no faster than the whole.
    ///
    /// # Errors
    /// If it cannot be set up.
    pub(super) fn apart(&self) -> Result<&Client, Error> {
        self.client(&self.apart, ClientBuilder::http1_only)
    }

    fn client<'a>(
        &self,
        place: &'a OnceLock<Client>,
        change: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<&'a Client, Error> {
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let client = change(self.builder()).build().map_err(|error| {
            Error::new(ErrorClass::Permanent, "build the HTTP client", "it cannot be set up")
                .with_source(error.without_url())
        })?;
        // Of two that were made at the same time one is kept.
        Ok(place.get_or_init(|| client))
    }

    /// Whether the addresses of a host are known, and still good.
    pub(super) fn knows(&self, host: &str) -> bool {
        self.pins.lock().get(host).is_some_and(|pin| pin.until > Instant::now())
    }

    /// The host may be reached at these addresses.
    pub(super) fn set(&self, host: &str, addresses: Vec<SocketAddr>) {
        let now = Instant::now();
        let mut pins = self.pins.lock();
        if pins.len() >= MAX_PINNED_HOSTS {
            pins.retain(|_, pin| pin.until > now);
        }
        if pins.len() >= MAX_PINNED_HOSTS {
            pins.clear();
        }
        // The port is the URL's, and another one of the same host has another.
        let addresses = addresses.into_iter().map(|address| (address.ip(), 0).into()).collect();
        pins.insert(host.to_owned(), Pin { addresses, until: now + RESOLVED_FOR });
    }

    /// No redirects of the client's own, which would pass the policy by; no proxy from the environment;
    /// no decompression, so that what is counted is what is stored; and headers that others shrug off
    /// are none of our business.
    fn builder(&self) -> ClientBuilder {
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .referer(false)
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .connect_timeout(self.limits.connect_timeout)
            .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")));
        match self.options.proxy() {
            // It resolves the names, and its own is resolved by the system.
            Some(proxy) => {
                let url = proxy.url().clone();
                builder.proxy(Proxy::custom(move |_target| Some(url.clone())))
            }
            None => {
                let resolver = PinnedResolver(Arc::clone(&self.pins));
                let builder = builder.dns_resolver(Arc::new(resolver));
                match self.security {
                    Security::Tls => builder,
                    // Nobody is to be trusted where nobody proves anything.
                    Security::Plain => builder.tls_certs_only([]),
                }
            }
        }
    }
}
