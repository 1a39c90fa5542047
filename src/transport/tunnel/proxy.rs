//! The HTTP proxy on the way, and how a connection is asked of it (`CONNECT`).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::InvalidConfig;

/// An HTTP proxy. `Debug` shows no password.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// As it stands in a URL: IPv6 addresses in brackets.
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &format_args!("{self}"))
            .field("has_credentials", &self.authorization.is_some())
            .finish()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Proxy {
    /// Reads `http://[USER:PASSWORD@]HOST[:PORT]`; user and password may be percent-encoded.
    pub(crate) fn from_url(url: &Url) -> Result<Self, InvalidConfig> {
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        let shown = if has_credentials { "(hidden)" } else { url.as_str() };
        let refused = |bound: &str| Err(InvalidConfig::new("proxy", shown, bound));
        if url.scheme() != "http" {
            return refused("it must read http://HOST:PORT or http://USER:PASSWORD@HOST:PORT");
        }
        let (Some(host), Some(port @ 1..)) = (url.host_str(), url.port_or_known_default()) else {
            return refused("it must name a host, and a port from 1 to 65535");
        };
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return refused("it must end after the port");
        }
        let authorization = has_credentials.then(|| {
            let mut pair = percent_decode_str(url.username()).collect::<Vec<u8>>();
            pair.push(b':');
            pair.extend(percent_decode_str(url.password().unwrap_or_default()));
            format!("Basic {}", STANDARD.encode(pair))
        });
        Ok(Self { host: host.to_owned(), port, authorization })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Result<Proxy, InvalidConfig> {
        Proxy::from_url(&text.parse().unwrap())
    }

    #[test]
    fn the_password_is_decoded_and_never_shown() {
        let proxy = proxy("http://me:p%40s3cret%3Aword@proxy.example:3128").unwrap();
        assert_eq!(proxy.to_string(), "proxy.example:3128");
        let sent = STANDARD.encode("me:p@s3cret:word");
        assert_eq!(proxy.authorization.as_deref(), Some(format!("Basic {sent}").as_str()));
        let shown = format!("{proxy:?} {proxy}");
        assert!(!shown.contains("s3cret") && !shown.contains(&sent), "{shown}");
    }

    #[test]
    fn what_is_no_http_proxy_is_refused() {
        for (text, why) in [
            ("https://proxy.example:3128", "http://HOST:PORT"),
            ("socks5://proxy.example:1080", "http://HOST:PORT"),
            ("http://proxy.example:3128/path", "end after the port"),
            ("http://proxy.example:0", "from 1 to 65535"),
            ("https://me:secret@proxy.example", "(hidden)"),
        ] {
            let error = proxy(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
