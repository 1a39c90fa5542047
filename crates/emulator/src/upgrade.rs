//! The HTTP request that opens a WebSocket: read within a bound, judged, answered.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use url::Url;

use super::socket::Stream;

/// The largest head of a request.
const MAX_HEAD_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
const PATH: &str = "/$servicebus/websocket";
const PROTOCOLS: [&str; 2] = ["amqp", "AMQPWSB10"];

/// What a request is answered with.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Accepted { key: String, protocol: String },
    Refused { status: &'static str, headers: &'static str, text: String },
}

/// Reads the request and answers it; the broker is called `names`, beside its addresses. Returns what was read beyond it, or `None` when the client was
/// refused and told so.
pub(super) async fn accept<S: Stream>(
    stream: &mut S,
    names: &[String],
) -> io::Result<Option<Bytes>> {
    let mut head = BytesMut::with_capacity(1024);
    let end = loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        stream.on_read();
        if let Some(end) = end_of_head(&head) {
            break end;
        }
        if head.len() > MAX_HEAD_BYTES {
            break head.len();
        }
    };
    let verdict = if end > MAX_HEAD_BYTES {
        refused(
            "431 Request Header Fields Too Large",
            format!("the head of a request may have {MAX_HEAD_BYTES} bytes"),
        )
    } else {
        judge(&head[..end], names)
    };
    stream.write_all(verdict.answer().as_bytes()).await?;
    stream.flush().await?;
    match verdict {
        Verdict::Accepted { .. } => Ok(Some(head.freeze().slice(end..))),
        Verdict::Refused { status, text, .. } => {
            tracing::debug!(status, text, "a WebSocket is refused");
            stream.shutdown().await?;
            Ok(None)
        }
    }
}

/// The length of the head, when all of it is there.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let end = b"\r\n\r\n";
    bytes.windows(end.len()).position(|window| window == end).map(|at| at + end.len())
}

fn refused(status: &'static str, text: impl Into<String>) -> Verdict {
    Verdict::Refused { status, headers: "", text: text.into() }
}

fn judge(head: &[u8], names: &[String]) -> Verdict {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => {
            return refused("400 Bad Request", "the request is not whole");
        }
        Err(error) => return refused("400 Bad Request", format!("not an HTTP request: {error}")),
    }
    if is_of_a_page(request.headers, names) {
        return refused(
            "403 Forbidden",
            "pages in a browser may not use this broker; a client that sends an Origin must name this \
             broker in it, by an address, localhost, or a name that the broker was told",
        );
    }
    let path = request.path.unwrap_or_default().split(['?', '#']).next().unwrap_or_default();
    let plain = path.replace("%24", "$");
    if !plain.strip_suffix('/').unwrap_or(&plain).eq_ignore_ascii_case(PATH) {
        return refused("404 Not Found", format!("AMQP over WebSocket is at {PATH}"));
    }
    let upgrade = Verdict::Refused {
        status: "426 Upgrade Required",
        headers: "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
        text: format!("{PATH} is for WebSocket, version 13: send GET with Upgrade: websocket"),
    };
    let has = |name, word| items(request.headers, name).any(|item| item.eq_ignore_ascii_case(word));
    let asks_for_websocket = request.method == Some("GET")
        && has("upgrade", "websocket")
        && has("connection", "upgrade")
        && has("sec-websocket-version", "13");
    if !asks_for_websocket {
        return upgrade;
    }
    let known = |item: &&str| PROTOCOLS.iter().any(|known| item.eq_ignore_ascii_case(known));
    let protocol = items(request.headers, "sec-websocket-protocol").find(known);
    let key = items(request.headers, "sec-websocket-key").next();
    match (key, protocol) {
        (None, _) => refused("400 Bad Request", "a WebSocket needs Sec-WebSocket-Key"),
        (_, None) => refused(
            "400 Bad Request",
            "ask for a protocol: Sec-WebSocket-Protocol: amqp, or AMQPWSB10",
        ),
        (Some(key), Some(protocol)) => {
            Verdict::Accepted { key: key.to_owned(), protocol: protocol.to_owned() }
        }
    }
}

/// Whether a page in a browser asks. Browsers say in `Origin` where the page is from; the broker has
/// none, so it is from elsewhere. Some clients send one as well, and name the broker itself: that is
/// the same as in `Host`, and no name that somebody else's page can have, by which it leads here.
fn is_of_a_page(headers: &[httparse::Header<'_>], names: &[String]) -> bool {
    let values = |name: &'static str| {
        let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| std::str::from_utf8(header.value).unwrap_or_default().trim())
    };
    let mut origins = values("origin").peekable();
    if origins.peek().is_none() {
        return false;
    }
    let own = |text: &str, scheme: &str| {
        let url = Url::parse(&format!("{scheme}://{text}")).ok()?;
        let is_ours = match url.host()? {
            url::Host::Ipv4(_) | url::Host::Ipv6(_) => true,
            url::Host::Domain(name) => {
                name == "localhost" || names.iter().any(|known| known.eq_ignore_ascii_case(name))
            }
        };
        is_ours.then(|| url.origin().ascii_serialization())
    };
    let host = values("host").next().unwrap_or_default();
    !origins.all(|origin| {
        let (scheme, named) = origin.split_once("://").unwrap_or_default();
        let expected = own(host, scheme);
        matches!(scheme, "http" | "https") && expected.is_some() && own(named, scheme) == expected
    })
}

