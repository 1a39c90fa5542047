//! What a tunnel does with peers that are odd: silent, slow, gone, or not what they should be.
#![allow(clippy::unwrap_used, clippy::panic)]
// The error of a handshake is chosen by tungstenite.
#![allow(clippy::result_large_err)]

use std::net::IpAddr;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::*;
use crate::error::ErrorClass;

/// Bounds what would hang for ever, on a machine with ten times more work than cores.
const LIMIT: Duration = Duration::from_secs(180);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap()
}

/// A broker's socket, and what leads to it without TLS.
async fn broker(wire: Wire) -> (TcpListener, TunnelOptions) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut options = TunnelOptions::new("127.0.0.1", listener.local_addr().unwrap().port(), wire);
    options.trust = None;
    (listener, options)
}

async fn client(tunnel: &Tunnel) -> TcpStream {
    in_time(TcpStream::connect(tunnel.address())).await.unwrap()
}

/// Waits until the tunnel has closed the client's connection, and gives what came before.
async fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ended = in_time(client.read_to_end(&mut rest)).await;
    rest
}

async fn accept(listener: &TcpListener) -> TcpStream {
    in_time(listener.accept()).await.unwrap().0
}

async fn accept_websocket(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let with_protocol = |request: &Request, mut answer: Response| {
        assert_eq!(request.uri().path(), "/$servicebus/websocket/");
        let protocol = request.headers()["sec-websocket-protocol"].clone();
        assert_eq!(protocol, "amqp");
        answer.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(answer)
    };
    in_time(accept_hdr_async(accept(listener).await, with_protocol)).await.unwrap()
}

/// The failure of a connection to a broker that answers a request with this head.
async fn answered(wire: Wire, head: &'static str, through: Option<&str>) -> DialFailure {
    let (listener, mut options) = broker(wire).await;
    if let Some(credentials) = through {
        let url = format!("http://{credentials}127.0.0.1:{}", options.port);
        options.proxy = Some(Proxy::from_url(&url.parse().unwrap()).unwrap());
    }
    let since = Instant::now();
    let tunnel = Tunnel::start(options).await.unwrap();
    let mut client = client(&tunnel).await;
    let mut socket = accept(&listener).await;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(in_time(socket.read_u8()).await.unwrap());
    }
    socket.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
    assert!(tunnel.failure_since(Instant::now()).is_none());
    tunnel.failure_since(since).unwrap()
}

