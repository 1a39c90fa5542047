//! How clients call the broker: the host in connection strings and in the certificate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const MAX_CHARS: usize = 253;

/// A host name or an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Name(String),
    Address(IpAddr),
}

impl Host {
    /// Reads a host as URLs have it; an IPv6 address may do without brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(bare) = bare {
            return bare.parse::<Ipv6Addr>().ok().map(|address| Self::Address(address.into()));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Address(address));
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let fits = (1..=MAX_CHARS).contains(&text.len()) && text.chars().all(is_part);
        fits.then(|| Self::Name(text.to_owned()))
    }

    /// What reaches this address from where it can be reached.
    pub(super) fn of(address: SocketAddr) -> Self {
        match address.ip() {
            ip if ip.is_unspecified() => Self::Name("localhost".to_owned()),
            IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST) => {
                Self::Name("localhost".to_owned())
            }
            ip => Self::Address(ip),
        }
    }

    /// As a URL has it.
    pub(super) fn in_url(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Self::Address(address) => address.to_string(),
        }
    }

    /// As a certificate has it.
    pub(super) fn in_certificate(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Address(address) => address.to_string(),
        }
    }

    /// Whether it is this machine, whoever says it.
    pub(super) fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name.eq_ignore_ascii_case("localhost"),
            Self::Address(address) => address.to_canonical().is_loopback(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_read_and_written() {
        for (text, in_url, is_loopback) in [
            ("broker", "broker", false),
            ("my_broker.example", "my_broker.example", false),
            ("localhost", "localhost", true),
            ("10.0.0.1", "10.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("::1", "[::1]", true),
            ("[fd00::1]", "[fd00::1]", false),
        ] {
            let host = Host::parse(text).unwrap();
            assert_eq!((host.in_url().as_str(), host.is_loopback()), (in_url, is_loopback));
        }
        for wrong in ["", "a b", "a;b", "sb://broker", "broker:5672", "[10.0.0.1]", "[::1"] {
            assert_eq!(Host::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Host::parse(&"a".repeat(254)), None);
    }

    #[test]
    fn an_address_of_all_is_called_localhost_and_another_by_itself() {
        let of = |address: &str| Host::of(address.parse().unwrap()).in_url();
        assert_eq!(of("0.0.0.0:1"), "localhost");
        assert_eq!(of("[::]:1"), "localhost");
        assert_eq!(of("127.0.0.1:1"), "localhost");
        assert_eq!(of("10.0.0.7:1"), "10.0.0.7");
        assert_eq!(of("[fd00::7]:1"), "[fd00::7]");
    }
}
