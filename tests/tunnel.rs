//! Ways to a broker that the SDK cannot be told: an authority of one's own, a proxy, no
//! verification. The broker is the embedded one, the proxy is in this file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/waiting.rs"]
mod waiting;

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use longshore::error::error_chain;
use longshore::transport::event_hubs::{
    EventHubsPublisher, EventHubsTransport, Namespace, Protocol,
};
use longshore::transport::{LinkStart, OpenLink, Publisher, SendTarget, Transport};
use longshore::{Error, ErrorClass, OutgoingEvent};
use longshore_emulator::Emulator;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, Subscriber, span};
use waiting::within;

const HUB: &str = "files";
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Broker {
    emulator: Emulator,
    authority: PathBuf,
    _certificates: tempfile::TempDir,
}

impl Broker {
    async fn start() -> Self {
        let certificates = tempfile::tempdir().unwrap();
        let emulator = broker::patient()
            .hub(HUB, 1)
            .tls(ANY_PORT)
            .websocket(ANY_PORT)
            .secure_websocket(ANY_PORT)
            .cert_dir(certificates.path())
            .start()
            .await
            .unwrap();
        let authority = emulator.certificate_authority_path().unwrap().to_owned();
        Self { emulator, authority, _certificates: certificates }
    }

    /// By the connection string alone.
    fn over_websocket(&self) -> Namespace {
        let string = self.emulator.secure_websocket_connection_string(None).unwrap();
        Namespace::from_connection_string(&string).unwrap()
    }

    fn over_tcp(&self) -> Namespace {
        let string = self.emulator.secure_websocket_connection_string(None).unwrap();
        let wss = self.emulator.secure_websocket_addr().unwrap().port();
        let tls = self.emulator.tls_addr().unwrap().port();
        let string = string.replace(&format!(":{wss};"), &format!(":{tls};"));
        Namespace::from_connection_string(&string).unwrap().with_protocol(Protocol::Tcp)
    }

    fn trusted(&self, namespace: Namespace) -> Namespace {
        namespace.with_certificate_authority_file(&self.authority).unwrap()
    }
}

/// Publishes a large and a small event, and reads them from the first on.
async fn works(namespace: &Namespace) {
    within("a round trip", async {
        let publisher = EventHubsPublisher::new(namespace.clone(), HUB);
        let large = vec![b'x'; 900 * 1024];
        for body in [large.clone(), b"small".to_vec()] {
            publisher.send(SendTarget::Any, OutgoingEvent::new(body)).await.unwrap();
        }
        let transport = EventHubsTransport::new(namespace.clone(), HUB, "$Default");
        let properties = transport.hub_properties().await.unwrap();
        assert_eq!(properties.partitions.len(), 1);
        let open = OpenLink::new("0".into(), LinkStart::FirstEvent, 10);
        let mut link = transport.open(open).await.unwrap();
        let mut events = Vec::new();
        while events.len() < 2 {
            poll_fn(|cx| link.poll_receive(cx, 10, &mut events)).await.unwrap();
        }
        assert_eq!(events[0].body(), &large[..]);
        assert_eq!(events[1].body(), &b"small"[..]);
        link.close().await;
        transport.close().await;
        publisher.close().await;
    })
    .await;
}

