//! AMQP over WebSocket and TLS as a client meets it: real sockets, and a WebSocket client of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::frame::{self, Body, Frame};
use super::{Emulator, EmulatorBuilder};

pub(super) const PATH: &str = "/$servicebus/websocket";
pub(super) const ANY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn start(set: impl FnOnce(EmulatorBuilder) -> EmulatorBuilder) -> Emulator {
    set(Emulator::builder().hub("hub", 1)).start().await.unwrap()
}

pub(super) async fn connect<S>(stream: S, path: &str, protocol: &'static str) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(protocol));
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], protocol);
    socket
}

async fn secure(
    emulator: &Emulator,
    address: SocketAddr,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let pem = emulator.certificate_authority().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), stream).await
}

/// Header, `open` and `begin` of a client that skips SASL.
fn greeting() -> BytesMut {
    let mut out = BytesMut::from(&b"AMQP\x00\x01\x00\x00"[..]);
    frame::put_open(&mut out, "peer", 10, 0);
    frame::put_begin(&mut out, 0, 1000, 10);
    out
}

/// Whether the answers to [`greeting`] are at the front of `bytes`.
fn is_greeted(mut bytes: BytesMut) -> bool {
    if bytes.len() < 8 {
        return false;
    }
    assert_eq!(bytes.split_to(8)[..], b"AMQP\x00\x01\x00\x00"[..]);
    let mut next = || frame::take_frame(&mut bytes).unwrap();
    match (next(), next()) {
        (Some(Frame { body: Body::Open(_), .. }), Some(Frame { body: Body::Begin(_), .. })) => true,
        (_, None) => false,
        other => panic!("{other:?}"),
    }
}

/// Sends the greeting in messages of `piece` bytes and waits for the answers.
pub(super) async fn greet<S>(socket: &mut WebSocketStream<S>, piece: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for piece in greeting().chunks(piece) {
        socket.send(Message::Binary(Bytes::copy_from_slice(piece))).await.unwrap();
    }
    let mut answer = BytesMut::new();
    while !is_greeted(answer.clone()) {
        let message = tokio::time::timeout(LIMIT, socket.next()).await.unwrap().unwrap();
        answer.extend_from_slice(&message.unwrap().into_data());
    }
}

#[tokio::test]
async fn frames_and_messages_need_not_agree() {
    let emulator = start(|builder| builder.websocket(ANY)).await;
    let address = emulator.websocket_addr().unwrap();
    for piece in [1, 7, 1000] {
        for (path, protocol) in [(PATH.to_owned(), "amqp"), (format!("{PATH}/"), "AMQPWSB10")] {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut socket = connect(stream, &path, protocol).await;
            greet(&mut socket, piece).await;
        }
    }
}