#[tokio::test]
async fn it_listens_on_this_machine_only() {
    let (_listener, options) = broker(Wire::Amqp).await;
    let tunnel = Tunnel::start(options).await.unwrap();
    assert_eq!(tunnel.address().ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
}

#[tokio::test]
async fn a_half_open_connection_is_ended_after_the_idle_timeout() {
    for wire in [Wire::Amqp, Wire::WebSocket] {
        let (listener, mut options) = broker(wire).await;
        options.idle_timeout = Duration::from_millis(300);
        let tunnel = Tunnel::start(options).await.unwrap();
        let mut client = client(&tunnel).await;
        // Held, and silent, to the end.
        let _held: Box<dyn std::any::Any> = match wire {
            Wire::Amqp => Box::new(accept(&listener).await),
            Wire::WebSocket => Box::new(accept_websocket(&listener).await),
        };
        assert_eq!(rest(&mut client).await, b"");
    }
}

#[tokio::test]
async fn a_byte_of_either_side_keeps_a_connection() {
    let (listener, mut options) = broker(Wire::Amqp).await;
    let idle_timeout = Duration::from_secs(2);
    options.idle_timeout = idle_timeout;
    let tunnel = Tunnel::start(options).await.unwrap();
    let mut client = client(&tunnel).await;
    let mut broker = accept(&listener).await;
    let began = Instant::now();
    // Each well within the limit of the one before, all together beyond it.
    let mut pause = tokio::time::interval(idle_timeout / 8);
    while began.elapsed() < idle_timeout * 2 {
        pause.tick().await;
        broker.write_u8(7).await.unwrap();
        assert_eq!(in_time(client.read_u8()).await.unwrap(), 7);
    }
    assert_eq!(rest(&mut client).await, b"");
}

#[tokio::test]
async fn both_sides_end_when_one_does() {
    let (listener, options) = broker(Wire::Amqp).await;
    let tunnel = Tunnel::start(options).await.unwrap();

    let mut leaving = client(&tunnel).await;
    let mut broker = accept(&listener).await;
    leaving.write_all(b"last words").await.unwrap();
    drop(leaving);
    assert_eq!(rest(&mut broker).await, b"last words");

    let mut left = client(&tunnel).await;
    let mut broker = accept(&listener).await;
    left.write_all(b"never read by the broker").await.unwrap();
    broker.write_all(b"a close frame").await.unwrap();
    broker.shutdown().await.unwrap();
    assert_eq!(rest(&mut left).await, b"a close frame");
    drop(left);
}

#[tokio::test]
async fn nothing_is_left_when_the_tunnel_is_dropped() {
    let (listener, options) = broker(Wire::Amqp).await;
    let tunnel = Tunnel::start(options).await.unwrap();
    let address = tunnel.address();
    let mut client = client(&tunnel).await;
    let mut broker = accept(&listener).await;
    drop(tunnel);
    assert_eq!(rest(&mut client).await, b"");
    assert_eq!(rest(&mut broker).await, b"");
    // The port is free again, at the latest when a task has noticed.
    in_time(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_broker_slows_the_client_and_nothing_is_lost() {
    let (listener, options) = broker(Wire::WebSocket).await;
    let tunnel = Tunnel::start(options).await.unwrap();
    let mut client = client(&tunnel).await;
    let mut broker = accept_websocket(&listener).await;
    // The buffers of the kernel are all that stands between the two.
    let chunk = vec![1_u8; 64 * 1024];
    let mut sent = 0;
    let mut wait = Duration::from_secs(5);
    while let Ok(written) = tokio::time::timeout(wait, client.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "it takes everything");
        wait = Duration::from_millis(500);
    }
    let mut received = 0;
    while received < sent {
        let message = in_time(broker.next()).await.unwrap().unwrap();
        received += message.into_data().len();
    }
    assert_eq!(received, sent);
}

#[tokio::test]
async fn a_ping_is_answered_while_nobody_has_anything_to_say() {
    let (listener, options) = broker(Wire::WebSocket).await;
    let tunnel = Tunnel::start(options).await.unwrap();
    let _client = client(&tunnel).await;
    let mut broker = accept_websocket(&listener).await;
    broker.send(Message::Ping("still there?".into())).await.unwrap();
    let answer = in_time(broker.next()).await.unwrap().unwrap();
    assert_eq!(answer, Message::Pong("still there?".into()));
}

#[tokio::test]
async fn messages_are_one_stream_of_bytes_and_text_is_none() {
    let (listener, options) = broker(Wire::WebSocket).await;
    let tunnel = Tunnel::start(options).await.unwrap();
    let mut client = client(&tunnel).await;
    let mut broker = accept_websocket(&listener).await;
    let large = vec![3_u8; 300 * 1024];
    for message in [&b"AM"[..], b"", b"QP", &large] {
        broker.send(Message::binary(message.to_vec())).await.unwrap();
    }
    let mut received = vec![0; 4 + large.len()];
    in_time(client.read_exact(&mut received)).await.unwrap();
    assert_eq!((&received[..4], &received[4..]), (&b"AMQP"[..], &large[..]));
    broker.send(Message::text("hello")).await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
}

#[tokio::test]
async fn the_answer_of_a_proxy_decides_what_to_do() {
    for (head, class, said) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", ErrorClass::Auth, "answered 407"),
        ("HTTP/1.1 403 Forbidden by policy\r\n\r\n", ErrorClass::Auth, "403 Forbidden by policy"),
        ("HTTP/1.1 429 Slow down\r\n\r\n", ErrorClass::Throttling, "answered 429"),
        ("HTTP/1.0 502 \r\n\r\n", ErrorClass::Transient, "answered 502"),
        ("HTTP/1.1 302 Found\r\n\r\n", ErrorClass::Unknown, "answered 302"),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", ErrorClass::Unknown, "like an HTTP proxy"),
    ] {
        let failure = answered(Wire::Amqp, head, Some("user:s3cret@")).await;
        assert_eq!(failure.class, class, "{failure:?}");
        assert!(failure.reason.contains(said), "{failure:?}");
        assert!(!failure.reason.contains("s3cret"), "{failure:?}");
    }
}

#[tokio::test]
async fn the_answer_of_a_broker_decides_what_to_do() {
    for (head, class, said) in [
        ("HTTP/1.1 401 Unauthorized\r\n\r\n", ErrorClass::Auth, "answered 401"),
        ("HTTP/1.1 404 Not Found\r\n\r\n", ErrorClass::Unknown, "answered 404"),
        ("HTTP/1.1 503 Busy\r\n\r\n", ErrorClass::Throttling, "answered 503"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", ErrorClass::Transient, "answered 502"),
        ("220 mail.example ESMTP\r\n\r\n", ErrorClass::Unknown, "not speak AMQP over WebSocket"),
    ] {
        let failure = answered(Wire::WebSocket, head, None).await;
        assert_eq!(failure.class, class, "{failure:?}");
        assert!(failure.reason.contains(said), "{failure:?}");
    }
}

#[tokio::test]
async fn a_broker_that_never_answers_is_given_up() {
    let (listener, mut options) = broker(Wire::WebSocket).await;
    options.dial_timeout = Duration::from_millis(200);
    let since = Instant::now();
    let tunnel = Tunnel::start(options).await.unwrap();
    let mut client = client(&tunnel).await;
    let _silent = accept(&listener).await;
    assert_eq!(rest(&mut client).await, b"");
    let failure = tunnel.failure_since(since).unwrap();
    assert_eq!(failure.class, ErrorClass::Transient);
    assert!(failure.reason.contains("is not reached within 200ms"), "{failure:?}");
}

#[tokio::test]
async fn a_port_without_tls_is_no_broker_with_tls() {
    let (listener, mut options) = broker(Wire::Amqp).await;
    options.trust = Some(Trust::Anything);
    let since = Instant::now();
    let tunnel = Tunnel::start(options).await.unwrap();
    let mut client = client(&tunnel).await;
    let mut broker = accept(&listener).await;
    broker.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
    let failure = tunnel.failure_since(since).unwrap();
    assert_eq!(failure.class, ErrorClass::Unknown);
    assert!(failure.reason.contains("TLS with 127.0.0.1 failed"), "{failure:?}");
}
