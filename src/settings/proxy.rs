//! Which HTTP proxy leads to a host.

use url::{Host, Url};

use super::hub::{Protocol, Proxy};
use super::keys::PROXY;
use super::problem::Problem;
use super::source::Values;
use super::{Access, ProxyAddress};

/// The proxy that leads to a namespace: the one that is set, or that of the environment.
pub(super) fn read_proxy(
    values: &Values,
    access: &Access,
    protocol: Option<Protocol>,
    problems: &mut Vec<Problem>,
) -> Option<ProxyAddress> {
    let found = match values.get(&PROXY) {
        Some(value) => read(&value.text).map_err(|bound| value.refused(&PROXY, bound)),
        None => read(variable(values, access, protocol)?).map_err(|bound| {
            Problem::new(format!(
                "HTTPS_PROXY = (hidden) (environment): {bound}; {} and NO_PROXY come before it",
                PROXY.name
            ))
        }),
    };
    match found {
        Ok(proxy) => Some(ProxyAddress(proxy)),
        Err(problem) => {
            // Of several namespaces it is wrong once.
            if !problems.contains(&problem) {
                problems.push(problem);
            }
            None
        }
    }
}

/// The proxy that the environment has for a namespace.
fn variable<'a>(
    values: &'a Values,
    access: &Access,
    protocol: Option<Protocol>,
) -> Option<&'a str> {
    let said = match access {
        Access::Namespace(namespace) => namespace.protocol(),
        // Where a connection string of a vault leads is not known yet.
        Access::EntraId { .. } | Access::KeyVault { .. } => Protocol::default(),
        Access::None => return None,
    };
    let host = access.host().unwrap_or_default();
    let variable = values.proxy_variable("HTTPS_PROXY")?;
    let is_tcp = protocol.unwrap_or(said) == Protocol::Tcp;
    (!is_tcp && !is_direct(host, values.proxy_variable("NO_PROXY"))).then_some(variable)
}

/// Reads the address of a proxy; the error says what it must be, and repeats nothing of it.
fn read(text: &str) -> Result<Url, String> {
    let allowed = || format!("it must read {}", PROXY.allowed());
    let url = Url::parse(text).map_err(|_| allowed())?;
    // Judged here, and not first where a namespace is made of it.
    Proxy::from_url(&url).map_err(|error| error.bound)?;
    Ok(url)
}

/// Whether `no_proxy`, as curl and others read it, says that the host is reached directly.
fn is_direct(host: &str, no_proxy: Option<&str>) -> bool {
    if is_loopback(host) {
        return true;
    }
    let host = host.to_ascii_lowercase();
    no_proxy.unwrap_or_default().split(',').any(|pattern| {
        let pattern = pattern.trim().to_ascii_lowercase();
        let suffix = pattern.trim_start_matches("*.").trim_start_matches('.');
        pattern == "*"
            || (!suffix.is_empty()
                && host
                    .strip_suffix(suffix)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    })
}

/// Whether it is this machine, whatever a resolver says.
fn is_loopback(host: &str) -> bool {
    match Host::parse(host) {
        Ok(Host::Ipv4(address)) => address.is_loopback(),
        Ok(Host::Ipv6(address)) => address.is_loopback(),
        Ok(Host::Domain(name)) => name == "localhost",
        Err(_) => host == "::1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_direct_where_its_domain_is_listed() {
        let host = "hub.servicebus.windows.net";
        for listed in [host, "windows.net", ".windows.net", "*.windows.net", "a, WINDOWS.NET", "*"]
        {
            assert!(is_direct(host, Some(listed)), "{listed}");
        }
        for other in ["", "dows.net", "hub.servicebus", "a,b", "."] {
            assert!(!is_direct(host, Some(other)), "{other}");
        }
        assert!(!is_direct(host, None));
        for here in ["localhost", "LOCALHOST", "127.9.9.9", "[::1]", "::1"] {
            assert!(is_direct(here, None), "a proxy does not know this machine");
        }
        assert!(!is_direct("localhost.example", None));
    }

    /// Without Event Hubs nothing is dialled, and nobody judges the parts.
    #[cfg(feature = "event-hubs")]
    #[test]
    fn a_proxy_is_a_host_and_a_port() {
        for right in ["http://proxy:3128", "http://user:pass@10.0.0.1:80/"] {
            assert!(read(right).is_ok(), "{right}");
        }
        for wrong in ["proxy:3128", "https://proxy", "socks5://proxy", "http://proxy/path", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