#[tokio::test]
async fn a_private_authority_is_enough_for_tls() {
    let emulator = start(|builder| {
        let builder = builder.websocket(ANY).secure_websocket(ANY).tls(ANY);
        builder.host_name("broker.test").advertise("my_broker")
    })
    .await;
    let address = emulator.secure_websocket_addr().unwrap();
    for name in ["localhost", "127.0.0.1", "::1", "broker.test", "my_broker"] {
        let stream = secure(&emulator, address, name).await.unwrap();
        let mut socket = connect(stream, PATH, "AMQPWSB10").await;
        greet(&mut socket, 64).await;
    }
    assert!(secure(&emulator, address, "other.test").await.is_err());

    let mut plain = secure(&emulator, emulator.tls_addr().unwrap(), "localhost").await.unwrap();
    plain.write_all(&greeting()).await.unwrap();
    let mut answer = BytesMut::new();
    while !is_greeted(answer.clone()) {
        assert_ne!(plain.read_buf(&mut answer).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn pings_are_answered_and_a_close_is_completed() {
    let emulator = start(|builder| builder.websocket(ANY)).await;
    let stream = TcpStream::connect(emulator.websocket_addr().unwrap()).await.unwrap();
    let mut socket = connect(stream, PATH, "amqp").await;
    greet(&mut socket, 1000).await;
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    let answer = tokio::time::timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(answer, Message::Pong(Bytes::from_static(b"there?")));
    socket.close(None).await.unwrap();
    let answer = tokio::time::timeout(LIMIT, socket.next()).await.unwrap();
    assert!(matches!(answer, Some(Ok(Message::Close(_)))), "{answer:?}");
    assert!(tokio::time::timeout(LIMIT, socket.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn text_is_refused_with_the_reason() {
    let emulator = start(|builder| builder.websocket(ANY)).await;
    let stream = TcpStream::connect(emulator.websocket_addr().unwrap()).await.unwrap();
    let mut socket = connect(stream, PATH, "amqp").await;
    socket.send(Message::text("AMQP")).await.unwrap();
    match tokio::time::timeout(LIMIT, socket.next()).await.unwrap() {
        Some(Ok(Message::Close(Some(close)))) => {
            assert_eq!(close.code, CloseCode::Unsupported);
            assert_eq!(close.reason.as_str(), "AMQP travels in binary messages");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_orderly_shutdown_closes_both_layers() {
    let emulator = start(|builder| builder.websocket(ANY)).await;
    let stream = TcpStream::connect(emulator.websocket_addr().unwrap()).await.unwrap();
    let mut socket = connect(stream, PATH, "amqp").await;
    greet(&mut socket, 1000).await;
    let stopped = tokio::spawn(emulator.shutdown());
    let mut close = match tokio::time::timeout(LIMIT, socket.next()).await.unwrap() {
        Some(Ok(Message::Binary(bytes))) => BytesMut::from(&bytes[..]),
        other => panic!("{other:?}"),
    };
    let close = frame::take_frame(&mut close).unwrap().unwrap();
    assert!(matches!(close.body, Body::Close(_)), "{close:?}");
    let last = tokio::time::timeout(LIMIT, socket.next()).await.unwrap();
    assert!(matches!(last, Some(Ok(Message::Close(_)))), "{last:?}");
    stopped.await.unwrap().unwrap();
}

/// How the broker answers the header of a message with so many bytes.
async fn answer_to_header(emulator: &Emulator, bytes: u64) -> Option<CloseCode> {
    let stream = TcpStream::connect(emulator.websocket_addr().unwrap()).await.unwrap();
    let mut socket = connect(stream, PATH, "amqp").await;
    let header = [&[0x82, 0xff][..], &bytes.to_be_bytes(), &[0; 4]].concat();
    socket.get_mut().write_all(&header).await.unwrap();
    // A message that may come is waited for.
    match tokio::time::timeout(Duration::from_millis(100), socket.next()).await {
        Err(_) => None,
        Ok(Some(Ok(Message::Close(Some(close))))) => Some(close.code),
        Ok(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_is_smaller_before_a_token() {
    const FEW: u64 = 64 * 1024;
    const MANY: u64 = 8 * 1024 * 1024;
    let strict = start(|builder| builder.websocket(ANY).require_tokens()).await;
    let open = start(|builder| builder.websocket(ANY)).await;
    assert_eq!(answer_to_header(&strict, FEW).await, None);
    assert_eq!(answer_to_header(&strict, FEW + 1).await, Some(CloseCode::Size));
    assert_eq!(answer_to_header(&open, MANY).await, None);
    assert_eq!(answer_to_header(&open, MANY + 1).await, Some(CloseCode::Size));
}

#[tokio::test]
async fn a_plain_request_gets_a_plain_answer() {
    let emulator = start(|builder| builder.websocket(ANY)).await;
    let huge = format!("GET {PATH} HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000));
    for (request, status) in [
        (format!("GET {PATH} HTTP/1.1\r\n\r\n"), "HTTP/1.1 426 "),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "HTTP/1.1 404 "),
        ("\r\n\r\n\r\nnonsense\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
        (huge, "HTTP/1.1 431 "),
    ] {
        let mut stream = TcpStream::connect(emulator.websocket_addr().unwrap()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; status.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), status);
    }
}

#[tokio::test]
async fn who_never_speaks_is_let_go_at_every_port() {
    let emulator = start(|builder| {
        builder
            .websocket(ANY)
            .secure_websocket(ANY)
            .tls(ANY)
            .handshake_timeout(Duration::from_millis(100))
    })
    .await;
    let addresses = [
        Some(emulator.local_addr()),
        emulator.tls_addr(),
        emulator.websocket_addr(),
        emulator.secure_websocket_addr(),
    ];
    for address in addresses {
        let mut stream = TcpStream::connect(address.unwrap()).await.unwrap();
        let read = tokio::time::timeout(LIMIT, stream.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    assert_eq!(emulator.faults().connections(), 0);
}