async fn failure(namespace: &Namespace) -> Error {
    let transport = EventHubsTransport::new(namespace.clone(), HUB, "$Default");
    let open = OpenLink::new("0".into(), LinkStart::FirstEvent, 10);
    match within("a refusal", transport.open(open)).await {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

/// An HTTP proxy that knows `CONNECT` only.
struct ConnectProxy {
    address: SocketAddr,
    /// What it was asked for, credentials included.
    requests: Arc<Mutex<Vec<String>>>,
    /// Connections that are open.
    open: watch::Receiver<usize>,
    /// Where connections go, whatever is asked for.
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl ConnectProxy {
    /// Wants this value of `Proxy-Authorization`, if one is given.
    async fn start(wanted: Option<&'static str>) -> Self {
        let listener = TcpListener::bind(ANY_PORT).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (count, open) = watch::channel(0);
        let target = Arc::new(Mutex::new(None));
        let (seen, leads_to) = (Arc::clone(&requests), Arc::clone(&target));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (seen, count) = (Arc::clone(&seen), count.clone());
                let target = *leads_to.lock().unwrap();
                tokio::spawn(async move {
                    count.send_modify(|open| *open += 1);
                    // Who hangs up first does not matter here.
                    let _ended = Self::serve(client, wanted, &seen, target).await;
                    count.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { address, requests, open, target }
    }

    async fn serve(
        client: TcpStream,
        wanted: Option<&str>,
        seen: &Mutex<Vec<String>>,
        target: Option<SocketAddr>,
    ) -> std::io::Result<()> {
        let mut client = BufReader::new(client);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if client.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        seen.lock().unwrap().push(head.clone());
        if let Some(wanted) = wanted
            && !head.lines().any(|line| line == format!("Proxy-Authorization: {wanted}"))
        {
            let refused = "HTTP/1.1 407 Proxy Authentication Required\r\n\
                 Proxy-Authenticate: Basic realm=\"tests\"\r\nContent-Length: 0\r\n\r\n";
            return client.write_all(refused.as_bytes()).await;
        }
        let mut broker = match target {
            Some(target) => TcpStream::connect(target).await?,
            None => TcpStream::connect(head.split_whitespace().nth(1).unwrap_or_default()).await?,
        };
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        tokio::io::copy_bidirectional(&mut client, &mut broker).await.map(drop)
    }

    fn leads_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = Some(target);
    }

    fn before(&self, namespace: Namespace, credentials: &str) -> Namespace {
        let url = format!("http://{credentials}{}", self.address);
        namespace.with_proxy(url.parse().unwrap()).unwrap()
    }

    fn asked_for(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn the_connection_string_and_the_authority_are_enough_over_websocket_with_tls() {
    let broker = Broker::start().await;
    assert_eq!(broker.over_websocket().protocol(), Protocol::WebSocket);
    works(&broker.trusted(broker.over_websocket())).await;
}

#[tokio::test]
async fn and_over_tcp_with_tls() {
    let broker = Broker::start().await;
    works(&broker.trusted(broker.over_tcp())).await;
}

#[tokio::test]
async fn a_websocket_without_tls_reaches_a_broker_on_this_machine() {
    let broker = Broker::start().await;
    let string = broker.emulator.websocket_connection_string(None).unwrap();
    let namespace = Namespace::from_connection_string(&string).unwrap();
    works(&namespace.with_protocol(Protocol::WebSocket)).await;
}

#[tokio::test]
async fn a_proxy_is_asked_for_the_broker_and_carries_the_connection() {
    let broker = Broker::start().await;
    let proxy = ConnectProxy::start(None).await;
    for namespace in [broker.over_websocket(), broker.over_tcp()] {
        works(&proxy.before(broker.trusted(namespace), "")).await;
    }
    let port = |address: Option<SocketAddr>| address.unwrap().port();
    let wss =
        format!("CONNECT localhost:{} HTTP/1.1", port(broker.emulator.secure_websocket_addr()));
    let tls = format!("CONNECT localhost:{} HTTP/1.1", port(broker.emulator.tls_addr()));
    let asked_for = proxy.asked_for();
    assert!(asked_for.contains(&wss) && asked_for.contains(&tls), "{asked_for:?}");
    assert!(asked_for.iter().all(|line| *line == wss || *line == tls), "{asked_for:?}");
}

#[tokio::test]
async fn a_proxy_gets_its_password_and_nobody_else_sees_it() {
    let broker = Broker::start().await;
    // user:s3cret
    let proxy = ConnectProxy::start(Some("Basic dXNlcjpzM2NyZXQ=")).await;
    let trusted = broker.trusted(broker.over_websocket());
    works(&proxy.before(trusted.clone(), "user:s3cret@")).await;

    for (credentials, advice) in [("user:wr0ng@", "check the user"), ("", "wants a user")] {
        let error = failure(&proxy.before(trusted.clone(), credentials)).await;
        assert_eq!(error.class(), ErrorClass::Auth);
        let said = format!("{error:?} {}", error_chain(&error).join(" "));
        assert!(said.contains("answered 407 Proxy Authentication Required"), "{said}");
        assert!(said.contains(advice), "{said}");
        assert!(!said.contains("wr0ng") && !said.contains("dXNlcjp3cjBuZw"), "{said}");
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_and_the_error_says_so() {
    let broker = Broker::start().await;
    let proxy = ConnectProxy::start(None).await;
    // The SDK dials the first two, a tunnel the others.
    for namespace in [
        broker.over_websocket(),
        broker.over_tcp(),
        proxy.before(broker.over_websocket(), ""),
        proxy.before(broker.over_tcp(), ""),
    ] {
        let error = failure(&namespace).await;
        assert_eq!(error.class(), ErrorClass::Auth, "{error:?}");
        let said = error.to_string();
        assert!(said.contains("certificate") && said.contains("is not trusted: Unkn"), "{said}");
        assert!(said.contains("name the file"), "{said}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let broker = Broker::start().await;
    let proxy = ConnectProxy::start(None).await;
    proxy.leads_to(broker.emulator.secure_websocket_addr().unwrap());
    let elsewhere = broker.over_websocket().with_custom_endpoint("wss://broker.example").unwrap();
    let error = failure(&proxy.before(broker.trusted(elsewhere), "")).await;
    assert_eq!(error.class(), ErrorClass::Auth, "{error:?}");
    let said = error.to_string();
    assert!(said.contains("the certificate of broker.example is not trusted"), "{said}");
    assert!(said.contains("not valid for name"), "{said}");
    assert_eq!(proxy.asked_for()[0], "CONNECT broker.example:443 HTTP/1.1");
}

#[tokio::test]
async fn any_certificate_is_taken_where_verification_is_off() {
    let broker = Broker::start().await;
    works(&broker.over_websocket().without_certificate_verification()).await;
    works(&broker.over_tcp().without_certificate_verification()).await;
}

/// Keeps everything that is logged on this thread, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut line = Line(String::new());
        span.record(&mut line);
        self.0.lock().unwrap().push((*span.metadata().level(), line.0));
        span::Id::from_u64(1)
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push((*event.metadata().level(), line.0));
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn verification_off_is_said_loudly_and_the_log_has_no_password() {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.clone());
    let broker = Broker::start().await;
    let proxy = ConnectProxy::start(Some("Basic dXNlcjpzM2NyZXQ=")).await;
    let namespace = broker.over_websocket().without_certificate_verification();
    works(&proxy.before(namespace.clone(), "user:s3cret@")).await;
    failure(&proxy.before(namespace, "user:wr0ng@")).await;
    let log = log.0.lock().unwrap();
    let said = |what: &str| log.iter().filter(|(_, line)| line.contains(what)).collect::<Vec<_>>();
    let loud = said("certificates are NOT verified");
    assert!(!loud.is_empty() && loud.iter().all(|(level, _)| *level == Level::WARN), "{loud:?}");
    assert!(!said("407").is_empty(), "nothing was kept");
    for secret in ["s3cret", "wr0ng", "dXNlcjp"] {
        assert!(said(secret).is_empty(), "{:?}", said(secret));
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_a_passing_failure_with_a_reason() {
    let broker = Broker::start().await;
    let namespace = broker.trusted(broker.over_websocket());
    works(&namespace).await;
    broker.emulator.shutdown().await.unwrap();
    let error = failure(&namespace).await;
    assert_eq!(error.class(), ErrorClass::Transient, "{error:?}");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn an_answer_of_the_service_is_not_taken_for_a_failure_of_the_tunnel() {
    let broker = Broker::start().await;
    let namespace = broker.trusted(broker.over_websocket());
    let transport = EventHubsTransport::new(namespace, "nowhere", "$Default");
    let error = within("a refusal", transport.hub_properties()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error:?}");
}

#[tokio::test]
async fn a_link_keeps_the_tunnel_and_the_tunnel_ends_with_the_last_user() {
    let broker = Broker::start().await;
    let mut proxy = ConnectProxy::start(None).await;
    let namespace = proxy.before(broker.trusted(broker.over_websocket()), "");
    let transport = EventHubsTransport::new(namespace, HUB, "$Default");
    let open = OpenLink::new("0".into(), LinkStart::FirstEvent, 10);
    let mut link = within("opening", transport.open(open)).await.unwrap();
    drop(transport);

    let plain = Namespace::from_connection_string(&broker.emulator.connection_string(None));
    let publisher = EventHubsPublisher::new(plain.unwrap(), HUB);
    publisher.send(SendTarget::Any, OutgoingEvent::new("late")).await.unwrap();
    let mut events = Vec::new();
    within("an event", poll_fn(|cx| link.poll_receive(cx, 10, &mut events))).await.unwrap();
    assert_eq!(events[0].body(), &b"late"[..]);

    assert!(*proxy.open.borrow() > 0);
    drop(link);
    within("the end of the connections", proxy.open.wait_for(|open| *open == 0)).await.unwrap();
}
