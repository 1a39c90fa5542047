//! The HTTP proxy on the way, and how a connection is asked of it (`CONNECT`).

use std::fmt;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use super::dial::DialFailure;
use crate::error::{ErrorClass, InvalidConfig};

/// The longest answer read.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

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

    /// What to connect to.
    pub(super) fn address(&self) -> (&str, u16) {
        (self.host.trim_matches(['[', ']']), self.port)
    }

    /// Has the proxy connect to `target`, a host and a port. What follows on the stream is between
    /// us and the target.
    pub(super) async fn ask(
        &self,
        stream: &mut TcpStream,
        target: &str,
    ) -> Result<(), DialFailure> {
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        let answer = async {
            stream.write_all(request.as_bytes()).await?;
            read_head(stream).await
        };
        let head = answer.await.map_err(|error| {
            let reason = format!("the proxy {self} hung up without an answer: {error}");
            DialFailure::new(ErrorClass::Transient, reason)
        })?;
        self.judge(&head)
    }

    fn judge(&self, head: &[u8]) -> Result<(), DialFailure> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let parsed = answer.parse(head);
        let (Ok(httparse::Status::Complete(_)), Some(code)) = (parsed, answer.code) else {
            let reason = format!("{self} does not answer like an HTTP proxy");
            return Err(DialFailure::new(ErrorClass::Unknown, reason));
        };
        let class = match code {
            200..300 => return Ok(()),
            429 | 503 => ErrorClass::Throttling,
            400..500 => ErrorClass::Auth,
            500.. => ErrorClass::Transient,
            _ => ErrorClass::Unknown,
        };
        let said: String = answer.reason.unwrap_or_default().chars().take(80).collect();
        let advice = match code {
            407 if self.authorization.is_some() => "; check the user and the password for it",
            407 => "; it wants a user and a password",
            _ => "",
        };
        let answer = format!("{code} {said}");
        let reason = format!("the proxy {self} answered {}{advice}", answer.trim_end());
        Err(DialFailure::new(class, reason))
    }
}

/// Reads to the end of an answer's head and no further.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD_BYTES {
            let reason = "the head of its answer is too long";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        // Byte by byte: what follows belongs to the target. It is once for a connection.
        head.push(stream.read_u8().await?);
    }
    Ok(head)
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
