//! Addresses to dial: hosts, and the custom endpoint of a namespace.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use url::Url;

use super::protocol::Protocol;
use crate::error::InvalidConfig;

/// A host name, or an IP address without brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Host(String);

impl Host {
    /// Takes a host as URLs have it. Host names hold no more than letters, digits, `-`, `_` and
    /// dots, so that they can stand in any address without escapes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return inner.parse::<Ipv6Addr>().ok().map(|address| Self(address.to_string()));
        }
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        let fits = !text.is_empty() && text.len() <= 253 && text.chars().all(is_name);
        fits.then(|| Self(text.to_ascii_lowercase()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in a URL.
    pub(super) fn in_url(&self) -> String {
        if self.0.contains(':') { format!("[{}]", self.0) } else { self.0.clone() }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether what is sent to it stays on this machine.
pub(super) fn is_loopback(host: &Host) -> bool {
    match host.as_str().parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.as_str() == "localhost",
    }
}

/// What is spoken at a custom endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scheme {
    /// AMQP over TCP, without TLS.
    Amqp,
    /// With TLS, over what the namespace's protocol is.
    Amqps,
    /// AMQP over WebSocket, without TLS.
    Ws,
    /// AMQP over WebSocket with TLS.
    Wss,
}

impl Scheme {
    fn parse(scheme: &str) -> Option<Self> {
        match scheme {
            "amqp" => Some(Self::Amqp),
            "amqps" => Some(Self::Amqps),
            "ws" => Some(Self::Ws),
            "wss" => Some(Self::Wss),
            _ => None,
        }
    }

    pub(super) fn is_plain(self) -> bool {
        matches!(self, Self::Amqp | Self::Ws)
    }

    /// The protocol that the scheme stands for, if it is one.
    pub(super) fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Amqp => Some(Protocol::Tcp),
            Self::Ws | Self::Wss => Some(Protocol::WebSocket),
            Self::Amqps => None,
        }
    }
}

/// An address to dial instead of the namespace's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    pub(super) scheme: Scheme,
    pub(super) host: Host,
    pub(super) port: Option<u16>,
}

impl Endpoint {
    /// Reads `SCHEME://HOST[:PORT]`.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidConfig> {
        // Whoever writes credentials into an address finds them in no error.
        let shown = if text.contains('@') { "(hidden)" } else { text };
        let refused = |bound: &str| InvalidConfig::new("custom_endpoint", shown, bound);
        let url = Url::parse(text)
            .map_err(|_| refused("it must read SCHEME://HOST:PORT, as in amqps://HOST:5671"))?;
        let scheme = Scheme::parse(url.scheme())
            .ok_or_else(|| refused("the scheme must be wss, amqps, ws or amqp"))?;
        let has_more = !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some();
        if has_more || !matches!(url.path(), "" | "/") {
            return Err(refused("it may hold a scheme, a host and a port only"));
        }
        let host = url.host_str().and_then(Host::parse);
        let host = host.ok_or_else(|| refused("its host is not a host name"))?;
        if url.port() == Some(0) {
            return Err(refused("its port must be from 1 to 65535"));
        }
        if scheme.is_plain() && !is_loopback(&host) {
            return Err(refused(
                "tokens would travel in plain text: amqp:// and ws:// are for brokers on this \
                 machine (localhost, 127.0.0.1) only; use amqps:// or wss://",
            ));
        }
        Ok(Self { scheme, host, port: url.port() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let error = Endpoint::parse(text).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn plain_text_stays_on_this_machine() {
        for text in [
            "amqp://127.0.0.1:5672",
            "amqp://127.8.8.8",
            "ws://localhost:80/",
            "amqp://[::1]:5672",
            "amqp://[::ffff:127.0.0.1]:5672",
            "amqps://broker.example:5671",
            "wss://broker.example",
        ] {
            Endpoint::parse(text).unwrap();
        }
        for text in [
            "amqp://broker.example:5672",
            "ws://broker.example",
            "amqp://10.0.0.1",
            "amqp://localhost.broker.example",
            "amqp://127.0.0.1.broker.example",
            "amqp://[2001:db8::1]:5672",
            "amqp://0.0.0.0:5672",
        ] {
            refused(text, "tokens would travel in plain text");
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        refused("127.0.0.1:5672", "SCHEME://HOST:PORT");
        refused("localhost:5672", "the scheme must be");
        refused("https://broker.example", "the scheme must be");
        refused("amqps://broker.example/hub", "a scheme, a host and a port only");
        refused("amqps:///", "not a host name");
        refused("amqps://a b/", "SCHEME://HOST:PORT");
        refused("amqps://broker.example:0", "from 1 to 65535");
        let error = Endpoint::parse("amqps://me:secret@broker.example").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