/// The comma-separated items of all headers of a name.
fn items<'a>(
    headers: &'a [httparse::Header<'a>],
    name: &'static str,
) -> impl Iterator<Item = &'a str> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .filter_map(|header| std::str::from_utf8(header.value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

impl Verdict {
    fn answer(&self) -> String {
        match self {
            Self::Accepted { key, protocol } => format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
                 Sec-WebSocket-Protocol: {protocol}\r\n\r\n",
                derive_accept_key(key.as_bytes()),
            ),
            Self::Refused { status, headers, text } => format!(
                "HTTP/1.1 {status}\r\n{headers}Content-Type: text/plain; charset=utf-8\r\n\
                 Content-Length: {}\r\n{}\r\n{text}\n",
                text.len() + 1,
                // An answer that asks for an upgrade names its own.
                if headers.is_empty() { "Connection: close\r\n" } else { "" },
            ),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(line: &str, headers: &[&str]) -> Verdict {
        judge(
            format!("{line}\r\nHost: localhost\r\n{}\r\n\r\n", headers.join("\r\n")).as_bytes(),
            &[],
        )
    }

    fn status(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Accepted { .. } => "101",
            Verdict::Refused { status, .. } => &status[..3],
        }
    }

    const UPGRADE: [&str; 4] = [
        "Upgrade: WebSocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];

    fn with_protocol(path: &str, protocol: &str) -> Verdict {
        let mut headers = UPGRADE.to_vec();
        let protocol = format!("Sec-WebSocket-Protocol: {protocol}");
        headers.push(&protocol);
        request(&format!("GET {path} HTTP/1.1"), &headers)
    }

    #[test]
    fn the_protocol_that_was_asked_for_is_the_one_answered() {
        for (asked, answered) in
            [("amqp", "amqp"), ("AMQPWSB10", "AMQPWSB10"), ("mqtt, AMQPWSB10, amqp", "AMQPWSB10")]
        {
            for path in [
                "/$servicebus/websocket",
                "/$servicebus/websocket/",
                "/%24servicebus/websocket?x=1",
            ] {
                let verdict = with_protocol(path, asked);
                let answer = verdict.answer();
                assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
                assert!(answer.contains(&format!("Protocol: {answered}\r\n")), "{answer}");
                // The example of RFC 6455.
                assert!(answer.contains("Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_request_is_said() {
        assert_eq!(status(&with_protocol("/", "amqp")), "404");
        assert_eq!(status(&with_protocol("/$servicebus/websocket//", "amqp")), "404");
        assert_eq!(status(&with_protocol("/$servicebus/websocket", "mqtt")), "400");
        let plain = request("GET /$servicebus/websocket HTTP/1.1", &[]);
        assert_eq!(status(&plain), "426");
        assert!(plain.answer().contains("Upgrade: websocket\r\n"));
        assert_eq!(status(&request("POST /$servicebus/websocket HTTP/1.1", &UPGRADE)), "426");
        assert_eq!(status(&judge(b"AMQP\x00\x01\x00\x00\r\n\r\n", &[])), "400");
        assert_eq!(status(&request("GET /$servicebus/websocket HTTP/1.1", &UPGRADE[..3])), "400");
    }

    #[test]
    fn a_page_in_a_browser_is_refused_and_a_client_that_names_the_broker_is_not() {
        let asked = |host: &str, origin: &str| {
            let head = format!(
                "GET /$servicebus/websocket HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n\
                 Sec-WebSocket-Protocol: amqp\r\n{}\r\n\r\n",
                UPGRADE.join("\r\n")
            );
            status(&judge(head.as_bytes(), &["broker".to_owned()])).to_owned()
        };
        for (host, origin) in [
            ("localhost:5673", "https://evil.example"),
            ("localhost:5673", "null"),
            ("localhost:5673", "http://localhost:3000"),
            ("127.0.0.1:5673", "http://192.168.1.5:5673"),
            ("localhost:5673", "file://localhost:5673"),
            // A name that leads here for as long as its owner likes.
            ("evil.example:5673", "http://evil.example:5673"),
            ("", ""),
        ] {
            assert_eq!(asked(host, origin), "403", "{host} {origin}");
        }
        for (host, origin) in [
            ("localhost:5673", "http://localhost:5673"),
            ("127.0.0.1", "https://127.0.0.1:443"),
            ("[::1]:5673", "http://[::1]:5673"),
            ("Broker:5673", "http://broker:5673"),
        ] {
            assert_eq!(asked(host, origin), "101", "{host} {origin}");
        }
    }

    proptest! {
        #[test]
        fn any_head_gets_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(judge(&bytes, &[]).answer().starts_with("HTTP/1.1 4"));
        }
    }
}
