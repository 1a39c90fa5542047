//! Requests to servers of a few lines.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::{Authorization, Credentials};
use crate::error::ErrorClass;
use crate::transfer::url_policy::PrivateAddresses;

/// A request as the server sees it.
struct Seen {
    head: String,
    /// Which one it is on its connection, from 1.
    on_connection: usize,
}

/// A server whose answers are given by a function; `None` resets the connection.
struct Server {
    origin: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answer: impl Fn(&Seen) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (answer, noted) = (Arc::new(answer), Arc::clone(&heads));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, Arc::clone(&answer), Arc::clone(&noted)));
            }
        });
        Self { origin, heads }
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("{}{path}", self.origin)).unwrap()
    }

    /// The heads of the requests so far, in lower case.
    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn connection(
    mut stream: TcpStream,
    answer: Arc<impl Fn(&Seen) -> Option<String>>,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let (mut read, mut on_connection) = (Vec::new(), 0);
    while stream.read_buf(&mut read).await.unwrap_or(0) > 0 {
        let text = String::from_utf8_lossy(&read).to_lowercase();
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        on_connection += 1;
        heads.lock().unwrap().push(head.to_owned());
        let Some(answer) = answer(&Seen { head: head.to_owned(), on_connection }) else {
            stream.set_zero_linger().unwrap();
            return;
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        read.clear();
    }
}

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn to(status: u16, location: &str) -> String {
    format!("HTTP/1.1 {status} There\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

fn fetcher(options: HttpOptions) -> Fetcher {
    let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
    Fetcher::new(policy, &DownloadLimits::default(), options)
}

async fn get(fetcher: &Fetcher, url: &Url) -> Result<String, Outcome> {
    match fetcher.get(url, Ask::Whole, &Rates::default()).await {
        Ok(fetched) => Ok(fetched.response.text().await.unwrap()),
        Err(NotFetched::Ends(outcome)) => Err(outcome),
        Err(NotFetched::NoSuchPart) => panic!("no part was asked for"),
    }
}

fn failure(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Retry(retry) => retry.failure,
        Outcome::DeadLetter(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_reset_of_a_reused_connection_counts_for_nothing() {
    let server = Server::start(|seen| (seen.on_connection == 1).then(|| ok("", "file"))).await;
    let fetcher = fetcher(HttpOptions::new());
    for number in 0..20 {
        let fetched = get(&fetcher, &server.url(&format!("/{number}"))).await;
        assert_eq!(fetched.as_deref(), Ok("file"), "{number}");
    }
    assert!(server.heads().len() <= 40, "each was asked for once more at most");
}

#[tokio::test]
async fn a_server_that_only_resets_is_asked_twice_and_then_it_is_a_failed_attempt() {
    let server = Server::start(|_| None).await;
    let outcome = get(&fetcher(HttpOptions::new()), &server.url("/a")).await.unwrap_err();
    let Outcome::Retry(retry) = outcome else { panic!("{outcome:?}") };
    assert_eq!((retry.failure.class, retry.delay), (ErrorClass::Transient, RetryDelay::Backoff));
    assert_eq!(server.heads().len(), 2);
}

#[tokio::test]
async fn redirects_are_followed_as_far_as_the_policy_allows_and_not_for_ever() {
    let server = Server::start(|seen| {
        let path = seen.head.split(' ').nth(1).unwrap_or_default();
        Some(match path {
            "/a" => to(301, "/b?c=d"),
            "/b?c=d" => to(302, "e/f"),
            "/e/f" => ok("", "found"),
            "/inside" => to(307, "http://169.254.169.254/latest/meta-data"),
            "/plain" => to(308, "ftp://h/x"),
            "/user" => to(302, "https://me:hush@h/x"),
            _ => to(303, "/round"),
        })
    })
    .await;
    let fetcher = fetcher(HttpOptions::new());
    assert_eq!(get(&fetcher, &server.url("/a")).await.as_deref(), Ok("found"));
    for (path, why) in [
        ("/inside", "169.254.169.254"),
        ("/plain", "its scheme is \"ftp\""),
        ("/user", "it holds a user name"),
        ("/round", "more than 20 redirects"),
    ] {
        let failure = failure(get(&fetcher, &server.url(path)).await.unwrap_err());
        assert_eq!(failure.class, ErrorClass::Permanent, "{path}: {failure}");
        assert!(failure.message.contains(why), "{path}: {failure}");
        assert!(failure.message.starts_with(&server.url(path).to_string()), "{failure}");
        assert!(!failure.message.contains("hush"), "{failure}");
    }
}

#[tokio::test]
async fn a_redirect_that_is_not_followed_is_named() {
    let server = Server::start(|_| Some(to(302, "https://elsewhere/x?sig=hush"))).await;
    let fetcher = fetcher(HttpOptions::new().with_redirects(Redirects::Refuse));
    let failure = failure(get(&fetcher, &server.url("/a")).await.unwrap_err());
    assert!(failure.message.contains("the file is at https://elsewhere/x"), "{failure}");
    assert!(!failure.message.contains("hush"), "{failure}");
}

#[tokio::test]
async fn credentials_are_shown_to_their_origin_and_not_to_where_it_leads() {
    let other = Server::start(|_| Some(ok("", "from elsewhere"))).await;
    let there = other.url("/x").to_string();
    let server = Server::start(move |_| Some(to(302, &there))).await;
    let shown = Authorization::Bearer(crate::secret::Secret::new("token"));
    let credentials = Credentials::default().with(&server.origin, shown).unwrap();
    let fetcher = fetcher(HttpOptions::new().with_credentials(credentials));
    assert_eq!(get(&fetcher, &server.url("/a")).await.as_deref(), Ok("from elsewhere"));
    assert!(server.heads()[0].contains("authorization: bearer token"), "{:?}", server.heads());
    assert!(!other.heads()[0].contains("authorization"), "{:?}", other.heads());
    assert!(!other.heads()[0].contains("referer"), "{:?}", other.heads());
}

#[tokio::test]
async fn a_host_that_named_a_time_is_asked_by_nobody_before_it() {
    let busy = "HTTP/1.1 429 Busy\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n";
    let server = Server::start(move |_| Some(busy.to_owned())).await;
    let fetcher = fetcher(HttpOptions::new());
    for number in 0..5 {
        let outcome = get(&fetcher, &server.url(&format!("/{number}"))).await.unwrap_err();
        let Outcome::Retry(retry) = outcome else { panic!("{outcome:?}") };
        let RetryDelay::LaneCloses(wait) = retry.delay else { panic!("{retry:?}") };
        assert!((28..=30).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(retry.failure.class, ErrorClass::Throttling);
    }
    assert_eq!(server.heads().len(), 1, "it was asked once");
}

#[tokio::test]
async fn the_rest_of_a_file_is_asked_for_with_what_tells_that_it_is_the_same() {
    let part = "HTTP/1.1 206 Part\r\nContent-Range: bytes 3-5/6\r\nContent-Length: 3\r\n\r\ndef";
    let server = Server::start(move |_| Some(part.to_owned())).await;
    let validator = crate::state::fetch_plan::Validator::ETag("\"v1\"".to_owned());
    let ask = Ask::Rest { from: 3, validator: &validator };
    let fetcher = fetcher(HttpOptions::new());
    let Ok(fetched) = fetcher.get(&server.url("/a"), ask, &Rates::default()).await else {
        panic!("a part is an answer");
    };
    assert_eq!(fetched.answer.partial.flatten().map(|range| range.first), Some(3));
    let head = &server.heads()[0];
    assert!(head.contains("range: bytes=3-") && head.contains("if-range: \"v1\""), "{head}");
}

#[tokio::test]
async fn headers_that_others_shrug_off_are_shrugged_off() {
    for odd in [
        "X-Odd\u{1}Name: x\r\n",
        "X-Spaced : x\r\n",
        "X-Folded: a\r\n b\r\n",
        "No colon at all\r\n",
        "X-Bytes: \u{e9}\u{ff}\r\n",
    ] {
        let server = Server::start(move |_| Some(ok(odd, "file"))).await;
        let fetched = get(&fetcher(HttpOptions::new()), &server.url("/a")).await;
        assert_eq!(fetched.as_deref(), Ok("file"), "{odd:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_transient_and_what_is_no_url_is_permanent() {
    let gone = {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        listener.local_addr().unwrap()
    };
    let fetcher = fetcher(HttpOptions::new());
    let of = async |url: &str| get(&fetcher, &Url::parse(url).unwrap()).await.unwrap_err();
    let outcome = of(&format!("http://{gone}/x")).await;
    assert!(matches!(&outcome, Outcome::Retry(_)), "{outcome:?}");
    assert_eq!(failure(outcome).class, ErrorClass::Transient);
    let outcome = of("ftp://127.0.0.1/x").await;
    assert!(matches!(&outcome, Outcome::DeadLetter(_)), "{outcome:?}");
}

#[cfg(feature = "event-hubs")]
#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_permanent_at_once() {
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind(("127.0.0.1", 0)).await.unwrap());
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _refused = acceptor.accept(stream).await;
        }
    });
    let url = Url::parse(&format!("https://localhost:{port}/a?sig=hush")).unwrap();
    let outcome = get(&fetcher(HttpOptions::new()), &url).await.unwrap_err();
    assert!(matches!(&outcome, Outcome::DeadLetter(_)), "{outcome:?}");
    let failure = failure(outcome);
    assert_eq!(failure.class, ErrorClass::Permanent);
    assert!(failure.message.contains("the certificate of localhost is not trusted"), "{failure}");
    assert!(!failure.message.contains("hush"), "{failure}");
}

#[tokio::test]
async fn a_proxy_is_asked_for_everything_and_shown_its_password() {
    let proxy = Server::start(|_| Some(ok("", "through the proxy"))).await;
    let address = proxy.origin.replace("http://", "http://me:hush@");
    let options = HttpOptions::new().with_proxy(crate::config::HttpProxy::parse(&address).unwrap());
    // Nobody has this name, and nobody needs it.
    let url = Url::parse("http://files.invalid/a").unwrap();
    let policy = UrlPolicy::new().with_schemes(crate::transfer::url_policy::Schemes::HttpAndHttps);
    let fetcher = Fetcher::new(policy, &DownloadLimits::default(), options);
    assert_eq!(get(&fetcher, &url).await.as_deref(), Ok("through the proxy"));
    let head = &proxy.heads()[0];
    assert!(head.starts_with("get http://files.invalid/a "), "{head}");
    assert!(head.contains("proxy-authorization: basic"), "{head}");
    // What the name alone tells is judged all the same.
    let inside = Url::parse("http://169.254.169.254/latest").unwrap();
    assert!(matches!(get(&fetcher, &inside).await, Err(Outcome::DeadLetter(_))));
}

#[tokio::test]
async fn a_host_has_its_port_whatever_another_url_of_it_had() {
    let first = Server::start(|_| Some(ok("", "first"))).await;
    let second = Server::start(|_| Some(ok("", "second"))).await;
    let fetcher = fetcher(HttpOptions::new());
    for (server, body) in [(&first, "first"), (&second, "second"), (&first, "first")] {
        let url = server.url("/a").to_string().replace("127.0.0.1", "localhost");
        assert_eq!(get(&fetcher, &Url::parse(&url).unwrap()).await.as_deref(), Ok(body));
    }
}
